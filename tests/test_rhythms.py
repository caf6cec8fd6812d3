"""Rhythms that are not even: what is made of a clean record, and that its beats are where it says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ppgstream.lab import rhythms, scores, synthetic

FS = 125
Float64 = NDArray[np.float64]


def a_record(seed: int = 1, seconds: int = 30, *, bpm: float | None = None) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    wave = synthetic.Wave(sd_s=0.09, second=0.3, later=0.4)
    x = synthetic.steady(wave, bpm or float(rng.uniform(55, 90)), seconds, drift=0.02)
    return x, scores.pulse_peaks(x, FS)


def made(kind: str, seed: int = 1) -> rhythms.Rhythm:
    return rhythms.KINDS[kind](*a_record(seed), np.random.default_rng(seed))


@pytest.mark.parametrize("kind", [kind for kind in rhythms.KINDS if kind != "steps alone"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_peaks_of_every_kind_are_peaks_of_its_clean_pulse(kind: str, seed: int) -> None:
    found = made(kind, seed)
    assert found.clean is not None
    assert len(found.clean) == len(found.noisy) >= rhythms.SHORTEST_S * FS * 0.8
    assert (np.diff(found.peaks) > 0).all()
    for peak in found.peaks[1:-1]:
        near = found.clean[int(peak) - 6 : int(peak) + 7]
        assert near.max() >= found.clean[int(peak) - 12 : int(peak) + 13].max() - 0.02 * np.ptp(found.clean)


def test_intervals_are_as_irregular_as_the_kind_says() -> None:
    spread = {
        kind: np.std(np.diff(made(kind).peaks)) / np.mean(np.diff(made(kind).peaks))
        for kind in rhythms.KINDS
        if "alone" not in kind
    }
    low, high = rhythms.FIBRILLATION_SD
    assert 0.6 * low < spread["atrial fibrillation"] < 1.5 * high
    assert 0.6 * rhythms.WILD_SD[0] < spread["very irregular"] < 1.5 * rhythms.WILD_SD[1]
    assert spread["bigeminy"] > 0.1
    assert max(spread[kind] for kind in ("alternans", "25..300 bpm", "second waves", "sharp pulses")) < 0.08


def test_every_second_pulse_of_alternans_is_low() -> None:
    found = made("alternans")
    heights = np.interp(found.peaks, np.arange(len(found.noisy)), found.noisy)
    assert heights[2:-2:2].min() > 1.05 * heights[3:-2:2].max() or heights[3:-2:2].min() > 1.05 * heights[2:-2:2].max()


def test_rates_reach_beyond_the_scale() -> None:
    rates = [60 * FS / np.diff(made("230..300 bpm", seed).peaks).mean() for seed in range(1, 6)]
    assert 220 < min(rates) < max(rates) < 310


def test_a_second_wave_is_lower_than_the_first_and_adds_no_beat() -> None:
    for seed in range(1, 6):
        x, peaks = a_record(seed)
        found = rhythms.second_wave(x, peaks, np.random.default_rng(seed))
        assert found.clean is not None
        assert len(found.peaks) == pytest.approx(len(peaks), abs=3)
        between = found.clean[(found.peaks[:-1] + 0.3 * np.diff(found.peaks)).astype(int)]
        assert (between < found.clean[found.peaks[:-1].astype(int)] + 1e-9).all()


def test_a_short_record_gives_as_much_as_any_other() -> None:
    x, peaks = a_record(seconds=8)
    for kind, make in rhythms.KINDS.items():
        assert len(make(x, peaks, np.random.default_rng(1)).noisy) >= 0.8 * rhythms.SHORTEST_S * FS, kind


@pytest.mark.parametrize("peaks", [[], [300.0], [300.0, 500.0], [300.0, 500.0, 700.0]])
def test_a_record_with_hardly_any_beats_gives_something(peaks: list[float]) -> None:
    x, _ = a_record(seconds=8)
    for kind, make in rhythms.KINDS.items():
        found = make(x, np.array(peaks), np.random.default_rng(1))
        assert np.isfinite(found.noisy).all(), kind


# ---- the truth -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bpm", [45, 75, 118, 180])
@pytest.mark.parametrize("second", [0.3, 0.5, 0.7, 0.8])
def test_second_waves_are_no_true_beats(bpm: float, second: float) -> None:
    x = synthetic.steady(synthetic.Wave(sd_s=0.06 * 60 / bpm, second=second, later=0.42, wider=1.2), bpm, 30)
    peaks = scores.pulse_peaks(x, FS)
    assert 60 * FS / np.diff(peaks).mean() == pytest.approx(bpm, rel=0.02)
    assert scores.rate_known(x, FS)


def test_of_a_record_on_which_two_estimates_differ_no_rate_is_known() -> None:
    x, peaks = a_record(bpm=60)
    assert scores.rate_known(x, FS)
    wild = rhythms.fibrillation(x, peaks, np.random.default_rng(5)).noisy
    noise = np.random.default_rng(1).standard_normal(4000)
    assert not scores.rate_known(noise, FS)
    assert not scores.rate_known(x[:500], FS)  # too short for a rate
    assert len(scores.pulse_peaks(wild, FS)) > 10


def test_true_rates_are_those_of_the_beats_in_the_eight_seconds_before() -> None:
    peaks = np.arange(0.0, 60 * FS, FS)  # 60 a minute
    assert scores.true_rates(peaks, np.array([1000, 3000]), FS) == pytest.approx(60)
    assert np.isnan(scores.true_rates(peaks[:1], np.array([1000]), FS)).all()
    assert np.isnan(scores.true_rates(np.zeros(0), np.array([1000]), FS)).all()
    halved = np.concatenate([peaks[peaks < 3000], np.arange(3000.0, 6000, 2 * FS)])
    assert scores.true_rates(halved, np.array([6000]), FS)[0] == pytest.approx(30)
