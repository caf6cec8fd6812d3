"""Batches for the network: clean windows, changed a little, under fresh noise. Vectorised; a batch depends on seed, epoch and
number alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.quality import held_rows
from ppgstream.core.scaling import Scale, normalise, standard_scale_of
from ppgstream.errors import ConfigError, DataError
from ppgstream.lab import noise, scores
from ppgstream.lab.noise import Floats
from ppgstream.model.architecture import Architecture

from . import data, mix
from .recipe import Recipe

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
PASS_HOP = 50  # samples between the training windows of one pass
VALIDATION_SEED = 1_000_000
UNSTEADY, UNSTEADY_TURNS = 8.0, (0.2, 1.0)  # samples, at most, that beats come early or late; turns of that in a window
MOST_SCORED = 1000  # validation windows of one set
AHEAD = 4  # batches drawn ahead for each process
MOTION_REAL = 0.8  # of synthetic pulses that would get motion, a real one gets it instead
# Of pulses that are played as a fast heart's: the rates, and how many are smoothed, as fast pulses are.
FAST_BPM, FAST_ROUNDED = (100.0, 200.0), 0.6


class Drawn(NamedTuple):
    """A batch of `n` windows. inputs: what the network takes, each (n, window). packed: (n, window + 4), for the loss
    (`losses`)."""

    inputs: list[Float32]
    packed: Float32


class Windows:
    """Windows of clean stretches: a given one, or random ones, the sets having the shares that they are to have.

    Real pulses are stretched in time by up to `stretch`, a share of them (`reshape`) comes from behind one of `SENSORS`, and a
    share (`fast`) is played as fast as `FAST_BPM`; synthetic ones are not.
    """

    def __init__(
        self,
        sets: Sequence[data.Set],
        shares: Sequence[float],
        window: int,
        stretch: float = 1.0,
        reshape: float = 0.0,
        fast: float = 0.0,
    ) -> None:
        trained = [s.sides["train"] for s in sets]
        stretches = [x for clean in trained for x in clean.stretches]
        self.window, self._reshape, self._fast = window, reshape, fast
        changed = reshape or fast
        variants = [stretches, *([_filtered(x, sensor) for x in stretches] for sensor in (SENSORS if changed else ()))]
        self._all = np.concatenate([np.zeros(0), *(x for variant in variants for x in variant)]).astype(np.float32)
        self._variants = len(variants)
        sizes = np.array([len(x) for x in stretches], np.int64)
        self._stop = np.cumsum(sizes)
        self._begin = self._stop - sizes
        real = np.array([s.name != "synthetic" for s in sets for _ in s.sides["train"].stretches], np.bool_)
        self._real, self._stretch = real, np.where(real, stretch, 1.0)
        self._bpm = np.array(
            [scores.heart_rate(x, data.FS) if fast and r else np.nan for x, r in zip(stretches, real, strict=True)]
        )
        joined = data.Clean(stretches, [name for clean in trained for name in clean.recording])
        which, starts = data.window_starts(joined, window, PASS_HOP)
        if not len(which):
            raise DataError(f"no clean stretch is as long as a window of {window} samples ({window / data.FS:g} s)")
        self._pass = self._begin[which] + starts
        # A stretch is drawn by its length, within its set's share.
        room, chances = np.maximum(sizes - window + 1, 0).astype(np.float64), np.zeros(len(sizes))
        at = 0
        for clean, share in zip(trained, shares, strict=True):
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

    def random(self, n: int, rng: np.random.Generator) -> tuple[Float32, NDArray[np.bool_]]:
        """`n` windows from anywhere, (n, window), and which of them are of real people."""
        which = np.minimum(np.searchsorted(self._cumulative, rng.uniform(0, 1, n), side="right"), len(self._begin) - 1)
        begin, length = self._begin[which, None], (self._stop - self._begin)[which, None]
        most = self._stretch[which, None]
        fastest = np.minimum(most, (length - 1) / self.window)
        low = -np.log(most)
        rate = np.exp(low + rng.uniform(0, 1, (n, 1)) * (np.log(np.maximum(fastest, 1e-9)) - low))
        sped = np.zeros(n, np.bool_)
        if self._fast:
            wanted = np.exp(rng.uniform(float(np.log(FAST_BPM[0])), float(np.log(FAST_BPM[1])), n)) / self._bpm[which]
            sped = (rng.uniform(0, 1, n) < self._fast) & np.isfinite(wanted)
            rate = np.where(sped[:, None], np.minimum(wanted[:, None], (length - 1) / self.window), rate)
        at = rng.uniform(0, 1, (n, 1)) * np.maximum(length - 1 - rate * (self.window - 1), 0) + rate * np.arange(self.window)
        if self._reshape:  # the heart speeds up and slows down
            phase = (
                2
                * np.pi
                * (rng.uniform(*UNSTEADY_TURNS, (n, 1)) * np.arange(self.window) / self.window + rng.uniform(0, 1, (n, 1)))
            )
            unsteady = self._real[which, None] & (rng.uniform(0, 1, (n, 1)) < self._reshape)
            at = np.clip(at + np.where(unsteady, rng.uniform(0, UNSTEADY, (n, 1)) * rate, 0) * np.sin(phase), 0, length - 1)
        floor = np.minimum(at.astype(np.int64), length - 2)
        share = (at - floor).astype(np.float32)
        if self._variants > 1:
            changed = self._real[which] & (rng.uniform(0, 1, n) < self._reshape)
            number = np.where(changed, rng.integers(1, self._variants, n), 0)
            if self._fast:
                number = np.where(sped & (rng.uniform(0, 1, n) < FAST_ROUNDED), rng.choice(LOW_PASS, n), number)
            begin = begin + (self._stop[-1] * number)[:, None]
        left, right = self._all[begin + floor], self._all[begin + floor + 1]
        x = np.asarray(left + share * (right - left))
        return mix.bent(rng, x, self._reshape) if self._reshape else x, self._real[which]


# Sensors shape the pulse: AC coupling turns its slow fall into an undershoot; smoothing rounds it. (type, order, Hz)
Sensor = tuple[Literal["highpass", "lowpass"], int, float]
SENSORS: tuple[Sensor, ...] = (
    ("highpass", 1, 0.3),
    ("highpass", 1, 0.8),
    ("highpass", 2, 0.5),
    ("highpass", 2, 1.0),
    ("highpass", 2, 2.0),
    ("highpass", 1, 2.0),
    ("highpass", 1, 5.0),  # nearly a derivative, as hobbyists' pulse sensors give it
    ("lowpass", 1, 2.0),
    ("lowpass", 1, 4.0),
    ("lowpass", 2, 4.0),
    ("lowpass", 2, 6.0),
    ("lowpass", 2, 1.5),
    ("lowpass", 2, 2.0),
    ("lowpass", 2, 3.0),
    ("lowpass", 3, 3.0),
    ("lowpass", 4, 2.0),
)
LOW_PASS = [number for number, sensor in enumerate(SENSORS, start=1) if sensor[0] == "lowpass"]  # their variants


def _filtered(x: Float64, sensor: Sensor) -> Float64:
    """A stretch as it would come from a sensor with that analogue filter, settled at its start."""
    from scipy.signal import sosfilt

    sos, settled = _filter(sensor)
    return np.asarray(sosfilt(sos, x, zi=settled * x[0])[0])


@lru_cache
def _filter(sensor: Sensor) -> tuple[Float64, Float64]:
    from scipy.signal import butter, sosfilt_zi

    kind, order, hz = sensor
    sos = butter(order, hz, btype=kind, fs=data.FS, output="sos")
    return sos, sosfilt_zi(sos)


def draw(
    clean: Float32, recipe: Recipe, arch: Architecture, rng: np.random.Generator, real: NDArray[np.bool_] | None = None
) -> Drawn:
    """Noise on clean windows (n, window), as the recipe has it, and what the network should make of them. real: (n,), which are
    of real people. Beside a rhythm of steps the shape alone tells which of the two is the pulse, and that of real people is the
    likelier one: most motion goes to them."""
    n, window = clean.shape
    kinds = list(recipe.shares)
    chances = np.array([recipe.shares[k] for k in kinds])
    kind = np.array(kinds)[rng.choice(len(kinds), n, p=chances / chances.sum())]
    if real is not None:
        given = np.flatnonzero(~real & (kind == "motion") & (rng.random(n) < MOTION_REAL))
        taken = rng.permutation(np.flatnonzero(real & (kind != "motion")))[: len(given)]
        given = given[: len(taken)]
        kind[given], kind[taken] = kind[taken], kind[given]
    of_course = np.isin(kind, ("full", "mild", "clean"))
    if of_course.all():
        return pack(_course(clean, kind, recipe, rng), arch)
    s = noise.minmax(clean)
    noisy, gain, level = np.empty_like(s), np.ones((n, 1), np.float32), np.zeros((n, 1), np.float32)
    own = _course(clean[of_course], kind[of_course], recipe, rng)
    noisy[of_course], gain[of_course], level[of_course] = own.noisy, own.gain, own.level
    makers: dict[str, Callable[[Float32], mix.Added]] = {
        "mixed": lambda x: mix.mixed(rng, x),
        "motion": lambda x: mix.moving(rng, x, recipe.motion_db),
        "nearly_clean": lambda x: mix.nearly_clean(rng, x),
        "nothing": lambda x: mix.nothing(rng, len(x), window),
    }
    for name, make in makers.items():
        at = np.flatnonzero(kind == name)
        if len(at):
            added = make(s[at])
            noisy[at], level[at] = mix.clipped(rng, added.noisy), added.level
    gain[kind == "nothing"] = 0.0
    held = held_rows(noisy)
    quantised = mix.quantised(rng, noisy)
    noisy = np.where(of_course[:, None], noisy, quantised)
    return pack(noise.Noisy(noisy, s, gain, level), arch, held=held)


def _course(clean: Float32, kind: NDArray[np.str_], recipe: Recipe, rng: np.random.Generator) -> noise.Noisy[np.float32]:
    """The recipe's parts of N1 on clean windows (n, window), each window at the strength that its kind (n,) has."""
    n = len(clean)
    full, mild = (kind == "full")[:, None], (kind == "mild")[:, None]
    strength = np.where(full, 1.0, np.where(mild, rng.uniform(0, 1, (n, 1)) ** 2, 0.0))
    parts = recipe.parts
    return noise.n1(
        clean,
        rng,
        white_sd=noise.N1_WHITE_SD * strength * ("white" in parts),
        ramp=noise.N1_RAMP * strength * ("slope" in parts),
        clip=(full | (mild & (rng.uniform(0, 1, (n, 1)) < 0.3))) & ("saturation" in parts),
    )


def inputs_of(noisy: Floats, arch: Architecture, held: NDArray[np.bool_] | None = None) -> tuple[list[Float32], Scale | None]:
    """Noisy windows (n, window) as the network of `arch` takes them, and the scale that was taken out (None: they were in 0..1
    already).

    held: (n, window), where nothing was measured; by default where 3 or more values are equal."""
    if arch.answers == "clean" and arch.scaling == "min-max":
        return [noisy.astype(np.float32, copy=False)], None
    known = ~(held_rows(noisy) if held is None else held)
    if arch.scaling == "min-max":
        return [noisy.astype(np.float32, copy=False), known.astype(np.float32)], None
    x = noisy.astype(np.float64)
    scale = standard_scale_of(x, known)
    return [normalise(x, scale), known.astype(np.float32)], scale


def pack(drawn: noise.Noisy[Any], arch: Architecture, held: NDArray[np.bool_] | None = None) -> Drawn:
    """A noisy batch as the network of `arch` and its loss take it. A gain of 0 says that there is no pulse, and the level is the
    right answer."""
    n, window = drawn.noisy.shape
    packed = np.empty((n, window + 4), np.float32)
    packed[:, :window] = drawn.clean
    inputs, scale = inputs_of(drawn.noisy, arch, held)
    pulse = drawn.gain > 0
    if arch.answers == "clean":
        packed[:, window:] = (1.0, 0.0, 1.0, 1.0)
        packed[:, window:] = np.where(pulse, packed[:, window:], np.array((0.0, 0.5, 1.0, 0.0), np.float32))
        return Drawn(inputs, packed)
    gain, level = drawn.gain, drawn.level
    if scale is not None:
        gain, level = gain / scale.gain, (level - scale.offset) / scale.gain
    unit = gain * drawn.clean.std(axis=1, keepdims=True)
    packed[:, window:] = np.concatenate([gain, level, np.where(pulse, unit, 1.0), pulse], axis=1)
    return Drawn(inputs, packed)


class Source:
    """The batches of a run: `batch(epoch, number)`, both from 0."""

    def __init__(self, sets: Sequence[data.Set], recipe: Recipe) -> None:
        self.recipe, self.arch = recipe, recipe.architecture
        self.windows = Windows(
            sets, shares_of(sets, recipe.synthetic), self.arch.window, recipe.stretch, recipe.reshape, recipe.fast
        )
        self.steps = recipe.steps or -(-len(self.windows) // recipe.batch)

    def batch(self, epoch: int, number: int) -> Drawn:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, epoch, number])
        if recipe.steps:
            clean, real = self.windows.random(recipe.batch, rng)
            return draw(clean, recipe, self.arch, rng, real)
        # One pass: every window once, in another order each epoch.
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(self.windows))
        clean = self.windows.given(order[number * recipe.batch : (number + 1) * recipe.batch])
        return draw(clean, recipe, self.arch, rng)


class Pool:
    """The same batches as `Source`'s, drawn ahead in `processes` processes: for a network that takes more than one process
    draws."""

    def __init__(self, sets: Sequence[data.Set], recipe: Recipe, processes: int, steps: int) -> None:
        # Not forked: a copy of a process in which Keras runs may hang.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(list(sets), recipe))
        self._steps, self._ahead = steps, AHEAD * processes
        self._last = recipe.epochs * self._steps
        self._waiting: dict[int, Future[Drawn]] = {}
        self._next: int | None = None

    def batch(self, epoch: int, number: int) -> Drawn:
        """Batches are asked for in order, but for those that were given already: Keras asks for the first ones twice, where
        TensorFlow wants to know their shapes. Raises ConfigError if a process was ended, as it is where memory is short."""
        wanted = epoch * self._steps + number
        first = wanted if self._next is None else self._next
        self._next = max(first, min(wanted + self._ahead, self._last))
        try:
            for n in range(first, self._next):
                self._waiting[n] = self._executor.submit(_batch, *divmod(n, self._steps))
            return (self._waiting.pop(wanted, None) or self._executor.submit(_batch, epoch, number)).result()
        except BrokenProcessPool:
            raise ConfigError("a process that draws batches has ended; is there memory for as many --processes?") from None

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


_own: list[Source] = []  # the source of a process of a `Pool`


def _begin(sets: Sequence[data.Set], recipe: Recipe) -> None:
    _own.append(Source(sets, recipe))


def _batch(epoch: int, number: int) -> Drawn:
    return _own[0].batch(epoch, number)


def shares_of(sets: Sequence[data.Set], synthetic: float) -> list[float]:
    """Of the windows of a batch: `synthetic` from synthetic people, the rest from the others alike. Without others all are
    synthetic."""
    real = [s for s in sets if s.name != "synthetic" and s.sides["train"].stretches]
    share = synthetic if real else 1.0
    return [share if s.name == "synthetic" else (1 - share) / len(real) if s.sides["train"].stretches else 0.0 for s in sets]


class Validation(NamedTuple):
    """Validation windows of one set, always the same. drawn: under the recipe's mix of noises, for the loss. noisy, clean: (n,
    window), under N1."""

    name: str
    drawn: Drawn
    noisy: Float64
    clean: Float64


def validation_of(sets: Sequence[data.Set], recipe: Recipe, side: str = "validation") -> list[Validation]:
    """At most `MOST_SCORED` windows of each set's side, evenly spread."""
    arch, found = recipe.architecture, []
    parts = recipe.parts or ("white", "slope", "saturation")  # without noise in the recipe: under N1
    for data_set in sets:
        clean = data_set.sides[side]
        if not any(len(x) >= arch.window for x in clean.stretches):
            continue
        windows = data.scored_windows(clean, window=arch.window, hop=max(arch.window // 2, 1))
        windows = windows[np.linspace(0, len(windows) - 1, min(len(windows), MOST_SCORED)).astype(int)]
        noisy = noise.n1(
            windows,
            np.random.default_rng(VALIDATION_SEED),
            white_sd=noise.N1_WHITE_SD * ("white" in parts),
            ramp=noise.N1_RAMP * ("slope" in parts),
            clip="saturation" in parts,
        ).noisy
        drawn = draw(windows.astype(np.float32), recipe, arch, np.random.default_rng(VALIDATION_SEED))
        found.append(Validation(data_set.name, drawn, noisy, windows))
    return found
