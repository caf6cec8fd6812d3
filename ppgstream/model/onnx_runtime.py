"""Networks in ONNX Runtime, from the graph in a checkpoint's folder. No TensorFlow."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import LOG_VAR
from ppgstream.errors import CheckpointError
from ppgstream.model.architecture import OWN, Architecture
from ppgstream.model.checkpoint import GRAPH, Checkpoint
from ppgstream.model.tensorflow_runtime import Compute
from ppgstream.storage import MOST_GRAPH, read_regular


def in_onnx(checkpoint: Checkpoint) -> Compute:
    """The network of a checkpoint in ONNX Runtime, one thread a call; calls may run at once. Raises CheckpointError where ONNX
    Runtime, or a graph that is the checkpoint's own, is missing. So does a call where the graph does not run, or answers in a
    shape that is not the network's."""
    path = checked_graph(checkpoint)
    arch = checkpoint.arch
    if arch.family == OWN:
        return compute_of(session_of(path), arch, str(path))
    try:
        session = session_of(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_anew(checkpoint)}") from error
    takes_mask, width = arch.takes_mask, arch.window * len(arch.outputs)
    needed, there = ["x", "valid"] if takes_mask else ["x"], [given.name for given in session.get_inputs()]
    if sorted(there) != sorted(needed):
        raise CheckpointError(
            f"{path}: a graph of {arch.family!r} has the inputs {', '.join(needed)}, this one has {', '.join(there)}; "
            f"{_anew(checkpoint)}"
        )

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        feed = {"x": x, "valid": valid.astype(np.float32)} if takes_mask else {"x": x}
        try:
            y: NDArray[np.float32] = session.run(None, feed)[0]
        except Exception as error:  # as above
            raise CheckpointError(
                f"{path}: ONNX Runtime cannot run the graph: {str(error).splitlines()[0]}; {_anew(checkpoint)}"
            ) from error
        if np.shape(y) != (len(x), width):
            raise CheckpointError(
                f"{path}: the output of {len(x)} windows must be {(len(x), width)}, got {np.shape(y)}; {_anew(checkpoint)}"
            )
        return y

    return compute


def session_of(graph: Path | bytes, name: str = "") -> Any:
    """A graph in ONNX Runtime, one thread a call. Raises CheckpointError where it cannot be loaded, which names the graph `name`
    (or its file)."""
    ort = import_onnxruntime()
    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    given = graph if isinstance(graph, bytes) else str(graph)
    try:
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        raise CheckpointError(f"{name or graph!s}: ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}") from error


DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}


def answer_of(session: Any, x: NDArray[np.float32], name: str) -> NDArray[Any]:
    """What a graph of one input answers to windows (n, window), as it answers. Raises CheckpointError where it does not."""
    given, (n, window) = session.get_inputs()[0], x.shape
    forms = {2: (n, window), 3: (n, 1, window) if given.shape[1:2] == [1] else (n, window, 1)}
    try:
        return np.asarray(session.run(None, {given.name: x.astype(DTYPES[given.type]).reshape(forms[len(given.shape)])})[0])
    except Exception as error:  # ONNX Runtime raises classes of its own that share no base
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name}: ONNX Runtime cannot run the graph on windows of {window} samples: {why:.300}") from error


def compute_of(session: Any, arch: Architecture, name: str) -> Compute:
    """A graph of the family `OWN`, however its one input and output lie: windows as (n, window), (n, window, 1) or (n, 1,
    window), the answer so too, or twice as much: the wave and its log variance. A call raises CheckpointError where it does
    not."""
    window, outputs = arch.window, len(arch.outputs)

    def compute(x: NDArray[np.float32], _: NDArray[np.bool_]) -> NDArray[np.float32]:
        y = np.asarray(answer_of(session, x, name), np.float32)
        if y.shape == (len(x), window, 2) and outputs == 2:
            y = y.transpose(0, 2, 1)
        if len(y) != len(x) or y.size != len(x) * window * outputs:
            raise CheckpointError(f"{name}: the output of {len(x)} windows of {window} samples has the shape {np.shape(y)}")
        y = y.reshape(len(x), -1)
        if outputs == 2:
            y[:, window:] = y[:, window:].clip(*LOG_VAR)
        return np.ascontiguousarray(y)

    return compute


def checked_graph(checkpoint: Checkpoint) -> Path:
    """The file of a checkpoint's graph. Raises CheckpointError where it is missing, cannot be read, or is not the one that the
    manifest names."""
    path = checkpoint.graph
    if path is None:
        raise CheckpointError(f"{checkpoint.path}: has no {GRAPH}; {_anew(checkpoint)}")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the graph: {error.strerror}; {_anew(checkpoint)}") from error
    if found != checkpoint.graph_sha256:
        raise CheckpointError(
            f"{path}: not the graph of this checkpoint: its sha256 begins with {found[:8]}, "
            f"the manifest states {checkpoint.graph_sha256[:8]}; {_anew(checkpoint)}"
        )
    return path


def _anew(checkpoint: Checkpoint) -> str:
    if checkpoint.arch.family == OWN:
        return "import it anew"
    return f"`ppgstream checkpoint import {checkpoint.path} -o FOLDER` writes it with a new graph"


def import_onnxruntime() -> Any:
    """ONNX Runtime, without its telemetry. Raises CheckpointError where it is missing.

    Since 1.29 its official builds send events to their maker and keep an identifier of the machine on disk, unless one of these
    variables is set before the import.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = os.environ["ORT_TELEMETRY_DISABLED"] = "1"  # its name now, and in its first releases
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise CheckpointError(f"ONNX Runtime cannot be imported: {error}") from error
    return onnxruntime


def sha256_of(path: Path) -> str:
    return hashlib.sha256(read_regular(path, MOST_GRAPH)).hexdigest()
