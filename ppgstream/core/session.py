"""A session's life: the table of what is done with it, and the sessions that a sensor's stream remembers.

A session begins with its first message and ends with an END, in silence, with a newer session, or when its counter begins anew.
The newest four are remembered: one that was ended here, and not by its own END, goes on where it was if its sensor speaks again.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ppgstream.core.sequence import Counts, Sequencer
from ppgstream.wire.message import Kind

REMEMBERED_SESSIONS = 4
BATCH_PAUSE = 1.5  # of the time that a message's samples took: who sends in batches is not silent for so long


class Standing(Enum):
    """How a session stands when something happens to it."""

    NEW = "not known, or not any more; no other session of its stream is live"
    RESUMED = "ended here for its silence or for another session, and no other one is live now"
    LIVE = "open"
    SECOND = "another session of its stream is open and has spoken lately: two publishers under one name"
    ENDED = "its END came"


class Event(Enum):
    """What happens to a session, beside a message."""

    SILENCE = "nothing came of it for as long as the configuration allows, or this program stops"
    RESTART = "its index fell back, with new samples"


class Step(Enum):
    """What is done then, in the table's order."""

    END_OTHER = "end the session that is open, if there is one, as one that did not say END"
    OPEN = "begin with the first index that comes"
    REOPEN = "go on at the index where it was ended"
    TAKE = "put its samples in order"
    NOTICE = "note how far the sensor has come: what is missing up to there is lost unless it comes soon"
    LOSE = "give up what is missing up to there"
    END = "give up what is missing, and end the session as the sensor said"
    CUT_OFF = "give up what is missing, and end the session as one that did not say END"
    RENAME = "begin another session, of the next number, under which the sensor's messages go on"
    LATE = "count samples that it had before its END; refuse others"
    REFUSE = "refuse the samples"


S = Step
LIFE: dict[Standing, dict[Kind | Event, tuple[Step, ...]]] = {
    Standing.NEW: {
        Kind.DATA: (S.END_OTHER, S.OPEN, S.TAKE),
        Kind.STATUS: (S.END_OTHER, S.OPEN, S.NOTICE),
        Kind.GAP: (S.END_OTHER, S.OPEN, S.LOSE),
        Kind.END: (S.END_OTHER, S.OPEN, S.END),
    },
    Standing.RESUMED: {
        Kind.DATA: (S.END_OTHER, S.REOPEN, S.TAKE),
        Kind.STATUS: (S.END_OTHER, S.REOPEN, S.NOTICE),
        Kind.GAP: (S.END_OTHER, S.REOPEN, S.LOSE),
        Kind.END: (S.END_OTHER, S.REOPEN, S.END),
    },
    Standing.LIVE: {
        Kind.DATA: (S.TAKE,),
        Kind.STATUS: (S.NOTICE,),
        Kind.GAP: (S.LOSE,),
        Kind.END: (S.END,),
        Event.SILENCE: (S.CUT_OFF,),
        Event.RESTART: (S.CUT_OFF, S.RENAME, S.OPEN),
    },
    Standing.SECOND: dict.fromkeys((Kind.DATA, Kind.STATUS, Kind.GAP, Kind.END), (S.REFUSE,)),
    Standing.ENDED: {Kind.DATA: (S.LATE,), Kind.STATUS: (), Kind.GAP: (), Kind.END: ()},
}


class Opened(NamedTuple):
    """A session begins, or goes on. generation: counts the sessions opened in a stream; birth: that at which this session was
    first opened. resumed_at: the next index, of one that goes on."""

    session: int
    generation: int
    birth: int
    resumed_at: int | None


class Remembered:
    """A session that is open or was. first: the first index that was told of it last."""

    __slots__ = ("birth", "first", "sequencer")

    def __init__(self, birth: int, sequencer: Sequencer) -> None:
        self.birth, self.sequencer = birth, sequencer
        self.first: int | None = None


class Sessions:
    """Those of one stream: the one that is open, and the last few. Times are those of `Engine.feed`."""

    __slots__ = ("batch_s", "current", "fed_at", "generation", "known", "renamed", "retired", "seen_at", "unclean")

    def __init__(self) -> None:
        self.current: int | None = None
        self.known: dict[int, Remembered] = {}
        self.retired = Counts()  # of sessions no longer remembered
        self.unclean = 0  # sessions that ended without saying so
        # A sensor's session whose counter began anew, and the one that it goes on under.
        self.renamed: tuple[int | None, int] = (None, 0)
        self.seen_at = self.fed_at = 0.0  # when the stream was last fed, by the clocks `listened` and `now`
        self.generation = 0
        self.batch_s = 0.0  # the time that the samples of the last message took: a pause as long as that is no silence

    def named(self, session: int) -> int:
        """The number under which a sensor's session goes on."""
        original, renamed = self.renamed
        return renamed if session == original else session

    def standing(self, session: int, listened: float, silence_s: float) -> Standing:
        """How a session stands, of whom a message came."""
        if session == self.current:
            return Standing.LIVE
        known = self.known.get(session)
        if known is not None and known.sequencer.ended:
            return Standing.ENDED
        silence_s = max(silence_s, BATCH_PAUSE * self.batch_s) if silence_s else 0.0
        if self.current is not None and listened - self.seen_at < silence_s:
            return Standing.SECOND
        return Standing.NEW if known is None else Standing.RESUMED

    def open(self, session: int, hold: int, hold_s: float) -> Opened:
        """Begin a session, or go on with one; the oldest beyond `REMEMBERED_SESSIONS` are forgotten."""
        self.current = session
        self.generation += 1
        known = self.known.pop(session, None)
        resumed_at = None if known is None else known.sequencer.next
        self.known[session] = known = known or Remembered(self.generation, Sequencer(hold, hold_s))
        while len(self.known) > REMEMBERED_SESSIONS:
            self.retired = self.retired.plus(self.known.pop(next(iter(self.known))).sequencer.counts)
        return Opened(session, self.generation, known.birth, resumed_at)

    def shift(self, now: float, listened: float) -> None:
        """The clocks `now` and `listened` are others, ahead by so many seconds."""
        self.seen_at, self.fed_at = self.seen_at + listened, self.fed_at + now
        for known in self.known.values():
            known.sequencer.shift(now)

    def rename(self, session: int) -> int:
        """The number under which an open session goes on that begins anew."""
        original = self.renamed[0] if session == self.renamed[1] and self.renamed[0] is not None else session
        renamed = (session + 1) % 2**64
        self.renamed = (original, renamed)
        return renamed

    def close(self, *, unclean: bool) -> None:
        """The session that is open is over."""
        self.unclean += unclean
        self.current = None

    @property
    def sequencer(self) -> Sequencer | None:
        """That of the session that is open."""
        return None if self.current is None else self.known[self.current].sequencer

    @property
    def counts(self) -> Counts:
        total = self.retired
        for known in self.known.values():
            total = total.plus(known.sequencer.counts)
        return total

    @property
    def accepted(self) -> int:
        total = self.retired.accepted
        for known in self.known.values():
            total += known.sequencer.accepted
        return total

    @property
    def lost(self) -> int:
        """Samples that never came, so far."""
        total = self.retired.gap
        for known in self.known.values():
            total += known.sequencer.gap
        return total

    @property
    def unaccounted(self) -> int:
        """Indexes that a session has lost track of. Always 0, or there is a defect."""
        total = 0
        for known in self.known.values():
            total += known.sequencer.unaccounted
        return total

    def taken(self, session: int) -> int | None:
        """The index up to which all that was sent of a session is decided; None if the session is not known (any more)."""
        known = self.known.get(self.named(session))
        return None if known is None else known.sequencer.next
