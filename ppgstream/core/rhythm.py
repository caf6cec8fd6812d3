"""What is known of heart rates in rows of 8 s: the numbers by which it is judged how sure a rate is, and the rate of input that
is clean by itself."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beats import OF_ALL_BEATS, Intervals
from ppgstream.core.spectra import FFT, POINTS_HZ, RATES, SPAN_S, Spectra, at_rate, level, repeats, spectra, vertex

Float64 = NDArray[np.float64]

NEAR_BPM = 6.0  # of the belief's mode: what counts as the same rate
OTHER_BPM = 12.0  # from it on: another rhythm
OF_A_MULTIPLE = 0.1  # this near to a half or a multiple of the rate it is none
LEAST_INTERVALS = 4  # between sure beats, for a rate of theirs
# Input that is clean by itself, over 8 s: how well it repeats itself (normalised autocorrelation), and which share of its power
# from 0.5 to 12 Hz lies within 0.25 Hz of the rate and its next three multiples; at most half of all at the double, else the rate
# may be half of the true one.
CLEAN_REPEATS, CLEAN_SHARE, CLEAN_LINE_HZ, CLEAN_BAND_HZ, AT_DOUBLE = 0.8, 0.75, 0.25, (0.5, 12.0), 0.5
SECOND_SHARE, MULTIPLE = 0.005, 0.05  # power of a second rhythm, of all; how near to a multiple or a half a rate is one
DISAGREES = 5.0, 0.08  # bpm and share of the rate: by more than both
HARMONICS = (3, 4, 5, 6)  # of the rate; steps have more of them than a pulse
OF_THE_RHYTHM = {
    "output_double": "log of the output's power at twice the rate over that at the rate",
    "input_double": "the same of the input",
    "input_half": "the same of the input at half the rate",
    "input_rival": "log of the input's largest power at another rate that is no half or multiple of it, over that at the rate",
    "output_repeats": "normalised autocorrelation of the output at the period",
    "output_at_half": "the same at half the period, less that at the period",
    "output_best": "the largest at any period, less that at the period",
    "output_at_double": "the same at twice the period, or at 1.7 s, less that at the period",
    "input_repeats": "normalised autocorrelation of the input at the period",
    "input_at_half": "the same at half the period, less that at the period",
    "output_skew": "skewness of the output's slope: a pulse rises faster than it falls",
    "input_skew": "the same of the input",
    "input_harmonics": "log of the input's power at three to six times the rate over that at the rate",
    "residual": "log power of input - output over that of the output, at most 8",
    "lowest": "lowest confidence of the output in 8 s",
}
RATE_FEATURES = {
    "belief": "log odds of the belief within 6 bpm of the rate",
    "confidence": "mean confidence of the output over 8 s",
    "output": "log of the output's power at the rate over its mean over all rates",
    "input": "the same of the input",
    "second": "log of the output's power at the rate over the largest at another",
    "input_second": "the same of the input",
    "beats": "how far the mean rate of the beats in the 8 s is from it, as a logarithm, at most 0.7",
    "sure_beats": "the same of the sure beats; 0.35 where there are fewer than four intervals between such",
    "sure_irregular": "SD of the logarithms of the intervals between sure beats, at most 0.6; 0.3 where there are fewer than "
    "four",
    "unsure": "how many beats too few or too many are to be expected: the sum of min(p, 1 - p) over all peaks of the 8 s, at "
    "most 4",
    "cover": "share of the 8 s that lies between sure beats",
    "jump": "how far the rate is from the one of 2 s before, believed or counted as it is, as a logarithm, at most 0.5; 0.05 "
    "without one",
    **OF_THE_RHYTHM,
    **OF_ALL_BEATS,
}


class Wave(NamedTuple):
    """8 s of streams, a row each: levelled output and input, at the output's height, the confidence, and the spectra of the
    two."""

    out: Float64
    raw: Float64
    confidence: Float64
    of_out: Spectra
    of_raw: Spectra

    def of(self, rows: NDArray[np.int64]) -> Wave:
        return Wave(self.out[rows], self.raw[rows], self.confidence[rows], self.of_out.of(rows), self.of_raw.of(rows))


def wave_of(rows: Float64) -> Wave:
    """Of rows (n, 3, SPAN)."""
    out, raw = level(rows[:, 0]), level(rows[:, 1])
    _to_one_height(out, raw)
    return Wave(out, raw, np.ascontiguousarray(rows[:, 2]), spectra(out), spectra(raw))


def _to_one_height(out: Float64, raw: Float64) -> None:
    """Divide rows (n, m) of both by the output's largest value, or the input's where it has none."""
    m = out.shape[1]
    for row in range(out.shape[0]):
        height = height_in = 0.0
        for k in range(m):
            height, height_in = max(height, abs(out[row, k])), max(height_in, abs(raw[row, k]))
        if not height > 0:
            height = height_in if height_in > 0 else 1.0
        for k in range(m):
            out[row, k] /= height
            raw[row, k] /= height


_LAGS = np.arange(int(60 * POINTS_HZ / RATES[-1]), int(60 * POINTS_HZ / RATES[0]) + 2)
_HZ = np.arange(FFT // 2 + 1) * POINTS_HZ / FFT
_IN_BAND = (CLEAN_BAND_HZ[0] <= _HZ) & (CLEAN_BAND_HZ[1] >= _HZ)


def rate_of_clean_input(raw: Float64, of_raw: Spectra, rate: Float64) -> Float64:
    """The heart rates, bpm, of levelled rows of input (n, SPAN) that are clean by themselves and have another one than `rate`
    (n,); NaN for all others. Where the input has a line at `rate` too, there are two rhythms, and the weaker may be the pulse."""
    found = np.full(len(raw), np.nan)
    peak = RATES[np.argmax(of_raw.relative, axis=1)]
    rows = np.flatnonzero(differ(peak, rate))
    if not len(rows):
        return found
    x, powers = raw[rows], of_raw.powers[rows]
    r = repeats(x, _LAGS)
    top = (r[:, 1:-1] >= r[:, :-2]) & (r[:, 1:-1] >= r[:, 2:]) & (r[:, 1:-1] >= CLEAN_REPEATS)
    at = np.argmax(top, axis=1) + 1  # the shortest period that repeats: its multiples do too
    each = np.arange(len(rows))
    own = 60 * POINTS_HZ / (_LAGS[at] + vertex(r[each, at - 1], r[each, at], r[each, at + 1]))
    whole = np.maximum(powers[:, _IN_BAND].sum(axis=1), 1e-300)
    lines = [_share(powers, k * own, whole) for k in (1, 2, 3, 4)]
    ratio = rate[rows] / own
    multiple = np.min([np.abs(ratio / k - 1) for k in (0.5, 2.0, 3.0)], axis=0) <= MULTIPLE
    clean = top.any(axis=1) & (sum(lines) >= CLEAN_SHARE) & (lines[1] <= AT_DOUBLE) & differ(own, rate[rows])
    clean &= multiple | (_share(powers, rate[rows], whole) < SECOND_SHARE)
    clean &= (own >= RATES[0]) & (own <= RATES[-1])
    found[rows[clean]] = own[clean]
    return found


def _share(powers: Float64, bpm: Float64, whole: Float64) -> Float64:
    """The share of the power around a rate in each row."""
    return np.asarray((powers * (np.abs(_HZ - bpm[:, None] / 60) <= CLEAN_LINE_HZ)).sum(axis=1) / whole, np.float64)


def differ(a: Float64, b: Float64) -> NDArray[np.bool_]:
    off = np.abs(a - b)
    return np.asarray((off > DISAGREES[0]) & (off > DISAGREES[1] * a))


def of_the_belief(rate: Float64, belief: Float64, wave: Wave) -> dict[str, Float64]:
    """Of `RATE_FEATURES` those of belief, confidence and power, (n,)."""
    n = len(rate)
    mass, rival, rival_in = room = np.empty((3, n))
    _near_and_other(RATES, rate, np.ascontiguousarray(belief), wave.of_out.relative, wave.of_raw.relative, room)
    mass = np.clip(mass, 1e-3, 1 - 1e-3)
    at, at_in = at_rate(wave.of_out.relative, rate) + 1e-3, at_rate(wave.of_raw.relative, rate) + 1e-3
    return {
        "belief": np.log(mass / (1 - mass)),
        "confidence": wave.confidence.mean(axis=1),
        "output": np.log(at),
        "second": np.log(at / (rival + 1e-3)),
        "input": np.log(at_in),
        "input_second": np.log(at_in / (rival_in + 1e-3)),
    }


def _near_and_other(rates: Float64, rate: Float64, belief: Float64, out: Float64, raw: Float64, found: Float64) -> None:
    """Of each row, into `found` (3, n): what is believed of the rates near its own, and the largest powers of output and input at
    others."""
    near, far = NEAR_BPM, OTHER_BPM
    for row in range(rate.shape[0]):
        mass = rival = rival_in = 0.0
        for k in range(rates.shape[0]):
            off = abs(rates[k] - rate[row])
            if off <= near:
                mass += belief[row, k]
            elif off > far:
                rival, rival_in = max(rival, out[row, k]), max(rival_in, raw[row, k])
        found[0, row], found[1, row], found[2, row] = mass, rival, rival_in


def beside_beats(rate: Float64, every: Intervals, sure: Intervals) -> dict[str, Float64]:
    """Of `RATE_FEATURES` those that compare a rate with the beats, (n,)."""
    enough = sure.n >= LEAST_INTERVALS
    return {
        "beats": _apart(every.bpm, rate),
        "sure_beats": np.where(enough, _apart(sure.bpm, rate), 0.35),
        "sure_irregular": np.where(enough, np.minimum(sure.irregular, 0.6), 0.3),
        "cover": sure.n * 60 / np.maximum(sure.bpm, 1.0) / SPAN_S,
    }


def _apart(bpm: Float64, rate: Float64) -> Float64:
    return np.asarray(np.minimum(np.abs(np.log(np.maximum(bpm, 1.0) / rate)), 0.7), np.float64)


def jump_of(rate: Float64, before: Float64) -> Float64:
    return np.where(np.isnan(before), 0.05, np.minimum(np.abs(np.log(rate / np.where(np.isnan(before), rate, before))), 0.5))


def of_the_rhythm(rate: Float64, wave: Wave) -> dict[str, Float64]:
    """`OF_THE_RHYTHM` of each row, (n,)."""
    out, raw, confidence, of_out, of_raw = wave
    n = len(rate)
    at_out, at_raw = at_rate(of_out.relative, rate) + 1e-3, at_rate(of_raw.relative, rate) + 1e-3
    rival, power, residual, skew, skew_in, lowest = room = np.empty((6, n))
    _of_waves(RATES, rate, out, raw, confidence, of_raw.relative, room)
    again_out, again_raw = repeats(out, _LAGS_AND_HALF), repeats(raw, _LAGS_AND_HALF)
    period = 60 * POINTS_HZ / rate
    found_out, found_raw = _at_lag(again_out, period), _at_lag(again_raw, period)
    return {
        "output_double": np.log((of_out.near(2 * rate) + 1e-3) / at_out),
        "input_double": np.log((of_raw.near(2 * rate) + 1e-3) / at_raw),
        "input_half": np.log((of_raw.near(rate / 2) + 1e-3) / at_raw),
        "input_rival": np.log((rival + 1e-3) / at_raw),
        "output_repeats": found_out,
        "output_at_half": _at_lag(again_out, period / 2) - found_out,
        "output_best": again_out.max(axis=1) - found_out,
        "output_at_double": _at_lag(again_out, 2 * period) - found_out,
        "input_repeats": found_raw,
        "input_at_half": _at_lag(again_raw, period / 2) - found_raw,
        "output_skew": skew,
        "input_skew": skew_in,
        "input_harmonics": np.log((np.sum([of_raw.near(k * rate) for k in HARMONICS], axis=0) + 1e-3) / at_raw),
        "residual": np.clip(np.log(np.maximum(residual, 1e-9) / np.maximum(power, 1e-9)), -8, 8),
        "lowest": lowest,
    }


def _of_waves(
    rates: Float64, rate: Float64, out: Float64, raw: Float64, confidence: Float64, powers: Float64, found: Float64
) -> None:
    """Of each row, into `found` (6, n): the largest of the input's `powers` (n, rates) at a rate that is neither near its own nor
    near half or a multiple of it; the mean power of the output, and of input - output; the skewness of the slopes of both; and
    the lowest confidence."""
    m, near, share = out.shape[1], OTHER_BPM, OF_A_MULTIPLE
    for row in range(rate.shape[0]):
        rival = 0.0
        for k in range(rates.shape[0]):
            ratio = rates[k] / rate[row]
            if (
                powers[row, k] > rival
                and abs(rates[k] - rate[row]) > near
                and abs(ratio / 0.5 - 1) >= share
                and abs(ratio / 2.0 - 1) >= share
                and abs(ratio / 3.0 - 1) >= share
                and abs(ratio / 4.0 - 1) >= share
            ):
                rival = powers[row, k]
        power = residual = 0.0
        lowest = confidence[row, 0]
        for k in range(m):
            power += out[row, k] * out[row, k]
            residual += (raw[row, k] - out[row, k]) * (raw[row, k] - out[row, k])
            lowest = min(lowest, confidence[row, k])
        found[0, row], found[1, row], found[2, row], found[5, row] = rival, power / m, residual / m, lowest
        found[3, row], found[4, row] = _skew(out[row]), _skew(raw[row])


def _skew(x: Float64) -> float:
    """The skewness of the slope of a levelled row (m,); 0 of a straight one."""
    n = x.shape[0] - 1
    mean = power = cubes = 0.0
    for k in range(n):
        mean += x[k + 1] - x[k]
    mean /= n
    for k in range(n):
        slope = x[k + 1] - x[k] - mean
        power += slope * slope
        cubes += slope * slope * slope
    power = max(power / n, 1e-12)
    return float(cubes / n / (power * math.sqrt(power)))


_LAGS_AND_HALF = np.arange(int(30 * POINTS_HZ / RATES[-1]), int(60 * POINTS_HZ / RATES[0]) + 3)


def _at_lag(again: Float64, lag: Float64) -> Float64:
    """Of autocorrelations at `_LAGS_AND_HALF` (n, lags) the value at a lag of each row (n,), points."""
    at = np.clip(lag - _LAGS_AND_HALF[0], 0, len(_LAGS_AND_HALF) - 2)
    low, each = at.astype(np.int64), np.arange(len(at))
    share = at - low
    return np.asarray(again[each, low] * (1 - share) + again[each, low + 1] * share, np.float64)
