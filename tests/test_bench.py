"""The bench: its kinds, its metrics, its baselines, and `ppgstream evaluate` on recordings of one's own."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ppgstream.train import data, evaluate, methods, pulse, ship, streamed, tables
from rich.console import Console
from typer.testing import CliRunner

from ppgstream.cli.app import app
from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.lab import scores, synthetic
from ppgstream.model.checkpoint import SHIPPED
from ppgstream.model.restore import restore

SHARED = Path(os.environ.get("PPGSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
FS = 125


def person(seed: int, seconds: int = 16) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return synthetic.pulse(FS * seconds, replace(synthetic.person(rng), heart_rate=60 + 10 * seed), rng)[0]


PEOPLE = [streamed.Record(f"p{seed}", person(seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def lmmse() -> methods.Method:
    return methods.of_checkpoint("lmmse", Path("lmmse"))


def rows_of(rows: list[dict], method: str) -> dict[str, dict]:
    return {row["kind"]: row for row in rows if row["method"] == method}


def test_the_input_itself_gains_nothing_and_a_perfect_answer_everything() -> None:
    truth_of = {}

    def perfect(x: np.ndarray, _: int | None) -> methods.Streamed:
        return methods.Streamed(truth_of["now"], np.ones(len(x)))

    kinds = {}
    for name, make in streamed.MAIN.items():

        def remembering(
            clean: np.ndarray, rng: np.random.Generator, make: streamed.Kind = make
        ) -> streamed.Drawn:  # what the perfect method will be asked for
            drawn = make(clean, rng)
            truth_of["now"] = np.zeros(len(clean)) if drawn.truth is None else drawn.truth
            return drawn

        kinds[name] = remembering
    compared = [methods.raw(), methods.Method("perfect", record=perfect)]
    rows = streamed.table(compared, kinds, PEOPLE, seeds=range(2000, 2001))
    raw, best = rows_of(rows, "the input itself"), rows_of(rows, "perfect")
    for kind in ("white", "N1-stream", "hand, dense", "forearm, dense", "poor contact, dense", "steps"):
        assert raw[kind]["gain_db"] == 0
        assert raw[kind]["hr_mae_in_bpm"] == raw[kind]["hr_mae_out_bpm"]
        assert best[kind]["gain_db"] > 100
        assert best[kind]["amplitude"] == pytest.approx(1)
        assert best[kind]["hr_mae_out_bpm"] == best[kind]["hr_mae_sure_bpm"] == 0
        assert best[kind]["peak_shift_ms"] == 0
        assert best[kind]["good_kept"] == 1
    assert "gain_db" not in raw["clean"]
    assert "auroc" not in raw["white"]  # it states no confidence
    assert best["nothing there"]["bad_kept"] == 1  # all seconds without a pulse are bad, whatever the answer
    assert "gain_db" not in best["nothing there"]
    assert raw["N1-stream"]["snr_b_in_db"] < raw["white"]["snr_b_in_db"] - 5


def test_a_checkpoint_s_rows_are_those_of_the_engine(lmmse: methods.Method) -> None:
    kinds = {kind: streamed.MAIN[kind] for kind in ("white", "nothing there")}
    seen: list[str] = []
    rows = rows_of(streamed.table([lmmse], kinds, PEOPLE, seeds=range(2000, 2002), step=seen.append), "lmmse")
    assert seen == ["white"] * 4 + ["nothing there"] * 4
    white = rows["white"]
    assert white["gain_db"] > 2
    assert white["gain_low_db"] <= white["gain_db"] <= white["gain_high_db"]
    assert white["gain_p5_db"] <= white["gain_p25_db"] <= white["gain_p75_db"]
    assert white["snr_b_out_db"] - white["snr_b_in_db"] == pytest.approx(white["gain_db"], abs=1)
    assert 0 <= white["hr_coverage"] <= 1
    assert rows["all kinds"]["auroc"] > 0.6
    again = rows_of(streamed.table([lmmse], kinds, PEOPLE, seeds=range(2000, 2002)), "lmmse")
    assert str(again) == str(rows)  # NaN equals itself as text


def test_a_short_lookahead_uses_less_of_the_future_and_is_worse(lmmse: methods.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "LOOKAHEADS", (None, 49, 13))
    rows = streamed.by_lookahead([methods.raw(), lmmse], PEOPLE[:1], seeds=range(2000, 2001))
    assert {row["method"] for row in rows} == {"lmmse"}  # the input itself has no lookahead
    out = {row["lookahead"]: row["snr_b_out_db"] for row in rows if row["kind"] == "N1-stream"}
    assert list(out) == ["its own", 49, 13]
    assert out[13] < out["its own"]


def test_the_snr_sweep_has_the_inputs_it_states(lmmse: methods.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "SWEEP_DB", (-10, 5))
    rows = streamed.by_snr([lmmse], PEOPLE[:1], seeds=range(2000, 2001))
    assert len(rows) == len(streamed.SWEPT) * len(streamed.SWEEP_DB)
    for row in rows:
        assert row["snr_b_in_db"] == pytest.approx(float(row["kind"].split(" at ")[1].split()[0]), abs=0.01)


@pytest.mark.parametrize("kind", [k for name in ("more", "faults", "nothing") for k in streamed.SETS[name]])
def test_every_kind_can_be_drawn_and_measured(kind: str, lmmse: methods.Method) -> None:
    make = {k: v for kinds in streamed.SETS.values() for k, v in kinds.items()}[kind]
    draw = streamed.Draw(make, PEOPLE[0], 2000)
    measured = draw.measure(lmmse)
    assert measured.confidence is not None
    assert len(measured.confidence) == len(measured.good)
    assert (draw.truth is None) == kind.startswith("nothing")
    if draw.truth is None:
        assert not measured.good.any()
    else:
        assert np.isfinite([measured.snr_out, measured.amplitude, measured.seam_hop]).all()


def test_exercise_has_a_fast_pulse_under_strong_motion() -> None:
    make = streamed.MORE["exercise"]
    for seed in range(5):
        noisy, truth, _ = make(person(1, 40), np.random.default_rng(seed))
        assert truth is not None
        assert 85 < np.median(scores.heart_rates(truth, FS)) < 195
        assert scores.snr_b_db(noisy, truth, FS) < 2


def test_other_units_change_nothing(lmmse: methods.Method) -> None:
    kinds = {kind: streamed.SETS["main" if kind == "N1-stream" else "more"][kind] for kind in
             ("N1-stream", "N1-stream x0.01", "N1-stream x100", "N1-stream + offset", "N1-stream inverted")}  # fmt: skip
    rows = rows_of(streamed.table([lmmse], kinds, PEOPLE, seeds=range(2000, 2001)), "lmmse")
    for kind in kinds:
        assert rows[kind]["gain_db"] == pytest.approx(rows["N1-stream"]["gain_db"], abs=0.2), kind


def test_records_are_the_longest_stretch_of_each_person() -> None:
    clean = data.Clean(
        [np.arange(125.0 * s) for s in (40, 50, 100, 20, 35)],
        ["bidmc_01_s7", "bidmc_02_s7", "bidmc_03_s8", "bidmc_04_s9", "mine_01_rest"],
    )
    found = {r.person: len(r.clean) / 125 for r in streamed.records(clean)}
    assert found == {"s7": 50, "s8": 90, "mine_01_rest": 35}
    assert "s9" in {r.person for r in streamed.records(clean, shortest_s=8)}


def test_windows_are_scored_by_g_mse_and_r() -> None:
    windows = np.stack([person(seed, 2) for seed in range(12)])
    drawn: dict[str, np.ndarray] = {"now": windows}
    same = evaluate.window_row(methods.raw(), windows, seeds=range(1000, 1002))
    assert same["g_n1_db"] == same["g_white_db"] == same["g_slope_db"] == 0
    perfect = methods.Method("perfect", windows=lambda x: np.resize(drawn["now"], x.shape))
    row = evaluate.window_row(perfect, windows, seeds=range(1000, 1001))
    assert row["g_n1_db"] > 100
    assert row["mse"] == 0
    assert row["r"] == 1


def test_the_nearest_neighbours_find_a_pulse_that_they_hold() -> None:
    """With the very window among the training windows and little noise it is found; and less noise comes out of strong noise."""
    rng = np.random.default_rng(3)
    training = np.stack([person(seed, 2) for seed in range(30) for _ in range(8)]) + 0.01 * rng.standard_normal((240, 250))
    knn = methods.knn(training)
    assert knn.windows is not None
    assert evaluate.window_row(knn, training[:40:8], seeds=range(1000, 1003), parts=["N1"])["g_n1_db"] > 8
    mean = methods.mean_wave(training)
    assert mean.windows is not None
    assert (mean.windows(training[:3])[0] == mean.windows(training[5:8])[2]).all()


@pytest.mark.skipif(not (SHARED / "course").is_dir(), reason="the course's files are not here (../shared/data or PPGSTREAM_DATA)")
def test_the_baselines_without_learning_have_their_known_figures() -> None:
    training = data.scored_windows(data.course(SHARED, "train"), hop=6)
    test = data.scored_windows(data.course(SHARED, "test"))[::2]
    compared = [*methods.baselines(training), methods.of_checkpoint("lmmse", Path("lmmse"))]
    found = {m.name: evaluate.window_row(m, test, seeds=range(1000, 1001), parts=["N1"])["g_n1_db"] for m in compared}
    assert found["the input itself"] == 0
    assert found["kNN-200 LMMSE"] == pytest.approx(11.0, abs=0.3)  # with half of its neighbours
    assert found["lmmse"] == pytest.approx(8.5, abs=0.3)
    assert found["the mean wave"] < 0
    welltory = data.welltory(SHARED)
    assert len(set(welltory.recording)) >= 15
    assert 500 < welltory.seconds < 2000


# ---- which checkpoints ---------------------------------------------------------------------------------------------


def test_rows_are_named_by_path_or_by_name(tmp_path: Path) -> None:
    path = SHIPPED / "lmmse"
    found = methods.chosen([str(path), f"mine={path}", "lmmse"], tmp_path)
    assert [m.name for m in found] == [str(path), "mine", "lmmse"]
    found = methods.chosen([f"mine={path}"], tmp_path)
    assert [m.name for m in found] == ["lmmse", "mine"]  # what to compare with comes first
    found = methods.chosen([f"mine={path}"], tmp_path, only=True)
    assert [m.name for m in found] == ["mine"]
    for odd in ("=x", "x=", "mine="):
        with pytest.raises(UsageError, match="NAME=PATH"):
            methods.chosen([odd], tmp_path)
    with pytest.raises(UsageError, match="a second row named 'a'"):
        methods.chosen([f"a={path}", "a=lmmse"], tmp_path)


def test_a_method_that_knows_the_recordings_is_told_of(lmmse: methods.Method) -> None:
    clean = data.Clean([person(1)], ["somebody"])
    sets = {"own recordings": clean}
    assert evaluate._seen(lmmse, sets) == 0
    by_name = replace(lmmse, trained_on={"recordings": ["somebody"]})
    by_content = replace(lmmse, trained_on={"stretches": [data.fingerprint(clean.stretches[0])[:16]]})
    assert evaluate._seen(by_name, sets) == evaluate._seen(by_content, sets) == 1


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    for seed in (1, 2):
        np.savetxt(folder / f"p{seed}.csv", person(seed), header="ppg", comments="", fmt="%.6g")
    return folder


def test_evaluate_on_recordings_of_one_s_own_writes_tables_json_and_pictures(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "SWEEP_DB", (0, 10))
    monkeypatch.setattr(streamed, "LOOKAHEADS", (None, 49))
    few = {kind: streamed.MAIN[kind] for kind in ("white", "N1-stream", "hand, dense", "steps", "clean", "nothing there")}
    monkeypatch.setattr(streamed, "RESAMPLED", 50)
    monkeypatch.setattr(streamed, "MAIN", few)
    monkeypatch.setitem(streamed.SETS, "main", few)
    for name in ("SWEPT", "AT_LOOKAHEADS"):
        monkeypatch.setattr(streamed, name, [kind for kind in getattr(streamed, name) if kind in few][:2])
    monkeypatch.setattr(evaluate, "RATES", [kind for kind in evaluate.RATES if kind in few])
    for module, name in ((pulse, "MOTION"), (streamed, "RHYTHMS"), (pulse, "IRREGULAR"), (streamed, "NOTHING")):
        monkeypatch.setattr(module, name, dict(list(getattr(module, name).items())[:1]))
    monkeypatch.setattr(evaluate, "ROUNDS", 2)
    out = tmp_path / "out"
    arguments = [
        "evaluate",
        "mine=lmmse",
        "--recordings",
        str(recordings),
        "--fs",
        "125",
        "--seeds",
        "1",
        "--data",
        str(tmp_path / "none"),
    ]
    result = CliRunner().invoke(
        app, [*arguments, "--tables", "streamed,windows,snr,lookahead,rates,trust,cost", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "N1-stream (streamed: own recordings, 1 draw of noise)" in result.output
    assert "the rows mean wave and kNN are left out" in result.output
    written = json.loads((out / "evaluate.json").read_text())
    assert set(written["methods"]) == {"the input itself", "band-pass 0.5..8 Hz", "lmmse", "mine"}
    assert written["sets"]["own recordings"]["recordings"] == 2
    assert {row["kind"] for row in written["streamed"]} == {*streamed.MAIN, "all kinds"}
    mine = rows_of(written["streamed"], "mine")
    assert mine["white"]["gain_db"] > 2
    assert mine["clean"]["snr_b_in_db"] is None  # infinite
    page = (out / "evaluate.md").read_text()
    assert "| kind | the input itself | band-pass 0.5..8 Hz | lmmse | mine |" in page
    error = rows_of(written["streamed"], "the input itself")["white"]["hr_mae_out_bpm"]
    assert "| white: gain, dB | 0.0 |" in page
    assert f"| white: HR error, bpm | {error:.1f} |" in page
    assert "| nothing there: bad called good |  |  | 0.00 | 0.00 |" in page
    assert [row["method"] for row in written["cost"]] == ["lmmse", "mine"]
    assert written["cost"][-1]["time_ratio"] == 1
    assert mine["white"]["live_hr_mae_bpm"] < 3
    assert written["trust"][0]["live_hr_mae_bpm"] < 5
    assert set(written["trust_curves"]["mine"]) == {"seconds", "heart rates", "beats"}
    assert all(0 <= r <= 1 for r in written["trust_curves"]["mine"]["beats"]["risk"])
    assert "heart rates (trust: own recordings, 1 draw of noise)" in result.output
    for picture in ("streamed", "examples", "snr", "lookahead", "trust"):
        assert (out / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_cost_needs_no_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "ROUNDS", 2)
    asked = ["evaluate", "lmmse", "--tables", "cost", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [row["method"] for row in told["cost"]] == ["lmmse"]
    assert told["sets"] == {}
    assert json.loads((tmp_path / "out" / "evaluate.json").read_text())["cost"][0]["windows_per_s"] > 0


@pytest.mark.parametrize("width", [50, 80, 400])
def test_a_table_wider_than_the_terminal_is_several_with_whole_cells(width: int) -> None:
    columns = ["method", *(f"heart rate {k}" for k in range(12))]
    rows = [[name, *(f"{name}{k}.25" for k in range(12))] for name in ("band-pass 0.5..8 Hz", "b")]
    parts = tables.Shown("a title", columns, rows).rich(width)
    console = Console(width=width, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    text = console.export_text()
    assert (len(parts) == 1) == (width == 400)
    assert all(len(line) <= width for line in text.splitlines())
    for cell in rows[0] + rows[1]:
        assert cell in text
    assert text.count("a title") == 1


def test_a_wide_first_column_does_not_push_the_last_one_out() -> None:
    columns = ["kind", "the input itself", "band-pass 0.5..8 Hz", "live"]
    rows = [["poor contact, dense: gain; HR", "0.0; 3.8", "0.4; 3.5", "7.5; 1.2"]]
    console = Console(width=80, record=True, file=io.StringIO())
    for part in tables.Shown("a title", columns, rows).rich(80):
        console.print(part)
    text = console.export_text()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert all(cell in text for cell in rows[0])


def test_evaluate_json_is_all_of_stdout(recordings: Path) -> None:
    arguments = [
        "evaluate",
        "lmmse",
        "--recordings",
        str(recordings),
        "--fs",
        "125",
        "--seeds",
        "1",
        "--tables",
        "windows",
        "--json",
        "--only",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert {row["method"] for row in told["windows"]} >= {"the input itself", "lmmse"}
    assert "windows: all sets" in result.stderr


def test_what_cannot_be_evaluated_is_one_line(tmp_path: Path, recordings: Path) -> None:
    def refused(code: int, *arguments: str) -> str:
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        assert result.exit_code == code, result.output
        return " ".join(result.stderr.split())

    assert "known are shapes, wrist" in refused(UsageError.exit_code, "--tables", "speed", "--data", str(tmp_path))
    assert "--recordings FOLDER" in refused(SourceError.exit_code, "lmmse", "--data", str(tmp_path))
    wrist = refused(SourceError.exit_code, "lmmse", "--tables", "shapes,wrist", "--data", str(tmp_path))
    assert f"--tables wrist: there are no public recordings of wrists in {tmp_path / 'wrist'}" in wrist
    assert "for --recordings, which is not given" in refused(UsageError.exit_code, "--fs", "125")
    for path in recordings.iterdir():
        path.write_text("1\n2\n3\n")
    assert "no clean stretch" in refused(DataError.exit_code, "lmmse", "--recordings", str(recordings), "--fs", "125")


def reference(bpm: float) -> data.Reference:
    rng = np.random.default_rng(1)
    x, _ = synthetic.pulse(40 * FS, replace(synthetic.person(rng), heart_rate=bpm), rng)
    stop = np.arange(8.0, 41.0, 2.0)
    return data.Reference("p", x, stop, np.full(len(stop), bpm))


def test_heart_rates_are_compared_with_those_by_ecg(lmmse: methods.Method) -> None:
    rows = pulse.against_ecg([methods.raw(), lmmse], [reference(75.0), reference(120.0)], 1)
    assert [(row["method"], row["kind"]) for row in rows[:2]] == [("the input itself", "as recorded"), ("lmmse", "as recorded")]
    assert rows[1]["live_hr_mae_bpm"] < 3
    assert rows[1]["hr_mae_out_bpm"] < 5
    wrong = pulse.against_ecg([methods.raw()], [reference(75.0)._replace(bpm=np.full(17, 100.0))], 1)
    assert wrong[0]["live_hr_mae_bpm"] == pytest.approx(25, abs=3)
    assert wrong[0]["live_hr_sure_right"] == 0


@pytest.mark.skipif(not (SHARED / "bidmc").is_dir(), reason="BIDMC is not here (../shared/data or PPGSTREAM_DATA)")
def test_the_public_recordings_have_heart_rates_by_ecg() -> None:
    found = data.bidmc_with_ecg(SHARED)
    assert len({one.person for one in found}) >= 6
    assert all(
        len(one.stop_s) == len(one.bpm) and one.stop_s.min() >= 8 and one.stop_s.max() * FS <= len(one.ppg) for one in found
    )
    assert 30 < np.concatenate([one.bpm for one in found]).min() < 200


@pytest.mark.parametrize("name", evaluate.TABLES)
def test_the_bar_is_as_long_as_the_work(name: str, lmmse: methods.Method, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed.Draw, "measure", lambda *_: None)
    monkeypatch.setattr(streamed, "_row", lambda _: {})
    monkeypatch.setattr(streamed, "_trust", lambda _: {})
    monkeypatch.setattr(streamed, "_live", lambda _: {})
    monkeypatch.setattr(evaluate, "window_row", lambda *_, **__: {})
    monkeypatch.setattr(data, "bidmc_with_ecg", lambda _: [reference(75.0)])
    compared = [methods.raw(), methods.mean_wave(np.ones((2, 250))), lmmse]
    sets = {"own": data.Clean([person(1), person(2)], ["a", "b"])}
    seen: list[str] = []
    if name == "trust":
        streamed.measured_by_kind(compared, evaluate._kinds(name), PEOPLE, seeds=range(2), step=seen.append)
    else:
        evaluate._compute(name, compared, sets, PEOPLE, 2, seen.append, SHARED)
    assert len(seen) == evaluate._steps(name, compared, sets, len(PEOPLE), 2, SHARED) > 0


def test_a_run_is_shipped_with_the_figures_of_its_row_and_its_id(tmp_path: Path) -> None:
    row = {
        "method": "mine",
        "kind": "white",
        "gain_db": 7.5,
        "amplitude": 0.9,
        "hr_mae_out_bpm": 0.3,
        "auroc": 0.9,
        "bad_kept": 0.1,
    }
    rows = [
        row,
        {**row, "method": "other", "gain_db": 1.0},
        {"method": "mine", "kind": "nothing there", "auroc": None, "bad_kept": 0.01},
    ]
    bench = tmp_path / "evaluate.json"
    wrist = {"method": "mine", "kind": "clean", "snr_b_out_db": 22.5, "amplitude": 0.98, "harm": 0.01, "gain_db": None}
    bench.write_text(json.dumps({"methods": {"mine": {}}, "streamed": rows, "wrist": [wrist, {**wrist, "kind": "all kinds"}]}))
    ship.ship(SHIPPED / "lmmse", "mine", bench, into=tmp_path)
    found = restore(tmp_path / "mine")
    assert found.id == restore(SHIPPED / "lmmse").id
    assert found.figures == {
        "wrist, clean: SNR_B of the output, dB": 22.5,
        "wrist, clean: amplitude": 0.98,
        "wrist, clean: harm": 0.01,
        "white: gain, dB": 7.5,
        "white: amplitude": 0.9,
        "white: heart rate error, bpm": 0.3,
        "nothing there: seconds called good": 0.01,
    }
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "`ppgstream run --checkpoint mine`" in card
    assert "| white: gain, dB | 7.5 |" in card
    with pytest.raises(DataError, match="no row is named 'his': there are mine"):
        ship.ship(SHIPPED / "lmmse", "his", bench, into=tmp_path)


def test_a_table_for_latex_has_its_marks_escaped() -> None:
    text = tables.Shown("gain, 50 % of #1", ["method", "G & r_2", "5 %"], [["a_b <c>", "1.0", "2^3"], ["~\\", "{}", "$"]]).latex()
    assert text.splitlines() == [
        r"\begin{table}",
        r"\caption{gain, 50 \% of \#1}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"method & G \& r\_2 & 5 \% \\",
        r"\midrule",
        r"a\_b $<$c$>$ & 1.0 & 2\textasciicircum{}3 \\",
        r"\textasciitilde{}\textbackslash{} & \{\} & \$ \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
