"""How a checkpoint's confidence becomes a probability: the fit of what `ppgstream.core.confidence` applies.

People under the noises of the bench's main table go through the engine; each row of features gets a label, whether the second
around its samples is good; a logistic regression gives the coefficients, a set for each of three lookaheads. Judged by grouped
cross-validation: no person is in both parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.assemble import offline_rules
from ppgstream.core import confidence
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.engine import Engine
from ppgstream.files import offline
from ppgstream.lab import scores
from ppgstream.model.checkpoint import Checkpoint

from . import data, pulse
from .regression import FOLDS, Rows, fit, judged
from .streamed import MAIN, OUTSIDE, Kind, Record, records

Float64 = NDArray[np.float64]
LOOKAHEADS = (100, 49)  # beside the longest one
SEEDS = range(3000, 3001)  # of the noise
WORTH = 0.01  # of AUROC: less is not worth the features' cost
LEAST_ROWS = 200
MOST_PEOPLE = 20  # of a set and side
# people: of more, confidence is fitted on every third; it has few coefficients, and trees for beats and rates need all of them
MANY = 40
SHORTEST_S, LONGEST_S = (30.0, 8.0), 40.0  # of a recording: the first if there are enough of them in a set; at most so much of it
KINDS: dict[str, Kind] = {**MAIN, **OUTSIDE}


@dataclass(frozen=True)
class _Recorder(confidence.Calibration):
    """In a calibration's place: keeps the rows, and leaves the confidence as it is."""

    kept: list[confidence.Seen] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        return False

    def of(self, seen: confidence.Seen) -> Float64:
        self.kept.append(seen)
        return np.asarray(seen.confidence.mean(axis=1), np.float64)


def rows_of(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    lookahead: int,
    *,
    kinds: Mapping[str, Kind] | None = None,
    seeds: Sequence[int] = SEEDS,
    step: Callable[[str], None] = lambda _: None,
) -> Rows:
    """Features and labels of people under kinds of noise, by default `KINDS`: those of the bench's main table, breathing and hum.
    Calls `step` with the kind's name after each recording."""
    served = offline_rules(checkpoint, lookahead=lookahead)
    features, good, person = [], [], []
    for number, record in enumerate(people):
        for kind, make in (kinds or KINDS).items():
            for seed in seeds:
                noisy, truth, _ = make(record.clean, np.random.default_rng([seed, number, *kind.encode()]))
                recorder = _Recorder(0.0, {}, checkpoint.fs)
                rules = replace(served, plan=replace(served.plan, calibration=recorder, rate=None))
                out = offline.denoise(noisy, Engine(denoiser, rules), fs=checkpoint.fs, dtype="f8").denoised
                step(kind)
                if not recorder.kept:
                    continue
                seen = confidence.joined(recorder.kept)
                middle = (seen.start + seen.stop) // 2
                features.append(np.stack(list(confidence.features(seen, checkpoint.fs).values()), axis=1))
                good.append(_good(np.asarray(out, np.float64), truth, middle, checkpoint.fs))
                person += [record.person] * len(middle)
    none = np.zeros((0, len(confidence.FEATURES)))
    return Rows(
        tuple(confidence.FEATURES),
        np.concatenate([none, *features]),
        np.concatenate([np.zeros(0, np.bool_), *good]),
        np.array(person),
    )


def _good(out: Float64, truth: Float64 | None, middle: NDArray[np.int64], fs: float) -> NDArray[np.bool_]:
    """Whether the second around each middle is good; none is without a pulse."""
    if truth is None:
        return np.zeros(len(middle), np.bool_)
    second = min(round(fs), len(out))
    reference = scores.bandpass(truth, fs)
    error = scores.bandpass(out, fs) - reference
    sums = (np.concatenate([[0.0], np.cumsum(v * v)]) for v in (reference, error))
    start = np.clip(middle - second // 2, 0, len(out) - second)
    power, wrong = (s[start + second] - s[start] for s in sums)
    return np.asarray((power > 0) & (power >= 10 ** (scores.GOOD_DB / 10) * wrong), np.bool_)


def lookaheads(window: int) -> list[int]:
    """Those that are calibrated for, of a network with windows so long."""
    return [window - 1, *(a for a in LOOKAHEADS if a < window - 1)]


def calibrate(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    unseen: Sequence[str] = (),
    seeds: Sequence[int] = SEEDS,
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The calibration of a checkpoint, and its figures: AUROC and calibration error of rows by cross-validation, of all people
    and of those that the network has not seen. Both empty if there is too little to fit on."""
    window = checkpoint.arch.window
    stated: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    for lookahead in lookaheads(window):
        rows = rows_of(checkpoint, denoiser, people, lookahead, seeds=seeds, step=step)
        if len(rows.right) < LEAST_ROWS or not rows.both:
            return {}, {}
        plain, every = judged(rows, ["confidence"]), judged(rows)
        worth = scores.auroc(every, rows.right) - scores.auroc(plain, rows.right) > WORTH
        names, probability = (list(confidence.FEATURES), every) if worth else (["confidence"], plain)
        stated[str(lookahead)] = fit(rows, names)
        told: dict[str, Any] = {"people": len(people), "rows": len(rows.right), **_figures(probability, rows.right)}
        told["sets"] = {
            str(one): _figures(probability[rows.set == one], rows.right[rows.set == one]) for one in np.unique(rows.set)
        }
        figures[str(lookahead)] = told
        apart = np.isin(rows.person, list(unseen))
        if apart.any():
            told["unseen"] = {"people": len(set(rows.person[apart])), **_figures(probability[apart], rows.right[apart])}
        by_set = "; ".join(f"{one} {f['auroc']:.3f}, {f['ece']:.3f}" for one, f in told["sets"].items() if one)
        say(
            f"lookahead {lookahead}: AUROC {told['auroc']:.3f}, calibration error {told['ece']:.3f}, by {len(names)} numbers"
            + (f" ({by_set})" if by_set else "")
        )
    return stated, figures


def whole(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    people: Sequence[Record],
    *,
    unseen: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
    step: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """All of a checkpoint's calibration, and its figures in words: of the confidence, and with that of heart rates and beats.
    Both empty if there is too little to fit on. Calls `step` `steps_of` times."""
    fewer = people[:: _every(len(people))]
    stated, figures = calibrate(checkpoint, denoiser, fewer, unseen=unseen, say=say, step=step)
    if not stated:
        return {}, {}
    of_pulse, more = pulse.calibrate(replace(checkpoint, calibration=stated), denoiser, people, say=say, step=step)
    return stated | of_pulse, as_figures(figures) | more


def _every(people: int) -> int:
    return 3 if people > MANY else 1


def steps_of(window: int, people: int) -> int:
    """Recordings that `whole` denoises."""
    of_confidence = len(KINDS) * len(SEEDS) * len(lookaheads(window))
    return -(-people // _every(people)) * of_confidence + people * len(pulse.KINDS) * len(pulse.SEEDS)


def as_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures of `calibrate` under words of their own, for a manifest and its card."""
    words = {"auroc": "AUROC", "ece": "calibration error"}
    told: dict[str, float] = {}
    for lookahead, found in figures.items():
        for part, whose in ((found, "by cross-validation"), (found.get("unseen"), "of people it has not seen")):
            for key, word in words.items() if part else ():
                told[f"confidence at a lookahead of {lookahead}: {word} {whose}"] = part[key]
        for key, word in words.items() if len(found.get("sets", ())) > 1 else ():
            worst = (min if key == "auroc" else max)(found["sets"].items(), key=lambda one: one[1][key])
            told[f"confidence at a lookahead of {lookahead}: {word}, worst set ({worst[0]})"] = worst[1][key]
    return told


def _figures(probability: Float64, good: NDArray[np.bool_]) -> dict[str, float]:
    return {"auroc": round(scores.auroc(probability, good), 4), "ece": round(scores.calibration_error(probability, good), 4)}


def people_of(sets: Sequence[data.Set]) -> tuple[list[Record], list[str]]:
    """The people to calibrate on, of the sides "train" and "validation" of every set, at most `MOST_PEOPLE` of a set and side,
    and who of them is on the latter. Recordings of less than 30 s only of sets that have hardly any longer ones."""
    found: list[Record] = []
    unseen: list[str] = []
    for one in sets:
        for shortest_s in SHORTEST_S:
            sides = {s: records(one.sides[s], shortest_s=shortest_s, longest_s=LONGEST_S) for s in ("train", "validation")}
            if sum(len(every) for every in sides.values()) >= FOLDS:
                break
        for side, every in sides.items():
            own = [replace(r, person=f"{one.name} {r.person}") for r in every[:: -(-len(every) // MOST_PEOPLE) or 1]]
            found += own
            unseen += [r.person for r in own] if side == "validation" else []
    return found, unseen
