"""Beats and heart rate: what is found, when it is told, and that streams do not know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rules import rules

from ppgstream.core import beats as of_beats
from ppgstream.core import belief as belief_of
from ppgstream.core import rate, spectra
from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.engine import Engine
from ppgstream.core.logistic import Logistic
from ppgstream.core.rate import RateRules
from ppgstream.lab import scores, synthetic
from ppgstream.wire.message import EMPTY, Beats, Chunk, Flag, Kind, decode, encode

FS = 125
Float64 = NDArray[np.float64]


def itself(batch: Batch) -> Answer:
    """A network that answers its input and is sure of it."""
    y = batch.x[:, -250:].astype(np.float32)
    return Answer(y, np.full(y.shape, -4, np.float32))


def unsure(batch: Batch) -> Answer:
    answer = itself(batch)
    assert answer.log_var is not None
    return Answer(answer.y, answer.log_var + 8)


def engine(denoiser: object = itself, **settings: object) -> Engine:
    return Engine(denoiser, rules(rate=RateRules(), polarity="up", tile=4, answers="input", **settings))  # type: ignore[arg-type]


def heart(bpm: float, seconds: int = 40, seed: int = 1, **more: float) -> tuple[Float64, Float64]:
    """A clean pulse, and the indexes of its systolic peaks."""
    rng = np.random.default_rng(seed)
    who = replace(synthetic.person(rng), heart_rate=bpm, **more)
    x, _ = synthetic.pulse(seconds * FS, who, rng)
    return 500 + 100 * x, scores.pulse_peaks(x, FS)


def published(x: Float64, machine: Engine, *, chunk: int = 25, end: bool = True, name: str = "a") -> list[Chunk]:
    out: list[Chunk] = []
    for start in range(0, len(x), chunk):
        out += machine.feed(Chunk(name, 1, start, x[start : start + chunk]), start / FS)
        while machine.ready:
            out += machine.step()
    if end:
        out += machine.feed(Chunk(name, 1, len(x), EMPTY, Kind.END), len(x) / FS)
        while machine.ready:
            out += machine.step()
    return out


def told(chunks: list[Chunk]) -> Iterator[tuple[int, Beats]]:
    return ((c.index, c.beats) for c in chunks if c.beats is not None)


def beats_of(chunks: list[Chunk]) -> Float64:
    return np.concatenate([np.zeros(0), *(beats.at for _, beats in told(chunks))])


def hits(true: Float64, found: Float64) -> float:
    """The share of `true` beats with one of `found` within 60 ms."""
    return float(np.mean([np.abs(found - t).min() <= 0.06 * FS for t in true])) if len(found) else 0.0


@pytest.mark.parametrize("bpm", [40, 62, 75, 110, 150, 190])
def test_every_beat_of_a_clean_pulse_is_told_once_and_its_rate(bpm: float) -> None:
    x, peaks = heart(bpm)
    chunks = published(x, engine())
    found = beats_of(chunks)
    assert hits(peaks[1:-1], found) == 1
    assert hits(found[1:-1], peaks) == 1
    assert (np.diff(found) > 0).all()
    rates = [(index, beats.bpm, beats.bpm_confidence) for index, beats in told(chunks) if np.isfinite(beats.bpm)]
    assert [index for index, *_ in rates] == list(range(8 * FS, 40 * FS + 1, 2 * FS))
    assert all(abs(b - bpm) < 5 for _, b, _ in rates[3:])
    assert all(sure > 0.5 for *_, sure in rates[3:])


def test_intervals_follow_each_other_and_are_as_good_as_stated() -> None:
    x, peaks = heart(75, 60)
    chunks = published(x, engine())
    found, intervals, errors = (
        np.concatenate([getattr(b, name) for _, b in told(chunks)]) for name in ("at", "interval_ms", "error_ms")
    )
    assert np.isnan(intervals[0])
    assert np.abs(intervals[1:] - np.diff(found.astype(np.float64)) * 1000 / FS).max() <= 8  # the index is a whole sample
    off = scores.intervals_off_ms(found.astype(np.float64), peaks, FS)
    assert np.nanmedian(off) < 12
    assert np.mean(off[1:-1] <= errors[1:-1] + 8) > 0.6
    assert len(peaks) > 60


def test_an_irregular_rhythm_stays_irregular() -> None:
    x, peaks = heart(70, 60, variability=0.0, sinus_arrhythmia=0.0)
    gone = peaks[30]  # one beat is missing: its wave is replaced by the diastole before it
    half = int(0.3 * FS)
    dent = x.copy()
    a, b = int(gone) - half, int(gone) + half
    dent[a:b] = np.linspace(dent[a], dent[b], b - a)
    found = beats_of(published(dent, engine()))
    left = np.delete(peaks, 30)
    assert hits(left[1:-1], found) == 1
    assert np.abs(found - gone).min() > 0.1 * FS
    assert len(found) == pytest.approx(len(left), abs=1)


@pytest.mark.parametrize("kind", ["flat", "noise", "ramp", "short"])
def test_without_a_pulse_there_is_no_confident_rate(kind: str) -> None:
    rng = np.random.default_rng(3)
    x = {
        "flat": np.zeros(3000),
        "noise": rng.standard_normal(3000),
        "ramp": np.linspace(0, 1, 3000),
        "short": heart(70)[0][:400],
    }[kind]
    chunks = published(x, engine(unsure))
    assert all(beats.bpm_confidence < 0.5 for _, beats in told(chunks))
    assert all((beats.confidence < 0.5).all() for _, beats in told(chunks))
    for chunk in chunks:
        decode(encode(chunk))


def test_other_units_and_another_level_change_nothing() -> None:
    x, _ = heart(75)
    plain = list(told(published(x, engine())))
    other = list(told(published(1e-3 * (x - 400) + 70, engine())))
    assert [index for index, _ in plain] == [index for index, _ in other]
    for (_, one), (_, two) in zip(plain, other, strict=True):
        assert one.bpm == pytest.approx(two.bpm, abs=0.5, nan_ok=True)
        assert np.array_equal(one.at, two.at)


@pytest.mark.parametrize("chunk", [1, 49, 333, 4000])
def test_how_samples_are_cut_into_messages_changes_nothing(chunk: int) -> None:
    x, _ = heart(75, 24)
    assert [encode(c) for c in published(x, engine(), chunk=25) if c.beats] == [
        encode(c) for c in published(x, engine(), chunk=chunk) if c.beats
    ]


def test_a_stream_says_the_same_alone_and_among_others() -> None:
    """All streams' rows are computed at once."""
    signals = {f"s{k}": heart(50 + 12 * k, 24, seed=k)[0] for k in range(7)}
    together: dict[str, list[bytes]] = {name: [] for name in signals}
    machine = Engine(itself, rules(rate=RateRules(), polarity="up", tile=16, answers="input"))
    out: list[Chunk] = []
    for start in range(0, 24 * FS, 50):
        for name, x in signals.items():
            out += machine.feed(Chunk(name, 1, start, x[start : start + 50]), start / FS)
        while len(machine.ready) >= 7:
            out += machine.step()
    out += machine.flush(24)
    while machine.ready:
        out += machine.step()
    for chunk in out:
        if chunk.beats is not None:
            together[chunk.stream].append(encode(chunk)[1])
    for name, x in signals.items():
        own = Engine(itself, rules(rate=RateRules(), polarity="up", tile=16, answers="input"))
        alone = [encode(c)[1] for c in published(x, own, chunk=50, end=False, name=name) if c.beats is not None]
        alone += [encode(c)[1] for c in rest(own) if c.beats is not None]
        assert alone == together[name]


def rest(machine: Engine) -> list[Chunk]:
    out = machine.flush(24)
    while machine.ready:
        out += machine.step()
    return out


def test_a_gap_starts_the_eight_seconds_anew_and_keeps_what_is_believed() -> None:
    x, _ = heart(75, 60)
    machine = engine()
    out: list[Chunk] = []
    for start in range(0, len(x), 25):
        if not 3000 <= start < 3500:
            out += machine.feed(Chunk("a", 1, start, x[start : start + 25]), start / FS)
            while machine.ready:
                out += machine.step()
    out += rest(machine)
    kinds = [(c.kind, c.index) for c in out if c.kind is not Kind.DATA]
    assert (Kind.GAP, 3000) in kinds
    assert kinds.index((Kind.BEATS, 3000)) < kinds.index((Kind.GAP, 3000))
    rated = [index for index, beats in told(out) if np.isfinite(beats.bpm)]
    assert [i for i in rated if 3000 <= i < 4500] == [3000]
    assert 4500 in rated
    first = next(beats for index, beats in told(out) if index == 4500)
    assert first.bpm == pytest.approx(75, abs=4)
    intervals = np.concatenate([b.interval_ms for _, b in told(out)])
    assert np.isnan(intervals).sum() == 2  # the first beat of each stretch has none before it
    assert np.nanmax(intervals) < 1500


def test_the_beats_that_are_not_decided_yet_come_before_the_end() -> None:
    x, peaks = heart(75, 20)
    chunks = published(x, engine())
    assert [c.kind for c in chunks[-2:]] == [Kind.BEATS, Kind.END]
    assert beats_of(chunks)[-1] > peaks[-2] - 10


def test_a_jump_of_level_is_none_of_the_pulse_s() -> None:
    x, _ = heart(75, 60)
    jumped = x + np.where(np.arange(len(x)) < 3000, 0.0, 5000.0)
    rates = [b.bpm for i, b in told(published(jumped, engine())) if i > 1500 and np.isfinite(b.bpm)]
    assert len(rates) > 20
    assert np.abs(np.array(rates) - 75).max() < 5


def test_beliefs_spread_by_the_time_that_passed_and_stay_a_distribution() -> None:
    belief, nothing, later = np.zeros(len(rate.RATES), np.float32), np.ones(len(rate.RATES)), np.empty((3, len(rate.RATES)))
    belief[40] = 1.0
    for elapsed_s, row in zip((2.0, 8.0, 3600.0), later, strict=True):
        belief_of.follow(belief, elapsed_s, nothing, row)
    assert later.sum(axis=1) == pytest.approx(1)
    assert (np.diff(later.max(axis=1)) < 0).all()
    assert later[0].argmax() == 40
    assert later[2].max() < 2 * later[2].min() + 0.02
    near = np.exp(-np.abs(rate.RATES - rate.RATES[40]) / belief_of.SPREAD_BPM)
    assert later[0] == pytest.approx((1 - belief_of.JUMP) * near / near.sum() + belief_of.JUMP / len(rate.RATES), abs=1e-3)


def test_a_peak_that_is_alone_is_the_highest_of_its_neighbourhood() -> None:
    rng = np.random.default_rng(1)
    x = np.round(rng.standard_normal((20, rate.SPAN)), 1)  # with ties
    bpm = rng.uniform(40, 200, 20)
    found = of_beats.detect(x, bpm)
    for row, scale in enumerate(np.clip(np.rint(of_beats.ALONE_BEATS * 60 / bpm * 25), *of_beats.ALONE_POINTS).astype(int)):
        for i in range(rate.SPAN):
            around = x[row, max(i - scale, 0) : i], x[row, i + 1 : i + 1 + scale]
            highest = 0 < i < rate.SPAN - 1 and x[row, i] > around[0].max() and x[row, i] >= around[1].max()
            assert found.alone[row, i] == (highest and found.peaks[row, i])
            assert found.rises[row, i] == x[row, i] - x[row, max(i - 15, 0) : i + 1].min()


def test_rules_are_read_from_a_checkpoint_s_calibration() -> None:
    stated = {"249": {"bias": 0.0, "weights": {}}, "rate": {"bias": 1.0, "weights": {"belief": 2.0}}}
    rules = rate.rules_for(stated, 125.0)
    assert rules.rate == Logistic(1.0, {"belief": 2.0})
    assert rules.beat == RateRules().beat
    for odd in (
        {"rate": {"bias": 1.0}},
        {"rate": {"bias": 1.0, "weights": {"pulse": 2.0}}},
        {"beat": {"bias": float("nan"), "weights": {}}},
        {"interval": 3},
    ):
        with pytest.raises(ValueError, match=f"calibration: {next(iter(odd))}"):
            rate.rules_for(odd, 125.0)


@pytest.mark.parametrize("policy", ["mark", "mask", "raw"])
def test_the_policy_decides_what_stands_below_the_threshold(policy: str) -> None:
    x, _ = heart(75, 20)
    rng = np.random.default_rng(1)
    noisy = x + 5 * rng.standard_normal(len(x))

    def half(batch: Batch) -> Answer:
        answer = unsure(batch)
        return Answer(answer.y * 0.5, answer.log_var)

    chunks = [c for c in published(noisy, engine(half, policies={"a": policy})) if c.kind is Kind.DATA]
    plain = [c for c in published(noisy, engine(half)) if c.kind is Kind.DATA]
    values, answers = (np.concatenate([c.samples for c in some]).astype(np.float64) for some in (chunks, plain))
    flags = np.concatenate([c.flags for c in chunks if c.flags is not None])
    low = (flags & Flag.LOW_CONFIDENCE) != 0
    assert low.all()
    if policy == "mark":
        assert np.array_equal(values, answers)
        assert not (flags & Flag.REPLACED).any()
    else:
        assert (flags & Flag.REPLACED).all()
        assert np.isnan(values).all() if policy == "mask" else np.array_equal(values, noisy)
    own = list(told(published(noisy, engine(half, policies={"a": policy}))))
    other = list(told(published(noisy, engine(half, policies={"b": policy}))))
    assert str(own) == str(other)  # beats are those of the answer, whatever is published


def test_above_the_threshold_no_policy_changes_anything() -> None:
    x, _ = heart(75, 20)
    masked = [c for c in published(x, engine(policy="mask")) if c.kind is Kind.DATA]
    plain = [c for c in published(x, engine()) if c.kind is Kind.DATA]
    sure = [c for c in plain if c.flags is not None and not (c.flags & Flag.LOW_CONFIDENCE).any()]
    assert len(sure) > 40
    by_index = {c.index: c for c in masked}
    assert all(np.array_equal(by_index[c.index].samples, c.samples) for c in sure)


# ---- against another implementation ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def neurokit() -> object:
    return pytest.importorskip("neurokit2")


def agree(one: Float64, other: Float64) -> float:
    """F1 of two lists of beats, at 60 ms."""
    found, named = hits(one, other) * len(one), hits(other, one) * len(other)
    return (found + named) / (len(one) + len(other))


@pytest.mark.parametrize(
    ("bpm", "method"), [(45, "elgendi"), (75, "elgendi"), (110, "elgendi"), (160, "elgendi"), (60, "bishop"), (130, "bishop")]
)
def test_beats_are_those_that_neurokit_finds(bpm: float, method: str, neurokit: Any) -> None:
    """An independent implementation: Elgendi et al. 2013, and MSPTD by Bishop and Ercole 2018."""
    x, peaks = heart(bpm, 60 if method == "elgendi" else 24, seed=2)  # MSPTD takes the square of the length
    signal = neurokit.ppg_clean(x, sampling_rate=FS, method="elgendi")
    theirs = np.asarray(neurokit.ppg_findpeaks(signal, sampling_rate=FS, method=method)["PPG_Peaks"], np.float64)
    ours = beats_of(published(x, engine()))
    assert agree(ours, theirs) > 0.96
    assert agree(ours, peaks) > 0.96


def test_each_of_the_two_detectors_finds_the_beats_by_itself() -> None:
    for bpm in (50, 75, 110, 160):
        x, _ = heart(bpm, 60, seed=3)
        points = x[: len(x) // 5 * 5].reshape(-1, 5).mean(axis=1)
        row = points[400 : 400 + rate.SPAN][None, :] - points[400 : 400 + rate.SPAN].mean()
        peaks, agreed, *_ = of_beats.detect(row, np.array([float(bpm)]))
        inside = peaks[0, 15:-15].sum()
        assert inside >= (rate.SPAN - 30) / rate.POINTS_HZ * bpm / 60 - 2
        assert agreed[0, 15:-15].sum() >= 0.85 * inside
        assert not (agreed & ~peaks).any()


@pytest.mark.parametrize("bpm", [25, 30, 33, 205])
def test_at_the_ends_of_the_scale_no_confident_rate_is_wrong(bpm: float) -> None:
    for seed in (1, 2):
        x, _ = heart(bpm, 40, seed=seed)
        for _, beats in told(published(x, engine())):
            assert not (beats.bpm_confidence >= 0.5 and abs(beats.bpm - bpm) > 5), (bpm, seed, beats.bpm)


@pytest.mark.parametrize("hz", [0.3, 0.45, 0.5, 0.55])
def test_breathing_alone_is_no_heart(hz: float) -> None:
    x = np.sin(2 * np.pi * hz * np.arange(40 * FS) / FS) + 0.02 * np.random.default_rng(1).standard_normal(40 * FS)
    for _, beats in told(published(x, engine(unsure))):
        assert beats.bpm_confidence < 0.5


def test_over_what_was_not_measured_no_interval_is_told_and_in_silence_no_rate() -> None:
    x, _ = heart(75, 60)
    for hole in (np.nan, x[3000]):
        broken = x.copy()
        broken[3000:3600] = hole
        chunks = published(broken, engine())
        at, intervals = (np.concatenate([getattr(b, name) for _, b in told(chunks)]) for name in ("at", "interval_ms"))
        assert np.nanmax(intervals) < 1500
        after = int(np.flatnonzero(at > 3590)[0])
        assert np.isnan(intervals[after])
        assert not ((at > 3060) & (at < 3590)).any()
    silent = published(np.full(3000, 7.0), engine())
    assert all(np.isnan(beats.bpm) and beats.bpm_confidence == 0 for _, beats in told(silent))


@pytest.mark.parametrize(("noise", "told_of"), [(0.02, True), (0.6, False)])
def test_where_the_input_is_a_clean_pulse_and_the_answer_another_the_input_s_rate_is_told_as_unsure(
    noise: float, told_of: bool
) -> None:
    """No answer may be worse than what came in, unnoticed."""

    def of_another_heart(batch: Batch) -> Answer:
        at = np.arange(250) / FS
        y = np.tile(0.5 + 0.4 * np.sin(2 * np.pi * 85 / 60 * at), (len(batch.x), 1)).astype(np.float32)
        return Answer(y, np.full(y.shape, -4, np.float32))

    x, _ = heart(120, seed=4)
    x = x + noise * np.ptp(x) * np.random.default_rng(2).standard_normal(len(x))
    machine = engine(of_another_heart)
    rated = [b for _, b in told(published(x, machine)) if not np.isnan(b.bpm)]
    events = [e for e in machine.events if e.name == "disagreement"]
    assert len(rated) > 10
    if told_of:
        assert events
        assert "the denoised wave has" in events[0].text
        assert rated[0].bpm == pytest.approx(120, abs=5)  # before the belief has found the input's rate by itself
        assert rated[0].bpm_confidence < 0.5
    else:
        assert events == []


def test_a_faint_pulse_that_the_answer_found_beside_strong_steps_is_no_disagreement() -> None:
    pulse = heart(120, seconds=8, seed=4)[0].reshape(-1, 5).mean(axis=1)
    steps = 5 * pulse.std() * np.sin(2 * np.pi * 1.2 * np.arange(rate.SPAN) / rate.POINTS_HZ)
    for beside, one_rhythm in ((steps, False), (pulse * 0, True)):
        raw = spectra.level((pulse + beside)[None])
        assert np.isnan(rate.rate_of_clean_input(raw, spectra.spectra(raw), np.array([120.0]))).all()
        other = rate.rate_of_clean_input(raw, spectra.spectra(raw), np.array([200.0]))[0]
        assert other == pytest.approx(120 if one_rhythm else 72, abs=3)


def test_a_wave_that_agrees_with_its_input_is_no_disagreement() -> None:
    for bpm in (45, 72, 120, 180):
        machine = engine()
        published(heart(bpm)[0], machine)
        assert [e for e in machine.events if e.name == "disagreement"] == []
