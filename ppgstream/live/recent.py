"""The last minute of some streams' samples, as they came: what a new checkpoint is tried on before it is served."""

from __future__ import annotations

import struct
from collections import deque

import numpy as np

from ppgstream.wire.message import DTYPE_CODES, Chunk, Kind, encode

KEPT_S = 60.0
MOST_STREAMS = 32
MOST_CHUNKS, MOST_SAMPLES = 20_000, 1_000_000  # of all of them; of more, the stream that came last is left out
READ_AT = struct.Struct("<d")


def message_of(read_at: float, chunk: Chunk) -> list[bytes]:
    """A chunk for another process: when it was read, and the parts of the wire."""
    if chunk.samples.dtype not in DTYPE_CODES:
        chunk = Chunk(
            chunk.stream, chunk.session, chunk.index, chunk.samples.astype(np.float64), chunk.kind, chunk.fs, chunk.t_ns,
            missing=chunk.missing, unclean=chunk.unclean,
        )  # fmt: skip
    return [READ_AT.pack(read_at), *encode(chunk)]


class Recent:
    """Keeps what came in the last minute, of a bounded number of streams."""

    def __init__(self) -> None:
        self._streams: dict[str, deque[tuple[float, Chunk]]] = {}
        self._chunks = self._samples = 0
        self._most = MOST_STREAMS  # of which there is room

    def keep(self, chunk: Chunk, now: float) -> None:
        """A chunk was read."""
        kept = self._streams.get(chunk.stream)
        if kept is None:
            if len(self._streams) >= self._most or chunk.kind is not Kind.DATA:
                return
            kept = self._streams[chunk.stream] = deque()
        kept.append((now, chunk))
        self._chunks += 1
        self._samples += len(chunk.samples)
        while kept[0][0] < now - KEPT_S:
            self._drop(kept)
        while self._chunks > MOST_CHUNKS or self._samples > MOST_SAMPLES:
            if len(self._streams) > 1:
                self._forget(next(reversed(self._streams)))
                self._most = len(self._streams)
            else:
                self._drop(next(iter(self._streams.values())))

    def tick(self, now: float) -> None:
        """A second is over: streams of which nothing came for a minute make room for others."""
        for name in [n for n, kept in self._streams.items() if not kept or kept[-1][0] < now - KEPT_S]:
            self._forget(name)
            self._most = MOST_STREAMS

    def messages(self) -> list[tuple[float, Chunk]]:
        """All of it, in the order in which it was read."""
        return sorted((one for kept in self._streams.values() for one in kept), key=lambda one: one[0])

    def _forget(self, name: str) -> None:
        kept = self._streams[name]
        while kept:
            self._drop(kept)
        del self._streams[name]

    def _drop(self, kept: deque[tuple[float, Chunk]]) -> None:
        _, chunk = kept.popleft()
        self._chunks -= 1
        self._samples -= len(chunk.samples)
