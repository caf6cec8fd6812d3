"""Text files as people have them: which part is the table, which column is the PPG, and what the file says about its rate.

Understood: comment lines (`#`, `%`, `//`), `sep=`, rows of names and units, quotes; tab, comma, semicolon or spaces between cells; a decimal comma;
a delimiter at the end of each line; `time -> value` of the Arduino serial monitor; `key=value` logs and prefixes like `S512` (by `field`);
a rate in a comment or in OpenSignals' JSON; Empatica's two header lines; a column of times.

A line that begins like a number and is none is an invalid sample in its place. A line of text is no sample: it is dropped and
counted. Quotes are read by the standard `csv`, unusual dates by dateutil (why not pandas: docs/dependencies.md).
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import UsageError

Float64 = NDArray[np.float64]
SHOWN = 40  # characters of a bad line that are shown
LOOKED_AT = 300  # lines by which a table's form is recognised
NO_VALUE = {"", "-", "null", "none", "na", "n/a"}  # in a cell: a sample that could not be measured
BEGINS_LIKE_A_NUMBER = re.compile(r"\s*([-+.]|[0-9]|$|[\x00-\x1f\ufffd]|(nan|inf|null|none|na)\b)", re.IGNORECASE)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
RATE = re.compile(r"sampl\w*[ _-]*(?:rate|freq\w*)\W{0,12}?(\d+(?:\.\d+)?)", re.IGNORECASE)
TIME_NAME = re.compile(r"t|ms|us|s|sec|secs|seconds|millis|micros|zeit|date|.*time.*|.*elapsed.*", re.IGNORECASE)
CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")
UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "millis": 1e-3, "us": 1e-6, "µs": 1e-6, "micros": 1e-6, "ns": 1e-9}
ARROW = " -> "


class Table(NamedTuple):
    """samples (n,), NaN where invalid. times (n,): seconds, or None. fs: the rate that the file states, Hz, or None; `said`: where."""

    samples: Float64
    times: Float64 | None = None
    fs: float | None = None
    said: str = ""
    name: str = ""
    bad: int = 0
    first_bad: str = ""
    text: int = 0  # lines of text that were dropped
    first_text: str = ""


def number(text: str) -> float:
    """A cell's value; NaN for what is no number. "nan" and "inf" are what a sensor may say, and not finite."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_number(text: str) -> bool:
    """Whether a cell says a sample, `nan` included."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_text(line: str) -> bool:
    """Whether a line that is no number is text, and so no sample at all."""
    return not BEGINS_LIKE_A_NUMBER.match(line)


@dataclass(slots=True)
class _Lines:
    """The lines of a file that are not comments, by their numbers, and what the comments say."""

    numbers: list[int] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    delimiter: str | None = None
    fs: float | None = None
    names: list[str] = field(default_factory=list)


def read_text(where: str, text: str, *, column: str | None = None, key: str | None = None, table: bool = False) -> Table:
    """The PPG in a file's text. `column`: its name, or number from 0; `key`: a key of `key=value` lines, or a prefix; `table`: its name
    says that it is one. `where` names the file in what is told. Raises UsageError where the column is not clear."""
    raw = text.splitlines()
    if column is None and key is None:
        try:
            return _with_header_of_empatica(Table(np.array(raw, np.float64)))
        except ValueError:
            pass
    found = _without_comments(raw)
    if key is not None:
        return _by_key(where, found, key)
    if len(raw) == 1 and found.lines and not re.search("[,;\t]", raw[0]) and column is None:
        return _values(
            where, [1] * len(raw[0].split()), raw[0].split()
        )  # all values on one line, as the course's scripts save them
    times: list[str] | None = None
    if found.lines and sum(ARROW in line for line in found.lines[:LOOKED_AT]) > 0.5 * min(len(found.lines), LOOKED_AT):
        kept = [(n, line.partition(ARROW)) for n, line in zip(found.numbers, found.lines, strict=True) if ARROW in line]
        found.numbers, times, found.lines = [n for n, _ in kept], [p[0] for _, p in kept], [p[2] for _, p in kept]
    delimiter, decimal = _form(found, column is not None or table)
    if delimiter is None:
        lines = [line.replace(",", ".") for line in found.lines] if decimal else found.lines
        if column not in (None, "0") and not (lines and column == lines[0].strip()):
            raise UsageError(f"{where}: no column {column!r:.100}: it has 1; the first is 0")
        head = bool(table or column) and bool(lines) and is_text(lines[0].strip().strip('"'))
        lines = [line.strip().strip('"') if table else line for line in lines]
        found_table = _values(where, found.numbers[head:], lines[head:], times)
        return _stated(found, _with_header_of_empatica(found_table))
    return _stated(found, _by_column(where, found, delimiter, decimal, column, times))


def _without_comments(raw: list[str]) -> _Lines:
    found, comments = _Lines(), []
    for at, line in enumerate(raw):
        stripped = line.strip()
        if stripped.startswith(("#", "%", "//")):
            comments.append(stripped.lstrip("#%/ "))
        elif not found.lines and stripped.lower().startswith("sep="):
            found.delimiter = line.rstrip("\n")[4:5] or None
        else:
            found.numbers.append(at + 1)
            found.lines.append(line)
    for comment in comments:
        if comment.startswith("{"):
            try:
                devices = [d for d in json.loads(comment).values() if isinstance(d, dict)]
            except (ValueError, AttributeError):
                continue
            for device in devices[:1]:
                rate, names = device.get("sampling rate"), device.get("column")
                found.fs = float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else found.fs
                found.names = [str(n) for n in names] if isinstance(names, list) else []
        elif (rate := RATE.search(comment)) is not None:
            found.fs = float(rate[1])
    return found


def _stated(found: _Lines, table: Table) -> Table:
    return table if found.fs is None else table._replace(fs=found.fs, said="its header")


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
    return table._replace(samples=x[2:], fs=float(x[1]), said="its header")


def _values(where: str, numbers: list[int], texts: list[str], times: list[str] | None = None) -> Table:
    """One value a line."""
    kept = [at for at, t in enumerate(texts) if is_number(t) or not is_text(t)]
    dropped = len(texts) - len(kept)
    first_text = ""
    if dropped:
        at = next(at for at, t in enumerate(texts) if not is_number(t) and is_text(t))
        first_text = f"line {numbers[at]} of {where} is text: {texts[at][:SHOWN]!r}"
        texts, numbers = [texts[at] for at in kept], [numbers[at] for at in kept]
        times = [times[at] for at in kept] if times is not None else None
    bad = [at for at, t in enumerate(texts) if not is_number(t) and t.strip().lower() not in NO_VALUE - {""}]
    first = f"line {numbers[bad[0]]} of {where} is no number: {texts[bad[0]][:SHOWN]!r}" if bad else ""
    samples = np.array([number(t) for t in texts], np.float64)
    return Table(samples, None if times is None else _seconds(times, "", ""), None, "", "", len(bad), first, dropped, first_text)


def _by_key(where: str, found: _Lines, key: str) -> Table:
    wanted = key_pattern(key)
    rows = [(n, m[1], line) for n, line in zip(found.numbers, found.lines, strict=True) if (m := wanted.search(line)) is not None]
    if not rows:
        shown = next((line for line in found.lines if line.strip()), "")
        raise UsageError(f"{where}: no line has {key!r:.60} followed by a number: one is {shown[:80]!r}")
    table = _values(where, [n for n, _, _ in rows], [v for _, v, _ in rows])
    if all(ARROW in line for _, _, line in rows):
        table = table._replace(times=_seconds([line.split(ARROW, 1)[0] for _, _, line in rows], "", ""))
    return _stated(found, table._replace(name=key, text=len(found.lines) - len(rows)))


def key_pattern(key: str) -> re.Pattern[str]:
    """Where a line says a key's value: `IR=125469`, `ir: 512`, or a prefix, `S512`."""
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(key)}\s*[=:]?\s*({NUMBER})(?![A-Za-z0-9_.])")


def cells_of(line: str, delimiter: str) -> list[str]:
    """A line's cells. Each line by itself: a stray quote must not swallow the lines after it."""
    if delimiter == " ":
        return line.split()
    if '"' not in line:
        return [cell.strip().strip("'") for cell in line.split(delimiter)]
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])]
    except csv.Error:
        return []


def _form(found: _Lines, table: bool) -> tuple[str | None, bool]:
    """The delimiter, None for one value a line, and whether the comma is a decimal mark."""
    some = [line for line in found.lines if line.strip()][:LOOKED_AT]
    if not some:
        return ("," if table else None), False
    if found.delimiter is not None and any(found.delimiter in line for line in some):
        return found.delimiter, _decimal_comma(some, found.delimiter)
    for delimiter in "\t;,":
        width = Counter(len(cells_of(line, delimiter)) for line in some if delimiter in line).most_common(1)
        if width and width[0][0] > 1 and width[0][1] > 0.5 * sum(delimiter in line for line in some):
            if delimiter == "," and width[0][0] == 2 and _one_decimal_column(some):
                return None, True
            return delimiter, delimiter != "," and _decimal_comma(some, delimiter)
    widths = Counter(len(line.split()) for line in some)
    width_, share = widths.most_common(1)[0]
    if width_ > 1 and share > 0.8 * len(some) and all(is_number(c) for line in some[-5:] for c in line.split()):
        return " ", False
    return None, False


def _decimal_comma(lines: Iterable[str], delimiter: str) -> bool:
    cells = [cell for line in lines for cell in cells_of(line, delimiter) if cell[:1].isdigit() or cell[:1] in "-+"]
    return bool(cells) and sum(bool(re.fullmatch(r"[-+]?\d+,\d+", cell)) for cell in cells) > 0.5 * len(cells)


def _one_decimal_column(lines: list[str]) -> bool:
    """Whether `486,615` means 486.615: the part behind the comma keeps its zeros, as no column of whole numbers does."""
    parts = [m[1] for line in lines if (m := re.fullmatch(r"\s*[-+]?\d+,(\d+)\s*", line))]
    alone = sum("," not in line for line in lines[:1]) and len(parts) == len(lines) - 1  # a name of one column over them
    return len(parts) >= len(lines) - 1 > 0 and (bool(alone) or any(len(p) > 1 and p[0] == "0" for p in parts))


def _by_column(where: str, found: _Lines, delimiter: str, decimal: bool, column: str | None, times: list[str] | None) -> Table:
    rows = [cells_of(line, delimiter) for line in found.lines]
    if decimal:
        rows = [[cell.replace(",", ".") if re.fullmatch(r"[-+]?\d+,\d+", cell) else cell for cell in row] for row in rows]
    numeric = [any(is_number(cell) for cell in row) for row in rows]
    first = numeric.index(True) if any(numeric) else len(rows)
    width = max((len(row) for row in rows[first : first + LOOKED_AT]), default=0)
    if width > 1 and all(len(row) < width or not row[-1] for row in rows[first : first + LOOKED_AT]):
        width -= 1  # a delimiter at the end of each line
    heads = [row for row in rows[:first] if len(row) > 1 or width == 1]
    names = heads[0] if heads else found.names
    units = heads[1] if len(heads) > 1 else []
    names = names[:width] if len(names) > width and not any(names[width:]) else names
    if not any(numeric) and rows:
        names = rows[0]
    width = max(width, len(names))
    at = _chosen(where, names, width, column, rows[first : first + 1])
    time_at = next((k for k, n in enumerate(names[:width]) if k != at and TIME_NAME.fullmatch(n.strip("'\" "))), None)
    if time_at is None:
        time_at = next((k for k, n in enumerate(names[:width]) if k != at and re.search("time", n, re.IGNORECASE)), None)
    dropped = sum(len(row) < 2 <= width and bool(line.strip()) for row, line in zip(rows[:first], found.lines, strict=False))
    kept, first_text = [], ""
    for k in range(first, len(rows)):
        row = rows[k]
        if len(row) < 2 <= width and found.lines[k].strip() and is_text(found.lines[k]) and not numeric[k]:
            dropped += 1
            first_text = first_text or f"line {found.numbers[k]} of {where} is text: {found.lines[k][:SHOWN]!r}"
        else:
            kept.append(k)
    texts = [rows[k][at] if at < len(rows[k]) else "" for k in kept]
    bad = [i for i, t in enumerate(texts) if not is_number(t) and t.lower() not in NO_VALUE - {""}]
    told = f"line {found.numbers[kept[bad[0]]]} of {where} is no number: {texts[bad[0]][:SHOWN]!r}" if bad else ""
    seconds = None
    if times is not None:
        seconds = _seconds([times[k] for k in kept], "", "")
    elif time_at is not None:
        unit = units[time_at] if time_at < len(units) else ""
        seconds = _seconds([rows[k][time_at] if time_at < len(rows[k]) else "" for k in kept], names[time_at], unit)
    samples = np.array([number(t) for t in texts], np.float64)
    name = names[at] if at < len(names) else ""
    return Table(samples, seconds, None, "", name, len(bad), told, dropped, first_text)


def _chosen(where: str, names: list[str], width: int, column: str | None, rows: list[list[str]]) -> int:
    """The number of the PPG's column."""
    listed = ", ".join(names) if names else ", ".join(rows[0]) if rows else ""
    if column is None:
        others = [k for k, name in enumerate(names) if not TIME_NAME.fullmatch(name)]
        if width <= 1 or (width == 2 and len(others) == 1):
            return others[0] if width == 2 else 0
        raise UsageError(f"{where}: {width} columns: say which with --column ({listed or '0 is the first':.200})")
    if column in names:
        return names.index(column)
    if not re.fullmatch("[0-9]{1,4}", column) or int(column) >= width:
        raise UsageError(f"{where}: no column {column!r:.100}: it has {width} ({listed:.200}); the first is 0")
    return int(column)


def _seconds(texts: list[str], name: str, unit: str) -> Float64 | None:
    """A column of times in seconds, NaN where one cannot be read; None if most cannot, or they do not rise."""
    values = np.array([number(t) for t in texts], np.float64)
    numbers = np.isfinite(values).mean() > 0.9
    if numbers and _stated_unit(name, unit) is None and np.median(np.diff(values)) == 1 and np.nanmax(values) < 1e8:
        return None  # a counter of samples
    times = values * _unit_of(values, name, unit) if numbers else np.array([_clock(t) for t in texts], np.float64)
    there = times[np.isfinite(times)]
    if len(there) < max(0.9 * len(times), 3) or (np.diff(there) >= 0).mean() < 0.95 or not there[-1] > there[0]:
        return None
    return times


def _unit_of(values: Float64, name: str, unit: str) -> float:
    told = _stated_unit(name, unit)
    if told is not None:
        return told
    there = values[np.isfinite(values)]
    largest = np.abs(there).max()
    for least, scale in ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0)):  # since 1970
        if largest >= least:
            return scale
    steps = np.diff(there)
    step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
    return 1.0 if step < 0.5 else 1e-3 if step < 500 else 1e-6  # no sensor here is slower than 2 Hz


def _stated_unit(name: str, unit: str) -> float | None:
    words = re.findall("[a-zµ]+", f"{unit} {name}".lower().replace("_", " "))
    return next((UNITS[w] for w in words if w in UNITS), None)


def _clock(text: str) -> float:
    text = text.strip().strip("'\"[]")
    try:
        if (m := CLOCK.fullmatch(text)) is not None:
            return int(m[1] or 0) * 3600.0 + int(m[2]) * 60.0 + float(m[3].replace(",", "."))
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    from dateutil import parser

    try:
        return float(parser.parse(text).timestamp())
    except (ValueError, OverflowError, OSError):
        return math.nan


class Clocked(NamedTuple):
    """Samples at an even rate. `rows`: the places in `samples` (m,) of the file's rows, without the repeats; gaps and repeats: how many there were."""

    samples: Float64
    fs: float
    rows: NDArray[np.int64]
    gaps: int
    repeats: int


def by_clock(samples: Float64, times: Float64) -> Clocked | None:
    """Samples (n,) and their times, seconds, on an even grid: gaps become invalid samples, repeated rows are dropped, jitter is interpolated.

    None if the times are too coarse to say more than the mean rate. The rate is the mean over all steps that are no gaps.
    """
    fine = np.isfinite(times)
    times = np.interp(np.arange(len(times)), np.flatnonzero(fine), times[fine])
    repeat = np.zeros(len(times), np.bool_)
    same = (samples[1:] == samples[:-1]) | (np.isnan(samples[1:]) & np.isnan(samples[:-1]))
    repeat[1:] = (np.diff(times) == 0) & same
    x, t = samples[~repeat], times[~repeat]
    steps = np.diff(t)
    moved = steps[steps > 0]
    if len(moved) < 3:
        return None
    usual = float(np.median(moved))
    if len(moved) < 0.8 * len(steps):  # a clock that ticks more slowly than samples come
        return Clocked(x, _even((len(t) - 1) / (t[-1] - t[0])), np.arange(len(x)), 0, int(repeat.sum()))
    spread = 1.4826 * float(np.median(np.abs(moved - usual)))
    jitters = float(np.abs(moved - usual)[moved < 1.5 * usual].mean()) > 0.1 * usual
    if not jitters:  # with jitter, the mean would count steps over a lost sample
        usual = float(moved[moved < 1.75 * usual + 4 * spread].mean())
    gap = steps > 1.75 * usual + 4 * spread
    fs = 1 / usual if usual > 0 else math.inf
    if not fs < math.inf:
        return None
    fs = _even(fs)
    at = np.concatenate([[0], np.cumsum(np.where(gap, np.maximum(np.round(steps * fs), 2), 1))]).astype(np.int64)
    if at[-1] > 100 * len(x) + 10_000_000:
        return None
    length = int(at[-1]) + 1
    even = np.full(length, np.nan)
    if not jitters:
        even[at] = x
    else:  # jitter: the wave at even times, gaps left out
        grid = t[0] + np.arange(int((t[-1] - t[0]) * fs) + 1) / fs
        order = np.maximum.accumulate(t)
        even = np.interp(grid, order, x)
        for k in np.flatnonzero(gap):
            even[(grid > t[k] + 0.5 * usual) & (grid < t[k + 1] - 0.5 * usual)] = np.nan
        at = np.clip(np.round((t - t[0]) * fs).astype(np.int64), 0, len(grid) - 1)
    return Clocked(even, fs, at, int(gap.sum()), int(repeat.sum()))


def _even(fs: float) -> float:
    """A rate without its measuring error: the whole number that is within 0.1 %."""
    return float(round(fs)) if abs(fs - round(fs)) < 1e-3 * fs else fs
