"""How good an answer is. Definitions as in docs/bench.md; all arrays are (n_windows, window) or 1-D records."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

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
    """RMS step between neighbouring samples across hop borders, over that elsewhere. 1: no seam. Borders lie at `offset + k * hop`."""
    steps = np.diff(x) ** 2
    at_border = (np.arange(1, len(x)) - offset) % hop == 0
    return float(np.sqrt(steps[at_border].mean() / max(float(steps[~at_border].mean()), 1e-300)))


HR_WINDOW_S, HR_STEP_S, HR_HZ, HR_SIZE = 8.0, 2.0, (0.6, 3.7), 1 << 14


def heart_rates(x: Float64, fs: float) -> Float64:
    """Heart rate of a record (m,) in beats a minute, of 8 s every 2 s: where S(f) + S(2 f) / 2 is largest from 0.6 to 3.7 Hz, S the power spectrum of the
    band-passed record, Hann-windowed and padded to 2^14 samples."""
    length, step = int(HR_WINDOW_S * fs), int(HR_STEP_S * fs)
    if len(x) < length:
        return np.zeros(0)
    cut = np.lib.stride_tricks.sliding_window_view(bandpass(x, fs), length)[::step]
    power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * np.hanning(length), HR_SIZE, axis=1)) ** 2
    low, high = (round(hz * HR_SIZE / fs) for hz in HR_HZ)
    bins = np.arange(low, high + 1)
    return np.asarray(60 * fs / HR_SIZE * (low + np.argmax(power[:, bins] + power[:, 2 * bins] / 2, axis=1)))


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
    """Expected calibration error: mean distance of confidence and share of good ones in `bins` equal bins, weighted by their counts."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(which, minlength=bins)
    off = np.abs(np.bincount(which, confidence, bins) - np.bincount(which, good.astype(float), bins))
    return float(off.sum() / count.sum())


PEAK_NEAR_S = 0.15  # a peak further away is another one


def peak_shift_ms(output: Float64, clean: Float64, fs: float) -> float:
    """How far the systolic peaks of a clean record (m,) are shifted in the output, ms: the median distance to the nearest peak there, of the peaks that
    have one within 150 ms. NaN without any. Peaks of the band-passed records, at least 0.25 s apart and half an SD prominent."""
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
