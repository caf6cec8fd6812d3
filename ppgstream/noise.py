"""Noise for training, the demo and the bench. Everything is vectorised over a batch and takes its own `rng`.

N1 is the noise of Joonnyong Lee's 2019 course: white noise of a third of the pulse, a ramp, and a short run clipped to the
rail, with a min-max rescaling after each. The order matters, since every rescaling shrinks what came before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

N1_WHITE_SD = 1 / 3  # of the clean window's range
N1_RAMP = 2.0  # largest rise or fall across the window, of the noisy window's range
N1_CLIP = 50  # samples; a clipped run is shorter (0.4 s at 125 Hz)


class Noisy(NamedTuple):
    """A noisy batch and what a perfect denoiser would answer.

    noisy: (n, window) in 0..1. clean: (n, window) the clean windows in their own 0..1. target: (n, window) the clean
    pulse as it lies inside `noisy`, the ramp replaced by its mean: the same shape as `clean`, `gain` times as high.
    """

    noisy: Float64
    clean: Float64
    target: Float64
    gain: Float64


def minmax(x: Float64) -> Float64:
    """Each row of `x` (n, m) to 0..1; a flat row becomes 0.5."""
    low = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - low
    return np.where(span > 0, (x - low) / np.where(span > 0, span, 1.0), 0.5)


def n1(
    clean: Float64,
    rng: Generator,
    *,
    white_sd: NDArray[np.float64] | float = N1_WHITE_SD,
    ramp: NDArray[np.float64] | float = N1_RAMP,
    clip: bool | NDArray[np.bool_] = True,
) -> Noisy:
    """The course's noise on clean windows (n, window). `white_sd`, `ramp` and `clip` may be given per row, as (n, 1)."""
    n, window = clean.shape
    clean = minmax(clean)
    x, target, gain = clean, clean, np.ones((n, 1))

    def rescale(x: Float64, target: Float64, gain: Float64) -> tuple[Float64, Float64, Float64]:
        low = x.min(axis=1, keepdims=True)
        span = np.maximum(x.max(axis=1, keepdims=True) - low, 1e-9)
        return (x - low) / span, (target - low) / span, gain / span

    x, target, gain = rescale(x + white_sd * rng.standard_normal((n, window)), target, gain)
    rise = ramp * rng.uniform(-1, 1, (n, 1))
    slope = rise * np.arange(window) / window
    x, target, gain = rescale(x + slope, target + slope.mean(axis=1, keepdims=True), gain)
    start = rng.integers(0, window, (n, 1))
    length = rng.integers(0, N1_CLIP, (n, 1))
    rail = rng.integers(0, 2, (n, 1)).astype(np.float64)
    at = np.arange(window)
    x = np.where((at >= start) & (at < start + length) & clip, rail, x)
    return Noisy(x, clean, target, gain)
