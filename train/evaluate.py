"""How good checkpoints are on recordings they were not trained on, beside what needs no training. Definitions: docs/bench.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream import checkpoint as checkpoints
from ppgstream import metrics, noise, offline, synthetic
from ppgstream.denoiser import Batch, Denoiser, Scaling
from ppgstream.engine import Engine, EngineRules
from ppgstream.scaling import normalise, standard_scale_of
from ppgstream.stream import StreamRules
from ppgstream.trust import held_rows
from ppgstream.windowing import Geometry

from . import data

Float64 = NDArray[np.float64]
NOISE_SEEDS = range(1000, 1008)  # frozen: the eight noise draws that figures are quoted on
LOOKAHEADS = (None, 150, 100, 50, 13)
STREAMED_PEOPLE, STREAMED_S, STREAMED_SEED = 12, 60, 900


def g_n1(denoise: Callable[[Float64], Float64], windows: Float64, *, seeds: range = NOISE_SEEDS) -> float:
    """G under N1, dB, pooled over `seeds` noise draws of clean `windows` (n, window). `denoise` maps noisy windows to answers."""
    noisy = [noise.n1(windows, np.random.default_rng(seed)).noisy for seed in seeds]
    answers = [denoise(x) for x in noisy]
    return metrics.gain_db(np.concatenate(noisy), np.concatenate(answers), np.tile(windows, (len(seeds), 1)))


def windows_through(denoiser: Denoiser, scaling: Scaling = "min-max") -> Callable[[Float64], Float64]:
    """A `Denoiser` as `g_n1` wants it: what the engine gives it, window by window."""

    def denoise(x: Float64) -> Float64:
        known = ~held_rows(x)
        scaled = x.astype(np.float32) if scaling == "min-max" else normalise(x, standard_scale_of(x, known))
        return denoiser(Batch(scaled, known)).y.astype(np.float64)

    return denoise


def table(paths: list[Path], folder: Path) -> list[dict[str, Any]]:
    """A row a method: G under N1 on the course's test recordings and on BIDMC's public test patients."""
    sets = {"course_test": data.course(folder, "test"), "bidmc_public_test": data.bidmc(folder, "test")}
    windows = {name: data.scored_windows(clean) for name, clean in sets.items()}
    methods: dict[str, Callable[[Float64], Float64]] = {
        "a flat line (ignores its input)": lambda x: np.full(x.shape, 0.5),
        "band-pass 0.5..8 Hz": _bandpass,
    }
    for path in paths:
        found = checkpoints.restore(path)
        methods[f"{path.name} ({found.arch.family}, {found.parameters:,})"] = windows_through(
            checkpoints.denoiser(found), found.arch.scaling
        )
    return [{"method": name} | {s: round(g_n1(method, w), 2) for s, w in windows.items()} for name, method in methods.items()]


def _bandpass(x: Float64) -> Float64:
    from scipy.signal import butter, sosfiltfilt

    return np.asarray(sosfiltfilt(butter(4, (0.5, 8), btype="bandpass", fs=data.FS, output="sos"), x, axis=1), np.float64)


def by_lookahead(path: Path) -> list[dict[str, Any]]:
    """The streamed answer at shorter lookaheads: mean SNR_B over synthetic people, their noise as in the demo, and the seam index."""
    found = checkpoints.restore(path)
    denoiser = checkpoints.denoiser(found)
    people = []
    for number in range(STREAMED_PEOPLE):
        rng = np.random.default_rng(STREAMED_SEED + number)
        clean, _ = synthetic.pulse(int(STREAMED_S * found.fs), synthetic.person(rng), rng)
        people.append((clean, synthetic.noisy_pulse(clean, rng)))
    before = float(np.mean([metrics.snr_b_db(noisy, clean, found.fs) for clean, noisy in people]))
    rows = []
    for lookahead in LOOKAHEADS:
        geometry = Geometry(found.arch.window, found.hop, found.arch.context, lookahead)
        after, seam, amplitude = [], [], []
        for clean, noisy in people:
            rules = EngineRules(StreamRules(geometry, found.fs), found.tile, found.arch.answers, found.arch.scaling)
            out = offline.denoise(noisy, Engine(denoiser, rules), fs=found.fs).denoised.astype(np.float64)
            after.append(metrics.snr_b_db(out, clean, found.fs))
            amplitude.append(metrics.bandpass(out, found.fs).std() / metrics.bandpass(clean, found.fs).std())
            seam.append(metrics.seam_index(out, hop=geometry.hop, offset=geometry.settled % geometry.hop))
        rows.append(
            {
                "lookahead": "all" if lookahead is None else lookahead,
                "delay_s": round((geometry.window - geometry.settled + geometry.hop - 1) / found.fs, 2),
                "snr_b_in_db": round(before, 2),
                "snr_b_out_db": round(float(np.mean(after)), 2),
                "amplitude": round(float(np.mean(amplitude)), 3),
                "seam": round(float(np.mean(seam)), 2),
            }
        )
    return rows
