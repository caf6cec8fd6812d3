"""Commands around the daemon: demo, replay, tap, monitor."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppgstream import binaries
from ppgstream.cli.shared import (
    CheckpointOption,
    ColumnOption,
    Command,
    FieldOption,
    KeyOption,
    Stop,
    TrustFsOption,
    app,
    key_of,
    restored,
    say,
)
from ppgstream.errors import DataError, OutputError, PpgStreamError, SourceError, UsageError

if TYPE_CHECKING:
    from ppgstream.live.keys import Key
    from ppgstream.live.publisher import Publisher
    from ppgstream.live.status import StatusClient
    from ppgstream.show.web import Web
    from ppgstream.tools.replay import Track

WAIT_SILENTLY_S = 1.5
STATUS = "tcp://127.0.0.1:5602"  # where a daemon is asked
PUBLISHED = "tcp://127.0.0.1:5601"  # where it publishes
FromOption = Annotated[str, typer.Option("--from", metavar="ENDPOINT", help="The socket that the daemon publishes on.")]
UntilEndOption = Annotated[bool, typer.Option("--until-end", help="Stop once every stream seen has ended.")]
WaitOption = Annotated[float, typer.Option(min=0, help="Exit 69 if nothing has come after so many seconds; 0: wait for ever.")]


@app.command(cls=Command)
def demo(
    seconds: Annotated[float, typer.Option(min=4, max=86_400, help="How long the sensors run.")] = 20.0,
    streams: Annotated[int, typer.Option(min=1, max=200, help="How many sensors.")] = 4,
    plain: Annotated[bool, typer.Option("--plain", help="Print plain lines instead of a live view: for pipes and CI.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="Draw the first sensor's first 10 s into this file.")] = None,
    noise: Annotated[str, typer.Option(help="On the pulse: course, hand, forearm, contact, displacement or steps.")] = "course",
    checkpoint: CheckpointOption = None,
    web: Annotated[bool, typer.Option("--web", help="Open the monitor's page in the browser.")] = False,
) -> None:
    """The whole system at work: synthetic noisy PPG -> loopback sockets -> daemon -> view, and a summary against the truth."""
    from rich.console import Console

    from ppgstream.files import recording
    from ppgstream.model import runtime
    from ppgstream.show import demo as show

    if noise not in show.NOISES:
        raise UsageError(f"--noise {noise!r}: must be one of {', '.join(show.NOISES)}")
    if plot is not None:
        recording.check_writable(plot)
    console = Console()
    found = restored(checkpoint)
    if note := binaries.note():
        console.print(note, highlight=False, soft_wrap=True)
    console.print(f"loading {found.arch.family} ({found.parameters:,} parameters) ...", highlight=False)
    denoiser = runtime.denoiser(found)
    stop = Stop()
    plain = plain or web or not console.is_terminal
    fine = show.run(
        found, denoiser, seconds=seconds, streams=streams, plain=plain, console=console, stopped=stop, picture=plot, kind=noise,
        page=_page if web else None,
    )  # fmt: skip
    raise typer.Exit(stop.exit_code() or (0 if fine else 1))


def _page(status: str, port: int = 0, key: Key | None = None) -> Web:
    """What serves the monitor's page of a daemon."""
    from ppgstream.cli.sources import check_package

    check_package("--web", "websockets", "websockets", "web")
    from ppgstream.show.web import Web

    return Web(status, port, key)


@app.command(cls=Command)
def replay(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Recordings (one value a line, csv, npy), or - for lines from a pipe.")
    ],
    to: Annotated[str, typer.Option(metavar="ENDPOINT", help="The socket that the daemon reads.")] = "tcp://127.0.0.1:5600",
    bind: Annotated[bool, typer.Option("--bind", help="Bind the endpoint, for a daemon that connects.")] = False,
    speed: Annotated[str, typer.Option(help="How many times faster than the sensor sampled; max: as fast as possible.")] = "1",
    fs: Annotated[
        float | None,
        typer.Option(help="The recordings' sampling rate, Hz, if the files do not state it."),
    ] = None,
    trust_fs: TrustFsOption = False,
    column: ColumnOption = None,
    field: FieldOption = None,
    from_: Annotated[float, typer.Option("--from", help="Start here, seconds.")] = 0.0,
    until: Annotated[float | None, typer.Option(help="End here, seconds.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Start over at the end, until stopped.")] = False,
    stream: Annotated[str | None, typer.Option(help="The stream's name. (default: the file's name)")] = None,
    copies: Annotated[int, typer.Option(min=1, max=100_000, help="Send each file as so many streams.")] = 1,
    chunk: Annotated[int | None, typer.Option(min=1, max=2048, help="Samples a message. (default: 25; with --acked 125)")] = None,
    acked: Annotated[
        bool, typer.Option("--acked", help="To a fleet: wait for each message until the NATS server has stored it.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="With --acked: go on behind what the server has, after an interrupted replay.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the daemon.")] = 30.0,
    status: Annotated[
        str | None,
        typer.Option(metavar="ENDPOINT", help=f"The daemon's status socket, to be asked what has arrived. (default: {STATUS})"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random faults.")] = 1,
    drop: Annotated[float, typer.Option(min=0, max=1, help="Probability that a message is lost.")] = 0.0,
    dup: Annotated[float, typer.Option(min=0, max=1, help="Probability that a message is sent twice.")] = 0.0,
    reorder: Annotated[
        float, typer.Option(min=0, max=1, help="Probability that a message is sent after the one that follows it.")
    ] = 0.0,
    jitter_ms: Annotated[float, typer.Option(min=0, max=60_000, help="Chunks leave up to so much late.")] = 0.0,
    outage: Annotated[
        list[str] | None, typer.Option(metavar="AT:FOR", help="Nothing is sent from AT for FOR seconds; may be repeated.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Stream recordings to a daemon as sensors would: paced, many at once, with seeded faults. `replay -` is a live pipe."""
    from ppgstream.config import check_endpoint
    from ppgstream.files.offline import check_rate
    from ppgstream.live import publisher as publishers
    from ppgstream.live.nats import shown
    from ppgstream.live.status import StatusClient
    from ppgstream.tools import replay as tool
    from ppgstream.wire.message import stream_like

    speed_value = _speed(speed)
    if fs is not None:
        check_rate(fs)
    if not (0 <= from_ < math.inf and (until is None or 0 <= until < math.inf)):
        raise UsageError(f"--from {from_:g}, --until {until}: must be seconds from 0 on")
    outages = tuple(_outage(text) for text in outage or [])
    if resume and (not acked or loop or drop or dup or reorder or outages):
        raise UsageError("--resume: goes with --acked, and without --loop and faults")
    samples_a_message = chunk or (125 if acked else 25)
    stop = Stop()
    own = key_of(key)
    check_endpoint(status or STATUS, "--status", keyed=own is not None)
    client = StatusClient(status or STATUS, key=own)
    if "-" in files:
        altered = loop or copies != 1 or speed_value != 1.0 or trust_fs or from_ or until is not None
        if files != ["-"] or altered or drop or dup or reorder or jitter_ms or outages:
            raise UsageError(
                "replay -: a live pipe comes alone, once, whole and at its own pace: only --to, --stream, --fs, --column, "
                "--field, --chunk and --wait go with it"
            )
        publisher = publishers.publisher(to, bind=bind, key=own, acked=acked, stopped=stop)
        _wait_for(publisher, wait)
        report = tool.pipe(
            sys.stdin.fileno(),
            publisher,
            stream=stream_like(stream or "stdin"),
            fs=fs or 0.0,
            column=column,
            key=field,
            chunk=samples_a_message,
            stopped=stop,
            say=say,
        )
    else:
        named: dict[str, Any] = {"column": column, "key": field, "fs": fs, "trusted": trust_fs}
        tracks, told = _tracks(files, **named, part=(from_, until), stream=stream, copies=copies)
        publisher = publishers.publisher(to, bind=bind, key=own, acked=acked, stopped=stop)
        _wait_for(publisher, wait)
        for line in told:
            say(line)
        if resume and not stop():
            tracks = [_resumed(track, publisher) for track in tracks]
            tracks = [track for track in tracks if track.done >= 0]
            if not tracks:
                raise typer.Exit(0)
        faults = tool.Faults(drop, dup, reorder, jitter_ms, outages, seed)
        report = tool.Replay(
            tracks,
            publisher,
            speed=speed_value,
            chunk=samples_a_message,
            loop=loop,
            faults=faults,
            stopped=stop,
            sleep=stop.wait,
        ).run()
    say(str(report))
    if acked:
        say(f"{shown(to)}: the server has stored it" + ("; --resume sends the rest" if report.stopped else ""))
        left = None
    else:
        left = _confirm(publisher, client, report.sent, to, status)
    client.close()
    publisher.close(0.0 if isinstance(left, SourceError) else 30.0)
    if left:
        raise left
    if not report.valid and not report.stopped and not resume:
        raise DataError("no valid sample was sent")
    raise typer.Exit(stop.exit_code())


def _wait_for(publisher: Publisher, wait: float) -> None:
    """Wait for somebody who listens, and say so where that is a fleet, and takes a while."""
    if publisher.acked and wait > WAIT_SILENTLY_S:
        try:
            publisher.wait_for_subscriber(WAIT_SILENTLY_S)
        except SourceError as error:
            say(f"{error}: waits up to {wait:g} s")
        else:
            return
    publisher.wait_for_subscriber(wait)


def _resumed(track: Track, publisher: Publisher) -> Track:
    """A track from where the server has it on; `done` is -1 if it has all of it, with its end."""
    import numpy as np

    from ppgstream.wire.message import Kind

    last = publisher.last(track.stream)
    if last is None:
        say(f"{track.stream}: the server has nothing of it (any more): it is sent from its start")
        return track
    over, n = last.kind is Kind.END, len(track.samples)
    same = np.array_equal(last.samples, track.samples[last.index : last.index + len(last.samples)], equal_nan=True)
    if last.fs != track.fs or last.stop > n or not same or (over and last.index < n):
        ended = ", ended," if over else ""
        why = f"the server has {last.stop:,} samples{ended} at {last.fs:g} Hz, the file {n:,} at {track.fs:g} Hz"
        raise UsageError(
            f"--resume: {track.stream}: {why}{'' if same else ', with other values'}: this is another recording: send it without "
            "--resume, or as another --stream"
        )
    if over:
        say(f"{track.stream}: the server has all {last.index:,} samples of it, and its end: it is not sent again")
        return track._replace(done=-1)
    say(f"{track.stream}: goes on at sample {last.stop:,}")
    began_ns = last.t_ns - round(last.index / last.fs * 1e9) if last.t_ns else 0
    return track._replace(session=last.session, done=last.stop, began_ns=began_ns)


def _confirm(
    publisher: Publisher, client: StatusClient, sent: dict[str, tuple[int, int]], to: str, status: str | None
) -> PpgStreamError | None:
    """Wait until the daemon has taken what was sent. The error to end with if it has not; where nobody can tell, that is said."""
    from ppgstream.live.nats import shown
    from ppgstream.live.status import FLEET

    try:
        found = publisher.confirm(client, sent, reads=to if status is None else None)
    except SourceError as error:
        say(f"delivery is not confirmed: {error}")
        return None
    if found.left is None and found.endpoint.startswith(FLEET):
        say(f"delivery is not confirmed: members of a {found.endpoint} read there, each its own streams: --acked confirms it")
    elif found.left is None:
        which = (
            f"the daemon at {status or STATUS} reads {found.endpoint}, not {shown(to)}"
            if found.endpoint
            else f"no daemon answers at {status or STATUS}"
        )
        say(f"delivery is not confirmed: {which} (--status ENDPOINT)")
    elif found.left and not found.endpoint:
        return SourceError(f"{to}: the daemon is gone: {found.left:,} samples were not taken")
    elif found.left:
        return OutputError(f"{to}: the daemon has not taken {found.left:,} samples: its log says why")
    return None


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


def _tracks(
    files: list[str],
    *,
    column: str | None,
    key: str | None,
    fs: float | None,
    trusted: bool,
    part: tuple[float, float | None],
    stream: str | None,
    copies: int,
) -> tuple[list[Any], list[str]]:
    """What to send, and what was understood of the files."""
    from ppgstream.files import recording
    from ppgstream.tools.replay import Track
    from ppgstream.wire.message import stream_like

    tracks: list[Any] = []
    told: list[str] = []
    for file in files:
        path = Path(file)
        found = recording.read(path, column=column, key=key, clocked=not trusted)
        rate = found.rate(file, fs, trusted=trusted)
        told += filter(None, (found.understood(file, rate), found.first_bad, found.first_text))
        rows = [found.samples] if found.samples.ndim == 1 else list(found.samples)
        for number, row in enumerate(rows):
            cut = row[int(part[0] * rate) : None if part[1] is None else int(part[1] * rate)]
            if not len(cut):
                end = "" if part[1] is None else f" until {part[1]:g} s"
                raise DataError(f"{path}: nothing from {part[0]:g} s on{end}: it is {len(row) / rate:g} s long")
            base = stream_like(stream or path.stem) + (f"-{number}" if len(rows) > 1 else "")
            tracks += [Track(base if copies == 1 else f"{base[:58]}-{copy}", cut, rate) for copy in range(copies)]
    names = [t.stream for t in tracks]
    if len(set(names)) != len(names) or any(len(n) > 64 for n in names):
        tracks = [t._replace(stream=f"{t.stream[:57]}.{i}") for i, t in enumerate(tracks)]
    return tracks, told


@app.command(cls=Command)
def tap(
    from_: FromOption = PUBLISHED,
    stream: Annotated[str | None, typer.Option(help="Show this stream only.")] = None,
    format: Annotated[
        str,
        typer.Option(help="csv, ndjson; values: the denoised values alone; rates, beats: csv of the heart rates, of the beats."),
    ] = "csv",
    until_end: UntilEndOption = False,
    wait: WaitOption = 0.0,
    key: KeyOption = None,
) -> None:
    """Published samples as lines on stdout."""
    from ppgstream.files import lines as shape
    from ppgstream.files import recording
    from ppgstream.live import receiver as taps

    shapes = {
        "csv": shape.csv_lines,
        "ndjson": shape.ndjson_lines,
        "values": shape.value_lines,
        "rates": shape.rate_lines,
        "beats": shape.beat_lines,
    }
    heads = {"csv": recording.CSV_HEAD, "rates": shape.RATES_HEAD, "beats": shape.BEATS_HEAD}
    if format not in shapes:
        raise UsageError(f"--format {format!r}: must be one of {', '.join(shapes)}")
    stop = Stop()
    receiver = taps.receiver(from_, stream, key=key_of(key), tell=say)
    patience = taps.Patience(receiver, until_end, wait)
    if format in heads:
        print(heads[format], flush=True)
    try:
        while not stop():
            lines = [line for chunk in receiver.poll(0.2) for line in shapes[format](chunk)]
            if lines:
                sys.stdout.write("\n".join(lines) + "\n")
                sys.stdout.flush()
            if patience.over():
                break
    finally:
        receiver.close()
    received = sum(a.received for a in receiver.accounts.values())
    gap = sum(a.gap for a in receiver.accounts.values())
    unended = sum(not a.ended for a in receiver.accounts.values())
    skipped = f", of a kind that this version does not know {receiver.skipped}" if receiver.skipped else ""
    losses = (
        f"lost here {receiver.lost}, gaps before the daemon {gap}, sessions without END {unended}, damaged {receiver.damaged}"
    )
    say(f"received {received} samples; {losses}{skipped}")
    raise typer.Exit(stop.exit_code())


@app.command(cls=Command)
def monitor(
    status: Annotated[str, typer.Option(metavar="ENDPOINT", help="The daemon's status socket.")] = STATUS,
    stream: Annotated[str | None, typer.Option(help="Whose wave to draw. Default: the first that is live.")] = None,
    interval: Annotated[float, typer.Option(min=0.1, max=60, help="Seconds between looks.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave; exit 69 if no daemon answers.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print each snapshot as a line of JSON (docs/status.md).")] = False,
    web: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Serve a page on 127.0.0.1 instead; 0: any port.")
    ] = None,
    key: KeyOption = None,
) -> None:
    """Watch a running daemon: throughput, lag, ledger, a row a stream, raw over clean."""
    from rich.console import Console

    from ppgstream.show import monitor as view

    if web is not None and (stream is not None or once or json):
        raise UsageError("--web: --stream, --once and --json do not go with it: choose a stream on the page")
    piped = not (once or json or web is not None) and not sys.stdout.isatty()
    if piped and stream is not None:
        raise UsageError("--stream: into a pipe goes a line about all streams: --json, or --once, with --stream")
    stop, own = Stop(), key_of(key)
    if web is not None:
        _serve_page(status, web, stop, own)
    elif json:
        _print_json(status, stop, stream=stream, interval_s=interval, once=once, key=own)
    elif once:
        if view.once(status, stream=stream, console=Console(), key=own):
            raise typer.Exit(1)
    elif piped:
        view.lines(status, stopped=stop, write=lambda line: print(line, flush=True), key=own)
    else:
        stop.hold(lambda: os._exit(0) if stop.signal == signal.SIGHUP else None)  # the terminal is gone: nothing can be drawn
        view.watch(status, stream=stream, interval_s=interval, stopped=stop, key=own)
    raise typer.Exit(stop.exit_code())


def _serve_page(endpoint: str, port: int, stop: Stop, key: Key | None) -> None:
    """The page, until stopped."""
    from ppgstream.config import check_endpoint

    check_endpoint(endpoint, "--status", keyed=key is not None)
    server = _page(endpoint, port, key)
    say(f"{server.url} shows the daemon at {endpoint}; Ctrl-C ends this page's server, not the daemon")
    server.serve(stop)


def _print_json(endpoint: str, stop: Stop, *, stream: str | None, interval_s: float, once: bool, key: Key | None) -> None:
    """Snapshots as lines of JSON."""
    import msgspec

    from ppgstream.live.status import StatusClient

    client = StatusClient(endpoint, key=key)
    try:
        while not stop():
            began = time.monotonic()
            snapshot = client.ask(1.0, [stream] if stream else [])
            if snapshot is None and once:
                raise SourceError(f"{endpoint}: {client.silence()}")
            if once and stream and snapshot is not None and all(row.name != stream for row in snapshot.streams):
                raise SourceError(f"--stream {stream}: {endpoint} has no such stream")
            print(msgspec.json.encode(snapshot).decode(), flush=True)
            if once and snapshot is not None and snapshot.unwell:
                raise typer.Exit(1)
            if once:
                break
            time.sleep(max(interval_s - (time.monotonic() - began), 0.0))
    finally:
        client.close()
