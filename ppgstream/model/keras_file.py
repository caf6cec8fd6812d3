"""A network in a file of Keras (`.keras`, `.h5`), as an ONNX graph.

Such a file can hold programs. So it is copied into an empty folder, and a process of its own looks at it there: its configuration
is read as JSON first, and only classes that are listed here pass; what says how it was trained is taken out; links that lead out
of the file are refused; then Keras loads it with `safe_mode`, and its ONNX export, of tf2onnx, writes the graph.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppgstream.errors import CheckpointError, UsageError
from ppgstream.model.tensorflow_runtime import import_keras
from ppgstream.storage import MOST_GRAPH, json_of, read_regular

SUFFIXES = (".keras", ".h5", ".hdf5")
LEAST_KERAS = (3, 13, 1)  # before, `safe_mode` does not hold for `.h5`
CONVERT_S = 600.0
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}  # of a `.keras` file
MOST_CONFIG = 10_000_000  # bytes
MOST_SIZE = 20_000  # of a layer
MOST_MEMORY = 8 * 1024**3  # bytes, of the process that reads it
OFF = 1e-3  # by how much the graph may differ from the network, of its SD
LAYERS = """
    Activation Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D BatchNormalization
    Bidirectional Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Cropping1D Dense DepthwiseConv1D Dot Dropout
    ELU EinsumDense Flatten Functional GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D
    GlobalMaxPooling1D GroupNormalization Identity InputLayer LSTM LSTMCell LayerNormalization LeakyReLU MaxPooling1D
    MaxPooling2D Maximum Minimum Model MultiHeadAttention Multiply Normalization PReLU Permute RMSNormalization RNN ReLU
    RepeatVector Rescaling Reshape SeparableConv1D Sequential SimpleRNN SimpleRNNCell Softmax SpatialDropout1D Subtract
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D
"""
# Sums and the like of tensors; what weights began with, and what kept them small.
OTHERS = """
    Abs Clip Exp ExpandDims GetItem Log Mean Relu Sigmoid Silu Sqrt Square Squeeze Sum Tanh Transpose TrueDivide __keras_tensor__
    Constant GlorotNormal GlorotUniform HeNormal HeUniform IdentityInitializer LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    L1 L1L2 L2 MaxNorm MinMaxNorm NonNeg UnitNorm DTypePolicy
"""
LISTED = frozenset((LAYERS + OTHERS).split())


def to_onnx(path: Path, window: int | None) -> bytes:
    """The graph of a network in a file of Keras. window: samples, where the network takes any number. Raises CheckpointError,
    UsageError where a package is missing."""
    for module, package in (("keras", "tensorflow"), ("tf2onnx", "tf2onnx")):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{path}: is read with {package}: pip install {package}, or ppgstream[keras]")
    with tempfile.TemporaryDirectory(prefix="ppgstream-") as folder:
        copy, made = Path(folder) / f"model{path.suffix.lower()}", Path(folder) / "model.onnx"
        try:
            copy.write_bytes(read_regular(path, MOST_GRAPH))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read the network: {error.strerror or error}") from error
        _convert_apart(path, copy, made, window)
        return read_regular(made, MOST_GRAPH)


def _convert_apart(path: Path, copy: Path, made: Path, window: int | None) -> None:
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({MOST_MEMORY}, {MOST_MEMORY}))"
    script = f"import sys; {bound}; from ppgstream.model.keras_file import main; main(*sys.argv[1:])"
    asked = [sys.executable, "-P", "-c", script, copy.name, made.name, str(window or 0)]
    empty = {
        "HOME": str(copy.parent),
        "KERAS_HOME": str(copy.parent),
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    try:
        done = subprocess.run(  # noqa: S603
            asked, cwd=copy.parent, env=os.environ | empty, capture_output=True, text=True, timeout=CONVERT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{path}: Keras has not converted it in {CONVERT_S:g} s") from error
    if done.returncode or not made.is_file():
        said = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        raise CheckpointError(f"{path}: {said[-1].removeprefix(f'{copy.name}: ')}")


def main(file: str, made: str, window: str) -> None:
    """In the process of its own: an error is a line on stderr and exit code 1."""
    path = Path(file)
    try:
        (_clean_h5 if path.suffix != ".keras" else _clean_keras)(path)
        _convert(path, made, int(window) or None)
    except CheckpointError as error:
        sys.exit(str(error))
    except Exception as error:  # whatever Keras, TensorFlow and tf2onnx raise
        told = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        sys.exit(f"Keras cannot read or convert it: {told[:300] or type(error).__name__}")


def _clean_keras(path: Path) -> None:
    """Look at a `.keras` file, and write it anew without what says how it was trained."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if sorted(names) != sorted(MEMBERS):
                odd = sorted(set(names) ^ MEMBERS) or ["a member that comes twice"]
                raise CheckpointError(f"no .keras file of a network alone: {odd[0]!r:.100}")
            if (
                sum(one.file_size for one in archive.infolist()) > MOST_GRAPH
                or archive.getinfo("config.json").file_size > MOST_CONFIG
            ):
                raise CheckpointError(f"unpacks to more than {MOST_GRAPH:,} bytes")
            contents = {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"no .keras file: {error}") from error
    config = _without_training(_json(contents["config.json"]))
    check_config(config)
    _check_h5(io.BytesIO(contents["model.weights.h5"]))
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def _clean_h5(path: Path) -> None:
    """Look at an `.h5` file, and take out what says how it was trained."""
    h5py = importlib.import_module("h5py")

    _check_h5(path)
    with h5py.File(path, "r+") as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise CheckpointError("holds weights without their network: save the whole with model.save('my.keras')")
        content = config if isinstance(config, bytes) else str(config).encode()
        if len(content) > MOST_CONFIG:
            raise CheckpointError(f"its configuration has more than {MOST_CONFIG:,} bytes")
        check_config(_json(content))
        for name in ("training_config", "optimizer_weights"):
            file.attrs.pop(name, None)
            file.pop(name, None)


def _json(content: bytes) -> Any:
    try:
        return json_of(content)
    except ValueError as error:
        raise CheckpointError(f"its configuration is no JSON: {error}") from error


def _without_training(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _without_training(value) for key, value in config.items() if key != "compile_config"}
    return [_without_training(value) for value in config] if isinstance(config, list) else config


def check_config(config: Any) -> None:
    """Raises CheckpointError for a network's configuration with anything but listed classes of Keras itself."""
    for key, one in _parts(config):
        if isinstance(one, int) and abs(one) > MOST_SIZE and key != "shared_object_id" and "seed" not in key:
            raise CheckpointError(f"a layer's {key or 'size'} is {one}: at most {MOST_SIZE:,}")
        if not isinstance(one, dict) or "class_name" not in one:
            continue
        name, module, registered = one.get("class_name"), one.get("module"), one.get("registered_name")
        where = f" ({one['config']['name']!r:.60})" if isinstance(one.get("config"), dict) and "name" in one["config"] else ""
        if not isinstance(name, str) or name not in LISTED:
            why = "it can hold any program" if name in ("Lambda", "function", "__lambda__") else "it is not in the list"
            raise CheckpointError(
                f"holds {name!r:.60}{where}: {why}; export the network as ONNX with the program that has its code"
            )
        if not (module is None or module == "keras" or (isinstance(module, str) and module.startswith("keras."))):
            raise CheckpointError(f"holds {name!r:.60}{where} of the module {module!r:.60}: only Keras' own classes are loaded")
        if registered not in (None, "", name):
            raise CheckpointError(
                f"holds {name!r:.60}{where}, registered as {registered!r:.60}: only Keras' own classes are loaded"
            )


def _parts(config: Any) -> Iterator[tuple[str, Any]]:
    """Everything in a configuration, however deep, with the key that it stands under."""
    todo: list[tuple[str, Any]] = [("", config)]
    while todo:
        key, one = todo.pop()
        yield key, one
        if isinstance(one, dict):
            todo.extend(one.items())
        elif isinstance(one, list):
            todo.extend((key, value) for value in one)


def _check_h5(source: Path | io.BytesIO) -> None:
    """Raises CheckpointError for an HDF5 file that leads to another, or that is larger than it looks."""
    h5py = importlib.import_module("h5py")

    left, seen = MOST_GRAPH, set()

    def look(group: Any) -> None:
        nonlocal left
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(f"its weights hold a link, {name!r:.60}: only what is in the file is read")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:  # a second link to the same
                continue
            seen.add(place)
            if isinstance(item, h5py.Group):
                look(item)
            elif item.is_virtual or item.external:
                raise CheckpointError(f"its weights {name!r:.60} lie in another file: only what is in the file is read")
            else:
                left -= item.nbytes
                if left < 0:
                    raise CheckpointError(f"unpacks to more than {MOST_GRAPH:,} bytes")

    try:
        with h5py.File(source, "r") as file:
            look(file)
    except (OSError, RuntimeError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"no HDF5 file: {str(error).splitlines()[0]:.200}") from error


def _without_erfc(path: Path) -> None:
    """GELU's complement of the error function, which ONNX has not and tf2onnx leaves as it is, as 1 less the error function."""
    import onnx
    from onnx import helper

    model = onnx.load(path)
    nodes = list(model.graph.node)
    if not any(node.op_type == "Erfc" for node in nodes):
        return
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            model.graph.node.append(node)
            continue
        part, one = f"{node.output[0]}/erf", f"{node.output[0]}/one"
        model.graph.initializer.append(helper.make_tensor(one, onnx.TensorProto.FLOAT, [], [1.0]))
        model.graph.node.append(helper.make_node("Erf", list(node.input), [part]))
        model.graph.node.append(helper.make_node("Sub", [one, part], list(node.output)))
    onnx.save(model, path)


def _convert(path: Path, made: str, window: int | None) -> None:
    keras = import_keras()
    found = tuple(int(part) if part.isdigit() else 0 for part in keras.__version__.split(".")[:3])
    if found < LEAST_KERAS:
        least = ".".join(map(str, LEAST_KERAS))
        raise CheckpointError(f"Keras {keras.__version__} loads such files without its safe mode: {least} or newer is needed")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise CheckpointError(f"must have one input and one output, has {len(model.inputs)} and {len(model.outputs)}")
    shape = [window or 250 if length is None else length for length in model.inputs[0].shape[1:]]
    x = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    y = np.asarray(model.predict(x, verbose=0))
    model.export(made, format="onnx", verbose=False)
    _without_erfc(Path(made))

    from ppgstream.model.onnx_runtime import session_of

    session = session_of(Path(made))
    answer = session.run(None, {session.get_inputs()[0].name: x})[0]
    if answer.shape != y.shape or not np.abs(answer - y).max() <= OFF * max(float(y.std()), 1e-6):
        raise CheckpointError("the ONNX graph that tf2onnx made of it answers differently")
