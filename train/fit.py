"""The trainer: one recipe for every family, read in one sitting.

Clean 8 s snippets -> random windows, time-warped -> the course's noise, fresh every batch -> the network -> a checkpoint folder.
A run writes `log.csv`, and after every epoch its last state, so that a killed run goes on where it was (`--resume`).
"""

from __future__ import annotations

import csv
import datetime
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream import checkpoint, noise
from ppgstream.denoiser import Answer, Batch
from ppgstream.errors import ConfigError
from ppgstream.models import Architecture, build
from ppgstream.trust import held_rows

from . import data, evaluate

N1_SHARE = 0.75  # of a batch gets the course's noise at full strength, the rest milder draws of it, down to none
WARP = 1.25  # windows are stretched or squeezed in time by up to this factor


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run depends on. Batches are of `batch` windows, an epoch is `steps` batches."""

    family: str
    epochs: int = 60
    steps: int = 500
    batch: int = 256
    learning_rate: float = 2e-3
    dropout: float = 0.0
    seed: int = 1


class WindowSource:
    """An endless supply of (inputs, targets) batches for one architecture."""

    def __init__(self, clean: list[data.Clean], arch: Architecture, batch: int, seed: int) -> None:
        if not all(len(c.snippets) for c in clean):
            raise ConfigError("no clean recordings to train on")
        self._sets = [c.snippets for c in clean]
        self._arch, self._batch = arch, batch
        self._rng = np.random.default_rng(seed)

    def cut(self, n: int) -> NDArray[np.float64]:
        """`n` random windows, equally many from each set, time-warped."""
        rng, window = self._rng, self._arch.window
        parts = []
        for number, snippets in enumerate(self._sets):
            share = n // len(self._sets) + (number < n % len(self._sets))
            rate = WARP ** rng.uniform(-1, 1, (share, 1))
            start = rng.uniform(0, 1, (share, 1)) * (snippets.shape[1] - 1 - rate * window)
            at = start + rate * np.arange(window)
            floor = at.astype(int)
            rows = snippets[rng.integers(0, len(snippets), share)]
            left = np.take_along_axis(rows, floor, 1)
            right = np.take_along_axis(rows, floor + 1, 1)
            parts.append(left + (at - floor) * (right - left))
        return np.concatenate(parts).astype(np.float64)

    def draw(self) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]]:
        """One batch: the network's inputs, and its targets as `loss_of` reads them."""
        rng, n = self._rng, self._batch
        mild = rng.uniform(0, 1, (n, 1)) > N1_SHARE
        strength = np.where(mild, rng.uniform(0, 1, (n, 1)) ** 2, 1.0)
        noisy = noise.n1(
            self.cut(n),
            rng,
            white_sd=noise.N1_WHITE_SD * strength,
            ramp=noise.N1_RAMP * strength,
            clip=~mild | (rng.uniform(0, 1, (n, 1)) < 0.3),
        )
        x = noisy.noisy.astype(np.float32)
        if self._arch.family in ("ae", "ae3"):  # plain autoencoders learn the clean wave from itself; dae is the denoising one
            x = noisy.clean.astype(np.float32)
        if self._arch.answers == "clean":
            return (x,), noisy.clean.astype(np.float32)
        packed = np.concatenate([noisy.target, noisy.clean, np.maximum(noisy.gain, 0.1)], axis=1).astype(np.float32)
        return (x, (~held_rows(noisy.noisy)).astype(np.float32)), packed


def loss_of(arch: Architecture) -> Any:
    """MSE for a network that answers in 0..1. For one that answers in the input's scale: the error in units of the clean
    pulse, plus the error once both are min-maxed, which is what G judges."""
    from keras import ops

    if arch.answers == "clean":
        return "mse"
    window = arch.window

    def loss(packed: Any, answer: Any) -> Any:
        target, clean, gain = packed[:, :window], packed[:, window : 2 * window], packed[:, 2 * window :]
        low = ops.min(answer, axis=1, keepdims=True)
        span = ops.max(answer, axis=1, keepdims=True) - low
        shape = (answer - low) / ops.maximum(span, 0.02)
        return ops.mean(ops.square((answer - target) / gain), axis=1) + ops.mean(ops.square(shape - clean), axis=1)

    return loss


def _score(model: Any, clean: data.Clean, seeds: range) -> float:
    """G under N1, dB, of a network in training."""

    def answer(batch: Batch) -> Answer:
        inputs = [batch.x, batch.valid.astype(np.float32)] if len(model.inputs) == 2 else batch.x
        return Answer(np.asarray(model.predict(inputs, batch_size=512, verbose=0), np.float32))

    return evaluate.g_n1(evaluate.windows_through(answer), data.scored_windows(clean), seeds=seeds)


def fit(recipe: Recipe, folder: Path, out: Path, *, resume: bool = False) -> None:
    """Train by `recipe` on the recordings under `folder`; `out` becomes a checkpoint folder with `log.csv` beside it."""
    checkpoint.import_tensorflow()
    import keras
    from rich.console import Console

    say = Console(stderr=True).print
    keras.utils.set_random_seed(recipe.seed)
    arch = Architecture(recipe.family)
    train = [data.course(folder, "train"), data.bidmc(folder, "train")]
    validation = [data.course(folder, "validation"), data.bidmc(folder, "validation")]
    test = [data.course(folder, "test"), data.bidmc(folder, "test")]
    out.mkdir(parents=True, exist_ok=True)

    model = build(arch, dropout=recipe.dropout)
    total = recipe.epochs * recipe.steps
    warmup = min(1000, total // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate * 0.05, total - warmup, warmup_target=recipe.learning_rate, warmup_steps=warmup, alpha=0.01
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=loss_of(arch))
    average = [w.copy() for w in model.get_weights()]
    state_path, done = out / "state.npz", 0
    if resume and state_path.exists():
        with np.load(state_path, allow_pickle=False) as state:
            done = int(state["epoch"])
            average = [state[f"average_{i}"] for i in range(len(average))]
            model.set_weights([state[f"weight_{i}"] for i in range(len(average))])
            optimizer.build(model.trainable_variables)
            for i, variable in enumerate(optimizer.variables):
                variable.assign(state[f"optimizer_{i}"])
        say(f"resuming after epoch {done}")
    source = WindowSource(train, arch, recipe.batch, recipe.seed + done)
    say(
        f"{arch.family}: {model.count_params():,} parameters, {sum(len(c.snippets) for c in train)} clean snippets, epochs of {recipe.steps}"
    )

    started = time.monotonic()
    for epoch in range(done + 1, recipe.epochs + 1):
        loss = 0.0
        for step in range(recipe.steps):
            inputs, target = source.draw()
            loss += float(model.train_on_batch(inputs[0] if len(inputs) == 1 else list(inputs), target))
            if step % 10 == 9:
                keep = 0.99 if epoch < 3 else 0.995
                average = [keep * a + (1 - keep) * w for a, w in zip(average, model.get_weights(), strict=True)]
        weights = model.get_weights()
        model.set_weights(average)
        scores = [_score(model, c, range(1)) for c in validation]
        minutes = (time.monotonic() - started) / 60
        left = minutes / (epoch - done) * (recipe.epochs - epoch)
        say(
            f"epoch {epoch}/{recipe.epochs}  loss {loss / recipe.steps:.5f}  "
            f"G course {scores[0]:.2f}  bidmc {scores[1]:.2f} dB (validation)  {minutes:.1f} min, {left:.0f} left"
        )
        with (out / "log.csv").open("a", newline="") as log:
            csv.writer(log).writerow([epoch, loss / recipe.steps, *scores, minutes])
        figures = {"g_n1_course_validation_db": scores[0], "g_n1_bidmc_validation_db": scores[1]}
        if epoch == recipe.epochs or epoch % 10 == 0:
            figures |= {
                "g_n1_course_test_db": _score(model, test[0], evaluate.NOISE_SEEDS),
                "g_n1_bidmc_test_db": _score(model, test[1], evaluate.NOISE_SEEDS),
            }
            say(f"  test: {figures}")
        provenance = {
            "recipe": {k: getattr(recipe, k) for k in recipe.__slots__},
            "epochs_done": epoch,
            "data": "course PPG_1000samples recordings 0..101; BIDMC train patients but 4 held out (clean windows)",
            "noise": "N1",
            "date": datetime.date.today().isoformat(),
        }
        checkpoint.save(out, model, arch, provenance=provenance, figures=figures)
        model.set_weights(weights)
        state = {f"weight_{i}": w for i, w in enumerate(weights)} | {f"average_{i}": w for i, w in enumerate(average)}
        state |= {f"optimizer_{i}": np.asarray(v) for i, v in enumerate(optimizer.variables)}
        temporary = out / "state.tmp.npz"
        np.savez(temporary, epoch=epoch, **state)
        temporary.replace(state_path)
