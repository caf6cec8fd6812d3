"""Many recordings by Ray, and at URLs: the same bytes as by one process of this machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_folder import lines_of, put, run
from test_python import recording
from waiting import until

from ppgstream.api.cluster import anywhere
from ppgstream.api.folder import Here, Reading, Task
from ppgstream.api.folder import run as run_folder
from ppgstream.api.inputs import Input, found_in, names_of
from ppgstream.api.summary import Row, place_of
from ppgstream.config import load
from ppgstream.files import remote
from ppgstream.model.restore import restore

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (pip install ray)")
needs_fsspec = pytest.mark.skipif(
    importlib.util.find_spec("fsspec") is None, reason="fsspec is not installed (pip install fsspec)"
)
FILES = 12


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, a file of text, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("archive")
    for k in range(FILES):
        put(folder / "in" / f"p{k:02d}.csv", recording(30, k, 125.0), 125.0)
    (folder / "in" / "words.csv").write_text("hello\nworld\n")
    done = run("in", "-o", "local/", "--beats", "beats.csv", at=folder)
    assert done.returncode == 65, done.stderr
    return folder


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "summary.csv"}


# ---- Ray -----------------------------------------------------------------------------------------------------------------


@needs_ray
@pytest.mark.xdist_group("ray")
def test_ray_makes_the_same_files_and_tables(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("in", "-o", f"{out}/", "--engine", "ray", "--jobs", "2", "--beats", str(tmp_path / "beats.csv"), at=archive)
    assert done.returncode == 65, done.stderr
    assert done.stdout == ""
    assert "passed over: in/words.csv: no valid sample" in done.stderr
    assert f"{FILES} of {FILES + 1} recordings in {out}" in done.stderr
    assert outputs(out) == outputs(archive / "local")
    assert lines_of(out / "summary.csv") == lines_of(archive / "local" / "summary.csv")
    assert (tmp_path / "beats.csv").read_bytes() == (archive / "beats.csv").read_bytes()
    again = run("in", "-o", f"{out}/", "--engine", "ray", "--jobs", "2", at=archive)
    assert f"{FILES} were there already" in again.stderr


@needs_ray
@pytest.mark.xdist_group("ray")
def test_a_worker_that_is_killed_costs_its_file_s_time_and_a_file_that_ends_it_is_passed_over(
    archive: Path, tmp_path: Path
) -> None:
    """In the place of `work`, one that ends its process: always for one file, the first time for another."""
    code = f"""
import os, sys
from pathlib import Path
from ppgstream.api import folder
def killed(task, known, checkpoint=None, work=folder.work):
    name = task.input.path.name
    first = Path({str(tmp_path)!r}, "first")
    if name == "p03.csv" or (name == "p05.csv" and not first.exists()):
        first.touch() if name == "p05.csv" else None
        os._exit(9)
    with Path({str(tmp_path)!r}, "worked").open("a") as file:
        file.write(name + "\\n")
    return work(task, known, checkpoint)
import ppgstream.api.cluster
ppgstream.api.cluster.work = killed
from ppgstream.cli.app import main
sys.argv = ["ppgstream", "denoise", *sys.argv[1:]]
main()
"""
    (tmp_path / "killed.py").write_text(code)
    out = tmp_path / "out"
    asked = [sys.executable, str(tmp_path / "killed.py"), "in", "-o", f"{out}/", "--engine", "ray", "--jobs", "2"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=archive, check=False)
    assert done.returncode == 65, done.stderr
    assert "in/p03.csv: its process was ended twice (out of memory?)" in done.stderr
    expected = outputs(archive / "local")
    del expected["p03.npz"]
    assert outputs(out) == expected
    worked = (tmp_path / "worked").read_text().split()
    assert sorted(worked) == sorted({*worked})  # none was done twice
    assert len(worked) == FILES  # and the file of words


@needs_ray
@pytest.mark.xdist_group("ray")
@pytest.mark.timeout(300)
def test_a_run_that_is_killed_goes_on_without_doing_a_file_twice(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = [sys.executable, "-m", "ppgstream", "denoise", "in", "-o", f"{out}/", "--engine", "ray", "--jobs", "1"]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(asked, cwd=archive, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: len(list(out.glob("*.npz"))) >= 3, "three outputs")
    finally:
        os.killpg(driver.pid, signal.SIGKILL)  # with Ray's own processes, some of which would stay
        driver.wait()
    stamps = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert run("in", "-o", f"{out}/", "--engine", "ray", "--jobs", "2", at=archive).returncode == 65
    assert stamps.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}.items()
    assert outputs(out) == outputs(archive / "local")


@needs_ray
@pytest.mark.xdist_group("ray")
def test_a_cluster_that_is_not_there_is_one_line(archive: Path, tmp_path: Path) -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):  # not "auto": it looks for any cluster of this machine
        done = run("in", "-o", f"{tmp_path}/out/", "--engine", "ray", "--address", address, at=archive)
        assert (done.returncode, done.stderr.count("\n")) == (69, 1), done.stderr
        assert f"--address {address}: no Ray cluster" in done.stderr


def test_arguments_of_engines_that_do_not_fit_are_one_line(archive: Path, tmp_path: Path) -> None:
    for asked, told in (
        (["--engine", "spark"], "--engine 'spark': must be local or ray"),
        (["--address", "auto"], "--address: is of a Ray cluster: --engine ray"),
    ):
        done = run("in", "-o", f"{tmp_path}/out/", *asked, at=archive)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_without_ray_it_is_said_what_to_install(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no Ray here')")
    asked = [sys.executable, "-m", "ppgstream", "denoise", "in", "-o", f"{tmp_path}/out/", "--engine", "ray"]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(asked, capture_output=True, text=True, cwd=archive, env=env, check=False)
    assert (done.returncode, done.stderr) == (
        2, "ppgstream: --engine ray: needs Ray: pip install ray, or ppgstream[ray] (no Ray here)\n",
    )  # fmt: skip


def test_a_worker_may_be_started_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    task = Task(Input(Path("in/a.csv")), "a.npz", "out", Reading(), load(None, model__checkpoint="own"), False)
    sent = anywhere(task)
    assert (sent.input.path, sent.output) == (tmp_path / "in/a.csv", tmp_path / "out/a.npz")
    assert sent.settings.model.checkpoint == str(tmp_path / "own")
    far = task._replace(
        input=Input(Path("a.csv"), "s3://x/a.csv"), folder="s3://x/out", settings=load(None, model__checkpoint="fast")
    )
    assert anywhere(far) == far


# ---- URLs ----------------------------------------------------------------------------------------------------------------


def tasks_of(sources: list[str], folder: str) -> list[Task]:
    inputs = found_in(sources, folder)
    settings = load(None, model__checkpoint="fast")
    return [
        Task(one, name, folder, Reading(), settings, False) for one, name in zip(inputs, names_of(inputs, "npz"), strict=True)
    ]


def made(sources: list[str], folder: str) -> tuple[list[Row], int]:
    """The lines of the summary, and how many were there already."""
    done = run_folder(tasks_of(sources, folder), folder, pool=lambda: Here(restore(Path("fast"))), seen=lambda _: None)
    return [one.row for one in done], sum(one.skipped for one in done)


@needs_fsspec
def test_recordings_and_outputs_may_be_at_urls(tmp_path: Path) -> None:
    import fsspec

    for k in range(3):
        put(tmp_path / "in" / f"p{k}.csv", recording(20, k, 125.0), 125.0)
    local, _ = made([str(tmp_path / "in")], str(place_made(tmp_path / "out")))
    memory = fsspec.filesystem("memory")
    memory.rm("/", recursive=True) if memory.ls("/") else None
    for path in (tmp_path / "in").iterdir():
        remote.put(path, f"memory://study/in/{path.name}")
    remote.put(tmp_path / "in" / "p0.csv", "memory://study/in/notes.pdf")
    for sources in (["memory://study/in"], ["memory://study/in/*.csv"]):
        rows, there = made(sources, "memory://study/out")
        assert [row.file for row in rows] == [f"memory:///study/in/p{k}.csv" for k in range(3)]
        assert there == (3 if sources[0].endswith("csv") else 0)
        assert [(row.sha256, row.output_sha256, row.hr_bpm) for row in rows] == [
            (row.sha256, row.output_sha256, row.hr_bpm) for row in local
        ]
    assert sorted(name.rpartition("/")[2] for name in memory.find("/study/out")) == ["p0.npz", "p1.npz", "p2.npz", "summary.csv"]
    assert memory.cat("/study/out/p1.npz") == (tmp_path / "out" / "p1.npz").read_bytes()
    memory.pipe("/study/out/p1.npz", b"damaged")
    assert made(["memory://study/in"], "memory://study/out")[1] == 2
    memory.pipe("/study/in/p2.csv", b"no number\n")
    row = made(["memory://study/in/p2.csv"], "memory://study/out")[0][0]
    assert row.error.startswith("memory://study/in/p2.csv: no valid sample")
    assert set(place_of("memory://study/out").summary()) == {"p0.npz", "p1.npz", "p2.npz"}


def place_made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@needs_fsspec
@pytest.mark.parametrize("form", ["file://{}", "{}"])
def test_no_input_is_overwritten_whatever_it_is_called(form: str, tmp_path: Path) -> None:
    put(tmp_path / "in" / "r.csv", recording(12), 125.0)
    before = (tmp_path / "in" / "r.csv").read_bytes()
    source = form.format(tmp_path / "in")
    for asked in (
        ["-o", f"file://{tmp_path}/in", "--format", "csv"],
        ["-o", f"file://{tmp_path}//x/../in", "--format", "csv"],
        ["-o", f"{tmp_path}/in/", "--format", "csv"],
        ["-o", "out/", "--beats", f"{tmp_path}/in/r.csv"],
        ["-o", "out/", "--beats", "out/r.npz"],
        ["-o", "out/", "--beats", "same.csv", "--rates", "same.csv"],
    ):
        done = run(source, *asked, at=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (asked, done.stderr)
    assert (tmp_path / "in" / "r.csv").read_bytes() == before
    assert run(source, "-o", source, at=tmp_path).returncode == 0  # beside it
    assert "1 of 1 recordings" in run(source, "-o", "other/", at=tmp_path).stderr  # what was made there is no recording
    assert remote.plain("s3://x//a/../b/") == "s3://x/b"


@needs_fsspec
def test_a_url_of_this_machine_and_two_processes(archive: Path, tmp_path: Path) -> None:
    done = run(f"file://{archive}/in/p*.csv", "-o", f"file://{tmp_path}/out", "--jobs", "2", at=archive)
    assert done.returncode == 0, done.stderr
    assert f"{FILES} of {FILES} recordings in {tmp_path}/out" in done.stderr
    assert outputs(tmp_path / "out") == outputs(archive / "local")
    done = run(f"file://{archive}/in/p*.csv", "-o", f"file://{tmp_path}/out", at=archive)
    assert f"{FILES} were there already" in done.stderr


@needs_fsspec
@pytest.mark.parametrize(
    ("source", "told", "code"),
    [
        ("memory://nowhere/x.csv", "memory://nowhere/x.csv: cannot read: No such file or directory", 65),
        ("memory://nowhere/*.csv", "memory://nowhere/*.csv: nothing matches", 69),
        ("nothing://x/y.csv", "nothing://x/y.csv: Protocol not known: nothing", 2),
    ],
)
def test_what_is_wrong_with_a_url_is_one_line(source: str, told: str, code: int, tmp_path: Path) -> None:
    done = run(source, "-o", "out/", at=tmp_path)
    assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (code, True, False), done.stderr


def test_an_input_is_a_path_or_a_url() -> None:
    assert remote.is_url("s3://bucket/x.csv")
    assert not remote.is_url("dir/x.csv")
    assert not remote.is_url("a b://x")
    assert Input(Path("x.csv"), "s3://bucket/x.csv").where == "s3://bucket/x.csv"
