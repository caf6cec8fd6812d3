"""The clock of recorded samples: from the stamps beside a file's rows, as seconds, to the sampling rate, the order of the rows,
gaps and stretches. `clock_of` says what the seconds mean:

- rows out of order are sorted; rows written twice are dropped;
- a clock that wraps (midnight, a 16-bit or 32-bit counter) goes on; a clock that falls begins a new stretch;
- a clock that ticks once for several rows (a stamp for each packet, whole seconds) gives its rate by rows over time;
- a jump beyond the usual step is a gap.

Pure, over arrays: no file is read here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.files.stamps import DAY_S, LEAST_FS, MOST_FS, Form, rows_a_second

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

LATE_S = 10.0  # a row may come so much later than one of a later time, s
APART_S = 2.5  # between two stretches whose distance nobody knows
LONGEST_S = 50 * 365 * 86_400.0
HOLE_S = 30.0  # of a longer gap only so much is laid out as invalid samples
SAME_RATE = 0.02  # two statements of a rate that differ by no more say the same


class Clock(NamedTuple):
    """What stamps say of n rows, of which m are kept.

    fs: the sampling rate, Hz; NaN of a counter. order (m,): the kept rows by time. places (m,): where each lies among even
    samples, from 0, rising. times (m,): seconds since the first. starts: where in `order` a stretch begins, the first at 0. gap
    (m,): whether samples are missing before a row. jitter: whether the rows are not evenly spaced in time, so that a wave must be
    interpolated; packets: whether several share a tick. The rest counts: samples lost in gaps, repeated rows, rows out of order,
    wraps."""

    fs: float
    order: Int64
    places: Int64
    times: Float64
    starts: list[int]
    gap: NDArray[np.bool_]
    jitter: bool = False
    packets: bool = False
    lost: int = 0
    repeats: int = 0
    moved: int = 0
    wraps: int = 0


class ClockError(ValueError):
    """Stamps that are no clock. `row`: one that shows it."""

    def __init__(self, reason: str, row: int = 0) -> None:
        super().__init__(reason)
        self.row = row


def clock_of(t: Float64, x: Float64, form: Form | None = None, *, breaks: Sequence[int] = (), fs: float | None = None) -> Clock:
    """The clock by stamps `t` (n,), seconds (of a counter: counts), NaN where unreadable, beside samples `x` (n,), by which
    repeated rows are known. `breaks`: rows before which the file itself says that something new begins. `fs`: the rate, where
    more rows than these have told it. Raises ClockError."""
    form = form or Form()
    there = np.isfinite(t)
    n = len(t)
    if there.sum() < max(0.9 * n, 3):
        raise ClockError("is no time", int(np.argmin(there)))
    if not there.all():
        t = np.interp(np.arange(n), np.flatnonzero(there), t[there])
    t, wraps = _unwrapped(_without_wild(t), form)
    if not (np.diff(t) > 0).any():
        raise ClockError("does not move")
    if not form.counter and np.ptp(t) > LONGEST_S:
        raise ClockError(f"spans {np.ptp(t) / DAY_S / 365:.3g} years", int(np.argmax(np.abs(t - np.median(t)))))
    order, starts, moved, repeats = _ordered(t, x, breaks)
    t = t[order]
    clock = _counted(t, starts) if form.counter else _timed(t, starts, fs)
    return clock._replace(order=order, moved=moved, repeats=repeats, wraps=wraps)


def _without_wild(t: Float64) -> Float64:
    """Stamps (n,) without single ones that are far from both their neighbours, which are near each other: they are taken from
    those."""
    if len(t) < 5:
        return t
    around = t[2:] - t[:-2]
    usual = float(np.median(np.abs(around)))
    off = np.minimum(np.abs(t[1:-1] - t[:-2]), np.abs(t[2:] - t[1:-1]))
    wild = np.flatnonzero((np.abs(around) < 4 * usual) & (off > max(LATE_S, 20 * usual))) + 1
    if len(wild):
        t = t.copy()
        t[wild] = (t[wild - 1] + t[wild + 1]) / 2
    return t


def _unwrapped(t: Float64, form: Form) -> tuple[Float64, int]:
    """The clock without its wraps, and how many there were. A fall is a wrap if the clock stood just below a round number and
    goes on from 0."""
    steps = np.diff(t)
    falls = np.flatnonzero(steps < 0)
    if not len(falls) or not form.wraps or t.min() < 0:
        return t, 0
    usual = 1.0 if form.counter else 1 / rows_a_second(t)
    for period in form.wraps:
        high = t.max()
        noon = form.kind == "clock" and period == DAY_S / 2 and t.min() >= 3600  # 12:59:59, 1:00:00
        if high >= period + 3600 * noon or high < 0.5 * period:
            continue
        over = steps[falls] + period
        if form.kind == "clock" and period == DAY_S:
            real = over < period / 2
        else:
            real = (over > 0) & (over < max(10 * usual, 1.0 if not form.counter else 1000.0)) & (t[falls] > 0.9 * period)
        if real.any():
            turn = np.zeros(len(t), np.int64)
            turn[falls[real] + 1] += 1
            back = np.flatnonzero((steps > 0.9 * period) & (np.cumsum(turn)[:-1] > 0))  # rows out of order around the wrap
            turn[back + 1] -= 1
            return t + period * np.cumsum(turn), int(turn.clip(0).sum() - len(back))
    return t, 0


def _ordered(t: Float64, x: Float64, breaks: Sequence[int]) -> tuple[Int64, list[int], int, int]:
    """The rows by time, stretch by stretch, repeats left out; where in them stretches begin; how many rows came late; how many
    were repeats."""
    n = len(t)
    steps = np.diff(t)
    falls = np.flatnonzero(steps < 0)
    cuts = {int(k) + 1 for k in falls[-steps[falls] > LATE_S]}
    cuts |= {b for b in breaks if 0 < b < n and t[b] <= t[b - 1]}
    rate = _rate_of_runs(t)
    bounds = [0, *sorted(cuts), n]
    for a, b in itertools.pairwise(bounds):
        cuts |= _overlaps(t[a:b], x[a:b], a, rate)
    bounds = [0, *sorted(cuts), n]
    kept, starts, moved, repeats, total = [], [], 0, 0, 0
    for a, b in itertools.pairwise(bounds):
        part = t[a:b]
        order = np.arange(a, b)
        if (part[1:] < part[:-1]).any():
            moved += int((part < np.maximum.accumulate(part)).sum())
            order = a + np.argsort(part, kind="stable")
        new = ~_repeated(t[order], x[order])
        repeats += int((~new).sum())
        kept.append(order[new])
        starts.append(total)
        total += len(kept[-1])
    return np.concatenate(kept), starts, moved, repeats


def _rate_of_runs(t: Float64) -> float:
    """Rows a second between falls of the clock: where short recordings were joined, a longer span would count each second several
    times."""
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(t) < 0) + 1, [len(t)]])
    size = np.diff(bounds)
    long = size >= 100
    if not long.any() or size[long].sum() < 0.5 * len(t):
        return rows_a_second(t)
    span = t[bounds[1:] - 1][long] - t[bounds[:-1]][long]
    good = span > 1e-3
    return float(np.median(np.repeat((size[long][good] - 1) / span[good], size[long][good]))) if good.any() else rows_a_second(t)


def _overlaps(t: Float64, x: Float64, first: int, rate: float) -> set[int]:
    """Falls within a part (n,) after which the clock goes over a time that it had already been over: a new stretch begins there,
    nothing came late."""
    falls = np.flatnonzero(np.diff(t) < 0)
    if not len(falls):
        return set()
    packet = len(t) / (1 + int((np.diff(t) != 0).sum()))
    order = np.argsort(t, kind="stable")
    by_time, value = t[order], x[order]
    again = np.zeros(len(t), np.int64)
    again[1:] = (by_time[1:] == by_time[:-1]) & _equal(value[1:], value[:-1])
    again = np.cumsum(again)
    low, high = t[falls + 1], np.maximum.accumulate(t)[falls]
    a, b = np.searchsorted(by_time, low), np.searchsorted(by_time, high, "right")
    count, expected = b - a, (high - low) * rate + 1
    twice = again[b - 1] - again[a]
    count = np.where(twice >= 0.8 * (count - expected), count - twice, count)  # a batch that was sent again
    return {first + int(k) + 1 for k in falls[(count > 1.5 * expected) & (count - expected > 1 + 2 * packet)]}


def _equal(a: Float64, b: Float64) -> NDArray[np.bool_]:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def _repeated(t: Float64, x: Float64) -> NDArray[np.bool_]:
    """Which rows of a sorted stretch say again what the row before said. Where several samples share each tick of a clock,
    none."""
    repeat = np.zeros(len(t), np.bool_)
    if len(t) < 2:
        return repeat
    tick = np.diff(t) == 0
    repeat[1:] = tick & _equal(x[1:], x[:-1])
    coarse = tick.mean() > 0.02 and repeat.sum() < 0.9 * tick.sum()
    return np.zeros(len(t), np.bool_) if coarse else repeat


def _counted(t: Float64, starts: list[int]) -> Clock:
    """A counter's rows lie where it says."""
    steps = np.clip(np.diff(np.rint(t), prepend=0.0), 1, 1e12).astype(np.int64)
    steps[starts] = MOST_FS * APART_S  # nobody knows how far
    steps[0] = 0
    gap = steps > 1
    gap[starts] = False
    return Clock(
        math.nan, np.arange(len(t)), np.cumsum(steps), np.full(len(t), np.nan), starts, gap, lost=int((steps[gap] - 1).sum())
    )


class _Stretch(NamedTuple):
    places: Int64
    times: Float64
    gap: NDArray[np.bool_]
    jitter: bool
    lost: int


def _timed(t: Float64, starts: list[int], fs: float | None) -> Clock:
    bounds = list(zip(starts, [*starts[1:], len(t)], strict=True))
    parts = [t[a:b] for a, b in bounds]
    if fs is None:
        rates = [(rate, len(part)) for part in parts if math.isfinite(rate := _rate_of(part)) and rate > 0]
        if not rates:
            raise ClockError("does not move evenly enough to tell a rate")
        by_rate = sorted(rates)
        weights = np.cumsum([weight for _, weight in by_rate])
        middle = by_rate[int(np.searchsorted(weights, weights[-1] / 2))][0]  # of the middle row
        same = [(rate, weight) for rate, weight in rates if abs(rate / middle - 1) <= SAME_RATE]
        fs = even(sum(rate * weight for rate, weight in same) / sum(weight for _, weight in same))
    for (a, b), part in zip(bounds, parts, strict=True):
        own = _rate_of(part)
        if math.isfinite(own) and abs(own / fs - 1) > SAME_RATE and (b - a) / own > 3:
            raise ClockError(f"gives {own:.6g} Hz from here on, and {fs:.6g} Hz elsewhere", a)
    if not LEAST_FS / 10 < fs < 1e5 or np.ptp(t) * fs > 1e15:
        raise ClockError(f"gives {fs:.4g} samples a second")
    found = []
    for (a, _), part in zip(bounds, parts, strict=True):
        try:
            found.append(_laid(part, fs))
        except ClockError as error:
            raise ClockError(str(error), a + error.row) from None
    index, at = [], 0
    for one in found:
        index.append(at + one.places)
        at += int(one.places[-1]) + 1 + max(round(APART_S * fs), 2)
    return Clock(
        fs,
        np.arange(len(t)),
        np.concatenate(index),
        np.concatenate([one.times for one in found]) - t[0],
        starts,
        np.concatenate([one.gap for one in found]),
        any(one.jitter for one in found),
        any(_groups(part) is not None for part in parts),
        sum(one.lost for one in found),
    )


def even(fs: float) -> float:
    """A rate without its measuring error: the whole number that is within 0.1 %."""
    return float(round(fs)) if abs(fs - round(fs)) < 1e-3 * fs else fs


def _groups(t: Float64) -> tuple[Int64, Float64] | None:
    """Where rows come several to a tick: each group's first row, and the groups' stamps. None: each row has a stamp of its
    own."""
    steps = np.diff(t)
    if len(steps) < 4:
        return None
    rate = rows_a_second(t)
    same = steps < 0.25 / rate
    if same.mean() < 0.3:
        same = steps == 0
        if same.mean() < 0.02:
            return None
    first = np.concatenate([[0], np.flatnonzero(~same) + 1])
    return first, t[first]


def _rate_of(t: Float64) -> float:
    """The rate of a sorted stretch (n,), Hz; NaN if it is too short."""
    ticks = _ticks(t)
    if ticks is not None:
        return ticks[0]
    groups = _groups(t)
    if groups is not None:
        return _packets(t, *groups)[0] if len(groups[0]) > 3 else math.nan
    steps = np.diff(t)
    moved = steps[steps > 0]
    if len(moved) < 3:
        return math.nan
    return 1 / _usual(moved)[0]


def _ticks(t: Float64, fs: float | None = None) -> tuple[float, Int64] | None:
    """Of even samples under a clock that ticks more slowly than they come, or not much faster: the rate, and each row's place.
    None: it is no such clock. Between gaps of several ticks each stamp is then less than a tick from where an even rate puts it.
    """
    steps = np.diff(t)
    moved = steps[steps > 0]
    if len(moved) < 20 or not (0.02 < (steps == 0).mean() < 0.98 or moved.max() > 1.5 * moved.min()):
        return None
    tick = float(np.quantile(moved, 0.02))
    if float(np.abs(np.rint(moved / tick) - moved / tick).max()) > 0.1:
        return None
    cuts = np.flatnonzero(steps > 3.5 * max(float(np.median(moved)), tick)) + 1
    bounds = [0, *cuts.tolist(), len(t)]
    rows = seconds = 0.0
    fitted = []  # of each part, when its first and its last row were measured
    for a, b in itertools.pairwise(bounds):
        part = t[a:b]
        if part[-1] - part[0] < 20 * tick:
            return None
        at = np.arange(b - a)
        slope, start = np.polyfit(at, part, 1)
        off = part - start - slope * at
        if slope <= 0 or float(np.ptp(off)) > 1.1 * tick or not _regular(np.rint(np.diff(part) / tick)):
            return None
        rows, seconds = rows + (b - a), seconds + slope * (b - a)
        fitted.append((start, start + slope * (b - a - 1)))
    rate = fs or rows / seconds
    places = np.ones(len(t), np.int64)
    places[0] = 0
    apart = [later[0] - earlier[1] for earlier, later in itertools.pairwise(fitted)]
    places[cuts] = np.maximum(np.rint(np.array(apart) * rate).astype(np.int64), 2)
    return rows / seconds, np.cumsum(places)


def _regular(ticks: Float64) -> bool:
    """Whether steps of other than the usual number of ticks come at even distances, as they do under a clock that is too coarse;
    losses do not."""
    values, counts = np.unique(ticks, return_counts=True)
    odd = np.flatnonzero(ticks != values[int(counts.argmax())])
    apart = np.diff(odd)
    return len(apart) >= 5 and float(np.ptp(apart)) <= 2 + 0.1 * float(np.median(apart))


def _usual(moved: Float64) -> tuple[float, float, bool]:
    """The step between two rows without what is missing, its spread, and whether the rows are unevenly spaced."""
    usual = float(np.median(moved))
    spread = 1.4826 * float(np.median(np.abs(moved - usual)))
    near = moved[moved < 1.5 * usual]
    jitters = float(np.abs(near - usual).mean()) > 0.1 * usual
    if not jitters:
        return float(moved[moved < 1.75 * usual + 4 * spread].mean()), spread, False
    for _ in range(5):  # what is lost is no part of it: as far above as below
        near = moved[(moved > 0.4 * usual) & (moved < 1.6 * usual)]
        if not len(near):
            return usual, spread, True
        usual = float(near.mean())
    whole = float(moved.mean())
    error = float(near.std()) / math.sqrt(len(near))
    if abs(whole - usual) < 2 * error:
        usual = whole  # nothing is lost: the ends alone decide, and they are the more exact
    return usual, spread, True


def _laid(t: Float64, fs: float) -> _Stretch:
    """Where the rows of a sorted stretch lie among even samples at `fs`."""
    ticks = _ticks(t, fs)
    if ticks is not None:
        places = ticks[1]
        steps = np.diff(places, prepend=-1)
        return _Stretch(places, t[0] + places / fs, steps > 1, False, int((steps - 1).sum()))
    groups = _groups(t)
    if groups is not None and len(groups[0]) > 1:
        _, index = _packets(t, *groups, fs)
        steps = np.diff(index, prepend=-1)
        return _Stretch(index, t[0] + index / fs, steps > 1, False, int((steps - 1).sum()))
    steps = np.diff(t)
    moved = steps[steps > 0]
    usual, spread, jitters = (1 / fs, 0.0, False) if len(moved) < 3 else _usual(moved)
    usual = 1 / fs
    gap = steps > 1.75 * usual + 4 * spread
    _one_rate(steps, usual, usual * 1.75 + 4 * spread, jitters)
    if jitters:  # a row that came late, and the next in its time, leave no gap
        after = np.append(steps[1:], math.inf)
        gap &= steps + after > 2.75 * usual
        index = np.maximum.accumulate(np.rint((t - t[0]) * fs).astype(np.int64))
        lost = int(np.maximum(np.rint(steps[gap] * fs) - 1, 1).sum())
        return _Stretch(index, t, np.insert(gap, 0, False), True, lost)
    width = np.where(gap, np.maximum(np.rint(steps * fs), 2), 1).astype(np.int64)
    index = np.concatenate([[0], np.cumsum(width)])
    return _Stretch(index, t, np.insert(gap, 0, False), False, int((width - 1).sum()))


def _one_rate(steps: Float64, usual: float, most: float, jitters: bool) -> None:
    """Raises ClockError where rows come at another rate for a while."""
    size = max(200, math.ceil(3 / usual))
    for a in range(0, len(steps) - size // 2, size):
        block = steps[a : a + size]
        near = block[(block <= most) & (block > 0)]
        step = float(near.mean()) if len(near) > 0.5 * len(block) else float(np.median(block))
        if step > 0 and abs(usual / step - 1) > (0.2 if jitters else 0.05):
            raise ClockError(f"gives {1 / step:.4g} Hz from here on, and {1 / usual:.4g} Hz over all", a)


def _packets(t: Float64, first: Int64, stamp: Float64, fs: float | None = None) -> tuple[float, Int64]:
    """Of rows that come several to a tick: the rate and each row's place. The rate is rows over time between ticks without loss;
    the stamp may be of a packet's beginning or of its end."""
    n = len(t)
    size = np.diff(np.append(first, n))
    span = np.diff(stamp)
    before, after = size[:-1], size[1:]
    middle = slice(1, -1) if len(span) > 4 else slice(None)  # the first and the last may be cut
    by_end = _misfit(after[middle], span[middle]) < 0.9 * _misfit(before[middle], span[middle])
    count = (after if by_end else before).astype(np.float64)
    rate = fs or float(np.median(count[middle] / span[middle]))
    for _ in range(3):
        rest = span * rate - count
        low, high = np.quantile(rest, [0.2, 0.8])  # no median deviation: ticks of 1 or 2 rows by turns have none
        spread = float(high - low) / 1.68
        most = max(1.5, 4 * spread, 0.2 * float(np.median(size)))
        gap = (rest > most) & _stays(rest)
        calm = ~gap
        calm[[0, -1]] = calm[[0, -1]] & (len(span) < 5)
        if fs is None and calm.any():
            rate = float(count[calm].sum() / span[calm].sum())
    missing = np.where(gap, np.maximum(np.rint(rest), 1), 0).astype(np.int64)
    missing[0] = max(
        missing[0] - max(round(float(np.median(span)) * rate) - int(size[0]), 0), 0
    )  # the first tick may have begun before the recording
    part = size[1:-1] < 0.9 * np.median(size)
    for k in np.flatnonzero(gap[:-1] & gap[1:] & part)[::-1].tolist():  # what came after a gap fills its tick from behind
        missing[k] += missing[k + 1]
        missing[k + 1] = 0
    start = np.concatenate([[0], np.cumsum(missing)])
    return rate, (np.arange(n) + np.repeat(start, size)).astype(np.int64)


def _stays(rest: Float64, width: int = 6) -> NDArray[np.bool_]:
    """Whether what is missing by each tick (m,) stays missing: what only came late is made good by the ticks around it."""
    level = np.concatenate([[0.0], np.cumsum(rest)])  # before and after each tick
    padded = np.concatenate([np.full(width - 1, level[0]), level, np.full(width - 1, level[-1])])
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    before, after = medians[: len(rest)], medians[width : width + len(rest)]
    return np.asarray(after - before > 0.6 * rest)


def _misfit(count: Int64, span: Float64) -> float:
    rate = count / span
    usual = np.median(rate)
    return float(np.median(np.abs(count - span * usual)))


def laid_out(x: Float64, clock: Clock, fs: float) -> tuple[Float64, Int64]:
    """Samples at an even rate, NaN where nothing was measured, and where in them each kept row lies (m,). Of a gap longer than
    `HOLE_S` only so much is there: a hole of hours costs no memory. `x` (n,) are the rows as in the file."""
    kept = x[clock.order]
    steps = np.diff(clock.places, prepend=clock.places[0])
    most = max(round(HOLE_S * fs), 2)
    rows = np.cumsum(np.minimum(steps, most))
    samples = np.full(int(rows[-1]) + 1, np.nan)
    if not clock.jitter:
        samples[rows] = kept
        return samples, rows
    bounds = [*clock.starts, len(kept)]
    for a, b in itertools.pairwise(bounds):
        # Between two rows that follow each other: the wave at even times.
        where = (clock.times[a:b] - clock.times[a]) * fs
        where -= (clock.places[a:b] - clock.places[a]) - (rows[a:b] - rows[a])  # without what holes lack
        grid = np.arange(int(rows[a]), int(rows[b - 1]) + 1)
        wave = np.interp(grid - int(rows[a]), where, kept[a:b])
        for k in (np.flatnonzero(clock.gap[a + 1 : b])).tolist():
            wave[(grid - rows[a] > where[k] + 0.5) & (grid - rows[a] < where[k + 1] - 0.5)] = np.nan
        samples[grid] = wave
    return samples, rows
