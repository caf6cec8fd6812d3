"""The recordings that networks are trained and tested on: wrists by person, and pulses of all shapes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ppgstream.train import batches, data
from ppgstream.train.recipe import make

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
    assert [data.person_of(name) for name in test.recording] == ["wrist_e4_C22", "wrist_watch_C22"]
    assert [s.name for s in data.public_sets(folder)] == ["wrist"]


def test_a_damaged_wrist_file_is_named(folder: Path) -> None:
    (folder / "wrist" / "cogwear.npz").write_bytes(b"no zip")
    with pytest.raises(SourceError, match=r"cogwear\.npz: cannot read the wrist recordings"):
        data.wrist(folder, "test")


@needs_wrist
def test_no_wearer_is_on_two_sides() -> None:
    people = {side: {data.person_of(r).split("_")[2] for r in data.wrist(SHARED, side).recording} for side in data.SIDES}
    assert {side: len(found) for side, found in people.items()} == {"train": 28, "validation": 5, "test": 12}
    assert sum(len(found) for found in people.values()) == len(set.union(*people.values()))


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
    windows = batches.Windows([slow], [1.0], 250, fast=1.0).random(300, np.random.default_rng(1))
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
