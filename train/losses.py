"""What a network is trained to make small, by name. Each takes the packed target of `batches.pack` and the answer, and gives a value a window.

The answer is compared with the clean pulse as it lies in the network's input (families that answer in the input's scale), or with the clean
window in its own 0..1 (the course's); errors are in units of the clean pulse's height.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LEAST_HEIGHT = 0.1  # of the clean pulse in the network's input: lower ones count as if they were so high


def _error(packed: Any, answer: Any) -> Any:
    from keras import ops

    window = answer.shape[1]
    clean, gain, level = packed[:, :window], packed[:, window : window + 1], packed[:, window + 1 :]
    return (answer - gain * clean - level) / ops.maximum(gain, LEAST_HEIGHT)


def l2(packed: Any, answer: Any) -> Any:
    """Mean squared error: the course's loss."""
    from keras import ops

    return ops.mean(ops.square(_error(packed, answer)), axis=1)


def l1(packed: Any, answer: Any) -> Any:
    """Mean absolute error: the course's exercise 3."""
    from keras import ops

    return ops.mean(ops.abs(_error(packed, answer)), axis=1)


def shape(packed: Any, answer: Any) -> Any:
    """Mean squared error, plus that after both waves are min-maxed: what G judges."""
    from keras import ops

    window = answer.shape[1]
    clean = packed[:, :window]
    low = ops.min(answer, axis=1, keepdims=True)
    span = ops.max(answer, axis=1, keepdims=True) - low
    return l2(packed, answer) + ops.mean(ops.square((answer - low) / ops.maximum(span, 0.02) - clean), axis=1)


LOSSES: dict[str, Callable[[Any, Any], Any]] = {"l2": l2, "l1": l1, "shape": shape}
