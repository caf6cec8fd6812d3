"""What the engine asks of a model, and the simplest one that fits: the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scaling = Literal["min-max", "standard", "z-score", "none"]  # how a window is scaled for the network (`scaling`)
LOG_VAR = (-8.0, 4.0)  # least and most that a network tells of its error
Answers = Literal["clean", "input"]  # the scale a network answers in: the clean signal's own 0..1, or its input's


class Batch(NamedTuple):
    """Windows for the model. x: (n, context + window) float32, scaled. valid: the same shape, False where nothing was
    measured."""

    x: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Answer(NamedTuple):
    """The model's answer. y: (n, window) float32. log_var: the same shape, the network's own log error variance, where it has
    one."""

    y: NDArray[np.float32]
    log_var: NDArray[np.float32] | None = None


Denoiser = Callable[[Batch], Answer]


def identity(window: int) -> Denoiser:
    """A denoiser that changes nothing: for dry runs, and for testing everything around the model."""

    def answer(batch: Batch) -> Answer:
        return Answer(batch.x[:, -window:])

    return answer
