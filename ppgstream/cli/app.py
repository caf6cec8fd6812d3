"""The command line. Every command imports what it needs when it runs, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys

from ppgstream.cli import files, fleet, live, models, record, reload, run, shared
from ppgstream.cli.shared import app, prepare_process, settle

__all__ = ["app", "files", "fleet", "live", "main", "models", "record", "reload", "run"]


def main() -> None:
    """The `ppgstream` command."""
    prepare_process()
    try:
        app()
    except SystemExit as end:
        if not shared.leaves_at_once:
            raise
        settle(sys.stdout)
        settle(sys.stderr)
        os._exit(end.code if isinstance(end.code, int) else end.code is not None)
    finally:
        settle(sys.stderr)
