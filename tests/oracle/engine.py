"""Many streams, one model call. Takes chunks and gives chunks; the caller owns sockets, clocks and threads.

    engine.feed(chunk, now)   samples in; windows that are full wait in `ready`
    engine.step()             up to a tile of them through the denoiser; gives what is final
    engine.flush()            end every session

A step has three parts, so that the model may run on another thread: `take()` gives a tile, whose `batch` is for the model, and `finish(tile, answer)`
takes it back. Tiles must be finished in the order in which they were taken: then a stream's windows come back in order. All but the model is meant
for one thread: arithmetic in small arrays on two would wait for Python's lock most of the time (docs/decisions.md).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.follower import Due
from oracle.ledger import Event, Ledger
from oracle.measured import HELD, MEASURED, OUTLIER
from oracle.polarity import skewness_of
from oracle.quality import confidence_of, input_flags
from oracle.rate import fill, untimed
from oracle.scaling import Scale, denormalise, fit_to_input, normalise, scale_of, standard_scale_of
from oracle.segments import Window
from oracle.sequence import Counts
from oracle.stream import Stream, StreamRules
from oracle.trust import joined
from oracle.turns import turns
from ppgstream.core.denoiser import Answer, Answers, Batch, Denoiser, Scaling
from ppgstream.wire.message import Chunk

LARGEST_ANSWER = 3e38  # float32's limit: what is published must fit it


@dataclass(frozen=True, slots=True)
class EngineRules:
    """`tile`: windows a step. `few`: windows a step while fewer streams than that wait (0: `tile`), so that others do not wait for a whole tile of one
    stream. `answers`: the scale the network answers in; `scaling`: how windows are scaled for it.

    `output`: publish in the input's units, or the network's own answer ("model", as the course's scripts save it)."""

    stream: StreamRules = field(default_factory=StreamRules)
    tile: int = 64
    answers: Answers = "clean"
    scaling: Scaling = "min-max"
    output: Literal["input", "model"] = "input"
    max_streams: int = 10_000
    few: int = 0


class Ready(NamedTuple):
    """A window that waits for the model. read_at: when its last sample was read; arrived_at: when that came in, as far as the sensor's clock tells."""

    stream: Stream
    window: Window
    read_at: float
    arrived_at: float


class Tile(NamedTuple):
    """Windows on their way through the model. x, upright and in the sensor's units, and state: (n, context + window). sign: (n, 1), -1 for a window that
    was turned over. `batch` is x by `scale`."""

    ready: list[Ready]
    x: NDArray[np.float64]
    state: NDArray[np.uint8]
    sign: NDArray[np.float64]
    scale: Scale
    batch: Batch


class ReadyQueue:
    """Windows that wait for the model. Streams take turns, a window each, so that a flood waits behind itself. A stream's own stay in order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Ready]] = {}
        self._turns: deque[str] = deque()
        self._count = 0

    def put(self, ready: Ready) -> None:
        own = self._waiting.get(ready.stream.name)
        if own is None:
            own = self._waiting[ready.stream.name] = deque()
            self._turns.append(ready.stream.name)
        own.append(ready)
        self._count += 1

    def take(self, most: int, few: int = 0) -> list[Ready]:
        """The next windows, at most so many; `few` if fewer streams wait."""
        most = min(most, max(few, len(self._turns))) if few else most
        taken: list[Ready] = []
        while self._turns and len(taken) < most:
            name = self._turns.popleft()
            own = self._waiting[name]
            taken.append(own.popleft())
            if own:
                self._turns.append(name)
            else:
                del self._waiting[name]
        self._count -= len(taken)
        return taken

    @property
    def next_read_at(self) -> float:
        """When the last sample of the window whose turn is next was read."""
        return self._waiting[self._turns[0]][0].read_at

    def __len__(self) -> int:
        return self._count


class Totals(NamedTuple):
    """The account of all streams: samples by what the sequencers made of them, and by what became of them. unaccounted: by how much the two identities are
    broken."""

    counts: Counts
    ledger: Ledger
    in_flight: int
    unaccounted: int


@dataclass(slots=True)
class Engine:
    denoiser: Denoiser
    rules: EngineRules = field(default_factory=EngineRules)
    streams: dict[str, Stream] = field(default_factory=dict)
    ready: ReadyQueue = field(default_factory=ReadyQueue)
    events: list[Event] = field(default_factory=list)
    windows: int = 0  # denoised so far
    refused: int = 0  # samples of streams beyond max_streams
    crowd: int = 0  # stretches of all streams that wait to be published, beyond `FEW_STRETCHES` of each
    departed: Counts = field(default_factory=Counts)
    departed_ledger: Ledger = field(default_factory=Ledger)
    departed_unclean: int = 0
    _crowds: dict[str, int] = field(default_factory=dict)  # the same by stream, of those that have any
    _over: dict[str, None] = field(default_factory=dict)  # streams that have ended, the first of them first
    _expires: dict[str, float] = field(default_factory=dict)  # when streams give up samples that they wait for
    _expiring: list[tuple[float, str]] = field(
        default_factory=list
    )  # the same as a heap; an entry that `_expires` lacks is outdated
    _due: list[Due] = field(default_factory=list)  # messages of beats and rates that are to be filled

    def feed(self, chunk: Chunk, now: float, *, read_at: float | None = None, listened: float | None = None) -> list[Chunk]:
        """Take a chunk in, received at `now` (monotonic seconds); give what is final without the model: gaps, ends.

        A caller that is suspended now and then, or reads a backlog, gives three times. `now`: running time, without suspensions, for how long samples are
        held. `listened`: running time in which nothing waited to be read, for how long a session is silent. `read_at`: wall time, for how late samples are
        published. The last two are `now` if not given.
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
            stream = self.streams[chunk.stream] = Stream(chunk.stream, self.rules.stream)
        read_at, listened = now if read_at is None else read_at, now if listened is None else listened
        windows = stream.feed(chunk, now, read_at, listened)
        if stream.session is None:
            if stream.is_over:
                self._over.setdefault(stream.name)
        elif self._over:
            self._over.pop(stream.name, None)
        return self._queue(stream, windows, read_at, stream.arrived_at)

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
            chunks += self._queue(stream, stream.expire(now), now if read_at is None else read_at, fill_now=False)
        if due:
            self._fill()
        return chunks

    def end_idle(
        self, listened: float, idle_s: float, streams: Iterable[Stream] | None = None, *, read_at: float | None = None
    ) -> list[Chunk]:
        """End the sessions, of all or of some streams, that have been silent for `idle_s` seconds by the clock of `feed`'s `listened`."""
        chunks = []
        for stream in self.streams.values() if streams is None else streams:
            if stream.session is not None and listened - stream.seen_at >= idle_s:
                self.events.append(
                    Event(
                        "idle",
                        f"{stream.name}: session {stream.session:016x} silent for {idle_s:g} s without an END: ended",
                        stream.name,
                    )
                )
                chunks += self._queue(stream, stream.flush(), listened if read_at is None else read_at, fill_now=False)
        self._fill()
        return chunks

    def flush(self, read_at: float, streams: Iterable[Stream] | None = None) -> list[Chunk]:
        """End the sessions of all or of some streams; `read_at` as in `feed`. The windows this makes still wait in `ready`."""
        chunks = []
        for stream in self.streams.values() if streams is None else streams:
            chunks += self._queue(stream, stream.flush(), read_at, fill_now=False)
        self._fill()
        return chunks

    def step(self, *, shed: bool = False) -> list[Chunk]:
        """Denoise up to a tile of the ready windows; give what is final now. With `shed` they are published as they came."""
        if not self.ready:
            return []
        tile = self.take()
        return self.finish(tile, None if shed else self.denoiser(tile.batch))

    def take(self) -> Tile:
        """The next windows, at most a tile, made ready for the model."""
        ready = self.ready.take(self.rules.tile, self.rules.few)
        g = self.rules.stream.geometry
        x = np.concatenate([r.window.x for r in ready]).reshape(len(ready), g.context + g.window)
        state = np.concatenate([r.window.state for r in ready]).reshape(x.shape)
        sign = self._signs(ready, x, state)
        x = sign * x
        measured = state == MEASURED
        at = np.arange(x.shape[1])
        for row in np.flatnonzero((state == OUTLIER).any(axis=1)):  # for the model's eyes: a straight line across
            known = state[row] <= HELD
            x[row] = np.where(known, x[row], np.interp(at, at[known], x[row, known])) if known.any() else 0.0
        # The course's networks were trained on windows scaled by all their samples, clipped ones included.
        if self.rules.scaling == "standard":
            scale = standard_scale_of(x, measured)
        else:
            scale = scale_of(x, measured if self.rules.answers == "input" else state <= HELD)
        return Tile(ready, x, state, sign, scale, Batch(normalise(x, scale), measured))

    def _signs(self, ready: list[Ready], x: NDArray[np.float64], state: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(n, 1): -1 for each window of `x` (n, context + window) that is upside down, as far as its session's windows up to it tell."""
        sign = np.array([[r.window.segment.polarity.sign] for r in ready])
        hop = self.rules.stream.geometry.hop
        open_ = []
        for k, r in enumerate(ready):
            polarity, number = r.window.segment.polarity, (r.window.start - r.window.segment.start) // hop
            if not polarity.decided or (not polarity.final and number % 5 == 0):
                open_.append(k)
        if not open_:
            return sign
        new, window_s = self.rules.stream.geometry.hop / x.shape[1], x.shape[1] / self.rules.stream.fs
        skewness = skewness_of(x[open_], state[open_], self.rules.stream.fs).tolist()
        told = dict(zip(open_, skewness, strict=True))
        for k in range(len(ready)):
            stream, window = ready[k].stream, ready[k].window
            polarity, number = window.segment.polarity, (window.start - window.segment.start) // hop
            decided = polarity.decided
            sign[k] = polarity.sign
            if k not in told or not (not decided or (not polarity.final and number % 5 == 0)):
                continue
            skew = told[k]
            if polarity.look(skew, new * (5 if decided else 1), window_s, window.segment.start) and (
                decided or polarity.sign < 0
            ):
                down = "points down (an inverted sensor): the model sees it turned over"
                way = down if polarity.sign < 0 else "points up after all"
                self.events.append(Event("polarity", f"{stream.name}: the pulse at index {window.start} {way}", stream.name))
            sign[k] = polarity.sign
        return sign

    def finish(self, tile: Tile, answer: Answer | Exception | None) -> list[Chunk]:
        """What the model answered to a tile, or raised; None: it is shed. Gives what is final now."""
        context = self.rules.stream.geometry.context
        x, state = tile.x[:, context:], tile.state[:, context:]
        flags = input_flags(tile.sign * x, state)
        n = len(tile.ready)
        rows: list[NDArray[np.float64] | None] = [None] * n
        confidences: list[NDArray[np.float64] | None] = [None] * n
        if isinstance(answer, Exception):
            first = tile.ready[0].stream.name
            why = f"the model failed on a tile of {n} windows: shed: {type(answer).__name__}: {answer}"
            self.events.append(Event("model_failed", f"{first}: {why}", first))
        if isinstance(answer, Answer):
            self.windows += n
            y = self._in_units(answer, tile, x, state)
            fine = np.all(np.abs(y) <= LARGEST_ANSWER, axis=1)
            if not fine.all():
                odd = tile.ready[int(np.argmin(fine))]
                text = f"{odd.stream.name}: the model's answer at index {odd.window.start} is not finite: shed"
                self.events.append(Event("bad_answer", text, odd.stream.name))
            rows = [row if ok else None for row, ok in zip(y, fine, strict=True)]
            if answer.log_var is not None:
                confidences = list(np.where(tile.scale.flat, 0.0, confidence_of(answer.log_var.astype(np.float64))))
        chunks: list[Chunk] = []
        # A window a stream in each turn: what is published of its first must not know of its second.
        for turn in turns(range(n), lambda k: tile.ready[k].stream.name):
            for k in turn:
                window, row = tile.ready[k].window, rows[k]
                window.segment.add(window.start, row, flags[k], None if row is None else confidences[k])
            chunks += self._release([tile.ready[k] for k in turn])
        self._fill()
        return chunks

    def _release(self, answered: list[Ready]) -> list[Chunk]:
        """What became final with windows of different streams; how sure their samples are is computed at once."""
        seen = [ready.window.segment.seen() for ready in answered]
        rows = [s for s in seen if s is not None]
        calibration = self.rules.stream.calibration
        sure = np.zeros(0) if calibration is None or not rows else calibration.of(joined(rows))
        chunks: list[Chunk] = []
        at = 0
        for ready, s in zip(answered, seen, strict=True):
            n = 0 if s is None else len(s.start)
            chunks += ready.stream.release((ready.window.segment, sure[at : at + n]) if n else None)
            self._collect(ready.stream)
            at += n
        return chunks

    def _collect(self, stream: Stream) -> None:
        """What `stream` has to tell after a release."""
        if stream.is_over:
            self._over[stream.name] = None
        self._count_crowd(stream)
        if stream.due:
            self._due += stream.due
            stream.due.clear()

    def _count_crowd(self, stream: Stream) -> None:
        crowd = stream.crowd
        if crowd or stream.name in self._crowds:
            self.crowd += crowd - self._crowds.pop(stream.name, 0)
            if crowd:
                self._crowds[stream.name] = crowd

    def _fill(self) -> None:
        """Compute the beats and rates of all messages that are about to leave."""
        if self._due:
            assert self.rules.stream.rate is not None
            fill(self._due, self.rules.stream.rate)
            for one in self._due:
                known = self.streams.get(one.chunk.stream)
                if one.chunk.beats is not None and known is not None:
                    if one.untimed:
                        one.chunk.beats = untimed(one.chunk.beats)
                        one.follower.sure_bpm = math.nan
                    known.beats = one.chunk.beats
                if not math.isnan(one.disagrees) and one.chunk.beats is not None:
                    text = (
                        f"{one.chunk.stream}: the input is a clean pulse of {one.chunk.beats.bpm:.0f} bpm up to index {one.index}, and the denoised wave "
                        f"has {one.disagrees:.0f}: the input's rate is told, as unsure"
                    )
                    self.events.append(Event("disagreement", text, one.chunk.stream))
            self._due.clear()

    def _in_units(self, answer: Answer, tile: Tile, x: NDArray[np.float64], state: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The answer (n, window) in the sensor's units, the sensor's way up."""
        if self.rules.output == "model":
            return answer.y.astype(np.float64)
        told = (
            denormalise(answer.y, tile.scale) if self.rules.answers == "input" else fit_to_input(answer.y, x, state == MEASURED)
        )
        y: NDArray[np.float64] = tile.sign * np.where(
            tile.scale.flat, x, told
        )  # nothing in, nothing out: no pulse is invented for a flat line
        return y

    def _queue(
        self, stream: Stream, windows: list[Window], now: float, arrived_at: float | None = None, *, fill_now: bool = True
    ) -> list[Chunk]:
        for window in windows:
            self.ready.put(Ready(stream, window, now, now if arrived_at is None else arrived_at))
        expires_at = stream.expires_at
        if expires_at != math.inf and expires_at < self._expires.get(stream.name, math.inf):
            self._expires[stream.name] = expires_at
            heapq.heappush(self._expiring, (expires_at, stream.name))
        if stream.events:
            self.events += stream.events
            stream.events.clear()
        if not stream.moved:
            return []
        chunks = stream.release()
        self._collect(stream)
        if fill_now:
            self._fill()
        return chunks

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
        self.departed_unclean += oldest.unclean
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
        return self.departed_unclean + sum(s.unclean for s in self.streams.values())

    def account(self) -> str:
        """The ledger as a line a person can add up."""
        counts, ledger, in_flight, unaccounted = self.totals
        flying = f" + in flight {in_flight}" if in_flight else ""
        return (
            f"seen {counts.seen} = accepted {counts.accepted} + gap {counts.gap} + rejected {counts.rejected} (duplicates {counts.duplicates}); "
            f"accepted = denoised {ledger.denoised} + passthrough {ledger.passthrough} + invalid {ledger.invalid} + shed {ledger.shed}{flying}; "
            f"refused {ledger.refused + self.refused}, unclean sessions {self.unclean}, unaccounted {unaccounted}; "
            f"held {ledger.held}, outliers {ledger.outliers}"
        )
