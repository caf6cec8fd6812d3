"""Records what a daemon publishes: a file a stream and hour, raw beside clean, with beats, heart rates and events.

While a file is open it is a journal of messages (`files.journal`), to which what was heard is added every `FLUSH_S`. When it
closes, at the full hour or at the end, it becomes Parquet or npz. Journals that another recorder left, because it was killed or
lost its power, are closed at the next start.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import structs

from ppgstream.core.sequence import HOLD, HOLD_S
from ppgstream.errors import DataError, OutputError, UsageError
from ppgstream.files import journal, recorded
from ppgstream.files.journal import Row
from ppgstream.live.snapshot import EventStatus, Snapshot
from ppgstream.storage import check_folder
from ppgstream.wire.message import Chunk, Kind, encode

FLUSH_S = 10.0  # at most so long is lost in a crash
FILE_S = 3600  # of the wall clock, in a file
SAME_RATE = 0.005  # by which the rate of a file's samples may change
MOST_PENDING = 8192  # raw messages of a stream whose clean samples have not come; then the oldest are taken to get none
LOCK = ".ppgstream-record.lock"


@dataclass
class _Lives:
    """The raw messages of a stream's session: a sensor that counts from 0 again goes on under the next session, as the daemon's
    output does. known: of the newest messages, by their index and length, the CRC."""

    session: int
    lives: int = 0
    known: dict[tuple[int, int], int] = field(default_factory=dict)

    def of(self, chunk: Chunk) -> int:
        """The session that a message's samples belong to. A message that only comes late or twice changes nothing."""
        key, crc = (chunk.index, len(chunk.samples)), zlib.crc32(chunk.samples.tobytes())
        oldest = next(iter(self.known), key)[0]
        late = max(HOLD, round(HOLD_S * (chunk.fs or 125.0)))  # by so many samples the daemon takes what comes late
        if self.known.get(key, crc) != crc or chunk.stop + late < oldest:
            self.lives += 1
            self.known.clear()
        self.known[key] = crc
        if len(self.known) > MOST_PENDING:
            del self.known[next(iter(self.known))]
        return (self.session + self.lives) % 2**64


class _Raw(NamedTuple):
    """A raw message that clean samples may still come for."""

    session: int
    start: int
    stop: int
    row: Row


@dataclass
class _Open:
    """A stream's open file. rows: not on the disk yet, the oldest since `since` (monotonic s)."""

    stream: str
    path: Path
    period: int
    rows: list[Row] = field(default_factory=list)
    since: float = 0.0
    fs: float = 0.0  # of its clean samples
    clean_to: dict[int, int] = field(default_factory=dict)  # by session, the index after the last clean sample
    pending: deque[_Raw] = field(default_factory=lambda: deque(maxlen=MOST_PENDING))


class Recorder:
    """Into `folder`, files of `format` ("parquet" or "npz"), each of `file_s` seconds of the wall clock. say: takes a line for
    people. raw, samples: of raw and clean samples heard; files: closed so far.

    Raises OutputError for a folder that cannot be written, UsageError for one that another recorder writes to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        format: str,
        say: Callable[[str], None],
        file_s: int = FILE_S,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.format, self._say, self._file_s = folder, format, say, file_s
        self._wall_ns, self._monotonic = wall_ns, monotonic
        self.raw = self.samples = self.files = 0
        self._open: dict[str, _Open] = {}
        self._lives: dict[str, _Lives] = {}
        self._events: dict[tuple[str, str, str], int] = {}
        self._closing: deque[tuple[Path, Future[tuple[Path, dict[str, Any]] | None]]] = deque()
        try:
            check_folder(folder)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{folder}: cannot write there: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(f"{folder}: another `ppgstream record` writes there: give another folder with -o") from None
        self._pool = ThreadPoolExecutor(1, "closing")
        self._left: set[Path] = set()  # files that another recorder left open

    @property
    def streams(self) -> int:
        return len(self._open)

    def recover(self) -> int:
        """Begin to close the files that another recorder left open; how many. What cannot be read is told, and stays as it is.
        Call it before the first `take`; it does not wait."""
        left = sorted(path for suffix in journal.SUFFIXES for path in self.folder.glob(f"*/*{suffix}"))
        self._left = set(left)
        for path in left:
            self._closing.append((path, self._pool.submit(recorded.close, path, self.format)))
        return len(left)

    def take(self, chunk: Chunk) -> None:
        """Keep a message that was heard now."""
        heard_ns = self._wall_ns()
        period = heard_ns // (self._file_s * 1_000_000_000)
        one = self._open.get(chunk.stream)
        if one is None:
            one = self._open[chunk.stream] = self._begin(chunk.stream, period, heard_ns)
        elif one.period != period or (one.fs and chunk.kind is Kind.DATA and abs(chunk.fs / one.fs - 1) > SAME_RATE):
            one = self._turn(one, period, heard_ns)
        if chunk.kind is Kind.RAW:
            lives = self._lives.get(chunk.stream)
            if lives is None or lives.session != chunk.session:
                lives = self._lives[chunk.stream] = _Lives(chunk.session)
            chunk = structs.replace(chunk, session=lives.of(chunk))
        elif chunk.kind is Kind.DATA:
            one.fs = one.fs or chunk.fs
        row = Row(heard_ns, encode(chunk)[1])
        self._add(one, row)
        if chunk.kind is Kind.RAW:
            self.raw += len(chunk.samples)
            one.pending.append(_Raw(chunk.session, chunk.index, chunk.stop, row))
            return
        self.samples += len(chunk.samples)
        if chunk.kind is not Kind.BEATS:
            one.clean_to[chunk.session] = max(chunk.stop, one.clean_to.get(chunk.session, 0))
            while one.pending and one.pending[0].stop <= one.clean_to.get(one.pending[0].session, 0):
                one.pending.popleft()

    def hear(self, snapshot: Snapshot, since_s: float) -> None:
        """Keep the events of a daemon's status that are new. since_s: of events that are not known yet, only those of the last
        so many seconds."""
        now, before = self._wall_ns(), self._events
        self._events = {}
        for event in snapshot.recent or []:
            key = (event.name, event.stream, event.text)
            self._events[key] = event.times
            if event.times > before.get(key, 0) and event.age_s <= since_s:
                self._tell(event, now)

    def _tell(self, event: EventStatus, now: int) -> None:
        at_ns = now - round(event.age_s * 1e9)
        told = {"time": _clock(at_ns), "name": event.name, "stream": event.stream, "text": event.text, "times": event.times}
        if (one := self._open.get(event.stream)) is not None:
            self._add(one, journal.noted(at_ns, event=told))
        with _writing(self.folder / "events.jsonl"), (self.folder / "events.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(told) + b"\n")

    def look(self) -> None:
        """To be called often: put on the disk what has waited long enough, and end the files whose time is over."""
        now, heard_ns = self._monotonic(), self._wall_ns()
        period = heard_ns // (self._file_s * 1_000_000_000)
        for one in list(self._open.values()):
            if one.period != period:
                del self._open[one.stream]
                if one.pending:
                    self._open[one.stream] = self._turn(one, period, heard_ns)
                else:
                    self._end(one, {})
            elif one.rows and now - one.since >= FLUSH_S:
                self._flush(one)
        self._closed(wait=False)

    def close(self) -> None:
        """End all files. Raises OutputError for the first that cannot be, once all others are."""
        first: OutputError | None = None
        for one in self._open.values():
            try:
                self._end(one, {})
            except OutputError as error:
                first = first or error
        self._open.clear()
        try:
            while self._closing:
                try:
                    self._closed(wait=True)
                except OutputError as error:
                    first = first or error
        finally:
            self._pool.shutdown()
            os.close(self._lock)
        if first is not None:
            raise first

    # ---- one file ------------------------------------------------------------------------------------------------

    def _begin(self, stream: str, period: int, heard_ns: int) -> _Open:
        name = quote(stream, safe="").replace(".", "%2E") if stream.startswith(".") else quote(stream, safe="")
        folder = self.folder / name
        began = datetime.datetime.fromtimestamp(heard_ns / 1e9, datetime.UTC)
        base = f"{name}_{began:%Y%m%dT%H%M%SZ}"
        with _writing(folder):
            folder.mkdir(exist_ok=True)
            taken = {path.name.rsplit(".", 1)[0] for path in folder.iterdir()}
        number = 1
        while (unused := base if number == 1 else f"{base}-{number}") in taken:
            number += 1
        return _Open(stream, folder / f"{unused}{journal.suffix_of(self.format)}", period, since=self._monotonic())

    def _add(self, one: _Open, row: Row) -> None:
        if not one.rows:
            one.since = self._monotonic()
        one.rows.append(row)

    def _flush(self, one: _Open) -> None:
        with _writing(one.path):
            journal.append(one.path, one.stream, one.rows)
        one.rows.clear()

    def _turn(self, one: _Open, period: int, heard_ns: int) -> _Open:
        """End a file, and begin the next with the raw samples that no clean ones came for yet."""
        first: dict[int, int] = {}
        for raw in one.pending:
            first[raw.session] = min(raw.start, first.get(raw.session, raw.start))
        cut = {f"{session:016x}": max(index, one.clean_to.get(session, 0)) for session, index in first.items()}
        made = self._open[one.stream] = self._begin(one.stream, period, heard_ns)
        still = {raw.session for raw in one.pending} | {*list(one.clean_to)[-1:]}
        made.pending, made.clean_to = one.pending, {session: to for session, to in one.clean_to.items() if session in still}
        self._add(made, journal.noted(heard_ns, begins=cut))
        for raw in one.pending:
            self._add(made, raw.row)
        self._end(one, cut)
        return made

    def _end(self, one: _Open, cut: dict[str, int]) -> None:
        """End a file; `cut`: by session, from which index on raw samples are in the next."""
        self._add(one, journal.noted(self._wall_ns(), closed=True, cut=cut))
        self._flush(one)
        self._closing.append((one.path, self._pool.submit(recorded.close, one.path, self.format)))

    def _closed(self, *, wait: bool) -> None:
        """Look at the files that are being closed."""
        while self._closing and (wait or self._closing[0][1].done()):
            path, future = self._closing.popleft()
            try:
                made = future.result()
            except DataError as error:
                self._say(f"passed over: {error}")
                continue
            except OSError as error:
                raise OutputError(f"{path}: cannot be closed: {error.strerror or error}; the next start closes it") from error
            if path in self._left and made is None:
                self._say(f"{path}: held no sample: removed")
            elif path in self._left and made is not None:
                until = _clock(made[1]["heard_until_ns"])
                self._say(
                    f"{made[0]}: was left open: it reaches to {until}, and what came within {FLUSH_S:g} s after that is lost"
                )
            elif made is not None:
                self.files += 1
                self._say(f"{made[0]}: {counted(made[1]['samples'])}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What goes wrong within it is an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from error


def counted(account: dict[str, int]) -> str:
    """The account of a file, for a person."""
    said = f"{account['raw']:,} samples raw, {account['denoised']:,} denoised"
    if account["raw"] and (without := account["denoised_without_raw"]):
        said += f", {without:,} of these without their raw"
    return said


def _clock(ns: int) -> str:
    return datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
