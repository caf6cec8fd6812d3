"""The command line. Every command imports what it needs when it runs, so that `--help` stays quick.

stdout is data, stderr is everything else. An error of ours becomes one line and its exit code here, and nowhere else.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ppgstream.errors import EX_IOERR, EX_SIGINT, EX_SIGPIPE, DataError, OutputError, PpgStreamError, SourceError, UsageError

if TYPE_CHECKING:
    from ppgstream.checkpoint import Checkpoint
    from ppgstream.config import Config
    from ppgstream.engine import Engine


class _Commands(TyperGroup):
    """Turns what a command raises into one line and an exit code, before typer makes its own of it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except PpgStreamError as error:
            say(str(error))
            self._leave(error.exit_code)
        except BrokenPipeError:
            self._leave(EX_SIGPIPE)  # whoever read us has gone: nothing to say
        except KeyboardInterrupt:
            self._leave(EX_SIGINT)
        except OSError as error:
            if error.filename is not None:
                raise
            say(f"cannot write: {error.strerror}")  # stdout: a full disk, say
            self._leave(EX_IOERR)

    @staticmethod
    def _leave(code: int) -> NoReturn:
        """Exit, without a second try at what could not be written."""
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Streaming real-time denoiser for photoplethysmogram (PPG) signals.",
)
checkpoint_app = typer.Typer(no_args_is_help=True, help="Look at checkpoints.")
app.add_typer(checkpoint_app, name="checkpoint")

WIRE_FS = 125.0  # Hz, of what `replay` sends: it does not know which checkpoint listens
GONE_S = 10.0  # a daemon publishes a STATUS a second for each live stream

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint folder, a TensorFlow 1 Saver prefix, .index file or folder, or the name of one that comes along (default, lmmse)."
    ),
]
ColumnOption = Annotated[str | None, typer.Option(help="Of a table: the PPG's column, by its name or its number from 0.")]
FieldOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="Of lines like IR=512 or S512: the key, or the prefix, before the value.")
]
TransposeOption = Annotated[bool, typer.Option("--transpose", help="Of a 2-D npy: its columns are the recordings, not its rows.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Settings (TOML). Default: ./config.toml if there is one.")]


def say(text: str) -> None:
    """One line to stderr, with anything from outside that could drive a terminal made visible."""
    print("ppgstream: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text), file=sys.stderr, flush=True)


class Stop:
    """Set by SIGINT, SIGTERM and SIGHUP; says which it was."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal that closes is no reason to lose samples
            signal.signal(number, self._heard)

    def _heard(self, number: int, _: Any) -> None:
        if self.event.is_set() and number == signal.SIGINT:
            os._exit(EX_SIGINT)  # asked twice: now
        self.signal = number
        self.event.set()

    def __call__(self) -> bool:
        return self.event.is_set()

    def exit_code(self) -> int:
        return EX_SIGINT if self.signal == signal.SIGINT else 0


def _version(asked: bool) -> None:
    if asked:
        from ppgstream import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _restore(path: str | None) -> Checkpoint:
    from ppgstream import checkpoint

    return checkpoint.restore(Path(path) if path else checkpoint.BUNDLED)


def _load(config_path: Path | None, **overrides: str | None) -> Config:
    from ppgstream import config

    return config.load(config_path, **overrides)


@app.command()
def run(
    config: ConfigOption = None,
    checkpoint: CheckpointOption = None,
    in_: Annotated[str | None, typer.Option("--in", metavar="ENDPOINT", help="Where samples come from.")] = None,
    out: Annotated[str | None, typer.Option(metavar="ENDPOINT", help="Where denoised samples go.")] = None,
    status: Annotated[str | None, typer.Option(metavar="ENDPOINT", help="What the monitor asks.")] = None,
) -> None:
    """The daemon: noisy streams in, clean streams out, until SIGINT or SIGTERM. Settings: config.toml."""
    from ppgstream import checkpoint as checkpoints
    from ppgstream.daemon import Daemon

    settings = _load(config, in__endpoint=in_, out__endpoint=out, status__endpoint=status, model__checkpoint=checkpoint)
    found = _restore(settings.model.checkpoint)
    daemon = Daemon(settings, found, say=say)
    daemon.open()
    stop = Stop()
    daemon.stop = stop.event
    denoiser = checkpoints.denoiser(found, threads=settings.model.threads)
    e = daemon.endpoints
    say(
        f"ready: {found.arch.family} {found.id.hex()} at {found.fs:g} Hz; in {e['in']} ({settings.in_.format}), out {e['out']}, status {e['status']}"
    )
    engine = daemon.run(denoiser)
    say(f"final: {engine.account()}")
    raise typer.Exit(stop.exit_code())


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=4, max=86_400, help="How long the sensors run.")] = 20.0,
    streams: Annotated[int, typer.Option(min=1, max=200, help="How many sensors.")] = 4,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live view, for pipes and CI.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Also draw the first sensor's first 10 s.")] = None,
    noise: Annotated[str, typer.Option(help="On the pulse: course, hand, forearm, contact, displacement or steps.")] = "course",
    checkpoint: CheckpointOption = None,
) -> None:
    """The whole system at work: synthetic noisy PPG -> loopback sockets -> daemon -> view, and a summary against the truth."""
    from rich.console import Console

    from ppgstream import checkpoint as checkpoints
    from ppgstream import demo as show
    from ppgstream import recording

    if noise not in show.NOISES:
        raise UsageError(f"--noise {noise!r}: must be one of {', '.join(show.NOISES)}")
    if plot is not None:
        recording.check_writable(plot)
    console = Console()
    found = _restore(checkpoint)
    console.print(f"loading {found.arch.family} ({found.parameters:,} parameters) ...", highlight=False)
    denoiser = checkpoints.denoiser(found)
    stop = Stop()
    plain = plain or not console.is_terminal
    fine = show.run(
        found, denoiser, seconds=seconds, streams=streams, plain=plain, console=console, stopped=stop, picture=plot, kind=noise
    )
    raise typer.Exit(stop.exit_code() or (0 if fine else 1))


@app.command()
def replay(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Recordings (one value a line, csv, npy), or - for lines from a pipe.")
    ],
    to: Annotated[str, typer.Option(metavar="ENDPOINT", help="The daemon's input.")] = "tcp://127.0.0.1:5600",
    bind: Annotated[bool, typer.Option("--bind", help="Bind the endpoint, for a daemon that connects.")] = False,
    speed: Annotated[str, typer.Option(help="Times real time, or max.")] = "1",
    fs: Annotated[
        float | None,
        typer.Option(
            help="The recordings' sampling rate, Hz, if they do not tell it; others than 125 are resampled to it. [default: 125]"
        ),
    ] = None,
    column: ColumnOption = None,
    field: FieldOption = None,
    from_: Annotated[float, typer.Option("--from", help="Start here, seconds.")] = 0.0,
    until: Annotated[float | None, typer.Option(help="End here, seconds.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end, until stopped.")] = False,
    stream: Annotated[str | None, typer.Option(help="The stream's name. Default: the file's.")] = None,
    copies: Annotated[int, typer.Option(min=1, max=100_000, help="Send each file as so many streams.")] = 1,
    chunk: Annotated[int, typer.Option(min=1, max=65_536, help="Samples a message.")] = 25,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the daemon.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the faults.")] = 1,
    drop: Annotated[float, typer.Option(min=0, max=1, help="Share of chunks that get lost.")] = 0.0,
    dup: Annotated[float, typer.Option(min=0, max=1, help="Share of chunks that are sent twice.")] = 0.0,
    reorder: Annotated[float, typer.Option(min=0, max=1, help="Share of chunks that leave after the next one.")] = 0.0,
    jitter_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Chunks leave up to so much late.")] = 0.0,
    outage: Annotated[
        list[str] | None, typer.Option(metavar="AT:FOR", help="Nothing is sent from AT for FOR seconds; may be repeated.")
    ] = None,
) -> None:
    """Stream recordings to a daemon as sensors would: paced, many at once, with seeded faults. `replay -` is a live pipe."""
    from ppgstream.publisher import Publisher
    from ppgstream.tools import replay as tool

    speed_value = _speed(speed)
    if fs is not None and not 20 <= fs <= 1000:
        raise UsageError(f"--fs {fs:g}: must be 20 to 1000 Hz")
    if not (0 <= from_ < math.inf and (until is None or 0 <= until < math.inf)):
        raise UsageError(f"--from {from_:g}, --until {until}: must be seconds from 0 on")
    outages = tuple(_outage(text) for text in outage or [])
    stop = Stop()
    if "-" in files:
        altered = loop or copies != 1 or speed_value != 1.0 or column or field or from_ or until is not None
        if files != ["-"] or altered or drop or dup or reorder or jitter_ms or outages:
            raise UsageError(
                "replay -: a live pipe comes alone, once, whole and at its own pace: only --to, --stream, --chunk and --wait go with it"
            )
        if fs not in (None, WIRE_FS):
            raise UsageError(
                f"replay -: a live stream must come at {WIRE_FS:g} Hz, not {fs:g}; a file of another rate is resampled"
            )
        publisher = Publisher(to, bind=bind, stopped=stop)
        publisher.wait_for_subscriber(wait)
        report = tool.pipe(
            sys.stdin.fileno(), publisher, stream=_name(stream or "stdin"), fs=WIRE_FS, chunk=chunk, stopped=stop, say=say
        )
    else:
        tracks, told = _tracks(files, column=column, key=field, fs=fs, part=(from_, until), stream=stream, copies=copies)
        publisher = Publisher(to, bind=bind, stopped=stop)
        publisher.wait_for_subscriber(wait)
        for line in told:
            say(line)
        faults = tool.Faults(drop, dup, reorder, jitter_ms, outages, seed)
        report = tool.Replay(
            tracks,
            publisher,
            speed=speed_value,
            chunk=chunk,
            loop=loop,
            faults=faults,
            stopped=stop,
            sleep=lambda s: _sleep(stop, s),
        ).run()
    publisher.close()
    say(str(report))
    if not report.valid and not report.stopped:
        raise DataError("no valid sample was sent")
    raise typer.Exit(stop.exit_code())


def _sleep(stop: Stop, seconds: float) -> None:
    stop.event.wait(seconds)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise UsageError(f"--speed {text!r}: must be a number above 0, or max")
    return value


def _outage(text: str) -> tuple[float, float]:
    at, _, length = text.partition(":")
    try:
        outage = float(at), float(length)
    except ValueError:
        outage = (-1.0, -1.0)
    if not (0 <= outage[0] < math.inf and 0 <= outage[1] < math.inf):
        raise UsageError(f"--outage {text!r}: must be AT:FOR, both in seconds")
    return outage


def _name(text: str) -> str:
    import re

    name = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:32]
    return name or "replay"


def _tracks(
    files: list[str],
    *,
    column: str | None,
    key: str | None,
    fs: float | None,
    part: tuple[float, float | None],
    stream: str | None,
    copies: int,
) -> tuple[list[Any], list[str]]:
    """What to send, and what was understood of the files."""
    from ppgstream import offline, recording
    from ppgstream.tools.replay import Track

    tracks: list[Any] = []
    told: list[str] = []
    for file in files:
        path = Path(file)
        found = recording.read(path, column=column, key=key)
        rate = found.rate(file, fs, WIRE_FS)
        told += filter(None, (found.understood(file, rate), found.first_bad, found.first_text))
        rows = [found.samples] if found.samples.ndim == 1 else list(found.samples)
        for number, row in enumerate(rows):
            cut = row[int(part[0] * rate) : None if part[1] is None else int(part[1] * rate)]
            if not len(cut):
                end = "" if part[1] is None else f" until {part[1]:g} s"
                raise DataError(f"{path}: nothing from {part[0]:g} s on{end}: it is {len(row) / rate:g} s long")
            samples = cut if rate == WIRE_FS else offline.resample(cut, rate, WIRE_FS)
            base = _name(stream or path.stem) + (f"-{number}" if len(rows) > 1 else "")
            tracks += [Track(base if copies == 1 else f"{base[:26]}-{copy}", samples) for copy in range(copies)]
    names = [t.stream for t in tracks]
    if len(set(names)) != len(names) or any(len(n) > 32 for n in names):
        tracks = [t._replace(stream=f"{t.stream[:25]}.{i}") for i, t in enumerate(tracks)]
    return tracks, told


@app.command()
def denoise(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A recording (one value a line, csv, npy), or - for lines from a pipe.")
    ],
    output: Annotated[str, typer.Option("-o", "--output", metavar="OUT", help="txt, csv, npy or npz; - is stdout.")] = "-",
    fs: Annotated[
        float | None,
        typer.Option(
            help="Sampling rate, Hz, 20 to 1000, if the file does not tell it; another than the checkpoint's is resampled and back."
        ),
    ] = None,
    column: ColumnOption = None,
    field: FieldOption = None,
    transpose: TransposeOption = False,
    checkpoint: CheckpointOption = None,
    hop: Annotated[
        int | None, typer.Option(min=1, help="Samples from one window to the next. [default: the checkpoint's]")
    ] = None,
    lookahead: Annotated[
        int | None, typer.Option(min=0, help="Samples that must follow one before it is final. [default: all that help]")
    ] = None,
    polarity: Annotated[
        str | None, typer.Option(help="up, down (an inverted sensor), or auto: found out from the pulse. [default: auto]")
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
    plot: Annotated[Path | None, typer.Option(metavar="PICTURE", help="Also draw before and after: png, svg or pdf.")] = None,
    plot_from: Annotated[float | None, typer.Option(min=0, help="Start of the drawing, seconds. [default: 0]")] = None,
    plot_seconds: Annotated[
        float | None, typer.Option(min=0.5, max=600, help="Length of the drawing, seconds. [default: 8]")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Denoise a recording, by the same path as live. `sensor | ppgstream denoise - | plot` works line by line."""
    import msgspec
    import numpy as np

    from ppgstream import checkpoint as checkpoints
    from ppgstream import offline, plots, recording
    from ppgstream.daemon import rules_of
    from ppgstream.engine import Engine

    if scale not in ("input", "model"):
        raise UsageError(f"--scale {scale!r}: must be input or model")
    if polarity not in (None, "auto", "up", "down"):
        raise UsageError(f"--polarity {polarity!r}: must be auto, up or down")
    settings = _load(config, model__checkpoint=checkpoint, streams__polarity=polarity)
    windows = msgspec.structs.replace(
        settings.windows,
        hop=hop or settings.windows.hop,
        lookahead=settings.windows.lookahead if lookahead is None else lookahead,
    )
    in_ = msgspec.structs.replace(settings.in_, sentinels=sentinel or settings.in_.sentinels)
    settings = msgspec.structs.replace(settings, windows=windows, in_=in_)
    suffix = Path(output).suffix.lower()
    if output != "-" and suffix not in offline.SUFFIXES:
        raise UsageError(f"-o {output}: {suffix} is not written: txt, csv, npy or npz")
    if plot is None and (plot_from is not None or plot_seconds is not None):
        raise UsageError("--plot-from and --plot-seconds: nothing is drawn without --plot")
    if plot is not None and plot.suffix.lower() not in plots.SUFFIXES:
        raise UsageError(f"--plot {plot}: must end in {', '.join(plots.SUFFIXES)}")
    if fs is not None and not 20 <= fs <= 1000:
        raise UsageError(f"--fs {fs:g}: must be 20 to 1000 Hz")
    for target in filter(None, (None if output == "-" else Path(output), plot)):
        recording.check_writable(target)

    def engine() -> tuple[Engine, float]:
        found = _restore(settings.model.checkpoint)
        rules = rules_of(settings, found, output=scale)
        return Engine(checkpoints.denoiser(found, threads=settings.model.threads), rules), found.fs

    if source == "-":
        if plot is not None or suffix in (".csv", ".npy", ".npz") or transpose:
            raise UsageError("denoise -: lines in, lines out: give a file as IN for csv, npy, npz, --plot or --transpose")
        if column is not None and field is not None:
            raise UsageError("--column and --field: give one of them")
        machine, target_fs = engine()
        if fs is not None and fs != target_fs:
            raise UsageError(
                f"denoise -: a live pipe must come at {target_fs:g} Hz, not {fs:g}; a file of another rate is resampled"
            )
        _denoise_pipe(machine, output, strict=strict, dtype=settings.out.dtype, column=column, key=field)
        return
    found = recording.read(Path(source), column=column, key=field, transpose=transpose)
    if strict and Path(source).suffix in (".npy", ".npz"):
        raise UsageError(f"--strict: {source} has no lines")
    told = "; ".join(filter(None, (found.first_bad, found.first_text)))
    if told and strict:
        raise DataError(told)
    if found.samples.ndim == 2 and suffix not in (".npy", ".npz"):
        raise UsageError(f"{source}: {len(found.samples)} recordings: write them to .npy or .npz with -o")
    machine, target_fs = engine()
    rate = found.rate(source, fs, target_fs)
    window = machine.rules.stream.geometry.window
    if found.samples.ndim == 2 and found.samples.shape[1] * target_fs / rate < window:
        n, m = found.samples.shape
        raise UsageError(
            f"{source}: {n} recordings of {m} samples, each shorter than a window: --transpose if columns are recordings, or --column for one"
        )
    say(found.understood(source, rate))
    if told:
        say(told)
    result = offline.denoise(found.samples, machine, fs=rate, dtype="f4" if suffix == ".npy" else settings.out.dtype)
    if found.rows is not None:
        result = offline.Denoised(result.denoised[found.rows], result.confidence[found.rows], result.flags[found.rows])
    for event in machine.events:
        say(event.text.removeprefix("row0: ") if found.samples.ndim == 1 else event.text)
    content = offline.content_of(result, suffix, fs=rate, stream=_name(Path(source).stem))
    if output == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        recording.write_whole(Path(output), content)
    if plot is not None:
        samples = found.samples if found.rows is None else found.samples[found.rows]
        start = plot_from or 0.0
        part = slice(int(start * rate), int((start + (plot_seconds or 8.0)) * rate))
        raw, clean, confidence, flags = (np.atleast_2d(a)[0, part] for a in (samples, *result))
        if len(raw) < 2:
            raise UsageError(f"--plot-from {start:g}: the recording is {samples.shape[-1] / rate:g} s long")
        title = found.understood(source, rate).split(",")[0]
        recording.write_whole(
            plot,
            plots.before_after(raw, clean, confidence, flags, fs=rate, start_s=start, title=title, suffix=plot.suffix.lower()),
        )
    if not machine.ledger.denoised:
        short = found.samples.shape[-1] * target_fs / rate < window
        why = f"shorter than {window / target_fs:g} s" if short else f"no stretch of {window / target_fs:g} s with a signal"
        raise DataError(f"{source}: 0 of {result.denoised.size} samples denoised: {why}; they are written as they came")


def _denoise_pipe(engine: Engine, output: str, *, strict: bool, dtype: str, column: str | None, key: str | None) -> None:
    from ppgstream import offline, recording

    try:
        out = sys.stdout if output == "-" else Path(output).open("w")  # noqa: SIM115 (stdout must stay open)
    except OSError as error:
        raise OutputError(f"{output}: cannot write: {error.strerror}") from error
    lines = offline.LineFilter(engine, strict=strict, dtype=dtype, column=column, key=key)
    interrupted = False

    def blocks() -> Any:
        nonlocal interrupted
        try:
            yield from recording.lines_of(sys.stdin.fileno())
        except KeyboardInterrupt:
            interrupted = True  # what is in flight still comes out

    for texts in lines.run(blocks()):
        if texts:
            out.write("\n".join(texts) + "\n")
            out.flush()
    if out is not sys.stdout:
        out.close()
    if lines.bad:
        say(f"{lines.bad} of {lines.index} lines were no number and kept their place as invalid samples")
    if lines.text:
        say(f"{lines.text} lines of text were dropped")
    for event in engine.events:
        say(event.text)
    if interrupted:
        raise typer.Exit(EX_SIGINT)
    if not lines.valid:
        raise DataError("stdin: no valid sample")
    if not engine.ledger.denoised:
        raise DataError(f"stdin: 0 of {lines.index} samples denoised; they are written as they came")


@app.command()
def tap(
    from_: Annotated[str, typer.Option("--from", metavar="ENDPOINT", help="The daemon's output.")] = "tcp://127.0.0.1:5601",
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    format: Annotated[
        str, typer.Option(help="csv, ndjson, or values: the denoised values alone, as `denoise` writes them.")
    ] = "csv",
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop once every stream seen has ended.")] = False,
    wait: Annotated[
        float, typer.Option(min=0, help="Exit 69 if nothing has come after so many seconds; 0: wait for ever.")
    ] = 0.0,
) -> None:
    """Published samples as lines on stdout."""
    import time

    from ppgstream import recording
    from ppgstream import tap as taps

    shapes = {"csv": taps.csv_lines, "ndjson": taps.ndjson_lines, "values": taps.value_lines}
    if format not in shapes:
        raise UsageError(f"--format {format!r}: must be one of {', '.join(shapes)}")
    stop = Stop()
    receiver = taps.Receiver(from_, stream)
    messages = 0
    started = heard = time.monotonic()
    if format == "csv":
        print(recording.CSV_HEAD, flush=True)
    while not stop():
        lines = [line for chunk in receiver.poll(0.2) for line in shapes[format](chunk)]
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
        if until_end and receiver.all_ended:
            break
        if receiver.messages != messages:
            messages, heard = receiver.messages, time.monotonic()
        elif until_end and receiver.accounts and time.monotonic() - heard > GONE_S:
            receiver.close()
            raise SourceError(f"{from_}: silent for {GONE_S:g} s though streams have not ended: the daemon is gone")
        if wait and not receiver.accounts and time.monotonic() - started > wait:
            receiver.close()
            raise SourceError(f"{from_}: nothing came in {wait:g} s")
    receiver.close()
    received = sum(a.received for a in receiver.accounts.values())
    gap = sum(a.gap for a in receiver.accounts.values())
    unended = sum(not a.ended for a in receiver.accounts.values())
    say(
        f"received {received} samples; lost here {receiver.lost}, gaps before the daemon {gap}, sessions without END {unended}, damaged {receiver.damaged}"
    )
    raise typer.Exit(stop.exit_code())


@app.command()
def monitor(
    status: Annotated[str, typer.Option(metavar="ENDPOINT", help="The daemon's status socket.")] = "tcp://127.0.0.1:5602",
    stream: Annotated[str | None, typer.Option(help="Whose wave to draw. Default: the first that is live.")] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between looks.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave; exit 69 if no daemon answers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The snapshot as JSON (docs/status.md), a line a look.")] = False,
) -> None:
    """Watch a running daemon: throughput, lag, ledger, a row a stream, raw over clean."""
    import msgspec
    from rich.console import Console

    from ppgstream import monitor as view

    stop = Stop()
    if not once and not json:
        view.watch(status, stream=stream, interval_s=interval, stopped=stop, console=Console())
        raise typer.Exit(stop.exit_code())
    client = view.StatusClient(status)
    try:
        looks = view.snapshots(client, stream, interval)
        if once and not json:
            next(looks)  # the first look says whose wave there is to ask for
        for snapshot in looks:
            if snapshot is None and once:
                raise SourceError(f"{status}: no daemon answers there: is `ppgstream run` running?")
            if json:
                print(msgspec.json.encode(snapshot).decode(), flush=True)
            elif snapshot is not None:
                console = Console()
                console.print(view.render(snapshot, endpoint=status, width=console.width))
            if once or stop():
                break
    finally:
        client.close()
    raise typer.Exit(stop.exit_code())


@checkpoint_app.command("show")
def checkpoint_show(
    path: Annotated[str | None, typer.Argument(help="A checkpoint of either kind. Default: the bundled one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Family, sizes, figures and sha256 of a checkpoint."""
    import msgspec

    found = _restore(path)
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
        "answers": found.arch.answers,
        "tile": found.tile,
        "parameters": found.parameters,
        "sha256": found.sha256,
        "id": found.id.hex(),
        "figures": dict(found.figures),
        "provenance": dict(found.provenance),
        "tensors": {name: list(t.shape) for name, t in found.tensors.items()},
    }
    if json:
        print(msgspec.json.encode(facts).decode())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        listed = "\n".join(f"{k}: {v}" for k, v in value.items()) or "-" if isinstance(value, dict) else str(value)
        table.add_row(key, listed)
    Console(highlight=False, markup=False).print(table)


@checkpoint_app.command("probe")
def checkpoint_probe(
    path: Annotated[str | None, typer.Argument(help="A checkpoint of either kind. Default: the bundled one.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Also a picture (png) of the inputs and answers.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What a checkpoint answers to constants, a ramp, white noise and sines: how much pulse it invents."""
    import msgspec

    from ppgstream import probe, recording

    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise UsageError(f"--plot {plot}: must end in .png")
        recording.check_writable(plot)
    found = _restore(path)
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
        "pulse: RMS of the answer in 0.6..3.5 Hz over that of a clean pulse: 1 is a whole pulse, 0 none. follows: correlation of answer and input."
    )


@app.command()
def train(
    family: Annotated[
        str | None, typer.Argument(metavar="[FAMILY]", help="ae, ae3, dae, rae, brae, patch, transformer or lmmse.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A TOML file of the same keys as the options and more; options win.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the public recordings. [default: ../shared/data]", rich_help_panel="Data")
    ] = None,
    recordings: Annotated[Path | None, typer.Option(help="Folder of recordings of your own.", rich_help_panel="Data")] = None,
    fs: Annotated[float | None, typer.Option(help="Of recordings that do not say, Hz.", rich_help_panel="Data")] = None,
    column: Annotated[
        str | None, typer.Option(help="Of tables: the PPG's column, by name or number.", rich_help_panel="Data")
    ] = None,
    field: Annotated[
        str | None, typer.Option(metavar="KEY", help="Of lines like IR=512: the key before the value.", rich_help_panel="Data")
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
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/FAMILY]", rich_help_panel="Run")] = None,
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
    epochs: Annotated[int | None, typer.Option(help="[default: 300; patch 66; transformer 64]", rich_help_panel="Run")] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Batches an epoch; 0: one pass over the training windows. [default: 0; patch and transformer 500]",
            rich_help_panel="Run",
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Windows a batch. [default: 9000; patch 256; transformer 128]", rich_help_panel="Run")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Of wall clock: end this call before an epoch that would not fit.", rich_help_panel="Run"),
    ] = None,
    early_stop: Annotated[
        int | None,
        typer.Option(help="Epochs without a lower validation loss after which to stop; 0: never.", rich_help_panel="Run"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="[default: 1]", rich_help_panel="Run")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of computation.", rich_help_panel="Run")] = 2,
    optimizer: Annotated[
        str | None,
        typer.Option(help="adam, adamw or sgd. [default: adam; patch and transformer adamw]", rich_help_panel="Recipe"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="[default: 0.001; rae and brae 0.01; patch and transformer 0.002, falling]", rich_help_panel="Recipe"),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="l2, l1, shape, robust or balanced. [default: l2; patch shape; transformer robust]", rich_help_panel="Recipe"
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="none, white, slope, saturation, n1 (all three), or several joined by commas. [default: n1; ae and ae3 none]",
            rich_help_panel="Recipe",
        ),
    ] = None,
    hidden: Annotated[
        str | None,
        typer.Option(
            help="Hidden nodes of ae, ae3, dae: 40, or 125,40,125 for three layers. [default: 40]", rich_help_panel="Recipe"
        ),
    ] = None,
    hidden_activation: Annotated[
        str | None, typer.Option(help="[default: sigmoid; rae and brae tanh]", rich_help_panel="Recipe")
    ] = None,
    output_activation: Annotated[
        str | None, typer.Option(help="linear, sigmoid, ... [default: linear]", rich_help_panel="Recipe")
    ] = None,
    units: Annotated[
        int | None, typer.Option(help="Of the LSTM of rae and brae. [default: 40]", rich_help_panel="Recipe")
    ] = None,
    dropout: Annotated[float | None, typer.Option(help="[default: 0; rae and brae 0.5]", rich_help_panel="Recipe")] = None,
) -> None:
    """Train a checkpoint, or go on from one. See docs/training.md, and docs/course.md for the exercises of the 2019 course."""
    from ppgstream.train import command

    try:
        widths = None if hidden is None else [int(width) for width in hidden.split(",")]
    except ValueError:
        raise UsageError(f"--hidden {hidden!r}: must be whole numbers joined by commas, as in 125,40,125") from None
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
    )


@app.command()
def evaluate(
    checkpoints: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CHECKPOINT]...", help="PATH or NAME=PATH. Default: those that come along, and the course's two."
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the public recordings.")] = Path("../shared/data"),
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="Instead: a folder of recordings of your own. Noise is added to their clean stretches, which are the truth."
        ),
    ] = None,
    fs: Annotated[float | None, typer.Option(help="Of recordings of your own that do not say, Hz.")] = None,
    column: ColumnOption = None,
    field: FieldOption = None,
    tables: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Of streamed, windows, more, faults, nothing (noise without a pulse), rates, snr, lookahead, cost.",
        ),
    ] = "streamed,windows",
    seeds: Annotated[int, typer.Option(min=1, max=8, help="Draws of noise; quoted figures are over all 8.")] = 2,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also write evaluate.json and pictures there.")] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON on stdout, the tables on stderr.")] = False,
) -> None:
    """How good checkpoints are on people they were not trained on, beside what needs no training. Docs: docs/bench.md."""
    import msgspec
    from rich.console import Console

    from ppgstream.train import evaluate as bench

    own = None
    if recordings is not None:
        own = {"recordings": str(recordings), "fs": fs, "column": column, "field": field}
    elif fs is not None or column is not None or field is not None:
        raise UsageError("--fs, --column and --field: are for --recordings, which is not given")
    result = bench.evaluate(
        checkpoints or [],
        folder=data,
        own_source=own,
        tables=[name.strip() for name in tables.split(",")],
        seeds=seeds,
        out=out,
        console=Console(stderr=json, highlight=False, markup=False),
    )
    if json:
        print(msgspec.json.encode(result).decode())


def main() -> None:
    """The `ppgstream` command."""
    app()


if __name__ == "__main__":
    main()
