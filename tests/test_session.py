"""A session's life: each cell of the table `LIFE`, through a stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.session import LIFE, REMEMBERED_SESSIONS, Event, Sessions, Standing
from ppgstream.wire.message import EMPTY, Chunk, Kind

X = np.sin(np.arange(200) / 15)
SENT = 60


class Stream:
    """One stream of an engine whose clock stands still unless it is told: what is published of it, by session."""

    def __init__(self) -> None:
        self.engine = Engine(identity(250), rules(answers="input", silence_s=2.0))
        self.now = 0.0
        self.out: list[Chunk] = []

    def data(self, session: int, index: int, n: int, *, seed: int = 0) -> Stream:
        samples = X[:n] + 0.01 * np.random.default_rng([seed, session, index]).standard_normal(n)
        self.out += self.engine.feed(Chunk("a", session, index, samples), self.now)
        return self

    def say(self, kind: Kind, session: int, index: int, missing: int = 0) -> Stream:
        self.out += self.engine.feed(Chunk("a", session, index, EMPTY, kind, missing=missing), self.now)
        return self

    def silent(self, seconds: float) -> Stream:
        self.now += seconds
        self.out += self.engine.expire(self.now)
        return self

    def idle(self, seconds: float) -> Stream:
        self.now += seconds
        self.out += self.engine.end_idle(self.now, 30.0)
        return self

    @property
    def sessions(self) -> Sessions:
        return self.engine.streams["a"].intake.sessions

    def told(self, session: int) -> list[tuple[str, int]]:
        """(kind, index) of what was published of a session, DATA by its first index."""
        return [(c.kind.name, c.index) for c in self.out if c.session == session and c.kind is not Kind.BEATS]

    @property
    def events(self) -> list[str]:
        return [event.name for event in self.engine.events]


def new() -> Stream:
    return Stream()


def live() -> Stream:
    return Stream().data(1, 0, SENT)


def resumed() -> Stream:
    """Session 1 was ended for its silence."""
    return live().idle(31.0)


def second() -> Stream:
    """Session 2 is live, and nothing is known of session 1."""
    return Stream().data(2, 0, SENT)


def ended() -> Stream:
    return live().say(Kind.END, 1, SENT)


MADE: dict[Standing, Callable[[], Stream]] = {
    Standing.NEW: new,
    Standing.LIVE: live,
    Standing.RESUMED: resumed,
    Standing.SECOND: second,
    Standing.ENDED: ended,
}
# What comes of session 1 in each standing, on top of what `MADE` sent: whether it is open then, samples accepted, in gaps and
# refused, the index up to which all is decided, and events.
After = tuple[bool, int, int, int, int | None, list[str]]
CELLS: dict[tuple[Standing, Kind], After] = {
    (Standing.NEW, Kind.DATA): (True, 25, 0, 0, 585, ["late_join"]),
    (Standing.NEW, Kind.STATUS): (True, 0, 0, 0, 560, []),
    (Standing.NEW, Kind.GAP): (True, 0, 0, 0, 560, []),
    (Standing.NEW, Kind.END): (False, 0, 0, 0, 560, []),
    (Standing.LIVE, Kind.DATA): (True, SENT + 25, 0, 0, SENT + 25, []),
    (Standing.LIVE, Kind.STATUS): (True, SENT, 0, 0, SENT, []),
    (Standing.LIVE, Kind.GAP): (True, SENT, 40, 0, SENT + 40, []),
    (Standing.LIVE, Kind.END): (False, SENT, 0, 0, SENT, []),
    (Standing.RESUMED, Kind.DATA): (True, SENT + 25, 0, 0, SENT + 25, ["idle"]),
    (Standing.RESUMED, Kind.STATUS): (True, SENT, 0, 0, SENT, ["idle"]),
    (Standing.RESUMED, Kind.GAP): (True, SENT, 40, 0, SENT + 40, ["idle"]),
    (Standing.RESUMED, Kind.END): (False, SENT, 0, 0, SENT, ["idle"]),
    (Standing.SECOND, Kind.DATA): (False, SENT, 0, 25, None, ["second_publisher"]),
    (Standing.SECOND, Kind.STATUS): (False, SENT, 0, 0, None, []),
    (Standing.SECOND, Kind.GAP): (False, SENT, 0, 0, None, []),
    (Standing.SECOND, Kind.END): (False, SENT, 0, 0, None, []),
    (Standing.ENDED, Kind.DATA): (False, SENT, 0, 25, SENT, ["after_end"]),
    (Standing.ENDED, Kind.STATUS): (False, SENT, 0, 0, SENT, []),
    (Standing.ENDED, Kind.GAP): (False, SENT, 0, 0, SENT, []),
    (Standing.ENDED, Kind.END): (False, SENT, 0, 0, SENT, []),
}


@pytest.mark.parametrize(("standing", "kind"), list(CELLS), ids=lambda one: one.name)
def test_each_message_does_what_the_table_says(standing: Standing, kind: Kind) -> None:
    stream = MADE[standing]()
    at = 560 if standing is Standing.NEW else SENT
    if standing is not Standing.NEW:
        assert stream.sessions.standing(1, stream.now, 2.0) is standing
    if kind is Kind.DATA:
        stream.data(1, at, 25)
    else:
        stream.say(kind, 1, at, missing=40 if kind is Kind.GAP and standing is not Standing.NEW else 0)
    counts = stream.sessions.counts
    is_open, accepted, gap, refused, taken, events = CELLS[standing, kind]
    assert (stream.sessions.current == 1) == is_open
    assert (counts.accepted, counts.gap) == (accepted, gap)
    assert stream.engine.streams["a"].ledger.refused == refused
    assert stream.sessions.taken(1) == taken
    assert stream.events == events
    assert stream.engine.unaccounted == 0


def test_the_table_has_these_cells_and_no_others() -> None:
    messages = {(standing, kind) for standing, row in LIFE.items() for kind in row if isinstance(kind, Kind)}
    assert messages == set(CELLS)
    others = {(standing, event) for standing, row in LIFE.items() for event in row if isinstance(event, Event)}
    assert others == {(Standing.LIVE, Event.SILENCE), (Standing.LIVE, Event.RESTART)}


def test_silence_ends_a_live_session_as_one_that_did_not_say_end() -> None:
    stream = live().idle(31.0)
    assert stream.sessions.current is None
    assert stream.told(1) == [("DATA", 0), ("END", SENT)]
    assert [c.unclean for c in stream.out if c.kind is Kind.END] == [True]
    assert stream.sessions.unclean == 1


def test_a_restarted_sensor_goes_on_under_the_next_number() -> None:
    stream = Stream()
    for at in range(0, 100, 25):
        stream.data(1, at, 25)
    for at in range(0, 75, 25):
        stream.data(1, at, 25, seed=1)
    assert stream.events == ["restart"]
    assert stream.sessions.current == 2
    assert stream.told(1) == [("DATA", 0), ("END", 100)]
    stream.data(1, 75, 25, seed=1).say(Kind.END, 1, 100)  # the sensor still says 1
    assert stream.told(2) == [("DATA", 0), ("END", 100)]
    assert stream.sessions.taken(1) == stream.sessions.taken(2) == 100


def test_a_live_session_gives_way_once_it_has_been_silent_and_goes_on_afterwards() -> None:
    stream = live().silent(1.9).data(2, 0, 25)
    assert stream.sessions.current == 1
    stream.silent(0.2).data(2, 0, 25)
    assert stream.sessions.current == 2
    assert stream.told(1)[-1] == ("END", SENT)
    stream.silent(2.1).data(1, SENT, 25)
    assert stream.sessions.current == 1
    stream.say(Kind.END, 1, SENT + 25)
    assert stream.told(1)[-2:] == [("DATA", SENT), ("END", SENT + 25)]


def test_a_session_that_is_forgotten_begins_anew() -> None:
    stream = ended()
    for session in range(2, 2 + REMEMBERED_SESSIONS):
        stream.data(session, 0, 25).say(Kind.END, session, 25)
    assert stream.sessions.taken(1) is None
    stream.data(1, 200, 25)
    assert stream.sessions.current == 1
    assert stream.sessions.counts.accepted == SENT + 25 * (REMEMBERED_SESSIONS + 1)
    assert stream.engine.unaccounted == 0
