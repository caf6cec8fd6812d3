"""Lab Streaming Layer, with real outlets and inlets on one machine."""

from __future__ import annotations

import math
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.daemon import PATIENCE_S, until
from xdf import Recorder

from ppgstream.live.receiver import Receiver
from ppgstream.live.status import StatusClient
from ppgstream.wire.message import Chunk, Kind

pylsl = pytest.importorskip("pylsl", reason="pylsl is not installed: pip install ppgstream[lsl]")

FS = 64.0


def outlet_of(name: str, *, fs: float = FS, labels: tuple[str, ...] = ("red", "ir"), unit: str = "counts") -> Any:
    info = pylsl.StreamInfo(name, "PPG", len(labels), fs, "float32", f"test.{name}")
    channels = info.desc().append_child("channels")
    for label in labels:
        channel = channels.append_child("channel")
        channel.append_child_value("label", label)
        channel.append_child_value("unit", unit)
    return pylsl.StreamOutlet(info)


class Served:
    """A daemon that reads one LSL stream by its name, and publishes to LSL too."""

    def __init__(self, folder: Path, predicate: str, *more: str) -> None:
        self.ends = [f"ipc://{folder / name}" for name in ("in", "out", "status")]
        flags = [f for name, end in zip(("in", "out", "status"), self.ends, strict=True) for f in (f"--{name}", end)]
        arguments = ["run", "--checkpoint", "fast", *flags, "--lsl-in", predicate, "--lsl-out", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ppgstream", *arguments], stderr=subprocess.PIPE, text=True, cwd=folder
        )
        assert self.process.stderr is not None
        assert "ready" in self.process.stderr.readline()
        self.receiver = Receiver(self.ends[1])
        self.chunks: list[Chunk] = []
        self.status = StatusClient(self.ends[2])
        until(lambda: (found := self.status.ask(1.0)) is not None and found.subscribers >= 2, "both subscriptions")

    def hear(self) -> list[Chunk]:
        self.chunks += self.receiver.poll(0.02)
        return self.chunks

    def close(self) -> None:
        self.receiver.close()
        self.status.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def reachable() -> None:
    """Skips where this machine's network lets no LSL stream find another, not even on the machine itself."""
    name = f"probe{secrets.token_hex(4)}"
    outlet = outlet_of(name)
    if not pylsl.resolve_byprop("name", name, 1, 10.0):
        pytest.skip("LSL finds no stream here: multicast and loopback are closed")
    del outlet


@pytest.fixture
def serve(reachable: None, tmp_path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def of(predicate: str, *more: str) -> Served:
        made.append(Served(tmp_path, predicate, *more))
        return made[-1]

    yield of
    for served in made:
        served.close()


def test_a_stream_goes_through_and_comes_back_with_its_own_stamps(serve: Callable[..., Served]) -> None:
    name = f"wrist {secrets.token_hex(4)}"
    stream = name.replace(" ", "-")
    outlet = outlet_of(name)
    served = serve(f"name='{name}'")
    until(outlet.have_consumers, "the daemon to read")
    began = pylsl.local_clock() - 30.0
    stamps = began + np.arange(round(24 * FS)) / FS
    x = 50_000 + 900 * np.sin(2 * np.pi * 1.25 * np.arange(len(stamps)) / FS)
    clean = None
    got: list[Any] = []
    beats: list[Any] = []
    beats_inlet = None
    for at in range(0, len(x), 16):
        part = slice(at, at + 16)
        outlet.push_chunk(np.stack([np.zeros(16), x[part]], axis=1).astype(np.float32).tolist(), stamps[part].tolist())
        time.sleep(0.01)
        if clean is None and at > 400:
            found = {i.name(): i for i in until(lambda: pylsl.resolve_byprop("type", "PPG", 2, 5.0), "the outlet")}
            if f"{stream} clean" in found:
                clean = pylsl.StreamInlet(found[f"{stream} clean"])
                clean.open_stream(5.0)
                about = clean.info(5.0)
    assert clean is not None
    (beats_info,) = until(lambda: pylsl.resolve_byprop("name", f"{stream} beats", 1, 5.0), "the beats")
    beats_inlet = pylsl.StreamInlet(beats_info)
    beats_inlet.open_stream(5.0)
    served.process.send_signal(signal.SIGTERM)
    until(lambda: any(c.kind is Kind.END for c in served.hear()), "the END")
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        got += list(zip(*clean.pull_chunk(timeout=0.1), strict=True))
        beats += list(zip(*beats_inlet.pull_chunk(timeout=0.0), strict=True))
    assert served.process.wait(PATIENCE_S) == 0
    data = [c for c in served.chunks if c.kind is Kind.DATA]
    assert sum(len(c.samples) for c in data) == len(x)
    assert {(c.stream, c.fs) for c in data} == {(stream, FS)}
    assert not any(c.unclean for c in served.chunks)
    assert len(got) > 5 * FS
    for row, stamp in got:
        k = round((stamp - began) * FS)
        assert abs(stamp - stamps[k]) < 1e-3
        assert abs(row[0] - x[k]) < 120
        assert 0 <= row[1] <= 1
    assert about.nominal_srate() == FS
    assert about.source_id() == f"ppgstream.{stream}.clean"
    assert about.desc().child("channels").child("channel").child_value("unit") == "counts"
    assert float(about.desc().child("ppgstream").child_value("delay_s")) == pytest.approx(1.99, abs=0.3)
    assert len(about.desc().child("ppgstream").child_value("checkpoint")) == 16
    assert all(math.isnan(row[0]) or abs(row[0] - 800) < 40 for row, _ in beats)


def test_a_sensor_that_comes_again_is_read_again_and_lost_samples_are_a_gap(serve: Callable[..., Served]) -> None:
    name = f"belt{secrets.token_hex(4)}"
    served = serve(f"name='{name}'", "--lsl-channel", "red")
    for turn in range(2):
        outlet = outlet_of(name)
        until(outlet.have_consumers, "the daemon to read")
        began = pylsl.local_clock()
        for at in (0, 64, 256):  # 128 are missing
            time.sleep(2.0 if at == 256 else 0.0)
            rows = np.stack([np.full(64, turn + 1.0) + np.arange(64) % 7, np.zeros(64)], axis=1).astype(np.float32)
            outlet.push_chunk(rows.tolist(), (began + (at + np.arange(64)) / FS).tolist())
        until(lambda turn=turn: (s := served.status.ask(1.0)) and s.ledger.accepted == 192 * (turn + 1), "the samples")
        del outlet
    snapshot = served.status.ask(1.0)
    assert snapshot is not None
    assert snapshot.ledger.gap >= 2 * 127
    assert snapshot.ledger.unaccounted == 0


def test_a_daemon_reads_nothing_that_it_publishes_and_a_bad_stream_harms_no_other(serve: Callable[..., Served]) -> None:
    kind = f"kind{secrets.token_hex(4)}"

    def outlet_named(name: str) -> Any:
        return pylsl.StreamOutlet(pylsl.StreamInfo(f"{kind}-{name}", "PPG", 1, FS, "float32", f"test.{kind}.{name}"))

    good, bad = outlet_named("good"), outlet_named("bad")
    served = serve(f"starts-with(name,'{kind}')")  # as the names of its own streams do
    for outlet in (good, bad):
        until(outlet.have_consumers, "the daemon to read")
    began, n = pylsl.local_clock(), 0

    def push(seconds: float) -> None:
        nonlocal n
        for _ in range(round(seconds * 4)):
            time.sleep(0.25)
            wave = [[float(1000 + (k % 50))] for k in range(n, n + 16)]
            good.push_chunk(wave, (began + (n + np.arange(16)) / FS).tolist())
            n += 16

    bad.push_chunk([[1.0]] * 3, [math.nan, math.inf, 1e12])
    push(5.0)
    bad.push_chunk([[1.0]] * 3, [-1e12, began, math.nan])
    push(1.0)
    snapshot = until(lambda: (s := served.status.ask(1.0)) and s.ledger.accepted >= n and s, "all samples")
    assert {row.name for row in snapshot.streams} <= {f"{kind}-good", f"{kind}-bad"}
    (row,) = [row for row in snapshot.streams if row.name == f"{kind}-good"]
    assert (row.accepted, row.gap, row.refused) == (n, 0, 0)
    assert served.process.poll() is None


@pytest.mark.parametrize("predicate", ["type=='", "", "foo("])
def test_a_predicate_that_is_none_is_refused_at_the_start(predicate: str, tmp_path: Path) -> None:
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]
    command = [sys.executable, "-m", "ppgstream", "run", "--checkpoint", "lmmse", *ends, "--lsl-in", predicate]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "--lsl-in" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_read_is_told_with_what_there_is() -> None:
    from ppgstream.live.lsl import channel_of

    outlet = outlet_of(f"x{secrets.token_hex(4)}")
    info = outlet.get_info()
    assert channel_of(info, None) == (1, "counts")
    assert channel_of(info, "red") == (0, "counts")
    assert channel_of(info, "1") == (1, "counts")
    with pytest.raises(ValueError, match="no channel 'green': it has red, ir"):
        channel_of(info, "green")
    words = pylsl.StreamInfo("words", "PPG", 1, 0.0, "string", "words")
    with pytest.raises(ValueError, match="text"):
        channel_of(words, None)


def test_what_labrecorder_would_record_aligns_raw_and_clean_to_a_sample(serve: Callable[..., Served], tmp_path: Path) -> None:
    """A pulse whose beats are unevenly spaced has one place where raw and clean fit."""
    pyxdf = pytest.importorskip("pyxdf")
    name = f"xdf{secrets.token_hex(4)}"
    outlet = outlet_of(name)
    served = serve(f"name='{name}'")
    until(outlet.have_consumers, "the daemon to read")
    t = np.arange(round(24 * FS)) / FS
    x = 50_000 + 900 * np.exp(2 * np.cos(2 * np.pi * 1.2 * t + 1.5 * np.sin(2 * np.pi * 0.11 * t)) - 2)
    began = pylsl.local_clock()

    def inlet_of(stream: str) -> Any:
        (info, *_) = until(lambda: pylsl.resolve_byprop("name", stream, 1, 5.0), stream)
        inlet = pylsl.StreamInlet(info)
        inlet.open_stream(5.0)
        return inlet

    def push(at: int) -> None:
        rows = np.stack([np.zeros(16), x[at : at + 16]], axis=1).astype(np.float32)
        outlet.push_chunk(rows.tolist(), (began + t[at : at + 16]).tolist())
        time.sleep(0.01)

    raw = inlet_of(name)
    early = 480
    for at in range(0, early, 16):
        push(at)
    with Recorder(tmp_path / "r.xdf", [raw, inlet_of(f"{name} clean"), inlet_of(f"{name} beats")]) as recorder:
        for at in range(early, len(x), 16):
            push(at)
            recorder.pull()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE_S) == 0
        recorder.pull()
    streams, _ = pyxdf.load_xdf(str(tmp_path / "r.xdf"))
    of = {s["info"]["name"][0]: s for s in streams}
    assert set(of) == {name, f"{name} clean", f"{name} beats"}
    raws, cleans = of[name], of[f"{name} clean"]
    assert cleans["info"]["desc"][0]["channels"][0]["channel"][0]["label"] == ["denoised"]
    assert len(cleans["time_stamps"]) > 8 * FS
    # By the stamps alone, each clean sample lies on a raw one; and the waves fit there better than a sample beside.
    place = np.rint((cleans["time_stamps"] - raws["time_stamps"][0]) * FS).astype(int)
    inside = (place >= 2) & (place < len(raws["time_stamps"]) - 2)
    assert np.abs(raws["time_stamps"][place[inside]] - cleans["time_stamps"][inside]).max() < 0.5 / FS
    y, at = cleans["time_series"][inside, 0], place[inside]
    fits = {k: np.corrcoef(raws["time_series"][at + k, 1], y)[0, 1] for k in (-2, -1, 0, 1, 2)}
    assert max(fits, key=lambda k: fits[k]) == 0
    assert fits[0] > 0.99
