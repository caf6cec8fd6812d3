"""The recordings that networks are trained and tested on: wrists by person, and pulses of all shapes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ppgstream.tools import wrist as tool
from ppgstream.train import batches, card, data
from ppgstream.train.recipe import make
from typer.testing import CliRunner

from ppgstream.errors import SourceError
from ppgstream.lab import scores, synthetic

SHARED = Path(os.environ.get("PPGSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_wrist = pytest.mark.skipif(
    not (SHARED / "wrist").is_dir(), reason="the wrist recordings are not here (../shared/data or PPGSTREAM_DATA)"
)
RATE_HZ = 1.3


def pulse(fs: float, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * RATE_HZ * np.arange(round(fs * seconds)) / fs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two wearers in the layout of the wrist files: an E4 at 64 Hz that rests and then walks, and a watch of about 25 Hz."""
    (tmp_path / "wrist").mkdir()
    quiet, walking = np.zeros((3, 32 * 30), np.int8), np.zeros((3, 32 * 30), np.int8)
    quiet[2], walking[2] = 64, 64 + (40 * pulse(32, 30)).astype(np.int8)
    for file, name, person, watch in (("stress_predict", "S01", "S01", False), ("cogwear", "C22_base", "C22", True)):
        arrays = {
            "names": np.array([name]),
            "person": np.array([person]),
            "bvp_k": np.array(100),
            f"{name}_bvp": (1000 * pulse(64, 60)).astype(np.int16),
            f"{name}_fs": np.array(64.0),
            f"{name}_clean": np.array([[0, 64 * 60]], np.int32),
        }
        if watch:
            t = np.arange(25 * 40) * 40.0 + np.arange(25 * 40) % 3
            arrays |= {
                f"{name}_sam": (1e5 + 500 * np.sin(2 * np.pi * RATE_HZ * t / 1000)).astype(np.int32),
                f"{name}_sam_t_ms": t,
                f"{name}_sam_clean": np.array([[0, 25 * 40], [0, 100]], np.int32),
            }
        else:
            arrays |= {f"{name}_acc": np.concatenate([quiet, walking], axis=1), f"{name}_acc_fs": np.array(32.0)}
        np.savez(tmp_path / "wrist" / f"{file}.npz", **arrays)
    return tmp_path


def test_wrists_come_at_125_hz_by_person_and_at_rest(folder: Path) -> None:
    train, test = data.wrist(folder, "train"), data.wrist(folder, "test")
    assert train.recording == ["wrist_e4_S01"]
    assert test.recording == ["wrist_e4_C22_base", "wrist_watch_C22_base"]
    assert data.wrist(folder, "validation").stretches == []
    assert len(train.stretches[0]) / data.FS == pytest.approx(34, abs=5)  # half of it walks
    assert [round(len(x) / data.FS) for x in test.stretches] == [60, 40]
    for x in (*train.stretches, *test.stretches):
        assert np.median(scores.heart_rates(x, data.FS)) == pytest.approx(60 * RATE_HZ, abs=0.5)
    watch = pulse(25, 40)  # the light falls as the blood comes
    assert (
        float(
            np.corrcoef(
                test.stretches[1][: 125 * 30], np.interp(np.arange(125 * 30) / 125, np.arange(1000) / 25, watch)[: 125 * 30]
            )[0, 1]
        )
        < -0.95
    )
    assert [data.person_of(name) for name in test.recording] == ["wrist_e4_C22", "wrist_watch_C22"]
    assert [s.name for s in data.public_sets(folder)] == ["wrist"]


def test_a_damaged_wrist_file_is_named(folder: Path) -> None:
    (folder / "wrist" / "cogwear.npz").write_bytes(b"no zip")
    with pytest.raises(SourceError, match=r"cogwear\.npz: cannot read the wrist recordings: not an npz file"):
        data.wrist(folder, "test")


@pytest.fixture(scope="module")
def wearers() -> dict[str, data.Clean]:
    return {side: data.wrist(SHARED, side) for side in data.SIDES}


@needs_wrist
def test_no_wearer_is_on_two_sides(wearers: dict[str, data.Clean]) -> None:
    people = {side: {data.person_of(r).split("_")[2] for r in clean.recording} for side, clean in wearers.items()}
    assert {side: len(found) for side, found in people.items()} == {"train": 28, "validation": 5, "test": 12}
    assert sum(len(found) for found in people.values()) == len(set.union(*people.values()))


def test_the_card_says_on_whom() -> None:
    split = {
        "train": [
            "bidmc_01_s7",
            "bidmc_02_s7",
            "wrist_e4_S01",
            "wrist_watch_C22_base",
            "wrist_e4_C22_cog",
            "1800 synthetic people",
            "mine.csv",
        ]
    }
    lines = card._whom(dict.fromkeys(("bidmc", "wrist", "synthetic", "own")), split)
    assert [line.split("|")[2].strip() for line in lines[2:-1]] == ["1", "2", "1800", "1"]
    assert "Empatica E4" in lines[3]


@needs_wrist
def test_all_wearers_pulses_stand_upright(wearers: dict[str, data.Clean]) -> None:
    """Their upstroke is the steep side; tops may be broad and feet deep."""
    for clean in wearers.values():
        skewed: dict[str, list[float]] = {}
        for x, name in zip(clean.stretches, clean.recording, strict=True):
            slope = np.diff(scores.bandpass(x, data.FS))
            skewed.setdefault(data.person_of(name), []).append(float(np.mean((slope / slope.std()) ** 3)))
        assert {name for name, found in skewed.items() if np.median(found) < 0} == set()


@pytest.mark.parametrize("seed", range(6))
def test_waves_rise_more_steeply_than_they_fall(seed: int) -> None:
    """What tells an upright pulse from one that is upside down."""
    rng = np.random.default_rng(seed)
    waves = [synthetic.random_wave(rng) for _ in range(20)]
    skewed = [synthetic.Wave(w.decay, min(max(w.lag, 0.5), 2.6)) if not w.sd_s else w for w in waves]
    for wave in skewed:
        slope = np.diff(synthetic.steady(wave, 60.0, 10.0))
        assert slope.max() > -slope.min() * 0.95, wave


def test_rounded_pulses_have_all_rates_and_are_finite() -> None:
    clean = data.synthetic_people(60, 3)
    assert len(clean.stretches) == len(set(clean.recording)) == 60
    assert all(np.isfinite(x).all() and np.ptp(x) > 0 for x in clean.stretches)
    rates = [np.median(scores.heart_rates(x, data.FS)) for x in clean.stretches]
    assert min(rates) < 60
    assert max(rates) > 150


def test_a_share_of_real_pulses_is_played_fast_and_most_motion_goes_to_real_ones() -> None:
    slow = data.Set("own", {"train": data.Clean([pulse(125, 40)], ["a"])})
    windows = batches.Windows([slow], [1.0], 250, fast=1.0).random(300, np.random.default_rng(1))[0]
    spectrum = np.abs(np.fft.rfft((windows - windows.mean(axis=1, keepdims=True)) * np.hanning(250), 4096, axis=1))
    bpm = 60 * np.fft.rfftfreq(4096, 1 / 125)[spectrum.argmax(axis=1)]
    low, high = batches.FAST_BPM
    assert low * 0.9 < bpm.min() < bpm.max() < high * 1.05
    recipe = make("transformer", None, {"shares": {"motion": 0.3, "nearly_clean": 0.7}})
    real = np.arange(2000) % 2 == 0
    clean = np.tile(pulse(125, 2).astype(np.float32), (2000, 1))
    packed = batches.draw(clean, recipe, recipe.architecture, np.random.default_rng(2), real).packed
    moved = packed[:, 250] < 0.8  # the pulse's height in the network's input
    assert moved[~real].mean() < 0.5 * moved[real].mean()


# ---- the wrist files from the public csv files ---------------------------------------------------------------------


def sources(folder: Path) -> list[str]:
    """One recording of each repository, as its csv files are, and the options that name them."""
    rng = np.random.default_rng(1)
    beat = 30 * np.sin(2 * np.pi * RATE_HZ * np.arange(64 * 40) / 64)
    acc = np.tile([0.0, 0.0, 64.0], (32 * 40, 1))
    for where, late in (("stress/S01", 0.0), ("exams/S08/Midterm 2", 1.5)):
        (folder / where).mkdir(parents=True)
        np.savetxt(folder / where / "BVP.csv", [1e9, 64, *beat], fmt="%.2f")
        np.savetxt(folder / where / "ACC.csv", [[1e9 + late] * 3, [32] * 3, *acc], delimiter=",", fmt="%.2f")
    where = folder / "cogwear" / "survey_gamification" / "22" / "pre" / "baseline"
    where.mkdir(parents=True)
    order, t = rng.permutation(1000), 5 + np.arange(1000) / 25
    counts = np.rint(2e6 - 800 * np.sin(2 * np.pi * RATE_HZ * t))
    np.savetxt(
        where / "empatica_bvp.csv",
        np.c_[beat, 5 + np.arange(64 * 40) / 64],
        delimiter=",",
        header="BVP,time",
        comments="",
        fmt="%.4f",
    )
    np.savetxt(
        where / "samsung_bvp.csv", np.c_[counts, t][order], delimiter=",", header="PPG GREEN,time", comments="", fmt="%.4f"
    )
    return ["--stress-predict", str(folder / "stress"), "--exams", str(folder / "exams"), "--cogwear", str(folder / "cogwear")]


def test_the_wrist_files_are_made_from_the_csv_files_of_their_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "STRESS_PREDICT": ["S01"],
        "EXAMS": ["X08_M2"],
        "PILOT": [],
        "SURVEY": ["C22"],
        "SURVEY_PARTS": ("pre_base",),
    }.items():
        monkeypatch.setattr(tool, name, value)
    options = sources(tmp_path)
    done = CliRunner().invoke(tool.app, [*options, "-o", str(tmp_path / "wrist")])
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "wrist" / "cogwear.npz") as z:
        assert (np.diff(z["C22_pre_base_sam_t_ms"]) == 40).all()
        assert len(z["C22_pre_base_sam_clean"]) == 1
    with np.load(tmp_path / "wrist" / "exam_noise.npz") as z:
        assert float(z["X08_M2_acc_t0"]) == pytest.approx(1.5, abs=0.01)
    assert data.wrist(tmp_path, "train").recording == ["wrist_e4_S01", "wrist_e4_X08_M2"]
    test = data.wrist(tmp_path, "test")
    assert test.recording == ["wrist_e4_C22_pre_base", "wrist_watch_C22_pre_base"]
    assert [round(len(x) / data.FS) for x in test.stretches] == [40, 40]
    assert CliRunner().invoke(tool.app, []).exit_code == 2
    (tmp_path / "stress" / "S01" / "BVP.csv").write_text("no numbers")
    done = CliRunner().invoke(tool.app, [*options, "-o", str(tmp_path / "again")])
    assert done.exit_code == 65
    assert "S01/BVP.csv: not a table of numbers" in " ".join(done.stderr.split())
    assert not (tmp_path / "again").exists()


@needs_wrist
def test_the_rule_for_clean_finds_the_ranges_that_the_wrist_files_state() -> None:
    with np.load(SHARED / "wrist" / "stress_predict.npz") as z:
        x, fs, stated = z["S13_bvp"] / float(z["bvp_k"]), float(z["S13_fs"]), z["S13_clean"]
    (found,) = tool.clean_ranges([x], [fs], 12.0)
    both = np.zeros((2, len(x)), np.bool_)
    for row, ranges in zip(both, (found, stated), strict=True):
        for a, b in ranges:
            row[a:b] = True
    assert both.all(axis=0).sum() / both.any(axis=0).sum() > 0.95
