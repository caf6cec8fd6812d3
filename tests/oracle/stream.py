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
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.ledger import Event, Ledger
from oracle.measured import HELD, INVALID, LOST, NOTHING_BESIDE, OUTLIER, Judge, Judged
from oracle.polarity import Polarity, Watcher
from oracle.quality import HELD_CONFIDENCE, INTERFERENCE_CONFIDENCE, input_flags
from oracle.segments import Geometry, Released, Segment, Window
from oracle.sequence import HOLD, HOLD_S, Counter, Counts, Sequencer, Stretch
from ppgstream.wire.message import EMPTY, NO_CHECKPOINT, Chunk, Flag, Kind

REMEMBERED_SESSIONS = 4
FS_SPAN_S = 10.0  # over how much sensor time the sampling rate is measured
CLOCK_STEP_S = 1.0  # between two chunks the sensor's clock and its count differ by more: the clock was set
LARGEST = 1e37  # a larger value counts as infinite: its denoised neighbours might not fit the f4 of the output
MAX_GAP = 2**32 - 1  # what a GAP record can say; the next index tells the truth anyway
MAX_T_NS = 2**62


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
    sentinels: tuple[float, ...] = ()  # values that mean "no value"
    polarity: Polarity = "auto"
    clocked_by_arrival: bool = False  # the senders say no time


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


@dataclass(frozen=True, slots=True)
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
    """See the module. `feed`, `expire`, `finish`, `flush` and `release` are called from one thread."""

    def __init__(self, name: str, rules: StreamRules) -> None:
        self.name, self.rules = name, rules
        self.ledger = Ledger()
        self.events: list[Event] = []
        self.sessions: dict[int, Sequencer] = {}  # the current one and the last few
        self.retired = Counts()  # of sessions no longer remembered
        self.unclean = 0  # sessions that ended without saying so
        self.session: int | None = None
        self.seen_at = 0.0
        self.fs_measured: float | None = None
        self.confidence = 0.0  # mean over what was published last
        self.trace: Trace | None = None
        self._timeline: deque[_Item] = deque()
        self._segment: Segment | None = None
        self._run: list[tuple[bool, int]] = []  # missing samples not decided yet: (sent, count)
        self._expected = 0  # index after the last sample, measured or not, of the current session
        self._judge = Judge(rules.fs, rules.max_fill, rules.sentinels)
        self._polarity = Watcher(rules.polarity, rules.fs)
        self._judged = 0  # index after the last sample that the judge gave back
        self._beside = NOTHING_BESIDE  # what was there last
        self._beside_told: dict[str, int] = {}  # the index at which each was last told as an event
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
        self.told_at = -math.inf
        self.rates_at: list[
            tuple[int, int, bool]
        ] = []  # what was measured: generation, index, whether it is off by more than 2 %
        self._publishing = 0  # session of what stands at the timeline's head
        self._generation = 0  # counts sessions opened; `_publishing_generation` is the one at the timeline's head
        self._publishing_generation = 0
        self._publishing_sequencer: Sequencer | None = None
        self._next_out: int | None = None
        self._last_finite = 0.0
        self._anchors: deque[_Anchor] = deque()
        self._fs_from: tuple[int, int] | None = None
        self._fs_last: tuple[int, int] | None = None

    # ---- in ------------------------------------------------------------------------------------------------------

    def feed(self, chunk: Chunk, now: float) -> list[Window]:
        """Take a chunk in (`now`: monotonic seconds at which it was received); give back the windows that are full."""
        windows: list[Window] = []
        if abs(chunk.fs / self.rules.fs - 1) > 0.01:
            self._refuse(chunk, "wrong_fs", f"it says {chunk.fs:g} Hz, this checkpoint takes {self.rules.fs:g} Hz")
            return windows
        if chunk.session == self._renamed[0]:
            chunk = replace(chunk, session=self._renamed[1])
        if chunk.session != self.session:
            known = self.sessions.get(chunk.session)
            if known is not None and known.ended:
                self._after_end(chunk, now)
                return windows
            if self.session is not None and now - self.seen_at < self.rules.silence_s:
                self._refuse(chunk, "second_publisher", f"session {chunk.session:016x} speaks while {self.session:016x} is live")
                return windows
            windows += self.flush()
            self._open(chunk)
        self.seen_at = now
        sequencer = self.sessions[chunk.session]
        if chunk.kind is Kind.DATA:
            self._watch_fs(chunk)
            self._watch_arrival(chunk, now)
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
        windows = self._give_up_waiting(self.seen_at) + self._accept(self.sessions[self.session].close())
        return windows + self._end(unclean=True)

    def _count(self, chunk: Chunk, now: float) -> list[Window]:
        """A DATA chunk of the current session, whose index may have fallen back."""
        sequencer = self.sessions[chunk.session]
        first = sequencer.first
        messages = self._counter.feed(chunk.index, chunk.samples, sequencer)
        windows: list[Window] = []
        if self._counter.counts_messages:
            text = f"the index rises by 1 from one message of {len(chunk.samples)} samples to the next: it must count samples, not messages"
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
        self._generation += 1
        known = self.sessions.pop(chunk.session, None)
        # One that was silent for so long that it was ended here goes on where it was; a new one's first run says where it begins.
        resumed_at = None if known is None else known.next
        self._expected = self._judged = -1 if resumed_at is None else resumed_at
        self._judge = Judge(self.rules.fs, self.rules.max_fill, self.rules.sentinels)
        self._polarity = Watcher(self.rules.polarity, self.rules.fs)
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
            finite = np.abs(x) <= LARGEST
            if finite.all():
                windows += self._take(self._judge.feed(x))
            else:
                edges = np.flatnonzero(finite[1:] != finite[:-1]) + 1
                for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
                    judged = self._judge.feed(x[a:b]) if finite[a] else self._judge.missing(int(b - a), sent=True)
                    windows += self._take(judged)
        return windows + self._cut()

    def _cut(self, *, close: bool = False) -> list[Window]:
        """The windows that are full, or all if the segment ends here, each the right way up."""
        if self._segment is None:
            return []
        windows = self._segment.cut() + (self._segment.close() if close else [])
        for k, window in enumerate(windows):
            before = self._polarity.decided
            if self._polarity.look(window.x, window.state, self.rules.geometry.hop, window.segment.start) and (
                before or self._polarity.sign < 0
            ):
                way = (
                    "points down (an inverted sensor): the model sees it turned over"
                    if self._polarity.sign < 0
                    else "points up after all"
                )
                self._event("polarity", f"the pulse at index {window.start} {way}")
            windows[k] = window._replace(sign=self._polarity.sign)
        return windows

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

    def _grow(self, part: Judged) -> list[Window]:
        windows: list[Window] = []
        if self._segment is None:
            self._put_run()
            self._segment = Segment(self._judged, self.rules.geometry, Flag.STEP if self._stepped else 0)
            self._stepped = False
            self._timeline.append(self._segment)
        else:
            if part.back:
                windows = self._cut()  # what is full by now does not know of the run
                self._segment.mark_last_held()
            if self._run:
                lost = np.concatenate([np.full(count, not sent) for sent, count in self._run])
                self._segment.bridge(lost, float(part.x[0]))
                self._run = []
        now, before, since = part.beside, self._beside, f"from index {self._judged} on"
        flags = (
            (Flag.INTERFERENCE if now.line_hz else 0) | (Flag.HUM if now.hum_hz else 0) | (Flag.BREATHING if now.breathing else 0)
        )
        self._segment.append(part.x, part.state, flags)
        for name, there, was, text in (
            (
                "interference",
                now.line_hz,
                before.line_hz,
                f"a steady line at {now.line_hz:.2f} Hz {since}: no pulse makes it (a lamp?)",
            ),
            (
                "hum",
                now.hum_hz,
                before.hum_hz,
                f"hum at {now.hum_hz:.2f} Hz {since}, as strong as the strongest wave below 15 Hz or stronger (mains?)",
            ),
            (
                "breathing",
                now.breathing,
                before.breathing,
                f"the signal moves as much below 0.5 Hz as above {since}: breathing or drift",
            ),
        ):
            last = self._beside_told.get(name)
            if there and not was and (last is None or not 0 <= self._judged - last < 60 * self.rules.fs):
                self._beside_told[name] = self._judged
                self._event(name, text)
        self._beside = now
        return windows

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
        self._segment = None
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
        if not chunk.t_ns:
            return
        last = self._anchors[-1] if self._anchors else None
        if last is None or last.generation < self._generation or chunk.index > last.index:
            self._anchors.append(_Anchor(self._generation, chunk.index, chunk.t_ns))
        before, self._fs_last = self._fs_last, (chunk.index, chunk.t_ns)
        step = (chunk.t_ns - before[1]) / 1e9 - (chunk.index - before[0]) / self.rules.fs if before else 0.0
        if self._fs_from is None or chunk.index < self._fs_from[0] or abs(step) > CLOCK_STEP_S:
            self._fs_from = (chunk.index, chunk.t_ns)  # a clock that was set says nothing about the rate
        elapsed = (chunk.t_ns - self._fs_from[1]) / 1e9
        if elapsed >= (4.0 if self.fs_measured is None else FS_SPAN_S):
            self._measured((chunk.index - self._fs_from[0]) / elapsed, chunk, chunk.t_ns / 1e9, "come", 0.01)
            self._fs_from = (chunk.index, chunk.t_ns)

    def _measured(self, fs: float, chunk: Chunk, now: float, how: str, off: float) -> None:
        self.fs_measured = fs
        by = abs(fs / self.rules.fs - 1)
        if by > off and not 0 <= now - self.told_at < 60.0:
            self.told_at = now
            text = f"samples {how} at {fs:.2f} Hz, not {self.rules.fs:g} Hz"
            if by > 0.02:
                self._event("wrong_rate", f"{text}: heart rates are not told")
            else:
                self._event("fs_off", text)
        self.rates_at.append((self._generation, chunk.index, abs(fs / self.rules.fs - 1) > 0.02))

    def _watch_arrival(self, chunk: Chunk, now: float) -> None:
        """The same by the arrival of samples, for senders that say no time (JSON, raw)."""
        if not self.rules.clocked_by_arrival or chunk.t_ns:
            return
        since, n, longest = self._arrived
        wait = now - self._last_arrival_s
        if since < 0 or wait > max(CLOCK_STEP_S, 4 * longest if longest else 60.0):
            self._arrived = (now, 0, 0.0)
        else:
            n, longest = n + len(chunk.samples), max(longest, wait)
            self._arrived = (since, n, longest)
            if now - since >= max(FS_SPAN_S, 80 * longest):
                self._measured(n / (now - since), chunk, now, "arrive", 0.02)
                self._arrived = (now, 0, longest)
        self._last_arrival_s = now

    # ---- out -----------------------------------------------------------------------------------------------------

    def finish(
        self,
        window: Window,
        y: NDArray[np.float64] | None,
        flags: NDArray[np.uint16],
        confidence: NDArray[np.float64] | None = None,
    ) -> list[Chunk]:
        """The answer to a window, in the sensor's units (None: shed), the flags of its samples, and the confidence in each if the network tells it; gives
        back what is final."""
        window.segment.add(window.start, y, flags, confidence)
        return self.release()

    def release(self) -> list[Chunk]:
        """Everything that is final and not yet published, in index order."""
        chunks: list[Chunk] = []
        while self._timeline:
            item = self._timeline[0]
            if isinstance(item, Segment):
                released = item.release()
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
                chunks += self._gap_before(item.index)
                chunks.append(self._chunk(item.index, EMPTY, Kind.END, unclean=item.unclean))
            self._timeline.popleft()
        return chunks

    @property
    def waits(self) -> bool:
        """It holds samples back, in case the ones before are only late."""
        return self.session is not None and self.sessions[self.session].waits

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
        return self.counts.accepted

    @property
    def unaccounted(self) -> int:
        """Samples the ledger has lost track of, over both identities. Always 0, or there is a defect."""
        sessions = sum(s.counts.unaccounted for s in self.sessions.values())
        return sessions + abs(self.accepted - self.ledger.published - self.in_flight)

    def status(self) -> Chunk | None:
        """A STATUS that says how far the current session is published, so that a receiver notices a lost tail."""
        if self.session is None or self._publishing != self.session or self._next_out is None:
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
        flags[confidence < self.rules.threshold] |= np.uint16(Flag.LOW_CONFIDENCE)
        for k in range(len(flags)):
            known = [
                wrong for generation, at, wrong in self.rates_at if generation == self._publishing_generation and at <= index + k
            ]
            if known and known[-1]:
                flags[k] |= np.uint16(Flag.WRONG_RATE)
        self._last_finite = float(values[-1])
        self._next_out = index + len(values)
        self.confidence = float(confidence.mean())
        if self.trace is not None:
            self.trace.raw.extend(raw.tolist())
            self.trace.clean.extend(values.tolist())
        chunks.append(self._chunk(index, values, Kind.DATA, confidence=confidence.astype(np.float32), flags=flags))
        return chunks

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
        while anchors and (
            anchors[0].generation < generation
            or (len(anchors) > 1 and anchors[1].generation == generation and anchors[1].index <= index)
        ):
            anchors.popleft()
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
