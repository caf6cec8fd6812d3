"""Beats and heart rate of what is published, every 2 s, from the last 8 s of a stream's output and input.

Theory of operation. A stream's `Follower` takes its published samples and the sensor's own, at 25 Hz. Every 2 s it gives a `Due`, and at a gap or the
session's end a last one. `fill` works on those of many streams at once, a row each:

    beats        peaks of the output (`core/beats.py`)
    heart rate   a belief over 36..220 bpm: spread by what a heart may do in 2 s, times what the spectra of output and input say, normalised; or, where
                 that is more likely right, the mean rate of the sure beats: in an irregular rhythm a spectrum has no line

How sure a beat is, and how sure a rate, decision trees say from numbers that are known then (`train/pulse.py` fits them). Rules come before them: what no
one can tell is never sure. A gap starts the 8 s anew, and the belief spreads by the time that passed. Every reduction runs along a row, so that a
stream's results do not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beats import OF_A_BEAT, OF_ALL_BEATS, Intervals, Peaks, intervals_of, of_all_beats, of_each_beat, peaks_of
from ppgstream.core.belief import STEP_S, likelihood, mode, spread, uniform
from ppgstream.core.logistic import Logistic
from ppgstream.core.spectra import FFT, POINTS_HZ, RATES, SPAN, SPAN_S, Spectra, at_rate, level, repeats, spectra, vertex
from ppgstream.core.trees import Classifier, classifier_of
from ppgstream.core.turns import turns
from ppgstream.wire.message import Beats, Chunk, Flag

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

STEP = round(STEP_S * POINTS_HZ)  # points from one heart rate to the next
LAST_S = 0.8  # a peak this near to the newest sample is decided with the next step: what follows may be higher
# Beats are told once there are 6 s of a stretch, since its period is known then; of one that ends before, as unsure, and of less than 3 s not at all.
WAIT_S, LEAST_S = 6.0, 3.0
NEAR_BPM = 6.0  # of the belief's mode: what counts as the same rate
OTHER_BPM = 12.0  # from it on: another rhythm
OF_A_MULTIPLE = 0.1  # this near to a half or a multiple of the rate it is none
SURE = 0.5  # the confidence from which a beat is sure
NEAR_POINTS = 3  # on both sides of a beat: a quarter of a second in all
_NOT_MEASURED = np.uint16(Flag.OUTLIER | Flag.NONFINITE)  # of such samples the input says nothing
_STEP = np.uint16(Flag.STEP)
LOST = 0.1  # a wave with less confidence: nearly all beats of noise lie there
DOUBT = 0.4  # the most confidence of a beat or rate that is not to be told as known
EDGE_BPM = 1.0
OTHER_BEATS = 0.5  # of the feature "beats": two fifths less, or two thirds more
LEAST_INTERVALS = 4  # between sure beats, for a rate of theirs
# Every second beat is early and low: two of the heart, or one with a second wave. Both features "uneven" and "alternating" are more than the first, the
# wave repeats itself at twice the period at least as well as the second, and better by the third than at the period itself.
IN_PAIRS, PAIRS_REPEAT, PAIRS_BETTER = 0.1, 0.7, 0.2
EMPTY_POINTS = 5  # 0.2 s
# Input that is clean by itself, over 8 s: how well it repeats itself (normalised autocorrelation), and which share of its power from 0.5 to 12 Hz lies
# within 0.25 Hz of the rate and its next three multiples; at most half of all at the double, else the rate may be half of the true one.
CLEAN_REPEATS, CLEAN_SHARE, CLEAN_LINE_HZ, CLEAN_BAND_HZ, AT_DOUBLE = 0.8, 0.75, 0.25, (0.5, 12.0), 0.5
SECOND_SHARE, MULTIPLE = 0.005, 0.05  # power of a second rhythm, of all; how near to a multiple or a half a rate is one
DISAGREES = 5.0, 0.08  # bpm and share of the rate: by more than both
LOG_MS = (0.0, 7.0)  # of an expected error: 1 ms to 1 s
LARGEST = 1e30  # of what is squared

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
    "sure_irregular": "SD of the logarithms of the intervals between sure beats, at most 0.6; 0.3 where there are fewer than four",
    "cover": "share of the 8 s that lies between sure beats",
    "jump": "how far the rate is from that of 2 s before, as a logarithm, at most 0.5; 0.05 where there is none",
    **OF_THE_RHYTHM,
    **OF_ALL_BEATS,
}
BEAT_FEATURES = {
    "confidence": "mean confidence of the output, 1 s around the beat",
    "agreed": "1 where the second detector found it too, else 0",
    "rhythm": "log of the output's power at the rate over its mean over all rates",
    **OF_A_BEAT,
    **OF_THE_RHYTHM,
    **OF_ALL_BEATS,
}


@dataclass(frozen=True)
class RateRules:
    """rate: P(|error| <= 5 bpm) of the believed rate, from `RATE_FEATURES`. count: the same of the mean rate of the sure beats, from the same numbers;
    None: it is never told. beat: P(it is one) from `BEAT_FEATURES`. interval: the same numbers give the logarithm of an interval's expected error in ms
    (SD). The defaults are for checkpoints that state none."""

    fs: float = 125.0
    rate: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["rate"]))
    beat: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["beat"]))
    interval: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["interval"]))
    count: Classifier | None = None


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


FITTED = {"beat": BEAT_FEATURES, "interval": BEAT_FEATURES, "rate": RATE_FEATURES, "count": RATE_FEATURES}


def rules_for(stated: Mapping[str, Any], fs: float) -> RateRules:
    """The rules of a checkpoint that states {"rate": .., "count": .., "beat": .., "interval": ..}, any of them or none, each a logistic regression or
    trees (`classifier_of`). Raises ValueError for anything else."""
    found = {key: classifier_of(key, stated[key], known) for key, known in FITTED.items() if key in stated}
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
    rated: bool = False  # there were 8 s for a rate

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
        "bpm",
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
        self.bpm = math.nan  # what was believed 2 s ago
        self.beat = math.nan  # index of the last beat
        self.told = -1.0  # index up to which beats are decided

    @property
    def factor(self) -> int:
        """Samples a point."""
        return self._factor

    def forget(self, seconds: float = math.inf) -> None:
        """The stretch is over; `seconds` later another begins. Infinite: perhaps of another heart."""
        self.points, self.bpm, self.beat, self.told = 0, math.nan, math.nan, -1.0
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


def index_of(time: Float64, end: Float64, fs: float) -> Float64:
    """The samples' indexes of times (n,), in points, in rows that end before the indexes `end` (n,)."""
    factor = max(round(fs / POINTS_HZ), 1)
    return np.asarray(end - SPAN * factor + (factor - 1) / 2 + time * factor, np.float64)


def untimed(beats: Beats) -> Beats:
    """Beats of samples whose rate is not the declared one: what is in seconds is not known, and nothing is sure."""
    none = np.full(len(beats.at), np.nan, np.float32)
    return Beats(math.nan, 0.0, beats.at, none, none, np.zeros(len(beats.at), np.float32))


def fill(due: Sequence[Due], rules: RateRules) -> None:
    """Compute beats and rates of `due`, which are in order, and put them into their messages."""
    for turn in turns(due, lambda one: id(one.follower)):
        _fill(turn, rules)


class _Wave(NamedTuple):
    """8 s of streams, a row each: levelled output and input, at the output's height, the confidence, and the spectra of the two."""

    out: Float64
    raw: Float64
    confidence: Float64
    of_out: Spectra
    of_raw: Spectra

    def of(self, rows: NDArray[np.int64]) -> _Wave:
        return _Wave(self.out[rows], self.raw[rows], self.confidence[rows], self.of_out.of(rows), self.of_raw.of(rows))


def _wave(rows: Float64) -> _Wave:
    """Of rows (n, 3, SPAN)."""
    out, raw = level(rows[:, 0]), level(rows[:, 1])
    height = np.abs(out).max(axis=1, keepdims=True)
    height = np.where(height > 0, height, np.abs(raw).max(axis=1, keepdims=True))
    height = np.where(height > 0, height, 1.0)
    out, raw = out / height, raw / height
    return _Wave(out, raw, rows[:, 2], spectra(out), spectra(raw))


def _fill(due: list[Due], rules: RateRules) -> None:
    """`due` of different streams."""
    rows, seen = _rows(due)
    wave = _wave(rows)
    full = np.flatnonzero((seen >= SPAN) & ~np.array([one.last for one in due]))
    rate, sure_rate = np.full(len(due), math.nan), np.zeros(len(due))
    there = wave.of(full)
    belief = _believed([due[k] for k in full], there) if len(full) else np.zeros((0, len(RATES)))
    rate[full] = mode(belief)
    about = _about(due, wave, rate)
    peaks = peaks_of(wave.out, wave.confidence, about)
    of_row = _of_the_rhythm(about, wave) | of_all_beats(peaks, wave.out)
    of_beat, sure_beat = _judged_beats(peaks, wave, about, of_row, rules)
    if len(full):
        every, sure = intervals_of(peaks, ~peaks.low | (sure_beat >= SURE)), intervals_of(peaks, sure_beat >= SURE)
        every, sure = (Intervals(*(v[full] for v in one)) for one in (every, sure))
        found = {name: value[full] for name, value in of_row.items()} | _rate_features(rate[full], belief, there)
        found |= _of_beats(rate[full], every, sure)
        found["jump"] = _jump(rate[full], np.array([due[k].follower.bpm for k in full]))
        for k in full:
            due[k].follower.bpm, due[k].rated = float(rate[k]), True
        rate[full], sure_rate[full] = _judged(rate[full], sure, found, rules)
        denoised = found["confidence"] > 0
        own = np.where(denoised, rate_of_clean_input(there.raw, there.of_raw, rate[full]), math.nan)
        for k, at in zip(full[~np.isnan(own)], own[~np.isnan(own)], strict=True):
            due[k].disagrees, rate[k], sure_rate[k] = float(rate[k]), at, min(float(sure_rate[k]), DOUBT)
        nothing = full[~denoised]  # no sample of the 8 s was denoised
        rate[nothing], sure_rate[nothing] = math.nan, 0.0
    _tell(due, wave.confidence, seen, peaks, sure_beat, of_beat, rate, sure_rate, rules)


def _believed(due: Sequence[Due], wave: _Wave) -> Float64:
    """What is believed of each stream's rate now, (n, rates), which its follower keeps."""
    before = np.stack([uniform() if one.follower.belief is None else one.follower.belief for one in due]).astype(np.float64)
    elapsed = np.array([one.follower.elapsed_s for one in due])
    belief = spread(before, elapsed) * likelihood(wave.of_out, wave.of_raw, wave.confidence.mean(axis=1))
    belief /= belief.sum(axis=1, keepdims=True)
    for one, row in zip(due, belief, strict=True):
        one.follower.belief, one.follower.elapsed_s = row.astype(np.float32), 0.0
    return np.asarray(belief, np.float64)


def _about(due: Sequence[Due], wave: _Wave, rate: Float64) -> Float64:
    """The rates, and where there is none yet what is believed or the likeliest of what there is."""
    about = rate.copy()
    unrated = np.flatnonzero(np.isnan(rate)).tolist()
    for k in unrated:
        if (known := due[k].follower.belief) is not None:
            about[k] = RATES[int(np.argmax(known))]
    new = np.array([k for k in unrated if due[k].follower.belief is None], np.int64)
    if len(new):
        confidence = wave.confidence[new].mean(axis=1)
        about[new] = RATES[np.argmax(likelihood(wave.of_out.of(new), wave.of_raw.of(new), confidence), axis=1)]
    return about


def _judged_beats(
    peaks: Peaks, wave: _Wave, rate: Float64, of_row: Mapping[str, Float64], rules: RateRules
) -> tuple[dict[str, Float64], Float64]:
    """`BEAT_FEATURES` of each beat, and its confidence (p,): at most that of the wave at its place."""
    found = {name: value[peaks.row] for name, value in of_row.items()} | of_each_beat(peaks, wave.out, wave.raw, rate)
    found["confidence"], found["agreed"] = peaks.confidence, peaks.agreed.astype(np.float64)
    found["rhythm"] = np.log(at_rate(wave.of_out.relative, rate) + 1e-3)[peaks.row]
    doubted = (peaks.confidence < LOST) | (in_pairs(of_row)[peaks.row] & (found["over_before"] < 0))
    # No features: whoever fits them needs these.
    found |= {"doubted": doubted.astype(np.float64), "time": peaks.time, "row": peaks.row.astype(np.float64)}
    sure = np.minimum(rules.beat.of(found), np.maximum(_at_beats(wave.confidence, peaks), 0.0))
    return found, np.where(doubted, np.minimum(sure, DOUBT), sure)


def _at_beats(confidence: Float64, peaks: Peaks) -> Float64:
    """The mean confidence of a quarter of a second around each beat."""
    points = [np.clip(peaks.at + k, 0, SPAN - 1) for k in range(-NEAR_POINTS, NEAR_POINTS + 1)]
    return np.asarray(np.mean([confidence[peaks.row, at] for at in points], axis=0), np.float64)


def in_pairs(found: Mapping[str, Float64]) -> NDArray[np.bool_]:
    """Of each row (n,) whether its beats come in pairs, of which no one can tell whether they are one beat or two."""
    uneven = (found["uneven"] > IN_PAIRS) & (found["alternating"] > IN_PAIRS)
    again = found["output_at_double"] + found["output_repeats"] >= PAIRS_REPEAT
    return np.asarray(uneven & again & (found["output_at_double"] >= PAIRS_BETTER))


def _judged(rate: Float64, sure: Intervals, found: dict[str, Float64], rules: RateRules) -> tuple[Float64, Float64]:
    """What is told, and its confidence: the believed rate, or that of the sure beats, whichever is more likely right. NaN beyond the scale. At most
    `DOUBT` where the sure beats have another rate, where all beats say something like half or twice of it, where beats come in pairs, or where the wave is
    lost."""
    enough = sure.n >= LEAST_INTERVALS
    beyond = (rate <= RATES[0] + EDGE_BPM) | (rate >= RATES[-1] - EDGE_BPM)
    lost = (found["confidence"] < LOST) | in_pairs(found)
    doubted = lost | beyond | (found["beats"] > OTHER_BEATS) | (enough & _differ(rate, np.where(enough, sure.bpm, rate)))
    count_doubted = lost | ~enough | (sure.bpm <= RATES[0] + EDGE_BPM) | (sure.bpm >= RATES[-1] - EDGE_BPM)
    # No features: whoever fits them needs these.
    found |= {"doubted": doubted.astype(np.float64), "count_doubted": count_doubted.astype(np.float64)}
    found |= {"bpm": rate, "sure_bpm": np.where(enough, sure.bpm, 0.0)}
    told, sure_rate = rate.copy(), rules.rate.of(found)
    sure_rate = np.where(doubted, np.minimum(sure_rate, DOUBT), sure_rate)
    if rules.count is not None:
        counted = np.where(enough, rules.count.of(found), 0.0)
        counted = np.where(count_doubted, np.minimum(counted, DOUBT), counted)
        better = counted > sure_rate
        told, sure_rate = np.where(better, sure.bpm, told), np.where(better, counted, sure_rate)
    beyond = (told <= RATES[0] + EDGE_BPM) | (told >= RATES[-1] - EDGE_BPM)
    return np.where(beyond, math.nan, told), np.where(beyond, 0.0, sure_rate)


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
    confidence: Float64,
    seen: NDArray[np.int64],
    peaks: Peaks,
    sure_beat: Float64,
    found: Mapping[str, Float64],
    rate: Float64,
    sure_rate: Float64,
    rules: RateRules,
) -> None:
    """The messages: rates, and the beats that are decided now."""
    factor = due[0].follower.factor
    end = np.array([one.index - one.block.shape[1] % factor for one in due], np.float64)  # the index after a row's last point
    base = index_of(np.zeros(len(due)), end, rules.fs)  # of the middle of a row's first point
    last = np.array([one.last for one in due])
    limit = np.where(last, end, end - LAST_S * POINTS_HZ * factor)
    told = np.array([max(one.follower.told, e - s * factor) for one, e, s in zip(due, end.tolist(), seen.tolist(), strict=True)])
    short = seen < WAIT_S * POINTS_HZ  # of such a stretch the period is not known
    ready = np.where(last, seen >= LEAST_S * POINTS_HZ, ~short)
    row, at = peaks.row, peaks.at
    index = base[row] + at * factor
    new = (index > told[row]) & (index <= limit[row]) & ready[row]
    new &= confidence[row, at] > 0  # where nothing was denoised there are no beats
    new &= ~peaks.low | (sure_beat >= SURE)
    row, at, where = row[new], at[new], base[row[new]] + peaks.time[new] * factor
    sure = np.where(short[row], np.minimum(sure_beat[new], DOUBT), sure_beat[new])
    error = np.exp(np.clip(rules.interval.linear({name: v[new] for name, v in found.items()}), *LOG_MS))
    bounds = np.searchsorted(row, np.arange(len(due) + 1))
    empty = np.cumsum(confidence <= 0, axis=1)  # points of which no sample was denoised
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
        if ready[k]:
            one.follower.told = float(limit[k])
        if one.gap_s is not None:
            one.follower.forget(one.gap_s)


# ---- heart rate ------------------------------------------------------------------------------------------------------


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
    own = 60 * POINTS_HZ / (_LAGS[at] + vertex(r[each, at - 1], r[each, at], r[each, at + 1]))
    whole = np.maximum(powers[:, _IN_BAND].sum(axis=1), 1e-300)
    lines = [_share(powers, k * own, whole) for k in (1, 2, 3, 4)]
    ratio = rate[rows] / own
    multiple = np.min([np.abs(ratio / k - 1) for k in (0.5, 2.0, 3.0)], axis=0) <= MULTIPLE
    clean = top.any(axis=1) & (sum(lines) >= CLEAN_SHARE) & (lines[1] <= AT_DOUBLE) & _differ(own, rate[rows])
    clean &= multiple | (_share(powers, rate[rows], whole) < SECOND_SHARE)
    clean &= (own >= RATES[0]) & (own <= RATES[-1])
    found[rows[clean]] = own[clean]
    return found


def _share(powers: Float64, bpm: Float64, whole: Float64) -> Float64:
    """The share of the power around a rate in each row."""
    return np.asarray((powers * (np.abs(_HZ - bpm[:, None] / 60) <= CLEAN_LINE_HZ)).sum(axis=1) / whole, np.float64)


def _differ(a: Float64, b: Float64) -> NDArray[np.bool_]:
    off = np.abs(a - b)
    return np.asarray((off > DISAGREES[0]) & (off > DISAGREES[1] * a))


def _rate_features(rate: Float64, belief: Float64, wave: _Wave) -> dict[str, Float64]:
    """Of `RATE_FEATURES` those of belief, confidence and power, (n,)."""
    off = np.abs(RATES[None, :] - rate[:, None])
    mass = np.clip((belief * (off <= NEAR_BPM)).sum(axis=1), 1e-3, 1 - 1e-3)
    other = off > OTHER_BPM
    found = {"belief": np.log(mass / (1 - mass)), "confidence": wave.confidence.mean(axis=1)}
    for name, second, of_one in (("output", "second", wave.of_out), ("input", "input_second", wave.of_raw)):
        at = at_rate(of_one.relative, rate) + 1e-3
        found[name] = np.log(at)
        found[second] = np.log(at / (np.where(other, of_one.relative, 0.0).max(axis=1) + 1e-3))
    return found


def _of_beats(rate: Float64, every: Intervals, sure: Intervals) -> dict[str, Float64]:
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


def _jump(rate: Float64, before: Float64) -> Float64:
    return np.where(np.isnan(before), 0.05, np.minimum(np.abs(np.log(rate / np.where(np.isnan(before), rate, before))), 0.5))


def _of_the_rhythm(rate: Float64, wave: _Wave) -> dict[str, Float64]:
    """`OF_THE_RHYTHM` of each row, (n,)."""
    out, raw, confidence, of_out, of_raw = wave
    at_out, at_raw = at_rate(of_out.relative, rate) + 1e-3, at_rate(of_raw.relative, rate) + 1e-3
    ratio = RATES[None, :] / rate[:, None]
    own = np.abs(RATES[None, :] - rate[:, None]) <= OTHER_BPM
    for multiple in (0.5, 2.0, 3.0, 4.0):
        own |= np.abs(ratio / multiple - 1) < OF_A_MULTIPLE
    again_out, again_raw = repeats(out, _LAGS_AND_HALF), repeats(raw, _LAGS_AND_HALF)
    period = 60 * POINTS_HZ / rate
    found_out, found_raw = _at_lag(again_out, period), _at_lag(again_raw, period)
    power = np.maximum((out * out).mean(axis=1), 1e-9)
    return {
        "output_double": np.log((of_out.near(2 * rate) + 1e-3) / at_out),
        "input_double": np.log((of_raw.near(2 * rate) + 1e-3) / at_raw),
        "input_half": np.log((of_raw.near(rate / 2) + 1e-3) / at_raw),
        "input_rival": np.log((np.where(own, 0.0, of_raw.relative).max(axis=1) + 1e-3) / at_raw),
        "output_repeats": found_out,
        "output_at_half": _at_lag(again_out, period / 2) - found_out,
        "output_best": again_out.max(axis=1) - found_out,
        "output_at_double": _at_lag(again_out, 2 * period) - found_out,
        "input_repeats": found_raw,
        "input_at_half": _at_lag(again_raw, period / 2) - found_raw,
        "residual": np.clip(np.log(np.maximum(((raw - out) ** 2).mean(axis=1), 1e-9) / power), -8, 8),
        "lowest": confidence.min(axis=1),
    }


_LAGS_AND_HALF = np.arange(int(30 * POINTS_HZ / RATES[-1]), int(60 * POINTS_HZ / RATES[0]) + 3)


def _at_lag(again: Float64, lag: Float64) -> Float64:
    """Of autocorrelations at `_LAGS_AND_HALF` (n, lags) the value at a lag of each row (n,), points."""
    at = np.clip(lag - _LAGS_AND_HALF[0], 0, len(_LAGS_AND_HALF) - 2)
    low, each = at.astype(np.int64), np.arange(len(at))
    share = at - low
    return np.asarray(again[each, low] * (1 - share) + again[each, low + 1] * share, np.float64)
