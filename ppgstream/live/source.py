"""Where chunks come from. `Source` is what the daemon needs of it; `ZmqSource` is the ZeroMQ socket that sensors publish to."""

from __future__ import annotations

from typing import Protocol

import zmq

from ppgstream.config import Config
from ppgstream.core.ledger import Event
from ppgstream.errors import WireError
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.message import MOST_PARTS, Chunk, Kind, decode


class Source(Protocol):
    """Messages of sensors. `socket` can be polled for reading."""

    socket: zmq.Socket[bytes]
    received: int  # messages
    malformed: int

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        """The chunks of the next message, without waiting: none if it is malformed, which is told. None if there is no message
        now. The times are the clock's and the listening time, s."""

    def close(self) -> None:
        """Take no more."""


class ZmqSource:
    """A SUB socket, with messages of ours or, by an `Adopter`, of another format."""

    def __init__(self, socket: zmq.Socket[bytes], config: Config, events: Events) -> None:
        self.socket = socket
        self.received = self.malformed = 0
        self._inbox = Inbox(socket)
        self._events = events
        self._foreign = _adopter(config)

    def open(self) -> None:
        """Subscribe. A sender that waits for a subscriber begins now."""
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        parts = self._inbox.take()
        if not parts:
            return parts if parts is None else []
        self.received += 1
        try:
            chunks = [decode(parts)] if self._foreign is None else self._foreign.adopt(parts, now, listened)
        except WireError as error:
            least = "at least " * (len(parts) > MOST_PARTS)
            return self._refuse(f"malformed message of {least}{sum(len(p) for p in parts)} bytes: {error}")
        if chunks and chunks[0].kind is Kind.BEATS:
            return self._refuse(f"{chunks[0].stream}: a BEATS message: only this daemon makes them", chunks[0].stream)
        if self._foreign is not None and self._foreign.doubt:
            self._events.tell(Event("doubtful", self._foreign.doubt, chunks[-1].stream))
        return chunks

    def close(self) -> None:
        self.socket.close(linger=0)

    def _refuse(self, why: str, stream: str = "") -> list[Chunk]:
        self.malformed += 1
        self._events.tell(Event("malformed", why, stream))
        return []


def _adopter(config: Config) -> Adopter | None:
    c = config.in_
    if c.format == "ppgstream":
        return None
    return Adopter(
        c.format,
        fs=c.fs,
        dtype=c.raw_dtype,
        samples_key=c.json_samples,
        stream_key=c.json_stream,
        default_id=c.default_stream,
        silence_s=config.streams.silence_s,
        max_streams=config.streams.max_streams,
    )
