"""A PPG of known truth: beats as sums of Gaussians, with heart-rate variability, breathing, and shapes that vary.

Each beat is a systolic wave, a diastolic wave behind it and a dip between them (the dicrotic notch), placed as fractions of the
beat's own length. Beat lengths follow a mean rate with a respiratory and a slower (Mayer) oscillation and white jitter; breathing
also moves the amplitude and the baseline. Nothing here was fitted to the recordings the networks are trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
MAYER_HZ = 0.1


@dataclass(frozen=True, slots=True)
class Person:
    """One person's pulse. Rates in beats or breaths a minute, waves as (place, width, height) in beats and relative height."""

    heart_rate: float = 72.0
    breath_rate: float = 15.0
    variability: float = 0.03  # SD of the white jitter of beat lengths, as a share of them
    sinus_arrhythmia: float = 0.05  # how far breathing moves beat lengths
    waves: tuple[tuple[float, float, float], ...] = ((0.22, 0.085, 1.0), (0.50, 0.11, 0.42), (0.38, 0.05, -0.10))
    amplitude: float = 1.0
    offset: float = 0.0


def person(rng: Generator) -> Person:
    """A random one, 50 to 110 bpm."""
    diastolic = rng.uniform(0.25, 0.55)
    return Person(
        heart_rate=rng.uniform(50, 110),
        breath_rate=rng.uniform(10, 22),
        variability=rng.uniform(0.01, 0.04),
        sinus_arrhythmia=rng.uniform(0.02, 0.07),
        waves=(
            (rng.uniform(0.19, 0.26), rng.uniform(0.07, 0.10), 1.0),
            (rng.uniform(0.46, 0.56), rng.uniform(0.09, 0.13), diastolic),
            (rng.uniform(0.35, 0.40), rng.uniform(0.035, 0.06), -rng.uniform(0.02, 0.15)),
        ),
        amplitude=rng.uniform(0.5, 2.0),
        offset=rng.uniform(-1, 3),
    )


def pulse(n: int, who: Person, rng: Generator, *, fs: float = 125.0) -> tuple[Float64, Float64]:
    """`n` clean samples at `fs` Hz, and the times of the beats' starts in samples."""
    t_end = n / fs + 4
    starts, t = [], -rng.uniform(0, 1) - 2
    breath_hz, phase = who.breath_rate / 60, rng.uniform(0, 2 * np.pi)
    while t < t_end:
        starts.append(t)
        breath = np.sin(2 * np.pi * breath_hz * t + phase)
        mayer = np.sin(2 * np.pi * MAYER_HZ * t + 2 * phase)
        t += (
            60
            / who.heart_rate
            * max(1 + who.sinus_arrhythmia * breath + 0.02 * mayer + who.variability * rng.standard_normal(), 0.4)
        )
    begin = np.array(starts)
    length = np.diff(begin, append=begin[-1] + 60 / who.heart_rate)
    height = 1 + 0.04 * rng.standard_normal(len(begin))
    time = np.arange(n) / fs
    x = np.zeros(n)
    for start, span, tall in zip(begin, length, height, strict=True):
        a, b = np.searchsorted(time, [start - 0.5 * span, start + 1.6 * span])
        at = (time[a:b] - start) / span
        for place, width, relative in who.waves:
            x[a:b] += tall * relative * np.exp(-0.5 * ((at - place) / width) ** 2)
    breath = np.sin(2 * np.pi * breath_hz * time + phase)
    x = x * (1 + 0.08 * breath) + 0.06 * breath
    beats = begin * fs
    return who.offset + who.amplitude * x, beats[(beats >= 0) & (beats < n)]


def noisy_pulse(clean: Float64, rng: Generator, *, block: int = 250) -> Float64:
    """The course's three noises on a whole clean record, drawn anew every `block` samples, in the clean record's units.

    White noise of a third of the pulse; a baseline that wanders by up to the height the course's ramp has, joined at the blocks' borders;
    and a run of up to 50 samples clipped to the highest or lowest value of its block.
    """
    n = len(clean)
    blocks = -(-n // block)
    height = np.ptp(clean[: 10 * block])
    x = clean + height / 3 * rng.standard_normal(n)
    # In the course's chain a ramp of up to 2 is added after the white noise had doubled the range: about the same here.
    knots = np.concatenate([[0.0], np.cumsum(rng.uniform(-1, 1, blocks))]) * height
    knots -= np.linspace(0, 1, blocks + 1) * (knots[-1] - knots[0])
    x += np.interp(np.arange(n), np.arange(blocks + 1) * block, knots)
    for b in range(blocks):
        part = x[b * block : (b + 1) * block]
        start, length = rng.integers(0, len(part)), rng.integers(0, 50)
        part[start : start + length] = part.max() if rng.integers(0, 2) else part.min()
    return x
