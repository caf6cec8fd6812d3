"""Streams recordings to a daemon as their sensors would have: paced, any number of them at once, with faults on request.

Pacing is by absolute schedule: sample k of a recording is due k / fs / speed seconds after the start, however long the replay has
run. Chunks of several streams are spread over the chunk period, as unrelated sensors would be.
"""

from __future__ import annotations

import heapq
import os
import secrets
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.live.bridge import send_lines
from ppgstream.live.publisher import Publisher
from ppgstream.wire.message import EMPTY, Chunk, Kind

Float64 = NDArray[np.float64]


class Track(NamedTuple):
    """A recording on its way out as one stream, at its own rate. One that goes on has a session, the samples `done` of it that
    were sent before, and `began_ns`, the time of its first."""

    stream: str
    samples: Float64
    fs: float = 125.0
    session: int = 0
    done: int = 0
    began_ns: int = 0


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, on purpose, the same for the same seed. Shares are of chunks; outages are (start, length) in seconds."""

    drop: float = 0.0
    dup: float = 0.0
    reorder: float = 0.0
    jitter_ms: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    seed: int = 1


@dataclass(slots=True)
class Report:
    """What was done, in samples where it says so."""

    streams: int = 0
    samples: int = 0
    valid: int = 0  # of them finite
    messages: int = 0
    withheld: int = 0  # samples never sent: drop, outage
    duplicated: int = 0  # samples sent twice
    delayed: int = 0  # chunks that left after a later one of their stream
    latest_ms: float = 0.0  # how far behind schedule the latest chunk left
    seconds: float = 0.0
    stopped: bool = False
    sent: dict[str, tuple[int, int]] = field(
        default_factory=dict
    )  # of each stream, its session and the index after the last sample

    def __str__(self) -> str:
        text = f"sent {self.samples:,} samples of {self.streams} stream(s) in {self.messages:,} messages, {self.seconds:.2f} s"
        faults = {"withheld": self.withheld, "duplicated": self.duplicated, "late chunks": self.delayed}
        text += "".join(f", {name} {count:,}" for name, count in faults.items() if count)
        return text + (", stopped before the end" if self.stopped else "")


class _Due(NamedTuple):
    at: float  # seconds since the start of the recording
    order: int
    chunk: Chunk
    withheld: bool = False  # by a fault: its time comes, and it does not leave
    again: bool = False  # a duplicate


@dataclass(slots=True)
class Replay:
    """`tracks` over `publisher` at `speed` times real time (None: as fast as they are taken)."""

    tracks: list[Track]
    publisher: Publisher
    speed: float | None = 1.0
    chunk: int = 25
    loop: bool = False
    faults: Faults = Faults()
    stopped: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    report: Report = field(default_factory=Report)

    def run(self) -> Report:
        """Send everything, an END for each stream last."""
        sessions = [track.session or secrets.randbits(64) for track in self.tracks]
        started, wall = self.clock(), time.time_ns()
        self.report.streams = len(self.tracks)
        reached = {session: track.done for session, track in zip(sessions, self.tracks, strict=True)}
        ended: set[int] = set()
        for due in self._in_order(sessions, wall):
            if self.speed is not None and not self._wait(started + due.at / self.speed):
                break
            if not self._leave(due, reached):
                break
            if due.chunk.kind is Kind.END:
                ended.add(due.chunk.session)
        self.report.stopped = self.stopped() and len(ended) < len(self.tracks)
        for track, session in zip(self.tracks, sessions, strict=True):
            if session not in ended and not self.publisher.acked:  # what is acknowledged may go on later
                self.publisher.send_last(Chunk(track.stream, session, reached[session], EMPTY, Kind.END, track.fs))
        self.report.seconds = self.clock() - started
        self.report.sent = {t.stream: (session, reached[session]) for t, session in zip(self.tracks, sessions, strict=True)}
        return self.report

    def _leave(self, due: _Due, reached: dict[int, int]) -> bool:
        """Send a chunk whose time has come, or withhold it, and count it. False once stopped."""
        chunk, n = due.chunk, len(due.chunk.samples)
        if due.withheld:
            if self.stopped():
                return False
            self.report.withheld += n
        elif not self.publisher.send(chunk):
            return False
        else:
            self.report.messages += 1
            self.report.samples += n
            self.report.valid += int(np.isfinite(chunk.samples.astype(np.float64)).sum())
            self.report.duplicated += n * due.again
            self.report.delayed += chunk.kind is Kind.DATA and not due.again and chunk.index < reached[chunk.session]
        reached[chunk.session] = max(reached[chunk.session], chunk.stop)
        return True

    def _wait(self, until: float) -> bool:
        while (left := until - self.clock()) > 0:
            if self.stopped():
                return False
            self.sleep(min(left, 0.2))
        self.report.latest_ms = max(self.report.latest_ms, -left * 1000)
        return not self.stopped()

    def _in_order(self, sessions: list[int], wall: int) -> Iterator[_Due]:
        """Chunks in the order in which they leave."""
        period = max(self.chunk / track.fs for track in self.tracks)
        queue: list[_Due] = []
        for order, due in enumerate(self._faulty(sessions, wall)):
            heapq.heappush(queue, due._replace(order=order))
            # Nothing that comes later can leave before what is a whole period older than the newest.
            while queue and queue[0].at <= due.at - 4 * period - self.faults.jitter_ms / 1000:
                yield heapq.heappop(queue)
        while queue:
            yield heapq.heappop(queue)

    def _faulty(self, sessions: list[int], wall: int) -> Iterator[_Due]:
        f, rng = self.faults, np.random.default_rng(self.faults.seed)
        for due in self._planned(sessions, wall):
            chunk, at = due.chunk, due.at
            period = self.chunk / chunk.fs
            if chunk.kind is Kind.END:
                yield due._replace(at=at + 2 * period + f.jitter_ms / 1000)  # behind everything of its stream
                continue
            chance = rng.uniform(0, 1, 4)
            begin = chunk.index / chunk.fs
            if chance[0] < f.drop or any(start <= begin < start + length for start, length in f.outages):
                yield due._replace(withheld=True)
                continue
            at += chance[3] * f.jitter_ms / 1000 + (1.5 * period if chance[2] < f.reorder else 0.0)
            yield due._replace(at=at)
            if chance[1] < f.dup:
                yield due._replace(at=at, again=True)

    def _planned(self, sessions: list[int], wall: int) -> Iterator[_Due]:
        """Chunks as faultless sensors send them: each when its last sample has been measured."""
        of_tracks = (self._of_track(k, session, wall) for k, session in enumerate(sessions))
        return heapq.merge(*of_tracks, key=lambda due: due.at)

    def _of_track(self, k: int, session: int, wall: int) -> Iterator[_Due]:
        track = self.tracks[k]
        length, period = len(track.samples), self.chunk / track.fs
        late, start, step = k / len(self.tracks) * period, track.done, 0
        began = track.began_ns or wall + round(late * 1e9)
        while not self.stopped():
            step += 1
            at = step * period + late
            if not self.loop and start >= length:
                yield _Due(at, 0, Chunk(track.stream, session, start, EMPTY, Kind.END, track.fs))
                return
            at_most = np.arange(start, start + self.chunk)
            samples = track.samples[at_most % length if self.loop else at_most[at_most < length]]
            t_ns = began + round(start / track.fs * 1e9)
            yield _Due(at, 0, Chunk(track.stream, session, start, samples, fs=track.fs, t_ns=t_ns))
            start += len(samples)


def pipe(fd: int, publisher: Publisher, *, stream: str, fs: float = 0.0, **options: Any) -> Report:
    """Lines from a live pipe, sent as they come, as `live.bridge.send_lines` does."""
    started, stopped = time.monotonic(), options["stopped"]

    def read(timeout_s: float) -> bytes | None:
        return os.read(fd, 65_536) if select.select([fd], [], [], timeout_s)[0] else None

    sent = send_lines(read, publisher, stream=stream, fs=fs, **options)
    report = Report(streams=1, samples=sent.samples, valid=sent.valid, messages=sent.messages, stopped=stopped())
    report.seconds = time.monotonic() - started
    report.sent = {stream: (sent.session, sent.samples)}
    return report
