"""Where chunks come from. `Source` is what the daemon needs of it; `ZmqSource` is the ZeroMQ socket that sensors publish to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import zmq

from ppgstream.config import Config
from ppgstream.core.ledger import Event
from ppgstream.errors import WireError
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.json_messages import Keys
from ppgstream.wire.message import MAGIC, MOST_PARTS, Chunk, Kind, decode, stream_id


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
    """A SUB socket, with messages of ours or, by an `Adopter`, of other formats. guard: says who may send what."""

    def __init__(self, socket: zmq.Socket[bytes], config: Config, events: Events, guard: Guard | None = None) -> None:
        self.socket = socket
        self.received = self.malformed = 0
        self._inbox = Inbox(socket)
        self._events, self._guard = events, guard
        self._foreign = _adopter(config)
        self._takes_ours = config.in_.format in ("auto", "ppgstream")

    def open(self) -> None:
        """Subscribe. A sender that waits for a subscriber begins now."""
        self.socket.setsockopt(zmq.SUBSCRIBE, b"")

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        parts = self._inbox.take()
        if not parts:
            return parts if parts is None else []
        self.received += 1
        may = None if self._guard is None else partial(self._guard.may_send, self._inbox.user)
        try:
            if may is None and self._takes_ours and len(parts) == 2 and parts[1][:3] == MAGIC:  # nearly always
                chunks = [decode(parts)]
            else:
                chunks = self._foreign.adopt(parts, now, listened, may)
        except WireError as error:
            least = "at least " * (len(parts) > MOST_PARTS)
            stream = error.stream or named(parts)
            who = f"{stream}: " if stream else ""
            peer = f" from {self._inbox.peer}" if self._inbox.peer else ""
            why = f"{who}malformed message of {least}{sum(len(p) for p in parts)} bytes{peer}: {error}"
            return self._refuse(why, stream, str(error))
        if chunks and chunks[0].kind in (Kind.BEATS, Kind.RAW):
            kind = chunks[0].kind.name
            return self._refuse(f"{chunks[0].stream}: a {kind} message: only a daemon sends these", chunks[0].stream)
        if self._foreign.doubt:
            self._events.tell(Event("doubtful", self._foreign.doubt, chunks[-1].stream if chunks else ""))
            self._foreign.doubt = ""
        return chunks

    def close(self) -> None:
        self.socket.close(linger=0)

    def _refuse(self, why: str, stream: str = "", reason: str = "") -> list[Chunk]:
        self.malformed += 1
        self._events.tell(Event("malformed", why, stream, reason))
        return []


def named(parts: Sequence[bytes]) -> str:
    """The stream that a refused message says it is of, if it can be one."""
    try:
        return stream_id(parts, expected=2)
    except WireError:
        return ""


def _adopter(config: Config) -> Adopter:
    c = config.in_
    keys = Keys(c.json_samples, c.json_stream, c.json_fs, c.json_time, c.json_index, c.json_end, c.json_units)
    return Adopter(
        c.format,
        fs=0.0 if c.fs == "measure" else c.fs,
        rates={name: 0.0 if one.fs == "measure" else one.fs for name, one in config.streams.by_name.items() if one.fs},
        dtype=c.raw_dtype,
        keys=replace(keys, time_unit=c.json_time_unit, time_of=c.json_time_of),
        default_id=c.default_stream,
        silence_s=config.streams.silence_s,
        max_streams=config.streams.max_streams,
        wall=time.time,
    )
