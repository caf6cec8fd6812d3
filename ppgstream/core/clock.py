"""The sensor's clock: when a message came to the daemon's socket, and at what rate samples come."""

from __future__ import annotations

import math
from typing import NamedTuple

from ppgstream.core.measuring import RateFinder
from ppgstream.wire.message import Chunk

SPAN_S = 30.0  # the least offset of the last 30 to 60 s counts, so that two clocks may drift apart
STEP_S = 1.0  # an offset so far from the least one: a clock was set
FS_SPAN_S = 10.0  # over how much sensor time the sampling rate is measured
FS_FIRST_S = 4.0  # the first time: before the first heart rate
FS_OFF, FS_WRONG = 0.01, 0.02  # a rate off by so much is an event; by so much, heart rates are wrong
FS_TOLD_S = 60.0  # an event no more often than that
# A rate by arrival rests on so many times the longest wait between messages: its standard error is then 0.5 %.
ARRIVAL_SPAN = 80.0
FS_LONG_S = 60.0  # over so much time jitter no longer counts
SURE = 4.0  # standard errors by which a measured rate differs from the declared one, or it says nothing yet
LOOKED_NS = 240_000_000  # from one message to the next by which this error is measured
DRIFT_S = 60.0  # over how much time the drift of a clock is told at least
CLOCK_STEP_S = 1.0  # between two chunks the sensor's clock and its count differ by more: the clock was set


class ArrivalClock:
    """The sensor's clock against ours. The least difference seen is that of a message that was read at once; what others differ
    by more, they waited."""

    __slots__ = ("_before", "_least", "_since")

    def __init__(self) -> None:
        self._least = self._before = math.inf  # of this span, and of the one before
        self._since = 0.0

    def arrived(self, sent_s: float, now: float) -> float:
        """When a message came that the sensor sent at `sent_s` (its clock) and that was read at `now` (ours), s: `now` or
        earlier."""
        offset = now - sent_s
        if offset > min(self._least, self._before) + STEP_S or offset < min(self._least, self._before) - STEP_S:
            self._least = self._before = math.inf
        if now - self._since > SPAN_S:
            self._before, self._least, self._since = self._least, math.inf, now
        self._least = min(self._least, offset)
        return min(sent_s + min(self._least, self._before), now)

    def shift(self, seconds: float) -> None:
        """Our clock is another one, ahead by so many seconds."""
        self._least, self._before, self._since = self._least + seconds, self._before + seconds, self._since + seconds


class RateFound(NamedTuple):
    """Samples come at `fs` Hz, as measured up to some message. changed: whether heart rates can be told is another than before.
    event: name and text of what is to be told, or None."""

    fs: float
    wrong: bool
    changed: bool
    event: tuple[str, str] | None


class RateClock:
    """The rate at which a sensor's samples come, by its own clock, or by the arrival of its messages where it says no time. `fs`:
    the declared one, Hz."""

    __slots__ = (
        "_arrived",
        "_finder",
        "_from",
        "_fs",
        "_last",
        "_last_arrival_s",
        "_looked_at",
        "_origin",
        "_told",
        "_wrong",
        "measured",
        "stepped_s",
    )

    def __init__(self, fs: float) -> None:
        self._fs = fs
        self._told = -math.inf  # when an event was last told
        self._last_arrival_s = 0.0
        self.begin()

    def declare(self, fs: float) -> None:
        """The sensor says another rate, Hz."""
        self._fs = fs
        self.begin()

    def begin(self) -> None:
        """Another session begins."""
        self.measured: float | None = None
        self.stepped_s = 0.0  # by how much the sensor's clock and its count disagree on the last message
        self._wrong = False
        self._from: tuple[int, int] | None = (
            None  # index and time of the message from which the rate is measured, and of the last one
        )
        self._last: tuple[int, int] | None = None
        self._origin: tuple[int, int] | None = None  # index and time of the first message since the clock was last set
        self._finder, self._looked_at = RateFinder(0.0), 0  # of the same messages, four a second: how sure that rate is
        self._arrived = (-1.0, 0, 0.0)  # when the measuring by arrival began, the index then, and the longest wait

    def shift(self, seconds: float) -> None:
        """The clock of arrivals is another one, ahead by so many seconds."""
        since, first, longest = self._arrived
        self._arrived = (since if since < 0 else since + seconds, first, longest)
        self._last_arrival_s += seconds

    def by_its_clock(self, chunk: Chunk) -> RateFound | None:
        """By the sensor's own clock, over `FS_SPAN_S`, once so much is complete."""
        before, self._last = self._last, (chunk.index, chunk.t_ns)
        self.stepped_s = (chunk.t_ns - before[1]) / 1e9 - (chunk.index - before[0]) / self._fs if before else 0.0
        if self._from is None or chunk.index < self._from[0] or abs(self.stepped_s) > CLOCK_STEP_S:
            self._from = self._origin = (chunk.index, chunk.t_ns)  # a clock that was set says nothing about the rate
            self._finder.begin()
            self._looked_at = 0
        if chunk.t_ns - self._looked_at >= LOOKED_NS or chunk.t_ns == self._looked_at:
            self._looked_at = chunk.t_ns
            self._finder.add(chunk.index, chunk.t_ns / 1e9)
        elapsed = (chunk.t_ns - self._from[1]) / 1e9
        if elapsed < (FS_FIRST_S if self.measured is None else FS_SPAN_S):
            return None
        fs = (chunk.index - self._from[0]) / elapsed
        off = abs(fs / self._fs - 1)
        if off > FS_OFF and elapsed < FS_LONG_S:
            estimate = self._finder.estimate()
            if estimate is not None and off < SURE * estimate[1] < math.inf:
                return None  # stamps that jitter: a longer time tells
        self._from = (chunk.index, chunk.t_ns)
        self._finder.begin()
        self._looked_at = 0
        return self._found(fs, chunk.t_ns / 1e9, "come", FS_OFF)

    @property
    def drift_ppm(self) -> float | None:
        """By how much faster than declared samples come by the sensor's own clock, in millionths; None before a minute."""
        if self._origin is None or self._last is None or self._last[1] - self._origin[1] < DRIFT_S * 1e9:
            return None
        fs = (self._last[0] - self._origin[0]) * 1e9 / (self._last[1] - self._origin[1])
        return (fs / self._fs - 1) * 1e6

    def by_arrival(self, chunk: Chunk, now: float) -> RateFound | None:
        """By the arrival of samples, over so long a time that it is known to 0.5 %, once so much is complete."""
        since, first, longest = self._arrived
        wait = now - self._last_arrival_s
        self._last_arrival_s = now
        if since < 0 or chunk.stop < first or wait > max(CLOCK_STEP_S, 4 * longest if longest else FS_TOLD_S):
            self._arrived = (now, chunk.stop, 0.0)  # what comes with the first message was measured before
            return None
        longest = max(longest, wait)
        self._arrived = (since, first, longest)
        if now - since < max(FS_SPAN_S, ARRIVAL_SPAN * longest):
            return None
        self._arrived = (now, chunk.stop, longest)
        return self._found((chunk.stop - first) / (now - since), now, "arrive", FS_WRONG)

    def _found(self, fs: float, now: float, how: str, off: float) -> RateFound:
        self.measured = fs
        by = abs(fs / self._fs - 1)
        wrong = by > FS_WRONG
        changed, self._wrong = wrong != self._wrong, wrong
        event = None
        if by > off and not 0 <= now - self._told < FS_TOLD_S:
            self._told = now
            text = f"samples {how} at {fs:.2f} Hz, not {self._fs:g} Hz"
            event = ("wrong_rate", f"{text}: heart rates are not told") if wrong else ("fs_off", text)
        return RateFound(fs, wrong, changed, event)
