"""What was published last of one stream, beside what it was made from: for a view that draws both."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ppgstream.wire.message import Beats

SAMPLES, BEATS = 1000, 64  # that are kept

Float64 = NDArray[np.float64]


@dataclass(slots=True)
class Trace:
    """The last samples without a gap between them. Kept only while somebody watches. `stop`: the index after the last one.
    `beats`: index and confidence of each."""

    raw: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    clean: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    confidence: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    flags: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    beats: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=BEATS))
    stop: int = 0

    def add(self, index: int, raw: Float64, clean: Float64, confidence: Float64, flags: NDArray[np.uint16]) -> None:
        """Samples from `index` on, (n,) each."""
        if index != self.stop:
            for part in (self.raw, self.clean, self.confidence, self.flags, self.beats):
                part.clear()
        self.raw.extend(raw.tolist())
        self.clean.extend(clean.tolist())
        self.confidence.extend(confidence.round(3).tolist())
        self.flags.extend(flags.tolist())
        self.stop = index + len(raw)

    def add_beats(self, beats: Beats) -> None:
        """Those that were decided since the last call."""
        self.beats.extend(zip(beats.at.tolist(), beats.confidence.tolist(), strict=True))
