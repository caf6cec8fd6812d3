"""Denoising without sockets: recordings whole, or lines from a pipe as they come. The same engine as the daemon's."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.engine import Engine
from ppgstream.core.follower import step_of
from ppgstream.core.measuring import RATES_HZ
from ppgstream.core.rate import SURE
from ppgstream.core.resample import ratio_of
from ppgstream.errors import DataError, OutputError, UsageError
from ppgstream.files import formats
from ppgstream.files.recording import CSV_HEAD, Recording, text_of, write_by
from ppgstream.wire.message import EMPTY, Chunk, Kind

CHUNK = 10_000  # samples fed at once
AT_ONCE = 1_000_000  # samples of rows that go through the engine side by side
FILLED_AT_ONCE = 64  # messages of beats and rates


class Denoised(NamedTuple):
    """What the daemon would publish: denoised f4 or f8, confidence f4, flags u2 (bits of `Flag`), all of the input's shape.
    `pulses`: of each row its beats and heart rates; empty where the engine makes none."""

    denoised: NDArray[np.floating]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]
    pulses: list[Pulse]


class Pulse(NamedTuple):
    """Beats and heart rates of one recording. `beats`: indexes of the samples nearest to their peaks (n,), `beat_interval_ms`,
    `beat_error_ms` and `beat_confidence` as in `wire.message.Beats`. `hr_t_s`: the time of the last sample that a rate rests on,
    every 2 s (m,); `hr_bpm`, NaN where there is none, and `hr_confidence`."""

    beats: NDArray[np.int64]
    beat_interval_ms: NDArray[np.float32]
    beat_error_ms: NDArray[np.float32]
    beat_confidence: NDArray[np.float32]
    hr_t_s: NDArray[np.float64]
    hr_bpm: NDArray[np.float32]
    hr_confidence: NDArray[np.float32]


def steps_of(index: NDArray[np.int64], fs: float, target: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of BEATS messages up to these indexes (n,), of samples at `fs` Hz, the number of the last complete step of 2 s, and the
    index after its last sample. `target`: the model's rate, Hz."""
    ratio, step = ratio_of(fs, target), step_of(target)
    number = ratio.to_model(index) // step
    return number, ratio.after(number * step)


def pulse_of(messages: Sequence[Chunk], n: int, fs: float, target: float) -> Pulse:
    """The BEATS messages of one recording of `n` samples at `fs` Hz; `target`: the model's rate, Hz."""
    found = [(c.index, c.beats) for c in messages if c.beats is not None]
    columns = [np.concatenate([np.zeros(0), *(beats[k] for _, beats in found)]) for k in range(2, 6)]
    steps = int(steps_of(np.array([n]), fs, target)[0][0])
    bpm, confidence = np.full(steps, np.nan, np.float32), np.zeros(steps, np.float32)
    numbers, _ = steps_of(np.array([index for index, _ in found], np.int64), fs, target)
    for number, (_, beats) in zip(numbers.tolist(), found, strict=True):
        if not np.isnan(beats.bpm):
            bpm[number - 1], confidence[number - 1] = beats.bpm, beats.bpm_confidence
    ends = ratio_of(fs, target).after(np.arange(1, steps + 1) * step_of(target))
    interval, error, beat_confidence = (column.astype(np.float32) for column in columns[1:])
    return Pulse(columns[0].astype(np.int64), interval, error, beat_confidence, (ends - 1) / fs, bpm, confidence)


def denoise(samples: NDArray[np.float64], engine: Engine, *, fs: float, dtype: str = "f4") -> Denoised:
    """Denoise a recording (n,), or each row of (rows, n) by itself. Any `fs` from 10 to 1000 Hz."""
    check_rate(fs)
    parts = _denoise_rows(np.atleast_2d(samples), engine, fs)
    parts = parts._replace(denoised=parts.denoised.astype(dtype))
    return parts if samples.ndim == 2 else Denoised(parts.denoised[0], parts.confidence[0], parts.flags[0], parts.pulses)


def check_rate(fs: float) -> None:
    """Raises UsageError for a rate that no sensor may have."""
    if not RATES_HZ[0] <= fs <= RATES_HZ[1]:
        raise UsageError(f"--fs {fs:g}: must be {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz")


def _denoise_rows(rows: NDArray[np.float64], engine: Engine, fs: float) -> Denoised:
    """Rows (n, m), some of them side by side."""
    out = Denoised(np.zeros(rows.shape), np.zeros(rows.shape, np.float32), np.zeros(rows.shape, np.uint16), [])
    together = max(min(engine.rules.tile, engine.rules.max_streams, AT_ONCE // max(rows.shape[1], 1)), 1)
    for first in range(0, len(rows), together):
        names = {f"row{first + k}": row for k, row in enumerate(rows[first : first + together])}
        found = _chunks_of(names, engine, fs)
        for number_, name in enumerate(names, first):
            if engine.rules.plan.rate is not None:
                out.pulses.append(pulse_of(found[name], rows.shape[1], fs, engine.rules.plan.fs))
            for chunk in found[name]:
                if chunk.kind is not Kind.DATA:
                    continue
                at = slice(chunk.index, chunk.stop)
                out.denoised[number_, at] = chunk.samples
                if chunk.confidence is not None and chunk.flags is not None:
                    out.confidence[number_, at] = chunk.confidence
                    out.flags[number_, at] = chunk.flags
        engine.forget_ended()
    return out


def denoised_chunks(samples: NDArray[np.float64], engine: Engine, *, stream: str, fs: float) -> list[Chunk]:
    """All that is published of one recording, in order."""
    return _chunks_of({stream: samples}, engine, fs)[stream]


def _chunks_of(rows: Mapping[str, NDArray[np.float64]], engine: Engine, fs: float) -> dict[str, list[Chunk]]:
    """All that is published of recordings of one length, each a stream: windows of all of them fill the tiles."""
    found: dict[str, list[Chunk]] = {name: [] for name in rows}
    length = max(len(row) for row in rows.values())

    def keep(chunks: list[Chunk]) -> None:
        for chunk in chunks:
            found[chunk.stream].append(chunk)

    filled_before, engine.fills_itself = engine.fills_itself, False  # many at once are cheaper
    for start in range(0, length, CHUNK):
        for name, row in rows.items():
            keep(engine.feed(Chunk(name, 0, start, row[start : start + CHUNK], fs=fs), 0.0))
        while len(engine.ready) >= engine.rules.tile:
            keep(engine.step())
        if engine.unfilled >= FILLED_AT_ONCE:
            engine.fill()
    for name in rows:
        keep(engine.feed(Chunk(name, 0, length, EMPTY, Kind.END, fs), 0.0))
    while engine.ready:
        keep(engine.step())
    engine.fill()
    engine.fills_itself = filled_before
    return found


def of_recording(found: Recording, engine: Engine, *, fs: float, dtype: str = "f4") -> Denoised:
    """Denoise what was read, with a sample for each row that the file has."""
    result = denoise(found.samples, engine, fs=fs, dtype=dtype)
    rows = found.rows
    if rows is None:
        return result
    times = found.times(fs)

    def of_rows(pulse: Pulse) -> Pulse:
        at = np.rint(pulse.hr_t_s * fs).astype(np.int64)  # of the samples that were laid out, in which a long hole is short
        k = (np.searchsorted(rows, at, "right") - 1).clip(0)
        return pulse._replace(
            beats=np.searchsorted(rows, pulse.beats).clip(max=len(rows) - 1), hr_t_s=times[k] + (at - rows[k]) / fs
        )

    pulses = [of_rows(pulse) for pulse in result.pulses]
    return Denoised(result.denoised[rows], result.confidence[rows], result.flags[rows], pulses)


def placed(text: str, found: Recording, fs: float) -> str:
    """What an event says, with the places in the file in place of the engine's indexes."""
    if found.samples.ndim != 1:
        return text
    return re.sub(r"index (\d+)", lambda m: found.place(int(m[1]), fs), text.removeprefix("row0: "))


def _arrays(result: Denoised) -> dict[str, NDArray[Any]]:
    """By the names that an npz file has for them."""
    arrays: dict[str, NDArray[Any]] = {"denoised": result.denoised, "confidence": result.confidence, "flags": result.flags}
    pulses = result.pulses
    if not pulses:
        return arrays
    for name in Pulse._fields:
        rows = [getattr(pulse, name) for pulse in pulses]
        if name.startswith("beat"):
            arrays[name] = np.concatenate(rows)
        else:
            arrays[name] = rows[0] if result.denoised.ndim == 1 or name == "hr_t_s" else np.stack(rows)
    if result.denoised.ndim == 2:
        arrays["beat_row"] = np.repeat(np.arange(len(pulses)), [len(pulse.beats) for pulse in pulses])
    return arrays


FORMATS = ("txt", "csv", "npy", "npz", "parquet", "edf", "bdf", "hea")
SUFFIXES = ("", *(f".{name}" for name in FORMATS))
WRITTEN_AT_ONCE = 100_000  # lines


class Clocked(NamedTuple):
    """Of a recording's rows: places (n,) among even samples, times (n,) in seconds from the first, and the rows at which a new
    stretch begins."""

    places: NDArray[np.int64]
    times: NDArray[np.float64]
    starts: list[int]


def clocked(found: Recording, fs: float) -> Clocked | None:
    """What the csv and npz say of a recording's clock; None where its samples follow each other evenly."""
    return None if found.clock is None else Clocked(found.clock.places, found.times(fs), found.clock.starts[1:])


def write(file: IO[bytes], result: Denoised, suffix: str, *, fs: float, stream: str = "", clock: Clocked | None = None) -> None:
    """Write a file for `suffix`: .npy the wave; .npz wave, confidence, flags, `fs`, of a recording with gaps `t_s`, and the
    fields of `Pulse`, of a 2-D array with `beat_row`; .csv the columns of `tap`, time from 0, a session for each stretch;
    .parquet, .edf and .bdf as `formats` says; else one value a line."""
    if suffix == ".npy":
        np.save(file, result.denoised, allow_pickle=False)
    elif suffix == ".npz":
        times = {} if clock is None else {"t_s": clock.times}
        np.savez_compressed(file, allow_pickle=False, **_arrays(result), fs=np.float64(fs), **times)
    elif suffix in (".parquet", ".edf", ".bdf"):
        written = _written(result, fs, clock)
        if suffix == ".parquet":
            formats.write_parquet(file, written)
        elif clock is not None:
            raise DataError(f"{suffix}: has no room for gaps: npz, csv and parquet have")
        else:
            formats.write_edf(file, suffix, written)
    else:
        n = len(result.denoised)
        if suffix == ".csv":
            file.write(f"{CSV_HEAD}\n".encode())
        for a in range(0, n, WRITTEN_AT_ONCE):
            part = slice(a, min(a + WRITTEN_AT_ONCE, n))
            lines = text_of(result.denoised[part])
            if suffix == ".csv":
                lines = _csv_lines(result, part, lines, fs, stream, clock)
            file.write(("\n".join(lines) + "\n").encode())


def save(path: Path, result: Denoised, *, fs: float, stream: str = "", clock: Clocked | None = None) -> None:
    """Write an output whole, in the format of its suffix, as `write` does; .hea as a record of WFDB. Raises OutputError."""
    if path.suffix.lower() != ".hea":
        write_by(path, lambda file: write(file, result, path.suffix.lower(), fs=fs, stream=stream, clock=clock))
        return
    if clock is not None:
        raise DataError(f"{path}: .hea has no room for gaps: npz, csv and parquet have")
    try:
        formats.write_wfdb(path, _written(result, fs, clock))
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror or error}") from error


def _written(result: Denoised, fs: float, clock: Clocked | None) -> formats.Written:
    seconds = np.arange(len(result.denoised)) / fs if clock is None else clock.times
    beats, rates = np.zeros(0, np.int64), (np.zeros(0), np.zeros(0, np.float32))
    for pulse in result.pulses[:1]:
        sure = pulse.hr_confidence >= SURE
        beats, rates = pulse.beats[pulse.beat_confidence >= SURE], (pulse.hr_t_s[sure], pulse.hr_bpm[sure])
    return formats.Written(fs, seconds, result.denoised, result.confidence, result.flags, beats, rates)


def _csv_lines(result: Denoised, part: slice, values: list[str], fs: float, stream: str, clock: Clocked | None) -> list[str]:
    index = np.arange(part.start, part.stop) if clock is None else clock.places[part]
    seconds = index / fs if clock is None else clock.times[part]
    session = (
        np.searchsorted(clock.starts, np.arange(part.start, part.stop), "right")
        if clock is not None
        else np.zeros(len(index), int)
    )
    t_ns = np.rint(seconds * 1e9).astype(np.int64)
    columns = session.tolist(), index.tolist(), t_ns.tolist(), values, result.confidence[part], result.flags[part]
    return [f"{stream},{s:016x},{i},{t},{v},{c},{f}" for s, i, t, v, c, f in zip(*columns, strict=True)]


def content_of(result: Denoised, suffix: str, *, fs: float, stream: str = "", clock: Clocked | None = None) -> bytes:
    """A file's content, as `write` makes it."""
    buffer = io.BytesIO()
    write(buffer, result, suffix, fs=fs, stream=stream, clock=clock)
    return buffer.getvalue()
