"""Many streams, one model call. Takes chunks and gives chunks; the caller owns sockets, clocks and threads.

    engine.feed(chunk, now)   samples in; windows that are full wait in `ready`
    engine.step()             up to a tile of them through the denoiser; gives what is final
    engine.flush()            end every session

A step has three parts, so that the model may run on another thread: `take()` gives a tile, whose `batch` is for the model, and
`finish(tile, answer)` takes it back. Tiles must be finished in the order in which they were taken: then a stream's windows come
back in order. All but the model is meant for one thread: arithmetic in small arrays on two would wait for Python's lock most of
the time (docs/decisions.md).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.confidence import joined
from ppgstream.core.denoiser import Answer, Denoiser
from ppgstream.core.follower import Due
from ppgstream.core.ledger import Event, Ledger
from ppgstream.core.measured import HELD
from ppgstream.core.plan import Plan, Rules
from ppgstream.core.quality import confidence_of, input_flags
from ppgstream.core.rate import fill
from ppgstream.core.ready import Ready, ReadyQueue
from ppgstream.core.segments import Window
from ppgstream.core.sequence import Counts
from ppgstream.core.stream import NO_ROWS, Stream
from ppgstream.core.tile import Tile, tile_of
from ppgstream.core.turns import turns
from ppgstream.wire.message import Chunk

MOST_WAITING = 5_000_000  # samples of all streams that wait for their rate to be known
LARGEST_ANSWER = 3e38  # float32's limit: what is published must fit it


class Totals(NamedTuple):
    """The account of all streams: samples by what the sequencers made of them, and by what became of them. unaccounted: by how
    much the two identities are broken."""

    counts: Counts
    ledger: Ledger
    in_flight: int
    unaccounted: int


class Engine:
    """See the module. denoiser: the model. streams: by name. windows: denoised so far. refused: samples of streams beyond
    max_streams. crowd: stretches of all streams that wait to be published, beyond `FEW_STRETCHES` of each. fills_itself: before
    it gives messages of beats and rates; if not, the caller asks for `fill`."""

    __slots__ = (
        "_crowds",
        "_due",
        "_expires",
        "_expiring",
        "_over",
        "_waiting",
        "crowd",
        "denoiser",
        "departed",
        "departed_ledger",
        "departed_unclean",
        "events",
        "failures",
        "fills_itself",
        "moved",
        "ready",
        "refused",
        "rules",
        "streams",
        "windows",
    )

    def __init__(self, denoiser: Denoiser, rules: Rules | None = None) -> None:
        self.denoiser, self.rules = denoiser, Rules() if rules is None else rules
        self.streams: dict[str, Stream] = {}
        self.ready = ReadyQueue()
        self.events: list[Event] = []
        self.windows = self.refused = self.crowd = 0
        self.departed, self.departed_ledger, self.departed_unclean = Counts(), Ledger(), 0
        self.fills_itself = True
        self.moved = 0  # samples that streams had accepted here when they went elsewhere, less those of streams that came
        self.failures: dict[bytes, int] = {}  # tiles that were not answered as they should, by the id of their checkpoint
        self._crowds: dict[str, int] = {}  # the same by stream, of those that have any
        self._over: dict[str, None] = {}  # streams that have ended, the first of them first
        self._expires: dict[str, float] = {}  # when streams give up samples that they wait for
        self._expiring: list[tuple[float, str]] = []  # the same as a heap; an entry that `_expires` lacks is outdated
        self._waiting = 0  # samples that wait for their rate, or more
        self._due: list[Due] = []  # messages of beats and rates that are to be filled

    def feed(self, chunk: Chunk, now: float, *, read_at: float | None = None, listened: float | None = None) -> list[Chunk]:
        """Take a chunk in, received at `now` (monotonic seconds); give what is final without the model: gaps, ends.

        A caller that is suspended now and then, or reads a backlog, gives three times. `now`: running time, without suspensions,
        for how long samples are held. `listened`: running time in which nothing waited to be read, for how long a session is
        silent. `read_at`: wall time, for how late samples are published. The last two are `now` if not given.
        """
        stream = self.streams.get(chunk.stream)
        if stream is None:
            if len(self.streams) >= self.rules.max_streams and not self._make_room():
                self.refused += len(chunk.samples)
                self.events.append(
                    Event(
                        "too_many_streams", f"{chunk.stream}: one more than max_streams = {self.rules.max_streams}", chunk.stream
                    )
                )
                return []
            stream = self.streams[chunk.stream] = Stream(chunk.stream, self.rules.plan, self.rules.sensor)
        read_at, listened = now if read_at is None else read_at, now if listened is None else listened
        windows = stream.feed(chunk, now, read_at, listened)
        if stream.intake.waiting and self._waiting_too_many(len(chunk.samples)):
            windows += stream.settle()
        if stream.session is None:
            if stream.is_over:
                self._over.setdefault(stream.name)
        elif self._over:
            self._over.pop(stream.name, None)
        return self._queue(stream, windows, read_at, stream.intake.arrived_at)

    def _waiting_too_many(self, more: int) -> bool:
        """Whether too many samples of all streams wait for their rate to be known, now that `more` came."""
        self._waiting += more
        if self._waiting > MOST_WAITING:
            self._waiting = sum(stream.intake.waiting for stream in self.streams.values())
        return self._waiting > MOST_WAITING

    def expire(self, now: float, *, read_at: float | None = None) -> list[Chunk]:
        """Time passed: streams give up samples they waited for long enough."""
        due = []
        while self._expiring and self._expiring[0][0] <= now:
            at, name = heapq.heappop(self._expiring)
            if self._expires.get(name) == at:
                del self._expires[name]
                due.append(name)
        chunks = []
        for name in due:
            stream = self.streams[name]
            chunks += self._queue(stream, stream.expire(now), now if read_at is None else read_at, None, False)
        if due:
            self._fill_now()
        return chunks

    def end_idle(
        self, listened: float, idle_s: float, streams: Iterable[Stream] | None = None, *, read_at: float | None = None
    ) -> list[Chunk]:
        """End the sessions, of all or of some streams, that have been silent for `idle_s` seconds by the clock of `feed`'s
        `listened`."""
        chunks = []
        for stream in self.streams.values() if streams is None else streams:
            if stream.session is not None and listened - stream.intake.sessions.seen_at >= idle_s:
                self.events.append(
                    Event(
                        "idle",
                        f"{stream.name}: session {stream.session:016x} silent for {idle_s:g} s without an END: ended",
                        stream.name,
                    )
                )
                chunks += self._queue(stream, stream.flush(), listened if read_at is None else read_at, None, False)
        self._fill_now()
        return chunks

    def flush(self, read_at: float, streams: Iterable[Stream] | None = None) -> list[Chunk]:
        """End the sessions of all or of some streams; `read_at` as in `feed`. The windows this makes still wait in `ready`."""
        chunks = []
        for stream in self.streams.values() if streams is None else streams:
            chunks += self._queue(stream, stream.flush(), read_at, None, False)
        self._fill_now()
        return chunks

    def step(self, *, shed: bool = False) -> list[Chunk]:
        """Denoise up to a tile of the ready windows; give what is final now. With `shed` they are published as they came."""
        if not self.ready:
            return []
        tile = self.take()
        return self.finish(tile, None if shed else self.denoiser(tile.batch))

    def take(self) -> Tile:
        """The next windows, at most a tile, made ready for the model."""
        tile = tile_of(self.ready.take(self.rules.tile, self.rules.few), self.rules.plan)
        for ready in tile.ready:
            self._hear(ready.stream)
        return tile

    def finish(self, tile: Tile, answer: Answer | Exception | None) -> list[Chunk]:
        """What the model answered to a tile, or raised; None: it is shed. Gives what is final now."""
        context = self.rules.plan.geometry.context
        x, state = tile.x[:, context:], tile.state[:, context:]
        n = len(tile.ready)
        flags: Sequence[NDArray[np.uint16] | None] = [None] * n
        if (state == HELD).any():
            flags = list(input_flags(tile.sign * x, state))
        rows: list[NDArray[np.float64] | None] = [None] * n
        confidences: list[NDArray[np.float64] | None] = [None] * n
        if isinstance(answer, Exception):
            first = tile.ready[0].stream.name
            why = f"the model failed on a tile of {n} windows: shed: {type(answer).__name__}: {answer}"
            self.events.append(Event("model_failed", f"{first}: {why}", first))
            self._count_failure(tile)
        if isinstance(answer, Answer):
            self.windows += n
            y = np.ascontiguousarray(tile.in_units(answer))
            fine = np.all(np.abs(y) <= LARGEST_ANSWER, axis=1)
            if not fine.all():
                odd = tile.ready[int(np.argmin(fine))]
                text = f"{odd.stream.name}: the model's answer at index {odd.stream.track.place(odd.window)} is not finite: shed"
                self.events.append(Event("bad_answer", text, odd.stream.name))
                self._count_failure(tile)
            rows = [row if ok else None for row, ok in zip(y, fine, strict=True)]
            if answer.log_var is not None:
                confidence = confidence_of(answer.log_var)
                confidence[tile.scale.flat[:, 0]] = 0.0
                confidences = list(confidence)
        chunks: list[Chunk] = []
        # A window a stream in each turn: what is published of its first must not know of its second.
        known = [k for k in range(n) if self.streams.get(tile.ready[k].stream.name) is tile.ready[k].stream]  # not discarded
        for turn in turns(known, lambda k: tile.ready[k].stream.name):
            for k in turn:
                ready, row = tile.ready[k], rows[k]
                ready.stream.answer(ready.window, row, flags[k], None if row is None else confidences[k])
            chunks += self._release([tile.ready[k] for k in turn])
        self._fill_now()
        return chunks

    def _count_failure(self, tile: Tile) -> None:
        checkpoint = tile.plan.checkpoint
        self.failures[checkpoint] = self.failures.get(checkpoint, 0) + 1

    def _release(self, answered: list[Ready]) -> list[Chunk]:
        """What became final with windows of different streams; the confidence of their samples is computed at once."""
        seen = [ready.stream.track.seen(ready.window.segment) for ready in answered]
        rows = [s for s in seen if s is not None]
        calibration = self.rules.plan.calibration
        by_row = np.zeros(0) if calibration is None or not rows else calibration.of(joined(rows))
        chunks: list[Chunk] = []
        at = 0
        for ready, s in zip(answered, seen, strict=True):
            n = 0 if s is None else len(s.start)
            chunks += ready.stream.release({ready.window.segment: by_row[at : at + n]} if n else NO_ROWS)
            self._collect(ready.stream)
            at += n
        return chunks

    def _collect(self, stream: Stream) -> None:
        """What `stream` has to tell after a release."""
        if self.streams.get(stream.name) is not stream:
            return  # discarded
        if stream.is_over:
            self._over[stream.name] = None
        self._count_crowd(stream)
        due = stream.timeline.due
        if due:
            self._due += due
            due.clear()

    def _count_crowd(self, stream: Stream) -> None:
        crowd = stream.timeline.crowd
        if crowd or stream.name in self._crowds:
            self.crowd += crowd - self._crowds.pop(stream.name, 0)
            if crowd:
                self._crowds[stream.name] = crowd

    @property
    def unfilled(self) -> int:
        """Messages of beats and rates that wait for `fill`."""
        return len(self._due)

    def _fill_now(self) -> None:
        if self.fills_itself:
            self.fill()

    def fill(self) -> None:
        """Compute the beats and rates of all messages that were given without: of many streams at once that is cheaper."""
        if self._due:
            assert self.rules.plan.rate is not None
            fill(self._due, self.rules.plan.rate)
            for one in self._due:
                stream = self.streams.get(one.chunk.stream)
                event = None if stream is None else stream.timeline.filled(one)
                if event is not None:
                    self.events.append(event)
            self._due.clear()

    def _queue(
        self, stream: Stream, windows: list[Window], now: float, arrived_at: float | None = None, fill_now: bool = True
    ) -> list[Chunk]:
        for window in windows:
            self.ready.put(Ready(stream, window, now, now if arrived_at is None else arrived_at))
        self._watch(stream)
        self._hear(stream)
        if not stream.moved:
            return []
        chunks = stream.release()
        self._collect(stream)
        if fill_now:
            self._fill_now()
        return chunks

    def _watch(self, stream: Stream) -> None:
        """Remember when the stream gives up what it waits for."""
        expires_at = stream.expires_at
        if expires_at != math.inf and expires_at < self._expires.get(stream.name, math.inf):
            self._expires[stream.name] = expires_at
            heapq.heappush(self._expiring, (expires_at, stream.name))

    def _hear(self, stream: Stream) -> None:
        if stream.events:
            self.events += stream.events
            stream.events.clear()

    def change(self, plan: Plan, denoiser: Denoiser, *, tile: int | None = None, few: int | None = None) -> None:
        """Go on with another checkpoint: windows that are taken from now on are for `denoiser`, by `plan`. Those that the model
        has already come back as they were asked. Samples that windows of both saw are a mean of both answers, under the new
        checkpoint's id. tile, few: as of `Rules`, where they change too. Raises ValueError for a plan whose windows lie
        otherwise, or that has beats where the other has none: streams would have to begin anew."""
        old = self.rules.plan
        for what, one, other in (
            ("rate", plan.fs, old.fs),
            ("windows", plan.geometry, old.geometry),
            ("output", plan.output, old.output),
            ("beats", plan.rate is not None, old.rate is not None),
        ):
            if one != other:
                raise ValueError(f"the {what} differ: {one}, and {other} now")
        self.fill()
        tile, few = tile or self.rules.tile, self.rules.few if few is None else few
        self.rules, self.denoiser = replace(self.rules, plan=plan, tile=tile, few=few), denoiser
        for stream in self.streams.values():
            stream.change(plan)

    def save(self, name: str, now: float, *, read_at: float | None = None, listened: float | None = None) -> bytes:
        """The state of a stream, for `load` by another engine with the same rules, whose clocks may be others. The times are
        those of `feed`. Raises KeyError if there is none of this name, ValueError while the model has windows of it: finish them
        first."""
        stream = self._resting(name)
        self.fill()
        return stream.save((now, now if listened is None else listened, now if read_at is None else read_at))

    def load(self, name: str, data: bytes, now: float, *, read_at: float | None = None, listened: float | None = None) -> None:
        """Go on with a stream where another engine left it. The times are those of `feed`. Raises ValueError if there is one of
        this name, and for bytes that are not of the form that `save` gives. They are checked for that alone: load those of a
        process that you trust."""
        if name in self.streams:
            raise ValueError(f"{name}: there is a stream of this name")
        stream = Stream(name, self.rules.plan, self.rules.sensor)
        stream.load(data, (now, now if listened is None else listened, now if read_at is None else read_at))
        self.streams[name] = stream
        self.moved -= stream.intake.sessions.accepted
        self._watch(stream)
        self._collect(stream)

    def remove(self, name: str) -> None:
        """Forget a stream that goes on elsewhere, with its account. Raises as `save`."""
        self._resting(name)
        self.fill()
        self.discard(name)

    def discard(self, name: str) -> None:
        """Forget a stream that goes on elsewhere from an earlier state, whatever of it is under way."""
        self.moved += self.streams.pop(name).intake.sessions.accepted
        self.crowd -= self._crowds.pop(name, 0)
        self._over.pop(name, None)
        self._expires.pop(name, None)

    def _resting(self, name: str) -> Stream:
        stream = self.streams[name]
        if stream.out:
            raise ValueError(f"{name}: {stream.out} windows of it are not answered yet")
        return stream

    def forget_ended(self) -> None:
        """Forget every stream that has ended, keeping its sums."""
        while self._make_room():
            pass

    def _make_room(self) -> bool:
        """Forget the stream that ended longest ago, keeping its sums."""
        if not self._over:
            return False
        oldest = self.streams.pop(next(iter(self._over)))
        del self._over[oldest.name]
        self._expires.pop(oldest.name, None)
        self.departed = self.departed.plus(oldest.counts)
        self.departed_ledger.add(oldest.ledger)
        self.departed_unclean += oldest.intake.sessions.unclean
        return True

    # ---- the account ---------------------------------------------------------------------------------------------

    @property
    def totals(self) -> Totals:
        """Of all streams, in one pass: there may be thousands."""
        seen, accepted, gap, rejected, duplicates = self.departed
        sums, in_flight, unaccounted = replace(self.departed_ledger), 0, 0
        for stream in self.streams.values():
            own, flying = stream.counts, stream.in_flight
            seen += own.seen
            accepted += own.accepted
            gap += own.gap
            rejected += own.rejected
            duplicates += own.duplicates
            sums.add(stream.ledger)
            in_flight += flying
            unaccounted += own.unaccounted + abs(own.accepted - stream.ledger.published - flying)
        return Totals(Counts(seen, accepted, gap, rejected, duplicates), sums, in_flight, unaccounted)

    @property
    def counts(self) -> Counts:
        return self.totals.counts

    @property
    def ledger(self) -> Ledger:
        return self.totals.ledger

    @property
    def in_flight(self) -> int:
        return sum(s.in_flight for s in self.streams.values())

    @property
    def unaccounted(self) -> int:
        return sum(s.unaccounted for s in self.streams.values())

    @property
    def unclean(self) -> int:
        """Sessions that ended without saying so."""
        return self.departed_unclean + sum(s.intake.sessions.unclean for s in self.streams.values())

    def account(self) -> str:
        """The ledger as a line a person can add up."""
        counts, ledger, in_flight, unaccounted = self.totals
        flying = f" + in flight {in_flight}" if in_flight else ""
        return (
            f"seen {counts.seen} = accepted {counts.accepted} + gap {counts.gap} + rejected {counts.rejected} (duplicates "
            f"{counts.duplicates}); "
            f"accepted = denoised {ledger.denoised} + passthrough {ledger.passthrough} + invalid {ledger.invalid} + shed "
            f"{ledger.shed}{flying}; "
            f"refused {ledger.refused + self.refused}, unclean sessions {self.unclean}, unaccounted {unaccounted}; "
            f"held {ledger.held}, outliers {ledger.outliers}"
        )
