"""The daemon's clocks and rates, and what each stream needs once a second, spread over the second."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.stream import Stream
from ppgstream.core.tile import Tile
from ppgstream.live.events import Events
from ppgstream.live.sink import Sink
from ppgstream.live.watch import LOW, Rates, StreamWatch

TURN_S = 0.005  # for how long streams are looked at before looking up
TICK_S = 1.0
SLICE_S = 0.02  # between two parts of the work that each stream needs once a second
POLL_S = 0.1  # longest wait for something to do, and so until a stop is noticed
LONGEST_TURN_S = 2 * POLL_S  # time beyond this is taken to be that of a suspended process
# After so long of reading, no message of anybody's can have waited all the while: ZeroMQ takes turns between its peers.
LONGEST_BACKLOG_S = 10.0
LOOKED_AT_ONCE = 64  # streams
LAGS = 4096  # windows whose lag is remembered
LAG_BUCKETS_MS = (5, 10, 20, 30, 50, 100, 200, 300, 500, 1000, 2000, 5000)  # up to which lags are counted


class Clock:
    """Running time and listening time, s. A sensor whose messages wait to be read is not silent.

    `running`: without the time in which the process was suspended. `listened`: the part of it in which every message had been
    read, or which came after `LONGEST_BACKLOG_S` of reading without end.
    """

    def __init__(self) -> None:
        self.running = self.listened = self._turned_at = 0.0
        self._behind = 0.0  # running time since the socket was last empty

    def begin(self, now: float) -> None:
        self._turned_at = now

    def turn(self, now: float, *, empty: bool) -> None:
        """A turn of the loop has read the source: `empty`, until nothing was in it."""
        passed = min(now - self._turned_at, LONGEST_TURN_S)
        self.running += passed
        self._behind = 0.0 if empty else self._behind + passed
        self.listened += passed * (empty or self._behind > LONGEST_BACKLOG_S)
        self._turned_at = now


class Pace:
    """How fast and how late a daemon is; and each stream's watch, by its name."""

    def __init__(self) -> None:
        self.lags: deque[float] = deque(maxlen=LAGS)  # ms, from the arrival of a window's last sample to its publication
        self.read_lags: deque[float] = deque(maxlen=LAGS)  # ms, from when it was read
        self.lag_counts = [0] * (len(LAG_BUCKETS_MS) + 1)  # windows by lag, those beyond all buckets last
        self.lag_sum_ms = 0.0
        self.rates = Rates()
        self.seconds = self.sure_seconds = 0  # of all streams that send; and those whose output was confident
        self.watches: dict[str, StreamWatch] = {}

    def watch(self, name: str) -> StreamWatch:
        """That of a stream."""
        found = self.watches.get(name)
        if found is None:
            found = self.watches[name] = StreamWatch()
        return found

    def published(self, tile: Tile, now: float) -> None:
        """The windows of a tile were published at `now`."""
        for ready in tile.ready:
            lag = (now - ready.arrived_at) * 1000
            self.lags.append(lag)
            self.lag_counts[bisect_left(LAG_BUCKETS_MS, lag)] += 1
            self.lag_sum_ms += lag
            self.read_lags.append((now - ready.read_at) * 1000)
            self.watch(ready.stream.name).lag_ms = lag

    def forget(self, engine: Engine) -> None:
        """Streams that the engine has forgotten."""
        for name in [n for n in self.watches if n not in engine.streams]:
            del self.watches[name]


class Round:
    """What each stream needs once a second: its end if it has been silent for `idle_s`, its status, its rate. A part at a
    time."""

    def __init__(self, engine: Engine, sink: Sink, events: Events, pace: Pace, clock: Clock, idle_s: float) -> None:
        self._engine, self._sink, self._events, self._pace, self._clock = engine, sink, events, pace, clock
        self._idle_s = idle_s
        self._streams: list[Stream] = []
        self._accepted: dict[str, int] = {}  # samples, by the streams looked at in this round
        self._at = 0
        self._began = self._sliced_at = 0.0

    def begin(self, now: float) -> None:
        """Another second."""
        self._streams, self._at, self._accepted = list(self._engine.streams.values()), 0, {}
        self._began = self._sliced_at = now

    @property
    def due_at(self) -> float:
        """When there is something to do next."""
        share = self._at / len(self._streams) if self._streams else 1.0
        return max(self._began + share * TICK_S, self._sliced_at + SLICE_S)

    def look(self, now: float) -> bool:
        """Look at the streams whose time has come. True once a second is over, and another has begun."""
        if now - self._sliced_at < SLICE_S:
            return False
        self._sliced_at = now
        share = min((now - self._began) / TICK_S, 1.0)
        upto = math.ceil(share * len(self._streams))
        while self._at < upto:
            part = self._streams[self._at : min(upto, self._at + LOOKED_AT_ONCE)]
            self._at += len(part)
            part = [stream for stream in part if self._engine.streams.get(stream.name) is stream]  # others are elsewhere by now
            self._sink.publish(self._engine.end_idle(self._clock.listened, self._idle_s, part, read_at=now))
            self._look_at(part, now)
            if time.monotonic() > now + TURN_S:
                return False
        if share < 1.0:
            return False
        self._tick(now)
        self.begin(now)
        return True

    def finish(self, now: float) -> None:
        """A last look at all streams at once."""
        self.begin(now)
        self._look_at(self._streams, now)
        self._tick(now)

    def _look_at(self, streams: Sequence[Stream], now: float) -> None:
        self._sink.publish([status for stream in streams if (status := stream.status()) is not None])
        lost = 0
        for stream in streams:
            accepted = stream.intake.sessions.accepted
            self._accepted[stream.name] = accepted
            lost += stream.unaccounted
            watch = self._pace.watch(stream.name)
            watch.look(stream, now, self._clock.listened)
            if watch.talks:
                self._pace.seconds += 1
                self._pace.sure_seconds += stream.timeline.confidence >= LOW
        if lost:
            self._events.tell(
                Event("unaccounted", f"the ledger does not add up by {lost} samples: this is a defect, please report it")
            )

    def _tick(self, now: float) -> None:
        # A stream that was forgotten since it was looked at counts among the departed.
        there = sum(accepted for name, accepted in self._accepted.items() if name in self._engine.streams)
        self._pace.rates.tick(now, self._engine.departed.accepted + self._engine.moved + there, self._engine.windows)
        self._pace.forget(self._engine)
