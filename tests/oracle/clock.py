"""When a message came to the daemon's socket, by the sensor's own clock: it may have waited there before it was read."""

from __future__ import annotations

import math

SPAN_S = 30.0  # the least offset of the last 30 to 60 s counts, so that two clocks may drift apart
STEP_S = 1.0  # an offset so far from the least one: a clock was set


class ArrivalClock:
    """The sensor's clock against ours. The least difference seen is that of a message that was read at once; what others differ by more, they waited."""

    def __init__(self) -> None:
        self._least = self._before = math.inf  # of this span, and of the one before
        self._since = 0.0

    def arrived(self, sent_s: float, now: float) -> float:
        """When a message came that the sensor sent at `sent_s` (its clock) and that was read at `now` (ours), s: `now` or earlier."""
        offset = now - sent_s
        if offset > min(self._least, self._before) + STEP_S or offset < min(self._least, self._before) - STEP_S:
            self._least = self._before = math.inf
        if now - self._since > SPAN_S:
            self._before, self._least, self._since = self._least, math.inf, now
        self._least = min(self._least, offset)
        return min(sent_s + min(self._least, self._before), now)
