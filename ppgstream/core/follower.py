"""What a stream's heart rate and beats are computed from: the last 8 s of its output, input and confidence, at 25 Hz.

A stream's `Follower` takes its published samples and the sensor's own. Every 2 s it gives a `Due`, and at a gap or the session's
end a last one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.belief import STEP_S
from ppgstream.core.spectra import POINTS_HZ, SPAN
from ppgstream.wire.message import Chunk, Flag

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

STEP = round(STEP_S * POINTS_HZ)  # points from one heart rate to the next
_NOT_MEASURED = np.uint16(Flag.OUTLIER | Flag.NONFINITE)  # of such samples the input says nothing
_STEP = np.uint16(Flag.STEP)
LARGEST = 1e30  # of what is squared


@dataclass(slots=True, eq=False)
class Due:
    """What a follower gives every 2 s: a block (3, samples) of output, input and confidence at the model's rate, and the
    message that `fill` fills. index: after its last sample. gap_s: where the stretch ends here, the seconds until the next
    begins, infinite where it is of another session."""

    follower: Follower
    index: int
    block: Float32
    gap_s: float | None
    chunk: Chunk
    each: float = 1.0  # samples of the sensor to one of the model; `index` counts the model's
    slower: float = 1.0  # the sensor's time to the model's, where the ratio of their rates was rounded
    disagrees: float = math.nan  # the output's rate, bpm, where the input is clean by itself and has another, which is told
    rated: bool = False  # there were 8 s for a rate
    untimed: bool = False  # the samples came at another rate than the declared one

    @property
    def last(self) -> bool:
        return self.gap_s is not None

    @property
    def points(self) -> int:
        """How many points its block has."""
        return int(self.block.shape[1]) // self.follower.factor


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
        "counted",
        "elapsed_s",
        "points",
        "rows",
        "since_sure_s",
        "sure_bpm",
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
        self.bpm = self.counted = math.nan  # what was believed 2 s ago, and what the sure beats gave
        self.sure_bpm, self.since_sure_s = math.nan, 0.0  # the last rate that was told as sure, and how long ago
        self.beat = math.nan  # index of the last beat
        self.told = -1.0  # index up to which beats are decided

    @property
    def factor(self) -> int:
        """Samples a point."""
        return self._factor

    def forget(self, seconds: float = math.inf) -> None:
        """The stretch is over; `seconds` later another begins. Infinite: perhaps of another heart."""
        self.points, self.bpm, self.counted, self.beat, self.told = 0, math.nan, math.nan, math.nan, -1.0
        if math.isinf(seconds):
            self.belief, self.elapsed_s, self.sure_bpm = None, 0.0, math.nan
        else:
            self.elapsed_s += seconds
        self.since_sure_s += seconds

    def append(
        self, index: int, out: Float64, raw: Float64, confidence: Float64, flags: NDArray[np.uint16]
    ) -> list[tuple[int, Float32]]:
        """Published samples from `index` on, of one stretch. Gives (index after its last sample, block) of each step that is
        complete."""
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
        at, n, size = 0, len(out), self._staging.shape[1]
        while at < n:
            stop = min(at + size - self._filled, n)
            _stage(self._staging, self._filled, out, raw, confidence, at, stop, self._levels[0], self._levels[1])
            self._filled += stop - at
            at = stop
            if self._filled == size:
                complete.append((index + at, self._staging[:, self._lead :].copy()))
                self._filled = self._lead = 0
        return complete

    def stop(self) -> Float32 | None:
        """The stretch ends: the samples since the last complete step, (3, n). None if it had no samples."""
        if self._levels is None:
            return None
        rest = self._staging[:, min(self._lead, self._filled) : self._filled].copy()
        self._levels = None
        return rest


def _stage(
    staging: Float32,
    filled: int,
    out: Float64,
    raw: Float64,
    confidence: Float64,
    start: int,
    stop: int,
    level_out: float,
    level_raw: float,
) -> None:
    """Put samples from `start` up to `stop` into the columns of `staging` (3, n) from `filled` on, without their levels."""
    for k in range(start, stop):
        staging[0, filled + k - start] = out[k] - level_out
        staging[1, filled + k - start] = raw[k] - level_raw
        staging[2, filled + k - start] = confidence[k]


def index_of(time: Float64, end: Float64, fs: float) -> Float64:
    """The samples' indexes of times (n,), in points, in rows that end before the indexes `end` (n,)."""
    factor = max(round(fs / POINTS_HZ), 1)
    return np.asarray(end - SPAN * factor + (factor - 1) / 2 + time * factor, np.float64)


def rows_of(due: list[Due]) -> tuple[Float64, NDArray[np.int64]]:
    """The last 8 s of each, (n, 3, SPAN), and how many of its points are there, at the end of a row; those before repeat the
    first. Those of one stream are in order."""
    rows = np.empty((len(due), 3, SPAN))
    seen = np.zeros(len(due), np.int64)
    for k, one in enumerate(due):
        follower, factor = one.follower, one.follower.factor
        seen[k] = follower.points = min(follower.points + one.points, SPAN)
        _fill_row(rows[k], follower.rows, np.ascontiguousarray(one.block), one.points, factor, SPAN - follower.points)
    return rows, seen


def _fill_row(row: Float64, kept: Float32, block: Float32, size: int, factor: int, missing: int) -> None:
    """Put the last 8 s into `row` (3, SPAN): the end of what was `kept` before, and `size` points of `block`, the mean of
    `factor` samples each. Kept is what they are now. The first `missing` points are not of this stretch."""
    span, largest = row.shape[1], LARGEST
    old = span - size
    for line in range(3):
        for k in range(old):
            kept[line, k] = kept[line, k + size]
            row[line, k] = kept[line, k]
        for k in range(size):
            total = 0.0
            for j in range(k * factor, (k + 1) * factor):
                value = float(block[line, j])
                total += min(max(value, -largest), largest)
            row[line, old + k] = total / factor
            kept[line, old + k] = row[line, old + k]
        if missing < span:
            value = row[line, missing] if line < 2 else 0.0
            for k in range(missing):
                row[line, k] = value
