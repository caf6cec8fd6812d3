"""The command `record`."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated

import typer

from ppgstream.cli.live import PUBLISHED, STATUS, FromOption, UntilEndOption, WaitOption
from ppgstream.cli.shared import Command, KeyOption, Stop, app, key_of, say
from ppgstream.errors import UsageError

LOOK_S = 1.0  # between two looks at the daemon's events
NO_RAW_S = 5.0  # of clean samples without raw ones, before that is said


@app.command(cls=Command)
def record(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder of the files: DIR/STREAM/STREAM_TIME.")],
    from_: FromOption = PUBLISHED,
    status: Annotated[
        str, typer.Option(metavar="ENDPOINT", help="The daemon's status socket, for its events; '': none.")
    ] = STATUS,
    stream: Annotated[list[str] | None, typer.Option(help="Record this stream only; may be repeated.")] = None,
    format: Annotated[str, typer.Option(help="parquet, or npz, which needs no more packages.")] = "parquet",
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="Of the wall clock, in a file.")] = 60,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so many seconds; 0: when asked to.")] = 0.0,
    until_end: UntilEndOption = False,
    wait: WaitOption = 0.0,
    key: KeyOption = None,
) -> None:
    """Record what a daemon publishes into files: raw beside clean (of `ppgstream run --raw`), confidence, flags, beats, heart
    rates, events. `denoise` and `replay` read them. Docs: docs/formats.md."""
    from rich.console import Console

    from ppgstream.cli.sources import check_package
    from ppgstream.config import check_endpoint
    from ppgstream.files import recorded
    from ppgstream.live import receiver as taps
    from ppgstream.live.recorder import Recorder
    from ppgstream.live.status import StatusClient

    if format not in recorded.FORMATS:
        raise UsageError(f"--format {format!r}: must be one of {', '.join(recorded.FORMATS)}")
    if format == "parquet":
        check_package("--format parquet", "pyarrow", "pyarrow", "parquet")
    own = key_of(key)
    check_endpoint(from_, "--from", keyed=own is not None, nats=True)
    if status:
        check_endpoint(status, "--status", keyed=own is not None)
    stop = Stop()
    recorder = Recorder(out, format=format, say=say, file_s=60 * minutes)
    recorder.recover()
    receiver = taps.receiver(from_, stream, raw=True, key=own, tell=say)
    client = StatusClient(status, key=own) if status else None
    console = Console(stderr=True)
    patience = taps.Patience(receiver, until_end, wait)
    started = looked = time.monotonic()
    clean_since = 0.0
    try:
        with console.status(f"waiting for {from_}") if console.is_terminal else contextlib.nullcontext() as shown:
            while not stop() and not (seconds and time.monotonic() - started > seconds):
                for chunk in receiver.poll(0.2):
                    recorder.take(chunk)
                recorder.look()
                now = time.monotonic()
                if client is not None and now - looked >= LOOK_S:
                    snapshot = client.ask(0.2, rows=1)
                    if snapshot is not None:
                        recorder.hear(snapshot, now - started)
                    looked = now
                clean_since = clean_since or now * (recorder.samples > 0)
                if clean_since and not recorder.raw and now - clean_since > NO_RAW_S:
                    clean_since = float("inf")
                    say(f"{from_}: publishes no raw samples, the clean ones are recorded; `ppgstream run --raw` publishes both")
                if shown is not None:
                    shown.update(
                        f"{recorder.streams} streams, {recorder.raw:,} samples raw, {recorder.samples:,} clean, lost on the way "
                        f"{receiver.lost:,}, files closed {recorder.files}; Ctrl-C ends"
                    )
                if patience.over():
                    break
    finally:
        recorder.close()
        receiver.close()
        if client is not None:
            client.close()
        say(
            f"recorded {recorder.raw:,} samples raw and {recorder.samples:,} denoised in {recorder.files} files in {out}; "
            f"lost on the way here {receiver.lost:,}, damaged {receiver.damaged}"
        )
    raise typer.Exit(stop.exit_code())
