"""Recordings of one's own: a folder of them, their clean stretches (`ppgstream.files.clean`), and which recording is for what.

Training adds noise to what it takes for clean and asks for it back, so a noisy stretch taken for clean would teach the network to
keep its noise.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.files import recording
from ppgstream.files.clean import Report, choose, place

from .data import SIDES, Clean, Set

if TYPE_CHECKING:
    from rich.table import Table

SUFFIXES = (".txt", ".csv", ".tsv", ".npy", ".npz", ".log", ".dat")
SHARES = {"test": 0.15, "validation": 0.15}  # of the groups
LEAST_TRAIN_S, LEAST_VALIDATION_S = 30.0, 8.0


class Found(NamedTuple):
    """What was found in one recording: its clean stretches, the report on it, and the group that it belongs to."""

    clean: Clean
    report: Report
    group: str


def read(
    folder: Path,
    *,
    fs: float | None,
    trusted: bool = False,
    column: str | None = None,
    key: str | None = None,
    group: str | None = None,
) -> list[Found]:
    """The clean stretches of all recordings in `folder`. A recording is a group of its own, or of what `group` finds in its
    file's name.

    fs: of the files that do not state their rate, Hz; of all if `trusted`. Raises SourceError for a folder without recordings,
    UsageError for a `group` that does not fit, or a column that no file has, DataError if all state another rate. A file that
    cannot be read, or states another rate, is reported as that.
    """
    if not folder.is_dir():
        raise SourceError(f"--recordings {folder}: no such folder")
    if fs is not None and not 20 <= fs <= 1000:
        raise UsageError(f"--fs {fs:g}: must be 20 to 1000 Hz")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise SourceError(f"--recordings {folder}: no recordings in it (files ending in {', '.join(SUFFIXES)})")
    groups = _groups([str(p.relative_to(folder)) for p in paths], group)
    found: list[Found] = []
    first: UsageError | DataError | None = None  # of those that are the command's: a column, a rate
    for path in paths:
        file = str(path.relative_to(folder))
        try:
            content = recording.read(path, column=column, key=key, clocked=not trusted)
            try:
                rate = content.rate(str(path), fs, trusted=trusted)
            except DataError as error:
                first = first or error
                raise
        except (DataError, UsageError) as error:  # one bad file is no reason to refuse the others
            first = first or (error if isinstance(error, UsageError) else None)
            told = str(error).removeprefix(f"{path}: ")
            found.append(Found(Clean([], []), Report(file, refused=Counter({told: 1})), groups.get(file, file)))
            continue
        rows = np.atleast_2d(content.samples)
        for number, row in enumerate(rows):
            name = file if len(rows) == 1 else f"{file}[{number}]"
            stretches, report = choose(row, rate, name)
            found.append(Found(Clean(stretches, [name] * len(stretches)), report, groups.get(file, name)))
    if first is not None and not any(f.report.seconds for f in found):
        raise first  # it is not the files
    return found


def set_of(found: list[Found]) -> tuple[Set, dict[str, str]]:
    """The data set with its split, and the side of each group. Raises DataError as `split` does."""
    groups: dict[str, list[Clean]] = {}
    for clean, _, group in found:
        groups.setdefault(group, []).append(clean)
    sides = split(groups)
    parts = {side: [f.clean for f in found if sides.get(f.group) == side] for side in SIDES}
    return Set("own", {side: together(parts[side]) for side in SIDES}), sides


def together(parts: list[Clean]) -> Clean:
    return Clean([x for c in parts for x in c.stretches], [n for c in parts for n in c.recording])


def _groups(names: list[str], group: str | None) -> dict[str, str]:
    if group is None:
        return {}
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UsageError(f"--group {group!r}: not a regular expression: {error}") from error
    found = {}
    for name in names:
        match = pattern.search(name)
        if match is None:
            raise UsageError(f"--group {group!r}: not found in the file name {name!r}")
        found[name] = match.group(1) if pattern.groups and match.group(1) is not None else match.group(0)
    return found


def split(groups: dict[str, list[Clean]]) -> dict[str, str]:
    """The side of each group that has clean signal. By a hash of the group's name, so that more recordings leave the earlier ones
    where they are; but where no group's hash says so, the groups of the lowest and second lowest validate and test.

    Raises DataError with the numbers for one group only, or for too little signal on a side that is needed.
    """
    seconds = {g: sum(c.seconds for c in clean) for g, clean in groups.items()}
    usable = sorted((g for g, s in seconds.items() if s > 0), key=place)
    total = sum(seconds.values())
    if len(usable) < 2:
        raise DataError(
            f"{total:.0f} s of clean signal in {len(usable)} of {len(groups)} recordings: training needs clean signal of at "
            f"least two "
            "recordings (with --group: people), one of them to validate on"
        )
    sides = {g: _side(place(g)) for g in usable}
    # At least one to validate on, one to test on if there are three, and one to train on.
    if "validation" not in sides.values():
        sides[usable[0]] = "validation"
    if "test" not in sides.values() and len(usable) > 2:
        sides[next(g for g in usable if sides[g] != "validation")] = "test"
    if "train" not in sides.values():
        sides[usable[-1]] = "train"
    if "validation" not in sides.values():
        sides[usable[0]] = "validation"
    for side, least in (("train", LEAST_TRAIN_S), ("validation", LEAST_VALIDATION_S)):
        there = sum(seconds[g] for g in usable if sides[g] == side)
        if there < least:
            raise DataError(
                f"{total:.0f} s of clean signal, {there:.0f} s of it to {side.replace('validation', 'validate')} on: "
                f"{least:.0f} s are needed there; "
                "record more at rest"
            )
    return sides


def _side(at: float) -> str:
    if at < SHARES["validation"]:
        return "validation"
    return "test" if at < SHARES["validation"] + SHARES["test"] else "train"


def table(found: list[Found], sides: dict[str, str]) -> Table:
    """For the terminal: a recording a row, and all of them; its side of the split, if there is one."""
    from rich.table import Table

    shown = Table(title="clean signal chosen by rule", title_justify="left")
    for heading in ("recording", "s", "clean, s", "windows", *(["side"] if sides else []), "refused"):
        shown.add_column(heading, justify="left" if heading in ("recording", "side", "refused") else "right", overflow="fold")
    reports = [f.report for f in found]
    total = Report("all", sum(r.seconds for r in reports), sum(r.chosen for r in reports), sum(r.windows for r in reports))
    for report in reports:
        total.refused.update(report.refused)
    rows = [(f.report, sides.get(f.group, "") if f.report.chosen else "") for f in found]
    for r, side in [*rows, (total, "")]:
        why = ", ".join(f"{count} {reason}" for reason, count in r.refused.most_common())
        shown.add_row(r.name, f"{r.seconds:.0f}", f"{r.chosen:.0f}", str(r.windows), *([side] if sides else []), why)
    return shown
