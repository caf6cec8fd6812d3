"""For all tests: no cache but a temporary one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

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


# A shell ignores SIGINT for what it starts in the background, and `nohup` SIGHUP; so would the commands that tests start and send
# signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)

# By the beginnings of their names: tests that share a fixture that takes seconds, or TensorFlow, whose import does.
TOGETHER = {
    "tests/test_data.py::": "wearers",
    "tests/test_doubts.py::": "doubts",
    "tests/test_train.py::": "TensorFlow",
    "tests/test_docs.py::test_the_walk_through_training": "TensorFlow",
    "tests/faults/test_files.py::test_the_shapes_that_are_asked_for": "TensorFlow",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups by name: pytest-xdist 3.8.0 writes an item's group into `_nodeid`, which pytest 9.2 no longer reads."""
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Scheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = next((group for begins, group in TOGETHER.items() if nodeid.startswith(begins)), None)
            return super()._split_scope(nodeid) if group is None else group

    return Scheduling(config, log)
