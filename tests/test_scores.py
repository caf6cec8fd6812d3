"""Figures of the bench, on cases whose value is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ppgstream.lab import scores

FS = 125.0
T = np.arange(int(40 * FS)) / FS


@pytest.mark.parametrize("bpm", [42, 75, 133, 200])
def test_a_heart_rate_is_that_of_the_pulse_and_not_of_its_harmonic(bpm: int) -> None:
    phase = 2 * np.pi * bpm / 60 * T
    rates = scores.heart_rates(5 + np.sin(phase) + 0.8 * np.sin(2 * phase), FS)
    assert len(rates) == 17  # 8 s every 2 s
    np.testing.assert_allclose(rates, bpm, atol=0.6)
    assert len(scores.heart_rates(T[:900], FS)) == 0


def test_snr_by_second_is_low_where_the_answer_is_wrong() -> None:
    clean = np.sin(2 * np.pi * 1.3 * T)
    output = clean.copy()
    output[1250:2500] *= 0.5
    seconds = scores.snr_by_second_db(output, clean, FS)
    assert len(seconds) == 40
    assert (seconds[:8] > 20).all()
    np.testing.assert_allclose(seconds[12:18], 10 * np.log10(4), atol=0.5)
    assert (scores.snr_by_second_db(output, np.zeros_like(clean), FS) == -100).all()


def test_auroc_counts_pairs_in_the_right_order() -> None:
    good = np.array([True, True, False, False])
    assert scores.auroc(np.array([0.9, 0.8, 0.2, 0.1]), good) == 1.0
    assert scores.auroc(np.array([0.1, 0.2, 0.8, 0.9]), good) == 0.0
    assert scores.auroc(np.array([0.9, 0.3, 0.5, 0.1]), good) == 0.75
    assert scores.auroc(np.full(4, 0.5), good) == 0.5
    assert math.isnan(scores.auroc(np.ones(2), np.array([True, True])))


def test_the_calibration_error_is_the_mean_distance_from_what_happened() -> None:
    confidence = np.repeat([0.15, 0.85], 100)
    good = np.concatenate([np.arange(100) < 15, np.arange(100) < 65])
    assert scores.calibration_error(confidence, good) == pytest.approx((0.0 + 0.2) / 2)
    assert scores.calibration_error(np.ones(3), np.ones(3, bool)) == 0.0
