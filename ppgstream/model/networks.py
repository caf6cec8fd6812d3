"""The networks, as Keras 3 models. Keras is imported only when one is built.

Each maps normalised windows `x` (batch, window) in 0..1 to (batch, window). The course's five answer in the clean
signal's own 0..1; the families of our own answer in the scale of their input.

    ae      x -> Dense(40, sigmoid) -> dropout -> Dense(window); any number of hidden layers
    ae3     ae with three hidden layers (125, 40, 125)
    dae     ae, trained noisy -> clean
    rae     x as a sequence -> LSTM(40), last output -> dropout -> Dense(window)
    brae    x as a sequence -> forward LSTM(40) over all of it, backward LSTM(40) over the LAST sample only
            -> concatenate -> dropout -> Dense(window)
    brdae   brae done anew: standardised samples and what was measured, in patches -> an LSTM from the first to the last and
            another from the last
            to the first -> concatenate -> Dense, for each sample the same numbers as the transformer with bands
    transformer
            patches of standardised samples (mean 0, SD 1 of what was measured), each patch's shape apart from its level ->
            transformer -> per sample a gate on the input, a correction and the log variance of its error, in units of the clean
            pulse's variance. With three bands (`_bands`) it has a gate for each: what lies far below or above the pulse's band is
            left out without drawing the pulse anew
    lmmse   no network: a linear estimate from a prior (`lmmse`)

The backward half of brae looks odd and is right: the course reads `outputs[-1]` of a static bidirectional RNN, and at the last
step the backward cell has seen one sample. `keras.layers.Bidirectional` computes another function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import LOG_VAR
from ppgstream.errors import CheckpointError
from ppgstream.model.architecture import Architecture, check

if TYPE_CHECKING:
    import keras


EPSILON = 1e-5  # of layer norms
CLIPPED_AT = 6.0  # SD: what lies beyond is shown to the network as this
FARTHEST = 60.0  # SD: of a sample that is passed on
SMOOTHING = np.exp(-0.5 * (np.arange(-5, 6) / 1.4) ** 2)  # samples: -3 dB at 12 Hz, -52 dB at 50 Hz, at 125 Hz
TREND = 3  # degree of the polynomial that a window's trend is: it follows breathing of up to 0.5 Hz over 2 s
LEAST_KNOWN, LEAST_RMS = 0.05, 1e-3  # of the smoothing's weight, and of the middle band, by which is divided


def trend_basis(length: int) -> NDArray[np.float32]:
    """Orthonormal polynomials of degree 1 to `TREND` over a window, their means 0: (length, TREND)."""
    q, _ = np.linalg.qr(np.linspace(-1, 1, length)[:, None] ** np.arange(TREND + 1))
    return np.asarray(q[:, 1:], np.float32)


def build(arch: Architecture, *, dropout: float = 0.0) -> keras.Model:
    """The untrained network of an architecture. Raises CheckpointError as `check` does, and for `lmmse`, which is no network."""
    check(arch)
    if arch.family not in _BUILDERS:
        raise CheckpointError(f"{arch.family!r} is no network that TensorFlow could build")
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


def _transformer(arch: Architecture, dropout: float) -> keras.Model:
    import keras
    from keras import layers, ops

    length, patch, width, heads = arch.context + arch.window, arch.size("patch"), arch.size("width"), arch.size("heads")
    tokens, size = length // patch, width // heads
    x = keras.Input((length,), name="x")
    valid = keras.Input((length,), name="valid")
    inputs, bands = _seen(x, valid, arch)
    h = layers.Dense(width, name="embed")(inputs)
    h = _Position(tokens, width, name="position")(h)
    for block in range(arch.size("depth")):
        z = layers.LayerNormalization(epsilon=EPSILON, name=f"norm_a{block}")(h)
        z = ops.reshape(layers.Dense(3 * width, name=f"qkv{block}")(z), (-1, tokens, 3, heads, size))
        query, key, value = (ops.transpose(z[:, :, part], (0, 2, 1, 3)) for part in range(3))
        score = ops.matmul(query * size**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        weight = ops.exp(score - ops.max(score, axis=-1, keepdims=True))  # no softmax: see `Attention`
        mixed = ops.matmul(weight, value) / ops.sum(weight, axis=-1, keepdims=True)
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, tokens, width))
        h = h + layers.Dropout(dropout)(layers.Dense(width, name=f"mix{block}")(mixed))
        z = layers.LayerNormalization(epsilon=EPSILON, name=f"norm_m{block}")(h)
        z = layers.Dense(2 * width, activation="silu", name=f"up{block}")(z)
        h = h + layers.Dropout(dropout)(layers.Dense(width, name=f"down{block}")(z))
    h = layers.LayerNormalization(epsilon=EPSILON, name="norm_out")(h)
    values = 2 + len(bands)
    h = ops.reshape(layers.Dense(values * patch, name="head")(h), (-1, tokens, values, patch))
    parts = [ops.reshape(h[:, :, part], (-1, length))[:, arch.context :] for part in range(values)]
    return keras.Model([x, valid], _gated(parts, [band[:, arch.context :] for band in bands]), name="transformer")


def _brdae(arch: Architecture, dropout: float) -> keras.Model:
    import keras
    from keras import layers, ops

    units, activation, n = arch.size("units"), arch.hidden_activation, arch.window
    x = keras.Input((n,), name="x")
    valid = keras.Input((n,), name="valid")
    inputs, bands = _seen(x, valid, arch)
    ways = [
        layers.LSTM(units, activation=activation, name=way, go_backwards=way == "backward") for way in ("forward", "backward")
    ]
    h = layers.Dropout(dropout)(layers.Concatenate()([way(inputs) for way in ways]))
    values = 2 + len(bands)
    h = ops.reshape(layers.Dense(values * n, name="output")(h), (-1, values, n))
    return keras.Model([x, valid], _gated([h[:, part] for part in range(values)], bands), name="brdae")


def _gated(parts: list[Any], bands: list[Any]) -> Any:
    """The answer (n, 2 * window) from what a network gives for each sample: a gate for the first band, a correction, the log
    variance of the error, and a gate for each other band; (n, window) each."""
    from keras import ops

    gate, y, log_var, *gates = parts
    for one, band in zip((gate, *gates), bands, strict=True):
        y = y + ops.sigmoid(one) * band
    return ops.concatenate([y, ops.clip(log_var, *LOG_VAR)], axis=1)


def _seen(x: Any, valid: Any, arch: Architecture) -> tuple[Any, list[Any]]:
    """What a network sees of a standardised window (n, length), patch by patch, (n, patches, numbers): samples, their shape apart
    from their level, which were not measured, and with several bands the pulse's band at its own height. And the bands that its
    gates act on, (n, length) each."""
    from keras import ops

    patch = arch.size("patch")
    tokens = x.shape[1] // patch
    known = ops.reshape(valid, (-1, tokens, patch))
    measured = ops.clip(x, -FARTHEST, FARTHEST) * valid
    seen = ops.reshape(measured, (-1, tokens, patch))
    level = ops.sum(seen, axis=-1, keepdims=True) / ops.maximum(ops.sum(known, axis=-1, keepdims=True), 1.0)
    shape = ops.clip((seen - level) * known, -CLIPPED_AT, CLIPPED_AT)
    inputs = [ops.clip(seen, -CLIPPED_AT, CLIPPED_AT) / 2, shape, 1.0 - known]
    bands = [measured]
    if arch.size("bands") > 1:
        bands = _bands(measured, valid)
        middle = bands[0]
        power = ops.sum(middle * middle, axis=1, keepdims=True) / ops.maximum(ops.sum(valid, axis=1, keepdims=True), 1.0)
        middle = middle / ops.maximum(ops.sqrt(power), LEAST_RMS)
        inputs.append(ops.reshape(ops.clip(middle, -CLIPPED_AT, CLIPPED_AT), (-1, tokens, patch)))
    return ops.concatenate(inputs, axis=-1), bands


def _bands(measured: Any, valid: Any) -> list[Any]:
    """What was measured (n, length), 0 elsewhere, as the sum of three: the pulse's band, what is faster (hum), what is slower
    (breathing); each 0 where nothing was measured. Slower is a polynomial over the window, faster what a short smoothing over the
    measured samples leaves."""
    from keras import ops

    n, half = measured.shape[1], len(SMOOTHING) // 2
    band = np.sum([np.diag(np.full(n - abs(k), SMOOTHING[k + half]), k) for k in range(-half, half + 1)], axis=0)
    # As a matrix: the loop over samples of a convolution is slow to train.
    smoothing = ops.convert_to_tensor(band.astype(np.float32))
    smooth = ops.matmul(measured, smoothing) / ops.maximum(ops.matmul(valid, smoothing), LEAST_KNOWN)
    basis = ops.convert_to_tensor(trend_basis(n))
    trend = ops.matmul(ops.matmul(measured + (1.0 - valid) * smooth, basis), ops.transpose(basis))
    return [(smooth - trend) * valid, measured - smooth * valid, trend * valid]


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
    "brdae": _brdae,
    "transformer": _transformer,
}
