"""Pictures: a stretch of a stream before and after."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ppgstream.files.offline import Pulse
from ppgstream.show.wave import SURE as KNOWN
from ppgstream.wire.message import Flag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64 = NDArray[np.float64]
SUFFIXES = (".png", ".svg", ".pdf")
# Low confidence is the band behind the confidence; each other flag that occurs is a coloured strip with its name.
_COLOURS = {flag: f"C{number}" for number, flag in enumerate((f for f in Flag if f is not Flag.LOW_CONFIDENCE), start=4)}


def content_of(figure: Figure, suffix: str = ".png") -> bytes:
    """A figure as a file's content (of `SUFFIXES`)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=110)
    return buffer.getvalue()


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
    pulse: Pulse | None = None,
) -> Figure:
    """The wave as it came and denoised (and the truth, where it is known), below it the confidence and the flags that occur. All
    arrays (n,). `pulse`: of the whole recording; its beats are marked, and heart rates drawn where the stretch has any."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure that a notebook shows, whether its backend of matplotlib is there or not."""

        def _repr_png_(self) -> bytes:
            return content_of(self)

    t = start_s + np.arange(len(raw)) / fs
    rated = pulse is not None and bool(np.isfinite(pulse.hr_bpm[(pulse.hr_t_s >= t[0]) & (pulse.hr_t_s <= t[-1])]).any())
    heights = [4, 1, 1] if rated else [4, 1]
    size = (10, 4.2 + 1.1 * rated)
    figure = Picture(figsize=size, layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    wave, below = panels[:2]
    values = raw.astype(np.float64)
    outlier = (flags & Flag.OUTLIER) != 0
    wave.plot(t, np.where(outlier, np.nan, values), color="0.75", lw=0.8, label="as the sensor sent it")
    if truth is not None:
        wave.plot(t, truth, color="0.15", lw=1.0, ls=(0, (4, 2)), label="the truth")
    wave.plot(t, clean, color="C3", lw=1.6, label="denoised")
    if pulse is not None:
        at = pulse.beats - round(start_s * fs)
        for sure, face in ((True, "0.15"), (False, "none")):
            which = at[(at >= 0) & (at < len(t)) & ((pulse.beat_confidence >= KNOWN) == sure)]
            if len(which):
                told = "beats" if sure else "unsure beats"
                wave.plot(t[which], clean[which], ls="", marker="v", ms=5, mfc=face, mec="0.15", mew=0.8, label=told)
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
    below.fill_between(t, confidence, color="C0", alpha=0.35, step="mid")
    unsure = (flags & Flag.LOW_CONFIDENCE) != 0
    if unsure.any():
        below.fill_between(t, 0, 1, where=unsure.tolist(), color="C3", alpha=0.15, lw=0, step="mid", label="low confidence")
        below.legend(loc="lower right", frameon=False, fontsize="small")
    below.set(ylim=(0, 1.02), ylabel="confidence\n(0 to 1)")
    if pulse is not None and rated:
        _draw_rates(panels[2], pulse, t[0], t[-1])
    panels[-1].set_xlabel("time, s")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_rates(axes: Axes, pulse: Pulse, start_s: float, stop_s: float) -> None:
    """Heart rates, those that are not known hollow."""
    there = np.isfinite(pulse.hr_bpm) & (pulse.hr_t_s >= start_s) & (pulse.hr_t_s <= stop_s)
    sure = pulse.hr_confidence >= KNOWN
    for which, face in ((there & sure, "C0"), (there & ~sure, "none")):
        axes.plot(pulse.hr_t_s[which], pulse.hr_bpm[which], ls="", marker="o", ms=5, mfc=face, mec="C0")
    known = pulse.hr_bpm[there & sure] if (there & sure).any() else pulse.hr_bpm[there]
    middle = float(np.median(known))
    reach = max(float(np.abs(known - middle).max()) + 5, 15.0)
    axes.set(ylabel="bpm", ylim=(middle - reach, middle + reach))


def flag_name(flag: Flag) -> str:
    """As people read it."""
    return str(flag.name).lower().replace("_", " ")
