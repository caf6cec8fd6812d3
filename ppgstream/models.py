"""The networks, as Keras 3 models. One of the two modules that import TensorFlow (through Keras), and only when called.

Each maps normalised windows `x` (batch, window) in 0..1 to (batch, window). The course's five answer in the clean
signal's own 0..1; the patch transformer answers in the scale of its input.

    ae      x -> Dense(40, sigmoid) -> dropout -> Dense(window)
    ae3     the same with three hidden layers (125, 40, 125)
    dae     ae, trained noisy -> clean
    rae     x as a sequence -> LSTM(40), last output -> dropout -> Dense(window)
    brae    x as a sequence -> forward LSTM(40) over all of it, backward LSTM(40) over the LAST sample only
            -> concatenate -> dropout -> Dense(window)
    patch   25 patches of 10 samples -> transformer -> per sample a gate on the input and a correction

The backward half of brae looks odd and is right: the course reads `outputs[-1]` of a static bidirectional RNN, and at the last
step the backward cell has seen one sample. `keras.layers.Bidirectional` computes another function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ppgstream.denoiser import Answers
from ppgstream.errors import CheckpointError

if TYPE_CHECKING:
    import keras

Family = Literal["ae", "ae3", "dae", "rae", "brae", "patch"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What rebuilds a network: its family and its sizes. `window` and `context` are in samples."""

    family: str
    window: int = 250
    context: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def answers(self) -> Answers:
        """The domain of the answer: the clean signal's own 0..1, or the scale of the noisy input."""
        return "input" if self.family == "patch" else "clean"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def build(arch: Architecture, *, dropout: float = 0.0) -> keras.Model:
    """The untrained network of an architecture. Raises CheckpointError for an unknown family or a size that is not its own."""
    builder = _BUILDERS.get(arch.family)
    if builder is None:
        raise CheckpointError(f"unknown network family {arch.family!r}: known are {', '.join(_BUILDERS)}")
    defaults = DEFAULT_SIZES[arch.family]
    unknown = set(arch.sizes) - set(defaults)
    if unknown:
        raise CheckpointError(f"network family {arch.family!r} has no size {sorted(unknown)[0]!r}: it has {sorted(defaults)}")
    sizes = defaults | arch.sizes
    bad = [f"{k} = {v!r}" for k, v in sizes.items() if type(v) is not int or not 0 < v <= 4096]
    if bad or not 0 < arch.window <= 10_000 or not 0 <= arch.context <= 100_000:
        raise CheckpointError(f"network family {arch.family!r}: sizes must be whole numbers from 1 to 4096, got {bad or arch}")
    return builder(arch, sizes, dropout)


DEFAULT_SIZES: dict[str, dict[str, int]] = {
    "ae": {"hidden": 40},
    "ae3": {"hidden1": 125, "hidden2": 40, "hidden3": 125},
    "dae": {"hidden": 40},
    "rae": {"units": 40},
    "brae": {"units": 40},
    "patch": {"patch": 10, "width": 64, "depth": 4, "heads": 4},
}


def _course_dense(units: int, name: str, activation: str | None = None) -> keras.layers.Layer:
    import keras

    # Kernels truncated normal (sd 0.01), biases ones: the course's initial values.
    return keras.layers.Dense(
        units,
        activation=activation,
        name=name,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=0.01),
        bias_initializer="ones",
    )


def _dense_autoencoder(arch: Architecture, sizes: dict[str, int], dropout: float) -> keras.Model:
    import keras

    x = keras.Input((arch.window,), name="x")
    h = x
    for number, units in enumerate(sizes.values(), start=1):
        h = _course_dense(units, f"hidden{number}", "sigmoid")(h)
        h = keras.layers.Dropout(dropout)(h)
    return keras.Model(x, _course_dense(arch.window, "output")(h), name=arch.family)


def _recurrent_autoencoder(arch: Architecture, sizes: dict[str, int], dropout: float) -> keras.Model:
    import keras

    x = keras.Input((arch.window,), name="x")
    sequence = keras.layers.Reshape((arch.window, 1))(x)
    h = keras.layers.LSTM(sizes["units"], name="forward")(sequence)  # (batch, units)
    if arch.family == "brae":
        last = sequence[:, -1:, :]
        h = keras.layers.Concatenate()([h, keras.layers.LSTM(sizes["units"], name="backward")(last)])
    h = keras.layers.Dropout(dropout)(h)
    return keras.Model(x, _course_dense(arch.window, "output")(h), name=arch.family)


def _patch_transformer(arch: Architecture, sizes: dict[str, int], dropout: float) -> keras.Model:
    import keras
    from keras import layers, ops

    length, patch, width = arch.context + arch.window, sizes["patch"], sizes["width"]
    if length % patch or width % sizes["heads"]:
        raise CheckpointError(
            f"patch transformer: {length} samples must be whole patches of {patch}, width {width} whole heads of {sizes['heads']}"
        )
    tokens = length // patch
    x = keras.Input((length,), name="x")
    valid = keras.Input((length,), name="valid")

    h = ops.stack([(x - 0.5) * valid, 1.0 - valid], axis=-1)  # (batch, length, 2)
    h = layers.Reshape((tokens, 2 * patch))(h)
    h = layers.Dense(width, name="embed")(h)
    h = _Position(tokens, width, name="position")(h)
    for block in range(sizes["depth"]):
        a = layers.LayerNormalization(epsilon=1e-5, name=f"norm_a{block}")(h)
        a = _Attention(sizes["heads"], width // sizes["heads"], dropout, name=f"attention{block}")(a)
        h = h + a
        m = layers.LayerNormalization(epsilon=1e-5, name=f"norm_m{block}")(h)
        m = layers.Dense(2 * width, activation="silu", name=f"up{block}")(m)
        m = layers.Dropout(dropout)(m)
        h = h + layers.Dense(width, name=f"down{block}")(m)
    h = layers.LayerNormalization(epsilon=1e-5, name="norm_out")(h)
    h = layers.Dense(2 * patch, name="head")(h)
    h = layers.Reshape((length, 2))(h)[:, arch.context :]
    gate = ops.sigmoid(h[..., 0])  # 1: believe the sample, 0: believe the network
    y = gate * valid[:, arch.context :] * x[:, arch.context :] + h[..., 1]
    return keras.Model([x, valid], y, name="patch")


def _Attention(heads: int, size: int, dropout: float, name: str) -> keras.layers.Layer:  # noqa: N802 (as `_Position`)
    import keras
    from keras import layers, ops

    class Attention(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
        """Self-attention of Vaswani et al. 2017: what `keras.layers.MultiHeadAttention` computes, with its weights' names.

        TensorFlow's softmax computes some elements with vector instructions and some without, by their position in the
        tensor, and the two differ in the last bit (seen on processors with AVX2 only). Then a window's answer depends
        on its place in the tile. Written as an exponential over a sum, it does not.
        """

        def build(self, shape: tuple[int | None, ...]) -> None:
            width = shape[-1]
            for part in ("query", "key", "value"):
                dense = layers.EinsumDense("btc,chd->bthd", (None, heads, size), bias_axes="hd", name=part)
                dense.build(shape)
                setattr(self, part, dense)
            self.attention_output = layers.EinsumDense("bthd,hdc->btc", (None, width), bias_axes="c", name="attention_output")
            self.attention_output.build((*shape[:-1], heads, size))
            self.dropout = layers.Dropout(dropout)

        def call(self, h: Any, training: bool | None = None) -> Any:
            query, key, value = self.query(h) * size**-0.5, self.key(h), self.value(h)
            score = ops.einsum("bqhd,bkhd->bhqk", query, key)
            weight = ops.exp(score - ops.max(score, axis=-1, keepdims=True))
            total = ops.expand_dims(ops.transpose(ops.sum(weight, axis=-1), (0, 2, 1)), -1)
            weight = self.dropout(weight, training=training)
            return self.attention_output(ops.einsum("bhqk,bkhd->bqhd", weight, value) / total)

        def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
            return shape

    return Attention(name=name)


def _Position(tokens: int, width: int, name: str) -> keras.layers.Layer:  # noqa: N802 (a layer class, made on first use)
    import keras

    class Position(keras.layers.Layer):  # type: ignore[misc]  # Keras is untyped
        """Adds a learned vector to each token."""

        def build(self, shape: tuple[int | None, ...]) -> None:
            self.table = self.add_weight(
                name="table", shape=(tokens, width), initializer=keras.initializers.RandomNormal(stddev=0.02)
            )

        def call(self, h: Any) -> Any:
            return h + self.table

    return Position(name=name)


_BUILDERS: dict[str, Callable[[Architecture, dict[str, int], float], keras.Model]] = {
    "ae": _dense_autoencoder,
    "ae3": _dense_autoencoder,
    "dae": _dense_autoencoder,
    "rae": _recurrent_autoencoder,
    "brae": _recurrent_autoencoder,
    "patch": _patch_transformer,
}
