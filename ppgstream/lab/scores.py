"""How good an answer is. Definitions as in docs/bench.md; all arrays are (n_windows, window) or 1-D records."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.spectra import repeats
from ppgstream.lab.noise import minmax

Float64 = NDArray[np.float64]
BAND_HZ = (0.5, 12.0)  # where a PPG pulse and its notch live
GOOD_DB = 6.0  # SNR_B of a second from which it counts as good


def gain_db(noisy: Float64, output: Float64, clean: Float64) -> float:
    """G: how much less squared error the output has than the input, dB, pooled over all windows.

    Each of the three is min-maxed per window first, so the scale a network answers in does not matter.
    """
    noisy, output, clean = minmax(noisy), minmax(output), minmax(clean)
    return float(10 * np.log10(np.sum((noisy - clean) ** 2) / max(float(np.sum((output - clean) ** 2)), 1e-300)))


def bandpass(x: Float64, fs: float) -> Float64:
    """Zero-phase Butterworth of order 4 over `BAND_HZ`, along the last axis."""
    from scipy.signal import sosfiltfilt

    return np.asarray(sosfiltfilt(_band(fs), x, axis=-1), dtype=np.float64)


@lru_cache
def _band(fs: float) -> Float64:
    from scipy.signal import butter

    return np.asarray(butter(4, BAND_HZ, btype="bandpass", fs=fs, output="sos"))


def snr_b_db(output: Float64, clean: Float64, fs: float) -> float:
    """SNR_B of a 1-D record in original units: clean power over error power, both band-passed, dB."""
    reference = bandpass(clean, fs)
    error = bandpass(output, fs) - reference
    return float(10 * np.log10(np.sum(reference**2) / max(float(np.sum(error**2)), 1e-300)))


def seam_index(x: Float64, *, hop: int, offset: int = 0) -> float:
    """RMS step between neighbouring samples across hop borders, over that elsewhere. 1: no seam. Borders lie at `offset + k *
    hop`."""
    steps = np.diff(x) ** 2
    at_border = (np.arange(1, len(x)) - offset) % hop == 0
    return float(np.sqrt(steps[at_border].mean() / max(float(steps[~at_border].mean()), 1e-300)))


HR_WINDOW_S, HR_STEP_S, HR_HZ, HR_SIZE = 8.0, 2.0, (0.6, 3.7), 1 << 14


def heart_rates(x: Float64, fs: float) -> Float64:
    """Heart rate of a record (m,) in beats a minute, of 8 s every 2 s: where S(f) + S(2 f) / 2 is largest from 0.6 to 3.7 Hz, S
    the power spectrum of the band-passed record, Hann-windowed and padded to 2^14 samples."""
    length, step = int(HR_WINDOW_S * fs), int(HR_STEP_S * fs)
    if len(x) < length:
        return np.zeros(0)
    cut = np.lib.stride_tricks.sliding_window_view(bandpass(x, fs), length)[::step]
    power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * np.hanning(length), HR_SIZE, axis=1)) ** 2
    low, high = (round(hz * HR_SIZE / fs) for hz in HR_HZ)
    bins = np.arange(low, high + 1)
    return np.asarray(60 * fs / HR_SIZE * (low + np.argmax(power[:, bins] + power[:, 2 * bins] / 2, axis=1)))


def heart_rate(x: Float64, fs: float, otherwise: float = math.nan) -> float:
    """The median of a record's heart rates, bpm; `otherwise` of one that is shorter than 8 s."""
    rates = heart_rates(x, fs)
    return float(np.median(rates)) if len(rates) else otherwise


def snr_by_second_db(output: Float64, clean: Float64, fs: float) -> Float64:
    """SNR_B of each whole second of a record, dB; -100 where the clean record is flat."""
    n, second = len(clean) // int(fs), int(fs)
    reference, answer = bandpass(clean, fs), bandpass(output, fs)
    power, error = ((v[: n * second].reshape(n, second) ** 2).sum(axis=1) for v in (reference, answer - reference))
    return np.asarray(np.where(power > 0, 10 * np.log10(np.maximum(power, 1e-300) / np.maximum(error, 1e-300)), -100.0))


def auroc(score: Float64, good: NDArray[np.bool_]) -> float:
    """The probability that a good one scores higher than another, ties half; NaN if there are only good ones or none."""
    from scipy.stats import rankdata

    n = int(good.sum())
    if n in (0, len(good)):
        return float("nan")
    return float((rankdata(score)[good].sum() - n * (n + 1) / 2) / (n * (len(good) - n)))


def calibration_error(confidence: Float64, good: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and share of good ones in `bins` equal bins, weighted by their
    counts."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    off = np.abs(np.bincount(which, confidence, bins) - np.bincount(which, good.astype(float), bins))
    return float(off.sum() / count.sum())


PEAK_NEAR_S = 0.15  # a peak further away is another one


def peak_shift_ms(output: Float64, clean: Float64, fs: float) -> float:
    """How far the systolic peaks of a clean record (m,) are shifted in the output, ms: the median distance to the nearest peak
    there, of the peaks that have one within 150 ms. NaN without any. Peaks of the band-passed records, at least 0.25 s apart and
    half an SD prominent."""
    from scipy.signal import find_peaks

    at = []
    for x in (clean, output):
        band = bandpass(x, fs)
        found, _ = find_peaks(band, distance=max(int(0.25 * fs), 1), prominence=0.5 * float(band.std()))
        at.append(found)
    if not len(at[0]) or not len(at[1]):
        return float("nan")
    distance = np.abs(at[0][:, None] - at[1][None, :]).min(axis=1) / fs
    near = distance <= PEAK_NEAR_S
    return float(1000 * np.median(distance[near])) if near.any() else float("nan")


RATE_NEAR_BPM, BEAT_NEAR_MS = 5.0, 150.0  # up to here a rate is right, and a beat is a beat
BEATS_APART, BEAT_PROMINENCE = 0.3, 0.3  # of true peaks: in periods, and in SD of the band-passed record
SECOND_APART, ONE_BEAT = (
    0.65,
    1.3,
)  # periods: a peak nearer than this to the one before, with the next within this, is a second wave
# Periods of a pulse; the rate at which they are looked for; as well as the best a shorter period must repeat.
PERIODS_S, PERIOD_HZ, AS_GOOD = (0.25, 2.0), 62.5, 0.9


def pulse_periods_s(clean: Float64, fs: float) -> Float64:
    """The periods of a clean record (m,), of 8 s every 2 s, or of all of a shorter one: each the shortest at which the normalised
    autocorrelation of its slope has a maximum of 0.6 of the best; NaN without any. In the slope breathing is small."""
    factor = max(round(fs / PERIOD_HZ), 1)
    x, fs = np.diff(bandpass(clean, fs)[::factor]), fs / factor
    n = min(int(HR_WINDOW_S * fs), len(x))
    lags = np.arange(int(PERIODS_S[0] * fs), min(int(PERIODS_S[1] * fs) + 2, n * 2 // 3))
    parts = np.lib.stride_tricks.sliding_window_view(x, n)[:: max(int(HR_STEP_S * fs), 1)]
    if len(lags) < 3:
        return np.full(len(parts), math.nan)
    r = repeats(parts - parts.mean(axis=1, keepdims=True), lags)
    top = (r[:, 1:-1] >= r[:, :-2]) & (r[:, 1:-1] >= r[:, 2:]) & (r[:, 1:-1] > 0)
    best = np.where(top, r[:, 1:-1], 0.0).max(axis=1, keepdims=True)
    first = np.argmax(top & (r[:, 1:-1] >= AS_GOOD * best), axis=1) + 1
    return np.where(top.any(axis=1), lags[first] / fs, math.nan)


def pulse_period_s(clean: Float64, fs: float) -> float:
    """The median of a record's periods; NaN without any."""
    periods = pulse_periods_s(clean, fs)
    return float(np.nanmedian(periods)) if np.isfinite(periods).any() else math.nan


def pulse_peaks(clean: Float64, fs: float) -> Float64:
    """The systolic peaks of a clean record (m,), as indexes: of the record below 12 Hz, as prominent as 0.3 SD of its band and at
    least 0.3 periods apart. Of two peaks within 0.65 periods that share a period, the one that rises less is a second wave. A
    high-pass would ring where the heart pauses."""
    from scipy.signal import butter, find_peaks, sosfiltfilt

    period = pulse_period_s(clean, fs) * fs
    if not math.isfinite(period):
        return np.zeros(0)
    low = sosfiltfilt(butter(4, BAND_HZ[1], fs=fs, output="sos"), clean)
    height = float(bandpass(clean, fs).std())
    found, _ = find_peaks(low, distance=max(int(BEATS_APART * period), 1), prominence=BEAT_PROMINENCE * height)
    at = found.tolist()
    rises = [float(low[k] - low[max(k - int(period / 2), 0) : k + 1].min()) for k in at]
    k = 0
    while k + 1 < len(at):
        if at[k + 1] - at[k] >= SECOND_APART * period:
            k += 1
            continue
        lower = k + 1 if rises[k + 1] < rises[k] else k
        before, after = at[max(lower - 1, 0)], at[min(lower + 1, len(at) - 1)]
        if after - before < ONE_BEAT * period:
            del at[lower], rises[lower]
            k = max(k - 1, 0)
        else:
            k += 1
    return np.array(at, np.float64)


def true_rates(peaks: Float64, index: NDArray[np.int64], fs: float) -> Float64:
    """The mean rate of a record's beats, whose systolic peaks these are, in the 8 s before each index, bpm; NaN with fewer than
    two there."""
    first, stop = (np.searchsorted(peaks, index - offset) for offset in (HR_WINDOW_S * fs, 0.0))
    rates = np.full(len(index), np.nan)
    some = stop - first >= 2
    a, b = first[some], stop[some] - 1
    rates[some] = 60 * fs * (b - a) / (peaks[b] - peaks[a])
    return rates


TWO_DIFFER, OF_A_RATE = 0.25, 0.08  # of a record's rates; by how much of the rate


def rate_known(clean: Float64, fs: float) -> bool:
    """Whether two estimates of a clean record's heart rate agree: that of its peaks and that of its autocorrelation, within 5 bpm
    or 8 % in three quarters of the time. Where they do not, no one can tell what is right."""
    if len(clean) < HR_WINDOW_S * fs:
        return False
    bpm = 60 / pulse_periods_s(clean, fs)
    index = int(HR_WINDOW_S * fs) + np.arange(len(bpm)) * int(HR_STEP_S * fs)
    off = np.abs(true_rates(pulse_peaks(clean, fs), index, fs) - bpm)
    return bool(np.mean(~(off <= np.maximum(RATE_NEAR_BPM, OF_A_RATE * bpm))) <= TWO_DIFFER)


def rates_right(bpm: Float64, index: NDArray[np.int64], peaks: Float64, fs: float) -> NDArray[np.bool_]:
    """Whether each rate, told of the 8 s before `index`, is within 5 bpm of the true one; none is without a pulse."""
    return np.asarray(np.abs(bpm - true_rates(peaks, index, fs)) <= RATE_NEAR_BPM)


def beats_off_ms(at: Float64, peaks: Float64, fs: float) -> Float64:
    """How far the nearest true peak is from each beat (n,), ms; infinite without a pulse."""
    if not len(peaks) or not len(at):
        return np.full(len(at), np.inf)
    return np.asarray(np.abs(at[:, None] - peaks[None, :]).min(axis=1) * 1000 / fs, np.float64)


def intervals_off_ms(at: Float64, peaks: Float64, fs: float) -> Float64:
    """How far the interval between each beat and the one before is from that of the true peaks nearest to them, ms; NaN where one
    of them is none."""
    off = np.full(len(at), np.nan)
    if len(at) < 2 or not len(peaks):
        return off
    nearest = np.abs(at[:, None] - peaks[None, :]).argmin(axis=1)
    near = np.abs(at - peaks[nearest]) <= BEAT_NEAR_MS * fs / 1000
    both = near[1:] & near[:-1] & (np.diff(nearest) == 1)
    off[1:][both] = np.abs(np.diff(at) - np.diff(peaks[nearest]))[both] * 1000 / fs
    return off
