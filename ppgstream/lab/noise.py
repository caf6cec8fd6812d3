"""Noise for training, the demo and the bench. Everything is vectorised over a batch and takes its own `rng`.

N1 is the noise of Joonnyong Lee's 2019 course: white noise of a third of the pulse, a ramp, and a short run clipped to the
rail, with a min-max rescaling after each. The order matters, since every rescaling shrinks what came before. `n1_stream` is the
same on a whole record. N2 are the wrist artefacts of Paliakaite et al. 2021 (10.1016/j.bspc.2021.102421), N3 motion locked to a
rhythm, N4 inputs without any pulse, N5 a sensor's faults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)
Floats = NDArray[np.floating[Any]]

N1_WHITE_SD = 1 / 3  # of the clean window's range
N1_RAMP = 2.0  # largest rise or fall across the window, of the noisy window's range
N1_CLIP = 50  # samples; a clipped run is shorter (0.4 s at 125 Hz)


class Noisy(NamedTuple, Generic[Real]):
    """A noisy batch and what a perfect denoiser would answer.

    noisy: (n, window) in 0..1. clean: (n, window) the clean windows in their own 0..1. gain, level: (n, 1), the clean pulse as it
    lies inside `noisy`, the ramp replaced by its mean, is `gain * clean + level`.
    """

    noisy: NDArray[Real]
    clean: NDArray[Real]
    gain: NDArray[Real]
    level: NDArray[Real]

    @property
    def target(self) -> NDArray[Real]:
        """The clean pulse as it lies inside `noisy`, (n, window)."""
        return self.gain * self.clean + self.level


def minmax(x: NDArray[Real]) -> NDArray[Real]:
    """Each row of `x` (n, m) to 0..1; a flat row becomes 0.5."""
    low = x.min(axis=1, keepdims=True)
    span = x.max(axis=1, keepdims=True) - low
    scaled: NDArray[Real] = (x - low) / np.where(span > 0, span, 1).astype(x.dtype)
    np.copyto(scaled, 0.5, where=span <= 0)
    return scaled


def n1(
    clean: NDArray[Real],
    rng: Generator,
    *,
    white_sd: Floats | float = N1_WHITE_SD,
    ramp: Floats | float = N1_RAMP,
    clip: bool | NDArray[np.bool_] = True,
) -> Noisy[Real]:
    """The course's noise on clean windows (n, window), in the precision that these have (float32 is three times as fast as
    float64).

    `white_sd`, `ramp` and `clip` may be given per row, as (n, 1)."""
    n, window = clean.shape
    kind = clean.dtype
    clean = minmax(clean)
    gain: NDArray[Real] = np.ones((n, 1), kind)
    level: NDArray[Real] = np.zeros((n, 1), kind)

    def rescale(x: NDArray[Real]) -> None:
        nonlocal gain, level
        low = x.min(axis=1, keepdims=True)
        span = np.maximum(x.max(axis=1, keepdims=True) - low, 1e-9)
        x -= low
        x /= span
        gain, level = gain / span, (level - low) / span

    x: NDArray[Real] = rng.standard_normal((n, window), kind.type)
    x *= np.asarray(white_sd, kind)
    x += clean
    rescale(x)
    rise = np.asarray(ramp, kind) * rng.uniform(-1, 1, (n, 1)).astype(kind)
    slope = np.arange(window, dtype=kind) / window
    x += rise * slope
    level = level + rise * slope.mean()
    rescale(x)
    start = rng.integers(0, window, (n, 1))
    length = rng.integers(0, N1_CLIP, (n, 1))
    rail = rng.integers(0, 2, (n, 1)).astype(kind)
    at = np.arange(window)
    np.copyto(x, rail, where=(at >= start) & (at < start + length) & np.asarray(clip))
    return Noisy(x, clean, gain, level)


def n1_stream(clean: Float64, rng: Generator, *, fs: float = 125.0) -> Float64:
    """N1 on a whole record (m,), in its units: white noise of a third of its range; a baseline of `2 SD * running sum of U(-1,
    1)` at knots 2 s apart, straight between them; and in each 250 samples one clipped run, at the noisy record's lowest or
    highest value."""
    return clipped_runs(clean + np.ptp(clean) * N1_WHITE_SD * rng.standard_normal(len(clean)) + walk(clean, rng, fs=fs), rng)


def clipped_runs(record: Float64, rng: Generator) -> Float64:
    """A record (m,) with one run of up to 49 samples in each 250 at its lowest or highest value."""
    x, m = record.copy(), len(record)
    low, high = x.min(), x.max()
    for begin in range(0, m, N1_WINDOW):
        start = begin + rng.integers(0, N1_WINDOW)
        x[start : min(start + rng.integers(0, N1_CLIP), begin + N1_WINDOW)] = (low, high)[rng.integers(0, 2)]
    return np.asarray(x, np.float64)


N1_WINDOW = 250  # samples
KNOT_S = 2.0


def walk(clean: Float64, rng: Generator, *, fs: float = 125.0) -> Float64:
    """The baseline of `n1_stream` for a record (m,)."""
    m, step = len(clean), int(KNOT_S * fs)
    knots = np.concatenate([[0.0], np.cumsum(rng.uniform(-1, 1, -(-m // step)))])
    return np.asarray(2 * clean.std() * np.interp(np.arange(m), np.arange(len(knots)) * step, knots), np.float64)


class Wrist(NamedTuple):
    """One type of wrist artefact: mean and SD of the slope of its spectrum above 1 Hz, dB a decade, and its strength,
    Gamma(shape, scale) times the SD of the clean pulse."""

    slope_mean: float
    slope_sd: float
    shape: float
    scale: float


WRIST = {
    "displacement": Wrist(-32.34, 6.03, 0.88277, 23.0128),
    "forearm": Wrist(-29.39, 5.71, 1.43861, 3.19346),
    "hand": Wrist(-25.45, 4.13, 1.40126, 2.19956),
    "contact": Wrist(-18.12, 4.10, 2.00518, 0.80348),
}
ARTEFACT_S, FREE_S, FREE_DENSE_S, SHORTEST_S = 2.0, 15.0, 3.0, 1.0


def coloured(m: int, slope_db: float, rng: Generator, *, fs: float = 125.0) -> Float64:
    """Gaussian noise (m,) of mean 0 and SD 1, its power flat to 1 Hz and changing by `slope_db` dB a decade above, shaped in the
    frequency domain."""
    hz = np.maximum(np.fft.rfftfreq(m, 1 / fs), 1.0)
    x = np.fft.irfft(np.fft.rfft(rng.standard_normal(m)) * 10 ** (slope_db * np.log10(hz) / 20), m)
    x -= x.mean()
    return np.asarray(x / max(float(x.std()), 1e-12), np.float64)


def wrist(clean: Float64, rng: Generator, kind: str, *, fs: float = 125.0, free_s: float = FREE_DENSE_S) -> Float64:
    """N2 on a clean record (m,), in its units: free stretches and artefacts of `kind` alternate, their lengths exponential with
    means of `free_s` and `ARTEFACT_S` seconds, at least `SHORTEST_S`."""
    law, x, unit = WRIST[kind], clean.copy(), float(clean.std()) or 1.0
    at, artefact = 0, False
    while at < len(clean):
        length = int(fs * max(rng.exponential(ARTEFACT_S if artefact else free_s), SHORTEST_S))
        stop = min(at + length, len(clean))
        if artefact:
            noise = coloured(length, rng.normal(law.slope_mean, law.slope_sd), rng, fs=fs)
            x[at:stop] += unit * rng.gamma(law.shape, law.scale) * noise[: stop - at]
        at, artefact = stop, not artefact
    return x


STEPS_HZ, STEPS_HARMONICS, STEPS_RATE, STEPS_PERIOD_S, STEPS_SIZE, STEPS_WHITE = (1.2, 2.8), (1.0, 0.6, 0.3), 0.03, 20.0, 0.3, 0.1


def steps(
    clean: Float64,
    rng: Generator,
    *,
    fs: float = 125.0,
    over_db: float = 0.0,
    hz: tuple[float, float] = STEPS_HZ,
    harmonics: Sequence[float] = STEPS_HARMONICS,
    white: float = STEPS_WHITE,
) -> Float64:
    """N3 on a clean record (m,), in its units: a rhythm with harmonics, `over_db` dB over the pulse, its rate +-3 % and its size
    +-30 % drifting with a period of 20 s, and white noise of a tenth of the record's range, or `white` of it."""
    m = len(clean)
    t = np.arange(m) / fs
    slow = 2 * np.pi * t / STEPS_PERIOD_S
    rate = rng.uniform(*hz) * (1 + STEPS_RATE * np.sin(slow + rng.uniform(0, 2 * np.pi)))
    phase = 2 * np.pi * np.cumsum(rate) / fs
    x = sum(a * np.sin(k * phase + rng.uniform(0, 2 * np.pi)) for k, a in enumerate(harmonics, start=1))
    x = x * (1 + STEPS_SIZE * np.sin(slow + rng.uniform(0, 2 * np.pi)))
    x *= clean.std() * 10 ** (over_db / 20) / np.std(x)
    return np.asarray(clean + x + white * np.ptp(clean) * rng.standard_normal(m), np.float64)


BREATHING_HZ, HUM_HZ = (0.15, 0.4), (45.0, 60.0)
PULSE_S = 2.0  # a pulse's height is the median range of so much of the record


def beside(clean: Float64, rng: Generator, hz: tuple[float, float], pulses: tuple[float, float], *, fs: float = 125.0) -> Float64:
    """A clean record (m,) and a sine: breathing, or hum of a lamp or the mains. Its rate is drawn from `hz` (from, to), its
    height from trough to crest from `pulses` heights of the pulse (from, to; uniform in the logarithm)."""
    m, part = len(clean), min(int(PULSE_S * fs), len(clean))
    height = float(np.median(np.ptp(clean[: m // part * part].reshape(-1, part), axis=1)))
    high = height * np.exp(rng.uniform(np.log(pulses[0]), np.log(pulses[1])))
    return np.asarray(clean + high / 2 * np.sin(2 * np.pi * (rng.uniform(*hz) * np.arange(m) / fs + rng.random())), np.float64)


NOTHING = ("white", "coloured", "baseline", "wrist", "steps", "flat", "ramp", "mains", "disconnected", "clipped")
MAINS_HZ = 50.0


def nothing(clean: Float64, rng: Generator, kind: str, *, fs: float = 125.0) -> Float64:
    """N4: a record (m,) without any pulse, of one of the kinds `NOTHING`, about as high as `clean` and at its level.

    "baseline" is the white noise and the walk of `n1_stream`; "wrist" (the type "hand") and "steps" are N2 and N3 without the
    pulse; "disconnected" is a constant with noise of a thousandth of the pulse's height; "clipped" is noise between two rails
    that it mostly lies on.
    """
    m, sd, height = len(clean), float(clean.std()) or 1.0, float(np.ptp(clean)) or 1.0
    level, t = np.full(m, clean.mean()), np.arange(m) / fs
    white = rng.standard_normal(m)
    if kind == "white":
        x = N1_WHITE_SD * height * white
    elif kind == "coloured":
        x = 2 * sd * coloured(m, rng.uniform(-40, -5), rng, fs=fs)
    elif kind == "baseline":
        x = N1_WHITE_SD * height * white + walk(clean, rng, fs=fs)
    elif kind == "wrist":
        x = wrist(clean, rng, "hand", fs=fs) - clean + 0.02 * height * white
    elif kind == "steps":
        x = steps(clean, rng, fs=fs) - clean
    elif kind == "flat":
        x = np.zeros(m)
    elif kind == "ramp":
        x = 4 * height * rng.choice((-1, 1)) * np.linspace(0, 1, m)
    elif kind == "mains":
        x = sd * np.sqrt(2) * np.sin(2 * np.pi * (MAINS_HZ * t + rng.uniform())) + 0.01 * height * white
    elif kind == "disconnected":
        x = 1e-3 * height * white
    elif kind == "clipped":
        x = np.clip(3 * sd * (walk(clean, rng, fs=fs) / sd + white), -sd, sd)
    else:
        raise KeyError(kind)
    return np.asarray(level + x, np.float64)


class Faulty(NamedTuple):
    """noisy: (m,), NaN where nothing came. truth: (m,), what a perfect denoiser would answer."""

    noisy: Float64
    truth: Float64


FAULTS = (
    *("clipped at 70 %", "clipped at 85 %", "clipped at 95 %"),
    *("drop-outs, held", "drop-outs, NaN", "lost 0.1 %", "lost 1 %"),
    *("gain x0.5", "gain x2", "gain x4"),
    *("50 Hz", "6 bit", "8 bit", "inverted"),
)
DROP_OUT_S, DROP_OUT_EVERY_S = (0.1, 2.0), 10.0


def fault(clean: Float64, rng: Generator, kind: str, *, fs: float = 125.0) -> Faulty:
    """N5: a sensor's fault of one of the kinds `FAULTS` on a clean record (m,), in its units.

    "clipped at 70 %": of the way from the record's lowest value to its highest. "drop-outs": about one in 10 s, 0.1 to 2 s long,
    in which the last value is repeated or NaN comes. "lost": single samples, NaN. "gain": the pulse, not its level, times so much
    from the middle of the record on, and the truth with it. "50 Hz": as strong as the pulse. "6 bit": so many levels over the
    record's range.
    """
    m, low, height = len(clean), float(clean.min()), float(np.ptp(clean)) or 1.0
    x, name, value = clean.copy(), kind.split(" ", maxsplit=1)[0], kind.rsplit(" ", maxsplit=1)[-1]
    if kind not in FAULTS:
        raise KeyError(kind)
    if name == "clipped":
        x = np.minimum(x, low + height * float(kind.split()[2]) / 100)
    elif name == "drop-outs,":
        at = 0
        while (at := at + int(fs * max(rng.exponential(DROP_OUT_EVERY_S), 1.0))) < m:
            stop = at + int(fs * rng.uniform(*DROP_OUT_S))
            x[at:stop] = x[at - 1] if value == "held" else np.nan
            at = stop
    elif name == "lost":
        x[rng.random(m) < float(kind.split()[1]) / 100] = np.nan
    elif name == "gain":
        centre = clean.mean()
        x = centre + (x - centre) * np.where(np.arange(m) < m // 2, 1.0, float(value[1:]))
        return Faulty(x, x.copy())
    elif name == "50":
        x = x + clean.std() * np.sqrt(2) * np.sin(2 * np.pi * (MAINS_HZ * np.arange(m) / fs + rng.uniform()))
    elif value == "bit":
        step = height / (2 ** int(name) - 1)
        x = low + np.round((x - low) / step) * step
    else:
        x = 2 * clean.mean() - x
        return Faulty(x, x.copy())
    return Faulty(x, clean)


IRREGULAR = ("a beat is missing", "an early beat", "a pause of 3 s")
IRREGULAR_EVERY_S, EARLY, EARLY_HEIGHT, PAUSE_S = 12.0, 0.65, 0.6, 3.0


def irregular(clean: Float64, feet: NDArray[np.int64], kind: str, *, fs: float = 125.0) -> Float64:
    """A clean record (m,) whose rhythm is broken about every 12 s, at its pulses' feet (indexes, in order): in place of a whole
    pulse the line from its foot to the next; or a pulse that comes after 0.65 of the interval and is 0.6 as high, and a longer
    diastole after it; or 3 s of slow decay put in."""
    if kind not in IRREGULAR:
        raise KeyError(kind)
    parts: list[Float64] = []
    next_s = IRREGULAR_EVERY_S / 2
    at = 0
    for k in range(1, len(feet) - 2):
        a, b, c = (int(f) for f in feet[k : k + 3])
        if a < max(next_s * fs, at):
            continue
        parts.append(clean[at:a])
        if kind == "a beat is missing":
            parts.append(np.linspace(clean[a], clean[b], b - a, endpoint=False))
            at = b
        elif kind == "an early beat":
            early = int(EARLY * (b - a))
            first, second = clean[a : a + early], clean[b:c]
            low = second[0]
            sunk = first - np.linspace(0, first[-1] - clean[b], early) * (np.arange(early) > early // 2)
            parts += [sunk, low + EARLY_HEIGHT * (second - low), np.full(b - a - early, low + EARLY_HEIGHT * (second[-1] - low))]
            at = c
        else:
            t = np.arange(int(PAUSE_S * fs)) / fs
            height = float(np.ptp(clean[a:b]))
            parts.append(clean[a] - 0.3 * height * (1 - np.exp(-t / 1.5)))
            at = a
            clean = clean.copy()
            back = min(int(0.3 * fs), b - a)
            clean[a : a + back] += np.linspace(parts[-1][-1] - clean[a], 0, back)
        next_s += IRREGULAR_EVERY_S
    return np.concatenate([*parts, clean[at:]])
