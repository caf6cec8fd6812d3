"""One sensor's stream: chunks in, windows out to the model; answers in, clean chunks out. No socket, no clock, no model.

Theory of operation. A chunk goes through the session's `Sequencer`, which puts samples in order and decides what is lost. Ordered
samples go through its `Judge`, which says what each is: measured, held, an outlier, or missing. Samples grow the open `Segment`; up to
`max_fill` missing ones in a row are bridged inside it; more of them, a longer held run, or a step close it. Everything that will be
published, in index order, stands on the timeline: segments, missing and held runs between them, and each session's END. `release`
publishes from its head whatever is final.

Each accepted sample is counted once when it comes and once when it is published:

    accepted = denoised + passthrough + invalid + shed + in flight
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from oracle.clock import ArrivalClock
from oracle.follower import Due, Follower
from oracle.ledger import Event, Ledger
from oracle.measured import HELD, INVALID, LARGEST, LOST, NOTHING_BESIDE, OUTLIER, Beside, Judge, Judged
from oracle.polarity import Polarity, Watcher
from oracle.quality import HELD_CONFIDENCE, INTERFERENCE_CONFIDENCE, input_flags
from oracle.rate import RateRules
from oracle.segments import Geometry, Released, Segment, Window
from oracle.sequence import HOLD, HOLD_S, Counter, Counts, Sequencer, Stretch
from oracle.trust import Calibration
from ppgstream.wire.message import EMPTY, NO_CHECKPOINT, Beats, Chunk, Flag, Kind

REMEMBERED_SESSIONS = 4
FEW_STRETCHES = 8
FS_SPAN_S = 10.0  # over how much sensor time the sampling rate is measured
FS_FIRST_S = 4.0  # the first time: before the first heart rate
FS_OFF, FS_WRONG = 0.01, 0.02  # a rate off by so much is an event; by so much, heart rates are wrong
FS_TOLD_S = 60.0  # an event no more often than that
BESIDE_TOLD_S = 60.0  # from one event of hum, breathing or a lamp to the next of the same
_OF_BESIDE = {  # the flag and the event of each field of `Beside`
    Flag.INTERFERENCE: "a steady line at {hz:.2f} Hz from index {index} on: no pulse makes it (a lamp?)",
    Flag.HUM: "hum at {hz:.2f} Hz from index {index} on, as strong as the strongest wave below 15 Hz or stronger (mains?)",
    Flag.BREATHING: "the signal moves as much below 0.5 Hz as above from index {index} on: breathing or drift",
}
ARRIVAL_SPAN = (
    80.0  # a rate by arrival rests on so many times the longest wait between messages: its standard error is then 0.5 %
)
CLOCK_STEP_S = 1.0  # between two chunks the sensor's clock and its count differ by more: the clock was set
MAX_GAP = 2**32 - 1  # what a GAP record can say; the next index tells the truth anyway
MAX_T_NS = 2**62

Policy = Literal["mark", "mask", "raw"]  # below the threshold: the answer, flagged; NaN; the sensor's own value


def under_policy(
    policy: Policy, low: NDArray[np.bool_], values: NDArray[np.float64], raw: NDArray[np.float64], flags: NDArray[np.uint16]
) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
    """What is published of the answers `values` (n,), where `low` says whose confidence is too low, and their flags."""
    if policy == "mark":
        return values, flags
    instead = np.nan if policy == "mask" else np.where(np.isfinite(raw), raw, values)
    return np.where(low, instead, values), np.where(low, flags | np.uint16(Flag.REPLACED), flags)


@dataclass(frozen=True, slots=True)
class StreamRules:
    """What a stream does with what it gets. `fs` in Hz; `max_fill` and `hold` in samples."""

    geometry: Geometry = field(default_factory=Geometry)
    fs: float = 125.0
    max_fill: int = 50
    hold: int = HOLD
    hold_s: float = HOLD_S
    silence_s: float = 2.0
    checkpoint: bytes = NO_CHECKPOINT
    threshold: float = 0.5
    calibration: Calibration | None = None
    sentinels: tuple[float, ...] = ()  # values that mean "no value"
    polarity: Polarity = "auto"
    clocked_by_arrival: bool = False  # the senders say no time
    policy: Policy = "mark"
    policies: Mapping[str, Policy] = field(default_factory=dict)  # of streams that have one of their own
    rate: RateRules | None = None  # for beats and heart rates; None: there are none


@dataclass(frozen=True, slots=True)
class _Held:
    """A part of a long held run, outside every segment: published as `value`, the last measured one. Or of a nearly flat stretch,
    published as it came (`value` is NaN)."""

    index: int
    x: NDArray[np.float64]
    value: float
    lead_off: bool
    stepped: bool


@dataclass(frozen=True, slots=True)
class _Missing:
    """A run of samples outside every segment. Lost ones, or (`sent`) NaN and infinity that the sensor did send."""

    index: int
    count: int
    sent: bool


@dataclass(frozen=True, slots=True)
class _End:
    index: int
    unclean: bool


class _Session(NamedTuple):
    """Where a session begins. `resumed_at`: the next index, for one that was ended for its silence and goes on."""

    number: int
    generation: int
    resumed_at: int | None
    sequencer: Sequencer


@dataclass(slots=True)
class _Anchor:
    generation: int
    index: int
    t_ns: int


_Item = Segment | _Missing | _Held | _End | _Session


def _in_flight(item: _Item) -> int:
    if isinstance(item, Segment):
        return item.in_flight
    if isinstance(item, _Missing):
        return item.count * item.sent
    return len(item.x) if isinstance(item, _Held) else 0


@dataclass(slots=True)
class Trace:
    """What was published last, beside what it was made from: for a view that draws both. Kept only while somebody watches."""

    raw: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    clean: deque[float] = field(default_factory=lambda: deque(maxlen=1000))


class Stream:
    """See the module. `feed`, `expire`, `flush` and `release` are called from one thread."""

    __slots__ = (
        "_anchors",
        "_arrived",
        "_beside",
        "_beside_flags",
        "_beside_told",
        "_clock",
        "_counter",
        "_expected",
        "_follower",
        "_fs_from",
        "_fs_last",
        "_fs_told",
        "_generation",
        "_judge",
        "_judged",
        "_last_arrival_s",
        "_last_finite",
        "_lead_off",
        "_next_out",
        "_next_out_before",
        "_polarity",
        "_publishing",
        "_publishing_generation",
        "_publishing_sequencer",
        "_renamed",
        "_run",
        "_segment",
        "_stepped",
        "_taken_back",
        "_timeline",
        "_wrong",
        "arrived_at",
        "batch_s",
        "beats",
        "confidence",
        "due",
        "events",
        "fed_at",
        "fs_measured",
        "ledger",
        "moved",
        "name",
        "policy",
        "retired",
        "rules",
        "seen_at",
        "session",
        "sessions",
        "trace",
        "unclean",
    )

    def __init__(self, name: str, rules: StreamRules) -> None:
        self.name, self.rules = name, rules
        self.ledger = Ledger()
        self.events: list[Event] = []
        self.sessions: dict[int, Sequencer] = {}  # the current one and the last few
        self.retired = Counts()  # of sessions no longer remembered
        self.unclean = 0  # sessions that ended without saying so
        self.session: int | None = None
        self.batch_s = 0.0
        self.seen_at = self.fed_at = 0.0  # when it was last fed, by the clocks `listened` and `now`
        self.arrived_at = 0.0  # when the chunk last fed came in, as far as the sensor's clock tells
        self.fs_measured: float | None = None
        # From which indexes on the measured rate contradicts the declared one, or does not any more: generation, index, which.
        self._wrong: list[tuple[int, int, bool]] = []
        self.confidence = 0.0  # mean over what was published last
        self.trace: Trace | None = None
        self.policy = rules.policies.get(name, rules.policy)
        self.due: list[Due] = []  # messages of beats and rates that are published and wait to be filled
        self.beats: Beats | None = None  # what was last said of the heart rate
        self._follower = None if rules.rate is None else Follower(rules.fs)
        self.moved = False  # since the last release something became final, or may have, without an answer of the model
        self._timeline: list[_Item] = []  # short: a deque would take 0.7 kB even when empty
        self._segment: Segment | None = None
        self._run: list[tuple[bool, int]] = []  # missing samples not decided yet: (sent, count)
        self._expected = 0  # index after the last sample, measured or not, of the current session
        self._judge = Judge(rules.fs, rules.max_fill, rules.sentinels)
        self._polarity = Watcher(rules.polarity)
        self._judged = 0  # index after the last sample that the judge gave back
        self._beside, self._beside_flags = NOTHING_BESIDE, 0  # what was there last, and as flags
        self._beside_told: dict[Flag, int] = {}  # the index at which each was last told as an event
        self._stepped = False  # a step ended the last segment
        self._lead_off = False  # the long held run that goes on was told as an event
        self._taken_back = 0  # 1: its first sample was taken back from the segment, and is not on the timeline yet
        self._counter = Counter()
        self._renamed: tuple[int | None, int] = (
            None,
            0,
        )  # a sensor's session, and the one it goes on under since its counter restarted
        self._last_arrival_s = 0.0
        self._arrived = (-1.0, 0, 0.0)  # when the measuring of the rate by arrival began, samples since, and the longest wait
        self._fs_told = -math.inf
        self._publishing = 0  # session of what stands at the timeline's head
        self._generation = 0  # counts sessions opened; `_publishing_generation` is the one at the timeline's head
        self._publishing_generation = 0
        self._publishing_sequencer: Sequencer | None = None
        self._next_out: int | None = None
        self._next_out_before: int | None = None  # a second ago
        self._last_finite = 0.0
        self._anchors: list[_Anchor] = []
        self._fs_from: tuple[int, int] | None = None
        self._fs_last: tuple[int, int] | None = None
        self._clock = ArrivalClock()

    # ---- in ------------------------------------------------------------------------------------------------------

    def feed(self, chunk: Chunk, now: float, read_at: float, listened: float) -> list[Window]:
        """Take a chunk in; give back the windows that are full. The times are those of `Engine.feed`: `now` for how long samples are held, `listened` for
        how long a session is silent, `read_at` for how late samples are published."""
        windows: list[Window] = []
        self.arrived_at = read_at
        if chunk.t_ns:
            self.arrived_at = self._clock.arrived(chunk.t_ns / 1e9 + len(chunk.samples) / chunk.fs, read_at)
        if chunk.fs != self.rules.fs and abs(chunk.fs / self.rules.fs - 1) > 0.01:
            self._refuse(chunk, "wrong_fs", f"it says {chunk.fs:g} Hz, this checkpoint takes {self.rules.fs:g} Hz")
            return windows
        if chunk.session == self._renamed[0]:
            chunk = replace(chunk, session=self._renamed[1])
        if chunk.session != self.session:
            known = self.sessions.get(chunk.session)
            if known is not None and known.ended:
                self._after_end(chunk, now)
                return windows
            if self.session is not None and listened - self.seen_at < max(self.rules.silence_s, 1.5 * self.batch_s):
                self._refuse(chunk, "second_publisher", f"session {chunk.session:016x} speaks while {self.session:016x} is live")
                return windows
            windows += self.flush()
            self._open(chunk)
        self.seen_at, self.fed_at = listened, now
        sequencer = self.sessions[chunk.session]
        if chunk.kind is Kind.DATA:
            self.batch_s = len(chunk.samples) / chunk.fs
            self._watch_fs(chunk)
            self._watch_arrival(chunk, read_at)
            windows += self._count(chunk, now)
        elif chunk.kind is Kind.STATUS:
            sequencer.notice(chunk.index, now)
        elif chunk.kind is Kind.GAP:  # a relay that knows of a loss: no reason to wait for it
            sequencer.notice(chunk.index + chunk.missing, now - self.rules.hold_s)
            windows += self.expire(now)
        else:
            windows += self._give_up_waiting(now)
            windows += self._accept(sequencer.close(chunk.index))
            windows += self._end(unclean=False)
        return windows

    def expire(self, now: float) -> list[Window]:
        """Time passed: give up samples that were waited for long enough."""
        if self.session is None:
            return []
        return self._accept(self.sessions[self.session].expire(now))

    def flush(self) -> list[Window]:
        """Nothing more comes: end the current session, unclean since it did not end itself. Gives back the last windows."""
        if self.session is None:
            return []
        windows = self._give_up_waiting(self.fed_at) + self._accept(self.sessions[self.session].close())
        return windows + self._end(unclean=True)

    def _count(self, chunk: Chunk, now: float) -> list[Window]:
        """A DATA chunk of the current session, whose index may have fallen back."""
        sequencer = self.sessions[chunk.session]
        first = sequencer.first
        messages = self._counter.feed(chunk.index, chunk.samples, sequencer)
        windows: list[Window] = []
        if self._counter.counts_messages:
            text = f"the index rises by 1 from one message of {len(chunk.samples)} samples to the next: it must count samples"
            self._event("index_counts_messages", text)
        if self._counter.restarted:
            original = self._renamed[0] if chunk.session == self._renamed[1] and self._renamed[0] is not None else chunk.session
            renamed = (chunk.session + 1) % 2**64
            text = f"the index fell from {sequencer.next} to {messages[0][0]} with new samples: the sensor restarted; session {renamed:016x} begins"
            self._event("restart", text)
            windows += self._accept(sequencer.close())
            windows += self._end(unclean=True)
            self._renamed = (original, renamed)
            self._open(replace(chunk, session=renamed))
            sequencer = self.sessions[renamed]
        for index, samples in messages:
            windows += self._accept(sequencer.feed(index, samples, now))
        if first is None and sequencer.first:
            self._event("late_join", f"joined at index {sequencer.first}: the samples before it did not reach this daemon")
        return windows

    def _give_up_waiting(self, now: float) -> list[Window]:
        windows: list[Window] = []
        for index, samples in self._counter.give_up():
            if self.session is not None:
                windows += self._accept(self.sessions[self.session].feed(index, samples, now))
        return windows

    def _event(self, name: str, text: str) -> None:
        self.events.append(Event(name, f"{self.name}: {text}", self.name))

    def _open(self, chunk: Chunk) -> None:
        self.session = chunk.session
        self._counter = Counter()
        self._arrived = (-1.0, 0, 0.0)
        self.fs_measured = None
        self._fs_from = self._fs_last = None
        self._beside_told.clear()
        self._generation += 1
        self.moved = True
        known = self.sessions.pop(chunk.session, None)
        # One that was silent for so long that it was ended here goes on where it was; a new one's first run says where it begins.
        resumed_at = None if known is None else known.next
        self._expected = self._judged = -1 if resumed_at is None else resumed_at
        self._judge = Judge(self.rules.fs, self.rules.max_fill, self.rules.sentinels)
        self._polarity = Watcher(self.rules.polarity)
        self._stepped = False
        sequencer = self.sessions[chunk.session] = known or Sequencer(self.rules.hold, self.rules.hold_s)
        self._timeline.append(_Session(chunk.session, self._generation, resumed_at, sequencer))
        while len(self.sessions) > REMEMBERED_SESSIONS:
            self.retired = self.retired.plus(self.sessions.pop(next(iter(self.sessions))).counts)

    def _after_end(self, chunk: Chunk, now: float) -> None:
        """Samples of a session that is over: late ones are accounted for, newer ones refused."""
        sequencer = self.sessions[chunk.session]
        if chunk.kind is Kind.DATA:
            late = max(min(len(chunk.samples), sequencer.next - chunk.index), 0)
            if late:
                sequencer.feed(chunk.index, chunk.samples[:late], now)
            if late < len(chunk.samples):
                self.ledger.refused += len(chunk.samples) - late
                self._event("after_end", f"samples from index {chunk.index} after session {chunk.session:016x} ended")

    def _refuse(self, chunk: Chunk, name: str, why: str) -> None:
        if len(chunk.samples):
            self.ledger.refused += len(chunk.samples)
            self._event(name, f"refused {len(chunk.samples)} samples: {why}")

    def _end(self, *, unclean: bool) -> list[Window]:
        assert self.session is not None
        sequencer = self.sessions[self.session]
        windows = self._accept([Stretch(sequencer.next, EMPTY)]) + self._take(self._judge.finish()) + self._break()
        self._timeline.append(_End(sequencer.next, unclean))
        self.moved = True
        self.unclean += unclean
        self.session = None
        return windows

    def _accept(self, runs: list[Stretch]) -> list[Window]:
        """Samples in order; a jump of the index means that the ones between are lost."""
        windows: list[Window] = []
        for run in runs:
            if self._expected < 0:
                first = self.sessions[self.session].first if self.session is not None else None
                self._expected = self._judged = run.index if first is None else first
            if run.index > self._expected:
                windows += self._take(self._judge.missing(run.index - self._expected, sent=False))
            self._expected = run.index + len(run.samples)
            x = np.asarray(run.samples, np.float64)
            if not len(x) or self._grow_plainly(x):
                continue
            finite = np.abs(x) <= LARGEST
            if np.count_nonzero(finite) == len(x):
                windows += self._take(self._judge.feed(x))
            else:
                edges = np.flatnonzero(finite[1:] != finite[:-1]) + 1
                for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
                    judged = self._judge.feed(x[a:b]) if finite[a] else self._judge.missing(int(b - a), sent=True)
                    windows += self._take(judged)
        return windows + self._cut()

    def _cut(self, *, close: bool = False) -> list[Window]:
        """The windows that are full, or all if the segment ends here."""
        if self._segment is None:
            return []
        return self._segment.cut() + self._segment.close() if close else self._segment.cut()

    def _take(self, judged: list[Judged]) -> list[Window]:
        """Samples with their states, in order: they grow the segment, or end it."""
        windows: list[Window] = []
        for part in judged:
            if part.kind == "samples":
                windows += self._grow(part)
                self._judged += len(part.x)
                self._lead_off = False
            elif part.kind == "missing":
                self._run.append((part.sent, part.number))
                self._judged += part.number
                if self._segment is None or sum(n for _, n in self._run) > self.rules.max_fill:
                    windows += self._break()
            elif part.kind == "end":
                windows += self._cut()
                if self._segment is not None and part.back and not self._run and self._segment.take_back_last():
                    self._judged -= 1
                    self._taken_back = 1
                windows += self._break()
                self._lead_off = False
            elif part.kind == "held":
                windows += self._hold(part)
            else:
                windows += self._break()
                self._stepped = True
                text = f"the level jumps by {part.value:+.6g} at index {self._judged} and stays there: a new stretch"
                self._event("step", text)
        return windows

    def _grow_plainly(self, x: NDArray[np.float64]) -> bool:
        """The way of nearly all samples: measured beyond doubt, and the segment goes on. What it does, `_take` would do; False, and nothing done, if there
        is more to it."""
        segment, judge = self._segment, self._judge
        if segment is None or self._run or self._beside != judge.beside or not judge.feed_plainly(x):
            return False
        segment.append(x, None, self._beside_flags)
        self._judged += len(x)
        self._lead_off = False
        return True

    def _grow(self, part: Judged) -> list[Window]:
        windows: list[Window] = []
        if self._segment is None:
            self._put_run()
            first = Flag.STEP if self._stepped else 0
            self._segment = Segment(self._judged, self.rules.geometry, first, self._polarity, self.rules.calibration)
            self._stepped = False
            self.moved = True
            self._timeline.append(self._segment)
        else:
            if part.back:
                windows = self._cut()  # what is full by now does not know of the run
                self._segment.mark_last_held()
            if self._run:
                lost = np.concatenate([np.full(count, not sent) for sent, count in self._run])
                self._segment.bridge(lost, float(part.x[0]))
                self._run = []
        if part.beside != self._beside:
            self._tell_beside(part.beside)
        self._segment.append(part.x, part.state, self._beside_flags)
        return windows

    def _tell_beside(self, now: Beside) -> None:
        """Sets the flags of what there is besides a pulse, and an event of each thing that was not there before, at most once a minute."""
        before, self._beside = self._beside, now
        self._beside_flags = 0
        for (flag, text), there, was in zip(_OF_BESIDE.items(), now, before, strict=True):
            if not there:
                continue
            self._beside_flags |= int(flag)
            since_told = self._judged - self._beside_told.get(flag, math.inf)
            if not was and not 0 <= since_told < BESIDE_TOLD_S * self.rules.fs:
                self._beside_told[flag] = self._judged
                self._event(str(flag.name).lower(), text.format(hz=there, index=self._judged))

    def _hold(self, part: Judged) -> list[Window]:
        windows = self._break()
        x = np.concatenate([np.full(self._taken_back, part.x[0]), part.x])
        index, self._taken_back = self._judged, 0
        self._judged += len(x)
        self._timeline.append(_Held(index, x, part.value, part.lead_off, self._stepped))
        self._stepped = False
        if part.lead_off and not self._lead_off:
            self._lead_off = True
            what = "nearly flat" if math.isnan(part.value) else f"{x[0]:.6g} without a change"
            text = f"{what} for more than 1 s before index {self._judged}: nothing is attached"
            self._event("lead_off", text)
        return windows

    def _break(self) -> list[Window]:
        """The segment, if one is open, ends before the undecided run, and the run goes on the timeline."""
        windows = self._cut(close=True)
        self.moved, self._segment = True, None
        self._put_run()
        return windows

    def _put_run(self) -> None:
        index = self._judged - sum(n for _, n in self._run)
        for sent, count in self._run:
            self._timeline.append(_Missing(index, count, sent))
            index += count
        self._run = []

    def _watch_fs(self, chunk: Chunk) -> None:
        """The sampling rate by the sensor's own clock, over `FS_SPAN_S`; a rate off by more than 1 % is an event."""
        if not chunk.t_ns or not len(chunk.samples):
            return
        last = self._anchors[-1] if self._anchors else None
        if last is None or last.generation < self._generation or chunk.index > last.index:
            self._anchors.append(_Anchor(self._generation, chunk.index, chunk.t_ns))
        before, self._fs_last = self._fs_last, (chunk.index, chunk.t_ns)
        step = (chunk.t_ns - before[1]) / 1e9 - (chunk.index - before[0]) / self.rules.fs if before else 0.0
        if self._fs_from is None or chunk.index < self._fs_from[0] or abs(step) > CLOCK_STEP_S:
            self._fs_from = (chunk.index, chunk.t_ns)  # a clock that was set says nothing about the rate
        elapsed = (chunk.t_ns - self._fs_from[1]) / 1e9
        if elapsed >= (FS_FIRST_S if self.fs_measured is None else FS_SPAN_S):
            self._measured((chunk.index - self._fs_from[0]) / elapsed, chunk, chunk.t_ns / 1e9, "come", FS_OFF)
            self._fs_from = (chunk.index, chunk.t_ns)

    def _measured(self, fs: float, chunk: Chunk, now: float, how: str, off: float) -> None:
        """Up to a chunk samples came at `fs` Hz, by a clock that says `now`."""
        self.fs_measured = fs
        by = abs(fs / self.rules.fs - 1)
        wrong = by > FS_WRONG
        if wrong != (bool(self._wrong) and self._wrong[-1][0] == self._generation and self._wrong[-1][2]):
            self._wrong = [*self._wrong[-7:], (self._generation, chunk.index, wrong)]
        if by > off and not 0 <= now - self._fs_told < FS_TOLD_S:
            self._fs_told = now
            text = f"samples {how} at {fs:.2f} Hz, not {self.rules.fs:g} Hz"
            self._event(*(("wrong_rate", f"{text}: heart rates are not told") if wrong else ("fs_off", text)))

    def wrong_rate(self, index: int, n: int) -> NDArray[np.bool_]:
        """(n,): whether samples from `index` on, of the session that is being published, came at another rate than the declared one."""
        found = np.zeros(n, np.bool_)
        for generation, since, wrong in self._wrong:
            if generation == self._publishing_generation:
                found[max(since - index, 0) :] = wrong
        return found

    def _watch_arrival(self, chunk: Chunk, now: float) -> None:
        """The same by the arrival of samples, for senders that say no time (JSON, raw), over so long a time that it is known to 0.5 %."""
        if not self.rules.clocked_by_arrival or chunk.t_ns:
            return
        since, first, longest = self._arrived
        wait = now - self._last_arrival_s
        if since < 0 or chunk.stop < first or wait > max(CLOCK_STEP_S, 4 * longest if longest else FS_TOLD_S):
            self._arrived = (now, chunk.stop, 0.0)  # what comes with the first message was measured before
        else:
            n, longest = chunk.stop - first, max(longest, wait)
            self._arrived = (since, first, longest)
            if now - since >= max(FS_SPAN_S, ARRIVAL_SPAN * longest):
                self._measured(n / (now - since), chunk, now, "arrive", FS_WRONG)
                self._arrived = (now, chunk.stop, longest)
        self._last_arrival_s = now

    # ---- out -----------------------------------------------------------------------------------------------------

    def release(self, sure: tuple[Segment, NDArray[np.float64]] | None = None) -> list[Chunk]:
        """Everything that is final and not yet published, in index order. sure: what `Segment.release` takes, for this segment."""
        chunks: list[Chunk] = []
        self.moved = False
        published = 0
        for item in self._timeline:
            if isinstance(item, Segment):
                released = item.release(sure[1] if sure is not None and sure[0] is item else None)
                if released is not None:
                    chunks += self._publish(released, short=item.short)
                if not item.closed or item.released < item.stop:
                    break
            elif isinstance(item, _Missing):
                chunks += self._publish_missing(item)
            elif isinstance(item, _Held):
                chunks += self._publish_held(item)
            elif isinstance(item, _Session):
                self._publishing, self._publishing_generation = item.number, item.generation
                self._publishing_sequencer = item.sequencer
                self._next_out, self._last_finite = item.resumed_at, 0.0
            else:
                gap = self._gap_before(item.index)
                chunks += self._stop_following(math.inf) + gap
                chunks.append(self._chunk(item.index, EMPTY, Kind.END, unclean=item.unclean))
            published += 1
        del self._timeline[:published]
        return chunks

    def taken(self, session: int) -> int | None:
        """The index up to which all that was sent of a session is decided; None if the session is not known (any more)."""
        original, renamed = self._renamed
        known = self.sessions.get(renamed if session == original else session)
        return None if known is None else known.next

    @property
    def expires_at(self) -> float:
        """When it gives up the next of the samples that it waits for; infinity if it waits for none."""
        session = self.session
        return math.inf if session is None else self.sessions[session].expires_at

    @property
    def crowd(self) -> int:
        """Stretches that wait for those before them to be published, beyond the few that every stream has."""
        return max(len(self._timeline) - FEW_STRETCHES, 0)

    @property
    def is_over(self) -> bool:
        """No session is open, and all is published."""
        return self.session is None and not self._timeline

    @property
    def in_flight(self) -> int:
        """Samples accepted and not yet published, counted where they are."""
        return (
            sum(_in_flight(item) for item in self._timeline)
            + sum(count for sent, count in self._run if sent)
            + self._judge.pending
            + self._taken_back
        )

    @property
    def counts(self) -> Counts:
        total = self.retired
        for sequencer in self.sessions.values():
            total = total.plus(sequencer.counts)
        return total

    @property
    def accepted(self) -> int:
        return self.retired.accepted + sum(s.accepted for s in self.sessions.values())

    @property
    def unaccounted(self) -> int:
        """Samples the ledger has lost track of, over both identities. Always 0, or there is a defect."""
        sessions = sum(s.counts.unaccounted for s in self.sessions.values())
        return sessions + abs(self.accepted - self.ledger.published - self.in_flight)

    def status(self) -> Chunk | None:
        """Called once a second: a STATUS that says how far the current session is published, so that a receiver notices a lost tail. None while messages
        follow each other: then the next one's index says it."""
        before, self._next_out_before = self._next_out_before, self._next_out
        if self.session is None or self._publishing != self.session or self._next_out is None or self._next_out != before:
            return None
        return self._chunk(self._next_out, EMPTY, Kind.STATUS)

    def _publish_missing(self, run: _Missing) -> list[Chunk]:
        if not run.sent:
            return []  # the next chunk's jump becomes a GAP record
        n = run.count
        self.ledger.invalid += n
        values = np.full(n, self._last_finite)
        return self._emit(run.index, values, np.full(n, np.nan), np.zeros(n), np.full(n, Flag.NONFINITE, np.uint16))

    def _publish_held(self, run: _Held) -> list[Chunk]:
        n = len(run.x)
        self.ledger.passthrough += n
        self.ledger.held += n
        flags = np.full(n, Flag.FLAT | (Flag.LEAD_OFF if run.lead_off else 0), np.uint16)
        flags[0] |= np.uint16(Flag.STEP * run.stepped)
        values = run.x if math.isnan(run.value) else np.full(n, run.value)
        return self._emit(run.index, values, run.x, np.zeros(n), flags)

    def _publish(self, r: Released, *, short: bool) -> list[Chunk]:
        values, confidence, flags, state = r.values, r.confidence, r.flags, r.state
        if not (short or np.count_nonzero(state) or np.count_nonzero(r.bare)):  # all measured and denoised: nearly always
            if np.count_nonzero(flags):
                lined = (flags & Flag.INTERFERENCE) != 0
                confidence[lined] = np.minimum(confidence[lined], INTERFERENCE_CONFIDENCE)
            self.ledger.denoised += len(values)
            return self._emit(r.index, values, r.raw, confidence, flags)
        lost, invalid, held, outlier = state == LOST, state == INVALID, state == HELD, state == OUTLIER
        if short:
            flags |= input_flags(r.raw[None, :], state[None, :])[0]
        flags[r.bare] |= np.uint16(Flag.PASSTHROUGH if short else Flag.SHED)
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
        if short:
            self.ledger.passthrough += bare
        else:
            self.ledger.shed += bare
        if kept.all():
            return self._emit(r.index, values, r.raw, confidence, flags)
        chunks: list[Chunk] = []
        edges = np.flatnonzero(kept[1:] != kept[:-1]) + 1
        for a, b in zip([0, *edges], [*edges, len(kept)], strict=True):
            if kept[a]:
                chunks += self._emit(r.index + int(a), values[a:b], r.raw[a:b], confidence[a:b], flags[a:b])
        return chunks

    def _emit(
        self,
        index: int,
        values: NDArray[np.float64],
        raw: NDArray[np.float64],
        confidence: NDArray[np.float64],
        flags: NDArray[np.uint16],
    ) -> list[Chunk]:
        chunks = self._gap_before(index)
        if chunks:
            flags[0] |= np.uint16(Flag.GAP)
            chunks = self._stop_following(chunks[0].missing / self.rules.fs) + chunks
        answer = values
        if self._wrong:
            flags[self.wrong_rate(index, len(flags))] |= np.uint16(Flag.WRONG_RATE)
        low = confidence < self.rules.threshold
        if np.count_nonzero(low):
            flags[low] |= np.uint16(Flag.LOW_CONFIDENCE)
            values, flags = under_policy(self.policy, low, values, raw, flags)
        self._last_finite = float(answer[-1])
        self._next_out = index + len(values)
        self.confidence = float(confidence.sum()) / len(confidence)
        if self.trace is not None:
            self.trace.raw.extend(raw.tolist())
            self.trace.clean.extend(values.tolist())
        chunks.append(self._chunk(index, values, Kind.DATA, confidence=confidence.astype(np.float32), flags=flags))
        if self._follower is not None:
            for at, block in self._follower.append(index, answer, raw, confidence, flags):
                chunks.append(self._beats_of(self._follower, at, block))
        return chunks

    def _stop_following(self, seconds: float) -> list[Chunk]:
        """The stretch ends, and another begins `seconds` later, if ever: the beats that are not decided yet."""
        if self._follower is None or self._next_out is None or (rest := self._follower.stop()) is None:
            return []
        return [self._beats_of(self._follower, self._next_out, rest, gap_s=seconds)]

    def _beats_of(self, follower: Follower, index: int, block: NDArray[np.float32], *, gap_s: float | None = None) -> Chunk:
        """A message of beats and rates, which the engine fills, with those of other streams at once, before it is sent."""
        chunk = self._chunk(index, EMPTY, Kind.BEATS)
        self.due.append(Due(follower, index, block, gap_s, chunk, untimed=bool(self.wrong_rate(index - 1, 1)[0])))
        return chunk

    def _gap_before(self, index: int) -> list[Chunk]:
        """A GAP record for what was lost between the last sample published and `index`."""
        if self._next_out is None:
            # Of the session, though it may be remembered no more: four newer ones may have come before it is published.
            first = None if self._publishing_sequencer is None else self._publishing_sequencer.first
            self._next_out = index if first is None else min(first, index)
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
    ) -> Chunk:
        anchors, generation = self._anchors, self._publishing_generation
        passed, most = 0, len(anchors)  # those that tell nothing of what is to come
        while passed < most and (
            anchors[passed].generation < generation
            or (passed + 1 < most and anchors[passed + 1].generation == generation and anchors[passed + 1].index <= index)
        ):
            passed += 1
        if passed:
            del anchors[:passed]
        t_ns = 0
        if anchors and anchors[0].generation == generation:
            t_ns = anchors[0].t_ns + round((index - anchors[0].index) * 1e9 / self.rules.fs)
            t_ns = t_ns if abs(t_ns) < MAX_T_NS else 0
        return Chunk(
            self.name,
            self._publishing,
            index,
            samples,
            kind,
            self.rules.fs,
            t_ns,
            confidence,
            flags,
            self.rules.checkpoint,
            missing,
            unclean,
        )
