"""For all tests: no cache but a temporary one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        # Shared by the processes of pytest-xdist, whose own folders lie beside each other.
        patch.setenv("XDG_CACHE_HOME", str((base.parent if base.name.startswith("popen-") else base) / "cache"))
        yield
