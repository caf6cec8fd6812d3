"""What is told, and how surely, where the program itself can doubt: a row an input. Run it before and after a change.

    python -m tools.doubts [--checkpoint NAME] [--cases FOLDER]

Inputs are generated (irregular, fast and doubled pulses, steps, hum, breathing; seeds fixed), heartpy's three example recordings
where it is installed, and the small files of FOLDER where it is there. Prints a Markdown table.
"""

from __future__ import annotations

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
    "`hum`",
    "`breathing`",
    "confidence",
    "SNR_B, dB",
)


class Input(NamedTuple):
    """A recording at `fs` Hz; the indexes of its beats, its clean wave, and its one heart rate. None: not known."""

    name: str
    noisy: Float64
    fs: float = FS
    beats: Float64 | None = None
    clean: Float64 | None = None
    bpm: float | None = None


class Row(NamedTuple):
    """Shares of all rates and of all sure beats; SNR_B of the output where the clean wave is known, dB."""

    rates_sure: float
    rates_off_and_sure: float
    beats_sure_wrong: float
    true_beats_sure: float
    interference: float
    hum: float
    breathing: float
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
    """The files of `folder` about rates and beats; none where it is not there. Their names end with the rate; of low beats no one
    has told the places."""
    for path in sorted(folder.glob("*.txt")):
        kind, _, rate = path.stem.replace("_", " ").partition(" ")
        if kind not in ("af", "alternans", "bigeminy", "double", "walk", "smooth"):
            continue
        x = np.loadtxt(path)
        if kind == "af":
            found = Input(path.name, x, beats=np.loadtxt(path.with_name(f"{path.stem}_beats.csv")) * FS)
        elif kind == "walk":
            found = Input(path.name, x)
        else:
            peaks = None if kind in ("alternans", "bigeminy") else scores.pulse_peaks(x, FS)
            found = Input(path.name, x, beats=peaks, bpm=float(rate.split()[-1]))
        yield path.name, [found]


def measured(inputs: list[Input], denoise: Callable[[Float64, float], offline.Denoised]) -> Row:
    """NaN where no one has told what is right."""
    columns: list[list[float]] = [[] for _ in range(9)]
    sure_rates, off_and_sure, sure_wrong, found, interference, hum, breathing, confidence, snr = columns
    for one in inputs:
        out = denoise(one.noisy, one.fs)
        pulse = out.pulses[0]
        index = np.rint(pulse.hr_t_s * one.fs).astype(np.int64) + 1
        there = index >= scores.HR_WINDOW_S * one.fs
        bpm, sure = pulse.hr_bpm[there].astype(np.float64), pulse.hr_confidence[there] >= SURE
        sure_rates += sure.tolist()
        if one.bpm is not None:
            off_and_sure += (sure & ~(np.abs(bpm - one.bpm) <= scores.RATE_NEAR_BPM)).tolist()
        elif one.beats is not None:
            off_and_sure += (sure & ~scores.rates_right(bpm, index[there], one.beats, one.fs)).tolist()
        if one.beats is not None:
            at = pulse.beats[pulse.beat_confidence >= SURE].astype(np.float64)
            sure_wrong += (scores.beats_off_ms(at, one.beats, one.fs) > scores.BEAT_NEAR_MS).tolist()
            found += (scores.beats_off_ms(one.beats, at, one.fs) <= scores.BEAT_NEAR_MS).tolist()
        for shares, flag in ((interference, Flag.INTERFERENCE), (hum, Flag.HUM), (breathing, Flag.BREATHING)):
            shares.append(float(((out.flags & flag) != 0).mean()))
        confidence.append(float(out.confidence.mean()))
        if one.clean is not None:
            snr.append(scores.snr_b_db(out.denoised.astype(np.float64), one.clean, one.fs))
    return Row(*(float(np.mean(v)) if v else float("nan") for v in columns))


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
            cells = [_cell(value, 1 if head.endswith("dB") else 2) for head, value in zip(HEADS[1:], row, strict=True)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
