"""Recordings from Python: an array in, what is known of it out."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.api.arguments import Float64, number_of, rate_of, samples_of, serving
from ppgstream.core.rate import SURE
from ppgstream.errors import ArgumentError
from ppgstream.files.recording import Recording

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Hrv(NamedTuple):
    """Variability of the intervals between sure beats that follow each other, ms: their mean, their standard deviation (SDNN),
    and the root mean square of the differences of neighbours (RMSSD); NaN with fewer than two. n: how many intervals. Each
    `.._error_ms` (one SD): how far the uncertainty of the beats' own times may have moved the number."""

    n: int
    mean_nn_ms: float
    sdnn_ms: float
    rmssd_ms: float
    mean_nn_error_ms: float
    sdnn_error_ms: float
    rmssd_error_ms: float


@dataclass(frozen=True, eq=False)
class Denoised:
    """A recording (n,), denoised, or recordings (rows, n), of which `denoised[k]` is one.

    raw: the samples as they were given, in their units; fs: their rate, Hz. denoised: the same shape, f4; confidence: f4, P(the
    samples around are good), 0 to 1; flags: u2, bits of `ppgstream.wire.message.Flag`. beats: indexes of the samples nearest to
    the beats' peaks (b,); beat_confidence: P(it is a beat); beat_interval_ms to the beat before, NaN where that is not known, and
    its expected error beat_error_ms. hr_t_s: every 2 s (m,); hr_bpm: the heart rate of the 8 s before, NaN where there is none;
    hr_confidence: P(it is within 5 bpm). Of several recordings the four of beats are lists, an array a row, and the rates (rows,
    m). events: what else there is to say, in words."""

    raw: Float64
    fs: float
    denoised: NDArray[np.float32]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]
    beats: Any
    beat_confidence: Any
    beat_interval_ms: Any
    beat_error_ms: Any
    hr_t_s: Float64
    hr_bpm: NDArray[np.float32]
    hr_confidence: NDArray[np.float32]
    events: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.denoised)

    def __iter__(self) -> Iterator[Denoised]:
        return (self[k] for k in range(len(self._rows("[k]"))))

    def __getitem__(self, row: int) -> Denoised:
        """One of several recordings, by its number."""
        rows = self._rows(f"[{row!r}]")
        try:
            row = operator.index(row)
        except TypeError:
            raise ArgumentError(f"[{row!r}]: must be the number of a recording, 0 to {len(rows) - 1}") from None
        found, name = rows[row], f"row{row % len(rows)}: "
        return Denoised(
            self.raw[row],
            self.fs,
            found,
            self.confidence[row],
            self.flags[row],
            self.beats[row],
            self.beat_confidence[row],
            self.beat_interval_ms[row],
            self.beat_error_ms[row],
            self.hr_t_s,
            self.hr_bpm[row],
            self.hr_confidence[row],
            tuple(text.removeprefix(name) for text in self.events if text.startswith(name)),
        )

    def _rows(self, what: str) -> NDArray[np.float32]:
        if self.denoised.ndim != 2:
            raise ArgumentError(f"{what}: this is one recording")
        return self.denoised

    def _known_intervals(self, least: float) -> NDArray[np.bool_]:
        """Of each beat whether the interval before it is known, and both its beats are sure, (b,)."""
        least = number_of("least", least, -math.inf)
        sure = self.beat_confidence >= least
        return np.asarray(np.isfinite(self.beat_interval_ms) & sure & np.append(False, sure[:-1])[: len(sure)])

    def _one(self, what: str) -> None:
        if self.denoised.ndim != 1:
            raise ArgumentError(f"{what}: of one recording: denoised[k].{what}, of the {len(self.denoised)} that there are")

    def to_frame(self, least: float = SURE) -> pd.DataFrame:
        """A row a sample, with the columns that NeuroKit2's `ppg_process` gives, so that `nk.ppg_analyze` and `nk.hrv` take it:
        PPG_Raw, PPG_Clean, PPG_Rate (of the beats, bpm; NaN where an interval is not known), PPG_Quality (the confidence),
        PPG_Peaks (1 at beats of a confidence from `least` on). Needs pandas (ImportError)."""
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame() needs pandas: pip install pandas") from error
        self._one("to_frame()")
        at = self.beats[self.beat_confidence >= least]
        n = len(self.denoised)
        peaks = np.zeros(n, np.int64)
        peaks[at] = 1
        rate = np.full(n, np.nan)
        known = self._known_intervals(least)
        ends = self.beats[known]
        if len(ends):
            rate = np.interp(np.arange(n), ends, 60_000 / self.beat_interval_ms[known])
            unknown = self.beats[1:][~known[1:]], self.beats[:-1][~known[1:]]  # gaps: no rate is known between their beats
            for stop, start in zip(*unknown, strict=True):
                rate[start + 1 : stop] = np.nan
        columns = {
            "PPG_Raw": self.raw,
            "PPG_Clean": self.denoised,
            "PPG_Rate": rate,
            "PPG_Quality": self.confidence,
            "PPG_Peaks": peaks,
        }
        return pd.DataFrame(columns)

    def hrv(self, least: float = SURE) -> Hrv:
        """Heart rate variability, from intervals whose two beats have a confidence from `least` on."""
        self._one("hrv()")
        interval, error = (np.asarray(v, np.float64) for v in (self.beat_interval_ms, self.beat_error_ms))
        known = self._known_intervals(least)
        if known.sum() < 2:
            return Hrv(int(known.sum()), *(math.nan,) * 6)
        count, mean, sd = int(known.sum()), float(interval[known].mean()), float(interval[known].std(ddof=1))
        # How far the numbers move with each interval, (n,): 0 where it is none of theirs.
        off = np.where(known, interval - mean, 0.0)
        moves_mean, moves_sd = known / count, off / max((count - 1) * sd, 1e-9)
        # An error of two intervals that share a beat has opposite signs in them: half of an interval's variance is each beat's.
        both = known & np.append(known[1:], False)  # beats between two intervals
        variance = np.where(known, error**2, 0.0) / 2
        of_beat = (variance + np.append(variance[1:], 0.0)) / np.where(both, 2.0, 1.0)

        def moved(by_interval: Float64) -> float:
            by_beat = by_interval - np.append(by_interval[1:], 0.0)
            return float((by_beat**2 * of_beat).sum())

        pair = known & np.append(False, known[:-1])  # intervals whose one before is known too
        step = np.where(pair, interval - np.append(np.nan, interval[:-1]), 0.0)
        rmssd = math.sqrt(float((step**2).sum()) / pair.sum()) if pair.any() else math.nan
        moves_rmssd = (step - np.append(step[1:], 0.0)) / max(pair.sum() * rmssd, 1e-9)
        before = np.append(0.0, np.where(known, error, 0.0)[:-1])
        of_steps = (error**2 + before**2 + error * before)[pair]
        return Hrv(
            count,
            mean,
            sd,
            rmssd,
            math.sqrt(moved(moves_mean)),
            math.hypot(math.sqrt(moved(moves_sd)), _added(sd, float((error[known] ** 2).mean()))),
            math.hypot(math.sqrt(moved(moves_rmssd)), _added(rmssd, float(of_steps.mean()))) if pair.any() else math.nan,
        )

    def plot(self, start_s: float = 0.0, seconds: float = 10.0) -> Figure:
        """A picture of a part: before and after, beats, flags, confidence and heart rate, a figure of matplotlib."""
        from ppgstream.files.offline import Pulse
        from ppgstream.show import plots

        self._one("plot()")
        length = len(self.raw) / self.fs
        start_s, seconds = number_of("start_s", start_s, -math.inf, math.inf), number_of("seconds", seconds, 0.0)
        if not 0 <= start_s <= length - 2 / self.fs:
            raise ArgumentError(f"start_s: {start_s:g}: the recording is {length:g} s long")
        part = slice(int(start_s * self.fs), int(min(start_s + max(seconds, 2 / self.fs), length) * self.fs))
        pulse = Pulse(*(getattr(self, name) for name in Pulse._fields))
        raw, clean, confidence, flags = self.raw[part], self.denoised[part], self.confidence[part], self.flags[part]
        return plots.before_after(raw, clean, confidence, flags, fs=self.fs, start_s=start_s, pulse=pulse)


def _added(value: float, variance: float) -> float:
    """By how much an SD of `value` is too large if so much `variance` of it is error."""
    return value - math.sqrt(max(value**2 - variance, 0.0))


def denoise(
    x: Any,
    fs: float,
    *,
    checkpoint: str | Path = "default",
    lookahead: int | None = None,
    polarity: str = "auto",
    sentinels: tuple[float, ...] = (),
) -> Denoised:
    """Denoise a recording (n,), or each row of (rows, n) by itself: by the same path as live, so with the same answers.

    x: samples in any units, an array, list or pandas Series; NaN where there is none. fs: their rate, 10 to 1000 Hz. checkpoint:
    the name of one of ours (default, fast, live, brae, lmmse), or a path. lookahead: so many samples that follow one are waited
    for, at the checkpoint's rate; None: all that help. polarity: "up", "down" (an inverted sensor), or "auto", found from the
    pulse. sentinels: values that mean "no value".

    Raises ArgumentError (a ValueError) for arguments that are none, CheckpointError for a checkpoint that cannot be read.

    Examples:
        >>> import numpy as np, ppgstream
        >>> t = np.arange(60 * 125) / 125
        >>> x = 500 + 30 * np.exp(3 * np.cos(2 * np.pi * 1.2 * t)) + np.random.default_rng(0).normal(0, 40, len(t))
        >>> found = ppgstream.denoise(x, fs=125)
        >>> found.denoised.shape, bool(found.confidence.mean() > 0.7)
        ((7500,), True)
        >>> round(float(np.nanmedian(found.hr_bpm)))
        72
        >>> round(found.hrv().mean_nn_ms, -1)
        830.0
    """
    from ppgstream.core.engine import Engine
    from ppgstream.files import offline
    from ppgstream.wire.message import Flag

    rate, samples = rate_of(fs), samples_of(x, rows=True)
    served = serving(checkpoint, lookahead, polarity, sentinels)
    engine = Engine(served.denoiser, served.rules)
    found = offline.denoise(samples, engine, fs=rate)
    window_s, bare = served.rules.plan.geometry.window / served.rules.plan.fs, Flag.PASSTHROUGH | Flag.NONFINITE
    texts = [event.text for event in engine.events]
    for k, flags in enumerate(np.atleast_2d(found.flags)):
        if ((flags & bare) != 0).all():
            texts.append(f"row{k}: nothing denoised: no stretch of {window_s:g} s with a signal")
    events = tuple(text if samples.ndim == 2 else text.removeprefix("row0: ") for text in texts)
    several, pulses = samples.ndim == 2, found.pulses

    def of_beats(name: str) -> Any:
        return [getattr(pulse, name) for pulse in pulses] if several else getattr(pulses[0], name)

    def of_rates(name: str) -> NDArray[np.float32]:
        return np.stack([getattr(pulse, name) for pulse in pulses]) if several else np.asarray(getattr(pulses[0], name))

    return Denoised(
        raw=samples,
        fs=rate,
        denoised=found.denoised.astype(np.float32, copy=False),
        confidence=found.confidence,
        flags=found.flags,
        beats=of_beats("beats"),
        beat_confidence=of_beats("beat_confidence"),
        beat_interval_ms=of_beats("beat_interval_ms"),
        beat_error_ms=of_beats("beat_error_ms"),
        hr_t_s=pulses[0].hr_t_s,
        hr_bpm=of_rates("hr_bpm"),
        hr_confidence=of_rates("hr_confidence"),
        events=events,
    )


class Loaded(NamedTuple):
    """What `load` gives. x: samples (n,) or (rows, n), laid out at an even rate, NaN where nothing was measured; fs: their rate,
    Hz; found: what the file told, in detail."""

    x: Float64
    fs: float
    found: Recording


def load(
    path: str | Path,
    *,
    fs: float | None = None,
    column: str | int | None = None,
    stream: str | None = None,
    transpose: bool = False,
) -> Loaded:
    """Read a recording: what `ppgstream denoise` reads (docs/formats.md), as arrays.

    fs: its rate, Hz, where the file does not tell it. column: of a table, its name or number. stream: which, of a file that `tap`
    wrote of several. transpose: the columns of a 2-D npy are the recordings.

    Raises SourceError where there is no file, DataError where it holds no PPG, UsageError where nobody tells the rate.

    Examples:
        >>> import numpy as np, ppgstream, tempfile, os
        >>> path = os.path.join(tempfile.mkdtemp(), "ppg.csv")
        >>> with open(path, "w") as file:
        ...     _ = file.write("t,ppg\\n" + "".join(f"{k / 64:.6f},{k % 50}\\n" for k in range(640)))
        >>> x, fs, found = ppgstream.load(path)
        >>> len(x), round(fs)
        (640, 64)
    """
    from ppgstream.files import recording

    if fs is not None:
        rate_of(fs)
    if not isinstance(path, str | Path):
        raise ArgumentError(f"path: {path!r}: must be the path of a file")
    found = recording.read(
        Path(path), column=None if column is None else str(column), key=None, stream=stream, clocked=True, transpose=transpose
    )
    return Loaded(found.samples, found.rate(str(path), fs), found)
