"""Of the samples of a stretch that were measured lately: what is usual among them. Made anew each second, from 4 s."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beside import Surroundings
from ppgstream.core.measured import LARGEST

Float64 = NDArray[np.float64]

HISTORY_S = 4.0  # statistics are of the measured samples of this time
GRID_S = 1.0  # and are made anew this often
EARLY_S = 2.0  # up to here in a stretch, its range is known badly
WHOLE = 2.0**52  # larger values have no fraction
FINE = 1e6  # quanta in the range: so fine a converter counts as continuous
UNKNOWN_RUN = 25  # equal samples in a row that are a held run where there are no statistics; of fewer samples there are none
IDLE_RANGE = 0.1  # of the range before a step: less is no pulse, if it is noise
IDLE_CORRELATION = 0.5  # of neighbours: less is noise (a pulse has 0.98)
IDLE_COUNTS = 8  # the same for a range of so few counts of the converter
IDLE_LEVEL = 1e-5  # a range that is less of the level is rounding


class Statistics(NamedTuple):
    """Of measured samples, in the sensor's units."""

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


def _statistics(x: Float64, ordered: Float64, runs: NDArray[np.int64]) -> Statistics | None:
    """`statistics_of` samples, given in order too. runs: zeros, one more than there are samples."""
    n = x.shape[0]
    k = n // 20
    low, high = ordered[k], ordered[n - 1 - k]
    most, least, run, count = 0.0, math.inf, 1, 0
    for k in range(1, n):
        step = abs(x[k] - x[k - 1])
        if step > 0:
            most, least = max(most, step), min(least, step)
            runs[run] += 1  # the last one of all may go on, and does not count
            count += 1
            run = 1
        else:
            run += 1
    if not count or not high > low:
        return None
    continuous = high - low > FINE * least
    if not continuous:
        for k in range(1, n):
            # whole, also if the smallest step seen was of 2 to 6 counts
            multiple = 60 * abs(x[k] - x[k - 1]) / least
            if multiple < WHOLE and abs(multiple - (multiple + 0.5) // 1) > 0.01:
                continuous = True
                break
    below, k, total = 0, 0, 0
    while below <= (9 * (count - 1)) // 10:
        k += 1
        below += runs[k]
        total += k * runs[k]
    usual = k
    for k in range(usual + 1, n + 1):
        total += k * runs[k]
    range_ = max(high - low, least)
    return Statistics(
        ordered[n // 2],
        low,
        high,
        most,
        least,
        continuous,
        usual,
        total / count,
        range_,
        max(low - range_ / 2, -LARGEST),
        min(high + range_ / 2, LARGEST),
    )


def statistics_of(x: Float64) -> Statistics | None:
    """Of measured samples (n,); None where they are too few, or one value."""
    return None if len(x) < UNKNOWN_RUN else _statistics(x, np.sort(x), np.zeros(len(x) + 1, np.int64))


class Recent:
    """The last 4 s of a stretch that were measured, their `statistics`, and what is there `beside` a pulse. `fs` in Hz.

    judged: samples of the stretch that were looked at, without long held runs. early: the statistics are of less than `EARLY_S`.
    idle: nearly flat: after a step, a tenth of the range before it, or a few counts of the converter, and noise rather than a
    wave; or one count."""

    __slots__ = (
        "_early_length",
        "_fs",
        "_history",
        "_kept",
        "_length",
        "_reference",
        "_there",
        "beside",
        "early",
        "grid",
        "idle",
        "judged",
        "statistics",
    )

    def __init__(self, fs: float) -> None:
        self._fs, self._length, self._early_length = fs, round(HISTORY_S * fs), round(EARLY_S * fs)
        self.grid = round(GRID_S * fs)
        self._reference = 0.0  # the range of the last stretch that a step ended
        self._history = np.empty(0)  # measured samples, and room for more
        self.begin()

    def begin(self) -> None:
        """Another stretch: nothing is known."""
        self.idle, self.early = False, True
        self.beside = Surroundings()
        self.statistics: Statistics | None = None
        self._there = self._kept = 0  # samples of `_history`, and of them those that the statistics are of
        self.judged = 0

    @property
    def left(self) -> int:
        """Samples until the statistics are made anew."""
        return self.grid - self.judged % self.grid

    def first(self, x: Float64, statistics: Statistics | None) -> None:
        """The first samples of a stretch (n,), before they are judged, and their statistics."""
        self.statistics = statistics
        self.idle = self._is_idle(x)

    def add(self, x: Float64) -> None:
        """Samples that were measured."""
        n, there = len(x), self._there
        if there + n > len(self._history):
            there = min(there, self._length)
            room = np.zeros(max(self._length + self.grid, there + n))
            room[:there] = self._history[self._there - there : self._there]
            self._history = room
        self._history[there : there + n] = x
        self._there = there + n

    def count(self, n: int) -> bool:
        """So many samples were looked at, no more than were `left`. True once a second is complete: then `update` is due."""
        self.judged += n
        return self.judged % self.grid == 0

    def update(self) -> None:
        """A second is complete: the statistics are made anew."""
        self.early = self.judged < self._early_length
        if self._there > self._kept:
            beyond = self._there - self._length
            if beyond > 0:
                self._history[: self._length] = self._history[beyond : self._there]
            self._there = self._kept = min(self._there, self._length)
            x = self._history[: self._there]
            self.statistics = statistics_of(x) or self.statistics
            self.idle = self._is_idle(x)
            self.beside.look(x, self._fs)

    def step(self) -> None:
        """A step ends the stretch."""
        if self.statistics is not None and not self.idle:
            self._reference = self.statistics.range

    def _is_idle(self, x: Float64) -> bool:
        """Whether measured samples are nearly flat."""
        s = self.statistics
        if s is None or len(x) < UNKNOWN_RUN:
            return False
        if s.high - s.low <= max(s.quantum if not s.continuous else 0.0, IDLE_LEVEL * abs(s.median)):
            return True
        few_counts = not s.continuous and s.range <= IDLE_COUNTS * s.quantum
        if not few_counts and not s.range < IDLE_RANGE * self._reference:
            return False
        y = np.clip(x, s.low, s.high) - s.median
        return float((y[1:] * y[:-1]).sum()) < IDLE_CORRELATION * float((y * y).sum())
