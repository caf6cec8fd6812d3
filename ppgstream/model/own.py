"""Networks that somebody else's program made, as checkpoints of ours: an ONNX graph with one input and one output, looked at and
tried before it is taken (docs/own-network.md). A file of Keras is made such a graph first (`keras_file`)."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Scaling
from ppgstream.core.scaling import SCALES, scaled
from ppgstream.errors import CheckpointError, UsageError
from ppgstream.model import folder as folder_of
from ppgstream.model.architecture import OWN, OWN_ANSWERS, OWN_WINDOWS, Architecture, check
from ppgstream.model.checkpoint import DEFAULT_TILE
from ppgstream.model.onnx_runtime import DTYPES, answer_of, compute_of, session_of
from ppgstream.model.tensorflow_runtime import Compute
from ppgstream.storage import MOST_GRAPH, read_regular

SCALINGS: dict[str, Scaling] = {
    "min-max": "min-max",
    "standard": "z-score",
    "none": "none",
}  # as asked for, and as an architecture states it
ANSWERS = OWN_ANSWERS
GOLDEN = 10  # windows at least on which a network is tried: one of each kind
CLOSE = 1e-3  # by how much answers may differ, of their SD, with what else is in the batch
MOST_TILE = 4096  # windows
# What people have in place of a graph, by how its name ends, and how they get one.
ELSEWHERE = {
    ".pt": "a file of PyTorch: torch.onnx.export(network, x, 'my.onnx')",
    ".pth": "a file of PyTorch: torch.onnx.export(network, x, 'my.onnx')",
    ".ckpt": "a file of PyTorch Lightning: torch.onnx.export(network, x, 'my.onnx')",
    ".safetensors": "tensors without their network: export it as ONNX, in the program that has its code",
    ".tflite": "a file of TensorFlow Lite: python -m tf2onnx.convert --tflite my.tflite --output my.onnx",
    ".pb": "a graph of TensorFlow: python -m tf2onnx.convert --saved-model FOLDER --output my.onnx",
    ".pkl": "a pickle, which may hold any program and is not read: export the network as ONNX",
    ".joblib": "a pickle, which may hold any program and is not read: export the network as ONNX (skl2onnx)",
}
SAVED_MODEL = "a SavedModel of TensorFlow: python -m tf2onnx.convert --saved-model {path} --output my.onnx"


class Tried(NamedTuple):
    """What an imported network is. window_ms: the time of a window, computed with others, on one thread."""

    arch: Architecture
    tile: int
    window_ms: float


def what_else(path: Path) -> str:
    """What a file is that is no graph, and what to do; empty where nothing is known of it."""
    if path.is_dir():
        return SAVED_MODEL.format(path=path) if (path / "saved_model.pb").is_file() else ""
    return ELSEWHERE.get(path.suffix.lower(), "")


def read_onnx(path: Path) -> bytes:
    """An ONNX file, with the weights that lie beside it taken in. Raises CheckpointError for what is none, for weights outside of
    its folder, and for what is too large."""
    import onnx

    try:
        content = read_regular(path, MOST_GRAPH)
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the network: {error.strerror or error}") from error
    except Exception as error:  # protobuf's classes share no base
        raise CheckpointError(f"{path}: not an ONNX file: {_first(error)}") from error
    if not model.graph.node:
        raise CheckpointError(f"{path}: not an ONNX file: it has no graph")
    external = [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL]
    if not external:
        return content
    left = MOST_GRAPH - len(content)
    for tensor in external:
        facts = {entry.key: entry.value for entry in tensor.external_data}
        tensor.raw_data = _beside(path, tensor.name, facts, left)
        left -= len(tensor.raw_data)
        del tensor.external_data[:]
        tensor.data_location = onnx.TensorProto.DEFAULT
    return bytes(model.SerializeToString(deterministic=True))


def _tensors(message: Any) -> list[Any]:
    """All tensors in a model, wherever they are: weights, constants, those of graphs within graphs, of functions, sparse ones."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        return [message]
    found: list[Any] = []
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                found += _tensors(one)
    return found


def _beside(path: Path, name: str, facts: dict[str, str], most: int) -> bytes:
    """The bytes of a tensor that lie in a file beside the graph."""
    location = PurePosixPath(facts.get("location", ""))
    place = path.parent / location
    if not location.name or location.is_absolute() or ".." in location.parts:
        raise CheckpointError(f"{path}: the weights {name!r} lie in {str(location)!r}: only files beside the network are read")
    try:
        offset, length = int(facts.get("offset", "0")), int(facts.get("length", "-1"))
        with open(place, "rb", opener=_no_link) as file:
            about = os.fstat(file.fileno())
            inside = place.resolve().is_relative_to(path.parent.resolve())
            if not stat.S_ISREG(about.st_mode) or not inside:
                raise OSError(0, "not a regular file beside the network")
            length = about.st_size - offset if length < 0 else length
            if not 0 <= offset <= about.st_size - length or length < 0:
                raise ValueError(f"{length} bytes from {offset} of {about.st_size}")
            if length > most:
                raise ValueError(f"more than {MOST_GRAPH:,} bytes in all")
            file.seek(offset)
            return file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: the weights {name!r} in {place}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: the weights {name!r} in {place}: {error}") from error


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def tried(graph: bytes, name: str, *, window: int | None, fs: float, scaling: str, answers: str) -> Tried:
    """What a graph is, once it has answered. window: samples, None: as the graph says. scaling: one of `SCALINGS`. answers: one
    of `ANSWERS`.

    Raises CheckpointError for a graph of other inputs or outputs, for answers that are not finite, that differ from call to call,
    or with what else is in the batch; UsageError for a window that is not said, or is not the graph's."""
    session = session_of(graph, name)
    given, window = _input(session, name, window)
    parameters = _parameters(graph)
    outputs = ("wave",)
    arch = _architecture(window, parameters, outputs, scaling, answers)
    batch = given.shape[0] if isinstance(given.shape[0], int) and given.shape[0] > 0 else DEFAULT_TILE
    if batch > MOST_TILE:
        raise CheckpointError(f"{name}: takes {batch} windows at once: at most {MOST_TILE}")
    x = _golden(window, fs, SCALINGS[scaling], batch * -(-GOLDEN // batch))
    answered = answer_of(session, x[:batch], name)
    plain = answered.shape in ((batch, window), (batch, window, 1), (batch, 1, window))
    double = answered.shape in ((batch, 2 * window), (batch, window, 2), (batch, 2, window))
    if not plain and not double:
        raise CheckpointError(
            f"{name}: {batch} windows of {window} samples give an output of shape {answered.shape}: it must have the same "
            f"length, or twice as much (wave, then log variance)"
        )
    if double:
        if (scaling, answers) != ("standard", "input"):
            raise UsageError(
                f"{name}: answers twice as much as it is given, wave and log variance: this needs --scaling standard "
                f"--answers-in input, since the variance is that of windows of SD 1; or let it answer the wave alone"
            )
        arch = _architecture(window, parameters, ("wave", "log_var"), scaling, answers)
    return Tried(arch, batch, _try(compute_of(session, arch, name), x, batch, name))


def write(folder: Path, graph: bytes, found: Tried, *, fs: float, source: Path) -> None:
    """A checkpoint's folder of a graph that was tried. Raises OSError."""
    import onnx

    model = onnx.load_model_from_string(graph)
    told = " ".join(filter(None, (model.producer_name, model.producer_version)))
    provenance = {"from": source.name, "from_sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "producer": told[:200]}
    folder_of.write(folder, {}, found.arch, fs=fs, provenance=provenance, tile=found.tile, graph=graph)


def _architecture(window: int, parameters: int, outputs: tuple[str, ...], scaling: str, answers: str) -> Architecture:
    arch = Architecture(
        OWN, window, sizes={"parameters": parameters}, outputs=outputs, stated_scaling=SCALINGS[scaling], stated_answers=answers
    )
    check(arch)
    return arch


def _input(session: Any, name: str, window: int | None) -> tuple[Any, int]:
    """The input of a graph, and the window."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        there = f"inputs {', '.join(i.name for i in inputs) or 'none'}; outputs {', '.join(o.name for o in outputs) or 'none'}"
        raise CheckpointError(f"{name}: must have one input and one output, has {there}")
    given = inputs[0]
    if outputs[0].type not in DTYPES:
        raise CheckpointError(f"{name}: the output {outputs[0].name!r} is {outputs[0].type}: must be numbers with a fraction")
    shape = [d if isinstance(d, int) and d > 0 else None for d in given.shape]
    lengths = {2: shape[1:], 3: [d for d in shape[1:] if d != 1]}.get(len(shape))
    if given.type not in DTYPES or lengths is None or len(lengths) != 1:
        raise CheckpointError(
            f"{name}: the input {given.name!r} is {given.type} of shape {given.shape}: must be numbers of shape (n, window), "
            f"(n, window, 1) or (n, 1, window)"
        )
    (length,) = lengths
    if window is None and length is None:
        raise UsageError(f"{name}: takes windows of any length: say which it was trained on with --window SAMPLES")
    if window is not None and length is not None and window != length:
        raise UsageError(f"--window {window}: {name} takes windows of {length} samples")
    found = window if length is None else length
    assert found is not None
    if not OWN_WINDOWS[0] <= found <= OWN_WINDOWS[1]:
        raise UsageError(f"{name}: windows of {found} samples: must be {OWN_WINDOWS[0]} to {OWN_WINDOWS[1]}")
    return given, found


def _parameters(graph: bytes) -> int:
    import onnx

    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    stored = onnx.load_model_from_string(graph).graph.initializer
    return sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in stored if tensor.data_type in kinds)


def _golden(window: int, fs: float, scaling: Scaling, n: int) -> NDArray[np.float32]:
    """Windows (n, window) as a network is given them: pulses of several rates, clean and noisy, a step, a ramp, noise, a flat
    line."""
    rng, t = np.random.default_rng(0), np.arange(window) / fs
    pulses = [np.exp(2 * np.cos(2 * np.pi * bpm / 60 * t + k) - 2) for k, bpm in enumerate((50, 72, 110, 180))]
    noisy = [pulse + 0.3 * rng.standard_normal(window) for pulse in pulses[:2]]
    ends = [np.linspace(0, 1, window), (np.arange(window) > window // 2).astype(float)]
    kinds = [*pulses, *noisy, *ends, rng.standard_normal(window), np.full(window, 0.5)]
    x = 1000 + 100 * np.stack([kinds[k % len(kinds)] for k in range(n)])
    return scaled(x, SCALES[scaling](x, np.ones(x.shape, np.bool_)), scaling)


def _try(network: Compute, x: NDArray[np.float32], batch: int, name: str) -> float:
    """Answers to golden windows, `batch` at once, and how long one takes, ms. Raises CheckpointError for answers of no use."""
    valid = np.ones((batch, x.shape[1]), np.bool_)

    def compute(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate([network(x[at : at + batch], valid) for at in range(0, len(x), batch)])

    y = compute(x)
    if not np.isfinite(y).all():
        raise CheckpointError(f"{name}: answers a window of a known pulse, noise or a flat line with what is not finite")
    if not float(np.abs(y - y[:1]).max()) > 0:
        raise CheckpointError(f"{name}: answers every window with the same: is it trained?")
    if not np.array_equal(compute(x), y):
        raise CheckpointError(
            f"{name}: answers the same windows differently each time: export it for inference, not for training"
        )
    others = np.roll(x, 1, axis=0)  # every second window is the one before it, beside others at half their size
    others[::2] *= 0.5
    if np.abs(compute(others)[1::2] - y[:-1:2]).max() > CLOSE * max(float(y.std()), 1e-9):
        raise CheckpointError(
            f"{name}: answers a window differently with others beside it: export it for inference, not for training"
        )
    began, calls = time.perf_counter(), 0
    while calls < 3 or (time.perf_counter() - began < 0.3 and calls < 100):
        compute(x)
        calls += 1
    return (time.perf_counter() - began) / calls / len(x) * 1000
