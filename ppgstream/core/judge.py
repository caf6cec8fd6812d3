"""What a sensor's samples are, before anything is scaled: measured, held, or an outlier. One `Judge` for each session.

A judge takes the samples of a session in order and gives the same samples back in order, each with a state. It decides from the
samples before the one in question and, while it has a doubt, from the few that follow it: those wait, at most `max_fill` of
them. It looks at one sample after the other, so that the way they are cut into chunks changes nothing.

Statistics. Each second, from the measured samples of the last 4 s: the median, the range from the 5th to the 95th percentile, the
largest step from one sample to the next, the smallest step that is not 0 (the converter's), and how long runs of equal values
are. The first second of a stretch waits until it is complete and is judged by its own statistics: no window is full before the
second second anyway.

Held. A run of equal values that is improbable for this recording: a rail, or a sensor that froze. A converter with few counts
has long runs too, but enters them by one count; a sensor that repeats its values has many runs of one length.

Nearly flat. After a step: a tenth of the range before it, or a few counts of the converter, and noise rather than a wave; or one
count. Nothing is attached then, and no pulse may be made of it.

Outlier. A value that was jumped to, and lies far outside the range; or a sentinel. If the samples stay out there, it was a step:
the stretch ends, and the next one has its own statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ppgstream.core.measured import HELD, MEASURED, OUTLIER, Float64, Judged
from ppgstream.core.statistics import UNKNOWN_RUN, Recent, statistics_of

FAR_SPREADS = 60.0  # from the median, in SD of a normal distribution with the same 5 % and 95 % points: about 18 ranges
FAR_EARLY = 100.0  # from the median, in ranges, in the first `EARLY_S`
JUMP = 8.0  # of the largest step so far: no pulse does that from one sample to the next
SENTINELS = (0.0, -1.0, -999.0, -9999.0)  # what drivers send for "no value"
SENTINEL_JUMP = 6.0
LEAST_RUN = 5  # equal samples in a row (40 ms at 125 Hz; a rounded peak holds 2 or 3)
CONTINUOUS_RUN = 3  # the same, where two values are hardly ever equal by chance
SLOW_RUNS_S = (0.48, 0.96)  # the same, where a run was entered by one count of the converter: least and most
FAR_RUN_S = 0.4  # outliers for so long are outliers; for longer, they are a step
LEAD_OFF_S = 1.0  # held for longer: nothing is attached

_NONE = np.empty(0)
_NO_STATE = np.empty(0, np.uint8)


class Judge:
    """See the module. `fs` in Hz; `max_fill`, in samples: what is longer ends a stretch; `sentinels`: values that mean "no
    value"."""

    __slots__ = (
        "_back",
        "_before",
        "_entry",
        "_far",
        "_far_run",
        "_given",
        "_held",
        "_last",
        "_lead_off",
        "_long",
        "_max_fill",
        "_missed",
        "_pending",
        "_recent",
        "_run_value",
        "_sentinels",
        "_slow_runs",
        "_start",
        "_start_length",
        "_touching",
    )

    def __init__(self, fs: float, max_fill: int, sentinels: Sequence[float] = ()) -> None:
        self._lead_off, self._far_run = round(LEAD_OFF_S * fs), round(FAR_RUN_S * fs)
        self._slow_runs = round(SLOW_RUNS_S[0] * fs), round(SLOW_RUNS_S[1] * fs)
        self._max_fill = max_fill
        self._sentinels = frozenset(sentinels)
        self._given: list[tuple[Float64, int]] = []  # samples and their state, not put together yet
        self._back = False  # of the first of them
        self._run_value = 0.0  # of a long held run
        self._recent = Recent(fs)
        self._reset()

    def _reset(self) -> None:
        """A new stretch: nothing is known."""
        self._recent.begin()
        self._start: list[Float64 | tuple[int, bool]] | None = []  # the first second, until it is complete
        self._start_length = 0
        self._missed = 0  # samples missing in a row
        self._last = math.nan  # the last measured sample; NaN: none
        self._entry = math.inf  # the step to it from the one before
        self._before = math.nan  # that one
        self._touching = False  # the sample before is measured, and nothing lies between
        self._pending: list[float] = []  # in doubt: equal to `_last`, or far from it
        self._far = False
        self._held = 0  # samples of a long held run that were given out
        self._long = False  # such a run goes on

    @property
    def pending(self) -> int:
        """Samples taken and not given back: NaN and infinity among them, lost ones not."""
        waiting = len(self._pending)
        for part in self._start or ():
            waiting += part[0] * part[1] if isinstance(part, tuple) else len(part)
        return waiting

    def feed(self, x: Float64) -> list[Judged]:
        """Finite samples (n,), the next in order."""
        out: list[Judged] = []
        if not len(x):
            return out
        self._missed = 0
        if self._start is not None:
            missing = self._recent.grid - self._start_length
            part, x = x[:missing], x[missing:]
            self._start.append(part)
            self._start_length += len(part)
            if self._start_length < self._recent.grid:
                return out
            self._begin(out)
        self._feed(x, out)
        self._put_together(out)
        return out

    def missing(self, count: int, *, sent: bool) -> list[Judged]:
        """Samples that are not there: lost, or (`sent`) NaN and infinity."""
        out: list[Judged] = []
        self._missed += count
        if self._start is not None and self._missed <= self._max_fill:
            self._start.append((count, sent))
            return out
        if self._start is not None:
            self._begin(out)
        self._decide(out)
        self._touching = False
        self._put(out, Judged("missing", _NONE, _NO_STATE, count, sent))
        if self._missed > self._max_fill:
            missed = self._missed
            self._reset()
            self._missed, self._start = missed, []
        return out

    def finish(self) -> list[Judged]:
        """Nothing follows: whatever is in doubt is decided."""
        out: list[Judged] = []
        if self._start is not None:
            self._begin(out)
        self._decide(out)
        self._put_together(out)
        return out

    # ---- one sample after the other ------------------------------------------------------------------------------

    def _begin(self, out: list[Judged]) -> None:
        """The first second is complete, or will not be: judge it by its own statistics."""
        parts, self._start = self._start or [], None
        samples = [p for p in parts if not isinstance(p, tuple)]
        if samples:
            x = np.concatenate(samples)
            rough = statistics_of(x)
            if rough is not None:  # once more, without what lies far outside
                near = np.abs(x - rough.median) <= FAR_EARLY * rough.range
                beyond = (x < rough.low - rough.range) | (x > rough.high + rough.range)
                if np.count_nonzero(beyond):
                    near &= ~(np.isin(x, SENTINELS) & beyond)
                if self._sentinels:
                    near &= ~np.isin(x, list(self._sentinels))
                if np.count_nonzero(near) < len(x):
                    x = x[near]
                    rough = statistics_of(x)
            self._recent.first(x, rough)
        for part in parts:
            if isinstance(part, tuple):
                self._decide(out)
                self._touching = False
                self._put(out, Judged("missing", _NONE, _NO_STATE, *part))
            else:
                self._feed(part, out)

    def _feed(self, x: Float64, out: list[Judged]) -> None:
        while len(x):
            if self._start is not None:  # a step began a new stretch
                self._put_together(out)
                out += self.feed(x)
                return
            if self._long:
                same = int(np.argmax(x != self._run_value)) if (x != self._run_value).any() else len(x)
                self._pending += [self._run_value] * same
                self._give_held(out, over=same < len(x))
                x = x[same:]
                continue
            left = self._recent.left
            block = x if len(x) <= left else x[:left]
            taken, complete = self._look(block, out)
            x = x[taken:]
            if complete:
                self._put_together(out)
                self._recent.update()

    def _look(self, x: Float64, out: list[Judged]) -> tuple[int, bool]:
        """Judge sample by sample; up to where a stretch ends. Returns how many samples were taken, and whether a second is
        complete."""
        xs, n = x, len(x)
        start = 0  # of the samples that are measured beyond doubt and not given out yet
        s, some = self._recent.statistics, bool(self._sentinels)
        low, high = (s.least, s.most) if s is not None else (-math.inf, math.inf)
        last, before, entry, touching = self._last, self._before, self._entry, self._touching
        doubt = bool(self._pending)
        for at in range(n):
            v = xs[at]
            far = not low <= v <= high or (some and v in self._sentinels)
            if doubt:
                self._last = last
                if not self._far and v == last:
                    self._pending.append(v)
                    if len(self._pending) >= self._max_fill and len(self._pending) + 1 >= self._limit():
                        complete = self._recent.count(at + 1)
                        self._begin_long(v, out)
                        return at + 1, complete
                    continue
                if self._far and far and self._is_jump(v):
                    self._pending.append(v)
                    if len(self._pending) > self._far_run:
                        self._recent.count(at + 1)
                        self._stay_far(out)
                        return at + 1, self._recent.judged % self._recent.grid == 0
                    continue
                self._decide(out)
                last, before, entry, touching = self._last, self._before, self._entry, self._touching
                doubt, start = False, at
            if touching and v == last:
                doubt, self._far = True, False
            elif far:
                self._last = last
                doubt = self._far = self._is_jump(v)
            if doubt:
                self._give(x[start:at], MEASURED)
                self._pending = [v]
                self._last, self._before, self._entry, self._touching = last, before, entry, touching
            else:
                entry = abs(v - last) if touching else math.inf
                before, last, touching = last, v, True
        if not doubt:
            self._give(x[start:] if start else x, MEASURED)
            self._last, self._before, self._entry, self._touching = last, before, entry, touching
        return n, self._recent.count(n)

    def _limit(self) -> int:
        """How many equal samples in a row are a held run here: at the top of a wave, a coarse converter holds its value for
        long."""
        s = self._recent.statistics
        if s is None:
            return UNKNOWN_RUN
        if self._entry <= 1.5 * s.quantum:
            return min(max(self._slow_runs[0], int(6 * s.mean_run)), self._slow_runs[1])
        if self._entry <= 4.5 * s.quantum or not self._entry < math.inf:
            return max(15, 10 * s.usual_run + 1)
        if s.usual_run == 1:
            return CONTINUOUS_RUN if s.continuous else LEAST_RUN
        return 4 * s.usual_run + 1

    def _is_jump(self, v: float) -> bool:
        """A value outside the range was jumped to from the last measured sample, or is a sentinel."""
        if v in self._sentinels:
            return True
        s = self._recent.statistics
        return s is not None and (not abs(v - self._last) < JUMP * s.step or self._is_sentinel(v))

    def _is_sentinel(self, v: float) -> bool:
        s = self._recent.statistics
        if v in self._sentinels:
            return True
        if s is None or v not in SENTINELS or s.low - s.range <= v <= s.high + s.range:
            return False
        return not abs(v - self._last) < SENTINEL_JUMP * s.step

    def _is_outlier(self, v: float) -> bool:
        if self._is_sentinel(v):
            return True
        s = self._recent.statistics
        return s is not None and abs(v - s.median) > (FAR_EARLY * s.range if self._recent.early else FAR_SPREADS * s.range / 3.29)

    def _give_far(self) -> None:
        """The samples in doubt are no step: each is an outlier, held or measured."""
        self._entry = math.inf if math.isnan(self._last) else abs(self._pending[0] - self._last)
        for value, run in groupby(self._pending):
            x = np.array(list(run))
            self._give(x, OUTLIER if self._is_outlier(value) else HELD if len(x) >= self._limit() else MEASURED)

    def _decide(self, out: list[Judged]) -> None:
        """What is in doubt is over: its samples are given out with their states."""
        if self._long:
            self._give_held(out, over=True)
        if not self._pending:
            return
        if self._far:
            self._give_far()
            self._touching = False
        elif len(self._pending) + 1 >= self._limit():
            self._put_together(out)
            self._back = True
            self._give(np.array(self._pending), HELD)
        else:
            self._give(np.array(self._pending), MEASURED)
            self._before = self._last
        self._pending, self._far = [], False

    def _begin_long(self, value: float, out: list[Judged]) -> None:
        """A held run is longer than `max_fill`: the stretch ends before it."""
        back = not self._far
        self._run_value, self._long, self._far, self._held = value, True, False, 0
        self._put(out, Judged("end", _NONE, _NO_STATE, back=back))
        self._give_held(out, over=False)

    def _give_held(self, out: list[Judged], *, over: bool) -> None:
        """What of a long held run can be given out: all of it once it is over, or once it is clear that nothing is attached."""
        lead_off = self._held + len(self._pending) > self._lead_off
        if self._pending and (over or lead_off):
            x = np.array(self._pending)
            value = self._before if self._run_value == self._last else self._last
            value = self._run_value if math.isnan(value) else value
            state = np.full(len(x), HELD, np.uint8)
            self._put(out, Judged("held", x, state, value=value, lead_off=lead_off))
            self._held += len(x)
            self._pending = []
        if over:
            self._long = self._touching = False

    def _stay_far(self, out: list[Judged]) -> None:
        """For longer than `FAR_RUN_S` samples lie far outside: a long held run, a step, or measured after all."""
        x, s = np.array(self._pending), self._recent.statistics
        if (x == x[0]).all():
            self._begin_long(float(x[0]), out)
            return
        step = all(self._is_outlier(v) for v in self._pending)
        if not step and s is not None and not math.isnan(self._last):
            inside = np.abs(np.diff(x)).max()
            step = bool(abs(x[0] - self._last) >= 3 * np.ptp(x) and inside <= JUMP * s.step)
        if step:
            self._put(out, Judged("step", _NONE, _NO_STATE, value=float(np.median(x)) - (s.median if s is not None else 0.0)))
            self._recent.step()
            self._reset()
            out += self.feed(x)
            return
        self._give_far()
        self._before, self._last, self._touching = float(x[-2]), float(x[-1]), True
        self._entry = abs(self._last - self._before)
        self._pending, self._far = [], False

    # ---- out -----------------------------------------------------------------------------------------------------

    def _give(self, x: Float64, state: int) -> None:
        if len(x):
            self._given.append((x, state))
            if state == MEASURED:
                self._recent.add(x)

    def _put(self, out: list[Judged], judged: Judged) -> None:
        self._put_together(out)
        out.append(judged)

    def _put_together(self, out: list[Judged]) -> None:
        given = self._given
        if not given:
            return
        x, state = given[0]
        states = None if state == MEASURED else np.full(len(x), state, np.uint8)
        if len(given) > 1:
            x = np.concatenate([part for part, _ in given])
            if any(state != MEASURED for _, state in given):
                states = np.repeat(np.array([state for _, state in given], np.uint8), [len(part) for part, _ in given])
        if self._recent.idle:
            out.append(Judged("held", x, np.full(len(x), HELD, np.uint8), value=math.nan, lead_off=True))
        else:
            out.append(Judged("samples", x, states, back=self._back, beside=self._recent.beside.now))
        self._given, self._back = [], False
