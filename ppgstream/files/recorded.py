"""A recording of a live stream once it is closed: a table with a row for each sample, raw beside clean, as Parquet or npz.

Made of the messages that were heard (`journal`). A column is empty where nothing was heard: raw of a daemon that does not publish
it, clean of what the daemon had not published yet.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import WireError
from ppgstream.files.journal import Note, Row, read
from ppgstream.storage import replace_file_by
from ppgstream.wire.message import Chunk, Flag, Kind, decode

FORMATS = ("parquet", "npz")
HEARD = ("raw", "denoised")  # columns of which an npz says in NAME_heard in which rows they were heard


class Column(NamedTuple):
    """values (rows,), and which of them are there; None: all."""

    values: NDArray[Any]
    there: NDArray[np.bool_] | None = None


class Recorded(NamedTuple):
    """columns: by name, of one length; facts: what is said of the whole: see `facts_of`."""

    columns: dict[str, Column]
    facts: dict[str, Any]


@dataclass
class _Session:
    """Messages of one session."""

    number: int
    heard_ns: int
    raw: list[Chunk] = field(default_factory=list)
    clean: list[Chunk] = field(default_factory=list)
    told: list[Chunk] = field(default_factory=list)  # beats and rates
    gaps: int = 0
    ended: str = ""
    begins: int | None = None  # raw samples before this index are in the file before
    cut: int | None = None  # raw samples from this index on are in the next file


def of_journal(path: Path) -> Recorded | None:
    """What a journal holds; None where it holds no sample. Raises DataError for a file that is no journal, OSError."""
    stream, rows = read(path)
    sessions, notes, damaged = _sorted_out(stream, rows)
    for one in sessions.values():
        number = f"{one.number:016x}"
        one.begins = next((note.begins[number] for note in notes if number in note.begins), None)
        one.cut = next((note.cut[number] for note in notes if number in note.cut), None)
    parts: list[dict[str, Column]] = []
    ends_s = 0.0
    first_ns = min((one.heard_ns for one in sessions.values()), default=0)
    for one in sessions.values():
        part = _table(one, max(ends_s, (one.heard_ns - first_ns) / 1e9) if parts else 0.0)
        if part:
            parts.append(part)
            ends_s = float(np.nan_to_num(part["t_s"].values[-1])) + 1.0 / (_fs(one) or 1.0)
    if not parts:
        return None
    columns = {name: _joined([part[name] for part in parts]) for name in parts[0]}
    if not _there(columns["raw"]).any():
        del columns["raw"]
    rate = next(filter(None, (_fs(one) for one in sessions.values())), 0.0)
    facts = facts_of(stream, rate, sessions.values(), columns)
    facts |= {
        "heard_from_ns": rows[0].heard_ns,
        "heard_until_ns": rows[-1].heard_ns,
        "complete": any(note.closed for note in notes),
    }
    facts["events"] = [note.event for note in notes if note.event is not None]
    if damaged:
        facts["damaged_messages"] = damaged
    return Recorded(columns, facts)


def _sorted_out(stream: str, rows: Iterable[Row]) -> tuple[dict[int, _Session], list[Note], int]:
    """The messages by session, the notes, and how many messages were damaged."""
    sessions: dict[int, _Session] = {}
    notes: list[Note] = []
    damaged = 0
    for row in rows:
        if (told := row.note) is not None:
            notes.append(told)
            continue
        try:
            chunk = decode([stream.encode(), row.body])
        except WireError:
            damaged += 1
            continue
        one = sessions.setdefault(chunk.session, _Session(chunk.session, row.heard_ns))
        if chunk.kind is Kind.RAW:
            one.raw.append(chunk)
        elif chunk.kind is Kind.DATA:
            one.clean.append(chunk)
        elif chunk.kind is Kind.BEATS:
            one.told.append(chunk)
        elif chunk.kind is Kind.GAP:
            one.gaps += chunk.missing
        elif chunk.kind is Kind.END:
            one.ended = "unclean" if chunk.unclean else "clean"
    return sessions, notes, damaged


def _fs(one: _Session) -> float:
    """The rate of a session, Hz; 0 if nobody said it."""
    return next((c.fs for c in (*one.clean, *one.told, *one.raw) if c.fs), 0.0)


def _places(chunks: Sequence[Chunk]) -> NDArray[np.int64]:
    return _of((np.arange(c.index, c.index + len(c.samples)) for c in chunks), np.int64)


def _of(values: Iterable[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Arrays one after the other; an empty one of `dtype` if there are none."""
    return np.concatenate([np.zeros(0, dtype), *values])


def _times(chunks: Sequence[Chunk], fs: float) -> NDArray[np.int64]:
    """The sensor's time of each sample, ns since 1970; 0: unknown."""
    parts = [
        c.t_ns + np.rint(np.arange(len(c.samples)) * (1e9 / (c.fs or fs or 1.0))).astype(np.int64)
        if c.t_ns and (c.fs or fs)
        else np.zeros(len(c.samples), np.int64)
        for c in chunks
    ]
    return _of(parts, np.int64)


def _first_of_each(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of the first of each index, in rising order of the indexes: what came late is in its place, what came twice
    counts once."""
    return np.unique(index, return_index=True)[1]


def _table(one: _Session, starts_s: float) -> dict[str, Column]:
    """The rows of a session, whose first is `starts_s` seconds after the file's first; empty if it has none."""
    fs = _fs(one)
    raw_at = _places(one.raw)
    kept = _first_of_each(raw_at)
    if one.begins is not None:
        kept = kept[raw_at[kept] >= one.begins]
    if one.cut is not None:
        kept = kept[raw_at[kept] < one.cut]
    clean_at = _places(one.clean)
    clean_kept = _first_of_each(clean_at)
    beats = [c.beats for c in one.told if c.beats is not None]
    beat_at = _of((b.at.astype(np.int64) for b in beats), np.int64)
    rate_at = np.array([c.index - 1 for c in one.told if c.beats is not None and not np.isnan(c.beats.bpm)], np.int64)
    index = np.unique(np.concatenate([raw_at[kept], clean_at[clean_kept], beat_at, rate_at]))
    n = len(index)
    if not n:
        return {}

    def column(at: NDArray[np.int64], values: NDArray[Any]) -> Column:
        there, out = np.zeros(n, np.bool_), np.zeros(n, values.dtype)
        rows = np.searchsorted(index, at)
        there[rows], out[rows] = True, values
        return Column(out, there)

    raw = _of((c.samples for c in one.raw), one.raw[0].samples.dtype if one.raw else np.float32)
    raw = raw.astype(np.float64) if raw.dtype.kind in "iu" else raw
    raw_ns, clean_ns = _times(one.raw, fs), _times(one.clean, fs)
    time_ns = column(clean_at[clean_kept], clean_ns[clean_kept])
    heard = column(raw_at[kept], raw_ns[kept])
    ns = np.where(_there(heard) & (heard.values != 0), heard.values, time_ns.values)
    f4 = np.float32
    bpm = [c.beats for c in one.told if c.beats is not None and not np.isnan(c.beats.bpm)]
    return {
        "session": Column(np.full(n, one.number, np.uint64)),
        "index": Column(index),
        "t_s": Column(starts_s + (index - index[0]) / (fs or np.nan)),
        "time_ns": Column(ns, ns != 0),
        "raw": column(raw_at[kept], raw[kept]),
        "denoised": column(clean_at[clean_kept], _of((c.samples for c in one.clean), f4)[clean_kept]),
        "confidence": column(clean_at[clean_kept], _annotation(one.clean, "confidence", f4)[clean_kept]),
        "flags": column(clean_at[clean_kept], _annotation(one.clean, "flags", np.uint16)[clean_kept]),
        "beat_confidence": column(beat_at, _of((b.confidence for b in beats), f4)),
        "beat_interval_ms": column(beat_at, _of((b.interval_ms for b in beats), f4)),
        "beat_error_ms": column(beat_at, _of((b.error_ms for b in beats), f4)),
        "hr_bpm": column(rate_at, np.array([b.bpm for b in bpm], f4)),
        "hr_confidence": column(rate_at, np.array([b.bpm_confidence for b in bpm], f4)),
    }


def _annotation(chunks: Sequence[Chunk], name: str, dtype: Any) -> NDArray[Any]:
    """The confidence or the flags of clean samples; 0 of a message without."""
    found = ((getattr(c, name), len(c.samples)) for c in chunks)
    return _of((np.zeros(n, dtype) if values is None else values for values, n in found), dtype)


def _there(column: Column) -> NDArray[np.bool_]:
    return np.ones(len(column.values), np.bool_) if column.there is None else column.there


def _joined(parts: Sequence[Column]) -> Column:
    return Column(np.concatenate([part.values for part in parts]), np.concatenate([_there(part) for part in parts]))


def facts_of(stream: str, fs: float, sessions: Iterable[_Session], columns: dict[str, Column]) -> dict[str, Any]:
    """What a closed file says of itself: the stream and its rate; of each session its checkpoints, its clock and how it ended;
    and the account of samples."""
    denoised, flags = columns["denoised"], columns["flags"].values[_there(columns["flags"])]
    raw = columns.get("raw")
    account = {"raw": 0 if raw is None else int(_there(raw).sum()), "denoised": int(_there(denoised).sum())}
    account["denoised_without_raw"] = 0 if raw is None else int((_there(denoised) & ~_there(raw)).sum())
    account |= {flag.name.lower(): int(np.count_nonzero(flags & flag)) for flag in Flag if flag.name and (flags & flag).any()}
    told = []
    for one in sessions:
        stamps = [c.t_ns for c in (*one.raw, *one.clean) if c.t_ns]
        told.append(
            {
                "session": f"{one.number:016x}",
                "fs": _fs(one),
                "checkpoints": sorted({c.checkpoint.hex() for c in one.clean if any(c.checkpoint)}),
                "first_time_ns": min(stamps, default=0),
                "last_time_ns": max(stamps, default=0),
                "missing": one.gaps,
                "ended": one.ended or "no",
            }
        )
    return {"written_by": "ppgstream", "stream": stream, "fs": fs, "sessions": told, "samples": account}


def write(file: IO[bytes], recorded: Recorded, format: str) -> None:
    """Write a file of a format of `FORMATS`."""
    (_write_parquet if format == "parquet" else _write_npz)(file, recorded)


def _write_parquet(file: IO[bytes], recorded: Recorded) -> None:
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    columns = {}
    for name, column in recorded.columns.items():
        mask = None if column.there is None else ~column.there
        if name == "session":
            numbers, which = np.unique(column.values, return_inverse=True)
            codes, names = pa.array(which.astype(np.int32)), [f"{number:016x}" for number in numbers.tolist()]
            columns[name] = pa.DictionaryArray.from_arrays(codes, pa.array(names))
        elif name == "time_ns":
            columns["time"] = pa.array(column.values, mask=mask).cast(pa.timestamp("ns", "UTC"))
        else:
            columns[name] = pa.array(column.values, mask=mask)
    said = {"fs": repr(recorded.facts["fs"])} if recorded.facts["fs"] else {}
    table = pa.table(columns).replace_schema_metadata(said | {"written_by": "ppgstream", "recording": json.dumps(recorded.facts)})
    parquet.write_table(table, file, compression="zstd")


def _write_npz(file: IO[bytes], recorded: Recorded) -> None:
    arrays: dict[str, NDArray[Any]] = {"recording": np.array(json.dumps(recorded.facts))}
    if recorded.facts["fs"]:
        arrays["fs"] = np.array(recorded.facts["fs"])
    for name, column in recorded.columns.items():
        values = column.values
        if column.there is not None and values.dtype.kind == "f":
            values = np.where(column.there, values, np.nan).astype(values.dtype)
        arrays[name] = values
    for name in HEARD:
        if name in recorded.columns:
            arrays[f"{name}_heard"] = _there(recorded.columns[name])
    np.savez_compressed(file, allow_pickle=False, **arrays)


def close(path: Path, format: str) -> tuple[Path, dict[str, Any]] | None:
    """Make a file of `format` of a journal, and remove the journal. The file and what it says of itself; None where the journal
    holds no sample, and nothing is made. Raises DataError for a file that is no journal, OSError."""
    recorded = of_journal(path)
    if recorded is None:
        path.unlink()
        return None
    made = path.with_suffix(f".{format}")

    def written(file: IO[bytes]) -> None:
        write(file, recorded, format)
        file.flush()
        os.fsync(file.fileno())

    replace_file_by(made, written)
    folder = os.open(made.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # a power cut leaves the one file or the other
    finally:
        os.close(folder)
    path.unlink()
    return made, recorded.facts
