"""Files of text as blocks of lines: their encoding, gz and zip, and the names of what is no text."""

from __future__ import annotations

import codecs
import gzip
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ppgstream.errors import DataError
from ppgstream.files.cells import SHOWN

NAMED = (  # beginnings of files that hold recordings and are no text; what converts them
    (0, b"\x89HDF", "HDF5 or MATLAB 7.3: name it .h5 or .mat"),
    (0, b"MATLAB 5.0", "a MATLAB file: name it .mat"),
    (0, b"XDF:", "XDF of LabRecorder: name it .xdf"),
    (0, b"Obj\x01", "Avro, as Empatica's EmbracePlus writes: fastavro reads it"),
    (8, b".FIT", "FIT of a watch: fitdecode reads it"),
    (0, b"PAR1", "Parquet: name it .parquet"),
    (0, b"\xffBIOSEMI", "BDF: name it .bdf"),
    (0, b"0       ", "EDF: name it .edf"),
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
}
MOST_UNPACKED = 2_000_000_000  # bytes
HEAD = 4096  # bytes, by which text is told from anything else
MOST_PIPED = 500_000_000  # bytes that a pipe or a device may bring; a file's size is its owner's business
MAX_LINE = 65_536  # bytes; without a newline in sight these are no lines, and not to be collected without bound
BLOCK = 1 << 18  # bytes that are read at once


def lines_in(path: Path, seen: Callable[[int], object] = lambda _: None) -> Iterator[list[str]]:
    """The lines of a file or a pipe, in blocks. `seen` is told how many of the file's bytes have been read. Lines end with \\n,
    whatever \\r stands before it; of an old Mac's file with \\r. Raises OSError, and DataError for what is no text, by its
    beginning, naming what it is."""
    with path.open("rb") as file:
        head = file.read(HEAD)
        file_or_pipe = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if head[:2] == b"\x1f\x8b":
            file.seek(0)
            yield from _packed(path, gzip.GzipFile(fileobj=file), "gz", lambda _: seen(file.tell()))
        elif head[:4] == b"PK\x03\x04":
            with _archive(path, file) as archive:
                yield from _packed(path, archive.open(_member(path, archive)), "zip", lambda _: seen(file.tell()))
        else:
            yield from _blocks(path, head, file, MOST_PIPED if not file_or_pipe else None, "bring", seen)


def _packed(path: Path, file: IO[bytes] | gzip.GzipFile, kind: str, seen: Callable[[int], object]) -> Iterator[list[str]]:
    try:
        with file:
            yield from _blocks(path, file.read(HEAD), file, MOST_UNPACKED, "unpack to", seen)
    except (zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: a damaged {kind} file: {error}") from error


def _archive(path: Path, file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: a damaged zip file: {error}") from error


def _member(path: Path, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise DataError(f"{path}: an Excel file (xlsx): save it as csv")
    if any(name.endswith(".npy") for name in names):
        raise DataError(f"{path}: a NumPy archive: its name must end in .npz")
    if len(names) != 1:
        raise DataError(f"{path}: a zip of {len(names)} files: unpack it, and give one of them ({', '.join(names):.80})")
    return names[0]


def _blocks(
    path: Path, head: bytes, file: IO[bytes] | gzip.GzipFile, most: int | None, how: str, seen: Callable[[int], object]
) -> Iterator[list[str]]:
    decoder = codecs.getincrementaldecoder(_encoding(path, head))("replace")
    total, rest, end, content = 0, "", "\n", head
    while content:
        total += len(content)
        seen(total)
        if most is not None and total > most:
            raise DataError(f"{path}: would {how} more than {most:,} bytes: a pipe is streamed with `ppgstream replay -`")
        text = rest + decoder.decode(content)
        if total <= BLOCK and "\n" not in text and "\r" in text[:-1]:
            end = "\r"
        *lines, rest = text.split(end)
        if lines:
            yield _without_returns(lines)
        content = file.read(BLOCK)
    rest += decoder.decode(b"", True)
    if rest.strip("\r"):
        yield _without_returns([rest])


def _without_returns(lines: list[str]) -> list[str]:
    return [line.rstrip("\r") for line in lines] if any("\r" in line for line in lines) else lines


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
