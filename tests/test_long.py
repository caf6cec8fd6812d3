"""Recordings of days: taken in parts, and the same comes out as when they are read whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.rate import RateRules
from ppgstream.errors import DataError
from ppgstream.files import long, offline, recording
from ppgstream.files.long import LongRecording

N = 9000


def wave(n: int, fs: float) -> np.ndarray:
    t = np.arange(n) / fs
    return np.round(
        124_000 + 400 * np.sin(2 * np.pi * 1.2 * t) + 160 * np.sin(4 * np.pi * 1.2 * t + 0.8) + 5 * np.sin(7.3 * t * 9)
    )


def engine() -> Engine:
    return Engine(identity(250), rules(answers="input"))


def plain(fs: float) -> list[str]:
    return [f"{v:.0f}" for v in wave(N, fs)]


def timed(fs: float, change: Callable[[np.ndarray], np.ndarray] = lambda k: k) -> list[str]:
    at = change(np.arange(N))
    x = wave(N * 30, fs)
    return ["time_s,ppg", *(f"{k / fs:.5f},{x[int(k)]:.0f}" for k in at)]


def with_gaps(k: np.ndarray) -> np.ndarray:
    return k + 600 * (k >= 2500) + 3 * (k >= 5999) + 60_000 * (k >= 8000)


def in_batches(k: np.ndarray) -> np.ndarray:
    batches = k.reshape(-1, 25)
    batches[2:-2:8], batches[3:-1:8] = batches[3:-1:8].copy(), batches[2:-2:8].copy()
    return batches.ravel()


def joined(fs: float) -> list[str]:
    part = timed(fs)[: N // 3]
    return part + part + part


def packets(fs: float) -> list[str]:
    x = wave(N, fs)
    keep = ~np.isin(np.arange(N) // 10, [100, 101, 300, 555])
    return ["t_ms,ppg", *(f"{k // 10 * 10_000 / fs:.2f},{x[k]:.0f}" for k in np.flatnonzero(keep))]


def bad_lines(fs: float) -> list[str]:
    lines = timed(fs)
    lines[100] = lines[100].split(",", maxsplit=1)[0] + ",oops"
    lines.insert(7000, "battery low")
    return lines


KINDS: dict[str, Callable[[float], list[str]]] = {
    "plain": plain,
    "timed": timed,
    "gaps": lambda fs: timed(fs, with_gaps),
    "out of order": lambda fs: timed(fs, in_batches),
    "joined": joined,
    "packets": packets,
    "bad lines": bad_lines,
}


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "AT_ONCE", 1000)
    monkeypatch.setattr("ppgstream.files.table.LOOKED_AT", 500)
    monkeypatch.setattr("ppgstream.files.opened.BLOCK", 4096)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fs", [125.0, 100.0])
def test_parts_give_what_the_whole_gives(kind: str, fs: float, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(KINDS[kind](fs)) + "\n")
    whole = recording.read(tmp_path / "x.csv")
    expected = offline.of_recording(whole, engine(), fs=fs)
    source = LongRecording(tmp_path / "x.csv")
    found = long.denoise(source, engine(), fs=fs, keep=(40, 60))
    assert source.n == len(expected.denoised)
    assert (source.gaps, source.repeats, source.moved) == (
        whole.gaps,
        whole.repeats,
        0 if whole.clock is None else whole.clock.moved,
    )
    assert (source.bad, source.text) == (whole.bad, whole.text)
    tolerance = 0 if fs == 125 else 0.5
    np.testing.assert_allclose(found.result.denoised, expected.denoised, atol=tolerance)
    np.testing.assert_allclose(found.result.confidence, expected.confidence, atol=tolerance)
    np.testing.assert_array_equal(found.result.flags, expected.flags)
    samples = whole.samples if whole.rows is None else whole.samples[whole.rows]
    np.testing.assert_array_equal(found.raw, samples[40:60])
    clock = offline.clocked(whole, fs)
    if found.times is not None:
        assert clock is not None
        np.testing.assert_allclose(found.times, clock.times, atol=1e-6)
        assert found.starts == clock.starts


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("fs", [125.0, 100.0, 27.97, 250.0])
def test_a_long_recording_gives_what_the_whole_gives_at_any_rate(fs: float, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(timed(fs)) + "\n")
    found = long.denoise(LongRecording(tmp_path / "x.csv"), engine(), fs=fs)
    expected = offline.of_recording(recording.read(tmp_path / "x.csv"), engine(), fs=fs)
    for a, b in zip(found.result[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("fs", [64.0, 250.0])
def test_beats_and_rates_of_a_long_recording_are_those_of_the_whole(fs: float, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("\n".join(timed(fs)) + "\n")
    machines = [Engine(engine().denoiser, rules(rate=RateRules(), answers="input")) for _ in range(2)]
    found = long.denoise(LongRecording(tmp_path / "x.csv"), machines[0], fs=fs).result.pulses
    expected = offline.of_recording(recording.read(tmp_path / "x.csv"), machines[1], fs=fs).pulses
    assert len(expected[0].beats)
    for name, a, b in zip(offline.Pulse._fields, found[0], expected[0], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)  # stamps of five decimals


@pytest.mark.usefixtures("in_parts")
def test_a_clock_that_breaks_far_inside_is_told_by_its_line(tmp_path: Path) -> None:
    lines = timed(125.0)
    lines[6001:] = [f"late,{v}" for v in range(N - 6000)]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"line 600\d: the time in time_s"):
        long.denoise(LongRecording(tmp_path / "x.csv"), engine(), fs=125.0)


def test_a_file_is_long_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1\n")
    assert not long.is_long(tmp_path / "x.csv")
    with (tmp_path / "y.csv").open("wb") as file:
        file.truncate(long.LONG + 1)
    assert long.is_long(tmp_path / "y.csv")
    (tmp_path / "y.csv").rename(tmp_path / "y.npy")
    assert not long.is_long(tmp_path / "y.npy")
