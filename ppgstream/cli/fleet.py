"""The command `fleet status`."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated

import typer

from ppgstream.cli.shared import Command, Commands, app
from ppgstream.errors import SourceError, UsageError

fleet_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Daemons that share the streams of a NATS server.")
app.add_typer(fleet_app, name="fleet")


@fleet_app.command("status", cls=Command)
def fleet_status(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the fleet, as in `run --fleet NAME`.")],
    server: Annotated[
        str, typer.Option(metavar="URL", help="The NATS server: nats://HOST:PORT, or tls://HOST:PORT.")
    ] = "nats://127.0.0.1:4222",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The members of a fleet, and what each of them has. Exit 69 where there is none."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from ppgstream.config import FLEET_NAME
    from ppgstream.live import tender
    from ppgstream.live.nats import PARTITIONS, is_nats

    if not re.fullmatch(FLEET_NAME, name):
        raise UsageError(f"{name!r}: a fleet's name is 1 to 32 of A-Z a-z 0-9 _ -")
    if not is_nats(server):
        raise UsageError(f"--server {server}: must be nats://HOST:PORT or tls://HOST:PORT")
    members, owners = tender.read_fleet(server, name)
    if json:
        told = {p: {"member": owner.member, "epoch": owner.epoch} for p, owner in owners.items()}
        print(msgspec.json.encode({"members": list(members.values()), "owners": told}).decode())
        raise typer.Exit(0 if members else SourceError.exit_code)
    table = Table(box=None, pad_edge=False)
    for heading in ("member", "host", "pid", "up", "partitions", "streams", "samples/s", "lag, ms", "taken over", "handed over"):
        table.add_column(heading, justify="left" if heading in ("member", "host") else "right")
    for member in sorted(members.values(), key=lambda one: one.since):
        up_s = max(time.time() - member.since, 0)
        table.add_row(
            member.id + " (leaving)" * member.leaving, member.host, str(member.pid), f"{up_s:,.0f} s", str(member.partitions),
            f"{member.streams:,}", f"{member.samples_per_s:,.0f}", "-" if member.lag_ms is None else f"{member.lag_ms:.0f}",
            str(member.taken), str(member.given),
        )  # fmt: skip
    plain = None if sys.stdout.isatty() else 120  # a pipe has no width
    console = Console(highlight=False, markup=False, width=plain)
    console.print(table)
    without = PARTITIONS - sum(owner.member in members for owner in owners.values())
    if without:
        console.print(f"{without} of {PARTITIONS} partitions have no member")
    if not members:
        raise typer.Exit(SourceError.exit_code)
