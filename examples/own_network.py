"""Train a denoiser of your own with Keras on synthetic pulses, and save it: `python examples/own_network.py unet` (or lstm, dae).

It prints the command that makes a checkpoint of it. Minutes are in docs/own-network.md.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FS, WINDOW = 125.0, 250


def pulses(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Windows (n, WINDOW) of clean pulses of 45 to 180 beats a minute, mean 0 and SD 1."""
    beat = 2 * np.pi * rng.uniform(45, 180, (n, 1)) / 60 * np.arange(WINDOW) / FS + rng.uniform(0, 2 * np.pi, (n, 1))
    notch = rng.uniform(0, 0.5, (n, 1)) * np.cos(2 * beat - rng.uniform(1, 2, (n, 1)))
    wave = np.exp(rng.uniform(1, 3, (n, 1)) * (np.cos(beat) - 1)) + notch
    return (wave - wave.mean(axis=1, keepdims=True)) / wave.std(axis=1, keepdims=True)


def noisy(clean: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The same with white noise, and a baseline that walks."""
    walk = np.cumsum(0.05 * rng.standard_normal(clean.shape), axis=1)
    return clean + rng.uniform(0, 0.8, (len(clean), 1)) * rng.standard_normal(clean.shape) + walk


def pairs(n: int, scaling: str, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the network is given, and what it is to answer. standard: both in the scale of the noisy window. min-max: each in its
    own 0..1, as in the 2019 course."""
    clean = pulses(n, rng)
    given = noisy(clean, rng)
    if scaling == "standard":
        mean, sd = given.mean(axis=1, keepdims=True), given.std(axis=1, keepdims=True)
        return (given - mean) / sd, (clean - mean) / sd

    def to_01(x: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
        return (x - low) / (high - low)

    return to_01(given), to_01(clean)


def network(kind: str):
    import keras
    from keras import layers

    if kind == "dae":  # the course's
        return keras.Sequential([keras.Input((WINDOW,)), layers.Dense(40, activation="sigmoid"), layers.Dense(WINDOW)])
    x = keras.Input((WINDOW, 1))
    if kind == "lstm":
        return keras.Model(x, layers.Dense(1)(layers.Bidirectional(layers.LSTM(24, return_sequences=True))(x)))

    def conv(h, filters):
        return layers.Conv1D(filters, 9, padding="same", activation="relu")(h)

    fine = conv(x, 16)
    middle = conv(layers.MaxPooling1D(2)(fine), 32)
    coarse = conv(layers.MaxPooling1D(5)(middle), 32)
    middle = conv(layers.Concatenate()([layers.UpSampling1D(5)(coarse), middle]), 16)
    fine = layers.Concatenate()([layers.UpSampling1D(2)(middle), fine])
    return keras.Model(x, layers.Conv1D(1, 9, padding="same")(fine))


def main(kind: str, steps: int) -> None:
    rng = np.random.default_rng(0)
    scaling, answers = ("min-max", "clean") if kind == "dae" else ("standard", "input")
    model = network(kind)
    model.compile("adam", "mse")
    for step in range(steps):
        given, wanted = (x.reshape(128, *model.input_shape[1:]) for x in pairs(128, scaling, rng))
        loss = model.train_on_batch(given, wanted)
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {float(loss):.3f}")
    model.save(f"{kind}.keras")
    print(f"ppgstream checkpoint import {kind}.keras --fs 125 --scaling {scaling} --answers-in {answers} -o my-{kind}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("dae", "lstm", "unet"):
        sys.exit("python examples/own_network.py dae|lstm|unet [STEPS]")
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 400)
