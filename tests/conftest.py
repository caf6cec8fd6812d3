"""For all tests: no cache but a temporary one."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before NumPy is imported. pytest-xdist keeps all cores busy: threads of linear algebra that wait for each other there made tests
# take half as long again.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
from hypothesis import Phase, settings  # noqa: E402

# `--hypothesis-profile no_shrink`: that it fails is enough, the smallest example is not wanted.
settings.register_profile("no_shrink", phases=[Phase.explicit, Phase.generate], database=None)


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        # Shared by the processes of pytest-xdist, whose own folders lie beside each other.
        patch.setenv("XDG_CACHE_HOME", str((base.parent if base.name.startswith("popen-") else base) / "cache"))
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a module's fixture run in one worker (`--dist loadgroup`), so that it is made once."""
    for item in items:
        known = getattr(item, "_fixtureinfo", None)
        shared = [
            name for name, found in (known.name2fixturedefs if known else {}).items() if found and found[-1].scope == "module"
        ]
        if shared:
            item.add_marker(pytest.mark.xdist_group(f"{item.nodeid.partition('::')[0]}"))
