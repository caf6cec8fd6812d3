"""Text files as people have them: which part is the table, which column is the PPG, which is its clock, and what the file says
about its rate.

Understood: comment lines (`#`, `%`, `//`), `sep=`, lines of names and units, `Key=value` lines (LabChart), quotes; tab,
semicolon, comma or spaces between cells; a decimal comma; a delimiter at the end of each line; empty lines and cells in a regular
pattern; `time -> value` of the Arduino serial monitor; `key=value` logs and prefixes like `S512` (by `field`); JSON by line, as
an array or as an object; a rate in the header; Empatica's two header lines.

A line that begins like a number and is none is an invalid sample in its place. A line of text is no sample: it is dropped and
counted. Quotes are read by the standard `csv`, unusual dates by dateutil (why not pandas: docs/dependencies.md).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, UsageError
from ppgstream.files.cells import (
    ARROW,
    COUNTER_NAME,
    DOTTED,
    LOOKED_AT,
    NO_VALUE,
    NONFINITE,
    OWN,
    SHOWN,
    THOUSANDS,
    TIME_NAME,
    is_comment,
    is_number,
    is_text,
    key_pattern,
    number,
)
from ppgstream.files.header import KEY_LINE, Header, is_header, stated_rate
from ppgstream.files.json_rows import json_of_lines
from ppgstream.files.layout import Rows, chosen_column, clock_column, is_time, rows_of
from ppgstream.files.stamps import Form, form_of, numbers_of

Float64 = NDArray[np.float64]


class Table(NamedTuple):
    """samples (n,), NaN where invalid. stamps (n,): of its clock, in seconds or counts by `form`, or None; `clock`: the column's
    name. fs: the rate that the header states, Hz, or None; `said`: in which words. lines (n,): the number of each row's line.
    breaks: rows before which the file begins anew. `form_said`: what layout was left out."""

    samples: Float64
    stamps: Float64 | None = None
    form: Form | None = None
    clock: str = ""
    fs: float | None = None
    said: str = ""
    name: str = ""
    bad: int = 0
    first_bad: str = ""
    text: int = 0  # lines of text that were dropped
    first_text: str = ""
    lines: NDArray[np.int64] | None = None
    breaks: tuple[int, ...] = ()
    layout: str = ""


@dataclass(slots=True)
class Found:
    """What has been read so far."""

    where: str
    samples: list[Float64] = field(default_factory=list)
    stamps: list[Float64] = field(default_factory=list)
    lines: list[NDArray[np.int64]] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    n: int = 0
    before: int = 0  # rows of the tables that have been handed on
    bad: int = 0
    first_bad: str = ""
    text: int = 0
    first_text: str = ""
    dotted: int = 0  # values like 1.002; whole: like 998; other: neither
    whole: int = 0
    other: int = 0
    first_dotted: str = ""

    def hand_on(self) -> None:
        """Forget the rows, whose table has been made, and go on counting."""
        self.before, self.n = self.before + self.n, 0
        self.samples, self.stamps, self.lines, self.breaks = [], [], [], []

    def add(self, values: Float64, stamps: Float64 | None, lines: NDArray[np.int64]) -> None:
        self.samples.append(values)
        self.lines.append(lines)
        if stamps is not None:
            self.stamps.append(stamps)
        self.n += len(values)

    def drop(self, at: int, line: str) -> None:
        self.text += 1
        self.first_text = self.first_text or f"line {at} of {self.where} is text: {line[:SHOWN]!r}"

    def spoilt(self, at: int, cell: str) -> None:
        self.bad += 1
        self.first_bad = self.first_bad or f"line {at} of {self.where} is no number: {cell[:SHOWN]!r}"

    def marks(self, texts: Sequence[str], first: int) -> None:
        """Count values that may carry marks of thousands."""
        if self.other:
            return
        if "." not in "".join(texts):
            texts = texts[:: max(len(texts) // 500, 1)]  # so many tell how whole numbers are written
        for k, text in enumerate(texts):
            if DOTTED.fullmatch(text):
                self.dotted += 1
                self.first_dotted = self.first_dotted or f"line {first + k}: {text}"
            elif text.lstrip("+-").isdigit() and len(text.lstrip("+-")) <= 3:
                self.whole += 1
            elif text.strip().lower() not in NO_VALUE | {"nan"}:
                self.other += 1


def read_lines(where: str, blocks: Iterable[list[str]], **options: Any) -> Table:
    """The PPG in a file's lines, as one table; options as of `tables`."""
    return next(tables(where, blocks, **options))


def tables(
    where: str,
    blocks: Iterable[list[str]],
    *,
    column: str | None = None,
    key: str | None = None,
    table: bool = False,
    stream: str | None = None,
    clocked: bool = True,
    at_once: float = math.inf,
) -> Iterator[Table]:
    """The PPG in a file's lines, which come in blocks. `column`: its name, or number from 0; `key`: a key of `key=value` lines,
    or a prefix; `table`: the file's name says that it is one; `stream`: of an output of several streams, which; `clocked` False:
    its times are not looked at. `where` names the file in what is told. Tables of about `at_once` rows, except of JSON and of
    lines with a key, which are read whole; the last may be empty. Raises UsageError where the column is not clear, DataError for
    rows that cannot be read as samples."""
    head, rest = _first_lines(blocks)
    json_lines = json_of_lines(where, head, rest, stream)
    if json_lines is not None:
        yield from_rows(where, *json_lines, column=column or key, clocked=clocked)
        return
    header = Header()
    body = [(k + 1, line) for k, line in enumerate(head) if not is_header(line, header, k)]
    if key is not None:
        yield _by_key(where, header, body, rest, key)
        return
    if len(head) == 1 and body and not re.search("[,;\t]", head[0]) and column is None and len(head[0].split()) > 1:
        texts = head[0].split()  # all values on one line, as the course's scripts save them
        found = Found(where)
        _values(found, list(enumerate(texts)), Rows())
        yield table_of(found, header, Rows())
        return
    rows = rows_of(where, header, body, column=column, table=table, clocked=clocked)
    del body
    found = Found(where)
    own = tuple(rows.names[:5]) == OWN
    streams: set[str] = set()
    started = False
    for first, lines in itertools.chain([(1, head)], rest):
        if own:
            lines = _of_stream(where, lines, stream, streams)  # noqa: PLW2901
        if not _quick(found, lines, first, rows):
            numbered: list[tuple[int, str]] = []
            for k, line in enumerate(lines):
                if not is_header(line, header, first + k - 1, note=first == 1 or KEY_LINE.match(line) is not None):
                    numbered.append((first + k, line))
                elif found.n + len(numbered) and KEY_LINE.match(line) and rows.cells is not None:
                    _table_rows(found, numbered, rows, started)
                    started, numbered = started or found.n > 0, []
                    found.breaks.append(found.n)
            if rows.cells is None:
                _values(found, numbered, rows, header)
            else:
                _table_rows(found, numbered, rows, started)
        started = started or found.n > 0
        if found.n >= at_once:
            yield table_of(found, header, rows)
            found.hand_on()
    refuse_marks(where, found)
    yield table_of(found, header, rows)


def refuse_marks(where: str, found: Found) -> None:
    """Raises DataError where values below 1000 are whole and values above have a dot before the last three digits."""
    if found.dotted and found.whole and not found.other:
        raise DataError(
            f"{where}: {found.first_dotted}: a mark of thousands, or a decimal point? Other values are whole numbers below "
            f"1000: write all alike"
        )


def _first_lines(blocks: Iterable[list[str]]) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """The first lines, and the rest in pieces with the number of each piece's first line."""
    source = iter(blocks)
    head: list[str] = []
    for block in source:
        head += block
        if len(head) >= LOOKED_AT:
            break

    def pieces() -> Iterator[tuple[int, list[str]]]:
        first = len(head) + 1
        for block in source:
            yield first, block
            first += len(block)

    return head, pieces()


def _of_stream(where: str, lines: list[str], stream: str | None, seen: set[str]) -> list[str]:
    """Of an output's lines, those of one stream. Raises UsageError if there are several and none was named."""
    names = {line.partition(",")[0] for line in lines if line} - {OWN[0]}
    seen |= names
    if stream is None:
        if len(seen) > 1:
            raise UsageError(f"{where}: {len(seen)} streams or more: say which with --stream ({', '.join(sorted(seen)):.200})")
        return lines
    return [line for line in lines if line.startswith((f"{stream},", "stream,"))]


# ---- rows to samples ----------------------------------------------------------------------------------------------


def _quick(found: Found, lines: list[str], first: int, rows: Rows) -> bool:
    """A piece whose every line is a plain row. False: it is not, and nothing was read."""
    if rows.arrow or rows.blank or rows.decimal or (rows.quoted and '"' in "".join(lines[:3])) or not lines:
        return False
    stamps = None
    if rows.cells is None:
        texts = lines
    elif rows.delimiter == "," or rows.delimiter in ("\t", ";"):
        split = [line.split(rows.delimiter) for line in lines]
        least = max(rows.at, rows.time_at or 0)
        if any(len(row) <= least for row in split) or '"' in lines[0] or "'" in lines[0]:
            return False
        texts = [row[rows.at] for row in split]
        if tuple(rows.names[:5]) == OWN:
            return False
        if rows.time_at is not None and rows.form is not None:
            stamps = rows.form.seconds([row[rows.time_at].strip() for row in split])
            if not np.isfinite(stamps).all():
                return False
    else:
        return False
    try:
        values = np.array(texts, np.float64)
    except ValueError:
        return False
    if rows.cells is None and rows.heads and not found.n + found.before:
        return False
    found.marks(texts, first)
    found.add(values, stamps, np.arange(first, first + len(lines)))
    return True


def _values(found: Found, lines: list[tuple[int, str]], rows: Rows, header: Header | None = None) -> None:
    """One value a line."""
    texts: list[str] = []
    stamps: list[str] = []
    at: list[int] = []
    for number_, line in lines:
        text = line
        if rows.arrow:
            stamp, arrow, text = line.partition(ARROW)
            if not arrow:
                found.drop(number_, line)
                continue
        if rows.quoted:
            text = text.strip().strip('"')
        if rows.decimal:
            text = text.replace(",", ".")
        if rows.blank and not text.strip():
            continue
        if rows.heads and text.strip() in rows.heads[0]:
            if found.n + found.before + len(texts):
                found.breaks.append(found.n + len(texts))
            continue
        if not is_number(text) and header is not None and not found.n + found.before and not texts and stated_rate(text):
            header.take(text)
            continue
        if not is_number(text) and is_text(text):
            if header is not None and not found.n + found.before and not texts:
                header.take(text)
            found.drop(number_, text)
            continue
        if not is_number(text) and text.strip().lower() not in NO_VALUE - {""} and not THOUSANDS.fullmatch(text.strip()):
            found.spoilt(number_, text)
        texts.append(text)
        at.append(number_)
        if rows.arrow:
            stamps.append(stamp)
    found.marks(texts, at[0] if at else 0)
    values = np.array([number(text) for text in texts], np.float64)
    found.add(values, rows.form.seconds(stamps) if rows.form is not None and rows.arrow else None, np.array(at, np.int64))


def _table_rows(found: Found, lines: list[tuple[int, str]], rows: Rows, started: bool) -> None:
    """A column of each row, and its stamp."""
    assert rows.cells is not None
    own = tuple(rows.names[:5]) == OWN and "flags" in rows.names
    texts: list[str] = []
    stamps: list[str] = []
    at: list[int] = []
    session = ""
    for number_, raw in lines:
        line, stamp = raw, ""
        if rows.arrow:
            stamp, arrow, line = raw.partition(ARROW)
            if not arrow:
                found.drop(number_, raw)
                continue
        row = rows.cells(line)
        if rows.blank and not (rows.at < len(row) and row[rows.at].strip()):
            continue
        if rows.heads and row in rows.heads:
            if started or texts:
                found.breaks.append(found.n + len(texts))
            continue
        if not started and not texts and not any(is_number(cell) for cell in row):
            if len(row) < 2 <= rows.width and line.strip():
                found.drop(number_, line)
            continue  # above the table
        if not started and not texts and rows.heads and len(row) != rows.width and is_text(row[0]):
            continue
        if len(row) < 2 <= rows.width and line.strip() and is_text(line) and not any(is_number(cell) for cell in row):
            found.drop(number_, line)
            continue
        text = row[rows.at] if rows.at < len(row) else ""
        if own:
            if row[1] != session and session and texts:
                found.breaks.append(found.n + len(texts))
            session = row[1]
            if len(row) > 6 and row[6].isdigit() and int(row[6]) & NONFINITE:
                text = "nan"
        if not is_number(text) and text.lower() not in NO_VALUE - {""} and not THOUSANDS.fullmatch(text):
            found.spoilt(number_, text)
        texts.append(text)
        at.append(number_)
        if rows.time_at is not None and not rows.arrow:
            stamp = row[rows.time_at] if rows.time_at < len(row) else ""
        stamps.append(stamp)
    found.marks(texts, at[0] if at else 0)
    values = np.array([number(text) for text in texts], np.float64)
    found.add(values, rows.form.seconds(stamps) if rows.form is not None else None, np.array(at, np.int64))


def _by_key(where: str, header: Header, body: list[tuple[int, str]], rest: Iterator[tuple[int, list[str]]], key: str) -> Table:
    wanted = key_pattern(key)
    found = Found(where)
    arrow = bool(body) and sum(ARROW in line for _, line in body) > 0.5 * len(body)
    timed = None
    if not arrow:
        names = Counter(m for _, line in body[:300] for m in re.findall(r"([A-Za-z_]+)\s*[=:]\s*\d", line))
        timed = next(
            (
                key_pattern(k)
                for k, count in names.items()
                if k != key and TIME_NAME.fullmatch(k) and count > 0.3 * min(len(body), 300)
            ),
            None,
        )
    stamps: list[str] = []
    texts: list[str] = []
    at: list[int] = []
    for number_, line in itertools.chain(body, ((first + k, line) for first, lines in rest for k, line in enumerate(lines))):
        m = wanted.search(line.partition(ARROW)[2] if arrow else line)
        if m is None:
            if line.strip() and not is_comment(line):
                found.drop(number_, line)
            continue
        texts.append(m[1])
        at.append(number_)
        stamp = line.partition(ARROW)[0] if arrow else ""
        if timed is not None and (t := timed.search(line)) is not None:
            stamp = t[1]
        stamps.append(stamp)
    if not texts:
        shown = next((line for _, line in body if line.strip()), "")
        raise UsageError(f"{where}: no line has {key!r:.60} followed by a number: one is {shown[:80]!r}")
    form = form_of(stamps) if arrow or timed is not None else None
    found.marks(texts, at[0])
    refuse_marks(where, found)
    found.add(numbers_of(texts), None if form is None else form.seconds(stamps), np.array(at, np.int64))
    return table_of(found, header, Rows(names=[key], form=form))


def table_of(found: Found, header: Header, rows: Rows) -> Table:
    samples = np.concatenate([np.zeros(0), *found.samples])
    stamps = np.concatenate(found.stamps) if found.stamps and rows.form is not None else None
    lines = np.concatenate([np.zeros(0, np.int64), *found.lines])
    name = rows.names[rows.at] if rows.at < len(rows.names) else ""
    clock = rows.names[rows.time_at] if rows.time_at is not None and rows.time_at < len(rows.names) else ""
    if rows.time_at is not None and not clock:
        clock = f"column {rows.time_at}"
    try:
        fs, said = header.rate(name)
    except DataError as error:
        raise DataError(f"{found.where}: {error}") from None
    if fs is not None and rows.blank and rows.cells is not None:
        fs = None  # of the rows, of which this column has only some
    table = Table(
        samples,
        stamps,
        rows.form,
        clock,
        fs,
        f"its header ({said!r})" if said else "",
        name,
        found.bad,
        found.first_bad,
        found.text,
        found.first_text,
        lines,
        tuple(sorted(set(found.breaks))),
    )
    if rows.blank:
        what = "cells" if rows.cells is not None else "lines"
        table = table._replace(layout=f"empty {what} left out: every {_ordinal(rows.blank)} or so belongs to the layout")
    return _with_header_of_empatica(table) if rows.cells is None and stamps is None else table


def _ordinal(n: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(n, f"{n}th")


def _with_header_of_empatica(table: Table) -> Table:
    """Line 1 is the start in seconds since 1970, line 2 the rate: then values begin."""
    x = table.samples
    if (
        table.text
        or len(x) < 3
        or not (x[0] > 1e9 and 1 <= x[1] <= 1000 and x[1] == round(x[1]))
        or not np.nanmax(np.abs(x[2:])) < 1e8
    ):
        return table
    lines = None if table.lines is None else table.lines[2:]
    return table._replace(samples=x[2:], lines=lines, fs=float(x[1]), said="its header")


def from_rows(
    where: str,
    header: Header,
    names: list[str],
    rows: list[tuple[int, list[str]]],
    own: bool,
    *,
    column: str | None,
    clocked: bool,
) -> Table:
    """Rows of cells, with names, as a table's."""
    how = Rows(cells=lambda line: [line], names=names)
    data = [row for _, row in rows]
    how.width = max([len(names), *(len(row) for row in data[:300])], default=1)
    if not names and len({len(row) for row in data}) > 2:
        raise UsageError(
            f"{where}: arrays of different lengths: rows that hold packets of samples are not read; write one sample a row"
        )
    values = [k for k in range(how.width) if any(k < len(row) and is_number(row[k]) for row in data[:LOOKED_AT])]
    if column is None and names and not own:
        others = [k for k in values if not (is_time(names[k]) or COUNTER_NAME.fullmatch(names[k]))]
        if len(others) != 1:
            raise UsageError(f"{where}: {len(others)} values a row: say which with --column ({', '.join(names):.200})")
        how.at = others[0]
    else:
        how.at = chosen_column(where, how, column, data, clocked=clocked)
    if clocked:
        how.time_at, how.form = clock_column(how, data[:LOOKED_AT], [])
    found = Found(where)
    texts = [row[how.at] if how.at < len(row) else "" for row in data]
    found.marks(texts, 1)
    refuse_marks(where, found)
    for (at, _), text in zip(rows, texts, strict=True):
        if not is_number(text) and text.lower() not in NO_VALUE:
            found.spoilt(at, text)
    stamps = None
    if how.form is not None and how.time_at is not None:
        stamps = how.form.seconds([row[how.time_at] if how.time_at < len(row) else "" for row in data])
    if own:
        sessions = [row[1] for row in data]
        found.breaks = [k for k in range(1, len(sessions)) if sessions[k] != sessions[k - 1]]
    found.add(np.array([number(t) for t in texts], np.float64), stamps, np.array([at for at, _ in rows], np.int64))
    return table_of(found, header, how)
