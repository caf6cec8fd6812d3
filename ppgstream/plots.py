"""Pictures: a stretch of a stream before and after."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ppgstream.wire import Flag

Float64 = NDArray[np.float64]


def before_after(
    raw: NDArray[np.floating],
    clean: NDArray[np.floating],
    confidence: NDArray[np.floating],
    flags: NDArray[np.uint16],
    *,
    fs: float,
    start_s: float = 0.0,
    truth: NDArray[np.floating] | None = None,
) -> bytes:
    """A PNG: the wave as it came and denoised (and the truth, where it is known), the confidence below. All arrays (n,)."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    t = start_s + np.arange(len(raw)) / fs
    figure, (wave, trust) = plt.subplots(2, 1, figsize=(10, 4.2), sharex=True, height_ratios=[4, 1], layout="constrained")
    wave.plot(t, raw, color="0.75", lw=0.8, label="as the sensor sent it")
    if truth is not None:
        wave.plot(t, truth, color="0.15", lw=1.0, ls=(0, (4, 2)), label="the truth")
    wave.plot(t, clean, color="C3", lw=1.6, label="denoised")
    wave.legend(loc="upper right", ncols=3, frameon=False)
    wave.set_ylabel("PPG, sensor's units")
    low, high = wave.get_ylim()
    wave.set_ylim(low, high + 0.12 * (high - low))  # room for the legend
    wave.margins(x=0)
    trust.fill_between(t, confidence, color="C0", alpha=0.35, step="mid")
    unsure = (flags & Flag.LOW_CONFIDENCE) != 0
    trust.fill_between(t, 0, 1, where=unsure.tolist(), color="C3", alpha=0.15, lw=0, step="mid")
    trust.set(ylim=(0, 1.02), ylabel="confidence", xlabel="time, s")
    for axes in (wave, trust):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
