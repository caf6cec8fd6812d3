"""What there is besides a pulse in a sensor's samples: a steady line, hum, breathing. Looked for each second, in the last 4 s.

A steady line. Of a frequency and height that no pulse has: a lamp.

Hum. A line above 15 Hz that is as strong as the strongest wave below, or stronger.

Breathing. A slow part, below 0.5 Hz, that is as strong as the rest or stronger.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

LINE_FIRST_HZ, LINE_LAST_HZ = 4.0, 15.0  # below, a line may be a pulse's own harmonic; above, the networks take it out
LINE_HISTORY_S = 3.0  # over 3 s the polynomial below follows a pulse of 36 bpm too; but what is seen once does not count
LINE_GONE = 4
HUM_HZ, HUM_SHARE = 15.0, 0.6  # from here on; of the power there that is in the line
SLOW_DEGREE, SLOW_SHARE = 4, 0.9  # of the polynomial that follows 4 s; its SD, of that of the rest
HARMONIC, MOST_HARMONIC = 0.03, 4  # a line so near to one of these multiples of the pulse is the pulse's own


class Beside(NamedTuple):
    """What there is besides a pulse in the 4 s before some samples. line_hz, hum_hz: the frequency of a steady line, of hum; 0:
    none. breathing: the slow part is as strong as the rest: breathing or drift."""

    line_hz: float = 0.0
    hum_hz: float = 0.0
    breathing: bool = False


NOTHING_BESIDE = Beside()


class Surroundings:
    """What is there besides a pulse, as far as it was seen often enough. `now` holds it."""

    __slots__ = ("_hum", "_line", "_slow", "now")

    def __init__(self) -> None:
        self._line, self._hum, self._slow = Watched(), Watched(), Watched()
        self.now = NOTHING_BESIDE

    def look(self, x: Float64, fs: float) -> None:
        """At measured samples (n,), the newest of a stretch at `fs` Hz: 3 s at least, or nothing is changed."""
        if len(x) < LINE_HISTORY_S * fs:
            return
        line_hz, hum_hz = _lines(x, fs)
        apart, slow = 1.5 * fs / len(x), _is_slow(x, _slow_basis(len(x)))
        self.now = Beside(self._line.now(line_hz, apart), self._hum.now(hum_hz, apart), self._slow.now(float(slow), 0.5) > 0)


def _lines(x: Float64, fs: float) -> tuple[float, float]:
    """The frequencies, Hz, of a steady line and of hum in measured samples (n,); 0 for each that there is not."""
    n, hz = len(x), fs / len(x)
    hann, at = _hann(n)
    flat = np.empty(n)
    if n // 2 - 1 <= LINE_FIRST_HZ / hz or not _flatten(x, hann, at, flat):
        return 0.0, 0.0  # too few, or all the same
    power, strength = np.empty(n // 2 + 1), np.empty(n // 2 + 1)
    _powers(np.fft.rfft(flat).view(np.float64), power, strength)
    return _steady_line(power, strength, hz), _hum(power, strength, hz)


@lru_cache(maxsize=8)
def _hann(n: int) -> tuple[Float64, Float64]:
    """The Hann window (n,), and the positions in it from 0 to 1."""
    return np.hanning(n), np.linspace(0.0, 1.0, n)


class Watched:
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


def _flatten(x: Float64, hann: Float64, at: Float64, flat: Float64) -> bool:
    """Samples without their level and trend, over their height, times the window `hann` with the positions `at`, into `flat`;
    (n,) each. False: they have no height."""
    n, quarter = x.shape[0], x.shape[0] // 4
    low = high = x[0]
    total = 0.0
    for k in range(n):
        low, high = min(low, x[k]), max(high, x[k])
        total += x[k]
    height = high - low
    if not height > 0:
        return False
    total /= n
    before = after = 0.0
    for k in range(n):
        flat[k] = (x[k] - total) / height
        if k < quarter:
            before += flat[k]
        if k >= n - quarter:
            after += flat[k]
    before, after = before / quarter, after / quarter
    for k in range(n):
        flat[k] = (flat[k] - (before + at[k] * (after - before))) * hann[k]
    return True


def _powers(spectrum: Float64, power: Float64, strength: Float64) -> None:
    """Of a spectrum (2n,), the real and the imaginary part of a bin side by side: the `power` of each bin, and its `strength`, of
    three bins, (n,)."""
    n = power.shape[0]
    for k in range(n):
        power[k] = strength[k] = spectrum[2 * k] * spectrum[2 * k] + spectrum[2 * k + 1] * spectrum[2 * k + 1]
    for k in range(1, n - 1):
        strength[k] += power[k - 1] + power[k + 1]


def _highest(values: Float64, first: int, stop: int) -> int:
    """Where the highest of the values from `first` up to `stop` is."""
    at = first
    for k in range(first + 1, min(stop, values.shape[0])):
        if values[k] > values[at]:
            at = k
    return at


def _sum(values: Float64, first: int, stop: int) -> float:
    """Of the values from `first` up to `stop`."""
    total = 0.0
    for k in range(first, min(stop, values.shape[0])):
        total += values[k]
    return total


def _steady_line(power: Float64, strength: Float64, hz: float) -> float:
    """The frequency, Hz, of a line in measured samples that no pulse makes; 0 if there is none. A pulse's harmonics fall off; the
    line is at least half as strong as the strongest wave of the heart's frequencies, twice as strong as everything between, and
    most of its band. hz: the width of a bin."""
    first, last = math.ceil(LINE_FIRST_HZ / hz), min(int(LINE_LAST_HZ / hz), len(power) - 2)
    if last <= first:
        return 0.0
    pulse, line = _highest(strength, int(0.7 / hz), int(3.5 / hz) + 1), _highest(strength, first, last + 1)
    between = pulse + 2 if pulse * hz > 1.4 else int(1.5 / hz)
    if between >= line - 2:
        return 0.0
    highest, band = strength[_highest(strength, between, line - 2)], _sum(power, first - 2, int(20 / hz))
    if not strength[line] > max(0.5 * strength[pulse], 2 * highest, 0.6 * band):
        return 0.0
    own = _peak(power, pulse) * hz  # of a fast pulse the second and third harmonic are strong and lie here
    place = _peak(power, line) * hz
    for k in range(2, MOST_HARMONIC + 1):
        if not abs(place - k * own) > HARMONIC * k * own:
            return 0.0
    return line * hz


def _hum(power: Float64, strength: Float64, hz: float) -> float:
    """The frequency, Hz, of hum: a line above 15 Hz that is as strong as the strongest wave from 0.7 to 15 Hz, and most of what
    is above; 0 if there is none."""
    first, n = math.ceil(HUM_HZ / hz) + 1, len(power)  # a line's strength is that of three bins
    if n - first < 3:
        return 0.0
    line = _highest(strength, first, n)
    below = strength[_highest(strength, int(0.7 / hz), first - 1)]
    return line * hz if strength[line] >= max(below, HUM_SHARE * _sum(power, first, n)) else 0.0


@lru_cache(maxsize=8)
def _slow_basis(n: int) -> Float64:
    """Orthonormal polynomials without mean over n samples, (SLOW_DEGREE, n)."""
    t = np.linspace(-1.0, 1.0, n)
    powers = np.stack([t**k for k in range(SLOW_DEGREE + 1)], axis=1)
    return np.ascontiguousarray(np.linalg.qr(powers)[0][:, 1:].T)


def _is_slow(x: Float64, basis: Float64) -> bool:
    """Whether the slow part of measured samples is as strong as the rest. basis: as `_slow_basis` gives."""
    n = x.shape[0]
    mean = slow = whole = 0.0
    for k in range(n):
        mean += x[k]
    mean /= n
    for j in range(basis.shape[0]):
        part = 0.0
        for k in range(n):
            part += basis[j, k] * (x[k] - mean)
        slow += part * part
    for k in range(n):
        whole += (x[k] - mean) * (x[k] - mean)
    return slow > SLOW_SHARE**2 * max(whole - slow, 0.0)


def _peak(power: Float64, k: int) -> float:
    """The place, in bins, of a peak at bin k of a spectrum: of the parabola through the logarithms of three."""
    if not 0 < k < len(power) - 1:
        return float(k)
    a, b, c = math.log(power[k - 1] + 1e-30), math.log(power[k] + 1e-30), math.log(power[k + 1] + 1e-30)
    bend = a - 2 * b + c
    return k + (0.5 * (a - c) / bend if bend < 0 else 0.0)
