"""The command line. Every command imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

from ppgstream.cli import files, live, models
from ppgstream.cli.shared import app, take_standard_streams

__all__ = ["app", "files", "live", "main", "models"]


def main() -> None:
    """The `ppgstream` command."""
    take_standard_streams()
    app()
