"""Commands around checkpoints: train, evaluate, bench, checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ppgstream.cli.shared import (
    CheckpointOption,
    ColumnOption,
    Command,
    Commands,
    FieldOption,
    TrustFsOption,
    app,
    leave_at_once,
    loaded,
    restored,
    say,
)
from ppgstream.errors import DataError, OutputError, UsageError

OWN_PANEL = "Own network"
checkpoint_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Look at checkpoints.")
app.add_typer(checkpoint_app, name="checkpoint")


@checkpoint_app.command("show", cls=Command)
def checkpoint_show(
    path: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="A checkpoint. (default: the bundled one)")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Family, sizes, figures and sha256 of a checkpoint."""
    import msgspec

    found = restored(path)
    facts = {
        "path": str(found.path),
        "kind": found.kind,
        "family": found.arch.family,
        "sizes": found.arch.sizes,
        "window": found.arch.window,
        "context": found.arch.context,
        "hidden_activation": found.arch.hidden_activation,
        "output_activation": found.arch.output_activation,
        "outputs": list(found.arch.outputs),
        "fs": found.fs,
        "hop": found.hop,
        "lookahead": found.lookahead,
        "scaling": found.arch.scaling,
        "answers": found.arch.answers,
        "calibration": dict(found.calibration),
        "tile": found.tile,
        "parameters": found.parameters,
        "sha256": found.sha256,
        "id": found.id.hex(),
        "figures": dict(found.figures),
        "provenance": dict(found.provenance),
        "tensors": {name: list(t.shape) for name, t in found.tensors.items()},
    }
    if json:
        facts["path"] = str(found.path).encode(errors="backslashreplace").decode()
        print(msgspec.json.encode(facts).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    facts["calibration"] = {key: _in_short(stated) for key, stated in found.calibration.items()}
    for key, value in facts.items():
        listed = "\n".join(f"{k}: {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)
        table.add_row(key, listed)
    Console(highlight=False, markup=False).print(table)


def _in_short(stated: Mapping[str, Any]) -> str:
    """What a calibration states, with trees by their number."""
    return f"{len(stated['trees'])} trees of {len(stated['names'])} features" if "trees" in stated else str(stated)


@checkpoint_app.command("probe", cls=Command)
def checkpoint_probe(
    path: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="A checkpoint. (default: the bundled one)")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the inputs and answers into this png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a checkpoint answers to constants, a ramp, white noise and sines: how much pulse it invents."""
    import msgspec

    from ppgstream.files import recording
    from ppgstream.show import probe

    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}: must end in .png")
        recording.check_writable(plot)
    found = restored(path)
    answered = probe.probe(found)
    if plot is not None:
        recording.write_whole(plot, probe.picture(answered, probe.title_of(found)))
    if json:
        print(msgspec.json.encode([a.row() for a in answered]).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=probe.title_of(found), title_justify="left")
    for heading in ("input", "mean", "SD", "pulse", "share in 0.6..3.5 Hz", "follows its input"):
        table.add_column(heading, justify="left" if heading == "input" else "right")
    for a in answered:
        values = [f"{v:.3f}" for v in (a.mean, a.sd, a.pulse, a.share)]
        table.add_row(a.name, *values, "-" if math.isnan(a.follows) else f"{a.follows:.2f}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(
        "pulse: RMS of the answer in 0.6..3.5 Hz over that of a clean pulse: 1 is a whole pulse, 0 none. follows: correlation "
        "of answer and input."
    )


@app.command(cls=Command)
def train(
    family: Annotated[
        str | None,
        typer.Argument(
            metavar="FAMILY", help="ae, ae3, dae, rae, brae, brdae, transformer or lmmse. (default: that of --recipe or --from)"
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of recipe keys (docs/training.md). Options override it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the public recordings. (default: ../shared/data)", rich_help_panel="Data")
    ] = None,
    recordings: Annotated[Path | None, typer.Option(help="Folder of recordings of your own.", rich_help_panel="Data")] = None,
    fs: Annotated[
        float | None, typer.Option(help="Sampling rate, Hz, of recordings that do not state it.", rich_help_panel="Data")
    ] = None,
    trust_fs: TrustFsOption = False,
    column: Annotated[
        str | None, typer.Option(help="The PPG's column in a table: its name, or its number from 0.", rich_help_panel="Data")
    ] = None,
    field: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key before the value, in lines like IR=512.", rich_help_panel="Data")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Finds the person in a file's name: a person is on one side of the split.",
            rich_help_panel="Data",
        ),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Train on synthetic people alone: needs no recordings.", rich_help_panel="Data")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run. (default: runs/FAMILY)", rich_help_panel="Run")] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="CHECKPOINT", help="Go on from these weights, the course's too.", rich_help_panel="Run"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, with its own recipe.", rich_help_panel="Run")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in a folder that holds a run.", rich_help_panel="Run")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="(default: 300; transformer and brdae 64)", rich_help_panel="Run")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Batches an epoch; 0: one pass over the training windows. (default: 0; transformer and brdae 500)",
            rich_help_panel="Run",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Windows a batch. (default: 9000; transformer and brdae 128)", rich_help_panel="Run")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0, help="End this call after so many minutes, before an epoch that would take longer.", rich_help_panel="Run"
        ),
    ] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Epochs without a lower validation loss after which to stop; 0: never.", rich_help_panel="Run"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="(default: 1)", rich_help_panel="Run")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads that compute.", rich_help_panel="Run")] = 2,
    processes: Annotated[
        int,
        typer.Option(
            min=0,
            help="That draw batches beside this one, for a fast accelerator. The batches stay the same.",
            rich_help_panel="Run",
        ),
    ] = 0,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adam, adamw or sgd. (default: adam; transformer and brdae adamw)", rich_help_panel="Recipe"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="(default: 0.001; rae and brae 0.01; transformer and brdae 0.002, falling)", rich_help_panel="Recipe"),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="l2, l1, shape, robust or balanced. (default: l2; transformer and brdae robust)", rich_help_panel="Recipe"
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="none, white, slope, saturation, n1 (all three), or several joined by commas. (default: n1; ae and ae3 none)",
            rich_help_panel="Recipe",
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Hidden nodes of ae, ae3, dae: 40, or 125,40,125 for three layers. (default: 40)", rich_help_panel="Recipe"
        ),
    ] = None,
    hidden_activation: Annotated[
        str | None, typer.Option(help="(default: sigmoid; rae and brae tanh)", rich_help_panel="Recipe")
    ] = None,
    output_activation: Annotated[
        str | None, typer.Option(help="linear, sigmoid, ... (default: linear)", rich_help_panel="Recipe")
    ] = None,
    units: Annotated[
        int | None, typer.Option(help="Units of the LSTM in rae and brae. (default: 40)", rich_help_panel="Recipe")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="(default: 0; rae and brae 0.5)", rich_help_panel="Recipe")] = None,
    calibrated: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Once the run is complete, make its confidence a probability: a minute or two.",
            rich_help_panel="Run",
        ),
    ] = True,
) -> None:
    """Train a checkpoint, or go on from one. See docs/training.md, and docs/course.md for the exercises of the 2019 course."""
    from ppgstream.train import command

    try:
        widths = None if hidden is None else [int(width) for width in hidden.split(",")]
    except ValueError:
        raise UsageError(f"--hidden {hidden!r}: must be whole numbers joined by commas, as in 125,40,125") from None
    leave_at_once()  # TensorFlow's threads may not end
    command.train(
        family,
        recipe=recipe,
        options={
            "epochs": epochs,
            "steps": steps,
            "batch": batch,
            "early_stop": early_stop,
            "seed": seed,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "loss": loss,
            "noise": None if noise is None else noise.split(","),
            "hidden": widths,
            "hidden_activation": hidden_activation,
            "output_activation": output_activation,
            "units": units,
            "dropout": dropout,
        },
        sources={
            "data": None if data is None else str(data),
            "recordings": None if recordings is None else str(recordings),
            "fs": fs,
            "trust_fs": trust_fs,
            "column": column,
            "field": field,
            "group": group,
            "synthetic_only": synthetic,
        },
        out=out,
        start=start,
        resume=resume,
        overwrite=overwrite,
        minutes=minutes,
        threads=threads,
        processes=processes,
        calibrated=calibrated,
    )


@checkpoint_app.command("import", cls=Command)
def checkpoint_import(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK", help="my.onnx, my.keras or my.h5; or a TensorFlow 1 Saver: its prefix, .index file or folder."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The new checkpoint's folder.")],
    fs: Annotated[
        float | None,
        typer.Option(min=20, max=1000, help="The sampling rate that it was trained for, Hz.", rich_help_panel=OWN_PANEL),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="How windows are scaled for it: min-max (to 0..1), standard (mean 0, SD 1), none.", rich_help_panel=OWN_PANEL
        ),
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(metavar="SAMPLES", help="The length of a window. (default: the network's own)", rich_help_panel=OWN_PANEL),
    ] = None,
    answers: Annotated[
        str,
        typer.Option(
            "--answers-in",
            help="input: its answer is scaled as its input was; clean: as a clean window would be.",
            rich_help_panel=OWN_PANEL,
        ),
    ] = "input",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Calibrate its confidence on the public recordings there: minutes.", rich_help_panel=OWN_PANEL
        ),
    ] = None,
) -> None:
    """A network of your own (ONNX, Keras), or a TensorFlow 1 checkpoint, as a checkpoint that `run`, `denoise`, `evaluate` and
    `bench` take. Docs: docs/own-network.md."""
    from ppgstream.model import keras_file, own
    from ppgstream.model.checkpoint import DEFAULT_TILE, MANIFEST
    from ppgstream.model.folder import write_restored

    if (out / MANIFEST).exists():
        raise UsageError(f"{out}: holds a checkpoint already")
    suffix = path.suffix.lower()
    if suffix not in (".onnx", *keras_file.SUFFIXES):
        if told := own.what_else(path):
            raise UsageError(f"{path}: {told}")
        if {fs, scaling, window, data} != {None}:
            raise UsageError(f"{path}: --fs, --scaling, --window and --data are for a network in .onnx, .keras or .h5")
        found = restored(str(path))
        try:
            write_restored(out, found, provenance=dict(found.provenance) | {"from": str(path)})
        except OSError as error:
            raise OutputError(f"{out}: cannot write: {error}") from error
        say(f"{out}: {found.arch.family}, {found.parameters:,} parameters")
        return
    if fs is None or scaling is None:
        missing = " and ".join(name for name, value in (("--fs HZ", fs), ("--scaling KIND", scaling)) if value is None)
        raise UsageError(f"{path}: say {missing}, as the network was trained: it does not tell (docs/own-network.md)")
    if scaling not in own.SCALINGS:
        raise UsageError(f"--scaling {scaling!r}: must be one of {', '.join(own.SCALINGS)}")
    if answers not in own.ANSWERS:
        raise UsageError(f"--answers-in {answers!r}: must be one of {', '.join(own.ANSWERS)}")
    graph = own.read_onnx(path) if suffix == ".onnx" else keras_file.to_onnx(path, window)
    found_one = own.tried(graph, str(path), window=window, fs=fs, scaling=scaling, answers=answers)
    try:
        own.write(out, graph, found_one, fs=fs, source=path)
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error}") from error
    arch = found_one.arch
    say(
        f"{out}: {found_one.arch.size('parameters'):,} parameters, windows of {arch.window} samples at {fs:g} Hz, "
        f"{found_one.window_ms:.3g} ms a window on one thread"
        + (f", {found_one.tile} at once" if found_one.tile != DEFAULT_TILE else "")
    )
    if data is None:
        rests = "its own log variance" if "log_var" in arch.outputs else "how well its windows agree, as fitted on other networks"
        say(f"its confidence rests on {rests}: `ppgstream checkpoint calibrate {out} -o FOLDER` fits it to this one, in minutes")
    else:
        _calibrate(str(out), out, data, synthetic=False)


@checkpoint_app.command("calibrate", cls=Command)
def checkpoint_calibrate(
    path: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="The calibrated checkpoint's folder.")],
    data: Annotated[Path, typer.Option(help="Folder of the public recordings.")] = Path("../shared/data"),
    synthetic: Annotated[bool, typer.Option("--synthetic", help="On synthetic people: needs no recordings.")] = False,
) -> None:
    """Make a checkpoint's confidence, and that of heart rates and beats, a probability, on people to train and validate with.
    Minutes. Docs: docs/training.md."""
    from ppgstream.model.checkpoint import MANIFEST

    if (out / MANIFEST).exists():
        raise UsageError(f"{out}: holds a checkpoint already")
    _calibrate(path, out, data, synthetic=synthetic)


def _calibrate(path: str, out: Path, data: Path, *, synthetic: bool) -> None:
    """Calibrate a checkpoint, and write it to `out`, which may be itself."""
    from rich.console import Console

    from ppgstream.model import runtime
    from ppgstream.model.folder import write_restored
    from ppgstream.storage import replace_files
    from ppgstream.train import calibrate, card, evaluate
    from ppgstream.train import data as sets

    found = restored(path)
    try:
        out.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before the work
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error.strerror}") from error
    people, unseen = calibrate.people_of([*([] if synthetic else sets.public_sets(data)), sets.synthetic_set(0)])
    say(f"{len(people)} people, {len(unseen)} of whom the network has not seen if it was trained on this split")
    with evaluate.progress(Console(stderr=True), "calibrating", calibrate.steps_of(found.arch.window, len(people))) as step:
        stated, figures = calibrate.whole(found, runtime.denoiser(found), people, unseen=unseen, say=say, step=step)
    if not stated:
        raise DataError(
            f"{path}: its answers are all good, or all bad (is it trained, is its scaling right?): nothing to calibrate on"
        )
    try:
        write_restored(out, found, calibration=stated, figures=dict(found.figures) | figures)
        made = restored(str(out))
        replace_files({out / "README.md": card.text(made).encode()})
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error}") from error
    say(f"{out}: {made.id.hex()}")


@checkpoint_app.command("export", cls=Command)
def checkpoint_export(
    path: Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help="A checkpoint. (default: the bundled one)")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The ONNX file.")] = Path("model.onnx"),
) -> None:
    """The network as one ONNX file with its weights, for other programs."""
    from ppgstream.files.recording import check_writable, write_whole
    from ppgstream.model.architecture import OWN
    from ppgstream.model.imported import standalone

    check_writable(out)
    found = restored(path)
    write_whole(out, standalone(found))
    if found.arch.family == OWN:
        say(f"{out}: the network as it was imported; how its windows are scaled: `ppgstream checkpoint show {found.path}`")
    else:
        say(f"{out}: inputs x (and valid where the network takes the mask), output y; what they mean: docs/training.md")


@app.command(cls=Command)
def bench(
    checkpoint: CheckpointOption = None,
    parts: Annotated[
        str, typer.Option(metavar="NAME,...", help="What to measure, joined by commas: model, peers, messages, system.")
    ] = ("model,peers,messages,system"),
    quick: Annotated[
        bool, typer.Option("--quick", help="A rough answer within a minute or so; figures to quote take ten.")
    ] = False,
    streams: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Measure N live streams alone, for a minute (--quick: 5 s). 0: search the most."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write bench.json and the capacity curve into this folder.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings of the daemon that is measured (TOML).")] = None,
) -> None:
    """How fast: windows/s of the network, and how many live streams the daemon carries on this machine. Docs: docs/bench.md."""
    import msgspec
    from rich.console import Console

    from ppgstream.show import bench as speed
    from ppgstream.storage import replace_files

    chosen = parts.split(",")
    if odd := [name for name in chosen if name not in speed.PARTS]:
        raise UsageError(f"--parts: known are {', '.join(speed.PARTS)}, got {', '.join(odd)}")
    loaded(config)  # what is wrong with it is told before anything is measured
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out}: cannot write: {error}") from error
    settings = [] if config is None else ["--config", str(config.absolute())]
    plan = speed.QUICK if quick else speed.FULL
    if streams:
        chosen, plan = ["system"], plan._replace(only=streams)
    result = speed.run(restored(checkpoint), parts=chosen, plan=plan, say=say, settings=settings)
    if out is not None:
        try:
            replace_files({out / "bench.json": msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"})
        except OSError as error:
            raise OutputError(f"{out}: cannot write: {error}") from error
        if "system" in result:
            speed.picture(result, out / "bench.png")
    if json:
        print(msgspec.json.encode(result).decode())
    else:
        speed.show(result, Console())


@app.command(cls=Command)
def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(metavar="CHECKPOINT", help="PATH or NAME=PATH. (default: all that come with the package)"),
    ] = None,
    only: Annotated[
        bool,
        typer.Option("--only", help="Leave out the rows to compare with: the course's checkpoints, lmmse, the mean wave, kNN."),
    ] = False,
    data: Annotated[Path, typer.Option(help="Folder of the public recordings.")] = Path("../shared/data"),
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="A folder of your own recordings, instead of --data. Noise is added to their clean stretches, which are the "
            "truth."
        ),
    ] = None,
    fs: Annotated[float | None, typer.Option(help="Sampling rate, Hz, of your own recordings that do not state it.")] = None,
    trust_fs: TrustFsOption = False,
    column: ColumnOption = None,
    field: FieldOption = None,
    tables: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Tables, joined by commas: shapes, wrist, exercise, streamed, windows (these five by default), more, faults, "
            "nothing (noise without a pulse), rates, snr, "
            "lookahead, trust, ecg, cost.",
        ),
    ] = "",
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Judge confidence, heart rates and beats alone, under more kinds of noise and against ECG: --tables trust,ecg.",
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, max=8, help="Draws of noise; quoted figures are over all 8.")] = 2,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write evaluate.json, evaluate.md and pictures into this folder.")
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="Write the tables for LaTeX too: evaluate.tex, in the folder of --out.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, the tables on stderr.")] = False,
) -> None:
    """How good checkpoints are on people they were not trained on, beside what needs no training. Docs: docs/bench.md."""
    import msgspec
    from rich.console import Console

    from ppgstream.train import evaluate as bench

    own = None
    if recordings is not None:
        own = {"recordings": str(recordings), "fs": fs, "trusted": trust_fs, "column": column, "key": field}
    elif fs is not None or trust_fs or column is not None or field is not None:
        raise UsageError("--fs, --trust-fs, --column and --field: are for --recordings, which is not given")
    if latex and out is None:
        raise UsageError("--latex: say where with --out FOLDER")
    result = bench.evaluate(
        checkpoints or [],
        folder=data,
        own_source=own,
        tables=(["trust", "ecg"] if recordings is None and (data / "bidmc").is_dir() else ["trust"])
        if trust
        else [name.strip() for name in tables.split(",")]
        if tables
        else None,
        seeds=seeds,
        only=only,
        out=out,
        latex=latex,
        console=Console(stderr=json, highlight=False, markup=False),
    )
    if json:
        print(msgspec.json.encode(result).decode())
