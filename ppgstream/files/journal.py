"""A recording of a live stream while it is open: its messages, in the order in which they were heard, in a file that only grows.

A row is when a message was heard and its body (docs/wire.md), or a note: a JSON object. With pyarrow the file is an Arrow IPC
stream (`.arrows`), which other programs read too; without, it is `.journal`: frames of time, length and body. Of a file that was
cut off anywhere, all whole rows before the cut are read.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ppgstream.errors import DataError

SUFFIXES = (".arrows", ".journal")
MAGIC = b"PPGJ1"
FRAME = struct.Struct("<qI")  # when it was heard, ns since 1970; bytes of the body
MOST_BODY = 1_000_000  # bytes; of a longer one the file is damaged
STREAM = b"stream"


class Row(NamedTuple):
    """A message or a note, and when it was heard, ns since 1970."""

    heard_ns: int
    body: bytes

    @property
    def note(self) -> Note | None:
        """What a note says, nothing if it is damaged; None for a message."""
        if not self.body.startswith(b"{"):
            return None
        try:
            return msgspec.json.decode(self.body, type=Note)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Note()


class Note(msgspec.Struct, omit_defaults=True):
    """What is noted between messages. begins, cut: by session (16 hexadecimal digits), the index from which its raw samples are
    in this file, and from which they are in the next. closed: the file was ended in order. event: of the daemon."""

    begins: dict[str, int] = {}
    cut: dict[str, int] = {}
    closed: bool = False
    event: dict[str, Any] | None = None


def noted(heard_ns: int, **said: Any) -> Row:
    """A row with a note of these fields."""
    return Row(heard_ns, msgspec.json.encode(Note(**said)))


def suffix_of(format: str) -> str:
    """Of the open file of a recording that becomes `format`."""
    return ".arrows" if format == "parquet" else ".journal"


def append(path: Path, stream: str, rows: Sequence[Row]) -> None:
    """Add rows to a journal, and see that they are on the disk. Begins the file if it is not there. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "ab") as file:
        before = file.tell()
        try:
            if not before:
                file.write(_head(path, stream))
            file.write(_packed(path, rows))
            file.flush()
            os.fdatasync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), before)  # the disk is full: half a row would hide what follows
            raise


def read(path: Path) -> tuple[str, list[Row]]:
    """The stream of a journal, and its whole rows. Raises DataError for what is none, OSError."""
    content = path.read_bytes()
    stream, rows = _arrow_rows(path, content) if path.suffix == ".arrows" else _framed_rows(path, content)
    return stream, list(rows)


def _arrow() -> Any:
    return importlib.import_module("pyarrow")


def _schema(stream: str) -> Any:
    pa = _arrow()
    return pa.schema([("heard_ns", pa.int64()), ("body", pa.binary())], {STREAM: stream.encode(), b"written_by": b"ppgstream"})


def _head(path: Path, stream: str) -> bytes:
    if path.suffix == ".arrows":
        return bytes(_schema(stream).serialize())
    name = stream.encode()
    return MAGIC + bytes([len(name)]) + name


def _packed(path: Path, rows: Sequence[Row]) -> bytes:
    if path.suffix != ".arrows":
        return b"".join(FRAME.pack(heard_ns, len(body)) + body for heard_ns, body in rows)
    pa = _arrow()
    columns = [pa.array([row.heard_ns for row in rows], pa.int64()), pa.array([row.body for row in rows], pa.binary())]
    return bytes(pa.record_batch(columns, schema=_schema("")).serialize())


def _arrow_rows(path: Path, content: bytes) -> tuple[str, Iterator[Row]]:
    if importlib.util.find_spec("pyarrow") is None:
        raise DataError(f"{path}: is read with pyarrow: pip install pyarrow, or ppgstream[parquet]")
    pa = _arrow()
    try:
        reader = pa.ipc.open_stream(content)
        stream = reader.schema.metadata[STREAM].decode()
        if not reader.schema.equals(_schema(stream)):
            raise KeyError(f"columns {', '.join(reader.schema.names)}")
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no open recording: {str(error).splitlines()[0]}") from error

    def rows() -> Iterator[Row]:
        while True:
            try:
                batch = reader.read_next_batch()
                pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
            except (StopIteration, pa.ArrowInvalid, OSError):  # its end, or where it was cut off
                return
            yield from (Row(*pair) for pair in pairs)

    return stream, rows()


def _framed_rows(path: Path, content: bytes) -> tuple[str, Iterator[Row]]:
    at = len(MAGIC) + 1
    if content[: len(MAGIC)] != MAGIC or len(content) < at:
        raise DataError(f"{path}: no open recording")
    start = at + content[at - 1]

    def rows() -> Iterator[Row]:
        at = start
        while at + FRAME.size <= len(content):
            heard_ns, size = FRAME.unpack_from(content, at)
            at += FRAME.size
            if not 0 < size <= MOST_BODY or at + size > len(content):
                return
            yield Row(heard_ns, content[at : at + size])
            at += size

    return content[at:start].decode("ascii", "replace"), rows()
