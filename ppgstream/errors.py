"""What can go wrong, named. Each error is one line for a person and one exit code for a script.

Exit codes follow BSD's sysexits.h where it has a word for the case.
"""

from __future__ import annotations

EX_USAGE = 2  # typer's own code for a wrong command line
EX_DATAERR = 65
EX_UNAVAILABLE = 69
EX_IOERR = 74
EX_CONFIG = 78
EX_SIGINT = 130
EX_SIGPIPE = 141


class PpgStreamError(Exception):
    """Base of every error of ours. `exit_code` is what the process ends with when nobody catches it."""

    exit_code = 1


class RefusedError(PpgStreamError):
    """A running daemon did not do what it was asked for. It says with which exit code that ends."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class UsageError(PpgStreamError):
    """The command line asks for something that cannot be."""

    exit_code = EX_USAGE


class ArgumentError(UsageError, ValueError):
    """An argument of one of the package's Python functions is none that it takes."""


class ConfigError(PpgStreamError):
    """A setting is unknown, of the wrong type, out of range or not allowed."""

    exit_code = EX_CONFIG


class CheckpointError(PpgStreamError):
    """A checkpoint cannot be read, does not fit its network, or holds values no network can run."""

    exit_code = EX_CONFIG


class WireError(PpgStreamError):
    """Bytes that are not a message of ours. The only error `wire.decode` raises. `stream`: whose they are, where it is known."""

    exit_code = EX_DATAERR
    stream = ""


class UnknownKindError(WireError):
    """A whole message of a kind that this version does not know: skipped."""


class DataError(PpgStreamError):
    """A recording holds no valid sample, or bad data where none is tolerated."""

    exit_code = EX_DATAERR


class SourceError(PpgStreamError):
    """A file, port or daemon that should be there is not."""

    exit_code = EX_UNAVAILABLE


class OutputError(PpgStreamError):
    """The result cannot be written."""

    exit_code = EX_IOERR
