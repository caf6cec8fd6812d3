"""Networks with their weights, in TensorFlow through Keras."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import CheckpointError
from ppgstream.model.checkpoint import Checkpoint, Tensor
from ppgstream.model.networks import build

if TYPE_CHECKING:
    import keras

# A whole tile: x (tile, context + window) and what was measured of it, to all outputs side by side (tile, outputs * window).
Compute = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]


def names_of(model: keras.Model) -> list[str]:
    """The names our format gives a network's weights, in Keras' order: `layer/variable`."""
    names = [str(w.path).removeprefix(f"{model.name}/") for w in model.weights if w.trainable]
    if len(set(names)) != len(names):
        raise CheckpointError(f"network {model.name!r} has weights of the same name")
    return names


def array_of(variable: Any) -> Tensor:
    """A Keras variable's value, whichever backend holds it."""
    from keras import ops

    return np.array(ops.convert_to_numpy(variable), np.float32)


def network(checkpoint: Checkpoint) -> keras.Model:
    """The Keras network of a checkpoint with its weights in. Raises CheckpointError unless names and shapes match exactly."""
    import_keras()
    model = build(checkpoint.arch)
    load_into(model, checkpoint)
    return model


def load_into(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a network. Raises CheckpointError, and changes nothing, unless names and shapes match
    exactly."""
    names = names_of(model)
    if set(names) != set(checkpoint.tensors):
        odd = sorted(set(names) ^ set(checkpoint.tensors))
        raise CheckpointError(
            f"{checkpoint.path}: tensors do not match a {checkpoint.arch.family!r} network, starting with {odd[0]!r}"
        )
    trainable = [w for w in model.weights if w.trainable]
    for name, weight in zip(names, trainable, strict=True):
        tensor = checkpoint.tensors[name]
        if tuple(weight.shape) != tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name!r} has shape {tensor.shape}, the network needs {tuple(weight.shape)}"
            )
    for name, weight in zip(names, trainable, strict=True):
        weight.assign(checkpoint.tensors[name])


def in_tensorflow(checkpoint: Checkpoint, threads: int) -> Compute:
    tf = import_tensorflow()
    try:
        # A call computes on one thread; so many calls may run at once.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        pass  # TensorFlow has run already in this process and keeps the threads it has
    model = network(checkpoint)
    takes_mask = len(model.inputs) == 2
    spec = tf.TensorSpec((checkpoint.tile, checkpoint.arch.context + checkpoint.arch.window), tf.float32)

    def answer(x: Any, valid: Any) -> Any:
        return model([x, valid] if takes_mask else x, training=False)

    compiled = tf.function(answer, input_signature=[spec, spec])

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = compiled(tf.constant(x), tf.constant(valid.astype(np.float32))).numpy()
        return y

    return compute


def import_tensorflow() -> Any:
    """TensorFlow, imported without the banners that it prints to stderr even when told to be quiet."""
    if sys.modules.get("tensorflow") is None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        sys.stderr.flush()
        real = os.dup(2)
        with tempfile.TemporaryFile() as banners:
            os.dup2(banners.fileno(), 2)
            try:
                import tensorflow  # noqa: F401 (taken from sys.modules below)
            except ImportError as error:
                raise CheckpointError(f"TensorFlow cannot be imported, and a checkpoint needs it: {error}") from error
            finally:
                os.dup2(real, 2)
                os.close(real)
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    return sys.modules["tensorflow"]


def import_keras() -> Any:
    """Keras, on the backend that KERAS_BACKEND names: tensorflow (the default), torch or jax. Raises CheckpointError where it is
    missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Keras may import TensorFlow on its other backends too
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow":
        import_tensorflow()
    try:
        import keras
    except ImportError as error:
        raise CheckpointError(f"Keras cannot be imported on the backend KERAS_BACKEND={backend}: {error}") from error
    return keras
