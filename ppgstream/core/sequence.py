"""Arrival order to index order: one session's samples, each exactly once, and an account of every index.

Theory of operation. `next` is the index up to which everything is decided. What arrives beyond it is held, in case the samples
between are only late; after `hold` held samples, or `hold_s` seconds, they are given up as a gap. What arrives below `next` is
late: if it had been given up it moves from gap to rejected, else it is a duplicate. So at any time, of the indexes seen [first,
next):

    seen = accepted + gap + rejected
"""

from __future__ import annotations

import math
import zlib
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.generic]
HOLD = 64  # samples: two chunks of 25 and a bit, so that one swapped chunk is put back in order
HOLD_S = 0.5
REMEMBERED_GAPS = 4096  # a late sample of an older gap counts as a duplicate, and its index stays a gap
MARKS = 64  # STATUS messages that are remembered while earlier samples are waited for; beyond these, the newest replaces the last


class Stretch(msgspec.Struct, eq=False, gc=False):
    """Samples in order. The ones between the last run's end and `index` never came."""

    index: int
    samples: Samples


class Counts(NamedTuple):
    """Samples of a session: `seen = accepted + gap + rejected`; duplicates are counted apart."""

    seen: int = 0
    accepted: int = 0
    gap: int = 0
    rejected: int = 0
    duplicates: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(self[0] + other[0], self[1] + other[1], self[2] + other[2], self[3] + other[3], self[4] + other[4])

    @property
    def unaccounted(self) -> int:
        return abs(self.seen - self.accepted - self.gap - self.rejected)


@dataclass(frozen=True, slots=True)
class Early:
    """Samples that wait for earlier ones; none of them: a mark, up to which the sensor said that it had come."""

    index: int
    samples: Samples
    since: float

    @property
    def stop(self) -> int:
        return self.index + len(self.samples)


_index, _stop = attrgetter("index"), attrgetter("stop")


class Gaps:
    """Ranges of indexes that were given up: in order, apart, and no more than `REMEMBERED_GAPS` of them. The lowest are forgotten
    first.

    Each call takes time that grows with the logarithm of their number (and moves a few kilobytes of numbers).
    """

    __slots__ = ("_highs", "_lows")

    def __init__(self) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []

    def __len__(self) -> int:
        return len(self._lows)

    def add(self, low: int, high: int) -> None:
        """A range that is above or below all others."""
        at = 0 if self._lows and high <= self._lows[0] else len(self._lows)
        self._put(at, at, [(low, high)])

    def holds(self, start: int, stop: int) -> bool:
        """Whether one range covers all of start..stop."""
        at = bisect_right(self._lows, start) - 1
        return at >= 0 and stop <= self._highs[at]

    def remove(self, start: int, stop: int) -> int:
        """Take start..stop out of the ranges; returns how many indexes that were."""
        first, last = bisect_right(self._highs, start), bisect_left(self._lows, stop)
        if first >= last or start >= stop:
            return 0
        low, high = self._lows[first], self._highs[last - 1]
        inside = sum(self._highs[first:last]) - sum(self._lows[first:last]) - max(start - low, 0) - max(high - stop, 0)
        self._put(first, last, [(a, b) for a, b in ((low, start), (stop, high)) if a < b])
        return inside

    def _put(self, first: int, last: int, ranges: list[tuple[int, int]]) -> None:
        self._lows[first:last] = [low for low, _ in ranges]
        self._highs[first:last] = [high for _, high in ranges]
        beyond = len(self._lows) - REMEMBERED_GAPS
        if beyond > 0:
            del self._lows[:beyond], self._highs[:beyond]


class Sequencer:
    """Puts one session's samples in order. Times are monotonic seconds, given by the caller.

    `ended`: the session's END came. `first`: where the session begins as far as this reader can know: a session joined late
    begins at the first index seen.
    """

    __slots__ = (
        "_gaps",
        "_held",
        "_marks",
        "accepted",
        "duplicates",
        "ended",
        "first",
        "gap",
        "held",
        "hold",
        "hold_s",
        "next",
        "rejected",
    )

    def __init__(self, hold: int = HOLD, hold_s: float = HOLD_S) -> None:
        self.hold, self.hold_s = hold, hold_s
        self.first: int | None = None
        self.next = 0
        self.accepted = self.gap = self.rejected = self.duplicates = 0
        self.ended = False
        self.held = 0  # samples that are here but wait for earlier ones
        self._held: list[Early] = []  # by index, never overlapping
        self._marks = 0  # of those: marks
        self._gaps = Gaps()

    @property
    def counts(self) -> Counts:
        seen = 0 if self.first is None else self.next - self.first
        return Counts(seen, self.accepted, self.gap, self.rejected, self.duplicates)

    @property
    def unaccounted(self) -> int:
        """As `Counts.unaccounted`."""
        seen = 0 if self.first is None else self.next - self.first
        return abs(seen - self.accepted - self.gap - self.rejected)

    @property
    def expires_at(self) -> float:
        """When the next of what is held has waited for long enough; infinity if nothing is held."""
        return self._held[0].since + self.hold_s if self._held else math.inf

    def feed(self, index: int, samples: Samples, now: float) -> list[Stretch]:
        """Take samples in; give back what is in order now."""
        self._begin(index)
        if index < self.next:
            late = min(len(samples), self.next - index)
            self._late(index, index + late)
            index, samples = index + late, samples[late:]
        if not len(samples):
            return []
        if index == self.next and not self._held:  # the way of nearly every chunk
            self.next += len(samples)
            self.accepted += len(samples)
            return [Stretch(index, samples)]
        self._hold(index, samples, now)
        runs = self._drain()
        while self.held > self.hold:
            runs += self._give_up()
        return runs

    def notice(self, index: int, now: float) -> None:
        """A STATUS: the session is at `index` by now, so whatever is missing before it was lost, or is late."""
        self._begin(index)
        if index <= self.next or (self._held and index <= self._held[-1].stop):
            return
        mark = Early(index, np.empty(0), now)
        if self._marks < MARKS:
            self._held.append(mark)
            self._marks += 1
        elif not len(self._held[-1].samples):
            self._held[-1] = mark

    def expire(self, now: float) -> list[Stretch]:
        """Give up what has been waited for long enough."""
        runs: list[Stretch] = []
        while self._held and now - self._held[0].since >= self.hold_s:
            runs += self._give_up()
        return runs

    def shift(self, seconds: float) -> None:
        """The caller's clock is another one, ahead by so many seconds."""
        self._held = [Early(one.index, one.samples, one.since + seconds) for one in self._held]

    def is_lost(self, start: int, stop: int) -> bool:
        """Whether these indexes were given up: what comes for them is late, and no repeat."""
        assert self.first is not None
        return stop <= self.first or self._gaps.holds(start, stop)

    def close(self, index: int | None = None) -> list[Stretch]:
        """The session is over, at `index` if it said so: wait no longer for anything."""
        runs: list[Stretch] = []
        while self._held:
            runs += self._give_up()
        if index is not None:
            self._begin(index)
            self._lose(index)
            self.ended = True
        return runs

    def _begin(self, index: int) -> None:
        if self.first is None:
            # Close to 0, the chunks before are more likely late than missed.
            self.first = self.next = 0 if index <= self.hold else index

    def _lose(self, stop: int) -> None:
        if stop > self.next:
            self.gap += stop - self.next
            self._gaps.add(self.next, stop)
            self.next = stop

    def _give_up(self) -> list[Stretch]:
        self._lose(self._held[0].index)
        return self._drain()

    def _drain(self) -> list[Stretch]:
        runs, at = [], 0
        for held in self._held:
            if held.index > self.next:
                break
            at += 1
            if not len(held.samples):
                self._marks -= 1
                continue
            runs.append(Stretch(held.index, held.samples))
            self.next = held.stop
            self.accepted += len(held.samples)
            self.held -= len(held.samples)
        del self._held[:at]
        return runs

    def _hold(self, index: int, samples: Samples, now: float) -> None:
        """Insert what is new of these samples (one at least) among the held ones."""
        stop = index + len(samples)
        # Those that touch the new ones count too: a mark there says nothing any more.
        first, last = bisect_left(self._held, index, key=_stop), bisect_right(self._held, stop, key=_index)
        at, new = index, []
        for held in self._held[first:last]:
            if not len(held.samples):
                self._marks -= 1
                continue
            if at < held.index:
                new.append(Early(at, samples[at - index : held.index - index], now))
                self.held += held.index - at
            new.append(held)
            self.duplicates += min(stop, held.stop) - max(at, held.index)
            at = held.stop
        if at < stop:
            new.append(Early(at, samples[at - index :], now))
            self.held += stop - at
        self._held[first:last] = new

    def _late(self, start: int, stop: int) -> None:
        """Samples below `next`: rejected where they had been given up or come from before this reader joined, else duplicates."""
        assert self.first is not None
        if start < self.first:
            self.rejected += min(stop, self.first) - start
            if stop < self.first:
                self.gap += self.first - stop
                self._gaps.add(stop, self.first)
            self.first, start = start, min(stop, self.first)
        moved = self._gaps.remove(start, stop)
        self.gap -= moved
        self.rejected += moved
        self.duplicates += stop - start - moved


class Counter:
    """Tells a message that comes again from a sensor that starts to count anew under its old session.

    A message at an old index is a repeat if it is one of the last `REMEMBERED_MESSAGES`. If not, it waits: after `RISING` of them
    in a row, each behind the last, the sensor has restarted.
    """

    REMEMBERED_MESSAGES, RISING = 64, 3
    __slots__ = ("_last", "_seen", "_seen_at", "_steps", "_waiting", "counts_messages", "restarted")

    def __init__(self) -> None:
        self._seen = array("I")  # their checksums, the oldest overwritten
        self._seen_at = 0
        self._waiting: list[tuple[int, Samples]] = []
        self._steps = 0  # messages in a row whose index was one above the last, whatever their length
        self._last = -1
        self.counts_messages = False
        self.restarted = False

    def feed(self, index: int, samples: Samples, sequencer: Sequencer) -> list[tuple[int, Samples]]:
        """What is to go on to the sequencer now: this message, or none, or those that waited before it. `restarted` says that
        they begin a new count."""
        crc = zlib.crc32(samples.tobytes(), index & 0xFFFFFFFF)
        rises = index == self._last + 1 and len(samples) > 1
        back = sequencer.first is not None and index + len(samples) <= sequencer.next and len(samples) > 0
        repeat = (rises or back) and crc in self._seen
        if len(self._seen) < self.REMEMBERED_MESSAGES:
            self._seen.append(crc)
        else:
            self._seen[self._seen_at] = crc
            self._seen_at = (self._seen_at + 1) % self.REMEMBERED_MESSAGES
        self._steps = self._steps + 1 if rises and not repeat else 0
        self._last = index
        self.counts_messages = self._steps == self.RISING
        if not back or repeat or sequencer.is_lost(index, index + len(samples)):
            return [*self.give_up(), (index, samples)]
        given = []
        if self._waiting and index != self._waiting[-1][0] + len(self._waiting[-1][1]):
            given = self.give_up()
        self._waiting.append((index, samples))
        self.restarted = len(self._waiting) == self.RISING
        return self.give_up() if self.restarted else given

    def give_up(self) -> list[tuple[int, Samples]]:
        """What waits was a repeat after all."""
        waiting, self._waiting = self._waiting, []
        return waiting
