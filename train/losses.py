"""What a network is trained to make small, by name. Each takes `packed` and the answer, and gives a value a window.

packed: (n, window + 4): the clean window in its own 0..1; gain and level, with which `gain * clean + level` is the right answer
in the scale that the network answers in; the clean pulse's SD in that scale; and 1 where there is a pulse, 0 where there is none.
answer: (n, window), or (n, 2 * window) from a network that adds the log variance of its error. newest: so many samples at the
window's end count, 0: all. `loss_of` gives the mean of a loss over all samples and over the newest: a network for which the
newest alone counted would answer anything elsewhere, and the first samples of a stream come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LEAST_HEIGHT = 0.1  # of the clean pulse in the network's input: lower ones count as if they were so high
LEAST_SD = 0.05  # the same of its SD, where a window has SD 1
LARGE = 3.0  # errors beyond, in SD of the pulse, count by their size and no longer by their square
STEPS, SHAPE, LIKELIHOOD = 20.0, 4.0, 0.1  # weights of the parts of `robust`
BALANCE, BALANCED = 0.3, (0.7, 6.0)  # power of the error's variance by which `balanced` weighs, and the least and largest weight
NOTHING, NOTHING_ERROR = 0.4, 1.5  # weight of a window without a pulse, and the squared error that it is to be told


def _parts(packed: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Clean window, right answer, gain, SD and whether there is a pulse."""
    window = packed.shape[1] - 4
    clean = packed[:, :window]
    gain, level, sd, pulse = (packed[:, window + k : window + k + 1] for k in range(4))
    return clean, gain * clean + level, gain, sd, pulse


def l2(packed: Any, answer: Any, newest: int = 0) -> Any:
    """Mean squared error, in units of the clean pulse's height: the course's loss."""
    from keras import ops

    _, target, gain, _, _ = _parts(packed)
    error = (answer[:, : target.shape[1]] - target) / ops.maximum(gain, LEAST_HEIGHT)
    return ops.mean(ops.square(error[:, -newest:]), axis=1)


def l1(packed: Any, answer: Any, newest: int = 0) -> Any:
    """Mean absolute error, in units of the clean pulse's height: the course's exercise 3."""
    from keras import ops

    _, target, gain, _, _ = _parts(packed)
    error = (answer[:, : target.shape[1]] - target) / ops.maximum(gain, LEAST_HEIGHT)
    return ops.mean(ops.abs(error[:, -newest:]), axis=1)


def shape(packed: Any, answer: Any, newest: int = 0) -> Any:
    """Mean squared error, plus that after both waves are min-maxed: what G judges."""
    from keras import ops

    clean = _parts(packed)[0]
    off = _minmax(answer[:, : clean.shape[1]], 0.02) - clean
    return l2(packed, answer, newest) + ops.mean(ops.square(off[:, -newest:]), axis=1)


def _minmax(x: Any, least: float) -> Any:
    from keras import ops

    low = ops.min(x, axis=1, keepdims=True)
    return (x - low) / ops.maximum(ops.max(x, axis=1, keepdims=True) - low, least)


def robust(packed: Any, answer: Any, newest: int = 0) -> Any:
    """Squared error in SD of the clean pulse, large ones by their size; that of the first difference; that of the min-maxed
    waves; and the Gaussian negative log likelihood of the log variance, which learns to tell the error and does not change the
    wave."""
    return _robust(packed, answer, newest, balanced=False)


def balanced(packed: Any, answer: Any, newest: int = 0) -> Any:
    """`robust`, where a sample counts the more the smaller the error that the network tells: clean signal is to stay clean, and
    what is lost anyway takes less of the weights. After Seitzer et al. 2022 (arXiv 2203.09168), with a milder power."""
    return _robust(packed, answer, newest, balanced=True)


def _robust(packed: Any, answer: Any, newest: int, *, balanced: bool) -> Any:
    from keras import ops

    clean, target, _, sd, pulse = _parts(packed)
    window = clean.shape[1]
    y, there = answer[:, :window], pulse[:, 0]
    off = (_minmax(y, 0.1) - clean)[:, -newest:]
    error = ((y - target) / ops.maximum(sd, LEAST_SD))[:, -newest:]
    log_var = answer[:, window:][:, -newest:] if answer.shape[1] > window else None
    weight = ops.ones_like(error)
    if balanced and log_var is not None:
        weight = ops.clip(ops.exp(-BALANCE * ops.stop_gradient(log_var)), *BALANCED)
    size = ops.abs(error)
    loss = ops.mean(weight * ops.where(size < LARGE, error * error, 2 * LARGE * size - LARGE * LARGE), axis=1)
    extra = STEPS * ops.mean(weight[:, 1:] * ops.square(error[:, 1:] - error[:, :-1]), axis=1)
    extra = extra + SHAPE * ops.mean(weight, axis=1) * ops.mean(ops.square(off), axis=1)
    loss = loss + there * extra
    if log_var is not None:
        seen = ops.where(pulse > 0, ops.square(ops.stop_gradient(error)), NOTHING_ERROR)
        loss = loss + LIKELIHOOD * 0.5 * ops.mean(log_var + seen * ops.exp(-log_var), axis=1)
    return loss * (there + NOTHING * (1 - there))


Loss = Callable[[Any, Any], Any]
LOSSES: dict[str, Callable[..., Any]] = {"l2": l2, "l1": l1, "shape": shape, "robust": robust, "balanced": balanced}


def loss_of(name: str, newest: int) -> Loss:
    """A loss by name. newest: so many samples at a window's end count as much as the whole window; 0: no more than others."""

    def loss(packed: Any, answer: Any) -> Any:
        whole = LOSSES[name](packed, answer)
        return (whole + LOSSES[name](packed, answer, newest)) / 2 if newest else whole

    return loss
