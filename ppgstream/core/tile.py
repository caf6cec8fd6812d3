"""A tile: windows of many streams on their way through the model, scaled for it, and its answer in the sensors' units."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.measured import HELD, MEASURED, OUTLIER
from ppgstream.core.plan import Plan
from ppgstream.core.polarity import skewness_of
from ppgstream.core.ready import Ready
from ppgstream.core.scaling import SCALES, Scale, denormalise, fit_to_input, scaled


class Tile(NamedTuple):
    """Windows on their way through the model. x, upright and in the sensor's units, and state: (n, context + window). sign: (n,
    1), -1 for a window that was turned over. `batch` is x by `scale`."""

    plan: Plan
    ready: list[Ready]
    x: NDArray[np.float64]
    state: NDArray[np.uint8]
    sign: NDArray[np.float64]
    scale: Scale
    batch: Batch

    def in_units(self, answer: Answer) -> NDArray[np.float64]:
        """The answer (n, window) in the sensor's units, the sensor's way up."""
        if self.plan.output == "model":
            return answer.y.astype(np.float64)
        context = self.plan.geometry.context
        x, state = self.x[:, context:], self.state[:, context:]
        own_scale = self.plan.answers == "clean"
        told = fit_to_input(answer.y, x, state == MEASURED) if own_scale else denormalise(answer.y, self.scale)
        # Nothing in, nothing out: no pulse is invented for a flat line.
        y: NDArray[np.float64] = self.sign * np.where(self.scale.flat, x, told)
        return y


def tile_of(ready: list[Ready], plan: Plan) -> Tile:
    """Windows, one at least, made ready for the model."""
    g = plan.geometry
    x = np.concatenate([r.window.x for r in ready]).reshape(len(ready), g.context + g.window)
    state = np.concatenate([r.window.state for r in ready]).reshape(x.shape)
    sign = _signs(ready, x, state, plan.fs)
    x = sign * x
    measured = state == MEASURED
    at = np.arange(x.shape[1])
    for row in np.flatnonzero((state == OUTLIER).any(axis=1)):  # for the model's eyes: a straight line across
        known = state[row] <= HELD
        x[row] = np.where(known, x[row], np.interp(at, at[known], x[row, known])) if known.any() else 0.0
    # The course's networks were trained on windows scaled by all their samples, clipped ones included.
    as_course = plan.answers == "clean" and plan.scaling == "min-max"
    scaled_by = state <= HELD if as_course else measured
    scale = SCALES[plan.scaling](x, scaled_by)
    return Tile(plan, ready, x, state, sign, scale, Batch(scaled(x, scale, plan.scaling), measured))


def _signs(ready: list[Ready], x: NDArray[np.float64], state: NDArray[np.uint8], fs: float) -> NDArray[np.float64]:
    """(n, 1): -1 for each window of `x` (n, context + window) that is upside down, as far as its session's windows up to it
    tell."""
    tracks = [(r.stream.track, r.window) for r in ready]
    open_ = [k for k, (track, window) in enumerate(tracks) if track.looks(window)]
    if not open_:
        return np.array([[track.sign(window.segment)] for track, window in tracks])
    skewness = dict(zip(open_, skewness_of(x[open_], state[open_], fs).tolist(), strict=True))
    # One after the other: what a window tells counts for those behind it, and whether it is looked at, for them too.
    return np.array(
        [
            [track.look(window, skewness[k]) if k in skewness and track.looks(window) else track.sign(window.segment)]
            for k, (track, window) in enumerate(tracks)
        ]
    )
