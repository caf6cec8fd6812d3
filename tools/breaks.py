"""Faults put into the core on purpose, one at a time, and the test that must fail for each: shows that the tests notice them.

    python -m tools.breaks

Works on a copy of the clone. Takes three minutes. Exit code 1 if a fault goes unnoticed, or if its line is no longer found.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HOUSE = Path(__file__).parents[1]
SCRIPTS = "tests/test_scripts.py::test_a_script_is_published_as_when_it_was_frozen"


class Break(NamedTuple):
    """A fault: the text `right`, which is once in the core, becomes `wrong`. `test` must fail then."""

    what: str
    right: str
    wrong: str
    test: str = SCRIPTS


BREAKS = [
    Break("the follower's level is not moved at a step", "elif stepped:", "elif False:"),
    Break("the belief is not spread over a gap", "self.elapsed_s += seconds", "self.elapsed_s += 0.0"),
    Break("a gap of a second is taken for another heart", "if math.isinf(seconds):", "if seconds > 0.9:"),
    Break("a stream's own policy is not used", "policies.get(name, rules.policy)", "policies.get('', rules.policy)"),
    Break(
        "held samples keep their confidence",
        "confidence[not_measured] = np.minimum(confidence[not_measured], HELD_CONFIDENCE)",
        "pass",
    ),
    Break(
        "two windows of a stream in one tile are released together",
        "in turns(range(n), lambda k:",
        "in turns(range(n), lambda k: k or",
    ),
    Break("all samples of a row count as answered twice", ">= self._done_before", ">= self._done"),
    Break(
        "the flag of a step is lost",
        "        self.released = settled\n        plain",
        "        flags[:1] &= 0xFFFF ^ self._first_flags\n        self.released = settled\n        plain",
    ),
    Break(
        "confidence is not weighted as the answers are",
        "to_confidence[a + k] += weights[k] * own[k]",
        "to_confidence[a + k] += own[k]",
    ),
    Break(
        "a tile of one stream is as large as one of many",
        "most = min(most, max(few, len(self._turns))) if few else most",
        "pass",
        "tests/test_engine.py",
    ),
    Break(
        "a rate is told of samples that came at another rate than declared",
        "one.chunk.beats = untimed(one.chunk.beats)",
        "pass",
        "tests/test_engine.py",
    ),
    Break(
        "the time of a gap does not count since the last sure rate",
        "self.since_sure_s += seconds",
        "pass",
        "tests/test_doubts.py",
    ),
]


def place(core: Path, text: str) -> Path:
    """The file of the core that has this text, once. Raises LookupError if it is not exactly one."""
    found = [path for path in sorted(core.glob("*.py")) for _ in range(path.read_text().count(text))]
    if len(found) != 1:
        raise LookupError(f"{text!r} is {len(found)} times in the core, not once: say it anew in tools/breaks.py")
    return found[0]


def main() -> int:
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("ppgstream", "train", "tools", "tests"):
            shutil.copytree(HOUSE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HOUSE / "pyproject.toml", copy)
        for one in BREAKS:
            path = place(copy / "ppgstream" / "core", one.right)
            text = path.read_text()
            path.write_text(text.replace(one.right, one.wrong))
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile", "no_shrink"]
            run = subprocess.run([*command, one.test], cwd=copy, capture_output=True, text=True, check=False)  # noqa: S603
            path.write_text(text)
            failed = next((line for line in run.stdout.splitlines() if line.startswith("FAILED")), "")
            missed += not failed
            print(
                f"{'noticed' if failed else 'MISSED '}  {one.what}\n         {failed.split(' - ')[0] or run.stdout[-300:]}",
                flush=True,
            )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
