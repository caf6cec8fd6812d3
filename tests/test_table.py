"""Files as people have them: the table is found, the rate is taken from where it is stated, gaps and repeats are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.errors import DataError, UsageError
from ppgstream.files import recording
from ppgstream.files.pipe import LineFilter, line_reader

CASES = Path(__file__).parents[2] / "shared" / "cases"
cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not beside this checkout")


def read(folder: Path, content: str | bytes, *, name: str = "in.txt", **options: object) -> recording.Recording:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return recording.read(path, **options)  # type: ignore[arg-type]


OPENSIGNALS = """# OpenSignals Text File Format
# {"00:07": {"sensor": ["RAW"], "column": ["nSeq", "DI", "CH1"], "sampling rate": 1000, "resolution": [16]}}
# EndOfHeader
0\t0\t500.5\t
1\t0\t501.5\t
2\t0\t502.5\t
"""
OPENBCI = """%OpenBCI Raw EEG Data
%Sample Rate = 200 Hz
Sample Index, EXG Channel 0, Timestamp, Timestamp (Formatted)
0.0, 500.5, 1671576040.950, 2022-12-20 16:40:40.000
1.0, 501.5, 1671576040.955, 2022-12-20 16:40:40.005
2.0, 502.5, 1671576040.960, 2022-12-20 16:40:40.010
"""
SHIMMER = "sep=\t\nTime\tGSR\tPPG\t\nms\tuS\tmV\t\n0.0\t1\t500.5\t\n7.8125\t1\t501.5\t\n15.625\t1\t502.5\t\n23.4375\t1\t503.5\t\n"
RDSAMP = "'Elapsed time','PLETH','II'\n'hh:mm:ss.mmm','NU','mV'\n'0:00.000',500.5,1\n'0:00.008',501.5,1\n'0:00.016',-,1\n"
RDSAMP += "'0:00.024',503.5,1\n"


@pytest.mark.parametrize(
    ("content", "options", "expected", "fs"),
    [
        (OPENSIGNALS, {"column": "CH1"}, [500.5, 501.5, 502.5], 1000.0),
        (OPENSIGNALS, {"column": "2"}, [500.5, 501.5, 502.5], 1000.0),
        (OPENBCI, {"column": "EXG Channel 0"}, [500.5, 501.5, 502.5], 200.0),
        (SHIMMER, {"column": "PPG"}, [500.5, 501.5, 502.5, 503.5], 128.0),
        (RDSAMP, {"column": "PLETH"}, [500.5, 501.5, np.nan, 503.5], 125.0),
        ("Zeit;PPG\n0,000;500,5\n0,010;501,5\n0,020;502,5\n0,030;503,5\n", {}, [500.5, 501.5, 502.5, 503.5], 100.0),
        ("486,615\n486,575\n486,047\n", {}, [486.615, 486.575, 486.047], None),
        ("// a log\n# and more\n1\n2\n", {}, [1.0, 2.0], None),
        ("16:40:00.000 -> 5\n16:40:00.010 -> 6\n16:40:00.020 -> 7\n16:40:00.030 -> 8\n", {}, [5.0, 6.0, 7.0, 8.0], 100.0),
        ("WR=3 IR=125469 AC=1\nBEAT BPM=83\nWR=7 IR=124339 AC=2\n", {"key": "IR"}, [125469.0, 124339.0], None),
        ("S512\nB72\nS513\nQ800\nS514\n", {"key": "S"}, [512.0, 513.0, 514.0], None),
        ("1 5 9\n2 6 9\n3 7 9\n", {"column": "1"}, [5.0, 6.0, 7.0], None),
        ("1502540489.00\n64.000000\n-33.78\n-33.87\n-33.91\n", {}, [-33.78, -33.87, -33.91], 64.0),
        (
            "date,ppg\n2016-11-24 13:58:58.10,1\n2016-11-24 13:58:58.11,2\n2016-11-24 13:58:58.12,3\n2016-11-24 13:58:58.13,4\n",
            {},
            [1, 2, 3, 4],
            100.0,
        ),
        ("# sampling frequency: 50\nppg\n1\n2\n3\n", {}, [1.0, 2.0, 3.0], 50.0),
    ],
)
def test_the_table_and_its_rate_are_found(
    tmp_path: Path, content: str, options: dict[str, str], expected: list[float], fs: float | None
) -> None:
    for encoded in (
        content.encode(),
        content.encode("utf-16"),
        b"\xef\xbb\xbf" + content.encode(),
        content.replace("\n", "\r\n").encode(),
    ):
        found = read(tmp_path, encoded, **options)
        np.testing.assert_array_equal(found.samples, expected)
        assert found.fs == (None if fs is None else pytest.approx(fs, rel=1e-3))
        assert found.bad == 0


def table(times: np.ndarray, values: np.ndarray) -> str:
    return "time,ppg\n" + "".join(f"{t:.4f},{v}\n" for t, v in zip(times, values, strict=True))


def test_a_counter_of_samples_is_no_clock(tmp_path: Path) -> None:
    content = "time,ppg\n" + "".join(f"{k},{k * 2}\n" for k in range(50))
    assert read(tmp_path, content).fs is None
    assert read(tmp_path, content.replace("time", "time_ms")).fs == pytest.approx(1000)


def test_a_gap_in_the_times_is_a_gap(tmp_path: Path) -> None:
    t = np.arange(500) / 100
    kept = (t < 2) | (t >= 3.4)
    found = read(tmp_path, table(t[kept], np.arange(500)[kept]))
    assert (found.fs, found.gaps) == (100.0, 1)
    np.testing.assert_array_equal(found.samples, np.where(kept, np.arange(500.0), np.nan))
    assert found.rows is not None
    np.testing.assert_array_equal(found.rows, np.flatnonzero(kept))


def test_rows_that_are_there_twice_are_dropped(tmp_path: Path) -> None:
    t = np.repeat(np.arange(300) / 100, np.where(np.arange(300) % 20 == 3, 2, 1))
    found = read(tmp_path, table(t, np.round(t * 100)))
    assert (found.fs, found.repeats) == (100.0, 15)
    np.testing.assert_array_equal(found.samples, np.arange(300.0))


def test_a_jittery_clock_gives_the_wave_at_even_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    t = np.arange(900) / 30 + rng.uniform(-0.01, 0.01, 900)
    found = read(tmp_path, table(t, np.sin(2 * np.pi * t)))
    assert found.fs == pytest.approx(30, rel=0.02)
    even = t[0] + np.arange(len(found.samples)) / found.fs
    assert np.nanmax(np.abs(found.samples - np.sin(2 * np.pi * even))) < 0.05


def test_a_rate_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    found = read(tmp_path, OPENBCI, column="1")
    assert found.rate("in.txt") == 200.0
    assert found.rate("in.txt", 200.0) == 200.0
    with pytest.raises(DataError, match=r"--fs 125, but 200 Hz by its header .*--trust-fs"):
        found.rate("in.txt", 125.0)
    assert found.rate("in.txt", 125.0, trusted=True) == 125.0
    with pytest.raises(UsageError, match="--fs"):
        found.rate("in.txt", trusted=True)
    slow = read(tmp_path, table(np.arange(50) / 9.3, np.arange(50)))
    with pytest.raises(DataError, match=r"9\.3 Hz by its times"):
        slow.rate("in.txt")


def test_an_npz_of_denoise_is_read_with_its_rate(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", denoised=np.arange(5.0), fs=64.0)
    found = recording.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.samples, np.arange(5.0))
    assert found.fs == 64.0
    np.savez(tmp_path / "b.npz", x=np.arange(5.0))
    with pytest.raises(DataError, match="without `denoised`"):
        recording.read(tmp_path / "b.npz")


def test_columns_and_transposing_of_arrays(tmp_path: Path) -> None:
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(recording.read(tmp_path / "a.npy", column="1").samples, array[:, 1])
    np.testing.assert_array_equal(recording.read(tmp_path / "a.npy", transpose=True).samples, array.T)
    with pytest.raises(UsageError, match="no column '3'"):
        recording.read(tmp_path / "a.npy", column="3")


def test_a_key_that_no_line_has_is_told_with_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'red'.*IR=5"):
        read(tmp_path, "IR=5\nIR=6\n", key="red")


def test_one_line_says_what_was_understood(tmp_path: Path) -> None:
    t = np.arange(500) / 100
    kept = (t < 2) | (t >= 3.4)
    found = read(tmp_path, table(t[kept], np.arange(500)[kept]), name="my.csv")
    assert (
        found.understood("folder/my.csv", 100.0)
        == "ppg of my.csv: 100 Hz from its times (time), 360 samples, 1 gap of 1.4 s in all"
    )
    x = np.repeat(np.random.default_rng(1).standard_normal(200), 5)
    assert recording.Recording(x).understood("a.txt", 125.0).endswith("each value comes 5 times: looks like 25 Hz")


@pytest.mark.parametrize(
    ("options", "head", "line"),
    [
        ({"key": "S"}, "Initializing...", "S{}"),
        ({"column": "2"}, "Initializing...", "72,833,{}"),
        ({"column": "ir"}, "red,ir", "1,{}"),
        ({}, "Initializing...", "16:40:00.000 -> {}"),
    ],
)
def test_a_pipe_follows_the_rules_of_files(options: dict[str, str], head: str, line: str) -> None:
    x = 500 + np.round(np.cumsum(np.random.default_rng(1).standard_normal(600)) * 10)
    lines = [head, *(text for v in x for text in (line.format(int(v)), "B72"))]
    engine = Engine(identity(250), rules(answers="input"))
    pipe = LineFilter(engine, line_reader("stdin", lines[:250], **options), fs=125.0)  # type: ignore[arg-type]
    out = [text for block in pipe.run([lines[:100], lines[100:101], lines[101:]]) for text in block]
    np.testing.assert_allclose(np.array(out, float), x, rtol=1e-5)
    assert (pipe.text, pipe.bad, pipe.valid) == (600 + (head != "red,ir"), 0, 600), "a row of names is no text"


# ---- the cases that users sent ------------------------------------------------------------------------------------


@cases
@pytest.mark.parametrize(
    ("name", "options", "said", "samples"),
    [
        ("e4_BVP.csv", [], "64 Hz from its header", 2560),
        ("opensignals.txt", ["--column", "3"], "100 Hz from its header", 2000),
        ("openbci_gui.txt", ["--column", "EXG Channel 0"], "200 Hz from its times (Timestamp)", 695),
        ("shimmer.csv", ["--column", "Shimmer_5E1C_PPG_A13_CAL"], "128 Hz from its times", 3840),
        ("rdsamp_pleth.csv", ["--column", "PLETH"], "125 Hz from its times", 3750),
        ("time_gap.csv", [], "1 gap", 4163),
        ("dup_rows.csv", [], "227 repeated rows", 4500),
        ("phone_jitter_drops.csv", [], "from its times", 1628),
        ("arduino_timestamps.txt", [], "100 Hz from its times", 3000),
        ("max_red_ir.csv", ["--fs", "100", "--column", "ir"], "100 Hz", 3000),
        ("numbers_with_text_lines.txt", ["--fs", "125"], "152 lines of text dropped", 3000),
        ("decimal_comma_onecol.txt", ["--fs", "125"], "3,750 samples", 3750),
        ("decimal_comma_semicolon.csv", [], "125 Hz from its times", 3750),
        ("powershell_utf16.txt", ["--fs", "125"], "3,750 samples", 3750),
        ("hold_x5.txt", ["--fs", "125"], "looks like 25 Hz", 3750),
    ],
)
def test_cases_of_files(name: str, options: list[str], said: str, samples: int) -> None:
    found = recording.read(CASES / name, column=options[options.index("--column") + 1] if "--column" in options else None)
    n = len(found.samples) if found.rows is None else len(found.rows)
    assert n == samples
    fs = float(options[options.index("--fs") + 1]) if "--fs" in options else None
    assert said in found.understood(name, found.rate(name, fs))
