"""What runs a checkpoint: ONNX Runtime or TensorFlow, or NumPy for the linear estimate."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ppgstream.config import Runtime
from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.errors import CheckpointError
from ppgstream.model import lmmse
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.imported import with_graph
from ppgstream.model.onnx_runtime import in_onnx
from ppgstream.model.tensorflow_runtime import Compute, in_tensorflow


def denoiser(
    checkpoint: Checkpoint, *, threads: int = 1, runtime: Runtime = "auto", say: Callable[[str], None] | None = None
) -> Denoiser:
    """The `Denoiser` that runs a checkpoint, warmed up. `lmmse` runs in NumPy. "auto" is ONNX Runtime where it can run the checkpoint, else
    TensorFlow, with the reason to `say` (by default a line on stderr).

    Every call computes whole tiles of `checkpoint.tile` windows, the last one padded: the shape never changes, so a
    window's answer is the same bit for bit whatever else is in the batch. `threads`: so many may call it at once, each computing on its own; for
    TensorFlow that is settled once a process.

    Raises CheckpointError if the runtime that is asked for cannot run it, or none can.
    """
    arch, tile = checkpoint.arch, checkpoint.tile
    length = arch.context + arch.window
    compute = _lmmse(checkpoint) if arch.family == "lmmse" else _network(checkpoint, threads, runtime, say or _say)

    def run(batch: Batch) -> Answer:
        n = len(batch.x)
        y = np.empty((n, arch.window * len(arch.outputs)), np.float32)
        for start in range(0, n, tile):
            stop = min(start + tile, n)
            x = np.full((tile, length), 0.5, np.float32)
            valid = np.ones((tile, length), np.bool_)
            x[: stop - start] = batch.x[start:stop]
            valid[: stop - start] = batch.valid[start:stop]
            y[start:stop] = compute(x, valid)[: stop - start]
        return Answer(y[:, : arch.window], y[:, arch.window :] if "log_var" in arch.outputs else None)

    run(Batch(np.full((1, length), 0.5, np.float32), np.ones((1, length), np.bool_)))
    return run


def _network(checkpoint: Checkpoint, threads: int, runtime: Runtime, say: Callable[[str], None]) -> Compute:
    if runtime == "tensorflow":
        return in_tensorflow(checkpoint, threads)
    try:
        return in_onnx(with_graph(checkpoint))
    except CheckpointError as error:
        if runtime == "onnx":
            raise
        compute = in_tensorflow(checkpoint, threads)
        say(f"{error}; TensorFlow runs it instead")
    return compute


def _say(text: str) -> None:
    print(f"ppgstream: {text}", file=sys.stderr, flush=True)


def _lmmse(checkpoint: Checkpoint) -> Compute:
    arch = checkpoint.arch
    needed = {"mean": (arch.window,), "components": (arch.window, arch.size("rank"))}
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if found != needed:
        raise CheckpointError(f"{checkpoint.path}: an LMMSE of {arch.window} samples has the tensors {needed}, got {found}")
    estimate = lmmse.denoiser(checkpoint.tensors)

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        answer = estimate(Batch(x, valid))
        assert answer.log_var is not None
        return np.concatenate([answer.y, answer.log_var], axis=1)

    return compute
