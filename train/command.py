"""`ppgstream train`: from what was typed to a call of `fit`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ppgstream import checkpoint as checkpoints
from ppgstream.errors import DataError, OutputError, UsageError

from . import data, fit, own, pictures
from .recipe import Recipe, make

PUBLIC = Path("../shared/data")
SYNTHETIC_SEED = 7
SOURCES = ("data", "recordings", "fs", "column", "field", "group", "synthetic_only")


def train(
    family: str | None,
    *,
    recipe: Path | None,
    options: Mapping[str, Any],
    sources: Mapping[str, Any],
    out: Path | None,
    start: Path | None,
    resume: bool,
    overwrite: bool,
    minutes: float | None,
    threads: int,
) -> None:
    """Train as asked. options: recipe keys; sources: of `SOURCES`; None where nothing was given. Raises what `fit` and the readers raise."""
    found_start = None if start is None else checkpoints.restore(start)
    if family is None and recipe is None and found_start is not None and not resume:
        family = found_start.arch.family
    stored = None
    if resume:
        folder = out or Path("runs") / (family or "")
        stored = fit.state_of(folder)
        if stored is None:
            raise UsageError(f"--resume: {folder / fit.STATE} is not there: nothing to go on from")
    base = None if stored is None else _keys(stored["recipe"])
    asked = make(family, recipe, options, base=base)
    folder = out or Path("runs") / asked.family
    if found_start is not None and stored is None:
        asked = fit.architecture_from(found_start, asked, str(start))
    wanted = {key: value for key, value in sources.items() if value not in (None, False)}
    if stored is not None and not wanted:
        wanted = stored["about"]
    fit.refuse_folder(folder, resume=resume, overwrite=overwrite)
    console = Console(stderr=True, highlight=False)
    sets, sheet = _sets(wanted, asked, console)
    if found_start is not None:
        _refuse_known(found_start, sets)
    if sheet is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pictures.contact_sheet(sheet, folder / "recordings.png", "what counts as clean")
        except OSError as error:
            raise OutputError(f"{folder}: cannot write: {error}") from error
        console.print(f"the clean stretches: {folder / 'recordings.png'}", markup=False, soft_wrap=True)
    fit.fit(
        asked, sets, folder, about=wanted, start=found_start, resume=resume, overwrite=overwrite, minutes=minutes, threads=threads
    )


def _keys(recipe: Recipe) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(recipe))


def _sets(wanted: Mapping[str, Any], recipe: Recipe, console: Console) -> tuple[list[data.Set], data.Clean | None]:
    """Data sets with their splits, and what was chosen of recordings of one's own, after a table of it on the console."""
    if wanted.get("synthetic_only"):
        if wanted.get("data") or wanted.get("recordings"):
            raise UsageError("--synthetic: trains on nothing else; leave --data and --recordings out")
        return [data.synthetic_set(SYNTHETIC_SEED)], None
    sets: list[data.Set] = []
    sheet = None
    if wanted.get("recordings"):
        names = {key: wanted.get(key) for key in ("fs", "column", "group")}
        found = own.read(Path(wanted["recordings"]), key=wanted.get("field"), **names)
        sides: dict[str, str] = {}
        try:
            chosen, sides = own.set_of(found)
        finally:
            console.print(own.table(found, sides))
        sets.append(chosen)
        sheet = own.together([f.clean for f in found])
    if wanted.get("data") or not sets:
        sets += data.public_sets(Path(wanted.get("data") or PUBLIC))
    if recipe.synthetic:
        sets.append(data.synthetic_set(SYNTHETIC_SEED))
    return sets, sheet


def _refuse_known(start: checkpoints.Checkpoint, sets: list[data.Set]) -> None:
    """Raises DataError, naming it, if a recording to validate or test on is one that the checkpoint was trained on."""
    trained = set(dict(start.provenance.get("split", {})).get("train", []))
    for data_set in sets:
        for side in ("validation", "test"):
            known = sorted(trained & set(data_set.recordings(side)))
            if known:
                raise DataError(
                    f"recording {known[0]} is in {side} here, and {start.path} was trained on it: a test on it would prove nothing"
                )
