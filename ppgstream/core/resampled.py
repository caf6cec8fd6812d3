"""A stretch of a sensor that has another rate than the model: a `Segment` at the model's rate, and filters before and behind it.

Whether a sample was measured is decided at the sensor's rate, and stays so: what is held, an outlier or missing keeps its state,
its value is replaced by a straight line before the filter, and so reaches no other sample. A window is made once all samples
are there that its filter needs, so that the way in which samples are cut into messages changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.core.confidence import Seen
from ppgstream.core.measured import HELD, INVALID, LOST, MEASURED
from ppgstream.core.plan import Plan
from ppgstream.core.polarity import UPRIGHT, Watcher
from ppgstream.core.resample import Ratio, filter_of, reached, read
from ppgstream.core.segments import Float64, InModel, Released, Segment, Window

States = NDArray[np.uint8]
Flags = NDArray[np.uint16]


class Samples:
    """The sensor's samples from the index `base` on: raw, and, only where they are any but measured ones without flags, their
    states, values for the filter, and flags."""

    __slots__ = ("base", "flags", "raw", "states", "values")

    def __init__(self, base: int) -> None:
        self.base = base
        self.raw = np.empty(0)
        self.states: States | None = None
        self.values: Float64 | None = None  # up to the last known one
        self.flags: Flags | None = None

    @property
    def known(self) -> Float64:
        """What the filter reads."""
        return self.raw if self.values is None else self.values

    def add(self, x: Float64, flags: Flags | int) -> None:
        """Measured ones, of which none before them is unknown."""
        n = len(self.raw)
        self.raw = np.concatenate([self.raw, x])
        if self.states is not None and self.values is not None:
            self.states = np.concatenate([self.states, np.zeros(len(x), np.uint8)])
            self.values = np.concatenate([self.values, x])
        self._flag(n, flags)

    def add_odd(self, x: Float64, states: States, flags: int) -> None:
        """Ones of any state."""
        n = len(self.raw)
        if self.states is None or self.values is None:
            self.states, self.values = np.zeros(n, np.uint8), self.raw
        self.raw = np.concatenate([self.raw, x])
        self.states = np.concatenate([self.states, states])
        known = np.flatnonzero(states <= HELD)
        if len(known):  # and straight lines across what is not known
            there = len(self.values)
            at, values = n - there + known, x[known]
            length = int(at[-1]) + 1
            if there:
                at, values = np.append(-1, at), np.append(self.values[-1], values)
            self.values = np.concatenate([self.values, np.interp(np.arange(length), at, values)])
        self._flag(n, flags)

    def _flag(self, n: int, flags: Flags | int) -> None:
        """Of the samples behind the first `n`."""
        none = isinstance(flags, int) and not flags
        if self.flags is None and none:
            return
        before = np.zeros(n, np.uint16) if self.flags is None else self.flags
        more = np.full(len(self.raw) - n, flags, np.uint16) if isinstance(flags, int) else flags
        self.flags = np.concatenate([before, more])

    def close(self) -> None:
        """None follows: what is not known by now keeps the last known value."""
        if self.values is not None and len(self.values) < len(self.raw):
            there = len(self.values)
            rest = np.full(len(self.raw) - there, self.values[-1]) if there else self.raw
            self.values = np.concatenate([self.values, rest])

    def hold_last(self) -> None:
        """The last one belongs to a held run."""
        if self.states is None:
            self.states, self.values = np.zeros(len(self.raw), np.uint8), self.raw
        self.states[-1] = HELD

    def drop_last(self) -> None:
        """Without the last one, which is known."""
        self.raw = self.raw[:-1]
        self.states = None if self.states is None else self.states[:-1]
        self.values = None if self.values is None else self.values[:-1]
        self.flags = None if self.flags is None else self.flags[:-1]

    def drop(self, n: int) -> None:
        """Without the first `n`."""
        self.base += n
        self.raw = self.raw[n:]
        self.flags = None if self.flags is None else self.flags[n:]
        if self.states is not None and self.values is not None:
            self.states, self.values = self.states[n:], self.values[n:]
            if len(self.values) == len(self.raw) and not np.count_nonzero(self.states):
                self.states = self.values = None


class Answers:
    """The model's final samples from the index `base` on: values, confidence and the model's input; flags, and where no window
    was denoised, only if there are any."""

    __slots__ = ("bare", "base", "confidence", "flags", "raw", "values")

    def __init__(self, base: int) -> None:
        self.base = base
        self.values, self.confidence, self.raw = np.empty(0), np.empty(0), np.empty(0)
        self.flags: Flags | None = None
        self.bare: NDArray[np.bool_] | None = None

    @property
    def stop(self) -> int:
        """The index after the last one."""
        return self.base + len(self.values)

    def add(self, more: Released) -> None:
        """Those that follow."""
        n = len(self.values)
        self.values = np.concatenate([self.values, more.values])
        self.confidence = np.concatenate([self.confidence, more.confidence])
        self.raw = np.concatenate([self.raw, more.raw])
        if self.flags is not None or np.count_nonzero(more.flags):
            self.flags = np.concatenate([np.zeros(n, np.uint16) if self.flags is None else self.flags, more.flags])
        if self.bare is not None or np.count_nonzero(more.bare):
            self.bare = np.concatenate([np.zeros(n, np.bool_) if self.bare is None else self.bare, more.bare])

    def drop(self, n: int) -> None:
        """Without the first `n`."""
        self.base += n
        self.values, self.confidence, self.raw = self.values[n:], self.confidence[n:], self.raw[n:]
        if self.flags is not None:
            self.flags = self.flags[n:] if np.count_nonzero(self.flags[n:]) else None
        if self.bare is not None:
            self.bare = self.bare[n:] if np.count_nonzero(self.bare[n:]) else None


class ResampledSegment:
    """As `Segment`, with the sensor's indexes outside and the model's in its windows."""

    __slots__ = (
        "_answers",
        "_answers_level",
        "_first_flags",
        "_fresh",
        "_known",
        "_level",
        "_reads",
        "_samples",
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
        self._samples = Samples(start)
        self._fresh: list[tuple[Float64, int]] = []  # measured samples behind these, with their flags
        self._known = start  # index after the last sample whose value is known
        self._answers = Answers(self.inner.start)
        self._level = self._answers_level = 0.0  # the first values of both
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Go by this plan."""
        self.plan = plan
        self._reads = filter_of(self.ratio.down, self.ratio.up)
        self._writes = filter_of(self.ratio.up, self.ratio.down)
        self.inner.follow(plan)

    # ---- in ------------------------------------------------------------------------------------------------------

    def append(self, x: Float64, state: States | None = None, flags: int = 0) -> None:
        """Samples that were sent, their states (measured ones if None), and flags of all of them."""
        if self.stop == self.start:
            self._level = float(x[0])
        n = len(x)
        if state is None and self._known == self.stop:  # nearly always
            self._fresh.append((x, flags))
            self.stop = self._known = self.stop + n
            return
        self._odd(x, np.zeros(n, np.uint8) if state is None else state, flags)

    def bridge(self, lost: NDArray[np.bool_], following: float) -> None:
        """Missing samples, filled on a straight line from the last one to `following`: for the model's eyes only."""
        self._merge()
        n, before = len(lost), float(self._samples.raw[-1])
        x = before + np.arange(1, n + 1) * (following - before) / (n + 1)
        self._odd(x, np.where(lost, LOST, INVALID).astype(np.uint8), 0)

    def _odd(self, x: Float64, state: States, flags: int) -> None:
        self._merge()
        self._samples.add_odd(x, state, flags)
        self.stop += len(x)
        self._known = self._samples.base + len(self._samples.known)

    def _merge(self) -> None:
        """Put the fresh samples to the others."""
        if not self._fresh:
            return
        x = self._fresh[0][0] if len(self._fresh) == 1 else np.concatenate([part for part, _ in self._fresh])
        flags: Flags | int = 0
        if any(flag for _, flag in self._fresh):
            flags = np.repeat(np.array([flag for _, flag in self._fresh], np.uint16), [len(part) for part, _ in self._fresh])
        self._fresh = []
        self._samples.add(x, flags)

    def mark_last_held(self) -> None:
        """The last sample belongs to the held run that follows."""
        if self.stop > max(self.released, self.start):
            self._merge()
            self._samples.hold_last()

    def take_back_last(self) -> bool:
        """Without the last sample, unless a window depends on it. Says whether it was."""
        free = reached(self._reads, self.stop - 1)
        if self.stop == self.start or self._known < self.stop or self.inner.stop > max(free, self.inner.start):
            return False
        self._merge()
        states = self._samples.states
        if len(self._samples.raw) < 2 or (states is not None and states[-2] > HELD):
            return False
        self.stop -= 1
        self._known -= 1
        self._samples.drop_last()
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
        self._samples.close()
        self._known = self.stop
        self._resample(stop)
        return self.inner.cut() + self.inner.close()

    def _resample(self, stop: int) -> None:
        """Give the model's segment its samples up to the index `stop`."""
        samples, first = self._samples, self.inner.stop
        n = stop - first
        if n <= 0:
            return
        x = read(samples.known, samples.base, self._level, self._reads, first, n, closed=self.closed)
        state = None
        if samples.states is not None:
            nearest = self.ratio.nearest_of_sensor(first, n, samples.base)
            if self.closed:
                nearest = np.minimum(nearest, self.stop - 1 - samples.base)
            state = samples.states[nearest]
            odd = state > MEASURED
            if np.count_nonzero(odd):
                x = np.where(odd, samples.raw[nearest], x)  # a rail stays a rail
            else:
                state = None
        self.inner.append(x, state)
        self._forget()

    def _forget(self) -> None:
        """Drop samples that nothing will look at again."""
        first = self.inner.stop * self.ratio.down // self.ratio.up - self._reads.reach
        drop = min(self.released, first) - self._samples.base - 1
        if drop > 0:
            self._samples.drop(drop)

    # ---- out -----------------------------------------------------------------------------------------------------

    def add(self, start: int, y: Float64 | None, flags: Flags | None, confidence: Float64 | None = None) -> None:
        """As `Segment.add`."""
        self.inner.add(start, y, flags, confidence)

    def seen(self) -> Seen | None:
        """As `Segment.seen`, of the model's samples."""
        return self.inner.seen()

    def release(self, by_row: Float64 | None = None) -> Released | None:
        """As `Segment.release`, with samples at the sensor's rate and `in_model` beside them."""
        if self.short:
            return self._as_it_came()
        final, answers = self.inner.release(by_row), self._answers
        if final is not None:
            if answers.stop == self.inner.start:
                self._answers_level = float(final.values[0])
            answers.add(final)
        over = self.closed and self.inner.is_over
        settled = self.released
        if answers.stop - self.inner.start > self._writes.reach:  # enough for the values before the first, too
            settled = max(min(reached(self._writes, answers.stop), self.stop), settled)
        settled = self.stop if over else settled
        return None if settled == self.released else self._released(settled, closed=over)

    def _released(self, settled: int, *, closed: bool) -> Released:
        first, n = self.released, settled - self.released
        self._merge()
        answers, samples = self._answers, self._samples
        start = answers.base
        values = read(answers.values, start, self._answers_level, self._writes, first, n, closed=closed)
        begin, end = self.ratio.to_model(first) - start, self.ratio.to_model(settled) - start
        in_model = InModel(begin + start, answers.values[begin:end], answers.raw[begin:end])
        nearest = self.ratio.nearest_in_model(first, n, start)
        if first == self.start or closed:
            nearest = np.minimum(np.maximum(nearest, 0), len(answers.values) - 1)
        part = slice(first - samples.base, settled - samples.base)
        raw = samples.raw[part]
        state = np.zeros(n, np.uint8) if samples.states is None else samples.states[part]
        bare = np.zeros(n, np.bool_) if answers.bare is None else answers.bare[nearest]
        if answers.bare is not None and np.count_nonzero(bare):
            values = np.where(bare, raw, values)
        flags = np.zeros(n, np.uint16) if answers.flags is None else answers.flags[nearest]
        if samples.flags is not None:
            flags = flags | samples.flags[part]
        if self._first_flags and first == self.start:
            flags[0] |= np.uint16(self._first_flags)
        confidence, plain = answers.confidence[nearest], samples.states is None and not np.count_nonzero(bare)
        self.released = settled
        needed = min(settled * self.ratio.up // self.ratio.down - self._writes.reach, int(nearest[-1]) + start)
        if (drop := needed - start - 1) > 0:
            answers.drop(drop)
        return Released(first, raw, values, confidence, flags, state, bare, self.plan.checkpoint, False, plain, in_model)

    def _as_it_came(self) -> Released | None:
        """A stretch too short for a window."""
        n = self.stop - self.released
        if not n:
            return None
        self._merge()
        samples, zero = self._samples, np.zeros(n)
        flags = np.zeros(n, np.uint16) if samples.flags is None else samples.flags.copy()
        flags[0] |= np.uint16(self._first_flags)
        state = np.zeros(n, np.uint8) if samples.states is None else samples.states
        self.released = self.stop
        raw, bare = samples.raw, np.ones(n, np.bool_)
        return Released(self.start, raw, raw.copy(), zero, flags, state, bare, self.plan.checkpoint, True)

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
        n, states = self.stop - self.released, self._samples.states
        return n if states is None else n - int(np.count_nonzero(states[self.released - self._samples.base :] == LOST))

    @property
    def first_window(self) -> int:
        """The model's index of the first window."""
        return self.inner.start

    def place(self, index: int) -> int:
        """The sensor's index of one of the model's."""
        return max(self.ratio.to_sensor(index), self.start)


saved.known(ResampledSegment, Samples, Answers, Ratio)
