"""Chunks as lines of text: csv, NDJSON, values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from ppgstream.files.recording import text_of
from ppgstream.wire.message import Beats, Chunk, Flag, Kind


def csv_lines(chunk: Chunk) -> list[str]:
    """A line a sample, under `CSV_HEAD`. The session is hexadecimal, the flags the number whose bits they are."""
    return [f"{chunk.stream},{chunk.session:016x},{i},{t},{v},{c},{f}" for i, t, v, c, f in _columns(chunk)]


def ndjson_lines(chunk: Chunk) -> list[str]:
    """A JSON object a sample, null for a value that is not finite; a GAP, an END, and every 2 s heart rate and beats are lines of
    their own."""
    head = {"stream": chunk.stream, "session": f"{chunk.session:016x}"}
    if chunk.kind is Kind.GAP:
        return [json.dumps(head | {"index": chunk.index, "gap": chunk.missing})]
    if chunk.kind is Kind.END:
        return [json.dumps(head | {"index": chunk.index, "end": "unclean" if chunk.unclean else "clean"})]
    if chunk.beats is not None:
        return [
            json.dumps(
                head | {"index": chunk.index, "t_ns": chunk.t_ns} | _rate(chunk.beats) | {"beats": list(_beats(chunk.beats))}
            )
        ]
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


RATES_HEAD = "stream,session,index,t_ns,bpm,confidence"
BEATS_HEAD = "stream,session,index,interval_ms,error_ms,confidence"


def rate_lines(chunk: Chunk) -> list[str]:
    """A line a heart rate, under `RATES_HEAD`. Empty cells: there is none. `index`: after the last sample that it rests on."""
    if chunk.beats is None:
        return []
    bpm, confidence = _rate(chunk.beats).values()
    return [
        f"{chunk.stream},{chunk.session:016x},{chunk.index},{chunk.t_ns},"
        f"{'' if bpm is None else bpm},{'' if confidence is None else confidence}"
    ]


def beat_lines(chunk: Chunk) -> list[str]:
    """A line a beat, under `BEATS_HEAD`; an empty interval: the beat before is not known."""
    if chunk.beats is None:
        return []
    head = f"{chunk.stream},{chunk.session:016x}"
    return [f"{head},{','.join('' if value is None else str(value) for value in beat.values())}" for beat in _beats(chunk.beats)]


def _rate(beats: Beats) -> dict[str, float | None]:
    none = math.isnan(beats.bpm)
    return {"bpm": None if none else round(beats.bpm, 2), "bpm_confidence": None if none else round(beats.bpm_confidence, 4)}


def _beats(beats: Beats) -> Iterator[dict[str, float | None]]:
    for at, interval, error, confidence in zip(*(column.tolist() for column in beats[2:]), strict=True):
        known = not math.isnan(interval)
        yield {
            "index": at,
            "interval_ms": round(interval, 1) if known else None,
            "error_ms": round(error, 1) if known else None,
            "confidence": round(confidence, 4),
        }


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
