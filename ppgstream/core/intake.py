"""One sensor's samples, on its own index: which session they are of, their order, what is lost, and what each was measured as.

`Intake.feed` takes a chunk and gives *parts*, in order: sessions that open and end, judged samples, what is missing, and notes of
the sensor's clock. They go to the `Track`, and from there, so far as they are to be published, to the `Timeline`.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from msgspec.structs import replace

from ppgstream.core import ledger, saved
from ppgstream.core.beside import Beside, Surroundings, Watched
from ppgstream.core.clock import CLOCK_STEP_S, FS_OFF, ArrivalClock, RateClock, RateFound
from ppgstream.core.judge import Judge
from ppgstream.core.ledger import Ledger
from ppgstream.core.measured import LARGEST, Float64
from ppgstream.core.measuring import RATES_HZ, Measuring
from ppgstream.core.parts import Anchor, Began, Ended, First, Part, Rated, WrongFrom
from ppgstream.core.plan import SensorRules
from ppgstream.core.sequence import Counter, Counts, Early, Gaps, Sequencer, Stretch
from ppgstream.core.session import LIFE, Event, Remembered, Sessions, Standing, Step
from ppgstream.core.statistics import Recent, Statistics
from ppgstream.wire.message import EMPTY, Chunk, Kind

SAME_RATE = 0.005  # a sender may tell its rate as it measures it: so small a change is none
FEW_HZ = 25.0  # below, a pulse's own shape is not in the samples


saved.known(Sessions, Remembered, Counts, Sequencer, Early, Gaps, Counter, RateClock, ArrivalClock)
saved.known(Judge, Recent, Statistics, Surroundings, Watched, Beside)


class Intake:
    """See the module. `feed`, `expire` and `end` are called from one thread. `events` and `ledger` are the stream's."""

    __slots__ = (
        "_arrival",
        "_counter",
        "_expected",
        "_judge",
        "_known",
        "_measuring",
        "_name",
        "_own_fs",
        "_rules",
        "_suspected",
        "_target",
        "_wrong",
        "arrived_at",
        "events",
        "fs",
        "ledger",
        "rate",
        "sessions",
        "units",
    )
    UNSAVED = frozenset({"_name", "_own_fs", "_rules", "_target", "events", "ledger"})

    def __init__(self, name: str, target: float, rules: SensorRules, ledger: Ledger, events: list[ledger.Event]) -> None:
        self._name, self._target, self._rules = name, target, rules
        self.fs = target  # the sensor's rate, Hz; until it is known, the model's
        self.units = ""  # of the samples, as the sensor says
        self._own_fs = rules.rates.get(name, rules.stated_fs)  # as the configuration says
        self._known: Literal["", "said", "measured"] = ""  # how `fs` is known: a message or the configuration said it, or not
        self._wrong = False  # it was told that samples come at another rate than that
        self._suspected = math.inf  # the rate that was measured last, where it contradicts that one
        self._measuring: Measuring | None = None  # with the messages that wait for it
        self.ledger, self.events = ledger, events
        self.sessions = Sessions()
        self.rate = RateClock(target)
        self.arrived_at = 0.0  # when the chunk last fed came in, as far as the sensor's clock tells
        self._arrival = ArrivalClock()
        self._counter = Counter()
        self._judge = self._judged_anew()
        self._expected = 0  # index after the last sample, measured or not, of the open session; -1: none came yet

    def feed(self, chunk: Chunk, now: float, read_at: float, listened: float) -> list[Part]:
        """Take a chunk in. The times are those of `Engine.feed`: `now` for how long samples are held, `listened` for how long a
        session is silent, `read_at` for when it arrived."""
        out: list[Part] = []
        self.arrived_at = read_at
        if chunk.t_ns:
            self.arrived_at = self._arrival.arrived(chunk.t_ns / 1e9 + len(chunk.samples) / (chunk.fs or self.fs), read_at)
        if chunk.fs and not RATES_HZ[0] <= chunk.fs <= RATES_HZ[1]:
            self._refuse(chunk, "bad_rate", f"it says {chunk.fs:g} Hz: must be {RATES_HZ[0]:g} to {RATES_HZ[1]:g} Hz")
            return out
        if chunk.session == self.sessions.renamed[0]:
            chunk = replace(chunk, session=self.sessions.renamed[1])
        if chunk.units:
            self.units = chunk.units
        if chunk.session == self.sessions.current and chunk.kind is Kind.DATA:  # as below, for nearly every chunk
            self.sessions.seen_at, self.sessions.fed_at = listened, now
            self._take(chunk, now, read_at, out)
            return out
        for step in LIFE[self.sessions.standing(chunk.session, listened, self._rules.silence_s)].get(chunk.kind, ()):
            if step is Step.TAKE:
                self.sessions.seen_at, self.sessions.fed_at = listened, now
                self._take(chunk, now, read_at, out)
            elif step is Step.END_OTHER:
                out += self.end()
            elif step in (Step.OPEN, Step.REOPEN):
                self._open(chunk.session, out)
            elif step is Step.REFUSE:
                live = self.sessions.current or 0
                self._refuse(chunk, "second_publisher", f"session {chunk.session:016x} speaks while {live:016x} is live")
            elif step is Step.LATE:
                self._late(chunk, now, out)
            else:
                self.sessions.seen_at, self.sessions.fed_at = listened, now
                self._hear(step, chunk, now, out)
        return out

    def expire(self, now: float) -> list[Part]:
        """Time passed: give up samples that were waited for long enough."""
        out: list[Part] = []
        sequencer = self.sessions.sequencer
        if sequencer is not None:
            self._accept(sequencer.expire(now), out)
        return out

    def end(self) -> list[Part]:
        """Nothing more comes: end the session that is open, if there is one, as one that did not say END."""
        out: list[Part] = []
        if self.sessions.current is not None:
            for step in LIFE[Standing.LIVE][Event.SILENCE]:
                if step is Step.CUT_OFF:
                    self._cut_off(out)
        return out

    @property
    def pending(self) -> int:
        """Samples that the judge holds back."""
        return self._judge.pending

    def save(self) -> bytes:
        """Its state, for `load` of another one under the same name and rules."""
        return saved.pack(self)

    def load(self, data: bytes, now: float = 0.0, listened: float = 0.0, read_at: float = 0.0) -> None:
        """Go on where another one was, whose clocks were so many seconds behind those of here. Raises ValueError as
        `saved.unpack`."""
        saved.unpack(self, data)
        self.sessions.shift(now, listened)
        self.rate.shift(read_at)
        self._arrival.shift(read_at)
        if self._measuring is not None:
            self._measuring.shift(now, read_at)
        self.arrived_at += read_at

    # ---- what is done with a message, as `LIFE` says -------------------------------------------------------------

    def _judged_anew(self) -> Judge:
        return Judge(self.fs, self._rules.most_filled(self.fs, self._target), self._rules.sentinels)

    def _set_rate(self, fs: float, index: int, now: float, out: list[Part]) -> None:
        """Samples come at another rate from `index` on: a new stretch."""
        if self._expected >= 0:
            self._give_up_waiting(now, out)
            if self.sessions.sequencer is not None:
                self._accept(self.sessions.sequencer.expire(math.inf), out)
            out += self._judge.finish()
            self._event("rate_changed", f"{fs:g} Hz from index {index} on, {self.fs:g} Hz before: a new stretch")
        elif fs < FEW_HZ:
            self._event(
                "low_rate", f"{fs:g} Hz: nothing above {fs / 2:g} Hz is in the signal, so the answer has no finer shape either"
            )
        if self._wrong:
            self._tell_wrong(index, out, wrong=False)
        self.fs = fs
        self.rate.declare(fs)
        self._judge = self._judged_anew()
        out.append(Rated(fs))

    def _take(self, chunk: Chunk, now: float, read_at: float, out: list[Part]) -> None:
        """A DATA chunk of the open session, whose index may have fallen back."""
        self.sessions.batch_s = len(chunk.samples) / (chunk.fs or self.fs)
        if chunk.fs != self.fs or self._known != "said":
            fs = 0.0 if self._own_fs == "measure" else chunk.fs or self._own_fs
            if not fs and not self._known:
                self._wait(chunk, now, read_at, out)
                return
            if fs:
                waiting, self._measuring = self._measuring, None
                if fs != self.fs and (self._expected < 0 or self._known != "said" or abs(fs / self.fs - 1) > SAME_RATE):
                    self._set_rate(fs, waiting.messages[0].first if waiting is not None else chunk.index, now, out)
                self._known = "said"
                if waiting is not None:
                    self._take_all(waiting, out)
        self._take_in(chunk, now, read_at, out)

    def _wait(self, chunk: Chunk, now: float, read_at: float, out: list[Part]) -> None:
        """Samples of a rate that nobody has said: they wait until it is measured."""
        if self._measuring is None:
            self._measuring = Measuring()
            how = "the sensor's stamps" if chunk.t_ns else "their arrival"
            self._event("no_rate", f"no rate is stated: it is measured by {how}, and samples wait for it")
        if self._measuring.add(chunk, now, read_at):
            self.settle(out)

    def settle(self, out: list[Part]) -> None:
        """Take in the samples that wait for their rate: by what is known of it now."""
        measuring, self._measuring = self._measuring, None
        if measuring is None:
            return
        self._known, first = "measured", measuring.messages[0]
        fs, text = measuring.result()
        if fs is None:
            self._event("rate_unknown", f"no rate is stated, and {text}: taken as {self.fs:g} Hz, without heart rates: [in] fs")
            self._tell_wrong(first.first, out, wrong=True)
        else:
            self._event("measured_rate", text)
            if fs != self.fs:
                self._set_rate(fs, first.first, first.now, out)
        self._take_all(measuring, out)

    def _take_all(self, measuring: Measuring, out: list[Part]) -> None:
        """The messages that waited for their rate."""
        session = self.sessions.current or 0
        for index, samples, t_ns, now, read_at in measuring.messages:
            chunk = Chunk(self._name, session, index, samples, fs=self.fs, t_ns=t_ns, adopted=not t_ns)
            self._take_in(chunk, now, read_at, out)

    @property
    def waiting(self) -> int:
        """Samples that wait for their rate."""
        return 0 if self._measuring is None else self._measuring.samples

    def _take_in(self, chunk: Chunk, now: float, read_at: float, out: list[Part]) -> None:
        """A DATA chunk of the open session at the rate `fs`."""
        self._watch_rate(chunk, read_at, out)
        sequencer = self.sessions.sequencer
        assert sequencer is not None
        first = sequencer.first
        joined = first is None
        messages = self._counter.feed(chunk.index, chunk.samples, sequencer)
        if self._counter.counts_messages:
            text = f"the index rises by 1 from one message of {len(chunk.samples)} samples to the next: it must count samples"
            self._event("index_counts_messages", text)
        if self._counter.restarted:
            sequencer, first = self._restart(chunk.session, messages[0][0], out), None
        for index, samples in messages:
            self._accept(sequencer.feed(index, samples, now), out)
        if joined and sequencer.first:
            self._event("late_join", f"joined at index {sequencer.first}: the samples before it did not reach this daemon")
        if sequencer.first != first:
            self._tell_first(self.sessions.known[self.sessions.current or 0], out)

    def _hear(self, step: Step, chunk: Chunk, now: float, out: list[Part]) -> None:
        """A STATUS, GAP or END of the open session."""
        sequencer = self.sessions.sequencer
        assert sequencer is not None
        if self._measuring is not None and step in (Step.NOTICE, Step.LOSE):
            return  # the samples before it are not taken yet
        if step is Step.NOTICE:
            sequencer.notice(chunk.index, now)
        elif step is Step.LOSE:  # a relay that knows of a loss: no reason to wait for it
            sequencer.notice(chunk.index + chunk.missing, now - self._rules.hold_s)
            self._accept(sequencer.expire(now), out)
        else:
            self.settle(out)
            sequencer = self.sessions.sequencer  # of a counter that began anew meanwhile, another one
            assert sequencer is not None
            self._give_up_waiting(now, out)
            self._accept(sequencer.close(chunk.index), out)
            self._end(out, unclean=False)
            return
        self._tell_first(self.sessions.known[self.sessions.current or 0], out)

    def _open(self, session: int, out: list[Part]) -> None:
        opened = self.sessions.open(session, self._rules.hold, self._rules.hold_s)
        self._counter = Counter()
        self.rate.begin()
        self._judge = self._judged_anew()
        # One that was ended here goes on where it was; a new one's first run says where it begins.
        self._expected = -1 if opened.resumed_at is None else opened.resumed_at
        out.append(opened)

    def _restart(self, session: int, index: int, out: list[Part]) -> Sequencer:
        """The index fell back to `index` with new samples: the sensor counts anew, under the same number. The sequencer of the
        session that begins."""
        fell_from = self.sessions.known[session].sequencer.next
        for step in LIFE[Standing.LIVE][Event.RESTART]:
            if step is Step.CUT_OFF:
                self._cut_off(out)
            elif step is Step.RENAME:
                session = self.sessions.rename(session)
                text = (
                    f"the index fell from {fell_from} to {index} with new samples: the sensor restarted; session "
                    f"{session:016x} begins"
                )
                self._event("restart", text)
            else:
                self._open(session, out)
        return self.sessions.known[session].sequencer

    def _late(self, chunk: Chunk, now: float, out: list[Part]) -> None:
        """Samples of a session that is over: late ones are accounted for, newer ones refused."""
        known = self.sessions.known[chunk.session]
        late = max(min(len(chunk.samples), known.sequencer.next - chunk.index), 0)
        if late:
            known.sequencer.feed(chunk.index, chunk.samples[:late], now)
            self._tell_first(known, out)
        if late < len(chunk.samples):
            self.ledger.refused += len(chunk.samples) - late
            self._event("after_end", f"samples from index {chunk.index} after session {chunk.session:016x} ended")

    def _refuse(self, chunk: Chunk, name: str, why: str) -> None:
        if len(chunk.samples):
            self.ledger.refused += len(chunk.samples)
            self._event(name, f"refused {len(chunk.samples)} samples: {why}")

    def _cut_off(self, out: list[Part]) -> None:
        """End the session that is open as one that did not say END."""
        self.settle(out)
        known = self.sessions.known[self.sessions.current or 0]
        self._give_up_waiting(self.sessions.fed_at, out)
        self._accept(known.sequencer.close(), out)
        self._end(out, unclean=True)

    def _end(self, out: list[Part], *, unclean: bool) -> None:
        known = self.sessions.known[self.sessions.current or 0]
        self._accept([Stretch(known.sequencer.next, EMPTY)], out)
        out += self._judge.finish()
        self._tell_first(known, out)
        out.append(Ended(known.sequencer.next, unclean))
        self.sessions.close(unclean=unclean)

    # ---- samples -------------------------------------------------------------------------------------------------

    def _give_up_waiting(self, now: float, out: list[Part]) -> None:
        """Messages at old indexes, of which it is not known whether the sensor counts anew, were repeats."""
        sequencer = self.sessions.sequencer
        for index, samples in self._counter.give_up():
            if sequencer is not None:
                self._accept(sequencer.feed(index, samples, now), out)

    def _accept(self, runs: list[Stretch], out: list[Part]) -> None:
        """Samples in order; a jump of the index means that the ones between are lost."""
        for run in runs:
            if self._expected < 0:
                sequencer = self.sessions.sequencer
                first = None if sequencer is None else sequencer.first
                self._expected = run.index if first is None else first
                out.append(Began(self._expected))
            if run.index > self._expected:
                out += self._judge.missing(run.index - self._expected, sent=False)
            self._expected = run.index + len(run.samples)
            x, at, n = np.ascontiguousarray(run.samples, np.float64), 0, len(run.samples)
            while at < n:
                stop = _alike_until(x, at)
                if abs(x[at]) <= LARGEST:
                    out += self._judge.feed(x if stop - at == n else x[at:stop])
                else:
                    out += self._judge.missing(stop - at, sent=True)
                at = stop

    def _watch_rate(self, chunk: Chunk, now: float, out: list[Part]) -> None:
        found: RateFound | None = None
        if chunk.t_ns and len(chunk.samples):
            out.append(Anchor(self.sessions.generation, chunk.index, chunk.t_ns))
            found = self.rate.by_its_clock(chunk)
            if abs(self.rate.stepped_s) > CLOCK_STEP_S:
                self._event("clock_set", f"the sensor's times jump by {self.rate.stepped_s:+,.1f} s at index {chunk.index}")
        elif not chunk.t_ns and (chunk.adopted or self._rules.clocked_by_arrival):
            found = self.rate.by_arrival(chunk, now)
        if found is None:
            return
        if self._known == "measured" and found.wrong and RATES_HZ[0] <= found.fs <= RATES_HZ[1]:
            # Nobody said the rate before: it is corrected, once another one was measured twice.
            again, self._suspected = abs(found.fs / self._suspected - 1) < FS_OFF, found.fs
            if again:
                self._set_rate(float(f"{found.fs:.4g}"), chunk.index, now, out)
            return
        if found.changed:
            self._tell_wrong(chunk.index, out, wrong=found.wrong)
        if found.event is not None:
            self._event(*found.event)

    def _tell_wrong(self, index: int, out: list[Part], *, wrong: bool) -> None:
        self._wrong = wrong
        out.append(WrongFrom(self.sessions.generation, index, wrong))

    def _tell_first(self, known: Remembered, out: list[Part]) -> None:
        first = known.sequencer.first
        if first is not None and first != known.first:
            known.first = first
            out.append(First(known.birth, first))

    def _event(self, name: str, text: str) -> None:
        self.events.append(ledger.Event(name, f"{self._name}: {text}", self._name))


def _alike_until(x: Float64, at: int) -> int:
    """Up to where the samples from `at` on are all numbers, or none of them."""
    number = abs(x[at]) <= LARGEST
    n = len(x)
    for k in range(at + 1, n):
        if (abs(x[k]) <= LARGEST) != number:
            return k
    return n
