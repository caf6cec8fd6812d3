"""What the input says about its samples, and how sure a network is that tells its error."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from scipy.special import ndtr

from ppgstream.core.measured import HELD, LOST, MEASURED, OUTLIER
from ppgstream.core.quality import FLAT_RUN, confidence_of, held_rows, input_flags, run_lengths
from ppgstream.wire.message import Flag


def flags_of(x: list[float], held: slice, state: int = HELD) -> list[int]:
    states = np.full((1, len(x)), MEASURED, np.uint8)
    states[0, held] = state
    return [int(f) for f in input_flags(np.array([x]), states)[0]]


def test_a_short_held_run_at_the_top_or_the_bottom_is_saturated() -> None:
    wave = [0.0, 1.0, 4.0, 4.0, 4.0, 2.0, -1.0, 3.0]
    assert flags_of(wave, slice(2, 5)) == [0, 0, *[Flag.SATURATED] * 3, 0, 0, 0]
    assert flags_of([-v for v in wave], slice(2, 5)) == [0, 0, *[Flag.SATURATED] * 3, 0, 0, 0]


def test_a_held_run_within_the_pulse_is_flat() -> None:
    assert flags_of([0.0, 1.0, 2.0, 2.0, 2.0, 4.0, -1.0], slice(2, 5)) == [0, 0, *[Flag.FLAT] * 3, 0, 0]


def test_a_long_held_run_at_a_rail_is_saturated_and_flat() -> None:
    for n, told in ((FLAT_RUN - 1, Flag.SATURATED), (FLAT_RUN, Flag.SATURATED | Flag.FLAT)):
        assert flags_of([0.0, 1.0, *[5.0] * n, 2.0], slice(2, 2 + n)) == [0, 0, *[told] * n, 0]


def test_an_outlier_beyond_the_rail_does_not_hide_it() -> None:
    states = np.array([[MEASURED, HELD, HELD, HELD, OUTLIER, LOST]], np.uint8)
    found = input_flags(np.array([[0.0, 4.0, 4.0, 4.0, 900.0, -900.0]]), states)
    assert found.tolist() == [[0, *[Flag.SATURATED] * 3, 0, 0]]


def test_a_window_that_is_one_held_value_is_flat_and_not_clipped() -> None:
    assert flags_of([3.0] * 6, slice(0, 6)) == [Flag.FLAT] * 6


def test_nothing_held_nothing_told() -> None:
    assert flags_of([1.0, 1.0, 1.0, 2.0], slice(0, 0)) == [0] * 4


@given(
    some.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.integers(0, 2).map(float)),
    st.integers(0, 2**32 - 1),
)
def test_the_length_of_a_run_is_that_of_its_equal_valid_neighbours(x: np.ndarray, seed: int) -> None:
    valid = np.random.default_rng(seed).uniform(size=x.shape) < 0.8
    for row, ok, found in zip(x, valid, run_lengths(x, valid), strict=True):
        for k in range(len(row)):
            low = high = k
            if ok[k]:
                while low > 0 and ok[low - 1] and row[low - 1] == row[k]:
                    low -= 1
                while high < len(row) - 1 and ok[high + 1] and row[high + 1] == row[k]:
                    high += 1
            assert found[k] == high - low + 1


def test_three_equal_values_of_made_up_noise_are_clipped() -> None:
    assert held_rows(np.array([[1.0, 1.0, 2.0, 2.0, 2.0, 3.0]])).tolist() == [[False, False, True, True, True, False]]


@pytest.mark.parametrize(
    ("log_var", "confidence"),
    [(math.log(0.25), 0.5), (math.log(0.25) - 1, 0.8413), (math.log(0.25) + 2, 0.0228), (np.nan, 0.0), (-np.inf, 1.0)],
)
def test_confidence_is_the_chance_of_an_error_below_a_quarter_of_the_pulse(log_var: float, confidence: float) -> None:
    assert confidence_of(np.array([log_var]))[0] == pytest.approx(confidence, abs=1e-4)


def test_confidence_is_the_normal_distribution_to_the_last_bit_in_both_forms() -> None:
    log_var = np.random.default_rng(0).normal(-1.0, 6.0, (3, 200)).astype(np.float32)
    log_var[0, :3] = np.nan, np.inf, -np.inf
    found = confidence_of(log_var)
    np.testing.assert_allclose(
        found[log_var == log_var], ndtr(math.log(0.25) - log_var[log_var == log_var].astype(np.float64)), 1e-12
    )
    plain = [0.5 * math.erfc((float(v) - math.log(0.25)) * (1 / math.sqrt(2))) for v in log_var.ravel()]
    assert found.ravel().tolist() == [0.0, *plain[1:]]
