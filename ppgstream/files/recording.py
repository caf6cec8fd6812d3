"""Recordings: files and pipes to samples, and back. A line that is no number keeps its place as an invalid sample (NaN)."""

from __future__ import annotations

import codecs
import os
import re
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, OutputError, SourceError, UsageError
from ppgstream.files.table import SHOWN, by_clock, read_text
from ppgstream.storage import check_folder, replace_files

Float64 = NDArray[np.float64]
CSV_HEAD = "stream,session,index,t_ns,value,confidence,flags"  # of what `tap` and `denoise -o x.csv` write
RATE_TOLERANCE = 0.02  # by which --fs may differ from what a file says
HEAD = 4096  # bytes, by which text is told from anything else
MOST_PIPED = 500_000_000  # bytes that a pipe or a device may bring; a file's size is its owner's business
MAX_LINE = 65_536  # bytes; without a newline in sight these are no lines, and not to be collected without bound


class Recording(NamedTuple):
    """samples: (n,) or (rows, n) float64, NaN where invalid.

    bad: how many lines were no number; text: how many were text, and dropped. fs: the rate that the file tells, Hz, or None; `said`: by what. rows: where
    the file's rows lie in `samples` (m,), if that has gaps between them or lacks repeated rows. name: of the column.
    """

    samples: Float64
    bad: int = 0
    first_bad: str = ""
    fs: float | None = None
    said: str = ""
    rows: NDArray[np.int64] | None = None
    gaps: int = 0
    repeats: int = 0
    text: int = 0
    first_text: str = ""
    name: str = ""

    def rate(self, path: str, asked: float | None, default: float) -> float:
        """The sampling rate, Hz: what the file tells, or `asked`, or else `default`. Raises DataError if the two contradict each other."""
        if self.fs is None:
            return default if asked is None else asked
        if asked is not None and abs(asked / self.fs - 1) > RATE_TOLERANCE:
            raise DataError(f"{path}: --fs {asked:g}, but {self.said} says {self.fs:.6g} Hz")
        if not 20 <= self.fs <= 1000:
            raise DataError(f"{path}: {self.fs:.4g} Hz by {self.said}: must be 20 to 1000 Hz")
        return self.fs

    def understood(self, path: str, fs: float) -> str:
        """What was read, in one line."""
        n = self.samples.shape[-1] if self.rows is None else len(self.rows)
        what = f"{self.name or 'PPG'} of {Path(path).name}: {fs:.6g} Hz"
        parts = [what + (f" from {self.said}" if self.fs is not None else "")]
        parts.append(f"{n:,} samples" if self.samples.ndim == 1 else f"{len(self.samples)} recordings of {n:,} samples")
        for count, word in ((self.gaps, "gap"), (self.repeats, "repeated row"), (self.bad, "invalid line"), (self.text, "line")):
            if count:
                parts.append(f"{count:,} {word}{'s' * (count > 1)}{' of text dropped' if word == 'line' else ''}")
        times = repeated(self.samples) if self.samples.ndim == 1 else 1
        if times > 1:
            parts.append(f"each value comes {times} times: looks like {fs / times:.4g} Hz")
        return ", ".join(parts)


def repeated(x: Float64) -> int:
    """How many times a sensor repeats each of its values in `x` (n,); 1 if it does not."""
    edges = np.flatnonzero(np.diff(x) != 0)
    runs = np.diff(edges)
    if len(runs) < 20:
        return 1
    return next((k for k in range(20, 1, -1) if (runs % k == 0).mean() > 0.98), 1)


def read(path: Path, *, column: str | None = None, key: str | None = None, transpose: bool = False) -> Recording:
    """A recording from .npy, an .npz that `denoise` wrote, or text (docs/formats.md). `column`: by name or number from 0; `key`: of lines like `IR=512`.

    Raises SourceError if it cannot be opened, DataError if it holds no valid sample, UsageError if the column is not clear.
    """
    try:
        if path.suffix in (".npy", ".npz"):
            if key is not None:
                raise UsageError(f"--field {key!r}: {path} holds no lines of text")
            return _read_npy(path, column, transpose=transpose)
        content = _content(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror or error}") from error
    if transpose:
        raise UsageError(f"--transpose: {path} is no array of rows (npy)")
    if column is not None and key is not None:
        raise UsageError("--column and --field: give one of them")
    table = read_text(str(path), _text(path, content), column=column, key=key, table=path.suffix in (".csv", ".tsv"))
    found = Recording(
        table.samples, table.bad, table.first_bad, table.fs, table.said, None, 0, 0, table.text, table.first_text, table.name
    )
    clocked = by_clock(table.samples, table.times) if table.times is not None and table.fs is None else None
    if clocked is not None:
        rows = None if not clocked.repeats and len(clocked.rows) == len(clocked.samples) else clocked.rows
        found = found._replace(
            samples=clocked.samples, fs=clocked.fs, said="its times", rows=rows, gaps=clocked.gaps, repeats=clocked.repeats
        )
    return _checked(path, found)


def _content(path: Path) -> bytes:
    """A file or a pipe. Raises DataError for what is no text by its beginning, and for a pipe that brings more than `MOST_PIPED`."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        _encoding(path, head)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return head + file.read()
        content = head + file.read(MOST_PIPED)
    if len(content) > MOST_PIPED:
        raise DataError(
            f"{path}: a pipe or device that brings more than {MOST_PIPED:,} bytes: stream it with `ppgstream replay -`"
        )
    return content


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) > 8 and len(head) % 2 == 0 and not any(head[1::2]) and all(head[::2]):
        return "utf-16-le"
    # One stray zero byte costs its own line, as any other bad character.
    odd = sum(c < 32 and c not in b"\t\n\v\f\r\x1b\0" for c in head) if len(head) >= 64 else 0
    if head.count(0) * 100 > len(head) or odd * 20 > len(head):
        raise DataError(f"{path}: a binary file, not text: it starts with {head[:8]!r}")
    return "utf-8-sig"


def _text(path: Path, content: bytes) -> str:
    return content.decode(_encoding(path, content[:HEAD]), "replace")


def _checked(path: Path, recording: Recording) -> Recording:
    if not np.isfinite(recording.samples).any():
        raise DataError(
            f"{path}: no valid sample" + (f" ({told})" if (told := recording.first_bad or recording.first_text) else "")
        )
    return recording


def _read_npy(path: Path, column: str | None, *, transpose: bool) -> Recording:
    fs = None
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                if "denoised" not in archive.files:
                    raise DataError(f"{path}: an npz without `denoised`: only those that `ppgstream denoise` wrote are read")
                fs = float(archive["fs"]) if "fs" in archive.files else None
                array = np.asarray(archive["denoised"])  # what is no array is given as bytes
    except _NOT_NPY as error:
        # NumPy's words for a file that is none of its own advise to load it unsafely.
        told = "no .npy or .npz file" if "pickle" in str(error) else str(error)
        raise DataError(f"{path}: not an array of numbers: {told}") from error
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: an array of {array.dtype} with {array.ndim} dimensions: must be numbers, 1-D or 2-D (rows are recordings)"
        )
    if transpose:
        if array.ndim != 2:
            raise UsageError(f"--transpose: {path} has 1 dimension")
        array = array.T
    if column is not None:
        if array.ndim != 2 or not re.fullmatch("[0-9]{1,6}", column) or int(column) >= array.shape[1]:
            raise UsageError(f"{path}: no column {column!r:.100}: an array of shape {array.shape}; the first is 0")
        array = array[:, int(column)]
    return _checked(path, Recording(array.astype(np.float64), fs=fs, said="the file"))


# What NumPy's reader raises for a file that is no array: its header is parsed as Python, its size is taken on trust.
_NOT_NPY = (
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError are such
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


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
        replace_files({path: content})
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go in a circle
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
