"""What a sensor's samples are, before anything is scaled: measured, held, or an outlier. One `Judge` for each session.

A judge takes the samples of a session in order and gives the same samples back in order, each with a state. It decides from the
samples before the one in question and, while it has a doubt, from the few that follow it: those wait, at most `max_fill` of
them. It looks at one sample after the other, so that the way they are cut into chunks changes nothing.

Statistics. Each second, from the measured samples of the last 4 s: the median, the range from the 5th to the 95th percentile, the largest step
from one sample to the next, the smallest step that is not 0 (the converter's), and how long runs of equal values are. The first second of
a stretch waits until it is complete and is judged by its own statistics: no window is full before the second second anyway.

Held. A run of equal values that is improbable for this recording: a rail, or a sensor that froze. A converter with few counts
has long runs too, but enters them by one count; a sensor that repeats its values has many runs of one length.

Nearly flat. After a step: a tenth of the range before it, or a few counts of the converter, and noise rather than a wave; or one count. Nothing is
attached then, and no pulse may be made of it.

Interference. A steady line of a frequency and height that no pulse has.

Hum. A line above 15 Hz that is as strong as the strongest wave below, or stronger.

Breathing. A slow part, below 0.5 Hz, that is as strong as the rest or stronger.

Outlier. A value that was jumped to, and lies far outside the range; or a sentinel. If the samples stay out there, it was a step:
the stretch ends, and the next one has its own statistics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
States = NDArray[np.uint8]

MEASURED, HELD, OUTLIER, INVALID, LOST = range(5)  # a sample's state; what is at most OUTLIER was sent and is a number

LARGEST = 1e37  # a larger value counts as infinite: its denoised neighbours might not fit the f4 of the output
HISTORY_S = 4.0  # statistics are of the measured samples of this time
GRID_S = 1.0  # and are made anew this often
EARLY_S = 2.0  # up to here in a stretch, its range is known badly
FAR_SPREADS = 60.0  # from the median, in SD of a normal distribution with the same 5 % and 95 % points: about 18 ranges
FAR_EARLY = 100.0  # from the median, in ranges, in the first `EARLY_S`
JUMP = 8.0  # of the largest step so far: no pulse does that from one sample to the next
SENTINELS = (0.0, -1.0, -999.0, -9999.0)  # what drivers send for "no value"
SENTINEL_JUMP = 6.0
LEAST_RUN = 5  # equal samples in a row (40 ms at 125 Hz; a rounded peak holds 2 or 3)
CONTINUOUS_RUN = 3  # the same, where two values are hardly ever equal by chance
FINE = 1e6  # quanta in the range: so fine a converter counts as continuous
UNKNOWN_RUN = 25  # the same, where there are no statistics yet
SLOW_RUNS = (60, 120)  # the same, where a run was entered by one count of the converter: least and most
FAR_RUN = 50  # so many outliers in a row are outliers; more are a step
IDLE_RANGE = 0.1  # of the range before a step: less is no pulse, if it is noise
IDLE_CORRELATION = 0.5  # of neighbours: less is noise (a pulse has 0.98)
IDLE_COUNTS = 8  # the same for a range of so few counts of the converter
IDLE_LEVEL = 1e-5  # a range that is less of the level is rounding
LINE_HZ = (4.0, 15.0)  # below, a line may be a pulse's own harmonic; above, the networks take it out
LINE_HISTORY_S = 3.0  # over 3 s the polynomial below follows a pulse of 36 bpm too; but what is seen once does not count
LINE_GONE = 4
HUM_HZ, HUM_SHARE = 15.0, 0.6  # from here on; of the power there that is in the line
SLOW_DEGREE, SLOW_SHARE = 4, 0.9  # of the polynomial that follows 4 s; its SD, of that of the rest
HARMONIC, MOST_HARMONIC = 0.03, 4  # a line so near to one of these multiples of the pulse is the pulse's own
LEAD_OFF_S = 1.0  # held for longer: nothing is attached


class Beside(NamedTuple):
    """What there is besides a pulse in the 4 s before some samples. line_hz, hum_hz: the frequency of a steady line, of hum; 0: none. breathing: the slow
    part is as strong as the rest: breathing or drift."""

    line_hz: float = 0.0
    hum_hz: float = 0.0
    breathing: bool = False


NOTHING_BESIDE = Beside()


class Judged(NamedTuple):
    """Samples in the order in which they came, (n,) each. Or (`kind`):

    missing   `number` samples that are not there; `sent`: as NaN or infinity
    end       a held run has become so long that the stretch ends before it; its samples follow as held
    held      samples of such a run: nothing was measured. `value` is the last one that was; `lead_off`: longer than 1 s.
              Or samples of a nearly flat stretch: then `value` is NaN
    step      the stretch ends here: the level or the gain jumped by `value`
    """

    kind: Literal["samples", "missing", "end", "held", "step"]
    x: Float64
    state: States
    number: int = 0
    sent: bool = False
    back: bool = False  # the sample before these belongs to their held run
    value: float = 0.0
    lead_off: bool = False
    beside: Beside = NOTHING_BESIDE


_NONE = np.empty(0)
_NO_STATE = np.empty(0, np.uint8)


class _Statistics(NamedTuple):
    median: float
    low: float
    high: float
    step: float  # largest
    quantum: float  # smallest step that is not 0: the converter's, as far as it shows
    continuous: bool  # no converter's steps show
    usual_run: int  # nine runs of ten are at most as long
    mean_run: float
    range: float  # from low to high
    least: float  # what lies between this and `most` is not far
    most: float


def _statistics(x: Float64) -> _Statistics | None:
    """Of measured samples (n,); None where they are too few, or one value."""
    if len(x) < UNKNOWN_RUN:
        return None
    k = len(x) // 20
    ordered = np.sort(x)
    low, median, high = float(ordered[k]), float(ordered[len(x) // 2]), float(ordered[-1 - k])
    steps = np.abs(x[1:] - x[:-1])
    moved = steps.nonzero()[0]
    if not len(moved) or not high > low:
        return None
    usual, mean = 1, 1.0
    quantum = float(steps.min())
    if len(moved) < len(steps):
        runs = np.sort(np.concatenate([moved[:1] + 1, moved[1:] - moved[:-1]]))
        usual, mean = int(runs[int(0.9 * (len(runs) - 1))]), float(runs.mean())
        quantum = float(steps[moved].min())
    continuous = high - low > FINE * quantum
    if not continuous:
        multiples = 60 * steps / quantum  # whole, also if the smallest step seen was of 2 to 6 counts
        continuous = bool(np.abs(multiples - np.rint(multiples)).max() > 0.01)
    range_ = max(high - low, quantum)
    least, most = max(low - range_ / 2, -LARGEST), min(high + range_ / 2, LARGEST)
    return _Statistics(median, low, high, float(steps.max()), quantum, continuous, usual, mean, range_, least, most)


class Judge:
    """See the module. `fs` in Hz; `max_fill`, in samples: what is longer ends a stretch; `sentinels`: values that mean "no value"."""

    __slots__ = (
        "_back",
        "_before",
        "_beside",
        "_early",
        "_early_length",
        "_entry",
        "_far",
        "_fresh",
        "_fs",
        "_given",
        "_grid",
        "_held",
        "_history",
        "_history_length",
        "_hum",
        "_idle",
        "_judged",
        "_last",
        "_lead_off",
        "_line",
        "_long",
        "_max_fill",
        "_missed",
        "_pending",
        "_reference",
        "_run_value",
        "_sentinels",
        "_slow",
        "_start",
        "_start_length",
        "_statistics",
        "_touching",
    )

    def __init__(self, fs: float, max_fill: int, sentinels: Sequence[float] = ()) -> None:
        self._grid, self._history_length, self._early_length = round(GRID_S * fs), round(HISTORY_S * fs), round(EARLY_S * fs)
        self._lead_off = round(LEAD_OFF_S * fs)
        self._max_fill = max_fill
        self._sentinels = frozenset(sentinels)
        self._given: list[tuple[Float64, int]] = []  # samples and their state, not put together yet
        self._back = False  # of the first of them
        self._run_value = 0.0  # of a long held run
        self._fs = fs
        self._reference = 0.0  # the range of the last stretch that a step ended
        self._idle = False  # the stretch is nearly flat
        self._line, self._hum, self._slow = _Watched(), _Watched(), _Watched()
        self._beside = NOTHING_BESIDE  # what they say
        self._reset()

    def _reset(self) -> None:
        """A new stretch: nothing is known."""
        self._start: list[Float64 | tuple[int, bool]] | None = []  # the first second, until it is complete
        self._start_length = 0
        self._idle = False
        self._line, self._hum, self._slow = _Watched(), _Watched(), _Watched()
        self._beside = NOTHING_BESIDE
        self._statistics: _Statistics | None = None
        self._history = _NONE
        self._fresh: list[Float64] = []  # measured since the statistics were made
        self._judged = 0  # samples of this stretch that were looked at, without long held runs
        self._early = True  # the statistics are of less than `EARLY_S`
        self._missed = 0  # samples missing in a row
        self._last: float | None = None  # the last measured sample
        self._entry = np.inf  # the step to it from the one before
        self._before: float | None = None  # that one
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
            part, x = x[: self._grid - self._start_length], x[self._grid - self._start_length :]
            self._start.append(part)
            self._start_length += len(part)
            if self._start_length < self._grid:
                return out
            self._begin(out)
        self._feed(x, out)
        self._put_together(out)
        return out

    def feed_plainly(self, x: Float64) -> bool:
        """The same if all of them are measured beyond doubt, and none before them is in doubt: then they are not given back. False, and nothing taken, if
        there is more to it, NaN and infinity among it."""
        if self._start is not None or self._long or self._idle or self._given or self._judged % self._grid + len(x) > self._grid:
            return False
        if not self._quiet(x):
            return False
        self._missed = 0
        self._fresh.append(x)
        self._took(x)
        if self._judged % self._grid == 0:
            self._update()
        return True

    @property
    def beside(self) -> Beside:
        """What there is besides a pulse in the last 4 s."""
        return self._beside

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
            self._statistics = rough = _statistics(x)
            if rough is not None:  # once more, without what lies far outside
                near = np.abs(x - rough.median) <= FAR_EARLY * rough.range
                near &= ~(np.isin(x, SENTINELS) & ((x < rough.low - rough.range) | (x > rough.high + rough.range)))
                near &= ~np.isin(x, list(self._sentinels))
                x = x[near]
                self._statistics = _statistics(x)
            self._idle = self._is_idle(x)
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
            block = x[: self._grid - self._judged % self._grid]
            if self._quiet(block):
                self._give(block, MEASURED)
                self._took(block)
                taken = len(block)
            else:
                taken = self._look(block, out)
            if self._judged % self._grid == 0:
                self._put_together(out)
                self._update()
            x = x[taken:]

    def _quiet(self, x: Float64) -> bool:
        """Nothing in these samples raises a doubt."""
        s = self._statistics
        if s is None or self._pending or (self._touching and x[0] == self._last) or np.count_nonzero(x[1:] == x[:-1]):
            return False
        if not (x.min() >= s.least and x.max() <= s.most):  # NaN and infinity too
            return False
        return not self._sentinels or not any((x == v).any() for v in self._sentinels)

    def _took(self, x: Float64) -> None:
        """These samples were quiet."""
        touching = self._touching or len(x) > 1
        self._before, self._last = float(x[-2]) if len(x) > 1 else self._last, float(x[-1])
        self._entry = abs(self._last - self._before) if touching and self._before is not None else np.inf
        self._touching = True
        self._judged += len(x)

    def _look(self, x: Float64, out: list[Judged]) -> int:
        """Judge sample by sample; up to where a stretch ends. Returns how many samples were taken."""
        start = 0  # of the samples that are measured beyond doubt and not given out yet
        s, sentinels = self._statistics, self._sentinels
        low, high = (s.least, s.most) if s is not None else (-np.inf, np.inf)
        for at, v in enumerate(x.tolist()):
            far = not low <= v <= high or v in sentinels
            if self._pending:
                if not self._far and v == self._last:
                    self._pending.append(v)
                    if len(self._pending) >= self._max_fill and len(self._pending) + 1 >= self._limit():
                        self._judged += at + 1
                        self._begin_long(v, out)
                        return at + 1
                    continue
                if self._far and far and self._is_jump(v):
                    self._pending.append(v)
                    if len(self._pending) > FAR_RUN:
                        self._judged += at + 1
                        self._stay_far(out)
                        return at + 1
                    continue
                self._decide(out)
                start = at
            if self._touching and v == self._last:
                self._give(x[start:at], MEASURED)
                self._pending, self._far = [v], False
            elif far and self._is_jump(v):
                self._give(x[start:at], MEASURED)
                self._pending, self._far = [v], True
            else:
                self._entry = abs(v - self._last) if self._touching and self._last is not None else np.inf
                self._before, self._last, self._touching = self._last, v, True
        if not self._pending:
            self._give(x[start:], MEASURED)
        self._judged += len(x)
        return len(x)

    def _limit(self) -> int:
        """How many equal samples in a row are a held run here: at the top of a wave, a coarse converter holds its value for long."""
        s = self._statistics
        if s is None:
            return UNKNOWN_RUN
        if self._entry <= 1.5 * s.quantum:
            return min(max(SLOW_RUNS[0], int(6 * s.mean_run)), SLOW_RUNS[1])
        if self._entry <= 4.5 * s.quantum or not self._entry < np.inf:
            return max(15, 10 * s.usual_run + 1)
        if s.usual_run == 1:
            return CONTINUOUS_RUN if s.continuous else LEAST_RUN
        return 4 * s.usual_run + 1

    def _is_jump(self, v: float) -> bool:
        """A value outside the range was jumped to from the last measured sample, or is a sentinel."""
        if v in self._sentinels:
            return True
        s = self._statistics
        if s is None:
            return False
        return self._last is None or abs(v - self._last) >= JUMP * s.step or self._is_sentinel(v)

    def _is_sentinel(self, v: float) -> bool:
        s = self._statistics
        if v in self._sentinels:
            return True
        if s is None or v not in SENTINELS or s.low - s.range <= v <= s.high + s.range:
            return False
        return self._last is None or abs(v - self._last) >= SENTINEL_JUMP * s.step

    def _is_outlier(self, v: float) -> bool:
        if self._is_sentinel(v):
            return True
        s = self._statistics
        return s is not None and abs(v - s.median) > (FAR_EARLY * s.range if self._early else FAR_SPREADS * s.range / 3.29)

    def _give_far(self) -> None:
        """The samples in doubt are no step: each is an outlier, held or measured."""
        self._entry = np.inf if self._last is None else abs(self._pending[0] - self._last)
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
            value = self._run_value if value is None else value
            state = np.full(len(x), HELD, np.uint8)
            self._put(out, Judged("held", x, state, value=value, lead_off=lead_off))
            self._held += len(x)
            self._pending = []
        if over:
            self._long = self._touching = False

    def _stay_far(self, out: list[Judged]) -> None:
        """More than `FAR_RUN` samples lie far outside: a long held run, a step, or measured after all."""
        x, s = np.array(self._pending), self._statistics
        if (x == x[0]).all():
            self._begin_long(float(x[0]), out)
            return
        step = all(self._is_outlier(v) for v in self._pending)
        if not step and s is not None and self._last is not None:
            inside = np.abs(np.diff(x)).max()
            step = bool(abs(x[0] - self._last) >= 3 * np.ptp(x) and inside <= JUMP * s.step)
        if step:
            self._put(out, Judged("step", _NONE, _NO_STATE, value=float(np.median(x)) - (s.median if s is not None else 0.0)))
            if s is not None and not self._idle:
                self._reference = s.range
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
                self._fresh.append(x)

    def _put(self, out: list[Judged], judged: Judged) -> None:
        self._put_together(out)
        out.append(judged)

    def _put_together(self, out: list[Judged]) -> None:
        if not self._given:
            return
        if len(self._given) == 1:
            x, one = self._given[0]
            state = np.full(len(x), one, np.uint8)
        else:
            x = np.concatenate([part for part, _ in self._given])
            state = np.repeat(np.array([s for _, s in self._given], np.uint8), [len(part) for part, _ in self._given])
        if self._idle:
            out.append(Judged("held", x, np.full(len(x), HELD, np.uint8), value=np.nan, lead_off=True))
        else:
            out.append(Judged("samples", x, state, back=self._back, beside=self._beside))
        self._given, self._back = [], False

    def _update(self) -> None:
        self._early = self._judged < self._early_length
        if self._fresh:
            self._history = np.concatenate([self._history, *self._fresh])[-self._history_length :]
            self._fresh = []
            self._statistics = _statistics(self._history) or self._statistics
            self._idle = self._is_idle(self._history)
            if len(self._history) >= LINE_HISTORY_S * self._fs:
                self._watch(self._history)

    def _watch(self, x: Float64) -> None:
        spectrum, apart = _Spectrum.of(x, self._fs), 1.5 * self._fs / len(x)
        line_hz = self._line.now(_steady_line(spectrum), apart)
        self._beside = Beside(line_hz, self._hum.now(_hum(spectrum), apart), self._slow.now(float(_is_slow(x)), 0.5) > 0)

    def _is_idle(self, x: Float64) -> bool:
        """Nearly flat: see the module."""
        s = self._statistics
        if s is None or len(x) < UNKNOWN_RUN:
            return False
        if s.high - s.low <= max(s.quantum if not s.continuous else 0.0, IDLE_LEVEL * abs(s.median)):
            return True
        few_counts = not s.continuous and s.range <= IDLE_COUNTS * s.quantum
        if not few_counts and not s.range < IDLE_RANGE * self._reference:
            return False
        y = np.clip(x, s.low, s.high) - s.median
        return float((y[1:] * y[:-1]).sum()) < IDLE_CORRELATION * float((y * y).sum())


@lru_cache(maxsize=8)
def _hann(n: int) -> tuple[Float64, Float64]:
    """The Hann window (n,), and the positions in it from 0 to 1."""
    return np.hanning(n), np.linspace(0.0, 1.0, n)


class _Watched:
    """A value, 0: none, that counts once it was seen twice in a row, and until it was not seen `LINE_GONE` times in a row."""

    __slots__ = ("_missed", "_seen", "_value")

    def __init__(self) -> None:
        self._value = self._seen = 0.0
        self._missed = 0

    def now(self, seen: float, tolerance: float) -> float:
        """What counts after this was seen: the same as before within `tolerance`, or something else."""
        if not seen:
            self._missed += 1
            if self._missed >= LINE_GONE:
                self._value = 0.0
        else:
            if abs(seen - self._seen) < tolerance:
                self._value = seen
            self._missed = 0
        self._seen = seen
        return self._value


class _Spectrum(NamedTuple):
    """Of measured samples without trend: the power of each bin, its `strength`, of three bins, the width of a bin, and the strongest bin of the heart's
    frequencies. Nothing of samples that are all the same or too few."""

    power: Float64
    strength: Float64
    hz: float
    pulse: int

    @classmethod
    def of(cls, x: Float64, fs: float) -> _Spectrum | None:
        n, quarter, hz = len(x), len(x) // 4, fs / len(x)
        height = x.max() - x.min()
        if n // 2 - 1 <= LINE_HZ[0] / hz or not height > 0:
            return None
        hann, at = _hann(n)
        x = (x - x.sum() / n) / height
        before, after = x[:quarter].sum() / quarter, x[-quarter:].sum() / quarter
        spectrum = np.fft.rfft((x - (before + at * (after - before))) * hann)
        power = spectrum.real**2 + spectrum.imag**2
        strength = power.copy()
        strength[1:-1] += power[:-2] + power[2:]
        first, last = int(0.7 / hz), int(3.5 / hz)
        return cls(power, strength, hz, first + int(strength[first : last + 1].argmax()))


def _steady_line(spectrum: _Spectrum | None) -> float:
    """The frequency, Hz, of a line in measured samples that no pulse makes; 0 if there is none. A pulse's harmonics fall off; the line is at least half as
    strong as the strongest wave of the heart's frequencies, twice as strong as everything between, and most of its band."""
    if spectrum is None:
        return 0.0
    power, strength, hz, pulse = spectrum
    first, last = math.ceil(LINE_HZ[0] / hz), min(int(LINE_HZ[1] / hz), len(power) - 2)
    if last <= first:
        return 0.0
    line = first + int(strength[first : last + 1].argmax())
    between = strength[pulse + 2 if pulse * hz > 1.4 else int(1.5 / hz) : line - 2]
    band = power[first - 2 : int(20 / hz)].sum()
    steady = len(between) and strength[line] > max(0.5 * strength[pulse], 2 * between.max(), 0.6 * band)
    if not steady:
        return 0.0
    own = _peak(power, pulse) * hz  # of a fast pulse the second and third harmonic are strong and lie here
    far = [abs(_peak(power, line) * hz - k * own) > HARMONIC * k * own for k in range(2, MOST_HARMONIC + 1)]
    return line * hz if all(far) else 0.0


def _hum(spectrum: _Spectrum | None) -> float:
    """The frequency, Hz, of hum: a line above 15 Hz that is as strong as the strongest wave from 0.7 to 15 Hz, and most of what is above; 0 if there is
    none."""
    if spectrum is None:
        return 0.0
    power, strength, hz, _ = spectrum
    first = math.ceil(HUM_HZ / hz) + 1  # a line's strength is that of three bins
    if len(power) - first < 3:
        return 0.0
    line = first + int(strength[first:].argmax())
    below = strength[int(0.7 / hz) : first - 1].max()
    return line * hz if strength[line] >= max(below, HUM_SHARE * power[first:].sum()) else 0.0


@lru_cache(maxsize=8)
def _slow_basis(n: int) -> Float64:
    """Orthonormal polynomials without mean over n samples, (SLOW_DEGREE, n)."""
    t = np.linspace(-1.0, 1.0, n)
    powers = np.stack([t**k for k in range(SLOW_DEGREE + 1)], axis=1)
    return np.ascontiguousarray(np.linalg.qr(powers)[0][:, 1:].T)


def _is_slow(x: Float64) -> bool:
    """Whether the slow part of measured samples is as strong as the rest."""
    x = x - x.sum() / len(x)
    part = _slow_basis(len(x)) @ x
    slow = float(part @ part)
    return slow > SLOW_SHARE**2 * max(float(x @ x) - slow, 0.0)


def _peak(power: Float64, k: int) -> float:
    """The place, in bins, of a peak at bin k of a spectrum: of the parabola through the logarithms of three."""
    if not 0 < k < len(power) - 1:
        return float(k)
    a, b, c = (math.log(float(p) + 1e-30) for p in power[k - 1 : k + 2])
    return k + (0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c < 0 else 0.0)


def states_of(x: Float64, fs: float, max_fill: int, sentinels: Sequence[float] = ()) -> tuple[States, list[int]]:
    """The state of each sample of a whole recording (n,), NaN and infinity `INVALID`, and the indexes at which steps begin a new stretch."""
    judge = Judge(fs, max_fill, sentinels)
    finite = np.isfinite(x)
    edges = np.flatnonzero(finite[1:] != finite[:-1]) + 1
    parts: list[Judged] = []
    for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
        if b > a:
            parts += judge.feed(x[a:b]) if finite[a] else judge.missing(int(b - a), sent=True)
    state, steps, at = np.full(len(x), INVALID, np.uint8), [], 0
    for part in [*parts, *judge.finish()]:
        if part.back and at:
            state[at - 1] = HELD
        if part.kind == "step":
            steps.append(at)
        # A nearly flat stretch is one for the engine as well, which finds it again.
        state[at : at + len(part.x)] = MEASURED if math.isnan(part.value) else part.state
        at += len(part.x) + part.number
    return state, steps
