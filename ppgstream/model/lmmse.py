"""The linear estimate with the least mean squared error (LMMSE): a denoiser without a neural network, explainable by its prior
alone.

Prior: a clean window, its height taken as 1, has the mean and the covariance of the training windows; under it lies a level of
variance `LEVEL` and a ramp of variance `RAMP`; white noise comes on top. What was not measured is left out. Noise and height are
estimated from each window. The answer is the conditional mean of the pulse at the window's mean level, and the conditional
variance gives its confidence.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import LOG_VAR, Answer, Batch, Denoiser
from ppgstream.core.scaling import standard_scale_of
from ppgstream.lab.noise import minmax

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
RANK = 40  # principal components of the prior
LEVEL, RAMP = 4.0, 1.5  # variances, in heights of the pulse
NOISE_OVER_HEIGHT = 1 / 3  # the most noise that the height is trusted under: a pulse is at least 3 SD of the noise high
LEAST_NOISE = 0.01  # of the height


def prior_of(windows: NDArray[np.floating]) -> dict[str, Float32]:
    """The prior of clean windows (n, window): `mean` (window,) and `components` (window, rank), whose product with its transpose
    is the covariance."""
    x = minmax(windows.astype(np.float64))
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    rank = min(RANK, x.shape[1])
    components = vectors[:, ::-1][:, :rank] * np.sqrt(np.maximum(values[::-1][:rank], 0.0))
    return {"mean": mean.astype(np.float32), "components": components.astype(np.float32)}


def denoiser(prior: Mapping[str, Float32]) -> Denoiser:
    """The `Denoiser` of a prior. It answers in the scale of its input, with a log variance."""
    mean, pulse = prior["mean"].astype(np.float64), prior["components"].astype(np.float64)
    window, rank = pulse.shape
    ramp = np.linspace(0, 1, window)
    basis = np.concatenate([pulse, np.full((window, 1), np.sqrt(LEVEL)), np.sqrt(RAMP) * ramp[:, None]], axis=1)
    pulse_sd = float(np.sqrt(np.mean(pulse**2) * rank))
    # The mean level of what lies under the pulse stays.
    answer_basis = np.concatenate([basis[:, :rank], np.broadcast_to(basis[:, rank:].mean(axis=0), (window, 2))], axis=1)
    outer = (basis[:, :, None] * basis[:, None, :]).reshape(window, -1)

    def denoise(batch: Batch) -> Answer:
        x, known = batch.x[:, -window:].astype(np.float64), batch.valid[:, -window:].astype(np.float64)
        sd = noise_sd(x, known)
        height = np.maximum(sd / NOISE_OVER_HEIGHT, _sd_of_pulse(x, known > 0, sd) / pulse_sd)
        height = np.where(height > 0, height, 1.0)
        precision = 1 / np.maximum(sd / height, LEAST_NOISE) ** 2
        centre = (x * known).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1.0)
        z = (x - centre) / height - (mean - mean.mean())
        size = basis.shape[1]
        information = (known @ outer).reshape(-1, size, size) * precision[:, :, None] + np.eye(size)
        covariance = np.linalg.inv(information)
        weights = (covariance @ ((z * known) @ basis * precision)[:, :, None])[:, :, 0]
        shape = weights @ answer_basis.T + (mean - mean.mean())
        rest = (z - weights @ basis.T) * known
        # Where the rest is larger than noise and prior explain, so is the error.
        surprise = np.maximum(
            (rest**2).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1, keepdims=True), 1.0) * precision, 1.0
        )
        of_pulse = covariance[:, :rank, :rank]
        error = ((pulse @ of_pulse) * pulse).sum(axis=2) * surprise
        of_answer = shape.var(axis=1, keepdims=True) + error.mean(axis=1, keepdims=True)
        log_var = np.log(np.maximum(error / np.maximum(of_answer, 1e-12), 1e-12))
        return Answer((shape * height + centre).astype(np.float32), np.clip(log_var, *LOG_VAR).astype(np.float32))

    return denoise


def noise_sd(x: Float64, known: Float64) -> Float64:
    """SD of white noise, (n, 1), from the median size of the second differences of measured samples, which a pulse hardly has."""
    second = np.abs(x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2])
    there = known[:, 2:] * known[:, 1:-1] * known[:, :-2] > 0
    enough = there.any(axis=1)
    median = np.zeros(len(x))
    median[enough] = np.nanmedian(np.where(there[enough], second[enough], np.nan), axis=1)
    return np.asarray(median[:, None] / 0.6745 / np.sqrt(6))


def _sd_of_pulse(x: Float64, known: NDArray[np.bool_], noise: Float64) -> Float64:
    """SD of the measured samples without a straight line and without noise, (n, 1); 0 for a flat window."""
    scale = standard_scale_of(x, known)
    return np.asarray(np.where(scale.flat, 0.0, np.sqrt(np.maximum(scale.gain**2 - noise**2, 0.0))))
