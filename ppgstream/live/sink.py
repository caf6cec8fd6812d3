"""Where chunks go. `Sink` is what the daemon needs of it; `ZmqSink` is the ZeroMQ socket that consumers subscribe to, `NatsSink`
subjects on a NATS server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import zmq
from msgspec import structs

from ppgstream.core.ledger import Event
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.live.nats import subject_of
from ppgstream.live.publisher import SUBSCRIPTIONS_A_TURN, change_of
from ppgstream.wire.message import DTYPE_CODES, Chunk, Kind, encode

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.link import Link


class Sink(Protocol):
    """Messages for consumers."""

    published: int  # messages
    subscribers: int  # as far as they are known

    @property
    def socket(self) -> zmq.Socket[bytes] | None:
        """To be polled for reading, where there is something to `hear`."""

    def publish(self, chunks: Iterable[Chunk]) -> None:
        """Send chunks, in order. Those whose beats and rates are not computed yet wait, and what follows of their streams waits
        behind them."""

    def publish_raw(self, chunk: Chunk) -> None:
        """Send a sensor's samples as they came (kind RAW), at once."""

    def release(self) -> None:
        """All beats and rates are computed: send what waited."""

    def hear(self) -> None:
        """Count the subscriptions that came and went."""


class _Waiting:
    """Sends in order, and holds back what waits for beats and rates."""

    def __init__(self, dtype: Literal["f4", "f8"]) -> None:
        self.published = self.subscribers = 0
        self._dtype = dtype
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

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        raise NotImplementedError


class NatsSink(_Waiting):
    """The subjects `ppg.out...` of a NATS server, whose subscribers nobody counts. The link is the caller's to close."""

    socket: None = None

    def __init__(self, link: Link, dtype: Literal["f4", "f8"], events: Events) -> None:
        super().__init__(dtype)
        self._link, self._events = link, events
        self.losses = -1  # of the connection, for which messages are meant; -1: for any number, they are sent again
        self._dropped = 0

    def hear(self) -> None:
        if (dropped := self._link.dropped_out) > self._dropped:
            text = f"{dropped - self._dropped} messages could not be sent: the NATS server was gone for longer than there is room"
            self._dropped = dropped
            self._events.tell(Event("nats_dropped", text))

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        _, body = encode(chunk, dtype=dtype)
        if self._link.publish(subject_of("out", chunk.stream), body, losses=self.losses):
            self.published += 1
        else:
            self.full()

    def full(self) -> None:
        """A message found no room: `hear` tells it."""


class ZmqSink(_Waiting):
    """An XPUB socket. subscribers: subscriptions to it. guard: says who may read what; then the socket is one of XPUB_MANUAL, and
    of a subscription as much holds as its key may read."""

    def __init__(self, socket: zmq.Socket[bytes], dtype: Literal["f4", "f8"], guard: Guard | None = None) -> None:
        super().__init__(dtype)
        self._guard = guard
        self.socket = socket
        self._subscriptions = Inbox(socket)

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
