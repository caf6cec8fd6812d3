"""JSON as people have it: an object a line, an array of samples, of rows or of objects, an object of columns; as rows of cells
with names."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ppgstream.errors import DataError, UsageError
from ppgstream.files.cells import LOOKED_AT, OWN, SHOWN, is_number
from ppgstream.files.header import Header
from ppgstream.files.layout import LineReader, Rows, clock_column, is_time

RATE_KEYS = re.compile(
    r"fs|sps|(sampling|sample)[ _-]?(rate|freq(uency)?)([ _-]?hz)?|frequency|freq|rate|samplerate|samplingrate", re.I
)


class JsonRows(NamedTuple):
    """What JSON holds as a table's rows. rows: the number of each row's line, and its cells; own: an output of ours."""

    header: Header
    names: list[str]
    rows: list[tuple[int, list[str]]]
    own: bool = False


def json_of_lines(where: str, head: list[str], rest: Iterator[tuple[int, list[str]]], stream: str | None) -> JsonRows | None:
    """A file of JSON as rows of cells with names; None if it is none."""
    start = next((line.strip() for line in head if line.strip()), "")
    if not start.startswith(("{", "[")):
        return None
    header = Header()
    lines = [line for line in head if line.strip()]
    values: list[tuple[int, Any]] = []
    by_line = all(parsed(line) is not _NONE for line in lines[:3]) and (len(lines) > 1 or start.startswith("{"))
    numbered = itertools.chain([(1, head)], rest)
    if by_line:
        bad = []
        for first, block in numbered:
            for k, line in enumerate(block):
                if not line.strip():
                    continue
                value = parsed(line)
                if value is _NONE:
                    bad.append((first + k, line))
                    value = None
                values.append((first + k, value))
        if len(bad) > 0.1 * len(values):
            raise DataError(f"{where}: line {bad[0][0]} is no JSON: {bad[0][1][:SHOWN]!r}")
        if len(values) == 1:
            return _json_whole(where, values[0][1], header)
    else:
        whole = parsed("\n".join(line for _, block in numbered for line in block))
        if whole is _NONE:
            if not start.startswith("{"):
                return None
            raise DataError(f"{where}: it begins like JSON, and is none: {start[:SHOWN]!r}")
        return _json_whole(where, whole, header)
    return json_rows(where, values, header, stream)


_NONE = object()


def parsed(text: str) -> Any:
    try:
        return json.loads(text.strip().rstrip(","))
    except (ValueError, RecursionError):
        return _NONE


def _json_whole(where: str, whole: Any, header: Header) -> JsonRows:
    """One JSON value: an array of samples, of rows or of objects; or an object that holds one, or columns, and its rate."""
    if isinstance(whole, dict):
        for key, value in whole.items():
            if RATE_KEYS.fullmatch(key) and isinstance(value, int | float) and value > 0:
                header.rates.append((float(value), f"{key} {value}"))
            elif isinstance(value, dict):
                header.rates += [
                    (float(v), f"{k} {v}")
                    for k, v in value.items()
                    if RATE_KEYS.fullmatch(k) and isinstance(v, int | float) and v > 0
                ]
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in whole.items() if isinstance(v, list | dict)}
        columns = {k: v for k, v in columns.items() if len(v) > 3}
        if not columns:  # one level further down
            columns = {
                k: v
                for inner in whole.values()
                if isinstance(inner, dict)
                for k, v in inner.items()
                if isinstance(v, list) and len(v) > 3
            }
        if not columns:
            raise DataError(
                f"{where}: JSON without an array of samples: its keys are {', '.join(map(repr, list(whole)[:8])):.100}"
            )
        longest = max(len(v) for v in columns.values())
        columns = {k: v for k, v in columns.items() if len(v) == longest}
        if any(isinstance(v[0], dict | list) for v in columns.values()):
            key, found = next((k, v) for k, v in columns.items() if isinstance(v[0], dict | list))
            return json_rows(where, [(1, v) for v in found], header, None)
        names = list(columns)
        rows = [(1, [text_of_value(v) for v in row]) for row in zip(*columns.values(), strict=True)]
        return JsonRows(header, names, rows)
    if not isinstance(whole, list):
        raise DataError(f"{where}: JSON without an array of samples")
    return json_rows(where, [(1, v) for v in whole], header, None)


def text_of_value(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else repr(value)


def json_rows(where: str, values: list[tuple[int, Any]], header: Header, stream: str | None) -> JsonRows:
    objects = [(at, v) for at, v in values if isinstance(v, dict)]
    if not objects:
        return JsonRows(
            header, [], [(at, [text_of_value(c) for c in v] if isinstance(v, list) else [text_of_value(v)]) for at, v in values]
        )
    own = all(key in objects[0][1] for key in ("stream", "session", "index"))
    if own:
        objects = [(at, v) for at, v in objects if "value" in v]
        streams = sorted({str(v["stream"]) for _, v in objects})
        if stream is not None:
            objects = [(at, v) for at, v in objects if v["stream"] == stream]
        elif len(streams) > 1:
            raise UsageError(f"{where}: {len(streams)} streams: say which with --stream ({', '.join(streams):.200})")
        for _, v in objects:
            if "nonfinite" in v.get("flags", ()):
                v["value"] = None
        names = list(OWN)
        return JsonRows(header, names, [(at, [text_of_value(v.get(name)) for name in names]) for at, v in objects], own=True)
    by_name = [(at, flat(v)) for at, v in objects]
    names = list(dict.fromkeys(name for _, v in by_name[:LOOKED_AT] for name in v))
    for name in [n for n in names if RATE_KEYS.fullmatch(n)]:
        rates = {v[name] for _, v in by_name if isinstance(v.get(name), int | float)}
        if len(rates) == 1:
            header.rates.append((float(next(iter(rates))), name))
            names.remove(name)
    rows: list[tuple[int, list[str]]] = []
    for at, v in by_name:
        packet = max((len(c) for c in v.values() if isinstance(c, list)), default=0)
        for k in range(packet or 1):
            rows.append((at, [text_of_value(_inner(v.get(n), k)) for n in names]))
    return JsonRows(header, names, rows)


def _inner(value: Any, k: int) -> Any:
    """A packet's sample: of [v, v] or [[v], [v]]."""
    if isinstance(value, list):
        value = value[k] if k < len(value) else None
        return value[0] if isinstance(value, list) and len(value) == 1 else value
    return value


def flat(value: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, one in value.items():
        found |= flat(one, f"{before}{key}.") if isinstance(one, dict) and len(before) < 100 else {before + key: one}
    return found


def json_reader(head: list[str], column: str | None) -> LineReader:
    _, names, rows, own = json_rows(
        "stdin", [(k, v) for k, v in enumerate(map(parsed, head)) if isinstance(v, dict)], Header(), None
    )
    how = Rows(names=names, width=len(names))
    values = [k for k, name in enumerate(names) if not is_time(name) and any(is_number(row[k]) for _, row in rows)]
    how.at = names.index(column) if column in names else OWN.index("value") if own else values[0]
    how.time_at, how.form = clock_column(how, [row for _, row in rows], [])

    def one(line: str, k: int | None) -> str:
        value = parsed(line)
        return text_of_value(flat(value).get(names[k])) if k is not None and isinstance(value, dict) else ""

    return LineReader(
        lambda line: one(line, how.at) if line.startswith("{") else None, lambda line: one(line, how.time_at), how.form
    )
