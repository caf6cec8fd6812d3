"""The command line. Every command imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

import sys

from ppgstream.cli import files, live, models
from ppgstream.cli.shared import app, prepare_process, settle

__all__ = ["app", "files", "live", "main", "models"]


def main() -> None:
    """The `ppgstream` command."""
    prepare_process()
    try:
        app()
    finally:
        settle(sys.stderr)
