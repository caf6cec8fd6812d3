"""`ppgstream train`: from what was typed to a call of `fit`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ppgstream.errors import DataError, OutputError, UsageError
from ppgstream.model import lmmse, runtime
from ppgstream.model.architecture import OWN, Architecture
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.folder import write, write_restored
from ppgstream.model.restore import restore
from ppgstream.storage import replace_files

from . import batches, calibrate, card, data, fit, own, pictures
from .evaluate import progress
from .recipe import Recipe, make
from .streamed import Record

PUBLIC = Path("../shared/data")
SYNTHETIC_SEED = 7


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
    processes: int = 0,
    calibrated: bool = True,
) -> None:
    """Train as asked, and once the run is complete calibrate its confidence, if `calibrated`. options: recipe keys. sources:
    data, recordings, fs, column, field, group, synthetic_only. None: not given.

    Raises what `fit` and the readers raise.
    """
    if family == "lmmse":
        _refuse_for_lmmse(options, {"recipe": recipe, "from": start, "resume": resume, "minutes": minutes})
        _lmmse(_wanted(sources, {}), out or Path("runs/lmmse"), overwrite=overwrite)
        return
    found_start = None if start is None else restore(start)
    if found_start is not None and found_start.arch.family == OWN:
        raise UsageError(f"--from {start}: an imported network can be trained only where it was made: import it anew after that")
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
    wanted = _wanted(sources, {} if stored is None else stored["about"])
    fit.refuse_folder(folder, resume=resume, overwrite=overwrite)
    console = Console(stderr=True, highlight=False)
    sets, sheet = _sets(wanted, asked, console)
    data.refuse_leak(sets)
    if stored is not None:
        fit.refuse_other_run(stored, asked, sets, found_start, folder)
    elif found_start is not None:
        data.refuse_known(sets, fit.origin_of(found_start)["trained_on"], str(start))
    if sheet is not None and stored is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            pictures.contact_sheet(sheet, folder / "recordings.png", "what counts as clean")
        except OSError as error:
            raise OutputError(f"{folder}: cannot write: {error}") from error
        console.print(f"the clean stretches: {folder / 'recordings.png'}", markup=False, soft_wrap=True)
    # A run may be gone on with from another working directory.
    about = wanted | {key: str(Path(wanted[key]).absolute()) for key in ("data", "recordings") if key in wanted}
    complete = fit.fit(
        asked,
        sets,
        folder,
        about=about,
        start=found_start,
        resume=resume,
        overwrite=overwrite,
        minutes=minutes,
        threads=threads,
        processes=processes,
    )
    if complete and calibrated:
        _calibrate(folder, sets, console)


MOST_PEOPLE = 12  # that a new checkpoint is calibrated on; `checkpoint calibrate` takes more, and minutes


def _calibrate(folder: Path, sets: list[data.Set], console: Console) -> None:
    """Make the confidence of the checkpoint in `folder` a probability, on people of the sets that it was trained on."""
    every, unseen = calibrate.people_of(sets)
    people = every[:: -(-len(every) // MOST_PEOPLE) or 1]
    found = restore(folder)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if not people:
        say("no recording is long enough to calibrate the confidence on")
        return
    with (
        fit.alone(folder),
        progress(console, "calibrating the confidence (Ctrl-C: the checkpoint stays as it is)", _steps(found, people)) as step,
    ):
        stated, figures = calibrate.whole(found, runtime.denoiser(found), people, unseen=unseen, say=say, step=step)
    if not stated:
        say("the confidence is not calibrated: the seconds of these people are all good or all bad")
        return
    try:
        write_restored(folder, found, calibration=stated, figures=dict(found.figures) | figures)
        replace_files({folder / "README.md": card.text(restore(folder)).encode()})
    except OSError as error:
        raise OutputError(f"{folder}: cannot write: {error}") from error


def _steps(found: Checkpoint, people: Sequence[Record]) -> int:
    return calibrate.steps_of(found.arch.window, len(people))


def _refuse_for_lmmse(options: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    given = [key for key, value in (dict(options) | dict(others)).items() if value not in (None, False)]
    if given:
        raise UsageError(
            f"--{given[0].replace('_', '-')}: lmmse is computed in one pass over the clean windows and takes data alone"
        )


def _lmmse(wanted: Mapping[str, Any], folder: Path, *, overwrite: bool) -> None:
    """The prior of an LMMSE, from the training side of each set alike, as a checkpoint in `folder`."""
    fit.refuse_folder(folder, resume=False, overwrite=overwrite)
    sets, _ = _sets(wanted, make("dae", None, {}), Console(stderr=True, highlight=False))
    data.refuse_leak(sets)
    own = [data.scored_windows(s.sides["train"], hop=batches.PASS_HOP) for s in sets if s.sides["train"].stretches]
    if not own:
        raise DataError("no clean stretch to train on")
    most = min(len(windows) for windows in own)
    windows = np.concatenate([w[np.linspace(0, len(w) - 1, most).astype(int)] for w in own])
    try:
        write(
            folder,
            lmmse.prior_of(windows),
            Architecture("lmmse"),
            provenance=card.provenance_of(sets, data.trained_on(sets, None)) | {"windows": len(windows)},
        )
        replace_files({folder / "README.md": card.text(restore(folder)).encode()})
    except OSError as error:
        raise OutputError(f"{folder}: cannot write: {error}") from error
    print(f"lmmse: the prior of {len(windows)} clean windows is in {folder}", file=sys.stderr)


def _wanted(sources: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """The data sources asked for, over those of the run that is gone on with."""
    wanted = dict(stored) | {key: value for key, value in sources.items() if value not in (None, False)}
    if wanted.get("synthetic_only") and ("data" in wanted or "recordings" in wanted):
        raise UsageError("--synthetic: trains on nothing else; leave --data and --recordings out")
    alone = [key for key in ("fs", "trust_fs", "column", "field", "group") if key in wanted]
    if alone and "recordings" not in wanted:
        raise UsageError(f"--{alone[0].replace('_', '-')}: is for --recordings, which is not given")
    if not wanted.keys() & {"data", "recordings", "synthetic_only"}:
        if not PUBLIC.is_dir():
            raise UsageError(f"no recordings: give --recordings FOLDER, --data FOLDER or --synthetic ({PUBLIC} is not there)")
        wanted["data"] = str(PUBLIC)
    return wanted


def _keys(recipe: Recipe) -> dict[str, Any]:
    import msgspec

    return dict(msgspec.to_builtins(recipe))


def _sets(wanted: Mapping[str, Any], recipe: Recipe, console: Console) -> tuple[list[data.Set], data.Clean | None]:
    """Data sets with their splits, and what was chosen of recordings of one's own, after a table of it on the console."""
    if wanted.get("synthetic_only"):
        return [data.synthetic_set(SYNTHETIC_SEED)], None
    sets: list[data.Set] = []
    sheet = None
    if wanted.get("recordings"):
        names = {key: wanted.get(key) for key in ("fs", "column", "group")}
        found = own.read(Path(wanted["recordings"]), key=wanted.get("field"), trusted=bool(wanted.get("trust_fs")), **names)
        sides: dict[str, str] = {}
        try:
            chosen, sides = own.set_of(found)
        finally:
            console.print(own.table(found, sides))
        sets.append(chosen)
        sheet = own.together([f.clean for f in found])
    if wanted.get("data"):
        sets += data.public_sets(Path(wanted["data"]))
    if recipe.synthetic:
        sets.append(data.synthetic_set(SYNTHETIC_SEED, data.BESIDE_REAL))
    return sets, sheet
