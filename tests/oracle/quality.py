"""What the input itself says about its samples: flat, clipped at a rail. Vectorised over a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.measured import CONTINUOUS_RUN, HELD, OUTLIER
from ppgstream.wire.message import Flag

FLAT_RUN = 25  # samples of a held run that no clipping of a pulse explains (0.2 s at 125 Hz)
INTERFERENCE_CONFIDENCE = 0.4  # at most, where a steady line is in the signal
HELD_CONFIDENCE = 0.3  # at most, of a sample that was sent and not measured
GOOD_ERROR = 0.25  # of the pulse's power: an SNR of 6 dB


def confidence_of(log_var: NDArray[np.float64]) -> NDArray[np.float64]:
    """How likely a sample's error power is at most a quarter of the pulse's, if it is log-normal (SD 1 of the natural logarithm) about what the network
    says: `log_var`, the log of its squared error over the pulse's variance, any shape. NaN becomes 0."""
    below = np.vectorize(math.erfc, otypes=[np.float64])((log_var - math.log(GOOD_ERROR)) * (1 / math.sqrt(2)))
    return np.nan_to_num(np.asarray(0.5 * below, np.float64))


def input_flags(x: NDArray[np.float64], state: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """FLAT and SATURATED of each sample of the windows `x` (n, window), in the sensor's units; `state` (n, window) as in `measured`."""
    held = state == HELD
    flags = np.zeros(x.shape, np.uint16)
    if not held.any():
        return flags
    sent = state < OUTLIER
    low = np.where(sent, x, np.inf).min(axis=1, keepdims=True)
    high = np.where(sent, x, -np.inf).max(axis=1, keepdims=True)
    rail = ((x == low) | (x == high)) & (low < high) & held
    flags[rail] = Flag.SATURATED
    flags[held & (~rail | (run_lengths(x, held) >= FLAT_RUN))] |= np.uint16(Flag.FLAT)
    return flags


def run_lengths(x: NDArray[np.floating[Any]], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each sample of the rows of `x` (n, m): how many equal, valid neighbours in a row it is one of, itself included."""
    new = np.ones(x.shape, np.bool_)
    new[:, 1:] = (x[:, 1:] != x[:, :-1]) | ~valid[:, 1:] | ~valid[:, :-1]
    run = np.cumsum(new.ravel()) - 1
    lengths: NDArray[np.int64] = np.bincount(run)[run].reshape(x.shape)
    return lengths


def held_rows(x: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
    """Which samples of the windows `x` (n, m) of continuous values are clipped: 3 or more equal ones in a row. For made-up noise,
    a whole batch at once; what a sensor sends is judged by `measured.Judge`."""
    held: NDArray[np.bool_] = run_lengths(x, np.ones(x.shape, np.bool_)) >= CONTINUOUS_RUN
    return held
