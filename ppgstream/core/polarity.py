"""Which way up a pulse is. The networks know upright ones; a sensor that measures reflected light without turning it over sends
them upside down.

A pulse rises faster than it falls, and a finger's stands above its baseline for a short part of the beat: its slope and its
values are skewed upwards. A wrist's has broad tops and deep feet, so that its values are skewed downwards and its upstroke
decides. Both are taken after a smoothing that leaves the pulse and little of white noise. docs/decisions.md: how the weights were
chosen.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.measured import MEASURED

Polarity = Literal["auto", "up", "down"]
Float64 = NDArray[np.float64]

SMOOTHING_S = 0.064  # length of a moving average that is applied twice: short enough for a finger's steep upstroke
# weight of the skewness of the values against that of the slope: a wrist's pulse has broad tops, so its values speak against it
VALUES = 0.6
PRIOR = 0.3  # most sensors are upright
TURNED = 2.0  # evidence for upside down at which windows are turned over, before anything is decided
DECIDED = 4.0  # evidence at which the decision is made; a clean window of a wrist gives 0.6, of a finger 1.4
CHANGED = 10.0  # so many times the evidence changes a decision,
CHANGED_S = 30.0  # and not before so long
LEAST_MEASURED = 0.7  # of a window


class Watcher:
    """The polarity of one session, from its windows in order.

    Each window adds its skewness, so far as it is new, to the evidence. Until that is enough for a decision, windows are taken
    for upright, or for turned over where half as much says so. A sensor that is worn does not turn over: a decision is changed by
    a new stretch with as much evidence, or by ten times the evidence over 30 s.
    """

    __slots__ = ("_evidence", "_first", "_fresh", "_since", "_stretch", "decided", "final", "sign")

    def __init__(self, polarity: Polarity) -> None:
        self.sign = -1.0 if polarity == "down" else 1.0
        self.decided = polarity != "auto"
        self.final = self.decided  # nothing changes it
        self._evidence = PRIOR
        self._since = 0.0  # seconds since the decision
        self._fresh = False  # since the decision a new stretch began, and has not spoken for it yet
        self._stretch: int | None = None
        self._first = True

    def look(self, skewness: float, new: float, window_s: float, stretch: int = 0) -> bool:
        """Take a window's `skewness` into account, `new` the share of it that the window before did not have, `window_s` its
        length, `stretch` the index at which its stretch begins; says whether the polarity was decided, or changed, now."""
        if self.final:
            return False
        if stretch != self._stretch:
            self._stretch, self._fresh = stretch, self.decided
            self._evidence = 0.0 if self.decided else self._evidence
        share = 1.0 if self._first else min(new, 1.0)
        self._first = self._first and not skewness
        self._since += share * window_s
        self._evidence += skewness * share
        against = -self._evidence * self.sign
        if not self.decided:
            self.sign = -1.0 if self._evidence <= -TURNED else 1.0
            if abs(against) < DECIDED:
                return False
            self.decided, against = True, 0.0
        else:
            if against < -DECIDED:  # what speaks for the decision counts no further
                self._evidence, self._fresh = DECIDED * self.sign, False
            needed = DECIDED if self._fresh else CHANGED * DECIDED
            if against < needed or not (self._fresh or self._since >= CHANGED_S):
                return False
        if against > 0:
            self.sign = -self.sign
        self._evidence, self._since, self._fresh = 0.0, 0.0, False
        return True


UPRIGHT = Watcher("up")


def skewness_of(x: Float64, state: NDArray[np.uint8], fs: float) -> Float64:
    """(n,): of the slope and the values of each window of `x` (n, m), `state` (n, m) as in `measured`; 0 where there is too
    little to go by.

    A row's result depends on that row alone, bit for bit."""
    n = max(round(SMOOTHING_S * fs), 2)
    if x.shape[1] < 4 * n:
        return np.zeros(len(x))
    measured = state == MEASURED
    odd = np.flatnonzero(~measured.all(axis=1))
    if len(odd):
        x, at = x.copy(), np.arange(x.shape[1])
        for row in odd:
            known = measured[row]
            x[row] = np.interp(at, at[known], x[row, known]) if known.mean() >= LEAST_MEASURED else 0.0
    low = x.min(axis=1, keepdims=True)
    height = x.max(axis=1, keepdims=True) - low
    y = (x - low) / np.where(height > 0, height, 1.0)
    for _ in range(2):
        total = np.zeros((len(y), y.shape[1] + 1))
        np.cumsum(y, axis=1, out=total[:, 1:])
        y = (total[:, n:] - total[:, :-n]) / n
    ramp = np.linspace(-1.0, 1.0, y.shape[1])
    y = y - y.mean(axis=1, keepdims=True)
    slope = (ramp * y).sum(axis=1, keepdims=True) / (ramp * ramp).sum()
    return np.where(height[:, 0] > 0, _skew(y[:, 1:] - y[:, :-1]) + VALUES * _skew(y - ramp * slope), 0.0)


def _skew(y: Float64) -> Float64:
    y = y - y.mean(axis=1, keepdims=True)
    square = y * y
    power = square.mean(axis=1)
    enough = power > 1e-16
    return np.where(enough, (square * y).mean(axis=1) / np.where(enough, power, 1.0) ** 1.5, 0.0)
