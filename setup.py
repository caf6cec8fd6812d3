"""Compiles some modules where Cython and a C compiler are (ppgstream/binaries.py); everything else is in pyproject.toml."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from ppgstream.binaries import BUILT, MODULES, SHARED, digests, source_of  # noqa: E402 (of this folder)

# Both forms must give the same bits: no fused multiply-add, no other order of sums.
FLAGS = ["-O3", "-g0", "-ffp-contract=off"]


class Build(build_ext):
    """Notes which source each binary was made from."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def run(self) -> None:
        super().run()
        here = Path("ppgstream") if self.inplace or getattr(self, "editable_mode", False) else Path(self.build_lib, "ppgstream")
        there = {extension.name for extension in self.extensions if Path(self.get_ext_fullpath(extension.name)).exists()}
        built = {module: digest for module, digest in digests().items() if module in there}
        here.mkdir(parents=True, exist_ok=True)
        (here / BUILT).write_text(json.dumps(built, indent=1) + "\n")


def description(readme: str, home: str) -> str:
    """The README as a package index shows it, where its relative links lead nowhere: they lead to files of the project at `home`,
    or, without one, are named alone; pictures are left out then."""
    link = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")
    if home:
        return link.sub(lambda found: f"{found[1]}[{found[2]}]({home.rstrip('/')}/{found[3]})", readme)
    return link.sub(lambda found: "" if found[1] else found[2], readme)


def home() -> str:
    """Where the project's files can be read: PPGSTREAM_FILES, which a release sets, or what pyproject.toml says."""
    if there := os.environ.get("PPGSTREAM_FILES", ""):
        return there
    with (HERE / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"].get("urls", {}).get("Files", ""))


def extensions() -> list[Extension]:
    """Those that can be built here."""
    if os.environ.get("PPGSTREAM_PURE") == "1":
        return []
    try:
        from Cython.Build import cythonize
    except ImportError:
        return []
    # Types of C are in the `.pxd` beside a module, not in its annotations. Bounds are checked, and indexes and divisions are
    # Python's; None has no attributes.
    directives = {"language_level": 3, "annotation_typing": False, "infer_types": False, "nonecheck": True}
    sources = {module: str(source_of(module).relative_to(HERE)) for module in MODULES}
    modules = [Extension(name, [source], extra_compile_args=FLAGS) for name, source in sources.items()]
    modules.append(Extension(SHARED, [f"build/{SHARED}.c"], extra_compile_args=FLAGS))
    found: list[Extension] = cythonize(
        modules, build_dir="build", compiler_directives=directives, quiet=True, shared_utility_qualified_name=SHARED
    )
    for extension in found:
        extension.optional = True  # without a compiler it is interpreted
    return found


if __name__ == "__main__":
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": Build},
        long_description=description((HERE / "README.md").read_text(), home()),
        long_description_content_type="text/markdown",
    )
