"""Amplitude: into the model's domain and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ppgstream.core.scaling import denormalise, fit_to_input, normalise, scale_of, standard_scale_of

windows = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 40)), elements=st.floats(-1e6, 1e6, width=32))


@given(windows)
def test_denormalise_undoes_normalise_to_float32(x: np.ndarray) -> None:
    scale = scale_of(x, np.ones(x.shape, bool))
    normalised = normalise(x, scale)
    assert np.isfinite(normalised).all()
    assert normalised.min() >= -1e-6
    assert normalised.max() <= 1 + 1e-6
    np.testing.assert_allclose(denormalise(normalised, scale), x, atol=1e-6 * np.ptp(x) + 1e-9)


def test_a_flat_window_becomes_a_half_and_comes_back() -> None:
    x = np.full((1, 50), 512.0)
    scale = scale_of(x, np.ones(x.shape, bool))
    assert scale.flat.all()
    np.testing.assert_array_equal(normalise(x, scale), np.float32(0.5))
    np.testing.assert_array_equal(denormalise(normalise(x, scale), scale), x)


def test_a_window_without_a_valid_sample_is_flat_and_not_a_nan() -> None:
    x = np.arange(10.0)[None]
    scale = scale_of(x, np.zeros((1, 10), bool))
    assert scale.flat.all()
    assert np.isfinite(normalise(x, scale)).all()


def test_invalid_samples_do_not_set_the_scale() -> None:
    x = np.array([[0.0, 1.0, 1000.0]])
    scale = scale_of(x, np.array([[True, True, False]]))
    assert scale.gain[0, 0] == 1.0


def test_a_rows_scale_and_fit_depend_on_that_row_alone_bit_for_bit() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 250)) * 37 + 400, rng.standard_normal((64, 250)).astype(np.float32)
    usable = rng.uniform(size=x.shape) > 0.1
    together = fit_to_input(y, x, usable)
    for i in (0, 13, 63):
        np.testing.assert_array_equal(fit_to_input(y[i : i + 1], x[i : i + 1], usable[i : i + 1])[0], together[i])
        np.testing.assert_array_equal(scale_of(x[i : i + 1], usable[i : i + 1]).gain[0], scale_of(x, usable).gain[i])


def test_an_answer_in_0_to_1_comes_back_with_the_inputs_amplitude_and_level() -> None:
    rng = np.random.default_rng(1)
    t = np.arange(250) / 125
    clean = np.sin(2 * np.pi * 1.3 * t)
    x = 2048 + 120 * clean + 40 * rng.standard_normal(250) + np.linspace(-90, 90, 250)
    answer = (clean * 0.5 + 0.5).astype(np.float32)
    usable = np.ones(250, bool)
    usable[60:100] = False
    x[60:100] = 2500  # clipped: must not pull the fit
    back = fit_to_input(answer[None], x[None], usable[None])[0]
    np.testing.assert_allclose(back, 2048 + 120 * clean, atol=25)


def test_the_fit_does_not_care_for_units() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((3, 250)), rng.standard_normal((3, 250)).astype(np.float32)
    usable = np.ones(x.shape, bool)
    plain = fit_to_input(y, x, usable)
    for gain, offset in ((1e-9, 0.0), (1e9, 1e12), (0.01, -3.0)):
        np.testing.assert_allclose(fit_to_input(y, x * gain + offset, usable), plain * gain + offset, rtol=1e-6, atol=1e-6 * gain)


def test_an_answer_that_runs_against_the_input_becomes_flat_instead_of_upside_down() -> None:
    t = np.sin(np.arange(250) / 8)
    back = fit_to_input(-t[None].astype(np.float32), 5 + t[None], np.ones((1, 250), bool))
    assert np.ptp(back) < 1e-9


def test_the_standard_scale_is_mean_and_sd_of_what_was_measured_without_a_line() -> None:
    rng = np.random.default_rng(3)
    t = np.arange(250)
    wave = 3 * np.sin(t / 9) + 1e6
    x = np.stack([wave, wave + 0.4 * t, wave])
    valid = np.ones(x.shape, bool)
    x[2, 100:130], valid[2, 100:130] = 1e9, False  # a rail that was not measured does not count
    scale = standard_scale_of(x, valid)
    for row in range(3):
        own = np.polynomial.polynomial.Polynomial.fit(t[valid[row]], x[row, valid[row]], 1)
        rest = x[row, valid[row]] - own(t[valid[row]])
        assert scale.offset[row, 0] == pytest.approx(x[row, valid[row]].mean(), rel=1e-12)
        assert scale.gain[row, 0] == pytest.approx(np.sqrt((rest**2).mean()), rel=1e-6)
    np.testing.assert_allclose(denormalise(normalise(x, scale), scale)[0], x[0], atol=1e-5)
    shuffled = rng.permutation(3)
    np.testing.assert_array_equal(standard_scale_of(x[shuffled], valid[shuffled]).gain, scale.gain[shuffled])


def test_the_standard_scale_of_nothing_or_of_a_line_is_flat() -> None:
    x = np.stack([np.ones(50), np.linspace(1, 2, 50), np.random.default_rng(1).normal(size=50)])
    valid = np.ones(x.shape, bool)
    valid[2, 2:] = False
    scale = standard_scale_of(x, valid)
    assert scale.flat[[0, 2], 0].all()
    assert (scale.gain[scale.flat] == 1).all()
    assert scale.gain[1, 0] == 1 or scale.gain[1, 0] < 1e-12
