"""Sensors of any rate: the filters between a sensor's rate and the model's, and streams of other rates through the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from faults.long import times
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scripts import RATES, Run, Settings, drawn, of_rates, signal

from ppgstream.core.engine import Engine
from ppgstream.core.plan import Plan, Rules
from ppgstream.core.rate import rules_for
from ppgstream.core.resample import filter_of, ratio_of, reached, read
from ppgstream.files import offline
from ppgstream.wire.message import EMPTY, Chunk, Flag, Kind

MODEL_HZ = 125.0


def through(x: np.ndarray, fs_from: float, fs_to: float) -> tuple[np.ndarray, np.ndarray]:
    """A stretch (n,) at another rate, without its first and last second, and the times of its samples, s."""
    ratio = ratio_of(fs_from, fs_to)
    n = ratio.to_model(len(x))
    y = read(x, 0, float(x[0]), filter_of(ratio.down, ratio.up), 0, n, closed=True)
    t = np.arange(n) * ratio.down / ratio.up / fs_from
    inner = (t > 1) & (t < len(x) / fs_from - 1)
    return y[inner], t[inner]


# ---- filters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [50.0, 64.0, 100.0, 176.0, 250.0, 500.0, 1000.0])
@pytest.mark.parametrize("into", [True, False], ids=["into the model", "out of it"])
def test_a_wave_of_half_to_twelve_hertz_keeps_its_height_and_makes_nothing_else(fs: float, into: bool) -> None:
    fs_from, fs_to = (fs, MODEL_HZ) if into else (MODEL_HZ, fs)
    t = np.arange(round(20 * fs_from)) / fs_from
    for hz in np.arange(0.5, 12.1, 0.5):
        y, at = through(np.sin(2 * np.pi * hz * t), fs_from, fs_to)
        assert np.abs(y - np.sin(2 * np.pi * hz * at)).max() < 2e-3, hz
        rest = y - np.sin(2 * np.pi * hz * at) * (y @ np.sin(2 * np.pi * hz * at)) / (np.sin(2 * np.pi * hz * at) ** 2).sum()
        assert 20 * np.log10(np.sqrt(2 * np.mean(rest**2))) < -60, hz


@pytest.mark.parametrize("fs", [250.0, 500.0, 1000.0])
def test_what_would_fold_onto_the_pulse_is_taken_out_before_the_model(fs: float) -> None:
    t = np.arange(round(20 * fs)) / fs
    for hz in (113.0, 117.7, 124.5, 125.5, 130.0, 137.0):
        if hz < fs / 2:
            y, _ = through(np.sin(2 * np.pi * hz * t), fs, MODEL_HZ)
            assert 20 * np.log10(np.sqrt(2 * np.mean(y**2))) < -60, hz


@pytest.mark.parametrize("fs", [25.0, 30.0])
def test_of_slow_sensors_a_wave_below_two_fifths_of_the_rate_is_kept(fs: float) -> None:
    t = np.arange(round(20 * fs)) / fs
    for hz in np.arange(0.5, 0.38 * fs, 0.5):
        y, at = through(np.sin(2 * np.pi * hz * t), fs, MODEL_HZ)
        assert np.abs(y - np.sin(2 * np.pi * hz * at)).max() < 5e-3, hz


def test_equal_rates_are_not_filtered_and_a_constant_stays_as_it_is() -> None:
    assert ratio_of(125.0, 125.0).is_one
    assert ratio_of(125.2, 125.0).is_one
    assert not ratio_of(126.0, 125.0).is_one
    for fs in RATES:
        y, _ = through(np.full(round(20 * fs), 1 / 3 + 1e5), fs, MODEL_HZ)
        assert (y == 1 / 3 + 1e5).all()
        assert abs(ratio_of(fs, MODEL_HZ).up / ratio_of(fs, MODEL_HZ).down * fs / MODEL_HZ - 1) < 0.002


@pytest.mark.parametrize("fs", RATES)
def test_indexes_of_two_rates_fit_each_other_however_large(fs: float) -> None:
    ratio = ratio_of(fs, MODEL_HZ)
    for s in (0, 1, 7, 1000, 2**40 + 3, 2**62 + 12_345):
        m = ratio.to_model(s)
        assert (m - 1) * ratio.down < s * ratio.up <= m * ratio.down
        assert ratio.to_sensor(m) >= s
        near = ratio.nearest_in_model(s, 5, m)
        assert all(abs((int(a) + m) * ratio.down - (s + k) * ratio.up) * 2 <= ratio.down for k, a in enumerate(near))


@given(st.sampled_from(RATES), st.integers(0, 10**9), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_value_depends_on_its_stretch_and_index_alone(fs: float, start: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratio = ratio_of(fs, MODEL_HZ)
    reads = filter_of(ratio.down, ratio.up)
    x = np.cumsum(rng.standard_normal(1200))
    first = ratio.to_model(start)
    n = ratio.to_model(start + len(x)) - first
    expected = read(x, start, 1.5, reads, first, n, closed=True)
    got, at, there = [np.empty(0)], first, 0
    for _ in range(40):
        there = min(there + int(rng.integers(0, 80)), len(x))
        end = reached(reads, start + there)
        if there > reads.reach and end > at:
            k = int(rng.integers(1, end - at + 1))
            drop = max(at * ratio.down // ratio.up - reads.reach - start, 0)
            got.append(read(x[drop:there], start + drop, 1.5, reads, at, k))
            at += k
    drop = max(at * ratio.down // ratio.up - reads.reach - start, 0)
    got.append(read(x[drop:], start + drop, 1.5, reads, at, first + n - at, closed=True))
    assert np.concatenate(got).tobytes() == expected.tobytes()


# ---- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2000, 2000 + times(40, 500)))
def test_every_sample_of_any_rate_is_published_once_or_in_a_gap(seed: int) -> None:
    """And a stream that is saved and loaded goes on as it would have."""
    s, script, signals = drawn(seed, 120)
    script = of_rates(script, np.random.default_rng(seed))
    s = replace(s, max_streams=10)
    run = Run(s).do(script, signals, eager=False, rests=True)
    assert run.engine.unaccounted == run.engine.in_flight == 0
    for chunks in run.chunks.values():
        reached_: dict[int, int] = {}
        for chunk in chunks:
            if chunk.kind in (Kind.DATA, Kind.GAP, Kind.END):
                assert chunk.index == reached_.get(chunk.session, chunk.index)
                reached_[chunk.session] = chunk.index + (chunk.missing if chunk.kind is Kind.GAP else len(chunk.samples))
            if chunk.kind is Kind.DATA and s.policy != "mask" and not s.policies:
                assert np.isfinite(chunk.samples).all()
            if chunk.beats is not None:
                assert (np.asarray(chunk.beats[2]) < chunk.index).all()
                assert chunk.index <= reached_[chunk.session]
    if seed % 2:
        moved = Run(s).do(script, signals, eager=False, rests=True, moves=True)
        assert moved.out == run.out
        assert moved.account == run.account
        # At 1,000 Hz thousands of messages of one sample are on their way, each with a stamp and an array of its own.
        assert all(size - 24 * n < 7500 for size, n in zip(moved.sizes, moved.small, strict=True))


def engine_of(s: Settings | None = None) -> Engine:
    return Run(s or Settings(answers="input", stated="plain", beats=True)).engine


def live(x: np.ndarray, fs: float, cuts: list[int], engine: Engine) -> offline.Denoised:
    """What is published of a recording that comes in messages, put together as `offline` does."""
    chunks = []
    for a, b in zip([0, *cuts], [*cuts, len(x)], strict=True):
        chunks += engine.feed(Chunk("row0", 0, a, x[a:b], fs=fs), 0.0)
        while engine.ready:
            chunks += engine.step()
    chunks += engine.feed(Chunk("row0", 0, len(x), EMPTY, Kind.END, fs), 0.0)
    while engine.ready:
        chunks += engine.step()
    data = [c for c in chunks if c.kind is Kind.DATA]
    assert [c.index for c in data] == [0, *np.cumsum([len(c.samples) for c in data])[:-1]]
    pulse = offline.pulse_of(chunks, len(x), fs, MODEL_HZ)
    wave, confidence, flags = (np.concatenate([getattr(c, name) for c in data]) for name in ("samples", "confidence", "flags"))
    return offline.Denoised(wave, confidence, flags, [pulse])


@pytest.mark.parametrize("seed", range(times(25, 200)))
def test_live_is_offline_bit_for_bit_however_samples_are_cut(seed: int) -> None:
    rng, fs = np.random.default_rng(seed), RATES[seed % len(RATES)]
    x = signal(rng, 5000)
    expected = offline.denoise(x, engine_of(), fs=fs, dtype="f8")
    for size in (7, 60):
        cuts = sorted({int(c) for c in np.cumsum(rng.integers(1, 2 * size, 2 * len(x) // size)) if 0 < c < len(x)})
        found = live(x, fs, cuts, engine_of())
        for name, a, b in zip(offline.Denoised._fields, found, expected, strict=True):
            if name != "pulses":
                assert np.asarray(a).tobytes() == np.asarray(b).astype(np.asarray(a).dtype).tobytes(), name
        for name, a, b in zip(offline.Pulse._fields, found.pulses[0], expected.pulses[0], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def test_a_rate_that_changes_begins_a_stretch_and_each_sample_says_its_own() -> None:
    engine, t = engine_of(), np.arange(3000)
    out = []
    for k, (fs, x) in enumerate([(100.0, np.sin(t / 16)), (50.0, np.sin(t / 8))]):
        for a in range(0, 3000, 50):
            out += engine.feed(Chunk("a", 1, 3000 * k + a, x[a : a + 50], fs=fs, t_ns=10**9 + 10**7 * a), 0.0)
    out += engine.flush(0.0)
    while engine.ready:
        out += engine.step()
    data = [c for c in out if c.kind is Kind.DATA]
    assert {c.fs for c in data if c.index < 3000} == {100.0}
    assert {c.fs for c in data if c.index >= 3000} == {50.0}
    assert [c for c in data if c.index == 3000]
    assert sum(len(c.samples) for c in data) == 6000
    assert [e.text for e in engine.events if e.name == "rate_changed"] == [
        "a: 50 Hz from index 3000 on, 100 Hz before: a new stretch"
    ]
    assert engine.unaccounted == 0


def test_a_rate_that_a_sender_measures_anew_for_each_message_is_one_rate() -> None:
    engine, x = engine_of(), np.sin(np.arange(2000) / 16)
    for k in range(0, 2000, 50):
        engine.feed(Chunk("a", 1, k, x[k : k + 50], fs=100.0 + 0.02 * (k % 3 - 1)), 0.0)
    assert not engine.events


@pytest.mark.parametrize("fs", [0.5, 9.9, 1000.1, 5000.0])
def test_a_rate_that_no_sensor_has_is_refused_and_harms_nobody(fs: float) -> None:
    engine, x = engine_of(), np.sin(np.arange(600) / 16)
    out = engine.feed(Chunk("odd", 1, 0, x, fs=fs), 0.0)
    out += engine.feed(Chunk("fine", 1, 0, x, fs=64.0), 0.0)
    out += engine.flush(0.0)
    while engine.ready:
        out += engine.step()
    assert [e.text for e in engine.events if e.name == "bad_rate"] == [
        f"odd: refused 600 samples: it says {fs:g} Hz: must be 10 to 1000 Hz"
    ]
    assert {c.stream for c in out} == {"fine"}
    assert engine.ledger.refused == 600
    assert engine.unaccounted == 0


def test_below_25_hertz_it_is_said_what_cannot_be_in_the_signal() -> None:
    engine = engine_of()
    engine.feed(Chunk("a", 1, 0, np.sin(np.arange(50) / 2), fs=16.0), 0.0)
    assert [e.name for e in engine.events] == ["low_rate"]
    assert "nothing above 8 Hz" in engine.events[0].text


def test_states_flags_and_places_are_those_of_the_sensor_s_samples() -> None:
    fs = 250.0
    x = 100 * np.sin(2 * np.pi * 1.2 * np.arange(5000) / fs)
    x[2000:2030] = np.nan  # shorter than is bridged
    x[3000:3004] = 1e5
    x[4000:4040] = 130.0
    found = offline.denoise(x, engine_of(), fs=fs)
    flags = found.flags
    assert (np.flatnonzero(flags & Flag.NONFINITE) == np.arange(2000, 2030)).all()
    assert (np.flatnonzero(flags & Flag.OUTLIER) == np.arange(3000, 3004)).all()
    assert (found.confidence[2000:2030] == 0).all()
    assert np.abs(found.denoised[2990:3014]).max() < 300  # an outlier reaches no other sample
    assert (found.confidence[4000:4040] <= 0.3).all()


@pytest.mark.parametrize("fs", [25.0, 64.0, 99.9, 250.0, 1000.0])
def test_beats_and_rates_are_those_of_the_sensor_s_time(fs: float) -> None:
    """A model that answers its input: peaks lie where they lie, whatever the rate, and also where its ratio is rounded."""
    bpm = 72.0
    t = np.arange(round(40 * fs)) / fs
    x = np.exp(np.cos(2 * np.pi * bpm / 60 * t) * 3)
    plan = Plan(rate=rules_for({}, MODEL_HZ))
    s = Settings(beats=True)
    engine = Engine(lambda batch: Run(s).denoise(batch), Rules(plan))
    pulse = offline.denoise(x, engine, fs=fs).pulses[0]
    beats = pulse.beats[2:-1] / fs
    assert len(beats) > 40
    off = (beats * bpm / 60 + 0.5) % 1 - 0.5
    assert np.abs(off).max() * 60 / bpm < 0.03 + 1 / fs
    assert np.abs(pulse.beat_interval_ms[3:-1] - 60_000 / bpm).max() < 25
    told = pulse.hr_bpm[np.isfinite(pulse.hr_bpm)]
    assert np.abs(told - bpm).max() < 1
    assert np.abs(np.diff(pulse.hr_t_s) - 2).max() < 0.005 + 2 / fs
