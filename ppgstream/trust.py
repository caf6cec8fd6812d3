"""What the input itself says about its samples: flat, clipped at a rail, nothing attached. Vectorised over a batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppgstream.wire import Flag

FLAT_RUN = 25  # equal samples in a row that no pulse produces (0.2 s)
RAIL_RUN = 5  # equal samples in a row at the window's extreme: clipped (40 ms; a rounded peak holds 2 or 3)
COARSE_SHARE = 0.2  # of a window's samples have a few equal neighbours: quantisation, not a fault
LEAD_OFF_S = 1.0  # flat for longer: nothing is attached


def run_lengths(x: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each sample of the rows of `x` (n, m): how many equal, valid neighbours in a row it is one of, itself included."""
    new = np.ones(x.shape, np.bool_)
    new[:, 1:] = (x[:, 1:] != x[:, :-1]) | ~valid[:, 1:] | ~valid[:, :-1]
    run = np.cumsum(new.ravel()) - 1
    lengths: NDArray[np.int64] = np.bincount(run)[run].reshape(x.shape)
    return lengths


def held_runs(x: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which samples of the windows `x` (n, m) are one value held: clipped, or a sensor that repeats itself. Nothing was measured there.

    In a coarsely quantised recording equal neighbours mean nothing, and most samples have some: there no run counts as held.
    """
    length = run_lengths(x, valid)
    coarse = ((length > 1) & (length < RAIL_RUN)).mean(axis=1, keepdims=True) > COARSE_SHARE
    held: NDArray[np.bool_] = (length >= RAIL_RUN) & ~coarse
    return held


def input_flags(x: NDArray[np.float64], valid: NDArray[np.bool_], *, fs: float) -> NDArray[np.uint16]:
    """FLAT, SATURATED and LEAD_OFF of each sample of the windows `x` (n, window), in the sensor's units."""
    length = run_lengths(x, valid)
    low = np.where(valid, x, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid, x, -np.inf).max(axis=1, keepdims=True)
    rail = ((x == low) | (x == high)) & (low < high) & valid
    flags = np.where(length >= FLAT_RUN, np.uint16(Flag.FLAT), np.uint16(0))
    flags |= np.where(rail & (length >= RAIL_RUN), np.uint16(Flag.SATURATED), np.uint16(0))
    flags |= np.where(length > LEAD_OFF_S * fs, np.uint16(Flag.LEAD_OFF), np.uint16(0))
    return flags
