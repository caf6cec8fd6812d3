"""The affine map between a window in the sensor's units and the 0..1 domain the networks see.

Everything works on a whole batch at once; a row's result depends on that row alone, bit for bit, because
every reduction runs along the row (no BLAS call here, whose rounding may change with the batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Scaling

FARTHEST = 1e6  # of a normalised sample from 0: beyond it, a masked sample might become infinite in float32
LARGEST = 3e38  # of a sample that is not normalised: float32's limit
Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


class Scale(NamedTuple):
    """`normalised = (x - offset) / gain`, one offset and gain per window.

    Both are (n, 1) float64 in the sensor's units. A flat window (`flat`, (n, 1)) has gain 1 and lands on 0.5.
    """

    offset: Float64
    gain: Float64
    flat: Bool


def scale_of(x: Float64, valid: Bool) -> Scale:
    """Min-max scale of each row of `x` (n, m) over its valid samples, the course's normalisation.

    A row that is flat, or has no valid sample, maps to the constant 0.5 instead of dividing by zero.
    So does one so nearly flat that float64 cannot resolve its range.
    """
    low = np.where(valid, x, np.inf).min(axis=1, keepdims=True)
    high = np.where(valid, x, -np.inf).max(axis=1, keepdims=True)
    empty = low > high
    low = np.where(empty, 0.0, low)
    high = np.where(empty, 0.0, high)
    # Halves first: the range of +-1.7e308 would overflow.
    gain = 2.0 * (0.5 * high - 0.5 * low)
    flat = ~(gain > np.spacing(np.maximum(np.abs(low), np.abs(high))) * 4) | ~np.isfinite(gain)
    return Scale(np.where(flat, low - 0.5, low), np.where(flat, 1.0, gain), flat)


def standard_scale_of(x: Float64, valid: Bool) -> Scale:
    """Scale of each row of `x` (n, m) from its valid samples: offset their mean, gain their root mean square once a straight line
    (least squares) is taken out of them. A row that is flat but for that line, or has less than 3 valid samples, is `flat` and
    has gain 1.
    """
    whole = valid.all(axis=1)
    scale = _standard_scale_of_whole(x)
    if not whole.all():
        for all_rows, rows in zip(scale, _standard_scale_of_masked(x[~whole], valid[~whole]), strict=True):
            all_rows[~whole] = rows
    return scale


def z_scale_of(x: Float64, valid: Bool) -> Scale:
    """Scale of each row of `x` (n, m) from its valid samples: offset their mean, gain their standard deviation. A row that is
    flat, or has less than 3 valid samples, is `flat` and has gain 1."""
    total = valid.sum(axis=1, keepdims=True)
    anchor = np.where(valid, x, 0.0).sum(axis=1, keepdims=True) / np.maximum(total, 1)
    known = np.where(valid, x - anchor, 0.0)
    mean = known.sum(axis=1, keepdims=True) / np.maximum(total, 1)
    rest = np.where(valid, known - mean, 0.0)
    gain = np.sqrt((rest * rest).sum(axis=1, keepdims=True) / np.maximum(total, 1))
    return _scale(anchor, mean, known, gain, total < 3)


def no_scale_of(x: Float64, valid: Bool) -> Scale:
    """Rows of `x` (n, m) as they are: offset 0, gain 1; `flat` as `scale_of` says."""
    flat = scale_of(x, valid).flat
    return Scale(np.zeros(flat.shape), np.ones(flat.shape), flat)


SCALES: Mapping[Scaling, Callable[[Float64, Bool], Scale]] = {
    "min-max": scale_of,
    "standard": standard_scale_of,
    "z-score": z_scale_of,
    "none": no_scale_of,
}


def scaled(x: Float64, scale: Scale, scaling: Scaling) -> Float32:
    """Rows of `x` (n, m) under a scale of this kind, as the model sees them."""
    return normalise(x, scale, LARGEST if scaling == "none" else FARTHEST)


def _standard_scale_of_whole(x: Float64) -> Scale:
    """The same as the next, bit for bit, where all samples are valid, in half the time."""
    n = x.shape[1]
    t = np.arange(n, dtype=np.float64)
    tc = t - t.sum() / n
    anchor = x.sum(axis=1, keepdims=True) / n
    known = x - anchor
    mean = known.sum(axis=1, keepdims=True) / n
    slope = (tc * known).sum(axis=1, keepdims=True) / max((tc * tc).sum(), 1e-12)
    rest = known - mean - slope * tc
    return _scale(anchor, mean, known, np.sqrt((rest * rest).sum(axis=1, keepdims=True) / n), np.full((len(x), 1), n < 3))


def _standard_scale_of_masked(x: Float64, valid: Bool) -> Scale:
    w = valid.astype(np.float64)
    total = w.sum(axis=1, keepdims=True)
    t = np.arange(x.shape[1], dtype=np.float64)
    anchor = np.where(valid, x, 0.0).sum(axis=1, keepdims=True) / np.maximum(
        total, 1.0
    )  # so that no square overflows for a large offset
    known = np.where(valid, x - anchor, 0.0)
    mean = known.sum(axis=1, keepdims=True) / np.maximum(total, 1.0)
    tc = (t - (w * t).sum(axis=1, keepdims=True) / np.maximum(total, 1.0)) * w
    slope = (tc * known).sum(axis=1, keepdims=True) / np.maximum((tc * tc).sum(axis=1, keepdims=True), 1e-12)
    rest = (known - mean) * w - slope * tc
    return _scale(anchor, mean, known, np.sqrt((rest * rest).sum(axis=1, keepdims=True) / np.maximum(total, 1.0)), total < 3)


def _scale(anchor: Float64, mean: Float64, known: Float64, gain: Float64, too_few: Bool) -> Scale:
    resolution = np.spacing(np.abs(anchor) + np.abs(known).max(axis=1, keepdims=True)) * 4
    flat = ~(gain > resolution) | ~np.isfinite(gain) | too_few
    return Scale(anchor + mean, np.where(flat, 1.0, gain), flat)


def normalise(x: Float64, scale: Scale, farthest: float = FARTHEST) -> Float32:
    """Rows of `x` (n, m) in the sensor's units to the model's domain, float32, at most `farthest` from 0. What the scale was not
    made from may lie outside 0..1."""
    return np.clip((x - scale.offset) / scale.gain, -farthest, farthest).astype(np.float32)


def denormalise(y: NDArray[np.floating], scale: Scale) -> Float64:
    """The inverse of `normalise`: answers of a family trained in the input's own scale."""
    return y.astype(np.float64) * scale.gain + scale.offset


def fit_to_input(y: NDArray[np.floating], x: Float64, usable: Bool) -> Float64:
    """Answers in the clean signal's own 0..1 brought back to the sensor's units.

    Undoing the noisy window's min-max would blow the pulse up, because noise widens that window's range. So
    the answer is fitted to the input instead: per row the least-squares `x ~ gain * y + offset + slope * t` over
    the usable samples, `t` centred on the window, and the result is `gain * y + offset`, without the slope.
    A negative gain would turn the pulse upside down: it becomes 0, a flat answer.

    y: (n, m) network answers; x: (n, m) the windows in the sensor's units; usable: (n, m), False where a sample is
    missing or clipped. Returns (n, m) float64.
    """
    answer = y.astype(np.float64)
    whole = usable.all(axis=1)
    if whole.all():
        return _fit(answer, x, None)
    w = usable.astype(np.float64)
    # A row with too few measured samples for a fit uses all its samples.
    w[w.sum(axis=1) < 8] = 1.0
    return _fit(answer, x, w)


def _fit(answer: Float64, x: Float64, w: Float64 | None) -> Float64:
    """`fit_to_input` under weights of 0 and 1; None: all 1, with the same result bit for bit in two thirds of the time."""
    n = answer.shape[1]
    total = float(n) if w is None else w.sum(axis=1, keepdims=True)

    def weighed(v: Float64) -> Float64:
        return v if w is None else w * v

    def mean(v: Float64) -> Float64:
        found: Float64 = weighed(v).sum(axis=1, keepdims=True) / total
        return found

    # x of any magnitude: work relative to a reference sample so that products stay well inside float64.
    anchor, ramp = x[:, :1], np.linspace(-0.5, 0.5, n)[None, :]
    xc, yc = x - anchor, answer
    x_mean, y_mean, t_mean = mean(xc), mean(yc), mean(ramp)
    xc, yc, tc = xc - x_mean, yc - y_mean, ramp - t_mean
    # Frisch-Waugh: take the ramp out of both sides, then fit one against the other.
    wt = weighed(tc)
    tt = (wt * tc).sum(axis=1, keepdims=True)
    y_slope = (wt * yc).sum(axis=1, keepdims=True) / tt
    x_slope = (wt * xc).sum(axis=1, keepdims=True) / tt
    yr, xr = yc - y_slope * tc, xc - x_slope * tc
    wy = weighed(yr)
    power = (wy * yr).sum(axis=1, keepdims=True)
    cross = (wy * xr).sum(axis=1, keepdims=True)
    gain = np.where(power > 1e-12 * total, cross / np.maximum(power, 1e-300), 0.0)
    gain = np.maximum(gain, 0.0)
    slope = x_slope - gain * y_slope
    fitted: Float64 = anchor + x_mean - slope * t_mean + gain * (answer - y_mean)
    return fitted
