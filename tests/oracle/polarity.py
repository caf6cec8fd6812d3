"""Which way up a pulse is. The networks know upright ones; a sensor that measures reflected light without turning it over sends them upside down.

A pulse rises faster than it falls, and stands above its baseline for a short part of the beat: its slope and its values are both
skewed upwards. They are taken after a smoothing that leaves the pulse and little of white noise. On windows of 2 s under the
whole noise of the course the sign of their sum is right in 97 to 99 of 100.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from oracle.measured import MEASURED

Polarity = Literal["auto", "up", "down"]

SMOOTHING_S = 0.12  # length of a moving average that is applied twice
VALUES = 0.75  # weight of the skewness of the values against that of the slope: fitted to windows under the course's noise
PRIOR = 0.3  # most sensors are upright: so much evidence has to speak against it
DECIDED = 1.5  # evidence at which the decision is made; a window of the course's noise gives 0.9
CONTRARY = 3.0  # evidence for the other side, since then, that changes it
LEAST_MEASURED = 0.7  # of a window


class Watcher:
    """The polarity of one session, from its windows in order.

    Each window adds its skewness, so far as it is new, to the evidence. Until that is enough for a decision every window follows
    what there is of it; the decision changes at most once.
    """

    def __init__(self, polarity: Polarity, fs: float) -> None:
        self.sign = -1.0 if polarity == "down" else 1.0
        self.decided = self._final = polarity != "auto"
        self._smoothing = max(round(SMOOTHING_S * fs), 2)
        self._evidence = PRIOR
        self._first = True

    def look(self, x: NDArray[np.float64], state: NDArray[np.uint8], hop: int) -> bool:
        """Take a window (n,) and its samples' states into account; says whether the polarity was decided, or changed, now."""
        if self._final:
            return False
        skewness = self._skewness(x, state)
        share = 1.0 if self._first else min(hop / len(x), 1.0)  # of the window that the one before had not seen
        self._evidence += skewness * share
        self._first = self._first and not skewness
        if not self.decided:
            self.sign = -1.0 if self._evidence < 0 else 1.0
            self.decided = abs(self._evidence) >= DECIDED
            if self.decided:
                self._evidence = 0.0
            return self.decided
        self._evidence = min(self._evidence * self.sign, CONTRARY) * self.sign
        if self._evidence * self.sign > -CONTRARY:
            return False
        self.sign, self._final = -self.sign, True
        return True

    def _skewness(self, x: NDArray[np.float64], state: NDArray[np.uint8]) -> float:
        """Of the window's slope and values; 0 if there is too little to go by."""
        measured = state == MEASURED
        if not measured.all():
            if measured.mean() < LEAST_MEASURED:
                return 0.0
            at = np.arange(len(x))
            x = np.interp(at, at[measured], x[measured])
        n = self._smoothing
        if len(x) < 4 * n or not np.ptp(x) > 0:
            return 0.0
        y = (x - x.min()) / np.ptp(x)
        for _ in range(2):
            total = np.cumsum(np.concatenate([[0.0], y]))
            y = (total[n:] - total[:-n]) / n
        ramp = np.linspace(-1.0, 1.0, len(y))
        y = y - y.mean()
        return _skew(np.diff(y)) + VALUES * _skew(y - ramp * (ramp @ y) / (ramp @ ramp))


def _skew(y: NDArray[np.float64]) -> float:
    y = y - y.mean()
    power = float((y * y).mean())
    return float((y**3).mean()) / power**1.5 if power > 1e-16 else 0.0
