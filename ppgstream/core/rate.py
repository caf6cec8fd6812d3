"""Beats and heart rate of what is published, every 2 s, from the last 8 s of a stream's output and input.

Theory of operation. A stream's `Follower` takes its published samples and the sensor's own, at 25 Hz. Every 2 s it gives a `Due`,
and at a gap or the session's end a last one. `fill` works on those of many streams at once, a row each:

    beats        peaks of the output (`core/beats.py`)
    heart rate   a belief over 36..220 bpm: spread by what a heart may do in 2 s, times what the spectra of output and input say,
                 normalised; or, where that is more likely right, the mean rate of the sure beats: in an irregular rhythm a
                 spectrum has no line

How sure a beat is, and how sure a rate, decision trees say from numbers that are known then (`train/pulse.py` fits them). Rules
limit what they say: what no one can tell is never sure. A gap starts the 8 s anew, and the belief spreads by the time that
passed. Every reduction runs along a row, so that a stream's results do not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beats import OF_A_BEAT, OF_ALL_BEATS, Intervals, Peaks, intervals_of, of_all_beats, of_each_beat, peaks_of
from ppgstream.core.belief import follow, likelihood, mode, uniform
from ppgstream.core.follower import Due, index_of, rows_of
from ppgstream.core.logistic import Logistic
from ppgstream.core.rhythm import (
    LEAST_INTERVALS,
    OF_THE_RHYTHM,
    RATE_FEATURES,
    Wave,
    beside_beats,
    differ,
    jump_of,
    of_the_belief,
    of_the_rhythm,
    rate_of_clean_input,
    wave_of,
)
from ppgstream.core.spectra import POINTS_HZ, RATES, SPAN, at_rate
from ppgstream.core.trees import Classifier, classifier_of
from ppgstream.wire.message import Beats

Float64 = NDArray[np.float64]

LAST_S = 0.8  # a peak this near to the newest sample is decided with the next step: what follows may be higher
# Beats are told once there are 6 s of a stretch, since its period is known then; of one that ends before, as unsure, and of less
# than 3 s not at all.
WAIT_S, LEAST_S = 6.0, 3.0
SURE = 0.5  # the confidence from which a beat is sure
NEAR_POINTS = 3  # on both sides of a beat: a quarter of a second in all
LOST_WAVE = 0.1  # a wave with less confidence: nearly all beats of noise lie there
DOUBT = 0.4  # the most confidence of a beat or rate that is not to be told as known
EDGE_BPM = 1.0
OTHER_BEATS = 0.5  # of the feature "beats": two fifths less, or two thirds more
SAME_BPM = 2.0  # nearer to the believed rate, that of the sure beats is not judged by itself
# Every second beat is early and low: two of the heart, or one with a second wave. Both features "uneven" and "alternating" are
# more than the first, the wave repeats itself at twice the period at least as well as the second, and better by the third than at
# the period itself.
IN_PAIRS, PAIRS_REPEAT, PAIRS_BETTER = 0.1, 0.7, 0.2
# How far from the last sure rate one may be that is sure, as a logarithm, and how much farther for each second since: from 84 to
# 156 takes 92 s. Rates of 8 s in atrial fibrillation are up to a fifth apart; steps that begin are another rhythm at once.
FAR_JUMP, FARTHER_A_S = 0.25, 0.004
EMPTY_POINTS = 5  # 0.2 s
LOG_MS = (0.0, 7.0)  # of an expected error: 1 ms to 1 s
BEAT_FEATURES = {
    "confidence": "mean confidence of the output, 1 s around the beat",
    "agreed": "1 where the second detector found it too, else 0",
    "rhythm": "log of the output's power at the rate over its mean over all rates",
    **OF_A_BEAT,
    **OF_THE_RHYTHM,
    **OF_ALL_BEATS,
    "near_ones": "share of the 8 s's peaks that lie nearer than 0.42 beats to a higher one",
}


@dataclass(frozen=True)
class RateRules:
    """rate: P(|error| <= 5 bpm) of a rate, from `RATE_FEATURES`. beat: P(it is one) from `BEAT_FEATURES`. interval: the same
    numbers give the logarithm of an interval's expected error in ms (SD). The defaults are for checkpoints that state none."""

    fs: float = 125.0
    rate: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["rate"]))
    beat: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["beat"]))
    interval: Classifier = field(default_factory=lambda: Logistic(*DEFAULT["interval"]))


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
    "beat": (-11.20, {"confidence": 5.44, "agreed": 0.64, "rhythm": 1.98, "alone": 6.0}),
    "interval": (4.44, {"confidence": -1.40, "agreed": -0.08, "rhythm": -0.05}),
}
FITTED = {"beat": BEAT_FEATURES, "interval": BEAT_FEATURES, "rate": RATE_FEATURES}


def rules_for(stated: Mapping[str, Any], fs: float) -> RateRules:
    """The rules of a checkpoint that states {"rate": .., "beat": .., "interval": ..}, any of them or none, each a logistic
    regression or trees (`classifier_of`). Raises ValueError for anything else."""
    found = {key: classifier_of(key, stated[key], known) for key, known in FITTED.items() if key in stated}
    return RateRules(fs, **found)


_NO_BEATS, _NONE = np.empty(0, np.uint64), np.empty(0, np.float32)


def untimed(beats: Beats) -> Beats:
    """Beats of samples whose rate is not the declared one: what is in seconds is not known, and nothing is sure."""
    none = np.full(len(beats.at), np.nan, np.float32)
    return Beats(math.nan, 0.0, beats.at, none, none, np.zeros(len(beats.at), np.float32))


def fill(due: Sequence[Due], rules: RateRules) -> None:
    """Compute beats and rates of `due`, which are in order, and put them into their messages."""
    long: list[Due] = []
    brief: list[Due] = []
    points: dict[int, int] = {}  # of followers, once those of this list are there
    over: set[int] = set()  # followers whose stretch ends in this list
    for one in due:
        key = id(one.follower)
        if key in over:  # the next stretch begins with what the last has left
            _fill(long, brief, rules)
            long, brief, points, over = [], [], {}, set()
        points[key] = points.get(key, one.follower.points) + one.points
        is_brief = one.last and points[key] < LEAST_S * POINTS_HZ
        (brief if is_brief else long).append(one)
        if one.last:
            over.add(key)
    _fill(long, brief, rules)


def _fill(due: list[Due], brief: list[Due], rules: RateRules) -> None:
    """`due` of which each is the last of its follower, if it is the last of a stretch; then ends of stretches that are too brief
    for beats: their messages have none."""
    if due:
        rows, seen = rows_of(due)
        _fill_rows(due, wave_of(rows), seen, rules)
    for one in brief:
        follower, seconds = one.follower, one.points / POINTS_HZ
        one.chunk.beats = Beats(math.nan, 0.0, _NO_BEATS, _NONE, _NONE, _NONE)
        follower.elapsed_s += seconds
        follower.since_sure_s += seconds
        if one.untimed:
            follower.sure_bpm = math.nan
        assert one.gap_s is not None
        follower.forget(one.gap_s)


def _fill_rows(due: list[Due], wave: Wave, seen: NDArray[np.int64], rules: RateRules) -> None:
    full = np.flatnonzero((seen >= SPAN) & ~np.array([one.last for one in due]))
    there = wave if len(full) == len(due) else wave.of(full)
    belief, about = _believed(due, wave, full)
    rate, rate_confidence = np.full(len(due), math.nan), np.zeros(len(due))
    rate[full] = about[full] = mode(belief)
    peaks = peaks_of(wave.out, wave.confidence, about)
    of_row = of_the_rhythm(about, wave)
    of_alone = of_all_beats(peaks.only(peaks.alone), wave.out)
    of_beat, beat_confidence = _judged_beats(peaks, wave, about, of_row | of_alone, rules)
    own = np.zeros(0)
    if len(full):
        told = ~peaks.candidate | (beat_confidence >= SURE)
        kept, sure_kept = peaks.only(told), beat_confidence[told] >= SURE
        every, sure = (Intervals(*(v[full] for v in intervals_of(kept, which))) for which in (None, sure_kept))
        of_beats = {name: v[full] for name, v in of_all_beats(kept, wave.out).items()}
        of_beats["unsure"] = np.minimum(peaks.by_row(np.minimum(beat_confidence, 1 - beat_confidence)), 4.0)[full]
        rhythm = {name: v[full] for name, v in of_row.items()}
        rated = [due[k] for k in full]
        rate[full], rate_confidence[full] = _judged(rated, rate[full], _Seen(there, belief, every, sure, of_beats), rhythm, rules)
        denoised = there.confidence.mean(axis=1) > 0
        own = np.where(denoised, rate_of_clean_input(there.raw, there.of_raw, rate[full]), math.nan)
        nothing = full[~denoised]  # no sample of the 8 s was denoised
        rate[nothing], rate_confidence[nothing] = math.nan, 0.0
    _in_order(due, full, rate, rate_confidence, own)
    _tell(due, wave.confidence, seen, peaks, beat_confidence, of_beat, rate, rate_confidence, rules)


def _believed(due: Sequence[Due], wave: Wave, full: NDArray[np.int64]) -> tuple[Float64, Float64]:
    """What is believed of the rates of the `full` rows, (full, rates), which their followers keep; and of the other rows the rate
    that is believed of their followers, or the likeliest of what there is, (n,)."""
    evidence = likelihood(wave.of_out, wave.of_raw, wave.confidence.mean(axis=1))
    belief, about = np.empty((len(full), len(RATES))), np.empty(len(due))
    place = dict(zip(full.tolist(), belief, strict=True))
    for k, one in enumerate(due):
        follower, now = one.follower, place.get(k)
        follower.elapsed_s += one.points / POINTS_HZ
        if now is None:
            about[k] = RATES[int(np.argmax(evidence[k] if follower.belief is None else follower.belief))]
            continue
        follow(uniform() if follower.belief is None else follower.belief, follower.elapsed_s, evidence[k], now)
        follower.belief, follower.elapsed_s = now.astype(np.float32), 0.0
    return belief, about


def _in_order(due: list[Due], full: NDArray[np.int64], rate: Float64, confidence: Float64, own: Float64) -> None:
    """What the last sure rate of a stream says of the next, one after the other. Changes `rate` and `confidence` (n,): to at most
    `DOUBT` where a heart does not get there so soon. own (full,): rates of input that is clean by itself and has another rate,
    which are told instead, else NaN."""
    owns = dict(zip(full.tolist(), own.tolist(), strict=True))
    for k, one in enumerate(due):
        follower = one.follower
        follower.since_sure_s += one.points / POINTS_HZ
        if k in owns:
            told, sure = float(rate[k]), float(confidence[k])
            if abs(math.log(told / follower.sure_bpm)) > FAR_JUMP + FARTHER_A_S * follower.since_sure_s:
                sure = min(sure, DOUBT)
            if not math.isnan(owns[k]):
                one.disagrees, told, sure = told, owns[k], min(sure, DOUBT)
            if sure >= SURE:
                follower.sure_bpm, follower.since_sure_s = told, 0.0
            rate[k], confidence[k] = told, sure
        if one.untimed:
            follower.sure_bpm = math.nan


def _judged_beats(
    peaks: Peaks, wave: Wave, rate: Float64, of_row: Mapping[str, Float64], rules: RateRules
) -> tuple[dict[str, Float64], Float64]:
    """`BEAT_FEATURES` of each beat, and its confidence (p,): at most that of the wave at its place."""
    found = {name: value[peaks.row] for name, value in of_row.items()} | of_each_beat(peaks, wave.out, wave.raw, rate)
    found["confidence"], found["agreed"] = peaks.confidence, peaks.agreed.astype(np.float64)
    found["rhythm"] = np.log(at_rate(wave.of_out.relative, rate) + 1e-3)[peaks.row]
    count = peaks.by_row(np.ones(len(peaks.row)))
    found["near_ones"] = (peaks.by_row((~peaks.alone).astype(np.float64)) / np.maximum(count, 1.0))[peaks.row]
    doubted = (peaks.confidence < LOST_WAVE) | (in_pairs(of_row)[peaks.row] & (found["over_before"] < 0))
    # No features: whoever fits them needs these.
    found |= {"doubted": doubted.astype(np.float64), "time": peaks.time, "row": peaks.row.astype(np.float64)}
    confidence = np.minimum(rules.beat.of(found), np.maximum(_at_beats(wave.confidence, peaks), 0.0))
    return found, np.where(doubted, np.minimum(confidence, DOUBT), confidence)


def _at_beats(confidence: Float64, peaks: Peaks) -> Float64:
    """The mean confidence of a quarter of a second around each beat."""
    at = np.clip(peaks.at + np.arange(-NEAR_POINTS, NEAR_POINTS + 1)[:, None], 0, SPAN - 1)
    return np.asarray(confidence[peaks.row, at].mean(axis=0), np.float64)


def in_pairs(found: Mapping[str, Float64]) -> NDArray[np.bool_]:
    """Of each row (n,) whether its beats come in pairs, of which no one can tell whether they are one beat or two."""
    uneven = (found["uneven"] > IN_PAIRS) & (found["alternating"] > IN_PAIRS)
    again = found["output_at_double"] + found["output_repeats"] >= PAIRS_REPEAT
    return np.asarray(uneven & again & (found["output_at_double"] >= PAIRS_BETTER))


class _Seen(NamedTuple):
    """What rates are judged by, of rows (n,): the 8 s, what is believed of all rates, the intervals between the told beats and
    between the sure ones, `OF_ALL_BEATS` and "unsure"."""

    wave: Wave
    belief: Float64
    every: Intervals
    sure: Intervals
    of_beats: Mapping[str, Float64]

    def of(self, rows: NDArray[np.int64]) -> _Seen:
        every, sure = (Intervals(*(v[rows] for v in one)) for one in (self.every, self.sure))
        return _Seen(self.wave.of(rows), self.belief[rows], every, sure, {name: v[rows] for name, v in self.of_beats.items()})


def _of_rates(rate: Float64, seen: _Seen, jump: Float64, rhythm: Mapping[str, Float64]) -> dict[str, Float64]:
    """`RATE_FEATURES` of rates (n,), bpm, and whether no one can tell that they are right (`doubted`)."""
    found = {
        **rhythm,
        **seen.of_beats,
        **of_the_belief(rate, seen.belief, seen.wave),
        **beside_beats(rate, seen.every, seen.sure),
    }
    enough = seen.sure.n >= LEAST_INTERVALS
    doubted = _beyond(rate) | (found["confidence"] < LOST_WAVE) | in_pairs(found) | (found["beats"] > OTHER_BEATS)
    doubted |= enough & differ(rate, np.where(enough, seen.sure.bpm, rate))
    # "doubted" and "bpm" are no features: whoever fits the trees needs them.
    return found | {"jump": jump, "doubted": doubted.astype(np.float64), "bpm": rate}


def _judged(
    due: Sequence[Due], rate: Float64, seen: _Seen, rhythm: Mapping[str, Float64], rules: RateRules
) -> tuple[Float64, Float64]:
    """What is told of each row, and its confidence: the believed rate, whose `OF_THE_RHYTHM` are given, or that of the sure
    beats, whichever is more likely right. NaN beyond the scale. At most `DOUBT` where the sure beats have another rate, where all
    beats say something like half or twice of it, where beats come in pairs, or where the wave is lost."""
    n = len(due)
    enough = seen.sure.n >= LEAST_INTERVALS
    before = np.empty((2, n))  # the rates of 2 s ago, believed and counted
    for k, one in enumerate(due):
        follower = one.follower
        before[0, k], before[1, k] = follower.bpm, follower.counted
        one.rated, follower.bpm = True, float(rate[k])
        follower.counted = float(seen.sure.bpm[k]) if enough[k] else math.nan
    found = _of_rates(rate, seen, jump_of(rate, before[0]), rhythm)
    again = np.flatnonzero(enough & (np.abs(seen.sure.bpm - rate) > SAME_BPM))
    if len(again):
        counted, wave = seen.sure.bpm[again], seen.wave.of(again)
        jump = jump_of(counted, before[1][again])
        more = _of_rates(counted, seen.of(again), jump, of_the_rhythm(counted, wave))
        found = {name: np.concatenate([v, more[name]]) for name, v in found.items()}
    found["row"] = np.concatenate([np.arange(n), again]).astype(np.float64)  # no feature: whoever fits them needs it
    confidence = rules.rate.of(found)
    confidence = np.where(found["doubted"] > 0, np.minimum(confidence, DOUBT), confidence)
    told, told_confidence = rate.copy(), confidence[:n].copy()
    likelier = confidence[n:] > told_confidence[again]
    better = again[likelier]
    told[better], told_confidence[better] = seen.sure.bpm[better], confidence[n:][likelier]
    return np.where(_beyond(told), math.nan, told), np.where(_beyond(told), 0.0, told_confidence)


def _beyond(rate: Float64) -> NDArray[np.bool_]:
    return np.asarray((rate <= RATES[0] + EDGE_BPM) | (rate >= RATES[-1] - EDGE_BPM))


def _tell(
    due: list[Due],
    confidence: Float64,
    seen: NDArray[np.int64],
    peaks: Peaks,
    beat_confidence: Float64,
    found: Mapping[str, Float64],
    rate: Float64,
    rate_confidence: Float64,
    rules: RateRules,
) -> None:
    """The messages: rates, and the beats that are decided now."""
    factor = due[0].follower.factor
    end = np.array([one.index - one.block.shape[1] % factor for one in due], np.float64)  # the index after a row's last point
    base = index_of(np.zeros(len(due)), end, rules.fs)  # of the middle of a row's first point
    last = np.array([one.last for one in due])
    limit = np.where(last, end, end - LAST_S * POINTS_HZ * factor)
    short = seen < WAIT_S * POINTS_HZ  # of such a stretch the period is not known
    ready = np.where(last, seen >= LEAST_S * POINTS_HZ, ~short)
    told = end - seen * factor  # up to where beats are decided already
    for k, one in enumerate(due):
        told[k] = max(told[k], one.follower.told)
        if ready[k]:
            one.follower.told = float(limit[k])
    row, at = peaks.row, peaks.at
    index = base[row] + at * factor
    new = (index > told[row]) & (index <= limit[row]) & ready[row]
    new &= confidence[row, at] > 0  # where nothing was denoised there are no beats
    new &= ~peaks.candidate | (beat_confidence >= SURE)
    row, at, where = row[new], at[new], base[row[new]] + peaks.time[new] * factor
    told_confidence = np.where(short[row], np.minimum(beat_confidence[new], DOUBT), beat_confidence[new]).astype(np.float32)
    error = np.exp(np.clip(rules.interval.linear({name: v[new] for name, v in found.items()}), *LOG_MS)).astype(np.float32)
    bounds = np.searchsorted(row, np.arange(len(due) + 1)).tolist()
    before = np.append(math.nan, where[:-1])[: len(where)]  # the beat before, which of a row's first is the follower's last
    for k, one in enumerate(due):
        if bounds[k] < bounds[k + 1]:
            before[bounds[k]], one.follower.beat = one.follower.beat, float(where[bounds[k + 1] - 1])
    empty = np.cumsum(confidence <= 0, axis=1)  # points of which no sample was denoised: over them no interval is known
    since = np.clip(np.nan_to_num((before - base[row]) / factor), 0, SPAN - 1).astype(np.int64)
    unknown = (empty[row, at] - empty[row, since] >= EMPTY_POINTS) | (before < base[row])
    each, slower = np.array([one.each for one in due])[row], np.array([one.slower for one in due])[row]
    most = np.array([max(one.chunk.index - 1, 0) for one in due], np.float64)[row]
    beat_at = np.clip(np.rint(where * each), 0, most).astype(np.uint64)
    interval = ((where - np.where(unknown, math.nan, before)) * 1000 / rules.fs * slower).astype(np.float32)
    for k, one in enumerate(due):
        part = slice(bounds[k], bounds[k + 1])
        one.chunk.beats = Beats(
            float(rate[k]) / one.slower,
            float(rate_confidence[k]),
            beat_at[part],
            interval[part],
            error[part],
            told_confidence[part],
        )
        if one.untimed:
            one.chunk.beats = untimed(one.chunk.beats)
        if one.gap_s is not None:
            one.follower.forget(one.gap_s)
