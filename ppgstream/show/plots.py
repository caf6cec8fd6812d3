"""Pictures: a stretch of a stream before and after."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ppgstream.wire.message import Flag

Float64 = NDArray[np.float64]
SUFFIXES = (".png", ".svg", ".pdf")
# Low confidence is the band behind the confidence; each other flag that occurs is a coloured strip with its name.
_COLOURS = {flag: f"C{number}" for number, flag in enumerate((f for f in Flag if f is not Flag.LOW_CONFIDENCE), start=4)}


def before_after(
    raw: NDArray[np.floating],
    clean: NDArray[np.floating],
    confidence: NDArray[np.floating],
    flags: NDArray[np.uint16],
    *,
    fs: float,
    start_s: float = 0.0,
    truth: NDArray[np.floating] | None = None,
    title: str = "",
    suffix: str = ".png",
) -> bytes:
    """A picture (of `SUFFIXES`): the wave as it came and denoised (and the truth, where it is known), below it the confidence and the flags that
    occur. All arrays (n,)."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    t = start_s + np.arange(len(raw)) / fs
    figure, (wave, trust) = plt.subplots(2, 1, figsize=(10, 4.2), sharex=True, height_ratios=[4, 1], layout="constrained")
    values = raw.astype(np.float64)
    outlier = (flags & Flag.OUTLIER) != 0
    wave.plot(t, np.where(outlier, np.nan, values), color="0.75", lw=0.8, label="as the sensor sent it")
    if truth is not None:
        wave.plot(t, truth, color="0.15", lw=1.0, ls=(0, (4, 2)), label="the truth")
    wave.plot(t, clean, color="C3", lw=1.6, label="denoised")
    low, high = wave.get_ylim()
    room = 0.16 * (high - low)  # for the legend
    wave.set_ylim(low, high + room)
    occurring = [flag for flag in _COLOURS if (flags & flag).any()]
    for flag in occurring:
        at = (flags & flag) != 0
        at = at | np.concatenate([at[1:], [False]])  # a single sample has no width of its own
        wave.fill_between(
            t,
            0,
            1,
            where=at.tolist(),
            color=_COLOURS[flag],
            alpha=0.25,
            lw=0.8,
            transform=wave.get_xaxis_transform(),
            label=flag_name(flag),
        )
    wave.legend(loc="upper right", ncols=3 + len(occurring), frameon=False, fontsize="small")
    wave.set(ylabel="PPG, the sensor's units", title=title)
    wave.margins(x=0)
    trust.fill_between(t, confidence, color="C0", alpha=0.35, step="mid")
    unsure = (flags & Flag.LOW_CONFIDENCE) != 0
    if unsure.any():
        trust.fill_between(t, 0, 1, where=unsure.tolist(), color="C3", alpha=0.15, lw=0, step="mid", label="low confidence")
        trust.legend(loc="lower right", frameon=False, fontsize="small")
    trust.set(ylim=(0, 1.02), ylabel="confidence\n(0 to 1)", xlabel="time, s")
    for axes in (wave, trust):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def flag_name(flag: Flag) -> str:
    """As people read it."""
    return str(flag.name).lower().replace("_", " ")
