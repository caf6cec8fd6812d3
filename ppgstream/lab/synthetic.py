"""A PPG of known truth: beats as sums of Gaussians, with heart-rate variability, breathing, and shapes that vary.

Each beat is a systolic wave, a diastolic wave behind it and a dip between them (the dicrotic notch), placed as fractions of the
beat's own length. Beat lengths follow a mean rate with a respiratory and a slower (Mayer) oscillation and white jitter; breathing
also moves the amplitude and the baseline. Nothing here was fitted to the recordings the networks are trained on.

`Wave` and `rounded` make the pulses that such beats do not cover: from a sharp peak to a plain cosine, from a saw to a broad top
with a deep foot, slow and fast, steady and irregular. Wrists, warm hands and smoothing sensors have them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
MAYER_HZ = 0.1
HARMONICS = 8  # of a `Wave`


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

    White noise of a third of the pulse; a baseline that wanders by up to the height the course's ramp has, joined at the blocks'
    borders; and a run of up to 50 samples clipped to the highest or lowest value of its block.
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


@dataclass(frozen=True, slots=True)
class Wave:
    """One beat's shape. Where it is not symmetrical, its steep side goes up. Either eight harmonics or two Gaussians.

    Harmonics, where `sd_s` is 0: the k-th is exp(-decay (k - 1)) high and `lag` (k - 1) + `bent` [k] radians early. decay 0.4: a
    sharp peak, 4: a cosine. lag 0: symmetrical peaks, about 1.5: a saw, 2.5: a broad top and a deep foot, as wrist sensors give
    it. Gaussians: SD `sd_s` seconds, the rise `rise` times as wide; a second one `second` times as high, `later` of a beat later
    and `wider` times as wide. `reversed` turns them over and reverses them in time: again a broad top and a deep foot.
    """

    decay: float = 1.0
    lag: float = 1.2
    bent: tuple[float, ...] = (0.0,) * HARMONICS
    sd_s: float = 0.0
    rise: float = 1.0
    second: float = 0.3
    later: float = 0.35
    wider: float = 1.0
    reversed: bool = False

    def __call__(self, beats: Float64, height: Float64, n: int, fs: float) -> Float64:
        """`n` samples at `fs` Hz of beats at these times (k,), s, so high (k,). The times reach beyond both ends."""
        from scipy.interpolate import PchipInterpolator

        t = np.arange(n) / fs
        if not self.sd_s:
            phase = 2 * np.pi * PchipInterpolator(beats, np.arange(len(beats)))(t)
            x = np.zeros(n)
            for k in range(HARMONICS):
                x += np.exp(-self.decay * k) * np.cos((k + 1) * phase + k * self.lag + self.bent[k])
            return np.asarray(x * PchipInterpolator(beats, height)(t))
        if self.reversed:
            return -replace(self, reversed=False)((t[-1] - beats)[::-1], height[::-1], n, fs)[::-1]
        x, spans = np.zeros(n), np.diff(beats, append=2 * beats[-1] - beats[-2])
        for start, span, tall in zip(beats, spans, height, strict=True):
            for at, sd, high in ((start, self.sd_s, 1.0), (start + self.later * span, self.sd_s * self.wider, self.second)):
                a, b = np.searchsorted(t, (at - 5 * sd, at + 5 * sd))
                off = t[a:b] - at
                x[a:b] += tall * high * np.exp(-0.5 * (off / np.where(off < 0, sd * self.rise, sd)) ** 2)
        return x


def steady(wave: Wave, bpm: float, seconds: float, *, drift: float = 0.0, fs: float = 125.0) -> Float64:
    """A wave at a rate that falls and rises by `drift` of itself, once in 20 s: (m,), without anything else."""
    beats, t = [], -2.0
    while t < seconds + 2:
        beats.append(t)
        t += 60 / (bpm * (1 + drift * np.sin(2 * np.pi * t / 20)))
    return wave(np.array(beats), np.ones(len(beats)), int(seconds * fs), fs)


SHAPE_RATES_BPM = (44.0, 72.0, 118.0, 185.0)
SHAPE_DECAYS, SHAPE_LAGS, SHAPE_SDS = (0.45, 0.8, 1.4, 2.2, 3.8), (0.0, 1.4, 2.5), (0.05, 0.09, 0.14)


def shapes(seconds: float = 20.0, *, fs: float = 125.0) -> dict[str, Float64]:
    """72 clean periodic pulses by name, their rates drifting by 2 %: what any clean pulse may look like, for tests of what a
    denoiser leaves of it."""
    waves = {f"decay {d:g} lag {lag:g}": Wave(d, lag) for d in SHAPE_DECAYS for lag in SHAPE_LAGS}
    waves |= {f"Gaussian {sd:g} s": Wave(sd_s=sd) for sd in SHAPE_SDS}
    return {
        f"{name}, {bpm:g} bpm": steady(wave, bpm, seconds, drift=0.02, fs=fs)
        for name, wave in waves.items()
        for bpm in SHAPE_RATES_BPM
    }


RATES_BPM = (35.0, 220.0)


def random_wave(rng: Generator) -> Wave:
    """Half of them harmonics, half Gaussians."""
    if rng.random() < 0.5:
        bent = (0.0, *(0.15 * rng.standard_normal(HARMONICS - 1)))
        return Wave(rng.uniform(0.35, 4.0), rng.uniform(-0.3, 3.4), bent)
    return Wave(
        sd_s=float(np.exp(rng.uniform(np.log(0.04), np.log(0.17)))),
        rise=rng.uniform(0.5, 1.0),
        second=rng.uniform(0, 0.85),
        later=rng.uniform(0.25, 0.5),
        wider=rng.uniform(0.8, 1.6),
        reversed=rng.random() < 0.15,
    )


def rounded(n: int, rng: Generator, *, fs: float = 125.0) -> Float64:
    """`n` clean samples at `fs` Hz of a random wave at 35 to 220 bpm, its rate wandering by 6 % and drifting by up to 15 %, beats
    early or late by 1, 3 or 10 %, one in twelve as irregular as in atrial fibrillation (10 to 25 %), one in twenty with every
    second beat small; breathing moves height and baseline."""
    bpm = RATES_BPM[0] * (RATES_BPM[1] / RATES_BPM[0]) ** rng.random()
    jitter = rng.uniform(0.10, 0.25) if rng.random() < 1 / 12 else rng.choice((0.01, 0.03, 0.1), p=(0.4, 0.4, 0.2))
    wander_hz, breath_hz, phases = rng.uniform(0.05, 0.15), rng.uniform(0.12, 0.45), rng.uniform(0, 2 * np.pi, 2)
    drift, seconds = rng.uniform(-0.15, 0.15), n / fs
    beats, t = [], -4.0
    while t < seconds + 4:
        beats.append(t)
        rate = bpm * (1 + 0.06 * np.sin(2 * np.pi * wander_hz * t + phases[0])) * (1 + drift * (t / seconds - 0.5))
        t += 60 / rate * max(1 + jitter * rng.standard_normal(), 0.4)
    height = 1 + rng.uniform(0, 0.08) * rng.standard_normal(len(beats))
    if rng.random() < 0.05:
        height[::2] *= rng.uniform(0.3, 0.9)
    x = random_wave(rng)(np.array(beats), height, n, fs)
    x /= max(float(np.ptp(x)), 1e-9)
    breath = np.sin(2 * np.pi * breath_hz * np.arange(n) / fs + phases[1])
    return np.asarray(x * (1 + rng.uniform(0, 0.15) * breath) + rng.uniform(0, 0.1) * breath)
