"""A stretch of a sensor that has another rate than the model: a `Segment` at the model's rate, and filters before and behind it.

Whether a sample was measured is decided at the sensor's rate, and stays so: what is held, an outlier or missing keeps its state,
its value is replaced by a straight line before the filter, and so reaches no other sample. A window is made once all samples
are there that its filter needs, so that the way in which samples are cut into messages changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.core.confidence import Seen
from ppgstream.core.measured import HELD, INVALID, LOST, MEASURED
from ppgstream.core.plan import Plan
from ppgstream.core.polarity import UPRIGHT, Watcher
from ppgstream.core.resample import Line, Ratio, filter_of, reached
from ppgstream.core.segments import Float64, InModel, Released, Segment, Window

_NO_FLAGS = np.zeros(0, np.uint16)


class Finals(NamedTuple):
    """The model's final samples, from the index `start` on: confidence, flags, where no window was denoised, and the input."""

    start: int
    confidence: Float64
    flags: NDArray[np.uint16]
    bare: NDArray[np.bool_]
    raw: Float64

    def then(self, more: Released) -> Finals:
        """And those that follow."""
        return Finals(
            self.start,
            np.concatenate([self.confidence, more.confidence]),
            np.concatenate([self.flags, more.flags]),
            np.concatenate([self.bare, more.bare]),
            np.concatenate([self.raw, more.raw]),
        )

    def behind(self, n: int) -> Finals:
        """Without the first `n`."""
        return Finals(self.start + n, self.confidence[n:], self.flags[n:], self.bare[n:], self.raw[n:])


class ResampledSegment:
    """As `Segment`, with the sensor's indexes outside and the model's in its windows."""

    __slots__ = (
        "_finals",
        "_first_flags",
        "_flags",
        "_fresh",
        "_into",
        "_known",
        "_out_of",
        "_raw",
        "_reads",
        "_states",
        "_there",
        "_writes",
        "closed",
        "inner",
        "number",
        "plan",
        "polarity",
        "ratio",
        "released",
        "start",
        "stop",
    )
    UNSAVED = frozenset({"_reads", "_writes", "plan"})

    def __init__(
        self, number: int, start: int, plan: Plan, ratio: Ratio, first_flags: int = 0, polarity: Watcher = UPRIGHT
    ) -> None:
        self.number, self.ratio = number, ratio
        self.polarity = polarity  # its session's
        self.inner = Segment(number, ratio.to_model(start), plan, 0, polarity)
        self.start = self.stop = self.released = start
        self.closed = False
        self._first_flags = first_flags
        # Of the sensor's samples: values for the filter up to the last known one, and all samples that are not released.
        self._into = Line(start)
        self._known = start  # index after the last sample whose value is known
        self._raw, self._states, self._flags = np.empty(0), np.zeros(0, np.uint8), _NO_FLAGS
        self._there = start  # index of the first of these
        self._fresh: list[tuple[Float64, int]] = []  # measured samples behind these, with their flags
        # Of the model's final samples: values for the filter, and the rest.
        self._out_of = Line(self.inner.start)
        self._finals = Finals(self.inner.start, np.empty(0), _NO_FLAGS, np.zeros(0, np.bool_), np.empty(0))
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Go by this plan."""
        self.plan = plan
        self._reads = filter_of(self.ratio.down, self.ratio.up)
        self._writes = filter_of(self.ratio.up, self.ratio.down)
        self.inner.follow(plan)

    # ---- in ------------------------------------------------------------------------------------------------------

    def append(self, x: Float64, state: NDArray[np.uint8] | None = None, flags: int = 0) -> None:
        """Samples that were sent, their states (measured ones if None), and flags of all of them."""
        n = len(x)
        if state is None and self._known == self.stop:  # nearly always
            self._fresh.append((x, flags))
            self._known += n
            self.stop += n
            return
        self._merge()
        state = np.zeros(n, np.uint8) if state is None else state
        self._keep(x, state, np.full(n, flags, np.uint16))
        if np.count_nonzero(state <= HELD):
            self._fill(x, state)
        self.stop += n

    def _merge(self) -> None:
        """Put the fresh samples to the others."""
        if self._fresh:
            x = np.concatenate([part for part, _ in self._fresh])
            flags = np.zeros(len(x), np.uint16)
            if any(flag for _, flag in self._fresh):
                flags = np.repeat(np.array([flag for _, flag in self._fresh], np.uint16), [len(part) for part, _ in self._fresh])
            self._fresh = []
            self._keep(x, np.zeros(len(x), np.uint8), flags)
            self._into.add(x)

    def bridge(self, lost: NDArray[np.bool_], following: float) -> None:
        """Missing samples, filled on a straight line from the last one to `following`: for the model's eyes only."""
        self._merge()
        n = len(lost)
        before = float(self._raw[-1])
        x = before + np.arange(1, n + 1) * (following - before) / (n + 1)
        self._keep(x, np.where(lost, LOST, INVALID).astype(np.uint8), np.zeros(n, np.uint16))
        self.stop += n

    def _keep(self, x: Float64, state: NDArray[np.uint8], flags: NDArray[np.uint16]) -> None:
        self._raw = np.concatenate([self._raw, x])
        self._states = np.concatenate([self._states, state])
        self._flags = np.concatenate([self._flags, flags])

    def _fill(self, x: Float64, state: NDArray[np.uint8]) -> None:
        """Give the filter samples with these states, up to the last known one, and straight lines across what is not known."""
        known = np.flatnonzero(state <= HELD)
        at, values = self.stop - self._known + known, x[known]
        n = int(at[-1]) + 1
        if self._known > self.start:
            at, values = np.append(-1, at), np.append(self._into.last, values)
        self._into.add(np.interp(np.arange(n), at, values))
        self._known += n

    def mark_last_held(self) -> None:
        """The last sample belongs to the held run that follows."""
        if self.stop > max(self.released, self.start):
            self._merge()
            self._states[-1] = HELD

    def take_back_last(self) -> bool:
        """Without the last sample, unless a window depends on it. Says whether it was."""
        free = reached(self._reads, self.stop - 1)
        if self.stop == self.start or self._known < self.stop or self.inner.stop > max(free, self.inner.start):
            return False
        self._merge()
        if len(self._states) < 2 or self._states[-2] > HELD:
            return False
        self.stop -= 1
        self._known -= 1
        self._into.drop_last()
        self._raw, self._states, self._flags = self._raw[:-1], self._states[:-1], self._flags[:-1]
        return True

    # ---- windows -------------------------------------------------------------------------------------------------

    def cut(self) -> list[Window]:
        """The windows that are full now and were not before."""
        windows: list[Window] = []
        there = reached(self._reads, self._known)
        while (stop := self.inner.next_window + self.plan.geometry.window) <= there:
            self._merge()
            self._resample(stop)
            windows += self.inner.cut()
        return windows

    def close(self) -> list[Window]:
        """No sample follows: the last window, right-aligned, unless a regular one ends right here or none fits at all."""
        self.closed = True
        self._merge()
        stop = self.ratio.to_model(self.stop)
        if stop - self.inner.start < self.plan.geometry.window:
            self.inner.close()
            return []
        if self._known < self.stop:
            values = (
                self._raw[self._known - self._there :]
                if self._known == self.start
                else np.full(self.stop - self._known, self._into.last)
            )
            self._into.add(values)
            self._known = self.stop
        self._resample(stop)
        return self.inner.cut() + self.inner.close()

    def _resample(self, stop: int) -> None:
        """Give the model's segment its samples up to the index `stop`."""
        first = self.inner.stop
        n = stop - first
        if n <= 0:
            return
        x = self._into.read(self._reads, first, n, closed=self.closed)
        self._into.forget(self._reads, stop)
        nearest = self.ratio.nearest_of_sensor(first, n, self._there)
        if self.closed:
            nearest = np.minimum(nearest, self.stop - 1 - self._there)
        state = self._states[nearest]
        odd = state > MEASURED
        if np.count_nonzero(odd):
            x = np.where(odd, self._raw[nearest], x)  # a rail stays a rail
            self.inner.append(x, state)
        else:
            self.inner.append(x)

    # ---- out -----------------------------------------------------------------------------------------------------

    def add(self, start: int, y: Float64 | None, flags: NDArray[np.uint16], confidence: Float64 | float | None = None) -> None:
        """As `Segment.add`."""
        self.inner.add(start, y, flags, confidence)

    def seen(self) -> Seen | None:
        """As `Segment.seen`, of the model's samples."""
        return self.inner.seen()

    def release(self, by_row: Float64 | None = None) -> Released | None:
        """As `Segment.release`, with samples at the sensor's rate and `in_model` beside them."""
        if self.short:
            return self._as_it_came()
        final = self.inner.release(by_row)
        if final is not None:
            self._out_of.add(final.values)
            self._finals = self._finals.then(final)
        over = self.closed and self.inner.is_over
        enough = self._out_of.stop - self._out_of.start > self._writes.reach  # for the values before the first, too
        settled = min(reached(self._writes, self._out_of.stop), self.stop) if enough else self.released
        settled = self.stop if over else max(settled, self.released)
        if settled == self.released:
            return None
        return self._released(settled, closed=over)

    def _released(self, settled: int, *, closed: bool) -> Released:
        first, n = self.released, settled - self.released
        start, confidence, flags, bare, raw_in_model = self._finals
        values = self._out_of.read(self._writes, first, n, closed=closed)
        begin, end = self.ratio.to_model(first), self.ratio.to_model(settled)
        in_model = InModel(begin, self._out_of.between(begin, end), raw_in_model[begin - start : end - start])
        nearest = self.ratio.nearest_in_model(first, n, start)
        if first == self.start or closed:
            nearest = np.minimum(np.maximum(nearest, 0), self._out_of.stop - 1 - start)
        part = slice(first - self._there, settled - self._there)
        raw, state, bare = self._raw[part], self._states[part], bare[nearest]
        if np.count_nonzero(bare):
            values = np.where(bare, raw, values)
        own = self._flags[part] | flags[nearest]
        if self._first_flags and first == self.start:
            own[0] |= np.uint16(self._first_flags)
        self.released = settled
        self._forget(settled)
        return Released(first, raw, values, confidence[nearest], own, state, bare, self.plan.checkpoint, False, in_model)

    def _forget(self, settled: int) -> None:
        """Drop what nothing will look at again."""
        self._out_of.forget(self._writes, settled)
        start = self._finals.start
        keep = min(self.ratio.to_model(settled) - start, int(self.ratio.nearest_in_model(settled, 1, start)[0]))
        if keep > 0:
            self._finals = self._finals.behind(keep)
        drop = min(settled - self._there, int(self.ratio.nearest_of_sensor(self.inner.stop, 1, self._there)[0])) - 1
        if drop > 0:
            self._there += drop
            self._raw, self._states, self._flags = self._raw[drop:], self._states[drop:], self._flags[drop:]

    def _as_it_came(self) -> Released | None:
        """A stretch too short for a window."""
        n = self.stop - self.released
        if not n:
            return None
        raw, zero = self._raw, np.zeros(n)
        flags = self._flags.copy()
        flags[0] |= np.uint16(self._first_flags)
        self.released = self.stop
        return Released(
            self.start, raw, raw.copy(), zero, flags, self._states, np.ones(n, np.bool_), self.plan.checkpoint, True, None
        )

    @property
    def short(self) -> bool:
        """Too short for a window: it is published as it came."""
        return self.closed and self.inner.short

    @property
    def is_over(self) -> bool:
        """Nothing more comes of it."""
        return self.closed and self.released >= self.stop

    @property
    def in_flight(self) -> int:
        """Samples that came and are not released."""
        known = int(np.count_nonzero(self._states[self.released - self._there :] != LOST))
        return known + sum(len(part) for part, _ in self._fresh)

    @property
    def first_window(self) -> int:
        """The model's index of the first window."""
        return self.inner.start

    def place(self, index: int) -> int:
        """The sensor's index of one of the model's."""
        return max(self.ratio.to_sensor(index), self.start)


saved.known(ResampledSegment, Finals, Line, Ratio)
