"""The account of every index, against a model that looks at one sample at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ppgstream.core.sequence import Sequencer


class Naive:
    """The same rules, one sample at a time, with a dictionary for a memory."""

    def __init__(self, hold: int, hold_s: float) -> None:
        self.hold, self.hold_s = hold, hold_s
        self.first: int | None = None
        self.next = 0
        self.fate: dict[int, str] = {}
        self.held: dict[int, float] = {}
        self.duplicates = 0
        self.out: list[int] = []

    def feed(self, index: int, count: int, now: float) -> None:
        if self.first is None:
            self.first = self.next = 0 if index <= self.hold else index
        if count and index < self.first:
            for i in range(index, self.first):
                self.fate[i] = "gap"
            self.first = index
        for i in range(index, index + count):
            if i < self.next:
                if self.fate[i] == "gap":
                    self.fate[i] = "rejected"
                else:
                    self.duplicates += 1
            elif i in self.held:
                self.duplicates += 1
            else:
                self.held[i] = now
        self.drain()
        while len(self.held) > self.hold:
            self.give_up()

    def drain(self) -> None:
        while self.next in self.held:
            del self.held[self.next]
            self.fate[self.next] = "accepted"
            self.out.append(self.next)
            self.next += 1

    def give_up(self) -> None:
        for i in range(self.next, min(self.held)):
            self.fate[i] = "gap"
        self.next = min(self.held)
        self.drain()

    def expire(self, now: float) -> None:
        while self.held and now - self.held[min(self.held)] >= self.hold_s:
            self.give_up()

    def close(self, index: int) -> None:
        while self.held:
            self.give_up()
        for i in range(self.next, index):
            self.fate[i] = "gap"
        self.next = max(self.next, index)


arrivals = st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40), st.floats(0, 0.3)), max_size=40)


@given(arrivals, st.integers(0, 30))
def test_any_arrival_of_chunks_is_accounted_for_like_sample_by_sample(chunks: list[tuple[int, int, float]], tail: int) -> None:
    sequencer, naive = Sequencer(hold=64, hold_s=0.5), Naive(64, 0.5)
    now, out = 0.0, []
    for index, count, pause in chunks:
        now += pause
        runs = sequencer.expire(now) + sequencer.feed(index, np.arange(index, index + count), now)
        naive.expire(now)
        naive.feed(index, count, now)
        out += [i for run in runs for i in run.samples.tolist()]
        assert sequencer.counts.unaccounted == 0
        assert sequencer.held == len(naive.held)
    if chunks:
        out += [i for run in sequencer.close(sequencer.next + tail) for i in run.samples.tolist()]
        naive.close(naive.next + tail)
    fates = list(naive.fate.values())
    counts = sequencer.counts
    assert out == naive.out
    assert (counts.accepted, counts.gap, counts.rejected, counts.duplicates) == (
        fates.count("accepted"),
        fates.count("gap"),
        fates.count("rejected"),
        naive.duplicates,
    )
    assert counts.seen == len(fates)
    assert counts.unaccounted == 0


def test_a_late_chunk_moves_from_gap_to_rejected() -> None:
    s = Sequencer(hold=10)
    s.feed(0, np.zeros(5), 0)
    s.feed(20, np.zeros(20), 0)
    assert s.counts.gap == 15
    s.feed(5, np.zeros(5), 0)
    assert (s.counts.gap, s.counts.rejected, s.counts.seen) == (10, 5, 40)


def test_a_swapped_chunk_is_put_back_in_order() -> None:
    s = Sequencer()
    s.feed(0, np.arange(25), 0)
    assert s.feed(50, np.arange(50, 75), 0.2) == []
    runs = s.feed(25, np.arange(25, 50), 0.3)
    assert [run.index for run in runs] == [25, 50]
    assert s.counts.gap == 0


def test_a_status_reveals_a_lost_tail_after_the_hold_time() -> None:
    s = Sequencer()
    s.feed(0, np.zeros(25), 0)
    s.notice(75, 1.0)
    assert s.expire(1.4) == []
    assert s.counts.gap == 0
    s.expire(1.5)
    assert s.counts.gap == 50


def test_a_session_joined_late_begins_where_it_was_joined() -> None:
    s = Sequencer()
    assert [run.index for run in s.feed(5000, np.zeros(25), 0)] == [5000]
    assert (s.first, s.counts.seen, s.counts.gap) == (5000, 25, 0)


def test_a_gap_of_astronomical_size_costs_nothing() -> None:
    s = Sequencer()
    s.feed(0, np.zeros(25), 0)
    s.feed(2**62, np.zeros(100), 0)
    assert s.counts.gap == 2**62 - 25
