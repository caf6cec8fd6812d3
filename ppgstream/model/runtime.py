"""What runs a checkpoint: TensorFlow, or NumPy for the linear estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.errors import CheckpointError
from ppgstream.model import lmmse
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.tensorflow_runtime import Compute, in_tensorflow


def denoiser(checkpoint: Checkpoint, *, threads: int = 1) -> Denoiser:
    """The `Denoiser` that runs a checkpoint, warmed up: in TensorFlow, or in NumPy for `lmmse`.

    Every call computes whole tiles of `checkpoint.tile` windows, the last one padded: the shape never changes, so a
    window's answer is the same bit for bit whatever else is in the batch. `threads`: so many may call it at once, each computing on its own; for
    TensorFlow that is settled once a process.
    """
    arch, tile = checkpoint.arch, checkpoint.tile
    length = arch.context + arch.window
    compute = _lmmse(checkpoint) if arch.family == "lmmse" else in_tensorflow(checkpoint, threads)

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
