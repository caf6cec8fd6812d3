"""What runs a checkpoint: ONNX Runtime or TensorFlow, or NumPy for the linear estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppgstream.config import Runtime
from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.errors import CheckpointError
from ppgstream.model import lmmse
from ppgstream.model.architecture import tensors_of
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.imported import say_on_stderr, with_graph
from ppgstream.model.onnx_runtime import in_onnx
from ppgstream.model.tensorflow_runtime import Compute, in_tensorflow

SMALLER_TILES = (1, 4, 16)  # windows


def denoiser(
    checkpoint: Checkpoint, *, threads: int = 1, runtime: Runtime = "auto", say: Callable[[str], None] | None = None
) -> Denoiser:
    """The `Denoiser` that runs a checkpoint, warmed up. `lmmse` runs in NumPy. "auto" is ONNX Runtime where it can run the
    checkpoint, else TensorFlow, with the reason to `say` (by default a line on stderr).

    Every call computes whole tiles, the last one padded: of `checkpoint.tile` windows, or of fewer where a smaller tile gives the
    same answers bit for bit (ONNX Runtime; `tiles_of`). So a window's answer does not depend on what else is in the batch.
    `threads`: so many may call it at once, each computing on its own; for TensorFlow that is settled once a process.

    Raises CheckpointError if the runtime that is asked for cannot run it, or none can.
    """
    arch, tile = checkpoint.arch, checkpoint.tile
    length = arch.context + arch.window
    if arch.family == "lmmse":
        compute = _lmmse(checkpoint)
        tiles: tuple[int, ...] = (tile,)
    else:
        compute, tiles = _network(checkpoint, threads, runtime, say or say_on_stderr)

    def run(batch: Batch) -> Answer:
        parts = []
        for start in range(0, len(batch.x), tile):
            x, valid = batch.x[start : start + tile], batch.valid[start : start + tile]
            n = len(x)
            missing = next(t for t in tiles if t >= n) - n
            if missing:
                x = np.concatenate([x, np.full((missing, length), 0.5, np.float32)])
                valid = np.concatenate([valid, np.ones((missing, length), np.bool_)])
            parts.append(compute(x, valid)[:n])
        y = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Answer(y[:, : arch.window], y[:, arch.window :] if "log_var" in arch.outputs else None)

    run(Batch(np.full((1, length), 0.5, np.float32), np.ones((1, length), np.bool_)))
    return Tiled(run, tiles)


@dataclass(frozen=True)
class Tiled:
    """A `Denoiser` that computes batches in whole tiles, of any of these numbers of windows, rising."""

    run: Denoiser
    tiles: tuple[int, ...]

    def __call__(self, batch: Batch) -> Answer:
        return self.run(batch)


def tiles_of(compute: Compute, tile: int, length: int) -> tuple[int, ...]:
    """The tiles, in windows of (length,), in which a network may be computed, rising up to `tile`: of `SMALLER_TILES` those that
    answer as a whole tile does, bit for bit, on this processor. Which of its matrix products a library uses depends on their
    shape, and the order of their sums with it."""
    rng = np.random.default_rng(0)
    x, valid = rng.standard_normal((tile, length), np.float32), rng.uniform(size=(tile, length)) < 0.9
    whole = compute(x, valid)

    def is_same(n: int) -> bool:
        try:
            return np.array_equal(compute(x[:n], valid[:n]), whole[:n])
        except CheckpointError:  # a graph for batches of one size
            return False

    return (*(n for n in SMALLER_TILES if n < tile and is_same(n)), tile)


def _network(
    checkpoint: Checkpoint, threads: int, runtime: Runtime, say: Callable[[str], None]
) -> tuple[Compute, tuple[int, ...]]:
    """The network, and the tiles in which it may be computed."""
    arch, tile = checkpoint.arch, checkpoint.tile
    if runtime == "tensorflow":
        return in_tensorflow(checkpoint, threads), (tile,)
    try:
        compute = in_onnx(with_graph(checkpoint, say))
        return compute, tiles_of(
            compute, tile, arch.context + arch.window
        )  # runs the graph, so that one that does not fit is told here
    except CheckpointError as error:
        if runtime == "onnx":
            raise
        why = error
    try:
        compute = in_tensorflow(checkpoint, threads)
    except CheckpointError as error:
        raise CheckpointError(f"{why}; nor can TensorFlow run the checkpoint: {error}") from error
    say(f"{why}; TensorFlow runs it instead")
    return compute, (tile,)


def _lmmse(checkpoint: Checkpoint) -> Compute:
    arch = checkpoint.arch
    needed = tensors_of(arch)
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if found != needed:
        raise CheckpointError(f"{checkpoint.path}: an LMMSE of {arch.window} samples has the tensors {needed}, got {found}")
    estimate = lmmse.denoiser(checkpoint.tensors)

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        answer = estimate(Batch(x, valid))
        assert answer.log_var is not None
        return np.concatenate([answer.y, answer.log_var], axis=1)

    return compute
