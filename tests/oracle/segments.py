"""Cutting a stretch of samples into windows, and averaging the answers back: the two halves of overlap-add.

A segment is a stretch without a long gap. Windows start every `hop` samples; when the segment is closed one more, right-aligned, covers
its tail. Each answer is added with a weight that fades towards the edges of what it adds to, so that no seam shows where one window leaves
the average and the next enters. A sample is final once the last window over it is in, or, with a shorter `lookahead`, once the
first window is in that ends `lookahead` samples after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.measured import HELD, INVALID, LOST, MEASURED
from oracle.polarity import UPRIGHT, Watcher
from oracle.trust import Calibration, Seen

Float64 = NDArray[np.float64]
FIRST_AGREEMENT = 0.3  # confidence of a window with no earlier one to compare with: below the threshold, so it is flagged


@dataclass(frozen=True)
class Geometry:
    """How windows lie. All lengths in samples; `lookahead` None means all there is, window - 1."""

    window: int = 250
    hop: int = 50
    context: int = 0
    lookahead: int | None = None
    overlap: Literal["hann", "uniform"] = "hann"

    @cached_property
    def weights(self) -> Float64:
        if self.overlap == "uniform":
            return np.ones(self.window)
        at = np.arange(self.window) + 0.5
        taper = np.sin(np.pi * at / self.window) ** 2
        if self.lookahead is not None and (unused := self.window - self.hop - self.lookahead) > 0:
            # The samples before are published already; from here on the answer counts, and fades in over a hop.
            taper *= np.sin(np.pi / 2 * np.clip((at - unused) / self.hop, 0.0, 1.0)) ** 2
        # Lifted so that the first and last sample of a segment still have a weight.
        return taper + 1e-3

    @cached_property
    def settles(self) -> int:
        """How many of a window's samples are final once it is in."""
        wait = self.window - 1 if self.lookahead is None else self.lookahead
        return max(self.window - wait, self.hop)


class Window(NamedTuple):
    """One window, ready for the model. x: (context + window,) in the sensor's units, missing samples filled; state: the same,
    each sample's as in `measured`."""

    segment: Segment
    start: int
    x: Float64
    state: NDArray[np.uint8]


@dataclass(slots=True)
class Released:
    """Final samples, and the state of each as in `measured`. `bare`: no window was denoised over it. `raw` and `state` are views, until the segment is
    given more."""

    index: int
    raw: Float64
    values: Float64
    confidence: Float64
    flags: NDArray[np.uint16]
    state: NDArray[np.uint8]
    bare: NDArray[np.bool_]


_BUFFERS = {
    "x": np.float64,
    "state": np.uint8,
    "total": np.float64,
    "weight": np.float64,
    "trust": np.float64,
    "flags": np.uint16,
}


class Segment:
    """A stretch of samples on its way through the model. Indexes are the session's."""

    __slots__ = (
        "_base",
        "_done",
        "_done_before",
        "_first_flags",
        "_kept",
        "_size",
        "calibration",
        "closed",
        "flags",
        "geometry",
        "next_window",
        "polarity",
        "released",
        "start",
        "state",
        "stop",
        "total",
        "trust",
        "weight",
        "x",
    )

    def __init__(
        self,
        start: int,
        geometry: Geometry,
        first_flags: int = 0,
        polarity: Watcher = UPRIGHT,
        calibration: Calibration | None = None,
    ) -> None:
        self.geometry, self.polarity = geometry, polarity  # the polarity is its session's
        self.calibration = calibration
        self.start = self.stop = self.released = self.next_window = start
        self.closed = False
        self._base = start  # index of buffer position 0
        self._done = self._done_before = start  # index up to which windows are in, and were before the last one
        self._kept = max(geometry.context + geometry.window, 0 if calibration is None else calibration.row)
        self._size = self._kept + 4 * geometry.hop
        self.x = np.zeros(self._size)
        self.state = np.zeros(self._size, np.uint8)
        self.total = np.zeros(self._size)
        self.weight = np.zeros(self._size)
        self.trust = np.zeros(self._size)
        self.flags = np.zeros(self._size, np.uint16)
        self._first_flags = first_flags

    def append(self, x: Float64, state: NDArray[np.uint8] | None = None, flags: int = 0) -> None:
        """Samples that were sent, their states (measured ones if None), and flags of all of them."""
        at = self._room(len(x))
        self.x[at : at + len(x)] = x
        if state is not None:
            self.state[at : at + len(x)] = state
        self.flags[at : at + len(x)] = flags

    def mark_last_held(self) -> None:
        """The last sample belongs to the held run that follows."""
        if self.stop > max(self.released, self.start):
            self.state[self.stop - 1 - self._base] = HELD

    def take_back_last(self) -> bool:
        """Without the last sample, unless a window over it was cut. Says whether it was."""
        last_window = self.next_window - self.geometry.hop
        if self.stop == self.start or (last_window >= self.start and last_window + self.geometry.window >= self.stop):
            return False
        self.stop -= 1
        self.state[self.stop - self._base] = 0
        return True

    def bridge(self, lost: NDArray[np.bool_], following: float) -> None:
        """Missing samples, filled on a straight line from the last one to `following`: for the model's eyes only."""
        at, n = self._room(len(lost)), len(lost)
        before = float(self.x[at - 1])
        step = (following - before) / (n + 1)
        self.x[at : at + n] = before + step if n == 1 else before + np.arange(1, n + 1) * step
        self.state[at : at + n] = np.where(lost, LOST, INVALID)

    def cut(self) -> list[Window]:
        """The windows that are full now and were not before."""
        windows = []
        while self.next_window + self.geometry.window <= self.stop:
            windows.append(self._window(self.next_window))
            self.next_window += self.geometry.hop
        return windows

    def close(self) -> list[Window]:
        """No sample follows: the last window, right-aligned, unless a regular one ends right here or none fits at all."""
        self.closed = True
        length, g = self.stop - self.start, self.geometry
        if length < g.window or self.next_window - g.hop + g.window == self.stop:
            return []
        return [self._window(self.stop - g.window)]

    def add(self, start: int, y: Float64 | None, flags: NDArray[np.uint16], confidence: Float64 | None = None) -> None:
        """The answer to the window at `start`, or None if it was shed. Windows come back in the order they were cut. confidence: (window,), the network's
        own; without it, how well the answer agrees with those before it."""
        g = self.geometry
        a, b = start - self._base, start - self._base + g.window
        self.flags[a:b] |= flags
        if y is not None:
            weights = g.weights
            if start == self.start:
                y = self._levelled(y)
            trust = self._agreement(a, self._done - self._base, y) if confidence is None else confidence
            self.total[a:b] += weights * y
            self.weight[a:b] += weights
            self.trust[a:b] += weights * trust
        self._done_before, self._done = self._done, start + g.window

    def _levelled(self, y: Float64) -> Float64:
        """The answer to a segment's first window, its first half raised or lowered by a ramp that ends at 0, so that it follows the input's level. There a
        network sees nothing of what was before, and half a second of an answer may lie half a pulse off."""
        n = self.geometry.window // 2
        at = self.start - self._base
        ramp = (1 - np.arange(n) / n) * (self.state[at : at + n] == MEASURED)
        power = float((ramp * ramp).sum())
        if not power:
            return y
        off = float((ramp * (self.x[at : at + n] - y[:n])).sum()) / power
        return np.concatenate([y[:n] + off * (1 - np.arange(n) / n), y[n:]])

    @property
    def short(self) -> bool:
        """Too short for a window: it is published as it came."""
        return self.closed and self.stop - self.start < self.geometry.window

    @property
    def settled(self) -> int:
        """The index up to which samples are final."""
        g = self.geometry
        if self.closed and (self._done == self.stop or self.short):
            return self.stop
        return self.start if self._done == self.start else self._done - g.window + g.settles

    def seen(self) -> Seen | None:
        """What is known of the samples that have become final since the last release, a row for each hop of them; None if there are none, or if their
        confidence needs no row."""
        settled = max(self.settled, self.released)
        if self.calibration is None or self.calibration.plain or settled == self.released or self.short:
            return None
        low = max(self._done - self.calibration.row, self.start)
        part = slice(low - self._base, self._done - self._base)
        weight = self.weight[part]
        answered = weight > 0
        safe = np.where(answered, weight, 1.0)
        y = np.where(answered, self.total[part] / safe, self.x[part])
        confidence = np.where(answered, self.trust[part] / safe, 0.0)
        alone = np.arange(low, self._done) >= self._done_before
        missing = self.calibration.row - (self._done - low)
        start = np.arange(self.released, settled, self.geometry.hop)

        def rows(v: NDArray[Any]) -> NDArray[Any]:
            """The same for each hop. A segment that is too young is mirrored at its start."""
            return np.tile(np.pad(v, (missing, 0), mode="reflect") if missing else v, (len(start), 1))

        return Seen(
            rows(self.x[part]),
            rows(y),
            rows(confidence),
            rows(self.state[part]),
            rows(alone),
            start,
            np.minimum(start + self.geometry.hop, settled),
            np.full(len(start), self._done),
        )

    def release(self, sure: Float64 | None = None) -> Released | None:
        """The samples that have become final since the last call. sure: P(good) of each row of `seen`, if it was computed already."""
        settled = max(self.settled, self.released)
        if settled == self.released:
            return None
        part = slice(self.released - self._base, settled - self._base)
        weight, raw = self.weight[part], self.x[part]
        bare = weight == 0
        if np.count_nonzero(bare):
            safe = np.where(bare, 1.0, weight)
            values, confidence = np.where(bare, raw, self.total[part] / safe), np.where(bare, 0.0, self.trust[part] / safe)
        else:
            values, confidence = self.total[part] / weight, self.trust[part] / weight
        if self.calibration is not None and self.calibration.plain and not self.short:
            confidence = np.where(bare, 0.0, self._plainly(self.calibration, settled))
        elif self.calibration is not None and not self.short:
            if sure is None:
                seen = self.seen()
                assert seen is not None
                sure = self.calibration.of(seen)
            confidence = np.where(bare, 0.0, np.repeat(sure, self.geometry.hop)[: settled - self.released])
        released = Released(self.released, raw, values, confidence, self.flags[part].copy(), self.state[part], bare)
        if self._first_flags and self.released == self.start:
            released.flags[0] |= np.uint16(self._first_flags)
        self.released = settled
        return released

    def _plainly(self, calibration: Calibration, settled: int) -> Float64:
        """P(good) of the samples up to `settled`, by their confidence alone: the same for each hop of them."""
        hop, parts = self.geometry.hop, []
        for start in range(self.released, settled, hop):
            stop = min(start + hop, settled)
            part = slice(start - self._base, min((start + stop) // 2 + calibration.beyond, self._done) - self._base)
            weight, trust = self.weight[part], self.trust[part]
            mean = _sum(trust / np.where(weight > 0, weight, 1.0)) / len(weight)
            parts.append(np.full(stop - start, calibration.of_confidence(mean)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def in_flight(self) -> int:
        """Samples that came and are not released."""
        return int(np.count_nonzero(self.state[self.released - self._base : self.stop - self._base] != LOST))

    def _agreement(self, a: int, b: int, y: Float64) -> float:
        """How well this answer repeats the wave, whatever its level, that the windows before it gave the same samples:
        1 - error power / pulse power."""
        if b <= a or not self.weight[a:b].all():
            return FIRST_AGREEMENT
        before = self.total[a:b] / self.weight[a:b]
        error = y[: b - a] - before
        error -= _sum(error) / len(error)
        centred = y - _sum(y) / len(y)
        power = _sum(centred * centred) / len(y)
        if not power > 0:
            return 0.0  # a flat answer: no pulse in it to be sure of
        return min(max(1.0 - _sum(error * error) / (b - a) / power, 0.0), 1.0)

    def _window(self, start: int) -> Window:
        g = self.geometry
        first = max(start - g.context, self.start)
        a, b = first - self._base, start - self._base + g.window
        x, state = self.x[a:b].copy(), self.state[a:b].copy()
        short = g.context + g.window - len(x)
        if short:  # near the segment's start there is less context than the model may look at
            x = np.concatenate([np.full(short, x[0]), x])
            state = np.concatenate([np.full(short, LOST, np.uint8), state])
        return Window(self, start, x, state)

    def _room(self, n: int) -> int:
        """Buffer position for `n` more samples, after dropping those that nothing will look at again."""
        at = self.stop - self._base
        if at + n > self._size:
            # The next answer belongs a hop after the last one's window; a right-aligned last window starts later still.
            keep = max(self._done - self._kept, self._base)
            drop, used = keep - self._base, self.stop - keep
            larger = used + n > self._size
            if larger:
                self._size = max(self._size, 2 * (used + n))
            for name, dtype in _BUFFERS.items():
                old = getattr(self, name)
                buffer = np.zeros(self._size, dtype) if larger else old
                buffer[:used] = old[drop : drop + used]
                if larger:
                    setattr(self, name, buffer)
                else:
                    buffer[used:] = 0
            self._base, at = keep, used
        self.stop += n
        return at


def _sum(v: Float64) -> float:
    """In the order of the index, as the compiled core adds."""
    return float(np.add.accumulate(v)[-1])
