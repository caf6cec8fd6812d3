"""Denoising without sockets: recordings whole, or lines from a pipe as they come. The same engine as the daemon's."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.engine import Engine
from ppgstream.errors import DataError, UsageError
from ppgstream.measured import HELD, INVALID, OUTLIER, states_of
from ppgstream.recording import SHOWN, is_number, number, text_of
from ppgstream.trust import HELD_CONFIDENCE
from ppgstream.wire import EMPTY, Chunk, Flag, Kind

CHUNK = 10_000  # samples fed at once
_OUTLIER = -8.7654321e36  # stands for an outlier on its way through the engine at another rate


class Denoised(NamedTuple):
    """What the daemon would publish: denoised f4 or f8, confidence f4, flags u2 (bits of `Flag`), all of the input's shape."""

    denoised: NDArray[np.floating]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]


def denoise(samples: NDArray[np.float64], engine: Engine, *, fs: float, dtype: str = "f4") -> Denoised:
    """Denoise a recording (n,), or each row of (rows, n) by itself. Any `fs` from 20 to 1000 Hz: resampled to the engine's and back."""
    target = engine.rules.stream.fs
    if not 20 <= fs <= 1000:
        raise UsageError(f"--fs {fs:g}: must be 20 to 1000 Hz")
    rows = np.atleast_2d(samples)
    parts = _denoise_rows(rows, engine) if fs == target else _stack([_denoise_resampled(row, engine, fs) for row in rows])
    parts = parts._replace(denoised=parts.denoised.astype(dtype))
    return parts if samples.ndim == 2 else Denoised(*(p[0] for p in parts))


def _stack(rows: list[Denoised]) -> Denoised:
    return Denoised(*(np.stack([row[k] for row in rows]) for k in range(3)))


def _denoise_resampled(x: NDArray[np.float64], engine: Engine, fs: float) -> Denoised:
    """A recording (n,) of another rate than the engine's. What is measured is decided at the recording's own rate, since an outlier
    or a step would ring through the resampling."""
    rules = engine.rules.stream
    target, n = rules.fs, len(x)
    state, steps = states_of(x, fs, round(rules.max_fill * fs / target), rules.sentinels)
    there = np.minimum(
        np.round(np.arange(round(n * target / fs)) * fs / target).astype(int), n - 1
    )  # each new sample's nearest old one
    back = np.minimum(np.round(np.arange(n) * target / fs).astype(int), len(there) - 1)
    stretches = _stretches(state < INVALID, steps)
    at, measured = np.arange(n), state <= HELD
    y = np.full(len(there), np.nan)
    for a, b in stretches:
        part = slice(a, b)
        if measured[part].any():
            filled = np.interp(at[part], at[part][measured[part]], x[part][measured[part]])
            new = (there >= a) & (there < b)
            y[new] = _resampled(filled, a, np.flatnonzero(new), fs, target)
    held = state[there] == HELD
    y[held] = x[there[held]]  # a rail stays a rail
    y[state[there] == OUTLIER] = _OUTLIER
    rules = dataclasses.replace(rules, sentinels=(*rules.sentinels, _OUTLIER))
    machine = dataclasses.replace(engine, rules=dataclasses.replace(engine.rules, stream=rules), streams={}, ready=deque())
    parts = Denoised(*(p[0] for p in _denoise_rows(y[None, :], machine)))
    out = np.full(n, np.nan)
    for a, b in stretches:
        new = np.flatnonzero((there >= a) & (there < b))
        if len(new):
            out[a:b] = _resampled(parts.denoised[new].astype(np.float64), int(new[0]), at[a:b], target, fs)
        else:
            out[a:b] = x[a:b]
    confidence, flags = (
        parts.confidence[back],
        parts.flags[back] & ~np.uint16(Flag.NONFINITE | Flag.OUTLIER | Flag.GAP | Flag.STEP),
    )
    low = np.uint16(Flag.LOW_CONFIDENCE)
    confidence[state >= HELD] = np.minimum(confidence[state >= HELD], np.float32(HELD_CONFIDENCE))
    flags[confidence < rules.threshold] |= low
    flags[state == OUTLIER] |= np.uint16(Flag.OUTLIER)
    flags[[s for s in steps if s < n]] |= np.uint16(Flag.STEP)
    invalid = state == INVALID
    last = np.maximum.accumulate(np.where(invalid, -1, at))
    return Denoised(
        np.where(invalid, np.where(last >= 0, out[np.maximum(last, 0)], 0.0), out),
        np.where(invalid, np.float32(0), confidence),
        np.where(invalid, np.uint16(Flag.NONFINITE) | low, flags),
    )


def _stretches(valid: NDArray[np.bool_], steps: list[int]) -> list[tuple[int, int]]:
    """The runs of valid samples, cut at `steps`: (start, stop) each."""
    edges = np.flatnonzero(np.diff(valid.astype(np.int8), prepend=0, append=0))
    stretches = []
    for a, b in edges.reshape(-1, 2).tolist():
        cuts = [a, *(s for s in steps if a < s < b), b]
        stretches += list(pairwise(cuts))
    return stretches


def _resampled(
    x: NDArray[np.float64], start: int, wanted: NDArray[np.int64], fs_from: float, fs_to: float
) -> NDArray[np.float64]:
    """A stretch (n,), whose first sample has the index `start` at `fs_from`, at the indexes `wanted` (m,), in order, at `fs_to`. Polyphase filter;
    beyond the stretch its first and last value go on, and the result stays within the stretch's own range."""
    from scipy.signal import resample_poly

    if not len(wanted):
        return np.empty(0)
    ratio = (Fraction(str(fs_to)) / Fraction(str(fs_from))).limit_denominator(20_000)
    up, down = ratio.numerator, ratio.denominator
    lead = start % down  # the filter's first output then lies on an index of both rates
    first = (start - lead) // down * up
    need = -(-(int(wanted[-1]) - first + 1) * down // up) + 1
    padded = np.pad(x, (lead, max(need - lead - len(x), 0)), mode="edge")
    y = resample_poly(padded - x[0], up, down, padtype="edge") + x[0]
    y, low, high = y[wanted - first], x.min(), x.max()
    y = np.where(y > high, high - 1e-6 * (y - high), y)  # an overshoot is folded back: clipped, it would look like a rail
    return np.asarray(np.clip(np.where(y < low, low + 1e-6 * (low - y), y), low, high))


def _denoise_rows(rows: NDArray[np.float64], engine: Engine) -> Denoised:
    out = Denoised(np.zeros(rows.shape), np.zeros(rows.shape, np.float32), np.zeros(rows.shape, np.uint16))
    for number_, row in enumerate(rows):
        for chunk in denoised_chunks(row, engine, stream=f"row{number_}"):
            at = slice(chunk.index, chunk.stop)
            out.denoised[number_, at] = chunk.samples
            if chunk.confidence is not None and chunk.flags is not None:
                out.confidence[number_, at] = chunk.confidence
                out.flags[number_, at] = chunk.flags
        engine.streams.clear()
    return out


def denoised_chunks(samples: NDArray[np.float64], engine: Engine, *, stream: str) -> Iterator[Chunk]:
    """The DATA chunks of one recording, in order."""
    chunks: list[Chunk] = []
    for start in range(0, len(samples), CHUNK):
        chunks += engine.feed(Chunk(stream, 0, start, samples[start : start + CHUNK], fs=engine.rules.stream.fs), 0.0)
        while len(engine.ready) >= engine.rules.tile:
            chunks += engine.step()
    chunks += engine.feed(Chunk(stream, 0, len(samples), EMPTY, Kind.END, engine.rules.stream.fs), 0.0)
    while engine.ready:
        chunks += engine.step()
    return (c for c in chunks if c.kind is Kind.DATA)


def resample(x: NDArray[np.float64], fs_from: float, fs_to: float) -> NDArray[np.float64]:
    """A record (n,) at another rate, each stretch between invalid samples by itself; NaN where the nearest sample is invalid."""
    n = len(x)
    nearest = np.minimum(np.round(np.arange(round(n * fs_to / fs_from)) * fs_from / fs_to).astype(int), n - 1)
    y = np.full(len(nearest), np.nan)
    for a, b in _stretches(np.isfinite(x), []):
        new = (nearest >= a) & (nearest < b)
        y[new] = _resampled(x[a:b], a, np.flatnonzero(new), fs_from, fs_to)
    return y


class LineFilter:
    """One line in, one line out: `sensor | ppgstream denoise -`."""

    def __init__(self, engine: Engine, *, strict: bool = False, dtype: str = "f4") -> None:
        self.engine, self.strict, self.dtype = engine, strict, dtype
        self.index = self.valid = self.bad = 0

    def run(self, blocks: Iterable[list[str]]) -> Iterator[list[str]]:
        """Denoised lines for blocks of lines, as soon as they are final. Raises DataError under `strict` at a bad line."""
        for lines in blocks:
            yield self._out(self._feed(lines))
        end = Chunk("stdin", 0, self.index, EMPTY, Kind.END, self.engine.rules.stream.fs)
        yield self._out(self.engine.feed(end, 0.0))

    def _feed(self, lines: list[str]) -> list[Chunk]:
        for offset, line in enumerate(lines):
            if is_number(line):
                continue
            self.bad += 1
            told = f"line {self.index + offset + 1} is no number: {line[:SHOWN]!r}"
            if self.strict:
                raise DataError(told)
            if self.bad <= 3:
                print(f"ppgstream: {told}; kept as an invalid sample", file=sys.stderr)
        samples = np.array([number(line) for line in lines])
        self.valid += int(np.isfinite(samples).sum())
        chunks = self.engine.feed(Chunk("stdin", 0, self.index, samples, fs=self.engine.rules.stream.fs), 0.0)
        self.index += len(samples)
        return chunks

    def _out(self, chunks: list[Chunk]) -> list[str]:
        while self.engine.ready:
            chunks = chunks + self.engine.step()
        return [text for c in chunks if c.kind is Kind.DATA for text in text_of(c.samples.astype(self.dtype))]


def content_of(result: Denoised, suffix: str) -> bytes:
    """A file's content for `suffix`: .npy the wave, .npz wave, confidence and flags, anything else one value a line."""
    buffer = io.BytesIO()
    if suffix == ".npy":
        np.save(buffer, result.denoised, allow_pickle=False)
    elif suffix == ".npz":
        np.savez_compressed(buffer, **result._asdict())
    else:
        buffer.write(("\n".join(text_of(result.denoised)) + "\n").encode())
    return buffer.getvalue()
