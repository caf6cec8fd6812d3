"""A sensor that is upside down costs nothing, and is told of once."""

from __future__ import annotations

import numpy as np
import pytest
from rules import rules
from test_measured import FS, bundled, clean_pulse, machine, through
from test_recordings_real import heartpy

from ppgstream.assemble import rules_of
from ppgstream.config import Config, Streams
from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry
from ppgstream.core.polarity import Watcher, skewness_of
from ppgstream.core.quality import held_rows
from ppgstream.core.resampling import resample, states_of
from ppgstream.files import offline, recording
from ppgstream.lab import noise, scores, synthetic
from ppgstream.model.checkpoint import BUNDLED
from ppgstream.model.restore import restore


def snr(x: np.ndarray, clean: np.ndarray, **streams: object) -> tuple[float, Engine]:
    found, denoiser = bundled()
    e = Engine(denoiser, rules_of(Config(streams=Streams(**streams)), found))  # type: ignore[arg-type]
    y = offline.denoise(x, e, fs=FS, dtype="f8").denoised
    return scores.snr_b_db(y[FOUND:], clean[FOUND:], FS), e


FOUND = int(10 * FS)  # samples: by then a finger's polarity is known


@pytest.mark.parametrize("noisy", [False, True])
def test_an_inverted_sensor_costs_nothing_once_it_is_found(noisy: bool) -> None:
    lost = []
    for seed in range(8):
        clean = clean_pulse(seed)
        x = synthetic.noisy_pulse(clean, np.random.default_rng(seed)) if noisy else clean
        upright, e = snr(x, clean)
        assert {event.name for event in e.events} <= {"breathing"}  # noise has a ramp, which is told
        inverted, e = snr(-x, -clean)
        found = [event.text for event in e.events if event.name == "polarity"]
        assert len(found) == 1
        assert "inverted" in found[0]
        lost.append(upright - inverted)
    assert np.mean(lost) < 0.2
    assert max(lost) < (1.5 if noisy else 0.5)


def test_what_is_set_is_not_decided() -> None:
    clean = clean_pulse(3)
    up, e = snr(-clean, -clean, polarity="up")
    assert not e.events
    down, e = snr(-clean, -clean, polarity="down")
    assert not e.events
    assert down > up + 2
    y = offline.denoise(clean, machine(), fs=FS, dtype="f8").denoised
    found, denoiser = bundled()
    turned = Engine(denoiser, rules_of(Config(streams=Streams(polarity="down")), found))
    np.testing.assert_array_equal(offline.denoise(-clean, turned, fs=FS, dtype="f8").denoised, -y)


def test_a_noisy_pulse_is_not_turned_over() -> None:
    rng = np.random.default_rng(8)
    turned = 0
    for seed in range(30):
        rows = noise.n1(clean_pulse(seed).reshape(-1, 250), rng).noisy
        watcher = Watcher("auto")
        for row, held in zip(rows, held_rows(rows), strict=True):
            watcher.look(float(skewness_of(row[None], held.astype(np.uint8)[None], FS)[0]), 1.0, 2.0)
        turned += watcher.sign < 0
    assert turned == 0


def test_a_sensor_that_is_worn_does_not_turn_over() -> None:
    """Ten times the evidence changes a decision; as much as made it does in a new stretch."""
    clean = clean_pulse(4, 24)
    e = machine()
    through(e, np.concatenate([clean, -clean, clean]))
    assert not [event for event in e.events if event.name == "polarity"]
    e = machine()
    through(e, np.concatenate([clean, np.full(200, np.nan), -clean]))
    told = [event.text for event in e.events if event.name == "polarity"]
    assert len(told) == 1
    assert "inverted" in told[0]


@pytest.mark.parametrize("skewness", [1.0, 0.5])
def test_ten_times_the_evidence_over_thirty_seconds_changes_it(skewness: float) -> None:
    watcher = Watcher("auto")
    seconds = {}
    for k in range(400):
        if watcher.look(skewness if k < 20 else -skewness, 1.0, 2.0):
            seconds[watcher.sign] = 2.0 * (k - 20 * (k >= 20) + 1)
    assert list(seconds) == [1.0, -1.0]
    assert seconds[1.0] == pytest.approx(2 * np.ceil(3.7 / skewness))
    assert seconds[-1.0] >= 30
    assert seconds[-1.0] == pytest.approx(2 * 44 / skewness, abs=4)


REAL = [("data.csv", None, 100.0), ("data2.csv", "hr", None), ("data3.csv", "hr", None)]


@pytest.mark.parametrize(("name", "column", "fs"), REAL)
def test_an_upright_recording_stays_upright_and_its_inverted_copy_is_found(
    name: str, column: str | None, fs: float | None
) -> None:
    found = recording.read(heartpy(name), column=column)
    x = resample(found.samples, fs or found.rate(name), FS)[: 125 * 240]
    signs = {}
    for sign in (1, -1):
        state, _ = states_of(sign * x, FS, 50)
        watcher, told = Watcher("auto"), []
        for a in range(0, len(x) - 250, 125):
            part = slice(a, a + 250)
            row = np.nan_to_num(sign * x[part])
            if watcher.look(float(skewness_of(row[None], state[None, part], FS)[0]), 0.5, 2.0):
                told.append(watcher.sign)
        signs[sign] = told
    assert -1.0 not in signs[1], signs
    assert name == "data.csv" or signs[-1] == [-1.0], signs  # that one is 25 s long


# ---- seams ---------------------------------------------------------------------------------------------------------


def test_no_comb_at_the_hop_or_the_patch() -> None:
    found, _ = bundled()
    patch = found.arch.sizes["patch"]
    assert np.gcd(found.hop, patch) == 1
    at_hop, at_patch = [], []
    for seed in range(6):
        x = synthetic.noisy_pulse(clean_pulse(seed, 60), np.random.default_rng(seed))
        y = offline.denoise(x, machine(), fs=FS, dtype="f8").denoised
        at_hop.append(scores.seam_index(y, hop=found.hop))
        at_patch.append([scores.seam_index(y, hop=patch, offset=k) for k in range(patch)])
    assert np.mean(at_hop) < 1.1
    assert np.max(np.mean(at_patch, axis=0)) < 1.1


def test_the_checkpoint_s_hop_is_taken_unless_another_is_set() -> None:
    found = restore(BUNDLED)
    assert found.hop == 49
    assert rules_of(Config(), found).plan.geometry.hop == 49


def test_what_one_window_alone_has_seen_is_flagged() -> None:
    """Of a network that does not tell its error: there is nothing yet that its first answer could agree with."""
    own = rules(geometry=Geometry(hop=49), answers="input")
    result = through(Engine(identity(250), own), clean_pulse(5))
    np.testing.assert_allclose(result.confidence[:49], 0.3, atol=1e-6)
    assert ((result.flags[:49] & 64) != 0).all()
