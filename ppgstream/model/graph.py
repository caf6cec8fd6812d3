"""A network as an ONNX graph, written from the names and shapes of its tensors: no Keras, and nothing trained anew.

The graph holds no weights. Its initializers point into `weights.safetensors` beside it, by name, offset and length, so that the
weights are on disk once and a graph cannot be run with others than it was written for. What each family computes is stated in
`networks`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppgstream.core.denoiser import LOG_VAR
from ppgstream.errors import CheckpointError
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import WEIGHTS
from ppgstream.model.networks import CLIPPED_AT, EPSILON, FARTHEST, LEAST_KNOWN, LEAST_RMS, SMOOTHING, trend_basis

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 10
ONNX_ACTIVATIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "elu": "Elu",
    "selu": "Selu",
    "softplus": "Softplus",
    "softsign": "Softsign",
}


def graph_of(arch: Architecture, blob: bytes) -> bytes:
    """The ONNX graph of an architecture whose weights are the safetensors file `blob`. Inputs: x (n, context + window) and, for
    networks that take the mask, valid, the same shape, both float32. Output: y, (n, outputs * window).

    Raises CheckpointError for a family that has no network, and where the package onnx is missing.
    """
    try:
        import onnx  # noqa: F401 (used by the writer)
    except ImportError as error:
        raise CheckpointError(f"the graph of a network cannot be written: {error}; pip install onnx") from error
    if arch.family not in _WRITERS:
        raise CheckpointError(f"{arch.family!r} is a linear estimate and has no graph")
    writer = _Writer(arch, blob)
    _WRITERS[arch.family](writer, arch)
    return writer.model()


class _Writer:
    """Collects nodes. Each operation returns the name of its result."""

    def __init__(self, arch: Architecture, blob: bytes) -> None:
        from onnx import TensorProto

        self.arch, self._float = arch, TensorProto.FLOAT
        self.length = arch.context + arch.window
        size = struct.unpack("<Q", blob[:8])[0]
        self._stored: Mapping[str, Any] = {k: v for k, v in json.loads(blob[8 : 8 + size]).items() if k != "__metadata__"}
        self._data_from = 8 + size
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[str] = ["x"]

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        from onnx import helper

        names = [f"{kind.lower()}_{len(self._nodes)}_{k}" for k in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str) -> str:
        """A tensor of the checkpoint, by its name there."""
        from onnx import TensorProto

        if name not in self._initializers:
            stated = self._stored.get(name)
            if stated is None:
                raise CheckpointError(f"tensors do not match a {self.arch.family!r} network: there is no {name!r}")
            begin, end = stated["data_offsets"]
            tensor = TensorProto(name=name, data_type=self._float, dims=stated["shape"], data_location=TensorProto.EXTERNAL)
            for key, value in (("location", WEIGHTS), ("offset", self._data_from + begin), ("length", end - begin)):
                tensor.external_data.add(key=key, value=str(value))
            self._initializers[name] = tensor
        return name

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        array = np.asarray(values, dtype)
        name = f"constant_{len(self._initializers)}"
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def reshape(self, x: str, *shape: int) -> str:
        return str(self.op("Reshape", x, self.constant(shape, np.int64)))

    def part(self, x: str, axis: int, start: int, stop: int) -> str:
        return str(self.op("Slice", x, *(self.constant([value], np.int64) for value in (start, stop, axis))))

    def clip(self, x: str, low: float, high: float) -> str:
        return str(self.op("Clip", x, self.constant(low), self.constant(high)))

    def dense(self, x: str, name: str, activation: str = "linear") -> str:
        y = self.op("Add", self.op("MatMul", x, self.weight(f"{name}/kernel")), self.weight(f"{name}/bias"))
        return self.activated(y, activation)

    def rows_dense(self, x: str, name: str) -> str:
        """The same of rows (n, numbers), in one operation."""
        return str(self.op("Gemm", x, self.weight(f"{name}/kernel"), self.weight(f"{name}/bias")))

    def activated(self, x: str, activation: str) -> str:
        if activation == "linear":
            return x
        if activation == "silu":
            return str(self.op("Mul", x, self.op("Sigmoid", x)))
        return str(self.op(ONNX_ACTIVATIONS[activation], x))

    def norm(self, x: str, name: str) -> str:
        return str(
            self.op("LayerNormalization", x, self.weight(f"{name}/gamma"), self.weight(f"{name}/beta"), axis=-1, epsilon=EPSILON)
        )

    def attention(self, query: str, key: str, value: str, heads: int, size: int, tokens: int) -> str:
        """Each (n, heads, tokens, size) -> (n, tokens, heads * size); key: (n, heads, size, tokens)."""
        score = self.op("MatMul", self.op("Mul", query, self.constant(size**-0.5)), key)
        mixed = self.op("MatMul", self.op("Softmax", score, axis=-1), value)
        return self.reshape(self.op("Transpose", mixed, perm=[0, 2, 1, 3]), -1, tokens, heads * size)

    def lstm(self, sequence: str, name: str, units: int, activation: str, direction: str = "forward") -> str:
        """The last output of an LSTM over (steps, n, numbers): (n, units); "reverse" reads from the last step to the first.
        Keras' gates are i, f, c, o; ONNX has them as i, o, f, c."""
        own = f"{name}/lstm_cell"
        split = [
            self.op("Split", self.weight(f"{own}/{part}"), outputs=4, axis=-1, num_outputs=4)
            for part in ("kernel", "recurrent_kernel", "bias")
        ]
        kernel, recurrent, bias = (self.op("Concat", i, o, f, c, axis=-1) for i, f, c, o in split)
        first = self.constant([0], np.int64)
        w, r = (self.op("Unsqueeze", self.op("Transpose", part, perm=[1, 0]), first) for part in (kernel, recurrent))
        b = self.op("Unsqueeze", self.op("Concat", bias, self.constant(np.zeros(4 * units)), axis=0), first)
        kinds = [ONNX_ACTIVATIONS[kind] for kind in ("sigmoid", activation, activation)]
        _, last = self.op("LSTM", sequence, w, r, b, outputs=2, hidden_size=units, activations=kinds, direction=direction)
        return self.reshape(last, -1, units)

    def model(self) -> bytes:
        from onnx import helper

        outputs = self.arch.window * len(self.arch.outputs)
        self._nodes[-1].output[0] = "y"
        shape: Sequence[int | str] = ("n", self.length)
        graph = helper.make_graph(
            self._nodes,
            self.arch.family,
            [helper.make_tensor_value_info(name, self._float, shape) for name in self.inputs],
            [helper.make_tensor_value_info("y", self._float, ("n", outputs))],
            list(self._initializers.values()),
        )
        made = helper.make_model(
            graph, producer_name="ppgstream", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        return bytes(made.SerializeToString(deterministic=True))


def _dense_autoencoder(w: _Writer, arch: Architecture) -> None:
    h, widths = "x", arch.sizes["hidden"]
    assert isinstance(widths, tuple)
    for number in range(1, len(widths) + 1):
        h = w.dense(h, f"hidden{number}", arch.hidden_activation)
    w.op("Identity", w.dense(h, "output", arch.output_activation))


def _recurrent_autoencoder(w: _Writer, arch: Architecture) -> None:
    units, activation = arch.size("units"), arch.hidden_activation
    sequence = w.op("Unsqueeze", w.op("Transpose", "x", perm=[1, 0]), w.constant([2], np.int64))  # (window, n, 1)
    h = w.lstm(sequence, "forward", units, activation)
    if arch.family == "brae":
        last = w.part(sequence, 0, arch.window - 1, arch.window)
        h = w.op("Concat", h, w.lstm(last, "backward", units, activation), axis=-1)
    w.op("Identity", w.dense(h, "output", arch.output_activation))


def _transformer(w: _Writer, arch: Architecture) -> None:
    patch, width, heads, n = arch.size("patch"), arch.size("width"), arch.size("heads"), w.length
    tokens, size = n // patch, width // heads
    seen, bands = _seen(w, arch)
    h = w.op("Add", w.dense(seen, "embed"), w.weight("position/table"))
    h = w.reshape(h, -1, width)  # rows of all tokens of all windows, but where a window's tokens meet
    for block in range(arch.size("depth")):
        z = w.reshape(w.rows_dense(w.norm(h, f"norm_a{block}"), f"qkv{block}"), -1, tokens, 3, heads, size)
        query, key, value = (w.reshape(w.part(z, 2, k, k + 1), -1, tokens, heads, size) for k in range(3))
        query, value = (w.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (query, value))
        mixed = w.attention(query, w.op("Transpose", key, perm=[0, 2, 3, 1]), value, heads, size, tokens)
        h = w.op("Add", h, w.rows_dense(w.reshape(mixed, -1, width), f"mix{block}"))
        z = w.activated(w.rows_dense(w.norm(h, f"norm_m{block}"), f"up{block}"), "silu")
        h = w.op("Add", h, w.rows_dense(z, f"down{block}"))
    z = w.norm(h, "norm_out")
    values = 2 + len(bands)
    h = w.reshape(w.rows_dense(z, "head"), -1, tokens, values, patch)
    parts = [w.part(w.reshape(w.part(h, 2, k, k + 1), -1, n), 1, arch.context, n) for k in range(values)]
    _gated(w, parts, [w.part(band, 1, arch.context, n) for band in bands])


def _brdae(w: _Writer, arch: Architecture) -> None:
    units, activation, n = arch.size("units"), arch.hidden_activation, w.length
    seen, bands = _seen(w, arch)
    sequence = w.op("Transpose", seen, perm=[1, 0, 2])
    ways = [w.lstm(sequence, way, units, activation, at) for way, at in (("forward", "forward"), ("backward", "reverse"))]
    values = 2 + len(bands)
    h = w.reshape(w.dense(w.op("Concat", *ways, axis=-1), "output"), -1, values, n)
    _gated(w, [w.reshape(w.part(h, 1, k, k + 1), -1, n) for k in range(values)], bands)


def _gated(w: _Writer, parts: list[str], bands: list[str]) -> None:
    """As `networks._gated`."""
    gate, y, log_var, *gates = parts
    for one, band in zip((gate, *gates), bands, strict=True):
        y = w.op("Add", y, w.op("Mul", w.op("Sigmoid", one), band))
    w.op("Concat", y, w.clip(log_var, *LOG_VAR), axis=1)


def _seen(w: _Writer, arch: Architecture) -> tuple[str, list[str]]:
    """As `networks._seen`."""
    w.inputs.append("valid")
    patch, n = arch.size("patch"), w.length
    tokens = n // patch
    ones = w.constant(np.ones((patch, 1)))  # to sum with: ReduceSum adds in an order that depends on where in memory a row lies
    known = w.reshape("valid", -1, tokens, patch)
    measured = w.op("Mul", w.clip("x", -FARTHEST, FARTHEST), "valid")
    seen = w.reshape(measured, -1, tokens, patch)
    count = w.op("Max", w.op("MatMul", known, ones), w.constant(1.0))
    level = w.op("Div", w.op("MatMul", seen, ones), count)
    shape = w.clip(w.op("Mul", w.op("Sub", seen, level), known), -CLIPPED_AT, CLIPPED_AT)
    clipped = w.op("Div", w.clip(seen, -CLIPPED_AT, CLIPPED_AT), w.constant(2.0))
    inputs, bands = [clipped, shape, w.op("Sub", w.constant(1.0), known)], [measured]
    if arch.size("bands") > 1:
        bands = _bands(w, measured)
        all_ones = w.constant(np.ones((n, 1)))
        count = w.op("Max", w.op("MatMul", "valid", all_ones), w.constant(1.0))
        power = w.op("Div", w.op("MatMul", w.op("Mul", bands[0], bands[0]), all_ones), count)
        middle = w.op("Div", bands[0], w.op("Max", w.op("Sqrt", power), w.constant(LEAST_RMS)))
        inputs.append(w.reshape(w.clip(middle, -CLIPPED_AT, CLIPPED_AT), -1, tokens, patch))
    return w.op("Concat", *inputs, axis=-1), bands


def _bands(w: _Writer, measured: str) -> list[str]:
    """As `networks._bands`."""
    kernel = w.constant(SMOOTHING.reshape(1, 1, -1))
    half = len(SMOOTHING) // 2

    def smoothed(x: str) -> str:
        return w.reshape(w.op("Conv", w.reshape(x, -1, 1, w.length), kernel, pads=[half, half]), -1, w.length)

    smooth = w.op("Div", smoothed(measured), w.op("Max", smoothed("valid"), w.constant(LEAST_KNOWN)))
    filled = w.op("Add", measured, w.op("Mul", w.op("Sub", w.constant(1.0), "valid"), smooth))
    basis = trend_basis(w.length)
    trend = w.op("MatMul", w.op("MatMul", filled, w.constant(basis)), w.constant(basis.T))
    middle = w.op("Mul", w.op("Sub", smooth, trend), "valid")
    return [middle, w.op("Sub", measured, w.op("Mul", smooth, "valid")), w.op("Mul", trend, "valid")]


_WRITERS: dict[str, Callable[[_Writer, Architecture], None]] = {
    "ae": _dense_autoencoder,
    "ae3": _dense_autoencoder,
    "dae": _dense_autoencoder,
    "rae": _recurrent_autoencoder,
    "brae": _recurrent_autoencoder,
    "brdae": _brdae,
    "transformer": _transformer,
}
