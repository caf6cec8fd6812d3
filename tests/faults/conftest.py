"""For the tests of the faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.daemon import Daemon


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    made: list[Daemon] = []

    def go(*options: str, **streams: Any) -> Daemon:
        made.append(Daemon(tmp_path, *options, **streams))
        return made[-1]

    yield go
    for one in made:
        one.close()
