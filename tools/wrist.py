"""The wrist recordings for the trainer, from the csv files of three public repositories (licences: NOTICE).

    python -m tools.wrist --stress-predict FOLDER --cogwear FOLDER --exams FOLDER -o data/wrist

FOLDER: Raw_data of Stress-Predict (S01/BVP.csv, S01/ACC.csv, ..); CogWear 1.0.0 (pilot/0/baseline/empatica_bvp.csv,
samsung_bvp.csv, ..); Data of Wearable Exam Stress 1.0.0 (S01/Midterm 1/BVP.csv, ..). Exactly the recordings listed here are
taken: the other people are for tests.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ppgstream.core.spectra import repeats
from ppgstream.errors import DataError, PpgStreamError, SourceError, UsageError
from ppgstream.files import recording

Float64 = NDArray[np.float64]
STRESS_PREDICT = [
    f"S{n:02d}" for n in (1, 2, 3, 4, 5, 7, 9, 10, 11, 13, 15, 16, 17, 18, 21, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35)
]
PILOT, PILOT_PARTS = [f"C{n:02d}" for n in (0, 1, 2, 5, 6, 7, 8, 9, 10)], ("base", "cog")
SURVEY = [f"C{n:02d}" for n in (11, 13, 16, 17, 18, 20, 21, 22, 23, 24)]
SURVEY_PARTS = tuple(f"{when}_{part}" for when in ("post", "pre") for part in ("base", "cog", "survey"))
WITHOUT = {  # recordings of these people that were not taken: absent, or copies of others
    "C20": {"post_base", "post_cog", "post_survey", "pre_cog"},
    "C21": {"post_base", "post_cog", "post_survey"},
}
NO_WATCH = ("C01", "C05", "C07", "C17_pre_base")  # another sensor in the file, or two copies run into each other
EXAMS = ["X01_M1", "X04_M1", "X06_M1", "X08_M1", "X08_M2", "X10_M1"]
FOLDERS = {"base": "baseline", "cog": "cognitive_load", "survey": "survey", "M1": "Midterm 1", "M2": "Midterm 2"}
BVP_K, WATCH_FS = 100.0, 25.0
# What is clean, in windows of 8 s, every 2 s:
WINDOW_S, STEP_S = 8.0, 2.0
PERIODIC, RATES_BPM = 0.8, (40.0, 200.0)  # normalised autocorrelation
IN_LINES, LINE_HZ, AT_2F = (
    0.85,
    0.25,
    0.5,
)  # of the power, near the rate and its double and triple; at most so much of that at the double
HELD_S, RMS = 0.2, (0.3, 4.0)  # of the person's median

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Folder = Annotated[Path | None, typer.Option(help="The repository's folder; without it this file is not made.")]


@app.command()
def main(
    stress_predict: Folder = None,
    cogwear: Folder = None,
    exams: Folder = None,
    out: Annotated[Path, typer.Option("-o", help="The folder to write to.")] = Path("data/wrist"),
) -> None:
    """Write the wrist recordings as files that `ppgstream train --data` reads."""
    try:
        made = {
            "stress_predict": None if stress_predict is None else _stress_predict(stress_predict),
            "cogwear": None if cogwear is None else _cogwear(cogwear),
            "exam_noise": None if exams is None else _exams(exams),
        }
        if not any(made.values()):
            raise UsageError("name at least one of --stress-predict, --cogwear and --exams")
        out.mkdir(parents=True, exist_ok=True)
        for name, arrays in made.items():
            if arrays is not None:
                buffer = io.BytesIO()
                np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
                recording.write_whole(out / f"{name}.npz", buffer.getvalue())
    except PpgStreamError as error:
        print(f"wrist: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def _stress_predict(folder: Path) -> dict[str, NDArray[Any]]:
    return _file("stress_predict", {name: (name, _e4(folder / name)) for name in STRESS_PREDICT})


def _exams(folder: Path) -> dict[str, NDArray[Any]]:
    def at(name: str) -> Path:
        person, part = name.split("_")
        return folder / person.replace("X", "S") / FOLDERS[part]

    return _file("exam", {name: (name.split("_")[0], _e4(at(name))) for name in EXAMS})


def _cogwear(folder: Path) -> dict[str, NDArray[Any]]:
    found = {}
    for person in (*PILOT, *SURVEY):
        top = folder / ("pilot" if person in PILOT else "survey_gamification") / str(int(person[1:]))
        for part in PILOT_PARTS if person in PILOT else SURVEY_PARTS:
            if part in WITHOUT.get(person, ()):
                continue
            name, steps = f"{person}_{part}", part.split("_")
            where = top.joinpath(*(FOLDERS.get(step, step) for step in steps))
            with_watch = person not in NO_WATCH and name not in NO_WATCH
            found[name] = (person, _both_watches(where, with_watch=with_watch))
    return _file("cogwear", found)


def _file(source: str, found: dict[str, tuple[str, dict[str, NDArray[Any]]]]) -> dict[str, NDArray[Any]]:
    """All arrays of one file: each recording's under its name, and what is clean in it."""
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array(list(found)),
        "person": np.array([person for person, _ in found.values()]),
        "source": np.array([source] * len(found)),
        "split": np.array(["train"] * len(found)),
        "bvp_k": np.array(BVP_K, np.float32),
    }
    for key, suffix, fs, high in (("bvp", "clean", None, 12.0), ("sam", "sam_clean", WATCH_FS, 11.25)):
        for person in dict.fromkeys(p for p, _ in found.values()):
            own = {name: content for name, (p, content) in found.items() if p == person and key in content}
            rates = [float(content["fs"]) if fs is None else fs for content in own.values()]
            signals = [np.asarray(content[key], np.float64) / (BVP_K if fs is None else 1.0) for content in own.values()]
            for name, ranges in zip(own, clean_ranges(signals, rates, high), strict=True):
                found[name][1][suffix] = ranges
    for name, (_, content) in found.items():
        arrays |= {f"{name}_{key}": value for key, value in content.items()}
    return arrays


def clean_ranges(signals: list[Float64], rates: list[float], high_hz: float) -> list[NDArray[np.int32]]:
    """Of the recordings (n,) of one person, at `rates` Hz: the ranges (m, 2) of samples that are clean, [start, stop)."""
    judged = [_judged(x, fs, high_hz) for x, fs in zip(signals, rates, strict=True)]
    every = np.concatenate([np.zeros(0), *(rms for _, _, rms in judged)])
    usual = float(np.median(every)) if len(every) else 0.0
    ranges = []
    for (starts, good, rms), fs in zip(judged, rates, strict=True):
        kept = starts[good & (rms >= RMS[0] * usual) & (rms <= RMS[1] * usual)]
        length, merged = round(WINDOW_S * fs), list[list[int]]()
        for start in kept.tolist():
            if merged and start <= merged[-1][1]:
                merged[-1][1] = start + length
            else:
                merged.append([start, start + length])
        ranges.append(np.array(merged, np.int32).reshape(-1, 2))
    return ranges


def _judged(x: Float64, fs: float, high_hz: float) -> tuple[NDArray[np.int64], NDArray[np.bool_], Float64]:
    """Of each window its start, whether it is clean by itself, and its RMS in the band from 0.5 Hz to `high_hz`."""
    from scipy.signal import butter, sosfiltfilt

    length, step = round(WINDOW_S * fs), round(STEP_S * fs)
    if len(x) < length:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_), np.zeros(0)
    band = sosfiltfilt(butter(3, (0.5, high_hz), btype="bandpass", fs=fs, output="sos"), x)
    starts = np.arange(0, len(x) - length + 1, step)
    cut = np.lib.stride_tricks.sliding_window_view(band, length)[::step]
    cut = cut - cut.mean(axis=1, keepdims=True)
    size = 1 << (4 * length).bit_length()
    shortest, longest = (round(60 * fs / bpm) for bpm in reversed(RATES_BPM))
    r = repeats(cut, np.arange(shortest - 1, longest + 2))
    periodic = np.where((r[:, 1:-1] >= r[:, :-2]) & (r[:, 1:-1] >= r[:, 2:]), r[:, 1:-1], 0.0)
    # The shortest lag that repeats nearly as well as the best: a double period repeats as well as the period.
    first = np.argmax(periodic >= 0.9 * periodic.max(axis=1, keepdims=True), axis=1)
    rate = fs / (shortest + first)
    power = np.abs(np.fft.rfft(cut * np.hanning(length), size, axis=1)) ** 2
    hz = np.fft.rfftfreq(size, 1 / fs)
    near = [(power * (np.abs(hz - k * rate[:, None]) <= LINE_HZ)).sum(axis=1) for k in (1, 2, 3)]
    whole = np.maximum(power[:, (hz >= 0.5) & (hz <= high_hz)].sum(axis=1), 1e-12)
    still = np.concatenate([[True], np.diff(x) == 0])
    same = np.asarray(np.lib.stride_tricks.sliding_window_view(still, round(HELD_S * fs)).all(axis=1))
    held = np.array([same[a : a + length].any() for a in starts])
    good = (periodic.max(axis=1) >= PERIODIC) & (sum(near) >= IN_LINES * whole) & (near[1] <= AT_2F * whole) & ~held
    return starts, good, cut.std(axis=1)


def _e4(folder: Path) -> dict[str, NDArray[Any]]:
    """BVP.csv and ACC.csv of an Empatica E4: a line with the start, one with the rate, then the samples."""
    bvp, acc = _numbers(folder / "BVP.csv", 1), _numbers(folder / "ACC.csv", 3)
    late_s = float(acc[0, 0] - bvp[0, 0])
    found = {
        "bvp": _whole(bvp[2:, 0]),
        "fs": np.array(bvp[1, 0], np.float32),
        "acc": np.clip(acc[2:].T, -128, 127).astype(np.int8),
        "acc_fs": np.array(acc[1, 0], np.float32),
    }
    return found | ({"acc_t0": np.array(late_s, np.float32)} if late_s else {})


def _both_watches(folder: Path, *, with_watch: bool) -> dict[str, NDArray[Any]]:
    """empatica_bvp.csv and samsung_bvp.csv of CogWear: a column of samples and one of times in s, in any order."""
    x, t = _columns(folder / "empatica_bvp.csv")
    found = {"bvp": _whole(x), "fs": np.array(64.0, np.float32)}
    if with_watch:
        counts, at = _columns(folder / "samsung_bvp.csv")
        ms, first = np.unique(np.rint((at - t[0]) * 1000).astype(np.int32), return_index=True)
        found |= {"sam": counts[first].astype(np.int32), "sam_t_ms": ms}
    return found


def _whole(x: Float64) -> NDArray[np.signedinteger[Any]]:
    whole = np.rint(x * BVP_K).astype(np.int32)
    return whole.astype(np.int16) if len(whole) and np.abs(whole).max() < 32_768 else whole


def _columns(path: Path) -> tuple[Float64, Float64]:
    """A CogWear file's samples and times, sorted by time."""
    try:
        with path.open() as lines:
            head = lines.readline().strip().split(",")
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror}") from error
    time = [k for k, name in enumerate(head) if "time" in name.lower()]
    value = [k for k, name in enumerate(head) if any(word in name.lower() for word in ("bvp", "ppg"))]
    if len(time) != 1 or len(value) != 1:
        raise DataError(f"{path}: needs one column of times and one of bvp or ppg, has {', '.join(head)}")
    table = _numbers(path, len(head), skip=1)
    order = np.argsort(table[:, time[0]], kind="stable")
    return table[order, value[0]], table[order, time[0]]


def _numbers(path: Path, columns: int, *, skip: int = 0) -> Float64:
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2, skiprows=skip)
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror or 'no such file'}") from error
    except ValueError as error:
        raise DataError(f"{path}: not a table of numbers: {error}") from error
    if table.shape[1] != columns or len(table) < 3:
        raise DataError(f"{path}: {table.shape[1]} columns and {len(table)} lines, not the {columns} columns of such a file")
    return np.asarray(table, np.float64)


if __name__ == "__main__":
    app()
