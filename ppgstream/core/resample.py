"""Between a sensor's rate and the model's: samples as they come, each stretch by itself.

A sample with the index s at `fs` Hz lies at the index s * target / fs of the model's rate. Both rates count from the session's
index 0, so that a value depends on nothing but the stretch and the index: samples may be cut into messages in any way.

The filter is a windowed sinc (Kaiser). It reaches over `HALF` samples of the slower rate to each side, and halves the amplitude
at half the slower rate. Beyond the ends of a stretch its values go on turned about the first and the last one, so that nothing
of another stretch is in it. docs/sensors.md has the errors and the delays.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Index = TypeVar("Index", int, NDArray[np.int64])

HALF = 8
BETA = 6.0  # of the Kaiser window: what is beyond the filter's edge is 70 dB lower
MOST_PHASES = 256  # of a filter: a ratio of rates is rounded to a fraction of so small a denominator, by 0.2 % at most


class Ratio(NamedTuple):
    """The sensor's index s lies at the model's index s * up / down."""

    up: int
    down: int

    @property
    def is_one(self) -> bool:
        return self.up == self.down

    def to_model(self, s: Index) -> Index:
        """The first index of the model's rate at or after the sensor's index s."""
        return -(-s * self.up // self.down)

    def to_sensor(self, m: Index) -> Index:
        """The first of the sensor's indexes at or after the index m of the model's rate."""
        return -(-m * self.down // self.up)

    def after(self, m: Index) -> Index:
        """The sensor's index after the last one at or before the model's index m - 1: how far a sensor's samples reach when m of
        the model's are there."""
        return (m - 1) * self.down // self.up + 1

    def nearest_in_model(self, s: int, n: int, base: int = 0) -> NDArray[np.int64]:
        """(n,): of the sensor's indexes from s on, the nearest indexes of the model's rate, counted from `base`."""
        return _places(2 * s * self.up + self.down, 2 * self.up, 2 * self.down, n, base)

    def nearest_of_sensor(self, m: int, n: int, base: int = 0) -> NDArray[np.int64]:
        """(n,): of the model's indexes from m on, the sensor's nearest indexes, counted from `base`."""
        return _places(2 * m * self.down + self.up, 2 * self.down, 2 * self.up, n, base)

    def last_of_sensor(self, m: int, n: int, base: int = 0) -> NDArray[np.int64]:
        """(n,): of the model's indexes from m on, the sensor's last indexes at or before them, counted from `base`."""
        return _places(m * self.down, self.down, self.up, n, base)

    @property
    def wait_s(self) -> float:
        """In samples of the sensor: how much longer one waits than at the model's own rate, since two filters look ahead."""
        return 0.0 if self.is_one else 2 * HALF * max(1.0, self.down / self.up)


ONE = Ratio(1, 1)


@lru_cache(maxsize=1024)
def ratio_of(fs: float, target: float) -> Ratio:
    """Of a sensor's rate and the model's, Hz. Rates within 0.2 % of each other are the same."""
    slower = Fraction(min(fs, target) / max(fs, target)).limit_denominator(MOST_PHASES)
    small, large = slower.numerator, slower.denominator
    return Ratio(small, large) if fs > target else Ratio(large, small)


def _places(first: int, num: int, den: int, n: int, base: int) -> NDArray[np.int64]:
    """(n,): the whole parts of (first + k * num) / den, less `base`: near to it, though they may be beyond 64 bits."""
    begin, phase = divmod(first, den)
    return _pattern(phase, num, den, n) + (begin - base)


@lru_cache(maxsize=8192)
def _pattern(phase: int, num: int, den: int, n: int) -> NDArray[np.int64]:
    return np.asarray((phase + num * np.arange(n)) // den, np.int64)


class Filter(NamedTuple):
    """Reads values at the positions k * num / den. `reach`: values to each side that count. `table`: their weights, (den, 2 *
    reach), by the position's fraction."""

    num: int
    den: int
    reach: int
    table: Float64


@lru_cache(maxsize=128)
def filter_of(num: int, den: int) -> Filter:
    """The filter that reads at every `num / den`-th value."""
    wide = max(1.0, num / den)
    reach = math.ceil(HALF * wide)
    at = np.arange(1 - reach, reach + 1)[None, :] - np.arange(den)[:, None] / den
    inside = np.clip(1 - (at / (HALF * wide)) ** 2, 0.0, None)
    weights = np.where(inside > 0, np.i0(BETA * np.sqrt(inside)), 0.0) * np.sinc(at / wide)
    return Filter(num, den, reach, weights / weights.sum(axis=1, keepdims=True))


def read(values: Float64, base: int, level: float, filter: Filter, first: int, n: int, *, closed: bool = False) -> Float64:
    """The values of a stretch at a filter's positions from the `first`-th on, (n,).

    values: from the index `base` on, as far as these positions need them; where a position needs values before `base`, the
    stretch begins there. closed: it ends with the last of them. level: any number near them, the same for all of a stretch: what
    does not change comes out as it was, to the last bit."""
    begin, phase = divmod(first * filter.num, filter.den)
    at = begin - base + 1 - filter.reach
    if at < 0:
        mirror = 2 * values[0] - values[-at:0:-1]
        far = np.full(-at - len(mirror), mirror[0] if len(mirror) else values[0])
        values, at = np.concatenate([far, mirror, values]), 0
    if closed:
        mirror = 2 * values[-1] - values[-2 : -2 - filter.reach : -1]
        far = np.full(filter.reach + 1 - len(mirror), mirror[-1] if len(mirror) else values[-1])
        values = np.concatenate([values, mirror, far])
    if n and at + (phase + (n - 1) * filter.num) // filter.den + 2 * filter.reach > len(values):
        raise IndexError(f"{n} positions from {first} on need more values than there are")
    found = np.empty(n)
    _read(values, at, level, filter.table, filter.num, filter.den, phase, found)
    return found


def _read(values: Float64, at: int, level: float, table: Float64, num: int, den: int, place: int, found: Float64) -> None:
    """Fills `found`. Its k-th is the sum of values from the index `at` + (place + k * num) / den on, times the weights of the
    fraction."""
    for k in range(found.shape[0]):
        whole = place // den
        fraction = place - whole * den
        total = 0.0
        for j in range(table.shape[1]):
            total += (values[at + whole + j] - level) * table[fraction, j]
        found[k] = total + level
        place += num


def reached(filter: Filter, stop: int) -> int:
    """The first of a filter's positions, from 0 on, that needs the value at `stop` or one behind it."""
    return max(-((filter.reach - stop) * filter.den // filter.num), 0)
