"""How good an answer is. Definitions as in docs/bench.md; all arrays are (n_windows, window) or 1-D records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ppgstream.noise import minmax

Float64 = NDArray[np.float64]
BAND_HZ = (0.5, 12.0)  # where a PPG pulse and its notch live


def gain_db(noisy: Float64, output: Float64, clean: Float64) -> float:
    """G: how much less squared error the output has than the input, dB, pooled over all windows.

    Each of the three is min-maxed per window first, so the scale a network answers in does not matter.
    """
    noisy, output, clean = minmax(noisy), minmax(output), minmax(clean)
    return float(10 * np.log10(np.sum((noisy - clean) ** 2) / np.sum((output - clean) ** 2)))


def bandpass(x: Float64, fs: float) -> Float64:
    """Zero-phase Butterworth of order 4 over `BAND_HZ`, along the last axis."""
    from scipy.signal import butter, sosfiltfilt

    sos = butter(4, BAND_HZ, btype="bandpass", fs=fs, output="sos")
    return np.asarray(sosfiltfilt(sos, x, axis=-1), dtype=np.float64)


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
