"""How sure heart rates and beats are: the fit of the trees that `ppgstream.core.rate` applies.

People under noises and with rhythms of many kinds go through the engine, which tells their rates and beats; each gets a label
from the clean record: whether the rate is within 5 bpm, whether a peak of the clean pulse is within 150 ms of the beat, and how
far the interval between two such beats is from the true one. Trees are fitted to the labels: first of beats, then of rates, whose
features need to know which beats are sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from ppgstream.assemble import offline_rules
from ppgstream.core import logistic
from ppgstream.core import rate as pulse
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.follower import Due, index_of
from ppgstream.core.plan import Rules
from ppgstream.core.rhythm import RATE_FEATURES
from ppgstream.files import offline
from ppgstream.lab import noise, rhythms, scores
from ppgstream.model.checkpoint import Checkpoint

from . import data, regression
from .methods import Method, due_of
from .streamed import MAIN, NOTHING, OUTSIDE, RHYTHMS, Drawn, Kind, Record, retimed

Float64 = NDArray[np.float64]
SEEDS = range(4000, 4001)  # of the noise
LEAST_ROWS = 200
SURE = pulse.SURE
# The logarithm of the odds is lowered, in each band of the wave's confidence by itself, so that at most so many of the rates of
# each kind are wrong and sure, and of the sure beats so many are none, in cross-validation; but never so far that fewer than so
# many of what is right are sure. In the last band lie the irregular rhythms, of which some stay wrong however far all are
# lowered.
BANDS = (0.5, 0.97)  # up to the first, up to the second, above
WRONG_RATES, WRONG_BEATS, KEPT = (0.02, 0.02, 0.035), (0.03, 0.03, 0.009), 0.5
LOWERED = np.arange(0.0, 3.1, 0.25)
WITHIN = 0.68  # of the errors of intervals that are to lie within what is stated


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
        there = noise.irregular(clean, rhythms.feet_of(clean, scores.pulse_peaks(clean, data.FS)), kind)
        return Drawn(there.copy(), there)

    return make


IRREGULAR: dict[str, Kind] = {kind: _irregular(kind) for kind in noise.IRREGULAR}
KINDS: dict[str, Kind] = {
    **MAIN,
    **MOTION,
    **OUTSIDE,
    **RHYTHMS,
    **{kind: NOTHING[kind] for kind in ("nothing: coloured", "nothing: wrist", "nothing: mains")},
}


class Rows(NamedTuple):
    """Features (n, len(names)), the label or value of each, whose it is, and its kind of noise."""

    features: Float64
    value: Float64
    person: NDArray[np.str_]
    kind: NDArray[np.str_]


@dataclass(frozen=True)
class Published:
    """A record of a kind as the engine gave it out, with its true beats, indexes."""

    noisy: NDArray[np.float32]
    out: NDArray[np.float32]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]
    beats: Float64
    person: str
    kind: str


@dataclass(frozen=True)
class _Recorder:
    """In a classifier's place: keeps what it is asked about, a call each, and finds all of it sure."""

    kept: list[dict[str, Float64]] = field(default_factory=list)

    def of(self, found: Mapping[str, Float64]) -> Float64:
        return self.linear(found) + 1.0

    def linear(self, found: Mapping[str, Float64]) -> Float64:
        self.kept.append(dict(found))
        return np.zeros(len(found["confidence"]))


def rules_of(checkpoint: Checkpoint, rates: pulse.RateRules, lookahead: int | None = None) -> Rules:
    """An engine's rules as the daemon's, with these for beats and rates."""
    served = offline_rules(checkpoint, lookahead=lookahead)
    return replace(served, plan=replace(served.plan, rate=rates))


def published(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    kinds: Mapping[str, Kind] | None = None,
    seeds: Sequence[int] = SEEDS,
    step: Callable[[str], None] = lambda _: None,
) -> list[Published]:
    """People under kinds of noise, by default `KINDS`, through the engine. Calls `step` with the kind's name after each
    recording."""
    found = []
    rules = rules_of(checkpoint, pulse.RateRules(checkpoint.fs))
    for number, record in enumerate(people):
        for kind, make in (kinds or KINDS).items():
            for seed in seeds:
                drawn = make(record.clean, np.random.default_rng([seed, number, *kind.encode()]))
                told = offline.denoise(drawn.noisy, Engine(denoiser, rules), fs=checkpoint.fs)
                step(kind)
                noisy = np.nan_to_num(drawn.noisy).astype(np.float32)
                out = told.denoised.astype(np.float32)
                found.append(Published(noisy, out, told.confidence, told.flags, drawn.beats, record.person, kind))
    return found


class Told(NamedTuple):
    """What is due at one time in all records that last so long: which they are, and what is told of each."""

    record: NDArray[np.int64]
    due: list[Due]


def followed(records: Sequence[Published], rules: pulse.RateRules) -> Iterator[Told]:
    """What is told of records' beats and rates by these rules, time after time: the first 2 s of all, the next, and so on."""
    waiting = []
    for one in records:
        out, noisy, confidence = (np.asarray(part, np.float64) for part in (one.out, one.noisy, one.confidence))
        waiting.append(due_of(out, noisy, confidence, one.flags, rules.fs))
    for time in range(max(map(len, waiting), default=0)):
        there = [k for k, every in enumerate(waiting) if len(every) > time]
        due = [waiting[k][time] for k in there]
        pulse.fill(due, rules)
        yield Told(np.array(there, np.int64), due)


def beat_rows(records: Sequence[Published], fs: float) -> dict[str, Rows]:
    """Of "beat" all beats of all 8 s, and whether each is one; of "interval" those that are told, and how far each interval is
    off in ms."""
    names = list(pulse.BEAT_FEATURES)
    beat, interval = _Recorder(), _Recorder()
    rules = replace(pulse.RateRules(fs), beat=beat, interval=interval)  # type: ignore[arg-type]
    times = list(followed(records, rules))
    found: dict[str, list[tuple[Float64, Float64, NDArray[np.int64]]]] = {"beat": [], "interval": []}
    for told, asked in zip(times, beat.kept, strict=True):
        row = asked["row"].astype(np.int64)
        at = index_of(asked["time"], np.array([d.index for d in told.due], np.float64)[row], fs)
        right = np.zeros(len(at))
        for k, record in enumerate(told.record):
            own = row == k
            right[own] = scores.beats_off_ms(at[own], records[record].beats, fs) <= scores.BEAT_NEAR_MS
        open_ = asked["doubted"] == 0  # the others are never sure, whatever is fitted
        found["beat"].append((_columns(asked, names)[open_], right[open_], told.record[row][open_]))
    at_told: list[Float64] = []
    record_told: list[NDArray[np.int64]] = []
    for told in times:
        for record, due in zip(told.record.tolist(), told.due, strict=True):
            assert due.chunk.beats is not None
            at_told.append(due.chunk.beats.at.astype(np.float64))
            record_told.append(np.full(len(at_told[-1]), record))
    if interval.kept:  # the features of told beats lie in the same order
        features, every = np.concatenate([_columns(asked, names) for asked in interval.kept]), np.concatenate(at_told)
        of_record = np.concatenate(record_told)
        for record in np.unique(of_record).tolist():
            own = of_record == record
            off = scores.intervals_off_ms(every[own], records[record].beats, fs)
            known = np.isfinite(off)
            found["interval"].append((features[own][known], off[known], of_record[own][known]))
    return {name: _joined(rows, len(names), records) for name, rows in found.items()}


def rate_rows(records: Sequence[Published], rules: pulse.RateRules) -> Rows:
    """All rates that are judged, and whether each is right; by rules that know which beats are sure."""
    names = list(RATE_FEATURES)
    rate = _Recorder()
    times = [t for t in followed(records, replace(rules, rate=rate)) if any(d.rated for d in t.due)]  # type: ignore[arg-type]
    found: list[tuple[Float64, Float64, NDArray[np.int64]]] = []
    for told, asked in zip(times, rate.kept, strict=True):
        rated = np.array([d.rated for d in told.due])
        record, index = told.record[rated], np.array([d.index for d in told.due], np.int64)[rated]
        truth = np.array([scores.true_rates(records[r].beats, index[k : k + 1], rules.fs)[0] for k, r in enumerate(record)])
        row, there = asked["row"].astype(np.int64), asked["doubted"] == 0  # the others are never sure, whatever is fitted
        right = np.abs(asked["bpm"] - truth[row]) <= scores.RATE_NEAR_BPM
        found.append((_columns(asked, names)[there], right[there].astype(np.float64), record[row[there]]))
    return _joined(found, len(names), records)


def _columns(asked: Mapping[str, Float64], names: Sequence[str]) -> Float64:
    return np.stack([asked[name] for name in names], axis=1)


def _joined(rows: list[tuple[Float64, Float64, NDArray[np.int64]]], width: int, records: Sequence[Published]) -> Rows:
    features = np.concatenate([np.zeros((0, width)), *(row[0] for row in rows)])
    value = np.concatenate([np.zeros(0), *(row[1] for row in rows)])
    record = np.concatenate([np.zeros(0, np.int64), *(row[2] for row in rows)])
    person, kind = (np.array([getattr(one, key) for one in records], np.str_)[record] for key in ("person", "kind"))
    return Rows(features, value, person, kind)


def calibrate(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
    seeds: Sequence[int] = SEEDS,
) -> tuple[dict[str, Any], dict[str, float]]:
    """What a checkpoint states under "beat", "interval" and "rate", and figures in words, by grouped cross-validation: no person
    is in both parts, but the beats' confidence that rates are judged by was fitted on all. Without those for which there is too
    little to fit on. People whose own rate nobody can tell are left out, and named."""
    known = [scores.rate_known(one.clean, checkpoint.fs) for one in people]
    if not all(known):
        out = [one.person for one, there in zip(people, known, strict=True) if not there]
        say(f"beats and rates: without {', '.join(out)}: two estimates of the heart rate of their clean records differ")
    told = [one for one, there in zip(people, known, strict=True) if there]
    for _ in range(len(people) - len(told)):  # so that the steps are as many as were announced
        for kind in KINDS:
            for _ in seeds:
                step(kind)
    records = published(checkpoint, denoiser, told, seeds=seeds, step=step)
    stated: dict[str, Any] = {}
    figures: dict[str, float] = {}
    for name, own in beat_rows(records, checkpoint.fs).items():
        _fit(name, own, stated, figures, say)
    if "beat" in stated:
        _fit("rate", rate_rows(records, pulse.rules_for(stated, checkpoint.fs)), stated, figures, say)
    return stated, figures


def _fit(name: str, own: Rows, stated: dict[str, Any], figures: dict[str, float], say: Callable[[str], None]) -> None:
    """Adds the trees for `name` to what is stated, and their figures in words, unless there is too little to fit on."""
    names = list(pulse.FITTED[name])
    rows = regression.Rows(names, own.features, own.value > 0.5, own.person)
    if len(own.value) < LEAST_ROWS:
        return
    if name == "interval":
        stated[name] = regression.fit_trees(rows, quantile=WITHIN, values=np.log(np.maximum(own.value, 1.0)))
        return
    if not rows.both:
        return
    right, probability = rows.right, regression.judged_trees(rows)
    band = np.searchsorted(BANDS, own.features[:, names.index("confidence")])
    most, each = (WRONG_RATES, True) if name == "rate" else (WRONG_BEATS, False)
    lowered = np.array([_lowered(probability, right, own.kind, band == k, most[k], each=each) for k in range(len(most))])
    probability = logistic.probability(_odds(probability) - lowered[band])
    stated[name] = regression.with_bands(regression.fit_trees(rows), "confidence", BANDS, (-lowered).tolist())
    sure = probability >= SURE
    what = {"rate": "heart rates", "beat": "beats"}[name]
    share = float(right[sure].mean()) if sure.any() else float("nan")
    auroc, ece = scores.auroc(probability, right), scores.calibration_error(probability, right)
    say(
        f"{what}: {len(right)}, AUROC {auroc:.3f}; {sure.mean():.1%} are told with confidence"
        + (f", and of those {share:.1%} are right" if sure.any() else "")
    )
    figures[f"{what}: AUROC of their confidence by cross-validation"] = round(auroc, 4)
    figures[f"{what}: calibration error by cross-validation"] = round(ece, 4)
    if sure.any():
        figures[f"{what}: share of the confident ones that are right"] = round(share, 4)


def _odds(probability: Float64) -> Float64:
    """The logarithms of odds."""
    return np.asarray(logit(np.clip(probability, 1e-9, 1 - 1e-9)), np.float64)


def _lowered(
    probability: Float64,
    right: NDArray[np.bool_],
    kind: NDArray[np.str_],
    band: NDArray[np.bool_],
    most: float,
    *,
    each: bool,
) -> float:
    """How far the logarithm of the odds is lowered in one band, (n,). `most`: the share of the sure rows that may be wrong; with
    `each`, of the rows of each kind (or of `LEAST_ROWS` where it has fewer) those that may be wrong and sure."""
    odds, found = _odds(probability), 0.0
    kinds = [(own := kind == one, max(int(own.sum()), LEAST_ROWS)) for one in np.unique(kind)]
    if not (right & band).any():
        return float(LOWERED[-1])
    for lowered in LOWERED.tolist():
        sure = band & (odds >= lowered)
        if sure[right & band].mean() < KEPT:
            break
        found = lowered
        wrong = sure & ~right
        if (max(float(wrong[own].sum()) / n for own, n in kinds) if each else float(wrong.sum() / sure.sum())) <= most:
            break
    return float(found)


ECG_KINDS: dict[str, Callable[[Float64, np.random.Generator], Float64]] = {
    "as recorded": lambda x, _: x,
    "hand, dense": lambda x, rng: noise.wrist(x, rng, "hand"),
    "forearm, dense": lambda x, rng: noise.wrist(x, rng, "forearm"),
}


def against_ecg(
    methods: Sequence[Method], recordings: Sequence[data.Reference], seed: int, *, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Heart rates of whole recordings, good stretches and bad, against ECG: of the spectral peak of each 8 s, and as they are
    told live. A row a method and kind; what was told within the same 2 s is compared."""
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
