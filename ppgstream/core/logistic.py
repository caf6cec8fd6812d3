"""A logistic regression as a checkpoint states it: a bias, and weights of features by their names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
LARGEST = 40.0  # of what goes into exp


def probability(odds: Float64) -> Float64:
    """Of the logarithms of odds (n,)."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(odds, -LARGEST, LARGEST))), np.float64)


class Logistic(NamedTuple):
    """P = 1 / (1 + exp(-(bias + sum of weight * feature)))."""

    bias: float
    weights: Mapping[str, float]

    def linear(self, found: Mapping[str, Float64]) -> Float64:
        """bias + sum of weight * feature, (n,), of features (n,) by their names."""
        return np.asarray(self.bias + sum(weight * found[name] for name, weight in self.weights.items()), np.float64)

    def of(self, found: Mapping[str, Float64]) -> Float64:
        """P, (n,)."""
        return probability(self.linear(found))


def logistic_of(key: str, entry: Any, known: Iterable[str]) -> Logistic:
    """What a checkpoint's calibration states under `key`: {"bias": .., "weights": {name: ..}}, names of `known`. Raises
    ValueError for anything else."""
    try:
        bias, weights = float(entry["bias"]), {str(name): float(value) for name, value in entry["weights"].items()}
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"calibration: {key}: must be a bias and weights, numbers by their names") from error
    if unknown := set(weights) - set(known):
        raise ValueError(f"calibration: {key}: {sorted(unknown)[0]!r} is none of {', '.join(known)}")
    if not all(map(math.isfinite, (bias, *weights.values()))):
        raise ValueError(f"calibration: {key}: not finite")
    return Logistic(bias, weights)
