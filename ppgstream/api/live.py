"""A denoiser for samples as they come, in this process, without sockets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.api.arguments import Float64, rate_of, samples_of, serving
from ppgstream.errors import ArgumentError
from ppgstream.wire.message import EMPTY, MAX_COUNT, Chunk, Kind

STREAM = "live"


@dataclass(frozen=True, eq=False)
class Block:
    """What became final: samples that follow each other. index: the number of the first; denoised f4, confidence f4 and flags u2
    of each sample (n,), as in `ppgstream.Denoised`. Of beats that were decided now: their sample indexes, P(it is one), the
    interval before and its expected error; a beat is decided some 1 s after it. Of heart rates: when they were known, s, the
    rate, and P(it is within 5 bpm). events: what else there is to say. stream, session: of which."""

    index: int
    denoised: NDArray[np.float32]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]
    beats: NDArray[np.int64]
    beat_confidence: NDArray[np.float32]
    beat_interval_ms: NDArray[np.float32]
    beat_error_ms: NDArray[np.float32]
    hr_t_s: Float64
    hr_bpm: NDArray[np.float32]
    hr_confidence: NDArray[np.float32]
    events: tuple[str, ...] = ()
    stream: str = STREAM
    session: int = 0


def joined(
    chunks: list[Chunk], *, index: int, fs: float, stream: str = STREAM, session: int = 0, events: tuple[str, ...] = ()
) -> Block:
    """Messages of one session as one block. index: of its first sample, where there is none; fs: the samples' rate, Hz. Samples
    that never came, of a GAP, are NaN of confidence 0."""
    samples, confidence, flags = [np.empty(0, np.float32)], [np.empty(0, np.float32)], [np.empty(0, np.uint16)]
    first: int | None = None
    for chunk in chunks:
        n = len(chunk.samples) + chunk.missing
        if not n:
            continue
        first = chunk.index if first is None else first
        if chunk.missing:
            samples.append(np.full(n, np.nan, np.float32))
        else:
            samples.append(np.asarray(chunk.samples, np.float32))
        confidence.append(np.zeros(n, np.float32) if chunk.confidence is None else np.asarray(chunk.confidence, np.float32))
        flags.append(np.zeros(n, np.uint16) if chunk.flags is None else np.asarray(chunk.flags, np.uint16))
    told = [(chunk.index, chunk.beats) for chunk in chunks if chunk.beats is not None]
    rated = [(at, beats) for at, beats in told if not np.isnan(beats.bpm)]

    def of_beats(name: str, dtype: type) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *(np.asarray(getattr(beats, name), dtype) for _, beats in told)])

    return Block(
        index if first is None else first,
        np.concatenate(samples),
        np.concatenate(confidence),
        np.concatenate(flags),
        of_beats("at", np.int64),
        of_beats("confidence", np.float32),
        of_beats("interval_ms", np.float32),
        of_beats("error_ms", np.float32),
        np.array([(at - 1) / fs for at, _ in rated], np.float64),
        np.array([beats.bpm for _, beats in rated], np.float32),
        np.array([beats.bpm_confidence for _, beats in rated], np.float32),
        events,
        stream,
        session,
    )


class LiveDenoiser:
    """Denoises one sensor's samples as they come; what it gives is what the daemon would publish.

    fs: their rate, 10 to 1000 Hz; the others as in `ppgstream.denoise`, whose errors it raises. A sample is final some 2 s after
    it came, or sooner with `lookahead`, in samples of the checkpoint.

    Examples:
        >>> import numpy as np, ppgstream
        >>> live = ppgstream.LiveDenoiser(fs=125, lookahead=49)
        >>> x = np.sin(np.arange(1000) / 16)
        >>> sum(len(live.feed(x[k : k + 25]).denoised) for k in range(0, 1000, 25)) > 700
        True
        >>> rest = live.finish()
        >>> rest.index + len(rest.denoised)
        1000
    """

    def __init__(
        self,
        fs: float,
        *,
        checkpoint: str | Path = "default",
        lookahead: int | None = None,
        polarity: str = "auto",
        sentinels: tuple[float, ...] = (),
    ) -> None:
        from ppgstream.core.engine import Engine

        self.fs = rate_of(fs)
        served = serving(checkpoint, lookahead, polarity, sentinels)
        self._engine = Engine(served.denoiser, served.rules)
        self._in = self._out = 0  # samples
        self._over = False

    def feed(self, samples: Any) -> Block:
        """The sensor's next samples (n,), any number; NaN where there is none. Gives what became final with them, perhaps
        nothing. Raises ArgumentError for what is no samples, and after `finish`."""
        x = samples_of(samples, rows=False)
        if self._over:
            raise ArgumentError("feed: this denoiser is finished: make another")
        chunks: list[Chunk] = []
        for start in range(0, len(x), MAX_COUNT):
            part = x[start : start + MAX_COUNT]
            chunks += self._take(Chunk(STREAM, 0, self._in, part, fs=self.fs))
            self._in += len(part)
        return self._block(chunks)

    def finish(self) -> Block:
        """There are no more samples: gives the rest."""
        if self._over:
            raise ArgumentError("finish: this denoiser is finished")
        self._over = True
        return self._block(self._take(Chunk(STREAM, 0, self._in, EMPTY, Kind.END, self.fs)))

    def _take(self, chunk: Chunk) -> list[Chunk]:
        chunks = self._engine.feed(chunk, chunk.index / self.fs)
        while self._engine.ready:
            chunks += self._engine.step()
        return chunks

    def _block(self, chunks: list[Chunk]) -> Block:
        events = tuple(event.text.removeprefix(f"{STREAM}: ") for event in self._engine.events)
        self._engine.events.clear()
        block = joined(chunks, index=self._out, fs=self.fs, events=events)
        self._out = block.index + len(block.denoised)
        return block
