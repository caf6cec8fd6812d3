"""`denoise` without sockets: recordings and pipes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry
from ppgstream.core.rate import RateRules
from ppgstream.errors import DataError, UsageError
from ppgstream.files import offline
from ppgstream.files.pipe import HEAD_LINES, LineFilter, line_reader
from ppgstream.lab import synthetic
from ppgstream.wire.message import Flag

FS = 125.0
RNG = np.random.default_rng(4)


def engine(**settings: Any) -> Engine:
    """The identity in place of a network: what comes out is what went in."""
    return Engine(identity(250), rules(geometry=Geometry(hop=49), **settings, answers="input"))


def pulse(n: int, fs: float = FS) -> np.ndarray:
    t = np.arange(n) / fs
    return 100 * np.sin(2 * np.pi * 1.2 * t) + 30 * np.sin(2 * np.pi * 2.4 * t + 1) + 2 + 0.01 * RNG.standard_normal(n)


def test_each_row_is_denoised_by_itself() -> None:
    rows = np.stack([pulse(800), 1e4 + 50 * pulse(800), -pulse(800)])
    together = offline.denoise(rows, engine(), fs=FS, dtype="f8")
    assert together.denoised.shape == together.confidence.shape == together.flags.shape == rows.shape
    for k, row in enumerate(rows):
        alone = offline.denoise(row, engine(), fs=FS, dtype="f8")
        for name in ("denoised", "confidence", "flags"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[k])
    np.testing.assert_allclose(together.denoised, rows, rtol=1e-4, atol=0.05)


def test_rows_go_side_by_side_and_each_comes_out_as_it_does_alone() -> None:
    rng = np.random.default_rng(5)
    rows = np.sin(np.arange(1500) / 16) + 0.1 * rng.standard_normal((70, 1500))
    rows[3, 200:260] = np.nan
    rows[5, 700:] += 90
    machine = engine(rate=RateRules(), tile=8)
    together = offline.denoise(rows, machine, fs=125)
    assert machine.unaccounted == machine.in_flight == 0
    assert machine.counts.accepted == rows.size
    for k in (0, 3, 5, 7, 8, 69):
        alone = offline.denoise(rows[k], engine(rate=RateRules(), tile=8), fs=125)
        for one, other in zip(alone[:3], (part[k] for part in together[:3]), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(alone.pulses[0], together.pulses[k], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("fs", [125.0, 100.0])
def test_each_row_has_a_policy_of_its_own_and_no_row_is_no_error(fs: float) -> None:
    rows = np.tile(pulse(1500), (3, 1)) + 50 * RNG.standard_normal((3, 1500))
    out = offline.denoise(rows, engine(policies={"row1": "mask"}, threshold=1.1), fs=fs)
    assert np.isnan(out.denoised).all(axis=1).tolist() == [False, True, False]
    assert offline.denoise(np.zeros((0, 100)), engine(), fs=fs).denoised.shape == (0, 100)


def test_every_sample_comes_back_in_the_dtype_asked_for() -> None:
    for n in (1, 249, 250, 251, offline.CHUNK + 3):
        for dtype in ("f4", "f8"):
            out = offline.denoise(pulse(n), engine(), fs=FS, dtype=dtype)
            assert (len(out.denoised), out.denoised.dtype) == (n, np.dtype(dtype))
            assert np.isfinite(out.denoised).all()
            assert bool((out.flags & Flag.PASSTHROUGH).all()) == (n < 250)


@pytest.mark.parametrize("fs", [25.0, 30.0, 64.0, 100.0, 256.0, 1000.0])
def test_another_rate_is_resampled_there_and_back(fs: float) -> None:
    x = pulse(round(20 * fs), fs)
    out = offline.denoise(x, engine(), fs=fs, dtype="f8")
    middle = slice(round(fs), -round(fs))
    assert np.abs(out.denoised - x)[middle].max() < 3  # of 130
    assert len(out.flags) == len(x)


@pytest.mark.parametrize("fs", [9.9, 1000.1, 0.0, -5.0, np.nan, np.inf])
def test_a_rate_that_no_sensor_has_is_refused(fs: float) -> None:
    with pytest.raises(UsageError, match="--fs"):
        offline.denoise(pulse(500), engine(), fs=fs)


@pytest.mark.parametrize("fs", [FS, 100.0])
def test_nan_is_flagged_and_the_last_value_is_repeated(fs: float) -> None:
    x = pulse(1000, fs)
    x[400:420] = np.nan
    x[:3] = np.inf
    out = offline.denoise(x, engine(), fs=fs, dtype="f8")
    bad = ~np.isfinite(x)
    assert np.isfinite(out.denoised).all()
    np.testing.assert_array_equal((out.flags & Flag.NONFINITE) != 0, bad)
    assert (out.confidence[bad] == 0).all()
    assert (out.denoised[400:420] == out.denoised[399]).all()


def through(lines: list[str], column: str | None = None, key: str | None = None, **settings: Any) -> tuple[list[str], LineFilter]:
    reader = line_reader("stdin", lines[:HEAD_LINES], column=column, key=key)
    pipe = LineFilter(engine(), reader, fs=125.0, **settings)
    blocks = [lines[a : a + 37] for a in range(0, len(lines), 37)]
    return [line for block in pipe.run(blocks) for line in block], pipe


def test_a_pipe_gives_a_line_for_each_sample_and_what_a_file_gives() -> None:
    x = np.round(pulse(700), 3)
    out, _ = through([repr(v) for v in x.tolist()], dtype="f8")
    np.testing.assert_array_equal([float(v) for v in out], offline.denoise(x, engine(), fs=FS, dtype="f8").denoised)


def test_a_pipe_takes_a_column_or_a_key_and_drops_text(capsys: pytest.CaptureFixture[str]) -> None:
    x = [f"{v:.3f}" for v in pulse(400)]
    plain, _ = through(x)
    by_number, _ = through([f"7;{v};9" for v in x], column="1")
    by_name, pipe = through(["t;ppg", *[f"0;{v}" for v in x]], column="ppg")
    by_key, _ = through([f"n=3 IR={v} red=1" for v in x], key="IR")
    assert plain == by_number == by_name == by_key
    assert (pipe.samples, pipe.text) == (400, 0), "a row of names is no text that was dropped"
    through(["hello", *x])
    assert "line 1 is text: 'hello'; dropped" in capsys.readouterr().err


def test_a_bad_line_keeps_its_place_and_under_strict_ends_it() -> None:
    x = [f"{v:.3f}" for v in pulse(400)]
    x[200] = "1.2.3"
    out, pipe = through(x)
    assert (len(out), pipe.bad, pipe.text) == (400, 1, 0)
    assert out[200] == out[199]
    with pytest.raises(DataError, match="line 201"):
        through(x, strict=True)


def test_a_pipe_without_any_number_is_refused_after_a_second() -> None:
    with pytest.raises(DataError, match="--column or --field"):
        through(["no numbers here"] * 200)


def test_each_suffix_holds_the_wave_and_npz_and_csv_the_rest() -> None:
    x = synthetic.noisy_pulse(pulse(600), np.random.default_rng(1))
    result = offline.denoise(x, engine(), fs=FS)
    assert np.array_equal(np.load(io.BytesIO(offline.content_of(result, ".npy", fs=FS))), result.denoised)
    npz = np.load(io.BytesIO(offline.content_of(result, ".npz", fs=FS)))
    assert npz["fs"] == FS
    assert set(npz) == {"denoised", "confidence", "flags", "fs"}
    for name in ("denoised", "confidence", "flags"):
        assert np.array_equal(npz[name], getattr(result, name))
    text = offline.content_of(result, ".txt", fs=FS).decode().splitlines()
    assert np.array_equal(np.array(text, np.float32), result.denoised)
    head, *rows = offline.content_of(result, ".csv", fs=FS, stream="wrist").decode().splitlines()
    columns = dict(zip(head.split(","), zip(*(row.split(",") for row in rows), strict=True), strict=True))
    assert set(columns["stream"]) == {"wrist"}
    assert np.array_equal(np.array(columns["value"], np.float32), result.denoised)
    assert [int(f) for f in columns["flags"]] == result.flags.tolist()


@pytest.mark.parametrize("option", ["column", "key"])
def test_a_pipe_of_json_is_read_by_its_keys_and_its_times(option: str) -> None:
    x = pulse(700)
    lines = [f'{{"ts": {1_700_000_000_000 + 8 * k}, "red": 1, "ir": {v:.3f}}}' for k, v in enumerate(x) if not 400 <= k < 420]
    out, pipe = through(lines, **{option: "ir"})
    assert (len(out), pipe.text, pipe.bad, pipe.gaps) == (680, 0, 0, 1)


def test_a_pipe_whose_clock_falls_begins_a_new_session() -> None:
    lines = [f"{k * 8},{v:.3f}" for k, v in enumerate(pulse(500))]
    out, pipe = through(["t_ms,ppg", *lines, *lines])
    assert (len(out), pipe.session) == (1000, 1)
