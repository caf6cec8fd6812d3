"""What is published of one sensor, in index order: final samples with their flags, gaps, ends, beats and rates, each with the
sensor's time.

Items that the `Track` gives stand on the timeline in order; `release` publishes from its head whatever is final. What stands
there as denoised is asked of the track by the segment's number. Each sample is counted in the ledger when it is published.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.core.follower import Due, Follower
from ppgstream.core.ledger import Event, Ledger
from ppgstream.core.measured import HELD, INVALID, LOST, OUTLIER
from ppgstream.core.parts import Anchor, Ended, First, Rated, WrongFrom
from ppgstream.core.plan import Plan, SensorRules, under_policy
from ppgstream.core.quality import HELD_CONFIDENCE, INTERFERENCE_CONFIDENCE, input_flags
from ppgstream.core.resample import ONE, ratio_of
from ppgstream.core.segments import InModel, Released
from ppgstream.core.session import Opened
from ppgstream.core.trace import Trace
from ppgstream.core.track import Denoised, Held, Item, Missing, Track
from ppgstream.wire.message import EMPTY, MAX_COUNT, Beats, Chunk, Flag, Kind

FEW_STRETCHES = 8
MAX_GAP = 2**32 - 1  # what a GAP record can say; the next index tells the truth anyway
MAX_T_NS = 2**62
_CHANGES = 8  # of whether the rate is the declared one, that are remembered


_NO_FLAGS = np.zeros(0, np.uint16)

saved.known(Opened, Ended, Rated, Denoised, Held, Missing, Anchor, WrongFrom, Follower, Beats)


class Timeline:
    """See the module. `ledger` is the stream's."""

    __slots__ = (
        "_anchors",
        "_firsts",
        "_flags",
        "_follower",
        "_fs",
        "_items",
        "_last_finite",
        "_name",
        "_next_out",
        "_next_out_before",
        "_opened",
        "_plan",
        "_policy",
        "_ratio",
        "_threshold",
        "_wrong",
        "beats",
        "confidence",
        "due",
        "ledger",
        "trace",
    )
    UNSAVED = frozenset({"_flags", "_name", "_plan", "_policy", "_threshold", "due", "ledger", "trace"})

    def __init__(self, name: str, plan: Plan, rules: SensorRules, ledger: Ledger) -> None:
        self._name, self._plan, self.ledger = name, plan, ledger
        self._threshold = rules.threshold
        self._policy = rules.policies.get(name, rules.policy)
        self.due: list[Due] = []  # messages of beats and rates that are published and wait to be filled
        self.beats: Beats | None = None  # what was last said of the heart rate
        self.confidence = 0.0  # mean over what was published last
        self._flags = _NO_FLAGS  # of what was published last
        self.trace: Trace | None = None
        self._follower = None if plan.rate is None else Follower(plan.fs)
        self._fs, self._ratio = plan.fs, ONE  # of what is published
        # Short: a deque would take 0.7 kB even when empty.
        self._items: list[Denoised | Held | Missing | Opened | Ended | Rated] = []
        self._opened = Opened(0, 0, 0, None)  # the session that is being published
        self._firsts: dict[int, int] = {}  # the first index of sessions, by their birth
        self._next_out: int | None = None
        self._next_out_before: int | None = None  # a second ago
        self._last_finite = 0.0
        self._anchors: list[Anchor] = []
        self._wrong: list[WrongFrom] = []

    def change(self, plan: Plan) -> None:
        """Go by this plan from now on; it has beats if the other had."""
        self._plan = plan

    # ---- in ------------------------------------------------------------------------------------------------------

    def put(self, items: Iterable[Item]) -> None:
        """Items in order, behind those that are there."""
        for item in items:
            if isinstance(item, Anchor):
                last = self._anchors[-1] if self._anchors else None
                if last is None or last.generation < item.generation or item.at > last.at:
                    self._anchors.append(item)
            elif isinstance(item, WrongFrom):
                self._wrong = [*self._wrong[1 - _CHANGES :], item]
            elif isinstance(item, First):
                self._firsts[item.birth] = item.at
            else:
                self._items.append(item)

    @property
    def is_empty(self) -> bool:
        return not self._items

    @property
    def crowd(self) -> int:
        """Stretches that wait for those before them to be published, beyond the few that every stream has."""
        return max(len(self._items) - FEW_STRETCHES, 0)

    def in_flight(self, track: Track) -> int:
        """Samples on the timeline that are not published."""
        found = 0
        for item in self._items:
            if isinstance(item, Denoised):
                found += track.segments[item.segment].in_flight
            elif isinstance(item, Missing):
                found += item.count * item.sent
            elif isinstance(item, Held):
                found += len(item.x)
        return found

    def save(self) -> bytes:
        """Its state, for `load` of another one under the same name and rules."""
        return saved.pack(self)

    def load(self, data: bytes) -> None:
        """Go on where another one was. Raises ValueError as `saved.unpack`."""
        saved.unpack(self, data)

    # ---- out -----------------------------------------------------------------------------------------------------

    def release(self, track: Track, by_row: Mapping[int, NDArray[np.float64]]) -> list[Chunk]:
        """Everything that is final and not yet published, in index order. by_row: what `Segment.release` takes, by the segment's
        number."""
        chunks: list[Chunk] = []
        published = 0
        for item in self._items:
            if isinstance(item, Denoised):
                released, over = track.release(item.segment, by_row.get(item.segment))
                if released is not None:
                    chunks += self._publish(released)
                if not over:
                    break
            elif isinstance(item, Missing):
                chunks += self._publish_missing(item)
            elif isinstance(item, Held):
                chunks += self._publish_held(item)
            elif isinstance(item, Opened):
                self._opened = item
                self._next_out, self._last_finite = item.resumed_at, 0.0
                if item.resumed_at is None:
                    self._firsts = {birth: first for birth, first in self._firsts.items() if birth >= item.birth}
            elif isinstance(item, Rated):
                chunks += self._stop_following(0.0)
                self._fs, self._ratio = item.fs, ratio_of(item.fs, self._plan.fs)
            else:
                gap = self._gap_before(item.at)
                chunks += self._stop_following(math.inf) + gap
                chunks.append(self._chunk(item.at, EMPTY, Kind.END, unclean=item.unclean))
            published += 1
        del self._items[:published]
        return chunks

    def status(self, session: int | None) -> Chunk | None:
        """Called once a second: a STATUS that says how far a session, the open one, is published, so that a receiver notices a
        lost tail. None while messages follow each other: then the next one's index says it."""
        before, self._next_out_before = self._next_out_before, self._next_out
        if session is None or self._opened.session != session or self._next_out is None or self._next_out != before:
            return None
        return self._chunk(self._next_out, EMPTY, Kind.STATUS)

    def wrong_rate(self, index: int, n: int) -> NDArray[np.bool_]:
        """(n,): whether samples from `index` on, of the session that is being published, came at another rate than the declared
        one."""
        found = np.zeros(n, np.bool_)
        for change in self._wrong:
            if change.generation == self._opened.generation:
                found[max(change.at - index, 0) :] = change.wrong
        return found

    def filled(self, due: Due) -> Event | None:
        """Beats and a rate of this stream were computed and are about to be sent. What is worth telling of them."""
        beats = due.chunk.beats
        if beats is None:
            return None
        self.beats = beats
        if self.trace is not None:
            self.trace.add_beats(beats)
        if math.isnan(due.disagrees):
            return None
        text = (
            f"{self._name}: the input is a clean pulse of {beats.bpm:.0f} bpm up to index {due.chunk.index}, and the denoised "
            f"wave has {due.disagrees:.0f}: the input's rate is told, as unsure"
        )
        return Event("disagreement", text, self._name)

    def _publish_missing(self, run: Missing) -> list[Chunk]:
        if not run.sent:
            return []  # the next chunk's jump becomes a GAP record
        n = run.count
        self.ledger.invalid += n
        values = np.full(n, self._last_finite)
        return self._emit(run.index, values, np.full(n, np.nan), np.zeros(n), np.full(n, Flag.NONFINITE, np.uint16))

    def _publish_held(self, run: Held) -> list[Chunk]:
        n = len(run.x)
        self.ledger.passthrough += n
        self.ledger.held += n
        flags = np.full(n, Flag.FLAT | (Flag.LEAD_OFF if run.lead_off else 0), np.uint16)
        flags[0] |= np.uint16(Flag.STEP * run.stepped)
        values = run.x if math.isnan(run.value) else np.full(n, run.value)
        return self._emit(run.index, values, run.x, np.zeros(n), flags)

    def _publish(self, r: Released) -> list[Chunk]:
        values, confidence, flags, state = r.values, r.confidence, r.flags, r.state
        if r.plain:  # nearly always
            if np.count_nonzero(flags):
                lined = (flags & Flag.INTERFERENCE) != 0
                confidence[lined] = np.minimum(confidence[lined], INTERFERENCE_CONFIDENCE)
            self.ledger.denoised += len(values)
            return self._emit(r.index, values, r.raw, confidence, flags, r.checkpoint, r.in_model)
        lost, invalid, held, outlier = state == LOST, state == INVALID, state == HELD, state == OUTLIER
        if r.short:
            flags |= input_flags(r.raw[None, :], state[None, :])[0]
        if r.short and not np.count_nonzero(state):  # as below, for nearly all short stretches
            flags |= np.uint16(Flag.PASSTHROUGH)
            self.ledger.passthrough += len(values)
            return self._emit(r.index, values, r.raw, np.zeros(len(values)), flags, r.checkpoint)
        flags[r.bare] |= np.uint16(Flag.PASSTHROUGH if r.short else Flag.SHED)
        flags[outlier] |= np.uint16(Flag.OUTLIER)
        not_measured = held | outlier
        confidence[not_measured] = np.minimum(confidence[not_measured], HELD_CONFIDENCE)
        lined = (flags & Flag.INTERFERENCE) != 0
        confidence[lined] = np.minimum(confidence[lined], INTERFERENCE_CONFIDENCE)
        confidence[r.bare] = 0.0
        if invalid.any():
            confidence[invalid] = 0.0
            flags[invalid] = Flag.NONFINITE
            at = np.where(~(invalid | lost), np.arange(len(values)), -1)
            source = np.maximum.accumulate(at)
            values = np.where(invalid, np.where(source >= 0, values[source], self._last_finite), values)
        kept = ~lost
        bare = int(np.count_nonzero(r.bare & kept & ~invalid))
        not_finite = int(np.count_nonzero(invalid))
        self.ledger.invalid += not_finite
        self.ledger.denoised += int(np.count_nonzero(kept)) - bare - not_finite
        self.ledger.held += int(np.count_nonzero(held))
        self.ledger.outliers += int(np.count_nonzero(outlier))
        if r.short:
            self.ledger.passthrough += bare
        else:
            self.ledger.shed += bare
        if kept.all():
            return self._emit(r.index, values, r.raw, confidence, flags, r.checkpoint, r.in_model)
        chunks: list[Chunk] = []
        edges = np.flatnonzero(kept[1:] != kept[:-1]) + 1
        for a, b in zip([0, *edges], [*edges, len(kept)], strict=True):
            if kept[a]:
                part = slice(int(a), int(b))
                chunks += self._emit(
                    r.index + int(a), values[part], r.raw[part], confidence[part], flags[part], r.checkpoint, r.in_model
                )
        return chunks

    def _emit(
        self,
        index: int,
        values: NDArray[np.float64],
        raw: NDArray[np.float64],
        confidence: NDArray[np.float64],
        flags: NDArray[np.uint16],
        checkpoint: bytes | None = None,
        in_model: InModel | None = None,
    ) -> list[Chunk]:
        if len(values) > MAX_COUNT:  # more than a message holds
            chunks = []
            for a in range(0, len(values), MAX_COUNT):
                b = a + MAX_COUNT
                chunks += self._emit(index + a, values[a:b], raw[a:b], confidence[a:b], flags[a:b], checkpoint, in_model)
            return chunks
        chunks = self._gap_before(index)
        if chunks:
            flags[0] |= np.uint16(Flag.GAP)
            chunks = self._stop_following(chunks[0].missing / self._fs) + chunks
        answer = values
        if self._wrong:
            flags[self.wrong_rate(index, len(flags))] |= np.uint16(Flag.WRONG_RATE)
        told = np.empty(len(confidence), np.float32)
        self.confidence, some_low = _told(confidence, self._threshold, told)
        if some_low:
            low = confidence < self._threshold
            flags[low] |= np.uint16(Flag.LOW_CONFIDENCE)
            values, flags = under_policy(self._policy, low, values, raw, flags)
        self._last_finite = float(answer[-1])
        self._next_out = index + len(values)
        self._flags = flags
        if self.trace is not None:
            self.trace.add(index, raw, values, confidence, flags)
        data = self._chunk(index, values, Kind.DATA, confidence=told, flags=flags, checkpoint=checkpoint)
        chunks.append(data)
        if self._follower is not None:
            if self._ratio.is_one:
                complete = self._follower.append(index, answer, raw, confidence, flags)
            else:
                complete = self._follow(self._follower, index, answer, raw, confidence, flags, in_model)
            for at, block in complete:
                chunks.append(self._beats_of(self._follower, at, block))
        return chunks

    @property
    def flags(self) -> int:
        """All flags of what was published last."""
        return int(np.bitwise_or.reduce(self._flags))

    def _follow(
        self,
        follower: Follower,
        index: int,
        values: NDArray[np.float64],
        raw: NDArray[np.float64],
        confidence: NDArray[np.float64],
        flags: NDArray[np.uint16],
        in_model: InModel | None,
    ) -> list[tuple[int, NDArray[np.float32]]]:
        """As `Follower.append`, of samples that have another rate than the model: it takes those of the model's rate."""
        first, stop = self._ratio.to_model(index), self._ratio.to_model(index + len(values))
        if stop == first:
            return []
        at = self._ratio.last_of_sensor(first, stop - first, index)  # none of them is in another part
        own = flags[at]
        own[0] |= flags[0] & np.uint16(Flag.STEP)
        if in_model is None:
            return follower.append(first, values[at], raw[at], confidence[at], own)
        part = slice(first - in_model.first, stop - in_model.first)
        return follower.append(first, in_model.values[part], in_model.raw[part], confidence[at], own)

    def _stop_following(self, seconds: float) -> list[Chunk]:
        """The stretch ends, and another begins `seconds` later, if ever: the beats that are not decided yet."""
        if self._follower is None or self._next_out is None or (rest := self._follower.stop()) is None:
            return []
        return [self._beats_of(self._follower, self._ratio.to_model(self._next_out), rest, gap_s=seconds)]

    def _beats_of(self, follower: Follower, index: int, block: NDArray[np.float32], *, gap_s: float | None = None) -> Chunk:
        """A message of beats and rates up to the model's index `index`, which the engine fills, with those of other streams at
        once, before it is sent."""
        there = self._ratio.after(index)
        chunk = self._chunk(there, EMPTY, Kind.BEATS)
        wrong = bool(self._wrong) and bool(self.wrong_rate(there - 1, 1)[0])
        each = self._ratio.down / self._ratio.up
        self.due.append(Due(follower, index, block, gap_s, chunk, each, each * self._plan.fs / self._fs, untimed=wrong))
        return chunk

    def _gap_before(self, index: int) -> list[Chunk]:
        """A GAP record for what was lost between the last sample published and `index`."""
        if self._next_out is None:
            self._next_out = min(self._firsts.get(self._opened.birth, index), index)
        if index <= self._next_out:
            return []
        return [self._chunk(self._next_out, EMPTY, Kind.GAP, missing=min(index - self._next_out, MAX_GAP))]

    def _chunk(
        self,
        index: int,
        samples: NDArray[np.generic],
        kind: Kind,
        *,
        confidence: NDArray[np.float32] | None = None,
        flags: NDArray[np.uint16] | None = None,
        missing: int = 0,
        unclean: bool = False,
        checkpoint: bytes | None = None,
    ) -> Chunk:
        return Chunk(
            self._name,
            self._opened.session,
            index,
            samples,
            kind,
            self._fs,
            self._sensor_time(index),
            confidence,
            flags,
            self._plan.checkpoint if checkpoint is None else checkpoint,
            missing,
            unclean,
        )

    def _sensor_time(self, index: int) -> int:
        """The sensor's time of a sample, ns; 0: not known. Forgets what tells nothing of later samples."""
        anchors, generation = self._anchors, self._opened.generation
        passed, most = 0, len(anchors)
        while passed < most and (
            anchors[passed].generation < generation
            or (passed + 1 < most and anchors[passed + 1].generation == generation and anchors[passed + 1].at <= index)
        ):
            passed += 1
        if passed:
            del anchors[:passed]
        if not anchors or anchors[0].generation != generation:
            return 0
        t_ns = anchors[0].t_ns + round((index - anchors[0].at) * 1e9 / self._fs)
        return t_ns if abs(t_ns) < MAX_T_NS else 0


def _told(confidence: NDArray[np.float64], threshold: float, told: NDArray[np.float32]) -> tuple[float, bool]:
    """Confidences (n,) as they are published, into `told`; their mean, and whether one is below the threshold."""
    total, low = 0.0, False
    for k in range(confidence.shape[0]):
        told[k] = confidence[k]
        total += confidence[k]
        low = low or confidence[k] < threshold
    return float(total / confidence.shape[0]), bool(low)  # interpreted, they are NumPy's
