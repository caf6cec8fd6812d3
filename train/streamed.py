"""The streamed table: whole recordings under each kind of noise through the engine, as the daemon would publish them.
Definitions: docs/bench.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.files import offline
from ppgstream.lab import noise, rhythms, scores, synthetic

from . import data
from .methods import Method, bridged

Float64 = NDArray[np.float64]
Rng = np.random.Generator
SHORTEST_S, LONGEST_S = 30.0, 90.0
WEARER_S = 45.0  # of a wearer's clean stretch, at most
ERASED = 0.8  # an output lower than so much of the clean wave has lost a part of it
HARMLESS_DB = 12.0  # SNR_B of a second's input from which a bad output is harm
SEEDS = range(2000, 2008)  # frozen: the eight noise draws that figures are quoted on
SURE = 0.5  # the confidence from which a second or a heart rate counts as told
CLEAN_DB = 100.0  # an input with a higher SNR_B is clean: it has no gain
RESAMPLED = 1000  # draws of a bootstrap


class Drawn(NamedTuple):
    """noisy: (m,), NaN where nothing came. truth: (m,), or None where there is no pulse. peaks: its systolic peaks, indexes in
    order, where they are known; None: they are looked for in it."""

    noisy: Float64
    truth: Float64 | None
    peaks: Float64 | None = None

    @property
    def beats(self) -> Float64:
        """The systolic peaks of the truth; none where there is no pulse."""
        if self.truth is None:
            return np.zeros(0)
        return scores.pulse_peaks(self.truth, data.FS) if self.peaks is None else self.peaks


Kind = Callable[[Float64, Rng], Drawn]


def _on(make: Callable[[Float64, Rng], Float64]) -> Kind:
    return lambda clean, rng: Drawn(make(clean, rng), clean)


def _nothing(kind: str) -> Kind:
    return lambda clean, rng: Drawn(noise.nothing(clean, rng, kind), None)


def _fault(kind: str) -> Kind:
    return lambda clean, rng: Drawn(*noise.fault(clean, rng, kind))


def _rhythm(kind: str) -> Kind:
    def make(clean: Float64, rng: Rng) -> Drawn:
        return Drawn(*rhythms.KINDS[kind](clean, scores.pulse_peaks(clean, data.FS), rng))

    return make


def _white(clean: Float64, rng: Rng) -> Float64:
    return clean + np.ptp(clean) * noise.N1_WHITE_SD * rng.standard_normal(len(clean))


def _wrist(kind: str) -> Kind:
    return _on(lambda clean, rng: noise.wrist(clean, rng, kind))


def _rescaled(factor: float, offset: float) -> Kind:
    """`n1_stream` in other units, the offset in ranges of the record."""

    def make(clean: Float64, rng: Rng) -> Drawn:
        shift = offset * float(np.ptp(clean))
        return Drawn(factor * noise.n1_stream(clean, rng) + shift, factor * clean + shift)

    return make


EXERCISE_BPM, EXERCISE_DB = (90.0, 190.0), (0.0, 20.0)


def retimed(clean: Float64, bpm: float, *, slower: bool = True) -> Float64:
    """A record played faster, or with `slower` also slower, so that its heart rate is `bpm`."""
    rate = scores.heart_rate(clean, data.FS, EXERCISE_BPM[0])
    speed = bpm / rate if slower else max(bpm / rate, 1.0)
    return np.asarray(np.interp(np.arange(0, len(clean) - 1, speed), np.arange(len(clean)), clean), np.float64)


def _exercise(clean: Float64, rng: Rng) -> Drawn:
    """The record played faster, so that its heart rate lies in `EXERCISE_BPM`, under a rhythm `EXERCISE_DB` over the pulse."""
    fast = retimed(clean, rng.uniform(*EXERCISE_BPM), slower=False)
    return Drawn(noise.steps(fast, rng, over_db=rng.uniform(*EXERCISE_DB)), fast)


MAIN: dict[str, Kind] = {
    "white": _on(_white),
    "N1-stream": _on(noise.n1_stream),
    "hand, dense": _wrist("hand"),
    "forearm, dense": _wrist("forearm"),
    "poor contact, dense": _wrist("contact"),
    "steps": _on(noise.steps),
    "clean": lambda clean, _: Drawn(clean.copy(), clean),
    "nothing there": _nothing("baseline"),
}
OUTSIDE: dict[str, Kind] = {
    "breathing, 1 to 10 pulses": _on(lambda clean, rng: noise.beside(clean, rng, noise.BREATHING_HZ, (1.0, 10.0))),
    "hum, .5 to 5 pulses": _on(lambda clean, rng: noise.beside(clean, rng, noise.HUM_HZ, (0.5, 5.0))),
}
MORE: dict[str, Kind] = {
    **OUTSIDE,
    "walking baseline": _on(lambda clean, rng: clean + noise.walk(clean, rng)),
    "clipped runs": _on(noise.clipped_runs),
    "displacement, dense": _wrist("displacement"),
    "exercise": _exercise,
    "N1-stream x0.01": _rescaled(0.01, 0),
    "N1-stream x100": _rescaled(100, 0),
    "N1-stream + offset": _rescaled(1, 50),
    "N1-stream inverted": _rescaled(-1, 0),
}
FAULTS: dict[str, Kind] = {kind: _fault(kind) for kind in noise.FAULTS}
NOTHING: dict[str, Kind] = {f"nothing: {kind}": _nothing(kind) for kind in noise.NOTHING}
SHAPES: dict[str, Kind] = {
    "clean": MAIN["clean"],
    "white, SD .1": _on(lambda clean, rng: clean + 0.1 * np.ptp(clean) * rng.standard_normal(len(clean))),
}
WRIST: dict[str, Kind] = {
    kind: MAIN[kind] for kind in ("clean", "white", "hand, dense", "forearm, dense", "poor contact, dense", "steps", "N1-stream")
}
CLASSES_BPM = ((90, 115), (115, 140), (140, 160), (160, 190))
BESIDE_DB = (-10.0, 20.0)  # steps over the pulse


def _of_class(low: float, high: float, *, steps: bool) -> Kind:
    """The record at a rate of `low` to `high` bpm, clean or beside steps of `BESIDE_DB` over the pulse."""

    def make(clean: Float64, rng: Rng) -> Drawn:
        there = retimed(clean, rng.uniform(low, high))
        return Drawn(noise.steps(there, rng, over_db=rng.uniform(*BESIDE_DB)) if steps else there.copy(), there)

    return make


EXERCISE: dict[str, Kind] = {
    f"{low}..{high} bpm, {what}": _of_class(low, high, steps=what != "clean")
    for what in ("clean", "steps")
    for low, high in CLASSES_BPM
}
RHYTHMS: dict[str, Kind] = {kind: _rhythm(kind) for kind in rhythms.KINDS}
SETS: dict[str, dict[str, Kind]] = {
    "shapes": SHAPES,
    "wrist": WRIST,
    "exercise": EXERCISE,
    "main": MAIN,
    "more": MORE,
    "faults": FAULTS,
    "nothing": NOTHING,
}


@dataclass(frozen=True, slots=True)
class Record:
    """A clean record (m,) at 125 Hz of one person."""

    person: str
    clean: Float64


def records(clean: data.Clean, *, shortest_s: float = SHORTEST_S, longest_s: float = LONGEST_S) -> list[Record]:
    """The longest clean stretch of each person (`data.person_of`) that is at least `shortest_s` long, at most its first
    `longest_s`."""
    longest: dict[str, Float64] = {}
    for name, stretch in zip(clean.recording, clean.stretches, strict=True):
        person = data.person_of(name)
        if len(stretch) > len(longest.get(person, ())):
            longest[person] = stretch
    return [Record(person, x[: int(longest_s * data.FS)]) for person, x in longest.items() if len(x) >= shortest_s * data.FS]


def shapes() -> list[Record]:
    """`synthetic.shapes` as records."""
    return [Record(name, x) for name, x in synthetic.shapes().items()]


@dataclass(frozen=True, slots=True)
class Measured:
    """One record under one draw of a kind. SNR_B in and out, dB; RMS out over RMS clean; heart rate errors of input and output,
    bpm, one each 2 s, and the confidence over each one's 8 s; how far peaks of the pulse are shifted, ms; seam indexes at the hop
    and at the patch; of each second its confidence and whether it is good; of each second whose input was good enough whether the
    output is harmed. Without a pulse only confidence and good."""

    person: str
    confidence: Float64 | None
    good: NDArray[np.bool_]
    snr_in: float = np.nan
    snr_out: float = np.nan
    amplitude: float = np.nan
    hr_in: Float64 | None = None
    hr_out: Float64 | None = None
    hr_confidence: Float64 | None = None
    peak_shift_ms: float = np.nan
    seam_hop: float = np.nan
    seam_patch: float = np.nan
    harmed: NDArray[np.bool_] | None = None
    live: Live | None = None


class Live(NamedTuple):
    """What was told of the pulse. Of each rate (n,): its error in bpm, NaN without a pulse, its confidence, and whether it is
    within 5 bpm. Of each beat (m,): its confidence, and whether it is one; how far its interval is off in ms, NaN where that
    cannot be told, and the error that was stated. `found`: of each true beat, whether it was told, and whether with confidence.
    `seconds` of the record."""

    rate_error: Float64
    rate_confidence: Float64
    rate_right: NDArray[np.bool_]
    beat_confidence: Float64
    beat_right: NDArray[np.bool_]
    interval_error_ms: Float64
    interval_stated_ms: Float64
    found: NDArray[np.bool_]
    found_sure: NDArray[np.bool_]
    seconds: float


def live_of(pulse: offline.Pulse, peaks: Float64, seconds: float, fs: float) -> Live:
    """What was told of a record's pulse against its systolic peaks, indexes in order; none: there is no pulse."""
    known = np.isfinite(pulse.hr_bpm)
    bpm, index = pulse.hr_bpm[known].astype(np.float64), np.rint(pulse.hr_t_s[known] * fs).astype(np.int64) + 1
    at = pulse.beats.astype(np.float64)
    sure = pulse.beat_confidence >= SURE
    near = scores.BEAT_NEAR_MS * fs / 1000

    def told(beats: Float64) -> NDArray[np.bool_]:
        return np.array([len(beats) > 0 and np.abs(beats - peak).min() <= near for peak in peaks], np.bool_)

    return Live(
        np.abs(bpm - scores.true_rates(peaks, index, fs)),
        pulse.hr_confidence[known].astype(np.float64),
        scores.rates_right(bpm, index, peaks, fs),
        pulse.beat_confidence.astype(np.float64),
        scores.beats_off_ms(at, peaks, fs) <= scores.BEAT_NEAR_MS,
        scores.intervals_off_ms(at, peaks, fs),
        pulse.beat_error_ms.astype(np.float64),
        told(at),
        told(at[sure]),
        seconds,
    )


class Draw:
    """A record under one draw of a kind, with what is known without any method."""

    def __init__(self, make: Kind, record: Record, seed: int) -> None:
        self.person = record.person
        drawn = make(record.clean, np.random.default_rng([seed, *record.person.encode()]))
        self.noisy, self.truth, self.beats = drawn.noisy, drawn.truth, drawn.beats
        self.fs = data.FS
        if self.truth is not None:
            self.hr = scores.heart_rates(self.truth, self.fs)
            there = bridged(self.noisy)
            self.hr_in = np.abs(scores.heart_rates(there, self.fs) - self.hr)
            self.snr_in = scores.snr_b_db(there, self.truth, self.fs)
            self.by_second_in = scores.snr_by_second_db(there, self.truth, self.fs)

    def measure(self, method: Method, lookahead: int | None = None) -> Measured:
        assert method.record is not None
        out, confidence, pulse = method.record(self.noisy, lookahead)
        m, second = len(out), int(self.fs)
        truth = np.zeros(m) if self.truth is None else self.truth
        by_second_out = scores.snr_by_second_db(out, truth, self.fs)
        good = by_second_out >= scores.GOOD_DB
        by_second = None if confidence is None else confidence[: m // second * second].reshape(-1, second).mean(axis=1)
        live = None if pulse is None else live_of(pulse, self.beats, m / self.fs, self.fs)
        if self.truth is None:
            return Measured(self.person, by_second, good, live=live)
        span, step = int(scores.HR_WINDOW_S * self.fs), int(scores.HR_STEP_S * self.fs)
        over_8_s = None if confidence is None else np.zeros(0)
        if confidence is not None and m >= span:
            over_8_s = np.lib.stride_tricks.sliding_window_view(confidence, span)[::step].mean(axis=1)
        return Measured(
            self.person,
            by_second,
            good,
            self.snr_in,
            scores.snr_b_db(out, truth, self.fs),
            float(scores.bandpass(out, self.fs).std() / scores.bandpass(truth, self.fs).std()),
            self.hr_in,
            np.abs(scores.heart_rates(out, self.fs) - self.hr),
            over_8_s,
            scores.peak_shift_ms(out, truth, self.fs),
            max(scores.seam_index(out, hop=method.hop, offset=k) for k in range(method.hop)),
            max(scores.seam_index(out, hop=method.patch, offset=k) for k in range(method.patch)),
            ~good[self.by_second_in >= HARMLESS_DB],
            live,
        )


def draws(make: Kind, people: Sequence[Record], seeds: range) -> Iterator[Draw]:
    for record in people:
        for seed in seeds:
            yield Draw(make, record, seed)


def table(
    methods: Sequence[Method],
    kinds: dict[str, Kind],
    people: Sequence[Record],
    *,
    seeds: range = SEEDS,
    lookahead: int | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A row a method and kind, and of each method a last one over all kinds. Calls `step` with the kind's name after each draw of
    each method."""
    return rows_of(measured_by_kind(methods, kinds, people, seeds=seeds, lookahead=lookahead, step=step))


def measured_by_kind(
    methods: Sequence[Method],
    kinds: dict[str, Kind],
    people: Sequence[Record],
    *,
    seeds: range = SEEDS,
    lookahead: int | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, list[Measured]]]:
    """Every draw of every kind as each method answers it, by method and kind."""
    streamed = [m for m in methods if m.record is not None]
    measured: dict[str, dict[str, list[Measured]]] = {m.name: {kind: [] for kind in kinds} for m in streamed}
    for kind, make in kinds.items():
        for draw in draws(make, people, seeds):
            for method in streamed:
                measured[method.name][kind].append(draw.measure(method, lookahead))
                step(kind)
    return measured


def rows_of(measured: dict[str, dict[str, list[Measured]]]) -> list[dict[str, Any]]:
    """A row a method and kind, and of each method a last one over all kinds."""
    rows: list[dict[str, Any]] = []
    for name, of_kind in measured.items():
        rows += [
            {"method": name, "kind": kind, **_row(found), **_trust(found), **_live(found)} for kind, found in of_kind.items()
        ]
        every = [m for found in of_kind.values() for m in found]
        rows.append({"method": name, "kind": "all kinds", **_trust(every), **_live(every)})
    return rows


def _row(measured: list[Measured]) -> dict[str, float]:
    if measured[0].hr_out is None:
        return {}

    def median(name: str) -> float:
        return round(float(np.median([getattr(m, name) for m in measured])), 3)

    def joined(name: str) -> Float64:
        return np.concatenate([np.zeros(0), *(getattr(m, name) for m in measured)])

    snr_in = median("snr_in")
    row = {
        "snr_b_in_db": snr_in if snr_in < 10 * CLEAN_DB else float("inf"),
        "snr_b_out_db": median("snr_out"),
        "snr_b_out_p10_db": round(float(np.percentile([m.snr_out for m in measured], 10)), 3),
        **_gains(measured),
        "amplitude": median("amplitude"),
        "erased": _mean(np.array([m.amplitude < ERASED for m in measured], np.float64), 3),
        "harm": _mean(joined("harmed"), 4),
        "hr_mae_in_bpm": _mean(joined("hr_in")),
        "hr_mae_out_bpm": _mean(joined("hr_out")),
        "peak_shift_ms": median("peak_shift_ms"),
        "seam_hop": median("seam_hop"),
        "seam_patch": median("seam_patch"),
    }
    if measured[0].hr_confidence is not None:
        sure = joined("hr_confidence") >= SURE
        row["hr_mae_sure_bpm"] = _mean(joined("hr_out")[sure])
        row["hr_coverage"] = _mean(sure.astype(np.float64), 3)
    return row


def _gains(measured: list[Measured]) -> dict[str, float]:
    """Median, quartiles, fifth percentile, and the 95 % interval of the median when the people are drawn anew."""
    gains = np.array([m.snr_out - m.snr_in for m in measured])
    if np.median([m.snr_in for m in measured]) > CLEAN_DB:
        return {}
    people = np.array([m.person for m in measured])
    own = [gains[people == person] for person in sorted(set(people))]
    rng = np.random.default_rng(0)
    medians = [np.median(np.concatenate([own[k] for k in rng.integers(0, len(own), len(own))])) for _ in range(RESAMPLED)]
    low, high = np.percentile(medians, (2.5, 97.5))
    found = {"gain_db": np.median(gains), "gain_low_db": low, "gain_high_db": high}
    found |= {f"gain_p{p}_db": np.percentile(gains, p) for p in (5, 25, 75)}
    return {key: round(float(value), 3) for key, value in found.items()}


def _mean(values: Float64, digits: int = 2) -> float:
    return round(float(values.mean()), digits) if len(values) else float("nan")


def _live(measured: list[Measured]) -> dict[str, float]:
    """Heart rates and beats, as they are told live, against the clean records."""
    there = [m.live for m in measured if m.live is not None]
    if not there:
        return {}

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(live, name) for live in there])

    error, sure, right = joined("rate_error"), joined("rate_confidence") >= SURE, joined("rate_right")
    beat_sure, beat_right = joined("beat_confidence") >= SURE, joined("beat_right")
    found, found_sure = joined("found"), joined("found_sure")
    off, stated = joined("interval_error_ms"), joined("interval_stated_ms")
    pulse, known = np.isfinite(error), np.isfinite(off) & beat_sure
    row = {
        "live_hr_coverage": _mean(sure.astype(np.float64), 3),
        "false_beats_per_min": _per_minute(beat_sure & ~beat_right, there),
    }
    if pulse.any():
        row |= {
            "live_hr_mae_bpm": _mean(error[pulse]),
            "live_hr_mae_sure_bpm": _mean(error[pulse & sure]),
            "live_hr_sure_right": _mean(right[sure].astype(np.float64), 3),
            "live_hr_off": _mean((error[pulse] > scores.RATE_NEAR_BPM).astype(np.float64), 3),
            "live_hr_off_sure": _mean(((error > scores.RATE_NEAR_BPM) & sure)[pulse].astype(np.float64), 3),
            "beats_f1": round(2 * float(found.sum()) / max(float(len(found) + len(beat_right)), 1.0), 3),
            "beats_wrong": round(float((~found).sum() + (~beat_right).sum()) / max(len(found), 1), 3),
            "beats_told": _mean(found_sure.astype(np.float64), 3),
            "beats_sure_right": _mean(beat_right[beat_sure].astype(np.float64), 3),
            "interval_error_ms": round(float(np.median(off[known])), 1) if known.any() else np.nan,
            "interval_within_stated": _mean((off[known] <= stated[known]).astype(np.float64), 2),
        }
    return row


def curves(measured: list[Measured]) -> dict[str, dict[str, list[float]]]:
    """Of seconds, heart rates and beats: how often they are right by stated confidence, in ten bins (`stated`, `right`, `count`),
    and which share of the most confident ones is wrong, by how many are told (`coverage`, `risk`)."""
    there = [m.live for m in measured if m.live is not None]
    told = {
        "seconds": [(m.confidence, m.good) for m in measured if m.confidence is not None],
        "heart rates": [(live.rate_confidence, live.rate_right) for live in there],
        "beats": [(live.beat_confidence, live.beat_right) for live in there],
    }
    found = {}
    for name, pairs in told.items():
        if not pairs:
            continue
        confidence, right = (np.concatenate(parts) for parts in zip(*((c[: len(r)], r[: len(c)]) for c, r in pairs), strict=True))
        which = np.minimum((confidence * 10).astype(int), 9)
        count = np.bincount(which, minlength=10)
        order = np.argsort(-confidence, kind="stable")
        wrong = np.cumsum(~right[order]) / np.arange(1, len(right) + 1)
        at = np.unique(np.linspace(0, len(right) - 1, 100).astype(int)) if len(right) else np.zeros(0, int)
        found[name] = {
            "stated": (np.bincount(which, confidence, 10) / np.maximum(count, 1)).round(4).tolist(),
            "right": (np.bincount(which, right.astype(float), 10) / np.maximum(count, 1)).round(4).tolist(),
            "count": count.tolist(),
            "coverage": ((at + 1) / max(len(right), 1)).round(4).tolist(),
            "risk": wrong[at].round(4).tolist(),
        }
    return found


def curves_by_method(measured: dict[str, dict[str, list[Measured]]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """`curves` over all kinds, of the methods that have any."""
    of_all = {method: curves([m for found in of_kind.values() for m in found]) for method, of_kind in measured.items()}
    return {method: found for method, found in of_all.items() if found}


def _per_minute(which: NDArray[np.bool_], there: list[Live]) -> float:
    return round(float(which.sum()) / max(sum(live.seconds for live in there) / 60, 1e-9), 2)


def _trust(measured: list[Measured]) -> dict[str, float]:
    """Confidence against what is good: by second, over all records."""
    if measured[0].confidence is None:
        return {}
    confidence = np.concatenate([m.confidence for m in measured if m.confidence is not None])
    good = np.concatenate([m.good for m in measured])
    sure = confidence >= SURE
    found = {
        "confidence": float(confidence.mean()),
        "auroc": scores.auroc(confidence, good),
        "ece": scores.calibration_error(confidence, good),
        "good": float(good.mean()),
        "good_kept": float(sure[good].mean()) if good.any() else float("nan"),
        "bad_kept": float(sure[~good].mean()) if not good.all() else float("nan"),
    }
    return {key: round(value, 3) for key, value in found.items()}


SWEEP_DB = (-10, -5, 0, 5, 10, 15, 20)
SWEPT = ("white", "steps", "hand, dense")
LOOKAHEADS = (None, 150, 100, 62, 49, 25, 13)
AT_LOOKAHEADS = ("N1-stream", "hand, dense", "steps", "clean")


def _at_snr(make: Kind, snr_db: float) -> Kind:
    """A kind whose noise is scaled so that the input has this SNR_B."""

    def scaled(clean: Float64, rng: Rng) -> Drawn:
        added = make(clean, rng).noisy - clean
        have = scores.snr_b_db(clean + added, clean, data.FS)
        return Drawn(clean + added * 10 ** ((have - snr_db) / 20), clean)

    return scaled


def by_snr(
    methods: Sequence[Method], people: Sequence[Record], *, seeds: range = SEEDS, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Gain by input SNR_B under the kinds `SWEPT`."""
    kinds = {f"{kind} at {db:+d} dB": _at_snr(MAIN[kind], db) for kind in SWEPT for db in SWEEP_DB}
    return [row for row in table(methods, kinds, people, seeds=seeds, step=step) if row["kind"] != "all kinds"]


def by_lookahead(
    methods: Sequence[Method], people: Sequence[Record], *, seeds: range = SEEDS, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """The streamed answer at shorter lookaheads, samples, of the methods that have one: only what would have been published by
    then."""
    kinds = {kind: MAIN[kind] for kind in AT_LOOKAHEADS}
    rows = []
    for lookahead in LOOKAHEADS:
        found = table([m for m in methods if m.has_lookahead], kinds, people, seeds=seeds, lookahead=lookahead, step=step)
        rows += [{"lookahead": "its own" if lookahead is None else lookahead} | row for row in found]
    return rows
