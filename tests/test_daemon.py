"""The daemon between real sockets, with the identity for a model: every sample that was sent is accounted for at the far end.

Messages are packed and parsed here, by the table in docs/wire.md, and not by the code under test.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket as plain
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import waiting
import zmq
from numpy.typing import NDArray

from ppgstream.config import Config, In, Model, Out, Overload, Status, Streams
from ppgstream.core.denoiser import Answer, Batch, Denoiser, identity
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.errors import ConfigError, SourceError
from ppgstream.live.daemon import Daemon
from ppgstream.live.receiver import Receiver
from ppgstream.live.status import StatusClient
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import Checkpoint

ANY_PORT = "tcp://127.0.0.1:*"
PATIENCE_S = 45.0
until = partial(waiting.until, seconds=PATIENCE_S)
WINDOW = 250
DATA, STATUS, END, GAP, BEATS = 1, 2, 3, 4, 5
FLAG_NONFINITE, FLAG_GAP, FLAG_PASSTHROUGH, FLAG_SHED = 4, 8, 16, 32
CODES = {"f4": 1, "f8": 2, "i2": 3, "i4": 4}
FORMATS = {1: "<f4", 2: "<f8", 3: "<i2", 4: "<i4"}
HEAD = struct.Struct("<3sBBBBBQQIIq8sI")
Array = NDArray[Any]


# ---- the wire, written once more ------------------------------------------------------------------------------------


def body(
    kind: int,
    session: int,
    index: int,
    samples: Any = (),
    *,
    dtype: str = "f4",
    fs: float = 125.0,
    t_ns: int = 0,
    missing: int = 0,
) -> bytes:
    values = np.asarray(samples, f"<{dtype}")
    head = HEAD.pack(
        b"PPG", 1, kind, CODES[dtype], 0, 0, session, index, missing or len(values), round(fs * 1000), t_ns, bytes(8), 0
    )
    return head + struct.pack("<I", zlib.crc32(head + values.tobytes())) + values.tobytes()


@dataclass(frozen=True)
class Record:
    """A message of the daemon's output, taken apart."""

    stream: str
    kind: int
    session: int
    index: int
    values: Array
    confidence: Array
    flags: Array
    missing: int
    unclean: bool
    t_ns: int


def parse(parts: list[bytes]) -> Record:
    stream, message = parts
    magic, version, kind, code, annotated, unclean, session, index, count, fs_mhz, t_ns, checkpoint, epoch = HEAD.unpack(
        message[:52]
    )
    assert (magic, version, epoch, fs_mhz, checkpoint) == (b"PPG", 1, 0, 125_000, bytes(8))
    payload = message[56:]
    assert struct.unpack("<I", message[52:56])[0] == zlib.crc32(message[:52] + payload)
    n = count if kind == DATA else 0
    assert annotated == (kind == DATA)
    width = np.dtype(FORMATS[code]).itemsize
    assert len(payload) == n * (width + 6)
    values = np.frombuffer(payload[: n * width], FORMATS[code])
    confidence = np.frombuffer(payload[n * width : n * (width + 4)], "<f4")
    flags = np.frombuffer(payload[n * (width + 4) :], "<u2")
    missing = count if kind == GAP else 0
    return Record(stream.decode("ascii"), kind, session, index, values, confidence, flags, missing, bool(unclean), t_ns)


@dataclass(frozen=True)
class Beats:
    """A BEATS message, taken apart."""

    stream: str
    session: int
    index: int
    bpm: float
    confidence: float
    at: Array
    columns: Array  # interval, its error, confidence; a row each


def parse_beats(parts: list[bytes]) -> Beats:
    stream, message = parts
    _, _, kind, _, annotated, unclean, session, index, count, *_ = HEAD.unpack(message[:52])
    assert struct.unpack("<I", message[52:56])[0] == zlib.crc32(message[:52] + message[56:])
    assert (kind, annotated, unclean, len(message)) == (BEATS, 0, 0, 56 + 8 + 20 * count)
    bpm, confidence = struct.unpack("<ff", message[56:64])
    at = np.frombuffer(message[64 : 64 + 8 * count], "<u8")
    return Beats(
        stream.decode("ascii"),
        session,
        index,
        bpm,
        confidence,
        at,
        np.frombuffer(message[64 + 8 * count :], "<f4").reshape(3, -1),
    )


# ---- the two ends and the daemon between them -----------------------------------------------------------------------


class Sensor:
    """A publisher that waits for its subscriber, and for room: what it sends arrives, or the test fails."""

    def __init__(self, endpoint: str, *, bind: bool = False, high_water_mark: int = 1000) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, high_water_mark)
        self.socket.setsockopt(zmq.SNDTIMEO, int(PATIENCE_S * 1000))
        self.socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1000))
        (self.socket.bind if bind else self.socket.connect)(endpoint)

    def wait(self) -> None:
        assert self.socket.recv()[:1] == b"\x01"

    def send(self, stream: str, kind: int, session: int, index: int, samples: Any = (), **more: Any) -> None:
        self.raw([stream.encode(), body(kind, session, index, samples, **more)])

    def raw(self, parts: list[bytes]) -> None:
        self.socket.send_multipart(parts)

    def has_room(self, parts: list[bytes], *, seconds: float) -> bool:
        """Send if there is room within `seconds`. (XPUB's POLLOUT always says yes.)"""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self.socket.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:
                time.sleep(0.01)
            else:
                return True
        return False

    def close(self) -> None:
        self._context.destroy(linger=2000)


class Ear:
    """A subscriber that keeps everything."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint)
        self.heard: list[Record] = []
        self.beats: list[Beats] = []

    def listen(self) -> list[Record]:
        while self._socket.poll(0):
            parts = self._socket.recv_multipart()
            if parts[1][4] == BEATS:
                self.beats.append(parse_beats(parts))
            else:
                self.heard.append(parse(parts))
        return self.heard

    def of(self, stream: str, session: int | None = None, kind: int | None = None) -> list[Record]:
        return [
            r
            for r in self.listen()
            if r.stream == stream and (session is None or r.session == session) and (kind is None or r.kind == kind)
        ]

    def close(self) -> None:
        self._context.destroy(linger=0)


@dataclass
class Served:
    """A daemon at work in a thread of its own."""

    daemon: Daemon
    said: list[str]
    status: StatusClient
    ear: Ear
    sensors: list[Sensor] = field(default_factory=list)
    engine: Engine | None = None
    error: BaseException | None = None
    thread: threading.Thread | None = None

    def sensor(self, **more: Any) -> Sensor:
        made = Sensor(self.daemon.endpoints["in"], **more)
        self.sensors.append(made)
        made.wait()
        return made

    def ask(self, watch: tuple[str, ...] = ()) -> dict[str, Any]:
        """A snapshot of now: what had been asked before and is answered late does not count."""
        return msgspec.to_builtins(until(lambda: self.status.ask(1.0, watch), "an answer"))  # type: ignore[no-any-return]

    def row(self, stream: str) -> dict[str, Any] | None:
        return next((r for r in self.ask()["streams"] if r["name"] == stream), None)

    def ledger(self) -> dict[str, int]:
        return self.ask()["ledger"]  # type: ignore[no-any-return]

    def stop(self) -> Engine:
        assert self.thread is not None
        self.daemon.stop.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "the daemon does not stop"
        if self.error is not None:
            raise self.error
        assert self.engine is not None
        return self.engine


def checkpoint(**changes: Any) -> Checkpoint:
    return Checkpoint(
        **({"path": Path("none"), "arch": Architecture("transformer"), "tensors": {}, "sha256": "00" * 32, "tile": 8} | changes)
    )


def config(**sections: Any) -> Config:
    """Any free ports, and a lost sample is waited for as long as the test takes."""
    defaults: dict[str, Any] = {
        "in_": In(endpoint=ANY_PORT),
        "out": Out(endpoint=ANY_PORT, high_water_mark=1_000_000),
        "status": Status(endpoint=ANY_PORT),
        "streams": Streams(hold_s=3600.0),
    }
    return Config(**(defaults | sections))


def log_to(said: list[str]) -> logging.Logger:
    log, handler = logging.Logger("test"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    return log


@contextmanager
def serving(
    denoiser: Denoiser | None = None,
    *,
    found: Checkpoint | None = None,
    before: Callable[[Daemon], None] | None = None,
    **sections: Any,
) -> Iterator[Served]:
    said: list[str] = []
    daemon = Daemon(config(**sections), found or checkpoint(), log=log_to(said))
    daemon.open()
    if before is not None:
        before(daemon)
    served = Served(daemon, said, StatusClient(daemon.endpoints["status"]), Ear(daemon.endpoints["out"]))

    def work() -> None:
        try:
            served.engine = daemon.run(denoiser or identity(WINDOW))
        except BaseException as error:
            served.error = error

    served.thread = threading.Thread(target=work, daemon=True)
    served.thread.start()
    try:
        until(lambda: served.ask()["subscribers"] == 1, "the ear to be heard of")
        yield served
    finally:
        daemon.stop.set()
        served.thread.join(PATIENCE_S)
        served.status.close()
        served.ear.close()
        for sensor in served.sensors:
            sensor.close()
    assert not served.thread.is_alive(), "the daemon does not stop"


def indexes(records: list[Record]) -> Array:
    return np.concatenate([np.arange(r.index, r.index + len(r.values)) for r in records] or [np.empty(0, np.int64)])


def values(records: list[Record]) -> Array:
    return np.concatenate([r.values for r in records] or [np.empty(0)])


def flags(records: list[Record]) -> Array:
    return np.concatenate([r.flags for r in records] or [np.empty(0, np.uint16)])


def wave(n: int, seed: int = 1, *, dtype: str = "f4", offset: float = 0.0, size: float = 1.0) -> Array:
    """Something that never stands still, in the precision in which it is sent."""
    rng = np.random.default_rng(seed)
    x = offset + size * (np.sin(np.arange(n) * 2 * np.pi * 1.3 / 125) + 0.3 * rng.standard_normal(n))
    return x.astype(f"<{dtype}")


ACCOUNT = re.compile(
    r"seen (?P<seen>\d+) = accepted (?P<accepted>\d+) \+ gap (?P<gap>\d+) \+ rejected (?P<rejected>\d+) "
    r"\(duplicates (?P<duplicates>\d+)\); accepted = denoised (?P<denoised>\d+) \+ passthrough (?P<passthrough>\d+) "
    r"\+ invalid (?P<invalid>\d+) \+ shed (?P<shed>\d+); "
    r"refused (?P<refused>\d+), unclean sessions (?P<unclean>\d+), unaccounted (?P<unaccounted>\d+); "
    r"held (?P<held>\d+), outliers (?P<outliers>\d+)"
)


def account(engine: Engine) -> dict[str, int]:
    """The final line, read back: with nothing in flight."""
    found = ACCOUNT.fullmatch(engine.account())
    assert found, engine.account()
    return {name: int(number) for name, number in found.groupdict().items()}


# ---- conservation ---------------------------------------------------------------------------------------------------

MAX_FILL = 50  # the daemon's defaults, stated once more
LATE_BY = 200  # samples sent after a chunk until its place is surely given up: the daemon holds 64


@dataclass
class Script:
    """All that one session of one stream sends, and what must become of it. The daemon has no part in this."""

    stream: str
    session: int
    dtype: str
    first: int
    x: Array  # by index from `first`; float64, what a reader of the wire sees
    messages: list[tuple[int, Array]]  # (index, samples) in the order of sending
    sent: Array  # how often each sample is sent
    late: Array  # sent only after its place was given up
    t0_ns: int

    @property
    def stop(self) -> int:
        return self.first + len(self.x)

    @property
    def accepted(self) -> Array:
        return (self.sent > 0) & ~self.late  # type: ignore[no-any-return]

    @property
    def finite(self) -> Array:
        return np.abs(self.x) <= 1e37  # type: ignore[no-any-return]

    @property
    def measured(self) -> Array:
        return self.accepted & self.finite  # type: ignore[no-any-return]

    @property
    def passthrough(self) -> Array:
        """Measured samples of stretches too short for a window. Up to MAX_FILL missing ones in a row do not end a stretch."""
        at = np.flatnonzero(self.measured)
        ends = np.flatnonzero(np.diff(at) - 1 > MAX_FILL)
        bare = np.zeros(len(self.x), np.bool_)
        for stretch in np.split(at, ends + 1):
            if len(stretch) and stretch[-1] - stretch[0] + 1 < WINDOW:
                bare[stretch] = True
        return bare

    def due(self) -> dict[str, int]:
        accepted, bare, late = (int(a.sum()) for a in (self.accepted, self.passthrough, self.late))
        measured = int(self.measured.sum())
        return {
            "seen": len(self.x),
            "accepted": accepted,
            "gap": int((self.sent == 0).sum()),
            "rejected": late,
            "duplicates": int(self.sent.sum()) - accepted - late,
            "denoised": measured - bare,
            "passthrough": bare,
            "invalid": accepted - measured,
        }


def script(
    rng: np.random.Generator, stream: str, *, dtype: str, n: int, first: int = 0, offset: float = 0.0, size: float = 1.0
) -> Script:
    x = wave(n, int(rng.integers(2**31)), dtype=dtype, offset=offset, size=size)
    if dtype.startswith("f"):
        for length in (1, 5, 30, 50, 51, 120, 400, 3):
            at = int(rng.integers(WINDOW, n - length))
            x[at : at + length] = rng.choice([np.nan, np.inf, -np.inf, 1e38], length)
    outages = [(int(rng.integers(0.2 * n, 0.8 * n)), length) for length in (30, 60, 700)]
    cuts = [0]
    while cuts[-1] < n:
        cuts.append(min(cuts[-1] + int(rng.integers(1, 61)), n))
    spans = list(zip(cuts, cuts[1:], strict=False))
    sent, late = np.zeros(n, np.int64), np.zeros(n, np.bool_)
    messages: list[tuple[int, Array]] = []
    waiting: list[tuple[int, tuple[int, int]]] = []  # (samples still to go before it, the chunk)

    def emit(a: int, b: int) -> None:
        messages.append((first + a, x[a:b]))
        sent[a:b] += 1
        for k, (left, span) in enumerate(waiting):
            waiting[k] = (left - (b - a), span)

    swapped: tuple[int, int] | None = None
    whole = False  # the chunk before went out as it should
    for number, (a, b) in enumerate(spans):
        fate = rng.uniform()
        out = any(start <= a < start + length for start, length in outages)
        plain_one = number == 0 or (swapped is not None)
        usual = False
        if out and not plain_one:
            pass
        elif not plain_one and fate < 0.05:
            pass  # dropped
        elif not plain_one and fate < 0.10 and number < len(spans) - 1:
            swapped = (a, b)  # leaves after its successor
            continue
        elif not plain_one and fate < 0.12 and n - b > 3 * LATE_BY + 1000:
            late[a:b] = True
            waiting.append((LATE_BY, (a, b)))
        else:
            emit(a, b)
            usual = True
            if fate > 0.95:
                emit(a, b)  # twice
            elif fate > 0.92 and whole:
                emit(max(a - 10, 0), b - (b - a) // 2)  # once more, cut otherwise
        if swapped is not None:
            emit(*swapped)
            swapped = None
        for left, span in [w for w in waiting if w[0] <= 0]:
            waiting.remove((left, span))
            emit(*span)
            if rng.uniform() < 0.5:
                emit(*span)  # late, and twice
        whole = usual and not waiting
    assert not waiting
    assert swapped is None
    session = int(rng.integers(1, 2**63)) * 2 + 1  # needs all 64 bits
    return Script(stream, session, dtype, first, x.astype(np.float64), messages, sent, late, int(rng.integers(1, 2**60)))


def garbage(rng: random.Random) -> list[bytes]:
    """Never a message of ours."""
    good = body(DATA, 7, 0, [1.0, 2.0])
    flipped = bytearray(good)
    flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            [rng.randbytes(rng.randrange(100))],
            [b"a", rng.randbytes(rng.randrange(200))],
            [b"a", b""],
            [b""],
            [b"", good],
            [b"a", good, b"more"],
            [b"a\x1b[2J", good],
            [b"a" * 65, good],
            [b"a\n", good],
            [b"a", bytes(flipped)],
            [b"a", good[:-1]],
            [b"a", good + b"\0"],
            [b"\xff\xfe", good],
            [b"ab", body(9, 7, 0)],
            [b"ab", body(STATUS, 7, 0, missing=3)],
            [b"ab", body(DATA, 7, 2**63, [1.0])],
            [b"ab", body(GAP, 7, 2**63 - 1, missing=3)],
        ]
    )


def check(s: Script, heard: list[Record]) -> None:
    """Every index of a session: published once with its value, or in a gap record, or invalid in its place."""
    data, gaps = ([r for r in heard if r.kind == k] for k in (DATA, GAP))
    at, y, f = indexes(data) - s.first, values(data).astype(np.float64), flags(data)
    np.testing.assert_array_equal(at, np.flatnonzero(s.accepted), err_msg=f"{s.stream}: published, in this order")
    tolerance = 1e-6 * np.abs(s.x[s.measured]).max()
    measured = s.measured[at]
    np.testing.assert_allclose(y[measured], s.x[at][measured], rtol=0, atol=tolerance)
    last_finite = np.maximum.accumulate(np.where(measured, np.arange(len(at)), -1))
    in_place = np.where(last_finite >= 0, s.x[at][last_finite], 0.0)
    np.testing.assert_allclose(y[~measured], in_place[~measured], rtol=0, atol=tolerance)
    np.testing.assert_array_equal((f & FLAG_NONFINITE) != 0, ~measured)
    confidence = np.concatenate([r.confidence for r in data])
    assert not confidence[~measured].any()
    assert ((confidence >= 0) & (confidence <= 1)).all()
    np.testing.assert_array_equal((f & FLAG_PASSTHROUGH) != 0, s.passthrough[at])
    assert not (f & FLAG_SHED).any()
    np.testing.assert_array_equal((f & FLAG_GAP) != 0, np.diff(at, prepend=-1) > 1)

    lost = np.concatenate([np.arange(g.index, g.index + g.missing) for g in gaps] or [np.empty(0, np.int64)]) - s.first
    np.testing.assert_array_equal(lost, np.flatnonzero(~s.accepted), err_msg=f"{s.stream}: gap records")
    order = [r.index for r in heard if r.kind in (DATA, GAP, END)]
    assert order == sorted(order)
    assert [(r.index, r.unclean) for r in heard if r.kind == END] == [(s.stop, False)]
    assert heard[-1].kind == END
    for r in data:
        assert abs(r.t_ns - (s.t0_ns + (r.index - s.first) * 8_000_000)) <= 1


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_sample_that_was_sent_is_published_once_or_in_a_gap_or_invalid_in_its_place(seed: int) -> None:
    rng, dice = np.random.default_rng(seed), random.Random(seed)
    streams = [
        [script(rng, "a", dtype="f4", n=6000), script(rng, "a", dtype="f8", n=3000)],  # one session after the other
        [script(rng, "ab", dtype="f8", n=7000, offset=1e5, size=300.0)],
        [script(rng, "ab.c", dtype="i2", n=6000, size=9000.0)],
        [script(rng, "sensor-4", dtype="i4", n=5000, first=5000, offset=1e6, size=1e5)],  # joined late
        [script(rng, "A", dtype="f4", n=4000, size=1e-6, first=2**40)],
    ]
    todo = [[(s, DATA, *m) for s in sessions for m in [*s.messages, (s.stop, None)]] for sessions in streams]
    bad = 0
    with serving(out=Out(endpoint=ANY_PORT, high_water_mark=1_000_000, dtype="f8" if seed == 2 else "f4")) as served:
        sensor = served.sensor()
        while todo:
            queue = dice.choice(todo)
            s, _, index, samples = queue.pop(0)
            if samples is None:
                sensor.send(s.stream, END, s.session, index)
            else:
                sensor.send(
                    s.stream, DATA, s.session, index, samples, dtype=s.dtype, t_ns=s.t0_ns + (index - s.first) * 8_000_000
                )
            if dice.random() < 0.05:
                sensor.raw(garbage(dice))
                bad += 1
            todo = [q for q in todo if q]
        sessions = [s for several in streams for s in several]
        until(lambda: sum(r.kind == END for r in served.ear.listen()) == len(sessions), "an END of each session")
        for s in sessions:
            check(s, [r for r in served.ear.of(s.stream, s.session) if r.kind != STATUS])
        assert {(r.stream, r.session) for r in served.ear.heard} == {(s.stream, s.session) for s in sessions}
        assert served.ask()["messages"]["malformed"] == bad
        due = {name: sum(s.due()[name] for s in sessions) for name in sessions[0].due()}
        assert min(due.values()) > 0, "the script leaves something out"
        assert served.ledger() == due | {"shed": 0, "held": 0, "outliers": 0, "in_flight": 0, "refused": 0, "unaccounted": 0}
        assert account(served.stop()) == due | {"shed": 0, "held": 0, "outliers": 0, "refused": 0, "unclean": 0, "unaccounted": 0}


def test_nothing_is_lost_at_full_speed_when_the_queue_is_small_and_the_model_stands_still(tmp_path: Path) -> None:
    n, gate, same = 80_000, threading.Event(), identity(WINDOW)

    def denoiser(batch: Batch) -> Answer:
        assert gate.wait(2 * PATIENCE_S)
        return same(batch)

    x = wave(n, dtype="f8")
    with serving(
        denoiser,
        in_=In(endpoint=f"ipc://{tmp_path}/in", queue_samples=1000, high_water_mark=100),
        out=Out(endpoint=f"ipc://{tmp_path}/out", high_water_mark=1_000_000),
        status=Status(endpoint=f"ipc://{tmp_path}/status"),
    ) as served:
        sensor = served.sensor(high_water_mark=100)
        index = 0
        while index < n and sensor.has_room([b"a", body(DATA, 1, index, x[index : index + 25], dtype="f8")], seconds=1.0):
            index += 25
        assert index < n, "the sender was never made to wait: something holds all of it"
        gate.set()
        for at in range(index, n, 25):
            sensor.send("a", DATA, 1, at, x[at : at + 25], dtype="f8")
        sensor.send("a", END, 1, n)
        until(lambda: served.ear.of("a", kind=END), "the END")
        assert not served.ear.of("a", kind=GAP)
        data = served.ear.of("a", kind=DATA)
        np.testing.assert_array_equal(indexes(data), np.arange(n))
        np.testing.assert_allclose(values(data), x, rtol=0, atol=1e-6 * np.abs(x).max())
        final = account(served.stop())
        assert (final["accepted"], final["denoised"], final["unaccounted"]) == (n, n, 0)


# ---- streams and sessions -------------------------------------------------------------------------------------------


def test_streams_whose_names_begin_alike_are_kept_apart_by_daemon_and_tap() -> None:
    names = {"a": 300, "ab": 400, "ab.": 500, "abc": 600}
    with serving() as served:
        tap = Receiver(served.daemon.endpoints["out"], "ab")
        until(lambda: served.ask()["subscribers"] == 2, "the tap's subscription")
        sensor = served.sensor()
        for number, (name, n) in enumerate(names.items()):
            for at in range(0, n, 50):
                sensor.send(name, DATA, number, at, wave(n, number)[at : at + 50])
        for number, (name, n) in enumerate(names.items()):
            sensor.send(name, END, number, n)
        until(lambda: {r.stream for r in served.ear.listen() if r.kind == END} == set(names), "an END of each stream")
        for number, (name, n) in enumerate(names.items()):
            found = served.ear.of(name, kind=DATA)
            np.testing.assert_array_equal(indexes(found), np.arange(n))
            np.testing.assert_allclose(values(found), wave(n, number), rtol=0, atol=1e-5)
            row = served.row(name)
            assert row is not None
            assert (row["accepted"], row["denoised"], row["live"]) == (n, n, False)
        tapped: list[Any] = []
        until(lambda: tapped.extend(tap.poll(0.1)) or tap.all_ended, "the tap's END")
        tap.close()
        assert {c.stream for c in tapped} == {"ab"}
        assert sum(len(c.samples) for c in tapped) == 400
        assert ((list(tap.accounts), tap.lost) == [("ab", 1)] and True) or (list(tap.accounts) == [("ab", 1)] and tap.lost == 0)


def test_a_second_publisher_of_a_live_stream_is_refused_and_named_and_the_first_goes_on() -> None:
    with serving(streams=Streams(silence_s=3600.0)) as served:
        first, second = served.sensor(), served.sensor()
        first.send("heart", DATA, 0xA1, 0, wave(300))
        until(lambda: served.ledger()["accepted"] == 300, "the first publisher's samples")
        second.send("heart", DATA, 0xB2, 0, wave(40, 2))
        until(lambda: served.ledger()["refused"] == 40, "the refusal")
        first.send("heart", DATA, 0xA1, 300, wave(100, 3))
        first.send("heart", END, 0xA1, 400)
        until(lambda: served.ear.of("heart", kind=END), "the END")
        assert {r.session for r in served.ear.heard} == {0xA1}
        np.testing.assert_array_equal(indexes(served.ear.of("heart", kind=DATA)), np.arange(400))
        told = until(lambda: [t for t in served.said if "refused" in t], "the event")
        assert "heart" in told[0]
        assert "00000000000000b2" in told[0]
        assert "00000000000000a1" in told[0]
        final = account(served.stop())
        assert (final["accepted"], final["refused"], final["unclean"], final["unaccounted"]) == (400, 40, 0, 0)


def test_a_new_session_replaces_one_that_ended_and_starts_its_own_count() -> None:
    with serving(streams=Streams(silence_s=3600.0)) as served:
        sensor = served.sensor()
        for session, n in ((11, 300), (12, 100), (13, 260)):
            sensor.send("a", DATA, session, 0, wave(n, session))
            sensor.send("a", END, session, n)
        until(lambda: len(served.ear.of("a", kind=END)) == 3, "three ENDs")
        ends = [(r.session, r.index, r.unclean) for r in served.ear.of("a", kind=END)]
        assert ends == [(11, 300, False), (12, 100, False), (13, 260, False)]
        for session, n in ((11, 300), (12, 100), (13, 260)):
            data = served.ear.of("a", session, DATA)
            np.testing.assert_array_equal(indexes(data), np.arange(n))
            np.testing.assert_allclose(values(data), wave(n, session), rtol=0, atol=1e-5)
        final = account(served.stop())
        assert (final["denoised"], final["passthrough"], final["refused"], final["unclean"]) == (560, 100, 0, 0)


def test_a_session_that_begins_with_invalid_samples_knows_nothing_of_the_one_before() -> None:
    with serving() as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, np.full(30, 5.0))
        sensor.send("a", END, 1, 30)
        sensor.send("a", DATA, 2, 0, [np.nan, np.inf, 7.0, np.nan])
        sensor.send("a", END, 2, 4)
        until(lambda: len(served.ear.of("a", kind=END)) == 2, "two ENDs")
        assert values(served.ear.of("a", 2, DATA)).tolist() == [0.0, 0.0, 7.0, 7.0]


@pytest.mark.parametrize(("n", "denoised"), [(WINDOW - 1, 0), (WINDOW, WINDOW), (WINDOW + 1, WINDOW + 1)])
def test_a_session_is_denoised_from_the_length_of_a_window_on(n: int, denoised: int) -> None:
    with serving() as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(n))
        sensor.send("a", END, 1, n)
        until(lambda: served.ear.of("a", kind=END), "the END")
        data = served.ear.of("a", kind=DATA)
        np.testing.assert_allclose(values(data), wave(n), rtol=0, atol=1e-5)
        assert int(((flags(data) & FLAG_PASSTHROUGH) != 0).sum()) == n - denoised
        final = account(served.stop())
        assert (final["denoised"], final["passthrough"]) == (denoised, n - denoised)


def test_what_an_ended_session_still_sends_is_refused_and_said() -> None:
    with serving() as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(50))
        sensor.send("a", END, 1, 50)
        sensor.send("a", DATA, 1, 50, wave(30))
        until(lambda: served.ledger()["refused"] == 30, "the refusal")
        told = until(lambda: [t for t in served.said if "ended" in t], "the event")
        assert "a: samples from index 50" in told[0]
        assert account(served.stop())["accepted"] == 50


def test_a_session_that_fell_silent_is_replaced_and_reported_unclean() -> None:
    with serving(streams=Streams(silence_s=0.0)) as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(300))
        sensor.send("a", DATA, 2, 0, wave(300))
        sensor.send("a", END, 2, 300)
        until(lambda: len(served.ear.of("a", kind=END)) == 2, "two ENDs")
        assert [(r.session, r.index, r.unclean) for r in served.ear.of("a", kind=END)] == [(1, 300, True), (2, 300, False)]
        assert served.ask()["unclean_sessions"] == 1
        assert account(served.stop())["unclean"] == 1


def test_sessions_without_an_end_are_ended_and_reported_unclean_when_the_daemon_stops() -> None:
    with serving() as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(330))
        sensor.send("b", DATA, 2, 0, wave(20))
        sensor.send("c", DATA, 3, 0, wave(300))
        sensor.send("c", END, 3, 300)
        until(lambda: served.ledger()["accepted"] == 650, "the samples")
        final = account(served.stop())
        assert (final["denoised"], final["passthrough"], final["unclean"], final["unaccounted"]) == (630, 20, 2, 0)
        until(lambda: sum(r.kind == END for r in served.ear.listen()) == 3, "an END of each stream")
        ends = {r.stream: (r.index, r.unclean) for r in served.ear.heard if r.kind == END}
        assert ends == {"a": (330, True), "b": (20, True), "c": (300, False)}
        np.testing.assert_array_equal(indexes(served.ear.of("a", kind=DATA)), np.arange(330))


def test_a_session_idle_for_too_long_is_ended_so_that_its_last_samples_come_out() -> None:
    with serving(streams=Streams(idle_s=0.1)) as served:
        served.sensor().send("a", DATA, 1, 0, wave(100))
        end = until(lambda: served.ear.of("a", kind=END), "the END")[0]
        assert (end.index, end.unclean) == (100, True)
        np.testing.assert_allclose(values(served.ear.of("a", kind=DATA)), wave(100), rtol=1e-6)
        assert until(lambda: [t for t in served.said if t.startswith("a: session 0000000000000001 silent")], "the event")


def test_a_lost_tail_shows_when_a_status_tells_of_it() -> None:
    with serving(streams=Streams(hold_s=0.1)) as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(300))
        sensor.send("a", STATUS, 1, 375)
        until(lambda: served.ledger()["gap"] == 75, "the gap")
        assert served.ledger()["unaccounted"] == 0


def test_held_samples_are_given_up_after_their_time_when_the_daemon_is_quiet() -> None:
    with serving(streams=Streams(hold_s=0.1)) as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(25))
        sensor.send("a", DATA, 1, 50, wave(25))
        until(lambda: (served.ledger()["gap"], served.ledger()["accepted"]) == (25, 50), "the gap and what was held")


def test_held_samples_are_given_up_after_their_time_when_other_streams_keep_the_daemon_busy() -> None:
    with serving(
        in_=In(endpoint=ANY_PORT, queue_samples=1000), streams=Streams(hold_s=0.1, idle_s=3600.0), out=Out(endpoint=ANY_PORT)
    ) as served:
        sensor, flood, over = served.sensor(), served.sensor(), threading.Event()
        sensor.send("quiet", DATA, 1, 0, wave(25))
        sensor.send("quiet", DATA, 1, 50, wave(25))

        def fill() -> None:
            index, x = 0, wave(25)
            while not over.is_set():
                flood.send("busy", DATA, 2, index, x)
                index += 25

        busy = threading.Thread(target=fill)
        busy.start()
        try:
            until(lambda: (served.row("quiet") or {}).get("gap") == 25, "the gap", seconds=8.0)
        finally:
            over.set()
            busy.join()


def test_one_stream_more_than_allowed_is_refused_by_name_until_another_has_ended() -> None:
    with serving(streams=Streams(max_streams=2)) as served:
        sensor = served.sensor()
        for session, name in enumerate("abc"):
            sensor.send(name, DATA, session, 0, wave(30))
        until(lambda: served.ledger()["refused"] == 30, "the refusal")
        assert until(lambda: [t for t in served.said if "max_streams" in t], "the event")[0].startswith("c: ")
        sensor.send("a", END, 0, 30)
        until(lambda: served.ear.of("a", kind=END), "the END of a")
        sensor.send("c", DATA, 9, 0, wave(40))
        sensor.send("c", END, 9, 40)
        until(lambda: served.ear.of("c", kind=END), "the END of c")
        final = account(served.stop())
        assert (final["seen"], final["accepted"], final["refused"], final["unaccounted"]) == (100, 100, 30, 0)


def test_a_stream_of_another_rate_is_refused_by_name() -> None:
    with serving() as served:
        sensor = served.sensor()
        sensor.send("fast", DATA, 1, 0, wave(30), fs=2500.0)
        sensor.send("good", DATA, 2, 0, wave(30))
        until(lambda: served.ledger()["refused"] == 30 and served.ledger()["accepted"] == 30, "both")
        told = until(lambda: [t for t in served.said if "2500 Hz" in t], "the event")
        assert told[0].startswith("fast: ")


def test_a_sensor_whose_clock_belies_its_rate_is_named() -> None:
    with serving() as served:
        sensor = served.sensor()
        for at in range(0, 2000, 50):
            sensor.send("a", DATA, 1, at, wave(50), t_ns=10**18 + at * 10_000_000)  # 100 Hz, not 125
        told = until(lambda: [t for t in served.said if "100.00 Hz" in t], "the event")
        assert told[0].startswith("a: ")
        until(lambda: served.ledger()["accepted"] == 2000, "all the samples: none is lost for it")


# ---- what is no message of ours -------------------------------------------------------------------------------------

GOOD = body(DATA, 7, 0, [1.0, 2.0])
MALFORMED = {
    "words": [b"a", b"hello, world" * 10],
    "nothing": [b""],
    "one part": [GOOD],
    "three parts": [b"a", GOOD, b"x"],
    "a hundred parts": [b"a"] * 100,
    "no id": [b"", GOOD],
    "an id that clears the screen": [b"\x1b[2J\x1b]0;owned\x07", GOOD],
    "an id with a newline": [b"a\n", GOOD],
    "an id of all bytes": [bytes(range(256)), GOOD],
    "a long id": [b"a" * 65, GOOD],
    "a cut body": [b"a", GOOD[:-1]],
    "a header alone": [b"a", GOOD[:56]],
    "a damaged body": [b"a", GOOD[:-1] + b"\x01"],
    "another version": [b"a", b"PPG\x02" + GOOD[4:]],
    "ten million bytes": [b"a", b"\x1b" * 10_000_000],
    "a kind that is none": [b"a", body(0, 7, 0)],
    "an END with samples": [b"a", body(END, 7, 0, [1.0])],
}


@pytest.mark.parametrize("what", MALFORMED)
def test_garbage_is_counted_and_said_in_printable_words_and_others_go_on(what: str) -> None:
    with serving() as served:
        good, evil = served.sensor(), served.sensor()
        good.send("good", DATA, 1, 0, wave(300))
        evil.raw(MALFORMED[what])
        until(lambda: served.ask()["messages"]["malformed"] == 1, "the count")
        good.send("good", DATA, 1, 300, wave(100, 2))
        good.send("good", END, 1, 400)
        until(lambda: served.ear.of("good", kind=END), "the END")
        np.testing.assert_array_equal(indexes(served.ear.of("good", kind=DATA)), np.arange(400))
        published = len(served.ear.listen()) + len(served.ear.beats)
        snapshot = until(
            lambda: (s := served.ask())["messages"]["published"] >= published and s, "the last messages in the count"
        )
        assert snapshot["messages"]["received"] == 4
        assert snapshot["messages"]["malformed"] == 1
        assert snapshot["events"] == {"malformed": 1}
        assert [r["name"] for r in snapshot["streams"]] == ["good"]
        assert len(served.said) == 1
        assert served.said == snapshot["last_events"]
        assert served.said[0].isprintable()
        size = "at least 5" if len(MALFORMED[what]) > 5 else sum(map(len, MALFORMED[what]))
        assert served.said[0].removeprefix("a: ").startswith(f"malformed message of {size} bytes from 127.0.0.1: ")
        assert len(served.said[0]) < 400
        assert account(served.stop())["accepted"] == 400


def test_a_flood_of_garbage_does_not_become_a_flood_of_lines() -> None:
    with serving() as served:
        sensor = served.sensor()
        for _ in range(1000):
            sensor.raw([b"a", b"garbage"])
        until(lambda: served.ask()["messages"]["malformed"] == 1000, "the count")
        assert len(served.said) == 6, "the first three, the 10th, the 100th and the 1000th"
        assert "1000 times" in served.said[-1]


@pytest.mark.parametrize("port", ["in", "out", "status"])
def test_bytes_of_no_protocol_on_a_port_stop_nobody(port: str) -> None:
    with serving() as served:
        address = served.daemon.endpoints[port].removeprefix("tcp://").split(":")
        dice = random.Random(4)
        http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for text in (http, b"\x01\x00", b"\x08\x00" + b"\x1b[2J" * 4, dice.randbytes(5000), b"\xff" * 100):
            with plain.create_connection((address[0], int(address[1])), timeout=PATIENCE_S) as connection:
                connection.settimeout(PATIENCE_S)
                try:
                    connection.sendall(text)
                    connection.shutdown(plain.SHUT_WR)
                    while connection.recv(4096):
                        pass  # until the other side has seen enough
                except OSError:
                    pass  # it closed the door at once
        sensor = served.sensor()
        sensor.send("good", DATA, 1, 0, wave(300))
        sensor.send("good", END, 1, 300)
        until(lambda: served.ear.of("good", kind=END), "the END")
        final = account(served.stop())
        assert (final["accepted"], final["denoised"], final["unaccounted"]) == (300, 300, 0)


def test_samples_beyond_the_last_index_that_can_be_said_are_refused() -> None:
    with serving() as served:
        served.sensor().send("a", DATA, 1, 2**63 - 10, wave(25))
        until(lambda: served.ask()["messages"]["received"] == 1, "the message")
        assert served.ask()["messages"]["malformed"] == 1


# ---- sensors with other words ---------------------------------------------------------------------------------------


def test_json_messages_are_numbered_on_arrival_and_null_keeps_its_place() -> None:
    with serving(in_=In(endpoint=ANY_PORT, format="json", json_samples="v", json_stream="id")) as served:
        sensor = served.sensor()
        x = wave(300, dtype="f8").tolist()
        sensor.raw([b"two", msgspec.json.encode(x[:100])])
        sensor.raw([b"two", msgspec.json.encode({"v": [*x[100:299], None]})])
        sensor.raw([b"two", msgspec.json.encode({"v": x[299], "id": "not this one"})])
        sensor.raw([msgspec.json.encode({"v": [1, 2, 3], "id": "named"})])
        sensor.raw([b"4.5"])
        wrong = [b"{}", b"[1,", b'"word"', b"[true]", b'{"id":"a\\nb","v":1}', b"\xff", b"[" * 5000, b'{"v":{"v":1}}']
        for document in wrong:
            sensor.raw([document])
        until(lambda: served.ask()["messages"]["received"] == 5 + len(wrong), "the messages")
        assert served.ask()["messages"]["malformed"] == len(wrong)
        assert all(t.isprintable() for t in served.said)
        served.stop()
        until(lambda: sum(r.kind == END for r in served.ear.listen()) == 3, "an END of each stream")
        two = served.ear.of("two", kind=DATA)
        np.testing.assert_array_equal(indexes(two), np.arange(301))
        np.testing.assert_allclose(np.delete(values(two), 299), x, rtol=0, atol=1e-5)
        assert np.flatnonzero(flags(two) & FLAG_NONFINITE).tolist() == [299]
        assert values(served.ear.of("named", kind=DATA)).tolist() == [1, 2, 3]
        assert values(served.ear.of("sensor", kind=DATA)).tolist() == [4.5]
        assert len({r.session for r in two}) == 1


def test_raw_samples_are_numbered_on_arrival() -> None:
    with serving(in_=In(endpoint=ANY_PORT, format="raw", raw_dtype="i2", default_stream="belt")) as served:
        sensor = served.sensor()
        x = wave(400, dtype="i2", size=9000.0)
        for at in range(0, 400, 40):
            sensor.raw([b"wrist", x[at : at + 40].tobytes()])
            sensor.raw([x[at : at + 20].tobytes()])
        sensor.raw([b"wrist", b"odd"])
        sensor.raw([b"wr ist", b"even"])
        sensor.raw([b"1", b"22", b"33"])
        until(lambda: served.ask()["messages"]["received"] == 23, "the messages")
        assert served.ask()["messages"]["malformed"] == 3
        final = account(served.stop())
        assert (final["accepted"], final["denoised"], final["passthrough"]) == (600, 400, 200)
        until(lambda: sum(r.kind == END for r in served.ear.listen()) == 2, "an END of each stream")
        np.testing.assert_allclose(values(served.ear.of("wrist", kind=DATA)), x, rtol=0, atol=1e-2)
        belt = served.ear.of("belt", kind=DATA)
        np.testing.assert_array_equal(indexes(belt), np.arange(200))
        np.testing.assert_array_equal(values(belt), np.concatenate([x[at : at + 20] for at in range(0, 400, 40)]))


# ---- overload, draining, failing ------------------------------------------------------------------------------------


def gated() -> tuple[threading.Event, list[int], Denoiser]:
    """A model that answers once the gate is open, and a list of how many windows it was asked for at a time."""
    gate, calls, same = threading.Event(), [0][:0], identity(WINDOW)

    def denoiser(batch: Batch) -> Answer:
        assert gate.wait(2 * PATIENCE_S)
        calls.append(len(batch.x))
        return same(batch)

    return gate, calls, denoiser


def test_windows_that_waited_too_long_are_published_as_they_came_and_say_so() -> None:
    gate, _, denoiser = gated()
    x = wave(5000, dtype="f4")
    with serving(denoiser, overload=Overload(shed_after_ms=200.0)) as served:
        sensor = served.sensor()
        for at in range(0, 5000, 50):
            sensor.send("a", DATA, 1, at, x[at : at + 50])
        sensor.send("a", END, 1, 5000)
        opened = time.monotonic() + 1.0
        until(lambda: time.monotonic() > opened, "the windows to grow old")
        gate.set()
        until(lambda: served.ear.of("a", kind=END), "the END")
        data = served.ear.of("a", kind=DATA)
        np.testing.assert_array_equal(indexes(data), np.arange(5000))
        shed = (flags(data) & FLAG_SHED) != 0
        assert shed.any()
        np.testing.assert_array_equal(values(data)[shed], x[shed])
        final = account(served.stop())
        assert (final["shed"], final["denoised"], final["unaccounted"]) == (int(shed.sum()), 5000 - int(shed.sum()), 0)


def test_a_stopping_daemon_denoises_what_it_has_read() -> None:
    gate, calls, denoiser = gated()
    x = wave(20_000, dtype="f4")
    with serving(denoiser) as served:
        sensor = served.sensor()
        for at in range(0, 20_000, 50):
            sensor.send("a", DATA, 1, at, x[at : at + 50])
        until(lambda: served.daemon.source.received == 400, "all to be read")
        served.daemon.stop.set()
        gate.set()
        final = account(served.stop())
        assert (final["seen"], final["denoised"], final["unclean"], final["unaccounted"]) == (20_000, 20_000, 1, 0)
        assert sum(calls) == (20_000 - WINDOW) // 50 + 1
        until(lambda: served.ear.of("a", kind=END), "the END")
        np.testing.assert_array_equal(indexes(served.ear.of("a", kind=DATA)), np.arange(20_000))


def test_what_a_stopping_daemon_has_no_time_for_is_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is given up here, however slow the machine is: what is shed is published, and that takes a second on an idle one.
    monkeypatch.setattr("ppgstream.live.loop.LEAVE_S", PATIENCE_S)
    gate, calls, denoiser = gated()
    with serving(denoiser, overload=Overload(drain_s=0.0)) as served:
        sensor = served.sensor()
        for at in range(0, 100_000, 100):
            sensor.send("a", DATA, 1, at, wave(100))
        until(lambda: served.daemon.source.received == 1000, "all to be read")
        served.daemon.stop.set()
        gate.set()
        final = account(served.stop())
        assert (final["accepted"], final["unaccounted"]) == (100_000, 0)
        assert len(calls) <= 40, "of 250: those of the messages already taken from the queue"
        assert final["shed"] > 0


def test_a_model_that_hangs_does_not_keep_a_stopped_daemon() -> None:
    gate, _, denoiser = gated()
    try:
        with serving(denoiser, overload=Overload(drain_s=0.0)) as served:
            sensor = served.sensor()
            for at in range(0, 1000, 100):
                sensor.send("a", DATA, 1, at, wave(100))
            until(lambda: served.daemon.source.received == 10, "all to be read")
            until(lambda: served.ask()["queues"]["model_windows"], "a window to be in the model")
            served.daemon.stop.set()
            final = account(served.stop())
            assert (final["accepted"], final["shed"], final["unaccounted"]) == (1000, 1000, 0)
            assert served.daemon.stuck
    finally:
        gate.set()


def test_a_consumer_that_stands_still_stops_nobody(tmp_path: Path) -> None:
    n = 100_000
    with serving(out=Out(endpoint=f"ipc://{tmp_path}/out", high_water_mark=10, linger_ms=0)) as served:
        context = zmq.Context()
        idle = context.socket(zmq.SUB)
        idle.setsockopt(zmq.RCVHWM, 1)
        idle.setsockopt(zmq.SUBSCRIBE, b"")
        idle.connect(served.daemon.endpoints["out"])
        until(lambda: served.ask()["subscribers"] == 2, "the idle consumer")
        sensor, x = served.sensor(), wave(1000)
        for at in range(0, n, 1000):
            sensor.send("a", DATA, 1, at, x)
        sensor.send("a", END, 1, n)
        until(lambda: served.ledger()["denoised"] == n, "all to be denoised")
        assert account(served.stop())["unaccounted"] == 0
        context.destroy(linger=0)


def test_answers_that_are_not_finite_are_shed_and_said() -> None:
    def denoiser(batch: Batch) -> Answer:
        return Answer(np.full((len(batch.x), WINDOW), np.nan, np.float32))

    with serving(denoiser) as served:
        sensor = served.sensor()
        sensor.send("a", DATA, 1, 0, wave(300))
        sensor.send("a", END, 1, 300)
        until(lambda: served.ear.of("a", kind=END), "the END")
        data = served.ear.of("a", kind=DATA)
        np.testing.assert_array_equal(values(data), wave(300))
        assert ((flags(data) & FLAG_SHED) != 0).all()
        assert until(lambda: [t for t in served.said if "not finite" in t], "the event")[0].startswith("a: ")
        assert account(served.stop())["shed"] == 300


def test_a_model_call_that_fails_gives_its_windows_out_as_they_came_and_the_next_goes_on() -> None:
    calls = 0

    def denoiser(batch: Batch) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ArithmeticError("out of order")
        return Answer(np.zeros_like(batch.x))

    with serving(denoiser) as served:
        sensor, x = served.sensor(), wave(250)
        sensor.send("a", DATA, 1, 0, x)
        sensor.send("a", END, 1, 250)
        until(lambda: served.ear.of("a", kind=END), "the END of a")
        first = served.ear.of("a", kind=DATA)
        np.testing.assert_array_equal(values(first), x)
        assert ((flags(first) & FLAG_SHED) != 0).all()
        told = until(lambda: [t for t in served.said if "ArithmeticError" in t], "the event")
        assert told[0] == "a: the model failed on a tile of 1 windows: shed: ArithmeticError: out of order"
        sensor.send("b", DATA, 2, 0, x)
        sensor.send("b", END, 2, 250)
        until(lambda: served.ear.of("b", kind=END), "the END of b")
        assert not (flags(served.ear.of("b", kind=DATA)) & FLAG_SHED).any()
        final = account(served.stop())
        assert (final["shed"], final["denoised"], final["unaccounted"]) == (250, 250, 0)


@pytest.mark.parametrize("threads", [1, 4])
def test_output_does_not_depend_on_how_many_workers_answer_nor_on_who_is_first(threads: int) -> None:
    most, at_once, lock = 0, 0, threading.Lock()

    def denoiser(batch: Batch) -> Answer:
        nonlocal most, at_once
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02 if int(batch.x[0, 0] * 1000) % 2 else 0.0)  # some tiles take longer than the next ones
        with lock:
            at_once -= 1
        return Answer(np.sqrt(np.abs(batch.x)).astype(np.float32))

    def through(workers: int) -> dict[str, Array]:
        with serving(denoiser, model=Model(threads=workers)) as served:
            sensor = served.sensor()
            for at in range(0, 3000, 50):
                for number, name in enumerate("abc"):
                    sensor.send(name, DATA, 1, at, wave(3000, seed=number)[at : at + 50])
            for name in "abc":
                sensor.send(name, END, 1, 3000)
                until(lambda name=name: served.ear.of(name, kind=END), "the END")  # type: ignore[misc]
            assert account(served.stop())["unaccounted"] == 0
            return {name: values(served.ear.of(name, kind=DATA)) for name in "abc"}

    one, many = through(1), through(threads)
    for name in "abc":
        np.testing.assert_array_equal(one[name], many[name])
    assert most <= threads


def test_lag_is_counted_from_when_a_message_came_and_read_lag_from_when_it_was_read() -> None:
    gate, _, denoiser = gated()
    with serving(denoiser, model=Model(threads=1), in_=In(endpoint=ANY_PORT, queue_samples=1000)) as served:
        sensor = served.sensor()
        for at in range(0, 10_000, 25):
            sensor.send("a", DATA, 1, at, wave(25), t_ns=time.time_ns() - 200_000_000)
        until(lambda: served.ask()["queues"]["ready_windows"] >= 20, "the queue to be full")
        time.sleep(0.5)  # most messages wait in the socket, unread
        gate.set()
        until(lambda: served.ledger()["denoised"] > 9000, "the windows")
        status = served.ask()
        assert status["lag_ms"]["p50"] >= 500
        assert status["read_lag_ms"]["p50"] < status["lag_ms"]["p50"]
        assert status["read_lag_ms"]["max"] >= 500


# ---- ports and the status socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["in", "out", "status"])
def test_a_port_in_use_is_named(name: str) -> None:
    with plain.create_server(("127.0.0.1", 0)) as server:
        taken = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        sections = {
            "in": {"in_": In(endpoint=taken)},
            "out": {"out": Out(endpoint=taken)},
            "status": {"status": Status(endpoint=taken)},
        }
        daemon = Daemon(config(**sections[name]), checkpoint())
        with pytest.raises(SourceError, match=rf"^{name}\.endpoint {taken}: ") as caught:
            daemon.open()
        assert caught.value.exit_code == 69


def test_an_ipc_endpoint_in_use_is_refused_as_a_port_is(tmp_path: Path) -> None:
    with serving(in_=In(endpoint=f"ipc://{tmp_path}/in")):
        second = Daemon(config(in_=In(endpoint=f"ipc://{tmp_path}/in")), checkpoint())
        try:
            with pytest.raises(SourceError):
                second.open()
        finally:
            second._context.destroy(linger=0)


def test_an_ipc_endpoint_does_not_replace_a_file(tmp_path: Path) -> None:
    precious = tmp_path / "recording.txt"
    precious.write_text("1\n2\n")
    daemon = Daemon(config(in_=In(endpoint=f"ipc://{precious}")), checkpoint())
    try:
        with pytest.raises(SourceError):
            daemon.open()
    finally:
        daemon._context.destroy(linger=0)
    assert precious.read_text() == "1\n2\n"


def _has_ipv6() -> bool:
    try:
        with plain.socket(plain.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_the_ipv6_loopback_is_served() -> None:
    daemon = Daemon(config(in_=In(endpoint="tcp://[::1]:*")), checkpoint())
    try:
        daemon.open()
        assert daemon.endpoints["in"].startswith("tcp://[::1]:")
    finally:
        daemon._context.destroy(linger=0)


def test_a_daemon_told_to_connect_reads_from_a_publisher_that_binds(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/sensor"
    sensor = Sensor(endpoint, bind=True)
    with serving(in_=In(endpoint=endpoint, bind=False)) as served:
        sensor.wait()
        sensor.send("a", DATA, 1, 0, wave(300))
        sensor.send("a", END, 1, 300)
        until(lambda: served.ear.of("a", kind=END), "the END")
        np.testing.assert_array_equal(indexes(served.ear.of("a", kind=DATA)), np.arange(300))
    sensor.close()


def test_the_status_socket_survives_questions_that_are_none() -> None:
    with serving() as served:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(served.daemon.endpoints["status"])
        for no_question in (b"", b"\xff\xfe", b"{"):
            socket.send(no_question)
        odd = (b"null", b"[]", b'{"watch": 3}', b'{"watch": [1, null, "nobody"]}', b'{"watch": {"a": 1}}', b'{"watch": ["last"]}')
        for question in (*([q] for q in odd), [b"{}"] * 20):
            socket.send_multipart(question)
            assert socket.poll(int(PATIENCE_S * 1000)), question
            assert isinstance(msgspec.json.decode(socket.recv()), dict)
        context.destroy(linger=0)
        assert served.ask()["state"] == "running"


def test_the_status_socket_survives_a_deeply_nested_question() -> None:
    with serving() as served:
        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(served.daemon.endpoints["status"])
        socket.send(b"[" * 4000)
        socket.send(b"{}")
        until(lambda: socket.poll(0) or served.error, "an answer, or the end")
        context.destroy(linger=0)
        assert served.error is None
        assert served.ask()["state"] == "running"


def test_the_ledger_is_told_even_when_it_no_longer_fits_64_bits() -> None:
    with serving() as served:
        sensor = served.sensor()
        for session in range(1, 4):
            sensor.send("a", DATA, session, 0, wave(25))
            sensor.send("a", END, session, 2**63 - 1)
        until(lambda: len(served.ear.of("a", kind=END)) == 3, "three ENDs")
        assert served.ledger()["gap"] > 2**64
        assert served.ledger()["unaccounted"] == 0


def test_words_sent_up_the_output_socket_are_no_subscriptions() -> None:
    with serving() as served:
        context = zmq.Context()
        socket = context.socket(zmq.XSUB)
        socket.connect(served.daemon.endpoints["out"])
        socket.send(b"\x01")
        until(lambda: served.ask()["subscribers"] == 2, "the subscription")
        for _ in range(3):
            socket.send(b"hello")
        socket.send(b"\x01more")
        counts = [served.ask()["subscribers"] for _ in range(20)]
        until(lambda: served.ask()["subscribers"] != 2, "the second subscription")
        context.destroy(linger=0)
        assert min(counts) >= 2
        until(lambda: served.ask()["subscribers"] == 1, "the other's farewell")


def test_a_watched_stream_shows_its_wave() -> None:
    with serving() as served:
        sensor = served.sensor()
        x = wave(1000)
        sensor.send("a", DATA, 1, 0, x[:100])
        until(lambda: served.row("a"), "the stream")
        assert set(served.ask(("a", "nobody"))["traces"]) == {"a"}
        sensor.send("a", DATA, 1, 100, x[100:])
        trace = until(lambda: (t := served.ask(("a",))["traces"]["a"])["clean"] and t, "the wave")
        until(lambda: len(served.ask(("a",))["traces"]["a"]["clean"]) >= 750, "what can be final of it")
        trace = served.ask(("a",))["traces"]["a"]
        n = len(trace["raw"])
        np.testing.assert_array_equal(trace["raw"], x[:n])
        np.testing.assert_allclose(trace["clean"], x[:n], rtol=0, atol=1e-5)


def test_a_new_watch_gets_a_fresh_snapshot_and_an_old_one_the_kept_one() -> None:
    with serving() as served:
        served.sensor().send("a", DATA, 1, 0, wave(100))
        until(lambda: served.row("a"), "the stream")
        served.ask()
        served.daemon.questions._cost_s = 1e6  # from now on the kept snapshot is never too old
        assert set(served.ask(("a",))["traces"]) == {"a"}
        served.daemon.questions._cost_s = 1e6
        assert served.ask(("a",)) == served.ask(())


@pytest.mark.parametrize(("setting", "value"), [("hop", 251), ("lookahead", 250)])
def test_windows_that_do_not_fit_the_checkpoint_are_a_configuration_error(setting: str, value: int) -> None:
    settings = config()
    windows = msgspec.structs.replace(settings.windows, **{setting: value})
    with pytest.raises(ConfigError, match=rf"windows\.{setting}: {value}"):
        Daemon(msgspec.structs.replace(settings, windows=windows), checkpoint())


def test_two_daemons_in_one_process_do_not_meet() -> None:
    with serving() as one, serving() as other:
        assert len({*one.daemon.endpoints.values(), *other.daemon.endpoints.values()}) == 6
        one.sensor().send("a", DATA, 1, 0, wave(30))
        until(lambda: one.ledger()["accepted"] == 30, "the samples")
        assert other.ledger()["seen"] == 0
        assert one.ask()["pid"] == os.getpid()


def test_the_second_broken_sensor_is_named_too() -> None:
    said: list[str] = []
    daemon = Daemon(config(), checkpoint(), log=log_to(said))
    for number in range(200):
        daemon.events.tell(Event("fs_off", f"first: event {number}", "first"))
    daemon.events.tell(Event("fs_off", "second: another event", "second"))
    assert len(said) < 10
    assert said[-1].startswith("second: ")
    assert daemon.events.counts["fs_off"] == 201


def test_raw_samples_of_another_type_are_said() -> None:
    with serving(in_=In(endpoint=ANY_PORT, format="raw", raw_dtype="f4")) as served:
        served.sensor().raw([b"a", np.arange(500, 550).astype("<i2").tobytes()])
        until(lambda: any("raw_dtype 'f4'" in line for line in served.said), "the doubt")
