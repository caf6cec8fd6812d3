"""Where chunks go. `Sink` is what the daemon needs of it; `ZmqSink` is the ZeroMQ socket that consumers subscribe to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import zmq
from msgspec import structs

from ppgstream.live.endpoints import Inbox
from ppgstream.live.publisher import SUBSCRIPTIONS_A_TURN, change_of
from ppgstream.wire.message import DTYPE_CODES, Chunk, Kind, encode


class Sink(Protocol):
    """Messages for consumers."""

    published: int  # messages

    def publish(self, chunks: Iterable[Chunk]) -> None:
        """Send chunks, in order. Those whose beats and rates are not computed yet wait, and what follows of their streams waits
        behind them."""

    def publish_raw(self, chunk: Chunk) -> None:
        """Send a sensor's samples as they came (kind RAW), at once."""

    def release(self) -> None:
        """All beats and rates are computed: send what waited."""


class ZmqSink:
    """An XPUB socket. subscribers: subscriptions to it."""

    def __init__(self, socket: zmq.Socket[bytes], dtype: Literal["f4", "f8"]) -> None:
        self.socket = socket
        self.published = self.subscribers = 0
        self._dtype = dtype
        self._subscriptions = Inbox(socket)
        self._waiting: list[Chunk] = []
        self._blocked: set[str] = set()  # streams of those

    def publish(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            if (chunk.kind is Kind.BEATS and chunk.beats is None) or (self._blocked and chunk.stream in self._blocked):
                self._blocked.add(chunk.stream)
                self._waiting.append(chunk)
            else:
                self._send(chunk, self._dtype)

    def publish_raw(self, chunk: Chunk) -> None:
        samples = chunk.samples if chunk.samples.dtype in DTYPE_CODES else chunk.samples.astype(np.float64)
        self._send(structs.replace(chunk, kind=Kind.RAW, samples=samples), None)

    def release(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._blocked.clear()
        for chunk in waiting:
            self._send(chunk, self._dtype)

    def hear(self) -> None:
        """Count the subscriptions that came and went."""
        for _ in range(SUBSCRIPTIONS_A_TURN):
            parts = self._subscriptions.take()
            if parts is None:
                return
            self.subscribers += change_of(parts)

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        stream, body = encode(chunk, dtype=dtype)
        self.socket.send(stream, zmq.SNDMORE)
        self.socket.send(body)
        self.published += 1
