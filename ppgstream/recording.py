"""Recordings: files and pipes to samples, and back. A line that is no number keeps its place as an invalid sample (NaN)."""

from __future__ import annotations

import codecs
import contextlib
import csv
import math
import os
import re
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, OutputError, SourceError, UsageError

Float64 = NDArray[np.float64]
SHOWN = 40  # characters of a bad line that are shown
MAX_LINE = 65_536  # bytes; without a newline in sight these are no lines, and not to be collected without bound


class Recording(NamedTuple):
    """samples: (n,) or (rows, n) float64, NaN where invalid. bad: how many lines were no number; first_bad: where, and the text."""

    samples: Float64
    bad: int = 0
    first_bad: str = ""


def number(text: str) -> float:
    """A line's value; NaN for what is no number. "nan" and "inf" are what a sensor may say, and not finite."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_number(text: str) -> bool:
    """Whether a line says a sample, `nan` included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read(path: Path, *, column: str | None = None) -> Recording:
    """A recording from .npy, or from text: one value a line, or a column of a table (csv, tsv), by name or number from 0.

    Raises SourceError if it cannot be opened, DataError if it holds no valid sample, UsageError if the column is not clear.
    """
    try:
        if path.suffix == ".npy":
            return _read_npy(path)
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror or error}") from error
    head = content[:4096]
    if head.count(0) * 100 > len(head):  # one stray zero byte costs its own line, as any other bad character
        raise DataError(f"{path}: a binary file, not text: it starts with {content[:8]!r}")
    lines = content.decode("utf-8-sig", "replace").splitlines()
    delimiter = next((d for d in "\t;," if lines and d in lines[0]), None)
    if column is not None or path.suffix in (".csv", ".tsv") or delimiter:
        recording = _read_table(path, lines, delimiter or ",", column)
    else:
        if len(lines) == 1:
            lines = lines[0].split()  # all values on one line, as the course's scripts save them
        recording = _read_values(path, lines, first_line=1)
    return _checked(path, recording)


def _checked(path: Path, recording: Recording) -> Recording:
    if not np.isfinite(recording.samples).any():
        raise DataError(f"{path}: no valid sample" + (f" ({recording.first_bad})" if recording.bad else ""))
    return recording


def _read_npy(path: Path) -> Recording:
    try:
        array = np.load(path, allow_pickle=False)
    except _NOT_NPY as error:
        raise DataError(f"{path}: not an array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: an archive of arrays (npz), not one array (npy)")
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: an array of {array.dtype} with {array.ndim} dimensions: must be numbers, 1-D or 2-D (rows are recordings)"
        )
    return _checked(path, Recording(array.astype(np.float64)))


# What NumPy's reader raises for a file that is no array: its header is parsed as Python, its size is taken on trust.
_NOT_NPY = (ValueError, EOFError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError, zipfile.BadZipFile)


def _read_values(path: Path, texts: list[str], *, first_line: int) -> Recording:
    try:
        return Recording(np.array(texts, np.float64))
    except ValueError:
        pass  # some line is no number: look at each
    samples = np.array([number(t) for t in texts], np.float64)
    bad = [i for i, t in enumerate(texts) if not is_number(t)]
    first = f"line {bad[0] + first_line} of {path} is no number: {texts[bad[0]][:SHOWN]!r}"
    return Recording(samples, len(bad), first)


def _read_table(path: Path, lines: list[str], delimiter: str, column: str | None) -> Recording:
    rows = [_cells(line, delimiter) for line in lines]
    head = rows[0] if rows else []
    named = column is not None and column in head and not is_number(column)
    if column is None and len(head) > 1:
        listed = "0 is the first" if any(is_number(cell) for cell in head) else ", ".join(head)
        raise UsageError(f"{path}: {len(head)} columns: say which with --column ({listed:.200})")
    at = (
        head.index(column)
        if named and column is not None
        else int(column)
        if column and re.fullmatch("[0-9]{1,4}", column)
        else 0
    )
    if column is not None and not named and (not re.fullmatch("[0-9]{1,4}", column) or at >= len(head)):
        raise UsageError(f"{path}: no column {column!r:.100}: it has {len(head)} ({', '.join(head):.200}); the first is 0")
    # Without a name to go by: words only, and none of them a sample.
    header = named or (bool(head) and not any(is_number(cell) for cell in head))
    cells = [row[at] if at < len(row) else "" for row in (rows[1:] if header else rows)]
    return _read_values(path, cells, first_line=2 if header else 1)


def _cells(line: str, delimiter: str) -> list[str]:
    """A line's cells. Each line by itself: a stray quote must not swallow the lines after it."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(delimiter)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []


def lines_of(fd: int) -> Iterator[list[str]]:
    """Lines from a pipe as they come: each item is all whole lines that one read brought. The last may lack its newline."""
    rest, first = b"", True
    while True:
        block = os.read(fd, 65_536)
        if not block:
            break
        if first and len(rest + block) >= len(codecs.BOM_UTF8):
            block, rest, first = (rest + block).removeprefix(codecs.BOM_UTF8), b"", False
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > MAX_LINE:
            raise DataError(f"input line of more than {MAX_LINE} bytes: {rest[:SHOWN]!r}")
        if whole:
            yield [line.decode("utf-8", "replace").strip() for line in whole]
    if rest:
        yield [rest.decode("utf-8", "replace").strip()]


def text_of(values: NDArray[np.floating]) -> list[str]:
    """Values as text, the shortest that reads back to the same bits."""
    return [str(v) for v in values]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. A link is followed; a pipe or device is written into. Raises OutputError."""
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        temporary = path.with_name(f".ppgstream-{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go in a circle
        raise OutputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error


def check_writable(path: Path) -> None:
    """Fail before the work, not after it. Raises OutputError."""
    try:
        path = path.resolve()
        if not path.parent.is_dir():
            raise OutputError(f"{path}: cannot write: {path.parent} is no folder")
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise OutputError(f"{path}: cannot write there")
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{path}: cannot write: {getattr(error, 'strerror', None) or error}") from error
