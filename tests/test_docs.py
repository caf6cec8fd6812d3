"""The commands of the docs run as they stand there, with training cut to one step."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ppgstream.train import data, fit, pictures
from typer.testing import CliRunner

import ppgstream
from ppgstream.cli.app import app
from ppgstream.lab import synthetic
from ppgstream.live import snapshot
from ppgstream.live.daemon import Daemon
from ppgstream.model.restore import restore

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PPGSTREAM_DATA", ROOT.parent / "shared" / "data"))
CUT = ["--epochs", "1", "--steps", "1", "--batch", "8", "--no-calibrate"]  # of options given twice the last counts


def commands(page: str) -> list[str]:
    """The ppgstream commands of a page's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("ppgstream ")]


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the docs have it: recordings of six people, the bundled checkpoint, the public recordings where they are."""
    work = tmp_path / "work"
    (work / "recordings").mkdir(parents=True)
    monkeypatch.chdir(work)
    for person in range(1, 7):
        rng = np.random.default_rng(person)
        pulse, _ = synthetic.pulse(4000, synthetic.person(rng), rng, fs=100.0)
        rows = np.column_stack([np.arange(4000), pulse])
        name = work / "recordings" / f"person{person:02d}_rest.csv"
        np.savetxt(name, rows, delimiter=",", header="sample,ppg", comments="", fmt="%.6g")
    (work / "ppgstream").symlink_to(ROOT / "ppgstream")
    if SHARED.is_dir():
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "data").symlink_to(SHARED)
    ends = "\n".join(f'[{name}]\nendpoint = "ipc://{tmp_path}/{name}"' for name in ("in", "out", "status"))
    (work / "config.toml").write_text(ends)
    real = Daemon.run

    def ends_at_once(self: Daemon, denoiser: object) -> object:
        self.stop.set()
        return real(self, denoiser)  # type: ignore[arg-type]

    monkeypatch.setattr(Daemon, "run", ends_at_once)
    monkeypatch.setattr(pictures, "examples", lambda *_: None)
    monkeypatch.setattr(data, "SYNTHETIC_PEOPLE", {"train": 6, "validation": 2, "test": 2})
    return work


@pytest.mark.timeout(600)  # ten commands, five of which train
def test_the_walk_through_training_goes_from_a_folder_of_files_to_a_daemon(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, asked = 0, []
    some = [data.synthetic_set(1)]
    monkeypatch.setattr(data, "public_sets", lambda _: some)
    monkeypatch.setattr(fit, "MEASURED_BATCHES", 1)
    real = fit.fit
    for line in commands("training.md"):
        arguments = shlex.split(line)[1:]
        if not SHARED.is_dir() and "../shared/data" in line:
            continue
        if arguments[0] == "evaluate" or arguments[:2] == ["checkpoint", "calibrate"]:
            continue  # minutes of work; tests of its own
        # On the public recordings training takes a minute here, and is tested elsewhere: what it is asked is enough.
        there = "../shared/data" in line
        monkeypatch.setattr(fit, "fit", (lambda recipe, *_, **__: asked.append(recipe.family)) if there else real)
        result = CliRunner().invoke(app, arguments + (CUT if arguments[0] == "train" else []))
        assert result.exit_code == 0, f"{line}\n{result.output}"
        ran += 1
    assert ran >= 6
    assert not SHARED.is_dir() or asked == ["dae", "brae"]
    assert (at / "runs" / "mine" / "recordings.png").read_bytes().startswith(b"\x89PNG")
    assert (at / "runs" / "mine" / "probe.png").read_bytes().startswith(b"\x89PNG")
    found = restore(at / "runs" / "mine2")
    split = found.provenance["split"]
    own = sorted(name for side in split.values() for name in side if "synthetic" not in name)
    assert own == [f"person{p:02d}_rest.csv" for p in range(1, 7)]
    assert all(split[side] for side in data.SIDES)
    clean = np.genfromtxt(at / "clean.csv", delimiter=",", names=True)
    assert len(clean) == 4000


def test_every_training_command_of_the_docs_states_its_epochs() -> None:
    for page in ("training.md", "course.md"):
        for line in commands(page):
            if line.startswith("ppgstream train") and "--help" not in line:
                assert "--epochs" in line, line


def test_every_exercise_of_the_course_is_a_recipe_that_can_be(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    some = [data.synthetic_set(1)]
    monkeypatch.setattr(data, "public_sets", lambda _: some)
    monkeypatch.setattr(fit, "fit", lambda recipe, *_, **__: asked.append(recipe))
    for line in commands("course.md"):
        arguments = shlex.split(line)[1:]
        if arguments[0] == "train" and ("--from" not in arguments or SHARED.is_dir()):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, f"{line}\n{result.output}"
    assert {recipe.family for recipe in asked} == {"ae", "ae3", "dae", "rae", "brae"}
    assert {recipe.optimizer for recipe in asked} == {"adam", "sgd"}
    assert {recipe.parts for recipe in asked} >= {("white",), ("slope",), ("saturation",), ()}


def test_the_architecture_names_every_file_and_only_these() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| `([^`]+\.py)` \|", page, re.MULTILINE))
    files = {
        path.relative_to(ROOT).as_posix() for folder in ("ppgstream", "train", "tools") for path in (ROOT / folder).rglob("*.py")
    }
    assert named == {name for name in files if not name.endswith("__init__.py") or name.count("/") == 1}
    for module, name in re.findall(
        r"`(?:ppgstream\.)?((?:core|live|files|wire|assemble)(?:\.[a-z_]+)?)\.([A-Z]\w+|[a-z_]+_of|denoise|fill|feed)", page
    ):
        found = importlib.import_module(f"ppgstream.{module}")
        assert hasattr(found, name), f"{module}.{name}"
    folders = [path.name for path in (ROOT / "ppgstream").iterdir() if (path / "__init__.py").is_file()]
    assert all(f"\n    {name} " in (ppgstream.__doc__ or "") for name in [*folders, "train", "tools"])


def test_the_status_page_names_every_field_of_a_snapshot() -> None:
    page = (ROOT / "docs" / "status.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    for struct in vars(snapshot).values():
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct) and struct is not msgspec.Struct:
            assert set(struct.__struct_fields__) <= named, struct.__name__
