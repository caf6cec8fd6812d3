"""JSON messages of sensors: what they hold, by the names of their keys.

A document is a number, a list of numbers, an object, or a list of objects. Numbers may be text ("512"), null and NaN are samples
that could not be measured, and a number may stand in a list of its own ([[1], [2]]).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import WireError
from ppgstream.wire.message import MAX_INDEX, stream_like

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
SHOWN_KEYS = 8
MOST_HZ = 1e6  # a rate of more is none; what a sensor may have is decided behind this
USUAL: Mapping[str, tuple[str, ...]] = {  # the names that keys have where the configuration gives none
    "samples": ("samples", "ppg", "ir", "green", "red", "bvp", "pleth", "values", "value", "data", "signal", "raw"),
    "stream": ("stream", "stream_id", "device_id", "device", "sensor", "id"),
    "fs": ("fs", "sample_rate", "sampling_rate", "sfreq", "rate", "hz"),
    "time": (
        *("t_ns", "t_us", "t_ms", "t_s", "time_ns", "time_us", "time_ms", "time_s", "timestamp_ns", "timestamp_us"),
        *("timestamp_ms", "timestamp_s", "ts_ns", "ts_us", "ts_ms", "millis", "micros", "t", "ts", "time", "timestamp"),
    ),
    "index": ("index", "first_index", "sample_index"),
    "end": ("end",),
    "units": ("units", "unit"),
}
SECONDS: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SUFFIXES: dict[str, TimeUnit] = {"_s": "s", "_ms": "ms", "_us": "us", "_ns": "ns", "millis": "ms", "micros": "us"}
DAY_S = 86_400.0
MOST_NAME = 200  # characters of a name


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of keys; "": the usual ones. time_of: which of a message's samples its time is of."""

    samples: str = ""
    stream: str = ""
    fs: str = ""
    time: str = ""
    index: str = ""
    end: str = ""
    units: str = ""
    time_unit: TimeUnit = "auto"
    time_of: Literal["first", "last"] = "first"


class Record(NamedTuple):
    """One object of a message. `stream`: as it says, or None. `time`: a number in `unit`, which is "auto" where nothing says it;
    `first`: the index of the first sample;
    `end`: the stream ends behind these samples. `others`: keys that hold samples too and were not taken."""

    stream: str | None
    samples: NDArray[np.float64]
    fs: float = 0.0
    time: float | None = None
    unit: TimeUnit = "auto"
    first: int | None = None
    end: bool = False
    units: str = ""
    others: tuple[str, ...] = ()


def looks_like_json(body: bytes) -> bool:
    """Whether a body may be meant as an object or a list of JSON, by its first byte that is no space."""
    return body.lstrip(b" \t\r\n")[:1] in (b"{", b"[")


def records_of(body: bytes, keys: Keys, *, named: bool = False) -> list[Record]:
    """What a document holds, one record for each object. `named`: the stream has a name already. Raises WireError, and nothing
    else."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        document = _with_nan(body, error)
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return [_record(row, keys, named=named) for row in document]
    if isinstance(document, dict):
        return [_record(document, keys, named=named)]
    return [Record(None, _numbers(document, "JSON samples"))]


def _record(row: dict[str, Any], keys: Keys, *, named: bool) -> Record:
    name, value = (None, None) if named else _found(row, "stream", keys.stream)
    stream = None
    if isinstance(value, str) and 0 < len(value) <= MOST_NAME and value.isprintable():
        stream = stream_like(value)
    elif isinstance(value, str):
        raise WireError(f"JSON {name!r} must be a name of 1 to {MOST_NAME} printable characters, got {value!r:.40}")
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64:
        stream = str(value)
    elif name in (keys.stream, "stream", "stream_id") and value is not None:
        raise WireError(f"JSON {name!r} must be a name, got {value!r:.40}")
    try:
        return _of_row(row, keys, stream)
    except WireError as error:
        error.stream = stream or ""
        raise


def _of_row(row: dict[str, Any], keys: Keys, stream: str | None) -> Record:
    _, ends = _found(row, "end", keys.end)
    name, value = _found(row, "samples", keys.samples)
    if name is None and ends is not True:
        wanted = repr(keys.samples) if keys.samples else "samples, ppg, ir, green, red, ..."
        there = ", ".join(repr(key)[:24] for key in list(row)[:SHOWN_KEYS]) or "none"
        raise WireError(f"JSON object without samples: looked for {wanted}; its keys are {there}: [in] json_samples")
    samples = np.zeros(0) if name is None else _numbers(value, f"JSON {name!r}")
    held = {str(key).lower(): key for key, value in row.items() if isinstance(value, int | float | list)}
    others = () if keys.samples else tuple(held[k] for k in USUAL["samples"] if k in held and held[k] != name)
    fs_name, value = _found(row, "fs", keys.fs)
    fs = 0.0 if value is None else _number(value)
    if fs is None or not 0 <= fs < MOST_HZ:
        raise WireError(f"JSON {fs_name!r} is {value!r:.40}: a rate is a number of Hz from 10 to 1000")
    time_name, time = _found(row, "time", keys.time)
    index_name, index = _found(row, "index", keys.index)
    if index is not None and not (isinstance(index, int) and not isinstance(index, bool) and 0 <= index < MAX_INDEX - 2**32):
        if keys.index:
            raise WireError(f"JSON {index_name!r} is {index!r:.40}: an index is a whole number from 0 on")
        index = None
    _, units = _found(row, "units", keys.units)
    return Record(
        stream,
        samples,
        fs,
        *_time(time, str(time_name), keys.time_unit),
        index,
        ends is True,
        units[:32] if isinstance(units, str) and units.isprintable() else "",
        others,
    )


def _found(row: Mapping[str, Any], what: str, key: str) -> tuple[str | None, Any]:
    """The key and value of what a row says."""
    if key:
        return (key, row[key]) if key in row else (None, None)
    lower = {str(name).lower(): name for name in row}
    for name in USUAL[what]:
        if name in lower:
            return lower[name], row[lower[name]]
    return None, None


def _numbers(value: Any, what: str) -> NDArray[np.float64]:
    """Samples (n,) of a number, a text, null, or a list of these. Raises WireError."""
    rows = value if isinstance(value, list) else [value]
    found = []
    for one in rows:
        if isinstance(one, list):
            if len(one) != 1:
                raise WireError(f"{what}: a row of {len(one)} values: one column is taken")
            one = one[0]  # noqa: PLW2901
        number = math.nan if one is None else _number(one)
        if number is None:
            raise WireError(f"{what} must be numbers or null, got {one!r:.40}")
        found.append(number)
    return np.array(found, np.float64)


def _number(value: Any) -> float | None:
    """A number that is one or is written as text; None for anything else, and for one beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and (len(value) > 40 or "_" in value):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _time(value: Any, name: str, unit: TimeUnit) -> tuple[float | None, TimeUnit]:
    """A time and its unit."""
    if isinstance(value, str) and _number(value) is None:
        try:
            stamp = datetime.fromisoformat(value[:40])
        except ValueError:
            return None, unit
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp(), "s"
    time = None if value is None else _number(value)
    if time is None or not abs(time) < 2**62:
        return None, unit
    if unit == "auto":
        lower = name.lower()
        unit = next((u for end, u in SUFFIXES.items() if lower.endswith(end)), "auto")
    return time, unit


def likely_unit(time: float, wall: float) -> TimeUnit:
    """The unit in which a number is a time within a day of `wall`, s since 1970; "auto" if there is none."""
    return next((unit for unit, size in SECONDS.items() if abs(time * size - wall) <= DAY_S), "auto")


def is_json(body: bytes) -> bool:
    """Whether a body is a document of JSON."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _with_nan(body: bytes, error: Exception) -> object:
    """A document that says NaN or Infinity, as Python writes them and JSON does not know. Raises WireError for what is no JSON
    otherwise."""
    if b"NaN" in body or b"Infinity" in body:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
    raise WireError(f"not JSON: {error}") from error
