"""Beats in rows of 8 s at 25 Hz: where they are, and what is known of each and of all together.

Peaks that are the highest within 0.42 beats on both sides (the multi-scale peak search of Bishop and Ercole 2018, MSPTD, at the scale of the current
rate), checked by a second detector: a sum of rising slopes as in qppg (Zong et al. 2003). Peaks that are nearer to a higher one, as in an irregular
rhythm, and those that rise little, are candidates: they are told only if they are sure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.spectra import POINTS_HZ, SPAN, in_order, vertex

Float64 = NDArray[np.float64]

ALONE_BEATS = 0.42  # a peak is the highest within so many beats on both sides
NEAR_BEATS = 0.28  # a candidate is the highest within so many
ALONE_POINTS = (4, 25)
RISE_SHARE = 0.12  # of the mean rise of a row's four largest: what rises less is no beat
LOW_SHARE = 0.2  # what rises less is told only if it is sure: every second pulse may be low, but a notch is no pulse
SLOPE_POINTS = 4  # 0.17 s, as in qppg
SLOPE_ALONE = 7  # points
SLOPE_SHARE = 0.35  # of the mean of a row's four largest sums
SLOPE_BEFORE = 8  # points, at most, from a sum's peak to the pulse's


class Detected(NamedTuple):
    """Peaks of rows (n, SPAN), which of them the sum of rising slopes confirms, which are the highest within `ALONE_BEATS`, and which are low; and how
    far each point rises above the lowest one shortly before it."""

    peaks: NDArray[np.bool_]
    agreed: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    low: NDArray[np.bool_]
    rises: Float64


def detect(x: Float64, rate: Float64) -> Detected:
    """The peaks of rows (n, SPAN) whose heart rates are about `rate` bpm (n,)."""
    alone = highest_within(x, _scale(ALONE_BEATS, rate))
    rises = x - lowest_before(x)
    usual = np.sort(np.where(alone, rises, 0.0), axis=1)[:, -4:].mean(axis=1, keepdims=True)
    peaks = highest_within(x, _scale(NEAR_BEATS, rate)) & (rises > RISE_SHARE * usual)
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
    return Detected(peaks, peaks & near, peaks & alone, peaks & (rises <= LOW_SHARE * usual), rises)


def _scale(beats: float, rate: Float64) -> NDArray[np.int64]:
    """So many beats at the rates (n,), bpm, in points."""
    return np.clip(np.rint(beats * 60 / rate * POINTS_HZ), *ALONE_POINTS).astype(np.int64)


def lowest_before(x: Float64) -> Float64:
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


class Peaks(NamedTuple):
    """The beats of rows, in order, (p,) each: its `row`, the point `at` which it is highest, its `time` in points with their fractions, its `rise` over
    the lowest point shortly before, whether the second detector `agreed`, whether it is the highest within `ALONE_BEATS` (`alone`), whether it is `low`,
    and the mean `confidence` of the output 1 s around it. `rows`: how many there are."""

    row: NDArray[np.int64]
    at: NDArray[np.int64]
    time: Float64
    rise: Float64
    agreed: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    low: NDArray[np.bool_]
    confidence: Float64
    rows: int

    @property
    def candidate(self) -> NDArray[np.bool_]:
        """(p,): those that are told only if they are sure."""
        return self.low | ~self.alone

    @property
    def same(self) -> NDArray[np.bool_]:
        """(p - 1,): whether a peak and the next one are of one row."""
        return np.asarray(self.row[1:] == self.row[:-1])

    def by_row(self, value: Float64) -> Float64:
        """The sum of what each peak has, of each row."""
        return np.bincount(self.row, value, self.rows).astype(np.float64)

    def only(self, which: NDArray[np.bool_]) -> Peaks:
        """Some of them, (p,)."""
        row, at, time, rise, agreed, alone, low, confidence, rows = self
        return Peaks(
            row[which], at[which], time[which], rise[which], agreed[which], alone[which], low[which], confidence[which], rows
        )


HALF = round(POINTS_HZ / 2)  # points on both sides of a beat: 1 s in all


def peaks_of(out: Float64, confidence: Float64, rate: Float64) -> Peaks:
    """Of levelled rows of output (n, SPAN) at about `rate` bpm (n,), and the confidence of their points."""
    found = detect(out, rate)
    row, at = np.nonzero(found.peaks)
    time = at.astype(np.float64)
    if len(row):
        time += vertex(out[row, at - 1], out[row, at], out[row, at + 1])
    sums = np.concatenate([np.zeros((len(out), 1)), np.cumsum(confidence, axis=1)], axis=1)
    first, stop = np.maximum(at - HALF, 0), np.minimum(at + HALF + 1, SPAN)
    mean = (sums[row, stop] - sums[row, first]) / np.maximum(stop - first, 1)
    return Peaks(
        row, at, time, found.rises[row, at], found.agreed[row, at], found.alone[row, at], found.low[row, at], mean, len(out)
    )


class Intervals(NamedTuple):
    """Of each row (n,): how many intervals, the rate of their mean in bpm (0 without any), and the SD of their logarithms."""

    n: Float64
    bpm: Float64
    irregular: Float64


def intervals_of(peaks: Peaks, which: NDArray[np.bool_] | None = None) -> Intervals:
    """Of neighbouring peaks of a row; with `which` (p,) only of two that it is true of."""
    used = peaks.same if which is None else peaks.same & which[1:] & which[:-1]
    row, length = peaks.row[1:][used], np.diff(peaks.time)[used]

    def mean(value: Float64) -> Float64:
        return np.asarray(np.bincount(row, value, peaks.rows) / np.maximum(count, 1.0), np.float64)

    count = np.bincount(row, minlength=peaks.rows).astype(np.float64)
    logs = np.log(np.maximum(length, 1e-3))
    at = mean(logs)
    bpm = np.where(count > 0, 60 * POINTS_HZ / np.maximum(mean(length), 1e-3), 0.0)
    return Intervals(count, bpm, np.sqrt(np.maximum(mean((logs - at[row]) ** 2), 0.0)))


FEW = 4  # beats of a row: with fewer, every second one being lower says nothing
OF_ALL_BEATS = {
    "irregular": "SD of the logarithms of the intervals between the 8 s's beats, at most 0.6",
    "heights": "SD of how far the beats rise, of their mean, at most 2",
    "alternating": "how far apart every first and every second beat rise, of their mean, at most 2",
    "uneven": "how far apart every first and every second interval are, as a logarithm, at most 1.2",
    "valleys": "how far apart the lowest points before every first and every second beat are, of the beats' mean rise, at most 2",
    "shortest": "logarithm of the shortest interval over their mean, at least -2",
    "longest": "the same of the longest, at most 2",
}


def of_all_beats(peaks: Peaks, out: Float64) -> dict[str, Float64]:
    """`OF_ALL_BEATS` of each row, (n,), of levelled rows of output (n, SPAN)."""
    n, same = peaks.rows, peaks.same
    count = peaks.by_row(np.ones(len(peaks.row)))
    mean = np.maximum(peaks.by_row(peaks.rise) / np.maximum(count, 1.0), 1e-12)
    spread = peaks.by_row((peaks.rise - mean[peaks.row]) ** 2) / np.maximum(count, 1.0)
    first, second = _by_turns(peaks.row, peaks.rise, n)
    low_first, low_second = _by_turns(peaks.row, out[peaks.row, peaks.at] - peaks.rise, n)
    between, between_second = _by_turns(peaks.row[1:][same], np.diff(peaks.time)[same], n)
    some_turns = (between > 0) & (between_second > 0)
    uneven = np.log(np.where(some_turns, between, 1.0) / np.where(some_turns, between_second, 1.0))
    found, length = intervals_of(peaks), np.diff(peaks.time)[same]
    usual = 60 * POINTS_HZ / np.maximum(found.bpm, 1e-3)
    shortest, longest = np.full(n, np.inf), np.zeros(n)
    np.minimum.at(shortest, peaks.row[1:][same], length)
    np.maximum.at(longest, peaks.row[1:][same], length)
    some = found.n > 0
    return {
        "irregular": np.minimum(found.irregular, 0.6),
        "heights": np.minimum(np.sqrt(spread) / mean, 2.0),
        "alternating": np.where(count >= FEW, np.minimum(np.abs(first - second) / mean, 2.0), 0.0),
        "uneven": np.where(count >= FEW, np.minimum(np.abs(uneven), 1.2), 0.0),
        "valleys": np.where(count >= FEW, np.minimum(np.abs(low_first - low_second) / mean, 2.0), 0.0),
        "shortest": np.clip(np.log(np.where(some, shortest, 1.0) / np.where(some, usual, 1.0)), -2.0, 0.0),
        "longest": np.clip(np.log(np.where(some, longest, 1.0) / np.where(some, usual, 1.0)), 0.0, 2.0),
    }


def _by_turns(row: NDArray[np.int64], value: Float64, rows: int) -> tuple[Float64, Float64]:
    """The means of every first and of every second value of each row, (rows,); 0 without any."""
    number = np.arange(len(row)) - np.searchsorted(row, row)
    means = []
    for k in (0, 1):
        own = number % 2 == k
        count = np.bincount(row[own], minlength=rows)
        means.append(np.bincount(row[own], value[own], rows) / np.maximum(count, 1))
    return means[0], means[1]


NEAR = 25  # points on both sides among which a beat's foot is looked for
FARTHEST = 1.2  # of the logarithm of an interval over the period
OF_A_BEAT = {
    "alone": "1 where it is the highest within 0.42 beats on both sides, else 0",
    "before": "logarithm of the time since the last peak that is alone over the period of the rate, at most 1.2; 0 without such a peak",
    "after": "the same of the time to the next one",
    "over_before": "logarithm of how far the beat rises over how far that peak before it does, at most 4",
    "over_after": "the same of that peak after it",
    "foot": "how far it rises, of its height over the lowest point within 1 s",
    "likeness": "correlation of input and output, 1 s around it",
    "residual_1s": "log power of input - output over that of the output, 1 s around it, at most 8",
}


def of_each_beat(peaks: Peaks, out: Float64, raw: Float64, rate: Float64) -> dict[str, Float64]:
    """`OF_A_BEAT` of each beat, (p,). Levelled rows of output and input (n, SPAN), and the rates (n,), bpm."""
    row, at = peaks.row, peaks.at
    period = 60 * POINTS_HZ / rate[row]
    rise = np.maximum(peaks.rise, 1e-9)
    last, following = _alone_beside(peaks)
    before = np.where(last >= 0, peaks.time - peaks.time[last], 0.0)
    after = np.where(following >= 0, peaks.time[following] - peaks.time, 0.0)
    rise_last, rise_following = (np.where(there >= 0, rise[there], rise) for there in (last, following))
    lowest = np.pad(out, ((0, 0), (NEAR, NEAR)), mode="edge")
    floor = np.lib.stride_tricks.sliding_window_view(lowest, 2 * NEAR + 1, axis=1)[row, at].min(axis=1)
    y, x = (_around(v, row, at) for v in (out, raw))
    power = np.maximum(in_order(y * y), 1e-9)
    return {
        "alone": peaks.alone.astype(np.float64),
        "before": _of_period(before, period),
        "after": _of_period(after, period),
        "over_before": np.clip(np.log(rise / rise_last), -4, 4),
        "over_after": np.clip(np.log(rise / rise_following), -4, 4),
        "foot": peaks.rise / np.maximum(out[row, at] - floor, 1e-9),
        "likeness": in_order(y * x) / np.sqrt(np.maximum(power * in_order(x * x), 1e-300)),
        "residual_1s": np.clip(np.log(np.maximum(in_order((x - y) ** 2), 1e-9) / power), -8, 8),
    }


def _alone_beside(peaks: Peaks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each peak the number of the last one before it that is alone, and of the next one, (p,); -1 where its row has none."""
    number, alone = np.arange(len(peaks.row)), np.flatnonzero(peaks.alone)
    padded = np.concatenate([[-1], alone, [-1]])
    last, following = padded[np.searchsorted(alone, number)], padded[np.searchsorted(alone, number, "right") + 1]
    last, following = (np.where((at >= 0) & (peaks.row[at] == peaks.row), at, -1) for at in (last, following))
    return last, following


def _around(v: Float64, row: NDArray[np.int64], at: NDArray[np.int64]) -> Float64:
    """1 s of rows around points, without their mean."""
    padded = np.pad(v, ((0, 0), (HALF, HALF)), mode="edge")
    part = np.lib.stride_tricks.sliding_window_view(padded, 2 * HALF + 1, axis=1)[row, at]
    return np.asarray(part - in_order(part)[:, None] / part.shape[1], np.float64)


def _of_period(interval: Float64, period: Float64) -> Float64:
    known = interval > 0
    return np.where(known, np.clip(np.log(np.where(known, interval, 1.0) / period), -FARTHEST, FARTHEST), 0.0)
