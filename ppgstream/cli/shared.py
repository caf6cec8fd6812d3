"""What all commands share: the application, options, signals, and errors.

stdout is data, stderr is everything else. An error of ours becomes one line and its exit code here, and nowhere else.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from ppgstream.errors import EX_IOERR, EX_SIGINT, EX_SIGPIPE, EX_UNAVAILABLE, PpgStreamError

if TYPE_CHECKING:
    from ppgstream.config import Config
    from ppgstream.live.keys import Key
    from ppgstream.model.checkpoint import Checkpoint


ORDER = (
    "run",
    "demo",
    "replay",
    "denoise",
    "tap",
    "record",
    "monitor",
    "reload",
    "shadow",
    "fleet",
    "keygen",
    "checkpoint",
    "train",
    "evaluate",
    "bench",
)  # in --help


LONGEST_LINE = 1000  # characters of an error; of a longer one, the middle is left out


PLAIN_TYPES = {"bool": "", "int": "N", "float": "NUMBER", "str": "TEXT", "list[float]": "NUMBER"}


def _plainly(command: Any) -> None:
    """Let the help of a command's parameters say N, NUMBER, TEXT or PATH, and nothing of flags and arguments; its usage, without
    braces."""
    for param in command.params + ([command._help_option] if command._help_option else []):
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda **_: None  # type: ignore[method-assign]
        elif isinstance(param, TyperOption) and param.metavar is None:
            param.metavar = PLAIN_TYPES.get(param.bare_type(), "PATH" if param.type_descriptor.is_path else None)


class Command(TyperCommand):
    """A command with a help in plain words."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        _plainly(self)
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]


class Commands(TyperGroup):
    """Commands with a help in plain words."""

    command_class = Command

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)
        _plainly(self)
        return params


class _Commands(Commands):
    """Turns what a command raises into one line and an exit code, before typer makes its own of it."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def make_context(self, *args: Any, **more: Any) -> Any:
        with _told_in_one_line():  # --help and --version print here
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        with _told_in_one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
        return
    except PpgStreamError as error:
        say(str(error))
        code = error.exit_code
    except BrokenPipeError:
        code = EX_SIGPIPE  # whoever read us has gone: nothing to say
    except KeyboardInterrupt:
        code = EX_SIGINT
    except OSError as error:
        # Without a name it is stdout: a full disk, say.
        say(f"{'cannot write' if error.filename is None else error.filename}: {error.strerror or error}")
        code = EX_IOERR
    except MemoryError:
        say("there is not enough memory for this")
        code = EX_UNAVAILABLE
    settle(sys.stdout)
    raise typer.Exit(code)


# The process ends without taking itself down: what it holds takes seconds to free (a daemon with thousands of streams), or has
# threads that may not end (TensorFlow's, while a dataset is read). Set by a command that has written everything.
leaves_at_once = False


def leave_at_once() -> None:
    """From now on, the `ppgstream` command ends as soon as its exit code is known."""
    global leaves_at_once  # noqa: PLW0603
    leaves_at_once = True


def settle(stream: IO[str]) -> None:
    """Write what a standard stream still holds. What cannot be written is given up: Python would try again when it ends, and make
    120 of the exit code."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _on_broken_pipe(console: Console) -> None:
    """Rich would exit with 1."""
    raise BrokenPipeError


Console.on_broken_pipe = _on_broken_pipe  # type: ignore[method-assign,assignment]


def prepare_process() -> None:
    """To be called before anything is opened. Standard streams that are closed are opened on /dev/null, or a socket would get
    their descriptors, and what is printed would go into it. And the limit of descriptors is raised as far as the system allows.
    """
    for number, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):  # what is written to a closed stdout is an error
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, mode), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Streaming real-time denoiser for photoplethysmogram (PPG) signals.",
)


KeyOption = Annotated[
    Path | None,
    typer.Option("--key", metavar="FILE", help="Your secret key, NAME.key, for a daemon that asks for one (SECURITY.md)."),
]

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        help="A checkpoint folder, a TensorFlow 1 Saver prefix, .index file or folder, or the name of one of ours (default, "
        "fast, live, brae, lmmse)."
    ),
]


ColumnOption = Annotated[str | None, typer.Option(help="The PPG's column in a table: its name, or its number from 0.")]


FieldOption = Annotated[
    str | None, typer.Option(metavar="KEY", help="The key or prefix before the value, in lines like IR=512 or S512.")
]


TrustFsOption = Annotated[
    bool, typer.Option("--trust-fs", help="Take --fs, whatever the file's header and its times say; its times are not looked at.")
]
OfStreamOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which stream to take, of a file that `tap` wrote of several.")
]
TransposeOption = Annotated[
    bool, typer.Option("--transpose", help="Take the columns of a 2-D npy as the recordings, not its rows.")
]
ConfigOption = Annotated[Path | None, typer.Option(help="Settings (TOML). Default: ./config.toml if there is one.")]


def printable(text: str) -> str:
    """`text` in one line of bounded length, with anything from outside that could drive a terminal made visible."""
    if len(text) > LONGEST_LINE:
        text = f"{text[: LONGEST_LINE - 300]} ... {text[-300:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def key_of(path: Path | None) -> Key | None:
    """The key that an option names. Raises ConfigError."""
    if path is None:
        return None
    from ppgstream.live.keys import client

    return client(path)


def say(text: str) -> None:
    """One line to stderr. One that cannot be written is left out: what is wrong with stderr must not end the work."""
    with contextlib.suppress(OSError, ValueError):
        print(f"ppgstream: {printable(text)}", file=sys.stderr, flush=True)


class Stop:
    """Set by SIGINT, SIGTERM and SIGHUP; says which it was.

    at_once: until `hold` is called, the signal ends the process where it is: an exception would be lost in the import of a
    library.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.signal: int | None = None  # no Event: a handler that sets one waits for a lock that this thread may hold
        self._at_once = at_once
        self._then: Callable[[], None] = lambda: None
        self._hangup: Callable[[], None] | None = None
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a terminal that closes is no reason to lose samples
            if signal.getsignal(number) is not signal.SIG_IGN:  # what is ignored stays so: nohup, jobs in the background
                signal.signal(number, self._on_signal)

    def hold(self, then: Callable[[], None], hangup: Callable[[], None] | None = None) -> None:
        """From now on a signal calls `then`, and the command ends in its own time. hangup: called instead by a SIGHUP where
        there is no terminal that could have closed."""
        self._then, self._at_once = then, False
        self._hangup = hangup if hangup is not None and not has_terminal() else None

    def _on_signal(self, number: int, _: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            os._exit(EX_SIGINT)  # the second signal: end now
        if number == signal.SIGHUP and self._hangup is not None:
            self._hangup()
            return
        self.signal = number
        if self._at_once:
            with contextlib.suppress(OSError):
                os.write(2, b"ppgstream: stopped before it was ready\n")
            os._exit(self.exit_code())
        self._then()

    def __call__(self) -> bool:
        return self.signal is not None

    def wait(self, seconds: float) -> None:
        """Wait so long, or until a signal comes."""
        until = time.monotonic() + seconds
        while not self() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def exit_code(self) -> int:
        return EX_SIGINT if self.signal == signal.SIGINT else 0


def has_terminal() -> bool:
    """Whether this process has a terminal that controls it."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _version(asked: bool) -> None:
    if asked:
        from ppgstream import __version__, binaries

        print(f"{__version__} ({binaries.form()})")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and whether it is compiled.")
    ] = False,
) -> None:
    pass


def restored(path: str | None) -> Checkpoint:
    from ppgstream.model.checkpoint import BUNDLED
    from ppgstream.model.restore import restore

    return restore(Path(path) if path else BUNDLED)


def loaded(config_path: Path | None, **overrides: str | bool | None) -> Config:
    from ppgstream import config

    if config_path is None and config.DEFAULT_PATH.is_file() and config.is_foreign(config.DEFAULT_PATH):
        say(f"./{config.DEFAULT_PATH} has no setting of ppgstream's: it is passed over")
    return config.load(config_path, **overrides)
