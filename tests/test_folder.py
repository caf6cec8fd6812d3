"""Many recordings into a folder: `ppgstream denoise FILES... -o DIR`."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_daemon import until
from test_python import recording

import ppgstream
from ppgstream.api.summary import place_of


def run(*arguments: str | Path, at: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ppgstream", "denoise", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=at, check=False)


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def put(path: Path, x: np.ndarray, fs: float) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("t,ppg\n" + "".join(f"{k / fs:.6f},{v:.4f}\n" for k, v in enumerate(x)))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings of three rates, a file of text, and one that is too short."""
    folder = tmp_path_factory.mktemp("many")
    for k, fs in enumerate((125.0, 125.0, 64.0, 64.0, 250.0)):
        put(folder / "in" / f"p{k}.csv", recording(40, k, fs), fs)
    (folder / "in" / "words.csv").write_text("hello\nworld\n")
    (folder / "in" / "short.csv").write_text("t,ppg\n0,1\n0.008,2\n0.016,3\n")
    (folder / "in" / "notes.pdf").write_text("no recording")
    return folder


def test_a_folder_of_recordings_becomes_one_of_outputs_and_a_summary(place: Path) -> None:
    done = run("in", "-o", "out/", "--jobs", "2", "--beats", "beats.csv", "--rates", "rates.csv", at=place)
    assert done.returncode == 65
    assert done.stdout == ""
    said = done.stderr.splitlines()
    assert sum("passed over: in/words.csv: no valid sample" in line for line in said) == 1
    assert said[-2].startswith("ppgstream: 5 of 7 recordings in out (3.3 minutes of signal): out/summary.csv")
    assert said[-1] == "ppgstream: 2 of 7 recordings have no output: their reasons are in out/summary.csv"
    rows = lines_of(place / "out" / "summary.csv")
    assert [Path(row["file"]).name for row in rows] == [*(f"p{k}.csv" for k in range(5)), "short.csv", "words.csv"]
    assert {path.name for path in (place / "out").iterdir()} == {"summary.csv", *(f"p{k}.npz" for k in range(5))}
    beats, rates = lines_of(place / "beats.csv"), lines_of(place / "rates.csv")
    for k, row in enumerate(rows[:5]):
        assert run(f"in/p{k}.csv", "-o", "one.npz", at=place).returncode == 0
        with np.load(place / "one.npz") as one, np.load(place / "out" / f"p{k}.npz") as many:
            assert sorted(one) == sorted(many)
            assert all(one[name].tobytes() == many[name].tobytes() for name in one)
            own = [line for line in beats if line["file"] == row["file"]]
            assert [int(line["sample"]) for line in own] == one["beats"].tolist()
            assert float(own[-1]["t_s"]) == pytest.approx(one["beats"][-1] / one["fs"], abs=2e-3)
            assert len([line for line in rates if line["file"] == row["file"]]) == len(one["hr_bpm"])
            sure = one["hr_confidence"] >= 0.5
            assert float(row["hr_bpm"]) == pytest.approx(float(np.median(one["hr_bpm"][sure])), abs=0.06)
            assert float(row["trusted"]) == pytest.approx(float((one["confidence"] >= 0.5).mean()), abs=1e-4)
            assert int(row["beats"]) == int((one["beat_confidence"] >= 0.5).sum())
            assert float(row["minutes"]) == pytest.approx(40 / 60, abs=0.01)
            assert float(row["fs"]) == pytest.approx(float(one["fs"]), rel=1e-3)
        assert not row["error"]
    for row in rows[5:]:
        assert row["error"]
        assert not row["minutes"]


def test_what_is_there_already_is_not_made_again_and_what_changed_is(place: Path, tmp_path: Path) -> None:
    good = [str(place / "in" / f"p{k}.csv") for k in range(3)]

    def made(*more: str) -> tuple[set[str], str]:
        before = stamps()
        done = run(*good, "-o", "out/", "--format", "csv", *more, at=tmp_path)
        assert done.returncode == 0, done.stderr
        return {name for name, stamp in stamps().items() if before.get(name) != stamp}, done.stderr

    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/p*.csv")}

    assert made()[0] == {"p0.csv", "p1.csv", "p2.csv"}
    again, said = made()
    assert again == set()
    assert "3 of 3 recordings in out (2.0 minutes of signal; 3 were there already)" in said
    (tmp_path / "out" / "p1.csv").unlink()
    assert made("--jobs", "2")[0] == {"p1.csv"}
    assert made("--lookahead", "49")[0] == {"p0.csv", "p1.csv", "p2.csv"}
    assert made("--lookahead", "49", "--checkpoint", "fast")[0] == {"p0.csv", "p1.csv", "p2.csv"}
    good[2] = str(put(tmp_path / "p2.csv", recording(40, 9, 64.0), 64.0))
    assert made("--lookahead", "49", "--checkpoint", "fast")[0] == {"p2.csv"}
    rows = lines_of(tmp_path / "out" / "summary.csv")
    assert [row["file"] for row in rows] == good
    (tmp_path / "out" / "p0.csv").write_text("damaged")
    assert made("--lookahead", "49", "--checkpoint", "fast")[0] == {"p0.csv"}
    (tmp_path / "out" / "summary.csv").write_text("file,mine\na,b\n")
    done = run(*good, "-o", "out/", "--format", "csv", at=tmp_path)
    assert done.returncode == 2
    assert "summary.csv: is no summary of this version: move it away" in done.stderr
    assert (tmp_path / "out" / "summary.csv").read_text() == "file,mine\na,b\n"


def test_outputs_of_one_name_are_told_apart_or_refused_before_the_work(place: Path, tmp_path: Path) -> None:
    x = recording(12)
    for name in ("a/r.csv", "b/r.csv"):
        put(tmp_path / name, x, 125.0)
    (tmp_path / "a" / "r.txt").write_text("\n".join(map(str, x)))
    done = run("a/r.csv", "a/r.txt", "-o", "out/", "--fs", "125", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"r.csv.npz", "r.txt.npz", "summary.csv"}
    assert run("a/r.csv", "a/r.csv", "-o", "new/", at=tmp_path).returncode == 0  # named twice is one
    assert [path.name for path in (tmp_path / "new").glob("*.npz")] == ["r.npz"]


def test_recordings_of_one_name_in_several_folders_keep_these(tmp_path: Path) -> None:
    x = recording(12)
    for name in ("in/a/r.csv", "in/b/r.csv", "in/b/c/s.csv"):
        put(tmp_path / name, x, 125.0)
    done = run("in/**/*.csv", "-o", "out/", "--jobs", "2", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.npz")} == {
        "a/r.npz", "b/r.npz", "b/c/s.npz",
    }  # fmt: skip
    rows = lines_of(tmp_path / "out" / "summary.csv")
    assert [(row["file"], row["output"]) for row in rows] == [
        ("in/a/r.csv", "a/r.npz"), ("in/b/c/s.csv", "b/c/s.npz"), ("in/b/r.csv", "b/r.npz"),
    ]  # fmt: skip
    assert "3 were there already" in run("in/**/*.csv", "-o", "out/", at=tmp_path).stderr
    assert not list((tmp_path / "out").rglob(".*"))
    done = run("in/*/nothing*", "-o", "out/", at=tmp_path)
    assert (done.returncode, "in/*/nothing*: nothing matches" in done.stderr) == (69, True)


WRONG: dict[str, tuple[list[str], int, str]] = {
    "an empty folder": (["empty", "-o", "out/"], 69, "empty: no recording there"),
    "no file": (["nowhere.csv", "in/p0.csv", "-o", "out/"], 65, "passed over: nowhere.csv: cannot read"),
    "stdout": (["in/p0.csv", "in/p1.csv"], 2, "-o -: several recordings: give a folder for the outputs (-o DIR/)"),
    "a file": (["in/p0.csv", "in/p1.csv", "-o", "out.npz"], 2, "-o out.npz: several recordings: give a folder"),
    "a folder that is a file": (["in/p0.csv", "in/p1.csv", "-o", "in/p0.csv/"], 74, "in/p0.csv: cannot write there"),
    "below a file": (["in/p0.csv", "in/p1.csv", "-o", "in/p0.csv/x/"], 74, "in/p0.csv/x: cannot write there"),
    "a pipe among them": (["in/p0.csv", "-", "-o", "out/"], 2, "IN: - is a pipe: denoise it alone"),
    "a format": (
        ["in/p0.csv", "in/p1.csv", "-o", "out/", "--format", "wav"],
        2,
        "--format 'wav': must be one of txt, csv, npy, npz",
    ),
    "a plot": (["in/p0.csv", "in/p1.csv", "-o", "out/", "--plot", "x.png"], 2, "--plot: of one recording"),
    "jobs of one": (
        ["in/p0.csv", "-o", "x.npz", "--jobs", "2"],
        2,
        "--format, --jobs, --engine and --address are of several recordings",
    ),
    "a rate": (["in/p0.csv", "in/p1.csv", "-o", "out/", "--fs", "5"], 2, "--fs 5: must be 10 to 1000 Hz"),
    "a table in no folder": (["in/p0.csv", "-o", "out/", "--beats", "no/b.csv"], 74, "no is no folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_one_line(case: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(place / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.pdf").write_text("")
    arguments, code, text = WRONG[case]
    done = run(*arguments, at=tmp_path)
    assert text in " ".join(done.stderr.split()), done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_before_the_work(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    done = run(place / "in" / "p0.csv", place / "in" / "p1.csv", "-o", "out/", at=tmp_path)
    assert done.returncode == 74
    assert "out: cannot write there: Permission denied" in done.stderr


def test_a_process_that_is_ended_from_outside_is_said_and_what_is_done_is_kept(place: Path, tmp_path: Path) -> None:
    """As the system does where memory runs out."""
    code = """
import os, sys
from ppgstream.api import folder
work = folder.work
def killed(task, known, checkpoint=None):
    if task.input.path.name == "p3.csv":
        os._exit(9)
    return work(task, known, checkpoint)
folder.work = killed
if __name__ == "__main__":
    from ppgstream.cli.app import main
    sys.argv = ["ppgstream", "denoise", *sys.argv[1:]]
    main()
"""
    (tmp_path / "killed.py").write_text(code)
    files = [str(place / "in" / f"p{k}.csv") for k in range(5)]
    command = [sys.executable, "killed.py", *files, "-o", "out/", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 65
    assert "p3.csv: its process was ended twice (out of memory?): shorter recordings, fewer --jobs" in done.stderr
    assert {path.stem for path in (tmp_path / "out").glob("*.npz")} == {"p0", "p1", "p2", "p4"}
    rows = lines_of(tmp_path / "out" / "summary.csv")
    assert [row["error"] != "" for row in rows] == [False, False, False, True, False]
    done = run(*files, "-o", "out/", at=tmp_path)
    assert done.returncode == 0
    assert "5 of 5 recordings in out (3.3 minutes of signal; 4 were there already)" in done.stderr
    assert not list((tmp_path / "out").glob(".*"))


def test_a_run_that_is_killed_goes_on_behind_every_output_that_it_has_made(place: Path, tmp_path: Path) -> None:
    """Killed, not stopped, before the summary has them."""
    code = """
import os, sys
from ppgstream.api import folder
folder.WRITE_EVERY_S = 1e9
work, made = folder.work, []
def killed(task, known, checkpoint=None):
    if task.input.path.name == "p3.csv":
        os._exit(9)
    return work(task, known, checkpoint)
folder.work = killed
from ppgstream.cli.app import main
sys.argv = ["ppgstream", "denoise", *sys.argv[1:]]
main()
"""
    (tmp_path / "killed.py").write_text(code)
    files = [str(place / "in" / f"p{k}.csv") for k in range(5)]
    command = [sys.executable, "killed.py", *files, "-o", "out/"]
    assert subprocess.run(command, capture_output=True, cwd=tmp_path, check=False).returncode == 9
    assert len(lines_of(tmp_path / "out" / "summary.csv")) == 1  # it was written once, at first
    stamps = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert len(stamps) == 3
    done = run(*files, "-o", "out/", "--jobs", "2", at=tmp_path)
    assert done.returncode == 0
    assert "3 were there already" in done.stderr
    assert stamps.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}.items()
    assert not list((tmp_path / "out").glob(".*"))


def test_two_runs_do_not_write_into_one_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with place_of(str(tmp_path / "out")).alone():
        done = run(place / "in" / "p0.csv", place / "in" / "p1.csv", "-o", "out/", at=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "out: another run writes there: wait for its end, or write into another folder" in done.stderr


@pytest.mark.parametrize("how", ["in place", "by a link", "one file", "a table", "the summary"])
def test_no_output_takes_an_input_s_place(how: str, tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        put(tmp_path / "in" / name, recording(12), 125.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.csv").symlink_to("../in/a.csv")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    arguments = {
        "in place": ["in", "-o", "in/", "--format", "csv"],
        "by a link": ["in", "-o", "out", "--format", "csv"],
        "one file": ["in/a.csv", "-o", "in/a.csv"],
        "a table": ["in", "-o", "new/", "--beats", "in/b.csv"],
        "the summary": ["in", "-o", "new/", "--rates", "new/summary.csv"],
    }[how]
    done = run(*arguments, at=tmp_path)
    assert done.returncode == 2, done.stderr
    assert ": is the input " in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_recording_that_lies_in_two_files_is_made_again_where_the_second_changed(tmp_path: Path) -> None:
    x = recording(20, 1, 50.0)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s_physio.tsv").write_text("".join(f"{v:.3f}\n" for v in x))
    for fs in (50, 100):
        (tmp_path / "in" / "s_physio.json").write_text(json.dumps({"Columns": ["cardiac"], "SamplingFrequency": fs}))
        done = run("in", "-o", "out/", at=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "1 of 1 recordings" in done.stderr
        assert "there already" not in done.stderr
        assert lines_of(tmp_path / "out" / "summary.csv")[0]["fs"] == str(fs)


def test_outputs_beside_their_recordings_are_no_recordings(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        put(tmp_path / "in" / name, recording(12), 125.0)
    for text in ("2 of 2 recordings in in (0.4 minutes of signal)", "; 2 were there already)"):
        done = run("in", "-o", "in", at=tmp_path)
        assert done.returncode == 0, done.stderr
        assert text in done.stderr
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"a.csv", "a.npz", "b.csv", "b.npz", "summary.csv"}


def test_a_name_that_is_no_unicode_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = put(tmp_path / "in" / "good.csv", recording(12), 125.0)
    (tmp_path / "in" / os.fsdecode(b"odd\xff.csv")).write_bytes(good.read_bytes())
    for text in ("2 of 2 recordings", "2 were there already"):
        done = run("in", "-o", "out/", at=tmp_path)
        assert done.returncode == 0, done.stderr
        assert text in done.stderr


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGKILL]])
def test_a_run_that_is_stopped_leaves_nobody_behind_and_goes_on_where_it_was(signals: list[int], tmp_path: Path) -> None:
    x = np.tile(recording(60), 8)
    (tmp_path / "in").mkdir()
    for k in range(6):
        np.save(tmp_path / "in" / f"r{k}.npy", x + k)
    command = [sys.executable, "-m", "ppgstream", "denoise", "in", "--fs", "125", "-o", "out/", "--jobs", "2"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True)
    until(lambda: list(tmp_path.glob("out/summary.csv")), "a first recording")
    children = children_of(started.pid)
    assert len(children) >= 2
    for number in signals:
        os.kill(started.pid, number)
    said = started.communicate(timeout=30)[1]
    assert started.returncode in (130, -15, -9)
    assert "Traceback" not in said
    if signals == [signal.SIGINT]:
        assert re.search(r"stopped: \d of 6 recordings are in out; the same command goes on from there", said)
    until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "its processes to end", seconds=20)
    assert not list(tmp_path.glob("out/.ppgstream*.tmp")) or signals != [signal.SIGINT]
    known = len(place_of(str(tmp_path / "out")).summary() | place_of(str(tmp_path / "out")).noted())
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert f"; {known} were there already" in done.stderr


def children_of(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def test_rows_of_an_array_are_counted_together(tmp_path: Path) -> None:
    x: Any = np.stack([recording(20, 1), recording(20, 2)])
    np.save(tmp_path / "two.npy", x)
    put(tmp_path / "one.csv", x[0], 125.0)
    done = run("two.npy", "one.csv", "-o", "out/", "--fs", "125", "--rates", "rates.csv", at=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "two.npz") as found:
        expected = ppgstream.denoise(x, 125)
        assert found["denoised"].tobytes() == expected.denoised.tobytes()
    assert {(line["file"], line["row"]) for line in lines_of(tmp_path / "rates.csv")} == {
        ("two.npy", "0"),
        ("two.npy", "1"),
        ("one.csv", "0"),
    }
    done = run("two.npy", "one.csv", "-o", "csv/", "--format", "csv", "--fs", "125", at=tmp_path)
    assert done.returncode == 65
    assert "passed over: two.npy: 2 recordings in one file: --format npz or npy" in done.stderr
