"""Beats and heart rate of what is published, every 2 s, from the last 8 s of a stream's output and input.

Theory of operation. A stream's `Follower` takes its published samples and the sensor's own, at 25 Hz. Every 2 s it gives a `Due`, and at a gap or the
session's end a last one. `fill` works on those of many streams at once, a row each:

    beats        peaks of the output that are the highest within 0.42 beats on both sides (the multi-scale peak search of Bishop and Ercole 2018, MSPTD,
                 at the scale of the current rate), checked by a second detector: a sum of rising slopes as in qppg (Zong et al. 2003)
    heart rate   a belief over 36..220 bpm: spread by what a heart may do in 2 s, times what the spectra of output and input say, normalised

The probability that a rate is within 5 bpm, and that a beat is one, are logistic regressions on numbers that are known then (`train/pulse.py`).
A gap starts the 8 s anew, and the belief spreads by the time that passed. Every reduction runs along a row, so that a stream's results do not depend on
the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.logistic import Logistic, logistic_of
from ppgstream.core.turns import turns
from ppgstream.wire.message import Beats, Chunk, Flag

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

POINTS_HZ = 25.0
SPAN_S, STEP_S = 8.0, 2.0
SPAN, STEP = round(SPAN_S * POINTS_HZ), round(STEP_S * POINTS_HZ)  # points of a row; of a step
LAST_S = 0.8  # a peak this near to the newest sample is decided with the next step: what follows may be higher
LEAST_S = 3.0  # of a stretch, for beats
RATES = np.arange(36.0, 221.0)  # bpm
NEAR_BPM = 6.0  # of the belief's mode: what counts as the same rate
OTHER_BPM = 12.0  # from it on: another rhythm
FFT = 2048
_NOT_MEASURED = np.uint16(Flag.OUTLIER | Flag.NONFINITE)  # of such samples the input says nothing
_STEP = np.uint16(Flag.STEP)
LOST = 0.1  # a wave with less confidence: nearly all beats of noise lie there
DOUBT = 0.4  # the most confidence of a beat or rate that is not to be told as known
EDGE_BPM = 1.0
OTHER_BEATS = 0.5  # of the feature "beats": two fifths less, or two thirds more
EMPTY_POINTS = 5  # 0.2 s
# Input that is clean by itself, over 8 s: how well it repeats itself (normalised autocorrelation), and which share of its power from 0.5 to 12 Hz lies
# within 0.25 Hz of the rate and its next three multiples; at most half of all at the double, else the rate may be half of the true one.
CLEAN_REPEATS, CLEAN_SHARE, CLEAN_LINE_HZ, CLEAN_BAND_HZ, AT_DOUBLE = 0.8, 0.75, 0.25, (0.5, 12.0), 0.5
SECOND_SHARE, MULTIPLE = 0.005, 0.05  # power of a second rhythm, of all; how near to a multiple or a half a rate is one
DISAGREES = 5.0, 0.08  # bpm and share of the rate: by more than both
LOG_MS = (0.0, 7.0)  # of an expected error: 1 ms to 1 s
LARGEST = 1e30  # of what is squared

# A rate's evidence is exp(sum of weight * log(power + floor)), power relative to the mean over RATES. c: mean confidence of the output.
# How they were chosen: docs/decisions.md.
EVIDENCE = {
    "out": (0.3, 0.7),  # output at f: weight, and the same times c
    "out_2f": (0.15, 0.15),
    "out_half": (-0.1, 0.0),
    "in": (0.2, -0.15),
}
FLOOR_OUT, FLOOR_IN = 0.3, 0.3
SPREAD_BPM = 2.3  # scale of the Laplace law of a change in 2 s
JUMP = 0.0025  # probability of any other rate in 2 s
RATE_FEATURES = {
    "belief": "log odds of the belief within 6 bpm of the rate",
    "confidence": "mean confidence of the output over 8 s",
    "output": "log of the output's power at the rate over its mean over all rates",
    "input": "the same of the input",
    "second": "log of the output's power at the rate over the largest at another",
    "input_second": "the same of the input",
    "beats": "how far the mean rate of the beats in the 8 s is from it, as a logarithm, at most 0.7",
}
BEAT_FEATURES = {
    "confidence": "mean confidence of the output, 1 s around the beat",
    "agreed": "1 where the second detector found it too, else 0",
    "rhythm": "log of the output's power at the rate over its mean over all rates",
}


@dataclass(frozen=True)
class RateRules:
    """rate: P(|error| <= 5 bpm) from `RATE_FEATURES`. beat: P(it is one) from `BEAT_FEATURES`. interval: the same numbers give the logarithm of an
    interval's expected error in ms (SD). The defaults are for checkpoints that state none."""

    fs: float = 125.0
    rate: Logistic = field(default_factory=lambda: Logistic(*DEFAULT["rate"]))
    beat: Logistic = field(default_factory=lambda: Logistic(*DEFAULT["beat"]))
    interval: Logistic = field(default_factory=lambda: Logistic(*DEFAULT["interval"]))


# Fitted on ICU patients, for what states no coefficients of its own.
DEFAULT: dict[str, tuple[float, dict[str, float]]] = {
    "rate": (
        -2.89,
        {
            "belief": 0.946,
            "confidence": 4.58,
            "output": 1.37,
            "input": -1.12,
            "second": -0.31,
            "input_second": 0.53,
            "beats": -3.01,
        },
    ),
    "beat": (-5.20, {"confidence": 5.44, "agreed": 0.64, "rhythm": 1.98}),
    "interval": (4.44, {"confidence": -1.40, "agreed": -0.08, "rhythm": -0.05}),
}


FITTED = {"rate": RATE_FEATURES, "beat": BEAT_FEATURES, "interval": BEAT_FEATURES}


def rules_for(stated: Mapping[str, Any], fs: float) -> RateRules:
    """The rules of a checkpoint that states {"rate": {"bias": .., "weights": {..}}, "beat": .., "interval": ..}, any of them or none.

    Raises ValueError for anything else than a bias, and weights by known names."""
    found = {key: logistic_of(key, stated[key], known) for key, known in FITTED.items() if key in stated}
    return RateRules(fs, **found)


@dataclass(slots=True, eq=False)
class Due:
    """What a follower gives every 2 s: a block (3, samples) of output, input and confidence, and the message that `fill` fills. index: after its last
    sample. gap_s: where the stretch ends here, the seconds until the next begins, infinite where it is of another session."""

    follower: Follower
    index: int
    block: Float32
    gap_s: float | None
    chunk: Chunk
    disagrees: float = math.nan  # the output's rate, bpm, where the input is clean by itself and has another, which is told

    @property
    def last(self) -> bool:
        return self.gap_s is not None


def step_of(fs: float) -> int:
    """Samples from one heart rate to the next."""
    return STEP * max(round(fs / POINTS_HZ), 1)


class Follower:
    """The last 8 s of one stream's output, input and confidence, and what is believed of its heart rate."""

    __slots__ = (
        "_factor",
        "_filled",
        "_lead",
        "_levels",
        "_newest",
        "_staging",
        "beat",
        "belief",
        "elapsed_s",
        "points",
        "rows",
        "told",
    )

    def __init__(self, fs: float) -> None:
        self._factor = max(round(fs / POINTS_HZ), 1)
        self._staging = np.zeros((3, step_of(fs)), np.float32)
        self.rows = np.zeros((3, SPAN), np.float32)  # points, oldest first
        self.belief: Float32 | None = None
        self.elapsed_s = 0.0  # since the belief was last multiplied
        self._filled = self._lead = 0  # samples of `_staging`, of which the first `_lead` are not this stretch's
        # Of output and input, subtracted so that float32 holds the pulse. None: there is nothing of this stretch yet.
        self._levels: tuple[float, float] | None = None
        self._newest = (0.0, 0.0)
        # What `fill` keeps:
        self.points = 0  # of this stretch, at the end of `rows`
        self.beat = math.nan  # index of the last beat
        self.told = -1.0  # index up to which beats are decided

    @property
    def factor(self) -> int:
        """Samples a point."""
        return self._factor

    def forget(self, seconds: float = math.inf) -> None:
        """The stretch is over; `seconds` later another begins. Infinite: perhaps of another heart."""
        self.points, self.beat, self.told = 0, math.nan, -1.0
        if math.isinf(seconds):
            self.belief, self.elapsed_s = None, 0.0
        else:
            self.elapsed_s += seconds

    def append(
        self, index: int, out: Float64, raw: Float64, confidence: Float64, flags: NDArray[np.uint16]
    ) -> list[tuple[int, Float32]]:
        """Published samples from `index` on, of one stretch. Gives (index after its last sample, block) of each step that is complete."""
        stepped = False
        if np.count_nonzero(flags):
            stepped = bool(flags[0] & _STEP)
            odd = (flags & _NOT_MEASURED) != 0
            if np.count_nonzero(odd):
                raw = np.where(odd, out, raw)
        first_out, first_raw = out.item(0), raw.item(0)
        if self._levels is None:
            self._levels = (first_out, first_raw)
            self._filled = index % self._staging.shape[1]  # steps end at whole multiples, so that they do in all streams
            self._lead = -(-self._filled // self._factor) * self._factor
        elif stepped:  # a jump of level is none of the pulse's
            self._levels = (self._levels[0] + first_out - self._newest[0], self._levels[1] + first_raw - self._newest[1])
        self._newest = (out.item(-1), raw.item(-1))
        complete = []
        staging, (level_out, level_raw) = self._staging, self._levels
        at, n, size = 0, len(out), staging.shape[1]
        while at < n:
            start = self._filled
            stop = min(start + n - at, size)
            part = slice(at, at + stop - start)
            np.subtract(out[part], level_out, out=staging[0, start:stop], casting="same_kind")
            np.subtract(raw[part], level_raw, out=staging[1, start:stop], casting="same_kind")
            staging[2, start:stop] = confidence[part]
            at += stop - start
            self._filled = stop
            if stop == size:
                complete.append((index + at, staging[:, self._lead :].copy()))
                self._filled = self._lead = 0
        return complete

    def stop(self) -> Float32 | None:
        """The stretch ends: the samples since the last complete step, (3, n). None if it had no samples."""
        if self._levels is None:
            return None
        rest = self._staging[:, min(self._lead, self._filled) : self._filled].copy()
        self._levels = None
        return rest


def untimed(beats: Beats) -> Beats:
    """Beats of samples whose rate is not the declared one: what is in seconds is not known, and nothing is sure."""
    none = np.full(len(beats.at), np.nan, np.float32)
    return Beats(math.nan, 0.0, beats.at, none, none, np.zeros(len(beats.at), np.float32))


def fill(due: Sequence[Due], rules: RateRules) -> None:
    """Compute beats and rates of `due`, which are in order, and put them into their messages."""
    for turn in turns(due, lambda one: id(one.follower)):
        _fill(turn, rules)


def _fill(due: list[Due], rules: RateRules) -> None:
    """`due` of different streams."""
    rows, seen = _rows(due)
    out, confidence = _level(rows[:, 0]), rows[:, 2]
    of_out = spectra(out)
    evidence_out = of_out.relative
    rate = np.array([math.nan] * len(due))
    found: dict[str, Float64] = {}
    full = np.flatnonzero((seen >= SPAN) & ~np.array([one.last for one in due]))
    if len(full):
        raw = _level(rows[full, 1])
        of_raw = spectra(raw)
        mean = confidence[full].mean(axis=1)
        beliefs = [due[k].follower.belief for k in full]
        before = np.stack([_uniform() if b is None else b for b in beliefs]).astype(np.float64)
        elapsed = np.array([due[k].follower.elapsed_s for k in full])
        belief = spread(before, elapsed) * likelihood(of_out.of(full), of_raw, mean)
        belief /= belief.sum(axis=1, keepdims=True)
        for k, row in zip(full, belief, strict=True):
            due[k].follower.belief, due[k].follower.elapsed_s = row.astype(np.float32), 0.0
        rate[full] = mode(belief)
        found = _rate_features(rate[full], belief, mean, evidence_out[full], of_raw.relative)
    scale_rate = rate.copy()  # without a rate yet, the strongest of the output stands in for it
    for k in np.flatnonzero(np.isnan(rate)):
        known = due[k].follower.belief
        scale_rate[k] = RATES[int(np.argmax(evidence_out[k] if known is None else known))]
    peaks, agreed = detect(out, scale_rate)
    sure_rate = np.zeros(len(due))
    if len(full):
        found["beats"] = _beats_off(peaks[full], rate[full])
        sure_rate[full] = _doubted(rules.rate.of(found), rate[full], found)
        denoised = found["confidence"] > 0
        own = np.where(denoised, rate_of_clean_input(raw, of_raw, rate[full]), math.nan)
        for k, at in zip(full[~np.isnan(own)], own[~np.isnan(own)], strict=True):
            due[k].disagrees, rate[k], sure_rate[k] = float(rate[k]), at, min(float(sure_rate[k]), DOUBT)
        nothing = full[~denoised]  # no sample of the 8 s was denoised
        rate[nothing], sure_rate[nothing] = math.nan, 0.0
    _tell(due, rows, seen, peaks, agreed, rate, sure_rate, np.log(_at(evidence_out, scale_rate) + 1e-3), rules)


def _doubted(sure: Float64, rate: Float64, found: Mapping[str, Float64]) -> Float64:
    """The confidence of rates, at most `DOUBT` where the rate is the lowest or highest that can be said, where the beats say something like half or twice
    of it, or where the wave is lost."""
    at_edge = (rate <= RATES[0] + EDGE_BPM) | (rate >= RATES[-1] - EDGE_BPM)
    doubt = at_edge | (found["beats"] > OTHER_BEATS) | (found["confidence"] < LOST)
    return np.where(doubt, np.minimum(sure, DOUBT), sure)


def _rows(due: list[Due]) -> tuple[Float64, NDArray[np.int64]]:
    """The last 8 s of each, (n, 3, SPAN), and how many of its points are there, at the end of a row; those before repeat the first."""
    rows = np.empty((len(due), 3, SPAN))
    seen = np.zeros(len(due), np.int64)
    sizes = [one.block.shape[1] // one.follower.factor for one in due]
    for size in set(sizes):
        at = [k for k, m in enumerate(sizes) if m == size]
        factor = due[at[0]].follower.factor
        if size:
            blocks = np.stack([due[k].block[:, : size * factor] for k in at]).astype(np.float64)
            points = np.clip(blocks, -LARGEST, LARGEST).reshape(len(at), 3, size, factor).sum(axis=3) / factor
            rows[at, :, SPAN - size :] = points
        for k in at:
            rows[k, :, : SPAN - size] = due[k].follower.rows[:, size:]
    for k, one in enumerate(due):
        follower = one.follower
        seen[k] = follower.points = min(follower.points + sizes[k], SPAN)
        follower.rows[:] = rows[k]
        follower.elapsed_s += sizes[k] / POINTS_HZ
        if 0 < seen[k] < SPAN:
            rows[k, :2, : SPAN - seen[k]] = rows[k, :2, SPAN - seen[k], None]
        if seen[k] < SPAN:
            rows[k, 2, : SPAN - seen[k]] = 0.0
    return rows, seen


def _tell(
    due: list[Due],
    rows: Float64,
    seen: NDArray[np.int64],
    peaks: NDArray[np.bool_],
    agreed: NDArray[np.bool_],
    rate: Float64,
    sure_rate: Float64,
    rhythm: Float64,
    rules: RateRules,
) -> None:
    """The messages: rates, and the beats that are decided now."""
    n = len(due)
    factor = due[0].follower.factor
    end = np.array([one.index - one.block.shape[1] % factor for one in due], np.float64)  # the index after a row's last point
    base = end - SPAN * factor + (factor - 1) / 2  # index at the middle of a row's first point
    last = np.array([one.last for one in due])
    limit = np.where(last, end, end - LAST_S * POINTS_HZ * factor)
    told = np.array([max(one.follower.told, e - s * factor) for one, e, s in zip(due, end.tolist(), seen.tolist(), strict=True)])
    index = base[:, None] + np.arange(SPAN) * factor
    new = peaks & (index > told[:, None]) & (index <= limit[:, None])
    new &= (seen >= LEAST_S * POINTS_HZ)[:, None]
    new &= rows[:, 2] > 0  # where nothing was denoised there are no beats
    row, at = np.nonzero(new)
    where, out = index[row, at], rows[:, 0]
    if len(row):
        where = where + factor * _vertex(out[row, at - 1], out[row, at], out[row, at + 1])
    sums = np.concatenate([np.zeros((n, 1)), np.cumsum(rows[:, 2], axis=1)], axis=1)
    side = round(POINTS_HZ / 2)
    first, stop = np.maximum(at - side, 0), np.minimum(at + side + 1, SPAN)
    found = {
        "confidence": (sums[row, stop] - sums[row, first]) / np.maximum(stop - first, 1),
        "agreed": agreed[row, at].astype(np.float64),
        "rhythm": rhythm[row],
    }
    sure = rules.beat.of(found) if len(row) else np.zeros(0)
    sure = np.where(found["confidence"] < LOST, np.minimum(sure, DOUBT), sure)
    error = np.exp(np.clip(rules.interval.linear(found), *LOG_MS)) if len(row) else np.zeros(0)
    bounds = np.searchsorted(row, np.arange(n + 1))
    empty = np.cumsum(rows[:, 2] <= 0, axis=1)  # points of which no sample was denoised
    for k, one in enumerate(due):
        part = slice(bounds[k], bounds[k + 1])
        times = where[part]
        before = np.concatenate([[one.follower.beat], times[:-1]]) if len(times) else times
        if len(times):  # over what was not measured no interval is known
            since = np.clip(np.nan_to_num((before - base[k]) / factor), 0, SPAN - 1).astype(np.int64)
            unknown = (empty[k, at[part]] - empty[k, since] >= EMPTY_POINTS) | (before < base[k])
            before = np.where(unknown, math.nan, before)
        one.chunk.beats = Beats(
            float(rate[k]),
            float(sure_rate[k]),
            np.maximum(np.rint(times), 0).astype(np.uint64),
            ((times - before) * 1000 / rules.fs).astype(np.float32),
            error[part].astype(np.float32),
            sure[part].astype(np.float32),
        )
        if len(times):
            one.follower.beat = float(times[-1])
        if seen[k] >= LEAST_S * POINTS_HZ:
            one.follower.told = float(limit[k])
        if one.gap_s is not None:
            one.follower.forget(one.gap_s)


# ---- beats -----------------------------------------------------------------------------------------------------------

ALONE_BEATS = 0.42  # a peak is the highest within so many beats on both sides
ALONE_POINTS = (4, 25)
RISE_SHARE = 0.2  # of the mean rise of a row's four largest: what rises less is no beat
SLOPE_POINTS = 4  # 0.17 s, as in qppg
SLOPE_ALONE = 7  # points
SLOPE_SHARE = 0.35  # of the mean of a row's four largest sums
SLOPE_BEFORE = 8  # points, at most, from a sum's peak to the pulse's


def detect(x: Float64, rate: Float64) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Peaks of rows (n, SPAN) whose heart rates are about `rate` bpm (n,), and which of them the sum of rising slopes confirms; both (n, SPAN)."""
    alone = np.clip(np.rint(ALONE_BEATS * 60 / rate * POINTS_HZ), *ALONE_POINTS).astype(np.int64)
    peaks = highest_within(x, alone)
    rises = x - _lowest_before(x)
    peaks &= rises > RISE_SHARE * np.sort(np.where(peaks, rises, 0.0), axis=1)[:, -4:].mean(axis=1, keepdims=True)
    rising = np.zeros_like(x)
    rising[:, 1:] = np.maximum(x[:, 1:] - x[:, :-1], 0.0)
    sums = np.cumsum(rising, axis=1)
    slopes = sums.copy()
    slopes[:, SLOPE_POINTS:] -= sums[:, :-SLOPE_POINTS]
    upstrokes = highest_within(slopes, np.full(len(x), SLOPE_ALONE))
    largest = np.sort(np.where(upstrokes, slopes, 0.0), axis=1)[:, -4:].mean(axis=1, keepdims=True)
    upstrokes &= slopes > SLOPE_SHARE * largest
    near = np.zeros_like(upstrokes)
    for later in range(-1, SLOPE_BEFORE + 1):
        if later < 0:
            near[:, :later] |= upstrokes[:, -later:]
        else:
            near[:, later:] |= upstrokes[:, : SPAN - later]
    return peaks, peaks & near


def _lowest_before(x: Float64) -> Float64:
    """Of each point of rows (n, m) the lowest of the 15 points (0.6 s) before it and itself."""
    lowest = x
    for step in (1, 2, 4, 8):  # of 16 points
        earlier = lowest.copy()
        earlier[:, step:] = lowest[:, :-step]
        lowest = np.minimum(lowest, earlier)
    return lowest


def highest_within(x: Float64, scale: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points of rows (n, m) that are higher than the `scale` (n,) points before, and not lower than as many after. Never a row's ends."""
    n, m = x.shape
    most = int(scale.max())
    padded = np.full((n, m + 2 * most + 1), -np.inf)
    padded[:, most : most + m] = x
    runs = [padded]  # [p][i]: the highest of 2^p from i on
    while 2 ** len(runs) <= most:
        step = 2 ** (len(runs) - 1)
        wider = runs[-1].copy()
        wider[:, :-step] = np.maximum(runs[-1][:, :-step], runs[-1][:, step:])
        runs.append(wider)
    power = np.floor(np.log2(scale) + 1e-9).astype(np.int64)
    of_row = np.stack(runs)[power, np.arange(n)]  # (n, m + 2 most + 1)
    width = (2**power)[:, None]
    at = np.arange(m)[None, :] + most

    def run(start: NDArray[np.int64]) -> Float64:
        return np.take_along_axis(of_row, start, axis=1)

    before = np.maximum(run(at - scale[:, None]), run(at - width))
    after = np.maximum(run(at + 1 + np.zeros_like(scale)[:, None]), run(at + 1 + scale[:, None] - width))
    found = (x > before) & (x >= after)
    found[:, [0, -1]] = False
    return found


def _beats_off(peaks: NDArray[np.bool_], rate: Float64) -> Float64:
    count = peaks.sum(axis=1)
    first, last = np.argmax(peaks, axis=1), SPAN - 1 - np.argmax(peaks[:, ::-1], axis=1)
    span = np.maximum(last - first, 1)
    mean = np.where(count > 1, 60 * POINTS_HZ * (count - 1) / span, 0.0)
    return np.asarray(np.minimum(np.abs(np.log(np.maximum(mean, 1.0) / rate)), 0.7), np.float64)


# ---- heart rate ------------------------------------------------------------------------------------------------------

ROUNDING = 1e-5  # of a row's height: what float32 leaves of a straight line is less
_HANN = np.hanning(SPAN)
_T = np.linspace(-1.0, 1.0, SPAN)
_TT = float((_T * _T).sum())


def _level(x: Float64) -> Float64:
    """Rows without mean and slope; of a straight row nothing is left."""
    x = x - x.mean(axis=1, keepdims=True)
    flat = x - _T * ((x * _T).sum(axis=1, keepdims=True) / _TT)
    there = np.abs(flat).max(axis=1, keepdims=True) > ROUNDING * np.abs(x).max(axis=1, keepdims=True)
    return np.asarray(np.where(there, flat, 0.0), np.float64)


def _spectrum(x: Float64) -> Float64:
    """Power of rows (n, SPAN), (n, FFT / 2 + 1); rows of any height are brought to 1 before."""
    height = np.abs(x).max(axis=1, keepdims=True)
    transform = np.fft.rfft(x * _HANN / np.where(height > 0, height, 1.0), FFT, axis=1)
    return np.asarray(transform.real**2 + transform.imag**2, np.float64)


def _bins(multiple: float) -> tuple[NDArray[np.int64], Float64]:
    at = RATES * multiple / 60 * FFT / POINTS_HZ
    return at.astype(np.int64), at - np.floor(at)


_BINS = {multiple: _bins(multiple) for multiple in (0.5, 1.0, 2.0)}


def _at_rates(powers: Float64, multiple: float = 1.0) -> Float64:
    """Power at RATES times `multiple`, (n, rates)."""
    low, share = _BINS[multiple]
    return np.asarray(powers[:, low] * (1 - share) + powers[:, low + 1] * share, np.float64)


class Spectra(NamedTuple):
    """Power of rows at RATES, (n, rates), over its mean over RATES, and the mean (n, 1); 1 and 1 in a row without any. `powers`: of all frequencies."""

    powers: Float64
    relative: Float64
    mean: Float64

    def at(self, multiple: float) -> Float64:
        """The same at RATES times `multiple`."""
        return _at_rates(self.powers, multiple) / self.mean

    def of(self, rows: NDArray[np.int64]) -> Spectra:
        return Spectra(*(part[rows] for part in self))


def spectra(x: Float64) -> Spectra:
    """Of levelled rows (n, SPAN)."""
    powers = _spectrum(x)
    own = _at_rates(powers)
    mean = own.mean(axis=1, keepdims=True)
    none = mean <= 0
    mean = np.where(none, 1.0, mean)
    return Spectra(powers, np.where(none, 1.0, own / mean), mean)


def likelihood(out: Spectra, raw: Spectra, confidence: Float64) -> Float64:
    """How well the spectra of output and input fit each of RATES, (n, rates), the best 1; `confidence` (n,) is the output's mean."""
    c = confidence[:, None]
    parts = {"out": out.relative, "out_2f": out.at(2.0), "out_half": out.at(0.5), "in": raw.relative}
    logs = np.zeros_like(out.relative)
    for name, (weight, with_confidence) in EVIDENCE.items():
        logs += (weight + with_confidence * c) * np.log(parts[name] + (FLOOR_IN if name == "in" else FLOOR_OUT))
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)), np.float64)


_LAGS = np.arange(int(60 * POINTS_HZ / RATES[-1]), int(60 * POINTS_HZ / RATES[0]) + 2)
_HZ = np.arange(FFT // 2 + 1) * POINTS_HZ / FFT
_IN_BAND = (CLEAN_BAND_HZ[0] <= _HZ) & (CLEAN_BAND_HZ[1] >= _HZ)


def rate_of_clean_input(raw: Float64, of_raw: Spectra, rate: Float64) -> Float64:
    """The heart rates, bpm, of levelled rows of input (n, SPAN) that are clean by themselves and have another one than `rate` (n,); NaN for all others.
    Where the input has a line at `rate` too, there are two rhythms, and the weaker may be the pulse."""
    found = np.full(len(raw), math.nan)
    peak = RATES[np.argmax(of_raw.relative, axis=1)]
    rows = np.flatnonzero(_differ(peak, rate))
    if not len(rows):
        return found
    x, powers = raw[rows], of_raw.powers[rows]
    r = repeats(x, _LAGS)
    top = (r[:, 1:-1] >= r[:, :-2]) & (r[:, 1:-1] >= r[:, 2:]) & (r[:, 1:-1] >= CLEAN_REPEATS)
    at = np.argmax(top, axis=1) + 1  # the shortest period that repeats: its multiples do too
    each = np.arange(len(rows))
    own = 60 * POINTS_HZ / (_LAGS[at] + _vertex(r[each, at - 1], r[each, at], r[each, at + 1]))
    whole = np.maximum(powers[:, _IN_BAND].sum(axis=1), 1e-300)
    lines = [_share(powers, k * own, whole) for k in (1, 2, 3, 4)]
    ratio = rate[rows] / own
    multiple = np.min([np.abs(ratio / k - 1) for k in (0.5, 2.0, 3.0)], axis=0) <= MULTIPLE
    clean = top.any(axis=1) & (sum(lines) >= CLEAN_SHARE) & (lines[1] <= AT_DOUBLE) & _differ(own, rate[rows])
    clean &= multiple | (_share(powers, rate[rows], whole) < SECOND_SHARE)
    clean &= (own >= RATES[0]) & (own <= RATES[-1])
    found[rows[clean]] = own[clean]
    return found


def repeats(x: Float64, lags: NDArray[np.int64]) -> Float64:
    """The autocorrelation of rows (n, m) without mean at `lags` (k,) above 0, (n, k): each normalised by the power of the two parts that it compares."""
    m = x.shape[1]
    same = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * m, axis=1)) ** 2, axis=1)[:, lags]
    energy = np.cumsum(x * x, axis=1)
    both = energy[:, m - 1 - lags] * (energy[:, -1:] - energy[:, lags - 1])
    return np.asarray(same / np.maximum(np.sqrt(np.maximum(both, 0.0)), 1e-300), np.float64)


def _vertex(a: Float64, b: Float64, c: Float64) -> Float64:
    """How far the top of the parabola through three values, one point apart, is from the middle one, at most half a point; 0 where it has no top."""
    bend = a - 2 * b + c
    return np.asarray(np.where(bend < 0, np.clip(0.5 * (a - c) / np.minimum(bend, -1e-300), -0.5, 0.5), 0.0), np.float64)


def _share(powers: Float64, bpm: Float64, whole: Float64) -> Float64:
    """The share of the power around a rate in each row."""
    return np.asarray((powers * (np.abs(_HZ - bpm[:, None] / 60) <= CLEAN_LINE_HZ)).sum(axis=1) / whole, np.float64)


def _differ(a: Float64, b: Float64) -> NDArray[np.bool_]:
    off = np.abs(a - b)
    return np.asarray((off > DISAGREES[0]) & (off > DISAGREES[1] * a))


def _uniform() -> Float32:
    return np.full(len(RATES), 1 / len(RATES), np.float32)


def spread(belief: Float64, elapsed_s: Float64) -> Float64:
    """What is believed `elapsed_s` (n,) seconds after `belief` (n, rates): rates change by a Laplace law, and now and then to any other."""
    steps = np.maximum(elapsed_s / STEP_S, 0.0)[:, None]
    a = np.exp(-1.0 / np.clip(SPREAD_BPM * np.sqrt(steps), 0.5, 60.0))
    k = np.arange(len(RATES))
    up, down = a**k, a**-k  # at most exp(185 / 0.5)
    norm = (1 - a ** (k + 1)) / (1 - a) + (1 - a ** (len(RATES) - k)) / (1 - a) - 1
    x = belief / norm
    from_below = up * np.cumsum(x * down, axis=1)
    from_above = (up * np.cumsum(x[:, ::-1] * down, axis=1))[:, ::-1]
    jump = 1 - (1 - JUMP) ** steps
    return np.asarray((1 - jump) * (from_below + from_above - x) + jump / len(RATES), np.float64)


def mode(belief: Float64) -> Float64:
    """The most believed rate of each row, bpm, interpolated."""
    best = belief.argmax(axis=1)
    at = np.clip(best, 1, belief.shape[1] - 2)
    each = np.arange(len(belief))
    a, b, c = (np.log(belief[each, at + k] + 1e-300) for k in (-1, 0, 1))
    return np.asarray(RATES[best] + np.where(at == best, _vertex(a, b, c), 0.0), np.float64)


def _at(relative: Float64, rate: Float64) -> Float64:
    return np.asarray(relative[np.arange(len(rate)), np.clip(np.rint(rate - RATES[0]), 0, len(RATES) - 1).astype(np.int64)])


def _rate_features(rate: Float64, belief: Float64, confidence: Float64, out: Float64, raw: Float64) -> dict[str, Float64]:
    """`RATE_FEATURES` but "beats" of each row, (n,)."""
    off = np.abs(RATES[None, :] - rate[:, None])
    mass = np.clip((belief * (off <= NEAR_BPM)).sum(axis=1), 1e-3, 1 - 1e-3)
    other = off > OTHER_BPM
    found = {"belief": np.log(mass / (1 - mass)), "confidence": confidence}
    for name, second, relative in (("output", "second", out), ("input", "input_second", raw)):
        at = _at(relative, rate) + 1e-3
        found[name] = np.log(at)
        found[second] = np.log(at / (np.where(other, relative, 0.0).max(axis=1) + 1e-3))
    return found
