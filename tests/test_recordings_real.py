"""Real PPG that any machine can have: the three recordings in the heartpy wheel. And the shared ones, where they are."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import numpy as np
import pytest

from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.engine import Engine
from ppgstream.core.resampling import resample
from ppgstream.files import offline, recording
from ppgstream.lab import scores, synthetic
from ppgstream.model import runtime
from ppgstream.model.checkpoint import BUNDLED
from ppgstream.model.restore import restore
from ppgstream.wire.message import Flag

SHARED = Path(os.environ.get("PPGSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))


def heartpy(name: str) -> Path:
    """A recording in heartpy's wheel, found without importing heartpy."""
    files = importlib.metadata.files("heartpy") or []
    return Path(str(next(f for f in files if f.name == name and "data" in f.parts).locate()))


@pytest.fixture(scope="module")
def machine() -> Engine:
    found = restore(BUNDLED)
    return Engine(runtime.denoiser(found), rules_of(Config(), found))


RECORDINGS = [("data.csv", None, 100.0), ("data2.csv", "hr", 117.0), ("data3.csv", "hr", 100.4)]


@pytest.mark.parametrize(("name", "column", "fs"), RECORDINGS)
def test_a_real_recording_keeps_its_pulse_its_units_and_its_length(
    name: str, column: str | None, fs: float, machine: Engine
) -> None:
    x = recording.read(heartpy(name), column=column).samples[: int(60 * fs)]
    out = offline.denoise(x, machine, fs=fs)
    assert out.denoised.shape == x.shape
    clean, raw = scores.bandpass(out.denoised.astype(float), fs), scores.bandpass(x, fs)
    middle = slice(int(3 * fs), -int(3 * fs))  # the filters settle
    sure = out.confidence[middle] >= 0.5  # the second recording is half motion and nothing attached
    clean, raw = clean[middle][sure], raw[middle][sure]
    assert np.corrcoef(clean, raw)[0, 1] > 0.9
    assert 0.7 < clean.std() / raw.std() < 1.2
    assert sure.mean() > (0.2 if name == "data2.csv" else 0.6)
    assert not (out.flags & (Flag.NONFINITE | Flag.PASSTHROUGH | Flag.SHED)).any()


def test_noise_added_to_a_real_recording_is_mostly_removed(machine: Engine) -> None:
    x = resample(recording.read(heartpy("data.csv")).samples, 100.0, 125.0)[:2500]
    height = np.percentile(x, 99) - np.percentile(x, 1)
    noisy = x + 0.33 * height * np.random.default_rng(8).standard_normal(len(x))
    out = offline.denoise(noisy, machine, fs=125.0).denoised.astype(float)
    gained = scores.snr_b_db(out, x, 125) - scores.snr_b_db(noisy, x, 125)
    assert gained > 3


def test_gain_and_offset_of_the_sensor_change_nothing(machine: Engine) -> None:
    x = resample(recording.read(heartpy("data.csv")).samples, 100.0, 125.0)[:1500]
    plain = offline.denoise(x, machine, fs=125.0).denoised
    for gain, offset in ((0.01, 0.0), (100.0, -3000.0)):
        out = offline.denoise(x * gain + offset, machine, fs=125.0).denoised
        np.testing.assert_allclose((out - offset) / gain, plain, atol=1e-3 * np.ptp(plain))


def test_lost_and_invalid_samples_of_a_real_recording_keep_their_places(machine: Engine) -> None:
    x = resample(recording.read(heartpy("data.csv")).samples, 100.0, 125.0)[:1500]
    x[400:430] = np.nan
    x[800:900] = np.inf
    out = offline.denoise(x, machine, fs=125.0)
    assert np.isfinite(out.denoised).all()
    invalid = (out.flags & Flag.NONFINITE) != 0
    assert np.flatnonzero(invalid).tolist() == [*range(400, 430), *range(800, 900)]
    assert (out.confidence[invalid] == 0).all()


@pytest.mark.parametrize("fs", [20.0, 99.7, 117.0, 250.0, 999.7, 1000.0])
def test_a_file_of_another_rate_keeps_its_length_and_its_invalid_samples(fs: float, machine: Engine) -> None:
    n = 20_011
    rng = np.random.default_rng(7)
    x = 500 + 20 * synthetic.pulse(n, synthetic.Person(), rng, fs=fs)[0]
    x[2001] = np.nan
    x[3000:3040] = np.inf
    out = offline.denoise(x, machine, fs=fs)
    assert [a.shape for a in out[:3]] == [(n,)] * 3
    assert np.isfinite(out.denoised).all()
    assert np.flatnonzero(out.flags & Flag.NONFINITE).tolist() == [2001, *range(3000, 3040)]
    assert out.confidence[2001] == 0
    # It does not drift: the tail's waves are where they were.
    tail = slice(n - 400, n - 150)
    assert np.corrcoef(out.denoised[tail], x[tail])[0, 1] > 0.9


@pytest.mark.skipif(not (SHARED / "course").is_dir(), reason="the course's files are not here (../shared/data or PPGSTREAM_DATA)")
def test_the_external_validation_file_goes_through_the_course_brae_sample_for_sample() -> None:
    found = restore(SHARED / "course" / "BRAE_tensorboard")
    engine = Engine(runtime.denoiser(found), rules_of(Config(), found))
    x = recording.read(SHARED / "course" / "external_val1_file.txt").samples
    out = offline.denoise(x, engine, fs=125.0)
    assert out.denoised.shape == (35_907,)
    # In the input's units and without seams: the pulse's height is kept, and hop borders do not stand out.
    clean, raw = scores.bandpass(out.denoised.astype(float), 125), scores.bandpass(x, 125)
    assert 0.5 < clean.std() / raw.std() < 1.1
    assert scores.seam_index(out.denoised.astype(float), hop=50) < 2
