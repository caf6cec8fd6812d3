"""Commands on files and pipes: denoise."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppgstream.cli.shared import (
    CheckpointOption,
    ColumnOption,
    Command,
    ConfigOption,
    FieldOption,
    OfStreamOption,
    TransposeOption,
    TrustFsOption,
    app,
    loaded,
    restored,
    say,
)
from ppgstream.errors import EX_SIGINT, DataError, OutputError, UsageError

SHOWN_EVERY_S = 10.0  # without a terminal

if TYPE_CHECKING:
    import numpy as np_
    from numpy.typing import NDArray

    from ppgstream.api import folder as folder_
    from ppgstream.config import Config
    from ppgstream.core.engine import Engine
    from ppgstream.files import offline as offline_
    from ppgstream.model.checkpoint import Checkpoint


@app.command(cls=Command)
def denoise(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...",
            help="A recording (docs/formats.md says which), or - for lines from a pipe. Several, or a folder: with -o DIR.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="txt, csv, npy, npz, parquet, edf, bdf; - is stdout; of several a folder.",
        ),
    ] = "-",
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Of the files in a folder: a suffix that -o takes. (default: npz)"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="So many recordings at once, a process each. (default: 1; with Ray all cores)"),
    ] = None,
    engine_: Annotated[str, typer.Option("--engine", help="Of several recordings: local, or ray (docs/archive.md).")] = "local",
    address: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Of the Ray cluster; auto: the one of this machine. (default: this machine alone)"),
    ] = "",
    beats: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the beats of all recordings into this file too.")
    ] = None,
    rates: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Write the heart rates of all recordings into this file too.")
    ] = None,
    fs: Annotated[
        float | None,
        typer.Option(
            help="Sampling rate, Hz, 10 to 1000, if the file does not tell it; another than the checkpoint's is resampled and "
            "back."
        ),
    ] = None,
    trust_fs: TrustFsOption = False,
    stream: OfStreamOption = None,
    column: ColumnOption = None,
    field: FieldOption = None,
    transpose: TransposeOption = False,
    checkpoint: CheckpointOption = None,
    hop: Annotated[
        int | None, typer.Option(min=1, help="Samples from one window to the next. (default: the checkpoint's)")
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(min=0, help="Samples that must follow one before it is final. (default: all that help)")
    ] = None,
    polarity: Annotated[
        str | None, typer.Option(help="up, down (an inverted sensor), or auto: found out from the pulse. (default: auto)")
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="input: the recording's units; model: the network's own answer, 0..1, as the course's scripts save it."
        ),
    ] = "input",
    sentinel: Annotated[
        list[float] | None, typer.Option(help='A value that means "no value"; may be given again. 0, -1, -999, -9999 are found.')
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 65 at the first bad line.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw before and after into this file: png, svg or pdf.")
    ] = None,
    plot_from: Annotated[float | None, typer.Option(min=0, max=1e9, help="Start of the drawing, seconds. (default: 0)")] = None,
    plot_seconds: Annotated[
        float | None, typer.Option(min=0.5, max=600, help="Length of the drawing, seconds. (default: 8)")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Denoise a recording, by the same path as live. `sensor | ppgstream denoise - --fs 125 | plot` works line by line."""
    import msgspec
    import numpy as np

    from ppgstream.api.inputs import check_apart
    from ppgstream.assemble import rules_of
    from ppgstream.core.engine import Engine
    from ppgstream.files import formats, long, offline, recording, remote
    from ppgstream.model import runtime
    from ppgstream.show import plots
    from ppgstream.wire.message import stream_like

    if scale not in ("input", "model"):
        raise UsageError(f"--scale {scale!r}: must be input or model")
    if polarity not in (None, "auto", "up", "down"):
        raise UsageError(f"--polarity {polarity!r}: must be auto, up or down")
    settings = loaded(config, model__checkpoint=checkpoint, streams__polarity=polarity)
    windows = msgspec.structs.replace(
        settings.windows,
        hop=hop or settings.windows.hop,
        lookahead=settings.windows.lookahead if lookahead is None else lookahead,
    )
    in_ = msgspec.structs.replace(settings.in_, sentinels=sentinel or settings.in_.sentinels)
    settings = msgspec.structs.replace(settings, windows=windows, in_=in_)
    into_folder = output != "-" and (output.endswith("/") or remote.is_url(output) or is_folder(Path(output)))
    if into_folder or len(sources) > 1 or is_many(sources[0]) or beats is not None or rates is not None:
        if scale == "model" or plot is not None or plot_from is not None or plot_seconds is not None:
            raise UsageError("--scale model and --plot: of one recording: name one file as IN, and a file with -o")
        many = _Many(sources, output, format_ or "npz", (engine_, address, jobs), beats, rates)
        many.run(settings, (fs, trust_fs, column, field, stream, transpose, strict))
        return
    if format_ is not None or jobs is not None or engine_ != "local" or address:
        raise UsageError("--format, --jobs, --engine and --address are of several recordings: give a folder with -o (-o DIR/)")
    source = sources[0]
    suffix = Path(output).suffix.lower()
    if output != "-" and suffix not in offline.SUFFIXES:
        raise UsageError(f"-o {output}: {suffix} is not written: {', '.join(offline.FORMATS)}")
    formats.check_writer(Path(output))
    if plot is None and (plot_from is not None or plot_seconds is not None):
        raise UsageError("--plot-from and --plot-seconds: nothing is drawn without --plot")
    if plot is not None and plot.suffix.lower() not in plots.SUFFIXES:
        raise UsageError(f"--plot {plot}: must end in {', '.join(plots.SUFFIXES)}")
    if fs is not None:
        offline.check_rate(fs)
    for target in filter(None, (None if output == "-" else Path(output), plot)):
        recording.check_writable(target)
        if source != "-":
            check_apart([Path(source)], [target])

    def engine(chosen: Checkpoint) -> Engine:
        rules = rules_of(settings, chosen, output="model" if scale == "model" else "input")
        return Engine(runtime.denoiser(chosen, runtime=settings.model.runtime, say=say), rules)

    if source == "-":
        if plot is not None or suffix not in ("", ".txt") or transpose:
            raise UsageError("denoise -: lines in, lines out: give a file as IN for csv, npy, npz, edf, --plot or --transpose")
        if column is not None and field is not None:
            raise UsageError("--column and --field: give one of them")
        _denoise_pipe(
            engine, output, strict=strict, dtype=settings.out.dtype, column=column, key=field, fs=fs, trusted=trust_fs,
            chosen=lambda: restored(settings.model.checkpoint),
        )  # fmt: skip
        return
    as_asked: dict[str, Any] = {"column": column, "key": field, "stream": stream, "clocked": not trust_fs}
    work = _Long(Path(source), **as_asked) if long.is_long(Path(source)) and not transpose else None
    found = recording.read(Path(source), transpose=transpose, **as_asked) if work is None else work.source.head
    if strict and Path(source).suffix in (".npy", ".npz"):
        raise UsageError(f"--strict: {source} has no lines")
    told = "; ".join(filter(None, (found.first_bad, found.first_text)))
    if told and strict:
        raise DataError(told)
    if found.samples.ndim == 2 and suffix not in (".npy", ".npz"):
        raise UsageError(f"{source}: {len(found.samples)} recordings: write them to .npy or .npz with -o")
    rate = found.rate(source, fs, trusted=trust_fs)
    chosen = restored(settings.model.checkpoint)
    target_fs, window = chosen.fs, chosen.arch.window
    if found.samples.ndim == 2 and found.samples.shape[1] * target_fs / rate < window:
        n, m = found.samples.shape
        raise UsageError(
            f"{source}: {n} recordings of {m} samples, each shorter than a window: --transpose if columns are recordings, or "
            f"--column for one"
        )
    machine = engine(chosen)
    start = plot_from or 0.0
    part = slice(int(start * rate), int((start + (plot_seconds or 8.0)) * rate))
    dtype = "f4" if suffix == ".npy" else settings.out.dtype
    if work is not None:
        say(f"{found.named(source, rate)}, a long recording: read in parts")
        result, clock, raw = work.denoise(
            machine, fs=rate, dtype=dtype, keep=(part.start, part.stop) if plot else (0, 0), strict=strict
        )
        shown, samples = slice(0, len(raw)), raw
        of_all = len(result.denoised)
    else:
        say(found.understood(source, rate))
        if told:
            say(told)
        result = offline.of_recording(found, machine, fs=rate, dtype=dtype)
        for event in machine.events:
            say(offline.placed(event.text, found, rate))
        clock, shown = offline.clocked(found, rate), part
        samples = found.samples if found.rows is None else found.samples[found.rows]
        of_all = samples.shape[-1]

    told_of: dict[str, Any] = {"fs": rate, "stream": stream_like(Path(source).stem), "clock": clock}
    if output == "-":
        offline.write(sys.stdout.buffer, result, suffix, **told_of)
        sys.stdout.buffer.flush()
    else:
        offline.save(Path(output), result, **told_of)
    if plot is not None:
        raw, clean, confidence, flags = (
            np.atleast_2d(samples)[0, shown],
            *(np.atleast_2d(a)[0, part] for a in result[:3]),
        )
        if len(raw) < 2:
            raise UsageError(f"--plot-from {start:g}: the recording is {of_all / rate:g} s long")
        pulse = result.pulses[0] if result.pulses else None
        title = found.named(source, rate)
        drawn = plots.before_after(raw, clean, confidence, flags, fs=rate, start_s=start, title=title, pulse=pulse)
        recording.write_whole(plot, plots.content_of(drawn, plot.suffix.lower()))
    if not machine.ledger.denoised:
        short = found.samples.shape[-1] * target_fs / rate < window
        why = f"shorter than {window / target_fs:g} s" if short else f"no stretch of {window / target_fs:g} s with a signal"
        raise DataError(f"{source}: 0 of {result.denoised.size} samples denoised: {why}; they are written as they came")


def is_folder(path: Path) -> bool:
    """Whether there is a folder; what cannot be asked for is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_many(source: str) -> bool:
    """Whether this is, or may be, more than one file of this machine: a folder, a pattern, a URL."""
    from ppgstream.files import remote

    path = Path(source)
    try:
        return path.is_dir() or remote.is_url(source) or (any(mark in source for mark in remote.PATTERN) and not path.exists())
    except OSError:
        return False


class _Many:
    """Several recordings on their way into a folder, with what is shown of them meanwhile."""

    def __init__(
        self,
        sources: list[str],
        output: str,
        format_: str,
        by: tuple[str, str, int | None],
        beats: Path | None,
        rates: Path | None,
    ) -> None:
        from ppgstream.api import inputs
        from ppgstream.api.summary import place_of
        from ppgstream.files import formats, offline, recording, remote

        if "-" in sources:
            raise UsageError("IN: - is a pipe: denoise it alone")
        if format_ not in offline.FORMATS:
            raise UsageError(f"--format {format_!r}: must be one of {', '.join(offline.FORMATS)}")
        formats.check_writer(Path(f"x.{format_}"))
        if output == "-" or (Path(output).suffix.lower() in offline.SUFFIXES[1:] and not output.endswith("/")):
            folder_of = "a folder of recordings" if is_folder(Path(sources[0])) else "what may be several recordings"
            one = folder_of if is_many(sources[0]) else "--beats and --rates"
            what = "several recordings" if len(sources) > 1 else one
            raise UsageError(f"-o {output}: {what}: give a folder for the outputs (-o DIR/)")
        self._engine, self._address, self._jobs = by
        if self._engine not in ("local", "ray"):
            raise UsageError(f"--engine {self._engine!r}: must be local or ray")
        if self._address and self._engine != "ray":
            raise UsageError("--address: is of a Ray cluster: --engine ray")
        output = remote.plain(output)
        self.folder, self.beats, self.rates = output if remote.is_url(output) else str(Path(output)), beats, rates
        self.inputs = inputs.found_in(sources, self.folder)
        self.names = inputs.names_of(self.inputs, format_)
        tables = [table for table in (beats, rates) if table is not None]
        inputs.check_outputs(self.inputs, self.folder, self.names, tables)
        place = place_of(self.folder)
        place.summary()  # one that is not ours is told before the work
        place.check()
        for table in tables:
            recording.check_writable(table)

    def _pool(self, tasks: int, chosen: Checkpoint) -> folder_.Pool:
        from ppgstream.api import folder

        if self._engine == "ray":
            from ppgstream.api.cluster import Cluster

            return Cluster(chosen, address=self._address, jobs=self._jobs or 0)
        jobs = min(self._jobs or 1, tasks)
        return folder.Here(chosen) if jobs <= 1 else folder.Processes(jobs)

    def run(self, settings: Config, reading: tuple[Any, ...]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from ppgstream.api import folder
        from ppgstream.api.summary import SUMMARY

        as_asked, tables = folder.Reading(*reading), self.beats is not None or self.rates is not None
        if as_asked.fs is not None:
            from ppgstream.files import offline

            offline.check_rate(as_asked.fs)
        chosen = restored(settings.model.checkpoint)
        pairs = zip(self.inputs, self.names, strict=True)
        tasks = [folder.Task(one, name, self.folder, as_asked, settings, tables) for one, name in pairs]
        console = Console(stderr=True)
        columns = (
            TextColumn("denoising"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        shown = time.monotonic() + SHOWN_EVERY_S
        n = 0
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            line = bar.add_task("", total=len(tasks))

            def seen(one: folder_.Done) -> None:
                nonlocal n, shown
                n += 1
                bar.update(line, advance=1, description=Path(one.row.file).name)
                if one.row.error:
                    say(f"passed over: {one.row.error}")
                if bar.disable and time.monotonic() > shown:
                    shown = time.monotonic() + SHOWN_EVERY_S
                    say(f"{n} of {len(tasks)} recordings")

            try:
                done = folder.run(
                    tasks, self.folder, pool=lambda: self._pool(len(tasks), chosen), seen=seen, beats=self.beats, rates=self.rates
                )
            except KeyboardInterrupt:
                say(f"stopped: {n} of {len(tasks)} recordings are in {self.folder}; the same command goes on from there")
                raise
        bad, there = sum(one.code != 0 for one in done), sum(one.skipped for one in done)
        minutes = sum(float(one.row.minutes or 0) for one in done if not one.code)
        say(
            f"{len(done) - bad} of {len(done)} recordings in {self.folder} ({minutes:.1f} minutes of signal"
            + (f"; {there} were there already" if there else "")
            + f"): {self.folder}/{SUMMARY}"
        )
        if bad:
            raise DataError(f"{bad} of {len(done)} recordings have no output: their reasons are in {self.folder}/{SUMMARY}")


class _Long:
    """A long recording on its way through, with what is shown of it meanwhile."""

    def __init__(self, path: Path, **options: Any) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from ppgstream.files.long import LongRecording

        console = Console(stderr=True)
        columns = (TextColumn("denoising"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._size = path.stat().st_size
        self._task = self._bar.add_task("", total=self._size)
        self._next = time.monotonic() + SHOWN_EVERY_S
        self.source = LongRecording(path, seen=self._seen, **options)

    def _seen(self, n: int) -> None:
        self._bar.update(self._task, completed=n)
        if self._bar.disable and time.monotonic() > self._next:
            self._next = time.monotonic() + SHOWN_EVERY_S
            say(f"{min(n / self._size, 1):.0%} read")

    def denoise(
        self, engine: Engine, *, fs: float, dtype: str, keep: tuple[int, int], strict: bool
    ) -> tuple[offline_.Denoised, offline_.Clocked | None, NDArray[np_.float64]]:
        """The output, its clock if its samples do not follow each other evenly, and the input of the rows `keep`."""
        from ppgstream.files import long

        with self._bar:
            found = long.denoise(self.source, engine, fs=fs, dtype=dtype, keep=keep, say=say)
        told = "; ".join(filter(None, (self.source.first_bad, self.source.first_text)))
        if told and strict:
            raise DataError(told)
        say(self.source.counted(fs) + (f"; {told}" if told else ""))
        return found.result, found.clocked(fs), found.raw


def _denoise_pipe(
    engine: Callable[[Checkpoint], Engine],
    output: str,
    *,
    strict: bool,
    dtype: str,
    column: str | None,
    key: str | None,
    fs: float | None,
    trusted: bool,
    chosen: Callable[[], Checkpoint],
) -> None:
    """Line by line with an even clock or none; else the pipe is read to its end first, by the rules of files."""
    from ppgstream.files import offline, opened, pipe, recording

    interrupted = False

    def taken() -> Iterator[list[str]]:
        nonlocal interrupted
        try:
            yield from opened.lines_of(sys.stdin.fileno())
        except KeyboardInterrupt:
            interrupted = True  # what is in flight still comes out

    blocks = taken()
    head = pipe.head_of(blocks, plain=fs is not None and column is None and key is None)
    if not head:
        raise DataError("stdin: no valid sample")
    found = recording.of_lines("stdin", [head], column=column, key=key, table=False, clocked=not trusted)
    rate = found.rate("stdin", fs, trusted=trusted)
    machine = engine(chosen())
    clock = found.clock
    uneven = clock is not None and (
        clock.jitter or clock.packets or clock.moved > 0 or clock.repeats > 0 or len(clock.starts) > 1
    )
    try:
        out = sys.stdout if output == "-" else Path(output).open("w")  # noqa: SIM115 (stdout must stay open)
    except OSError as error:
        raise OutputError(f"{output}: cannot write: {error.strerror}") from error
    live = not uneven
    say(found.named("stdin", rate) + ("" if live else ": the pipe is read to its end before anything is written"))
    if live:
        reader = pipe.line_reader("stdin", head, column=column, key=key, clocked=not trusted)
        lines = pipe.LineFilter(machine, reader, fs=rate, strict=strict, dtype=dtype)
        parts: Iterator[list[str]] = lines.run(itertools.chain([head], blocks))
    else:
        found = recording.of_lines(
            "stdin", itertools.chain([head], blocks), column=column, key=key, table=False, clocked=not trusted
        )
        rate = found.rate("stdin", fs, trusted=trusted)
        told = "; ".join(filter(None, (found.first_bad, found.first_text)))
        if told and strict:
            raise DataError(told)
        say(found.understood("stdin", rate))
        result = offline.of_recording(found, machine, fs=rate, dtype=dtype)
        parts = iter([recording.text_of(result.denoised)])
    for texts in parts:
        if texts:
            out.write("\n".join(texts) + "\n")
            out.flush()
    if out is not sys.stdout:
        out.close()
    count = lines.samples if live else len(found.lines if found.lines is not None else found.samples)
    if live and lines.bad:
        say(f"{lines.bad} of {lines.samples} lines were no number and kept their place as invalid samples")
    if live and lines.text:
        say(f"{lines.text} lines of text were dropped")
    for text in lines.said if live else []:
        say(text)
    for event in machine.events:
        said = re.sub(r"index (\d+)", lambda m: f"{int(m[1]) / rate:.2f} s", event.text.removeprefix("stdin: "))
        say(said if live else offline.placed(event.text, found, rate))
    if interrupted:
        raise typer.Exit(EX_SIGINT)
    if live and not lines.valid:
        raise DataError("stdin: no valid sample")
    if not machine.ledger.denoised:
        raise DataError(f"stdin: 0 of {count} samples denoised; they are written as they came")
