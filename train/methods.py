"""What the bench compares: checkpoints, and baselines that need no training. Each answers windows, whole records, or both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.assemble import offline_rules
from ppgstream.core.denoiser import Batch, Denoiser, Scaling
from ppgstream.core.engine import Engine
from ppgstream.core.follower import Due, Follower
from ppgstream.core.quality import held_rows
from ppgstream.core.rate import RateRules, fill
from ppgstream.core.scaling import SCALES, scaled
from ppgstream.errors import UsageError
from ppgstream.files import offline
from ppgstream.lab import noise
from ppgstream.model import lmmse, runtime
from ppgstream.model.checkpoint import shipped
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Chunk, Kind

from . import data

Float64 = NDArray[np.float64]
Windows = Callable[[Float64], Float64]
TILE = 64  # windows
USUAL_HOP, USUAL_PATCH = 49, 10  # at which seams are looked for where a method has none
COURSE = {"course RAE": "RAE_tensorboard", "course BRAE": "BRAE_tensorboard"}


class Streamed(NamedTuple):
    """A denoised record (m,) and the confidence of its samples, None from a method that states none; and its beats and heart
    rates, likewise."""

    out: Float64
    confidence: Float64 | None
    pulse: offline.Pulse | None = None


@dataclass(frozen=True)
class Method:
    """windows: noisy windows (n, 250) to answers, in any scale. record: a noisy record (m,) at 125 Hz, NaN where nothing came,
    and a lookahead in samples (None: the method's own) to what would be published. tile: computes `TILE` windows, to be timed.
    trained_on: as `data.trained_on` tells it."""

    name: str
    windows: Windows | None = None
    record: Callable[[Float64, int | None], Streamed] | None = None
    hop: int = USUAL_HOP
    patch: int = USUAL_PATCH
    parameters: int = 0
    mflop: float = 0.0
    tile: Callable[[], object] | None = None
    has_lookahead: bool = False
    trained_on: Mapping[str, Any] = field(default_factory=dict)


def windows_through(denoiser: Denoiser, scaling: Scaling = "min-max") -> Windows:
    """A `Denoiser` on bare windows: what the engine gives it, window by window."""

    def denoise(x: Float64) -> Float64:
        known = ~held_rows(x)
        bare = scaling in ("min-max", "none")  # these windows are of 0..1
        batch = x.astype(np.float32) if bare else scaled(x, SCALES[scaling](x, known), scaling)
        return denoiser(Batch(batch, known)).y.astype(np.float64)

    return denoise


def of_checkpoint(name: str, path: Path) -> Method:
    """A checkpoint through a fresh engine for each record, as the daemon would publish it. Raises CheckpointError."""
    found = restore(path)
    denoiser, arch = runtime.denoiser(found), found.arch

    def record(x: Float64, lookahead: int | None) -> Streamed:
        result = offline.denoise(x, Engine(denoiser, offline_rules(found, lookahead=lookahead)), fs=found.fs, dtype="f8")
        return Streamed(result.denoised.astype(np.float64), result.confidence.astype(np.float64), result.pulses[0])

    length = arch.context + arch.window
    batch = Batch(np.zeros((TILE, length), np.float32), np.ones((TILE, length), np.bool_))
    return Method(
        name,
        windows_through(denoiser, arch.scaling),
        record,
        found.hop,
        arch.size("patch") if "patch" in arch.sizes else USUAL_PATCH,
        found.parameters,
        arch.mflop,
        lambda: denoiser(batch),
        True,
        found.provenance.get("trained_on", {}),
    )


def bridged(x: Float64) -> Float64:
    """A record (m,) with straight lines where it is NaN."""
    there = np.isfinite(x)
    return x if there.all() else np.interp(np.arange(len(x)), np.flatnonzero(there), x[there])


def _bandpass(x: Float64) -> Float64:
    from scipy.signal import butter, sosfiltfilt

    return np.asarray(sosfiltfilt(butter(4, (0.5, 8), btype="bandpass", fs=data.FS, output="sos"), x, axis=-1), np.float64)


UNKNOWN = 0.5  # the confidence of a baseline's samples, where heart rates and beats are looked for in it


def due_of(out: Float64, raw: Float64, confidence: Float64, flags: NDArray[np.uint16], fs: float) -> list[Due]:
    """What a follower of its own gives of a whole record: output, input, confidence and flags (m,) at `fs` Hz."""
    follower = Follower(fs)
    out, raw, confidence = (np.ascontiguousarray(v, np.float64) for v in (out, raw, confidence))
    blocks: list[tuple[int, NDArray[np.float32], float | None]] = [
        (index, block, None) for index, block in follower.append(0, out, raw, confidence, flags)
    ]
    rest = follower.stop()
    if rest is not None:
        blocks.append((len(out), rest, math.inf))
    return [Due(follower, index, block, gap_s, Chunk("a", 0, index, EMPTY, Kind.BEATS)) for index, block, gap_s in blocks]


def _followed(x: Float64) -> offline.Pulse:
    """Beats and heart rates of a record (m,), by the rules for every checkpoint."""
    due = due_of(x, x, np.full(len(x), UNKNOWN), np.zeros(len(x), np.uint16), data.FS)
    fill(due, RateRules(data.FS))
    return offline.pulse_of([one.chunk for one in due], len(x), data.FS, data.FS)


def _baseline(x: Float64) -> Streamed:
    return Streamed(x, None, _followed(x))


def raw() -> Method:
    return Method("the input itself", lambda x: x, lambda x, _: _baseline(bridged(x)))


def bandpass() -> Method:
    """Zero-phase, over the whole record: it sees all of the future."""
    return Method("band-pass 0.5..8 Hz", _bandpass, lambda x, _: _baseline(_bandpass(bridged(x))))


def mean_wave(clean: Float64) -> Method:
    """Always the mean of the clean training windows (n, window), whatever comes in."""
    mean = noise.minmax(clean).mean(axis=0)
    return Method("the mean wave", lambda x: np.broadcast_to(mean, x.shape))


NEAREST, GLOBAL = 200, 0.02
BLOCK = 64  # windows whose distances are computed at once


def knn(clean: Float64) -> Method:
    """LMMSE with the mean and covariance of the `NEAREST` clean training windows (n, window), and `GLOBAL` of the covariance of
    all.

    Nearest to the measured samples of the input, once offset and ramp are projected out of both. The noise's SD is estimated, and
    the input brought to the scale in which it is a third of the pulse's height.
    """
    x = noise.minmax(clean.astype(np.float32))
    window = x.shape[1]
    ramp = np.linspace(0, 1, window)
    straight = np.stack([np.ones(window), ramp], axis=1)
    whole = GLOBAL * np.cov(x, rowvar=False)
    under = lmmse.LEVEL + lmmse.RAMP * np.outer(ramp, ramp)
    squares = x * x

    def projected(row: Float64, known: NDArray[np.bool_]) -> tuple[Float64, Float64]:
        """Straight lines over the measured samples, orthonormal (window, 2), and the row without them (window,); both 0
        elsewhere."""
        q, _ = np.linalg.qr(straight * known[:, None])
        return q, (row - q @ (q.T @ (row * known))) * known

    def answer(row: Float64, known: NDArray[np.bool_], near: Float64) -> Float64:
        mean, spread = near.mean(axis=0), np.cov(near, rowvar=False) + whole
        of_input = (spread + under)[np.ix_(known, known)] + lmmse.NOISE_OVER_HEIGHT**2 * np.eye(int(known.sum()))
        return np.asarray(mean + spread[:, known] @ np.linalg.solve(of_input, row[known] - mean[known]))

    def windows(noisy: Float64) -> Float64:
        known = ~held_rows(noisy)
        sd = lmmse.noise_sd(noisy, known.astype(np.float64))
        z = noisy / np.maximum(sd / lmmse.NOISE_OVER_HEIGHT, 1e-9)
        answers = []
        for a in range(0, len(z), BLOCK):
            some = slice(a, a + BLOCK)
            parts = [projected(row, k) for row, k in zip(z[some], known[some], strict=True)]
            q = np.stack([part[0] for part in parts]).astype(np.float32)
            rest = np.stack([part[1] for part in parts]).astype(np.float32)
            distance = squares @ known[some].T.astype(np.float32) - 2 * x @ rest.T
            distance -= (x @ q[:, :, 0].T) ** 2 + (x @ q[:, :, 1].T) ** 2
            near = np.argpartition(distance, NEAREST, axis=0)[:NEAREST]
            answers += [answer(*args) for args in zip(z[some], known[some], x[near.T].astype(np.float64), strict=True)]
        return np.stack(answers)

    return Method("kNN-200 LMMSE", windows)


def chosen(asked: list[str], folder: Path, *, only: bool = False) -> list[Method]:
    """The checkpoints to compare, each PATH or NAME=PATH; without any, all that come along. With `only` nothing else; otherwise
    the course's checkpoints under `folder`, where they are, and `lmmse` come first."""
    named = {text.partition("=")[0] for text in asked}
    beside = [f"{name}={folder / 'course' / at}" for name, at in COURSE.items() if (folder / "course" / at).is_dir()] + ["lmmse"]
    if not asked:
        asked = sorted(shipped() if only else set(shipped()) - {"lmmse"}, key=lambda name: (name == "default", name))
    if not only:
        asked = [text for text in beside if text.partition("=")[0] not in named] + asked
    methods: list[Method] = []
    for text in asked:
        name, _, path = text.rpartition("=") if "=" in text and not Path(text).exists() else (text, "", text)
        if not name or not path:
            raise UsageError(f"{text!r}: must be a checkpoint's PATH or NAME=PATH")
        if any(m.name == name for m in methods):
            raise UsageError(f"{text!r}: a second row named {name!r}: name it, NAME=PATH")
        methods.append(of_checkpoint(name, Path(path)))
    return methods


def baselines(clean: Float64 | None) -> list[Method]:
    """Those without training, and with clean training windows (n, 250) those that are computed from them."""
    fixed = [raw(), bandpass()]
    return fixed if clean is None else [*fixed, mean_wave(clean), knn(clean)]
