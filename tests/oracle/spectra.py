"""Rows of 8 s at 25 Hz: level, power at heart rates, and how well they repeat themselves. Every reduction runs along a row, so that a row's results do not
depend on the others."""

from __future__ import annotations

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


def in_order(x: Float64) -> Float64:
    """The sums of rows, in the order of their values, (n,)."""
    return np.asarray(np.cumsum(x, axis=1)[:, -1], np.float64)


def level(x: Float64) -> Float64:
    """Rows without mean and slope; of a straight row nothing is left."""
    x = x - in_order(x)[:, None] / x.shape[1]
    flat = x - _T * (in_order(x * _T)[:, None] / _TT)
    there = np.abs(flat).max(axis=1, keepdims=True) > ROUNDING * np.abs(x).max(axis=1, keepdims=True)
    return np.asarray(np.where(there, flat, 0.0), np.float64)


def _powers(x: Float64) -> Float64:
    """Power of rows (n, SPAN), (n, FFT / 2 + 1); rows of any height are brought to 1 before."""
    height = np.abs(x).max(axis=1, keepdims=True)
    transform = np.fft.rfft(x * _HANN / np.where(height > 0, height, 1.0), FFT, axis=1)
    return np.asarray(transform.real**2 + transform.imag**2, np.float64)


def _bins(multiple: float) -> tuple[NDArray[np.int64], Float64]:
    at = RATES * multiple / 60 * FFT / POINTS_HZ
    return at.astype(np.int64), at - np.floor(at)


_BINS = {multiple: _bins(multiple) for multiple in (0.5, 1.0, 2.0)}


def _at_rates(powers: Float64, multiple: float = 1.0) -> Float64:
    """Power at RATES times `multiple`, (n, rates)."""
    low, share = _BINS[multiple]
    return np.asarray(powers[:, low] * (1 - share) + powers[:, low + 1] * share, np.float64)


class Spectra(NamedTuple):
    """Power of rows at RATES, (n, rates), over its mean over RATES, and the mean (n, 1); 1 and 1 in a row without any. `powers`: of all frequencies."""

    powers: Float64
    relative: Float64
    mean: Float64

    def at(self, multiple: float) -> Float64:
        """The same at RATES times `multiple`."""
        return _at_rates(self.powers, multiple) / self.mean

    def near(self, bpm: Float64) -> Float64:
        """The same at one rate of each row (n,), bpm, on the scale or beyond it."""
        at = np.clip(bpm / 60 * FFT / POINTS_HZ, 0, FFT // 2 - 1)
        low, each = at.astype(np.int64), np.arange(len(at))
        share = at - low
        return np.asarray(
            (self.powers[each, low] * (1 - share) + self.powers[each, low + 1] * share) / self.mean[:, 0], np.float64
        )

    def of(self, rows: NDArray[np.int64]) -> Spectra:
        return Spectra(*(part[rows] for part in self))


def spectra(x: Float64) -> Spectra:
    """Of levelled rows (n, SPAN)."""
    powers = _powers(x)
    own = _at_rates(powers)
    mean = in_order(own)[:, None] / own.shape[1]
    none = mean <= 0
    mean = np.where(none, 1.0, mean)
    return Spectra(powers, np.where(none, 1.0, own / mean), mean)


def repeats(x: Float64, lags: NDArray[np.int64]) -> Float64:
    """The autocorrelation of rows (n, m) without mean at `lags` (k,) above 0, (n, k): each normalised by the power of the two parts that it compares."""
    m = x.shape[1]
    transform = np.fft.rfft(x, 2 * m, axis=1)
    same = np.fft.irfft(transform.real**2 + transform.imag**2, axis=1)[:, lags]
    energy = np.cumsum(x * x, axis=1)
    both = energy[:, m - 1 - lags] * (energy[:, -1:] - energy[:, lags - 1])
    return np.asarray(same / np.maximum(np.sqrt(np.maximum(both, 0.0)), 1e-300), np.float64)


def vertex(a: Float64, b: Float64, c: Float64) -> Float64:
    """How far the top of the parabola through three values, one point apart, is from the middle one, at most half a point; 0 where it has no top."""
    bend = a - 2 * b + c
    return np.asarray(np.where(bend < 0, np.clip(0.5 * (a - c) / np.minimum(bend, -1e-300), -0.5, 0.5), 0.0), np.float64)


def at_rate(relative: Float64, rate: Float64) -> Float64:
    """Of each row of (n, rates) the value at its rate (n,), bpm."""
    return np.asarray(relative[np.arange(len(rate)), np.clip(np.rint(rate - RATES[0]), 0, len(RATES) - 1).astype(np.int64)])
