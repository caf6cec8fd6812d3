"""A record at another sampling rate. Nothing rings across invalid samples, steps and outliers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.judge import Judge
from ppgstream.core.measured import HELD, INVALID, MEASURED, Judged, States

MAX_FILL = 50  # samples that the daemon bridges, by default


def stretches_of(valid: NDArray[np.bool_], steps: list[int]) -> list[tuple[int, int]]:
    """The runs of valid samples, cut at `steps`: (start, stop) each."""
    edges = np.flatnonzero(np.diff(valid.astype(np.int8), prepend=0, append=0))
    stretches = []
    for a, b in edges.reshape(-1, 2).tolist():
        cuts = [a, *(s for s in steps if a < s < b), b]
        stretches += list(pairwise(cuts))
    return stretches


def resampled(x: NDArray[np.float64], start: int, wanted: NDArray[np.int64], fs_from: float, fs_to: float) -> NDArray[np.float64]:
    """A stretch (n,), whose first sample has the index `start` at `fs_from`, at the indexes `wanted` (m,), in order, at `fs_to`.
    Polyphase filter; beyond the stretch its first and last value go on, and the result stays within the stretch's own range."""
    from scipy.signal import resample_poly

    if not len(wanted):
        return np.empty(0)
    ratio = (Fraction(str(fs_to)) / Fraction(str(fs_from))).limit_denominator(20_000)
    up, down = ratio.numerator, ratio.denominator
    lead = start % down  # the filter's first output then lies on an index of both rates
    first = (start - lead) // down * up
    need = -(-(int(wanted[-1]) - first + 1) * down // up) + 1
    padded = np.pad(x, (lead, max(need - lead - len(x), 0)), mode="edge")
    y = resample_poly(padded - x[0], up, down, padtype="edge") + x[0]
    y, low, high = y[wanted - first], x.min(), x.max()
    y = np.where(y > high, high - 1e-6 * (y - high), y)  # an overshoot is folded back: clipped, it would look like a rail
    return np.asarray(np.clip(np.where(y < low, low + 1e-6 * (low - y), y), low, high))


def at_rate(
    x: NDArray[np.float64], state: NDArray[np.uint8], steps: list[int], fs: float, target: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A recording (n,) at another rate, and each new sample's nearest old one. Each stretch between invalid samples and steps by
    itself; held samples and outliers keep their values and reach no other sample; NaN where the nearest sample is invalid."""
    n = len(x)
    there = np.minimum(np.round(np.arange(round(n * target / fs)) * fs / target).astype(np.int64), n - 1)
    at, measured = np.arange(n), state == MEASURED
    y = np.full(len(there), np.nan)
    for a, b in stretches_of(state < INVALID, steps):
        part, known = slice(a, b), state[a:b] <= HELD
        if known.any():
            filled = np.interp(at[part], at[part][known], x[part][known])
            first, last = np.searchsorted(there, [a, b])
            y[first:last] = resampled(filled, a, np.arange(first, last), fs, target)
    odd = ~measured[there] & (state[there] < INVALID)
    y[odd] = x[there[odd]]  # a rail stays a rail
    return y, there


def resample(x: NDArray[np.float64], fs_from: float, fs_to: float) -> NDArray[np.float64]:
    """A record (n,) at another rate: nothing rings across invalid samples, steps and outliers."""
    state, steps = states_of(x, fs_from, round(MAX_FILL * fs_from / fs_to))
    return at_rate(x, state, steps, fs_from, fs_to)[0]


def states_of(x: NDArray[np.float64], fs: float, max_fill: int, sentinels: Sequence[float] = ()) -> tuple[States, list[int]]:
    """The state of each sample of a whole recording (n,), NaN and infinity `INVALID`, and the indexes at which steps begin a new
    stretch."""
    x, judge = np.ascontiguousarray(x, np.float64), Judge(fs, max_fill, sentinels)
    finite = np.isfinite(x)
    edges = np.flatnonzero(finite[1:] != finite[:-1]) + 1
    parts: list[Judged] = []
    for a, b in zip([0, *edges], [*edges, len(x)], strict=True):
        if b > a:
            parts += judge.feed(x[a:b]) if finite[a] else judge.missing(int(b - a), sent=True)
    state, steps, at = np.full(len(x), INVALID, np.uint8), [], 0
    for part in [*parts, *judge.finish()]:
        if part.back and at:
            state[at - 1] = HELD
        if part.kind == "step":
            steps.append(at)
        # A nearly flat stretch is one for the engine as well, which finds it again.
        state[at : at + len(part.x)] = MEASURED if part.state is None or math.isnan(part.value) else part.state
        at += len(part.x) + part.number
    return state, steps
