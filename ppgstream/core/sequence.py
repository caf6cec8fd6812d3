"""Arrival order to index order: one session's samples, each exactly once, and an account of every index.

Theory of operation. `next` is the index up to which everything is decided. What arrives beyond it is held, in case the samples
between are only late; after `hold` held samples, or `hold_s` seconds, they are given up as a gap. What arrives below `next` is late: if it
had been given up it moves from gap to rejected, else it is a duplicate. So at any time, of the indexes seen [first, next):

    seen = accepted + gap + rejected
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.generic]
HOLD = 64  # samples: two chunks of 25 and a bit, so that one swapped chunk is put back in order
HOLD_S = 0.5
REMEMBERED_GAPS = 4096  # a late sample of an older gap counts as a duplicate, and its index stays a gap


@dataclass(slots=True)
class Stretch:
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
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def unaccounted(self) -> int:
        return abs(self.seen - self.accepted - self.gap - self.rejected)


@dataclass(frozen=True, slots=True)
class _Held:
    index: int
    samples: Samples
    since: float

    @property
    def stop(self) -> int:
        return self.index + len(self.samples)


@dataclass(slots=True)
class Sequencer:
    """Puts one session's samples in order. Times are monotonic seconds, given by the caller.

    `ended`: the session's END came. `first`: where the session begins as far as this reader can know: a session joined late
    begins at the first index seen.
    """

    hold: int = HOLD
    hold_s: float = HOLD_S
    first: int | None = None
    next: int = 0
    accepted: int = 0
    gap: int = 0
    rejected: int = 0
    duplicates: int = 0
    ended: bool = False
    _held: list[_Held] = field(default_factory=list)
    _gaps: list[tuple[int, int]] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        seen = 0 if self.first is None else self.next - self.first
        return Counts(seen, self.accepted, self.gap, self.rejected, self.duplicates)

    @property
    def held(self) -> int:
        """Samples that are here but wait for earlier ones."""
        return sum(len(h.samples) for h in self._held)

    @property
    def waits(self) -> bool:
        return bool(self._held)

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
        if index > self.next and all(h.index < index for h in self._held):
            self._hold(index, np.empty(0), now)

    def expire(self, now: float) -> list[Stretch]:
        """Give up what has been waited for long enough."""
        runs: list[Stretch] = []
        while self._held and now - self._held[0].since >= self.hold_s:
            runs += self._give_up()
        return runs

    def is_lost(self, start: int, stop: int) -> bool:
        """Whether these indexes were given up: what comes for them is late, and no repeat."""
        assert self.first is not None
        return stop <= self.first or any(low <= start and stop <= high for low, high in self._gaps)

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
            self._gaps = [*self._gaps[1 - REMEMBERED_GAPS :], (self.next, stop)]
            self.next = stop

    def _give_up(self) -> list[Stretch]:
        self._lose(self._held[0].index)
        return self._drain()

    def _drain(self) -> list[Stretch]:
        runs = []
        while self._held and self._held[0].index <= self.next:
            held = self._held.pop(0)
            if len(held.samples):
                runs.append(Stretch(held.index, held.samples))
                self.next = held.stop
                self.accepted += len(held.samples)
        return runs

    def _hold(self, index: int, samples: Samples, now: float) -> None:
        """Insert what is new of these samples among the held ones, which never overlap."""
        at, stop = index, index + len(samples)
        new: list[_Held] = [] if len(samples) else [_Held(index, samples, now)]
        for held in [h for h in self._held if len(h.samples) and h.index < stop and h.stop > index]:
            if at < held.index:
                new.append(_Held(at, samples[at - index : held.index - index], now))
            self.duplicates += min(stop, held.stop) - max(at, held.index)
            at = max(at, held.stop)
        if at < stop:
            new.append(_Held(at, samples[at - index :], now))
        # By index; a STATUS's empty mark after the samples that start there changes nothing.
        self._held = sorted([*self._held, *new], key=lambda h: (h.index, -len(h.samples)))

    def _late(self, start: int, stop: int) -> None:
        """Samples below `next`: rejected where they had been given up or come from before this reader joined, else duplicates."""
        assert self.first is not None
        if start < self.first:
            self.rejected += min(stop, self.first) - start
            self.gap += max(self.first - stop, 0)
            if stop < self.first:
                self._gaps = [(stop, self.first), *self._gaps]
            self.first, start = start, min(stop, self.first)
        moved, gaps = 0, []
        for low, high in self._gaps:
            inside_low, inside_high = max(low, start), min(high, stop)
            if inside_low >= inside_high:
                gaps.append((low, high))
                continue
            moved += inside_high - inside_low
            gaps += [(a, b) for a, b in ((low, inside_low), (inside_high, high)) if a < b]
        self._gaps = gaps
        self.gap -= moved
        self.rejected += moved
        self.duplicates += max(stop - start, 0) - moved


class Counter:
    """Tells a message that comes again from a sensor that starts to count anew under its old session.

    A message at an old index is a repeat if it is one of the last `REMEMBERED_MESSAGES`. If not, it waits: after `RISING` of them in a row,
    each behind the last, the sensor has restarted.
    """

    REMEMBERED_MESSAGES, RISING = 64, 3

    def __init__(self) -> None:
        self._seen = array("I")  # their checksums, the oldest overwritten
        self._seen_at = 0
        self._waiting: list[tuple[int, Samples]] = []
        self._steps = 0  # messages in a row whose index was one above the last, whatever their length
        self._last = -1
        self.counts_messages = False
        self.restarted = False

    def feed(self, index: int, samples: Samples, sequencer: Sequencer) -> list[tuple[int, Samples]]:
        """What is to go on to the sequencer now: this message, or none, or those that waited before it. `restarted` says that they begin a new count."""
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
