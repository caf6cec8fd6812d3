"""Many recordings into a folder: `ppgstream denoise FILES... -o DIR`."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_python import recording

import ppgstream


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
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.csv.csv")} | stamps()
        done = run(*good, "-o", "out/", "--format", "csv", *more, at=tmp_path)
        assert done.returncode == 0, done.stderr
        return {name for name, stamp in stamps().items() if before.get(name) != stamp}, done.stderr

    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in tmp_path.glob("out/p*.csv")}

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
    (tmp_path / "out" / "summary.csv").write_text("file,mine\na,b\n")  # not ours: nothing is known
    assert len(made("--lookahead", "49", "--checkpoint", "fast")[0]) == 3


def test_outputs_of_one_name_are_told_apart_or_refused_before_the_work(place: Path, tmp_path: Path) -> None:
    x = recording(12)
    for name in ("a/r.csv", "b/r.csv"):
        put(tmp_path / name, x, 125.0)
    (tmp_path / "a" / "r.txt").write_text("\n".join(map(str, x)))
    done = run("a/r.csv", "a/r.txt", "-o", "out/", "--fs", "125", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"r.csv.npz", "r.txt.npz", "summary.csv"}
    done = run("a/r.csv", "b/r.csv", "-o", "new/", at=tmp_path)
    assert done.returncode == 2
    assert "a/r.csv and b/r.csv: both would be written to new/r.csv.npz" in done.stderr
    assert not (tmp_path / "new").exists()
    assert run("a/r.csv", "a/r.csv", "-o", "new/", at=tmp_path).returncode == 0  # named twice is one


WRONG: dict[str, tuple[list[str], int, str]] = {
    "an empty folder": (["empty", "-o", "out/"], 69, "empty: no recording in this folder"),
    "no file": (["nowhere.csv", "in/p0.csv", "-o", "out/"], 65, "passed over: nowhere.csv: cannot read"),
    "stdout": (["in/p0.csv", "in/p1.csv"], 2, "-o -: several recordings: give a folder for the outputs (-o DIR/)"),
    "a file": (["in/p0.csv", "in/p1.csv", "-o", "out.npz"], 2, "-o out.npz: several recordings: give a folder"),
    "a folder that is a file": (["in/p0.csv", "in/p1.csv", "-o", "in/p0.csv/"], 74, "in/p0.csv: cannot write there"),
    "below a file": (["in/p0.csv", "in/p1.csv", "-o", "in/p0.csv/x/"], 74, "in/p0.csv/x: cannot write there"),
    "a pipe among them": (["in/p0.csv", "-", "-o", "out/"], 2, "IN: - is a pipe: denoise it alone"),
    "a format": (
        ["in/p0.csv", "in/p1.csv", "-o", "out/", "--format", "wav"],
        2,
        "--format 'wav': must be one of npz, csv, npy, txt",
    ),
    "a plot": (["in/p0.csv", "in/p1.csv", "-o", "out/", "--plot", "x.png"], 2, "--plot: of one recording"),
    "jobs of one": (["in/p0.csv", "-o", "x.npz", "--jobs", "2"], 2, "--format and --jobs: of several recordings"),
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
    if task.path.name == "p3.csv":
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
    assert done.returncode == 74
    assert "a process was ended from outside (out of memory?) near" in done.stderr
    there = {path.stem for path in (tmp_path / "out").glob("*.npz")}
    rows = {row["output"].removesuffix(".npz") for row in lines_of(tmp_path / "out" / "summary.csv")}
    assert rows <= there
    done = run(*files, "-o", "out/", at=tmp_path)
    assert done.returncode == 0
    assert f"; {len(rows)} were there already)" in done.stderr if rows else "5 of 5" in done.stderr


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
