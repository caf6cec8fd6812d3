"""How likely an output is good: a calibrated probability, from numbers that are known when a sample is published.

A second is good if its SNR in the pulse's band is at least 6 dB (docs/bench.md). What a network tells of its own error, or how
well its windows agree, orders seconds well or badly, and is no probability. A logistic regression on it is; where agreement is
all there is, ten more numbers go in, taken from the newest 2.5 s of input and output. Its coefficients belong to a checkpoint
(`train/calibrate.py` fits them).

All numbers are computed a row at a time, so that a row's result does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.logistic import Logistic, logistic_of
from ppgstream.core.measured import MEASURED
from ppgstream.core.rate import FITTED

Float64 = NDArray[np.float64]

ROW_S, SHORT_S = 2.5, 1.0  # of input and output up to the newest sample that the model has seen; around the samples in question
LOWPASS = (1, 6, 15, 20, 15, 6, 1)  # / 64: 12 Hz at 125 Hz
EVERY = 5  # samples, for the search of a rhythm
RHYTHM_S = (0.32, 1.84)  # from one beat to the next
LEAST = 1e-6  # of a ratio of powers
FEATURES = {
    "confidence": "mean of the confidence that there is already, from the samples in question on to half a second beyond "
    "their middle",
    "confidence_row": "the same of 2.5 s",
    "alone": "share of samples that one window alone has answered",
    "residual_1s": "log power of input - output over that of the output, 1 s around the samples in question",
    "residual": "the same of 2.5 s",
    "rough": "log power of the first difference of what lies above 12 Hz in the input, over that of the output, 1 s",
    "rhythm": "largest normalised autocorrelation of the output at lags of 0.32 to 1.84 s",
    "input_rhythm": "the same of the input",
    "spread": "log of the largest over the smallest power of the output in thirds of 2.5 s",
    "likeness": "correlation of input and output, 1 s",
    "not_measured": "share of samples that were not measured, or equal the one before, 1 s",
}


class Seen(NamedTuple):
    """Of each row the newest samples, (n, m): input and output so far in the sensor's units, the confidence that there is
    already, the samples' states as in `measured`, and whether one window alone has answered. (n,), as indexes of the session,
    modulo 2^62: the samples in question are `start` to `stop`, and the row ends at `newest`."""

    x: Float64
    y: Float64
    confidence: Float64
    state: NDArray[np.uint8]
    alone: NDArray[np.bool_]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    newest: NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """P(good) = 1 / (1 + exp(-(bias + sum of weight * feature))), of streams of `fs` Hz."""

    bias: float
    weights: Mapping[str, float]
    fs: float = 125.0

    @property
    def plain(self) -> bool:
        """The confidence of a sample alone decides: no rows are needed."""
        return set(self.weights) <= {"confidence"}

    @property
    def row(self) -> int:
        """How many samples a row of `Seen` has; 0 where none are needed."""
        return 0 if self.plain else round(ROW_S * self.fs)

    @property
    def beyond(self) -> int:
        """How many samples beyond the middle of those in question their confidence is averaged over."""
        return round(SHORT_S * self.fs) // 2 + 1

    def of_confidence(self, confidence: float) -> float:
        """For a plain one: P(good) of the samples whose feature "confidence" this is."""
        z = self.bias + self.weights.get("confidence", 0.0) * confidence
        return 1.0 / (1.0 + math.exp(-min(max(z, -40.0), 40.0)))

    def of(self, seen: Seen) -> Float64:
        """P(good) of each row, (n,)."""
        return self.of_features(features(seen, self.fs))

    def of_features(self, found: Mapping[str, Float64]) -> Float64:
        """P(good) of rows whose `FEATURES` these are, (n,)."""
        return Logistic(self.bias, self.weights).of(found)


def calibration_for(stated: Mapping[str, Any], lookahead: int, window: int, fs: float) -> Calibration | None:
    """The calibration for a lookahead, of those that a checkpoint states by lookahead ("249": {"bias": .., "weights": {..}}): the
    longest one that is not longer, or the shortest. None if it states none.

    Raises ValueError for anything else than a bias, and weights by known names."""
    by_lookahead: dict[int, Calibration] = {}
    for key, entry in stated.items():
        if key in FITTED:
            continue  # of beats and rates
        if not isinstance(key, str) or not key.isascii() or not key.isdigit() or int(key) >= window:
            raise ValueError(f"calibration: {key!r} is no lookahead shorter than the window of {window} samples")
        by_lookahead[int(key)] = Calibration(*logistic_of(key, entry, FEATURES), fs)
    if not by_lookahead:
        return None
    return by_lookahead[max((a for a in by_lookahead if a <= lookahead), default=min(by_lookahead))]


def features(seen: Seen, fs: float) -> dict[str, Float64]:
    """`FEATURES` of each row, (n,) each."""
    smooth_x, smooth_y = _lowpass(seen.x), _lowpass(seen.y)
    above = seen.x - smooth_x
    x, y = _level(smooth_x), _level(smooth_y)
    short = min(round(SHORT_S * fs), seen.x.shape[1])
    each, length = np.arange(len(seen.x)), seen.x.shape[1]
    first, last = (v - (seen.newest - length) for v in (seen.start, seen.stop))
    first = np.clip(first, 0, length - 1)  # with a hop as long as the window, they may lie before the row
    last = np.clip(last, first + 1, length)
    middle = (first + last) // 2
    until = np.minimum(middle + round(SHORT_S * fs) // 2 + 1, length)
    sums = np.concatenate([np.zeros((len(seen.x), 1)), np.cumsum(seen.confidence, axis=1)], axis=1)
    at = np.clip(middle - short // 2, 0, seen.x.shape[1] - short)[:, None] + np.arange(short)

    def near(v: NDArray[Any]) -> NDArray[Any]:
        return np.take_along_axis(v, at, axis=1)

    rest = x - y
    near_x, near_y = near(x), near(y)
    power_y, near_power_y = _power(y), _power(near_y)
    floor = 1e-12 * (_power(x) + power_y) + 1e-300

    def ratio(of: Float64, over: Float64) -> Float64:
        return np.log(np.maximum(of / (over + floor), LEAST))

    thirds = np.stack([_power(part) for part in np.array_split(y, 3, axis=1)], axis=1)
    raw = near(seen.x)
    held = (near(seen.state)[:, 1:] != MEASURED) | (raw[:, 1:] == raw[:, :-1])
    return {
        "confidence": (sums[each, until] - sums[each, first]) / (until - first),
        "confidence_row": seen.confidence.mean(axis=1),
        "alone": seen.alone.mean(axis=1),
        "residual_1s": ratio(_power(near(rest)), near_power_y),
        "residual": ratio(_power(rest), power_y),
        "rough": ratio(_power(np.diff(near(above), axis=1)), near_power_y),
        "rhythm": _rhythm(y, fs),
        "input_rhythm": _rhythm(x, fs),
        "spread": ratio(thirds.max(axis=1), thirds.min(axis=1)),
        "likeness": _covariance(near_x, near_y) / np.sqrt(np.maximum(_power(near_x) * near_power_y, 1e-300)),
        "not_measured": held.mean(axis=1),
    }


def _lowpass(x: Float64) -> Float64:
    side = len(LOWPASS) // 2
    padded = np.concatenate([np.repeat(x[:, :1], side, axis=1), x, np.repeat(x[:, -1:], side, axis=1)], axis=1)
    found = np.zeros_like(x)
    for k, weight in enumerate(LOWPASS):
        found += weight / 64 * padded[:, k : k + x.shape[1]]
    return found


def _level(x: Float64) -> Float64:
    """Without mean and slope."""
    t = np.linspace(-1.0, 1.0, x.shape[1])
    x = x - x.mean(axis=1, keepdims=True)
    return np.asarray(x - t * ((x * t).sum(axis=1, keepdims=True) / (t * t).sum()), np.float64)


def _covariance(a: Float64, b: Float64) -> Float64:
    return np.asarray(((a - a.mean(axis=1, keepdims=True)) * (b - b.mean(axis=1, keepdims=True))).mean(axis=1), np.float64)


def _power(x: Float64) -> Float64:
    return _covariance(x, x)


def _rhythm(x: Float64, fs: float) -> Float64:
    """The largest normalised autocorrelation of each row at the lags of `RHYTHM_S`."""
    x = x[:, ::EVERY] - x[:, ::EVERY].mean(axis=1, keepdims=True)
    n, rate = x.shape[1], fs / EVERY
    energy = np.cumsum(x * x, axis=1)
    best = np.zeros(len(x))
    for lag in range(round(RHYTHM_S[0] * rate), min(round(RHYTHM_S[1] * rate), n - 8) + 1):
        product = (x[:, :-lag] * x[:, lag:]).sum(axis=1)
        energies = energy[:, n - lag - 1] * (energy[:, -1] - energy[:, lag - 1])
        best = np.maximum(best, product / np.sqrt(np.maximum(energies, 1e-300)))
    return np.where(energy[:, -1] > 1e-300, best, 0.0)


def joined(rows: Sequence[Seen]) -> Seen:
    """Rows of several segments as one."""
    return Seen(*(np.concatenate(parts) for parts in zip(*rows, strict=True)))
