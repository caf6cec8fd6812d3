"""Beats in rows of 8 s at 25 Hz: where they are, and what is known of each and of all together.

Peaks that are the highest within 0.42 beats on both sides (the multi-scale peak search of Bishop and Ercole 2018, MSPTD, at the
scale of the current rate), checked by a second detector: a sum of rising slopes as in qppg (Zong et al. 2003). Peaks that are
nearer to a higher one, as in an irregular rhythm, and those that rise little, are candidates: they are told only if they are
sure.
"""

from __future__ import annotations

import math
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
    found, rises = np.zeros((4, n, m), np.uint8), np.empty((n, m))
    peaks, agreed, alone, low = found
    wide, narrow = _scale(ALONE_BEATS, rate), _scale(NEAR_BEATS, rate)
    _detect(x, wide, narrow, np.empty(m), np.empty(m, np.uint8), rises, peaks, agreed, alone, low)
    told = found.view(np.bool_)
    return Detected(told[0], told[1], told[2], told[3], rises)


def _detect(
    rows: Float64,
    wide: NDArray[np.int64],
    narrow: NDArray[np.int64],
    slopes: Float64,
    upstrokes: NDArray[np.uint8],
    rises: Float64,
    peaks: NDArray[np.uint8],
    agreed: NDArray[np.uint8],
    alone: NDArray[np.uint8],
    low: NDArray[np.uint8],
) -> None:
    """`Detected` of rows (n, m), whose peaks are the highest within `narrow` points (n,), and alone within `wide`. `agreed` comes
    as zeros; slopes and upstrokes: room for m values."""
    m, before, lag, apart, after = rows.shape[1], FOOT_POINTS, SLOPE_POINTS, SLOPE_ALONE, SLOPE_BEFORE
    for row in range(rows.shape[0]):
        x, rise, is_alone = rows[row], rises[row], alone[row]
        foot = 0  # where the lowest of the last points is
        for k in range(m):
            if foot < k - before:
                foot += 1
                for j in range(foot + 1, k):
                    foot = j if x[j] <= x[foot] else foot
            foot = k if x[k] <= x[foot] else foot
            rise[k] = x[k] - x[foot]
            is_alone[k] = _is_highest(x, k, wide[row])
        usual = _usual(rise, is_alone)
        total = 0.0
        slopes[0] = total
        for k in range(1, m):
            if x[k] > x[k - 1]:
                total += x[k] - x[k - 1]
            slopes[k] = total
        for k in range(m - 1, lag - 1, -1):
            slopes[k] -= slopes[k - lag]
        for k in range(m):
            upstrokes[k] = _is_highest(slopes, k, apart)
        least = SLOPE_SHARE * _usual(slopes, upstrokes)
        for k in range(m):
            if upstrokes[k] and slopes[k] > least:
                for j in range(max(k - 1, 0), min(k + after + 1, m)):
                    agreed[row, j] = 1
        least, few = RISE_SHARE * usual, LOW_SHARE * usual
        for k in range(m):
            if rise[k] > least and _is_highest(x, k, narrow[row]):
                peaks[row, k], low[row, k] = 1, rise[k] <= few
            else:
                agreed[row, k] = is_alone[k] = 0


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
    row, at = map(np.ascontiguousarray, np.nonzero(found.peaks))
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
    length = np.diff(peaks.time)
    logs = np.log(np.maximum(length, 1e-3))
    used = np.ones(len(peaks.row), np.uint8) if which is None else which.view(np.uint8)
    count, total, squares = room = np.zeros((3, peaks.rows))
    _of_intervals(peaks.row, used, length, logs, room)
    bpm = np.where(count > 0, 60 * POINTS_HZ / np.maximum(total / np.maximum(count, 1.0), 1e-3), 0.0)
    return Intervals(count, bpm, np.sqrt(squares / np.maximum(count, 1.0)))


def _of_intervals(row: NDArray[np.int64], used: NDArray[np.uint8], length: Float64, logs: Float64, found: Float64) -> None:
    """Of the intervals of each row between two neighbours that are both used, into `found` (3, rows), zeros: how many, their sum,
    and the sum of squares of what their logarithms differ from their mean."""
    first, n = 0, row.shape[0]
    while first < n:
        own, stop = row[first], first + 1
        total = total_log = squares = 0.0
        count = 0
        while stop < n and row[stop] == own:
            if used[stop] and used[stop - 1]:
                total += length[stop - 1]
                total_log += logs[stop - 1]
                count += 1
            stop += 1
        if count:
            mean = total_log / count
            for k in range(first, stop - 1):
                if used[k] and used[k + 1]:
                    squares += (logs[k] - mean) * (logs[k] - mean)
            found[0, own], found[1, own], found[2, own] = count, total, squares
        first = stop


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
    n = peaks.rows
    mean, spread, first, second, low_first, low_second, between, between_second, shortest, longest, count = room = np.zeros(
        (11, n)
    )
    _of_rows(peaks.row, peaks.time, peaks.rise, out[peaks.row, peaks.at] - peaks.rise, room)
    mean = np.maximum(mean, 1e-12)
    some_turns = (between > 0) & (between_second > 0)
    uneven = np.log(np.where(some_turns, between, 1.0) / np.where(some_turns, between_second, 1.0))
    found = intervals_of(peaks)
    usual = 60 * POINTS_HZ / np.maximum(found.bpm, 1e-3)
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


def _of_rows(row: NDArray[np.int64], time: Float64, rise: Float64, valley: Float64, found: Float64) -> None:
    """Of the peaks of each row, into `found` (11, rows), zeros: the mean rise and the mean square of what the rises differ from
    it; the means of every first and every second rise, valley and interval; the shortest and the longest interval; and how many
    there are. 0 without any."""
    first, n = 0, row.shape[0]
    while first < n:
        own, stop = row[first], first
        total = 0.0
        while stop < n and row[stop] == own:
            total += rise[stop]
            stop += 1
        count = stop - first
        mean = total / count
        found[0, own], found[10, own] = mean, count
        shortest, longest, squares = math.inf, 0.0, 0.0
        rises = rises_second = valleys = valleys_second = lengths = lengths_second = 0.0
        floor = max(mean, 1e-12)
        for k in range(first, stop):
            squares += (rise[k] - floor) * (rise[k] - floor)
            length = time[k + 1] - time[k] if k + 1 < stop else 0.0
            if k + 1 < stop:
                shortest, longest = min(shortest, length), max(longest, length)
            if (k - first) % 2:
                rises_second += rise[k]
                valleys_second += valley[k]
                lengths_second += length
            else:
                rises += rise[k]
                valleys += valley[k]
                lengths += length
        found[1, own] = squares / count
        some, others = (count + 1) // 2, max(count // 2, 1)
        found[2, own], found[3, own] = rises / some, rises_second / others
        found[4, own], found[5, own] = valleys / some, valleys_second / others
        found[6, own], found[7, own] = lengths / max(count // 2, 1), lengths_second / max((count - 1) // 2, 1)
        found[8, own], found[9, own] = shortest, longest
        first = stop


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
    row, n = peaks.row, len(peaks.row)
    period = 60 * POINTS_HZ / rate[row]
    rise = np.maximum(peaks.rise, 1e-9)
    before, after, rise_last, rise_following, floor, power, likeness, power_in, residual = room = np.empty((9, n))
    alone = peaks.alone.view(np.uint8)
    _of_beats(row, peaks.at, peaks.time, rise, alone, np.ascontiguousarray(out), np.ascontiguousarray(raw), room)
    power = np.maximum(power, 1e-9)
    return {
        "alone": peaks.alone.astype(np.float64),
        "before": _of_period(before, period),
        "after": _of_period(after, period),
        "over_before": np.clip(np.log(rise / rise_last), -4, 4),
        "over_after": np.clip(np.log(rise / rise_following), -4, 4),
        "foot": peaks.rise / np.maximum(floor, 1e-9),
        "likeness": likeness / np.sqrt(np.maximum(power * power_in, 1e-300)),
        "residual_1s": np.clip(np.log(np.maximum(residual, 1e-9) / power), -8, 8),
    }


def _of_beats(
    row: NDArray[np.int64],
    at: NDArray[np.int64],
    time: Float64,
    rise: Float64,
    alone: NDArray[np.uint8],
    out: Float64,
    raw: Float64,
    found: Float64,
) -> None:
    """Of each beat, into `found` (9, p): the time since the last one of its row that is alone and to the next, 0 without, and how
    far the two rise; its height over the lowest point near it; and of the second around it, without their means, the power of
    the output, the product with the input, the power of the input, and that of their difference."""
    n, m, half, near = row.shape[0], out.shape[1], HALF, NEAR
    for way in range(2):  # from the first beat on, then from the last
        last = -1
        for i in range(n):
            k = i if way == 0 else n - 1 - i
            if last >= 0 and row[last] != row[k]:
                last = -1
            found[way, k] = abs(time[k] - time[last]) if last >= 0 else 0.0
            found[2 + way, k] = rise[last] if last >= 0 else rise[k]
            if alone[k]:
                last = k
    for k in range(n):
        own, centre = row[k], at[k]
        lowest = out[own, centre]
        for j in range(max(centre - near, 0), min(centre + near + 1, m)):
            lowest = min(lowest, out[own, j])
        found[4, k] = out[own, centre] - lowest
        mean = mean_in = 0.0
        for j in range(centre - half, centre + half + 1):
            place = min(max(j, 0), m - 1)
            mean += out[own, place]
            mean_in += raw[own, place]
        mean, mean_in = mean / (2 * half + 1), mean_in / (2 * half + 1)
        power = product = power_in = residual = 0.0
        for j in range(centre - half, centre + half + 1):
            place = min(max(j, 0), m - 1)
            y, x = out[own, place] - mean, raw[own, place] - mean_in
            power += y * y
            product += y * x
            power_in += x * x
            residual += (x - y) * (x - y)
        found[5, k], found[6, k], found[7, k], found[8, k] = power, product, power_in, residual


def _of_period(interval: Float64, period: Float64) -> Float64:
    known = interval > 0
    return np.where(known, np.clip(np.log(np.where(known, interval, 1.0) / period), -FARTHEST, FARTHEST), 0.0)
