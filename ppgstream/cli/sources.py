"""What `run` reads beside its input socket, by its options: serial ports, Lab Streaming Layer, boards of BrainFlow."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ppgstream.errors import UsageError
from ppgstream.wire.message import stream_like

if TYPE_CHECKING:
    import logging

    from ppgstream.config import Config
    from ppgstream.live.bridge import BackgroundTask
    from ppgstream.live.daemon import Daemon

    Maker = Callable[[Daemon], BackgroundTask]  # what makes a source once a daemon's sockets are open


def check_package(option: str, module: str, package: str, extra: str) -> None:
    """Raises UsageError where an option's package is missing."""
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{option} needs {package}: pip install {package}, or ppgstream[{extra}]")


def _check(option: str, settings: Config, module: str, package: str, extra: str) -> None:
    """Raises UsageError where a source's package is missing, or where the daemon does not bind its input."""
    check_package(option, module, package, extra)
    if not settings.in_.bind:
        raise UsageError(f"{option}: this daemon connects to its input ([in] bind = false): it must bind it")


def ports(paths: list[str], settings: Config, log: logging.Logger, *, column: str | None, key: str | None) -> list[Maker]:
    """Serial ports, `PATH:BAUD` each. `column`, `key`: which number of a line is the sample."""
    from ppgstream.live.bridge import Bridge, SerialPort, port_of

    if paths:
        _check("--serial", settings, "serial", "pyserial", "serial")
    elif column is not None or key is not None:
        raise UsageError("--serial-column and --serial-field: nothing is read without --serial")
    if column is not None and key is not None:
        raise UsageError("--serial-column and --serial-field: give one of them")

    def of(text: str) -> Maker:
        path, baud = port_of(text)
        return lambda daemon: Bridge(
            lambda: SerialPort(path, baud), daemon.addresses["in"], stream=stream_like(Path(path).name), where=path, log=log,
            column=column, key=key,
        )  # fmt: skip

    names = [Path(port_of(text)[0]).name for text in paths]
    if len(set(names)) < len(names):
        raise UsageError(f"--serial: {', '.join(names)}: two of one name")
    return [of(text) for text in paths]


def lsl(
    predicate: str | None, settings: Config, log: logging.Logger, *, channel: str | None, out: bool
) -> tuple[list[Maker], list[Maker]]:
    """Lab Streaming Layer: what reads the streams that match, and what publishes the daemon's own."""
    units: dict[str, str] = {}  # by stream

    @cache
    def clock() -> Clock:
        return Clock()

    def inlets(daemon: Daemon) -> BackgroundTask:
        wanted = predicate or ""
        return Inlets(wanted, daemon.addresses["in"], clock=clock(), log=log, channel=channel, units=units)

    def outlets(daemon: Daemon) -> BackgroundTask:
        geometry = daemon.rules.plan.geometry
        delay_s = (geometry.window - geometry.settles + geometry.hop - 1) / daemon.rules.plan.fs
        return Outlets(daemon.addresses["out"], clock=clock(), log=log, delay_s=delay_s, units=units)

    if predicate is None and channel is not None:
        raise UsageError("--lsl-channel: nothing is read without --lsl-in")
    if predicate is not None:
        _check("--lsl-in", settings, "pylsl", "pylsl", "lsl")
    elif out:
        check_package("--lsl-out", "pylsl", "pylsl", "lsl")
    else:
        return [], []
    from ppgstream.live.lsl import Clock, Inlets, Outlets

    return [inlets] if predicate is not None else [], [outlets] if out else []


def boards(texts: list[str], settings: Config, log: logging.Logger, *, channel: int | None) -> list[Maker]:
    """Boards of BrainFlow, `BOARD[,KEY=VALUE...]` each. `channel`: which of its PPG channels."""
    if not texts:
        if channel is not None:
            raise UsageError("--brainflow-channel: nothing is read without --brainflow")
        return []
    _check("--brainflow", settings, "brainflow", "brainflow", "brainflow")
    from ppgstream.live.boards import Board, Wanted, wanted

    found = [wanted(text, channel) for text in texts]
    names = [one.stream for one in found]
    if len(set(names)) < len(names):
        raise UsageError(f"--brainflow: {', '.join(names)}: two of one name: tell them apart by mac_address, or another key")

    def of(one: Wanted) -> Maker:
        return lambda daemon: Board(one, daemon.addresses["in"], log=log)

    return [of(one) for one in found]
