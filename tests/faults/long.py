"""How long the faults are provoked for: a moment in `make test`, minutes in `make faults`."""

from __future__ import annotations

import os

import pytest

LONG = os.environ.get("PPGSTREAM_FAULTS") == "long"

slow = pytest.mark.skipif(not LONG, reason="a part of the long form: make faults")


def times(short: int, long: int) -> int:
    return long if LONG else short
