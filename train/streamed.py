"""The streamed table: whole recordings under each kind of noise through the engine, as the daemon would publish them. Definitions: docs/bench.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream import checkpoint as checkpoints
from ppgstream import metrics, noise, offline
from ppgstream.checkpoint import Checkpoint
from ppgstream.denoiser import Denoiser
from ppgstream.engine import Engine, EngineRules
from ppgstream.stream import StreamRules
from ppgstream.windowing import Geometry

from . import data

Float64 = NDArray[np.float64]
SHORTEST_S, LONGEST_S = 30.0, 90.0
SEEDS = range(2000, 2008)  # frozen: the eight noise draws that figures are quoted on
GOOD_DB = 6.0  # of a second
Noise = Callable[[Float64, np.random.Generator], Float64]


def _nothing(clean: Float64, rng: np.random.Generator) -> Float64:
    """Baseline and white noise of N1 on a stream, the pulse taken away."""
    white = np.ptp(clean) * noise.N1_WHITE_SD * rng.standard_normal(len(clean))
    return np.asarray(clean.mean() + white + noise.walk(clean, rng))


KINDS: dict[str, Noise] = {
    "white": lambda x, rng: x + np.ptp(x) * noise.N1_WHITE_SD * rng.standard_normal(len(x)),
    "N1-stream": noise.n1_stream,
    "hand, dense": lambda x, rng: noise.wrist(x, rng, "hand"),
    "forearm, dense": lambda x, rng: noise.wrist(x, rng, "forearm"),
    "poor contact, dense": lambda x, rng: noise.wrist(x, rng, "contact"),
    "steps": noise.steps,
    "clean": lambda x, _: x.copy(),
    "nothing there": _nothing,
}


@dataclass(frozen=True, slots=True)
class Record:
    """A clean record (m,) at 125 Hz of one person."""

    person: str
    clean: Float64


def records(clean: data.Clean) -> list[Record]:
    """The longest clean stretch of each person that is at least 30 s long, at most its first 90 s. BIDMC's recordings end in the patient's number."""
    longest: dict[str, Float64] = {}
    for name, stretch in zip(clean.recording, clean.stretches, strict=True):
        person = name.rsplit("_", 1)[-1]
        if len(stretch) > len(longest.get(person, ())):
            longest[person] = stretch
    return [Record(person, x[: int(LONGEST_S * data.FS)]) for person, x in longest.items() if len(x) >= SHORTEST_S * data.FS]


@dataclass(frozen=True, slots=True)
class Measured:
    """One record under one draw of a kind: SNR_B in and out (dB), RMS out over RMS clean, heart rate errors of input and output (bpm, one each 2 s), seam
    indexes at the hop and at the patch, and of each second its confidence and whether it is good."""

    snr_in: float
    snr_out: float
    amplitude: float
    hr_in: Float64
    hr_out: Float64
    seam_hop: float
    seam_patch: float
    confidence: Float64
    good: NDArray[np.bool_]


def measure(
    kind: str, record: Record, seed: int, found: Checkpoint, denoiser: Denoiser, lookahead: int | None = None
) -> Measured:
    """One record under the draw `seed` of a kind, through a fresh engine."""
    fs, clean = data.FS, record.clean
    noisy = KINDS[kind](clean, np.random.default_rng([seed, *record.person.encode()]))
    geometry = Geometry(found.arch.window, found.hop, found.arch.context, found.lookahead if lookahead is None else lookahead)
    rules = EngineRules(StreamRules(geometry, fs), found.tile, found.arch.answers, found.arch.scaling)
    result = offline.denoise(noisy, Engine(denoiser, rules), fs=fs, dtype="f8")
    out = result.denoised.astype(np.float64)
    truth = np.zeros_like(clean) if kind == "nothing there" else clean
    seconds = len(clean) // int(fs)
    confidence = result.confidence.astype(np.float64)[: seconds * int(fs)].reshape(seconds, -1).mean(axis=1)
    good = metrics.snr_by_second_db(out, truth, fs) >= GOOD_DB
    if kind == "nothing there":
        none = np.zeros(0)
        return Measured(np.nan, np.nan, np.nan, none, none, np.nan, np.nan, confidence, good)
    reference = metrics.heart_rates(clean, fs)
    patch = found.arch.size("patch") if "patch" in found.arch.sizes else 10
    return Measured(
        metrics.snr_b_db(noisy, clean, fs),
        metrics.snr_b_db(out, clean, fs),
        float(metrics.bandpass(out, fs).std() / metrics.bandpass(clean, fs).std()),
        np.abs(metrics.heart_rates(noisy, fs) - reference),
        np.abs(metrics.heart_rates(out, fs) - reference),
        max(metrics.seam_index(out, hop=geometry.hop, offset=k) for k in range(geometry.hop)),
        max(metrics.seam_index(out, hop=patch, offset=k) for k in range(patch)),
        confidence,
        good,
    )


def table(
    path: Path, people: Sequence[Record], *, seeds: range = SEEDS, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """A row a kind for one checkpoint, and a last one over all kinds: medians over records and draws; heart rate errors are means."""
    found = checkpoints.restore(path)
    denoiser = checkpoints.denoiser(found)
    rows: list[dict[str, Any]] = []
    confidence: list[Float64] = []
    good: list[NDArray[np.bool_]] = []
    for kind in KINDS:
        step(kind)
        measured = [measure(kind, record, seed, found, denoiser) for record in people for seed in seeds]
        own_confidence, own_good = (np.concatenate([getattr(m, k) for m in measured]) for k in ("confidence", "good"))
        confidence.append(own_confidence)
        good.append(own_good)
        rows.append({"kind": kind, **_row(measured), **_trust(own_confidence, own_good)})
    return [*rows, {"kind": "all kinds"} | _trust(np.concatenate(confidence), np.concatenate(good))]


def _row(measured: list[Measured]) -> dict[str, float]:
    if not len(measured[0].hr_out):
        return {}

    def median(name: str) -> float:
        return round(float(np.median([getattr(m, name) for m in measured])), 3)

    gains = np.array([m.snr_out - m.snr_in for m in measured])
    return {
        "snr_b_in_db": median("snr_in"),
        "snr_b_out_db": median("snr_out"),
        "gain_db": round(float(np.median(gains)), 3),
        "gain_p5_db": round(float(np.percentile(gains, 5)), 3),
        "amplitude": median("amplitude"),
        "hr_mae_in_bpm": round(float(np.mean(np.concatenate([m.hr_in for m in measured]))), 2),
        "hr_mae_out_bpm": round(float(np.mean(np.concatenate([m.hr_out for m in measured]))), 2),
        "seam_hop": median("seam_hop"),
        "seam_patch": median("seam_patch"),
    }


def _trust(confidence: Float64, good: NDArray[np.bool_]) -> dict[str, float]:
    sure = confidence >= 0.5
    found = {
        "auroc": metrics.auroc(confidence, good),
        "ece": metrics.calibration_error(confidence, good),
        "good": float(good.mean()),
        "good_kept": float(sure[good].mean()) if good.any() else float("nan"),
        "bad_kept": float(sure[~good].mean()) if not good.all() else float("nan"),
    }
    return {key: round(value, 3) for key, value in found.items()}
