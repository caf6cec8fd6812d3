"""The daemon's loop: chunks from the source to the engine, windows to the workers, what they answer to the sink, and at the end
the drain.

When more windows wait for the model than `queue_samples` allows, the source is read no further, ZeroMQ fills up behind it, and a
sender that can wait, waits. Nothing that was read is dropped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

import zmq

from ppgstream.config import Config
from ppgstream.core.denoiser import Answer
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.tile import Tile
from ppgstream.live.canary import Canary
from ppgstream.live.descriptors import are_short, most_descriptors
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.live.questions import Questions
from ppgstream.live.recent import Recent
from ppgstream.live.reload import Reload
from ppgstream.live.round import POLL_S, TURN_S, Clock, Pace, Round
from ppgstream.live.service import Notifier
from ppgstream.live.shadow import Shadow
from ppgstream.live.sink import Sink
from ppgstream.live.source import Source
from ppgstream.live.workers import Found, Workers
from ppgstream.wire.message import Chunk, Kind

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.fleet import Fleet

BURST = 256  # messages read before looking up
BACKLOG_S = 2.0  # longer than a message waits in a socket that is read all the time
LAST_READ_S = 1.0  # after the stop, for reading what is in the source
LAST_ANSWER_S = 1.0  # after `drain_s`, for answers of calls that are under way
LEAVE_S = 3.2  # after `drain_s`, everything is given up: what is not published by then is counted
ENDED_AT_ONCE = 256  # streams whose sessions are ended before looking up
MOST_STRETCHES = 4096  # that wait for earlier ones of their streams before the source is read no further; 25 kB each
# Beats and rates of so many messages are computed at once, unless the first of them has waited for so long, or there is nothing
# else to do.
FILLED_AT_ONCE, FILL_S = 48, 0.02


class Stop:
    """Whether the daemon is to stop, and since when. `set` may be called by a signal handler or another thread."""

    def __init__(self) -> None:
        self.at = math.inf  # time.monotonic()

    def set(self) -> None:
        self.at = min(self.at, time.monotonic())

    def is_set(self) -> bool:
        return self.at < math.inf

    def since(self, seconds: float) -> bool:
        """Whether so many seconds have passed since it was set."""
        return time.monotonic() > self.at + seconds


class Rooms(NamedTuple):
    """What the loop works with."""

    engine: Engine
    workers: Workers
    source: Source
    sink: Sink
    questions: Questions
    events: Events
    clock: Clock
    pace: Pace
    canary: Canary
    notifier: Notifier
    notes: SimpleQueue[Event]
    recent: Recent
    reload: Reload
    shadow: Shadow
    guard: Guard | None = None
    fleet: Fleet | None = None
    reopen_output: Callable[[], bool] = lambda: True


class Loop:
    """See the module. One thread runs it. say: called with the daemon's state when that changes."""

    def __init__(self, config: Config, rooms: Rooms, stop: Stop, say: Callable[[str], None]) -> None:
        self._config, self._stop, self._say = config, stop, say
        self._publishes_raw = config.out.raw
        self._rooms = rooms
        self._engine, self._workers, self._sink, self._clock = rooms.engine, rooms.workers, rooms.sink, rooms.clock
        self._round = Round(rooms.engine, rooms.sink, rooms.events, rooms.pace, rooms.clock, config.streams.idle_s)
        self._most_waiting = ready_limit(config, rooms.engine.rules.plan.geometry.hop)
        self._finished: list[Tile] = []  # of which something is not published yet
        self._unfilled_since = 0.0
        rooms.engine.fills_itself = False

    def work(self) -> None:
        """Until the stop."""
        source, questions = self._rooms.source, self._rooms.questions
        poller = zmq.Poller()
        guard, out = self._rooms.guard, self._sink.socket
        for socket in (source.socket, questions.socket, self._workers.fileno(), *([] if out is None else [out])):
            poller.register(socket, zmq.POLLIN)
        if guard is not None:
            poller.register(guard.socket, zmq.POLLIN)
        self._round.begin(time.monotonic())
        self._clock.begin(time.monotonic())
        while True:
            stopping, room = self._stop.is_set(), self._has_room()
            poller.register(source.socket, zmq.POLLIN if room else 0)
            there = dict(poller.poll(0 if stopping and room else math.ceil(1000 * self._wait())))
            if guard is not None:
                guard.answer()
                if guard.revoked:
                    guard.revoked = not self._rooms.reopen_output()
                if out is not None and self._sink.socket is not None and self._sink.socket is not out:
                    poller.unregister(out)
                    out = self._sink.socket
                    poller.register(out, zmq.POLLIN)
            self._turn_fleet()
            empty = room and self.read()
            self._tell()
            self._clock.turn(time.monotonic(), empty=empty)
            if room:  # a stream gives up what it waits for only when that can hardly be in the socket
                running = self._clock.running - (0.0 if empty else BACKLOG_S)
                self._publish(self._engine.expire(running, read_at=time.monotonic()))
            if self._round.look(time.monotonic()):
                self._tick()
            self._hand_over()
            self._take_back(self._workers.take_back())
            if out in there:
                self._sink.hear()
            if questions.socket in there or questions.pending:
                questions.answer()
            if stopping and (empty or self._stop.since(LAST_READ_S)):
                break
        if not empty and self._rooms.fleet is None:  # in a fleet others read it
            text = f"the input was not read to its end in the {LAST_READ_S:g} s after the stop: the rest is lost"
            self._rooms.events.tell(Event("unread", text))
        source.close()

    def drain(self) -> None:
        """Nothing more comes in: denoise what is there, as far as time allows, end every session, and say so."""
        self._say("draining")
        self._rooms.notifier.tell("STOPPING=1")
        drain_s = self._config.overload.drain_s
        if self._rooms.fleet is not None:
            self._leave_fleet(self._rooms.fleet)
        # The cheap ones first: what is too short for a window is published at once.
        streams = sorted(self._engine.streams.values(), key=lambda stream: stream.in_flight)
        for at in range(0, len(streams), ENDED_AT_ONCE):
            self._publish(self._engine.flush(time.monotonic(), streams[at : at + ENDED_AT_ONCE]))
            self._hand_over()
            self._take_back(self._workers.take_back())
            if self._stop.since(drain_s + LEAVE_S):
                break
        poller = zmq.Poller()
        poller.register(self._workers.fileno(), zmq.POLLIN)
        while (self._engine.ready or self._workers) and not self._stop.since(drain_s + LEAVE_S):
            self._hand_over(all_of_it=True)
            poller.poll(math.ceil(1000 * POLL_S))
            late = self._stop.since(drain_s + LAST_ANSWER_S)
            self._take_back(self._workers.give_up() if late else self._workers.take_back())
            self._rooms.questions.answer()
        self._fill(at_once=True)
        self._round.finish(time.monotonic())
        self._tick()
        self._rooms.questions.answer()
        self._say("stopped")
        if left := self._engine.in_flight:
            text = f"{left} samples were not published: the {drain_s + LEAVE_S:g} s that a stop may take had passed"
            self._rooms.events.tell(Event("unpublished", text))

    def _turn_fleet(self) -> None:
        if (fleet := self._rooms.fleet) is not None:
            fleet.turn((self._clock.running, self._clock.listened, time.monotonic()))

    def _leave_fleet(self, fleet: Fleet) -> None:
        """Hand all streams over to other members, as far as time allows."""
        fleet.tender.leave()
        poller = zmq.Poller()
        poller.register(self._workers.fileno(), zmq.POLLIN)
        while not fleet.tender.has_left and not self._stop.since(self._config.overload.drain_s):
            self._hand_over(all_of_it=True)
            poller.poll(math.ceil(1000 * TURN_S))
            self._take_back(self._workers.take_back())
            self._fill(at_once=True)
            self._turn_fleet()
            self._tell()
            self._rooms.questions.answer()
        fleet.leave()

    def read(self) -> bool:
        """Feed what is in the source to the engine, for one turn at most. True if it is empty now."""
        until, running, listened = time.monotonic() + TURN_S, self._clock.running, self._clock.listened
        recent, shadow = self._rooms.recent, self._rooms.shadow
        for _ in range(BURST):
            now = time.monotonic()
            chunks = self._rooms.source.take(now, listened)
            if chunks is None:
                return True
            for chunk in chunks:
                if self._publishes_raw and chunk.kind is Kind.DATA:
                    self._sink.publish_raw(chunk)
                recent.keep(chunk, now)
                if chunk.stream in shadow.names:
                    shadow.take(chunk, now)
                if published := self._engine.feed(chunk, running, read_at=now, listened=listened):
                    self._publish(published)
            if now > until or not self._has_room():
                break
        return False

    # ---- parts of a turn -----------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """Whether more may be read: not too much waits for the model."""
        return len(self._engine.ready) < self._most_waiting and self._engine.crowd < MOST_STRETCHES

    def _wait(self) -> float:
        """Seconds until something is to be done though nothing comes."""
        now = time.monotonic()
        # The next stream that is to be looked at, or the end of the round.
        wait = min(POLL_S, self._round.due_at - now)
        if self._engine.ready and not self._workers.full:
            wait = min(wait, self._engine.ready.next_read_at + self._config.model.max_delay_ms / 1000 - now)
        if self._engine.unfilled:
            wait = min(wait, self._unfilled_since + FILL_S - now)
        return max(wait, 0.0)

    def _hand_over(self, *, all_of_it: bool = False) -> None:
        """Full tiles to the workers, and a part of one if it has waited for `max_delay_ms`."""
        patience, limit = self._config.model.max_delay_ms / 1000, self._config.overload.shed_after_ms / 1000
        ready = self._engine.ready
        while ready and not self._workers.full:
            now, read_at = time.monotonic(), ready.next_read_at
            if len(ready) < self._engine.rules.tile and now - read_at < patience and not all_of_it:
                break
            shed = self._stop.since(self._config.overload.drain_s) or (limit > 0 and now - read_at > limit)
            self._workers.hand_over(self._engine.take(), shed=shed)

    def _take_back(self, answered: Iterator[tuple[Tile, Found]]) -> None:
        for tile, found in answered:
            if isinstance(found, Answer):
                self._rooms.canary.answered(time.monotonic())
            self._publish(self._engine.finish(tile, found))
            self._finished.append(tile)
        self._fill()
        if self._finished and not self._engine.unfilled:
            now = time.monotonic()
            for tile in self._finished:
                self._rooms.pace.published(tile, now)
            self._finished.clear()

    def _publish(self, chunks: Sequence[Chunk]) -> None:
        if not self._unfilled_since and self._engine.unfilled:
            self._unfilled_since = time.monotonic()
        self._sink.publish(chunks)

    def _fill(self, *, at_once: bool = False) -> None:
        """Compute beats and rates, once it is worth it, and send what waits for them."""
        waiting = self._engine.unfilled
        if not waiting:
            self._sink.release()
            return
        idle = not self._workers and not self._engine.ready
        if at_once or idle or waiting >= FILLED_AT_ONCE or time.monotonic() > self._unfilled_since + FILL_S:
            self._engine.fill()
            self._unfilled_since = 0.0
            self._sink.release()

    def _tell(self) -> None:
        """Tell what the engine has to tell."""
        if self._engine.events:
            events, self._engine.events = self._engine.events, []
            self._rooms.events.tell_all(events)

    def _tick(self) -> None:
        """A second is over."""
        now = time.monotonic()
        self._tell()
        while not self._rooms.notes.empty():
            self._rooms.events.tell(self._rooms.notes.get())
        self._rooms.events.tick()
        self._rooms.questions.tick(now)
        self._sink.hear()
        self._rooms.canary.look(now)
        self._rooms.recent.tick(now)
        self._rooms.reload.tick(now, self._rooms.canary.unwell(now))
        self._rooms.shadow.tick()
        if self._rooms.fleet is not None:
            self._rooms.fleet.tick(self._rooms.pace.rates.now()[0], self._rooms.pace.lags[-1] if self._rooms.pace.lags else None)
        if (guard := self._rooms.guard) is not None:
            guard.tick()
        if are_short():
            text = f"of {most_descriptors()} descriptors hardly any is left (ulimit -n): connections beyond them are not served"
            self._rooms.events.tell(Event("descriptors", text))
        if not self._rooms.canary.unwell(now):
            self._rooms.notifier.well(now)


def ready_limit(config: Config, hop: int) -> int:
    """Windows that may wait for the model before the source is read no further."""
    return max(config.in_.queue_samples // hop, 1)
