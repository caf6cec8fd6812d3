"""Waiting for something that happens elsewhere: in a thread, another process, a server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

PATIENCE_S = 60.0


def until(found: Callable[[], Any], what: str, *, seconds: float = PATIENCE_S) -> Any:
    """What `found` gives, once it is true. Fails the test after `seconds`; `what` says what was waited for."""
    ends = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > ends:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)
    return value
