"""Load on a daemon for the bench: a process that sends many streams at their real rate, and one that receives what is published.

Each is cheap, so that the daemon has the machine: payloads are made before the start, and of what comes back the header alone is
read.
"""

from __future__ import annotations

import contextlib
import resource
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import zmq

from ppgstream.lab import synthetic
from ppgstream.live.endpoints import MOST_BODY, MOST_SUBSCRIPTION, make
from ppgstream.wire.message import CRC, DTYPE_CODES, HEADER, HEADER_SIZE, MAGIC, NO_CHECKPOINT, VERSION, Kind

FS, CHUNK = 125, 25  # Hz, and samples a message
CHUNK_S = CHUNK / FS
BEGIN_S = 2.0  # within which the streams begin
NOISE = 0.3  # SD over the pulse's height
WAVES = 32  # noisy synthetic pulses that the streams share
SEED = 11
HEAR_S = 1.0  # that a new socket waits before the first message, so that the other end has it
SILENT_S = 5.0  # without a message, after the last one was sent, until the receiver gives up
INDEX = struct.Struct("<16xQI")  # of a header: index and count


class Load(NamedTuple):
    """`streams` sensors of 125 Hz, messages of 25 samples, for `seconds` from `start` (monotonic seconds) on. `session`: of all
    of them. `wait`: samples that must follow one before it is published."""

    streams: int
    seconds: float
    start: float
    session: int
    wait: int

    @property
    def chunks(self) -> int:
        """Messages a stream."""
        return round(self.seconds * FS) // CHUNK

    def due(self, stream: int, chunk: int) -> float:
        """When a message is to leave. The streams begin one after the other within a window's time, as people do not all begin at
        once."""
        return self.start + (chunk + 1) * CHUNK_S + stream / self.streams * BEGIN_S


class Sent(NamedTuple):
    """late_ms: the 99th percentile of how late messages left. cpu_s: the process's own while it sent."""

    samples: int
    late_ms: float
    cpu_s: float


class Received(NamedTuple):
    """lags_ms: of each published message, from when its last needed sample was to leave the sensor until it was here. at_s: when
    it was here, from the start."""

    samples: int
    ended: int
    lags_ms: list[float]
    at_s: list[float]
    cpu_s: float


def name_of(stream: int) -> bytes:
    return b"bench%05d" % stream


def send(endpoint: str, load: Load) -> Sent:
    """Send the load, paced; a message that finds no room waits. Blocks until all is sent."""
    context: zmq.Context[Any] = zmq.Context()
    socket = make(context, zmq.XPUB, most=MOST_SUBSCRIPTION, xpub_nodrop=1, sndhwm=10_000)
    socket.connect(endpoint)
    payloads, names = _payloads(load), [name_of(k) for k in range(load.streams)]
    code, epoch_ns = DTYPE_CODES[np.dtype("<f4")], time.time_ns() - time.monotonic_ns()
    socket.recv()  # the daemon's subscription
    late = []
    began = _cpu_s()

    def message(kind: Kind, index: int, payload: bytes, due: float) -> bytes:
        count = len(payload) // 4
        t_ns = 0 if not count else epoch_ns + int((due - CHUNK_S) * 1e9)
        head = HEADER.pack(MAGIC, VERSION, kind, code, 0, 0, load.session, index, count, FS * 1000, t_ns, NO_CHECKPOINT, 0)
        return head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload

    every = load.streams * load.chunks
    in_turn = np.argsort([load.due(k % load.streams, k // load.streams) for k in range(every)], kind="stable")
    for chunk, stream in (divmod(k, load.streams) for k in in_turn.tolist()):
        due = load.due(stream, chunk)
        body = message(Kind.DATA, chunk * CHUNK, payloads[stream % WAVES][chunk], due)
        ahead = due - time.monotonic()
        if ahead > 0.0005:
            time.sleep(ahead)
        socket.send(names[stream], zmq.SNDMORE)
        socket.send(body)
        late.append(time.monotonic() - due)
    for stream in range(load.streams):
        socket.send(names[stream], zmq.SNDMORE)
        socket.send(message(Kind.END, load.chunks * CHUNK, b"", 0.0))
    cpu_s = _cpu_s() - began
    context.destroy(linger=30_000)
    return Sent(load.streams * load.chunks * CHUNK, float(np.percentile(late, 99)) * 1000, cpu_s)


def _payloads(load: Load) -> list[list[bytes]]:
    """The samples of each message, by wave."""
    samples = load.chunks * CHUNK
    made = []
    for number in range(min(WAVES, load.streams)):
        rng = np.random.default_rng(SEED + number)
        clean, _ = synthetic.pulse(samples, synthetic.person(rng), rng)
        # White noise and no clipped runs: samples in doubt wait for those after them, which is no matter of speed.
        wave = (1000 * (clean + NOISE * rng.standard_normal(samples))).astype("<f4")
        made.append([wave[a : a + CHUNK].tobytes() for a in range(0, samples, CHUNK)])
    return made


def receive(endpoint: str, load: Load, ready: Callable[[], object] = lambda: None) -> Received:
    """Receive what a daemon publishes of the load, until every stream has ended or nothing more comes."""
    context: zmq.Context[Any] = zmq.Context()
    socket = make(context, zmq.SUB, most=MOST_BODY, rcvhwm=1_000_000)
    socket.setsockopt(zmq.SUBSCRIBE, b"bench")
    socket.connect(endpoint)
    time.sleep(HEAR_S)
    ready()
    session, last = struct.pack("<Q", load.session), load.chunks * CHUNK - 1
    samples = ended = 0
    lags, at = [], []
    began = _cpu_s()
    sent_by = load.due(load.streams - 1, load.chunks - 1)
    while ended < load.streams:
        patience = max(sent_by - time.monotonic(), 0.0) + SILENT_S
        if not socket.poll(int(patience * 1000)):
            break
        with contextlib.suppress(zmq.Again):
            while True:
                name, body = socket.recv(zmq.NOBLOCK), socket.recv()
                now = time.monotonic()
                if body[8:16] != session or len(body) < HEADER_SIZE:
                    continue
                if body[4] == Kind.END:
                    ended += 1
                if body[4] != Kind.DATA:
                    continue
                index, count = INDEX.unpack_from(body)
                samples += count
                needed = index + count - 1 + load.wait  # what is published earlier was ended, or is never waited for
                if needed <= last:
                    due = load.due(int(name[5:]), needed // CHUNK)
                    lags.append((now - due) * 1000)
                    at.append(now - load.start)
    cpu_s = _cpu_s() - began
    context.destroy(linger=0)
    return Received(samples, ended, lags, at, cpu_s)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
