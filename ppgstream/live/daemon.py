"""The daemon's shell: sockets, threads, clock and signals around the engine.

Two threads. The ingest thread owns the input socket and does nothing but read, decode and queue. The engine thread owns everything else: it
feeds the engine, runs the model, publishes, and answers the monitor. Between them is one bounded queue; when it is full the
input socket is read no further, ZeroMQ fills up behind it, and a sender that can wait, waits. Nothing that was read is dropped.
"""

from __future__ import annotations

import itertools
import math
import os
import resource
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
from ppgstream.core.stream import Stream, Trace
from ppgstream.errors import PpgStreamError, WireError
from ppgstream.live.endpoints import attach
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.message import Chunk, decode, encode

MESSAGE_COST = 16  # queue space of a message beside its samples, so that empty ones fill it too
ZMQ_MAX_MESSAGE = 16 * 1024 * 1024  # ZeroMQ cuts off who sends more; up to here a message is refused by name
MOST_AT_ONCE = 16_384  # samples taken from the queue before looking up: about 5 model calls
BURST = 256  # messages read before looking up
TICK_S = 1.0
LAST_READ_S = 1.0  # after the stop, for reading what is in the input socket
WATCHED = 8  # streams whose waves are kept for monitors
WATCH_S = 10.0  # for how long after a monitor last asked
MOST_COUNTED = 50_000  # of events by stream that are counted; then the counts begin anew
LAST_EVENTS = 20  # events kept for the monitor


class Inbox:
    """The queue between the two threads, bounded in samples."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._chunks: deque[tuple[Chunk, float]] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def put(self, chunks: list[tuple[Chunk, float]]) -> None:
        with self._changed:
            self._chunks.extend(chunks)
            self.size += sum(len(c.samples) + MESSAGE_COST for c, _ in chunks)
            self._changed.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.size < self.limit, timeout_s)

    def take(self, most: int, timeout_s: float) -> list[tuple[Chunk, float]]:
        """Up to `most` chunks, and no more than it takes to reach `MOST_AT_ONCE`; waits `timeout_s` seconds for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._chunks or self.closed, timeout_s)
            taken: list[tuple[Chunk, float]] = []
            cost = 0
            while self._chunks and len(taken) < most and cost < MOST_AT_ONCE:
                taken.append(self._chunks.popleft())
                cost += len(taken[-1][0].samples) + MESSAGE_COST
            self.size -= cost
            self._changed.notify_all()
            return taken

    def close(self) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def __bool__(self) -> bool:
        return bool(self._chunks)


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
    """`open()` binds, `run()` works until `stop` is set and then drains. One use only."""

    def __init__(self, config: Config, checkpoint: Checkpoint, *, say: Callable[[str], None] | None = None) -> None:
        self.config, self.checkpoint = config, checkpoint
        self.stop = threading.Event()
        self.endpoints: dict[str, str] = {}
        self.state = "starting"
        self.started = time.monotonic()
        self._rules = rules_of(config, checkpoint)
        self._say = say or (lambda text: print(f"ppgstream: {text}", file=sys.stderr, flush=True))
        self._inbox = Inbox(config.in_.queue_samples)
        self._messages: Counter[str] = Counter(received=0, malformed=0, published=0)
        self._events: Counter[str] = Counter()
        self._event_counts: Counter[tuple[str, str]] = Counter()  # events by kind and stream
        self._last_events: deque[str] = deque(maxlen=LAST_EVENTS)
        self._events_lock = threading.Lock()
        self._lags: deque[float] = deque(maxlen=4096)
        self._rates = _Rates()
        self._stream_rates: dict[str, _Rates] = {}
        self._stream_lag: dict[str, float] = {}
        self._watched: dict[str, float] = {}
        self._subscribers = 0
        self._snapshot_bytes = b""  # the snapshot last sent; empty: the next request gets a fresh one
        self._snapshot_at = self._snapshot_cost_s = 0.0  # when it was made, and the processor time that it took
        self._drained_by = math.inf  # once stopped: what is not denoised by then is shed
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    # ---- sockets -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Create the sockets and take the ports. Raises SourceError when one is in use."""
        c = self.config
        self._in = self._context.socket(zmq.SUB)
        self._in.setsockopt(zmq.RCVHWM, c.in_.high_water_mark)
        self._in.setsockopt(zmq.MAXMSGSIZE, ZMQ_MAX_MESSAGE)
        self._out = self._context.socket(zmq.XPUB)
        self._out.setsockopt(zmq.SNDHWM, c.out.high_water_mark)
        self._out.setsockopt(zmq.LINGER, c.out.linger_ms)
        self._out.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._asked = self._context.socket(zmq.ROUTER)
        self._asked.setsockopt(zmq.SNDHWM, 4)
        self._asked.setsockopt(zmq.RCVHWM, 16)
        self._asked.setsockopt(zmq.MAXMSGSIZE, 4096)
        self._asked.setsockopt(zmq.LINGER, 0)
        for name, socket, endpoint, bind in (
            ("in", self._in, c.in_.endpoint, c.in_.bind),
            ("out", self._out, c.out.endpoint, c.out.bind),
            ("status", self._asked, c.status.endpoint, True),
        ):
            try:
                self.endpoints[name] = attach(socket, endpoint, bind=bind, name=f"{name}.endpoint")
            except PpgStreamError:
                self._context.destroy(linger=0)
                raise

    def run(self, denoiser: Denoiser) -> Engine:
        """Work until `stop`, then drain. Returns the engine with its final account."""
        engine = Engine(denoiser, self._rules)
        # Only now: who waits for a subscriber, waits until the model is ready.
        self._in.setsockopt(zmq.SUBSCRIBE, b"")
        self.state = "running"
        with ThreadPoolExecutor(2, thread_name_prefix="ppgstream") as pool:
            threads = [pool.submit(self._ingest), pool.submit(self._serve, engine)]
            try:
                while not self.stop.wait(0.2):
                    if any(t.done() for t in threads):
                        break  # one of them failed: its error comes out below
            finally:
                self._drained_by = time.monotonic() + self.config.overload.drain_s
                self.stop.set()
                threads[0].exception()
                self._inbox.close()
            failed = any(t.exception() for t in threads)
        self._context.destroy(linger=0 if failed else None)  # None: each socket's own, so that the last messages leave
        for thread in threads:
            thread.result()
        return engine

    # ---- the ingest thread ---------------------------------------------------------------------------------------

    def _ingest(self) -> None:
        c = self.config.in_
        foreign = None
        if c.format != "ppgstream":
            foreign = Adopter(
                c.format,
                fs=c.fs,
                dtype=c.raw_dtype,
                samples_key=c.json_samples,
                stream_key=c.json_stream,
                default_id=c.default_stream,
                silence_s=self.config.streams.silence_s,
                max_streams=self.config.streams.max_streams,
            )
        while not self.stop.is_set():
            if self._inbox.wait_for_room(0.2) and self._in.poll(100):
                self._inbox.put(self._read(foreign))
        # What the socket had taken in by then was sent to us: it counts, as far as there is room for it.
        until = time.monotonic() + LAST_READ_S
        while time.monotonic() < until and self._inbox.wait_for_room(0.2) and self._in.poll(0):
            self._inbox.put(self._read(foreign))
        self._in.close(linger=0)

    def _read(self, foreign: Adopter | None) -> list[tuple[Chunk, float]]:
        """The messages that are there, as chunks: a burst of them at most, and no more than there is room for."""
        chunks: list[tuple[Chunk, float]] = []
        received = time.monotonic()
        room = self._inbox.limit - self._inbox.size
        for _ in range(BURST):
            if room <= 0:
                break
            try:
                parts = self._in.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._messages["received"] += 1
            try:
                found = [decode(parts)] if foreign is None else foreign.adopt(parts, received)
            except WireError as error:
                self._messages["malformed"] += 1
                size = sum(len(p) for p in parts)
                self._tell(Event("malformed", f"malformed message of {size} bytes: {error}"))
                continue
            if foreign is not None and foreign.doubt:
                self._tell(Event("doubtful", foreign.doubt, found[-1].stream))
            chunks += [(chunk, received) for chunk in found]
            room -= sum(len(chunk.samples) + MESSAGE_COST for chunk in found)
        return chunks

    # ---- the engine thread ---------------------------------------------------------------------------------------

    def _serve(self, engine: Engine) -> None:
        patience = self.config.model.max_delay_ms / 1000
        tick = time.monotonic() + TICK_S
        while not (self._inbox.closed and not self._inbox):
            now = time.monotonic()
            wait = tick - now
            if engine.ready:
                wait = min(wait, engine.ready[0].at + patience - now)
            taken = self._inbox.take(BURST, min(max(wait, 0.0), 0.05))
            for chunk, at in taken:
                self._publish(engine.feed(chunk, at))
                while len(engine.ready) >= engine.rules.tile:
                    self._step(engine)
            now = time.monotonic()
            # What is still queued may be what a stream waits for: for the engine, time is when the latest it was fed came in.
            self._publish(engine.expire(taken[-1][1] if taken else now))
            if engine.ready and now - engine.ready[0].at >= patience:
                self._step(engine)
            self._answer_monitors(engine)
            if now >= tick:
                self._tick(engine, now)
                tick = max(tick + TICK_S, now)
        self._drain(engine)

    def _step(self, engine: Engine) -> None:
        batch = list(itertools.islice(engine.ready, engine.rules.tile))
        limit = self.config.overload.shed_after_ms / 1000
        now = time.monotonic()
        shed = now > self._drained_by or (limit > 0 and now - batch[0].at > limit)
        self._publish(engine.step(shed=shed))
        done = time.monotonic()
        for ready in batch:
            lag = (done - ready.at) * 1000
            self._lags.append(lag)
            self._stream_lag[ready.stream.name] = lag

    def _publish(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._out.send_multipart(encode(chunk, dtype=self.config.out.dtype))
            self._messages["published"] += 1

    def _tick(self, engine: Engine, now: float) -> None:
        self._publish(engine.end_idle(now, self.config.streams.idle_s))
        self._publish([status for s in engine.streams.values() if (status := s.status()) is not None])
        events, engine.events = engine.events, []
        for event in events:
            self._tell(event)
        if lost := engine.unaccounted:
            self._tell(Event("unaccounted", f"the ledger does not add up by {lost} samples: this is a defect, please report it"))
        self._rates.tick(now, engine.counts.accepted, engine.windows)
        for name, stream in engine.streams.items():
            self._stream_rates.setdefault(name, _Rates()).tick(now, stream.accepted, 0)
        for name in [n for n in self._stream_rates if n not in engine.streams]:
            del self._stream_rates[name]
            self._stream_lag.pop(name, None)
        for name in [n for n, until in self._watched.items() if until < now]:
            del self._watched[name]
            if name in engine.streams:
                engine.streams[name].trace = None
        self._hear_subscribers()

    def _hear_subscribers(self) -> None:
        while self._out.poll(0, zmq.POLLIN):
            # 1: a subscription, 0: the end of one, anything else: words sent up a socket that is for listening.
            self._subscribers += {b"\x01": 1, b"\x00": -1}.get(self._out.recv()[:1], 0)

    def _drain(self, engine: Engine) -> None:
        """Nothing more comes in: denoise what is there, as far as time allows, end every session, and say so."""
        self.state = "draining"
        self._publish(engine.flush(time.monotonic()))
        while engine.ready:
            self._step(engine)
        self._tick(engine, time.monotonic())
        self._answer_monitors(engine)
        self.state = "stopped"

    # ---- what people hear ----------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Say an event of a kind and stream the first times, then the 10th, the 100th ...: a flood of them must not become a flood of lines."""
        with self._events_lock:
            self._events[event.name] += 1
            if len(self._event_counts) > MOST_COUNTED:
                self._event_counts.clear()
            self._event_counts[event.name, event.stream] += 1
            times = self._event_counts[event.name, event.stream]
            self._last_events.append(event.text)
        if times < 4 or str(times).strip("0") == "1":
            self._say(event.text + (f" ({event.name}: {times} times so far)" if times > 3 else ""))

    def _answer_monitors(self, engine: Engine) -> None:
        for _ in range(4):
            try:
                who, *rest = self._asked.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                asked = msgspec.json.decode(rest[-1]) if rest else {}
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            watch = asked.get("watch", []) if isinstance(asked, dict) else []
            names = [n for n in watch if isinstance(n, str)] if isinstance(watch, list) else []
            for name in names[:WATCHED]:
                stream = engine.streams.get(name)
                if stream is not None and (name in self._watched or len(self._watched) < WATCHED):
                    if name not in self._watched:
                        self._snapshot_bytes = b""  # the one kept does not hold this wave
                    self._watched[name] = time.monotonic() + WATCH_S
                    stream.trace = stream.trace or Trace()
            self._hear_subscribers()
            try:
                self._asked.send_multipart([who, self._current_snapshot(engine)], zmq.NOBLOCK)
            except zmq.ZMQError:
                with self._events_lock:
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
        g, counts, ledger = engine.rules.stream.geometry, engine.counts, engine.ledger
        lag = np.percentile(self._lags, [50, 99, 100]).round(3).tolist() if self._lags else [None] * 3
        usage = resource.getrusage(resource.RUSAGE_SELF)
        with self._events_lock:
            events, told = dict(self._events), list(self._last_events)
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
            "fs": engine.rules.stream.fs,
            "window": g.window,
            "hop": g.hop,
            "delay_s": {
                "least": (g.window - g.settles) / engine.rules.stream.fs,
                "most": (g.window - g.settles + g.hop - 1) / engine.rules.stream.fs,
            },
            "samples_per_s": round(samples_per_s, 1),
            "windows_per_s": round(windows_per_s, 1),
            "lag_ms": dict(zip(("p50", "p99", "max"), lag, strict=True)),
            "ledger": {
                **counts._asdict(),
                "denoised": ledger.denoised,
                "passthrough": ledger.passthrough,
                "invalid": ledger.invalid,
                "shed": ledger.shed,
                "held": ledger.held,
                "outliers": ledger.outliers,
                "in_flight": engine.in_flight,
                "refused": ledger.refused + engine.refused,
                "unaccounted": engine.unaccounted,
            },
            "unclean_sessions": engine.unclean,
            "messages": dict(self._messages),
            "subscribers": self._subscribers,
            "queues": {
                "inbox_samples": self._inbox.size,
                "inbox_limit": self._inbox.limit,
                "ready_windows": len(engine.ready),
            },
            "events": events,
            "last_events": told,
            "streams_total": len(engine.streams),
            "streams": [self._row(s, now) for s in rows],
            "traces": {
                n: {"raw": _finite(s.trace.raw), "clean": list(s.trace.clean)}
                for n in self._watched
                if (s := engine.streams.get(n)) is not None and s.trace is not None
            },
        }

    def _row(self, stream: Stream, now: float) -> dict[str, Any]:
        counts, ledger = stream.counts, stream.ledger
        rates = self._stream_rates.get(stream.name)
        return {
            "name": stream.name,
            "session": None if stream.session is None else f"{stream.session:016x}",
            "live": stream.session is not None,
            "silent_s": round(now - stream.seen_at, 3),
            "samples_per_s": round(rates.now()[0], 1) if rates else 0.0,
            "fs_measured": None if stream.fs_measured is None else round(stream.fs_measured, 3),
            "lag_ms": round(self._stream_lag.get(stream.name, 0.0), 3),
            "confidence": round(stream.confidence, 4),
            **counts._asdict(),
            "denoised": ledger.denoised,
            "passthrough": ledger.passthrough,
            "invalid": ledger.invalid,
            "shed": ledger.shed,
            "held": ledger.held,
            "outliers": ledger.outliers,
            "in_flight": stream.in_flight,
            "refused": ledger.refused,
            "unclean_sessions": stream.unclean,
        }


def _finite(values: deque[float]) -> list[float | None]:
    return [None if math.isnan(v) else v for v in values]
