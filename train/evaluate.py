"""`ppgstream evaluate`: how good checkpoints are on people they were not trained on, beside what needs no training. Definitions:
docs/bench.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, OutputError, SourceError, UsageError
from ppgstream.lab import noise, scores
from ppgstream.storage import replace_files

from . import data, methods, own, pulse, streamed
from . import tables as for_people
from .methods import Method

if TYPE_CHECKING:
    from rich.console import Console

Float64 = NDArray[np.float64]
WINDOW = 250
NOISE_SEEDS = range(1000, 1008)  # frozen: the eight noise draws that figures are quoted on
PARTS: dict[str, dict[str, Any]] = {
    "N1": {},
    "white": {"ramp": 0.0, "clip": False},
    "slope": {"white_sd": 0.0, "clip": False},
    "saturation": {"white_sd": 0.0, "ramp": 0.0},
}
PEOPLE = ("shapes", "wrist", "exercise")  # tables with people of their own
TABLES = (*PEOPLE, "streamed", "windows", "more", "faults", "nothing", "rates", "snr", "lookahead", "trust", "ecg", "cost")
NEIGHBOUR_HOP = {"course": 3}  # between the windows that neighbours are looked for in
RATES = ("N1-stream", "hand, dense", "steps", "clean")
RATES_SHORTEST_S = 8.0  # a heart rate needs as much


def window_row(
    method: Method, windows: Float64, *, seeds: range = NOISE_SEEDS, parts: Sequence[str] = tuple(PARTS)
) -> dict[str, float]:
    """G (dB), MSE and r under N1, and G under each of its `parts`, pooled over `seeds` draws on clean `windows` (n, window)."""
    assert method.windows is not None
    row: dict[str, float] = {}
    for part in parts:
        noisy = [noise.n1(windows, np.random.default_rng(seed), **PARTS[part]).noisy for seed in seeds]
        answers = np.concatenate([method.windows(x) for x in noisy])
        truth = np.tile(windows, (len(seeds), 1))
        row[f"g_{part.lower()}_db"] = round(scores.gain_db(np.concatenate(noisy), answers, truth), 2)
        if part == "N1":
            y, clean = noise.minmax(answers), noise.minmax(truth)
            row["mse"] = round(float(np.mean((y - clean) ** 2)), 5)
            row["r"] = round(float(np.mean(_correlation(y, clean))), 4)
    return row


def _correlation(a: Float64, b: Float64) -> Float64:
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return np.asarray((a * b).sum(axis=1) / np.maximum(np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)), 1e-12))


def tested_sets(folder: Path) -> dict[str, data.Clean]:
    """The recordings to test on under `folder`, by the name of their set. Raises SourceError if there are none."""
    readers: dict[str, Callable[[], data.Clean]] = {
        "BIDMC public_test": lambda: data.bidmc(folder, "test"),
        "course test": lambda: data.course(folder, "test"),
        "Welltory": lambda: data.welltory(folder),
    }
    there = {name: read() for name, read in readers.items() if (folder / name.split()[0].lower()).is_dir()}
    if not there:
        raise SourceError(
            f"{folder}: no recordings: neither bidmc/, course/ nor welltory/ is in it; --data FOLDER, or --recordings FOLDER "
            f"for your own"
        )
    return there


def training_windows(folder: Path) -> Float64 | None:
    """Clean training windows (n, 250) for the baselines that are computed from them; None where no public recordings are."""
    sets = {name: folder / name for name in ("course", "bidmc")}
    readers = {"course": data.course, "bidmc": data.bidmc}
    found = [
        data.scored_windows(readers[name](folder, "train"), hop=NEIGHBOUR_HOP.get(name, 50))
        for name, path in sets.items()
        if path.is_dir()
    ]
    return np.concatenate(found) if found else None


def own_set(source: Mapping[str, Any], console: Console) -> dict[str, data.Clean]:
    """A user's own recordings: their clean stretches are the truth that noise is added to. Raises DataError if there are none."""
    found = own.read(
        Path(source["recordings"]), fs=source["fs"], trusted=source["trusted"], column=source["column"], key=source["key"]
    )
    console.print(own.table(found, {}))
    clean = own.together([f.clean for f in found])
    long = [len(x) >= scores.HR_WINDOW_S * data.FS for x in clean.stretches]
    odd = [there and not scores.rate_known(x, data.FS) for x, there in zip(clean.stretches, long, strict=True)]
    if any(odd):
        names = sorted({name for name, out in zip(clean.recording, odd, strict=True) if out})
        console.print(
            f"left out, since two estimates of their heart rate differ: stretches of {', '.join(names)}", soft_wrap=True
        )
        kept = [k for k, out in enumerate(odd) if not out]
        clean = data.Clean([clean.stretches[k] for k in kept], [clean.recording[k] for k in kept])
    if not any(len(x) >= WINDOW for x in clean.stretches):
        raise DataError(
            f"--recordings {source['recordings']}: no clean stretch to add noise to (8 s of steady pulse at rest are needed)"
        )
    return {"own recordings": clean}


def evaluate(
    asked: list[str],
    *,
    folder: Path,
    own_source: Mapping[str, Any] | None,
    tables: Sequence[str] | None,
    seeds: int,
    only: bool = False,
    out: Path | None,
    latex: bool = False,
    console: Console,
) -> dict[str, Any]:
    """All tables asked for (None: those of people, `streamed` and `windows` of which there are recordings), as they are written
    to JSON. `only`: without the course's checkpoints, `lmmse` and what is computed from training windows. With `out`,
    evaluate.json, evaluate.md and pictures go there, and with `latex` evaluate.tex.

    Raises UsageError for an unknown table, SourceError, DataError or CheckpointError for what cannot be read, OutputError.
    """
    if tables is None:
        there = own_source is None and (folder / "wrist").is_dir()
        tables = [name for name in (*PEOPLE, "streamed", "windows") if there or name != "wrist"]
        if not there and own_source is None:
            console.print(f"{folder / 'wrist'}: not there: the table wrist is left out", soft_wrap=True)
    odd = [name for name in tables if name not in TABLES]
    if odd or not tables:
        raise UsageError(f"--tables: known are {', '.join(TABLES)}, got {', '.join(odd) or 'none'}")
    if "ecg" in tables and not (folder / "bidmc").is_dir():
        raise SourceError(f"--tables ecg: {folder / 'bidmc'} is not there, whose recordings have heart rates by ECG")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{out}: cannot write: {error}") from error
    tested = people_of("wrist", (), folder if own_source is None else None) if "wrist" in tables else []  # told before the work
    needed = bool(set(tables) - {"cost", "shapes", "wrist"})  # recordings of patients
    sets = {} if not needed else own_set(own_source, console) if own_source is not None else tested_sets(folder)
    training = training_windows(folder) if needed and not only and folder.is_dir() else None
    if needed and not only and training is None:
        console.print(f"{folder}: no training recordings there: the rows mean wave and kNN are left out", soft_wrap=True)
    compared = [*methods.baselines(training), *methods.chosen(asked, folder, only=only)]
    wearers = {"wrist": data.wrist(folder, "test")} if tested else {}
    known = {m.name: seen for m in compared if (seen := _seen(m, sets | wearers))}
    for name, count in known.items():
        console.print(f"{name} was trained on {count} of the recordings tested here: its figures flatter it", soft_wrap=True)
    shortest_s = streamed.SHORTEST_S if own_source is None else RATES_SHORTEST_S
    people = streamed.records(next(iter(sets.values())), shortest_s=shortest_s) if needed else []
    result: dict[str, Any] = {
        "methods": {m.name: {"parameters": m.parameters, "trained_on_tested": known.get(m.name, 0)} for m in compared},
        "sets": {name: {"recordings": len(set(c.recording)), "seconds": round(c.seconds)} for name, c in sets.items()},
        "records": [{"person": r.person, "seconds": round(len(r.clean) / data.FS, 1)} for r in people],
        "seeds": seeds,
    }
    where, pages, papers = next(iter(sets), ""), [""], [""]
    if not people and set(tables) - {"windows", "rates", "ecg", "cost", "shapes", "wrist"}:
        raise DataError(
            f"no clean stretch of {shortest_s:g} s and more: only --tables shapes, wrist, windows, rates, ecg and cost do "
            f"without one"
        )
    main, patients = seeds, people
    for name in tables:
        people, seeds = people_of(name, patients, folder if own_source is None else None), 1 if name == "shapes" else main
        with progress(console, name, _steps(name, compared, sets, len(people), seeds, folder)) as step:
            if name == "trust":
                draws = range(streamed.SEEDS.start, streamed.SEEDS.start + seeds)
                measured = streamed.measured_by_kind(compared, _kinds(name), people, seeds=draws, step=step)
                result |= {name: streamed.rows_of(measured), "trust_curves": streamed.curves_by_method(measured)}
            else:
                result[name] = _compute(name, compared, sets, people, seeds, step, folder)
        whose = {"windows": "all sets", "rates": "all sets", "shapes": "synthetic", "wrist": "wearers"}.get(name, where)
        whose += " and wearers" if name == "exercise" and len(people) > len(patients) else ""
        title = f"{name}: {whose}, {'1 draw' if seeds == 1 else f'{seeds} draws'} of noise"
        for table in for_people.shown(name, result[name], title):
            for part in table.rich(console.width):
                console.print(part)
            pages.append(table.markdown())
            papers.append(table.latex())
    if out is not None:
        from . import pictures

        try:
            content = {"evaluate.json": json.dumps(_plain(result), indent=1) + "\n", "evaluate.md": "\n".join(pages).lstrip()}
            content |= {"evaluate.tex": "\n".join(papers).lstrip()} if latex else {}
            replace_files({out / name: text.encode() for name, text in content.items()})
            drawn = pictures.bench(result, compared, patients, out, tested)
        except OSError as error:
            raise OutputError(f"{out}: cannot write: {error}") from error
        console.print(f"written: {out}/{', '.join([*content, *(path.name for path in drawn)])}", soft_wrap=True)
    return dict(_plain(result))


def people_of(name: str, patients: Sequence[streamed.Record], folder: Path | None) -> list[streamed.Record]:
    """Whose records a table is computed on: pulses of all shapes, the wearers of wrist sensors under `folder`, `patients`, or
    both. Raises SourceError where there are no wearers for the table `wrist`."""
    if name == "shapes":
        return streamed.shapes()
    if name not in PEOPLE:
        return list(patients)
    there = folder is not None and (folder / "wrist").is_dir()
    if name == "wrist" and not there:
        where = "among recordings of one's own" if folder is None else f"in {folder / 'wrist'}"
        raise SourceError(f"--tables wrist: there are no public recordings of wrists {where}")
    wearers = _wearers(folder) if folder is not None and there else []
    return wearers if name == "wrist" else [*wearers, *patients]


@lru_cache(maxsize=1)
def _wearers(folder: Path) -> list[streamed.Record]:
    return streamed.records(data.wrist(folder, "test"), longest_s=streamed.WEARER_S)


def _compute(
    name: str,
    compared: Sequence[Method],
    sets: Mapping[str, data.Clean],
    people: Sequence[streamed.Record],
    seeds: int,
    step: Callable[[str], None],
    folder: Path,
) -> list[dict[str, Any]]:
    draws = range(streamed.SEEDS.start, streamed.SEEDS.start + seeds)
    if name == "windows":
        rows = []
        for set_name, clean in sets.items():
            windows = data.scored_windows(clean)
            for method in (m for m in compared if m.windows is not None):
                step(f"{method.name}, {set_name}")
                row = window_row(method, windows, seeds=range(NOISE_SEEDS.start, NOISE_SEEDS.start + seeds))
                rows.append({"set": set_name, "method": method.name} | row)
        return rows
    if name == "rates":
        kinds = {kind: streamed.MAIN[kind] for kind in RATES}
        rows = []
        for set_name, clean in sets.items():
            own_people = streamed.records(clean, shortest_s=RATES_SHORTEST_S)
            found = streamed.table(compared, kinds, own_people, seeds=draws, step=step)
            rows += [{"set": set_name} | row for row in found if row["kind"] in kinds]
        return rows
    if name == "cost":
        return cost(compared, step)
    if name == "ecg":
        return pulse.against_ecg(compared, data.bidmc_with_ecg(folder), draws.start, step=step)
    if name == "snr":
        return streamed.by_snr(compared, people, seeds=draws, step=step)
    if name == "lookahead":
        return streamed.by_lookahead(compared, people, seeds=draws, step=step)
    return streamed.table(compared, _kinds(name), people, seeds=draws, step=step)


def _kinds(name: str) -> dict[str, streamed.Kind]:
    if name == "trust":
        return {**streamed.MAIN, **pulse.MOTION, **streamed.RHYTHMS, **pulse.IRREGULAR, **streamed.NOTHING}
    return streamed.SETS["main" if name == "streamed" else name]


ROUNDS, CALLS = 40, 4  # of timing: the methods take turns, so that a busy moment hits all of them


def cost(compared: Sequence[Method], step: Callable[[str], None]) -> list[dict[str, Any]]:
    """Parameters, MFLOP a window, and windows a second on one thread, of the methods that compute whole tiles: the median of
    `ROUNDS` rounds, and its ratio to the last method's time, of the same rounds."""
    import time

    timed = [m for m in compared if m.tile is not None]
    seconds: dict[str, list[float]] = {m.name: [] for m in timed}
    for number in range(ROUNDS):
        for method in timed:
            assert method.tile is not None
            method.tile()
            began = time.perf_counter()
            for _ in range(CALLS):
                method.tile()
            seconds[method.name].append((time.perf_counter() - began) / CALLS)
        step(f"round {number + 1} of {ROUNDS}")
    last = np.array(seconds[timed[-1].name]) if timed else np.ones(0)
    return [
        {
            "method": m.name,
            "parameters": m.parameters,
            "mflop": round(m.mflop, 2),
            "windows_per_s": round(methods.TILE / float(np.median(seconds[m.name]))),
            "time_ratio": round(float(np.median(np.array(seconds[m.name]) / last)), 2),
        }
        for m in timed
    ]


def _seen(method: Method, sets: Mapping[str, data.Clean]) -> int:
    """How many of the recordings a method was trained on, by name or by content."""
    names, stretches = (set(method.trained_on.get(key, ())) for key in ("recordings", "stretches"))
    if not names and not stretches:
        return 0
    seen = {
        name
        for clean in sets.values()
        for name, x in zip(clean.recording, clean.stretches, strict=True)
        if name in names or data.fingerprint(x)[:16] in stretches
    }
    return len(seen)


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


@contextmanager
def progress(console: Console, name: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar with what is being measured and the time left; where no terminal is, a line for each tenth."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.is_terminal:
        done = 0

        def tell(what: str) -> None:
            nonlocal done
            done += 1
            if done * 10 // total > (done - 1) * 10 // total:
                console.print(f"{name}: {done} of {total} ({what})", soft_wrap=True)

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=total)

        def step(what: str) -> None:
            bar.update(task, advance=1, description=f"{name}: {what}")

        yield step


def _steps(name: str, compared: Sequence[Method], sets: Mapping[str, data.Clean], people: int, seeds: int, folder: Path) -> int:
    """How often `_compute` calls `step`."""
    of_records = sum(m.record is not None for m in compared)
    if name == "windows":
        return len(sets) * sum(m.windows is not None for m in compared)
    if name == "rates":
        records = sum(len(streamed.records(clean, shortest_s=RATES_SHORTEST_S)) for clean in sets.values())
        return len(RATES) * records * seeds * of_records
    if name == "snr":
        return len(streamed.SWEPT) * len(streamed.SWEEP_DB) * people * seeds * of_records
    if name == "lookahead":
        ahead = sum(m.has_lookahead for m in compared)
        return len(streamed.LOOKAHEADS) * len(streamed.AT_LOOKAHEADS) * people * seeds * ahead
    if name == "ecg":
        return len(pulse.ECG_KINDS) * len(data.bidmc_with_ecg(folder)) * of_records
    return ROUNDS if name == "cost" else len(_kinds(name)) * people * seeds * of_records
