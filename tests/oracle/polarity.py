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

SMOOTHING_S = 0.064  # length of a moving average that is applied twice: short enough for a finger's steep upstroke
VALUES = 0.6  # weight of the skewness of the values against that of the slope: a wrist's pulse has broad tops, so its values speak against it
PRIOR = 0.3  # most sensors are upright
TURNED = 2.0
DECIDED = 4.0  # evidence at which the decision is made; a clean window of a wrist gives 0.6, of a finger 1.4
CHANGED = 10.0  # so many times the evidence changes a decision,
CHANGED_S = 30.0  # and not before so long
LEAST_MEASURED = 0.7  # of a window


class Watcher:
    """The polarity of one session, from its windows in order. A window at a time, by the rules of `ppgstream.core.polarity` of when it was frozen."""

    def __init__(self, polarity: Polarity, fs: float) -> None:
        self.sign = -1.0 if polarity == "down" else 1.0
        self.decided = self._final = polarity != "auto"
        self._smoothing = max(round(SMOOTHING_S * fs), 2)
        self._fs = fs
        self._evidence = PRIOR
        self._since = 0.0
        self._fresh = False
        self._stretch: int | None = None
        self._first = True

    def look(self, x: NDArray[np.float64], state: NDArray[np.uint8], hop: int, stretch: int) -> bool:
        """Take a window (n,) and its samples' states into account; says whether the polarity was decided, or changed, now."""
        if self._final:
            return False
        skewness = self._skewness(x, state)
        if stretch != self._stretch:
            self._stretch, self._fresh = stretch, self.decided
            if self.decided:
                self._evidence = 0.0
        share = 1.0 if self._first else min(hop / len(x), 1.0)  # of the window that the one before had not seen
        self._first = self._first and not skewness
        self._since += share * (len(x) / self._fs)
        self._evidence += skewness * share
        against = -self._evidence * self.sign
        if self.decided:
            if against < -DECIDED:
                self._evidence, self._fresh = DECIDED * self.sign, False
            if against < (DECIDED if self._fresh else CHANGED * DECIDED):
                return False
            if not self._fresh and self._since < CHANGED_S:
                return False
            self.sign = -self.sign
        else:
            self.sign = -1.0 if self._evidence <= -TURNED else 1.0
            if abs(self._evidence) < DECIDED:
                return False
        self.decided = True
        self._evidence, self._since, self._fresh = 0.0, 0.0, False
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
