"""Which way up a pulse is. The networks know upright ones; a sensor that measures reflected light without turning it over sends them upside down.

A pulse rises faster than it falls, and stands above its baseline for a short part of the beat: its slope and its values are both
skewed upwards. They are taken after a smoothing that leaves the pulse and little of white noise. On windows of 2 s under the
whole noise of the course the sign of their sum is right in 97 to 99 of 100.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.measured import MEASURED

Polarity = Literal["auto", "up", "down"]
Float64 = NDArray[np.float64]

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

    __slots__ = ("_evidence", "_first", "decided", "final", "sign")

    def __init__(self, polarity: Polarity) -> None:
        self.sign = -1.0 if polarity == "down" else 1.0
        self.decided = polarity != "auto"
        self.final = self.decided  # nothing changes it any more
        self._evidence = PRIOR
        self._first = True

    def look(self, skewness: float, new: float) -> bool:
        """Take a window's `skewness` into account, `new` the share of it that the window before did not have; says whether the polarity was decided, or
        changed, now."""
        if self.final:
            return False
        self._evidence += skewness * (1.0 if self._first else min(new, 1.0))
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
        self.sign, self.final = -self.sign, True
        return True


UPRIGHT = Watcher("up")


def skewness_of(x: Float64, state: NDArray[np.uint8], fs: float) -> Float64:
    """(n,): of the slope and the values of each window of `x` (n, m), `state` (n, m) as in `measured`; 0 where there is too little to go by.

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
