"""The record of the README's picture of beats and heart rates: a synthetic pulse that is clean, under hand motion, gone (sensor
off), and clean again.

python -m tools.pulse_record pulse.csv
ppgstream denoise pulse.csv --fs 125 -o pulse.npz --plot docs/pulse.png --plot-seconds 48
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ppgstream.lab import noise, synthetic

FS = 125
SECONDS, MOTION_S, OFF_S = 48, (14, 24), (30, 36)
SEED, BPM = 7, 68


def record() -> NDArray[np.float64]:
    """(m,) at 125 Hz."""
    rng = np.random.default_rng(SEED)
    clean, _ = synthetic.pulse(SECONDS * FS, replace(synthetic.person(rng), heart_rate=BPM), rng)
    x, height = clean.copy(), float(np.ptp(clean))
    moving, off = (slice(a * FS, b * FS) for a, b in (MOTION_S, OFF_S))
    x[moving] = noise.wrist(clean[moving], np.random.default_rng(3), "hand", free_s=1.0)
    x[off] = clean.mean() - 2 * height + 1e-3 * height * rng.standard_normal(off.stop - off.start)
    return 500 + 100 * x


if __name__ == "__main__":
    np.savetxt(sys.argv[1] if len(sys.argv) > 1 else "pulse.csv", record(), fmt="%.4f")
