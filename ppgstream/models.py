"""The networks, as Keras 3 models. One of the two modules that import TensorFlow (through Keras), and only when called.

Each maps normalised windows `x` (batch, window) in 0..1 to (batch, window). The course's five answer in the clean
signal's own 0..1; the patch transformer answers in the scale of its input.

    ae      x -> Dense(40, sigmoid) -> dropout -> Dense(window); any number of hidden layers
    ae3     ae with three hidden layers (125, 40, 125)
    dae     ae, trained noisy -> clean
    rae     x as a sequence -> LSTM(40), last output -> dropout -> Dense(window)
    brae    x as a sequence -> forward LSTM(40) over all of it, backward LSTM(40) over the LAST sample only
            -> concatenate -> dropout -> Dense(window)
    patch   25 patches of 10 samples -> transformer -> per sample a gate on the input and a correction
    transformer
            the same on standardised samples (mean 0, SD 1 of what was measured) with each patch's shape apart from its level;
            per sample a gate, a correction and the log variance of its error, in units of the clean pulse's variance
    lmmse   no network: a linear estimate from a prior (`lmmse`)

The backward half of brae looks odd and is right: the course reads `outputs[-1]` of a static bidirectional RNN, and at the last
step the backward cell has seen one sample. `keras.layers.Bidirectional` computes another function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ppgstream.denoiser import Answers, Scaling
from ppgstream.errors import CheckpointError
from ppgstream.lmmse import RANK

if TYPE_CHECKING:
    import keras

Family = Literal["ae", "ae3", "dae", "rae", "brae", "patch", "transformer", "lmmse"]
Sizes = dict[str, int | tuple[int, ...]]
DENSE = ("ae", "ae3", "dae")
COURSE = (*DENSE, "rae", "brae")
DEFAULT_SIZES: dict[str, Sizes] = {
    "ae": {"hidden": (40,)},
    "ae3": {"hidden": (125, 40, 125)},
    "dae": {"hidden": (40,)},
    "rae": {"units": 40},
    "brae": {"units": 40},
    "patch": {"patch": 10, "width": 64, "depth": 4, "heads": 4},
    "transformer": {"patch": 10, "width": 64, "depth": 4, "heads": 4},
    "lmmse": {"rank": RANK},
}
HIDDEN_ACTIVATION = {
    "ae": "sigmoid",
    "ae3": "sigmoid",
    "dae": "sigmoid",
    "rae": "tanh",
    "brae": "tanh",
    "patch": "silu",
    "transformer": "silu",
    "lmmse": "linear",
}
OUTPUTS = {"transformer": ("wave", "log_var"), "lmmse": ("wave", "log_var")}  # of the other families: the wave alone
ACTIVATIONS = ("linear", "sigmoid", "tanh", "relu", "elu", "selu", "silu", "softplus", "softsign")
LARGEST_SIZE, MOST_LAYERS = 4096, 16


@dataclass(frozen=True, slots=True)
class Architecture:
    """What rebuilds a network. Lengths `window` and `context` are in samples; what is left out is the family's own default.

    sizes: of its parts, named as in `DEFAULT_SIZES`; `hidden` is a width for each hidden layer.
    hidden_activation: of the hidden layers, or of an LSTM's cell. output_activation: of the last layer.
    outputs: what the network answers for each sample.
    """

    family: str
    window: int = 250
    context: int = 0
    sizes: Sizes = field(default_factory=dict)
    hidden_activation: str = ""
    output_activation: str = ""
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        own: dict[str, Any] = dict(self.sizes)
        if isinstance(width := own.get("hidden"), int):
            own["hidden"] = (width,)
        object.__setattr__(self, "sizes", DEFAULT_SIZES.get(self.family, {}) | own)
        object.__setattr__(self, "outputs", self.outputs or OUTPUTS.get(self.family, ("wave",)))
        object.__setattr__(self, "output_activation", self.output_activation or "linear")
        object.__setattr__(self, "hidden_activation", self.hidden_activation or HIDDEN_ACTIVATION.get(self.family, ""))

    @property
    def answers(self) -> Answers:
        """The domain of the answer: the clean signal's own 0..1, or the scale of the noisy input."""
        return "clean" if self.family in COURSE else "input"

    @property
    def scaling(self) -> Scaling:
        """How a window is brought to the network: min-max, or mean 0 and SD 1 of its measured samples."""
        return "standard" if self.family in ("transformer", "lmmse") else "min-max"

    def size(self, name: str) -> int:
        value = self.sizes[name]
        assert isinstance(value, int)
        return value

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(arch: Architecture) -> None:
    """Raises CheckpointError for an unknown family or activation, or a size that is not the family's own or out of range."""
    family = arch.family
    if family not in DEFAULT_SIZES:
        raise CheckpointError(f"unknown network family {family!r}: known are {', '.join(DEFAULT_SIZES)}")
    unknown = set(arch.sizes) - set(DEFAULT_SIZES[family])
    if unknown:
        raise CheckpointError(
            f"network family {family!r} has no size {min(unknown)!r}: it has {', '.join(sorted(DEFAULT_SIZES[family]))}"
        )
    bad = [f"{k} = {v!r}" for k, v in arch.sizes.items() if not _is_size(v, DEFAULT_SIZES[family][k])]
    if bad:
        raise CheckpointError(
            f"network family {family!r}: sizes must be whole numbers from 1 to {LARGEST_SIZE}, got {', '.join(bad)}"
        )
    if not 0 < arch.window <= 10_000 or not 0 <= arch.context <= 100_000:
        raise CheckpointError(f"window must be 1 to 10000 samples and context 0 to 100000, got {arch.window} and {arch.context}")
    for role, name in (("hidden", arch.hidden_activation), ("output", arch.output_activation)):
        if name not in ACTIVATIONS:
            raise CheckpointError(f"{role} activation {name!r}: known are {', '.join(ACTIVATIONS)}")
    if family not in COURSE and (arch.hidden_activation, arch.output_activation) != (HIDDEN_ACTIVATION[family], "linear"):
        raise CheckpointError(
            f"network family {family!r}: its activations are fixed; they can be chosen for the course's families"
        )
    own = OUTPUTS.get(family, ("wave",))
    if arch.outputs != own:
        raise CheckpointError(f"network family {family!r} answers {', '.join(own)}, not {', '.join(map(str, arch.outputs))}")
    if arch.context and family in (*COURSE, "lmmse"):
        raise CheckpointError(f"network family {family!r} takes no context, got {arch.context} samples")


def _is_size(value: Any, like: int | tuple[int, ...]) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return (
        isinstance(value, tuple) == isinstance(like, tuple)
        and 0 < len(values) <= MOST_LAYERS
        and all(type(v) is int and 0 < v <= LARGEST_SIZE for v in values)
    )


def build(arch: Architecture, *, dropout: float = 0.0) -> keras.Model:
    """The untrained network of an architecture. Raises CheckpointError as `check` does, and for `lmmse`, which is no network."""
    check(arch)
    if arch.family not in _BUILDERS:
        raise CheckpointError(f"{arch.family!r} is a linear estimate and has no network")
    return _BUILDERS[arch.family](arch, dropout)


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


def _dense_autoencoder(arch: Architecture, dropout: float) -> keras.Model:
    import keras

    widths = arch.sizes["hidden"]
    assert isinstance(widths, tuple)
    x = keras.Input((arch.window,), name="x")
    h = x
    for number, units in enumerate(widths, start=1):
        h = _course_dense(units, f"hidden{number}", arch.hidden_activation)(h)
        h = keras.layers.Dropout(dropout)(h)
    return keras.Model(x, _course_dense(arch.window, "output", arch.output_activation)(h), name=arch.family)


def _recurrent_autoencoder(arch: Architecture, dropout: float) -> keras.Model:
    import keras

    units, activation = arch.size("units"), arch.hidden_activation
    x = keras.Input((arch.window,), name="x")
    sequence = keras.layers.Reshape((arch.window, 1))(x)
    h = keras.layers.LSTM(units, activation=activation, name="forward")(sequence)  # (batch, units)
    if arch.family == "brae":
        last = sequence[:, -1:, :]
        h = keras.layers.Concatenate()([h, keras.layers.LSTM(units, activation=activation, name="backward")(last)])
    h = keras.layers.Dropout(dropout)(h)
    return keras.Model(x, _course_dense(arch.window, "output", arch.output_activation)(h), name=arch.family)


def _patch_transformer(arch: Architecture, dropout: float) -> keras.Model:
    import keras
    from keras import layers, ops

    length, patch, width, heads = arch.context + arch.window, arch.size("patch"), arch.size("width"), arch.size("heads")
    if length % patch or width % heads:
        raise CheckpointError(
            f"patch transformer: {length} samples must be whole patches of {patch}, width {width} whole heads of {heads}"
        )
    tokens = length // patch
    x = keras.Input((length,), name="x")
    valid = keras.Input((length,), name="valid")

    h = ops.stack([(x - 0.5) * valid, 1.0 - valid], axis=-1)  # (batch, length, 2)
    h = layers.Reshape((tokens, 2 * patch))(h)
    h = layers.Dense(width, name="embed")(h)
    h = _Position(tokens, width, name="position")(h)
    for block in range(arch.size("depth")):
        a = layers.LayerNormalization(epsilon=1e-5, name=f"norm_a{block}")(h)
        a = _Attention(heads, width // heads, dropout, name=f"attention{block}")(a)
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


CLIPPED_AT = 6.0  # SD: what lies beyond is shown to the network as this
FARTHEST = 60.0  # SD: of a sample that is passed on
LOG_VAR = (-8.0, 4.0)


def _transformer(arch: Architecture, dropout: float) -> keras.Model:
    import keras
    from keras import layers, ops

    length, patch, width, heads = arch.context + arch.window, arch.size("patch"), arch.size("width"), arch.size("heads")
    if length % patch or width % heads:
        raise CheckpointError(
            f"transformer: {length} samples must be whole patches of {patch}, width {width} whole heads of {heads}"
        )
    tokens, size = length // patch, width // heads
    x = keras.Input((length,), name="x")
    valid = keras.Input((length,), name="valid")

    known = ops.reshape(valid, (-1, tokens, patch))
    measured = ops.clip(x, -FARTHEST, FARTHEST) * valid
    seen = ops.reshape(measured, (-1, tokens, patch))
    level = ops.sum(seen, axis=-1, keepdims=True) / ops.maximum(ops.sum(known, axis=-1, keepdims=True), 1.0)
    shape = ops.clip((seen - level) * known, -CLIPPED_AT, CLIPPED_AT)
    h = ops.concatenate([ops.clip(seen, -CLIPPED_AT, CLIPPED_AT) / 2, shape, 1.0 - known], axis=-1)
    h = layers.Dense(width, name="embed")(h)
    h = _Position(tokens, width, name="position")(h)
    for block in range(arch.size("depth")):
        z = layers.LayerNormalization(epsilon=1e-5, name=f"norm_a{block}")(h)
        z = ops.reshape(layers.Dense(3 * width, name=f"qkv{block}")(z), (-1, tokens, 3, heads, size))
        query, key, value = (ops.transpose(z[:, :, part], (0, 2, 1, 3)) for part in range(3))
        score = ops.matmul(query * size**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        weight = ops.exp(score - ops.max(score, axis=-1, keepdims=True))  # no softmax: see `Attention`
        mixed = ops.matmul(weight, value) / ops.sum(weight, axis=-1, keepdims=True)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, tokens, width))
        h = h + layers.Dropout(dropout)(layers.Dense(width, name=f"mix{block}")(mixed))
        z = layers.LayerNormalization(epsilon=1e-5, name=f"norm_m{block}")(h)
        z = layers.Dense(2 * width, activation="silu", name=f"up{block}")(z)
        h = h + layers.Dropout(dropout)(layers.Dense(width, name=f"down{block}")(z))
    h = layers.LayerNormalization(epsilon=1e-5, name="norm_out")(h)
    h = ops.reshape(layers.Dense(3 * patch, name="head")(h), (-1, tokens, 3, patch))
    gate, correction, log_var = (ops.reshape(h[:, :, part], (-1, length))[:, arch.context :] for part in range(3))
    y = ops.sigmoid(gate) * measured[:, arch.context :] + correction
    return keras.Model([x, valid], ops.concatenate([y, ops.clip(log_var, *LOG_VAR)], axis=1), name="transformer")


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


_BUILDERS: dict[str, Callable[[Architecture, float], keras.Model]] = {
    "ae": _dense_autoencoder,
    "ae3": _dense_autoencoder,
    "dae": _dense_autoencoder,
    "rae": _recurrent_autoencoder,
    "brae": _recurrent_autoencoder,
    "patch": _patch_transformer,
    "transformer": _transformer,
}
