"""The linear estimate, against its definition and against what must not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ppgstream.core.denoiser import Batch
from ppgstream.errors import CheckpointError
from ppgstream.lab import noise, scores, synthetic
from ppgstream.model import lmmse, runtime
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import SHIPPED
from ppgstream.model.folder import write
from ppgstream.model.networks import build
from ppgstream.model.restore import restore


def people(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([synthetic.pulse(250, synthetic.person(rng), rng)[0] for _ in range(n)])


@pytest.fixture(scope="module")
def prior() -> dict[str, np.ndarray]:
    return lmmse.prior_of(people(600, 1))


def test_the_prior_has_the_mean_and_the_covariance_of_its_windows(prior: dict[str, np.ndarray]) -> None:
    x = noise.minmax(people(600, 1))
    np.testing.assert_allclose(prior["mean"], x.mean(axis=0), atol=1e-6)
    covariance = prior["components"].astype(float) @ prior["components"].T.astype(float)
    np.testing.assert_allclose(covariance, np.cov(x, rowvar=False), atol=2e-3)


def test_it_is_the_conditional_mean_of_pulse_and_level(prior: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """With noise and height known, the answer is what the textbook's formula gives, computed with whole covariances."""
    monkeypatch.setattr(lmmse, "noise_sd", lambda x, known: np.full((len(x), 1), lmmse.NOISE_OVER_HEIGHT))
    monkeypatch.setattr(lmmse, "_sd_of_pulse", lambda x, known, sd: np.zeros((len(x), 1)))
    rng = np.random.default_rng(2)
    x = (people(3, 3) + rng.standard_normal((3, 250)) / 3).astype(np.float32)
    known = rng.random((3, 250)) < 0.8
    answer = lmmse.denoiser(prior)(Batch(x, known))
    pulse = prior["components"].astype(float) @ prior["components"].T.astype(float)
    ramp = np.linspace(0, 1, 250)
    under = lmmse.LEVEL + lmmse.RAMP * np.outer(ramp, ramp)
    for row, k, y in zip(x.astype(float), known, answer.y, strict=True):
        centre = row[k].mean()
        mean = prior["mean"].astype(float) - prior["mean"].astype(float).mean()
        inverse = np.linalg.inv((pulse + under)[np.ix_(k, k)] + lmmse.NOISE_OVER_HEIGHT**2 * np.eye(k.sum()))
        weights = inverse @ (row[k] - centre - mean[k])
        level = (under[:, k] @ weights).mean()  # the mean level stays, the slope goes
        np.testing.assert_allclose(y, centre + mean + pulse[:, k] @ weights + level, atol=2e-5)


def test_it_denoises_new_people_and_says_where_it_does_not(prior: dict[str, np.ndarray]) -> None:
    clean = people(100, 7)
    drawn = noise.n1(clean, np.random.default_rng(3), clip=False)
    known = np.ones(clean.shape, np.bool_)
    denoise = lmmse.denoiser(prior)
    answer = denoise(Batch(drawn.noisy.astype(np.float32), known))
    assert scores.gain_db(drawn.noisy, answer.y.astype(float), clean) > 6
    assert answer.log_var is not None
    nothing = denoise(Batch(np.random.default_rng(4).standard_normal((100, 250)).astype(np.float32), known))
    assert nothing.log_var is not None
    assert np.median(nothing.log_var) > np.median(answer.log_var) + 1


def test_what_was_not_measured_does_not_matter(prior: dict[str, np.ndarray]) -> None:
    x = people(4, 8).astype(np.float32)
    known = np.ones(x.shape, np.bool_)
    known[:, 60:100] = False
    spoiled = x.copy()
    spoiled[:, 60:100] = 50.0
    denoise = lmmse.denoiser(prior)
    a, b = denoise(Batch(x, known)), denoise(Batch(spoiled, known))
    np.testing.assert_array_equal(a.y, b.y)
    np.testing.assert_array_equal(a.log_var, b.log_var)


@pytest.mark.parametrize("x", [np.zeros((1, 250)), np.full((1, 250), 7.0), np.linspace(0, 1, 250)[None]])
def test_no_input_makes_it_anything_but_finite(prior: dict[str, np.ndarray], x: np.ndarray) -> None:
    for known in (np.ones((1, 250), np.bool_), np.zeros((1, 250), np.bool_)):
        answer = lmmse.denoiser(prior)(Batch(x.astype(np.float32), known))
        assert np.isfinite(answer.y).all()
        assert np.isfinite(answer.log_var).all()


def test_as_a_checkpoint_its_answer_does_not_depend_on_the_rest_of_the_batch() -> None:
    denoise = runtime.denoiser(restore(SHIPPED / "lmmse"))
    rng = np.random.default_rng(5)
    x, known = rng.standard_normal((150, 250)).astype(np.float32), rng.random((150, 250)) < 0.9
    together = denoise(Batch(x, known))
    for row in (0, 1, 63, 64, 149):
        alone = denoise(Batch(x[row : row + 1], known[row : row + 1]))
        np.testing.assert_array_equal(alone.y[0], together.y[row])
        assert alone.log_var is not None
        assert together.log_var is not None
        np.testing.assert_array_equal(alone.log_var[0], together.log_var[row])


def test_tensors_of_other_shapes_are_refused(tmp_path: Path, prior: dict[str, np.ndarray]) -> None:
    write(tmp_path, {"mean": prior["mean"]}, Architecture("lmmse"))
    with pytest.raises(CheckpointError, match="tensors do not match a 'lmmse' network, starting with 'components'"):
        runtime.denoiser(restore(tmp_path))


def test_it_has_no_network() -> None:
    with pytest.raises(CheckpointError, match="no network"):
        build(Architecture("lmmse"))
