"""Trees as a checkpoint states them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from ppgstream.train import regression
from typer.testing import CliRunner

from ppgstream.cli.app import app
from ppgstream.core.logistic import Logistic
from ppgstream.core.trees import Trees, classifier_of, stated

KNOWN = ("a", "b", "c")
ONE: dict[str, Any] = {"names": ["a", "b"], "bias": 0.5, "trees": ["0>1 1>0 1>2 : 1 2 3 4"]}


def test_a_tree_goes_right_above_its_value() -> None:
    trees = classifier_of("rate", ONE, KNOWN)
    found = {"a": np.array([0.0, 1.0, 1.1, 2.0]), "b": np.array([0.0, 0.1, 2.0, 2.1])}
    assert trees.linear(found).tolist() == [1.5, 2.5, 3.5, 4.5]
    assert trees.of(found) == pytest.approx(1 / (1 + np.exp(-np.array([1.5, 2.5, 3.5, 4.5]))))
    assert isinstance(trees, Trees)
    assert stated(trees) == ONE


def test_weights_are_still_a_logistic_regression() -> None:
    assert classifier_of("rate", {"bias": 1, "weights": {"a": 2}}, KNOWN) == Logistic(1.0, {"a": 2.0})


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["a", "x"]},
        {"names": None},
        {"bias": "nan"},
        {"bias": None},
        {"trees": []},
        {"trees": ["0>1 : 1 2 3"]},
        {"trees": ["0>1 1>0 : 1 2 3 4"]},
        {"trees": ["0>1 1>0 1>2 : 1 2 3 4", "0>1 : 1 2"]},
        {"trees": ["2>1 1>0 1>2 : 1 2 3 4"]},
        {"trees": ["0.5>1 1>0 1>2 : 1 2 3 4"]},
        {"trees": ["0>nan 1>0 1>2 : 1 2 3 4"]},
        {"trees": ["0>1 1>0 1>2 : 1 2 3 inf"]},
        {"trees": ["0 1 2 : 1 2 3 4"]},
        {"trees": [3]},
        {"trees": ["0>1"]},
        {"trees": [": 1"]},
        {"trees": ["0>1 : 1 2"] * 1001},
        {"trees": [" ".join(["0>1"] * 127) + " : " + " ".join(["1"] * 128)]},
    ],
)
def test_what_is_no_tree_is_refused_in_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^calibration: rate: ") as refused:
        classifier_of("rate", ONE | change, KNOWN)
    assert "\n" not in str(refused.value)


def rows(n: int = 3000, seed: int = 0) -> regression.Rows:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    right = x[:, 0] * x[:, 1] + 0.3 * rng.standard_normal(n) > 0
    return regression.Rows(KNOWN, x, right, np.array([f"set {k % 20}" for k in range(n)]))


def test_fitted_trees_find_what_depends_on_two_features_and_a_row_s_answer_is_its_own() -> None:
    made, other = rows(), rows(seed=1)
    trees = classifier_of("rate", regression.fit_trees(made), KNOWN)
    found = dict(zip(KNOWN, other.features.T, strict=True))
    probability = trees.of(found)
    assert ((probability > 0.5) == other.right).mean() > 0.78
    plain = regression.judged(made)
    assert ((plain > 0.5) == made.right).mean() < 0.6
    assert ((regression.judged_trees(made) > 0.5) == made.right).mean() > 0.76
    for k in range(50):
        assert trees.of({name: value[k : k + 1] for name, value in found.items()})[0] == probability[k]


def test_trees_for_a_quantile_say_below_what_so_many_lie() -> None:
    made = rows()
    rng = np.random.default_rng(2)
    values = np.abs(made.features[:, 0]) + rng.exponential(1.0, len(made.right))
    trees = classifier_of("interval", regression.fit_trees(made, quantile=0.68, values=values), KNOWN)
    below = values <= trees.linear(dict(zip(KNOWN, made.features.T, strict=True)))
    assert below.mean() == pytest.approx(0.68, abs=0.04)
    wide = np.abs(made.features[:, 0]) > 1
    assert below[wide].mean() == pytest.approx(0.68, abs=0.08)


def test_a_checkpoint_s_trees_are_shown_by_their_number() -> None:
    """Their nodes would fill a hundred screens."""
    shown = CliRunner().invoke(app, ["checkpoint", "show", "default"])
    assert shown.exit_code == 0
    assert "rate: 81 trees of " in shown.output
    assert "'trees'" not in shown.output
    assert (
        "trees" in json.loads(CliRunner().invoke(app, ["checkpoint", "show", "default", "--json"]).output)["calibration"]["rate"]
    )


def test_a_value_is_added_in_bands_of_one_feature() -> None:
    made = rows()
    fitted = regression.fit_trees(made)
    plain = classifier_of("rate", fitted, KNOWN)
    lowered = classifier_of("rate", regression.with_bands(fitted, "b", (-0.5, 1.0), (-3.0, -2.0, -0.25)), KNOWN)
    found = dict(zip(KNOWN, made.features.T, strict=True))
    b = found["b"]
    expected = np.where(b > 1.0, -0.25, np.where(b > -0.5, -2.0, -3.0))
    assert lowered.linear(found) - plain.linear(found) == pytest.approx(expected, abs=1e-9)
