"""Logistic regressions and trees for calibrations: fitted with scikit-learn, stated as `core.logistic` and `core.trees` apply
them, judged without the person that is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.logistic import Logistic
from ppgstream.core.trees import Trees, classifier_of
from ppgstream.core.trees import stated as stated_trees
from ppgstream.errors import CheckpointError

Float64 = NDArray[np.float64]
FOLDS = 5


class Rows(NamedTuple):
    """Features (n, len(names)) by their `names`, whether each row is right (n,), and whose it is (n,): "set person", or a person
    alone."""

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


def fit(rows: Rows, names: Sequence[str] | None = None) -> dict[str, Any]:
    """The coefficients for the features `names` (None: all). Raises CheckpointError without scikit-learn."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise CheckpointError(
            f"scikit-learn cannot be imported, and a calibration needs it: {error}; pip install scikit-learn"
        ) from error
    names = rows.names if names is None else names
    x, mean, sd = standardised(rows.features[:, [list(rows.names).index(name) for name in names]])
    fitted = LogisticRegression().fit(x, rows.right, sample_weight=rows.weight)
    return stated(float(fitted.intercept_[0]), fitted.coef_[0], mean, sd, names)


def applied(rows: Rows, coefficients: Mapping[str, Any]) -> Float64:
    """P(right) of each row."""
    return Logistic(coefficients["bias"], coefficients["weights"]).of(dict(zip(rows.names, rows.features.T, strict=True)))


def judged(rows: Rows, names: Sequence[str] | None = None) -> Float64:
    """P(right) of each row by coefficients that were fitted without its person."""
    from sklearn.model_selection import GroupKFold

    folds = min(FOLDS, len(set(rows.person)))
    if folds < 2:
        return applied(rows, fit(rows, names))
    found = np.full(len(rows.right), float(rows.right.mean()))
    for kept, left_out in GroupKFold(folds).split(rows.features, groups=rows.person):
        if rows.at(kept).both:
            found[left_out] = applied(rows.at(left_out), fit(rows.at(kept), names))
    return found


TREES, DEPTH, LEARNING_RATE, LEAST_IN_LEAF = 80, 4, 0.12, 60
MOST_ROWS = 150_000  # that trees are fitted on; of more, so many at random


def fit_trees(rows: Rows, *, quantile: float | None = None, values: Float64 | None = None) -> dict[str, Any]:
    """Trees for P(right) of rows, as a checkpoint states them; with `quantile` and `values` (n,) for that quantile of the values
    in place of it. Raises CheckpointError without scikit-learn."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    except ImportError as error:
        raise CheckpointError(
            f"scikit-learn cannot be imported, and a calibration needs it: {error}; pip install scikit-learn"
        ) from error
    which = np.arange(len(rows.right))
    if len(which) > MOST_ROWS:
        which = np.sort(np.random.default_rng(0).choice(which, MOST_ROWS, replace=False))
    some = rows.at(which)
    options: dict[str, Any] = {
        "max_iter": TREES,
        "max_depth": DEPTH,
        "learning_rate": LEARNING_RATE,
        "min_samples_leaf": min(LEAST_IN_LEAF, max(len(which) // 20, 2)),
        "early_stopping": False,
        "random_state": 0,
    }
    if quantile is None or values is None:
        model: Any = HistGradientBoostingClassifier(**options)
        model.fit(some.features, some.right, sample_weight=some.weight)
        raw = model.decision_function(some.features[:RECHECKED])
    else:
        model = HistGradientBoostingRegressor(loss="quantile", quantile=quantile, **options)
        model.fit(some.features, values[which], sample_weight=some.weight)
        raw = model.predict(some.features[:RECHECKED])
    trees = _as_trees(model, rows.names)
    own = trees.linear(dict(zip(rows.names, some.features[:RECHECKED].T, strict=True)))
    if not np.allclose(own, raw, atol=1e-6):  # their nodes are no public part of scikit-learn
        raise CheckpointError(
            "this release of scikit-learn keeps its trees in another way: their answers differ; install the locked one"
        )
    return stated_trees(trees)


RECHECKED = 2000  # rows, of whose answers all must be those of scikit-learn


def _as_trees(model: Any, names: Sequence[str]) -> Trees:
    """scikit-learn's trees, which end at any depth, as trees of one depth."""
    nodes, leaves = 2**DEPTH - 1, 2**DEPTH
    split, above, leaf = (np.zeros((TREES, n)) for n in (nodes, nodes, leaves))
    for number, (predictor,) in enumerate(model._predictors):
        own = predictor.nodes
        at = {0: 0}
        for node in range(nodes + leaves):
            k = at[node]
            here = own[k]
            if node >= nodes:
                leaf[number, node - nodes] = here["value"]
            elif here["is_leaf"]:
                at[2 * node + 1] = at[2 * node + 2] = k
            else:
                split[number, node], above[number, node] = here["feature_idx"], here["num_threshold"]
                at[2 * node + 1], at[2 * node + 2] = int(here["left"]), int(here["right"])
    return Trees(tuple(names), float(np.ravel(model._baseline_prediction)[0]), split.astype(np.int64), above, leaf)


def with_bands(fitted: Mapping[str, Any], feature: str, borders: tuple[float, float], added: Sequence[float]) -> dict[str, Any]:
    """Trees, as a checkpoint states them, that add one of three values: where a feature is at most the first border, up to the
    second, or above."""
    number, (low, high) = list(fitted["names"]).index(feature), borders
    inner = [high, low, high] + [high] * (2**DEPTH - 4)  # only the root and the node to its left decide
    quarter = 2**DEPTH // 4
    leaves = [added[0]] * quarter + [added[1]] * quarter + [added[2]] * (2 * quarter)
    tree = " ".join(f"{number}>{value:.5g}" for value in inner) + " : " + " ".join(f"{value:.4g}" for value in leaves)
    return {**fitted, "trees": [*fitted["trees"], tree]}


def judged_trees(rows: Rows) -> Float64:
    """P(right) of each row by trees that were fitted without its person."""
    from sklearn.model_selection import GroupKFold

    features = dict(zip(rows.names, rows.features.T, strict=True))
    folds = min(FOLDS, len(set(rows.person)))
    if folds < 2:
        return classifier_of("fitted", fit_trees(rows), rows.names).of(features)
    found = np.full(len(rows.right), float(rows.right.mean()))
    for kept, left_out in GroupKFold(folds).split(rows.features, groups=rows.person):
        if rows.at(kept).both:
            trees = classifier_of("fitted", fit_trees(rows.at(kept)), rows.names)
            found[left_out] = trees.of({name: value[left_out] for name, value in features.items()})
    return found
