"""Where chunks come from. `Source` is what the daemon needs of it; `ZmqSource` is the ZeroMQ socket that sensors publish to,
`NatsSource` their subjects on a NATS server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import zmq

from ppgstream.config import Config
from ppgstream.core.ledger import Event
from ppgstream.errors import WireError
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.live.nats import MOST_BYTES, Message, stream_of, subject_of
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.json_messages import Keys
from ppgstream.wire.message import MAGIC, MOST_PARTS, Chunk, Kind, decode, stream_id

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.link import Link


class Source(Protocol):
    """Messages of sensors."""

    received: int  # messages
    malformed: int

    @property
    def socket(self) -> zmq.Socket[bytes] | int:
        """What can be polled for reading: ZeroMQ's socket, or a descriptor."""

    def open(self) -> None:
        """Begin: a sender that waits for somebody who listens sends now."""

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        """The chunks of the next message, without waiting: none if it is malformed, which is told. None if there is no message
        now. The times are the clock's and the listening time, s."""

    def close(self) -> None:
        """Take no more."""


class _Taking:
    """What every source tells of messages that it refuses."""

    def __init__(self, events: Events) -> None:
        self.received = self.malformed = 0
        self._events = events

    def _given(self, chunks: list[Chunk]) -> list[Chunk]:
        """Chunks that a sensor may send."""
        if chunks and chunks[0].kind in (Kind.BEATS, Kind.RAW):
            kind = chunks[0].kind.name
            return self._refuse(f"{chunks[0].stream}: a {kind} message: only a daemon sends these", chunks[0].stream)
        return chunks

    def _malformed(self, parts: Sequence[bytes], error: WireError, where: str) -> list[Chunk]:
        least = "at least " * (len(parts) > MOST_PARTS)
        stream = error.stream or named(parts)
        who = f"{stream}: " if stream else ""
        why = f"{who}malformed message of {least}{sum(len(p) for p in parts)} bytes{where}: {error}"
        return self._refuse(why, stream, str(error))

    def _refuse(self, why: str, stream: str = "", reason: str = "") -> list[Chunk]:
        self.malformed += 1
        self._events.tell(Event("malformed", why, stream, reason))
        return []


class NatsSource(_Taking):
    """What comes on `subjects` of a NATS server. The link is the caller's to close."""

    def __init__(self, link: Link, subjects: Sequence[str], events: Events) -> None:
        super().__init__(events)
        self._link, self._subjects = link, subjects
        self._dropped = 0
        self.socket = link.fileno()

    def open(self) -> None:
        self._link.subscribe([*self._subjects, "ppg.ask.in"])

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        message = self._link.take()
        if message is None:
            self._tell_dropped()
            return None
        self.received += 1
        return self._chunks(message)

    def _tell_dropped(self) -> None:
        if (dropped := self._link.dropped_in) > self._dropped:
            n, self._dropped = dropped - self._dropped, dropped
            text = f"{n} messages found no room in {MOST_BYTES >> 20} MiB: the daemon is too slow for them"
            self._events.tell(Event("nats_dropped", text))

    def _chunks(self, message: Message) -> list[Chunk]:
        subject, body = message.subject, message.body
        parts = [stream_of(subject).encode(), body]
        try:
            chunk = decode(parts)
            if subject != subject_of("in", chunk.stream):
                raise WireError(f"{chunk.stream} belongs on {subject_of('in', chunk.stream)}")
        except WireError as error:
            return self._malformed(parts, error, f" on {subject[:120]!r}")
        return self._given([chunk])

    def close(self) -> None:
        """Nothing more is read; the link may still be in use."""


class ZmqSource(_Taking):
    """A SUB socket, with messages of ours or, by an `Adopter`, of other formats. guard: says who may send what."""

    def __init__(self, socket: zmq.Socket[bytes], config: Config, events: Events, guard: Guard | None = None) -> None:
        super().__init__(events)
        self.socket = socket
        self._inbox = Inbox(socket)
        self._guard = guard
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
            return self._malformed(parts, error, f" from {self._inbox.peer}" if self._inbox.peer else "")
        if self._foreign.doubt:
            self._events.tell(Event("doubtful", self._foreign.doubt, chunks[-1].stream if chunks else ""))
            self._foreign.doubt = ""
        return self._given(chunks)

    def close(self) -> None:
        self.socket.close(linger=0)


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
