"""Clean in, clean out: a clean pulse of any shape and rate leaves the daemon as it came. A network that knows few shapes takes
the others for noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ppgstream.train import methods, streamed

from ppgstream.lab import scores, synthetic
from ppgstream.model.checkpoint import shipped

FS = 125
SHAPES = dict(list(synthetic.shapes(14.0).items())[::5])
ERASES: dict[str, str] = {}  # checkpoints that lose clean pulses, and why


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=ERASES[n]) if n in ERASES else ()) for n in sorted(shipped())],
)
def test_clean_pulses_of_all_shapes_keep_their_height_and_their_form(name: str) -> None:
    method = methods.of_checkpoint(name, Path(name))
    assert method.record is not None
    heights, snrs, confidences = [], [], []
    for x in SHAPES.values():
        out, confidence, _ = method.record(x, None)
        heights.append(scores.bandpass(out, FS).std() / scores.bandpass(x, FS).std())
        snrs.append(scores.snr_b_db(out, x, FS))
        assert confidence is not None
        confidences.append(confidence.mean())
    assert np.mean(np.array(heights) < streamed.ERASED) <= 0.1, dict(zip(SHAPES, heights, strict=True))
    assert np.median(snrs) > 18, dict(zip(SHAPES, snrs, strict=True))
    assert np.median(confidences) > 0.8, dict(zip(SHAPES, confidences, strict=True))


def test_the_shapes_repeat_themselves_at_their_rates() -> None:
    assert len(synthetic.shapes()) == 72
    for name, x in SHAPES.items():
        period = 60 * FS / float(name.rsplit(", ", 1)[1].split()[0])
        y = x - x.mean()
        lags = np.arange(int(0.7 * period), int(1.4 * period))
        same = [float(np.corrcoef(y[:-lag], y[lag:])[0, 1]) for lag in lags]
        assert max(same) > 0.98, name
        assert lags[int(np.argmax(same))] == pytest.approx(period, rel=0.04), name
