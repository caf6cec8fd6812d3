"""Rows of 8 s at 25 Hz: level, power at heart rates, and how well they repeat themselves. Every reduction runs along a row, so
that a row's results do not depend on the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

POINTS_HZ = 25.0
SPAN_S = 8.0
SPAN = round(SPAN_S * POINTS_HZ)  # points of a row
RATES = np.arange(36.0, 221.0)  # bpm
FFT = 2048
ROUNDING = 1e-5  # of a row's height: what float32 leaves of a straight line is less
_HANN = np.hanning(SPAN)
_T = np.linspace(-1.0, 1.0, SPAN)
_TT = float((_T * _T).sum())


def level(x: Float64) -> Float64:
    """Rows (n, SPAN) without mean and slope; of a straight row nothing is left."""
    flat = np.array(x, np.float64, order="C")
    _level(flat, _T, _TT, ROUNDING)
    return flat


def _level(rows: Float64, t: Float64, power: float, rounding: float) -> None:
    """Take mean and slope from rows (n, m). t: m positions around 0, whose sum of squares is `power`."""
    m = rows.shape[1]
    for row in range(rows.shape[0]):
        mean = slope = height = largest = 0.0
        for k in range(m):
            mean += rows[row, k]
        mean /= m
        for k in range(m):
            rows[row, k] -= mean
            height = max(height, abs(rows[row, k]))
            slope += rows[row, k] * t[k]
        slope /= power
        for k in range(m):
            rows[row, k] -= t[k] * slope
            largest = max(largest, abs(rows[row, k]))
        if not largest > rounding * height:
            for k in range(m):
                rows[row, k] = 0.0


def _taper(rows: Float64, window: Float64, tapered: Float64) -> None:
    """Put rows (n, m) times a window (m,) into `tapered`, brought to a height of 1 before."""
    m = rows.shape[1]
    for row in range(rows.shape[0]):
        height = 0.0
        for k in range(m):
            height = max(height, abs(rows[row, k]))
        if not height > 0:
            height = 1.0
        for k in range(m):
            tapered[row, k] = rows[row, k] * window[k] / height


def _powers(transform: Float64, powers: Float64) -> None:
    """Put the power of each frequency into `powers` (n, m). transform: (n, 2 m), its real and imaginary part side by side."""
    for row in range(powers.shape[0]):
        for k in range(powers.shape[1]):
            powers[row, k] = transform[row, 2 * k] * transform[row, 2 * k] + transform[row, 2 * k + 1] * transform[row, 2 * k + 1]


def _bins(multiple: float) -> tuple[NDArray[np.int64], Float64]:
    at = RATES * multiple / 60 * FFT / POINTS_HZ
    return at.astype(np.int64), at - np.floor(at)


_BINS = {multiple: _bins(multiple) for multiple in (0.5, 1.0, 2.0)}


def _at_rates(powers: Float64, low: NDArray[np.int64], share: Float64, found: Float64, mean: Float64) -> None:
    """Power at `RATES` over `mean` (n,), of rows of powers: between the bins `low` and the ones after, (rates,). Into `found` (n,
    rates)."""
    for row in range(found.shape[0]):
        over = mean[row]
        for k in range(found.shape[1]):
            at, part = low[k], share[k]
            found[row, k] = (powers[row, at] * (1 - part) + powers[row, at + 1] * part) / over


def _relative(rates: Float64, mean: Float64) -> None:
    """Divide rows (n, rates) by their means, which are put into `mean` (n,); 1 and 1 in a row without any."""
    n = rates.shape[1]
    for row in range(rates.shape[0]):
        total = 0.0
        for k in range(n):
            total += rates[row, k]
        total /= n
        mean[row] = total if total > 0 else 1.0
        for k in range(n):
            rates[row, k] = rates[row, k] / total if total > 0 else 1.0


class Spectra(NamedTuple):
    """Power of rows at RATES, (n, rates), over its mean over RATES, and the mean (n,); 1 and 1 in a row without any. `powers`: of
    all frequencies."""

    powers: Float64
    relative: Float64
    mean: Float64

    def at(self, multiple: float) -> Float64:
        """The same at RATES times `multiple`."""
        found = np.empty_like(self.relative)
        low, share = _BINS[multiple]
        _at_rates(self.powers, low, share, found, self.mean)
        return found

    def near(self, bpm: Float64) -> Float64:
        """The same at one rate of each row (n,), bpm, on the scale or beyond it."""
        at = np.clip(bpm / 60 * FFT / POINTS_HZ, 0, FFT // 2 - 1)
        low, each = at.astype(np.int64), np.arange(len(at))
        share = at - low
        return np.asarray((self.powers[each, low] * (1 - share) + self.powers[each, low + 1] * share) / self.mean, np.float64)

    def of(self, rows: NDArray[np.int64]) -> Spectra:
        return Spectra(*(part[rows] for part in self))


def spectra(x: Float64) -> Spectra:
    """Of levelled rows (n, SPAN)."""
    n = len(x)
    tapered, powers, relative, mean = np.empty((n, SPAN)), np.empty((n, FFT // 2 + 1)), np.empty((n, len(RATES))), np.ones(n)
    _taper(x, _HANN, tapered)
    _powers(np.fft.rfft(tapered, FFT, axis=1).view(np.float64), powers)
    low, share = _BINS[1.0]
    _at_rates(powers, low, share, relative, mean)
    _relative(relative, mean)
    return Spectra(powers, relative, mean)


def repeats(x: Float64, lags: NDArray[np.int64]) -> Float64:
    """The autocorrelation of rows (n, m) without mean at `lags` (k,) above 0, (n, k): each normalised by the power of the two
    parts that it compares."""
    n, m = x.shape
    x = np.ascontiguousarray(x, np.float64)
    powers, found = np.empty((n, m + 1)), np.empty((n, len(lags)))
    _powers(np.fft.rfft(x, 2 * m, axis=1).view(np.float64), powers)
    _normalised(np.fft.irfft(powers, axis=1), x, np.asarray(lags, np.int64), np.empty(m), found)
    return found


def _normalised(same: Float64, rows: Float64, lags: NDArray[np.int64], energy: Float64, found: Float64) -> None:
    """Of the autocorrelation `same` of rows (n, m) its values at `lags` (k,), over the power of the two parts of a row that each
    compares, into `found` (n, k). energy: room for m values."""
    m = rows.shape[1]
    for row in range(rows.shape[0]):
        total = 0.0
        for k in range(m):
            total += rows[row, k] * rows[row, k]
            energy[k] = total
        for k in range(lags.shape[0]):
            lag = lags[k]
            both = energy[m - 1 - lag] * (total - energy[lag - 1])
            found[row, k] = same[row, lag] / max(math.sqrt(both) if both > 0 else 0.0, 1e-300)


def vertex(a: Float64, b: Float64, c: Float64) -> Float64:
    """How far the top of the parabola through three values, one point apart, is from the middle one, at most half a point; 0
    where it has no top."""
    bend = a - 2 * b + c
    return np.asarray(np.where(bend < 0, np.clip(0.5 * (a - c) / np.minimum(bend, -1e-300), -0.5, 0.5), 0.0), np.float64)


def at_rate(relative: Float64, rate: Float64) -> Float64:
    """Of each row of (n, rates) the value at its rate (n,), bpm."""
    return np.asarray(relative[np.arange(len(rate)), np.clip(np.rint(rate - RATES[0]), 0, len(RATES) - 1).astype(np.int64)])
