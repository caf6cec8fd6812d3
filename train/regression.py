"""Logistic regressions for calibrations: fitted with scikit-learn, stated as `core.logistic` applies them, judged without the person that is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.logistic import Logistic
from ppgstream.errors import CheckpointError

Float64 = NDArray[np.float64]
FOLDS = 5


class Rows(NamedTuple):
    """Features (n, len(names)) by their `names`, whether each row is right (n,), and whose it is (n,): "set person", or a person alone."""

    names: Sequence[str]
    features: Float64
    right: NDArray[np.bool_]
    person: NDArray[np.str_]

    def at(self, which: NDArray[Any]) -> Rows:
        return Rows(self.names, self.features[which], self.right[which], self.person[which])

    @property
    def both(self) -> bool:
        """There are right ones and others."""
        return bool(self.right.any() and not self.right.all())

    @property
    def set(self) -> NDArray[np.str_]:
        """The data set of each row's person; "" where none is named."""
        return sets_of(self.person)

    @property
    def weight(self) -> Float64:
        """Of each row, so that all sets count the same, whatever the length of their recordings; 1 on average."""
        _, which, count = np.unique(self.set, return_inverse=True, return_counts=True)
        return np.asarray(len(self.person) / len(count) / count[which], np.float64)


def sets_of(person: NDArray[np.str_]) -> NDArray[np.str_]:
    return np.array([name.rpartition(" ")[0].partition(" ")[0] for name in person.tolist()], np.str_)


def standardised(x: Float64) -> tuple[Float64, Float64, Float64]:
    """Columns of `x` (n, k) with mean 0 and SD 1; their means and SDs (k,)."""
    mean, sd = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    return (x - mean) / sd, mean, sd


def stated(intercept: float, weights: Float64, mean: Float64, sd: Float64, names: Sequence[str]) -> dict[str, Any]:
    """Coefficients of standardised features as those of features as they are: {"bias": .., "weights": {name: ..}}."""
    plain = weights / sd
    bias = float(intercept - (plain * mean).sum())
    return {"bias": round(bias, 6), "weights": {name: round(float(w), 6) for name, w in zip(names, plain, strict=True)}}


def fit(rows: Rows, names: Sequence[str] | None = None, *, wrong_counts: float = 1.0) -> dict[str, Any]:
    """The coefficients for the features `names` (None: all). A row that is not right counts `wrong_counts` times. Raises CheckpointError without
    scikit-learn."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise CheckpointError(
            f"scikit-learn cannot be imported, and a calibration needs it: {error}; pip install scikit-learn"
        ) from error
    names = rows.names if names is None else names
    x, mean, sd = standardised(rows.features[:, [list(rows.names).index(name) for name in names]])
    fitted = LogisticRegression().fit(x, rows.right, sample_weight=rows.weight * np.where(rows.right, 1.0, wrong_counts))
    return stated(float(fitted.intercept_[0]), fitted.coef_[0], mean, sd, names)


def applied(rows: Rows, coefficients: Mapping[str, Any]) -> Float64:
    """P(right) of each row."""
    return Logistic(coefficients["bias"], coefficients["weights"]).of(dict(zip(rows.names, rows.features.T, strict=True)))


def judged(rows: Rows, names: Sequence[str] | None = None, *, wrong_counts: float = 1.0) -> Float64:
    """P(right) of each row by coefficients that were fitted without its person."""
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(set(rows.person)))
    if folds < 2:
        return applied(rows, fit(rows, names, wrong_counts=wrong_counts))
    found = np.full(len(rows.right), float(rows.right.mean()))
    for kept, left_out in GroupKFold(folds).split(rows.features, groups=rows.person):
        if rows.at(kept).both:
            found[left_out] = applied(rows.at(left_out), fit(rows.at(kept), names, wrong_counts=wrong_counts))
    return found
