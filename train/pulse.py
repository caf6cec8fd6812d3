"""How sure heart rates and beats are: the fit of the coefficients that `ppgstream.core.rate` applies.

People under noises of many kinds go through the engine, which tells their rates and beats; each gets a label from the clean record: whether the rate is
within 5 bpm, whether a peak of the clean pulse is within 150 ms of the beat, and how far the interval between two such beats is from the true one. A
logistic regression, and for the interval's error a linear one of its logarithm, give the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import rate as pulse
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine, EngineRules
from ppgstream.core.segments import Geometry
from ppgstream.core.stream import StreamRules
from ppgstream.core.trust import calibration_for
from ppgstream.files import offline
from ppgstream.lab import noise, scores
from ppgstream.model.checkpoint import Checkpoint

from . import data, regression
from .methods import Method
from .streamed import MAIN, NOTHING, OUTSIDE, Drawn, Kind, Record, retimed

Float64 = NDArray[np.float64]
SEEDS = range(4000, 4001)  # of the noise
LEAST_ROWS = 200
# A wrong rate or beat counts so often in the fit: it is to be told with too little confidence rather than too much. Rates: the first of these with which
# `RIGHT` of the confident ones are right, over all kinds, a fifth of which is motion that may be taken for the pulse.
WRONG_COUNTS = (2.0, 4.0, 8.0, 16.0, 32.0)
RIGHT, HARDLY_ANY = 0.95, 0.05  # or with which hardly any are confident
SURE = 0.5


def _moving(low_bpm: float, high_bpm: float, low_db: float, high_db: float) -> Kind:
    """The record at a rate of `low_bpm` to `high_bpm`, under a rhythm `low_db` to `high_db` over the pulse."""

    def make(clean: Float64, rng: np.random.Generator) -> Drawn:
        there = retimed(clean, rng.uniform(low_bpm, high_bpm))
        return Drawn(noise.steps(there, rng, over_db=rng.uniform(low_db, high_db)), there)

    return make


MOTION: dict[str, Kind] = {
    "motion, 0..20 dB": _moving(50, 190, 0, 20),
    "motion, 0..20 dB, fast": _moving(90, 190, 0, 20),
    "motion, -10..5 dB": _moving(50, 190, -10, 5),
}


def _irregular(kind: str) -> Kind:
    def make(clean: Float64, _: np.random.Generator) -> Drawn:
        peaks = scores.pulse_peaks(clean, data.FS).astype(int)
        feet = np.array([a + int(np.argmin(clean[a:b])) for a, b in pairwise(peaks)], np.int64)
        there = noise.irregular(clean, feet, kind)
        return Drawn(there.copy(), there)

    return make


IRREGULAR: dict[str, Kind] = {kind: _irregular(kind) for kind in noise.IRREGULAR}
KINDS: dict[str, Kind] = {
    **MAIN,
    **MOTION,
    **OUTSIDE,
    **{kind: NOTHING[kind] for kind in ("nothing: coloured", "nothing: wrist", "nothing: mains")},
}


class Rows(NamedTuple):
    """Features (n, len(names)), the label or value of each, whose it is, and its kind of noise."""

    features: Float64
    value: Float64
    person: NDArray[np.str_]
    kind: NDArray[np.str_]


@dataclass(frozen=True)
class _Recorder:
    """In a `Logistic`'s place: keeps the features of every row that it is asked for."""

    names: Sequence[str]
    bias: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    kept: list[Float64] = field(default_factory=list)

    def of(self, found: Mapping[str, Float64]) -> Float64:
        self.kept.append(np.stack([found[name] for name in self.names], axis=1))
        return np.zeros(len(self.kept[-1]))


def rules_of(checkpoint: Checkpoint, rates: pulse.RateRules, lookahead: int | None = None) -> EngineRules:
    """An engine's rules as the daemon's, with these for beats and rates."""
    arch = checkpoint.arch
    ahead = checkpoint.lookahead if lookahead is None else lookahead
    wait = arch.window - 1 if ahead is None else ahead
    calibration = calibration_for(checkpoint.calibration, wait, arch.window, checkpoint.fs)
    geometry = Geometry(arch.window, checkpoint.hop, arch.context, ahead)
    stream = StreamRules(geometry, checkpoint.fs, calibration=calibration, rate=rates)
    return EngineRules(stream, checkpoint.tile, arch.answers, arch.scaling)


def rows_of(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    kinds: Mapping[str, Kind] | None = None,
    seeds: Sequence[int] = SEEDS,
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, Rows]:
    """Of "rate", "beat" and "interval" the rows to fit on. Calls `step` with the kind's name after each recording."""
    found: dict[str, list[tuple[Float64, Float64, str, str]]] = {name: [] for name in pulse.FITTED}
    fs = checkpoint.fs
    for number, record in enumerate(people):
        for kind, make in (kinds or KINDS).items():
            for seed in seeds:
                noisy, truth = make(record.clean, np.random.default_rng([seed, number, *kind.encode()]))
                recorders = {name: _Recorder(list(names)) for name, names in pulse.FITTED.items()}
                rules = replace(pulse.RateRules(fs), rate=recorders["rate"], beat=recorders["beat"])  # type: ignore[arg-type]
                chunks = offline.denoised_chunks(noisy, Engine(denoiser, rules_of(checkpoint, rules)), stream="a")
                told = [(c.index, c.beats) for c in chunks if c.beats is not None]
                step(kind)
                rated = np.array([index for index, beats in told if not np.isnan(beats.bpm)], np.int64)
                bpm = np.array([beats.bpm for _, beats in told if not np.isnan(beats.bpm)])
                at = np.concatenate([np.zeros(0), *(beats.at for _, beats in told)])
                for name, rows, value in (
                    ("rate", recorders["rate"].kept, scores.rates_right(bpm, rated, truth, fs)),
                    (
                        "beat",
                        recorders["beat"].kept,
                        (scores.beats_off_ms(at, truth, fs) <= scores.BEAT_NEAR_MS).astype(np.float64),
                    ),
                ):
                    if rows:
                        found[name].append((np.concatenate(rows), value, record.person, kind))
                if truth is not None and recorders["beat"].kept:
                    off = scores.intervals_off_ms(at, truth, fs)
                    known = np.isfinite(off)
                    found["interval"].append((np.concatenate(recorders["beat"].kept)[known], off[known], record.person, kind))
    return {name: _joined(rows, len(pulse.FITTED[name])) for name, rows in found.items()}


def _joined(rows: list[tuple[Float64, Float64, str, str]], width: int) -> Rows:
    features = np.concatenate([np.zeros((0, width)), *(row[0] for row in rows)])
    value = np.concatenate([np.zeros(0), *(row[1] for row in rows)])
    person, kind = (np.repeat(np.array([row[k] for row in rows], np.str_), [len(row[1]) for row in rows]) for k in (2, 3))
    return Rows(features, value, person, kind)


def fit_interval(rows: Rows, names: Sequence[str]) -> dict[str, Any]:
    """Coefficients of the logarithm of the error, ms: least squares, then raised so that 68 % of the errors are within it."""
    scaled, mean, sd = regression.standardised(rows.features)
    x = np.concatenate([np.ones((len(scaled), 1)), scaled], axis=1)
    y = np.log(rows.value + 2.0)
    solved, *_ = np.linalg.lstsq(x, y, rcond=None)
    raised = float(np.quantile(y - x @ solved, 0.68))
    return regression.stated(float(solved[0]) + raised, solved[1:], mean, sd, names)


def calibrate(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
    seeds: Sequence[int] = SEEDS,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The coefficients of a checkpoint for "rate", "beat" and "interval", and figures in words, by grouped cross-validation: no person is in both parts.
    Without those for which there is too little to fit on."""
    rows = rows_of(checkpoint, denoiser, people, seeds=seeds, step=step)
    stated: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for name, own in rows.items():
        stated_one, figures_one = _fitted(name, own, say)
        stated |= stated_one
        figures |= figures_one
    return stated, figures


ECG_KINDS: dict[str, Callable[[Float64, np.random.Generator], Float64]] = {
    "as recorded": lambda x, _: x,
    "hand, dense": lambda x, rng: noise.wrist(x, rng, "hand"),
    "forearm, dense": lambda x, rng: noise.wrist(x, rng, "forearm"),
}


def against_ecg(
    methods: Sequence[Method], recordings: Sequence[data.Reference], seed: int, *, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Heart rates of whole recordings, good stretches and bad, against ECG: of the spectral peak of each 8 s, and as they are told live. A row a method
    and kind; what was told within the same 2 s is compared."""
    rows = []
    for kind, make in ECG_KINDS.items():
        errors: dict[str, list[tuple[Float64, Float64, Float64]]] = {}
        for number, one in enumerate(recordings):
            noisy = make(one.ppg, np.random.default_rng([seed, number, *kind.encode()]))
            for method in methods:
                if method.record is None:
                    continue
                out, _, told = method.record(noisy, None)
                step(kind)
                assert told is not None
                peak = scores.heart_rates(out, data.FS)
                which = np.clip(np.rint((one.stop_s - scores.HR_WINDOW_S) / scores.HR_STEP_S).astype(int), 0, len(peak) - 1)
                live = np.clip(np.rint(one.stop_s / scores.HR_STEP_S).astype(int) - 1, 0, len(told.hr_bpm) - 1)
                errors.setdefault(method.name, []).append(
                    (np.abs(peak[which] - one.bpm), np.abs(told.hr_bpm[live] - one.bpm), told.hr_confidence[live])
                )
        for name, parts in errors.items():
            peak_off, off, sure = (np.concatenate(columns) for columns in zip(*parts, strict=True))
            there, confident = np.isfinite(off), np.isfinite(off) & (sure >= SURE)
            rows.append(
                {
                    "method": name,
                    "kind": kind,
                    "hr_mae_out_bpm": round(float(peak_off.mean()), 2),
                    "live_hr_mae_bpm": round(float(off[there].mean()), 2),
                    "live_hr_mae_sure_bpm": round(float(off[confident].mean()), 2) if confident.any() else float("nan"),
                    "live_hr_coverage": round(float(confident.mean()), 3),
                    "live_hr_sure_right": round(float((off[confident] <= scores.RATE_NEAR_BPM).mean()), 3)
                    if confident.any()
                    else float("nan"),
                }
            )
    return rows


def _fitted(name: str, own: Rows, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, float]]:
    """The coefficients for "rate", "beat" or "interval", {name: ..}, and their figures in words; both empty if there is too little to fit on."""
    names = list(pulse.FITTED[name])
    rows = regression.Rows(names, own.features, own.value > 0.5, own.person)
    if len(own.value) < LEAST_ROWS or (name != "interval" and not rows.both):
        return {}, {}
    if name == "interval":
        return {name: fit_interval(own, names)}, {}
    right = rows.right
    for wrong_counts in WRONG_COUNTS if name == "rate" else WRONG_COUNTS[:1]:
        probability = regression.judged(rows, wrong_counts=wrong_counts)
        there = probability >= SURE
        if there.sum() <= HARDLY_ANY * len(there) or right[there].mean() >= RIGHT:
            break
    sure = probability >= SURE
    what = "heart rates" if name == "rate" else "beats"
    share = float(right[sure].mean()) if sure.any() else float("nan")
    auroc, ece = scores.auroc(probability, right), scores.calibration_error(probability, right)
    of_those = f", and of those {share:.1%} are right" if sure.any() else ""
    say(f"{what}: {len(right)}, AUROC {auroc:.3f}; {sure.mean():.1%} are told with confidence{of_those}")
    figures = {
        f"{what}: AUROC of their confidence by cross-validation": round(auroc, 4),
        f"{what}: calibration error by cross-validation": round(ece, 4),
        **({f"{what}: share of the confident ones that are right": round(share, 4)} if sure.any() else {}),
    }
    return {name: regression.fit(rows, wrong_counts=wrong_counts)}, figures
