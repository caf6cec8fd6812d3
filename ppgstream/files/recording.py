"""Recordings: files and pipes to samples, and back. A line that is no number keeps its place as an invalid sample (NaN)."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import itertools
import math
import os
import re
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.stamps import Clock, ClockError, Form, clock_of, laid_out
from ppgstream.errors import DataError, OutputError, SourceError, UsageError
from ppgstream.files.cells import NONFINITE, PIECE, SHOWN
from ppgstream.files.table import read_lines
from ppgstream.storage import check_folder, replace_files

Float64 = NDArray[np.float64]
CSV_HEAD = "stream,session,index,t_ns,value,confidence,flags"  # of what `tap` and `denoise -o x.csv` write
RATE_TOLERANCE = 0.02  # by which two statements of a rate may differ
ABSURD = (5.0, 5000.0)  # Hz: beyond, a file's word on its rate does not count against --fs
COURSE = {  # the external files of the 2019 course, sha256
    "external_val1_file.txt": "616446f030edc382da7dc0c6744b6707efc8b19fc90542389f6d0b4a69388589",
    "external_val2_file.txt": "466b718d88a2363e85c377b753989da262c70734625c4fe9999df7a8ff58eca4",
}
NAMED = (  # beginnings of files that hold recordings and are no text; what converts them
    (0, b"\x89HDF", "HDF5 or MATLAB 7.3: h5py.File(...) reads it"),
    (0, b"MATLAB 5.0", "a MATLAB file: scipy.io.loadmat reads it; save one column with numpy.savetxt"),
    (0, b"XDF:", "XDF of LabRecorder: pyxdf.load_xdf reads it"),
    (0, b"Obj\x01", "Avro, as Empatica's EmbracePlus writes: fastavro reads it"),
    (8, b".FIT", "FIT of a watch: fitdecode reads it"),
    (0, b"PAR1", "Parquet: pandas.read_parquet reads it"),
    (0, b"\xffBIOSEMI", "BDF: pyedflib or MNE reads it"),
    (0, b"0       ", "EDF: pyedflib or MNE reads it"),
    (0, b"\x80\x02", "a pickle, which can run any program when it is read: ask for csv"),
    (0, b"\x80\x03", "a pickle, which can run any program when it is read: ask for csv"),
    (0, b"\x80\x04", "a pickle, which can run any program when it is read: ask for csv"),
    (0, b"\x80\x05", "a pickle, which can run any program when it is read: ask for csv"),
    (0, b"\xd0\xcf\x11\xe0", "an old Excel file: save it as csv"),
    (0, b"SQLite format 3", "an SQLite database: export its table as csv"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (0, b"BZh", "a bzip2 file: unpack it"),
    (0, b"\xfd7zXZ", "an xz file: unpack it"),
    (0, b"\x93NUMPY", "a NumPy array: its name must end in .npy"),
)
SUFFIX_NAMED = {
    ".acq": "of BIOPAC's AcqKnowledge: bioread converts it",
    ".edf": NAMED[7][2],
    ".bdf": NAMED[6][2],
    ".mat": NAMED[1][2],
}
MOST_UNPACKED = 2_000_000_000  # bytes
HEAD = 4096  # bytes, by which text is told from anything else
MOST_PIPED = 500_000_000  # bytes that a pipe or a device may bring; a file's size is its owner's business
MAX_LINE = 65_536  # bytes; without a newline in sight these are no lines, and not to be collected without bound


class Recording(NamedTuple):
    """samples: (n,) or (rows, n) float64, NaN where invalid.

    bad: how many lines were no number; text: how many were text, and dropped. fs: the rate that the file tells, Hz, or None; `said`: by what.
    rows: where the file's rows lie in `samples` (m,), if that has gaps between them or lacks repeated rows. clock: what its stamps say.
    header_fs: the rate that its header states beside its clock, `header_said` in which words. lines: the line of each row. name: of the column.
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
        """The sampling rate, Hz: what the file tells, or `asked`. Raises UsageError if nobody says it, DataError if two witnesses contradict each other:
        the file's clock, its header, and `asked`, which if `trusted` counts alone."""
        if trusted:
            if asked is None:
                raise UsageError("--trust-fs: say the rate with --fs")
            return asked
        witnesses = [(fs, said) for fs, said in ((self.fs, self.said), (self.header_fs, self.header_said)) if fs is not None]
        sane = [(fs, said) for fs, said in witnesses if ABSURD[0] <= fs <= ABSURD[1]]
        if asked is not None:
            for fs, said in sane:
                if abs(asked / fs - 1) > RATE_TOLERANCE:
                    raise DataError(f"{path}: --fs {asked:g}, but {said} says {fs:.6g} Hz; --trust-fs takes --fs all the same")
            return sane[0][0] if sane else asked
        for (fs, said), (other, told) in itertools.pairwise(sane):
            if abs(fs / other - 1) > RATE_TOLERANCE:
                raise DataError(f"{path}: {said} says {fs:.6g} Hz, and {told} says {other:.6g} Hz: say --fs HZ --trust-fs")
        if sane:
            fs, said = sane[0]
        elif witnesses:
            raise DataError(
                f"{path}: {witnesses[0][0]:.4g} Hz by {witnesses[0][1]}: must be 20 to 1000 Hz; say the right rate with --fs"
            )
        else:
            raise UsageError(f"{path}: states no sampling rate: say --fs HZ")
        if not 20 <= fs <= 1000:
            raise DataError(f"{path}: {fs:.4g} Hz by {said}: must be 20 to 1000 Hz")
        return fs

    def understood(self, path: str, fs: float) -> str:
        """What was read, in one line."""
        n = self.samples.shape[-1] if self.rows is None else len(self.rows)
        what = f"{self.name or 'PPG'} of {Path(path).name}: {fs:.6g} Hz"
        said = next(
            (
                said
                for one, said in ((self.fs, self.said), (self.header_fs, self.header_said))
                if one and abs(one / fs - 1) <= RATE_TOLERANCE
            ),
            "",
        )
        parts = [what + (f" from {said}" if said else "")]
        parts.append(f"{n:,} samples" if self.samples.ndim == 1 else f"{len(self.samples)} recordings of {n:,} samples")
        clock = self.clock
        if clock is not None and len(clock.starts) > 1:
            at = "" if self.lines is None else f" (the second from line {self.lines[clock.order[clock.starts[1]]]})"
            parts.append(f"{len(clock.starts):,} stretches, each with a clock of its own{at}")
        seconds = f" of {clock.lost / fs:.3g} s in all" if clock is not None and clock.lost else ""
        counted = (
            (self.gaps, "gap", seconds),
            (self.repeats, "repeated row", ""),
            (clock.moved if clock is not None else 0, "row", " out of order"),
            (clock.wraps if clock is not None else 0, "wrap", " of the clock"),
            (self.bad, "invalid line", ""),
            (self.text, "line", " of text dropped"),
        )
        parts += [f"{count:,} {word}{'s' * (count > 1)}{more}" for count, word, more in counted if count]
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
        """The time of each row that is there, seconds since the first; it falls where a new stretch begins with a clock of its own."""
        if self.clock is None:
            return np.arange(self.samples.shape[-1]) / fs
        return self.clock.times if np.isfinite(self.clock.times).all() else self.clock.places / fs


def in_turns(x: Float64) -> bool:
    """Whether two channels take turns in `x` (n,): neighbours are far apart, every second one is not."""
    x = x[np.isfinite(x)][:10_000]
    if len(x) < 200:
        return False
    near, second = np.median(np.abs(np.diff(x))), np.median(np.abs(x[2:] - x[:-2]))
    return bool(near > 8 * second and near > 0 and (np.diff(np.sign(np.diff(x))) != 0).mean() > 0.95 and len(np.unique(x)) > 20)


def repeated(x: Float64) -> int:
    """How many times a sensor repeats each of its values in `x` (n,); 1 if it does not."""
    edges = np.flatnonzero(np.diff(x) != 0)
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
    """A recording from .npy, an .npz that `denoise` wrote, or text (docs/formats.md). `column`: by name or number from 0; `key`: of lines like `IR=512`;
    `stream`: of an output of several; `clocked` False: its times are not looked at.

    Raises SourceError if it cannot be opened, DataError if it holds no valid sample or a clock that cannot be read, UsageError if the column is not clear.
    """
    try:
        if path.suffix in (".npy", ".npz"):
            if key is not None:
                raise UsageError(f"--field {key!r}: {path} holds no lines of text")
            return _known(path, _read_npy(path, column, transpose=transpose))
        content = unpacked(path, _content(path))
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror or error}") from error
    if transpose:
        raise UsageError(f"--transpose: {path} is no array of rows (npy)")
    if column is not None and key is not None:
        raise UsageError("--column and --field: give one of them")
    name = path.with_suffix("") if path.suffix in (".gz", ".zip") else path
    return _known(path, of_lines(str(path), _blocks(_text(path, content)), column=column, key=key, table=name.suffix in (".csv", ".tsv"),
                                 stream=stream, clocked=clocked), content)  # fmt: skip


def of_lines(where: str, blocks: Iterable[list[str]], *, column: str | None, key: str | None, table: bool, stream: str | None = None,
             clocked: bool = True) -> Recording:  # fmt: skip
    """A recording from blocks of lines, laid out by its clock."""
    table_ = read_lines(where, blocks, column=column, key=key, table=table, stream=stream, clocked=clocked)
    found = Recording(table_.samples, table_.bad, table_.first_bad, table_.fs, table_.said, None, None, table_.text, table_.first_text, table_.name,
                      table_.lines, table_.layout)  # fmt: skip
    if not np.isfinite(found.samples).any():
        hint = ": --column or --field?" if found.first_text else ""
        raise DataError(
            f"{where}: no valid sample" + (f" ({told}){hint}" if (told := found.first_bad or found.first_text) else "")
        )
    stamps, form = table_.stamps, table_.form
    if stamps is None and table_.breaks:  # no clock, but the file begins anew
        stamps, form = np.arange(len(found.samples), dtype=np.float64), Form(counter=True)
        stamps[list(table_.breaks)] = 0
        for a, b in zip(table_.breaks, [*table_.breaks[1:], len(stamps)], strict=True):
            stamps[a:b] = np.arange(b - a)
    if stamps is None or form is None:
        return found
    try:
        clock = clock_of(stamps, found.samples, form, breaks=table_.breaks)
    except ClockError as error:
        if len(found.samples) < 8:
            return found  # too few rows for a clock, and for anything else
        line = "" if table_.lines is None else f"line {table_.lines[min(error.row, len(table_.lines) - 1)]}: "
        raise DataError(
            f"{where}: {line}the time in {table_.clock or 'the first column'} {error}: with --fs HZ --trust-fs it is not looked at"
        ) from None
    known = math.isfinite(clock.fs)
    fs = clock.fs if known else table_.fs or 125.0
    samples, rows = laid_out(found.samples, clock, fs)
    plain = len(clock.starts) == 1 and not clock.repeats and not clock.moved and len(rows) == len(samples) and not clock.jitter
    found = found._replace(samples=samples, rows=None if plain else rows, clock=None if plain and not clock.wraps else clock)
    if known:
        said = f"its times ({table_.clock})" if table_.clock else "its times"
        found = found._replace(fs=clock.fs, said=said, header_fs=table_.fs, header_said=table_.said)
    return found


def _known(path: Path, found: Recording, content: bytes = b"") -> Recording:
    """The course's external files state no rate; everybody knows it, by their content."""
    if found.fs is None and content and path.name in COURSE and hashlib.sha256(content).hexdigest() == COURSE[path.name]:
        return found._replace(fs=125.0, said="the course that it belongs to")
    return found


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of a text, in pieces. Lines end with \\n, whatever \\r stands before it; of an old Mac's file with \\r."""
    lines = text.split("\n") if "\n" in text else text.split("\r")
    del text
    if lines and not lines[-1].strip("\r"):
        lines.pop()
    for start in range(0, len(lines), PIECE):
        piece = lines[start : start + PIECE]
        yield [line.rstrip("\r") for line in piece] if any("\r" in line for line in piece) else piece


def _content(path: Path) -> bytes:
    """A file or a pipe. Raises DataError for what is no text by its beginning, and for a pipe that brings more than `MOST_PIPED`."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        if head[:2] != b"\x1f\x8b" and head[:4] != b"PK\x03\x04":
            _encoding(path, head)
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return head + file.read()
        content = head + file.read(MOST_PIPED)
    if len(content) > MOST_PIPED:
        raise DataError(
            f"{path}: a pipe or device that brings more than {MOST_PIPED:,} bytes: stream it with `ppgstream replay -`"
        )
    return content


def unpacked(path: Path, content: bytes) -> bytes:
    """What a gz or a zip of one file holds; any other content as it is. Raises DataError for what is no text by its beginning, naming what it is."""
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MOST_UNPACKED + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: a damaged gz file: {error}") from error
    elif content[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
                if "[Content_Types].xml" in names:
                    raise DataError(f"{path}: an Excel file (xlsx): save it as csv")
                if any(name.endswith(".npy") for name in names):
                    raise DataError(f"{path}: a NumPy archive: its name must end in .npz")
                if len(names) != 1:
                    raise DataError(
                        f"{path}: a zip of {len(names)} files: unpack it, and give one of them ({', '.join(names):.80})"
                    )
                with archive.open(names[0]) as member:
                    content = member.read(MOST_UNPACKED + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{path}: a zip that cannot be read: {error}") from error
    if len(content) > MOST_UNPACKED:
        raise DataError(f"{path}: unpacks to more than {MOST_UNPACKED:,} bytes")
    _encoding(path, content[:HEAD])
    return content


def _encoding(path: Path, head: bytes) -> str:
    for at, magic, what in NAMED:
        if head[at : at + len(magic)] == magic and not (magic == b"0       " and b"\n" in head[:200]):
            raise DataError(f"{path}: {what}")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(head) > 8 and len(head) % 2 == 0 and not any(head[1::2]) and all(head[::2]):
        return "utf-16-le"
    # One stray zero byte costs its own line, as any other bad character.
    odd = sum(c < 32 and c not in b"\t\n\v\f\r\x1b\0" for c in head) if len(head) >= 64 else 0
    if head.count(0) * 100 > len(head) or odd * 20 > len(head):
        what = SUFFIX_NAMED.get(path.suffix.lower(), "not text")
        raise DataError(f"{path}: a binary file, {what}: it starts with {head[:8]!r}")
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
    fs = times = None
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                if "denoised" not in archive.files:
                    raise DataError(f"{path}: an npz without `denoised`: only those that `ppgstream denoise` wrote are read")
                _sizes(path, archive)
                fs = float(archive["fs"]) if "fs" in archive.files else None
                array = np.array(archive["denoised"])  # what is no array is given as bytes
                if (
                    "flags" in archive.files
                    and (flags := np.asarray(archive["flags"])).shape == array.shape
                    and array.dtype.kind == "f"
                ):
                    array[(flags & NONFINITE) != 0] = np.nan
                times = np.asarray(archive["t_s"], np.float64) if "t_s" in archive.files else None
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
    found = _checked(path, Recording(array.astype(np.float64), fs=fs, said="the file"))
    if times is None or fs is None or times.shape != array.shape:
        return found
    try:
        clock = clock_of(times, found.samples)
    except ClockError as error:
        raise DataError(f"{path}: t_s {error}") from error
    samples, rows = laid_out(found.samples, clock, fs)
    return found._replace(samples=samples, rows=rows, clock=clock)


def _sizes(path: Path, archive: Any) -> None:
    """Refuse an archive that unpacks to more than a recording has, before it does."""
    size = sum(one.file_size for one in archive.zip.infolist())
    if size > MOST_UNPACKED:
        raise DataError(f"{path}: unpacks to {size:,} bytes: at most {MOST_UNPACKED:,}")


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
