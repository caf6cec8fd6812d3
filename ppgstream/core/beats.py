"""Beats in rows of 8 s at 25 Hz: where they are, and what is known of each and of all together.

Peaks that are the highest within 0.42 beats on both sides (the multi-scale peak search of Bishop and Ercole 2018, MSPTD, at the
scale of the current rate), checked by a second detector: a sum of rising slopes as in qppg (Zong et al. 2003). Peaks that are
nearer to a higher one, as in an irregular rhythm, and those that rise little, are candidates: they are told only if they are
sure.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.spectra import POINTS_HZ, SPAN, vertex

Float64 = NDArray[np.float64]

ALONE_BEATS = 0.42  # a peak is the highest within so many beats on both sides
NEAR_BEATS = 0.28  # a candidate is the highest within so many
ALONE_POINTS = (4, 25)
RISE_SHARE = 0.12  # of the mean rise of a row's four largest: what rises less is no beat
LOW_SHARE = 0.2  # what rises less is told only if it is sure: every second pulse may be low, but a notch is no pulse
FOOT_POINTS = 15  # 0.6 s before a peak, in which it rises
SLOPE_POINTS = 4  # 0.17 s, as in qppg
SLOPE_ALONE = 7  # points
SLOPE_SHARE = 0.35  # of the mean of a row's four largest sums
SLOPE_BEFORE = 8  # points, at most, from a sum's peak to the pulse's


class Detected(NamedTuple):
    """Peaks of rows (n, SPAN), which of them the sum of rising slopes confirms, which are the highest within `ALONE_BEATS`, and
    which are low; and how far each point rises above the lowest one shortly before it."""

    peaks: NDArray[np.bool_]
    agreed: NDArray[np.bool_]
    alone: NDArray[np.bool_]
    low: NDArray[np.bool_]
    rises: Float64


def detect(x: Float64, rate: Float64) -> Detected:
    """The peaks of rows (n, SPAN) whose heart rates are about `rate` bpm (n,)."""
    x = np.ascontiguousarray(x)
    n, m = x.shape
    found = np.zeros((4, n, m), np.uint8)
    rises = np.empty((n, m))
    wide, narrow = _scale(ALONE_BEATS, rate), _scale(NEAR_BEATS, rate)
    slopes, upstrokes = np.empty(m), np.empty(m, np.uint8)  # of the row that is looked at
    for row in range(n):
        of_row = found[:, row]
        _detect_row(x[row], wide[row], narrow[row], slopes, upstrokes, rises[row], of_row[0], of_row[1], of_row[2], of_row[3])
    peaks, agreed, alone, low = found.view(np.bool_)
    return Detected(peaks, agreed, alone, low, rises)


def _detect_row(
    x: Float64,
    wide: int,
    narrow: int,
    slopes: Float64,
    upstrokes: NDArray[np.uint8],
    rises: Float64,
    peaks: NDArray[np.uint8],
    agreed: NDArray[np.uint8],
    alone: NDArray[np.uint8],
    low: NDArray[np.uint8],
) -> None:
    """`Detected` of one row (m,), whose peaks are the highest within `narrow` points, and alone within `wide`. `agreed` comes as
    zeros; slopes and upstrokes: room for m values."""
    m, foot = len(x), 0  # where the lowest of the last points is
    for k in range(m):
        if foot < k - FOOT_POINTS:
            foot += 1
            for j in range(foot + 1, k):
                foot = j if x[j] <= x[foot] else foot
        foot = k if x[k] <= x[foot] else foot
        rises[k] = x[k] - x[foot]
        alone[k] = _is_highest(x, k, wide)
    usual = _usual(rises, alone)
    total = 0.0
    for k in range(m):
        total += max(x[k] - x[k - 1], 0.0) if k else 0.0
        slopes[k] = total
    for k in range(m - 1, SLOPE_POINTS - 1, -1):
        slopes[k] -= slopes[k - SLOPE_POINTS]
    for k in range(m):
        upstrokes[k] = _is_highest(slopes, k, SLOPE_ALONE)
    least = SLOPE_SHARE * _usual(slopes, upstrokes)
    for k in range(m):
        if upstrokes[k] and slopes[k] > least:
            for j in range(max(k - 1, 0), min(k + SLOPE_BEFORE + 1, m)):
                agreed[j] = 1
    for k in range(m):
        is_peak = rises[k] > RISE_SHARE * usual and _is_highest(x, k, narrow)
        peaks[k], agreed[k], alone[k] = is_peak, is_peak and agreed[k], is_peak and alone[k]
        low[k] = is_peak and rises[k] <= LOW_SHARE * usual


def _is_highest(x: Float64, at: int, scale: int) -> bool:
    """Whether the value at a point is higher than the `scale` ones before, and not lower than as many after. Never one of the
    ends."""
    m, value = len(x), x[at]
    if at == 0 or at == m - 1:
        return False
    for k in range(at - 1, max(at - scale, 0) - 1, -1):  # the near ones first: they decide for nearly all
        if not value > x[k]:
            return False
    for k in range(at + 1, min(at + scale + 1, m)):  # noqa: SIM110 (compiled, a generator is slower)
        if not value >= x[k]:
            return False
    return True


def _usual(values: Float64, which: NDArray[np.uint8]) -> float:
    """The mean of the four largest values that are marked; 0 for each that there is not."""
    first = second = third = fourth = 0.0
    for k in range(len(values)):
        value = values[k] if which[k] else 0.0
        fourth = max(fourth, value)
        if fourth > third:
            third, fourth = fourth, third
        if third > second:
            second, third = third, second
        if second > first:
            first, second = second, first
    return (fourth + third + second + first) / 4


def _scale(beats: float, rate: Float64) -> NDArray[np.int64]:
    """So many beats at the rates (n,), bpm, in points."""
    return np.clip(np.rint(beats * 60 / rate * POINTS_HZ), *ALONE_POINTS).astype(np.int64)


class Peaks(NamedTuple):
    """The beats of rows, in order, (p,) each: its `row`, the point `at` which it is highest, its `time` in points with their
    fractions, its `rise` over the lowest point shortly before, whether the second detector `agreed`, whether it is the highest
    within `ALONE_BEATS` (`alone`), whether it is `low`, and the mean `confidence` of the output 1 s around it. `rows`: how many
    there are."""

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
    "before": "logarithm of the time since the last peak that is alone over the period of the rate, at most 1.2; 0 without "
    "such a peak",
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
    power = np.maximum((y * y).sum(axis=1), 1e-9)
    return {
        "alone": peaks.alone.astype(np.float64),
        "before": _of_period(before, period),
        "after": _of_period(after, period),
        "over_before": np.clip(np.log(rise / rise_last), -4, 4),
        "over_after": np.clip(np.log(rise / rise_following), -4, 4),
        "foot": peaks.rise / np.maximum(out[row, at] - floor, 1e-9),
        "likeness": (y * x).sum(axis=1) / np.sqrt(np.maximum(power * (x * x).sum(axis=1), 1e-300)),
        "residual_1s": np.clip(np.log(np.maximum(((x - y) ** 2).sum(axis=1), 1e-9) / power), -8, 8),
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
    return np.asarray(part - part.mean(axis=1, keepdims=True), np.float64)


def _of_period(interval: Float64, period: Float64) -> Float64:
    known = interval > 0
    return np.where(known, np.clip(np.log(np.where(known, interval, 1.0) / period), -FARTHEST, FARTHEST), 0.0)
