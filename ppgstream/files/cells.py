"""Cells of text files: which are numbers, which are words, and how a line is cut into them."""

from __future__ import annotations

import csv
import math
import re

from ppgstream.wire.message import Flag

SHOWN = 40  # characters of a bad line that are shown
LOOKED_AT = 3000  # lines by which a table's form is recognised
NO_VALUE = {"", "-", "null", "none", "na", "n/a"}  # in a cell: a sample that could not be measured
BEGINS_LIKE_A_NUMBER = re.compile(r"\s*([-+.]|[0-9]|$|[\x00-\x1f\ufffd]|(nan|inf|null|none|na)\b)", re.IGNORECASE)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
TIME_NAME = re.compile(
    r"t|ts|ms|us|ns|s|epoch|unix|clock|ticks?|rtc|temps|tiempo|hh:mm.*|.*stamp.*|sec|secs|seconds|millis|micros|"
    r"minutes|zeit|date|datum|t_\w{1,2}|.*time.*|.*elapsed.*|.*zeit.*|.*timestamp.*"
    r"|\w{1,7}\W+(ms|us|ns|s|sec|min)\W?",
    re.IGNORECASE,
)
COUNTER_NAME = re.compile(r"#|n|nseq|seq|sequence|index|idx|counter|sample([ _]?(no|nr|number|index|id|count))?", re.IGNORECASE)
THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
DOTTED = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
ARROW = " -> "
OWN = ("stream", "session", "index", "t_ns", "value")  # of what `denoise` and `tap` write
NONFINITE = int(Flag.NONFINITE)  # such a sample of an output was none


def number(text: str) -> float:
    """A cell's value; NaN for what is no number. "nan" and "inf" are what a sensor may say, and not finite. 1,002 with its mark
    of thousands is 1002."""
    try:
        return float(text)
    except ValueError:
        return float(text.replace(",", "")) if THOUSANDS.fullmatch(text.strip()) else math.nan


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


def is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "%", "//"))


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


def key_pattern(key: str) -> re.Pattern[str]:
    """Where a line says a key's value: `IR=125469`, `ir: 512`, or a prefix, `S512`."""
    return re.compile(rf"(?<![A-Za-z0-9_]){re.escape(key)}\s*[=:]?\s*({NUMBER})(?![A-Za-z0-9_.])")
