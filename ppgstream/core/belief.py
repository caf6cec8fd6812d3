"""What is believed of a heart's rate: a distribution over `RATES` of each stream, a row each.

Every 2 s it is spread by what a heart may do in that time, and multiplied by what the spectra of output and input say
(`likelihood`): `follow`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.spectra import RATES, Spectra, vertex

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

STEP_S = 2.0
# A rate's evidence is exp(sum of weight * log(power + floor)), power relative to the mean over RATES. c: mean confidence of the
# output. How they were chosen: docs/decisions.md.
EVIDENCE = {
    "out": (0.3, 0.7),  # output at f: weight, and the same times c
    "out_2f": (0.15, 0.15),
    "out_half": (-0.1, 0.0),
    "in": (0.2, -0.15),
}
FLOOR_OUT, FLOOR_IN = 0.3, 0.3
SPREAD_BPM = 2.3  # scale of the Laplace law of a change in 2 s
JUMP = 0.0025  # probability of any other rate in 2 s


def likelihood(out: Spectra, raw: Spectra, confidence: Float64) -> Float64:
    """How well the spectra of output and input fit each of RATES, (n, rates), the best 1; `confidence` (n,) is the output's
    mean."""
    c = confidence[:, None]
    parts = {"out": out.relative, "out_2f": out.at(2.0), "out_half": out.at(0.5), "in": raw.relative}
    logs = np.zeros_like(out.relative)
    for name, (weight, with_confidence) in EVIDENCE.items():
        logs += (weight + with_confidence * c) * np.log(parts[name] + (FLOOR_IN if name == "in" else FLOOR_OUT))
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)), np.float64)


def uniform() -> Float32:
    """Of what is not known anything."""
    return np.full(len(RATES), 1 / len(RATES), np.float32)


def follow(belief: Float32, elapsed_s: float, evidence: Float64, found: Float64) -> None:
    """What is believed (rates,) `elapsed_s` seconds after `belief`, when `evidence` has come, into `found`: rates change by a
    Laplace law, and now and then to any other."""
    steps = max(elapsed_s / STEP_S, 0.0)
    near = math.exp(-1.0 / min(max(SPREAD_BPM * math.sqrt(steps), 0.5), 60.0))
    _follow(belief, evidence, near, 1 - (1 - JUMP) ** steps, np.empty((2, len(belief) + 1)), found)


def _follow(belief: Float32, evidence: Float64, near: float, jump: float, room: Float64, found: Float64) -> None:
    """near: the share of a rate's probability that one beside it gets; jump: the share that any gets."""
    n = belief.shape[0]
    room[0, 0] = 1.0
    for k in range(n):
        room[0, k + 1] = room[0, k] * near  # powers of `near`
    below = above = total = 0.0
    for k in range(n):
        whole = (1 - room[0, k + 1]) / (1 - near) + (1 - room[0, n - k]) / (1 - near) - 1
        room[1, k] = belief[k] / whole
        below = below * near + room[1, k]
        found[k] = below - room[1, k]
    for k in range(n - 1, -1, -1):
        above = above * near + room[1, k]
        found[k] = ((1 - jump) * (found[k] + above) + jump / n) * evidence[k]
        total += found[k]
    for k in range(n):
        found[k] /= total


def mode(belief: Float64) -> Float64:
    """The most believed rate of each row, bpm, interpolated."""
    best = belief.argmax(axis=1)
    at = np.clip(best, 1, belief.shape[1] - 2)
    each = np.arange(len(belief))
    a, b, c = (np.log(belief[each, at + k] + 1e-300) for k in (-1, 0, 1))
    return np.asarray(RATES[best] + np.where(at == best, vertex(a, b, c), 0.0), np.float64)
