"""Confidence as a calibrated probability: its features, how it is applied, how it is fitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppgstream.train import calibrate, data, methods, pulse, regression, streamed
from rules import rules
from test_graph import made
from typer.testing import CliRunner

from ppgstream.assemble import rules_of
from ppgstream.cli.app import app
from ppgstream.config import Config, Windows
from ppgstream.core.confidence import FEATURES, ROW_S, Calibration, Seen, calibration_for, features, joined
from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry, Rules
from ppgstream.errors import CheckpointError
from ppgstream.files import offline
from ppgstream.lab import noise, scores, synthetic
from ppgstream.model import restore as door
from ppgstream.model.folder import write_restored
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Chunk, Flag, Kind, encode

FS = 125.0
M = round(ROW_S * FS)
ROWED = Calibration(-1.0, {"confidence": 2.0, "alone": 0.5, "residual": -0.4, "rhythm": 1.5, "rough": -0.1, "not_measured": 3.0})
PLAIN = Calibration(-2.0, {"confidence": 4.0})


def seen(x: np.ndarray, y: np.ndarray, confidence: float = 0.7, state: int = 0) -> Seen:
    row = np.ones((1, M))
    at = np.array([200]), np.array([249]), np.array([M])
    return Seen(x[None], y[None], confidence * row, np.full((1, M), state, np.uint8), row > 2, *at)


def of(*args: Any, **more: Any) -> dict[str, float]:
    return {name: float(value[0]) for name, value in features(seen(*args, **more), FS).items()}


PULSE = np.sin(2 * np.pi * 1.3 * np.arange(M) / FS)
NOISE = np.random.default_rng(0).standard_normal(M)


# ---- features ------------------------------------------------------------------------------------------------------


def test_a_pulse_that_the_output_repeats_is_a_rhythm_without_a_residual() -> None:
    found = of(PULSE, PULSE)
    assert set(found) == set(FEATURES)
    assert found["rhythm"] == pytest.approx(found["input_rhythm"])
    assert found["rhythm"] > 0.95
    assert found["likeness"] == pytest.approx(1.0, abs=1e-6)
    assert found["residual"] == found["residual_1s"] == pytest.approx(np.log(1e-6))
    assert abs(found["spread"]) < 1
    assert found["not_measured"] == found["alone"] == 0
    assert found["confidence"] == pytest.approx(0.7)
    assert found["confidence_row"] == pytest.approx(0.7)


def test_noise_has_no_rhythm_is_rough_and_unlike_the_answer() -> None:
    pulse, noisy = of(PULSE + 0.3 * NOISE, PULSE), of(NOISE, PULSE)
    assert noisy["input_rhythm"] < 0.5 < pulse["input_rhythm"]
    assert noisy["rough"] > pulse["rough"] + 2
    assert noisy["residual"] > pulse["residual"] + 2
    assert abs(noisy["likeness"]) < 0.4 < pulse["likeness"]
    assert of(NOISE, NOISE)["rhythm"] < 0.5


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.0), (100.0, 0.0), (1.0, 1e4), (-1.0, 5.0)])
def test_gain_offset_and_polarity_change_no_feature(gain: float, offset: float) -> None:
    x = PULSE + 0.3 * NOISE
    same, other = of(x, PULSE), of(gain * x + offset, gain * PULSE + offset)
    for name in FEATURES:
        assert other[name] == pytest.approx(same[name], rel=1e-5, abs=1e-5), name


def test_held_samples_and_flat_rows_give_finite_numbers() -> None:
    for x, y in ((np.zeros(M), np.zeros(M)), (np.full(M, 7.0), PULSE), (PULSE, np.zeros(M))):
        assert np.isfinite(list(of(x, y).values())).all()
    assert of(np.full(M, 7.0), PULSE)["not_measured"] == 1
    assert of(PULSE, PULSE, state=1)["not_measured"] == 1


def test_a_row_s_features_do_not_depend_on_the_others_bit_for_bit() -> None:
    rows = [seen(PULSE + k * NOISE, np.roll(PULSE, k), confidence=0.1 * k) for k in range(7)]
    together = features(joined(rows), FS)
    for k, row in enumerate(rows):
        for name, value in features(row, FS).items():
            assert value[0] == together[name][k], name


# ---- applied -------------------------------------------------------------------------------------------------------


def agreeing(batch: Batch) -> Answer:
    """A network whose windows agree now more and now less: its answer smooths more or less, by the window's first sample."""
    width = 3 + 2 * (np.abs(batch.x[:, 0] * 1e4).astype(int) % 9)
    return Answer(
        np.stack([np.convolve(x, np.ones(w) / w, "same") for x, w in zip(batch.x, width, strict=True)]).astype(np.float32)
    )


def telling(batch: Batch) -> Answer:
    return Answer(batch.x, (np.abs(batch.x) * 3 - 3).astype(np.float32))


def engine(trust: Calibration | None, denoiser: Denoiser = agreeing, *, tile: int = 64, **geometry: Any) -> Engine:
    own = Geometry(**({"hop": 49} | geometry))
    return Engine(denoiser, rules(geometry=own, calibration=trust, tile=tile, answers="input", scaling="standard"))


def recording(seed: int = 1, n: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, _ = synthetic.pulse(n, synthetic.person(rng), rng)
    x = noise.wrist(x, rng, "hand") * 100 + 20 * rng.standard_normal(n)
    x[700:780] = np.nan  # a new segment
    x[1200:1230] = x[1200]
    x[1900:1903] = -999.0
    return np.asarray(x)


@pytest.mark.parametrize("trust", [ROWED, PLAIN])
@pytest.mark.parametrize(
    "geometry", [{}, {"lookahead": 100}, {"lookahead": 49, "hop": 13}, {"hop": 250}, {"lookahead": 0, "hop": 200}]
)
def test_calibration_changes_the_confidence_alone(trust: Calibration, geometry: dict[str, Any]) -> None:
    x = recording()
    before = offline.denoise(x, engine(None, **geometry), fs=FS, dtype="f8")
    after = offline.denoise(x, engine(trust, **geometry), fs=FS, dtype="f8")
    np.testing.assert_array_equal(after.denoised, before.denoised)
    low = np.uint16(Flag.LOW_CONFIDENCE)
    np.testing.assert_array_equal(after.flags & ~low, before.flags & ~low)
    np.testing.assert_array_equal((after.flags & low) != 0, after.confidence < 0.5)
    assert (after.confidence != before.confidence).mean() > 0.7
    assert len(np.unique(after.confidence)) > 4
    held = (after.flags & (Flag.FLAT | Flag.OUTLIER | Flag.SATURATED)) != 0
    assert after.confidence[held].max() <= 0.3 + 1e-6
    assert (after.confidence[(after.flags & Flag.NONFINITE) != 0] == 0).all()


@pytest.mark.parametrize("trust", [ROWED, PLAIN])
@pytest.mark.parametrize("lookahead", [None, 100, 49])
def test_chunks_and_the_time_of_the_model_s_call_change_no_confidence(trust: Calibration, lookahead: int | None) -> None:
    signals = {name: recording(seed) for seed, name in enumerate("abc")}
    published = []
    for tile, chunk, least in ((64, 25, 64), (1, 25, 1), (8, 7, 3), (64, 3000, 1)):
        e, out = engine(trust, tile=tile, lookahead=lookahead), dict[str, list[Chunk]]()

        def keep(chunks: list[Chunk], out: dict[str, list[Chunk]] = out) -> None:
            for c in chunks:
                out.setdefault(c.stream, []).append(c)

        for start in range(0, 3000, chunk):
            for name, x in signals.items():
                keep(e.feed(Chunk(name, 7, start, x[start : start + chunk]), 0.0))
            while len(e.ready) >= least:
                keep(e.step())
        for name in signals:
            keep(e.feed(Chunk(name, 7, 3000, EMPTY, Kind.END), 0.0))
        while e.ready:
            keep(e.step())
        whole = {}
        for name, chunks in out.items():
            of_data = [c for c in chunks if c.kind is Kind.DATA and c.confidence is not None]
            whole[name] = np.concatenate([c.confidence for c in of_data if c.confidence is not None])
            assert all(encode(c) for c in chunks)
        published.append(whole)
    for other in published[1:]:
        for name, confidence in published[0].items():
            np.testing.assert_array_equal(other[name], confidence)


@pytest.mark.parametrize("lookahead", [None, 49])
def test_a_plain_calibration_says_of_each_hop_what_its_feature_says(lookahead: int | None) -> None:
    """The plain way, without rows, and the way of rows give the same."""
    rowed = Calibration(PLAIN.bias, {**PLAIN.weights, "rhythm": 0.0})
    assert PLAIN.plain
    assert not rowed.plain
    x = recording()
    plain, other = (
        offline.denoise(x, engine(t, telling, lookahead=lookahead), fs=FS, dtype="f8").confidence for t in (PLAIN, rowed)
    )
    np.testing.assert_allclose(plain, other, atol=1e-6)
    assert plain.max() > 0.5 > plain[plain > 0].min()


# ---- calibration_for by lookahead -------------------------------------------------------------------------------------------

STATED = {str(a): {"bias": float(a), "weights": {"confidence": 1.0}} for a in (249, 100, 49)}


@pytest.mark.parametrize(("lookahead", "taken"), [(249, 249), (248, 100), (100, 100), (99, 49), (49, 49), (48, 49), (0, 49)])
def test_between_two_lookaheads_the_shorter_one_applies(lookahead: int, taken: int) -> None:
    found = calibration_for(STATED, lookahead, 250, FS)
    assert found is not None
    assert found.bias == taken
    assert calibration_for({}, lookahead, 250, FS) is None


@pytest.mark.parametrize(
    "stated",
    [
        {"250": STATED["249"]},
        {"x": STATED["249"]},
        {"249": {"bias": 0.0}},
        {"249": {"bias": "a", "weights": {}}},
        {"249": {"bias": 0.0, "weights": {"luck": 1.0}}},
        {"249": {"bias": float("nan"), "weights": {}}},
        {"249": 7},
    ],
)
def test_a_calibration_that_is_none_is_one_line(stated: dict[str, Any], tmp_path: Path) -> None:
    write_restored(tmp_path / "own", made("transformer", tmp_path / "made"), calibration=stated)
    with pytest.raises(CheckpointError, match=r"calibration: ") as told:
        restore(tmp_path / "own")
    assert str(tmp_path / "own") in str(told.value)
    assert "\n" not in str(told.value)


def test_the_settings_lookahead_chooses() -> None:
    found = restore(Path("default"))
    by_key = {key: calibration_for(found.calibration, int(key), 250, FS) for key in ("249", "100", "49")}
    assert len(set(map(str, by_key.values()))) == 3
    for lookahead, key in ((-1, "249"), (120, "100"), (60, "49")):
        assert rules_of(Config(windows=Windows(lookahead=lookahead)), found).plan.calibration == by_key[key]
    assert rules_of(Config(), found, output="model").plan.calibration is None


# ---- what comes along ----------------------------------------------------------------------------------------------


def test_a_network_whose_windows_agree_gets_the_common_calibration_under_its_id(tmp_path: Path) -> None:
    known = json.loads(door.CALIBRATIONS.read_bytes())
    found = made("rae", tmp_path / "rae")
    manifest = json.loads((tmp_path / "rae" / "checkpoint.json").read_bytes())
    assert found.calibration == known["agreement"]
    assert found.sha256 != manifest["sha256"]
    assert made("transformer", tmp_path / "told").calibration == {}


def test_what_comes_along_is_calibrated_for_three_lookaheads() -> None:
    known = json.loads(door.CALIBRATIONS.read_bytes())
    assert len(known["course"]) == 2
    own = [restore(Path(n)).calibration for n in ("default", "fast", "live", "brae")]
    for stated in (known["agreement"], *known["course"].values(), restore(Path("lmmse")).calibration, *own):
        assert set(stated) == {"249", "100", "49", "rate", "beat", "interval"}
        assert all(calibration_for(stated, a, 250, FS) is not None for a in (249, 100, 49))


# ---- fitted --------------------------------------------------------------------------------------------------------


def people(n: int) -> list[streamed.Record]:
    made = []
    for k in range(n):
        rng = np.random.default_rng([5, k])
        made.append(streamed.Record(f"p{k}", np.asarray(synthetic.pulse(2000, synthetic.person(rng), rng)[0])))
    return made


def rows(worth: bool) -> regression.Rows:
    """Features by which goodness is told by the confidence alone, or by the rhythm as well."""
    rng = np.random.default_rng(3)
    table = rng.standard_normal((4000, len(FEATURES)))
    by_rhythm = 3.0 * worth * table[:, list(FEATURES).index("rhythm")]
    good = rng.uniform(size=4000) < 1 / (1 + np.exp(-(0.5 + 2.0 * table[:, 0] + by_rhythm)))
    return regression.Rows(tuple(FEATURES), table, good, np.array([f"p{k % 10}" for k in range(4000)]))


def test_the_fit_finds_the_law_and_its_probabilities_hold() -> None:
    made = rows(worth=True)
    fitted = regression.fit(made)
    assert fitted["bias"] == pytest.approx(0.5, abs=0.2)
    assert fitted["weights"]["confidence"] == pytest.approx(2.0, abs=0.3)
    assert fitted["weights"]["rhythm"] == pytest.approx(3.0, abs=0.4)
    probability = regression.judged(made)
    assert scores.calibration_error(probability, made.right) < 0.03
    assert scores.auroc(probability, made.right) > scores.auroc(regression.judged(made, ["confidence"]), made.right) + 0.05


def test_every_set_counts_the_same_and_is_told_apart() -> None:
    person = np.array(["bidmc s7"] * 90 + ["wrist wrist_e4_S01"] * 10)
    made = regression.Rows(["a"], np.zeros((100, 1)), np.ones(100, np.bool_), person)
    assert made.set[0] == "bidmc"
    assert made.weight[made.set == "bidmc"].sum() == pytest.approx(made.weight[made.set == "wrist"].sum())
    assert made.weight.mean() == pytest.approx(1)
    assert set(regression.sets_of(np.array(["p1", "p2"]))) == {""}


def test_the_people_to_calibrate_on_are_of_every_set() -> None:
    short = data.Set(
        "course", {side: data.Clean([np.arange(1000.0)] * 6, [f"course_{k}" for k in range(6)]) for side in data.SIDES}
    )
    long = data.Set(
        "bidmc", {side: data.Clean([np.arange(8000.0)] * 3, [f"bidmc_0{k}_s{k}" for k in range(3)]) for side in data.SIDES}
    )
    found, unseen = calibrate.people_of([short, long])
    assert {r.person.split()[0] for r in found} == {"course", "bidmc"}
    assert max(len(r.clean) for r in found) == calibrate.LONGEST_S * data.FS
    assert len(unseen) == 9


def test_probabilities_are_lowered_until_few_of_each_kind_are_wrong_and_sure() -> None:
    rng = np.random.default_rng(4)
    kind = np.repeat(["easy", "hard"], 4000)
    truth = rng.uniform(0, 1, 8000) ** np.where(kind == "easy", 0.03, 0.3)
    right = rng.uniform(0, 1, 8000) < truth

    def worst(lowered: float) -> float:
        sure = 1 / (1 + (1 - truth) / truth * np.exp(lowered)) >= pulse.SURE
        return max(float((sure & ~right)[kind == one].mean()) for one in ("easy", "hard"))

    every, most = np.ones(8000, np.bool_), 0.02
    lowered = pulse._lowered(truth, right, kind, every, most, each=True)
    assert worst(0.0) > 2 * most
    assert worst(lowered) <= most < worst(lowered - 0.25)
    # But never so far that fewer than half of what is right is sure.
    blind = np.full(8000, 0.6)
    assert pulse._lowered(blind, right, kind, every, most, each=True) <= np.log(0.6 / 0.4)
    assert pulse._lowered(truth, every, kind, every, most, each=False) == 0
    # Each band by itself: one without errors is not lowered for the other's.
    assert pulse._lowered(truth, right | (kind == "easy"), kind, kind == "easy", most, each=True) == 0


def test_nobody_is_judged_by_what_was_fitted_on_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    made, fitted_on, judged_on = rows(worth=False), list[set[str]](), list[set[str]]()
    fit, applied = regression.fit, regression.applied
    monkeypatch.setattr(regression, "fit", lambda r, n, **more: (fitted_on.append(set(r.person)), fit(r, n, **more))[1])
    monkeypatch.setattr(regression, "applied", lambda r, c: (judged_on.append(set(r.person)), applied(r, c))[1])
    regression.judged(made, ["confidence"])
    assert len(judged_on) == regression.FOLDS
    assert set().union(*judged_on) == set(made.person)
    assert all(not a & b for a, b in zip(fitted_on, judged_on, strict=True))


@pytest.mark.parametrize(("denoiser", "least"), [(agreeing, 0.6), (telling, 0.6)])
def test_a_checkpoint_is_calibrated_and_published_confidence_is_a_probability(
    denoiser: Callable[[Batch], Answer], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "KINDS", {k: streamed.MAIN[k] for k in ("white", "hand, dense", "clean", "nothing there")})
    found = restore(Path("default"))
    stated, figures = calibrate.calibrate(found, denoiser, people(6), unseen=["p1"], seeds=[1])
    assert set(stated) == set(figures) == {"249", "100", "49"}
    assert figures["249"]["auroc"] > least
    assert figures["249"]["ece"] < 0.15
    assert figures["249"]["unseen"]["people"] == 1
    assert set(stated["249"]["weights"]) in (set(FEATURES), {"confidence"})


@pytest.mark.parametrize("name", ["default", "fast", "live", "brae", "lmmse"])
def test_what_is_calibrated_and_evaluated_is_what_is_served(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules of the daemon, but for the calibration itself, at each lookahead that there is one for."""
    found = restore(Path(name))
    used: list[Rules] = []

    def denoise(samples: np.ndarray, engine: Engine, **_: object) -> offline.Denoised:
        used.append(engine.rules)
        n, none = len(samples), np.zeros(0)
        empty = offline.Pulse(none.astype(np.int64), none, none, none, none, none, none)  # type: ignore[arg-type]
        return offline.Denoised(samples, np.zeros(n, np.float32), np.zeros(n, np.uint16), [empty])

    def bare(rules: Rules) -> Rules:
        return replace(rules, plan=replace(rules.plan, calibration=None, rate=None))

    monkeypatch.setattr(offline, "denoise", denoise)
    for lookahead in calibrate.lookaheads(found.arch.window):
        served = rules_of(Config(windows=Windows(lookahead=lookahead)), found)
        calibrate.rows_of(found, agreeing, people(1), lookahead, kinds={"white": streamed.MAIN["white"]})
        assert bare(used[-1]) == bare(served)
        methods.of_checkpoint(name, Path(name)).record(people(1)[0].clean, lookahead)
        assert replace(used[-1], plan=replace(used[-1].plan, rate=None)) == replace(served, plan=replace(served.plan, rate=None))
        assert repr(used[-1].plan.rate) == repr(served.plan.rate)  # arrays
    served = rules_of(Config(), found)
    pulse.published(found, agreeing, people(1), kinds={"white": streamed.MAIN["white"]})
    assert replace(used[-1], plan=replace(used[-1].plan, rate=None)) == replace(served, plan=replace(served.plan, rate=None))
    assert used[-1].plan.rate is not None


def test_nothing_to_fit_on_gives_no_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "KINDS", {"nothing there": streamed.MAIN["nothing there"]})
    assert calibrate.calibrate(restore(Path("default")), agreeing, people(2), seeds=[1]) == ({}, {})


@pytest.mark.timeout(600)  # it fits trees, which takes minutes beside other work
def test_the_command_writes_a_calibrated_checkpoint_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {k: streamed.MAIN[k] for k in ("white", "nothing there")}
    monkeypatch.setattr(calibrate, "KINDS", few)
    monkeypatch.setattr(pulse, "KINDS", {"white": few["white"], "steps": streamed.MAIN["steps"], **pulse.MOTION})
    monkeypatch.setattr(pulse, "LEAST_ROWS", 50)
    monkeypatch.setattr(regression, "FOLDS", 2)
    monkeypatch.setattr(data, "SYNTHETIC_PEOPLE", {"train": 4, "validation": 1, "test": 1})
    out = tmp_path / "calibrated"

    def run(name: str = "fast") -> Any:
        return CliRunner().invoke(app, ["checkpoint", "calibrate", name, "--synthetic", "--out", str(out)])

    done = run()
    assert done.exit_code == 0, done.output
    before, found = restore(Path("fast")), restore(out)
    assert (found.arch, found.hop) == (before.arch, before.hop)
    assert found.calibration.keys() == {"249", "100", "49", "rate", "beat", "interval"}
    assert "trees" in found.calibration["rate"]
    assert "beats: share of the confident ones that are right" in (out / "README.md").read_text()
    assert found.sha256 != before.sha256
    assert "confidence at a lookahead of 49: AUROC of people it has not seen" in (out / "README.md").read_text()
    assert found.id.hex() in (out / "README.md").read_text()
    assert run().exit_code == 2, "it is there already"
    monkeypatch.setattr(calibrate, "calibrate", lambda *_, **__: pytest.fail("nowhere to write, and it went to work"))
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "below"
    assert run().exit_code == 74
