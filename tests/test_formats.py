"""Recordings in the formats of others: each is made by its own library, read, and denoised as the same samples are."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import edfio
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.io
import wfdb
from test_python import recording
from xdf import Recorder

import ppgstream
from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.files import formats

FS = 64.0
X = np.round(recording(20, 3, FS), 1)
OTHER = np.random.default_rng(0).normal(0, 1, len(X))


def edf(folder: Path) -> Path:
    signals = [edfio.EdfSignal(OTHER, FS, label="ECG"), edfio.EdfSignal(X, FS, label="Pleth", physical_range=(-4000, 4000))]
    edfio.Edf(signals).write(folder / "r.edf")
    return folder / "r.edf"


def bdf(folder: Path) -> Path:
    signals = [
        edfio.BdfSignal(X, FS, label="PPG", physical_range=(-4000, 4000)),
        edfio.BdfSignal(OTHER[::2], FS / 2, label="Resp"),
    ]
    edfio.Bdf(signals).write(folder / "r.bdf")
    return folder / "r.bdf"


def of_wfdb(folder: Path) -> Path:
    columns = np.stack([OTHER, X], axis=1)
    wfdb.wrsamp("r", FS, ["mV", "NU"], ["II", "PLETH"], columns, fmt=["32", "32"], write_dir=str(folder))
    return folder / "r.hea"


def mat(folder: Path) -> Path:
    scipy.io.savemat(folder / "r.mat", {"data": {"ppg": X, "acc": np.stack([OTHER] * 3), "fs": FS}, "subject": "S1", "age": 31})
    return folder / "r.mat"


def hdf5(folder: Path) -> Path:
    with h5py.File(folder / "r.h5", "w") as file:
        group = file.create_group("wrist")
        group["bvp"] = X
        group["bvp"].attrs["sampling_rate"] = FS
        group["acc"] = np.stack([OTHER] * 3, axis=1)
    return folder / "r.h5"


def parquet(folder: Path) -> Path:
    frame = pa.table({"t_ms": 1.7e12 + np.arange(len(X)) * 1000 / FS, "ppg_ir": X, "acc_x": OTHER})
    pyarrow.parquet.write_table(frame, folder / "r.parquet")
    return folder / "r.parquet"


def of_pandas(folder: Path) -> Path:
    index = pd.date_range("2026-01-01", periods=len(X), freq=pd.Timedelta(seconds=1 / FS))
    pd.DataFrame({"time": index, "pleth": X, "ecg": OTHER}).to_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def bids(folder: Path) -> Path:
    path = folder / "sub-01_task-rest_physio.tsv.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f"{x}\t{o:.4f}\n" for x, o in zip(X, OTHER, strict=True))
    sidecar = {"Columns": ["cardiac_pulse", "respiratory"], "SamplingFrequency": FS, "StartTime": 0}
    (folder / "sub-01_task-rest_physio.json").write_text(json.dumps(sidecar))
    return path


MADE: dict[str, Callable[[Path], Path]] = {f.__name__: f for f in (edf, bdf, of_wfdb, mat, hdf5, parquet, of_pandas, bids)}


@pytest.mark.parametrize("name", MADE)
def test_a_file_of_each_format_is_denoised_as_its_samples_are(name: str, tmp_path: Path) -> None:
    path = MADE[name](tmp_path)
    found = ppgstream.load(path)
    assert found.fs == pytest.approx(FS, rel=1e-6)
    least = 0.13 if name == "edf" else 1e-3  # 16 bits over 8,000
    np.testing.assert_allclose(found.x, X, atol=least)
    done = subprocess.run(
        [sys.executable, "-m", "ppgstream", "denoise", path.name, "-o", "out.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{path.name}: 64 Hz from" in done.stderr
    with np.load(tmp_path / "out.npz") as told:
        expected = ppgstream.denoise(found.x, found.fs)
        np.testing.assert_allclose(told["denoised"], expected.denoised, rtol=1e-5)
        assert told["beats"].tolist() == expected.beats.tolist()


class Inlet:
    """In the place of an LSL inlet: two channels that come at once."""

    def __init__(self) -> None:
        self.rest = np.stack([X, OTHER], axis=1).tolist()
        self.given = 0

    def info(self, _: float) -> Inlet:
        return self

    def channel_count(self) -> int:
        return 2

    def channel_format(self) -> int:
        return 2

    def as_xml(self) -> str:
        channels = "".join(f"<channel><label>{name}</label></channel>" for name in ("ir", "red"))
        return (
            f"<info><name>Muse</name><type>PPG</type><channel_count>2</channel_count><nominal_srate>{FS}</nominal_srate>"
            f"<channel_format>double64</channel_format><desc><channels>{channels}</channels></desc></info>"
        )

    def pull_chunk(self, timeout: float, max_samples: int) -> tuple[list[list[float]], list[float]]:
        rows, self.rest = self.rest[:max_samples], self.rest[max_samples:]
        times = [1000 + (self.given + k) / FS for k in range(len(rows))]
        self.given += len(rows)
        return rows, times

    def time_correction(self, *_: Any) -> float:
        return 0.0


def test_xdf_of_the_lab_recorder_is_read_with_the_channel_s_name_and_its_own_times(tmp_path: Path) -> None:
    with Recorder(tmp_path / "r.xdf", [Inlet()]) as recorder:
        recorder.pull()
    found = ppgstream.load(tmp_path / "r.xdf")
    assert found.found.name == "Muse/ir"
    assert found.fs == pytest.approx(FS, rel=1e-3)
    np.testing.assert_allclose(found.x, X, atol=1e-3)


def test_wfdb_s_data_file_and_its_header_are_the_same_recording(tmp_path: Path) -> None:
    header = of_wfdb(tmp_path)
    assert ppgstream.load(tmp_path / "r.dat").x.tobytes() == ppgstream.load(header).x.tobytes()
    assert ppgstream.load(tmp_path / "r").x.tobytes() == ppgstream.load(header).x.tobytes()  # as WFDB's own tools name it
    (tmp_path / "lines.dat").write_text("\n".join(map(str, X)))
    assert len(ppgstream.load(tmp_path / "lines.dat", fs=FS).x) == len(X)  # text is text
    (tmp_path / "r.dat").unlink()
    with pytest.raises((SourceError, DataError), match=r"r\.hea"):
        ppgstream.load(header)


def test_a_signal_is_asked_for_by_name_or_number_and_told_where_it_is_not_clear(tmp_path: Path) -> None:
    path = edf(tmp_path)
    for asked in ("ECG", "ecg", "0", 0):
        assert ppgstream.load(path, column=asked).found.name == "ECG"
    with pytest.raises(UsageError, match=r"no signal 'EEG': it has 2 \(ECG, Pleth\); the first is 0"):
        ppgstream.load(path, column="EEG")
    scipy.io.savemat(tmp_path / "two.mat", {"ppg_left": X, "ppg_right": X, "fs": FS})
    with pytest.raises(UsageError, match=r"2 signals: say which with --column \(ppg_left, ppg_right\)"):
        ppgstream.load(tmp_path / "two.mat")
    scipy.io.savemat(tmp_path / "none.mat", {"ppg": X})
    with pytest.raises(UsageError, match="states no sampling rate: say --fs HZ"):
        ppgstream.load(tmp_path / "none.mat")
    assert ppgstream.load(tmp_path / "none.mat", fs=FS).fs == FS


def broken(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


WRONG: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "no file": (lambda folder: folder / "no.edf", SourceError, r"no\.edf: cannot read: No such file"),
    "words as EDF": (lambda folder: broken(folder, "w.edf", b"hello"), DataError, r"w\.edf: not read as \.edf"),
    "an empty MATLAB file": (lambda folder: broken(folder, "w.mat", b""), DataError, r"w\.mat: not read as \.mat"),
    "half of HDF5": (lambda folder: broken(folder, "w.h5", hdf5(folder).read_bytes()[:700]), DataError, r"w\.h5: "),
    "words as Parquet": (lambda folder: broken(folder, "w.parquet", b"PAR1PAR1"), DataError, r"w\.parquet: not read as"),
    "words as XDF": (lambda folder: broken(folder, "w.xdf", b"XDF:hello"), DataError, r"w\.xdf: "),
    "words as WFDB": (lambda folder: broken(folder, "w.hea", b"hello"), DataError, r"w\.hea: not read as \.hea"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_of_the_format_is_one_line(case: str, tmp_path: Path) -> None:
    make, kind, text = WRONG[case]
    with pytest.raises(kind, match=text) as found:
        ppgstream.load(make(tmp_path), fs=FS)
    assert "\n" not in str(found.value)


def test_a_file_without_numbers_or_without_a_value_is_said(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "words.mat", {"subject": "S1", "fs": FS})
    with pytest.raises(DataError, match="holds no signal of numbers"):
        ppgstream.load(tmp_path / "words.mat")
    scipy.io.savemat(tmp_path / "nan.mat", {"ppg": np.full(500, np.nan), "fs": FS})
    with pytest.raises(DataError, match="no valid sample in ppg"):
        ppgstream.load(tmp_path / "nan.mat")
    (tmp_path / "x_physio.json").write_text('{"Columns": ["a"]}')
    (tmp_path / "x_physio.tsv").write_text("1\n2\n")
    with pytest.raises(DataError, match="must state Columns and SamplingFrequency"):
        ppgstream.load(tmp_path / "x_physio.tsv")


@pytest.mark.parametrize(
    ("module", "name", "extra"), [("edfio", "edf", "edf"), ("h5py", "hdf5", "hdf5"), ("wfdb", "of_wfdb", "wfdb")]
)
def test_a_library_that_is_missing_is_named_with_what_to_type(
    module: str, name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = MADE[name](tmp_path), formats.importlib.util.find_spec
    monkeypatch.setattr(
        formats.importlib.util, "find_spec", lambda asked, *more: None if asked == module else found(asked, *more)
    )
    with pytest.raises(UsageError, match=rf"is read with {module}: pip install {module}, or ppgstream\[{extra}\]"):
        ppgstream.load(path)


def test_gaps_of_a_clock_are_laid_out(tmp_path: Path) -> None:
    t = np.arange(len(X)) / FS
    keep = (t < 8) | (t > 10)
    table: Any = pa.table({"time": t[keep], "ppg": X[keep]})
    pyarrow.parquet.write_table(table, tmp_path / "gap.parquet")
    found = ppgstream.load(tmp_path / "gap.parquet")
    assert len(found.x) == len(X)
    assert np.isnan(found.x[(t > 8.02) & (t < 9.98)]).all()


def test_an_edf_is_dated_and_long_without_harm(tmp_path: Path) -> None:
    long = np.tile(X, 30)
    signal = edfio.EdfSignal(long, FS, label="PPG", physical_range=(-4000, 4000))
    edfio.Edf([signal], recording=edfio.Recording(startdate=datetime(2026, 1, 2).date())).write(tmp_path / "long.edf")
    assert len(ppgstream.load(tmp_path / "long.edf").x) == len(long)


@pytest.mark.parametrize("suffix", ["parquet", "edf", "bdf", "hea"])
def test_what_is_written_reads_back(suffix: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    for name in (f"out.{suffix}", "out.npz"):
        command = [sys.executable, "-m", "ppgstream", "denoise", "x.npy", "--fs", "64", "-o", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    expected = np.load(tmp_path / "out.npz")
    sure = expected["beats"][expected["beat_confidence"] >= 0.5]
    assert len(sure) > 10
    found = ppgstream.load(tmp_path / f"out.{suffix}")
    assert found.fs == pytest.approx(FS)
    span = float(np.ptp(expected["denoised"]))
    bits = {"parquet": 52, "edf": 15, "bdf": 23, "hea": 23}[suffix]
    np.testing.assert_allclose(found.x[: len(X)], expected["denoised"], atol=1.2 * span / 2**bits)
    if suffix == "parquet":
        table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
        assert table.column_names == ["t_s", "denoised", "confidence", "flags", "beat"]
        assert np.flatnonzero(table.column("beat").to_numpy()).tolist() == sure.tolist()
        assert table.column("confidence").to_numpy().tobytes() == expected["confidence"].tobytes()
    elif suffix == "hea":
        assert sorted(p.name for p in tmp_path.glob("out.[!n]*")) == ["out.atr", "out.dat", "out.hea"]
        told = wfdb.rdann(str(tmp_path / "out"), "atr")
        assert (told.sample.tolist(), set(told.symbol), told.fs) == (sure.tolist(), {"N"}, FS)
        assert wfdb.rdheader(str(tmp_path / "out")).sig_name == ["PPG", "Confidence"]
    else:
        read = edfio.read_edf if suffix == "edf" else edfio.read_bdf
        whole = read(tmp_path / f"out.{suffix}")
        assert [one.label for one in whole.signals] == ["PPG", "Confidence"]
        told = [one.onset for one in whole.annotations if one.text == "beat"]
        np.testing.assert_allclose(told, sure / FS, atol=1e-4)
        assert sum(one.text.endswith(" bpm") for one in whole.annotations) == (expected["hr_confidence"] >= 0.5).sum()


def test_a_wfdb_record_replaces_the_whole_of_another_and_no_input(tmp_path: Path) -> None:
    def denoise(source: str, out: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ppgstream", "denoise", source, "-o", out, "--fs", "64"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "flat.npy", np.zeros(300))
    assert denoise("x.npy", "out.hea").returncode == 0
    assert (tmp_path / "out.atr").exists()
    denoise("flat.npy", "out.hea")
    assert wfdb.rdheader(str(tmp_path / "out")).sig_len == 300
    assert not (tmp_path / "out.atr").exists()  # the beats of another recording
    whole = of_wfdb(tmp_path).with_suffix(".dat").read_bytes()
    for source, out in (("r.dat", "r.hea"), ("r.hea", "r.hea"), ("r", "r.hea")):
        done = denoise(source, out)
        assert (done.returncode, "is the input" in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "r.dat").read_bytes() == whole
    done = denoise("x.npy", "a.b.hea")
    assert (done.returncode, "WFDB's names are of A-Z" in done.stderr) == (2, True)
    times = np.arange(len(X)) / FS + 30 * (np.arange(len(X)) > 600)
    (tmp_path / "gap.csv").write_text("t,ppg\n" + "\n".join(f"{t:.6f},{x}" for t, x in zip(times, X, strict=True)))
    done = denoise("gap.csv", "gap.hea")
    assert (done.returncode, "has no room for gaps" in done.stderr) == (65, True), done.stderr


@pytest.mark.parametrize("case", ["one value", "tiny", "far from 0", "too large"])
def test_any_range_is_written_to_edf_or_said(case: str, tmp_path: Path) -> None:
    x = {"one value": 0 * X + 5, "tiny": 1e-9 * X, "far from 0": X + 1e6, "too large": X * 1e12}[case]
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-m", "ppgstream", "denoise", "x.npy", "--fs", "64", "-o", "out.edf"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if case == "too large":
        assert done.returncode == 65
        assert ".edf: cannot hold this recording" in done.stderr
        assert not (tmp_path / "out.edf").exists()
    else:
        assert done.returncode == (65 if case == "one value" else 0), done.stderr  # nothing is denoised of it
        found = ppgstream.load(tmp_path / "out.edf").x[: len(x)]
        np.testing.assert_allclose(found, x, atol=max(3 * float(np.ptp(x)), 1e-7))


RATES: dict[str, tuple[dict[str, Any], float | None]] = {
    "beside it, not above": ({"sampling_frequency": 500.0, "a": {"fs": 100.0, "ppg": X}}, 100.0),
    "of another group": ({"ab": {"fs": 50.0}, "abc": {"ppg": X}}, None),
    "two that differ": ({"Fs": 100.0, "srate": 50.0, "ppg": X}, None),
    "two that agree": ({"Fs": 100.0, "srate": 100.0, "ppg": X}, 100.0),
    "by its times": ({"t": np.arange(len(X)) / FS, "ppg": X}, FS),
    "above all": ({"fs": 64.0, "a": {"b": {"ppg": X}}}, 64.0),
    "complex": ({"fs": 64.0 + 1j, "ppg": X}, None),
}


@pytest.mark.parametrize("case", RATES)
def test_the_rate_of_a_signal_is_the_one_that_is_said_nearest_to_it(case: str, tmp_path: Path) -> None:
    values, fs = RATES[case]
    scipy.io.savemat(tmp_path / "r.mat", values)
    if fs is None:
        with pytest.raises(UsageError, match="states no sampling rate"):
            ppgstream.load(tmp_path / "r.mat")
    else:
        assert ppgstream.load(tmp_path / "r.mat").fs == pytest.approx(fs, rel=1e-4)


def test_a_dataset_s_own_attribute_counts_for_it_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "r.h5", "w") as file:
        file.attrs["sampling_rate"] = 500.0
        file["ppg"], file["ppg_ir"] = X, X
        file["ppg"].attrs["fs"] = "100"  # as text
    assert ppgstream.load(tmp_path / "r.h5", column="ppg").fs == 100.0
    assert ppgstream.load(tmp_path / "r.h5", column="ppg_ir").fs == 500.0


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pulse_rate", "ecg"], None),
        (["ir_temperature", "signal"], None),
        (["ppg_quality", "sig"], None),
        (["ppg", "ppg_peaks"], "ppg"),
        (["ppg", "ppg_filtered"], "ppg"),
        (["cardiac", "trigger"], "cardiac"),
        (["PPG_GREEN", "ACC_X", "GYR"], "PPG_GREEN"),
    ],
)
def test_what_a_signal_is_called_decides_only_where_it_is_clear(names: list[str], chosen: str | None, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "r.mat", dict.fromkeys(names, X) | {"fs": FS})
    if chosen is None:
        with pytest.raises(UsageError, match="2 signals: say which with --column"):
            ppgstream.load(tmp_path / "r.mat")
    else:
        assert ppgstream.load(tmp_path / "r.mat").found.name == chosen


T = np.arange(len(X))
CLOCKS: dict[str, dict[str, Any]] = {
    "time in ms": {"time": np.round(T * 1000 / FS, 3)},
    "epoch, ms": {"timestamp": (1_767_225_600_000 + np.round(T * 1000 / FS)).astype(np.int64)},
    "epoch, ns": {"timestamp": (1_767_225_600_000_000_000 + np.round(T * 1e9 / FS)).astype(np.int64)},
    "duration": {"time": pa.array(np.round(T * 1e6 / FS).astype("m8[us]"))},
    "with a date that stands still": {
        "recorded_at": pa.array((T * 1e6 / FS).astype("M8[us]")),
        "birthday": pa.array(np.zeros(len(X), "M8[us]")),
    },
    "with a null first": {"time": pa.array([None, *(T[1:] * 1e6 / FS).astype("M8[us]").tolist()])},
}


@pytest.mark.parametrize("case", CLOCKS)
def test_times_of_a_parquet_file_are_known_as_those_of_a_csv(case: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table(CLOCKS[case] | {"ppg": X}), tmp_path / "r.parquet")
    assert ppgstream.load(tmp_path / "r.parquet").fs == pytest.approx(FS, rel=2e-3)


def test_two_clocks_are_asked_about_and_two_columns_of_a_name_are_two(tmp_path: Path) -> None:
    two = {"sent_at": pa.array((T * 1e6 / FS).astype("M8[us]")), "seen_at": pa.array((T * 2e6 / FS).astype("M8[us]")), "ppg": X}
    pyarrow.parquet.write_table(pa.table(two), tmp_path / "two.parquet")
    with pytest.raises(DataError, match=r"2 columns of time \(sent_at, seen_at\): with --fs HZ --trust-fs"):
        ppgstream.load(tmp_path / "two.parquet")
    table = pa.table([pa.array(X), pa.array(OTHER)], names=["ppg", "ppg"])
    pyarrow.parquet.write_table(table, tmp_path / "same.parquet")
    assert ppgstream.load(tmp_path / "same.parquet", fs=FS, column=1).x.tolist() == OTHER.tolist()


def test_half_of_an_edf_is_said_and_strict_stops_there(tmp_path: Path) -> None:
    whole = edf(tmp_path).read_bytes()
    (tmp_path / "half.edf").write_bytes(whole[: len(whole) * 2 // 3])
    for more, code in (([], 0), (["--strict"], 65)):
        command = [sys.executable, "-m", "ppgstream", "denoise", "half.edf", "-o", "out.npz", *more]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert re.search(r"half\.edf: .*(truncated|incomplete|Incomplete|actual)", done.stderr), done.stderr


def test_a_file_of_ten_samples_a_second_is_read(tmp_path: Path) -> None:
    x = recording(30, 1, 10.0)
    signal = edfio.EdfSignal(x, 10.0, label="PPG", physical_range=(-4000, 4000))
    edfio.Edf([signal]).write(tmp_path / "slow.edf")
    assert ppgstream.load(tmp_path / "slow.edf").fs == 10.0
