"""Noises beyond the course's, for training: baselines that walk, coloured bursts, motion in a rhythm, clipping, and inputs
without any pulse.

All work on `s` (n, window) float32, clean pulses in 0..1, and return what is added, in the same units. Recipe: docs/training.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ppgstream.lab import noise

Float32 = NDArray[np.float32]

FS = 125.0
WHITE_P, WHITE_SD = 0.8, 0.6  # how often, and at most how much (SD over the pulse's height)
BASELINE_P, RAMP, WALK = 0.6, 2.0, 1.0  # heights over the window, of the pulse's height
BURST_P = 0.5
BURST_SLOPE, BURST_SHAPE, BURST_SCALE = (
    (-26.0, 8.0),
    1.4,
    2.8,
)  # dB a decade; Gamma law of its SD over the pulse's (Paliakaite et al. 2021)
BURST_S, SHORTEST_BURST_S, FILLING, FILLING_MOST = 2.0, 0.5, 0.25, 2.0
MOTION_HZ, HARMONICS, RATE_DRIFT, SIZE_DRIFT = (0.7, 3.2), (0.9, 0.7, 0.5, 0.4, 0.3), 0.06, 0.3
# Half of the rhythms have no harmonics but the first two, and are at most so many dB over the pulse: a stronger smooth rhythm
# would be a lone one, and that is a pulse.
FEW, FEW_P, SMOOTH_MOST_DB = 2, 0.5, 4.0
MOTION_WHITE_P, MOTION_WHITE = 0.7, 0.3
NEARLY_CLEAN = 0.05
# Breathing and hum lie outside the pulse's band: how often, rates, and heights from crest to trough in pulses (uniform in their
# logarithm).
BREATHING_P, BREATHING_HZ, BREATHING = 0.15, (0.1, 0.5), (0.2, 12.0)
HUM_P, HUM_HZ, HUM = 0.1, (18.0, 62.0), (0.1, 12.0)
# Without a pulse: white, coloured, a rhythm, smoothed, bursts. Nothing but its surroundings tells a lone rhythm from a pulse: the
# network is to take nine of ten for one, and the calibration says how often that is right.
NOTHING_SHARES = (0.245, 0.245, 0.02, 0.245, 0.245)
CLIP_P, CLIP_LONGEST = 0.25, 50
SWELL_HZ, SWELL = (0.1, 0.7), 0.35  # rate and depth, at most, of changes of the pulse's height
QUANTISED_P, LEVELS = 0.1, (6, 60)  # distinct values over the window


class Added(NamedTuple):
    """noisy: (n, window). level: (n, 1), what the noise does to the mean of the window, which is not to be undone."""

    noisy: Float32
    level: Float32


def uniform(rng: Generator, n: int, low: float = 0.0, high: float = 1.0) -> Float32:
    return (low + (high - low) * rng.random((n, 1), np.float32)).astype(np.float32)


def white(rng: Generator, n: int, window: int) -> Float32:
    return rng.standard_normal((n, window), np.float32)


def baseline(rng: Generator, n: int, window: int) -> Float32:
    """A ramp, or (half of them) a line that bends once somewhere, as a walk with knots 2 s apart does."""
    t = np.arange(window, dtype=np.float32) / window
    first = uniform(rng, n, -1, 1)
    bends = rng.random((n, 1)) < 0.5
    second = np.where(bends, uniform(rng, n, -1, 1), first)
    height = np.where(bends, np.float32(WALK * 2), np.float32(RAMP))
    knot = np.where(bends, uniform(rng, n), np.float32(1))
    return np.asarray(height * (first * np.minimum(t, knot) + second * np.maximum(t - knot, 0)), np.float32)


def coloured(rng: Generator, n: int, window: int, slope: NDArray[np.floating]) -> Float32:
    """Gaussian noise of unit SD, its power flat to 1 Hz and then falling by -`slope` dB a decade; slope: (n, 1). Cut out of twice
    the length."""
    m = 2 * window
    hz = np.fft.rfftfreq(m, 1 / FS).astype(np.float32)
    amplitude = np.maximum(hz, 1.0) ** (slope / 20).astype(np.float32)
    amplitude[:, 0] = 0
    spectrum = amplitude * (white(rng, n, len(hz)) + 1j * white(rng, n, len(hz)))
    x = np.fft.irfft(spectrum.astype(np.complex64), m, axis=1)
    return np.asarray((x / np.maximum(x.std(axis=1, keepdims=True), 1e-6))[:, :window], np.float32)


def bursts(rng: Generator, n: int, window: int) -> Float32:
    """Coloured noise over a part of the window or all of it, times its strength; in units of the pulse's SD."""
    fills = rng.random((n, 1)) < FILLING
    strength = rng.gamma(BURST_SHAPE, BURST_SCALE, (n, 1)).astype(np.float32)
    strength = np.where(fills, np.minimum(strength, FILLING_MOST), strength)
    length = np.maximum(rng.exponential(BURST_S * FS, (n, 1)), SHORTEST_BURST_S * FS)
    start = rng.uniform(-1, 1, (n, 1)) * length + rng.uniform(0, 1, (n, 1)) * window
    at = np.arange(window)
    here = fills | ((at >= start) & (at < start + length))
    return np.asarray(coloured(rng, n, window, rng.normal(*BURST_SLOPE, (n, 1))) * strength * here, np.float32)


def motion(rng: Generator, n: int, window: int, rich: NDArray[np.bool_]) -> Float32:
    """A rhythm with harmonics whose rate and size drift; unit SD. rich: (n, 1), whether it has more than the first two."""
    t = np.arange(window, dtype=np.float32) / FS
    rate, drift = uniform(rng, n, *MOTION_HZ), uniform(rng, n, -RATE_DRIFT, RATE_DRIFT)
    phase = 2 * np.pi * (rate * t * (1 + drift * t)) + uniform(rng, n, 0, 2 * np.pi)
    x = np.sin(phase)
    for number, most in enumerate(HARMONICS, start=2):
        there = np.float32(1) if number < FEW + 2 else rich.astype(np.float32)
        x = x + there * uniform(rng, n, 0, most) * np.sin(number * phase + uniform(rng, n, 0, 2 * np.pi))
    swell = np.sin(2 * np.pi * uniform(rng, n, 0.02, 0.3) * t + uniform(rng, n, 0, 2 * np.pi))
    x = x * (1 + uniform(rng, n, 0, SIZE_DRIFT) * swell)
    return np.asarray(x / np.maximum(x.std(axis=1, keepdims=True), 1e-6), np.float32)


def outside(rng: Generator, n: int, window: int) -> Float32:
    """Breathing in some windows and hum in some, in heights of the pulse."""
    t, x = np.arange(window, dtype=np.float32) / FS, np.zeros((n, window), np.float32)
    for share, hz, height in ((BREATHING_P, BREATHING_HZ, BREATHING), (HUM_P, HUM_HZ, HUM)):
        at = np.flatnonzero(rng.random(n) < share)
        high = np.exp(uniform(rng, len(at), *np.log(height))) / 2
        x[at] += high * np.sin(2 * np.pi * (uniform(rng, len(at), *hz) * t + uniform(rng, len(at))))
    return x


def mixed(rng: Generator, s: Float32) -> Added:
    """White noise, a baseline, bursts, breathing and hum, each with its own probability."""
    n, window = s.shape
    slow = baseline(rng, n, window) * (rng.random((n, 1)) < BASELINE_P) + outside(rng, n, window)
    slow = slow + s.std(axis=1, keepdims=True) * bursts(rng, n, window) * (rng.random((n, 1)) < BURST_P)
    strength = uniform(rng, n, 0, WHITE_SD) * (rng.random((n, 1)) < WHITE_P)
    return Added(s + slow + strength * white(rng, n, window), slow.mean(axis=1, keepdims=True))


def moving(rng: Generator, s: Float32, over_db: tuple[float, float]) -> Added:
    """Motion `over_db` dB over the pulse (from, to), with a baseline and often white noise."""
    n, window = s.shape
    low, high = over_db
    rich = rng.random((n, 1)) >= FEW_P
    most = np.where(rich, high, max(min(high, SMOOTH_MOST_DB), low)).astype(np.float32)
    size = s.std(axis=1, keepdims=True) * 10 ** ((low + (most - low) * uniform(rng, n)) / 20)
    slow = size * motion(rng, n, window, rich) + baseline(rng, n, window) * (rng.random((n, 1)) < BASELINE_P)
    strength = uniform(rng, n, 0, MOTION_WHITE) * (rng.random((n, 1)) < MOTION_WHITE_P)
    return Added((s + slow + strength * white(rng, n, window)).astype(np.float32), slow.mean(axis=1, keepdims=True))


def nearly_clean(rng: Generator, s: Float32) -> Added:
    """A little white noise, and in some windows breathing or hum."""
    n, window = s.shape
    slow = outside(rng, n, window)
    return Added(s + slow + uniform(rng, n, 0, NEARLY_CLEAN) * white(rng, n, window), slow.mean(axis=1, keepdims=True))


def nothing(rng: Generator, n: int, window: int) -> Added:
    """No pulse: white, coloured, smoothed, periodic, or a mixture, with or without a baseline. The right answer is its level."""
    kinds = rng.choice(len(NOTHING_SHARES), (n, 1), p=NOTHING_SHARES)
    smooth = white(rng, n, window + 24)
    total = np.cumsum(smooth, axis=1)
    width = 8
    smoothed = (total[:, width:] - total[:, :-width])[:, :window] / np.sqrt(np.float32(width))
    of_kind = [
        white(rng, n, window),
        coloured(rng, n, window, rng.uniform(-40, -5, (n, 1))),
        motion(rng, n, window, rng.random((n, 1)) >= FEW_P),
        smoothed,
        bursts(rng, n, window) + uniform(rng, n, 0, 1) * white(rng, n, window),
    ]
    x = np.select([kinds == k for k in range(len(of_kind))], of_kind)
    x = x + uniform(rng, n, 0, 0.5) * white(rng, n, window) * (rng.random((n, 1)) < 0.5)
    slow = 3 * baseline(rng, n, window) * (rng.random((n, 1)) < BASELINE_P)
    noisy = np.asarray(x + slow, np.float32)
    return Added(noisy, noisy.mean(axis=1, keepdims=True))


def clipped(rng: Generator, x: Float32) -> Float32:
    """A run at the window's lowest or highest value, or far beyond it, in some windows."""
    n, window = x.shape
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    beyond = uniform(rng, n, 0, 2) * (rng.random((n, 1)) < 0.3) * (high - low)
    rail = np.where(rng.random((n, 1)) < 0.5, high + beyond, low - beyond)
    start, length = rng.integers(0, window, (n, 1)), rng.integers(3, CLIP_LONGEST, (n, 1))
    at = np.arange(window)
    here = (at >= start) & (at < start + length) & (rng.random((n, 1)) < CLIP_P)
    return np.where(here, rail, x).astype(np.float32)


def quantised(rng: Generator, x: Float32) -> Float32:
    """In some windows only so many distinct values are left, as in a converter of few bits."""
    n = len(x)
    step = np.ptp(x, axis=1, keepdims=True) / rng.integers(*LEVELS, (n, 1)).astype(np.float32)
    coarse = np.round(x / np.maximum(step, 1e-9)) * step
    return np.where(rng.random((n, 1)) < QUANTISED_P, coarse, x).astype(np.float32)


def bent(rng: Generator, s: Float32, share: float) -> Float32:
    """Pulses of other shapes: heights bent by a power, and swelling and shrinking as with breath and vessels."""
    n, window = s.shape
    changed = rng.random((n, 1)) < share
    power = np.where(changed, np.exp(uniform(rng, n, -0.35, 0.35)), np.float32(1))
    x = noise.minmax(s) ** power
    t = np.arange(window, dtype=np.float32) / FS
    swell = np.sin(2 * np.pi * uniform(rng, n, *SWELL_HZ) * t + uniform(rng, n, 0, 2 * np.pi))
    return np.asarray(x * (1 + np.where(changed, uniform(rng, n, 0, SWELL), np.float32(0)) * swell), np.float32)
