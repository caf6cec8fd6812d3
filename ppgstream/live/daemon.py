"""The daemon: sockets, clock and threads around the engine.

One thread owns the sockets and the bookkeeping (`loop`): it reads, feeds the engine, hands full tiles of windows to the workers,
publishes what comes back, and answers the monitor. The model alone runs on the workers (`workers`), as many as cores by default.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import zmq

from ppgstream import __version__
from ppgstream.assemble import rules_of
from ppgstream.config import Config
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.errors import PpgStreamError
from ppgstream.live.canary import HEALTHY_S, Canary
from ppgstream.live.descriptors import check_descriptors
from ppgstream.live.endpoints import MOST_BODY, MOST_QUESTION, MOST_SUBSCRIPTION, attach, make
from ppgstream.live.events import Events
from ppgstream.live.guard import Guard
from ppgstream.live.keys import Key
from ppgstream.live.loop import LEAVE_S, Loop, Rooms, Stop, ready_limit
from ppgstream.live.nats import is_nats, shown
from ppgstream.live.questions import Question, Questions
from ppgstream.live.recent import Recent
from ppgstream.live.reload import Asked, Reload, Serving, serving_of
from ppgstream.live.round import Clock, Pace
from ppgstream.live.service import Notifier
from ppgstream.live.shadow import Shadow
from ppgstream.live.sink import NatsSink, Sink, ZmqSink
from ppgstream.live.snapshot import (
    CheckpointStatus,
    EventStatus,
    Messages,
    Queues,
    Snapshot,
    delay_of,
    ledger_of,
    percentiles,
    row_of,
    traces_of,
)
from ppgstream.live.source import NatsSource, Source, ZmqSource
from ppgstream.live.status import FLEET
from ppgstream.live.trial import Order, Windows
from ppgstream.live.watch import order
from ppgstream.live.workers import Workers
from ppgstream.model import runtime
from ppgstream.model.checkpoint import Checkpoint

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.fleet import Fleet
    from ppgstream.live.link import Link
    from ppgstream.live.tender import Tender

UNBOUND_S = 1.0  # without an output after a reader's right was revoked, before that is told
FEW_WINDOWS = 16  # that are computed at once while fewer streams wait


class Daemon:
    """`open()` binds, `run()` works until `stop` is set and then drains, all by `drain_s` + `LEAVE_S` seconds after. One use
    only.

    Events go to `log`, the logger "ppgstream" by default, as warnings with the fields `event` and `stream`.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint, *, log: logging.Logger | None = None) -> None:
        self.config, self.checkpoint = config, checkpoint
        self.stop = Stop()
        self.endpoints: dict[str, str] = {}  # as they are told
        self.addresses: dict[str, str] = {}  # as they are connected to: a NATS server's may hold a password
        self.state = "starting"
        self.stuck = False  # at the end: the model is still in a call, and the process must end by os._exit
        self.started = time.monotonic()
        self.log_lost: Callable[[], int] = lambda: 0  # how many lines of the log could not be written
        self.events = Events(log or logging.getLogger("ppgstream"))
        self.clock, self.pace = Clock(), Pace()
        self.rules = rules_of(config, checkpoint)
        self.notifier = Notifier()
        self.notes: SimpleQueue[Event] = SimpleQueue()  # events of other threads and of signal handlers
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._links: dict[str, Link] = {}  # to NATS servers
        self.tender: Tender | None = None  # of a fleet's member
        self.fleet: Fleet | None = None
        self._join: Callable[[Engine], Fleet] | None = None
        self.guard: Guard | None = None
        self._unbound_at = 0.0  # when the output was closed that is to be bound again; 0: it is bound

    @property
    def key(self) -> Key | None:
        """For what runs in this process and connects to the daemon's sockets; None where they need none."""
        return None if self.guard is None else self.guard.key

    def open(self) -> None:
        """Create the sockets and take the ports. Raises SourceError when one is in use, ConfigError for keys that cannot be
        read."""
        c = self.config
        check_descriptors()
        try:
            if c.security.key:
                self.guard = Guard(self._context, c.security, self.events)
            # ZeroMQ counts half a queue of answers that were read as still there; beyond this many it drops one.
            self._asked = make(self._context, zmq.ROUTER, most=MOST_QUESTION, sndhwm=16, rcvhwm=16)
            if c.fleet.name:
                self.source, self.sink = self._member()
            else:
                self.source, self.sink = self._source(), self._sink()
            self.endpoints["status"] = self._attach("status", self._asked, c.status.endpoint, bind=True)
            if self.tender is not None:
                self.tender.begin()
        except PpgStreamError:
            self.close()
            raise

    def _member(self) -> tuple[Source, Sink]:
        """Both ends of a fleet's member."""
        from ppgstream.live.fleet import Fleet, FleetSink, FleetSource
        from ppgstream.live.tender import Tender, member_of

        c = self.config
        link = self._link(c.in_.endpoint)
        for name in ("in", "out"):
            self.endpoints[name], self.addresses[name] = shown(c.in_.endpoint), c.in_.endpoint
        found = self.checkpoint
        self.tender = Tender(link, c.fleet.name, member_of(c, found.id.hex(), found.sha256), c.fleet.keep_s)
        source, sink = FleetSource(link, self.events), FleetSink(link, c.out.dtype, self.events)
        self._join = partial(Fleet, self.tender, source, sink, events=self.events)
        return source, sink

    def _source(self) -> Source:
        c = self.config.in_
        if is_nats(c.endpoint):
            self.endpoints["in"], self.addresses["in"] = shown(c.endpoint), c.endpoint
            link = self._link(c.endpoint)
            self._look_for_fleet(link)
            return NatsSource(link, ["ppg.in.>"], self.events)
        incoming = make(self._context, zmq.SUB, most=MOST_BODY, rcvhwm=c.high_water_mark)
        self.endpoints["in"] = self.addresses["in"] = self._attach("in", incoming, c.endpoint, bind=c.bind)
        return ZmqSource(incoming, self.config, self.events, self._guard_of("in"))

    def _look_for_fleet(self, link: Link) -> None:
        """Say so where a fleet reads the same streams: everything would be published twice."""
        from ppgstream.live.stored import stream_of_subject

        with contextlib.suppress(LookupError):
            kept = link.run(stream_of_subject(link, "ppg.in.>"))
            text = f"{shown(link.url)}: a fleet reads the same streams ({kept}): this daemon is no member of it (--fleet)"
            self.events.tell(Event("no_member", text))

    def _sink(self) -> Sink:
        c = self.config.out
        if is_nats(c.endpoint):
            self.endpoints["out"], self.addresses["out"] = shown(c.endpoint), c.endpoint
            return NatsSink(self._link(c.endpoint), c.dtype, self.events)
        outgoing = self._outgoing()
        self.endpoints["out"] = self.addresses["out"] = self._attach("out", outgoing, c.endpoint, bind=c.bind)
        return ZmqSink(outgoing, c.dtype, self._guard_of("out"))

    def _link(self, url: str) -> Link:
        """A connection to a NATS server: one for both ends, where they are the same."""
        from ppgstream.live.link import Link

        if url not in self._links:
            self._links[url] = Link(url, tell=self.notes.put)
        return self._links[url]

    def _outgoing(self) -> zmq.Socket[bytes]:
        c = self.config.out
        keyed = {"xpub_manual": 1} if self.guard is not None and c.endpoint.startswith("tcp://") else {"xpub_verboser": 1}
        return make(
            self._context, zmq.XPUB, most=MOST_SUBSCRIPTION, sndhwm=c.high_water_mark, linger=c.linger_ms, **keyed
        )  # fmt: skip

    def _attach(self, name: str, socket: zmq.Socket[bytes], endpoint: str, *, bind: bool) -> str:
        guard = self.guard if endpoint.startswith("tcp://") else None  # an ipc path is guarded by its permissions
        if guard is not None:
            guard.protect(socket, name)
        return attach(socket, endpoint, bind=bind, name=f"{name}.endpoint", keyed=guard is not None)

    def _guard_of(self, name: str) -> Guard | None:
        return self.guard if self.endpoints[name].startswith("tcp://") else None

    def reopen_output(self) -> bool:
        """Bind the output again, so that a reader whose key was revoked is cut off. The others connect again by themselves, and
        miss what is published until then. False where the port is not free yet: to be called again."""
        if not isinstance(self.sink, ZmqSink):
            return True
        if not self._unbound_at:
            self.sink.socket.close(linger=self.config.out.linger_ms)
            self.sink.reopen(self._outgoing())
            if self.guard is not None:
                self.guard.protect(self.sink.socket, "out")
            self._unbound_at = time.monotonic()
        try:
            attach(self.sink.socket, self.endpoints["out"], bind=True, name="out.endpoint", keyed=True)
        except PpgStreamError as error:
            if time.monotonic() - self._unbound_at > UNBOUND_S:  # a moment is usual: ZeroMQ closes sockets by and by
                self.events.tell(Event("keys", f"{error}: tried again"))
            return False
        self._unbound_at = 0.0
        return True

    def close(self) -> None:
        """Give the ports back, at once. `run` does it itself."""
        self._leave(linger_ms=0)

    def _leave(self, linger_ms: int) -> None:
        for link in self._links.values():
            link.close(linger_ms / 1000)
        self._context.destroy(linger=linger_ms)

    def run(self, denoiser: Denoiser) -> Engine:
        """Work until `stop`, then drain. Returns the engine with its final account."""
        engine = Engine(denoiser, replace(self.rules, few=few_of(denoiser)))
        workers = Workers(denoiser, self.config.model.threads or cores())
        loop = self.loop_of(engine, workers)
        # A sensor that waits for a subscriber begins to send now, when the model is ready.
        self.source.open()
        self.state = "running"
        self.notifier.tell(f"READY=1\nSTATUS=in {self.endpoints['in']}, out {self.endpoints['out']}")
        linger_ms = 0  # of what a failure leaves behind
        try:
            loop.work()
            loop.drain()
            left_s = self.stop.at + self.config.overload.drain_s + LEAVE_S - time.monotonic()
            linger_ms = max(min(self.config.out.linger_ms, int(1000 * left_s)), 0)
        finally:
            self.reload.close()
            self.shadow.close()
            self.stuck = not workers.close()
            self._asked.close(linger=0)
            self._leave(linger_ms)
        return engine

    def loop_of(self, engine: Engine, workers: Workers) -> Loop:
        """The loop over the sockets that are open."""
        self.questions = Questions(
            self._asked,
            engine,
            self.events,
            f"{FLEET}{self.tender.name}" if self.tender is not None else self.endpoints["in"],
            partial(self.snapshot, engine, workers),
            self._asked_for,
            self._guard_of("status"),
        )
        self.canary = Canary(engine.rules.plan, workers)
        serving = serving_of(self.checkpoint, engine.rules.plan, engine.denoiser)
        order, adopt, recent = partial(self._order, engine), partial(self._adopt, engine, workers), Recent()
        self.reload = Reload(
            serving, order, self._denoiser, adopt, self.events, self.pace, recent,
            lambda checkpoint: engine.failures.get(checkpoint, 0), self.notes,
        )  # fmt: skip
        self.shadow = Shadow(order, engine, self.events, self._write_serving)
        rooms = Rooms(
            engine, workers, self.source, self.sink, self.questions, self.events, self.clock, self.pace, self.canary,
            self.notifier, self.notes, recent, self.reload, self.shadow, self.guard,
            reopen_output=self.reopen_output,
        )  # fmt: skip
        if self._join is not None:
            self.fleet = self._join(engine)
            rooms = rooms._replace(fleet=self.fleet)
        if self.config.shadow.checkpoint:
            self.shadow.ask(Asked("shadow", self.config.shadow.checkpoint, share=self.config.shadow.share))
        return Loop(self.config, rooms, self.stop, self._say)

    def _say(self, state: str) -> None:
        self.state = state

    # ---- another checkpoint --------------------------------------------------------------------------------------

    def _asked_for(self, asked: Asked) -> tuple[int, str]:
        """Do what a client asks for: its number, and why it is refused; else empty."""
        if asked.do in ("serve", "try", "shadow") and not asked.checkpoint:
            return 0, "which checkpoint? The name is empty"
        if asked.do in ("shadow", "unshadow"):
            return 0, self.shadow.ask(asked)
        if asked.do not in ("serve", "try", "back"):
            return 0, f"what is {asked.do[:40]!r}? serve, try, back, shadow and unshadow are known"
        if self.tender is not None and asked.do != "try":
            return (
                0,
                f"a member of the fleet {self.tender.name}: all members serve the same one: stop them, start them with it",
            )
        return self.reload.ask(asked)

    def _order(self, engine: Engine, path: str) -> Order:
        """What a trial of another checkpoint is told."""
        plan = engine.rules.plan
        g = plan.geometry
        ahead = g.window - 1 if g.lookahead is None else g.lookahead
        windows = Windows(g.hop, ahead, g.overlap, plan.rate is not None)
        served = self.checkpoint
        return Order(
            "trial", str(served.path.absolute()), served.id.hex(), served.graph_sha256, path, windows, engine.rules.sensor,
            self.config.model.runtime, windows_per_s=self.pace.rates.now()[1], cores=cores(),
        )  # fmt: skip

    def _write_serving(self, folder: Path) -> None:
        self.reload.serving.write(folder)

    def _denoiser(self, checkpoint: Checkpoint) -> Denoiser:
        model = self.config.model
        return runtime.denoiser(checkpoint, threads=model.threads or cores(), runtime=model.runtime, say=lambda _: None)

    def _adopt(self, engine: Engine, workers: Workers, new: Serving) -> None:
        """Serve another checkpoint from the next window on. Raises ValueError as `Engine.change` does."""
        engine.change(new.plan, new.denoiser, tile=new.checkpoint.tile, few=few_of(new.denoiser))
        workers.change(new.denoiser)
        if workers.oldest_s(time.monotonic()) > HEALTHY_S:
            workers.abandon()
        self.canary.change(new.plan)
        self.checkpoint = new.checkpoint
        self.shadow.served(new.checkpoint.id.hex())

    def snapshot(self, engine: Engine, workers: Workers, asked: Question) -> Snapshot:
        """What the status socket tells."""
        self.sink.hear()
        samples_per_s, windows_per_s = self.pace.rates.now()
        plan, arch = engine.rules.plan, self.checkpoint.arch
        usage = resource.getrusage(resource.RUSAGE_SELF)
        watched, now = self.questions.watched, time.monotonic()
        like = [stream for stream in engine.streams.values() if asked.like in stream.name]
        most = min(asked.rows or self.config.status.max_rows, self.config.status.max_rows)
        rows = heapq.nsmallest(most, like, order(asked.sort, self.pace.watches))
        rows += [engine.streams[n] for n in watched if n in engine.streams and engine.streams[n] not in rows]
        limit = ready_limit(self.config, plan.geometry.hop)
        return Snapshot(
            version=__version__,
            state=self.state,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self.started, 3),
            cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
            max_rss_kb=usage.ru_maxrss,
            checkpoint=CheckpointStatus(str(self.checkpoint.path), arch.family, self.checkpoint.id.hex()),
            endpoints=self.endpoints,
            fs=plan.fs,
            window=plan.geometry.window,
            hop=plan.geometry.hop,
            delay_s=delay_of(engine),
            samples_per_s=round(samples_per_s, 1),
            windows_per_s=round(windows_per_s, 1),
            lag_ms=percentiles(self.pace.lags),
            read_lag_ms=percentiles(self.pace.read_lags),
            ledger=ledger_of(engine),
            unclean_sessions=engine.unclean,
            messages=Messages(self.source.received, self.source.malformed, self.sink.published),
            log_lost=self.log_lost(),
            subscribers=self.sink.subscribers,
            queues=Queues(len(engine.ready), limit, workers.windows),
            events=dict(self.events.counts),
            last_events=list(self.events.last),
            streams_total=len(engine.streams),
            streams=[row_of(stream, self.pace, self.clock) for stream in rows],
            traces=traces_of(engine, watched),
            recent=[
                EventStatus(recent.event.name, recent.event.stream, recent.event.text, recent.times, round(now - recent.at, 1))
                for recent in self.events.recent.values()
            ],
            streams_like=len(like),
            troubles=dict(Counter(watch.troubles[0] for watch in self.pace.watches.values() if watch.troubles)),
            lag_counts=list(itertools.accumulate(self.pace.lag_counts)),
            lag_sum_ms=round(self.pace.lag_sum_ms, 3),
            window_s=round(min(self.canary.window_s(now), now - self.started), 3),
            unwell=self.canary.unwell(now),
            reload=self.reload.status,
            shadow=self.shadow.status,
            fleet=None if self.fleet is None else self.fleet.status,
        )


def few_of(denoiser: Denoiser) -> int:
    """Windows that are computed at once while few streams wait, as of `Rules`."""
    return next((n for n in getattr(denoiser, "tiles", ()) if n >= FEW_WINDOWS), 0)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
