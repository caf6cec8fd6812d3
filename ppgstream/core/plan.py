"""The rules that samples go by: a `Plan` is what a checkpoint makes of them, `SensorRules` what is done with a sensor, `Rules`
both and the engine's own.

`ppgstream.assemble` makes them from a configuration and a checkpoint, for the daemon, for files, for calibration and for the
bench alike: so what is calibrated is what is served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.confidence import Calibration
from ppgstream.core.denoiser import Answers, Scaling
from ppgstream.core.polarity import Polarity
from ppgstream.core.rate import RateRules
from ppgstream.core.sequence import HOLD, HOLD_S
from ppgstream.wire.message import NO_CHECKPOINT, Flag

Stated = float | Literal["measure"]
Policy = Literal["mark", "mask", "raw"]  # below the threshold: the answer, flagged; NaN; the sensor's own value


@dataclass(frozen=True)
class Geometry:
    """How windows lie. All lengths in samples; `lookahead` None means all there is, window - 1."""

    window: int = 250
    hop: int = 50
    context: int = 0
    lookahead: int | None = None
    overlap: Literal["hann", "uniform"] = "hann"

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        if self.overlap == "uniform":
            return np.ones(self.window)
        at = np.arange(self.window) + 0.5
        taper = np.sin(np.pi * at / self.window) ** 2
        if self.lookahead is not None and (unused := self.window - self.hop - self.lookahead) > 0:
            # The samples before are published already; from here on the answer counts, and fades in over a hop.
            taper *= np.sin(np.pi / 2 * np.clip((at - unused) / self.hop, 0.0, 1.0)) ** 2
        # Lifted so that the first and last sample of a segment still have a weight.
        return taper + 1e-3

    @cached_property
    def settles(self) -> int:
        """How many of a window's samples are final once it is in."""
        wait = self.window - 1 if self.lookahead is None else self.lookahead
        return max(self.window - wait, self.hop)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a checkpoint makes of a stretch of samples at `fs` Hz.

    `answers`: the scale the network answers in; `scaling`: how windows are scaled for it. `output`: publish in the input's units,
    or the network's own answer ("model", as the course's scripts save it). `rate`: for beats and heart rates; None: there are
    none."""

    geometry: Geometry = field(default_factory=Geometry)
    fs: float = 125.0
    checkpoint: bytes = NO_CHECKPOINT
    answers: Answers = "clean"
    scaling: Scaling = "min-max"
    output: Literal["input", "model"] = "input"
    calibration: Calibration | None = None
    rate: RateRules | None = None


@dataclass(frozen=True, slots=True)
class SensorRules:
    """What is done with a sensor. `hold` in samples; `max_fill` in samples at the model's rate."""

    max_fill: int = 50
    hold: int = HOLD
    hold_s: float = HOLD_S
    silence_s: float = 2.0
    threshold: float = 0.5
    sentinels: tuple[float, ...] = ()  # values that mean "no value"
    polarity: Polarity = "auto"
    clocked_by_arrival: bool = False  # the senders say no time
    stated_fs: Stated = 0.0  # of sensors that say no rate, Hz; 0: it is measured; "measure": it is, whatever they say
    rates: Mapping[str, Stated] = field(default_factory=dict)  # the same of streams that have one of their own
    policy: Policy = "mark"
    policies: Mapping[str, Policy] = field(default_factory=dict)  # of streams that have one of their own

    def most_filled(self, fs: float, target: float) -> int:
        """`max_fill` in samples at `fs` Hz, where the model's are at `target` Hz."""
        return self.max_fill if fs == target else round(self.max_fill * fs / target)


@dataclass(frozen=True, slots=True)
class Rules:
    """An engine's. `tile`: windows a step. `few`: windows a step while fewer streams than that wait (0: `tile`), so that others
    do not wait for a whole tile of one stream."""

    plan: Plan = field(default_factory=Plan)
    sensor: SensorRules = field(default_factory=SensorRules)
    tile: int = 64
    max_streams: int = 10_000
    few: int = 0


def under_policy(
    policy: Policy, low: NDArray[np.bool_], values: NDArray[np.float64], raw: NDArray[np.float64], flags: NDArray[np.uint16]
) -> tuple[NDArray[np.float64], NDArray[np.uint16]]:
    """What is published of the answers `values` (n,), where `low` says whose confidence is too low, and their flags."""
    if policy == "mark":
        return values, flags
    instead = np.nan if policy == "mask" else np.where(np.isfinite(raw), raw, values)
    return np.where(low, instead, values), np.where(low, flags | np.uint16(Flag.REPLACED), flags)
