"""Recordings: files and pipes to samples, and back. A line that is no number keeps its place as an invalid sample (NaN)."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.measuring import RATES_HZ
from ppgstream.errors import DataError, OutputError, SourceError, UsageError
from ppgstream.files.arrays import Arrays, read_arrays
from ppgstream.files.clocks import Clock, ClockError, clock_of, laid_out
from ppgstream.files.formats import Signal, read_signal, reader_of
from ppgstream.files.opened import lines_in
from ppgstream.files.stamps import Form
from ppgstream.files.table import Table, read_lines
from ppgstream.storage import check_folder, replace_file_by, replace_files

Float64 = NDArray[np.float64]
CSV_HEAD = "stream,session,index,t_ns,value,confidence,flags"  # of what `tap` and `denoise -o x.csv` write
RATE_TOLERANCE = 0.02  # by which two statements of a rate may differ
ABSURD = (5.0, 5000.0)  # Hz: beyond, a file's word on its rate does not count against --fs
COURSE = {  # the external files of the 2019 course, sha256
    "external_val1_file.txt": "616446f030edc382da7dc0c6744b6707efc8b19fc90542389f6d0b4a69388589",
    "external_val2_file.txt": "466b718d88a2363e85c377b753989da262c70734625c4fe9999df7a8ff58eca4",
}


class Recording(NamedTuple):
    """samples: (n,) or (rows, n) float64, NaN where invalid.

    bad: how many lines were no number; text: how many were text, and dropped. fs: the rate that the file tells, Hz, or None;
    `said`: by what. rows: where the file's rows lie in `samples` (m,), if that has gaps between them or lacks repeated rows.
    clock: what its stamps say. header_fs: the rate that its header states beside its clock, `header_said` in which words. lines:
    the line of each row. name: of the column.
    """

    samples: Float64
    bad: int = 0
    first_bad: str = ""
    fs: float | None = None
    said: str = ""
    rows: NDArray[np.int64] | None = None
    clock: Clock | None = None
    text: int = 0
    first_text: str = ""
    name: str = ""
    lines: NDArray[np.int64] | None = None
    layout: str = ""
    header_fs: float | None = None
    header_said: str = ""

    @property
    def gaps(self) -> int:
        return 0 if self.clock is None else int(self.clock.gap.sum())

    @property
    def repeats(self) -> int:
        return 0 if self.clock is None else self.clock.repeats

    def rate(self, path: str, asked: float | None = None, *, trusted: bool = False) -> float:
        """The sampling rate, Hz: what the file tells, or `asked`. Raises UsageError if nobody says it, DataError if two witnesses
        contradict each other: the file's clock, its header, and `asked`, which if `trusted` counts alone."""
        if trusted:
            if asked is None:
                raise UsageError("--trust-fs: say the rate with --fs")
            return asked
        witnesses = [(fs, said) for fs, said in ((self.fs, self.said), (self.header_fs, self.header_said)) if fs is not None]
        sane = [(fs, said) for fs, said in witnesses if ABSURD[0] <= fs <= ABSURD[1]]
        if asked is not None:
            for fs, said in sane:
                if abs(asked / fs - 1) > RATE_TOLERANCE:
                    raise DataError(f"{path}: --fs {asked:g}, but {fs:.6g} Hz by {said}; --trust-fs takes --fs all the same")
            return sane[0][0] if sane else asked
        for (fs, said), (other, told) in itertools.pairwise(sane):
            if abs(fs / other - 1) > RATE_TOLERANCE:
                raise DataError(f"{path}: {fs:.6g} Hz by {said}, and {other:.6g} Hz by {told}: say --fs HZ --trust-fs")
        if sane:
            fs, said = sane[0]
        elif witnesses:
            raise DataError(
                f"{path}: {witnesses[0][0]:.4g} Hz by {witnesses[0][1]}: must be 10 to 1000 Hz; say the right rate with --fs"
            )
        else:
            raise UsageError(f"{path}: states no sampling rate: say --fs HZ")
        if not RATES_HZ[0] <= fs <= RATES_HZ[1]:
            raise DataError(f"{path}: {fs:.4g} Hz by {said}: must be 10 to 1000 Hz")
        return fs

    def named(self, path: str, fs: float) -> str:
        """Column, file, rate, and by what the rate is known."""
        what = f"{self.name or 'PPG'} of {Path(path).name}: {fs:.6g} Hz"
        said = next(
            (
                said
                for one, said in ((self.fs, self.said), (self.header_fs, self.header_said))
                if one and abs(one / fs - 1) <= RATE_TOLERANCE
            ),
            "",
        )
        return what + (f" from {said}" if said else "")

    def understood(self, path: str, fs: float) -> str:
        """What was read, in one line."""
        n = self.samples.shape[-1] if self.rows is None else len(self.rows)
        parts = [self.named(path, fs)]
        parts.append(f"{n:,} samples" if self.samples.ndim == 1 else f"{len(self.samples)} recordings of {n:,} samples")
        clock = self.clock
        if clock is not None and len(clock.starts) > 1:
            at = "" if self.lines is None else f" (the second from line {self.lines[clock.order[clock.starts[1]]]})"
            parts.append(f"{len(clock.starts):,} stretches, each with a clock of its own{at}")
        lost_s, moved, wraps = (0.0, 0, 0) if clock is None else (clock.lost / fs, clock.moved, clock.wraps)
        parts += counted(self.gaps, lost_s, self.repeats, moved, wraps, self.bad, self.text)
        if self.layout:
            parts.append(self.layout)
        if self.samples.ndim == 1 and (times := repeated(self.samples)) > 1:
            parts.append(f"each value comes {times} times: looks like {fs / times:.4g} Hz")
        if self.samples.ndim == 1 and in_turns(self.samples):
            parts.append("every second value is on another level: looks like two channels in turns")
        return ", ".join(parts)

    def place(self, index: int, fs: float) -> str:
        """Where sample `index` of `samples` is in the file, for a person: its line if it has lines, and its second."""
        seconds = f"{index / fs:.2f} s"
        if self.rows is not None and self.clock is not None and len(self.rows):
            row = min(int(np.searchsorted(self.rows, index)), len(self.rows) - 1)
            t = float(self.clock.times[row])
            seconds = f"{t if np.isfinite(t) else self.clock.places[row] / fs:.2f} s"
            index = int(self.clock.order[row])
        return f"line {self.lines[index]} ({seconds})" if self.lines is not None and index < len(self.lines) else seconds

    def times(self, fs: float) -> Float64:
        """The time of each row that is there, seconds since the first; it falls where a new stretch begins with a clock of its
        own."""
        if self.clock is None:
            return np.arange(self.samples.shape[-1]) / fs
        return self.clock.times if np.isfinite(self.clock.times).all() else self.clock.places / fs


def lasting(seconds: float) -> str:
    """A length of time, for a person."""
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def counted(gaps: int, lost_s: float, repeats: int, moved: int, wraps: int, bad: int, text: int) -> list[str]:
    """What a clock and its rows showed, in words; what did not occur is left out."""
    counts = (
        (gaps, "gap", f" of {lasting(lost_s)} in all"),
        (repeats, "repeated row", ""),
        (moved, "row", " out of order"),
        (wraps, "wrap", " of the clock"),
        (bad, "invalid line", ""),
        (text, "line", " of text dropped"),
    )
    return [f"{count:,} {word}{'s' * (count > 1)}{more}" for count, word, more in counts if count]


def in_turns(x: Float64) -> bool:
    """Whether two channels take turns in `x` (n,): neighbours are far apart, every second one is not."""
    x = x[np.isfinite(x)][:10_000]
    if len(x) < 200:
        return False
    near, second = np.median(np.abs(np.diff(x))), np.median(np.abs(x[2:] - x[:-2]))
    return bool(near > 8 * second and near > 0 and (np.diff(np.sign(np.diff(x))) != 0).mean() > 0.95 and len(np.unique(x)) > 20)


def repeated(x: Float64) -> int:
    """How many times a sensor repeats each of its values in `x` (n,); 1 if it does not."""
    edges = np.flatnonzero(x[1:] != x[:-1])
    runs = np.diff(edges)
    if len(runs) < 20:
        return 1
    return next((k for k in range(20, 1, -1) if (runs % k == 0).mean() > 0.98), 1)


def read(
    path: Path,
    *,
    column: str | None = None,
    key: str | None = None,
    transpose: bool = False,
    stream: str | None = None,
    clocked: bool = True,
) -> Recording:
    """A recording from .npy, an .npz that `denoise` wrote, a format of others, or text (docs/formats.md). `column`: by name or
    number from 0; `key`: of lines like `IR=512`; `stream`: of an output of several; `clocked` False: its times are not looked
    at.

    Raises SourceError if it cannot be opened, DataError if it holds no valid sample or a clock that cannot be read, UsageError if
    the column is not clear.
    """
    if column is not None and key is not None:
        raise UsageError("--column and --field: give one of them")
    try:
        if path.suffix in (".npy", ".npz"):
            if key is not None:
                raise UsageError(f"--field {key!r}: {path} holds no lines of text")
            return _of_arrays(path, read_arrays(path, column, transpose=transpose))
        if transpose:
            raise UsageError(f"--transpose: {path} is no array of rows (npy)")
        if reader_of(path) is not None:
            if key is not None:
                raise UsageError(f"--field {key!r}: {path} holds no lines of text")
            return _of_signal(path, read_signal(path, column), clocked=clocked)
        found = of_lines(str(path), lines_in(path), column=column, key=key, table=is_table(path), stream=stream, clocked=clocked)
        if found.fs is None and path.name in COURSE and hashlib.sha256(path.read_bytes()).hexdigest() == COURSE[path.name]:
            return found._replace(fs=125.0, said="the course that it belongs to")
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror or error}") from error
    return found


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table."""
    return (path.with_suffix("") if path.suffix in (".gz", ".zip") else path).suffix in (".csv", ".tsv")


def _of_arrays(path: Path, arrays: Arrays) -> Recording:
    found = Recording(arrays.samples, fs=arrays.fs, said="the file")
    if arrays.times is None or arrays.fs is None:
        return found
    if arrays.counted:
        return _counted(path, found, arrays.times, arrays.fs)
    try:
        clock = clock_of(arrays.times, found.samples)
    except ClockError as error:
        raise DataError(f"{path}: t_s {error}") from error
    samples, rows = laid_out(found.samples, clock, arrays.fs)
    return found._replace(samples=samples, rows=rows, clock=clock)


def _counted(path: Path, found: Recording, times: Float64, fs: float) -> Recording:
    """A recording whose times are whole multiples of 1 / fs, with each sample in its place."""
    if len(times) < 2 or not np.isfinite(times).all():
        return found
    try:
        clock = clock_of(np.rint(times * fs), found.samples, Form(counter=True))
    except ClockError as error:
        raise DataError(f"{path}: t_s {error}") from error
    samples, rows = laid_out(found.samples, clock, fs)
    plain = len(rows) == len(samples) and not clock.repeats and not clock.moved
    return found if plain else found._replace(samples=samples, rows=rows, clock=clock)


def _of_signal(path: Path, signal: Signal, *, clocked: bool) -> Recording:
    """A signal, laid out by its times where it has any."""
    found = Recording(signal.samples, fs=signal.fs, said=signal.said, name=signal.name, first_bad=signal.note)
    if signal.unclear and clocked:
        raise DataError(f"{path}: {signal.unclear}")
    if signal.times is None or not clocked or len(found.samples) < 8:
        return found
    if signal.counted and signal.fs:
        return _counted(path, found, signal.times, signal.fs)
    try:
        clock = clock_of(signal.times, found.samples)
    except ClockError as error:
        raise DataError(f"{path}: the time {error}: with --fs HZ --trust-fs it is not looked at") from error
    samples, rows = laid_out(found.samples, clock, clock.fs)
    plain = len(clock.starts) == 1 and not clock.repeats and not clock.moved and len(rows) == len(samples) and not clock.jitter
    found = found._replace(fs=clock.fs, said="its times", header_fs=signal.fs, header_said=signal.said)
    return found if plain else found._replace(samples=samples, rows=rows, clock=clock)


def of_lines(
    where: str,
    blocks: Iterable[list[str]],
    *,
    column: str | None,
    key: str | None,
    table: bool,
    stream: str | None = None,
    clocked: bool = True,
) -> Recording:
    """A recording from blocks of lines, laid out by its clock."""
    return of_table(where, read_lines(where, blocks, column=column, key=key, table=table, stream=stream, clocked=clocked))


def of_table(where: str, table: Table) -> Recording:
    """What a table holds, laid out by its clock."""
    found = Recording(
        table.samples,
        table.bad,
        table.first_bad,
        table.fs,
        table.said,
        text=table.text,
        first_text=table.first_text,
        name=table.name,
        lines=table.lines,
        layout=table.layout,
    )
    if not np.isfinite(found.samples).any():
        told = found.first_bad or found.first_text
        hint = ": --column or --field?" if found.first_text else ""
        raise DataError(f"{where}: no valid sample" + (f" ({told}){hint}" if told else ""))
    stamps, form = table.stamps, table.form
    if stamps is None and table.breaks:  # no clock, but the file begins anew
        bounds = [0, *table.breaks, len(found.samples)]
        stamps, form = np.concatenate([np.arange(float(b - a)) for a, b in itertools.pairwise(bounds)]), Form(counter=True)
    if stamps is None or form is None:
        return found
    try:
        clock = clock_of(stamps, found.samples, form, breaks=table.breaks)
    except ClockError as error:
        if len(found.samples) < 8:
            return found  # too few rows for a clock, and for anything else
        raise of_clock(where, table, error) from None
    known = math.isfinite(clock.fs)
    samples, rows = laid_out(found.samples, clock, clock.fs if known else table.fs or 125.0)
    plain = len(clock.starts) == 1 and not clock.repeats and not clock.moved and len(rows) == len(samples) and not clock.jitter
    found = found._replace(samples=samples, rows=None if plain else rows, clock=None if plain and not clock.wraps else clock)
    if known:
        said = f"its times ({table.clock})" if table.clock else "its times"
        found = found._replace(fs=clock.fs, said=said, header_fs=table.fs, header_said=table.said)
    return found


def of_clock(where: str, table: Table, error: ClockError) -> DataError:
    """The error for a clock that cannot be read, with the line that shows it."""
    line = "" if table.lines is None else f"line {table.lines[min(error.row, len(table.lines) - 1)]}: "
    column = table.clock or "the first column"
    return DataError(f"{where}: {line}the time in {column} {error}: with --fs HZ --trust-fs it is not looked at")


def text_of(values: NDArray[np.floating]) -> list[str]:
    """Values as text, the shortest that reads back to the same bits."""
    return [str(v) for v in values]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. A link is followed; a pipe or device is written into. Raises
    OutputError."""
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        replace_files({path: content})
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go in a circle
        raise OutputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error


def write_by(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """As `write_whole`, of a file that is too long to hold: `write` writes into what it is given."""
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                write(file)
            return
        replace_file_by(path, write)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error


def check_writable(path: Path) -> None:
    """Fail before the work, not after it. Raises OutputError."""
    try:
        path = path.resolve()
        if not path.parent.is_dir():
            raise OutputError(f"{path}: cannot write: {path.parent} is no folder")
        if path.is_dir():
            raise OutputError(f"{path}: cannot write there: it is a folder")
        if path.is_file() or not path.exists():
            check_folder(path.parent)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error
