"""Which modules run compiled. The same `.py` file is compiled where a compiler was at the installation (`setup.py`), and
interpreted elsewhere; the answers are the same to the last bit.

A binary that was not made from the `.py` beside it is not used, and one line says so. With PPGSTREAM_PURE=1 none is.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent
MODULES = (
    "ppgstream.wire.message",
    *(
        f"ppgstream.core.{name}"
        for name in (
            "beats",
            "belief",
            "beside",
            "clock",
            "engine",
            "follower",
            "intake",
            "judge",
            "measuring",
            "quality",
            "ready",
            "resample",
            "resampled",
            "rhythm",
            "segments",
            "sequence",
            "session",
            "spectra",
            "statistics",
            "stream",
            "tile",
            "timeline",
            "track",
            "trees",
        )
    ),
)
SHARED = "ppgstream.core._shared"  # what Cython's modules have in common
BUILT = "built.json"  # in FOLDER: of each binary, what its source was


def source_of(module: str, folder: Path = FOLDER) -> Path:
    """The `.py` of a module."""
    return folder.joinpath(*module.split(".")[1:]).with_suffix(".py")


def digests(folder: Path = FOLDER) -> dict[str, str]:
    """Of each module, what tells two sources of it apart: itself, and what all `.pxd` say of the types of C."""
    types = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*/*.pxd"))))
    found = {}
    for module in MODULES:
        whole = types.copy()
        whole.update(source_of(module, folder).read_bytes())
        found[module] = whole.hexdigest()
    return found


def binary_of(module: str, folder: Path = FOLDER) -> Path | None:
    """The binary of a module, if there is one that Python would load."""
    source = source_of(module, folder)
    names = (source.with_suffix(suffix) for suffix in importlib.machinery.EXTENSION_SUFFIXES)
    return next((name for name in names if name.exists()), None)


def refused(folder: Path = FOLDER) -> list[str]:
    """Modules whose binary was not made from the source that is there."""
    there = [module for module in MODULES if binary_of(module, folder) is not None]
    if not there:
        return []
    try:
        built = json.loads((folder / BUILT).read_text())
    except (OSError, ValueError):
        return there
    if binary_of(SHARED, folder) is None:
        return there
    now = digests(folder)
    return [module for module in there if built.get(module) != now[module]]


class Interpreted:
    """Finds the `.py` of some modules, where Python would take the binary."""

    def __init__(self, modules: Sequence[str]) -> None:
        self.modules = frozenset(modules)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """As Python's finders do."""
        if name not in self.modules:
            return None
        source = str(source_of(name))
        return importlib.util.spec_from_file_location(name, source, loader=importlib.machinery.SourceFileLoader(name, source))


def install() -> None:
    """Decide which modules run compiled, before any of them is imported."""
    if os.environ.get("PPGSTREAM_PURE") == "1":
        sys.meta_path.insert(0, Interpreted(MODULES))
        return
    if old := refused():
        first, more = source_of(old[0]).relative_to(FOLDER.parent), f" and {len(old) - 1} others" if len(old) > 1 else ""
        line = f"{first}{more} changed since the last compilation: interpreted, 20 times as slow: install again (make, or pip)"
        sys.stderr.write(f"ppgstream: {line}\n")
        sys.meta_path.insert(0, Interpreted(MODULES))  # all: a class of the one form cannot extend one of the other


def form() -> str:
    """`compiled` if all modules that can be are, else `interpreted`."""
    is_source = any(isinstance(finder, Interpreted) for finder in sys.meta_path)
    return "interpreted" if is_source or any(binary_of(module) is None for module in MODULES) else "compiled"


def note() -> str:
    """What there is to be said of the form before it serves streams; empty of the compiled one."""
    if form() == "compiled":
        return ""
    return "the core is interpreted: at most some 190 streams; installed where a C compiler is, it carries ten times as many"
