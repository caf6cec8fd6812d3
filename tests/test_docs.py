"""The commands of the docs run as they stand there, with training cut to one step."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from ppgstream.tools import site
from ppgstream.train import data, fit, pictures
from typer.testing import CliRunner

import ppgstream
from ppgstream.cli.app import app
from ppgstream.lab import synthetic
from ppgstream.live import snapshot
from ppgstream.live.daemon import Daemon
from ppgstream.live.status import StatusClient
from ppgstream.model.restore import restore

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PPGSTREAM_DATA", ROOT.parent / "shared" / "data"))
CUT = ["--epochs", "1", "--steps", "1", "--batch", "8", "--no-calibrate"]  # of options given twice the last counts


NOT_TESTED = "not tested"  # of a line that no test runs


def shell_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks. A comment at the start of one that says "not tested" is of all its lines."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        lines = block.splitlines()
        if lines[0].startswith("#") and NOT_TESTED in lines[0]:
            lines = [f"{line}  # {NOT_TESTED}" for line in lines if line and not line.startswith("#")]
        found += lines
    return found


def commands(page: str) -> list[str]:
    """The ppgstream commands of a page's shell blocks."""
    return [line for line in shell_lines(ROOT / "docs" / page) if line.startswith("ppgstream ")]


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


# ---- every command of every page ---------------------------------------------------------------------------------

WALKED = ("training.md", "course.md")  # by the tests above
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = (  # test_demo, this suite, what sets it up, test_own, and the walk through training
    "make demo", "make test", "pip ", "ppgstream checkpoint import my.keras", "ppgstream train dae --recordings",
    "ppgstream train brae --from",
)  # fmt: skip


def parsed(line: str) -> list[str]:
    """The words of a ppgstream command, once the command line has taken its options. A name in capitals stands for a file."""
    words = shlex.split(line, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context("ppgstream", rest)
    return words


def test_every_command_of_the_pages_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = 0
    for page in PAGES:
        for line in shell_lines(page):
            for part in line.partition("#")[0].split("|"):
                if part.strip().startswith("ppgstream "):
                    parsed(part.strip())
                    found += 1
    assert found > 50


class Bench:
    """A folder with recordings, a `sensor` and a `plot` on the path, a network of one's own, and a daemon whose sockets the
    commands are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(1)
        pulse, _ = synthetic.pulse(750, synthetic.person(rng), rng, fs=125.0)
        for name, fs in (
            ("recording", 125.0),
            ("watch", 25.0),
            ("phone", 25.0),
            ("recordings/a", 125.0),
            ("recordings/b", 125.0),
        ):
            (folder / name).parent.mkdir(exist_ok=True)
            rows = np.column_stack([np.arange(len(pulse)) / fs, pulse])[: int(6 * fs)]
            np.savetxt(folder / f"{name}.csv", rows, delimiter=",", header="t,ppg", comments="", fmt="%.6g")
        (folder / "bin").mkdir()
        for name, text in (("sensor", f"cut -d, -f2 {folder}/recording.csv | tail -n +2"), ("plot", "cat > plotted.txt")):
            (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / "bin" / name).chmod(0o755)
        self.ends = {name: f"ipc://{folder}/{name}" for name in ("in", "out", "status")}
        (folder / "config.toml").write_text("".join(f'[{name}]\nendpoint = "{end}"\n' for name, end in self.ends.items()))
        self.env = os.environ | {"PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def told(self, line: str) -> str:
        """A line with files for its placeholders, and the daemon's sockets in place of those that commands take by default."""
        line = line.partition("  #")[0].replace("FILES...", "recording.csv watch.csv").replace("DIR/", "dir/")
        line = re.sub(r"\bFILE\b", "recording.csv", line).replace("--to tcp://127.0.0.1:5600", "")
        line = re.sub(r"sessions/wrist/wrist_\w+\.parquet", "sessions/wrist/*.parquet", line).replace("--web 8600", "--web 0")
        of = {
            "replay": ("to", "in"),
            "tap": ("from", "out"),
            "record": ("from", "out"),
            "monitor": ("status", "status"),
            "reload": ("status", "status"),
        }
        of["shadow report"] = of["monitor"]
        for command, (option, end) in of.items():
            line = line.replace(f"ppgstream {command}", f"ppgstream {command} --{option} {self.ends[end]}")
        for command in ("replay", "record"):
            line = line.replace(f"ppgstream {command}", f"ppgstream {command} --status {self.ends['status']}")
        return line.strip() if "|" in line else f"exec {line.strip()}"  # so that a signal is the command's

    def start(self, line: str) -> subprocess.Popen[str]:
        group = {"start_new_session": True, "stdin": subprocess.DEVNULL, "text": True}
        return subprocess.Popen(
            self.told(line), shell=True, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **group
        )

    def run(self, line: str) -> str:
        process = self.start(line)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{line}\n{out}"
        return out

    def stop(self, process: subprocess.Popen[str], number: int = signal.SIGINT) -> str:
        """Ask a command, and all that it began, to end; what it printed."""
        os.killpg(process.pid, number)
        return process.communicate(timeout=60)[0]

    def wait_for(self, there: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    @contextlib.contextmanager
    def daemon(self, line: str) -> Iterator[None]:
        process = self.start(line)
        try:
            assert process.stdout is not None
            for said in process.stdout:
                if "ready" in said:
                    break
            else:
                raise AssertionError(f"{line} did not begin")
            yield
            self.stop(process, signal.SIGTERM)
            assert process.returncode == 0, line
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@pytest.mark.timeout(600)  # some thirty commands
def test_every_command_of_the_pages_runs_or_says_that_no_test_runs_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lines = [line for page in PAGES if page.name not in WALKED for line in shell_lines(page)]
    left = {line for line in lines if line.strip() and NOT_TESTED not in line and not line.startswith(ELSEWHERE)}

    def take(*begins: str) -> list[str]:
        found = sorted(line for line in left if line.startswith(begins))
        left.difference_update(found)
        return found

    left.difference_update([line for line in left if "my-network" in line])  # test_own
    if (SHARED / "course").is_dir():
        (tmp_path / "BRAE_tensorboard").symlink_to(SHARED / "course/BRAE_tensorboard")
    else:
        left.difference_update([line for line in left if "BRAE_tensorboard" in line])
    for line in take("ppgstream checkpoint"):
        assert "brae" in bench.run(line)
    for line in take("ppgstream train"):
        bench.run(f"{line.partition('  #')[0]} {shlex.join(CUT)}")
    for line in take("ppgstream keygen"):
        bench.run(line)
    for line in take("ppgstream run"):
        if "--check " in line:
            assert "answers a known pulse" in bench.run(line)
        else:
            with bench.daemon(line):
                pass
    with bench.daemon("ppgstream run --checkpoint default"):
        for begin in (
            "ppgstream reload --checkpoint",
            "ppgstream reload --back",
            "ppgstream reload --shadow",
            "ppgstream shadow",
        ):
            for line in sorted(take(begin), key=lambda line: "--dry-run" not in line):
                bench.run(line)
        for line in take("ppgstream reload"):
            bench.run(line)
    after = [line for line in left if "sessions/wrist" in line]
    left.difference_update(after)
    for line in take("ppgstream denoise", "sensor | ppgstream denoise"):
        bench.run(line)
    assert (tmp_path / "plotted.txt").read_text().count("\n") == 750
    assert {path.name for path in (tmp_path / "dir").iterdir()} == {"recording.npz", "watch.npz", "summary.csv"}
    with bench.daemon("ppgstream run --raw"):
        status = StatusClient(bench.ends["status"])
        each = {bench.told(line): line for line in take("ppgstream tap", "ppgstream record")}  # one may be on two pages
        heard = [bench.start(line) for line in each.values()]
        assert len(heard) >= 2
        bench.wait_for(lambda: (snapshot := status.ask(1.0)) is not None and snapshot.subscribers >= len(heard))
        bench.run("ppgstream replay recording.csv --stream wrist --speed max")
        for line in take("ppgstream replay", "sensor | ppgstream replay"):
            bench.run(line)
        for line in take("ppgstream monitor"):
            if "--once" in line:
                assert "ppgstream" in bench.run(line)
            else:
                watching = bench.start(line)
                assert watching.stdout is not None
                assert watching.stdout.readline()
                bench.stop(watching)
        said = [bench.stop(one) if one.poll() is None else one.communicate()[0] for one in heard]
        status.close()
    assert any("recorded" in text for text in said)
    assert any("received" in text for text in said)
    for line in after:
        bench.run(line)
    assert not left


def test_the_site_is_built_and_each_of_its_links_holds(tmp_path: Path) -> None:
    site.build(tmp_path / "site")
    there = {path.name for path in (tmp_path / "site").glob("*.html")}
    named = {name for part in site.NAV.values() for name in ([part] if isinstance(part, str) else part)}
    assert there == {Path(name).with_suffix(".html").name for name in named} | {"404.html"}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} <= named  # none is without a place
    reference = (tmp_path / "site/reference.html").read_text()
    assert "Samples in any units" in reference or "samples in any units" in reference
    for name in ("ppgstream.api.denoised.denoise", "ppgstream.errors.CheckpointError", "ppgstream.wire.message.Flag"):
        assert f'id="{name}"' in reference
    index = tmp_path / "site/index.html"
    index.write_text(index.read_text() + '<a href="nowhere.html">x</a><a href="bench.html#nowhere">x</a>')
    assert site.broken(tmp_path / "site") == ["index.html: bench.html#nowhere", "index.html: nowhere.html"]


def test_a_wheel_s_page_leads_nowhere_that_is_not_there() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from setup import description
    finally:
        sys.path.remove(str(ROOT))
    text = (ROOT / "README.md").read_text()
    plain = description(text, "")
    assert not re.search(r"\]\((?!https?://)", plain)
    assert "docs/wire.md" in plain  # still named
    held = description(text, "https://example.org/project/")
    assert "](https://example.org/project/docs/wire.md)" in held
    assert "![" in held
    assert not re.search(r"\]\((?!https?://)", held)


def test_a_release_is_of_one_version_and_its_page_and_light_install_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == ppgstream.__version__  # type: ignore[index]
    assert f"\nversion: {ppgstream.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    monkeypatch.setenv("PPGSTREAM_FILES", "https://example.org/raw/v1")
    monkeypatch.syspath_prepend(str(ROOT))
    from setup import home

    assert home() == "https://example.org/raw/v1"
    wanted = [line.partition(">=")[0] for line in (ROOT / "requirements-light.in").read_text().splitlines() if line[0] != "#"]
    line = next(
        line for line in (ROOT / "docs/dependencies.md").read_text().splitlines() if "pip install --no-deps ppgstream" in line
    )
    assert line.partition("#")[0].partition("pip install --no-deps ppgstream && pip install ")[2].split() == wanted
    release = (ROOT / "contrib/release.yml").read_text()
    assert "run: .ci/release" in release
    assert (ROOT / ".ci/release").stat().st_mode & 0o111
