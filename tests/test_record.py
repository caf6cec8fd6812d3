"""`ppgstream record`: what a daemon publishes, in files that read back to the sample."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zmq

from ppgstream.errors import OutputError, UsageError
from ppgstream.files import journal, recorded, recording
from ppgstream.files.journal import Row, noted
from ppgstream.live.receiver import Patience, Receiver
from ppgstream.live.recorder import FLUSH_S, LOCK, Recorder
from ppgstream.live.snapshot import EventStatus
from ppgstream.wire.message import EMPTY, Beats, Chunk, Flag, Kind, encode

S, HOUR_NS = 1_000_000_000, 3600 * 1_000_000_000
START_NS = 500_000 * HOUR_NS  # a full hour
WAVE = np.sin(np.arange(4000) / 20).round(3)
both_formats = pytest.mark.parametrize("format", recorded.FORMATS)


def raw(start: int, n: int = 25, session: int = 7, x: np.ndarray = WAVE, **more: Any) -> Chunk:
    return Chunk("a", session, start, x[start : start + n], Kind.RAW, t_ns=START_NS + start * 8_000_000, **more)


def clean(start: int, n: int = 50, session: int = 7, **more: Any) -> Chunk:
    values = (100 + WAVE[start : start + n]).astype(np.float32)
    sure, flags = np.full(n, 0.75, np.float32), np.zeros(n, np.uint16)
    stamps = {"t_ns": START_NS + start * 8_000_000, "checkpoint": b"12345678"}
    return Chunk("a", session, start, values, confidence=sure, flags=flags, **stamps, **more)


def beats(index: int, *at: int, bpm: float = 72.0, session: int = 7) -> Chunk:
    n = len(at)
    columns = [np.array(at, np.uint64), *(np.full(n, v, np.float32) for v in (800.0, 10.0, 0.9))]
    return Chunk("a", session, index, EMPTY, Kind.BEATS, beats=Beats(bpm, 0.8, *columns))  # type: ignore[arg-type]


class Now:
    """Clocks that stand until they are told to move."""

    def __init__(self) -> None:
        self.s = 0.0

    def wall_ns(self) -> int:
        return START_NS + round(self.s * 1e9)

    def monotonic(self) -> float:
        return self.s


class Desk:
    """A recorder, what it said, and its clocks."""

    def __init__(self, folder: Path, format: str = "parquet") -> None:
        self.now, self.told, self.folder = Now(), [], folder
        self.told: list[str] = []
        self.recorder = Recorder(
            folder, format=format, say=self.told.append, wall_ns=self.now.wall_ns, monotonic=self.now.monotonic
        )

    def hear(self, *chunks: Chunk) -> None:
        for chunk in chunks:
            self.recorder.take(chunk)
            self.recorder.look()

    def live(self, start: int, stop: int, delay: int = 250) -> None:
        """Raw samples as they are measured, and clean ones `delay` samples behind them; both in step with the clock."""
        for k in range(start, stop, 25):
            self.now.s = k / 125
            self.hear(raw(k))
            if k >= delay and not k % 50:
                self.hear(clean(k - delay))

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file() and p.name != LOCK)

    def crash(self) -> None:
        """What is left of a recorder that was killed: its lock is gone, and so is what it had not written."""
        os.close(self.recorder._lock)
        self.recorder._pool.shutdown()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "rec")


def columns_of(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    return found


def facts_in(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return dict(json.loads(str(arrays["recording"])))
    return dict(json.loads(pyarrow.parquet.read_schema(path).metadata[b"recording"]))


@both_formats
def test_raw_stands_beside_clean_and_reads_back_to_the_sample(tmp_path: Path, format: str) -> None:
    desk = Desk(tmp_path, format)
    desk.live(0, 1000)
    desk.hear(*(clean(k) for k in range(750, 1000, 50)), beats(1000, 120, 220), Chunk("a", 7, 1000, EMPTY, Kind.END))
    desk.recorder.close()
    (name,) = desk.files()
    path = tmp_path / name
    assert name == f"a/a_20270115T080000Z.{format}"
    read = recording.read(path)
    np.testing.assert_array_equal(read.samples, WAVE[:1000])
    assert (read.fs, read.gaps) == (125.0, 0)
    np.testing.assert_array_equal(recording.read(path, column="denoised").samples, (100 + WAVE[:1000]).astype(np.float32))
    facts = facts_in(path)
    assert facts["complete"]
    assert facts["samples"] == {"raw": 1000, "denoised": 1000, "denoised_without_raw": 0}
    assert facts["sessions"] == [
        {
            "session": f"{7:016x}",
            "fs": 125.0,
            "checkpoints": [b"12345678".hex()],
            "first_time_ns": START_NS,
            "last_time_ns": START_NS + 975 * 8_000_000,
            "missing": 0,
            "ended": "clean",
        }
    ]
    assert desk.told == [f"{path}: 1,000 samples raw, 1,000 denoised"]


def test_a_row_holds_all_that_is_known_of_its_sample(desk: Desk) -> None:
    desk.hear(raw(0), raw(25), clean(0), beats(50, 30, bpm=61.5), raw(50), Chunk("a", 7, 75, EMPTY, Kind.END))
    desk.recorder.close()
    found = columns_of(desk.folder / desk.files()[0])
    assert len(found["index"]) == 75
    at = {name: values[30] for name, values in found.items()}
    assert at == {
        "session": f"{7:016x}",
        "index": 30,
        "t_s": pytest.approx(30 / 125),
        "time": at["time"],
        "raw": WAVE[30],
        "denoised": np.float32(100 + WAVE[30]),
        "confidence": 0.75,
        "flags": 0,
        "beat_confidence": np.float32(0.9),
        "beat_interval_ms": 800.0,
        "beat_error_ms": 10.0,
        "hr_bpm": None,
        "hr_confidence": None,
    }
    assert at["time"].value == START_NS + 30 * 8_000_000
    assert (found["hr_bpm"][49], found["hr_bpm"].count(None)) == (61.5, 74)
    assert found["denoised"][50:] == [None] * 25  # the daemon stopped before these
    assert found["raw"][50:] == WAVE[50:75].tolist()


def test_what_comes_late_or_twice_is_in_its_place_once(desk: Desk) -> None:
    desk.hear(raw(0), raw(50), raw(25), raw(50), raw(100), clean(0), clean(50))
    desk.recorder.close()
    found = columns_of(desk.folder / desk.files()[0])
    assert found["index"] == list(range(125))
    assert found["raw"] == [*WAVE[:75], *[None] * 25, *WAVE[100:125]]
    read = recording.read(desk.folder / desk.files()[0])
    assert (read.gaps, len(read.samples)) == (1, 125)  # 25 that nobody heard, in their place
    np.testing.assert_array_equal(np.isnan(read.samples), (np.arange(125) >= 75) & (np.arange(125) < 100))


def test_a_sample_that_was_sent_as_nan_is_no_gap(desk: Desk) -> None:
    x = np.where(np.arange(4000) == 40, np.nan, WAVE)
    desk.hear(*(raw(k, x=x) for k in range(0, 100, 25)))
    desk.recorder.close()
    read = recording.read(desk.folder / desk.files()[0])
    assert read.gaps == 0
    np.testing.assert_array_equal(read.samples, x[:100])


@pytest.mark.parametrize("dtype", ["<i2", "<i4", "<f4", "<f8"])
def test_every_kind_of_number_reads_back(desk: Desk, dtype: str) -> None:
    x = (WAVE * 30_000).astype(dtype)
    desk.hear(*(raw(k, x=x) for k in range(0, 100, 25)))
    desk.recorder.close()
    np.testing.assert_array_equal(recording.read(desk.folder / desk.files()[0]).samples, x[:100].astype(float))


def test_a_new_session_goes_on_in_the_same_file(desk: Desk) -> None:
    desk.hear(*(raw(k) for k in range(0, 100, 25)), Chunk("a", 7, 100, EMPTY, Kind.END))
    desk.now.s = 10.0
    desk.hear(*(raw(k, session=8) for k in range(0, 50, 25)))
    desk.recorder.close()
    (name,) = desk.files()
    found = columns_of(desk.folder / name)
    assert found["session"] == [f"{7:016x}"] * 100 + [f"{8:016x}"] * 50
    assert found["t_s"][100] == pytest.approx(10.0)
    read = recording.read(desk.folder / name)
    assert read.gaps == 1
    np.testing.assert_array_equal(read.samples[np.isfinite(read.samples)], [*WAVE[:100], *WAVE[:50]])


def test_without_raw_samples_the_clean_ones_are_recorded(desk: Desk) -> None:
    desk.hear(clean(0), clean(50), Chunk("a", 7, 100, EMPTY, Kind.GAP, missing=25), clean(125))
    desk.recorder.close()
    path = desk.folder / desk.files()[0]
    assert "raw" not in columns_of(path)
    assert facts_in(path)["sessions"][0]["missing"] == 25
    read = recording.read(path)
    assert (read.name, read.gaps, len(read.samples)) == ("denoised", 1, 175)


@both_formats
def test_a_file_ends_at_the_full_hour_and_nothing_is_in_two(tmp_path: Path, format: str) -> None:
    desk = Desk(tmp_path, format)
    whole = [(raw(k), 3596 + k / 125) for k in range(0, 1000, 25)] + [(clean(k), 3598 + k / 125) for k in range(0, 1000, 50)]
    for chunk, at in sorted(whole, key=lambda one: one[1]):
        desk.now.s = at
        desk.hear(chunk)
    desk.recorder.close()
    names = desk.files()
    assert len(names) == 2
    for column, wave in (("raw", WAVE[:1000]), ("denoised", (100 + WAVE[:1000]).astype(np.float32))):
        parts = [recording.read(tmp_path / name, column=column).samples for name in names]
        np.testing.assert_array_equal(np.concatenate(parts), wave)
    assert [facts_in(tmp_path / name)["samples"]["denoised_without_raw"] for name in names] == [0, 0]


def test_a_stream_that_is_silent_at_the_full_hour_is_closed_too(desk: Desk) -> None:
    desk.hear(raw(0), clean(0, 25))
    desk.now.s = 3601.0
    desk.recorder.look()
    deadline = time.monotonic() + 30
    while desk.recorder.files < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
        desk.recorder.look()
    assert [Path(name).suffix for name in desk.files()] == [".parquet"]
    desk.recorder.close()


@both_formats
def test_a_crash_loses_what_is_not_older_than_ten_seconds(tmp_path: Path, format: str) -> None:
    desk = Desk(tmp_path, format)
    desk.live(0, 2500)  # 20 s: flushed once, 10 s in
    desk.crash()
    (left,) = desk.files()
    assert left.endswith(journal.suffix_of(format))
    if format == "parquet":  # others read it while it is open
        heard = pa.ipc.open_stream((tmp_path / left).read_bytes())
        assert heard.read_next_batch().schema.names == ["heard_ns", "body"]
    again = Desk(tmp_path, format)
    assert again.recorder.recover() == 1
    again.recorder.close()
    (name,) = again.files()
    found = recording.read(tmp_path / name)
    assert 20 - FLUSH_S <= len(found.samples) / 125 <= 20
    np.testing.assert_array_equal(found.samples, WAVE[: len(found.samples)])
    assert not facts_in(tmp_path / name)["complete"]
    assert len(again.told) == 1
    assert "was left open: it reaches to 20" in again.told[0]
    assert "what came within 10 s after that is lost" in again.told[0]


@both_formats
def test_a_journal_that_was_cut_anywhere_gives_its_whole_rows(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"x{journal.suffix_of(format)}"
    parts = [[Row(k, encode(raw(25 * k))[1])] for k in range(6)]
    ends = []
    for rows in parts:
        journal.append(path, "a", rows)
        ends.append(path.stat().st_size)
    content = path.read_bytes()
    for size in range(ends[0] - 1, len(content) + 1):
        path.write_bytes(content[:size])
        assert journal.read(path) == ("a", [row for rows, end in zip(parts, ends, strict=True) if end <= size for row in rows])


@pytest.mark.parametrize(
    "content", [b"", b"PPGJ", b"PPGJ1", b"no journal", bytes(1000)], ids=["empty", "4", "5", "text", "zeros"]
)
@pytest.mark.parametrize("suffix", journal.SUFFIXES)
def test_what_is_no_journal_is_passed_over_and_stays(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / "a").mkdir()
    path = tmp_path / f"a/a{suffix}"
    path.write_bytes(content)
    desk = Desk(tmp_path)
    desk.recorder.recover()
    desk.recorder.close()
    assert path.read_bytes() == content
    assert len(desk.told) == 1
    assert desk.told[0].startswith(f"passed over: {path}: no open recording")


def test_a_stream_of_other_columns_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for k, schema in enumerate(([("x", pa.int64())], [("heard_ns", pa.string()), ("body", pa.string())])):
        batch = pa.record_batch([pa.array([], kind) for _, kind in schema], schema=pa.schema(schema, {b"stream": b"a"}))
        with pa.ipc.new_stream(tmp_path / f"a/{k}.arrows", batch.schema) as file:
            file.write_batch(batch)
    desk = Desk(tmp_path)
    assert desk.recorder.recover() == 2
    desk.recorder.close()
    assert all("no open recording" in text for text in desk.told)
    assert len(desk.told) == 2


def test_zeros_behind_a_cut_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    journal.append(path, "a", [Row(START_NS, encode(raw(0))[1])])
    path.write_bytes(path.read_bytes() + bytes(1000))
    found = recorded.of_journal(path)
    assert found is not None
    assert found.facts["heard_until_ns"] == START_NS


def test_a_sensor_that_counts_from_0_again_goes_on_beside_the_daemon_s_next_session(desk: Desk) -> None:
    other = np.cos(np.arange(4000) / 13).round(3)
    desk.hear(*(raw(k) for k in range(0, 300, 25)), raw(275), *(clean(k) for k in range(0, 300, 50)))  # and one comes twice
    desk.hear(*(raw(k, x=other) for k in range(0, 500, 25)), *(clean(k, session=8) for k in range(0, 500, 50)))
    desk.recorder.close()
    path = desk.folder / desk.files()[0]
    assert facts_in(path)["samples"] == {"raw": 800, "denoised": 800, "denoised_without_raw": 0}
    read = recording.read(path).samples
    np.testing.assert_array_equal(read[np.isfinite(read)], [*WAVE[:300], *other[:500]])


def test_a_first_message_that_comes_late_is_no_restart(desk: Desk) -> None:
    desk.hear(raw(25), raw(0), raw(50), raw(100), raw(75), raw(0, 50), *(clean(k, 25) for k in range(0, 125, 25)))
    desk.recorder.close()
    path = desk.folder / desk.files()[0]
    assert facts_in(path)["samples"] == {"raw": 125, "denoised": 125, "denoised_without_raw": 0}
    np.testing.assert_array_equal(recording.read(path).samples, WAVE[:125])


@both_formats
def test_a_recorder_that_joins_late_without_raw_is_read_all_the_same(tmp_path: Path, format: str) -> None:
    desk = Desk(tmp_path, format)
    desk.hear(beats(1000, 800, 900), clean(1000), clean(1050))  # beats of samples that nobody heard
    desk.recorder.close()
    read = recording.read(tmp_path / desk.files()[0])
    np.testing.assert_array_equal(read.samples, (100 + WAVE[1000:1100]).astype(np.float32))


def test_another_rate_begins_another_file(desk: Desk) -> None:
    desk.hear(*(raw(k) for k in range(0, 500, 25)), *(clean(k) for k in range(0, 500, 50)), Chunk("a", 7, 500, EMPTY, Kind.END))
    desk.now.s = 5.0
    slow = {"session": 8, "fs": 64.0}
    desk.hear(*(raw(k, **slow) for k in range(0, 500, 25)), *(clean(k, **slow) for k in range(0, 500, 50)))
    desk.recorder.close()
    found = [recording.read(desk.folder / name) for name in desk.files()]
    assert [(round(one.fs or 0), len(one.samples), one.gaps) for one in found] == [(125, 500, 0), (64, 500, 0)]


def test_what_cannot_be_written_costs_the_other_streams_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.recorder.take(Chunk("full", 1, 0, WAVE[:25], Kind.RAW))
    desk.recorder.take(Chunk("fine", 1, 0, WAVE[:25], Kind.RAW))
    real = journal.append

    def append(path: Path, stream: str, rows: Any) -> None:
        if stream == "full":
            raise OSError(28, "No space left on device")
        real(path, stream, rows)

    monkeypatch.setattr(journal, "append", append)
    with pytest.raises(OutputError, match="No space left"):
        desk.recorder.close()
    assert [name.split("/")[0] for name in desk.files()] == ["fine"]


def test_what_a_long_recording_keeps_in_memory_stays_small(desk: Desk) -> None:
    for session in range(300):
        desk.now.s = 20.0 * session
        desk.hear(raw(0, session=session), clean(0, 25, session=session))
    assert len(desk.recorder._open["a"].clean_to) < 200
    desk.recorder.close()


def test_a_damaged_message_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    bodies = [bytearray(encode(raw(25 * k))[1]) for k in range(4)]
    bodies[1][60] ^= 1
    journal.append(
        path,
        "a",
        [
            noted(0, begins={}),
            *(Row(k, bytes(body)) for k, body in enumerate(bodies)),
            Row(9, b"{no note"),
            Row(9, b'{"cut": 5}'),
        ],
    )
    found = recorded.of_journal(path)
    assert found is not None
    assert found.facts["damaged_messages"] == 1
    assert found.columns["index"].values.tolist() == [*range(25), *range(50, 100)]


def test_a_stream_without_a_sample_leaves_no_file(desk: Desk) -> None:
    desk.hear(Chunk("a", 7, 0, EMPTY, Kind.STATUS))
    desk.recorder.close()
    assert desk.files() == []


def test_stream_ids_cannot_leave_the_folder(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "in/rec")
    for stream in ("..", ".", "a:b", ".hidden", "A.b_-9"):
        desk.recorder.take(Chunk(stream, 1, 0, WAVE[:25], Kind.RAW))
    desk.recorder.close()
    folders = sorted(p.name for p in desk.folder.iterdir() if p.is_dir())
    assert folders == ["%2E", "%2E%2E", "%2Ehidden", "A.b_-9", "a%3Ab"]
    assert len(desk.files()) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_two_recorders_do_not_share_a_folder(desk: Desk) -> None:
    with pytest.raises(UsageError, match="another `ppgstream record` writes there"):
        Recorder(desk.folder, format="npz", say=print)
    desk.recorder.close()
    Recorder(desk.folder, format="npz", say=print).close()


def test_a_full_disk_is_told_and_what_is_on_it_is_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.live(0, 1500)
    size = (desk.folder / desk.files()[0]).stat().st_size

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fdatasync", full)
    with pytest.raises(OutputError, match=r"a_\w+\.arrows: cannot write: No space left on device"):
        desk.live(1500, 3000)
    assert (desk.folder / desk.files()[0]).stat().st_size == size  # not half a row more
    monkeypatch.undo()
    desk.crash()
    again = Desk(desk.folder)
    again.recorder.recover()
    again.recorder.close()
    assert len(recording.read(desk.folder / again.files()[0]).samples) >= 1250


def test_events_are_kept_with_their_stream_and_all_together(desk: Desk) -> None:
    class Told:
        recent = (
            EventStatus("step", "a", "a: a step at index 40", 1, 0.5),
            EventStatus("malformed", "", "malformed message", 3, 0.2),
            EventStatus("step", "a", "a: long before", 1, 900.0),
        )

    desk.hear(raw(0), raw(25))
    for _ in range(3):  # the daemon tells the same ones again and again
        desk.recorder.hear(Told(), 5.0)  # type: ignore[arg-type]
    desk.recorder.close()
    lines = [json.loads(line) for line in (desk.folder / "events.jsonl").read_text().splitlines()]
    assert [(line["name"], line["times"]) for line in lines] == [("step", 1), ("malformed", 3)]
    (path,) = (p for p in desk.folder.rglob("*.parquet"))
    assert [event["text"] for event in facts_in(path)["events"]] == ["a: a step at index 40"]


# ---- with a daemon -----------------------------------------------------------------------------------------------

PPGSTREAM = [str(Path(sys.executable).with_name("ppgstream"))]


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([*PPGSTREAM, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()  # type: ignore[union-attr]


@pytest.mark.parametrize("published", [True, False], ids=["raw", "clean alone"])
def test_a_session_is_recorded_and_denoised_again_to_the_same_bits(tmp_path: Path, published: bool) -> None:
    ends = {name: f"ipc://{tmp_path}/{name}" for name in ("in", "out", "status")}
    x = np.round(1000 * WAVE).astype(np.float64)
    x[2000] = np.nan
    np.save(tmp_path / "wrist.npy", x)
    sockets = [f"--{name}={end}" for name, end in ends.items()]
    with started("run", *sockets, *(["--raw"] if published else [])) as daemon:
        for line in daemon.stderr:  # type: ignore[union-attr]
            if "ready" in line:
                break
        asked = ["--from", ends["out"], "--status", ends["status"], "--until-end", "--wait", 60]
        with started("record", "-o", tmp_path / "rec", *asked) as recorder:
            deadline = time.monotonic() + 60
            status = [*PPGSTREAM, "monitor", "--once", "--json", "--status", ends["status"]]
            while time.monotonic() < deadline:  # until it listens
                if json.loads(subprocess.run(status, capture_output=True, check=True).stdout)["subscribers"]:
                    break
            replay = [
                "replay",
                tmp_path / "wrist.npy",
                "--fs",
                125,
                "--to",
                ends["in"],
                "--status",
                ends["status"],
                "--speed",
                20,
            ]
            subprocess.run([*PPGSTREAM, *map(str, replay)], check=True, capture_output=True)
            told = recorder.stderr.read()  # type: ignore[union-attr]
            assert recorder.wait(60) == 0, told
    (path,) = (tmp_path / "rec/wrist").iterdir()
    assert f"recorded {4000 if published else 0:,} samples raw and 4,000 denoised in 1 files" in told
    if published:
        np.testing.assert_array_equal(recording.read(path).samples, x)
        assert facts_in(path)["samples"][Flag.NONFINITE.name.lower()] == 1
        clean = recording.read(path, column="denoised").samples
        again = tmp_path / "again.npy"
        subprocess.run([*PPGSTREAM, "denoise", str(path), "-o", str(again)], check=True, capture_output=True)
        np.testing.assert_array_equal(np.load(again), clean.astype(np.float32))
        shutil.rmtree(tmp_path / "rec")
    else:
        assert "raw" not in columns_of(path)


def test_wrong_requests_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for arguments, code, text in (
        (["-o", tmp_path / "file"], 74, "file: cannot write there"),
        (["-o", tmp_path, "--format", "csv"], 2, "--format 'csv': must be one of parquet, npz"),
        (["-o", tmp_path, "--from", "tcp://1.2.3.4:1"], 78, "is not a loopback address"),
        (["-o", tmp_path, "--from", f"ipc://{tmp_path}/none", "--wait", 0.3], 69, "nothing came in 0.3 s"),
    ):
        done = subprocess.run([*PPGSTREAM, "record", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_of_several_streams_others_are_neither_recorded_nor_waited_for(tmp_path: Path) -> None:
    context: zmq.Context[Any] = zmq.Context()
    publisher = context.socket(zmq.XPUB)
    publisher.bind(f"ipc://{tmp_path}/out")
    receiver = Receiver(f"ipc://{tmp_path}/out", ["a", "b"])
    patience = Patience(receiver, until_end=True, wait_s=0.0)
    try:
        assert {publisher.recv() for _ in range(2)} == {b"\x01a", b"\x01b"}
        for stream in ("a", "ab", "b", "c"):
            publisher.send_multipart(encode(Chunk(stream, 1, 0, WAVE[:25])))
        for stream in ("a", "b"):
            publisher.send_multipart(encode(Chunk(stream, 1, 25, EMPTY, Kind.END)))
        heard: set[str] = set()
        deadline = time.monotonic() + 30
        while not patience.over() and time.monotonic() < deadline:
            heard |= {chunk.stream for chunk in receiver.poll(0.1)}
        assert heard == {"a", "b"}
        assert receiver.all_ended
    finally:
        receiver.close()
        context.destroy(linger=0)
