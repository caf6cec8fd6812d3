"""Pictures: of a training run (loss curves, examples by noise kind, the clean stretches that were chosen) and of the bench."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.lab import noise
from ppgstream.model.architecture import Architecture
from ppgstream.storage import replace_files

from . import data, streamed
from .methods import Method

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


# ---- the bench ---------------------------------------------------------------------------------------------------

EXAMPLE_S, EXAMPLE_OF = 10.0, "hand, dense"  # seconds shown: those with most motion


CLEAN_S, CLEAN_PEOPLE = 5.0, 3  # seconds and wearers shown


def bench(
    result: dict[str, Any],
    methods: Sequence[Method],
    people: Sequence[streamed.Record],
    out: Path,
    wearers: Sequence[streamed.Record] = (),
) -> list[Path]:
    """The pictures of `ppgstream evaluate` for the tables in `result`, in the folder `out`."""
    drawn = []
    draws_of: dict[str, Callable[[Path], None]] = {
        "streamed": lambda path: gains(result["streamed"], path),
        "snr": lambda path: by_snr(result["snr"], path),
        "lookahead": lambda path: by_lookahead(result["lookahead"], path),
        "trust": lambda path: trust(result["trust_curves"], path),
    }
    for name, draw in draws_of.items():
        if name in result:
            drawn.append(out / f"{name}.png")
            draw(drawn[-1])
    last = [m for m in methods if m.has_lookahead][-1:]
    if people and last and "streamed" in result:
        drawn.append(out / "examples.png")
        noise_examples(last[0], people[0], drawn[-1])
    told = [m for m in methods if m.has_lookahead]
    if wearers and told and "wrist" in result:
        drawn.append(out / "wrist.png")
        clean_examples(told, wearers, drawn[-1])
    return drawn


def clean_examples(methods: Sequence[Method], wearers: Sequence[streamed.Record], out: Path) -> None:
    """Clean pulses of some wearers, and what each method makes of them."""
    from matplotlib.figure import Figure

    picked = [wearers[k] for k in np.linspace(0, len(wearers) - 1, min(CLEAN_PEOPLE, len(wearers))).astype(int)]
    figure = Figure(figsize=(10, 1.9 * len(picked)), layout="constrained")
    for axes, record in zip(figure.subplots(len(picked), 1, squeeze=False)[:, 0], picked, strict=True):
        part = slice(len(record.clean) // 2, len(record.clean) // 2 + int(CLEAN_S * data.FS))
        t = np.arange(part.start, part.start + len(record.clean[part])) / data.FS
        axes.plot(t, record.clean[part], color="0.7", lw=3, label="as it came")
        for number, method in enumerate(methods):
            assert method.record is not None
            axes.plot(t, method.record(record.clean, None).out[part], color=f"C{number % 10}", lw=1.2, label=method.name)
        axes.set(yticks=[])
        axes.set_title(record.person, loc="left", fontsize="small")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0)
    figure.axes[0].legend(frameon=False, fontsize="small", loc="upper right", ncols=6)
    figure.axes[-1].set_xlabel("time, s")
    _write(figure, out)


def noise_examples(method: Method, record: streamed.Record, out: Path) -> None:
    """A stretch of one record under each kind of noise: as it came, the truth, the answer, and how much to trust it."""
    from matplotlib.figure import Figure

    assert method.record is not None
    kinds = streamed.MAIN
    figure = Figure(figsize=(10, 1.5 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), 1, sharex=True)
    length = min(int(EXAMPLE_S * data.FS), len(record.clean))
    moved = np.abs(streamed.Draw(kinds[EXAMPLE_OF], record, streamed.SEEDS.start).noisy - record.clean)
    busy = np.convolve(np.minimum(moved, 3 * record.clean.std()), np.ones(length), "valid")
    start = int(np.argmax(busy))  # where most of the artefacts are that are not beyond all measure
    part = slice(start, start + length)
    t = np.arange(start, start + len(record.clean[part])) / data.FS
    for axes, (kind, make) in zip(grid, kinds.items(), strict=True):
        draw = streamed.Draw(make, record, streamed.SEEDS.start)
        answer, confidence, _ = method.record(draw.noisy, None)
        axes.plot(t, draw.noisy[part], color="0.78", lw=0.7, label="noisy")
        if draw.truth is not None:
            axes.plot(t, draw.truth[part], color="0.15", lw=1.0, ls=(0, (4, 2)), label="truth")
        axes.plot(t, answer[part], color="C3", lw=1.3, label=method.name)
        span = np.ptp(record.clean[part])
        low, high = min(record.clean[part].min(), answer[part].min()), max(record.clean[part].max(), answer[part].max())
        axes.set(yticks=[], ylim=(low - 0.6 * span, high + 0.6 * span))
        axes.set_title(kind, loc="left", fontsize="small")
        if confidence is not None:
            unsure = confidence[part] < streamed.SURE
            axes.fill_between(
                t,
                0,
                1,
                where=unsure.tolist(),
                color="C1",
                alpha=0.2,
                lw=0,
                transform=axes.get_xaxis_transform(),
                label="not sure",
            )
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0)
    grid[0].legend(frameon=False, fontsize="small", loc="upper right", ncols=4)
    grid[-1].set_xlabel("time, s")
    _write(figure, out)


def trust(curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], out: Path) -> None:
    """Of seconds, heart rates and beats: above, how often they are right by the confidence that was stated; below, how many of
    the most confident ones are wrong by how many are kept."""
    from matplotlib.figure import Figure

    names = [name for name in ("seconds", "heart rates", "beats") if any(name in found for found in curves.values())]
    figure = Figure(figsize=(3.6 * len(names), 6.4), layout="constrained")
    grid = figure.subplots(2, len(names), squeeze=False)
    for column, name in enumerate(names):
        above, below = grid[0, column], grid[1, column]
        above.plot([0, 1], [0, 1], color="0.7", lw=1, ls=(0, (4, 2)))
        for number, (method, found) in enumerate(curves.items()):
            if name not in found:
                continue
            own, colour = found[name], f"C{number % 10}"
            count = np.array(own["count"])
            there = count >= max(count.sum() / 500, 1)
            above.plot(
                np.array(own["stated"])[there], np.array(own["right"])[there], marker="o", ms=3, color=colour, label=method
            )
            below.plot(own["coverage"], own["risk"], color=colour, label=method)
        above.set(
            title=name,
            xlabel="confidence that was stated",
            ylabel="share that is right" if not column else "",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        below.set(
            xlabel="share kept, the most confident first", ylabel="share of them that is wrong" if not column else "", xlim=(0, 1)
        )
        below.set_ylim(bottom=0)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
    grid[0, -1].legend(frameon=False, fontsize="small")
    _write(figure, out)


def gains(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Gain by kind of noise, a bar a method, with the interval over people."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("gain_db") is not None]
    kinds, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("kind", "method"))
    names = [name for name in names if name != "the input itself"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / max(len(names), 1)
    for number, name in enumerate(names):
        own = {row["kind"]: row for row in rows if row["method"] == name}
        at = np.arange(len(kinds)) + (number - (len(names) - 1) / 2) * width
        height = np.array([own[k]["gain_db"] for k in kinds])
        error = np.abs(np.array([[own[k]["gain_low_db"], own[k]["gain_high_db"]] for k in kinds]).T - height)
        axes.bar(at, height, width, yerr=error, error_kw={"lw": 0.8, "ecolor": "0.3"}, label=name)
    axes.axhline(0, color="0.2", lw=0.8)
    axes.set(xticks=range(len(kinds)), xticklabels=kinds, ylabel="gain in SNR_B, dB")
    axes.legend(frameon=False, fontsize="small", ncols=4)
    axes.spines[["top", "right"]].set_visible(False)
    _write(figure, out)


def by_snr(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Gain over the SNR_B of the input, a line a method, a picture a kind of noise."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(row["method"] for row in rows) if name != "the input itself"]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(streamed.SWEPT), sharey=True), streamed.SWEPT, strict=True):
        for name in names:
            own = [row for row in rows if row["method"] == name and row["kind"].startswith(f"{kind} at ")]
            axes.plot([row["snr_b_in_db"] for row in own], [row["gain_db"] for row in own], marker="o", ms=3, label=name)
        axes.axhline(0, color="0.2", lw=0.8)
        axes.set(title=kind, xlabel="SNR_B of the input, dB")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("gain, dB")
            axes.legend(frameon=False, fontsize="small")
    _write(figure, out)


def by_lookahead(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    """SNR_B of the output over the lookahead, a line a method, a picture a kind of noise."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["lookahead"] != "its own"]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    kinds = streamed.AT_LOOKAHEADS
    for axes, kind in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        for name in dict.fromkeys(row["method"] for row in rows):
            own = [row for row in rows if (row["method"], row["kind"]) == (name, kind)]
            axes.plot(
                [row["lookahead"] / data.FS for row in own], [row["snr_b_out_db"] for row in own], marker="o", ms=3, label=name
            )
        axes.set(title=kind, xlabel="lookahead, s")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("SNR_B of the output, dB")
            axes.legend(frameon=False, fontsize="small")
    _write(figure, out)
