"""Boards that BrainFlow reads, into a daemon. Needs brainflow.

What BrainFlow has buffered is taken every `PULL_S` seconds, with its stamps, and sent as any sensor's samples are. A board that
fails, or gives nothing for `SILENT_S`, is closed and tried again, as another session.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import sys
import time
from typing import Any, NamedTuple

from ppgstream.errors import UsageError
from ppgstream.live.bridge import Retried, StampedSession
from ppgstream.live.publisher import Publisher
from ppgstream.wire.message import stream_like

PULL_S = 0.1
BUFFER_S = 60  # of samples that are not taken, in BrainFlow
SILENT_S = 5.0
GAP_S = 2.0  # stamps are mostly those of the arrival: what comes late by less is not missing
INFRARED = {"MUSE": 1}  # which PPG channel, by the board's name: of a Muse they are ambient light, infrared and red


class Wanted(NamedTuple):
    """A board by BrainFlow's name, its number there, its parameters (BrainFlowInputParams) and commands (config_board). Where its
    PPG is: the preset, the rows of samples and of stamps (seconds since 1970), the rate, Hz."""

    board: str
    number: int
    parameters: dict[str, str | int]
    commands: tuple[str, ...]
    preset: int
    samples: int
    stamps: int
    fs: float

    @property
    def stream(self) -> str:
        """The name of its stream: two boards of a kind differ by what they are found by."""
        of = self.parameters
        where = of.get("mac_address") or of.get("serial_number") or of.get("serial_port") or of.get("ip_address") or ""
        return stream_like(".".join(filter(None, [self.board.removesuffix("_BOARD").lower(), str(where).rpartition("/")[2]])))


def _shim() -> Any:
    """BrainFlow's module, without its log."""
    from brainflow import board_shim

    if sys.version_info < (3, 12):  # where it asks for the files of a module, and Python only has those of a package
        board_shim.files = lambda _: importlib.resources.files("brainflow")
    board_shim.BoardShim.disable_board_logger()
    return board_shim


def wanted(text: str, channel: int | None = None) -> Wanted:
    """Of `BOARD[,KEY=VALUE...]`. channel: the number of a PPG channel, from 0 on; None: infrared where it is known, else the
    first. Raises UsageError for what BrainFlow does not have."""
    shim = _shim()
    name, *pairs = text.split(",")
    boards = {board.name: int(board.value) for board in shim.BoardIds}
    full = next((full for full in (name.upper(), f"{name.upper()}_BOARD") if full in boards), "")
    if not full:
        raise UsageError(f"--brainflow {text!r}: BrainFlow has no board {name!r}: it has {', '.join(boards)}")
    known = vars(shim.BrainFlowInputParams())
    parameters: dict[str, str | int] = {}
    commands: list[str] = []
    for key, sign, value in (pair.partition("=") for pair in pairs):
        number = isinstance(known.get(key), int)
        if not sign or (key not in known and key != "config") or (number and not value.removeprefix("-").isdecimal()):
            raise UsageError(f"--brainflow {text!r}: {key}{sign}{value}: must be config=COMMAND, or one of {', '.join(known)}")
        if key == "config":
            commands.append(value)
        else:
            parameters[key] = int(value) if number else value
    described = int(parameters.get("master_board", boards[full]))  # of a file, or a stream: the board that it is from
    try:
        # A preset that a board does not have is not asked for: BrainFlow then fails to start the board afterwards.
        presets = [(p, shim.BoardShim.get_board_descr(described, p)) for p in sorted(shim.BoardShim.get_board_presets(described))]
    except shim.BrainFlowError as error:
        raise UsageError(f"--brainflow {text!r}: {error}") from None
    nothing: tuple[int, dict[str, Any]] = (0, {})
    preset, about = next(((p, a) for p, a in presets if a.get("ppg_channels")), nothing)
    if not about:
        raise UsageError(f"--brainflow {text!r}: BrainFlow knows of no PPG channel of this board")
    rows, usual = about["ppg_channels"], next((n for start, n in INFRARED.items() if full.startswith(start)), 0)
    of = usual if channel is None else channel
    if not 0 <= of < len(rows):
        raise UsageError(f"--brainflow-channel {channel}: {full} has {len(rows)} PPG channels, from 0 on")
    where = preset, rows[of], about["timestamp_channel"], float(about["sampling_rate"])
    return Wanted(full, boards[full], parameters, tuple(commands), *where)


class Board(Retried):
    """A board's PPG into a daemon's input."""

    def __init__(self, one: Wanted, endpoint: str, *, log: logging.Logger) -> None:
        super().__init__(f"board {one.stream}", endpoint, stream=one.stream, log=log)
        self._one = one

    def say(self, text: str) -> None:
        self.tell(f"{self._one.board}: {text}", self._stream)

    def send(self, publisher: Publisher) -> tuple[int, str]:
        one, session = self._one, StampedSession(self._stream, self._one.fs, GAP_S)
        shim = _shim()
        parameters = shim.BrainFlowInputParams()
        for key, value in one.parameters.items():
            setattr(parameters, key, value)
        board = shim.BoardShim(one.number, parameters)
        try:
            board.prepare_session()
            for command in one.commands:
                board.config_board(command)
            board.start_stream(int(BUFFER_S * max(one.fs, 250.0)))
            self.say(f"row {one.samples}, {one.fs:g} Hz, is read")
            came = time.monotonic()
            while not self.over.wait(PULL_S):
                data = board.get_board_data(preset=one.preset)
                if data.shape[1]:
                    came = time.monotonic()
                    for chunk in session.chunks(data[one.samples], data[one.stamps], lambda stamp: round(stamp * 1e9), came):
                        publisher.send(chunk)
                elif time.monotonic() - came > SILENT_S:
                    return session.index, f"no sample for {SILENT_S:g} s"
        except shim.BrainFlowError as error:
            return session.index, str(error)
        finally:
            publisher.send_last(session.end())
            with contextlib.suppress(shim.BrainFlowError):
                if board.is_prepared():
                    board.release_session()
        return session.index, "it was told to end"
