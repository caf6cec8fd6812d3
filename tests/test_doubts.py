"""Where the program itself can doubt, nothing wrong is told as sure: rates and beats of `default` on rhythms that are not even,
not on the scale, or not a heart's; and what the rules before any fit promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from ppgstream.train import methods

from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core import rate
from ppgstream.core.engine import Engine
from ppgstream.core.follower import Follower
from ppgstream.core.logistic import Logistic
from ppgstream.files import offline
from ppgstream.lab import scores, synthetic
from ppgstream.model import runtime
from ppgstream.model.restore import restore
from tools import doubts

FS = 125
CASES = Path(__file__).parents[2] / "shared" / "cases"
Float64 = NDArray[np.float64]
Denoise = Callable[[Float64, float], offline.Denoised]


@pytest.fixture(scope="module")
def default() -> Denoise:
    found = restore(Path("default"))
    denoiser, rules = runtime.denoiser(found), rules_of(Config(), found)
    return lambda x, fs: offline.denoise(x, Engine(denoiser, rules), fs=fs)


@pytest.fixture(scope="module")
def rows(default: Denoise) -> dict[str, doubts.Row]:
    return {name: doubts.measured(inputs[:4], default) for name, inputs in doubts.generated()}


def test_of_no_kind_are_more_than_a_few_rates_wrong_and_sure(rows: dict[str, doubts.Row]) -> None:
    wild = rows["very irregular"]  # its beats may be a fifth of a second apart, and then no one can count them
    assert {name: row for name, row in rows.items() if row.rates_off_and_sure > 0.04 and row is not wild} == {}
    assert wild.rates_off_and_sure <= 0.15
    assert np.mean([row.rates_off_and_sure for row in rows.values() if row is not wild]) <= 0.01


def test_that_is_not_bought_by_silence(rows: dict[str, doubts.Row]) -> None:
    for name in ("atrial fibrillation", "alternans", "sharp pulses", "hum of 1..5 pulses, 50 Hz"):
        assert rows[name].rates_sure > 0.6, name
        assert rows[name].true_beats_sure > 0.85, name


def test_sure_beats_are_beats(rows: dict[str, doubts.Row]) -> None:
    wrong = {name: row.beats_sure_wrong for name, row in rows.items() if row.true_beats_sure > 0.1 and name != "second waves"}
    assert max(wrong.values()) <= 0.05, wrong
    assert np.mean(list(wrong.values())) <= 0.015, wrong


def test_a_lone_rhythm_and_one_beyond_the_scale_have_no_sure_rate(rows: dict[str, doubts.Row]) -> None:
    assert rows["steps alone"].rates_sure <= 0.05
    assert rows["230..300 bpm"].rates_sure <= 0.02


def test_a_pulse_s_own_harmonics_are_no_lamp(rows: dict[str, doubts.Row]) -> None:
    assert rows["sharp pulses, 120..190 bpm"].interference < 0.1


@pytest.mark.skipif(not CASES.is_dir(), reason="the small files are not here (../shared/cases)")
@pytest.mark.parametrize(
    "name",
    [
        "af_92.txt",
        "alternans_70.txt",
        "bigeminy_66.txt",
        "double_60_75.txt",
        "double_80_50.txt",
        "smooth_sine_72.txt",
        "smooth_wrist_66.txt",
    ],
)
def test_no_sure_rate_of_the_small_files_is_wrong(name: str, default: Denoise) -> None:
    inputs = next(inputs for found, inputs in doubts.cases(CASES) if found == name)
    row = doubts.measured(inputs, default)
    assert row.rates_off_and_sure <= 0.03
    assert np.isnan(row.beats_sure_wrong) == (
        name in ("alternans_70.txt", "bigeminy_66.txt")
    )  # no one has told where their beats are
    assert not row.beats_sure_wrong > 0.03


# ---- rules, whatever was fitted --------------------------------------------------------------------------------------

SURE = Logistic(40.0, {})
ALONE = Logistic(-40.0, {"alone": 80.0})  # sure of the peaks that are the highest far around
COUNTED = Logistic(6.0, {"sure_beats": -60.0})  # the nearer a rate is to that of the sure beats


def told(x: Float64, confidence: Float64 | None = None, *, rules: rate.RateRules | None = None) -> list[rate.Due]:
    """What is told of a wave that is its own input."""
    c = np.full(len(x), 0.95) if confidence is None else confidence
    due = methods.due_of(x, x, c, np.zeros(len(x), np.uint16), FS)
    rate.fill(due, rules or rate.RateRules(FS, rate=SURE, beat=ALONE))
    return due


def beats_of(due: list[rate.Due]) -> tuple[Float64, Float64]:
    found = [one.chunk.beats for one in due if one.chunk.beats is not None]
    return np.concatenate([b.at for b in found]).astype(np.float64), np.concatenate([b.confidence for b in found]).astype(
        np.float64
    )


def steady(bpm: float, seconds: float = 30.0) -> Float64:
    return synthetic.steady(synthetic.Wave(sd_s=min(0.09, 0.13 * 60 / bpm), second=0.2), bpm, seconds)


def test_a_beat_is_at_most_as_sure_as_the_wave_at_its_place() -> None:
    x = steady(72)
    confidence = np.where(np.arange(len(x)) < len(x) // 2, 0.95, 0.3)
    at, sure = beats_of(told(x, confidence))
    assert (sure[at < len(x) // 2 - 30] > 0.9).all()
    assert (sure[at > len(x) // 2 + 30] <= 0.31).all()


def test_the_beats_of_the_first_six_seconds_come_together_and_those_of_a_short_stretch_are_unsure() -> None:
    x = steady(72)
    due = told(x)
    counts = [(one.index, len(one.chunk.beats.at)) for one in due if one.chunk.beats is not None]
    assert [n for index, n in counts if index < 6 * FS] == [0, 0]
    assert dict(counts)[6 * FS] >= 5
    for seconds, some in ((5.0, True), (2.5, False)):
        at, sure = beats_of(told(steady(72, seconds)))
        assert (len(at) > 0) == some
        assert (sure < 0.5).all()


def test_a_rate_that_the_sure_beats_do_not_have_is_not_sure() -> None:
    x = steady(72)
    sure = [one.chunk.beats.bpm_confidence for one in told(x) if one.rated and one.chunk.beats is not None]
    assert min(sure) > 0.9
    missing = np.where(np.sin(2 * np.pi * 72 / 120 * np.arange(len(x)) / FS) > 0, x, 0.0)  # every second beat is gone
    for one in told(missing):
        if one.rated and one.chunk.beats is not None and abs(one.chunk.beats.bpm - 36) > 5:
            assert one.chunk.beats.bpm_confidence <= rate.DOUBT


@pytest.mark.parametrize(("bpm", "unsure_s"), [(100.0, 0.0), (156.0, 92.0), (40.0, 123.0)])
def test_a_rate_is_not_sure_as_soon_as_another_one_where_no_heart_gets_there(bpm: float, unsure_s: float) -> None:
    even = rate.RateRules(FS, rate=Logistic(4.0, {"sure_irregular": -40.0}), beat=ALONE)  # 8 s with some of both are not sure
    due = told(np.concatenate([steady(84.0, 20.0), steady(bpm, 150.0)]), rules=even)
    beats = [(one.index / FS, one.chunk.beats) for one in due if one.rated and one.chunk.beats is not None]
    last = max(t for t, one in beats if abs(one.bpm - 84) < 5 and one.bpm_confidence >= 0.5)
    there = [(t, one.bpm_confidence >= 0.5) for t, one in beats if abs(one.bpm - bpm) < 5]
    assert len(there) > 60
    assert not any(sure for t, sure in there if t < last + unsure_s - 4)
    assert all(sure for t, sure in there if t > last + unsure_s + 16)


def test_the_last_sure_rate_is_one_that_was_told_and_its_age_counts_all_samples() -> None:
    x = steady(72.0, 20.0)
    rules = rate.RateRules(FS, rate=SURE, beat=ALONE)

    def follower(out: Float64, raw: Float64) -> Follower:
        due = methods.due_of(out, raw, np.full(len(raw), 0.95), np.zeros(len(raw), np.uint16), FS)[:-1]  # the last one forgets
        rate.fill(due, rules)
        return due[0].follower

    assert follower(x, x).sure_bpm == pytest.approx(72, abs=1)
    assert follower(x, x).since_sure_s == 0
    # The input is a clean pulse of half the rate: its own is told, as unsure.
    assert np.isnan(follower(steady(144.0, 20.0), x).sure_bpm)
    assert follower(x[: 5 * FS], x[: 5 * FS]).since_sure_s == pytest.approx(4.0)  # there was no rate yet
    known = follower(x, x)
    known.forget(3.0)
    assert (known.sure_bpm, known.since_sure_s) == (pytest.approx(72, abs=1), 3.0)  # a gap counts too


@pytest.mark.parametrize("bpm", [25.0, 30.0, 240.0, 290.0])
def test_beyond_the_scale_there_is_no_rate_at_its_ends(bpm: float) -> None:
    for one in told(steady(bpm)):
        beats = one.chunk.beats
        assert beats is not None
        if np.isnan(beats.bpm):
            assert beats.bpm_confidence == 0
        else:
            assert rate.RATES[0] + 1 < beats.bpm < rate.RATES[-1] - 1


def test_counted_beats_are_told_where_they_are_likelier_right() -> None:
    rng = np.random.default_rng(3)
    starts = np.cumsum(np.concatenate([[-2.0], 0.75 * np.exp(0.2 * rng.standard_normal(60))]))
    x = synthetic.Wave(sd_s=0.06, second=0.0)(starts, np.ones(len(starts)), 30 * FS, FS)
    peaks = scores.pulse_peaks(x, FS)
    by_count = told(x, rules=rate.RateRules(FS, rate=COUNTED, beat=ALONE))
    index = np.array([one.index for one in by_count if one.rated])
    bpm = np.array([one.chunk.beats.bpm for one in by_count if one.rated and one.chunk.beats is not None])
    assert np.abs(bpm - scores.true_rates(peaks, index, FS)).max() < 3
    assert all(one.chunk.beats.bpm_confidence > 0.9 for one in by_count if one.rated and one.chunk.beats is not None)


def test_a_peak_near_to_a_higher_one_is_told_only_if_it_is_sure() -> None:
    """Of a rhythm of 60 bpm in which every fifth beat comes after 0.36 s, lower, as in fibrillation."""
    starts = np.cumsum(np.where(np.arange(45) % 5 == 3, 0.36, 1.0))
    heights = np.where(np.arange(45) % 5 == 3, 0.6, 1.0)
    x = synthetic.Wave(sd_s=0.06, second=0.0)(starts, heights, 30 * FS, FS)
    early = starts[3::5] * FS
    early = early[(early > 4 * FS) & (early < 27 * FS)]
    assert len(early) >= 4
    every, _ = beats_of(told(x, rules=rate.RateRules(FS, rate=SURE, beat=SURE)))
    assert scores.beats_off_ms(early, every, FS).max() < 30
    alone, _ = beats_of(told(x))
    assert scores.beats_off_ms(early, alone, FS).min() > 300


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_units_change_nothing(scale: float) -> None:
    x = steady(80) + 0.05 * np.random.default_rng(1).standard_normal(30 * FS)
    kept: list[Float64] = []

    class Recorder:
        def of(self, found: dict[str, Float64]) -> Float64:
            kept.append(np.concatenate([np.ravel(v) for name, v in sorted(found.items())]))
            return np.ones(len(found["confidence"]))

    told(x, rules=rate.RateRules(FS, beat=Recorder(), rate=Recorder()))  # type: ignore[arg-type]
    plain = np.concatenate(kept)
    kept.clear()
    told(x * scale, rules=rate.RateRules(FS, beat=Recorder(), rate=Recorder()))  # type: ignore[arg-type]
    assert np.allclose(np.concatenate(kept), plain, atol=2e-3)


def test_a_clean_record_scored_against_itself_has_its_own_rates_and_beats() -> None:
    """Also one with large second waves, as a hobbyist's sensor gives them."""
    for second in (0.2, 0.6):
        x = synthetic.steady(synthetic.Wave(sd_s=0.05, second=second, later=0.4, wider=1.4), 98.0, 40.0)
        due = told(x)
        peaks = scores.pulse_peaks(x, FS)
        index = np.array([one.index for one in due if one.rated])
        bpm = np.array([one.chunk.beats.bpm for one in due if one.rated and one.chunk.beats is not None])
        assert np.abs(bpm - scores.true_rates(peaks, index, FS)).max() < 2
        at, _ = beats_of(due)
        assert (scores.beats_off_ms(at, peaks, FS) <= scores.BEAT_NEAR_MS).mean() > 0.97
        assert (scores.beats_off_ms(peaks, at, FS) <= scores.BEAT_NEAR_MS).mean() > 0.97
