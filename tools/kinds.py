"""Strange sensors and files, one row a kind: what `ppgstream denoise` makes of each, before and after a change.

    python -m tools.kinds --before "COMMAND" --after "ppgstream"

COMMAND runs another version's program. Inputs are synthetic (two people of 40 s, seeds fixed). Prints a Markdown table.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from ppgstream.lab import scores, synthetic

Float64 = NDArray[np.float64]
FS = 125.0
SECONDS = 40
SEEDS = (7, 21)


class Result(NamedTuple):
    """What came out: the denoised wave, the confidence, the exit code."""

    y: Float64
    confidence: Float64
    code: int


class Kind(NamedTuple):
    """`make` gives the sensor's samples and what a perfect denoiser answers; `judge` turns an answer into a cell."""

    name: str
    make: Callable[[Float64, np.random.Generator], tuple[Float64, Float64, NDArray[np.bool_]]]
    judge: Callable[[Result, Float64, NDArray[np.bool_]], float]
    unit: str


def snr(result: Result, truth: Float64, kept: NDArray[np.bool_]) -> float:
    """SNR_B over the samples that count, dB."""
    y = np.where(kept, result.y, truth)
    clean, error = scores.bandpass(truth, FS), scores.bandpass(y - truth, FS)
    return float(10 * np.log10((clean[kept] ** 2).sum() / (error[kept] ** 2).sum()))


def confidence_there(result: Result, _: Float64, kept: NDArray[np.bool_]) -> float:
    return float(result.confidence[~kept].mean())


def comb(result: Result, _: Float64, kept: NDArray[np.bool_]) -> float:
    return max(scores.seam_index(result.y, hop=10, offset=k) for k in range(10))


def _all(x: Float64) -> NDArray[np.bool_]:
    return np.ones(len(x), np.bool_)


def _counts(counts: int) -> Callable[[Float64, np.random.Generator], tuple[Float64, Float64, NDArray[np.bool_]]]:
    return lambda x, rng: (np.round(512 + counts * x), np.round(512 + counts * x), _all(x))


def _repeats(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    y = np.repeat(x[::5], 5)[: len(x)]
    return y, y, _all(x)


def _impossible(value: float, where: str) -> Callable[[Float64, np.random.Generator], tuple[Float64, Float64, NDArray[np.bool_]]]:
    def make(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
        clean = 120_000 + 180 * x
        at = {
            "1 %": rng.uniform(size=len(x)) < 0.01,
            "3 a second": np.arange(len(x)) % 41 == 7,
            "one": np.arange(len(x)) == 3000,
        }[where]
        return np.where(at, value, clean), clean, ~at

    return make


def _step(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    y = 120_000 + 180 * x + 20_000 * (np.arange(len(x)) >= 2200)
    return y, y, np.abs(np.arange(len(x)) - 2200) > 5


def _finger(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    off = (np.arange(len(x)) >= 1500) & (np.arange(len(x)) < 2750)
    y = np.where(off, np.round(700 + 3 * rng.standard_normal(len(x))), 124_000 + 900 * x)
    return y, y, ~off


def _lamp(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    later = np.arange(len(x)) >= 750
    return x + 0.4 * np.sin(2 * np.pi * 120 * np.arange(len(x)) / FS), x, ~later


def _walk(x: Float64, rng: np.random.Generator) -> tuple[Float64, Float64, NDArray[np.bool_]]:
    seconds = np.arange(0, len(x) + 250, 125)
    y = x + np.interp(np.arange(len(x)), seconds, 0.6 * np.cumsum(rng.standard_normal(len(seconds))))
    low, high = np.quantile(y, [0.08, 0.92])
    inside = (y > low) & (y < high)
    return np.clip(y, low, high), y, inside


KINDS = (
    Kind("whole numbers, 5 counts high", _counts(5), snr, "dB"),
    Kind("whole numbers, 33 counts high", _counts(33), snr, "dB"),
    Kind("whole numbers, 400 counts high", _counts(400), snr, "dB"),
    Kind("each value comes 5 times", _repeats, snr, "dB"),
    Kind("1 % zeros", _impossible(0, "1 %"), snr, "dB, the others"),
    Kind("-999 three times a second", _impossible(-999, "3 a second"), snr, "dB, the others"),
    Kind("one value of 2^24", _impossible(2.0**24, "one"), snr, "dB, the others"),
    Kind("one zero", _impossible(0, "one"), snr, "dB, the others"),
    Kind("walking baseline, clipped at rails", _walk, snr, "dB, between the rails"),
    Kind("LED current stepped", _step, snr, "dB, both sides"),
    Kind("finger off for 10 s: beside it", _finger, snr, "dB"),
    Kind("finger off for 10 s: there", _finger, confidence_there, "confidence"),
    Kind("a lamp's alias at 5 Hz", _lamp, confidence_there, "confidence"),
    Kind("inverted sensor", lambda x, rng: (-x, -x, _all(x)), snr, "dB"),
    Kind("comb: step at every 10th sample over others", lambda x, rng: (synthetic.noisy_pulse(x, rng), x, _all(x)), comb, "ratio"),
)  # fmt: skip


def _run(program: str, x: Float64, folder: Path) -> Result:
    np.savetxt(folder / "x.txt", x, fmt="%.17g")
    done = subprocess.run(  # noqa: S603 (the program is what the user typed)
        [*shlex.split(program), "denoise", str(folder / "x.txt"), "--fs", "125", "-o", str(folder / "y.npz")],
        capture_output=True,
        check=False,
    )
    if not (folder / "y.npz").exists():
        raise typer.BadParameter(f"{program}: exit {done.returncode}: {done.stderr.decode()[-300:]}")
    with np.load(folder / "y.npz") as found:
        return Result(found["denoised"].astype(np.float64), found["confidence"].astype(np.float64), done.returncode)


def main(
    before: Annotated[str, typer.Option(help="Command of the version before.")],
    after: Annotated[str, typer.Option(help="Command of the version after.")] = "ppgstream",
) -> None:
    """Print the table."""
    from rich.progress import track

    lines = ["| input | measured | before | after |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for kind in track(KINDS, description="kinds"):
            cells = []
            for program in (before, after):
                figures = []
                for seed in SEEDS:
                    rng = np.random.default_rng(seed)
                    x, _ = synthetic.pulse(int(SECONDS * FS), synthetic.person(rng), rng)
                    sent, truth, kept = kind.make((x - x.min()) / np.ptp(x), rng)
                    figures.append(kind.judge(_run(program, sent, Path(folder)), truth, kept))
                cells.append(f"{np.mean(figures):.2f}")
            lines.append(f"| {kind.name} | {kind.unit} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
