"""Recordings of days: read and denoised in parts, so that of the input only a part is in memory at a time.

At the checkpoint's rate one engine takes all parts, as it takes a stream: the output is the one that `offline.denoise` makes. At
another rate blocks of half an hour are resampled and denoised one by one, each with a minute before it and half a minute after it
that are not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.engine import Engine
from ppgstream.files import offline
from ppgstream.files.clocks import LATE_S, ClockError, clock_of, laid_out
from ppgstream.files.formats import reader_of
from ppgstream.files.offline import Denoised, Pulse
from ppgstream.files.opened import lines_in
from ppgstream.files.recording import counted, is_table, lasting, of_clock, of_table
from ppgstream.files.stamps import Form
from ppgstream.files.table import Table, tables
from ppgstream.wire.message import EMPTY, Chunk, Kind

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

LONG = 20_000_000  # bytes: larger files are taken in parts
LONG_PACKED = 4_000_000  # if they are packed
AT_ONCE = 200_000  # rows


class Part(NamedTuple):
    """Rows that follow those of the part before. samples (n,): laid out at an even rate, NaN where nothing was measured; rows
    (m,): where in them the file's rows lie; times (m,): seconds since the recording's first row; starts: rows before which a new
    stretch begins; lines (m,): their lines."""

    samples: Float64
    rows: Int64
    times: Float64
    starts: list[int]
    lines: Int64 | None


def is_long(path: Path) -> bool:
    """Whether a file is taken in parts."""
    try:
        if path.suffix in (".npy", ".npz") or reader_of(path) is not None or not path.is_file():
            return False
    except OSError:  # what cannot be opened is told where it is opened
        return False
    return path.stat().st_size > (LONG_PACKED if path.suffix in (".gz", ".zip") else LONG)


class LongRecording:
    """A file of text in parts. `head`: what its first part tells, its rate included. What is counted is whole once `parts` has
    ended."""

    def __init__(
        self,
        path: Path,
        *,
        column: str | None = None,
        key: str | None = None,
        stream: str | None = None,
        clocked: bool = True,
        seen: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.where = str(path)
        self._tables = tables(
            self.where,
            lines_in(path, seen),
            column=column,
            key=key,
            table=is_table(path),
            stream=stream,
            clocked=clocked,
            at_once=AT_ONCE,
        )
        self._first = next(self._tables)
        self.head = of_table(self.where, self._first)
        self.n = self.gaps = self.lost = self.repeats = self.moved = self.wraps = self.bad = self.text = 0
        self.stretches = 1
        self.first_bad = self.first_text = ""

    def parts(self, fs: float) -> Iterator[Part]:
        """All parts, laid out at `fs` Hz. Raises DataError where the clock cannot be read."""
        table: Table | None = self._first
        rest: Table | None = None  # rows that wait for those after them
        anchor: tuple[float, float] | None = None  # stamp and value of the last row that was given out
        since = 0.0
        while table is not None:
            following = next(self._tables, None)
            table = _counted(table) if rest is None else _joined(rest, table)
            assert table.stamps is not None
            assert table.form is not None
            cut = len(table.samples) if following is None else _cut(table.stamps)
            rest = _after(table, cut)
            if cut:
                part, anchor = self._part(table, cut, anchor, fs, since)
                since = float(part.times[-1])
                yield part
            self.bad, self.text = table.bad, table.text
            self.first_bad, self.first_text = table.first_bad, table.first_text
            table = following

    def _part(
        self, table: Table, cut: int, anchor: tuple[float, float] | None, fs: float, since: float
    ) -> tuple[Part, tuple[float, float]]:
        assert table.stamps is not None
        assert table.form is not None
        t, x = table.stamps[:cut], table.samples[:cut]
        breaks = [b for b in table.breaks if b < cut]
        lead = 0 if anchor is None else 1
        if anchor is not None:
            t, x, breaks = np.insert(t, 0, anchor[0]), np.insert(x, 0, anchor[1]), [b + 1 for b in breaks]
        try:
            clock = clock_of(t, x, table.form, breaks=breaks, fs=None if table.form.counter else fs)
        except ClockError as error:
            raise of_clock(self.where, table, ClockError(str(error), max(error.row - lead, 0))) from None
        samples, rows = laid_out(x, clock, fs)
        times = clock.places / fs if table.form.counter else clock.times
        self.n += len(rows) - lead
        self.gaps += int(clock.gap.sum())
        self.lost += clock.lost
        self.repeats += clock.repeats
        self.moved += clock.moved
        self.wraps += clock.wraps
        self.stretches += len(clock.starts) - 1
        lines = None if table.lines is None else table.lines[np.maximum(clock.order[lead:] - lead, 0)]
        starts = [s - lead for s in clock.starts[1:]]
        last = int(clock.order[-1])
        return Part(samples[lead:], rows[lead:] - lead, since + times[lead:], starts, lines), (float(t[last]), float(x[last]))

    def counted(self, fs: float) -> str:
        """What was read, in one line, once all of it has been."""
        found = [f"{self.n:,} samples in {lasting(self.n / fs)}"]
        if self.stretches > 1:
            found.append(f"{self.stretches:,} stretches, each with a clock of its own")
        return ", ".join(found + counted(self.gaps, self.lost / fs, self.repeats, self.moved, self.wraps, self.bad, self.text))


def _counted(table: Table) -> Table:
    """A table with stamps: without a clock its rows are counted, from 0 after each break."""
    if table.stamps is not None and table.form is not None:
        return table
    stamps = np.arange(float(len(table.samples)))
    for b in table.breaks:
        stamps[b:] -= stamps[b]
    return table._replace(stamps=stamps, form=Form(counter=True))


def _joined(a: Table, b: Table) -> Table:
    b = _counted(b)
    assert a.stamps is not None
    assert b.stamps is not None
    stamps = b.stamps
    if b.form is not None and b.form.counter and not b.clock and len(a.stamps):
        first = b.breaks[0] if b.breaks else len(stamps)
        stamps = stamps.copy()
        stamps[:first] += a.stamps[-1] + 1  # no clock: the count goes on
    return b._replace(
        samples=np.concatenate([a.samples, b.samples]),
        stamps=np.concatenate([a.stamps, stamps]),
        lines=None if a.lines is None or b.lines is None else np.concatenate([a.lines, b.lines]),
        breaks=(*a.breaks, *(k + len(a.samples) for k in b.breaks)),
    )


def _after(table: Table, cut: int) -> Table:
    assert table.stamps is not None
    return table._replace(
        samples=table.samples[cut:],
        stamps=table.stamps[cut:],
        lines=None if table.lines is None else table.lines[cut:],
        breaks=tuple(b - cut for b in table.breaks if b >= cut),
    )


def _cut(t: Float64) -> int:
    """How many of the first rows can be given out: none that follows is of an earlier time, and no tick is torn."""
    t = np.where(np.isfinite(t), t, np.nanmin(t, initial=0.0))
    falls = np.flatnonzero(np.diff(t) < -LATE_S)
    first = int(falls[-1]) + 1 if len(falls) else 0
    last = t[first:]
    least = np.minimum.accumulate(last[::-1])[::-1]
    most = np.maximum.accumulate(last)
    good = np.flatnonzero((most[:-1] < least[1:]) & (most[:-1] <= most[-1] - (LATE_S if (np.diff(last) < 0).any() else 0.0))) + 1
    ticks = good[: max(len(good) - 2, 0)]
    return first + int(ticks[-1]) if len(ticks) else first


class _Output:
    """From samples in order to the file's rows. `_given` of the rows in `_rows` have been handed to `done`; some before them are
    kept, for beats that are told seconds after their samples."""

    def __init__(self, fs: float, keep: tuple[int, int]) -> None:
        self.fs, self.keep = fs, keep
        self.done: tuple[list[NDArray[Any]], ...] = ([], [], [])  # wave, confidence, flags
        self.beats: list[Float64] = [np.zeros((4, 0))]  # row, interval, error, confidence
        self.rates: list[Float64] = [np.zeros((3, 0))]  # second, bpm, confidence
        self.raw: list[Float64] = []  # the rows `keep`, as they came
        self.uneven: list[tuple[int, Float64]] = []  # times of parts whose rows do not follow each other evenly
        self.starts: list[int] = []
        self.end = 0  # of the samples that have come out
        self._rows, self._times, self._lines = np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
        self._given = self._first = self._at = 0
        self._out: list[tuple[NDArray[Any], ...]] = []

    @property
    def n(self) -> int:
        """Rows that are known so far."""
        return self._first + len(self._rows)

    def expect(self, part: Part, at: int) -> None:
        """Rows of a part whose first sample has the index `at`."""
        n = self.n
        a, b = (min(max(k - n, 0), len(part.rows)) for k in self.keep)
        self.raw.append(part.samples[part.rows[a:b]])
        self.starts += [n + k for k in part.starts]
        t = part.times
        even = n / self.fs + np.arange(len(t)) / self.fs
        if len(t) and np.abs(t - even).max() > 0.5 / self.fs:
            self.uneven.append((n, t))
        self._rows = np.concatenate([self._rows, at + part.rows])
        self._times = np.concatenate([self._times, t])
        lines = np.zeros(len(t), np.int64) if part.lines is None else part.lines
        self._lines = np.concatenate([self._lines, lines])

    def put(self, *columns: NDArray[Any]) -> None:
        self._out.append(columns)
        self.end += len(columns[0])

    def row(self, index: NDArray[Any]) -> NDArray[np.int64]:
        """The rows nearest to samples."""
        return np.asarray(self._first + np.searchsorted(self._rows, index).clip(max=len(self._rows) - 1))

    def second(self, index: NDArray[Any]) -> Float64:
        """The times of samples, those between rows too."""
        k = (np.searchsorted(self._rows, index, "right") - 1).clip(0)
        return np.asarray(self._times[k] + (index - self._rows[k]) / self.fs)

    def place(self, index: int) -> str:
        """Where a sample is in the file, for a person."""
        k = min(int(np.searchsorted(self._rows, index)), len(self._rows) - 1)
        seconds = f"{self._times[k]:.2f} s"
        return f"line {self._lines[k]} ({seconds})" if self._lines[k] else seconds

    def tell(
        self, beats: NDArray[Any], columns: list[NDArray[Any]], at: NDArray[Any], bpm: NDArray[Any], sure: NDArray[Any]
    ) -> None:
        """Beats at samples, and heart rates that rest on what is before samples `at`."""
        self.beats.append(np.stack([self.row(beats), *columns]))
        self.rates.append(np.stack([self.second(at), bpm, sure]))

    def give(self) -> None:
        """Hand the samples of known rows on."""
        if not self._out:
            return
        columns = tuple(np.concatenate(one) for one in zip(*self._out, strict=True))
        known = int(np.searchsorted(self._rows, self.end))
        take = self._rows[self._given : known] - self._at
        for column, done in zip(columns, self.done, strict=True):
            done.append(column[take])
        at = int(self._rows[known]) if known < len(self._rows) else self.end
        self._out = [tuple(column[at - self._at :] for column in columns)]
        self._at, old = at, max(known - 10_000, 0)
        self._rows, self._times, self._lines = self._rows[old:], self._times[old:], self._lines[old:]
        self._given, self._first = known - old, self._first + old


class LongDenoised(NamedTuple):
    """`result`: a sample for each row. times (n,): of the rows, s, or None where they follow each other evenly; starts: rows that
    begin a stretch; raw: the rows `keep` as they came."""

    result: Denoised
    times: Float64 | None
    starts: list[int]
    raw: Float64

    def clocked(self, fs: float) -> offline.Clocked | None:
        """What the csv and npz say of its clock; None where its samples follow each other evenly."""
        if self.times is None:
            return None
        return offline.Clocked(np.rint(self.times * fs).astype(np.int64), self.times, self.starts)


def denoise(
    source: LongRecording,
    engine: Engine,
    *,
    fs: float,
    dtype: str = "f4",
    keep: tuple[int, int] = (0, 0),
    say: Callable[[str], None] = lambda _: None,
) -> LongDenoised:
    """Denoise a long recording, whatever its rate, 10 to 1000 Hz. `keep`: rows whose input is wanted; `say` is told the engine's
    events as they come."""
    offline.check_rate(fs)
    out = _Output(fs, keep)
    _as_a_stream(source, engine, out, say)
    columns = []
    for done in out.done:  # one after the other: so only one is there twice
        columns.append(np.concatenate(done))
        done.clear()
    row, *beats = np.concatenate(out.beats, axis=1)
    rates = np.concatenate(out.rates, axis=1)
    rates = rates[:, np.append(np.diff(rates[0]) > 0, True)[: rates.shape[1]]]  # the last word on each time
    f4 = [column.astype(np.float32) for column in (*beats, *rates[1:])]
    pulse = Pulse(row.astype(np.int64), f4[0], f4[1], f4[2], rates[0], f4[3], f4[4])
    times = None
    if out.uneven or out.starts:
        times = np.arange(out.n) / fs
        for first, t in out.uneven:
            times[first : first + len(t)] = t
    result = Denoised(
        columns[0].astype(dtype, copy=False), columns[1], columns[2], [pulse] if engine.rules.plan.rate is not None else []
    )
    return LongDenoised(result, times, out.starts, np.concatenate(out.raw))


def _as_a_stream(source: LongRecording, engine: Engine, out: _Output, say: Callable[[str], None]) -> None:
    at, said, told = 0, 0, 0

    def take(chunks: list[Chunk]) -> None:
        nonlocal said, told
        for chunk in chunks:
            if chunk.beats is not None:
                columns = [np.asarray(column, np.float64) for column in chunk.beats[3:6]]
                at_ = offline.steps_of(np.array([chunk.index]), out.fs, engine.rules.plan.fs)[1] - 1
                bpm, sure = np.array([chunk.beats.bpm]), np.array([chunk.beats.bpm_confidence])
                new = (
                    at_[0] == chunk.index - 1 and at_[0] > told
                )  # a stretch's last message may repeat the time of the one before
                due = slice(None) if new or not np.isnan(bpm[0]) else slice(0)
                told = int(at_[0])
                out.tell(np.asarray(chunk.beats[2]), columns, at_[due], bpm[due], np.where(np.isnan(bpm), 0, sure)[due])
            elif chunk.kind is Kind.DATA:
                assert chunk.confidence is not None
                assert chunk.flags is not None
                out.put(chunk.samples, chunk.confidence, chunk.flags)
        for event in engine.events[said:]:
            say(re.sub(r"index (\d+)", lambda m: out.place(int(m[1])), event.text.removeprefix("row0: ")))
        said = len(engine.events)

    for part in source.parts(out.fs):
        out.expect(part, at)
        for start in range(0, len(part.samples), offline.CHUNK):
            samples = part.samples[start : start + offline.CHUNK]
            take(engine.feed(Chunk("row0", 0, at + start, samples, fs=out.fs), 0.0))
            while len(engine.ready) >= engine.rules.tile:
                take(engine.step())
        at += len(part.samples)
        out.give()
    take(engine.feed(Chunk("row0", 0, at, EMPTY, Kind.END, out.fs), 0.0))
    while engine.ready:
        take(engine.step())
    engine.forget_ended()
    out.give()
