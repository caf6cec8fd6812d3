"""The daemon's shell: sockets, clock and signals around the engine.

One thread owns the sockets and the bookkeeping: it reads, feeds the engine, hands full tiles of windows to the workers, publishes what comes
back, and answers the monitor. The model alone runs on the workers (`workers`), as many as cores by default.

When more windows wait for the model than `queue_samples` allows, the input socket is read no further, ZeroMQ fills up behind it, and a sender that
can wait, waits. Nothing that was read is dropped.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import resource
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
import zmq

from ppgstream import __version__
from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.quality import confidence_of
from ppgstream.core.stream import Stream
from ppgstream.core.tile import Tile
from ppgstream.core.timeline import Trace
from ppgstream.errors import PpgStreamError, WireError
from ppgstream.live.door import BACKLOG, FEW, Door, are_short, check_descriptors, most_descriptors, there_are_enough
from ppgstream.live.endpoints import MOST_BODY, MOST_QUESTION, MOST_SUBSCRIPTION, Inbox, attach, make
from ppgstream.live.publisher import SUBSCRIPTIONS_A_TURN, change_of
from ppgstream.live.workers import Found, Workers
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.message import MOST_PARTS, Chunk, Kind, decode, encode

FEW_WINDOWS = 16  # that are computed at once while fewer streams wait
BURST = 256  # messages read before looking up
TURN_S = 0.005  # and for how long, as well as for looking at streams
POLL_S = 0.1  # longest wait for something to do, and so until a stop is noticed
TICK_S = 1.0
SLICE_S = 0.02  # between two parts of the work that each stream needs once a second
BACKLOG_S = 2.0  # longer than a message waits in a socket that is read all the time
LONGEST_TURN_S = 2 * POLL_S  # time beyond this is taken to be that of a suspended process
LONGEST_BACKLOG_S = (
    10.0  # after so long of reading, no message of anybody's can have waited all the while: ZeroMQ takes turns between its peers
)
LAST_READ_S = 1.0  # after the stop, for reading what is in the input socket
LAST_ANSWER_S = 1.0  # after `drain_s`, for answers of calls that are under way
LEAVE_S = 3.2  # after `drain_s`, everything is given up: what is not published by then is counted
ENDED_AT_ONCE = 64  # streams whose sessions are ended before looking up
LINES_A_TICK = 20  # of events that are logged a second; the others are counted
WATCHED = 8  # streams whose waves are kept for monitors
WATCH_S = 10.0  # for how long after a monitor last asked
MOST_COUNTED = 50_000  # of events by stream that are counted; then the counts begin anew
LAST_EVENTS = 20  # events kept for the monitor
MOST_STRETCHES = 4096  # that wait for earlier ones of their streams before the socket is read no further; 25 kB each


class Clock:
    """Running time and listening time, s. A sensor whose messages wait to be read is not silent.

    `running`: without the time in which the process was suspended. `listened`: the part of it in which every message had been read, or which came after
    `LONGEST_BACKLOG_S` of reading without end.
    """

    def __init__(self) -> None:
        self.running = self.listened = self._turned_at = 0.0
        self._behind = 0.0  # running time since the socket was last empty

    def begin(self, now: float) -> None:
        self._turned_at = now

    def turn(self, now: float, *, empty: bool) -> None:
        """A turn of the loop has read the input socket: `empty`, until nothing was in it."""
        passed = min(now - self._turned_at, LONGEST_TURN_S)
        self.running += passed
        self._behind = 0.0 if empty else self._behind + passed
        self.listened += passed * (empty or self._behind > LONGEST_BACKLOG_S)
        self._turned_at = now


@dataclass(slots=True)
class _Rates:
    """Samples and windows a second over the last few ticks."""

    history: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=6))

    def tick(self, now: float, samples: int, windows: int) -> None:
        self.history.append((now, samples, windows))

    def now(self) -> tuple[float, float]:
        if len(self.history) < 2:
            return 0.0, 0.0
        (t0, s0, w0), (t1, s1, w1) = self.history[0], self.history[-1]
        return (s1 - s0) / (t1 - t0), (w1 - w0) / (t1 - t0)


class Daemon:
    """`open()` binds, `run()` works until `request_stop()` (or until `stop` is set) and then drains. One use only.

    Events go to `log`, the logger "ppgstream" by default, as warnings with the fields `event` and `stream`.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, *, log: logging.Logger | None = None) -> None:
        self.config, self.checkpoint = config, checkpoint
        self.stop = threading.Event()
        self.endpoints: dict[str, str] = {}
        self.state = "starting"
        self.stuck = False  # at the end: the model is still in a call, and the process must end by os._exit
        self.started = time.monotonic()
        self.log_lost: Callable[[], int] = lambda: 0  # how many lines of the log could not be written
        self._rules = rules_of(config, checkpoint)
        # Windows that may wait for the model before the socket is read no further.
        self._most_waiting = max(config.in_.queue_samples // self._rules.plan.geometry.hop, 1)
        self._log = log or logging.getLogger("ppgstream")
        self._messages: Counter[str] = Counter(received=0, malformed=0, published=0)
        self._events: Counter[str] = Counter()
        self._event_counts: Counter[tuple[str, str]] = Counter()  # events by kind and stream
        self._last_events: deque[str] = deque(maxlen=LAST_EVENTS)
        self._logged = 0  # lines since the last tick
        self._unlogged: Counter[str] = Counter()  # events since then that were one line too many
        self._lags: deque[float] = deque(maxlen=4096)
        self._read_lags: deque[float] = deque(maxlen=4096)
        self._rates = _Rates()
        self._stream_rates: dict[str, _Rates] = {}
        self._stream_lag: dict[str, float] = {}
        self._watched: dict[str, float] = {}
        self._subscribers = 0
        self._workers: Workers | None = None
        self._snapshot_bytes = b""  # the snapshot last sent; empty: the next request gets a fresh one
        self._snapshot_at = self._snapshot_cost_s = 0.0  # when it was made, and the processor time that it took
        self._stopped_at = math.inf
        self._closed_to_new = False  # connections, for want of descriptors
        self._doors: list[Door] = []
        self._doors_seen_at = 0.0
        self._clock = Clock()
        self._round: list[Stream] = []  # the streams that are looked at once a second, a part at a time
        self._round_at = 0
        self._round_began = self._sliced_at = 0.0
        self._accepted: dict[str, int] = {}  # samples, by the streams looked at in this round
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def request_stop(self) -> None:
        """Stop reading, drain and end, all by `drain_s` + `LEAVE_S` seconds from the first request on. May be called by a signal handler."""
        self._stopped_at = min(self._stopped_at, time.monotonic())
        self.stop.set()

    def _stopped_for(self, seconds: float) -> bool:
        """Whether so many seconds have passed since the stop was asked for."""
        return time.monotonic() > self._stopped_at + seconds

    # ---- sockets -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Create the sockets and take the ports. Raises SourceError when one is in use."""
        c = self.config
        check_descriptors()
        try:
            self._in = make(self._context, zmq.SUB, most=MOST_BODY, rcvhwm=c.in_.high_water_mark)
            self._out = make(
                self._context,
                zmq.XPUB,
                most=MOST_SUBSCRIPTION,
                sndhwm=c.out.high_water_mark,
                linger=c.out.linger_ms,
                xpub_verboser=1,
            )
            # ZeroMQ counts half a queue of answers that were read as still there; beyond this many it drops one.
            self._asked = make(self._context, zmq.ROUTER, most=MOST_QUESTION, sndhwm=16, rcvhwm=16)
            for name, socket, endpoint, bind in (
                ("in", self._in, c.in_.endpoint, c.in_.bind),
                ("out", self._out, c.out.endpoint, c.out.bind),
                ("status", self._asked, c.status.endpoint, True),
            ):
                socket.setsockopt(zmq.BACKLOG, min(BACKLOG, most_descriptors() // 8))
                self.endpoints[name] = attach(socket, endpoint, bind=bind, name=f"{name}.endpoint")
                if bind:
                    self._doors.append(Door(self.endpoints[name]))
        except PpgStreamError:
            self.close()
            raise
        self._inbox, self._subscriptions, self._questions = Inbox(self._in), Inbox(self._out), Inbox(self._asked)

    def import_all(self) -> None:
        """Import what else `run` needs: it takes a moment, and descriptors."""
        if "log_var" in self.checkpoint.arch.outputs:
            confidence_of(np.zeros(1))  # 0.1 s

    def close(self) -> None:
        """Give the ports back, at once. `run` does it itself."""
        self._leave(linger_ms=0)

    def _leave(self, linger_ms: int) -> None:
        for door in self._doors:
            door.close()
        self._context.destroy(linger=linger_ms)

    def run(self, denoiser: Denoiser) -> Engine:
        """Work until `stop`, then drain. Returns the engine with its final account."""
        few = next((n for n in getattr(denoiser, "tiles", ()) if n >= FEW_WINDOWS), 0)
        engine = Engine(denoiser, replace(self._rules, few=few))
        workers = self._workers = Workers(denoiser, self.config.model.threads or cores())
        self.import_all()
        # Only now: who waits for a subscriber, waits until the model is ready.
        self._in.setsockopt(zmq.SUBSCRIBE, b"")
        self.state = "running"
        linger_ms = 0  # of what a failure leaves behind
        try:
            self._work(engine, workers)
            self._drain(engine, workers)
            left_s = self._stopped_at + self.config.overload.drain_s + LEAVE_S - time.monotonic()
            linger_ms = max(min(self.config.out.linger_ms, int(1000 * left_s)), 0)
        finally:
            self.stuck = not workers.close()
            self._asked.close(linger=0)
            self._leave(linger_ms)
        return engine

    # ---- the loop ------------------------------------------------------------------------------------------------

    def _work(self, engine: Engine, workers: Workers) -> None:
        foreign = self._adopter()
        poller = zmq.Poller()
        for socket in (self._in, self._asked, self._out):
            poller.register(socket, zmq.POLLIN)
        poller.register(workers.fileno(), zmq.POLLIN)
        self._begin_round(engine, time.monotonic())
        self._clock.begin(time.monotonic())
        while True:
            if self.stop.is_set():
                self.request_stop()
            stopping, room = self._stopped_at < math.inf, self._has_room(engine)
            poller.register(self._in, zmq.POLLIN if room else 0)
            there = dict(poller.poll(0 if stopping and room else math.ceil(1000 * self._wait(engine, workers))))
            empty = room and self._read(engine, foreign)
            self._tell_all(engine)
            self._clock.turn(time.monotonic(), empty=empty)
            if room:  # a stream gives up what it waits for only when that can hardly be in the socket
                running = self._clock.running - (0.0 if empty else BACKLOG_S)
                self._publish(engine.expire(running, read_at=time.monotonic()))
            self._look_at_streams(engine)
            self._watch_descriptors()
            self._hand_over(engine, workers)
            self._take_back(engine, workers.take_back())
            if self._out in there:
                self._hear_subscribers()
            if self._asked in there:
                self._answer_monitors(engine)
            if stopping and (empty or self._stopped_for(LAST_READ_S)):
                break
        if not empty:
            self._tell(
                Event("unread", f"the input was not read to its end in the {LAST_READ_S:g} s after the stop: the rest is lost")
            )
        self._in.close(linger=0)

    def _has_room(self, engine: Engine) -> bool:
        """Whether more may be read: not too much waits for the model."""
        return len(engine.ready) < self._most_waiting and engine.crowd < MOST_STRETCHES

    def _wait(self, engine: Engine, workers: Workers) -> float:
        """Seconds until something is to be done though nothing comes."""
        now = time.monotonic()
        # The next stream that is to be looked at, or the end of the round.
        share = self._round_at / len(self._round) if self._round else 1.0
        longest = POLL_S if most_descriptors() >= FEW else SLICE_S
        wait = min(longest, max(self._round_began + share * TICK_S, self._sliced_at + SLICE_S) - now)
        if engine.ready and not workers.full:
            wait = min(wait, engine.ready.next_read_at + self.config.model.max_delay_ms / 1000 - now)
        return max(wait, 0.0)

    def _adopter(self) -> Adopter | None:
        c = self.config.in_
        if c.format == "ppgstream":
            return None
        return Adopter(
            c.format,
            fs=c.fs,
            dtype=c.raw_dtype,
            samples_key=c.json_samples,
            stream_key=c.json_stream,
            default_id=c.default_stream,
            silence_s=self.config.streams.silence_s,
            max_streams=self.config.streams.max_streams,
        )

    def _read(self, engine: Engine, foreign: Adopter | None) -> bool:
        """Feed what is in the input socket to the engine, for one turn at most. True if the socket is empty now."""
        until, running, listened = time.monotonic() + TURN_S, self._clock.running, self._clock.listened
        for _ in range(BURST):
            parts = self._inbox.take()
            if parts is None:
                return True
            now = time.monotonic()
            if parts:
                for chunk in self._chunks_of(parts, foreign):
                    if published := engine.feed(chunk, running, read_at=now, listened=listened):
                        self._publish(published)
            if now > until or not self._has_room(engine):
                break
        return False

    def _chunks_of(self, parts: list[bytes], foreign: Adopter | None) -> list[Chunk]:
        """What a message says; nothing if it is malformed, which is told."""
        self._messages["received"] += 1
        try:
            chunks = [decode(parts)] if foreign is None else foreign.adopt(parts, time.monotonic(), self._clock.listened)
        except WireError as error:
            self._messages["malformed"] += 1
            least = "at least " * (len(parts) > MOST_PARTS)
            self._tell(Event("malformed", f"malformed message of {least}{sum(len(p) for p in parts)} bytes: {error}"))
            return []
        if chunks and chunks[0].kind is Kind.BEATS:
            self._messages["malformed"] += 1
            stream = chunks[0].stream
            self._tell(Event("malformed", f"{stream}: a BEATS message: only this daemon makes them", stream))
            return []
        if foreign is not None and foreign.doubt:
            self._tell(Event("doubtful", foreign.doubt, chunks[-1].stream))
        return chunks

    def _hand_over(self, engine: Engine, workers: Workers, *, all_of_it: bool = False) -> None:
        """Full tiles to the workers, and a part of one if it has waited for `max_delay_ms`."""
        patience, limit = self.config.model.max_delay_ms / 1000, self.config.overload.shed_after_ms / 1000
        while engine.ready and not workers.full:
            now, read_at = time.monotonic(), engine.ready.next_read_at
            if len(engine.ready) < engine.rules.tile and now - read_at < patience and not all_of_it:
                break
            shed = self._stopped_for(self.config.overload.drain_s) or (limit > 0 and now - read_at > limit)
            workers.hand_over(engine.take(), shed=shed)

    def _take_back(self, engine: Engine, answered: Iterator[tuple[Tile, Found]]) -> None:
        for tile, found in answered:
            self._publish(engine.finish(tile, found))
            done = time.monotonic()
            for ready in tile.ready:
                lag = (done - ready.arrived_at) * 1000
                self._lags.append(lag)
                self._read_lags.append((done - ready.read_at) * 1000)
                self._stream_lag[ready.stream.name] = lag

    def _publish(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            stream, body = encode(chunk, dtype=self.config.out.dtype)
            self._out.send(stream, zmq.SNDMORE)
            self._out.send(body)
        self._messages["published"] += len(chunks)

    # ---- once a second -------------------------------------------------------------------------------------------

    def _begin_round(self, engine: Engine, now: float) -> None:
        self._round, self._round_at, self._accepted = list(engine.streams.values()), 0, {}
        self._round_began = self._sliced_at = now

    def _look_at_streams(self, engine: Engine) -> None:
        """What each stream needs once a second, spread over the second."""
        now = time.monotonic()
        if now - self._sliced_at < SLICE_S:
            return
        self._sliced_at = now
        share = min((now - self._round_began) / TICK_S, 1.0)
        upto = math.ceil(share * len(self._round))
        while self._round_at < upto:
            part = self._round[self._round_at : min(upto, self._round_at + ENDED_AT_ONCE)]
            self._round_at += len(part)
            self._publish(engine.end_idle(self._clock.listened, self.config.streams.idle_s, part, read_at=now))
            self._look_at(part, now)
            if time.monotonic() > now + TURN_S:
                return
        if share == 1.0:
            self._tick(engine, now)
            self._begin_round(engine, now)

    def _watch_descriptors(self) -> None:
        """Take no new connections while descriptors are short; those that there are go on."""
        if not self._closed_to_new and are_short():
            self._closed_to_new = True
            text = f"of {most_descriptors()} descriptors hardly any is left (ulimit -n): no new connections until some are closed"
            self._tell(Event("descriptors", text))
            for door in self._doors:
                door.shut()
        elif (
            self._closed_to_new and time.monotonic() > self._doors_seen_at + SLICE_S
        ):  # counting thousands of descriptors takes ms
            self._doors_seen_at = time.monotonic()
            self._closed_to_new = not there_are_enough()
            for door in self._doors:
                (door.turn_away if self._closed_to_new else door.open)()

    def _look_at(self, streams: list[Stream], now: float) -> None:
        self._publish([status for stream in streams if (status := stream.status()) is not None])
        lost = 0
        for stream in streams:
            accepted = stream.intake.sessions.accepted
            self._accepted[stream.name] = accepted
            lost += stream.unaccounted
            rates = self._stream_rates.get(stream.name)
            if rates is None:
                rates = self._stream_rates[stream.name] = _Rates()
            rates.tick(now, accepted, 0)
        if lost:
            self._tell(Event("unaccounted", f"the ledger does not add up by {lost} samples: this is a defect, please report it"))

    def _tick(self, engine: Engine, now: float) -> None:
        self._tell_all(engine)
        self._logged = 0
        if self._unlogged:
            kinds = ", ".join(f"{name} {count:,}" for name, count in self._unlogged.most_common())
            self._unlogged.clear()
            self._log.warning("more events than are logged a second: %s", kinds, extra={"event": "unlogged"})
        # A stream that was forgotten since it was looked at counts among the departed.
        there = sum(accepted for name, accepted in self._accepted.items() if name in engine.streams)
        self._rates.tick(now, engine.departed.accepted + there, engine.windows)
        for name in [n for n in self._stream_rates if n not in engine.streams]:
            del self._stream_rates[name]
            self._stream_lag.pop(name, None)
        for name in [n for n, until in self._watched.items() if until < now]:
            del self._watched[name]
            if name in engine.streams:
                engine.streams[name].timeline.trace = None
        self._hear_subscribers()

    def _hear_subscribers(self) -> None:
        for _ in range(SUBSCRIPTIONS_A_TURN):
            parts = self._subscriptions.take()
            if parts is None:
                return
            self._subscribers += change_of(parts)

    def _drain(self, engine: Engine, workers: Workers) -> None:
        """Nothing more comes in: denoise what is there, as far as time allows, end every session, and say so."""
        self.state = "draining"
        drain_s = self.config.overload.drain_s
        streams = list(engine.streams.values())
        for at in range(0, len(streams), ENDED_AT_ONCE):
            self._publish(engine.flush(time.monotonic(), streams[at : at + ENDED_AT_ONCE]))
            self._hand_over(engine, workers)
            self._take_back(engine, workers.take_back())
            if self._stopped_for(drain_s + LEAVE_S):
                break
        poller = zmq.Poller()
        poller.register(workers.fileno(), zmq.POLLIN)
        while (engine.ready or workers) and not self._stopped_for(drain_s + LEAVE_S):
            self._hand_over(engine, workers, all_of_it=True)
            poller.poll(math.ceil(1000 * POLL_S))
            late = self._stopped_for(drain_s + LAST_ANSWER_S)
            self._take_back(engine, workers.give_up() if late else workers.take_back())
            self._answer_monitors(engine)
        now = time.monotonic()
        self._begin_round(engine, now)
        self._look_at(self._round, now)
        self._tick(engine, now)
        self._answer_monitors(engine)
        self.state = "stopped"
        if left := engine.in_flight:
            text = f"{left} samples were not published: the {drain_s + LEAVE_S:g} s that a stop may take had passed"
            self._tell(Event("unpublished", text))

    # ---- what people hear ----------------------------------------------------------------------------------------

    def _tell_all(self, engine: Engine) -> None:
        """Tell what the engine has to tell."""
        events, engine.events = engine.events, []
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        """Log an event of a kind and stream the first times, then the 10th, the 100th ...: a flood of them must not become a flood of lines."""
        self._events[event.name] += 1
        if len(self._event_counts) > MOST_COUNTED:
            self._event_counts.clear()
        self._event_counts[event.name, event.stream] += 1
        times = self._event_counts[event.name, event.stream]
        self._last_events.append(event.text)
        if times > 3 and str(times).strip("0") != "1":
            return
        if self._logged >= LINES_A_TICK:
            self._unlogged[event.name] += 1
            return
        self._logged += 1
        text = event.text + (f" ({event.name}: {times} times so far)" if times > 3 else "")
        self._log.warning("%s", text, extra={"event": event.name, "stream": event.stream})

    def _answer_monitors(self, engine: Engine) -> None:
        for _ in range(4):
            parts = self._questions.take()
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
                self._answer(envelope, msgspec.json.encode({"in": self.endpoints["in"], "taken": _taken(engine, asked["taken"])}))
                continue
            watch = asked.get("watch", []) if isinstance(asked, dict) else []
            names = [n for n in watch if isinstance(n, str)] if isinstance(watch, list) else []
            for name in names[:WATCHED]:
                stream = engine.streams.get(name)
                if stream is not None and (name in self._watched or len(self._watched) < WATCHED):
                    if name not in self._watched:
                        self._snapshot_bytes = b""  # the one kept does not hold this wave
                    self._watched[name] = time.monotonic() + WATCH_S
                    stream.timeline.trace = stream.timeline.trace or Trace()
            self._hear_subscribers()
            self._answer(envelope, self._current_snapshot(engine))

    def _answer(self, envelope: list[bytes], answer: bytes) -> None:
        try:
            self._asked.send_multipart([*envelope, answer], zmq.NOBLOCK)
        except zmq.ZMQError:
            self._events["monitor_slow"] += 1  # a monitor is the first to do without

    def _current_snapshot(self, engine: Engine) -> bytes:
        """The snapshot as sent, made anew once it is 20 times as old as the processor time that it took.

        So it takes a twentieth of this thread's time, however many ask and however many streams there are.
        """
        now = time.monotonic()
        if not self._snapshot_bytes or now - self._snapshot_at >= 20 * self._snapshot_cost_s:
            started = time.thread_time()
            self._snapshot_bytes = msgspec.json.encode(self.snapshot(engine))
            self._snapshot_at, self._snapshot_cost_s = now, time.thread_time() - started
        return self._snapshot_bytes

    def snapshot(self, engine: Engine) -> dict[str, Any]:
        """What the monitor shows: docs/status.md lists the fields."""
        now = time.monotonic()
        samples_per_s, windows_per_s = self._rates.now()
        g, (counts, ledger, in_flight, unaccounted) = engine.rules.plan.geometry, engine.totals
        usage = resource.getrusage(resource.RUSAGE_SELF)
        rows = list(itertools.islice(engine.streams.values(), self.config.status.max_rows))
        rows += [engine.streams[n] for n in self._watched if n in engine.streams and engine.streams[n] not in rows]
        return {
            "version": __version__,
            "state": self.state,
            "pid": os.getpid(),
            "uptime_s": round(now - self.started, 3),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
            "max_rss_kb": usage.ru_maxrss,
            "checkpoint": {
                "path": str(self.checkpoint.path),
                "family": self.checkpoint.arch.family,
                "id": self.checkpoint.id.hex(),
            },
            "endpoints": self.endpoints,
            "fs": engine.rules.plan.fs,
            "window": g.window,
            "hop": g.hop,
            "delay_s": {
                "least": (g.window - g.settles) / engine.rules.plan.fs,
                "most": (g.window - g.settles + g.hop - 1) / engine.rules.plan.fs,
            },
            "samples_per_s": round(samples_per_s, 1),
            "windows_per_s": round(windows_per_s, 1),
            "lag_ms": _percentiles(self._lags),
            "read_lag_ms": _percentiles(self._read_lags),
            "ledger": {
                **counts._asdict(),
                "denoised": ledger.denoised,
                "passthrough": ledger.passthrough,
                "invalid": ledger.invalid,
                "shed": ledger.shed,
                "held": ledger.held,
                "outliers": ledger.outliers,
                "in_flight": in_flight,
                "refused": ledger.refused + engine.refused,
                "unaccounted": unaccounted,
            },
            "unclean_sessions": engine.unclean,
            "messages": dict(self._messages),
            "log_lost": self.log_lost(),
            "subscribers": self._subscribers,
            "queues": {
                "ready_windows": len(engine.ready),
                "ready_limit": self._most_waiting,
                "model_windows": 0 if self._workers is None else self._workers.windows,
            },
            "events": dict(self._events),
            "last_events": list(self._last_events),
            "streams_total": len(engine.streams),
            "streams": [self._row(s) for s in rows],
            "traces": {
                n: {"raw": _finite(trace.raw), "clean": list(trace.clean)}
                for n in self._watched
                if (s := engine.streams.get(n)) is not None and (trace := s.timeline.trace) is not None
            },
        }

    def _row(self, stream: Stream) -> dict[str, Any]:
        sessions, ledger, beats, fs = stream.intake.sessions, stream.ledger, stream.timeline.beats, stream.intake.rate.measured
        counts = sessions.counts
        rates = self._stream_rates.get(stream.name)
        return {
            "name": stream.name,
            "session": None if stream.session is None else f"{stream.session:016x}",
            "live": stream.session is not None,
            "silent_s": round(self._clock.listened - sessions.seen_at, 3),
            "samples_per_s": round(rates.now()[0], 1) if rates else 0.0,
            "fs_measured": None if fs is None else round(fs, 3),
            "lag_ms": round(self._stream_lag.get(stream.name, 0.0), 3),
            "confidence": round(stream.timeline.confidence, 4),
            "bpm": None if beats is None or math.isnan(beats.bpm) else round(beats.bpm, 1),
            "bpm_confidence": None if beats is None else round(beats.bpm_confidence, 3),
            **counts._asdict(),
            "denoised": ledger.denoised,
            "passthrough": ledger.passthrough,
            "invalid": ledger.invalid,
            "shed": ledger.shed,
            "held": ledger.held,
            "outliers": ledger.outliers,
            "in_flight": stream.in_flight,
            "refused": ledger.refused,
            "unclean_sessions": sessions.unclean,
        }


def _taken(engine: Engine, sessions: dict[Any, Any]) -> dict[str, int | None]:
    """Of streams and their sessions (16 hexadecimal digits), the index up to which the daemon has taken everything; None if it knows no such session."""
    found: dict[str, int | None] = {}
    for name, session in sessions.items():
        stream = engine.streams.get(name)
        known = stream is not None and isinstance(session, str) and re.fullmatch("[0-9a-f]{16}", session) is not None
        found[name] = stream.intake.sessions.taken(int(session, 16)) if stream is not None and known else None
    return found


def _finite(values: deque[float]) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values]


def _percentiles(values: deque[float]) -> dict[str, float | None]:
    found = np.percentile(values, [50, 99, 100]).round(3).tolist() if values else [None] * 3
    return dict(zip(("p50", "p99", "max"), found, strict=True))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
