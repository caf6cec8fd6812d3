"""The status socket: what monitors and senders ask, and the answers."""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import zmq

from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.trace import Trace
from ppgstream.live.endpoints import Inbox
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.live.reload import Asked
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.watch import Sort

WATCHED = 8  # streams whose waves are kept for monitors
WATCH_S = 10.0  # for how long after a monitor last asked
QUESTIONS_A_TURN = 4
OLDEST_S = 0.5  # an answer may be so old
PENDING = 16  # questions that wait; of more, the oldest get no answer
KEPT = 8  # snapshots, for as many different questions
KEPT_FOR = 20  # times the processor time that a snapshot took: so it takes a twentieth of the thread's, however many ask


class Question(msgspec.Struct):
    """What may be asked, all of it optional. `watch`: streams whose waves are wanted. `sort`, `like`, `rows`: which streams get a
    row, in which order: those whose name holds `like`, at most `rows`, 0 for as many as the daemon gives. `taken`: of streams
    and their sessions, up to where all was taken; then nothing else is answered. `reload`: what is to be served, or tried;
    then too."""

    watch: list[str] = []
    sort: Sort = "trouble"
    like: str = ""
    rows: Annotated[int, msgspec.Meta(ge=0)] = 0
    taken: dict[str, Any] | None = None
    reload: Asked | None = None


class Questions:
    """A ROUTER socket. `make` makes a snapshot for a question; `reads` is the endpoint that the daemon reads; `reload` does what
    is asked for, and gives its number, and why it is refused. guard: says who may ask."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        engine: Engine,
        events: Events,
        reads: str,
        make: Callable[[Question], Snapshot],
        reload: Callable[[Asked], tuple[int, str]],
        guard: Guard | None = None,
    ) -> None:
        self.socket, self._guard, self._reload = socket, guard, reload
        self.watched: dict[str, float] = {}  # streams whose waves are kept, and until when
        self._inbox = Inbox(socket)
        self._engine, self._events, self._reads, self._make = engine, events, reads, make
        # The snapshots last sent and when they were made, by what was asked, the newest last.
        self._kept: dict[tuple[str, str, int], tuple[bytes, float]] = {}
        self._made_at = self._cost_s = 0.0  # when the last of them was made, and the processor time that it took
        self.pending: deque[tuple[list[bytes], Question]] = deque(maxlen=PENDING)  # that wait until another may be made

    def answer(self) -> None:
        """Answer a few of those that wait."""
        for _ in range(len(self.pending)):
            envelope, asked = self.pending.popleft()
            self._reply(envelope, asked)
        for _ in range(QUESTIONS_A_TURN):
            parts = self._inbox.take()
            if parts is None:
                return
            if not parts or (self._guard is not None and not self._guard.may_ask(self._inbox.user)):
                continue
            envelope = parts[:-1] or parts  # the peer, and what a REQ socket puts before its question
            try:
                asked = msgspec.json.decode(parts[-1], type=Question) if len(parts) > 1 else Question()
            except msgspec.ValidationError as error:
                if _asks_for_reload(parts[-1]):
                    self._send(envelope, msgspec.json.encode({"reload": {"number": 0, "refused": str(error)}}))
                    continue
                asked = Question()  # a monitor of another version gets what all get
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if asked.taken is not None:
                self._send(envelope, msgspec.json.encode({"in": self._reads, "taken": _taken(self._engine, asked.taken)}))
                continue
            if asked.reload is not None:
                number, refused = self._order(asked.reload)
                self._send(envelope, msgspec.json.encode({"reload": {"number": number, "refused": refused}}))
                continue
            self._watch(asked.watch)
            self._reply(envelope, asked)

    def tick(self, now: float) -> None:
        """A second is over: the waves of streams that nobody asked for any more are not kept."""
        for name in [n for n, until in self.watched.items() if until < now]:
            del self.watched[name]
            if name in self._engine.streams:
                self._engine.streams[name].timeline.trace = None

    def _order(self, asked: Asked) -> tuple[int, str]:
        name = ""
        if self._guard is not None:
            name = self._guard.name_of(self._inbox.user)
            if not self._guard.may_reload(self._inbox.user):
                return 0, "this key has no right to reload (SECURITY.md)"
        what = " ".join(filter(None, (asked.do, asked.checkpoint[:200], "force" * asked.force)))
        self._events.tell(Event("reload", f"reload: {what}" + (f", asked by [{name}]" if name else "")))
        self._kept.clear()  # none of them tells of it
        self._cost_s = 0.0
        return self._reload(asked)

    def _watch(self, names: list[str]) -> None:
        for name in names[:WATCHED]:
            stream = self._engine.streams.get(name)
            if stream is not None and (name in self.watched or len(self.watched) < WATCHED):
                if name not in self.watched:
                    self._kept.clear()  # none of them holds this wave
                    self._cost_s = 0.0
                self.watched[name] = time.monotonic() + WATCH_S
                stream.timeline.trace = stream.timeline.trace or Trace()

    def _send(self, envelope: list[bytes], answer: bytes) -> None:
        try:
            self.socket.send_multipart([*envelope, answer], zmq.NOBLOCK)
        except zmq.ZMQError:
            self._events.counts["monitor_slow"] += 1  # a monitor that does not read gets no answer

    def _reply(self, envelope: list[bytes], asked: Question) -> None:
        """Send a snapshot: the one that was made for the same question, if it is new enough, or a new one. A new one is made only
        when the last is `KEPT_FOR` times as old as the processor time that it took; a question that is too early waits."""
        now, key = time.monotonic(), (asked.sort, asked.like[:64], asked.rows)
        rest_s = KEPT_FOR * self._cost_s
        kept, made_at = self._kept.get(key, (b"", -math.inf))
        if now - self._made_at >= rest_s and now - made_at >= rest_s:
            started = time.thread_time()
            self._kept.pop(key, None)
            kept, made_at = self._kept[key] = msgspec.json.encode(self._make(asked)), now
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
            self._made_at, self._cost_s = now, time.thread_time() - started
        if now - made_at <= max(rest_s, OLDEST_S):
            self._send(envelope, kept)
        else:
            self.pending.append((envelope, asked))


def _asks_for_reload(question: bytes) -> bool:
    try:
        found = msgspec.json.decode(question)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("reload") is not None


def _taken(engine: Engine, sessions: dict[Any, Any]) -> dict[str, int | None]:
    """Of streams and their sessions (16 hexadecimal digits), the index up to which the daemon has taken everything; None if it
    knows no such session."""
    found: dict[str, int | None] = {}
    for name, session in sessions.items():
        stream = engine.streams.get(name)
        known = stream is not None and isinstance(session, str) and re.fullmatch("[0-9a-f]{16}", session) is not None
        found[name] = stream.intake.sessions.taken(int(session, 16)) if stream is not None and known else None
    return found
