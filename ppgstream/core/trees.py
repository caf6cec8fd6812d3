"""A sum of small decision trees as a checkpoint states it: what a logistic regression is, for features whose meaning depends on
other features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.logistic import Logistic, logistic_of, probability

Float64 = NDArray[np.float64]
DEEPEST, MOST_TREES = 6, 1000


class Trees(NamedTuple):
    """`bias` + a leaf of each of `n` trees of the same depth d. names: of the features. split: (n, 2^d - 1), which feature
    decides at a node, and `above`, the value above which it goes to the right; nodes in rows from the root down. leaf: (n, 2^d).
    """

    names: Sequence[str]
    bias: float
    split: NDArray[np.int64]
    above: Float64
    leaf: Float64

    def linear(self, found: Mapping[str, Float64]) -> Float64:
        """bias + sum of leaves, (n,), of features (n,) by their names."""
        x = np.stack([found[name] for name in self.names], axis=1)
        sums = np.empty(len(x))
        _sums(np.ascontiguousarray(x, np.float64), self.split, self.above, self.leaf, self.bias, sums)
        return sums

    def of(self, found: Mapping[str, Float64]) -> Float64:
        """P = 1 / (1 + exp(-linear)), (n,)."""
        return probability(self.linear(found))


def _sums(x: Float64, split: NDArray[np.int64], above: Float64, leaf: Float64, bias: float, sums: Float64) -> None:
    """`bias` and the leaves that rows of features (n, features) come to, into `sums` (n,)."""
    trees, nodes = split.shape[0], split.shape[1]
    for row in range(x.shape[0]):
        total = bias
        for tree in range(trees):
            node = 0
            while node < nodes:
                node = 2 * node + 1 + (x[row, split[tree, node]] > above[tree, node])
            total += leaf[tree, node - nodes]
        sums[row] = total


Classifier = Logistic | Trees


def classifier_of(key: str, entry: Any, known: Iterable[str]) -> Classifier:
    """What a checkpoint's calibration states under `key`: a bias and weights (`logistic_of`), or {"names": [..], "bias": ..,
    "trees": [..]}, each tree a text as `stated` writes it. Raises ValueError for anything else."""
    if not isinstance(entry, Mapping) or "trees" not in entry:
        return logistic_of(key, entry, known)
    try:
        names, bias = [str(name) for name in entry["names"]], float(entry["bias"])
        parts = [text.split(":") for text in entry["trees"]]
        nodes = [[node.split(">") for node in text.split()] for text, _ in parts]
        split, above = (np.array([[float(node[k]) for node in row] for row in nodes], np.float64) for k in (0, 1))
        leaf = np.array([[float(value) for value in text.split()] for _, text in parts], np.float64)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"calibration: {key}: must be names, a bias, and trees such as '0>1.5 2>0 1>-3 : .1 .2 .3 .4'"
        ) from error
    if unknown := set(names) - set(known):
        raise ValueError(f"calibration: {key}: {sorted(unknown)[0]!r} is none of {', '.join(known)}")
    depth = leaf.shape[1].bit_length() - 1 if leaf.ndim == 2 else 0
    shape = (len(leaf), 2**depth)
    if not 1 <= depth <= DEEPEST or len(leaf) > MOST_TREES or leaf.shape != shape or split.shape != (len(leaf), shape[1] - 1):
        raise ValueError(f"calibration: {key}: trees: must be at most {MOST_TREES} of the same depth, 1 to {DEEPEST}")
    if not (np.isfinite(bias) and np.isfinite(above).all() and np.isfinite(leaf).all()):
        raise ValueError(f"calibration: {key}: not finite")
    if not np.isin(split, np.arange(len(names))).all():
        raise ValueError(f"calibration: {key}: trees: a feature's number is none of 0 to {len(names) - 1}")
    return Trees(tuple(names), bias, split.astype(np.int64), above, leaf)


def stated(trees: Trees) -> dict[str, Any]:
    """As `classifier_of` reads it. A tree's nodes, "feature>value", in rows from the root down; then a colon and its leaves from
    left to right."""
    texts = [
        " ".join(f"{k}>{v:.5g}" for k, v in zip(split, above, strict=True)) + " : " + " ".join(f"{v:.4g}" for v in leaf)
        for split, above, leaf in zip(trees.split.tolist(), trees.above.tolist(), trees.leaf.tolist(), strict=True)
    ]
    return {"names": list(trees.names), "bias": round(trees.bias, 6), "trees": texts}
