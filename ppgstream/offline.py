"""Denoising without sockets: recordings whole, or lines from a pipe as they come. The same engine as the daemon's."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.engine import Engine
from ppgstream.errors import DataError, UsageError
from ppgstream.recording import SHOWN, is_number, number, text_of
from ppgstream.wire import EMPTY, Chunk, Flag, Kind

CHUNK = 10_000  # samples fed at once


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
    if fs == target:
        parts = _denoise_rows(rows, engine)
    else:
        parts = _back_to(rows, _denoise_rows(np.stack([resample(row, fs, target) for row in rows]), engine), fs, target)
    parts = parts._replace(denoised=parts.denoised.astype(dtype))
    return parts if samples.ndim == 2 else Denoised(*(p[0] for p in parts))


def _back_to(rows: NDArray[np.float64], parts: Denoised, fs: float, target: float) -> Denoised:
    """Answers at `target` Hz at the recording's own `fs`; what was invalid in it is invalid in the answer, sample by sample."""
    n = rows.shape[1]
    nearest = np.minimum(np.round(np.arange(n) * target / fs).astype(int), parts.denoised.shape[1] - 1)
    back = np.stack([resample(row.astype(np.float64), target, fs) for row in parts.denoised])
    back = np.pad(back, ((0, 0), (0, max(n - back.shape[1], 0))), mode="edge")[:, :n]
    invalid = ~np.isfinite(rows)
    last = np.maximum.accumulate(np.where(invalid, -1, np.arange(n)), axis=1)
    held = np.where(last >= 0, np.take_along_axis(back, np.maximum(last, 0), 1), 0.0)
    flags = parts.flags[:, nearest] & ~np.uint16(Flag.NONFINITE)
    return Denoised(
        np.where(invalid, held, back),
        np.where(invalid, np.float32(0), parts.confidence[:, nearest]),
        np.where(invalid, np.uint16(Flag.NONFINITE | Flag.LOW_CONFIDENCE), flags),
    )


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
    """Polyphase resampling of a 1-D record; missing samples are bridged for the filter and missing again afterwards."""
    from fractions import Fraction

    from scipy.signal import resample_poly

    finite = np.isfinite(x)
    at = np.arange(len(x))
    filled = np.interp(at, at[finite], x[finite]) if finite.any() else np.zeros(len(x))
    ratio = Fraction(str(fs_to)) / Fraction(str(fs_from))
    ratio = ratio.limit_denominator(20_000)
    mean = filled.mean()  # the filter takes what lies beyond the ends for 0
    y = resample_poly(filled - mean, ratio.numerator, ratio.denominator, padtype="line") + mean
    nearest = np.minimum(np.round(np.arange(len(y)) * fs_from / fs_to).astype(int), len(x) - 1)
    return np.where(finite[nearest], y, np.nan)


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
