"""How long the faults are provoked for: a moment in `make test`, minutes in `make faults`."""

from __future__ import annotations

import os

LONG = os.environ.get("PPGSTREAM_FAULTS") == "long"


def times(short: int, long: int) -> int:
    return long if LONG else short
