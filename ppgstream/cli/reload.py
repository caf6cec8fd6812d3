"""Commands for another checkpoint in a running daemon: reload, shadow."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ppgstream.cli.live import STATUS
from ppgstream.cli.shared import Command, Commands, KeyOption, Stop, app, key_of, printable, say
from ppgstream.errors import PpgStreamError, RefusedError, SourceError, UsageError

if TYPE_CHECKING:
    from ppgstream.live.snapshot import ReloadStatus, Snapshot
    from ppgstream.live.status import StatusClient

ANSWER_S, LOOK_S = 2.0, 0.3
SILENT_S = 15.0  # of a busy daemon, before it counts as gone
MOST_NAME = 3000  # bytes of a checkpoint's name
OVER = ("serving", "refused", "tried", "rolled_back", "back")
StatusOption = Annotated[str, typer.Option("--status", metavar="ENDPOINT", help="The daemon's status socket.")]
shadow_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Another checkpoint beside the one that is served.")
app.add_typer(shadow_app, name="shadow")


@app.command(cls=Command)
def reload(
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NEW", help="The checkpoint to serve from now on: a path on the daemon's machine.")
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="Serve the one before again, at once.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try the checkpoint and show what changes; do not serve it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Serve it though its figures speak against it. One that cannot run is refused.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the minute in which it may be taken back; 1 if it is.")] = False,
    shadow: Annotated[
        str | None, typer.Option(metavar="NEW", help="Run a checkpoint beside the one that is served, unpublished.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="For --shadow: at which share of the streams, above 0 to 1. (default: 0.1)")
    ] = None,
    no_shadow: Annotated[bool, typer.Option("--no-shadow", help="End the shadow.")] = False,
    status: StatusOption = STATUS,
    key: KeyOption = None,
) -> None:
    """Have a running daemon serve another checkpoint, without a stop: it is tried first, and taken back if it does badly. Docs:
    docs/reload.md."""
    given = [checkpoint is not None, back, shadow is not None, no_shadow]
    if sum(given) != 1:
        raise UsageError("reload: give one of --checkpoint NEW, --back, --shadow NEW, --no-shadow")
    if checkpoint is None and (dry_run or force or wait):
        raise UsageError("reload: --dry-run, --force and --wait go with --checkpoint")
    if share is not None and (shadow is None or not 0 < share <= 1):
        raise UsageError(f"--share {share:g}: goes with --shadow, and must be above 0, and 1 at most")
    asked: dict[str, Any] = {"do": "back" if back else "unshadow" if no_shadow else "shadow"}
    if checkpoint is not None:
        asked |= {"do": "try" if dry_run else "serve", "checkpoint": _named(checkpoint), "force": force}
    elif shadow is not None:
        asked |= {"checkpoint": _named(shadow), "share": share or 0.1}
    from ppgstream.live.status import StatusClient

    stop = Stop()
    client = StatusClient(status, key=key_of(key))
    try:
        number = client.reload(asked, SILENT_S)
        if number is None:
            raise SourceError(f"{status}: {client.silence()}")
        if no_shadow:
            say("the shadow has ended")
            return
        if shadow is not None:
            _begun(client, stop)
            return
        found = _followed(client, number, stop, until_sure=wait)
    finally:
        client.close()
    if found is None:
        say("left; the daemon goes on with it: `ppgstream monitor` shows what becomes of it")
        raise typer.Exit(stop.exit_code())
    _show(found)
    if found.state in ("refused", "rolled_back"):
        raise RefusedError(found.text, found.code or 1)
    say(f"{found.checkpoint}: {found.text}" + ("; it is watched for a minute" if found.watched else ""))


def _named(checkpoint: str) -> str:
    """A checkpoint as the daemon finds it, whose working folder is another."""
    from ppgstream.storage import shown

    if not checkpoint.strip():
        raise UsageError("the name of the checkpoint is empty")
    try:
        too_long = len(checkpoint.encode()) > MOST_NAME
    except UnicodeEncodeError:
        raise UsageError(f"{shown(checkpoint)}: a name that is not UTF-8 cannot be sent to the daemon") from None
    if too_long:
        raise UsageError(f"{shown(checkpoint[:60])}...: a name of {len(checkpoint.encode()):,} bytes: at most {MOST_NAME:,}")
    path = Path(checkpoint)
    try:
        there = path.exists() or (bool(path.name) and path.with_name(path.name + ".index").exists())
    except OSError:  # the daemon says what is wrong with it
        there = False
    return str(path.absolute()) if there else checkpoint


def _look(client: StatusClient, stop: Stop, silent_s: float = ANSWER_S) -> Snapshot | None:
    """What the daemon tells; None once this command is stopped."""
    until = time.monotonic() + silent_s
    while not stop():
        if (snapshot := client.ask(ANSWER_S, rows=1)) is not None:
            return snapshot
        if time.monotonic() > until:
            raise SourceError(f"{client.endpoint}: {client.silence()}")
    return None


def _followed(client: StatusClient, number: int, stop: Stop, *, until_sure: bool) -> ReloadStatus | None:
    """What became of a reload; None if it is not known when this command is stopped."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("asks the daemon") if console.is_terminal else contextlib.nullcontext() as shown:
        while not stop():
            try:
                snapshot = _look(client, stop, SILENT_S)
            except SourceError as error:
                raise SourceError(
                    f"{client.endpoint}: no answer for {SILENT_S:.0f} s: a daemon that still lives goes on with the reload"
                ) from error
            if snapshot is None:
                return None
            found = snapshot.reload
            if found is None or found.number != number:
                raise PpgStreamError(f"{client.endpoint}: the daemon was started anew, or another reload was begun")
            if found.state in OVER and not (until_sure and found.watched):
                return found
            if shown is not None:
                shown.update(Text(printable(f"{found.text or found.state} ...")))
            stop.wait(LOOK_S)
    return None


def _show(found: ReloadStatus) -> None:
    from rich.console import Console

    from ppgstream.show import compared

    console = Console(highlight=False, markup=False)
    if found.live is not None:
        console.print(compared.figures_of(found.live))
        console.print()
    if found.checks:
        console.print(compared.checks_of(found.checks))


def _begun(client: StatusClient, stop: Stop) -> None:
    """Wait until the shadow runs, or has failed."""
    while not stop():
        snapshot = _look(client, stop, SILENT_S)
        if snapshot is None:
            break
        found = snapshot.shadow
        if found is None or found.state == "failed":
            raise PpgStreamError("the shadow was ended" if found is None else f"the shadow does not run: {found.text}")
        if found.state == "running":
            say(f"{found.checkpoint} runs as a shadow at {found.share:.0%} of the streams: `ppgstream shadow report` shows it")
            return
        stop.wait(LOOK_S)
    raise typer.Exit(stop.exit_code())


@shadow_app.command("report", cls=Command)
def shadow_report(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    status: StatusOption = STATUS,
    key: KeyOption = None,
) -> None:
    """What the shadow answers, beside the checkpoint that is served."""
    import msgspec
    from rich.console import Console

    from ppgstream.live.status import StatusClient
    from ppgstream.show import compared

    client = StatusClient(status, key=key_of(key))
    try:
        stop = Stop()
        snapshot = _look(client, stop)
    finally:
        client.close()
    if snapshot is None:
        raise typer.Exit(stop.exit_code())
    found = snapshot.shadow
    if json:
        print(msgspec.json.encode(found).decode())
        raise typer.Exit(found is None)
    if found is None:
        raise PpgStreamError(f"{status}: no shadow runs: `ppgstream reload --shadow NEW` begins one")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"serving: {snapshot.checkpoint.family} {snapshot.checkpoint.id}  {snapshot.checkpoint.path}")
    console.print(f"shadow:  {found.state} {found.id}  {found.checkpoint}")
    since = time.strftime("%H:%M:%S", time.localtime(time.time() - found.age_s))
    console.print(
        f"since {since}, at {found.share:.0%} of the streams, now {found.streams:,}: {found.samples:,} samples; left out for "
        f"want of time {found.shed:,}"
    )
    if found.text:
        console.print(found.text)
    if found.figures is not None:
        console.print()
        console.print(compared.figures_of(found.figures))
