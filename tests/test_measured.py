"""What counts as measured: whole numbers and repeats do, rails and impossible values do not, and noise is neither."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.assemble import rules_of
from ppgstream.config import Config, In
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.judge import Judge
from ppgstream.core.measured import HELD, MEASURED, OUTLIER
from ppgstream.core.quality import held_rows
from ppgstream.core.resampling import resample
from ppgstream.files import offline
from ppgstream.lab import noise, scores, synthetic
from ppgstream.model import runtime
from ppgstream.model.checkpoint import BUNDLED, Checkpoint
from ppgstream.model.restore import restore
from ppgstream.wire.message import Chunk, Flag, Kind

FS = 125.0
CASES = Path(__file__).parents[2] / "shared" / "cases"


@cache
def bundled() -> tuple[Checkpoint, Denoiser]:
    found = restore(BUNDLED)
    return found, runtime.denoiser(found)


def machine(**in_: object) -> Engine:
    found, denoiser = bundled()
    return Engine(denoiser, rules_of(Config(in_=In(**in_)), found))  # type: ignore[arg-type]


def denoised(x: np.ndarray, **in_: object) -> offline.Denoised:
    return offline.denoise(np.asarray(x, float), machine(**in_), fs=FS, dtype="f8")


def snr_db(y: np.ndarray, clean: np.ndarray, kept: np.ndarray | None = None) -> float:
    kept = np.ones(len(clean), np.bool_) if kept is None else kept
    reference, error = scores.bandpass(clean, FS), scores.bandpass(y - clean, FS)
    return float(10 * np.log10(np.sum(reference[kept] ** 2) / np.sum(error[kept] ** 2)))


def clean_pulse(seed: int, seconds: int = 30) -> np.ndarray:
    """A synthetic person's pulse in 0..1."""
    rng = np.random.default_rng(seed)
    x, _ = synthetic.pulse(int(seconds * FS), synthetic.person(rng), rng)
    return (x - x.min()) / np.ptp(x)


def judged(x: np.ndarray, cuts: list[int] | None = None, **kwargs: object) -> tuple[np.ndarray, list[str]]:
    """The state of each sample, and the kinds of what ended a stretch."""
    judge = Judge(FS, 50, **kwargs)  # type: ignore[arg-type]
    parts = []
    for part in np.split(x, cuts or []):
        parts += judge.feed(part)
    parts += judge.finish()
    states: list[int] = []
    for p in parts:
        if p.back and p.kind == "samples":
            states[-1] = HELD
        states += [MEASURED] * len(p.x) if p.state is None else p.state.tolist()
    return np.array(states), [p.kind for p in parts if p.kind in ("step", "end")]


# ---- whole numbers and repeats are measured ------------------------------------------------------------------------


def coarse(counts: int, repeat: int, seed: int) -> np.ndarray:
    x = clean_pulse(seed)
    x = np.repeat(x[::repeat], repeat)[: len(x)]
    return np.round(x * counts) if counts else x


@pytest.mark.parametrize("seed", range(3))
def test_no_sample_of_a_coarse_or_repeating_converter_is_held_or_an_outlier(seed: int) -> None:
    for counts in (5, 10, 33, 100, 400, 0):
        for repeat in (1, 2, 3, 5, 8, 10):
            if counts or repeat > 1:
                state, ends = judged(coarse(counts, repeat, seed))
                assert (state == MEASURED).all(), (counts, repeat)
                assert not ends


@pytest.mark.parametrize(("counts", "repeat"), [(5, 1), (10, 1), (33, 1), (400, 1), (0, 2), (0, 5), (0, 10), (100, 3)])
def test_whole_numbers_and_repeats_cost_at_most_1_db(counts: int, repeat: int) -> None:
    x = coarse(counts, repeat, 7)
    tiny = x + 1e-6 * (counts or 1) * np.random.default_rng(1).standard_normal(len(x))
    assert snr_db(denoised(x).denoised, x) > snr_db(denoised(tiny).denoised, x) - 1


# ---- rails and frozen sensors are held -----------------------------------------------------------------------------


def test_clipping_is_found_in_continuous_and_in_whole_numbers() -> None:
    x = np.concatenate([noise.n1(clean_pulse(s).reshape(-1, 250), np.random.default_rng(s)).noisy.ravel() for s in range(4)])
    for counts in (0, 400):
        rows = (np.round(x * counts) if counts else x).reshape(-1, 250)
        clipped = held_rows(x.reshape(-1, 250))
        found = np.stack([judged(row)[0] == HELD for row in rows])
        assert (found & clipped).sum() > 0.97 * clipped.sum()
        assert (found & ~clipped).sum() < 0.001 * clipped.size


def test_a_sensor_that_freezes_ends_the_stretch_and_shows_the_last_measured_value() -> None:
    x = 100 * clean_pulse(3)
    for frozen, said in ((60, Flag.FLAT), (400, Flag.FLAT | Flag.LEAD_OFF)):
        y = x.copy()
        y[1000 : 1000 + frozen] = 321.0
        e = machine()
        result = through(e, y)
        part = slice(1000, 1000 + frozen)
        np.testing.assert_array_equal(result.denoised[part], y[999])
        assert (result.confidence[part] == 0).all()
        assert ((result.flags[part] & said) == said).all()
        assert not (result.flags[:1000] & Flag.FLAT).any()
        assert (e.ledger.held, e.ledger.passthrough, e.unaccounted) == (frozen, frozen, 0)
        assert [event.name for event in e.events] == (["lead_off"] if frozen > 125 else [])
        whole = snr_db(denoised(x).denoised, x)
        away = np.r_[200:750, 1250 + frozen : len(x) - 200]
        assert snr_db(result.denoised, x, np.isin(np.arange(len(x)), away)) > whole - 3


def through(e: Engine, x: np.ndarray) -> offline.Denoised:
    """As `offline.denoise`, and the engine keeps its ledger."""
    out = offline.Denoised(np.zeros(len(x)), np.zeros(len(x), np.float32), np.zeros(len(x), np.uint16), [])
    for chunk in offline.denoised_chunks(x, e, stream="a", fs=125.0):
        if chunk.kind is not Kind.DATA:
            continue
        at = slice(chunk.index, chunk.stop)
        out.denoised[at], out.confidence[at], out.flags[at] = chunk.samples, chunk.confidence, chunk.flags
    return out


def test_a_held_run_of_up_to_50_is_masked_and_stays_in_the_stretch() -> None:
    x = 100 * clean_pulse(4)
    x[1000:1040] = 150.0
    e = machine()
    result = through(e, x)
    assert (result.confidence[1001:1040] <= np.float32(0.3)).all()
    assert ((result.flags[1001:1040] & (Flag.FLAT | Flag.SATURATED)) != 0).all()
    assert (e.ledger.held, e.ledger.denoised, e.unaccounted) == (40, len(x), 0)
    assert np.ptp(result.denoised[990:1050]) < 130  # the rail is 50 above the pulse


# ---- impossible values ---------------------------------------------------------------------------------------------


LEVELS = [(120_000, 180), (2000, 100), (300, 4.0), (3, 1.0)]


@pytest.mark.parametrize(("level", "height"), LEVELS)
@pytest.mark.parametrize("kind", ["1 % zeros", "-999 three times a second", "one 2^24", "one zero", "named 65535"])
def test_impossible_values_are_outliers_and_cost_the_others_less_than_3_db(kind: str, level: float, height: float) -> None:
    x = level + height * clean_pulse(5)
    rng = np.random.default_rng(2)
    at = {
        "1 % zeros": rng.uniform(size=len(x)) < 0.01,
        "-999 three times a second": np.arange(len(x)) % 41 == 7,
        "one 2^24": np.arange(len(x)) == 2000,
        "one zero": np.arange(len(x)) == 2000,
        "named 65535": rng.uniform(size=len(x)) < 0.01,
    }[kind]
    y = x.copy()
    y[at] = {"1": 0, "-": -999, "o": 2.0**24 if "24" in kind else 0, "n": 65535}[kind[0]]
    named = {"sentinels": [65535.0]} if kind.startswith("named") else {}
    e = machine(**named)
    result = through(e, y)
    assert ((result.flags & Flag.OUTLIER) != 0).tolist() == at.tolist()
    assert (result.confidence[at] <= np.float32(0.3)).all()
    assert (e.ledger.outliers, e.ledger.denoised, e.unaccounted) == (at.sum(), len(x), 0)
    # Above 28 dB it is the answers over what was left out that count, and no longer the others.
    assert snr_db(np.where(at, x, result.denoised), x) > min(snr_db(denoised(x).denoised, x) - 3, 28)
    assert not e.events


def test_zero_is_a_value_like_any_other_where_the_recording_reaches_it() -> None:
    x = np.round(40 * (clean_pulse(6) - 0.5))
    assert (judged(x)[0] == MEASURED).all()


# ---- noise is neither ----------------------------------------------------------------------------------------------


def clip(x: np.ndarray, share: float) -> np.ndarray:
    return np.clip(x, *np.quantile(x, [share, 1 - share]))


def noises(seed: int) -> dict[str, list[np.ndarray]]:
    x, rng = clean_pulse(seed, 60), np.random.default_rng(seed)
    seconds = np.arange(0, len(x) + 250, 125)
    walk = np.interp(np.arange(len(x)), seconds, np.cumsum(rng.standard_normal(len(seconds))))
    bursts = x.copy()
    for start in range(500, len(x) - 250, 1500):
        bursts[start : start + 250] += 15 * x.std() * rng.standard_normal(250)
    early = x.copy()
    early[:250] += 15 * x.std() * rng.standard_normal(250)
    return {
        "N1": [synthetic.noisy_pulse(x, rng)],
        "N1 in whole numbers": [np.round(100 * synthetic.noisy_pulse(x, rng))],
        "N1 rows": list(noise.n1(x.reshape(-1, 250), rng).noisy),
        "clean rows": list(x.reshape(-1, 250)),
        "walking baseline and clipping": [clip(x + walk, 0.15)],
        "random walk and clipping": [clip(x + np.cumsum(0.05 * rng.standard_normal(len(x))), 0.1)],
        "bursts": [bursts],
        "a burst at the start": [early],
    }


def test_noise_makes_no_outliers_and_no_steps() -> None:
    total: dict[str, list[int]] = {}
    for seed in range(6):
        for kind, records in noises(seed).items():
            for x in records:
                state, ends = judged(x)
                sums = total.setdefault(kind, [0, 0])
                sums[0] += len(x)
                sums[1] += int((state == OUTLIER).sum())
                assert "step" not in ends, kind
    for kind, (n, outliers) in total.items():
        assert outliers <= 0.001 * n, kind


# ---- steps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [10_000, -20_000, 700])
def test_a_step_ends_the_stretch_and_harms_no_neighbour(step: float) -> None:
    x = 120_000 + 180 * clean_pulse(8)
    y = x + step * (np.arange(len(x)) >= 1700)
    e = machine()
    result = through(e, y)
    assert [event.name for event in e.events] == ["step"]
    assert "index 1700" in e.events[0].text
    assert np.flatnonzero(result.flags & Flag.STEP).tolist() == [1700]
    whole = snr_db(denoised(x).denoised, x)
    assert snr_db(result.denoised - step * (np.arange(len(x)) >= 1700), x) > whole - 2
    assert e.unaccounted == 0


def test_a_finger_that_is_taken_off_leaves_no_pulse_and_harms_no_neighbour() -> None:
    x = 124_000 + 900 * clean_pulse(8)
    off = slice(1250, 2500)
    y = x.copy()
    y[off] = np.round(700 + 3 * np.random.default_rng(4).standard_normal(1250))
    e = machine()
    result = through(e, y)
    assert [event.name for event in e.events] == ["step", "lead_off", "step"]
    assert ((result.flags[off] & Flag.LEAD_OFF) != 0).all()
    assert not (result.flags[:1250] & Flag.LEAD_OFF).any()
    assert not (result.flags[2500:] & Flag.LEAD_OFF).any()
    assert (result.confidence[off] == 0).all()
    np.testing.assert_array_equal(result.denoised[off], y[off])
    assert np.flatnonzero(result.flags & Flag.STEP).tolist() == [1250, 2500]
    kept = (np.arange(len(x)) < 1000) | (np.arange(len(x)) >= 2750)
    beside = np.where(kept, result.denoised, x)
    assert snr_db(beside, x, kept) > snr_db(denoised(x).denoised, x, kept) - 3
    assert e.unaccounted == 0


@pytest.mark.parametrize("noise_counts", [0.0, 0.3, 1.0, 2.0])
def test_a_nearly_flat_line_never_becomes_a_pulse(noise_counts: float) -> None:
    y = np.round(512 + noise_counts * np.random.default_rng(4).standard_normal(2000))
    result = denoised(y)
    assert (result.confidence == 0).all()
    assert ((result.flags & Flag.LEAD_OFF) != 0).all()
    assert np.abs(result.denoised - y).max() <= np.ptp(y)


# ---- interference --------------------------------------------------------------------------------------------------


def test_a_lamp_s_alias_lowers_confidence_and_is_named() -> None:
    x = clean_pulse(11)
    lamp = 0.4 * np.sin(2 * np.pi * 120 * np.arange(len(x)) / FS)
    e = machine()
    result = through(e, x + lamp)
    assert [event.name for event in e.events] == ["interference"]
    assert "5.00 Hz" in e.events[0].text
    assert ((result.flags[750:] & Flag.INTERFERENCE) != 0).all()
    assert (result.confidence[750:] < 0.5).all()


def test_no_pulse_and_no_noise_is_called_interference_or_hum() -> None:
    for seed in range(6):
        x = clean_pulse(seed, 60)
        for y in (x, synthetic.noisy_pulse(x, np.random.default_rng(seed))):
            judge = Judge(FS, 50)
            parts = judge.feed(y) + judge.finish()
            assert not any(part.beside.line_hz or part.beside.hum_hz for part in parts)


@pytest.mark.parametrize("bpm", [36, 45, 60, 110, 200])
@pytest.mark.parametrize("shape", ["sharp", "cosine"])
def test_no_steady_pulse_is_called_breathing(bpm: float, shape: str) -> None:
    t = np.arange(int(30 * FS)) / FS
    x = (
        np.cos(2 * np.pi * bpm / 60 * t)
        if shape == "cosine"
        else synthetic.steady(synthetic.Wave(sd_s=0.08, second=0.3), bpm, 30.0)
    )
    assert not any(part.beside.breathing for part in Judge(FS, 50).feed(x))


@pytest.mark.parametrize("bpm", [60, 120, 190, 240, 300])
@pytest.mark.parametrize("sd_beats", [0.04, 0.06, 0.12])
def test_no_pulse_s_harmonics_are_called_hum(bpm: float, sd_beats: float) -> None:
    x = synthetic.steady(synthetic.Wave(sd_s=sd_beats * 60 / bpm, second=0.2), bpm, 30.0)
    assert not any(part.beside.hum_hz for part in Judge(FS, 50).feed(x))


@pytest.mark.parametrize("height", [1.2, 3.0, 10.0])
@pytest.mark.parametrize("hz", [50.0, 60.0, 20.0])
def test_hum_as_strong_as_the_pulse_is_flagged_and_named(hz: float, height: float) -> None:
    x = clean_pulse(11)
    beside = height * np.ptp(x) / 2 * np.sin(2 * np.pi * hz * np.arange(len(x)) / FS)
    e = machine()
    result = through(e, x + beside)
    assert [event.name for event in e.events] == ["hum"]
    assert f"{hz:.2f} Hz" in e.events[0].text
    assert ((result.flags[750:] & Flag.HUM) != 0).all()
    assert not (result.flags & (Flag.INTERFERENCE | Flag.BREATHING)).any()
    assert not (through(machine(), x + beside / height / 20).flags & Flag.HUM).any()


@pytest.mark.parametrize("height", [1.5, 3.0, 10.0])
@pytest.mark.parametrize("hz", [0.15, 0.25, 0.4])
def test_breathing_as_strong_as_the_pulse_is_flagged_and_named_once_a_minute(hz: float, height: float) -> None:
    x = clean_pulse(11, 60)
    beside = height * np.ptp(x) / 2 * np.sin(2 * np.pi * hz * np.arange(len(x)) / FS)
    e = machine()
    result = through(e, x + beside)
    assert [event.name for event in e.events] == ["breathing"]
    assert ((result.flags[750:] & Flag.BREATHING) != 0).mean() > 0.9
    assert not (result.flags & (Flag.INTERFERENCE | Flag.HUM)).any()
    assert not (through(machine(), x + beside / height / 20).flags & Flag.BREATHING).any()


def test_hum_that_ends_is_no_longer_flagged() -> None:
    x = clean_pulse(11, 60)
    hum = np.ptp(x) * np.sin(2 * np.pi * 50 * np.arange(len(x)) / FS)
    hum[len(x) // 2 :] = 0.0
    flags = through(machine(), x + hum).flags & Flag.HUM
    assert (flags[750 : len(x) // 2] != 0).all()
    assert not flags[len(x) // 2 + 9 * int(FS) :].any()


# ---- in stream order -----------------------------------------------------------------------------------------------


def mixture(seed: int) -> np.ndarray:
    """A coarse pulse with rails, frozen stretches, impossible values and steps."""
    rng = np.random.default_rng(seed)
    x = 1000 + np.round(rng.choice([8, 60, 900]) * clean_pulse(seed, 20))
    for _ in range(6):
        at, n = rng.integers(0, len(x)), rng.integers(1, 160)
        what = rng.integers(0, 5)
        if what == 0:
            x[at] = rng.choice([0, -999, 2**24])
        elif what == 1:
            x[at : at + n] = x[at]
        elif what == 2:
            x[at : at + n] = x.max()
        elif what == 3:
            x[at:] += rng.choice([30_000, -20_000])
        else:
            x[at : at + n] = 0
    return x


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 2499), max_size=30))
def test_chunking_changes_no_decision(seed: int, cuts: list[int]) -> None:
    x = mixture(seed)
    whole, parts = judged(x), judged(x, sorted(cuts))
    np.testing.assert_array_equal(whole[0], parts[0])
    assert whole[1] == parts[1]
    assert len(whole[0]) == len(x)


def test_chunking_changes_no_output() -> None:
    for seed in range(6):
        x = mixture(seed)
        whole = through(machine(), x)
        e, outputs = machine(), []
        for at in range(0, len(x), 25):
            outputs += e.feed(Chunk("a", 0, at, x[at : at + 25]), 0.0)
            while e.ready:
                outputs += e.step()
            assert e.unaccounted == 0
        outputs += e.flush(0.0)
        while e.ready:
            outputs += e.step()
        data = [c for c in outputs if len(c.samples)]
        np.testing.assert_array_equal(np.concatenate([c.samples for c in data]), whole.denoised)
        np.testing.assert_array_equal(np.concatenate([c.flags for c in data]), whole.flags)
        np.testing.assert_array_equal(np.concatenate([c.confidence for c in data]), whole.confidence)
        assert e.unaccounted == 0
        assert e.in_flight == 0


# ---- at other rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fs", [64.0, 100.0, 250.0])
def test_impossible_values_at_another_rate_harm_no_other_sample(fs: float) -> None:
    rng = np.random.default_rng(3)
    x, _ = synthetic.pulse(int(30 * fs), synthetic.Person(offset=120_000, amplitude=180), rng, fs=fs)
    at = rng.uniform(size=len(x)) < 0.01
    y = np.where(at, 0.0, x)
    clean, spoiled = (offline.denoise(v, machine(), fs=fs, dtype="f8") for v in (x, y))
    assert ((spoiled.flags & Flag.OUTLIER) != 0).tolist() == at.tolist()
    assert (spoiled.confidence[at] <= np.float32(0.3)).all()
    assert np.abs(spoiled.denoised - clean.denoised)[~at].std() < 0.15 * x.std()


@pytest.mark.parametrize("fs", [25.0, 50.0, 125.0, 400.0, 1000.0])
def test_what_is_an_outlier_what_a_step_and_what_a_coarse_peak_is_decided_by_time_at_any_rate(fs: float) -> None:
    n = round(12 * fs)
    x = 1000 + 100 * np.sin(2 * np.pi * 1.2 * np.arange(n) / fs) + np.random.default_rng(3).normal(0, 1, n)

    def kinds(x: np.ndarray) -> tuple[set[str], set[int]]:
        parts = Judge(fs, round(0.4 * fs)).feed(x)
        return {p.kind for p in parts}, {int(s) for p in parts for s in np.unique(p.state if p.state is not None else 0)}

    assert kinds(x) == ({"samples"}, {MEASURED})
    at = round(8 * fs)
    away = x.copy()
    away[at : at + round(0.3 * fs)] += 50_000
    assert kinds(away) == ({"samples"}, {MEASURED, OUTLIER})
    moved = x.copy()
    moved[at : at + round(0.6 * fs)] += 50_000
    assert "step" in kinds(moved)[0]
    few = np.round(4 * np.sin(2 * np.pi * 0.7 * np.arange(n) / fs))  # nine counts: its peaks last 0.3 s
    assert kinds(few) == ({"samples"}, {MEASURED})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([25.0, 64.0, 100.0, 117.3, 250.0]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(1, 90)), max_size=4),
)
def test_resampling_stays_within_each_stretch_and_its_range(seed: int, fs: float, invalid: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    x = 1000 + np.cumsum(rng.standard_normal(800))
    for start, length in invalid:
        x[start : start + length] = np.nan
        x[start + length :] += rng.uniform(-500, 500)
    y = resample(x, fs, FS)
    assert abs(len(y) - 800 * FS / fs) <= 1
    nearest = np.minimum(np.round(np.arange(len(y)) * fs / FS).astype(int), 799)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x[nearest]))
    finite = np.isfinite(x)
    edges = np.flatnonzero(np.diff(finite.astype(int), prepend=0, append=0)).reshape(-1, 2)
    for a, b in edges:
        inside = (nearest >= a) & (nearest < b)
        assert (y[inside] >= x[a:b].min()).all()
        assert (y[inside] <= x[a:b].max()).all()


# ---- the scale -----------------------------------------------------------------------------------------------------


def test_a_rail_does_not_set_the_scale_of_its_window() -> None:
    """What the model sees of the measured samples is the same, wherever the rail lies."""
    seen = []

    def look(batch):  # type: ignore[no-untyped-def]
        seen.append((batch.x, batch.valid))
        return bundled()[1](batch)

    x = 100 * clean_pulse(9)[:250]
    for rail in (150.0, 400.0):
        y = x.copy()
        y[180:220] = rail
        e = machine()
        e.denoiser = look
        through(e, y)
    (a, valid), (b, valid_b) = seen
    np.testing.assert_array_equal(valid, valid_b)
    assert (~valid[0]).sum() == 40
    np.testing.assert_array_equal(a[valid], b[valid])


@pytest.mark.parametrize("bpm", [120.0, 135.0, 150.0, 165.0, 180.0, 190.0])
@pytest.mark.parametrize("width", [0.05, 0.06, 0.08])
def test_a_fast_sharp_pulse_is_no_lamp(bpm: float, width: float) -> None:
    """Its own harmonics lie where a lamp's flicker does."""
    beat = (np.arange(30 * FS) / FS * bpm / 60) % 1.0
    x = np.exp(-0.5 * ((beat - 0.5) / width) ** 2)
    judge = Judge(FS, 50)
    seen = [part.beside.line_hz for a in range(0, len(x), 25) for part in judge.feed(x[a : a + 25])]
    assert not any(seen)


@pytest.mark.parametrize("bpm", [60.0, 75.0, 100.0, 130.0])
def test_a_lamp_beside_a_pulse_is_seen(bpm: float) -> None:
    t = np.arange(30 * FS) / FS
    for hz in (4.37, 5.0, 6.6, 8.3, 12.1):
        x = np.exp(-0.5 * (((t * bpm / 60) % 1.0 - 0.5) / 0.15) ** 2) + 0.8 * np.sin(2 * np.pi * hz * t)
        judge = Judge(FS, 50)
        seen = [part.beside.line_hz for a in range(0, len(x), 25) for part in judge.feed(x[a : a + 25])]
        own = min(abs(hz - k * bpm / 60) / (k * bpm / 60) for k in (2, 3, 4))
        assert own < 0.06 or seen[-1] == pytest.approx(hz, abs=0.3), hz


# ---- the cases that users sent -------------------------------------------------------------------------------------


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize("name", ["one_zero", "fifo_zeros_0.01", "sentinel_-999"])
def test_cases_of_impossible_values(name: str) -> None:
    x = np.loadtxt(CASES / f"{name}.txt")
    at = np.isin(x, [0, -999])
    result = denoised(x)
    assert ((result.flags & Flag.OUTLIER) != 0).tolist() == at.tolist()
    known = np.interp(np.arange(len(x)), np.flatnonzero(~at), x[~at])
    error = (result.denoised - denoised(known).denoised)[~at]
    assert error.std() < 0.2 * known.std()


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize("name", ["clean_5_counts", "clean_10_counts", "hold_x5"])
def test_cases_of_coarse_converters(name: str) -> None:
    x = np.loadtxt(CASES / f"{name}.txt")
    tiny = x + 1e-6 * np.random.default_rng(1).standard_normal(len(x))
    assert snr_db(denoised(x).denoised, x) > snr_db(denoised(tiny).denoised, x) - 1


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize(("name", "steps"), [("led_step_20000", 2), ("agc_gain_x4", 1), ("finger_off_3", 2)])
def test_cases_of_steps(name: str, steps: int) -> None:
    e = machine()
    through(e, np.loadtxt(CASES / f"{name}.txt"))
    found = [event.name for event in e.events].count("step")
    assert found == steps
