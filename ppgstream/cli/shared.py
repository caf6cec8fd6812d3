"""What all commands share: the application, options, signals, and errors.

stdout is data, stderr is everything else. An error of ours becomes one line and its exit code here, and nowhere else.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ppgstream.errors import EX_IOERR, EX_SIGINT, EX_SIGPIPE, PpgStreamError

if TYPE_CHECKING:
    from ppgstream.config import Config
    from ppgstream.model.checkpoint import Checkpoint


ORDER = ("run", "demo", "replay", "denoise", "tap", "monitor", "checkpoint", "train", "evaluate", "bench")  # in --help


class _Commands(TyperGroup):
    """Turns what a command raises into one line and an exit code, before typer makes its own of it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

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


CheckpointOption = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint folder, a TensorFlow 1 Saver prefix, .index file or folder, or the name of one of ours (default, fast, live, brae, lmmse)."
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
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: Any) -> None:
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


def restored(path: str | None) -> Checkpoint:
    from ppgstream.model.checkpoint import BUNDLED
    from ppgstream.model.restore import restore

    return restore(Path(path) if path else BUNDLED)


def loaded(config_path: Path | None, **overrides: str | None) -> Config:
    from ppgstream import config

    return config.load(config_path, **overrides)


def stream_name(text: str) -> str:
    import re

    name = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:32]
    return name or "replay"
