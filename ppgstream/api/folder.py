"""Many recordings: each denoised into a file of a folder, with a table of all. A file that is there already is not made again."""

from __future__ import annotations

import hashlib
import itertools
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream import __version__
from ppgstream.api.arguments import denoiser_of
from ppgstream.api.inputs import Input, below
from ppgstream.api.summary import Place, Row, place_of, write_table
from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.engine import Engine
from ppgstream.core.rate import SURE
from ppgstream.errors import DataError, OutputError, PpgStreamError, SourceError, UsageError
from ppgstream.files import long, offline, recording, remote
from ppgstream.files.formats import parts_of, written_at
from ppgstream.files.offline import Denoised
from ppgstream.model.checkpoint import BUNDLED, Checkpoint
from ppgstream.model.restore import restore
from ppgstream.wire.message import stream_like

WRITE_EVERY_S = 1.0  # the summary: of thousands of recordings it is long
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
    """One recording, and the file it becomes. name: of that file, below the folder of outputs; folder: a path or a URL. tables:
    its beats and rates are wanted too."""

    input: Input
    name: str
    folder: str
    reading: Reading
    settings: Config
    tables: bool

    @property
    def output(self) -> Path:
        return Path(self.folder, self.name)


class Done(NamedTuple):
    """What became of a task. beats, rates: lines for the tables. code: an exit code, 0: there is an output."""

    row: Row
    beats: list[tuple[str, ...]]
    rates: list[tuple[str, ...]]
    code: int = 0
    skipped: bool = False


def made_by(settings: Config, reading: Reading, checkpoint: Checkpoint) -> str:
    """What tells apart all that decides an output beside its input: the checkpoint, the settings, and the program's version; 16
    hexadecimal digits."""
    told = (checkpoint.id, msgspec.json.encode(settings.windows), msgspec.json.encode(settings.streams), settings.out.dtype)
    more = (settings.in_.sentinels, tuple(reading), __version__)
    return hashlib.sha256(repr((told, more)).encode()).hexdigest()[:16]


class Pool(Protocol):
    """What works on tasks."""

    fate: bool  # whether all that are under way end where one process ends

    @property
    def at_once(self) -> int:
        """Tasks that may be under way."""

    def submit(self, task: Task, known: Row | None) -> Any:
        """Begin a task; what stands for it. known: the line of the summary that is there of its output."""

    def finished(self, waiting: Iterable[Any]) -> list[tuple[Any, Done | None]]:
        """Wait for those that are finished next. None: the process that had it was ended."""

    def close(self, *, whole: bool) -> None:
        """whole: all tasks are finished; else they are given up."""


class Here:
    """One after the other, in this process."""

    fate = False
    at_once = 1

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def submit(self, task: Task, known: Row | None) -> str:
        self._next = task, known
        return task.name

    def finished(self, waiting: Iterable[str]) -> list[tuple[Any, Done | None]]:
        return [(handle, work(*self._next, self._checkpoint)) for handle in waiting]

    def close(self, *, whole: bool) -> None:
        """There is nothing to close."""


class Processes:
    """`jobs` processes of this machine, each on one thread."""

    fate = True

    def __init__(self, jobs: int) -> None:
        self.at_once = jobs + 1  # so that one waits for the process that is ready first
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, task: Task, known: Row | None) -> Future[Done]:
        if self._pool is None:
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.setdefault(name, "1")  # in the processes that begin now
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            self._pool = ProcessPoolExecutor(self._jobs, mp_context=context, initializer=_begin)
        try:
            return self._pool.submit(work, task, known, None)
        except BrokenProcessPool as error:
            failed: Future[Done] = Future()
            failed.set_exception(error)
            return failed

    def finished(self, waiting: Iterable[Future[Done]]) -> list[tuple[Any, Done | None]]:
        found: list[tuple[Any, Done | None]] = []
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            try:
                found.append((future, future.result()))
            except BrokenProcessPool:
                found.append((future, None))
        if any(done is None for _, done in found) and self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        return found

    def close(self, *, whole: bool) -> None:
        if self._pool is None:
            return
        if not whole:  # outputs are written whole or not at all: nothing is lost but what is under way
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def denoise_all(tasks: Iterable[Task], pool: Pool, known: Mapping[str, Row]) -> Iterator[Done]:
    """Denoise recordings; those done before the others come first. known: the lines of the summary that is there, by their
    outputs: what is there of the same input, checkpoint and settings is not made again.

    A recording whose process was ended is tried once more. Where it cannot be known whose fault it was, that is done alone."""
    waiting: dict[Any, Task] = {}
    todo, again, tried = iter(tasks), list[Task](), set[str]()
    whole = False

    def begin(task: Task) -> None:
        waiting[pool.submit(task, known.get(task.name))] = task

    try:
        while True:
            if again and not (pool.fate and waiting):
                begin(again.pop())
            if not (pool.fate and (again or any(task.name in tried for task in waiting.values()))):
                for task in itertools.islice(todo, max(pool.at_once - len(waiting), 0)):
                    begin(task)
            if not waiting:
                break
            for handle, done in pool.finished(waiting):
                task = waiting.pop(handle)
                if done is not None:
                    yield done
                elif task.name in tried:
                    yield _given_up(task)
                else:
                    tried.add(task.name)
                    again.append(task)
        whole = True
    finally:
        pool.close(whole=whole)


def _given_up(task: Task) -> Done:
    why = "its process was ended twice (out of memory?): shorter recordings, fewer --jobs, or a machine with more memory"
    return Done(Row(task.input.where, task.name, error=f"{task.input.where}: {why}"), [], [], OutputError.exit_code)


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
    if not task.input.url and not remote.is_url(task.folder):
        return _work(task, known, checkpoint)
    try:
        with tempfile.TemporaryDirectory(prefix="ppgstream-") as scratch:
            return _remotely(task, known, checkpoint, Path(scratch))
    except PpgStreamError as error:
        return Done(Row(task.input.where, task.name, error=str(error)), [], [], error.exit_code)


def _remotely(task: Task, known: Row | None, checkpoint: Checkpoint | None, scratch: Path) -> Done:
    """A recording at a URL, or one whose output goes there, by files of this machine."""
    local = task
    if task.input.url:
        (scratch / "in").mkdir()
        local = local._replace(input=Input(remote.fetch(task.input.url, scratch / "in")))
    if remote.is_url(task.folder):
        local = local._replace(folder=str(scratch / "out"))
        local.output.parent.mkdir(parents=True)
        if known is not None:
            for part in written_at(local.output):
                remote.fetched(_there(task, part), part)
    done = _work(local, known, checkpoint)
    done = named(done, task.input.where)
    done.row.error = done.row.error.replace(str(local.input.path), task.input.where).replace(str(scratch / "out"), task.folder)
    if remote.is_url(task.folder) and not done.skipped and not done.code:
        for part in reversed(written_at(local.output)):
            if part.exists():
                remote.put(part, _there(task, part))
        place_of(task.folder).note(done.row)
    return done


def named(done: Done, where: str) -> Done:
    """What became of a recording, under the name that people gave it."""
    done.row.file = where
    return done._replace(beats=[(where, *line[1:]) for line in done.beats], rates=[(where, *line[1:]) for line in done.rates])


def _there(task: Task, part: Path) -> str:
    return below(task.folder, str(PurePath(task.name).with_name(part.name)))


def _work(task: Task, known: Row | None, checkpoint: Checkpoint | None) -> Done:
    path = task.input.path
    row = Row(str(path), task.name)
    try:
        chosen = checkpoint or _restored(task.settings.model.checkpoint)
        row.sha256, row.made_by = _digest(*parts_of(path)), made_by(task.settings, task.reading, chosen)
        same = known is not None and (known.sha256, known.made_by, known.error) == (row.sha256, row.made_by, "")
        if same and known is not None and not task.tables and task.output.is_file():
            known.file = row.file
            if _digest(*parts_of(task.output)) == known.output_sha256:
                return Done(known, [], [], skipped=True)
        result, fs, clock, events = _denoised(task, Engine(denoiser_of(chosen), rules_of(task.settings, chosen)))
        task.output.parent.mkdir(parents=True, exist_ok=True)
        offline.save(task.output, result, fs=fs, stream=stream_like(path.stem), clock=clock)
        _fill(row, result, fs, events)
        row.output_sha256 = _digest(*parts_of(task.output))
        place_of(task.folder).note(row)
        return Done(row, *_tables(row.file, result, fs, clock)) if task.tables else Done(row, [], [])
    except PpgStreamError as error:
        row.error = str(error)
        return Done(row, [], [], error.exit_code)
    except OSError as error:
        row.error = f"{path}: {error.strerror or error}"
        return Done(row, [], [], SourceError.exit_code)
    except MemoryError:
        row.error = f"{path}: there is not enough memory for this recording"
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
    path, (fs, trusted, column, key, stream, transpose, strict) = task.input.path, task.reading
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


def run(
    tasks: Sequence[Task],
    folder: str,
    *,
    pool: Callable[[], Pool],
    seen: Callable[[Done], object],
    beats: Path | None = None,
    rates: Path | None = None,
) -> list[Done]:
    """All recordings into `folder`; the summary is written anew each second and at the end. A run that is killed goes on behind
    all outputs that it has made. Raises OutputError where the folder cannot be written, UsageError where another run writes
    there."""
    place = place_of(folder)
    with place.alone():
        done = _run(tasks, place, pool(), seen)
    order = {task.name: k for k, task in enumerate(tasks)}
    done.sort(key=lambda one: order[one.row.output])
    if beats is not None:
        write_table(beats, BEATS_HEAD, [line for one in done for line in one.beats])
    if rates is not None:
        write_table(rates, RATES_HEAD, [line for one in done for line in one.rates])
    return done


def _run(tasks: Sequence[Task], place: Place, pool: Pool, seen: Callable[[Done], object]) -> list[Done]:
    known = place.summary() | place.noted()
    rows, done = dict(known), []
    order = {task.name: k for k, task in enumerate(tasks)}
    folders = {str(PurePath(task.name).parent) for task in tasks}
    place.remove(place.halves(folders))  # of runs that were killed
    written = -math.inf

    def write() -> None:
        place.write_summary(sorted(rows.values(), key=lambda row: (order.get(row.output, len(order)), row.output)))

    try:
        for one in denoise_all(tasks, pool, known):
            done.append(one)
            rows[one.row.output] = one.row
            if time.monotonic() > written + WRITE_EVERY_S:
                write()
                written = time.monotonic()
            seen(one)
    finally:
        write()
        place.remove(place.halves(folders))  # of processes that were ended
    return done
