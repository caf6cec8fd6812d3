"""What is told, and how surely, where the program itself can doubt: a row an input. Run it before and after a change.

    python -m tools.doubts [--checkpoint NAME] [--cases FOLDER]

Inputs are generated (irregular, fast and doubled pulses, steps, hum, breathing; seeds fixed), heartpy's three example recordings where it is installed,
and the small files of FOLDER where it is there. Prints a Markdown table.
"""

from __future__ import annotations

import csv
import importlib.metadata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.engine import Engine
from ppgstream.files import offline, recording
from ppgstream.lab import rhythms, scores, synthetic
from ppgstream.model import runtime
from ppgstream.model.restore import restore
from ppgstream.wire.message import Flag

Float64 = NDArray[np.float64]
FS = 125.0
SURE = 0.5
SEEDS = range(1, 7)
# heartpy's recordings: file, column, Hz, and how much of it.
HEARTPY = (
    ("data.csv", None, 100.0, 5.0),
    ("data.csv", None, 100.0, 25.0),
    ("data2.csv", "hr", 117.0, 120.0),
    ("data3.csv", "hr", 100.4, 60.0),
)
HEADS = (
    "input",
    "rates sure",
    "rates off and sure",
    "sure beats that are none",
    "true beats that are sure",
    "`interference`",
    "confidence",
    "SNR_B, dB",
)


class Input(NamedTuple):
    """A recording at `fs` Hz, the indexes of its beats (None: not known), and its clean wave (None: not known)."""

    name: str
    noisy: Float64
    fs: float = FS
    beats: Float64 | None = None
    clean: Float64 | None = None


class Row(NamedTuple):
    """Shares of all rates and of all sure beats; SNR_B of the output where the clean wave is known, dB."""

    rates_sure: float
    rates_off_and_sure: float
    beats_sure_wrong: float
    true_beats_sure: float
    interference: float
    confidence: float
    snr_b_db: float


def generated() -> Iterator[tuple[str, list[Input]]]:
    """Kinds of inputs by name, some people of each."""
    for kind, make in rhythms.KINDS.items():
        yield kind, [_of_rhythm(kind, make, seed) for seed in SEEDS]
    sharp = [synthetic.steady(synthetic.Wave(sd_s=0.06 * 60 / bpm, second=0.0), bpm, 40.0) for bpm in (120, 145, 170, 190)]
    yield "sharp pulses, 120..190 bpm", [Input("sharp", x, beats=scores.pulse_peaks(x, FS), clean=x) for x in sharp]
    t = np.arange(int(40 * FS)) / FS
    for name, hz, heights in (
        ("hum of 1..5 pulses, 50 Hz", 50.0, (1.0, 2.0, 5.0)),
        ("breathing of 3..10 pulses, .3 Hz", 0.3, (3.0, 5.0, 10.0)),
    ):
        parts = []
        for seed, height in enumerate(heights, start=1):
            x, peaks = _person(seed)
            beside = x + height * float(np.median(np.ptp(x[: len(x) // 250 * 250].reshape(-1, 250), axis=1))) / 2 * np.sin(
                2 * np.pi * hz * t[: len(x)]
            )
            parts.append(Input(name, beside, beats=peaks, clean=x))
        yield name, parts


def _person(seed: int) -> tuple[Float64, Float64]:
    rng = np.random.default_rng(seed)
    x, _ = synthetic.pulse(int(40 * FS), synthetic.person(rng), rng)
    return x, scores.pulse_peaks(x, FS)


def _of_rhythm(kind: str, make: Callable[..., rhythms.Rhythm], seed: int) -> Input:
    found = make(*_person(seed), np.random.default_rng(100 + seed))
    return Input(kind, found.noisy, beats=found.peaks, clean=found.clean)


def examples() -> Iterator[tuple[str, list[Input]]]:
    """heartpy's recordings; none where it is not installed."""
    try:
        files = importlib.metadata.files("heartpy") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for name, column, fs, until_s in HEARTPY:
        path = next((Path(str(f.locate())) for f in files if f.name == name), None)
        if path is None:
            continue
        x = recording.read(path, column=column).samples[: int(until_s * fs)]
        yield f"heartpy {name}, first {until_s:g} s", [Input(name, x, fs=fs, beats=scores.pulse_peaks(np.nan_to_num(x), fs))]


def cases(folder: Path) -> Iterator[tuple[str, list[Input]]]:
    """The files of `folder` about rates and beats; none where it is not there."""
    for path in sorted(folder.glob("*.txt")):
        kind = path.stem.partition("_")[0]
        if kind not in ("af", "alternans", "bigeminy", "double", "walk", "smooth"):
            continue
        x = np.loadtxt(path)
        beats = path.with_name(f"{path.stem}_beats.csv")
        truth = _column(beats) * FS if beats.exists() else None
        yield (
            path.name,
            [Input(path.name, x, beats=truth if truth is not None else None if kind == "walk" else scores.pulse_peaks(x, FS))],
        )


def _column(path: Path) -> Float64:
    with path.open(newline="") as lines:
        values = [row[0] for row in csv.reader(lines) if row]
    return np.array([float(v) for v in values if v.replace(".", "", 1).isdigit()], np.float64)


def measured(inputs: list[Input], denoise: Callable[[Float64, float], offline.Denoised]) -> Row:
    rates: list[tuple[bool, bool]] = []
    beats: list[tuple[bool, bool]] = []
    found: list[bool] = []
    interference, confidence, snr = [], [], []
    for one in inputs:
        out = denoise(one.noisy, one.fs)
        pulse = out.pulses[0]
        peaks = np.zeros(0) if one.beats is None else one.beats
        index = np.rint(pulse.hr_t_s * one.fs).astype(np.int64) + 1
        right = scores.rates_right(pulse.hr_bpm.astype(np.float64), index, peaks, one.fs)
        there = index >= scores.HR_WINDOW_S * one.fs
        rates += zip(right[there].tolist(), (pulse.hr_confidence >= SURE)[there].tolist(), strict=True)
        sure = pulse.beat_confidence >= SURE
        at = pulse.beats.astype(np.float64)
        beats += zip((scores.beats_off_ms(at, peaks, one.fs) <= scores.BEAT_NEAR_MS).tolist(), sure.tolist(), strict=True)
        found += (scores.beats_off_ms(peaks, at[sure], one.fs) <= scores.BEAT_NEAR_MS).tolist()
        interference.append(float(((out.flags & Flag.INTERFERENCE) != 0).mean()))
        confidence.append(float(out.confidence.mean()))
        if one.clean is not None:
            snr.append(scores.snr_b_db(out.denoised.astype(np.float64), one.clean, one.fs))
    sure_beats = [right for right, sure in beats if sure]
    return Row(
        _share([sure for _, sure in rates]),
        _share([sure and not right for right, sure in rates]),
        _share([not right for right in sure_beats]),
        _share(found),
        float(np.mean(interference)),
        float(np.mean(confidence)),
        float(np.mean(snr)) if snr else float("nan"),
    )


def _share(which: list[bool]) -> float:
    return float(np.mean(which)) if which else float("nan")


def _cell(value: float, digits: int = 2) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def main(
    checkpoint: Annotated[str, typer.Option(help="A checkpoint's name or path.")] = "default",
    folder: Annotated[Path, typer.Option("--cases", help="Folder of small files.")] = Path("../shared/cases"),
) -> None:
    found = restore(Path(checkpoint))
    denoiser, rules = runtime.denoiser(found), rules_of(Config(), found)

    def denoise(x: Float64, fs: float) -> offline.Denoised:
        return offline.denoise(x, Engine(denoiser, rules), fs=fs)

    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for source in (generated(), examples(), cases(folder)):
        for name, inputs in source:
            row = measured(inputs, denoise)
            known = any(one.beats is not None for one in inputs)
            cells = [_cell(v, 1 if k == 6 else 2) if known or k not in (1, 2, 3) else "" for k, v in enumerate(row)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
