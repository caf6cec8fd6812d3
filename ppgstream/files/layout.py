"""How the lines of a file become rows, by its first ones: delimiter, decimal mark, names, the PPG's column and its clock's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import UsageError
from ppgstream.files.cells import (
    ARROW,
    BEGINS_LIKE_A_NUMBER,
    COUNTER_NAME,
    DECIMAL_COMMA,
    NO_VALUE,
    OWN,
    TIME_NAME,
    cells_of,
    is_number,
    is_text,
)
from ppgstream.files.header import Header
from ppgstream.files.stamps import MOST_FS, Form, form_of, rows_a_second, stated_unit

Float64 = NDArray[np.float64]
UNIT_CELLS = {"v", "mv", "uv", "µv", "nu", "raw", "cal", "counts", "adc", "a.u.", "au", "no units", "us", "na", "ms", "s", "-"}


@dataclass(slots=True)
class Rows:
    """How lines become rows: what is read once the head has been looked at."""

    cells: Callable[[str], list[str]] | None = None  # None: one value a line
    delimiter: str | None = None
    decimal: bool = False
    at: int = 0  # the PPG's column
    time_at: int | None = None
    form: Form | None = None
    arrow: bool = False  # the stamp stands before an arrow
    names: list[str] = field(default_factory=list)
    heads: list[list[str]] = field(default_factory=list)  # rows of names and units: again in the middle, a file begins anew
    width: int = 1
    blank: int = 0  # of so many lines one is no layout; 0: an empty line is an invalid sample
    quoted: bool = False


def rows_of(where: str, header: Header, body: list[tuple[int, str]], *, column: str | None, table: bool, clocked: bool) -> Rows:
    """How the lines of a file are rows, by its first ones."""
    rows = Rows()
    blank = [not line.strip() for _, line in body]
    rows.blank = _pattern(blank)
    lines = [(at, line) for (at, line), empty in zip(body, blank, strict=True) if not (empty and rows.blank)]
    like_data = [line for _, line in lines if not is_text(line)]
    if lines and sum(ARROW in line for line in like_data) > 0.5 * max(len(like_data), 1):
        lines = [(at, line) for at, line in lines if ARROW in line]
        rows.arrow = True
        rows.form = form_of([line.partition(ARROW)[0] for _, line in lines]) if clocked else None
        lines = [(at, line.partition(ARROW)[2]) for at, line in lines]
    texts = [line for _, line in lines]
    rows.delimiter, rows.decimal = _delimiter(where, header, lines, column is not None or table)
    if rows.delimiter is None:
        heads = [texts[0].strip().strip('"')] if (table or column) and texts and is_text(texts[0].strip().strip('"')) else []
        if column not in (None, "0") and column not in heads:
            raise UsageError(f"{where}: no column {column!r:.100}: it has 1; the first is 0")
        rows.names = heads
        rows.heads = [heads] if heads else []
        rows.quoted = table
        return rows
    delimiter, decimal = rows.delimiter, rows.decimal

    def cells(line: str) -> list[str]:
        found = cells_of(line, delimiter)
        return [cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell for cell in found] if decimal else found

    rows.cells = cells
    _columns(where, rows, header, [(at, cells(line)) for at, line in lines], column=column, clocked=clocked)
    return rows


def _columns(
    where: str, rows: Rows, header: Header, cells: list[tuple[int, list[str]]], *, column: str | None, clocked: bool
) -> None:
    """Names, the PPG's column and the clock's, by the first rows."""
    some = [row for _, row in cells]
    like_data = [sum(bool(BEGINS_LIKE_A_NUMBER.match(cell)) for cell in row) for row in some]
    usual = float(np.median(like_data[len(like_data) // 2 :])) if like_data else 0.0
    numeric = [any(is_number(cell) for cell in row) for row in some]
    first = next((k for k, n in enumerate(like_data) if numeric[k] and n >= 0.6 * usual), len(some))
    data = some[first:]
    width = max((len(row) for row in data[:300]), default=0)
    widths = Counter(len(row) for row in data if any(row))
    if widths and widths.most_common(1)[0][1] > 0.9 * sum(widths.values()):
        width = widths.most_common(1)[0][0]
    if width > 1 and data and all(len(row) < width or not row[-1] for row in data[:300]):
        width -= 1  # a delimiter at the end of each line
    for row in some[:first]:
        header.take(" ".join(row))
    heads = (
        [row for row in some[:first] if len(row) >= width or (len(row) > 1 and len(row) >= width - 1)]
        if width > 1
        else some[:first]
    )
    units: list[str] = []
    if len(heads) > 1 and any(cell.lower().strip("[]()") in UNIT_CELLS for cell in heads[-1]):
        units = heads[-1]
        names = heads[-2]
    else:
        names = heads[-1] if heads else []
    names = names or header.names
    names = names[:width] if len(names) > width and not any(names[width:]) else names
    if not data and some:
        names = some[0]
    rows.width = max(width, len(names))
    rows.names, rows.heads = names, heads[-2:]
    rows.at = chosen_column(where, rows, column, data, clocked=clocked)
    rows.blank = rows.blank or _pattern([rows.at < len(row) and not row[rows.at] for row in data])
    if clocked and rows.form is None:
        kept = [row for row in data if not rows.blank or (rows.at < len(row) and row[rows.at])]
        rows.time_at, rows.form = clock_column(rows, kept, units)


def _pattern(blank: list[bool]) -> int:
    """The period of a regular pattern of nothing: of so many lines (or cells) the same ones are empty. 0: there is none."""
    n = len(blank)
    if n < 12 or not any(blank) or all(blank):
        return 0
    mask = np.array(blank)
    if mask.mean() < 0.02:
        return 0
    for period in range(2, min(65, n // 4)):
        if (mask[period:] == mask[:-period]).mean() > 0.98 and mask[: 4 * period].any():
            return period
    return 0


def _delimiter(where: str, header: Header, lines: list[tuple[int, str]], table: bool) -> tuple[str | None, bool]:
    """The delimiter that splits all lines alike, None for one value a line; and whether the comma is a decimal mark."""
    some = [(at, line) for at, line in lines if line.strip()]
    if not some:
        return ("," if table else None), False
    some = [(at, line) for at, line in some if not is_text(line)] or some  # rows that begin with a word, if all do
    texts = [line for _, line in some]
    if header.delimiter is not None and any(header.delimiter in line for line in texts):
        return header.delimiter, _decimal_comma(texts, header.delimiter)
    best, best_score, ragged = None, 0.5, ""
    for delimiter in "\t;,":
        within = sum(delimiter in line for line in texts)
        if within < 0.5 * len(texts) and not (table and within and best is None):
            continue
        rows = [cells_of(line, delimiter) for line in texts]
        alike = Counter(len(row) for row in rows if len(row) > 1).most_common(1)[0][1]
        share = alike / (len(texts) if within >= 0.5 * len(texts) else within)
        values = [cell for row in rows[-300:] for cell in row if not is_text(cell)]
        decimal = delimiter != "," and _decimal_comma(texts, delimiter)
        good = sum(
            is_number(cell.replace(",", ".") if decimal else cell) or cell.lower() in NO_VALUE or ":" in cell for cell in values
        )
        score = share * (0.2 + 0.8 * good / max(len(values), 1)) * (1 if within >= 0.5 * len(texts) else 0.6)
        if share < 0.7 and within > 0.9 * len(texts) and len({len(row) for row in rows}) > 2:
            (a, one), (b, other) = (
                some[0],
                next(s for s in some if len(cells_of(s[1], delimiter)) != len(cells_of(some[0][1], delimiter))),
            )
            ragged = ragged or (
                f"line {a} has {len(cells_of(one, delimiter))} cells and line {b} has {len(cells_of(other, delimiter))}: "
                "rows that hold packets of samples are not read; write one sample a line"
            )
        if score > best_score + 1e-9:
            best, best_score = delimiter, score
    if best is None and ragged:
        raise UsageError(f"{where}: {ragged}")
    if best is not None:
        if (
            best == ","
            and Counter(len(cells_of(line, ",")) for line in texts).most_common(1)[0][0] == 2
            and _one_decimal_column(texts)
        ):
            return None, True
        return best, best != "," and _decimal_comma(texts, best)
    widths = Counter(len(line.split()) for line in texts)
    width_, share_ = widths.most_common(1)[0]
    if (
        width_ > 1
        and share_ > 0.8 * len(texts)
        and all(is_number(c) or c.lower() in NO_VALUE for line in texts[-5:] for c in line.split())
    ):
        return " ", False
    return None, False


def _decimal_comma(lines: Iterable[str], delimiter: str) -> bool:
    columns: dict[int, list[str]] = {}
    for line in lines:
        for k, cell in enumerate(cells_of(line, delimiter)):
            if cell[:1].isdigit() or cell[:1] in "-+":
                columns.setdefault(k, []).append(cell)
    return any(sum(bool(DECIMAL_COMMA.fullmatch(cell)) for cell in cells) > 0.8 * len(cells) for cells in columns.values())


def _one_decimal_column(lines: list[str]) -> bool:
    """Whether `486,615` means 486.615: the part behind the comma keeps its zeros, as no column of whole numbers does."""
    parts = [m[1] for line in lines if (m := re.fullmatch(r"\s*[-+]?\d+,(\d+)\s*", line))]
    alone = sum("," not in line for line in lines[:1]) and len(parts) == len(lines) - 1  # a name of one column over them
    return len(parts) >= len(lines) - 1 > 0 and (bool(alone) or any(len(p) > 1 and p[0] == "0" for p in parts))


def is_time(name: str) -> bool:
    return bool(TIME_NAME.fullmatch(name.strip("'\" "))) or stated_unit(name) is not None


def chosen_column(where: str, rows: Rows, column: str | None, data: list[list[str]], *, clocked: bool) -> int:
    """The number of the PPG's column."""
    names, width = rows.names, rows.width
    listed = ", ".join(names) if names else ", ".join(data[0]) if data else ""
    if column is not None:
        if column in names:
            return names.index(column)
        if not re.fullmatch("[0-9]{1,4}", column) or int(column) >= width:
            raise UsageError(f"{where}: no column {column!r:.100}: it has {width} ({listed:.200}); the first is 0")
        return int(column)
    if tuple(names[:5]) == OWN:
        return OWN.index("value")
    if width <= 1:
        return 0
    asides = [k for k, name in enumerate(names) if is_time(name) or COUNTER_NAME.fullmatch(name.strip())]
    others = [k for k in range(width) if k not in asides]
    if names and len(others) == 1 and all(_moves([row[k] for row in data if k < len(row)], names[k]) for k in asides):
        return others[0]
    raise UsageError(f"{where}: {width} columns: say which with --column ({listed or '0 is the first':.200})")


def _moves(texts: list[str], name: str) -> bool:
    """Whether a column that is named like a time or a counter goes on as one does."""
    form = form_of(texts, name)
    if form is None:
        return False
    t = form.seconds(texts)
    t = t[np.isfinite(t)]
    if len(t) < 3 or (np.diff(t) >= 0).mean() > 0.9:
        return True
    part = t[: max(len(t) // 4, 3)]  # rows out of order, perhaps
    return bool(np.ptp(part) > 0 and np.corrcoef(np.arange(len(part)), part)[0, 1] > 0.9)


def clock_column(rows: Rows, data: list[list[str]], units: list[str]) -> tuple[int | None, Form | None]:
    """The most even of the columns that are times; else one that counts; and its form."""
    names = rows.names
    places = [k for k in range(rows.width) if k != rows.at]
    times = [k for k in places if k < len(names) and is_time(names[k])]
    counters = [k for k in places if k < len(names) and COUNTER_NAME.fullmatch(names[k].strip())]
    if tuple(names[:5]) == OWN:
        times, counters = [OWN.index("t_ns")], [OWN.index("index")]
    unnamed = not times and tuple(names[:5]) != OWN
    if unnamed:
        times = [k for k in places if k not in counters]  # nobody said what they are
    best: tuple[float, int, Form] | None = None
    for k in times:
        texts = [row[k] if k < len(row) else "" for row in data]
        form = form_of(texts, names[k] if k < len(names) else "", units[k] if k < len(units) else "")
        if form is None and (unnamed or (counters and tuple(names[:5]) == OWN)):
            continue
        uneven = 2.0 if form is None else _uneven(form.seconds(texts))
        if unnamed and (form is None or uneven > 0.2 or form.counter or not 5 < rows_a_second(form.seconds(texts)) < MOST_FS):
            continue
        if best is None or uneven < best[0] - 1e-3:
            best = (uneven, k, form or Form())
    if best is not None:
        return best[1], best[2]
    for k in counters:
        texts = [row[k] if k < len(row) else "" for row in data]
        form = form_of(texts)
        if form is not None and form.counter and (np.diff(form.seconds(texts)) == 1).mean() > 0.5:
            return k, form
    return None, None


def _uneven(t: Float64) -> float:
    """How unevenly stamps go on, 0 to 1: the share of steps that are not the usual one; 1.5: they do not go on at all."""
    steps = np.diff(t[np.isfinite(t)])
    if len(steps) < 2 or not (steps > 0).any():
        return 1.5
    usual = np.median(steps[steps > 0])
    if (steps < 0).mean() > 0.4:
        return 1.5
    if (steps < 0).mean() > 0.01:
        return 1.2  # the fraction of a second in a column of its own, perhaps
    return float((np.abs(steps - usual) > 0.5 * usual).mean())


class LineReader(NamedTuple):
    """How each line of a pipe is a sample, by its first lines: `cell` gives its text, None if the line is no sample; `stamp` the
    text of its time, for `form`."""

    cell: Callable[[str], str | None]
    stamp: Callable[[str], str]
    form: Form | None = None
    heads: Callable[[str], bool] = lambda line: False  # comments, and rows of names and units: no text that is dropped
