"""Pictures of a training run: loss curves, examples by noise kind, and the clean stretches that were chosen."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream import noise
from ppgstream.checkpoint import replace_files
from ppgstream.models import Architecture

from . import data

Float64 = NDArray[np.float64]
KINDS: dict[str, dict[str, Any]] = {
    "white": {"ramp": 0.0, "clip": False},
    "slope": {"white_sd": 0.0, "clip": False},
    "saturation": {"white_sd": 0.0, "ramp": 0.0},
    "N1": {},
    "no noise": {"white_sd": 0.0, "ramp": 0.0, "clip": False},
}
SHEET = 40  # stretches on a contact sheet


def curves(log: Path, out: Path) -> None:
    """Loss and validation figures by epoch, from a run's `log.csv`."""
    from matplotlib.figure import Figure

    with log.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    marker = "o" if len(rows) < 3 else ""
    for key, colour in (("loss", "0.6"), ("val_loss", "C3")):
        if key in rows[0]:
            left.plot(epochs, [float(row[key]) for row in rows], marker=marker, color=colour, label=key)
    left.set(xlabel="epoch", title="loss", yscale="log")
    gains = [key for key in rows[0] if key.startswith("val_g_")]
    for key in gains:
        name = key.removeprefix("val_g_").removesuffix("_db")
        right.plot(epochs, [float(row[key]) for row in rows], marker=marker, label=name)
    right.set(xlabel="epoch", title="G on validation recordings, dB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.has_data():
            axes.legend(frameon=False)
    _write(figure, out)


def examples(validation: Sequence[Any], answer: Callable[[Float64], Float64], arch: Architecture, out: Path) -> None:
    """Three validation windows under each kind of noise: noisy, truth, answer, all min-maxed as G judges them."""
    from matplotlib.figure import Figure

    clean = np.concatenate([v.clean for v in validation]) if validation else np.zeros((0, arch.window))
    if not len(clean):
        return
    chosen = clean[np.linspace(0, len(clean) - 1, 3).astype(int)]
    figure = Figure(figsize=(11, 1.9 * len(KINDS)), layout="constrained")
    grid = figure.subplots(len(KINDS), 3, squeeze=False, sharex=True)
    for row, (kind, options) in zip(grid, KINDS.items(), strict=True):
        drawn = noise.n1(chosen, np.random.default_rng(5), **options)
        answers = noise.minmax(answer(drawn.noisy))
        for axes, x, y, truth in zip(row, drawn.noisy, answers, noise.minmax(chosen), strict=True):
            axes.plot(x, color="0.75", lw=0.8, label="noisy")
            axes.plot(truth, color="0.15", lw=1.0, ls=(0, (4, 2)), label="truth")
            axes.plot(y, color="C3", lw=1.3, label="answer")
            axes.set(yticks=[])
            axes.spines[["top", "right", "left"]].set_visible(False)
        row[0].set_ylabel(kind)
    grid[0][0].legend(frameon=False, fontsize="small", loc="lower right")
    for axes in grid[-1]:
        axes.set_xlabel("sample")
    _write(figure, out)


def contact_sheet(clean: data.Clean, out: Path, title: str) -> None:
    """Chosen stretches, the first 8 s of each, evenly picked if there are many."""
    from matplotlib.figure import Figure

    picked = np.linspace(0, len(clean.stretches) - 1, min(SHEET, len(clean.stretches))).astype(int)
    columns = 4
    rows = -(-len(picked) // columns)
    figure = Figure(figsize=(12, 0.6 + 1.1 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axes in grid:
        axes.set_axis_off()
    for axes, number in zip(grid, picked, strict=False):
        stretch = clean.stretches[number][: data.SNIPPET]
        axes.plot(np.arange(len(stretch)) / data.FS, stretch, color="C0", lw=0.7)
        axes.set_title(clean.recording[number][-40:], fontsize=6, loc="left")
    figure.suptitle(title, fontsize=9)
    _write(figure, out)


def _write(figure: Any, out: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    replace_files({out: buffer.getvalue()})
