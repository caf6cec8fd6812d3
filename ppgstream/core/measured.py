"""What a sample is, before anything is scaled: its state, and how samples come out of a `Judge`."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.core.beside import NOTHING_BESIDE, Beside

Float64 = NDArray[np.float64]
States = NDArray[np.uint8]

MEASURED, HELD, OUTLIER, INVALID, LOST = range(5)  # a sample's state; what is at most OUTLIER was sent and is a number
LARGEST = 1e37  # a larger value counts as infinite: its denoised neighbours might not fit the f4 of the output


class Judged(msgspec.Struct, eq=False, gc=False):
    """Samples in the order in which they came, (n,) each, and their states; None: all are measured. Or (`kind`):

    missing   `number` samples that are not there; `sent`: as NaN or infinity
    end       a held run has become so long that the stretch ends before it; its samples follow as held
    held      samples of such a run: nothing was measured. `value` is the last one that was; `lead_off`: longer than 1 s.
              Or samples of a nearly flat stretch: then `value` is NaN
    step      the stretch ends here: the level or the gain jumped by `value`
    """

    kind: Literal["samples", "missing", "end", "held", "step"]
    x: Float64
    state: States | None
    number: int = 0
    sent: bool = False
    back: bool = False  # the sample before these belongs to their held run
    value: float = 0.0
    lead_off: bool = False
    beside: Beside = NOTHING_BESIDE
