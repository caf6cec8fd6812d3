"""Of the samples of a stretch that were measured lately: what is usual among them. Made anew each second, from 4 s."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beside import Surroundings
from ppgstream.core.measured import LARGEST

Float64 = NDArray[np.float64]

HISTORY_S = 4.0  # statistics are of the measured samples of this time
GRID_S = 1.0  # and are made anew this often
EARLY_S = 2.0  # up to here in a stretch, its range is known badly
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


def statistics_of(x: Float64) -> Statistics | None:
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
    return Statistics(median, low, high, float(steps.max()), quantum, continuous, usual, mean, range_, least, most)


class Recent:
    """The last 4 s of a stretch that were measured, their `statistics`, and what is there `beside` a pulse. `fs` in Hz.

    judged: samples of the stretch that were looked at, without long held runs. early: the statistics are of less than `EARLY_S`.
    idle: nearly flat: after a step, a tenth of the range before it, or a few counts of the converter, and noise rather than a
    wave; or one count."""

    __slots__ = (
        "_early_length",
        "_fresh",
        "_fs",
        "_history",
        "_length",
        "_reference",
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
        self.begin()

    def begin(self) -> None:
        """Another stretch: nothing is known."""
        self.idle, self.early = False, True
        self.beside = Surroundings()
        self.statistics: Statistics | None = None
        self._history = np.empty(0)
        self._fresh: list[Float64] = []  # measured since the statistics were made
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
        self._fresh.append(x)

    def count(self, n: int) -> bool:
        """So many samples were looked at, no more than were `left`. True once a second is complete: then `update` is due."""
        self.judged += n
        return self.judged % self.grid == 0

    def update(self) -> None:
        """A second is complete: the statistics are made anew."""
        self.early = self.judged < self._early_length
        if self._fresh:
            self._history = np.concatenate([self._history, *self._fresh])[-self._length :]
            self._fresh = []
            self.statistics = statistics_of(self._history) or self.statistics
            self.idle = self._is_idle(self._history)
            self.beside.look(self._history, self._fs)

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
