"""What a network answers to inputs without any pulse: constants, a ramp, white noise, sines. The 2019 course's exercise 7, and
how much pulse is invented.

Windows go straight into the network, in the 0..1 that it was trained on; the daemon itself passes a flat line on as it came.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Batch
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.runtime import denoiser

Float64 = NDArray[np.float64]
PULSE_HZ = (0.6, 3.5)
SINES_HZ = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
NOISE_WINDOWS, SEED = 64, 3
PULSE_RMS = 0.28  # of a clean pulse in 0..1, in the pulse's band: the median of BIDMC's and the course's training windows


class Answered(NamedTuple):
    """One kind of input. x, y: (n, window), what went in and came out. mean, sd: of the answer. pulse: RMS of the answer in the
    pulse's band over that of a clean pulse in 0..1, so 1 is a whole pulse. share: of the answer's power in that band. follows:
    correlation of answer and input, NaN without one."""

    name: str
    x: Float64
    y: Float64
    mean: float
    sd: float
    pulse: float
    share: float
    follows: float

    def row(self) -> dict[str, Any]:
        follows = None if np.isnan(self.follows) else round(self.follows, 3)
        numbers = {key: round(getattr(self, key), 3) for key in ("mean", "sd", "pulse", "share")}
        return {"input": self.name, **numbers, "follows": follows}


def inputs(window: int, fs: float) -> dict[str, Float64]:
    """The inputs by name, each (n, window) in 0..1."""
    t = np.arange(window) / fs
    noise = np.random.default_rng(SEED).standard_normal((NOISE_WINDOWS, window))
    low, high = noise.min(axis=1, keepdims=True), noise.max(axis=1, keepdims=True)
    sines = {f"sine {hz:g} Hz": (0.5 + 0.5 * np.sin(2 * np.pi * hz * t))[None] for hz in SINES_HZ}
    return {
        "zeros": np.zeros((1, window)),
        "ones": np.ones((1, window)),
        "ramp": np.linspace(0, 1, window)[None],
        "white noise": (noise - low) / (high - low),
        **sines,
    }


def probe(checkpoint: Checkpoint) -> list[Answered]:
    """A checkpoint's answers to `inputs`."""
    denoise, window, context = denoiser(checkpoint), checkpoint.arch.window, checkpoint.arch.context
    found = []
    for name, x in inputs(context + window, checkpoint.fs).items():
        y = denoise(Batch(x.astype(np.float32), np.ones(x.shape, np.bool_))).y.astype(np.float64)
        found.append(_answered(name, x[:, context:], y, checkpoint.fs))
    return found


def _answered(name: str, x: Float64, y: Float64, fs: float) -> Answered:
    centred = y - y.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, axis=1)) ** 2
    hz = np.fft.rfftfreq(y.shape[1], 1 / fs)
    band = (hz >= PULSE_HZ[0]) & (hz <= PULSE_HZ[1])
    total = float(power.sum())
    in_band = power[:, band].sum(axis=1) * 2 / y.shape[1] ** 2  # mean square of that part of each window
    moves = (x.std(axis=1) > 1e-9) & (y.std(axis=1) > 1e-9)
    follows = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(x[moves], y[moves], strict=True)]
    return Answered(
        name,
        x,
        y,
        float(y.mean()),
        float(y.std(axis=1).mean()),
        float(np.sqrt(in_band).mean()) / PULSE_RMS,
        float(power[:, band].sum()) / total if total > 1e-12 else 0.0,
        float(np.mean(follows)) if follows else float("nan"),
    )


def picture(answered: list[Answered], title: str) -> bytes:
    """A PNG: each input and its answer (of white noise the first window)."""
    from matplotlib.figure import Figure

    columns = 2
    figure = Figure(figsize=(10, 1.5 * -(-len(answered) // columns)), layout="constrained")
    grid = np.ravel(figure.subplots(-(-len(answered) // columns), columns, squeeze=False))
    for axes in grid:
        axes.set_axis_off()
    for axes, a in zip(grid, answered, strict=False):
        axes.set_axis_on()
        axes.plot(a.x[0], color="0.75", lw=0.9, label="input")
        axes.plot(a.y[0], color="C3", lw=1.4, label="answer")
        axes.set_title(f"{a.name}: {a.pulse:.2f} of a pulse", fontsize="small", loc="left")
        axes.set(ylim=(min(-0.1, a.y[0].min() - 0.1), max(1.1, a.y[0].max() + 0.1)), yticks=[0, 1])
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize="x-small")
    grid[0].legend(frameon=False, fontsize="x-small")
    figure.suptitle(title, fontsize="medium")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def title_of(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.path.name} ({checkpoint.arch.family}): what it answers where there is no pulse"
