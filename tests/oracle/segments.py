"""Cutting a stretch of samples into windows, and averaging the answers back: the two halves of overlap-add.

A segment is a stretch without a long gap. Windows start every `hop` samples; when the segment is closed one more, right-aligned, covers
its tail. Each answer is added with a weight that fades towards the edges of what it adds to, so that no seam shows where one window leaves
the average and the next enters. A sample is final once the last window over it is in, or, with a shorter `lookahead`, once the
first window is in that ends `lookahead` samples after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.measured import HELD, INVALID, LOST, MEASURED

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

    @property
    def settles(self) -> int:
        """How many of a window's samples are final once it is in."""
        wait = self.window - 1 if self.lookahead is None else self.lookahead
        return max(self.window - wait, self.hop)


class Window(NamedTuple):
    """One window, ready for the model. x: (context + window,) in the sensor's units, missing samples filled; state: the same,
    each sample's as in `measured`. sign: -1 if the model should see it upside down."""

    segment: Segment
    start: int
    x: Float64
    state: NDArray[np.uint8]
    sign: float = 1.0


@dataclass(frozen=True, slots=True)
class Released:
    """Final samples, and the state of each as in `measured`. `bare`: no window was denoised over it."""

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
        "_first_flags",
        "_size",
        "closed",
        "flags",
        "geometry",
        "next_window",
        "released",
        "start",
        "state",
        "stop",
        "total",
        "trust",
        "weight",
        "x",
    )

    def __init__(self, start: int, geometry: Geometry, first_flags: int = 0) -> None:
        self.geometry = geometry
        self.start = self.stop = self.released = self.next_window = start
        self.closed = False
        self._base = start  # index of buffer position 0
        self._done = start  # index up to which windows are in
        self._size = geometry.context + geometry.window + 4 * geometry.hop
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
        at = self._room(len(lost))
        self.x[at : at + len(lost)] = np.linspace(self.x[at - 1], following, len(lost) + 2)[1:-1]
        self.state[at : at + len(lost)] = np.where(lost, LOST, INVALID)

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
        self._done = start + g.window

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
        if self.short or (self.closed and self._done == self.stop):
            return self.stop
        return self.start if self._done == self.start else self._done - g.window + g.settles

    def release(self) -> Released | None:
        """The samples that have become final since the last call."""
        settled = max(self.settled, self.released)
        if settled == self.released:
            return None
        part = slice(self.released - self._base, settled - self._base)
        weight, state, raw = self.weight[part], self.state[part], self.x[part].copy()
        bare = weight == 0
        safe = np.where(bare, 1.0, weight)
        released = Released(
            index=self.released,
            raw=raw,
            values=np.where(bare, raw, self.total[part] / safe),
            confidence=np.where(bare, 0.0, self.trust[part] / safe),
            flags=self.flags[part].copy(),
            state=state.copy(),
            bare=bare,
        )
        if self.released == self.start:
            released.flags[0] |= np.uint16(self._first_flags)
        self.released = settled
        return released

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
        error -= error.sum() / len(error)
        centred = y - y.sum() / len(y)
        power = float((centred * centred).sum()) / len(y)
        if not power > 0:
            return 0.0  # a flat answer: no pulse in it to be sure of
        return min(max(1.0 - float((error * error).sum()) / (b - a) / power, 0.0), 1.0)

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
        """Buffer position for `n` more samples, after dropping those that no window will look at again."""
        g = self.geometry
        at = self.stop - self._base
        if at + n > self._size:
            # The next answer belongs a hop after the last one's window; a right-aligned last window starts later still.
            keep = max(self._done - g.window - g.context, self._base)
            drop, used = keep - self._base, self.stop - keep
            self._size = max(self._size, 2 * (used + n)) if used + n > self._size else self._size
            for name, dtype in _BUFFERS.items():
                old = getattr(self, name)
                fresh = np.zeros(self._size, dtype)
                fresh[:used] = old[drop : drop + used]
                setattr(self, name, fresh)
            self._base, at = keep, used
        self.stop += n
        return at
