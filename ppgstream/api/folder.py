"""Many recordings: each denoised into a file of a folder, with a table of all. A file that is there already is not made again."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream import __version__
from ppgstream.api.arguments import denoiser_of
from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.engine import Engine
from ppgstream.core.rate import SURE
from ppgstream.errors import DataError, OutputError, PpgStreamError, SourceError, UsageError
from ppgstream.files import long, offline, recording
from ppgstream.files.formats import READERS, check_writer, parts_of, written_at
from ppgstream.files.offline import Denoised
from ppgstream.model.checkpoint import BUNDLED, Checkpoint
from ppgstream.model.restore import restore
from ppgstream.wire.message import stream_like

SUMMARY = "summary.csv"
BESIDE = ".ppgstream-*.tmp"  # files that are not whole yet (storage.py)
WRITE_EVERY_S = 1.0  # the summary: of thousands of recordings it is long
# The endings by which recordings in a folder are known.
KNOWN = (".csv", ".tsv", ".txt", ".log", ".json", ".jsonl", ".ndjson", ".npy", ".npz", ".gz", ".zip", *READERS)
BEATS_HEAD = ("file", "row", "sample", "t_s", "confidence", "interval_ms", "error_ms")
RATES_HEAD = ("file", "row", "t_s", "bpm", "confidence")


class Reading(NamedTuple):
    """How a recording is read: as the options of `ppgstream denoise`."""

    fs: float | None = None
    trust_fs: bool = False
    column: str | None = None
    field: str | None = None
    stream: str | None = None
    transpose: bool = False
    strict: bool = False


class Task(NamedTuple):
    """One recording, and the file it becomes. tables: its beats and rates are wanted too."""

    path: Path
    output: Path
    reading: Reading
    settings: Config
    tables: bool


@dataclass
class Row:
    """A line of the summary. fs: Hz; trusted: share of the samples whose confidence is 0.5 or more; hr_bpm: the median of the
    sure rates; beats: the sure ones; events: what the engine said, in words. sha256: of the input; made_by: of all that decides
    the output, the checkpoint, the settings and the version; output_sha256: of the output. error: why there is no output."""

    file: str
    output: str
    minutes: str = ""
    fs: str = ""
    trusted: str = ""
    hr_bpm: str = ""
    beats: str = ""
    events: str = ""
    sha256: str = ""
    made_by: str = ""
    output_sha256: str = ""
    error: str = ""


class Done(NamedTuple):
    """What became of a task. beats, rates: lines for the tables. code: an exit code, 0: there is an output."""

    row: Row
    beats: list[tuple[str, ...]]
    rates: list[tuple[str, ...]]
    code: int = 0
    skipped: bool = False


def found_in(sources: Sequence[Path], outputs: Path) -> list[Path]:
    """The recordings: the files, and of a folder those whose names end as recordings do, without what was written there before,
    where it is the folder of the `outputs` too. Raises SourceError for a folder without any."""
    made = {_resolved(outputs / name) for name in summary_in(outputs)}
    paths: list[Path] = []
    for source in sources:
        if not source.is_dir():
            paths.append(source)
            continue
        try:
            inside = sorted(path for path in source.iterdir() if path.is_file() and path.suffix.lower() in KNOWN)
        except OSError as error:
            raise SourceError(f"{source}: cannot read the folder: {error.strerror}") from error
        beside = {part for path in inside for part in parts_of(path)[1:]}  # a sidecar is none by itself
        named = (path for path in inside if path.name != SUMMARY and not path.name.startswith("."))
        inside = [path for path in named if path not in beside and _resolved(path) not in made]
        if not inside:
            raise SourceError(f"{source}: no recording in this folder: none of its files ends in {', '.join(KNOWN)}")
        paths += inside
    return list({_resolved(path): path for path in reversed(paths)}.values())[::-1]


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # too long, or links in a circle: told when it is read
        return path


def outputs_of(paths: Sequence[Path], folder: Path, format_: str) -> list[Path]:
    """A file for each recording: by its name without its ending where that is the only one, else with it. Raises UsageError where
    that is not enough."""
    stems = [re.sub(r"(\.(csv|tsv|txt|json))?\.[^.]+$", "", path.name) or path.name for path in paths]
    names = [stem if stems.count(stem) == 1 else path.name for stem, path in zip(stems, paths, strict=True)]
    for k, name in enumerate(names):
        if name in names[:k]:
            first = paths[names.index(name)]
            raise UsageError(f"{first} and {paths[k]}: both would be written to {folder / name}.{format_}: use two folders")
    outputs = [folder / f"{name}.{format_}" for name in names]
    for output in outputs:
        check_writer(output)
    check_apart(paths, outputs)
    return outputs


def check_apart(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raises UsageError where an output would take an input's place."""
    taken = {_resolved(part): path for path in inputs for part in parts_of(path)}
    for output in itertools.chain.from_iterable(written_at(output) for output in outputs):
        if (path := taken.get(_resolved(output))) is not None:
            raise UsageError(f"{output}: is the input {path}: write somewhere else")


def made_by(settings: Config, reading: Reading, checkpoint: Checkpoint) -> str:
    """What tells apart all that decides an output beside its input: the checkpoint, the settings, and the program's version; 16
    hexadecimal digits."""
    told = (checkpoint.id, msgspec.json.encode(settings.windows), msgspec.json.encode(settings.streams), settings.out.dtype)
    more = (settings.in_.sentinels, tuple(reading), __version__)
    return hashlib.sha256(repr((told, more)).encode()).hexdigest()[:16]


def denoise_all(tasks: Sequence[Task], *, jobs: int, known: dict[str, Row], checkpoint: Checkpoint) -> Iterator[Done]:
    """Denoise recordings, `jobs` at once, each on one thread; those done before the others come first. known: the lines of the
    summary that is there, by their outputs: what is there of the same input, checkpoint and settings is not made again."""
    if jobs <= 1 or len(tasks) <= 1:
        yield from (work(task, known.get(task.output.name), checkpoint) for task in tasks)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # in the processes that begin now
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    jobs = min(jobs, len(tasks))
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)
    waiting: dict[Future[Done], Task] = {}
    todo = iter(tasks)
    whole = False
    try:
        while True:
            for task in itertools.islice(todo, jobs + 1 - len(waiting)):
                waiting[pool.submit(work, task, known.get(task.output.name), None)] = task
            if not waiting:
                break
            done, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                task = waiting.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    names = ", ".join(str(one.path) for one in (task, *waiting.values()))
                    why = "a process was ended from outside (out of memory?)"
                    raise OutputError(f"{why}; it had one of {names:.300}: what is done is kept") from None
        whole = True
    finally:
        if not whole:  # outputs are written whole or not at all: nothing is lost but what is under way
            for process in list((pool._processes or {}).values()):
                process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In each process: Ctrl-C is the parent's, and without the parent it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


@lru_cache(maxsize=1)
def _restored(path: str) -> Checkpoint:
    return restore(Path(path) if path else BUNDLED)


def work(task: Task, known: Row | None, checkpoint: Checkpoint | None = None) -> Done:
    """One recording. What is wrong with it is in the row."""
    row = Row(str(task.path), task.output.name)
    try:
        chosen = checkpoint or _restored(task.settings.model.checkpoint)
        row.sha256, row.made_by = _digest(*parts_of(task.path)), made_by(task.settings, task.reading, chosen)
        same = known is not None and (known.sha256, known.made_by, known.error) == (row.sha256, row.made_by, "")
        if same and known is not None and not task.tables and task.output.is_file():
            known.file = row.file
            if _digest(*parts_of(task.output)) == known.output_sha256:
                return Done(known, [], [], skipped=True)
        result, fs, clock, events = _denoised(task, Engine(denoiser_of(chosen), rules_of(task.settings, chosen)))
        offline.save(task.output, result, fs=fs, stream=stream_like(task.path.stem), clock=clock)
        _fill(row, result, fs, events)
        row.output_sha256 = _digest(*parts_of(task.output))
        return Done(row, *_tables(row.file, result, fs, clock)) if task.tables else Done(row, [], [])
    except PpgStreamError as error:
        row.error = str(error)
        return Done(row, [], [], error.exit_code)
    except OSError as error:
        row.error = f"{task.path}: {error.strerror or error}"
        return Done(row, [], [], SourceError.exit_code)
    except MemoryError:
        row.error = f"{task.path}: there is not enough memory for this recording"
        return Done(row, [], [], SourceError.exit_code)


def _digest(*paths: Path) -> str:
    """Of the content of files; of one its sha256. Raises SourceError."""
    found = []
    for path in paths:
        try:
            with path.open("rb") as file:
                found.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise SourceError(f"{path}: cannot read: {error.strerror}") from error
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def _denoised(task: Task, engine: Engine) -> tuple[Denoised, float, offline.Clocked | None, list[str]]:
    """The output, its rate, its clock, and what there is to say."""
    path, (fs, trusted, column, key, stream, transpose, strict) = task.path, task.reading
    as_asked: dict[str, Any] = {"column": column, "key": key, "stream": stream, "clocked": not trusted}
    suffix = task.output.suffix
    dtype = "f4" if suffix == ".npy" else task.settings.out.dtype
    events: list[str] = []
    if long.is_long(path) and not transpose:
        source = long.LongRecording(path, **as_asked)
        rate = source.head.rate(str(path), fs, trusted=trusted)
        whole = long.denoise(source, engine, fs=rate, dtype=dtype, say=events.append)
        told = "; ".join(filter(None, (source.first_bad, source.first_text)))
        clock = whole.clocked(rate)
        result = whole.result
    else:
        found = recording.read(path, transpose=transpose, **as_asked)
        if found.samples.ndim == 2 and suffix not in (".npy", ".npz"):
            raise UsageError(f"{path}: {len(found.samples)} recordings in one file: --format npz or npy")
        rate = found.rate(str(path), fs, trusted=trusted)
        told = "; ".join(filter(None, (found.first_bad, found.first_text)))
        result = offline.of_recording(found, engine, fs=rate, dtype=dtype)
        events = [offline.placed(event.text, found, rate) for event in engine.events]
        clock = offline.clocked(found, rate)
    if told and strict:
        raise DataError(f"{path}: {told}")
    if not engine.ledger.denoised:
        raise DataError(f"{path}: no sample of {result.denoised.size} denoised: too short, or no signal")
    return result, rate, clock, [*([told] if told else []), *events]


def _fill(row: Row, result: Denoised, fs: float, events: list[str]) -> None:
    """What the summary says of an output."""
    none = np.empty(0, np.float32)
    bpm = np.concatenate([none, *(pulse.hr_bpm[pulse.hr_confidence >= SURE] for pulse in result.pulses)])
    row.minutes, row.fs = f"{result.denoised.size / fs / 60:.4f}", f"{fs:.6g}"
    row.trusted = f"{float((result.confidence >= SURE).mean()):.4f}"
    row.hr_bpm = f"{float(np.median(bpm)):.1f}" if len(bpm) else ""
    row.beats = str(sum(int((pulse.beat_confidence >= SURE).sum()) for pulse in result.pulses))
    row.events = "; ".join(dict.fromkeys(events))


def _tables(
    file: str, result: Denoised, fs: float, clock: offline.Clocked | None
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The lines of beats and of rates."""
    beats: list[tuple[str, ...]] = []
    rates: list[tuple[str, ...]] = []
    for k, pulse in enumerate(result.pulses):
        seconds = pulse.beats / fs if clock is None else clock.times[pulse.beats]
        columns = (pulse.beats, seconds, pulse.beat_confidence, pulse.beat_interval_ms, pulse.beat_error_ms)
        beats += [(file, str(k), str(at), f"{t:.3f}", *map(_number, rest)) for at, t, *rest in zip(*columns, strict=True)]
        of_rates = (pulse.hr_t_s, pulse.hr_bpm, pulse.hr_confidence)
        rates += [(file, str(k), f"{t:.3f}", *map(_number, rest)) for t, *rest in zip(*of_rates, strict=True)]
    return beats, rates


def _number(value: NDArray[Any]) -> str:
    return "" if np.isnan(value) else f"{value:.5g}"


def summary_in(folder: Path) -> dict[str, Row]:
    """The lines of a folder's summary, by their outputs. Raises UsageError for one that is not as `write_summary` writes it: it
    is somebody's, and is not overwritten."""
    names, path = [field.name for field in fields(Row)], folder / SUMMARY
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames != names:
                raise UsageError(f"{path}: is no summary of this version: move it away, or write into another folder")
            return {line["output"]: Row(**{name: line[name] or "" for name in names}) for line in lines}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise OutputError(f"{path}: cannot read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{path}: is no summary of ours ({error}): move it away, or write into another folder") from error


def write_table(path: Path, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A csv, whole or not at all. Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    recording.write_whole(path, text.getvalue().encode(errors="surrogateescape"))


def write_summary(folder: Path, rows: Iterable[Row]) -> None:
    """The summary of a folder. Raises OutputError."""
    write_table(folder / SUMMARY, [field.name for field in fields(Row)], [list(asdict(row).values()) for row in rows])


def run(
    tasks: Sequence[Task],
    folder: Path,
    *,
    jobs: int,
    checkpoint: Checkpoint,
    seen: Callable[[Done], object],
    beats: Path | None = None,
    rates: Path | None = None,
) -> list[Done]:
    """All recordings into `folder`; the summary is written anew each second and at the end, so that a run that is ended goes on
    where it was. Raises OutputError where the folder cannot be written."""
    known = summary_in(folder)
    rows, done = dict(known), []
    order = {task.output.name: k for k, task in enumerate(tasks)}
    others, written = set(folder.glob(BESIDE)), -math.inf

    def write() -> None:
        write_summary(folder, sorted(rows.values(), key=lambda row: (order.get(row.output, len(order)), row.output)))

    try:
        for one in denoise_all(tasks, jobs=jobs, known=known, checkpoint=checkpoint):
            done.append(one)
            rows[one.row.output] = one.row
            if time.monotonic() > written + WRITE_EVERY_S:
                write()
                written = time.monotonic()
            seen(one)
    finally:
        write()
        for half in set(folder.glob(BESIDE)) - others:  # of processes that were ended
            half.unlink(missing_ok=True)
    done.sort(key=lambda one: order[one.row.output])
    if beats is not None:
        write_table(beats, BEATS_HEAD, [line for one in done for line in one.beats])
    if rates is not None:
        write_table(rates, RATES_HEAD, [line for one in done for line in one.rates])
    return done
