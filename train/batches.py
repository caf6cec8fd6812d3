"""Batches for the network: clean windows, changed a little, under fresh noise. Vectorised; a batch depends on seed, epoch and number alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream import noise
from ppgstream.errors import DataError
from ppgstream.models import Architecture
from ppgstream.trust import held_rows

from . import data
from .recipe import Recipe

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
PASS_HOP = 50  # samples between the training windows of one pass
VALIDATION_SEED = 1_000_000
MOST_SCORED = 1000  # validation windows of one set


class Drawn(NamedTuple):
    """A batch of `n` windows. inputs: what the network takes, each (n, window). packed: (n, window + 2), what a loss compares the answer with: the
    clean window in its own 0..1, and gain and level, with which it becomes the right answer in the scale that the network answers in."""

    inputs: list[Float32]
    packed: Float32


class Windows:
    """Windows of clean stretches: a given one, or random ones, the sets having the shares that they are to have."""

    def __init__(self, sets: Sequence[data.Clean], shares: Sequence[float], window: int, stretch: float) -> None:
        stretches = [x for clean in sets for x in clean.stretches]
        self.window, self.stretch = window, stretch
        self._all = np.concatenate(stretches or [np.zeros(0)]).astype(np.float32)
        sizes = np.array([len(x) for x in stretches], np.int64)
        self._stop = np.cumsum(sizes)
        self._begin = self._stop - sizes
        joined = data.Clean(stretches, [name for clean in sets for name in clean.recording])
        which, starts = data.window_starts(joined, window, PASS_HOP)
        if not len(which):
            raise DataError(f"no clean stretch is as long as a window of {window} samples ({window / data.FS:g} s)")
        self._pass = self._begin[which] + starts
        # A stretch is drawn by its length, within its set's share.
        room, chances = np.maximum(sizes - window + 1, 0).astype(np.float64), np.zeros(len(sizes))
        at = 0
        for clean, share in zip(sets, shares, strict=True):
            own = slice(at, at + len(clean.stretches))
            chances[own] = share * room[own] / max(room[own].sum(), 1.0)
            at += len(clean.stretches)
        self._cumulative = np.cumsum(chances / chances.sum())

    def __len__(self) -> int:
        """Of one pass."""
        return len(self._pass)

    def given(self, numbers: NDArray[np.int64]) -> Float32:
        """Windows of the pass by number: (n, window)."""
        return np.asarray(np.lib.stride_tricks.sliding_window_view(self._all, self.window)[self._pass[numbers]])

    def random(self, n: int, rng: np.random.Generator) -> Float32:
        """`n` windows from anywhere, stretched in time: (n, window)."""
        which = np.minimum(np.searchsorted(self._cumulative, rng.uniform(0, 1, n), side="right"), len(self._begin) - 1)
        begin, length = self._begin[which, None], (self._stop - self._begin)[which, None]
        fastest = np.minimum(self.stretch, (length - 1) / self.window)
        low = -np.log(self.stretch)
        rate = np.exp(low + rng.uniform(0, 1, (n, 1)) * (np.log(np.maximum(fastest, 1e-9)) - low))
        at = rng.uniform(0, 1, (n, 1)) * np.maximum(length - 1 - rate * (self.window - 1), 0) + rate * np.arange(self.window)
        floor = np.minimum(at.astype(np.int64), length - 2)
        left, right = self._all[begin + floor], self._all[begin + floor + 1]
        return np.asarray(left + (at - floor).astype(np.float32) * (right - left))


def draw(clean: Float32, recipe: Recipe, arch: Architecture, rng: np.random.Generator) -> Drawn:
    """Noise on clean windows (n, window), as the recipe has it, and what the network should make of them."""
    n = len(clean)
    kinds = list(recipe.shares)
    chances = np.array([recipe.shares[k] for k in kinds])
    kind = rng.choice(len(kinds), n, p=chances / chances.sum())[:, None]
    full, mild = (np.isin(kind, [k for k, name in enumerate(kinds) if name == wanted]) for wanted in ("full", "mild"))
    weak = rng.uniform(0, 1, (n, 1)) ** 2
    strength = np.where(full, 1.0, np.where(mild, weak, 0.0))
    parts = recipe.parts
    drawn = noise.n1(
        clean,
        rng,
        white_sd=noise.N1_WHITE_SD * strength * ("white" in parts),
        ramp=noise.N1_RAMP * strength * ("slope" in parts),
        clip=(full | (mild & (rng.uniform(0, 1, (n, 1)) < 0.3))) & ("saturation" in parts),
    )
    return pack(drawn, arch)


def pack(drawn: noise.Noisy[Any], arch: Architecture) -> Drawn:
    """A noisy batch as the network of `arch` and its loss take it."""
    n, window = drawn.noisy.shape
    x = drawn.noisy.astype(np.float32, copy=False)
    packed = np.empty((n, window + 2), np.float32)
    packed[:, :window] = drawn.clean
    if arch.answers == "clean":
        packed[:, window:] = (1.0, 0.0)
        return Drawn([x], packed)
    packed[:, window:] = np.concatenate([drawn.gain, drawn.level], axis=1)
    return Drawn([x, (~held_rows(drawn.noisy)).astype(np.float32)], packed)


class Source:
    """The batches of a run: `batch(epoch, number)`, both from 0."""

    def __init__(self, sets: Sequence[data.Set], recipe: Recipe) -> None:
        self.recipe, self.arch = recipe, recipe.architecture
        train = [s.sides["train"] for s in sets]
        self.windows = Windows(train, shares_of(sets, recipe.synthetic), recipe.window, recipe.stretch)
        self.steps = recipe.steps or -(-len(self.windows) // recipe.batch)

    def batch(self, epoch: int, number: int) -> Drawn:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, epoch, number])
        if recipe.steps:
            clean = self.windows.random(recipe.batch, rng)
        else:  # one pass: every window once, in another order each epoch
            order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self.windows))
            clean = self.windows.given(order[number * recipe.batch : (number + 1) * recipe.batch])
        return draw(clean, recipe, self.arch, rng)


def shares_of(sets: Sequence[data.Set], synthetic: float) -> list[float]:
    """Of the windows of a batch: `synthetic` from synthetic people, the rest from the others alike. Without others all are synthetic."""
    real = [s for s in sets if s.name != "synthetic" and s.sides["train"].stretches]
    share = synthetic if real else 1.0
    return [share if s.name == "synthetic" else (1 - share) / len(real) if s.sides["train"].stretches else 0.0 for s in sets]


class Validation(NamedTuple):
    """Validation windows of one set under the recipe's noise, always the same. noisy, clean: (n, window)."""

    name: str
    drawn: Drawn
    noisy: Float64
    clean: Float64


def validation_of(sets: Sequence[data.Set], recipe: Recipe, side: str = "validation") -> list[Validation]:
    """At most `MOST_SCORED` windows of each set's side, evenly spread, under full noise. Without noise in the recipe: under N1."""
    arch, found = recipe.architecture, []
    for data_set in sets:
        clean = data_set.sides[side]
        if not any(len(x) >= recipe.window for x in clean.stretches):
            continue
        windows = data.scored_windows(clean, window=recipe.window, hop=max(recipe.window // 2, 1))
        windows = windows[np.linspace(0, len(windows) - 1, min(len(windows), MOST_SCORED)).astype(int)]
        parts = recipe.parts or ("white", "slope", "saturation")
        noisy = noise.n1(
            windows,
            np.random.default_rng(VALIDATION_SEED),
            white_sd=noise.N1_WHITE_SD * ("white" in parts),
            ramp=noise.N1_RAMP * ("slope" in parts),
            clip="saturation" in parts,
        )
        drawn = pack(
            noisy
            if recipe.parts
            else noise.Noisy(noisy.clean, noisy.clean, np.ones_like(noisy.gain), np.zeros_like(noisy.level)),
            arch,
        )
        found.append(Validation(data_set.name, drawn, noisy.noisy, windows))
    return found
