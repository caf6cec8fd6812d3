"""What operates a daemon: metrics, health, the service manager's messages, --check, and the files in contrib/."""

from __future__ import annotations

import configparser
import fcntl
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from faults.daemon import PATIENCE_S, until
from rules import rules
from test_bridge import start
from test_daemon import DATA, END, serving, wave
from test_monitor import ROW, SNAPSHOT

from ppgstream.config import In, Streams
from ppgstream.config import Model as ModelSettings
from ppgstream.core.denoiser import Answer, Batch, identity
from ppgstream.errors import SourceError
from ppgstream.live.canary import Canary, canary_of, fault_of, self_test
from ppgstream.live.service import Notifier
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.live.workers import Workers

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: pip install ppgstream[metrics]")

from prometheus_client.parser import text_string_to_metric_families

from ppgstream.live.metrics import MOST_STREAMS, MetricsServer, exposition, unwell

CONTRIB = Path(__file__).parent.parent / "contrib"
PLAN = rules().plan


def series(s: Snapshot) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus reads, by name and labels."""
    text = exposition(s).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def snapshot(**more: Any) -> Snapshot:
    told = {
        "lag_counts": [0, 1, 5, 5, *[9] * 9],
        "lag_sum_ms": 180.0,
        "window_s": 0.2,
        "troubles": {"silent": 2},
    }
    return msgspec.convert(SNAPSHOT | told | more, Snapshot)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def test_metrics_say_what_the_status_says() -> None:
    found = series(snapshot(events={"late_join": 3}))
    assert found["ppgstream_samples_total", (("outcome", "accepted"),)] == 5000
    assert found["ppgstream_samples_total", (("outcome", "gap"),)] == 25
    assert found["ppgstream_samples_unaccounted", ()] == 0
    assert found["ppgstream_streams_in_trouble", (("trouble", "silent"),)] == 2
    assert found["ppgstream_streams_in_trouble", (("trouble", "lost"),)] == 0
    assert found["ppgstream_events_total", (("name", "late_join"),)] == 3
    assert found["ppgstream_lag_seconds_bucket", (("le", "0.02"),)] == 5
    assert found["ppgstream_lag_seconds_bucket", (("le", "+Inf"),)] == found["ppgstream_lag_seconds_count", ()] == 9
    assert found["ppgstream_lag_seconds_sum", ()] == pytest.approx(0.18)
    assert found["ppgstream_stream_heart_rate_bpm", (("stream", "wrist"),)] == pytest.approx(71.6)
    assert found["ppgstream_stream_samples_total", (("outcome", "denoised"), ("stream", "wrist"))] == 4800
    assert found["ppgstream_healthy", ()] == 1
    assert ("ppgstream_info", (("checkpoint", "a88d3e5788f9f8db"), ("family", "brae"), ("version", "0.1.0"))) in found


def test_streams_have_series_of_their_own_up_to_a_bound() -> None:
    for n in (MOST_STREAMS, MOST_STREAMS + 1):
        rows = [ROW | {"name": f"s{k}", "bpm": None} for k in range(n)]
        found = series(snapshot(streams=rows, streams_total=n))
        assert sum(name == "ppgstream_stream_live" for name, _ in found) == (n if n <= MOST_STREAMS else 0)
        assert not any(name == "ppgstream_stream_heart_rate_bpm" for name, _ in found)
        assert found["ppgstream_streams", ()] == n


def test_a_name_cannot_break_a_line() -> None:
    assert any(("stream", 'a"b') in labels for _, labels in series(snapshot(streams=[ROW | {"name": 'a"b'}])))


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_metrics_and_health_of_a_daemon_at_work() -> None:
    server = MetricsServer("127.0.0.1:*")
    with serving() as served:
        server.serve(served.daemon.endpoints["status"])
        until(lambda: get(server.address, "/readyz")[0] == 200, "readiness")
        until(lambda: get(server.address, "/healthz") == (200, "ok\n"), "health")
        served.sensor().send("a", DATA, 1, 0, wave(500))
        until(lambda: 'ppgstream_samples_total{outcome="accepted"} 500.0' in get(server.address, "/metrics")[1], "the samples")

        def counts() -> list[float]:
            text = get(server.address, "/metrics")[1]
            return [float(n) for n in re.findall(r'ppgstream_lag_seconds_bucket\{le="[^"]+"\} (\S+)', text)]

        until(lambda: counts()[-1] > 0, "the lag of windows")
        assert counts() == sorted(counts())
        assert get(server.address, "/")[0] == get(server.address, "/metrics/x")[0] == 404
        assert get(server.address, "/metrics", Host="evil.example")[0] == 403
        served.stop()
    status, why = get(server.address, "/healthz")
    assert (status, why) == (503, "the daemon has not answered for 2 s\n")
    assert get(server.address, "/readyz")[0] == 503
    server.close()
    with pytest.raises(OSError, match=r"."):
        get(server.address, "/healthz")


def test_what_is_told_is_of_now_however_many_others_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppgstream.live.questions.KEPT_FOR", 300)  # as if each answer took long to make
    with serving() as served:
        other = StatusClient(served.daemon.endpoints["status"])
        told: list[float] = []
        late: list[float] = []

        def another() -> bool:
            for k in range(5):
                other.ask(5.0, rows=7, like="x" * (k % 3))
            asked = time.monotonic() - served.daemon.started
            found = served.status.ask(5.0, rows=9)
            assert found is not None
            told.append(found.uptime_s)
            late.append(asked - found.uptime_s)
            return told[-1] > told[0] + 2.0

        until(another, "answers of later times")
        other.close()
        assert max(late) < PATIENCE_S / 4
        assert told == sorted(told)


def test_a_sensor_that_is_gone_is_told_after_its_session_was_ended() -> None:
    with serving(streams=Streams(idle_s=1.0)) as served:
        sensor = served.sensor()
        sensor.send("gone", DATA, 1, 0, wave(300))
        sensor.send("ended", DATA, 2, 0, wave(300))
        sensor.send("ended", END, 2, 300)
        until(lambda: (row := served.row("gone")) and row["troubles"] == ["gone"], "that it is gone")
        assert served.ask()["troubles"] == {"gone": 1}
        ended = served.row("ended")
        assert ended is not None
        assert (ended["live"], ended["troubles"]) == (False, [])
        sent = itertools.count()

        def is_there() -> bool:
            sensor.send("gone", DATA, 3, 25 * next(sent), wave(25))
            row = served.row("gone")
            return row is not None and row["live"] and row["troubles"] == []

        until(is_there, "that it is there again")


def test_a_port_in_use_is_said() -> None:
    one = MetricsServer("127.0.0.1:*")
    with pytest.raises(SourceError, match=r"metrics\.endpoint 127\.0\.0\.1:\d+: cannot be listened at"):
        MetricsServer(one.address)
    one.release()


# ---- the canary ------------------------------------------------------------------------------------------------------


class Model:
    """Answers, hangs, raises or answers nonsense, as it is told."""

    def __init__(self) -> None:
        self.asked = 0
        self.way = "answers"
        self.go = threading.Event()
        self.go.set()

    def __call__(self, batch: Batch) -> Answer:
        self.asked += 1
        if self.way == "hangs":
            self.go.wait(PATIENCE_S)
        if self.way == "raises":
            raise RuntimeError("out of memory")
        answer = identity(250)(batch)
        if self.way == "nonsense":
            return Answer(np.full_like(answer.y, np.nan))
        return answer


@pytest.mark.parametrize(
    ("way", "why"),
    [
        ("raises", "RuntimeError: out of memory"),
        ("nonsense", "the answer to a window of a known pulse is not finite"),
        ("hangs", "the model has answered no window for"),
    ],
)
def test_a_daemon_whose_model_fails_is_not_well_and_is_again_once_it_answers(
    way: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppgstream.live.canary.IDLE_S", 0.2)
    monkeypatch.setattr("ppgstream.live.canary.HEALTHY_S", 1.5)
    model = Model()
    with serving(model) as served:
        until(lambda: served.ask()["unwell"] == "" and model.asked > 1, "health")
        model.way = way
        if way == "hangs":
            model.go.clear()
        until(lambda: served.ask()["unwell"].startswith(why), "the fault")
        assert unwell(served.status.ask(5.0)).startswith(why)
        model.way = "answers"
        model.go.set()
        until(lambda: served.ask()["unwell"] == "", "health again")


def test_one_call_that_hangs_is_noticed_though_other_threads_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles come back in their order, so all that follow wait for it."""
    monkeypatch.setattr("ppgstream.live.canary.IDLE_S", 0.2)
    monkeypatch.setattr("ppgstream.live.canary.HEALTHY_S", 1.0)
    canary, go = canary_of(PLAN).x, threading.Event()

    def answers_the_canary(batch: Batch) -> Answer:
        if not np.array_equal(batch.x, canary):
            go.wait(PATIENCE_S)
        return identity(250)(batch)

    with serving(answers_the_canary, model=ModelSettings(threads=3)) as served:
        until(lambda: served.ask()["unwell"] == "", "health")
        served.sensor().send("a", DATA, 1, 0, wave(400))
        until(lambda: served.ask()["unwell"].startswith("the model has not answered a call for"), "the fault")
        go.set()
        until(lambda: served.ask()["unwell"] == "", "health again")


def test_no_canary_is_sent_while_windows_are_answered() -> None:
    workers = Workers(identity(250), 1)
    try:
        canary = Canary(PLAN, workers)
        for now in range(100, 200):
            canary.answered(float(now))
            canary.look(now + 0.5)
            assert canary._sent is None
        assert canary.unwell(203.0) == ""
        assert "no window for 9 s" in canary.unwell(208.0)
    finally:
        workers.close()


@pytest.mark.parametrize("name", ["default", "fast", "live", "brae", "lmmse"])
def test_each_checkpoint_passes_the_self_test(name: str) -> None:
    from ppgstream.assemble import rules_of
    from ppgstream.cli.shared import restored
    from ppgstream.config import Config
    from ppgstream.model import runtime

    found = restored(name)
    assert self_test(runtime.denoiser(found, threads=1), rules_of(Config(), found).plan) == ""


def test_the_self_test_tells_what_is_wrong() -> None:
    assert self_test(identity(250), PLAN) == ""
    assert "shape" in fault_of(Answer(np.zeros((1, 7), np.float32)), PLAN)
    assert "not finite" in fault_of(Answer(np.full((1, 250), np.inf, np.float32)), PLAN)
    assert fault_of(Answer(canary_of(PLAN).x[:, -250:]), PLAN) == ""
    assert "shape" in fault_of(None, PLAN)


# ---- as a service ----------------------------------------------------------------------------------------------------


class Manager:
    """Stands for systemd's notification socket."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE_S)

    def hear(self, start: str) -> str:
        """The next message that begins so; others are passed over."""
        while not (text := self._socket.recv(4096).decode()).startswith(start):
            pass
        return text


def test_a_service_manager_hears_that_it_is_ready_well_and_stopping(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]
    process = start(
        ["run", "--checkpoint", "fast", *ends],
        env={"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "2000000", "HOME": str(tmp_path)},
    )
    try:
        assert f"ipc://{tmp_path / 'in'}" in manager.hear("READY=1")
        for _ in range(2):
            manager.hear("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.hear("STOPPING=1")
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_the_watchdog_hears_nothing_of_a_daemon_that_is_not_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ppgstream.live.canary.IDLE_S", 0.2)
    monkeypatch.setattr("ppgstream.live.canary.HEALTHY_S", 1.0)
    model, told = Model(), list[str]()

    def listen(daemon: Any) -> None:
        daemon.notifier.watchdog_s = 0.1
        daemon.notifier.tell = told.append

    with serving(model, before=listen) as served:
        until(lambda: told.count("WATCHDOG=1") > 1, "that it is well")
        model.way = "raises"
        until(lambda: served.ask()["unwell"], "the fault")
        before = len(told)
        until(lambda: served.ask()["uptime_s"] and model.asked > 5, "more of its seconds")
        assert told[before:] == []


def test_without_a_manager_nothing_is_sent(tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "nobody"), "@nobody"):
        notifier = Notifier(address, "1000000")
        notifier.tell("READY=1")
        notifier.well(100.0)
    assert Notifier("", "1000000").watchdog_s == 0.0
    assert Notifier("@x", "no").watchdog_s == 0.0


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_closes_ends_it_and_without_one_a_hangup_is_told(terminal: bool, tmp_path: Path) -> None:
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]
    ours, theirs = os.openpty()

    def begin() -> None:
        os.setsid()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    process = start(["run", "--checkpoint", "lmmse", *ends], preexec_fn=begin, pass_fds=(theirs,))
    try:
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        if not terminal:
            assert "SIGHUP without a terminal: nothing is read again" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "final: " in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


def checked(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ppgstream", "run", "--check", "--checkpoint", "fast", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_check_tries_settings_model_and_ports_and_leaves_them_free(tmp_path: Path) -> None:
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]
    fine = checked(tmp_path, *ends)
    assert fine.returncode == 0
    assert "all is well: transformer" in fine.stderr
    assert checked(tmp_path, *ends).returncode == 0
    (tmp_path / "bad.toml").write_text("[windows]\nhop = -1\n")
    assert checked(tmp_path, "--config", "bad.toml").returncode == 78
    assert checked(tmp_path, *ends, "--checkpoint", "none").returncode != 0
    with serving(in_=In(endpoint=f"ipc://{tmp_path}/in")):
        taken = checked(tmp_path, *ends)
        assert taken.returncode == 69
        assert f"ipc://{tmp_path}/in" in taken.stderr
        assert "Traceback" not in taken.stderr
    (tmp_path / "config.toml").write_text('[tool.other]\nname = "x"\n')
    other = checked(tmp_path, *ends)
    assert other.returncode == 0
    assert "config.toml has no setting of ppgstream's: it is passed over" in other.stderr


# ---- contrib/ --------------------------------------------------------------------------------------------------------


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    board = json.loads((CONTRIB / "grafana.json").read_text())
    asked = {
        name for panel in board["panels"] for target in panel["targets"] for name in re.findall(r"ppgstream_\w+", target["expr"])
    }
    told = {name for name, _ in series(snapshot(events={"x": 1}))}
    assert len(asked) > 10
    assert asked <= told
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_unit_s_commands_are_ours_and_its_limits_are_stated() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(CONTRIB / "ppgstream.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith("ppgstream run --config /etc/ppgstream/config.toml")
    assert service["ExecStartPre"].endswith("--check")
    assert int(service["LimitNOFILE"]) >= 10_000
    assert int(service["WatchdogSec"]) > 5
    assert int(service["TimeoutStopSec"]) > 10
