"""Every sample accounted for, while sensors lose, repeat, swap and restart, consumers stand still or go, and the daemon is
stopped and goes on.

What is sent and what is published is compared here, with a codec that shares no line with the product's.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import zmq

from faults import codec
from faults.daemon import PATIENCE_S, TINY, Daemon, until
from faults.long import LONG, times

Session = tuple[str, int]


@dataclass
class Sent:
    """What a sensor sent of one session."""

    indexes: set[int] = field(default_factory=set)
    ended: bool = False


@dataclass
class Published:
    """What came out of one session: ranges of samples and of gaps, in the order in which they came."""

    ranges: list[tuple[int, int, bool]] = field(default_factory=list)  # start, stop, whether samples
    end: int | None = None
    unclean: bool = False


class Sensor(threading.Thread):
    """Sends `n` samples in messages of any size, and does what sensors should not: loses, repeats and swaps messages, sends NaN,
    leaves without an END."""

    def __init__(self, daemon: Daemon, stream: str, n: int, seed: int) -> None:
        super().__init__()
        self.daemon_, self.stream, self.n, self.rng = daemon, stream, n, np.random.default_rng(seed)
        self.sent: dict[Session, Sent] = defaultdict(Sent)
        self.socket = daemon.connect(zmq.XPUB, "in")
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        assert self.socket.poll(int(1000 * PATIENCE_S))

    def run(self) -> None:
        rng, left = self.rng, self.n
        while left > 0:
            session, n = int(rng.integers(1, 2**63)), min(left, int(rng.integers(200, 4000)))
            left -= n
            self._session(session, n, ends=left > 0 or rng.uniform() < 0.5)
        self.socket.close(linger=int(1000 * PATIENCE_S))

    def _session(self, session: int, n: int, *, ends: bool) -> None:
        rng, at, swapped, wave = self.rng, 0, None, np.sin(np.arange(n) / 15) + 0.05 * self.rng.standard_normal(n)
        wave[rng.uniform(size=n) < 0.002] = np.nan
        while at < n:
            size = min(int(rng.choice([1, 5, 25, 60, 300])), n - at)
            how, chunk = rng.uniform(), (session, at, wave[at : at + size])
            at += size
            if how < 0.02:
                continue  # lost
            if how < 0.05 and size <= 25 and swapped is None:
                swapped = chunk
                continue
            self._send(*chunk)
            if how > 0.97:
                self._send(*chunk)
            if swapped is not None:
                self._send(*swapped)
                swapped = None
            if rng.uniform() < 0.01:
                time.sleep(0.02)
        if swapped is not None:
            self._send(*swapped)
        if ends:
            self.socket.send_multipart(codec.encode(codec.Message(self.stream, codec.END, session, n)))
        self.sent[self.stream, session].ended = ends

    def _send(self, session: int, index: int, samples: np.ndarray) -> None:
        self.socket.send_multipart(codec.encode(codec.Message(self.stream, codec.DATA, session, index, dtype=2, samples=samples)))
        self.sent[self.stream, session].indexes |= set(range(index, index + len(samples)))


class Reader(threading.Thread):
    """Reads the output and keeps what it says of each session."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.socket = daemon.connect(zmq.SUB, "out")
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")
        self.found: dict[Session, Published] = defaultdict(Published)
        self.done = threading.Event()

    def run(self) -> None:
        while self.socket.poll(200) or not self.done.is_set():
            if not self.socket.poll(0):
                continue
            m = codec.decode(self.socket.recv_multipart())
            one = self.found[m.stream, m.session]
            if m.kind in (codec.DATA, codec.GAP):
                one.ranges.append((m.index, m.index + m.count, m.kind == codec.DATA))
            elif m.kind == codec.END:
                one.end, one.unclean = m.index, m.unclean
        self.socket.close(linger=0)


def check(sent: dict[Session, Sent], found: dict[Session, Published]) -> tuple[int, int]:
    """Each index of each session is published once or lies in a gap, in order; what is published was sent. Returns samples
    published and in gaps."""
    published = missing = 0
    assert set(found) == set(sent)
    for session, one in found.items():
        first = min(sent[session].indexes)
        # A session whose first messages are lost begins where the daemon joined it, unless that is close to 0.
        at = 0 if first <= 64 else one.ranges[0][0]
        assert at == 0 or first <= at <= first + 25  # of swapped messages, the later one may have been the first
        for start, stop, samples in one.ranges:
            assert start == at, (session, start, at)
            at = stop
            inside = set(range(start, stop))
            if samples:
                published += len(inside)
                assert inside <= sent[session].indexes
            else:
                missing += len(inside)
        assert one.end == at
        assert one.unclean is not sent[session].ended
        assert at > max(sent[session].indexes)
    return published, missing


@pytest.mark.parametrize("seed", range(times(2, 40)))
def test_every_sample_is_published_once_or_in_a_gap_whatever_happens(
    seed: int, daemons: Callable[..., Daemon], tmp_path: Path
) -> None:
    rng = np.random.default_rng(seed)
    (tmp_path / "config.toml").write_text("[out]\nhigh_water_mark = 1000000\n")
    daemon = daemons(*TINY, stderr=subprocess.PIPE, text=True)
    daemon.wait_until_running()
    reader = Reader(daemon)
    reader.start()
    still = daemon.connect(zmq.SUB, "out")  # a consumer that never reads
    still.setsockopt(zmq.RCVHWM, 1)
    still.setsockopt(zmq.SUBSCRIBE, b"")
    until(lambda: (daemon.ask() or {"subscribers": 0})["subscribers"] == 2, "the consumers")
    sensors = [Sensor(daemon, f"s{k}", times(6000, 30_000), 100 * seed + k) for k in range(4)]
    for sensor in sensors:
        sensor.start()
    while any(sensor.is_alive() for sensor in sensors):
        time.sleep(float(rng.uniform(0, 0.2)))
        what = rng.uniform()
        if what < 0.3:
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(float(rng.uniform(0, 0.3)))
            daemon.process.send_signal(signal.SIGCONT)
        elif what < 0.6:  # a consumer that goes after a moment
            other = daemon.connect(zmq.SUB, "out")
            other.setsockopt(zmq.SUBSCRIBE, b"s1")
            other.poll(50)
            other.close(linger=0)
    sent = {key: value for sensor in sensors for key, value in sensor.sent.items()}
    last = {sensor.stream: list(sensor.sent)[-1] for sensor in sensors}

    def read() -> bool:
        rows = {row["name"]: row for row in (daemon.ask(5.0) or {"streams": []})["streams"]}
        return all(rows.get(name, {}).get("session") in (f"{s:016x}", None) for (name, s) in last.values()) and daemon_is_quiet(
            daemon
        )

    until(read, "everything to be read")
    daemon.process.send_signal(signal.SIGTERM)
    _, told = daemon.process.communicate(timeout=PATIENCE_S)
    reader.done.set()
    reader.join(PATIENCE_S)
    assert daemon.process.returncode == 0, told
    published, missing = check(sent, reader.found)
    final = {name: int(n) for name, n in re.findall(r"([a-z]+) (\d+)", told[told.index("final:") :])}
    assert final["accepted"] == final["denoised"] + final["passthrough"] + final["invalid"] + final["shed"] == published
    assert final["seen"] == published + missing
    assert final["unaccounted"] == 0


def daemon_is_quiet(daemon: Daemon) -> bool:
    """Nothing has come for a moment."""
    before = daemon.ask(5.0)
    time.sleep(0.3)
    after = daemon.ask(5.0)
    return before is not None and after is not None and before["messages"]["received"] == after["messages"]["received"]


@pytest.mark.skipif(not LONG, reason="a part of the long form: make faults")
def test_a_daemon_that_runs_for_long_grows_no_more(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    """Ten minutes of streams that come and go, each with faults: the memory of the second half is that of the first."""
    (tmp_path / "config.toml").write_text("[streams]\nmax_streams = 64\n")
    daemon = daemons(*TINY, stderr=subprocess.DEVNULL)
    daemon.wait_until_running()

    def resident_mb() -> float:
        pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    sizes: list[float] = []
    until_s, k = time.monotonic() + 600, 0
    while time.monotonic() < until_s:
        sensors = [Sensor(daemon, f"r{k}-{j}", 4000, 10 * k + j) for j in range(8)]
        for sensor in sensors:
            sensor.start()
        for sensor in sensors:
            sensor.join(PATIENCE_S)
        sizes.append(resident_mb())
        k += 1
    half = len(sizes) // 2
    assert max(sizes[half:]) < 1.1 * max(sizes[:half]) + 5
    found = daemon.ask(5.0)
    assert found is not None
    assert found["ledger"]["unaccounted"] == 0
    assert daemon.stop() == 0
