"""Samples whose rate nobody has said: they wait, and their rate is measured, by the sensor's stamps or by their arrival."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.wire.message import Chunk

RATES_HZ = (10.0, 1000.0)  # that sensors may have
RATE_ERROR = 0.005  # relative standard error from which a measured rate counts
STAMPS_ERROR = 0.002  # the same by stamps, over a shorter time
STAMPS_S, ARRIVALS_S = 3.0, 10.0  # over how much time a rate is measured at least, by stamps and by arrival
GROUP_S = 0.01  # what comes within this is one point
MOST_WAITING = (30_000, 4096)  # samples and messages of a stream that wait for their rate


class RateFinder:
    """The rate of samples that say none: the slope of a line through their indexes over time, once its standard error is small.
    Messages that come within `GROUP_S` of each other are one point, so that a backlog that is read at once counts as its last.
    Where several have the same time, as of a clock of whole seconds, an index is known no better than to a message."""

    __slots__ = ("_error", "_least_s", "_n", "_newest", "_origin", "_since", "_sums", "_tied")

    def __init__(self, least_s: float, error: float = RATE_ERROR) -> None:
        self._least_s, self._error = least_s, error  # over how much time at least, and the relative standard error at most
        self.begin()

    def begin(self) -> None:
        """What came before says nothing: a clock was set, or an index fell."""
        self._origin: tuple[int, float] | None = None
        self._newest = (0, 0.0)  # of a group: the last index and time
        self._since = 0.0  # when it began
        self._n = 0
        self._tied = 0  # the most samples between messages of the same time
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # of time, index, time squared, time by index, index squared

    def add(self, index: int, seconds: float) -> None:
        """At this time there were `index` samples."""
        if self._origin is not None and (index < self._newest[0] or seconds < self._newest[1]):
            self.begin()
        if self._origin is None:
            self._origin, self._since = (index, seconds), seconds
        elif seconds - self._since >= GROUP_S:
            if not self._n:
                self._origin = self._newest
            x, y = self._newest[1] - self._origin[1], float(self._newest[0] - self._origin[0])
            t, i, tt, ti, ii = self._sums
            self._sums = (t + x, i + y, tt + x * x, ti + x * y, ii + y * y)
            self._n += 1
            self._since = seconds
        if seconds == self._newest[1] and self._n:
            self._tied = max(self._tied, index - self._newest[0])
        self._newest = (index, seconds)

    @property
    def span_s(self) -> float:
        """From the first to the last point, s."""
        return 0.0 if self._origin is None else self._newest[1] - self._origin[1]

    def estimate(self) -> tuple[float, float] | None:
        """The rate, Hz, and its relative standard error; None if nothing can be said. Few points count for less than theory."""
        if self._n < 2:
            return None
        t, i, tt, ti, ii = self._sums
        around, across, along = ii - i * i / self._n, ti - t * i / self._n, tt - t * t / self._n
        if not along > 0 or not across > 0:
            return None
        fs = across / along
        rest = self._n - 2
        error = math.inf if not rest else math.sqrt(max(around - across * fs, 0.0) / rest / along) / fs * (1 + 2 / rest)
        return fs, max(error, self._tied / (self.span_s * fs))

    def found(self) -> float | None:
        """The rate, Hz, once it is known."""
        estimate = self.estimate()
        if estimate is None or self.span_s < self._least_s or estimate[1] > self._error:
            return None
        return estimate[0]

    def shift(self, seconds: float) -> None:
        """The clock is another one, ahead by so many seconds."""
        if self._origin is not None:
            self._origin = (self._origin[0], self._origin[1] + seconds)
        self._newest, self._since = (self._newest[0], self._newest[1] + seconds), self._since + seconds


class Waiting(NamedTuple):
    """A message of samples whose rate is not known yet, and the times at which it came."""

    first: int
    samples: NDArray[np.generic]
    t_ns: int
    now: float
    read_at: float


class Measuring:
    """Messages that wait for their rate, in order, and what is known of it."""

    __slots__ = ("_arrivals", "_stamps", "messages", "samples")

    def __init__(self) -> None:
        self._stamps, self._arrivals = RateFinder(STAMPS_S, STAMPS_ERROR), RateFinder(ARRIVALS_S)
        self.messages: list[Waiting] = []
        self.samples = 0  # in them

    def add(self, chunk: Chunk, now: float, read_at: float) -> bool:
        """Another message. True once none has to wait any longer: the rate is known, or too many wait."""
        self.messages.append(Waiting(chunk.index, chunk.samples, chunk.t_ns, now, read_at))
        self.samples += len(chunk.samples)
        if chunk.t_ns:
            self._stamps.add(chunk.index, chunk.t_ns / 1e9)
        self._arrivals.add(chunk.stop, read_at)
        known = self._stamps.found() is not None or self._arrivals.found() is not None
        return known or self.samples > MOST_WAITING[0] or len(self.messages) > MOST_WAITING[1]

    def result(self) -> tuple[float | None, str]:
        """The rate, Hz, None if there is none that a sensor may have; and what was measured, for a person."""
        by_stamps = self._stamps.found() is not None or (self._arrivals.found() is None and self._stamps.estimate() is not None)
        finder = self._stamps if by_stamps else self._arrivals
        found = finder.estimate()
        if found is None:
            return None, "too few messages came to measure one"
        fs, error = found
        how = "the sensor's stamps" if by_stamps else "their arrival"
        within = "" if math.isinf(error) else f", to {100 * max(error, 1e-4):.2g} %"
        text = f"samples come at {fs:.4g} Hz by {how} over {finder.span_s:.1f} s{within}"
        # Four digits: no better is known, and sensors of a kind share their filters.
        return float(f"{fs:.4g}") if RATES_HZ[0] <= fs <= RATES_HZ[1] else None, text

    def shift(self, now: float, read_at: float) -> None:
        """The clocks are others, ahead by so many seconds."""
        self._arrivals.shift(read_at)
        self.messages = [one._replace(now=one.now + now, read_at=one.read_at + read_at) for one in self.messages]


saved.known(Measuring, RateFinder, Waiting)
