"""The status socket: what monitors and senders ask, and the answers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from ppgstream.core.engine import Engine
from ppgstream.core.timeline import Trace
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.live.snapshot import Snapshot

WATCHED = 8  # streams whose waves are kept for monitors
WATCH_S = 10.0  # for how long after a monitor last asked
QUESTIONS_A_TURN = 4
KEPT_FOR = 20  # times the processor time that a snapshot took: so it takes a twentieth of the thread's, however many ask


class Questions:
    """A ROUTER socket. `make` makes a snapshot; `reads` is the endpoint that the daemon reads."""

    def __init__(
        self, socket: zmq.Socket[bytes], engine: Engine, events: Events, reads: str, make: Callable[[], Snapshot]
    ) -> None:
        self.socket = socket
        self.watched: dict[str, float] = {}  # streams whose waves are kept, and until when
        self._inbox = Inbox(socket)
        self._engine, self._events, self._reads, self._make = engine, events, reads, make
        self._kept = b""  # the snapshot last sent; empty: the next request gets a fresh one
        self._kept_at = self._cost_s = 0.0  # when it was made, and the processor time that it took

    def answer(self) -> None:
        """Answer a few of those that wait."""
        for _ in range(QUESTIONS_A_TURN):
            parts = self._inbox.take()
            if parts is None:
                return
            if not parts:
                continue
            envelope = parts[:-1] or parts  # the peer, and what a REQ socket puts before its question
            try:
                asked = msgspec.json.decode(parts[-1]) if len(parts) > 1 else {}
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(asked, dict) and isinstance(asked.get("taken"), dict):
                taken = {"in": self._reads, "taken": _taken(self._engine, asked["taken"])}
                self._send(envelope, msgspec.json.encode(taken))
                continue
            watch = asked.get("watch", []) if isinstance(asked, dict) else []
            self._watch([n for n in watch if isinstance(n, str)] if isinstance(watch, list) else [])
            self._send(envelope, self._current())

    def tick(self, now: float) -> None:
        """A second is over: the waves of streams that nobody asked for any more are not kept."""
        for name in [n for n, until in self.watched.items() if until < now]:
            del self.watched[name]
            if name in self._engine.streams:
                self._engine.streams[name].timeline.trace = None

    def _watch(self, names: list[str]) -> None:
        for name in names[:WATCHED]:
            stream = self._engine.streams.get(name)
            if stream is not None and (name in self.watched or len(self.watched) < WATCHED):
                if name not in self.watched:
                    self._kept = b""  # it does not hold this wave
                self.watched[name] = time.monotonic() + WATCH_S
                stream.timeline.trace = stream.timeline.trace or Trace()

    def _send(self, envelope: list[bytes], answer: bytes) -> None:
        try:
            self.socket.send_multipart([*envelope, answer], zmq.NOBLOCK)
        except zmq.ZMQError:
            self._events.counts["monitor_slow"] += 1  # a monitor that does not read gets no answer

    def _current(self) -> bytes:
        """The snapshot as sent, made anew once it is `KEPT_FOR` times as old as the processor time that it took."""
        now = time.monotonic()
        if not self._kept or now - self._kept_at >= KEPT_FOR * self._cost_s:
            started = time.thread_time()
            self._kept = msgspec.json.encode(self._make())
            self._kept_at, self._cost_s = now, time.thread_time() - started
        return self._kept


def _taken(engine: Engine, sessions: dict[Any, Any]) -> dict[str, int | None]:
    """Of streams and their sessions (16 hexadecimal digits), the index up to which the daemon has taken everything; None if it
    knows no such session."""
    found: dict[str, int | None] = {}
    for name, session in sessions.items():
        stream = engine.streams.get(name)
        known = stream is not None and isinstance(session, str) and re.fullmatch("[0-9a-f]{16}", session) is not None
        found[name] = stream.intake.sessions.taken(int(session, 16)) if stream is not None and known else None
    return found
