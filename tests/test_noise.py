"""Noise, the synthetic pulse and the figures, against what they claim to be."""

from __future__ import annotations

import numpy as np
import pytest

from ppgstream.lab import noise, scores, synthetic


def people(n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.concatenate([synthetic.pulse(250, synthetic.person(rng), rng)[0][None] for _ in range(n)])


def test_the_noisy_window_is_its_target_plus_noise_in_one_scale() -> None:
    clean = people(500)
    drawn = noise.n1(clean, np.random.default_rng(2), white_sd=0.0, ramp=0.0, clip=False)
    np.testing.assert_allclose(drawn.noisy, noise.minmax(clean))
    np.testing.assert_allclose(drawn.target, drawn.noisy)
    full = noise.n1(clean, np.random.default_rng(2), clip=False)
    # The target is the clean shape, `gain` times as high, at the noisy window's level.
    np.testing.assert_allclose(np.ptp(full.target, axis=1), full.gain[:, 0] * np.ptp(full.clean, axis=1))
    assert abs((full.noisy - full.target).mean()) < 0.01


def test_the_clipped_run_is_shorter_than_50_samples_and_on_a_rail() -> None:
    drawn = noise.n1(people(2000), np.random.default_rng(3))
    without = noise.n1(people(2000), np.random.default_rng(3), clip=False)
    changed = drawn.noisy != without.noisy
    assert changed.sum(axis=1).max() < 50
    assert set(np.unique(drawn.noisy[changed])) <= {0.0, 1.0}


def test_constant_noise_draws_are_the_same_for_the_same_seed() -> None:
    clean = people(10)
    a, b = (noise.n1(clean, np.random.default_rng(9)).noisy for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_the_synthetic_heart_beats_at_its_rate() -> None:
    who = synthetic.Person(heart_rate=66)
    clean, beats = synthetic.pulse(125 * 120, who, np.random.default_rng(4))
    assert len(beats) / 2 == pytest.approx(66, rel=0.03)
    spectrum = np.abs(np.fft.rfft(clean - clean.mean()))
    hz = np.fft.rfftfreq(len(clean), 1 / 125)
    band = (hz > 0.6) & (hz < 1.6)
    assert hz[band][np.argmax(spectrum[band])] == pytest.approx(1.1, rel=0.08)


def test_gain_is_0_for_the_input_itself_and_does_not_care_for_scale() -> None:
    clean = people(50)
    drawn = noise.n1(clean, np.random.default_rng(5))
    assert scores.gain_db(drawn.noisy, drawn.noisy, clean) == pytest.approx(0)
    half = 0.5 * (drawn.noisy + drawn.target)
    assert scores.gain_db(drawn.noisy, half * 70 - 3, clean) == pytest.approx(scores.gain_db(drawn.noisy, half, clean))


def test_snr_b_of_a_known_error_in_band_is_what_it_should_be() -> None:
    t = np.arange(125 * 60) / 125
    clean = np.sin(2 * np.pi * 1.2 * t)
    error = 0.1 * np.sin(2 * np.pi * 3 * t)
    assert scores.snr_b_db(clean + error, clean, 125) == pytest.approx(20, abs=0.3)
    assert scores.snr_b_db(clean + 5 + 0.5 * np.sin(2 * np.pi * 0.02 * t), clean, 125) > 40  # out of band: not counted


def test_wrist_artefacts_have_the_stated_spectrum_durations_and_strength() -> None:
    for slope in (-32.0, -18.0):
        spectra = [np.abs(np.fft.rfft(noise.coloured(5000, slope, np.random.default_rng(k)))) ** 2 for k in range(40)]
        power, hz = np.mean(spectra, axis=0), np.fft.rfftfreq(5000, 1 / 125)

        def level(low: float, high: float, power: np.ndarray = power, hz: np.ndarray = hz) -> float:
            return float(10 * np.log10(power[(hz >= low) & (hz < high)].mean()))

        assert level(9.5, 10.5) - level(1.0, 1.05) == pytest.approx(slope, abs=1.5)  # a decade
        assert level(0.05, 0.5) - level(0.5, 1.0) == pytest.approx(0, abs=1.0)  # flat below 1 Hz
    clean = np.sin(np.arange(125 * 4000) / 20)
    noisy = noise.wrist(clean, np.random.default_rng(1), "hand")
    inside = noisy != clean
    edges = np.flatnonzero(np.diff(inside.astype(int)))
    lengths = np.diff(edges) / 125
    free, artefact = lengths[inside[edges[:-1]]], lengths[~inside[edges[:-1]]]
    assert min(free.min(), artefact.min()) >= 0.98
    assert free.mean() == pytest.approx(1 + 3 * np.exp(-1 / 3) - (1 - np.exp(-1 / 3)), abs=0.8)
    assert artefact.mean() < free.mean()


def test_steps_are_as_strong_as_asked_and_keep_to_their_rates() -> None:
    clean = np.sin(2 * np.pi * 0.9 * np.arange(125 * 60) / 125)
    for over_db in (0.0, 12.0):
        added = noise.steps(clean, np.random.default_rng(2), over_db=over_db) - clean
        white = noise.STEPS_WHITE * np.ptp(clean)
        assert 10 * np.log10((added.var() - white**2) / clean.var()) == pytest.approx(over_db, abs=0.2)
        power, hz = np.abs(np.fft.rfft(added)) ** 2, np.fft.rfftfreq(len(clean), 1 / 125)
        assert 1.1 <= hz[power.argmax()] <= 2.9


def test_n1_on_a_stream_clips_one_run_in_each_window_at_the_record_s_rails() -> None:
    clean = np.sin(np.arange(125 * 60) / 20)
    noisy = noise.n1_stream(clean, np.random.default_rng(3))
    rails = (noisy == noisy.min()) | (noisy == noisy.max())
    runs = rails.reshape(-1, 250).sum(axis=1)
    assert runs.max() < noise.N1_CLIP + 1
    assert runs.mean() == pytest.approx(24, abs=7)  # cut at the window's end
    rest = (noisy - clean)[~rails]
    assert np.diff(noisy)[~rails[1:] & ~rails[:-1]].std() == pytest.approx(np.sqrt(2) * np.ptp(clean) / 3, rel=0.1)
    assert rest.std() > np.ptp(clean) / 3  # the baseline walks


@pytest.mark.parametrize("kind", noise.NOTHING)
def test_there_is_no_pulse_in_what_is_called_nothing(kind: str) -> None:
    t = np.arange(125 * 60) / 125
    clean = 40 + 3 * np.sin(2 * np.pi * 1.2 * t)
    rng = np.random.default_rng
    x, again, other = (noise.nothing(clean, rng(seed), kind) for seed in (1, 1, 2))
    np.testing.assert_array_equal(x, again)
    assert np.isfinite(x).all()
    assert (x != other).any() or kind in ("flat", "ramp")  # these two have nothing to draw but a sign
    # Another pulse at the same level, as strong and as high, leaves it as it is: it knows nothing of this one.
    shifted = 40 + 3 * np.sin(2 * np.pi * 1.2 * t + 1.0)
    np.testing.assert_allclose(noise.nothing(shifted, rng(1), kind), x, atol=0.05)


def test_kinds_of_nothing_are_what_they_are_called() -> None:
    clean = 5 + np.sin(np.arange(125 * 60) / 20)
    of = {kind: noise.nothing(clean, np.random.default_rng(3), kind) for kind in noise.NOTHING}
    assert np.ptp(of["flat"]) == 0
    assert 0 < of["disconnected"].std() < 0.01 * clean.std()
    hz, power = np.fft.rfftfreq(len(clean), 1 / 125), np.abs(np.fft.rfft(of["mains"] - 5)) ** 2
    assert hz[power.argmax()] == pytest.approx(50, abs=0.1)
    on_rails = (of["clipped"] == of["clipped"].min()) | (of["clipped"] == of["clipped"].max())
    assert on_rails.mean() > 0.5
    assert abs(np.polyfit(np.arange(len(clean)), of["ramp"], 1)[0]) * len(clean) == pytest.approx(8, rel=0.01)
    with pytest.raises(KeyError):
        noise.nothing(clean, np.random.default_rng(3), "silence")


def test_faults_have_the_stated_severity() -> None:
    clean = 10 + np.sin(2 * np.pi * 1.1 * np.arange(125 * 200) / 125)
    rng = np.random.default_rng
    of = {kind: noise.fault(clean, rng(4), kind) for kind in noise.FAULTS}
    for percent in (70, 85, 95):
        assert of[f"clipped at {percent} %"].noisy.max() == pytest.approx(9 + 2 * percent / 100, abs=1e-3)
    for percent in (0.1, 1):
        lost = np.isnan(of[f"lost {percent:g} %"].noisy)
        assert lost.mean() == pytest.approx(percent / 100, rel=0.3)
    gone = np.isnan(of["drop-outs, NaN"].noisy)
    edges = np.flatnonzero(np.diff(gone.astype(int)))
    lengths = (edges[1::2] - edges[: 2 * (len(edges) // 2) : 2]) / 125
    assert lengths.min() > 0.09
    assert lengths.max() < 2.01
    assert 5 < len(lengths) < 35
    held = of["drop-outs, held"].noisy
    assert np.isfinite(held).all()
    assert (np.diff(held) == 0).mean() == pytest.approx(0.1, abs=0.05)
    for factor in (0.5, 2, 4):
        noisy, truth = of[f"gain x{factor:g}"]
        np.testing.assert_array_equal(noisy, truth)
        half = len(clean) // 2
        assert noisy[half:].std() / noisy[:half].std() == pytest.approx(factor, rel=0.02)
    assert (of["50 Hz"].noisy - clean).var() == pytest.approx(clean.var(), rel=0.01)
    for bits in (6, 8):
        assert len(np.unique(of[f"{bits} bit"].noisy)) == 2**bits
    inverted = of["inverted"]
    np.testing.assert_allclose(inverted.noisy, 2 * clean.mean() - clean)
    np.testing.assert_array_equal(inverted.noisy, inverted.truth)
    for kind in ("clipped at 85 %", "drop-outs, held", "lost 1 %", "50 Hz", "6 bit"):
        np.testing.assert_array_equal(of[kind].truth, clean)
    with pytest.raises(KeyError):
        noise.fault(clean, rng(4), "tired")


def test_the_parts_of_n1_alone_are_those_of_the_course() -> None:
    clean = people(400)
    s = noise.minmax(clean)
    white = noise.n1(clean, np.random.default_rng(6), ramp=0.0, clip=False)
    added = (white.noisy - white.target) / white.gain  # in the clean window's heights
    assert added.std() == pytest.approx(1 / 3, rel=0.02)
    slope = noise.n1(clean, np.random.default_rng(6), white_sd=0.0, clip=False)
    rise = slope.noisy / slope.gain - s  # a straight line
    np.testing.assert_allclose(np.diff(rise, 2, axis=1), 0, atol=1e-6)
    total = (rise[:, -1] - rise[:, 0]) * 250 / 249
    assert np.abs(total).max() <= 2
    assert total.std() == pytest.approx(2 / np.sqrt(3), rel=0.1)
    cut = noise.n1(clean, np.random.default_rng(6), white_sd=0.0, ramp=0.0)
    changed = cut.noisy != s
    assert set(np.unique(cut.noisy[changed])) <= {0.0, 1.0}
    assert changed.sum(axis=1).max() < noise.N1_CLIP
