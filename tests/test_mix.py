"""The wide mix of noises for training, against what each part claims."""

from __future__ import annotations

import numpy as np
import pytest
from ppgstream.train import mix

from ppgstream.lab import noise

RNG = np.random.default_rng


def pulses(n: int) -> np.ndarray:
    phase = RNG(1).uniform(0, 2 * np.pi, (n, 1))
    return (0.5 + 0.5 * np.sin(2 * np.pi * 1.3 * np.arange(250) / 125 + phase)).astype(np.float32)


def test_each_kind_gives_float32_windows_and_the_same_for_the_same_seed() -> None:
    s = pulses(40)
    makers = [
        lambda rng: mix.mixed(rng, s),
        lambda rng: mix.moving(rng, s, (-6, 20)),
        lambda rng: mix.nearly_clean(rng, s),
        lambda rng: mix.nothing(rng, 40, 250),
    ]
    for make in makers:
        a, b, other = make(RNG(3)), make(RNG(3)), make(RNG(4))
        assert a.noisy.shape == (40, 250)
        assert a.level.shape == (40, 1)
        assert a.noisy.dtype == np.float32
        np.testing.assert_array_equal(a.noisy, b.noisy)
        assert (a.noisy != other.noisy).any()


@pytest.mark.parametrize("over_db", [-6.0, 0.0, 14.0])
def test_motion_is_as_strong_as_asked(over_db: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mix, "SMOOTH_MOST_DB", 20.0)
    monkeypatch.setattr(mix, "BASELINE_P", 0.0)
    monkeypatch.setattr(mix, "MOTION_WHITE_P", 0.0)
    s = pulses(200)
    added = mix.moving(RNG(5), s, (over_db, over_db)).noisy - s
    np.testing.assert_allclose(10 * np.log10(added.var(axis=1) / s.var(axis=1)), over_db, atol=0.05)


def test_motion_keeps_to_its_rates() -> None:
    x = mix.motion(RNG(6), 400, 250, RNG(16).random((400, 1)) < 0.5)
    power = np.abs(np.fft.rfft((x - x.mean(axis=1, keepdims=True)) * np.hanning(250), 4000, axis=1)) ** 2
    hz = np.fft.rfftfreq(4000, 1 / 125)
    strongest = hz[power.argmax(axis=1)]
    low, high = mix.MOTION_HZ
    assert strongest.min() > 0.6 * low
    assert np.median(strongest) == pytest.approx((low + high) / 2, rel=0.15)


def test_coloured_noise_falls_as_its_slope_says() -> None:
    hz = np.fft.rfftfreq(2000, 1 / 125)
    for slope in (-30.0, -15.0):
        power = (
            np.abs(np.fft.rfft(mix.coloured(RNG(7), 300, 2000, np.full((300, 1), slope)) * np.hanning(2000), axis=1)) ** 2
        ).mean(0)

        def level(low: float, high: float, power: np.ndarray = power) -> float:
            return float(10 * np.log10(power[(hz >= low) & (hz < high)].mean()))

        assert level(19, 21) - level(1.9, 2.1) == pytest.approx(slope, abs=1.5)


def test_the_level_is_what_the_noise_does_to_the_mean() -> None:
    s = pulses(300)
    for drawn in (mix.mixed(RNG(8), s), mix.moving(RNG(9), s, (-6, 10))):
        off = (drawn.noisy - s).mean(axis=1) - drawn.level[:, 0]
        assert np.abs(off).max() < 0.2  # white noise has a mean of its own
        assert np.abs(drawn.level).max() > 0.3
    nothing = mix.nothing(RNG(10), 300, 250)
    np.testing.assert_allclose(nothing.level, nothing.noisy.mean(axis=1, keepdims=True), atol=1e-5)


def test_clipping_and_quantising_leave_the_rest_alone() -> None:
    s = pulses(2000)
    cut = mix.clipped(RNG(11), s)
    changed = (cut != s).any(axis=1)
    assert changed.mean() == pytest.approx(mix.CLIP_P, abs=0.03)
    for row in cut[changed][:100]:
        held = np.flatnonzero(np.diff(row) == 0)
        assert len(held) <= mix.CLIP_LONGEST
        assert len(set(row[held])) <= 1  # one run, at one value
    coarse = mix.quantised(RNG(12), s)
    changed = (coarse != s).any(axis=1)
    assert changed.mean() == pytest.approx(mix.QUANTISED_P, abs=0.03)
    assert max(len(np.unique(row.round(5))) for row in coarse[changed]) <= mix.LEVELS[1] + 1
    np.testing.assert_array_equal(coarse[~changed], s[~changed])


def test_other_shapes_keep_their_beats_and_leave_the_rest_alone() -> None:
    s = pulses(200)
    np.testing.assert_allclose(mix.bent(RNG(13), s, 0.0), noise.minmax(s), atol=1e-6)
    x = mix.bent(RNG(13), s, 1.0)
    assert x.dtype == np.float32
    # The same heights are reached at the same time, more or less of them: the shape follows the old one.
    r = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(x, s, strict=True)]
    assert min(r) > 0.85
    assert np.median(r) < 0.999
    assert np.ptp(x, axis=1).std() > 0.03  # pulses swell


def test_breathing_and_hum_lie_outside_the_pulse_s_band_and_are_as_high_and_as_frequent_as_stated() -> None:
    x = mix.outside(RNG(14), 4000, 250)
    there = np.ptp(x, axis=1) > 0
    assert there.mean() == pytest.approx(1 - (1 - mix.BREATHING_P) * (1 - mix.HUM_P), abs=0.02)
    assert np.ptp(x, axis=1).max() < mix.BREATHING[1] + mix.HUM[1]
    power = np.abs(np.fft.rfft(x[there] * np.hanning(250), 4000, axis=1)) ** 2
    hz = np.fft.rfftfreq(4000, 1 / 125)
    strongest = hz[power.argmax(axis=1)]
    assert ((strongest < 0.8) | (strongest > 17)).all()
    assert (strongest > 17).any()


def test_of_inputs_without_a_pulse_2_in_100_are_a_lone_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the fifth that they would be if all kinds were alike: the network is to take such a rhythm for a pulse."""
    monkeypatch.setattr(mix, "BASELINE_P", 0.0)
    monkeypatch.setattr(mix, "motion", lambda _, n, window, rich: np.full((n, window), 1000.0, np.float32))
    x = mix.nothing(RNG(15), 20_000, 250).noisy
    assert (x.mean(axis=1) > 900).mean() == pytest.approx(0.02, abs=0.004)
