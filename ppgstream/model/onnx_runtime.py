"""Networks in ONNX Runtime, from the graph in a checkpoint's folder. No TensorFlow."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import CheckpointError
from ppgstream.model.checkpoint import GRAPH, Checkpoint
from ppgstream.model.tensorflow_runtime import Compute


def in_onnx(checkpoint: Checkpoint) -> Compute:
    """The network of a checkpoint in ONNX Runtime, one thread a call; calls may run at once. Raises CheckpointError where ONNX Runtime, or a graph
    that is the checkpoint's own, is missing."""
    path = checkpoint.graph
    if path is None:
        raise CheckpointError(f"{checkpoint.path}: has no {GRAPH}; `ppgstream checkpoint export` writes one")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the graph: {error.strerror}") from error
    if found != checkpoint.graph_sha256:
        raise CheckpointError(f"{path}: not the graph of this checkpoint: its sha256 is another one than the manifest states")
    ort = import_onnxruntime()
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        raise CheckpointError(f"{path}: ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}") from error
    takes_mask = len(session.get_inputs()) == 2

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        feed = {"x": x, "valid": valid.astype(np.float32)} if takes_mask else {"x": x}
        y: NDArray[np.float32] = session.run(None, feed)[0]
        return y

    return compute


def import_onnxruntime() -> Any:
    """ONNX Runtime, without its telemetry. Raises CheckpointError where it is missing.

    Since 1.29 its official builds send events to their maker and keep an identifier of the machine on disk, unless one of these variables is set
    before the import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"  # its name now, and in its first releases
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise CheckpointError(f"ONNX Runtime cannot be imported: {error}") from error
    return onnxruntime


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
