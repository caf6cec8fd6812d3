"""Which recordings are meant by files, folders, patterns and URLs, and what their outputs are called."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ppgstream.api.summary import SUMMARY, place_of
from ppgstream.errors import OutputError, SourceError, UsageError
from ppgstream.files import remote
from ppgstream.files.formats import READERS, check_writer, parts_of, written_at

# The endings by which recordings in a folder are known.
KNOWN = (".csv", ".tsv", ".txt", ".log", ".json", ".jsonl", ".ndjson", ".npy", ".npz", ".gz", ".zip", *READERS)


class Input(NamedTuple):
    """A recording: a path of this machine, or a URL; then `path` is its name alone."""

    path: Path
    url: str = ""

    @property
    def where(self) -> str:
        return self.url or str(self.path)


def found_in(sources: Sequence[str], outputs: str) -> list[Input]:
    """The recordings: files, of a folder or a pattern those whose names end as recordings do, without what was written there
    before, where it is the folder of the `outputs` too. Sources may be URLs. Raises SourceError where there is none."""
    made = {_place(below(outputs, name)) for name in place_of(outputs).summary()}
    found: list[Input] = []
    for source in map(remote.plain, sources):
        inside = _inside(source)
        if not remote.is_url(source) and Path(source).is_dir():
            with contextlib.suppress(UsageError, OutputError):  # a summary that is not ours
                made |= {_place(below(source, name)) for name in place_of(source).summary()}
        if inside is None:
            found.append(Input(Path(source)) if not remote.is_url(source) else Input(Path(remote.name_of(source)), source))
            continue
        beside = {str(part) for one in inside if not one.url for part in parts_of(one.path)[1:]}  # a sidecar is none by itself
        named = (one for one in inside if one.path.name != SUMMARY and not one.path.name.startswith("."))
        known = (one for one in named if one.path.suffix.lower() in KNOWN)
        inside = [one for one in known if one.where not in beside and _place(one.where) not in made]
        if not inside:
            raise SourceError(f"{source}: no recording there: no file that ends in {', '.join(KNOWN)}")
        found += inside
    return list({_place(one.where): one for one in reversed(found)}.values())[::-1]


def _inside(source: str) -> list[Input] | None:
    """The files of a folder or a pattern; None for what is neither. Raises SourceError."""
    if remote.is_url(source):
        urls = remote.expanded(source)
        return None if urls == [source] else [Input(Path(remote.name_of(url)), url) for url in urls]
    path = Path(source)
    try:
        if path.is_dir():
            return [Input(one) for one in sorted(path.iterdir()) if one.is_file()]
        if path.exists() or not any(mark in source for mark in remote.PATTERN):
            return None
    except OSError as error:
        if path.is_dir():
            raise SourceError(f"{source}: cannot read the folder: {error.strerror}") from error
        return None  # told when it is read
    found = glob.glob(source, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    matching = [Input(Path(one)) for one in sorted(found) if Path(one).is_file()]
    if not matching:
        raise SourceError(f"{source}: nothing matches")
    return matching


def below(folder: str, name: str) -> str:
    """A file in a folder, a path or a URL."""
    return f"{folder.rstrip('/')}/{name}"


def _place(where: str) -> str:
    """A file, whatever way leads to it."""
    return where if remote.is_url(where) else str(_resolved(Path(where)))


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # too long, or links in a circle: told when it is read
        return path


def names_of(inputs: Sequence[Input], format_: str) -> list[str]:
    """A file for each recording, below the folder of outputs: by its name without its ending where that is the only one, else
    with it. Where recordings of several folders have one name, their folders are made there too. Raises UsageError where that is
    not enough."""
    flat = [one.path.name for one in inputs]
    places = [PurePath(name) for name in flat]
    if len(set(flat)) < len(flat):
        paths = [_place(one.where) for one in inputs]
        try:
            above = os.path.commonpath([str(PurePath(path).parent) for path in paths])
        except ValueError:  # files of this machine and URLs
            above = ""
        places = [PurePath(path).relative_to(above) for path in paths] if above else places
    stems = [str(place.with_name(re.sub(r"(\.(csv|tsv|txt|json))?\.[^.]+$", "", place.name) or place.name)) for place in places]
    many = {stem for stem, n in Counter(stems).items() if n > 1}
    names = [str(place) if stem in many else stem for stem, place in zip(stems, places, strict=True)]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        first, other = (one.where for one, name in zip(inputs, names, strict=True) if name == twice[0])
        raise UsageError(f"{first} and {other}: both would be written to {twice[0]}.{format_}: use two folders")
    return [f"{name}.{format_}" for name in names]


def check_outputs(inputs: Sequence[Input], folder: str, names: Sequence[str], tables: Sequence[Path]) -> None:
    """Raises UsageError where an output would take an input's place, or a library for it is missing."""
    local = [one.path for one in inputs if not one.url]
    for name in names:
        check_writer(Path(name))
    if remote.is_url(folder):
        urls = {one.url for one in inputs}
        for name in names:
            if (url := below(folder, name)) in urls:
                raise UsageError(f"{url}: is the input: write somewhere else")
    else:
        outputs = [Path(folder, name) for name in names]
        check_apart(local, outputs)
        local += [*outputs, Path(folder, SUMMARY)]
    check_apart(local, tables)
    if len(tables) > 1 and len({_resolved(table) for table in tables}) == 1:
        raise UsageError(f"{tables[0]}: beats and rates: two files are needed")


def check_apart(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raises UsageError where an output would take an input's place."""
    taken = {_resolved(part): path for path in inputs for part in parts_of(path)}
    for output in itertools.chain.from_iterable(written_at(output) for output in outputs):
        if (path := taken.get(_resolved(output))) is not None:
            raise UsageError(f"{output}: is the input {path}: write somewhere else")
