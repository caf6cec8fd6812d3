"""The stamps beside a file's rows, as seconds: times, counters, dates, in the forms and units that people write.

Pure, over arrays: no file is read here.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

LEAST_FS, MOST_FS = 2.0, 2000.0  # Hz: a unit by which a clock is slower or faster than that is not the unit meant

CLOCK = re.compile(r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2}(?:[.,:]\d+)?)\s*(?:([AaPp])\.?[Mm]\.?)?")
ISO = re.compile(r"\d{4}-\d\d-\d\d")
DATE = re.compile(r"(\d{1,4})([./-])(\d{1,2})[./-](\d{1,4})[ T,]+(.+)")
UNITS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "sekunden"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "µs", "μs", "usec", "usecs", "micros", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "minuten"), 60.0),
    **dict.fromkeys(("h", "hour", "hours"), 3600.0),
    **dict.fromkeys(("day", "days", "exceldate", "exceldatetime"), 86400.0),
}
SINCE_1970 = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3), (1e8, 1.0))  # from so much on, numbers are such units since 1970
EXCEL_DAYS = (20_000.0, 80_000.0)  # 1954 to 2119
DAY_S = 86_400.0
WRAPS = (2.0**8, 2.0**12, 2.0**16, 2.0**24, 2.0**31, 2.0**32)  # of counters, in their own units; of clocks from 2**16 on


@dataclass(frozen=True, slots=True)
class Form:
    """How a column of stamps is written. `scale`: seconds a unit, of numbers. A counter counts samples: it knows the order and
    what is missing, but not the rate."""

    kind: Literal["number", "clock", "date"] = "number"
    scale: float = 1.0
    counter: bool = False

    def seconds(self, texts: Sequence[str]) -> Float64:
        """Stamps as seconds, of a counter as counts (n,); NaN where one cannot be read. `texts` are the cells of one column."""
        if self.kind == "number":
            return numbers_of(texts) * self.scale
        if self.kind == "clock":
            return np.array([_time_of_day(text) for text in texts], np.float64)
        return _dates(texts)

    @property
    def wraps(self) -> tuple[float, ...]:
        """After how many seconds (of a counter: counts) such a clock may begin again at 0."""
        if self.kind == "date":
            return ()
        if self.kind == "clock":
            return (3600.0, DAY_S / 2, DAY_S)
        if self.counter:
            return WRAPS
        return tuple(sorted({*(w * self.scale for w in WRAPS[2:]), DAY_S}))


def numbers_of(texts: Sequence[str]) -> Float64:
    """Cells as numbers (n,), NaN for what is none."""
    try:
        return np.array(texts, np.float64)
    except ValueError:
        pass
    values = np.empty(len(texts))
    for k, text in enumerate(texts):
        try:
            values[k] = float(text)
        except ValueError:
            values[k] = math.nan
    return values


def form_of(texts: Sequence[str], name: str = "", unit: str = "") -> Form | None:
    """The form of a column by its first cells, its name and its unit. None: its cells are no stamps."""
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return None
    values = numbers_of(texts)
    told = stated_unit(name, unit)
    if np.isfinite(values).mean() > 0.9:
        there = values[np.isfinite(values)]
        steps = np.diff(there)
        moved = np.abs(steps[steps != 0])
        if not len(moved):
            return None
        largest = np.abs(there).max()
        if told is not None:
            return Form(scale=told)
        if np.median(np.abs(steps)) == 1 and largest < SINCE_1970[-1][0]:
            return Form(counter=True)
        epoch = next((scale for least, scale in SINCE_1970 if largest >= least), None)
        if epoch is not None and LEAST_FS <= _rate(there, epoch) < MOST_FS:
            return Form(scale=epoch)
        if EXCEL_DAYS[0] < there.min() and largest < EXCEL_DAYS[1] and _rate(there, 1.0) > MOST_FS:
            return Form(scale=DAY_S)
        return Form(scale=next((s for s in (1.0, 1e-3, 1e-6, 1e-9, 60.0, 3600.0) if LEAST_FS <= _rate(there, s) < MOST_FS), 1.0))
    for form in (Form("clock"), Form("date")):
        if np.isfinite(form.seconds(texts[:50])).mean() > 0.9:
            return form
    return None


def _rate(values: Float64, scale: float) -> float:
    """Rows a second, about, of values in a unit of `scale` seconds."""
    return rows_a_second(values * scale)


def rows_a_second(t: Float64) -> float:
    """Rows a second (n,) -> about how many, whatever gaps, falls and ticks there are; inf if time stands still."""
    n = len(t)
    for width in (min(max(256, n // 20), n // 2), n // 2, n - 1):
        if width >= 1:
            span = float(np.median(t[width:] - t[:-width]))
            if span > 0:
                return width / span
    return math.inf


def stated_unit(name: str, unit: str = "") -> float | None:
    """Seconds a unit, where a column's name or unit row says it: `time_ms`, `t [s]`, `Time (min)`."""
    for text in (unit, name):
        words = re.findall("[a-zµμ]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
        if (found := next((UNITS[word] for word in reversed(words) if word in UNITS), None)) is not None:
            return found
    return None


def _time_of_day(text: str) -> float:
    m = CLOCK.fullmatch(text.strip().strip("'\"[]"))
    if m is None:
        return math.nan
    seconds = re.sub("[,:]", ".", m[3])
    hours = int(m[1] or 0)
    if m[4]:
        hours = hours % 12 + 12 * (m[4] in "Pp")
    return hours * 3600.0 + int(m[2]) * 60.0 + float(seconds)


def _dates(texts: Sequence[str]) -> Float64:
    """Dates with a time of day, as seconds since 1970. A zone is taken off the time; without one it is read as UTC."""
    bare = [text.strip().strip("'\"[]").replace(",", ".") for text in texts]
    parts = [DATE.fullmatch(text) for text in bare]
    if bare and all(m is not None and len(m[1]) < 4 for m in parts):
        return _day_or_month_first([m for m in parts if m is not None])
    try:
        if (
            ISO.match(bare[0])
            and ISO.match(bare[-1])
            and not any(re.search(r"[Zz]|[+-]\d\d:?\d\d$", text) for text in (bare[0], bare[-1]))
        ):
            return np.asarray(np.array(bare, "M8[ns]").astype(np.int64) / 1e9)
    except ValueError:
        pass
    return np.array([_date(text) for text in bare], np.float64)


def _day_or_month_first(dates: list[re.Match[str]]) -> Float64:
    """Dates like 06.05.2024 or 5/6/24, with a time of day. With dots the day is first. With slashes all rows are read alike: so
    that no month is above 12, and of two ways the one in which less time passes."""
    clocks = np.array([_time_of_day(m[5]) for m in dates], np.float64)

    def read(day: int, month: int) -> Float64:
        known: dict[tuple[str, ...], float] = {}
        days = np.empty(len(dates))
        for k, m in enumerate(dates):
            key = (m[1], m[3], m[4])
            if key not in known:
                year = int(m[4]) + (2000 if len(m[4]) < 3 else 0)
                try:
                    known[key] = datetime.datetime(year, int(m[month]), int(m[day]), tzinfo=datetime.UTC).timestamp()
                except ValueError:
                    known[key] = math.nan
            days[k] = known[key]
        return days + clocks

    by_day, by_month = read(1, 3), read(3, 1)
    if dates[0][2] == "." or not np.isfinite(by_month).all():
        return by_day
    if not np.isfinite(by_day).all():
        return by_month
    return by_day if np.ptp(by_day) < np.ptp(by_month) else by_month


def _date(text: str) -> float:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        from dateutil import parser

        try:
            found = parser.parse(text)
        except (ValueError, OverflowError, RecursionError):
            return math.nan
    try:
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan
