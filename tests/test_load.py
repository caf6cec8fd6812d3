"""`ppgstream bench`: the search for the capacity, the load, and the command from end to end."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from ppgstream.cli.app import app
from ppgstream.errors import ConfigError, OutputError, SourceError, UsageError
from ppgstream.model.checkpoint import SHIPPED
from ppgstream.model.restore import restore
from ppgstream.show import bench, load, messages
from ppgstream.wire.message import decode


@pytest.mark.parametrize("capacity", [0, 9, 10, 40, 250, 251, 990, 1000, 2345, 9_990, 10_000, 50_000])
def test_the_search_finds_what_is_carried_in_few_probes(capacity: int) -> None:
    asked: list[int] = []

    def carried(streams: int) -> bool:
        asked.append(streams)
        return streams <= capacity

    found = bench.search(carried, bench.FIRST_STREAMS, bench.MOST_STREAMS)
    most = min(capacity, bench.MOST_STREAMS)
    assert found <= most
    assert found >= most * (1 - 2 * bench.PRECISION) - 2 * bench.ROUND
    assert not found or found in asked
    assert len(asked) <= 14
    assert len(set(asked)) == len(asked)


def test_streams_take_turns_and_a_message_leaves_once_its_last_sample_is_there() -> None:
    asked = load.Load(4, 2.0, 100.0, 1, 0)
    assert asked.chunks == 10
    assert [asked.due(k, 0) for k in range(4)] == pytest.approx([100.2, 100.7, 101.2, 101.7])
    assert asked.due(0, 3) == pytest.approx(100.8)


def test_the_load_is_messages_of_the_format_with_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Socket:
        def setsockopt(self, *_: object) -> None: ...
        def connect(self, _: str) -> None: ...
        def recv(self) -> bytes:
            return b"\x01"

        def send(self, part: bytes, flags: int = 0) -> None:
            assert bool(flags & load.zmq.SNDMORE) == (len(sent) % 2 == 0)
            sent.append(part)

    class Context:
        def socket(self, _: int) -> Socket:
            return Socket()

        def destroy(self, linger: int) -> None: ...

    monkeypatch.setattr(load.zmq, "Context", Context)
    result = load.send("ipc://nowhere", load.Load(3, 0.6, 0.0, 77, 0))
    chunks = [decode(parts) for parts in zip(sent[::2], sent[1::2], strict=True)]
    assert result.samples == 3 * 3 * load.CHUNK == sum(len(c.samples) for c in chunks)
    for stream in range(3):
        own = [c for c in chunks if c.stream == load.name_of(stream).decode()]
        assert [(c.kind.name, c.index) for c in own] == [("DATA", 0), ("DATA", 25), ("DATA", 50), ("END", 75)]
        assert {c.session for c in own} == {77}
        assert np.ptp(np.concatenate([c.samples for c in own])) > 100


def test_a_number_of_streams_is_measured_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK", bench.Plan(probe=3.0, hold=3.0, speed=0.02))
    done = CliRunner().invoke(app, ["bench", "--checkpoint", "lmmse", "--quick", "--streams", "7", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert set(result) == {"checkpoint", "cores", "system"}
    (probe,) = result["system"]["probes"]
    assert (probe["streams"], probe["seconds"]) == (7, 3.0)
    assert probe["lost"] == 0


def test_a_loop_of_another_library_is_among_the_peers() -> None:
    step = bench._neurokit_loop()
    assert step is not None
    _, found = step()  # type: ignore[misc]
    assert 4 <= len(found["PPG_Peaks"]) <= 30  # of 8 s


def test_the_command_measures_a_daemon_and_writes_figures_and_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "QUICK", bench.Plan(probe=3.0, hold=3.0, speed=0.02, fixed=()))
    monkeypatch.setattr(bench, "FIRST_STREAMS", 10)
    monkeypatch.setattr(bench, "MOST_STREAMS", 10)
    asked = ["bench", "--checkpoint", "lmmse", "--quick", "--parts", "model,system", "--json", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == result
    assert (tmp_path / "out" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert {row["tile"] for row in result["model"]} == set(bench.TILES)
    assert all(row["windows_per_s"] > 0 and row["gemm_gflops"] > 0 for row in result["model"])
    first = result["system"]["probes"][0]  # how late it came depends on what else the machine does; what came does not
    assert first["streams"] == 10
    assert first["sent"] == 10 * 15 * 25
    assert first["lost"] == first["shed"] == first["unaccounted"] == 0
    assert result["system"]["streams"] in (0, 10)
    assert first["daemon_cores"] > 0
    console = Console(width=80, record=True, quiet=True)
    for part in bench.tables(result):
        console.print(part)
    for line in bench.summary(result):
        assert line.startswith(("model: ", "system: "))


def test_what_cannot_be_measured_is_one_line(tmp_path: Path) -> None:
    def refused(code: int, *arguments: str) -> str:
        done = CliRunner().invoke(app, ["bench", *arguments])
        assert done.exit_code == code, done.output
        return " ".join(done.stderr.split())

    assert "--parts: known are model, system, peers, messages, got speed" in refused(UsageError.exit_code, "--parts", "speed")
    (tmp_path / "bad.toml").write_text("[model]\nthreads = -1\n")
    assert "model.threads" in refused(ConfigError.exit_code, "--config", str(tmp_path / "bad.toml"))
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(OutputError.exit_code, "--out", str(tmp_path / "file" / "out"))
    with pytest.raises(SourceError, match=r"did not start: ppgstream: .*no-such-setting"):
        bench.Target(SHIPPED / "lmmse", tmp_path, ["--config", "no-such-setting.toml"])


def test_a_machine_that_becomes_slow_slows_network_and_product_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = 0.0, list[str]()

    def work(name: str, seconds: float) -> None:
        nonlocal now
        order.append(name)
        now += seconds * (5 if now > 0.8 else 1)  # busy from there on

    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now))
    network, gemm = bench.rates_by_turns(lambda: work("network", 0.01), lambda: work("product", 0.005), 1, 1.5)
    assert network / gemm == pytest.approx(0.5)
    changes = sum(a != b for a, b in pairwise(order))
    assert changes >= 2 * bench.TURNS - 1


def test_without_tensorflow_the_peers_that_need_it_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(bench, "_apart", lambda measure, *arguments: measure(*arguments))
    told: list[str] = []
    result = bench.run(restore(SHIPPED / "lmmse"), parts=["peers"], plan=bench.Plan(speed=0.02), say=told.append)
    ways = [row["way"] for row in result["peers"]]
    assert len(ways) == 4
    assert not [way for way in ways if "TensorFlow" in way or "Keras" in way]
    (line,) = [line for line in told if "left out" in line]
    assert line.startswith("peers: left out: the ways through Keras and TensorFlow: TensorFlow cannot be imported")
    assert bench.tables(result)[0].row_count == 4


def test_the_cost_of_each_kind_of_message_is_a_multiple_of_an_ordinary_one_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "BEFORE", 50)
    monkeypatch.setattr(messages, "COUNTED", 20)
    told: list[str] = []
    rows = messages.costs(told.append)
    assert [row["message"] for row in rows] == [sort.name for sort in messages.SORTS]
    assert len(told) == len(rows)
    assert rows[0]["times"] == 1.0
    assert all(row["us"] > 0 for row in rows)


def test_other_streams_are_measured_beside_a_flood(tmp_path: Path) -> None:
    plan = bench.Plan(probe=3.0)
    costs = [{"message": "STATUS, index rises", "us": 1.0, "times": 0.5}]
    rows = bench.beside_floods(SHIPPED / "lmmse", costs, plan=plan, say=lambda _: None, settings=[])
    assert [row["message"] for row in rows] == ["none", "STATUS, index rises"]
    assert rows[0]["taken_per_s"] == 0
    assert rows[1]["taken_per_s"] > 0
    assert [(row["lost"], row["shed"]) for row in rows] == [(0, 0), (0, 0)]
    result = {"checkpoint": {"family": "lmmse", "mflop": 1.0}, "messages": rows}
    assert bench.tables(result)[0].row_count == 2
    assert "costs 0.5 times an ordinary one" in bench.summary(result)[0]
    rows[1]["lag_p99_ms"] = rows[1]["lag_p50_ms"] = None
    assert bench.summary(result)[0].endswith("beside STATUS, index rises: nothing of other streams came")
    assert bench.tables(result)[0].row_count == 2
