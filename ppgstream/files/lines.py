"""Chunks as lines of text: csv, NDJSON, values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from ppgstream.files.recording import text_of
from ppgstream.wire.message import Chunk, Flag, Kind


def csv_lines(chunk: Chunk) -> list[str]:
    """A line a sample, under `CSV_HEAD`. The session is hexadecimal, the flags the number whose bits they are."""
    return [f"{chunk.stream},{chunk.session:016x},{i},{t},{v},{c},{f}" for i, t, v, c, f in _columns(chunk)]


def ndjson_lines(chunk: Chunk) -> list[str]:
    """A JSON object a sample, null for a value that is not finite; a GAP and an END are lines of their own."""
    head = {"stream": chunk.stream, "session": f"{chunk.session:016x}"}
    if chunk.kind is Kind.GAP:
        return [json.dumps(head | {"index": chunk.index, "gap": chunk.missing})]
    if chunk.kind is Kind.END:
        return [json.dumps(head | {"index": chunk.index, "end": "unclean" if chunk.unclean else "clean"})]
    lines = []
    for i, t, v, c, f in _columns(chunk):
        names = [flag.name.lower() for flag in Flag if flag.name and flag & f]
        lines.append(
            json.dumps(
                head
                | {
                    "index": i,
                    "t_ns": t,
                    "value": float(v) if math.isfinite(float(v)) else None,
                    "confidence": float(c),
                    "flags": names,
                }
            )
        )
    return lines


def value_lines(chunk: Chunk) -> list[str]:
    """The values alone, as `ppgstream denoise` writes them."""
    return text_of(chunk.samples)  # type: ignore[arg-type]  # the output's dtypes are floats


def _columns(chunk: Chunk) -> Iterator[tuple[int, int, str, str, int]]:
    n = len(chunk.samples)
    confidence = ["0"] * n if chunk.confidence is None else text_of(chunk.confidence)
    flags = [0] * n if chunk.flags is None else chunk.flags.tolist()
    step = 1e9 / chunk.fs
    for i, value in enumerate(value_lines(chunk)):
        t = chunk.t_ns + round(i * step) if chunk.t_ns else 0
        yield chunk.index + i, t, value, confidence[i], flags[i]
