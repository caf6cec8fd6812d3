"""What networks answer where there is no pulse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ppgstream.cli.app import app
from ppgstream.core.denoiser import Answer, Batch
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.folder import save
from ppgstream.model.networks import build
from ppgstream.show import probe


def answers_of(monkeypatch: pytest.MonkeyPatch, answer: object) -> dict[str, probe.Answered]:
    monkeypatch.setattr(probe, "denoiser", lambda _: answer)
    found = Checkpoint(Path("net"), Architecture("ae"), {}, "0" * 64)
    return {a.name: a for a in probe.probe(found)}


def test_a_network_that_gives_its_input_back_invents_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers_of(monkeypatch, lambda batch: Answer(batch.x))
    assert [a.name for a in found.values()][:4] == ["zeros", "ones", "ramp", "white noise"]
    assert (found["zeros"].mean, found["ones"].mean) == (0.0, 1.0)
    assert found["zeros"].pulse == found["ones"].pulse == 0.0
    assert np.isnan(found["zeros"].follows)
    for name in ("ramp", "white noise", "sine 1 Hz"):
        assert found[name].follows == pytest.approx(1.0)
    rms = 0.5 / np.sqrt(2) / probe.PULSE_RMS
    assert found["sine 1.5 Hz"].pulse == pytest.approx(rms, rel=1e-3)
    assert found["sine 1.5 Hz"].share == pytest.approx(1.0, abs=1e-3)
    assert found["sine 4 Hz"].pulse == pytest.approx(0.0, abs=0.01)


def test_one_that_always_answers_the_same_pulse_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = (0.5 + 0.5 * np.sin(2 * np.pi * 1.5 * np.arange(250) / 125)).astype(np.float32)

    def answer(batch: Batch) -> Answer:
        return Answer(np.tile(wave, (len(batch.x), 1)))

    found = answers_of(monkeypatch, answer)
    for name in ("zeros", "ones", "white noise"):
        assert found[name].pulse > 1.2
        assert found[name].share > 0.99
    assert abs(found["white noise"].follows) < 0.1


def test_the_command_prints_a_table_or_json_and_draws(tmp_path: Path) -> None:
    arch = Architecture("ae", sizes={"hidden": (3,)})
    save(tmp_path / "net", build(arch), arch)
    picture = tmp_path / "probe.png"
    result = CliRunner().invoke(app, ["checkpoint", "probe", str(tmp_path / "net"), "--json", "--plot", str(picture)])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["input"] for row in rows] == list(probe.inputs(250, 125.0))
    assert set(rows[0]) == {"input", "mean", "sd", "pulse", "share", "follows"}
    assert rows[0]["follows"] is None
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = CliRunner().invoke(app, ["checkpoint", "probe", str(tmp_path / "net")], env={"COLUMNS": "120"})
    assert "white noise" in shown.stdout
    for asked, code in ((["--plot", "x.gif"], 2), (["--plot", str(tmp_path / "no" / "x.png")], 74)):
        assert CliRunner().invoke(app, ["checkpoint", "probe", str(tmp_path / "net"), *asked]).exit_code == code


def test_curves_of_runs_are_drawn_and_what_is_no_run_is_refused(tmp_path: Path) -> None:
    from ppgstream.tools import curves

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.csv").write_text("epoch,loss,val_loss\n1,0.5,0.4\n2,0.3,0.2\n")
    out = tmp_path / "curves.png"
    assert CliRunner().invoke(curves.app, [str(tmp_path / "a"), "-o", str(out)]).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    for asked, code, told in (
        ([str(tmp_path)], 69, "no log of a run"),
        ([str(tmp_path / "a"), "--column", "x"], 65, "column 'x'"),
    ):
        result = CliRunner().invoke(curves.app, asked)
        assert (result.exit_code, told in result.stderr) == (code, True)
