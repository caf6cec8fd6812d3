"""Hearts that do not beat evenly, pulses with a second wave, and other rhythms beside them: what heart rates and beats are
calibrated and judged on.

Each takes a clean record of anyone's pulse and the places of its systolic peaks, and gives a record with the beats that are in
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ppgstream.lab import noise

Float64 = NDArray[np.float64]


class Rhythm(NamedTuple):
    """noisy: (m,). clean: (m,), the pulse in it; None where there is none. peaks: its systolic peaks, indexes in order."""

    noisy: Float64
    clean: Float64 | None
    peaks: Float64


FIBRILLATION_BPM, FIBRILLATION_SD, WILD_SD = (60.0, 130.0), (0.10, 0.25), (0.25, 0.40)
FILLING = (0.0, 0.7)  # of a beat's height is in proportion to the interval before it
SHORTEST_BEAT = 0.4  # of the mean interval
NARROW = 0.4  # of the records
ALTERNANS_HEIGHT, BIGEMINY_HEIGHT, BIGEMINY_EARLY = (0.25, 0.9), (0.35, 0.9), (0.6, 0.85)
SECOND_HEIGHT, SECOND_LATER, SECOND_SD = (0.3, 0.9), (0.3, 0.5), (0.05, 0.09)  # of the pulse; of a beat after its peak; of a beat
ANY_BPM = (25.0, 300.0)
BESIDE_DB = (-6.0, 20.0)
STEPS_HARMONICS = (1.0, 0.9, 0.7, 0.5, 0.4, 0.3)  # at most
SHORTEST_S = 20.0  # of what is made, also of a shorter record


class Beat(NamedTuple):
    """One beat of a record: its samples from foot to foot without the line between them, and where its peak is, as a share of its
    length."""

    wave: Float64
    peak: float


def feet_of(clean: Float64, peaks: Float64) -> NDArray[np.int64]:
    """The lowest sample between each systolic peak and the next, indexes."""
    return np.array([a + int(np.argmin(clean[a : b + 1])) for a, b in pairwise(peaks.astype(int).tolist())], np.int64)


def beats_of(clean: Float64, peaks: Float64) -> list[Beat]:
    """The beats of a record that are about as long and as high as most: within a quarter and a third. At least one; those that
    are not are left out. A record with fewer than three peaks counts as one beat."""
    feet, tops = feet_of(clean, peaks), peaks.astype(int)[1:-1]
    if len(feet) < 2:
        feet, tops = np.array([0, len(clean) - 1]), np.array([int(np.argmax(clean))])
    found = []
    for a, b, peak in zip(feet[:-1], feet[1:], tops, strict=True):
        line = np.linspace(clean[a], clean[b], b - a + 1)
        found.append(Beat(clean[a : b + 1] - line, (peak - a) / (b - a)))
    length, height = (np.array([f(beat.wave) for beat in found]) for f in (len, np.ptp))
    like = np.abs(length / np.median(length) - 1) + 0.75 * np.abs(height / np.median(height) - 1)
    return [beat for beat, off in zip(found, like.tolist(), strict=True) if off <= max(0.25, float(like.min()))]


def of_beats(beats: Sequence[Beat], intervals: Float64, heights: Float64, *, pressed: bool = False) -> tuple[Float64, Float64]:
    """The beats in their order, over and over, with these intervals (k,), samples, and so high (k,): (m,), and its peaks. What
    follows a peak is stretched or pressed; the rise to it only where the interval is shorter than the beat. With `pressed` all of
    a beat is."""
    parts, places, at = [], [], 0.0
    for k, (interval, height) in enumerate(zip(intervals, heights, strict=True)):
        beat = beats[k % len(beats)]
        last = len(beat.wave) - 1
        rise = beat.peak * (float(interval) if pressed else min(float(interval), float(last)))
        time = np.arange(np.ceil(at), np.ceil(at + interval)) - at
        there = np.interp(time, [0.0, rise, interval], [0.0, beat.peak * last, last])
        parts.append(height * np.interp(there, np.arange(last + 1), beat.wave))
        places.append(at + rise)
        at += interval
    x, found = np.concatenate(parts), np.array(places)
    return x, found[found < len(x) - 1]


def narrow(length: int, rng: Generator) -> list[Beat]:
    """One beat of `length` samples: a narrow wave, and half of the time a smaller one behind it."""
    t = np.arange(length + 1) / length
    sd, second = rng.uniform(0.05, 0.12), rng.choice((0.0, rng.uniform(0.1, 0.4)))
    at = 3.2 * sd
    wave = np.exp(-0.5 * ((t - at) / sd) ** 2) + second * np.exp(
        -0.5 * ((t - at - rng.uniform(0.28, 0.4)) / rng.uniform(sd, 0.12)) ** 2
    )
    return [Beat(wave - np.linspace(wave[0], wave[-1], length + 1), float(np.argmax(wave)) / length)]


def _beats(clean: Float64, peaks: Float64, rng: Generator) -> list[Beat]:
    """The record's beats, or in two of five records narrow ones in their place."""
    own = beats_of(clean, peaks)
    return narrow(int(np.median([len(beat.wave) for beat in own])), rng) if rng.random() < NARROW else own


def _count(clean: Float64, mean: float, fs: float) -> int:
    """How many beats of `mean` samples fill the record, or `SHORTEST_S`."""
    return max(int(max(len(clean), SHORTEST_S * fs) / mean), 4)


def fibrillation(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Atrial fibrillation: independent intervals, and lower pulses after shorter ones."""
    return _fibrillation(clean, peaks, rng, FIBRILLATION_SD, fs)


def wild_fibrillation(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """The same with intervals that differ more."""
    return _fibrillation(clean, peaks, rng, WILD_SD, fs)


def _fibrillation(clean: Float64, peaks: Float64, rng: Generator, sd: tuple[float, float], fs: float) -> Rhythm:
    mean, spread, filling = 60 * fs / rng.uniform(*FIBRILLATION_BPM), rng.uniform(*sd), rng.uniform(*FILLING)
    normal = rng.standard_normal(_count(clean, mean, fs))
    intervals = mean * np.maximum(np.exp(spread * normal) if rng.random() < 0.5 else 1 + spread * normal, SHORTEST_BEAT)
    heights = np.clip(1 - filling + filling * np.concatenate([[1.0], intervals[:-1] / mean]), 0.25, 1.5)
    x, found = of_beats(_beats(clean, peaks, rng), intervals, heights, pressed=rng.random() < 0.5)
    return Rhythm(x.copy(), x, found)


def alternans(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Every second pulse is low."""
    return _alternating(clean, peaks, rng, height=rng.uniform(*ALTERNANS_HEIGHT), early=1.0, fs=fs)


def bigeminy(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Every second pulse is early and low, and a longer interval follows."""
    return _alternating(clean, peaks, rng, height=rng.uniform(*BIGEMINY_HEIGHT), early=rng.uniform(*BIGEMINY_EARLY), fs=fs)


def _alternating(clean: Float64, peaks: Float64, rng: Generator, *, height: float, early: float, fs: float) -> Rhythm:
    mean = 60 * fs / rng.uniform(50.0, 120.0)
    intervals = mean * (1 + 0.02 * rng.standard_normal(_count(clean, mean, fs)))
    intervals[::2] *= early
    intervals[1::2] *= 2 - early
    heights = np.ones(len(intervals))
    heights[1::2] = height
    x, found = of_beats(_beats(clean, peaks, rng), intervals, heights, pressed=rng.random() < 0.5)
    return Rhythm(x.copy(), x, found)


def second_wave(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Each beat has a second wave, whose peak is at most nine tenths as high as the first."""
    height, later, sd = rng.uniform(*SECOND_HEIGHT), rng.uniform(*SECOND_LATER), rng.uniform(*SECOND_SD)
    beats = _beats(clean, peaks, rng)
    lengths = np.array([len(beat.wave) - 1 for beat in beats], np.float64)
    intervals = np.resize(lengths, _count(clean, float(lengths.mean()), fs))
    x, found = of_beats(beats, intervals, np.ones(len(intervals)))
    t, single = np.arange(len(x)), x.copy()
    tall = np.array([beat.wave[round(beat.peak * (len(beat.wave) - 1))] for beat in beats])
    for k, peak in enumerate(found):
        at = peak + later * intervals[k]
        high = max(height * tall[k % len(beats)] - float(np.interp(at, t, single)), 0.0)
        x += high * np.exp(-0.5 * ((t - at) / (sd * intervals[k])) ** 2)
    return Rhythm(x.copy(), x, found)


def any_rate(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """From below to beyond the scale of heart rates, steady."""
    return at_rate(clean, peaks, rng.uniform(*ANY_BPM), fs=fs)


def sharp(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Narrow pulses of 60 to 200 bpm, nearly steady."""
    del peaks
    bpm = rng.uniform(60.0, 200.0)
    count = _count(clean, 60 * fs / bpm, fs)
    intervals = 60 * fs / bpm * (1 + rng.uniform(0.005, 0.03) * rng.standard_normal(count))
    x, found = of_beats(narrow(round(60 * fs / bpm), rng), intervals, np.ones(count), pressed=True)
    return Rhythm(x.copy(), x, found)


def beyond(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Faster than the scale of heart rates."""
    return at_rate(clean, peaks, rng.uniform(230.0, 300.0), fs=fs)


def at_rate(clean: Float64, peaks: Float64, bpm: float, *, fs: float = 125.0) -> Rhythm:
    """The record, over and over, played so fast that its mean rate is `bpm`."""
    beats, mean = beats_of(clean, peaks), 60 * fs / bpm
    count = _count(clean, mean, fs)
    lengths = np.array([len(beat.wave) for beat in beats], np.float64)
    intervals = np.resize(lengths / lengths.mean(), count) * mean
    x, found = of_beats(beats, intervals, np.ones(count))
    return Rhythm(x.copy(), x, found)


def walking(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """A pulse of any rate beside steps."""
    there = at_rate(clean, peaks, rng.uniform(50.0, 190.0), fs=fs)
    assert there.clean is not None
    return Rhythm(_beside(there.clean, rng, rng.uniform(*BESIDE_DB), fs), there.clean, there.peaks)


def equally_high(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """A pulse of any rate beside steps of about its strength."""
    there = at_rate(clean, peaks, rng.uniform(50.0, 190.0), fs=fs)
    assert there.clean is not None
    return Rhythm(_beside(there.clean, rng, rng.uniform(-3, 3), fs), there.clean, there.peaks)


def steps_alone(clean: Float64, peaks: Float64, rng: Generator, *, fs: float = 125.0) -> Rhythm:
    """Steps without a pulse."""
    del peaks
    clean = np.resize(clean, max(len(clean), int(SHORTEST_S * fs)))
    return Rhythm(clean.mean() + _beside(clean, rng, 0.0, fs) - clean, None, np.zeros(0))


def _beside(clean: Float64, rng: Generator, over_db: float, fs: float) -> Float64:
    """Steps of any shape on a record, with little or much white noise."""
    harmonics = rng.uniform(0.0, STEPS_HARMONICS)
    harmonics[0] = rng.uniform(0.3, 1.0)
    return noise.steps(clean, rng, fs=fs, over_db=over_db, harmonics=harmonics.tolist(), white=rng.uniform(0.0, 0.1))


KINDS: dict[str, Callable[..., Rhythm]] = {
    "atrial fibrillation": fibrillation,
    "very irregular": wild_fibrillation,
    "sharp pulses": sharp,
    "alternans": alternans,
    "bigeminy": bigeminy,
    "second waves": second_wave,
    "25..300 bpm": any_rate,
    "230..300 bpm": beyond,
    "steps beside": walking,
    "steps, equally high": equally_high,
    "steps alone": steps_alone,
}
