"""Noise for training, the demo and the bench. Everything is vectorised over a batch and takes its own `rng`.

N1 is the noise of Joonnyong Lee's 2019 course: white noise of a third of the pulse, a ramp, and a short run clipped to the
rail, with a min-max rescaling after each. The order matters, since every rescaling shrinks what came before.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)
Floats = NDArray[np.floating[Any]]

N1_WHITE_SD = 1 / 3  # of the clean window's range
N1_RAMP = 2.0  # largest rise or fall across the window, of the noisy window's range
N1_CLIP = 50  # samples; a clipped run is shorter (0.4 s at 125 Hz)


class Noisy(NamedTuple, Generic[Real]):
    """A noisy batch and what a perfect denoiser would answer.

    noisy: (n, window) in 0..1. clean: (n, window) the clean windows in their own 0..1. gain, level: (n, 1), the clean pulse as it lies inside
    `noisy`, the ramp replaced by its mean, is `gain * clean + level`.
    """

    noisy: NDArray[Real]
    clean: NDArray[Real]
    gain: NDArray[Real]
    level: NDArray[Real]

    @property
    def target(self) -> NDArray[Real]:
        """The clean pulse as it lies inside `noisy`, (n, window)."""
        return self.gain * self.clean + self.level


def minmax(x: NDArray[Real]) -> NDArray[Real]:
    """Each row of `x` (n, m) to 0..1; a flat row becomes 0.5."""
    low = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - low
    scaled: NDArray[Real] = (x - low) / np.where(span > 0, span, 1).astype(x.dtype)
    np.copyto(scaled, 0.5, where=span <= 0)
    return scaled


def n1(
    clean: NDArray[Real],
    rng: Generator,
    *,
    white_sd: Floats | float = N1_WHITE_SD,
    ramp: Floats | float = N1_RAMP,
    clip: bool | NDArray[np.bool_] = True,
) -> Noisy[Real]:
    """The course's noise on clean windows (n, window), in the precision that these have (float32 is three times as fast as float64).

    `white_sd`, `ramp` and `clip` may be given per row, as (n, 1)."""
    n, window = clean.shape
    kind = clean.dtype
    clean = minmax(clean)
    gain: NDArray[Real] = np.ones((n, 1), kind)
    level: NDArray[Real] = np.zeros((n, 1), kind)

    def rescale(x: NDArray[Real]) -> None:
        nonlocal gain, level
        low = x.min(axis=1, keepdims=True)
        span = np.maximum(x.max(axis=1, keepdims=True) - low, 1e-9)
        x -= low
        x /= span
        gain, level = gain / span, (level - low) / span

    x: NDArray[Real] = rng.standard_normal((n, window), kind.type)
    x *= np.asarray(white_sd, kind)
    x += clean
    rescale(x)
    rise = np.asarray(ramp, kind) * rng.uniform(-1, 1, (n, 1)).astype(kind)
    slope = np.arange(window, dtype=kind) / window
    x += rise * slope
    level = level + rise * slope.mean()
    rescale(x)
    start = rng.integers(0, window, (n, 1))
    length = rng.integers(0, N1_CLIP, (n, 1))
    rail = rng.integers(0, 2, (n, 1)).astype(kind)
    at = np.arange(window)
    np.copyto(x, rail, where=(at >= start) & (at < start + length) & np.asarray(clip))
    return Noisy(x, clean, gain, level)
