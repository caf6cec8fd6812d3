"""Lines from a pipe, denoised as they come: `sensor | ppgstream denoise -`. The same rules as for files (`table`), by the pipe's
first lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from ppgstream.core.engine import Engine
from ppgstream.errors import DataError
from ppgstream.files.cells import ARROW, NO_VALUE, SHOWN, is_comment, is_number, is_text, key_pattern, number
from ppgstream.files.header import Header, is_header
from ppgstream.files.json_rows import json_reader
from ppgstream.files.layout import LineReader, rows_of
from ppgstream.files.recording import text_of
from ppgstream.wire.message import EMPTY, Chunk, Kind

LATE_S = 2.0  # a row may come so much later than one of a later time, s
HEAD_LINES = 250  # of a pipe, by which it is known how its lines are samples


def head_of(blocks: Iterator[list[str]], *, plain: bool) -> list[str]:
    """The first lines of a pipe: enough to know its form. `plain`: its rate is known, so that a few lines of bare numbers are
    enough."""
    head: list[str] = []
    for block in blocks:
        head += block
        numbers = [line for line in head if line.strip()][:2]
        if len(head) >= HEAD_LINES or (plain and len(numbers) == 2 and all(abs(number(line)) < 1e8 for line in numbers)):
            break
    return head


class LineFilter:
    """One sample's line in, one line out: `sensor | ppgstream denoise -`. `reader`: how lines are samples. Where its times jump,
    a gap of as many samples is left; where they fall, a new session begins."""

    def __init__(self, engine: Engine, reader: LineReader, *, fs: float, strict: bool = False, dtype: str = "f4") -> None:
        self.engine, self.reader, self.fs, self.strict, self.dtype = engine, reader, fs, strict, dtype
        self.bad = self.text = self.lines = self.index = self.valid = self.samples = self.session = self.gaps = self.late = 0
        self._last: float | None = None
        self._shown = ""

    def run(self, blocks: Iterable[list[str]]) -> Iterator[list[str]]:
        """Denoised lines for blocks of lines, as soon as they are final. Raises DataError under `strict` at a bad line, and after
        a second's worth of lines without any number."""
        for lines in blocks:
            yield self._out(self._feed(lines))
        yield self._out(self._end())

    def _end(self) -> list[Chunk]:
        return self.engine.feed(Chunk("stdin", self.session, self.index, EMPTY, Kind.END, self.fs), 0.0)

    def _feed(self, lines: list[str]) -> list[Chunk]:
        chunks: list[Chunk] = []
        values: list[float] = []
        for line in lines:
            self.lines += 1
            self._shown = self._shown or line
            cell = self.reader.cell(line)
            if cell is None and self.reader.heads(line):
                continue
            if cell is None:
                self.text += 1
                self._say(line, "is text", "dropped", self.text)
                continue
            missing = 0 if self.reader.form is None else self._missing(line)
            if missing:
                chunks += self._send(values)
                values = []
                if missing < 0:
                    chunks += self._end()
                    self.session, self.index = self.session + 1, 0
                else:
                    self.gaps += 1
                    self.index += missing
            value = number(cell)
            values.append(value)
            if not is_number(cell) and cell.lower() not in NO_VALUE - {""}:
                self.bad += 1
                self._say(line, "is no number", "kept as an invalid sample", self.bad)
        chunks += self._send(values)
        if not self.valid and self.lines >= self.fs and self._shown:
            raise DataError(
                f"stdin: no number in {self.lines} lines, of which one is {self._shown[:SHOWN]!r}: --column or --field?"
            )
        return chunks

    def _missing(self, line: str) -> int:
        """How many samples are missing before a line, by its time; -1: its time is before the last one's."""
        assert self.reader.form is not None
        t = float(self.reader.form.seconds([self.reader.stamp(line)])[0])
        last, self._last = self._last, t if np.isfinite(t) else self._last
        if last is None or not np.isfinite(t):
            return 0
        form = self.reader.form
        if t < last:  # a wrap goes on
            t += next((w for w in form.wraps if 0 < t + w - last < (1000 if form.counter else 1.0)), 0.0)
        step = (t - last) * (1 if form.counter else self.fs)
        if -LATE_S * self.fs < step < 0:
            self.late, self._last = self.late + 1, last
            return 0
        return -1 if step < 0 else round(step) - 1 if step > 1.75 else 0

    @property
    def said(self) -> list[str]:
        """What came of the pipe's clock, for a person."""
        found = [f"{self.gaps:,} gap{'s' * (self.gaps > 1)} by the clock"] if self.gaps else []
        found += [f"the clock began anew {self.session:,} time{'s' * (self.session > 1)}"] if self.session else []
        found += (
            [f"{self.late:,} rows came late and were taken in their places: a file is sorted, a pipe is not"] if self.late else []
        )
        return found

    def _send(self, values: list[float]) -> list[Chunk]:
        if not values:
            return []
        samples = np.array(values, np.float64)
        self.valid += int(np.isfinite(samples).sum())
        chunks = self.engine.feed(Chunk("stdin", self.session, self.index, samples, fs=self.fs), 0.0)
        self.index += len(samples)
        self.samples += len(samples)
        return chunks

    def _say(self, line: str, what: str, then: str, times: int) -> None:
        told = f"line {self.lines} {what}: {line[:SHOWN]!r}"
        if self.strict:
            raise DataError(told)
        if times <= 3:
            print(f"ppgstream: {told}; {then}", file=sys.stderr)

    def _out(self, chunks: list[Chunk]) -> list[str]:
        while self.engine.ready:
            chunks = chunks + self.engine.step()
        return [text for c in chunks if c.kind is Kind.DATA for text in text_of(c.samples.astype(self.dtype))]


def line_reader(
    where: str, head: list[str], *, column: str | None = None, key: str | None = None, clocked: bool = True
) -> LineReader:
    """The reader for the lines that follow a pipe's first ones. Raises as `read_lines`."""
    start = next((line.strip() for line in head if line.strip()), "")
    if start.startswith("{"):
        return json_reader(head, column or key)
    header = Header()
    body = [(k + 1, line) for k, line in enumerate(head) if not is_header(line, header, k)]
    if key is not None:
        wanted = key_pattern(key)
        return LineReader(
            lambda line: None if (m := wanted.search(line)) is None else m[1], lambda line: line.partition(ARROW)[0]
        )
    rows = rows_of(where, header, body, column=column, table=False, clocked=clocked)

    def cell(line: str) -> str | None:
        if is_comment(line):
            return None
        if rows.arrow:
            _, arrow, line = line.partition(ARROW)
            if not arrow:
                return None
        if rows.cells is None:
            text = line.replace(",", ".") if rows.decimal else line
            return None if (not is_number(text) and is_text(text)) or (rows.blank and not text.strip()) else text
        row = rows.cells(line)
        text = row[rows.at] if rows.at < len(row) else ""
        if rows.blank and not text:
            return None
        return text if any(is_number(one) for one in row) and (len(row) > 1 or rows.width == 1) else None

    def stamp(line: str) -> str:
        if rows.arrow:
            return line.partition(ARROW)[0]
        row = rows.cells(line) if rows.cells is not None else []
        return row[rows.time_at] if rows.time_at is not None and rows.time_at < len(row) else ""

    def heads(line: str) -> bool:
        return is_comment(line) or (rows.cells is not None and rows.cells(line) in rows.heads)

    return LineReader(cell, stamp, rows.form, heads)
