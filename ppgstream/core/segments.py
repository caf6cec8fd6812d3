"""Cutting a stretch of samples into windows, and averaging the answers back: the two halves of overlap-add.

A segment is a stretch without a long gap. Windows start every `hop` samples; when the segment is closed one more, right-aligned,
covers its tail. Each answer is added with a weight that fades towards the edges of what it adds to, so that no seam shows where
one window leaves the average and the next enters. A sample is final once the last window over it is in, or, with a shorter
`lookahead`, once the first window is in that ends `lookahead` samples after it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.core.confidence import Calibration, Seen
from ppgstream.core.measured import HELD, INVALID, LOST, MEASURED
from ppgstream.core.plan import Plan
from ppgstream.core.polarity import UPRIGHT, Watcher

Float64 = NDArray[np.float64]
LARGEST_INDEX = 2**62  # beyond, arrays of indexes begin anew
FIRST_AGREEMENT = 0.3  # confidence of a window with no earlier one to compare with: below the threshold, so it is flagged


class Window(msgspec.Struct, eq=False, gc=False):
    """One window, ready for the model. segment: the number of its segment. x: (context + window,) in the sensor's units, missing
    samples filled; state: the same, each sample's as in `measured`."""

    segment: int
    start: int
    x: Float64
    state: NDArray[np.uint8]


class InModel(NamedTuple):
    """Final samples at the model's rate, of a sensor that has another: values and the model's input, (n,), from `first` on."""

    first: int
    values: Float64
    raw: Float64


class Released(msgspec.Struct, eq=False, gc=False):
    """Final samples, and the state of each as in `measured`. `bare`: no window was denoised over it. `raw` and `state` are views,
    until the segment is given more. in_model: the same at the model's rate, where the sensor has another."""

    index: int
    raw: Float64
    values: Float64
    confidence: Float64
    flags: NDArray[np.uint16]
    state: NDArray[np.uint8]
    bare: NDArray[np.bool_]
    checkpoint: bytes
    short: bool  # of a stretch too short for a window: published as it came
    plain: bool = False  # all are measured and denoised
    in_model: InModel | None = None


_BUFFERS = {
    "x": np.float64,
    "state": np.uint8,
    "total": np.float64,
    "weight": np.float64,
    "confidence": np.float64,
    "flags": np.uint16,
}


class Segment:
    """A stretch of samples on its way through the model. Indexes are the session's."""

    __slots__ = (
        "_base",
        "_beyond",
        "_done",
        "_done_before",
        "_first_flags",
        "_plain",
        "calibration",
        "closed",
        "confidence",
        "flags",
        "geometry",
        "next_window",
        "number",
        "plan",
        "polarity",
        "released",
        "start",
        "state",
        "stop",
        "total",
        "weight",
        "x",
    )
    UNSAVED = frozenset({"_beyond", "_plain", "calibration", "geometry", "plan"})

    def __init__(self, number: int, start: int, plan: Plan, first_flags: int = 0, polarity: Watcher = UPRIGHT) -> None:
        self.number = number
        self.polarity = polarity  # its session's
        self.follow(plan)
        self.start = self.stop = self.released = self.next_window = start
        self.closed = False
        self._base = start  # index of buffer position 0
        self._done = self._done_before = start  # index up to which windows are in, and were before the last one
        size = self._kept + 4 * plan.geometry.hop
        self.x = np.zeros(size)
        self.state = np.zeros(size, np.uint8)
        self.total = np.zeros(size)
        self.weight = np.zeros(size)
        self.confidence = np.zeros(size)
        self.flags = np.zeros(size, np.uint16)
        self._first_flags = first_flags

    def follow(self, plan: Plan) -> None:
        """Go by this plan."""
        self.plan, self.geometry, self.calibration = plan, plan.geometry, plan.calibration
        self._plain = plan.calibration is not None and plan.calibration.plain
        self._beyond = 0 if plan.calibration is None else plan.calibration.beyond

    def append(self, x: Float64, state: NDArray[np.uint8] | None = None, flags: int = 0) -> None:
        """Samples that were sent, their states (measured ones if None), and flags of all of them."""
        n = len(x)
        at = self._room(n)
        self.x[at : at + n] = x
        if state is not None:
            self.state[at : at + n] = state
        if flags:
            self.flags[at : at + n] = flags

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

    def add(self, start: int, y: Float64 | None, flags: NDArray[np.uint16] | None, confidence: Float64 | None = None) -> None:
        """The answer to the window at `start`, or None if it was shed. Windows come back in the order they were cut. flags: of
        its samples, if any has one. confidence: (window,), the network's own; without it, how well the answer agrees with those
        before it."""
        window = self.geometry.window
        a = start - self._base
        if flags is not None:
            self.flags[a : a + window] |= flags
        if y is not None:
            if start == self.start:
                y = self._levelled(y)
            to_total, to_weight, to_confidence = self.total, self.weight, self.confidence
            weights, values = self.geometry.weights, y
            if confidence is None:
                agreement = _agreement(to_total, to_weight, a, self._done - self._base, values)
                for k in range(values.shape[0]):
                    to_confidence[a + k] += weights[k] * agreement
            else:
                own = confidence
                for k in range(values.shape[0]):
                    to_confidence[a + k] += weights[k] * own[k]
            for k in range(values.shape[0]):
                to_total[a + k] += weights[k] * values[k]
                to_weight[a + k] += weights[k]
        self._done_before, self._done = self._done, start + window

    def _levelled(self, y: Float64) -> Float64:
        """The answer to a segment's first window, its first half raised or lowered by a ramp that ends at 0, so that it follows
        the input's level. There a network sees nothing of what was before, and half a second of an answer may lie half a pulse
        off."""
        n = self.geometry.window // 2
        at = self.start - self._base
        ramp = (1 - np.arange(n) / n) * (self.state[at : at + n] == MEASURED)
        power = float((ramp * ramp).sum())
        if not power:
            return y
        off = float((ramp * (self.x[at : at + n] - y[:n])).sum()) / power
        return np.concatenate([y[:n] + off * (1 - np.arange(n) / n), y[n:]])

    @property
    def _kept(self) -> int:
        """How many samples up to the newest answer may be looked at again."""
        g, row = self.geometry, 0 if self.calibration is None else self.calibration.row
        return max(g.context + g.window, row)

    @property
    def short(self) -> bool:
        """Too short for a window: it is published as it came."""
        return self.closed and self.stop - self.start < self.geometry.window

    @property
    def is_over(self) -> bool:
        """Nothing more comes of it."""
        return self.closed and self.released >= self.stop

    @property
    def first_window(self) -> int:
        """The model's index of the first window."""
        return self.start

    def place(self, index: int) -> int:
        """The sensor's index of one of the model's."""
        return index

    @property
    def settled(self) -> int:
        """The index up to which samples are final."""
        g = self.geometry
        if self.closed and (self._done == self.stop or self.short):
            return self.stop
        return self.start if self._done == self.start else self._done - g.window + g.settles

    def seen(self) -> Seen | None:
        """What is known of the samples that have become final since the last release, a row for each hop of them; None if there
        are none, or if their confidence needs no row."""
        if self.calibration is None or self._plain:
            return None
        settled = max(self.settled, self.released)
        if settled == self.released or self.short:
            return None
        low = max(self._done - self.calibration.row, self.start)
        part = slice(low - self._base, self._done - self._base)
        weight = self.weight[part]
        answered = weight > 0
        safe = np.where(answered, weight, 1.0)
        y = np.where(answered, self.total[part] / safe, self.x[part])
        confidence = np.where(answered, self.confidence[part] / safe, 0.0)
        alone = np.arange(self._done - low) >= self._done_before - low
        missing = self.calibration.row - (self._done - low)
        far = self._done - self._done % LARGEST_INDEX  # 0, but of indexes that 64 bits may not hold
        start = np.arange(self.released - far, settled - far, self.geometry.hop)

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
            np.minimum(start + self.geometry.hop, settled - far),
            np.full(len(start), self._done - far),
        )

    def release(self, by_row: Float64 | None = None) -> Released | None:
        """The samples that have become final since the last call. by_row: the confidence of each row of `seen`, if it was
        computed already."""
        settled, first = self.settled, self.released
        if settled <= first:
            return None
        n, at, short = settled - first, first - self._base, self.short
        part = slice(at, at + n)
        raw, state, flags = self.x[part], self.state[part], self.flags[part].copy()
        values, confidence, bare = np.empty(n), np.empty(n), np.empty(n, np.uint8)
        some_bare = _average(self.total, self.weight, self.confidence, self.x, at, values, confidence, bare)
        calibration = self.calibration
        if calibration is not None and not short:
            if self._plain:
                self._plainly(calibration, settled, confidence)
            else:
                if by_row is None:
                    seen = self.seen()
                    assert seen is not None
                    by_row = calibration.of(seen)
                confidence = np.repeat(by_row, self.geometry.hop)[:n]
            if some_bare:
                confidence[bare != 0] = 0.0
        if self._first_flags and first == self.start:
            flags[0] |= np.uint16(self._first_flags)
        self.released = settled
        plain = not (some_bare or short or np.count_nonzero(state))
        return Released(first, raw, values, confidence, flags, state, bare.view(np.bool_), self.plan.checkpoint, short, plain)

    def _plainly(self, calibration: Calibration, settled: int, confidence: Float64) -> None:
        """P(good) of the samples up to `settled`, by their confidence alone, the same for each hop of them, into `confidence`."""
        weight, total, found = self.weight, self.confidence, confidence
        hop, beyond = self.geometry.hop, self._beyond
        start = first = self.released - self._base
        end, done = settled - self._base, self._done - self._base
        while start < end:
            stop = min(start + hop, end)
            last = min((start + stop) // 2 + beyond, done)
            mean = 0.0
            for k in range(start, last):
                mean += total[k] / (weight[k] if weight[k] > 0 else 1.0)
            mean = calibration.of_confidence(mean / (last - start))
            for k in range(start, stop):
                found[k - first] = mean
            start = stop

    @property
    def in_flight(self) -> int:
        """Samples that came and are not released."""
        return int(np.count_nonzero(self.state[self.released - self._base : self.stop - self._base] != LOST))

    def _window(self, start: int) -> Window:
        g = self.geometry
        first = max(start - g.context, self.start)
        a, b = first - self._base, start - self._base + g.window
        x, state = self.x[a:b].copy(), self.state[a:b].copy()
        short = g.context + g.window - len(x)
        if short:  # near the segment's start there is less context than the model may look at
            x = np.concatenate([np.full(short, x[0]), x])
            state = np.concatenate([np.full(short, LOST, np.uint8), state])
        return Window(self.number, start, x, state)

    def _room(self, n: int) -> int:
        """Buffer position for `n` more samples, after dropping those that nothing will look at again."""
        at = self.stop - self._base
        size = len(self.x)
        if at + n > size:
            # No later answer covers a sample before this: the next window begins a hop after the last one, or later.
            keep = max(self._done - self._kept, self._base)
            drop, used = keep - self._base, self.stop - keep
            larger = used + n > size
            if larger:
                size = max(size, 2 * (used + n))
            for name, dtype in _BUFFERS.items():
                old = getattr(self, name)
                buffer = np.zeros(size, dtype) if larger else old
                buffer[:used] = old[drop : drop + used]
                if larger:
                    setattr(self, name, buffer)
                else:
                    buffer[used:] = 0
            self._base, at = keep, used
        self.stop += n
        return at


def _agreement(total: Float64, weight: Float64, a: int, b: int, values: Float64) -> float:
    """How well an answer that begins at `a` repeats the wave, whatever its level, that the windows before it gave the same
    samples, up to `b`: 1 - error power / pulse power."""
    if b <= a:
        return FIRST_AGREEMENT
    n = values.shape[0]
    off = mean = 0.0
    for k in range(a, b):
        if not weight[k] > 0:
            return FIRST_AGREEMENT
        off += values[k - a] - total[k] / weight[k]
    off /= b - a
    for k in range(n):
        mean += values[k]
    mean /= n
    error = power = 0.0
    for k in range(a, b):
        one = values[k - a] - total[k] / weight[k] - off
        error += one * one
    for k in range(n):
        power += (values[k] - mean) * (values[k] - mean)
    power /= n
    if not power > 0:
        return 0.0  # a flat answer: there is no pulse in it
    found: float = 1.0 - error / (b - a) / power
    return min(max(found, 0.0), 1.0)


def _average(
    total: Float64,
    weight: Float64,
    summed: Float64,
    raw: Float64,
    at: int,
    values: Float64,
    confidence: Float64,
    bare: NDArray[np.uint8],
) -> bool:
    """Fill `values` and `confidence` (n,) with what the sums from `at` on come to, and `bare` with 1 where no answer is: there
    the input stands for the answer. Whether there is such a sample."""
    some = False
    for k in range(values.shape[0]):
        if weight[at + k] == 0:
            values[k], confidence[k], bare[k], some = raw[at + k], 0.0, 1, True
        else:
            values[k], confidence[k], bare[k] = total[at + k] / weight[at + k], summed[at + k] / weight[at + k], 0
    return some
