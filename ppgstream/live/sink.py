"""Where chunks go. `Sink` is what the daemon needs of it; `ZmqSink` is the ZeroMQ socket that consumers subscribe to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
import zmq
from msgspec import structs

from ppgstream.live.endpoints import Inbox
from ppgstream.live.guard import Guard
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
    """An XPUB socket. subscribers: subscriptions to it. guard: says who may read what; then the socket is one of XPUB_MANUAL, and
    of a subscription as much holds as its key may read."""

    def __init__(self, socket: zmq.Socket[bytes], dtype: Literal["f4", "f8"], guard: Guard | None = None) -> None:
        self._guard = guard
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
            change = change_of(parts)
            self.subscribers += change
            if self._guard is not None and change:
                self._subscribe(self._guard, parts[0][1:], zmq.SUBSCRIBE if change > 0 else zmq.UNSUBSCRIBE)

    def _subscribe(self, guard: Guard, wanted: bytes, option: int) -> None:
        """Grant the last subscription that was read, or take it back."""
        rights = guard.rights(self._subscriptions.user)
        for prefix in [] if rights is None else rights.prefixes(wanted):
            self.socket.setsockopt(option, prefix)

    def reopen(self, socket: zmq.Socket[bytes]) -> None:
        """Go on with another socket, to which readers that may connect again."""
        self.socket = socket
        self._subscriptions = Inbox(socket)
        self.subscribers = 0

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        stream, body = encode(chunk, dtype=dtype)
        self.socket.send(stream, zmq.SNDMORE)
        self.socket.send(body)
        self.published += 1
