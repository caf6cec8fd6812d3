"""Commands whose standard streams, descriptors or files are not what they should be: one line and an exit code, never a
traceback."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zmq

from faults import codec
from faults.daemon import CLEAN_ENV, PATIENCE_S, PPGSTREAM, TINY, Daemon, publish, until, wave
from faults.long import slow


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`command` by bash, with $P for the program."""
    environment = CLEAN_ENV | {"P": " ".join(PPGSTREAM)}
    asked = ["bash", "-c", command]
    return subprocess.run(asked, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "good.txt").write_text("".join(f"{v:.6f}\n" for v in wave(600)))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("$P --help >/dev/full", 74, "cannot write: No space left on device"),
        ("$P run --help >/dev/full", 74, "cannot write: No space left on device"),
        ("$P --version >/dev/full", 74, "cannot write: No space left on device"),
        ("$P --version >&-", 74, "cannot write: Bad file descriptor"),
        ("$P denoise good.txt --fs 125 -o - --checkpoint lmmse >&-", 74, "cannot write: Bad file descriptor"),
        ("$P denoise - --fs 125 --checkpoint lmmse <&-", 65, "stdin: no valid sample"),
        ("$P checkpoint show lmmse >/dev/full", 74, "cannot write: No space left on device"),
        ("set -o pipefail; $P --help | true", 141, ""),
        ("set -o pipefail; $P checkpoint show lmmse | true", 141, ""),
        (f"$P checkpoint show {'x' * 5000}", 78, "File name too long"),
        (f"$P denoise {'x' * 5000}.txt", 69, "File name too long"),
        (f"$P run --config {'x' * 5000}", 78, "File name too long"),
        ("$P denoise /dev/zero", 65, "binary file"),
        ("$P denoise /dev/urandom", 65, "binary file"),
        ("$P run --config /dev/zero", 78, "not a regular file"),
        ("$P train ae --synthetic --recipe /dev/zero --out run", 78, "not a regular file"),
        pytest.param("$P train ae --synthetic --out /proc/run", 74, "/proc/run", marks=slow),
        ("$P denoise good.txt --fs 125 -o /proc/out.txt --checkpoint lmmse", 74, "/proc/out.txt"),
        (f"$P train ae --synthetic --out {'x' * 5000}", 74, "File name too long"),
        ("$P denoise good.txt --plot x.png --plot-from inf", 2, "--plot-from"),
        ("ulimit -n 16; $P run --in ipc://in --out ipc://out --status ipc://status --checkpoint lmmse", 69, "ulimit -n"),
        ("$P replay good.txt --status nonsense", 78, "--status"),
        ("ulimit -n 8; $P tap --wait 0.1 --from ipc://nobody", 69, "ulimit -n"),
    ],
)
def test_one_line_and_its_exit_code(command: str, code: int, told: str, desk: Path) -> None:
    result = shell(command, desk)
    lines = result.stderr.splitlines()
    if code == 2:  # typer draws a box around these
        assert told in result.stderr
    else:
        assert [line for line in lines if not line.startswith("ppgstream: PPG of")][:1] == lines[-1:] if told else not lines
        assert not told or (lines[-1].startswith("ppgstream: ") and told in lines[-1])
        assert all(len(line) < 1200 for line in lines)
    assert "Traceback" not in result.stderr
    assert result.returncode == code


def test_what_cannot_be_said_changes_neither_data_nor_exit_code(desk: Path) -> None:
    right = shell("$P denoise good.txt --fs 125 --checkpoint lmmse", desk)
    assert right.returncode == 0
    for stderr in ("2>&-", "2>/dev/full", "2> >(exec true)"):
        result = shell(f"$P denoise good.txt --fs 125 --checkpoint lmmse {stderr}", desk)
        assert (result.returncode, result.stdout) == (0, right.stdout), stderr
        assert shell(f"$P denoise missing.txt {stderr}", desk).returncode == 69


# ---- a daemon whose log cannot be written --------------------------------------------------------------------------


def gone_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("log", ["full", "closed", "gone"])
def test_a_log_that_cannot_be_written_stops_nothing_and_its_lines_are_counted(log: str, daemons: Callable[..., Daemon]) -> None:
    if log == "closed":
        daemon = daemons(limits=lambda: os.closerange(0, 3))
    else:
        stderr = gone_pipe() if log == "gone" else os.open("/dev/full", os.O_WRONLY)
        daemon = daemons(stderr=stderr)
        os.close(stderr)
    daemon.wait_until_running()
    samples = codec.Message("s", codec.DATA, 5, 0, dtype=2, samples=wave(600))
    end = codec.Message("s", codec.END, 5, 600)
    publish(daemon, [[b"rubbish", b"x"]] * 50 + [codec.encode(samples), codec.encode(end)])
    until(lambda: (daemon.ask() or {"ledger": {"denoised": 0}})["ledger"]["denoised"] == 600, "the samples")
    found = daemon.ask()
    assert found is not None
    assert found["messages"]["malformed"] == 50
    assert (found["log_lost"] > 0) == (log != "closed")  # nobody asked for the log of a closed descriptor
    assert daemon.stop() == 0


def test_a_log_that_nobody_reads_keeps_nobody_waiting(daemons: Callable[..., Daemon]) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    daemon = daemons(stderr=write)
    os.close(write)
    daemon.wait_until_running()
    names = [f"s{k}".encode() for k in range(3000)]
    publish(
        daemon, [codec.encode(codec.Message(n.decode(), codec.DATA, 1, 0, fs_mhz=5_000_000, samples=np.ones(5))) for n in names]
    )
    until(lambda: (daemon.ask() or {"ledger": {"refused": 0}})["ledger"]["refused"] == 15_000, "the refusals")
    assert daemon.stop() == 0
    os.close(read)


def test_the_log_is_json_on_request(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(*TINY, "--log-format", "json", stderr=subprocess.PIPE, text=True)
    daemon.wait_until_running()
    publish(daemon, [codec.encode(codec.Message("s", codec.DATA, 1, 0, fs_mhz=5_000_000, samples=np.ones(5)))])
    until(lambda: (daemon.ask() or {"ledger": {"refused": 0}})["ledger"]["refused"] == 5, "the refusal")
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.stderr is not None
    lines = [json.loads(line) for line in daemon.process.communicate(timeout=PATIENCE_S)[1].splitlines()]
    assert daemon.process.returncode == 130
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "INFO"]
    assert [lines[1][key] for key in ("event", "stream")] == ["bad_rate", "s"]
    assert lines[0]["message"].startswith("ready: ")
    assert lines[2]["message"].startswith("final: seen 0 ")
    assert all(line["time"].endswith("Z") for line in lines)


def test_a_port_in_use_is_told_in_json_too(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    daemons().wait_until_running()
    second = Daemon(tmp_path, *TINY, "--log-format", "json", stderr=subprocess.PIPE, text=True)
    try:
        _, told = second.process.communicate(timeout=PATIENCE_S)
    finally:
        second.close()
    assert second.process.returncode == 69
    line = json.loads(told)
    assert line["level"] == "ERROR"
    assert "in use" in line["message"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_it_starts_is_heard(number: int, code: int, daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    """The signal comes in the midst of an import."""
    daemon = daemons("--checkpoint", "default", stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{daemon.process.pid}/maps")
    until(lambda: "onnxruntime" in maps.read_text() or (tmp_path / "status").exists(), "the import of the runtime")
    daemon.process.send_signal(number)
    _, told = daemon.process.communicate(timeout=PATIENCE_S)
    assert daemon.process.returncode == code
    assert "Traceback" not in told
    assert "final" not in told or "seen 0 " in told  # it was ready by then, on a fast machine


# ---- descriptors ---------------------------------------------------------------------------------------------------


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def test_the_soft_limit_of_descriptors_is_raised_to_the_hard_one(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(limits=limited(64, 4096))
    daemon.wait_until_running()
    watchers = [daemon.connect(zmq.SUB, "out") for _ in range(120)]
    for watcher in watchers:
        watcher.setsockopt(zmq.SUBSCRIBE, b"")
    until(lambda: (daemon.ask() or {"subscribers": 0})["subscribers"] == 120, "the subscribers")
    assert daemon.stop() == 0


def test_hardly_any_descriptor_left_is_told_and_those_who_are_connected_go_on(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(limits=limited(256, 256), stderr=subprocess.PIPE, text=True)
    daemon.wait_until_running()
    sensor = daemon.connect(zmq.XPUB, "in")
    assert sensor.poll(int(1000 * PATIENCE_S))
    watchers: list[zmq.Socket[bytes]] = []
    while descriptors(daemon) < 220:
        watchers.append(daemon.connect(zmq.SUB, "out"))
        time.sleep(0.01)
    until(lambda: (daemon.ask() or {"events": {}})["events"].get("descriptors"), "the event")
    samples = codec.Message("s", codec.DATA, 5, 0, dtype=2, samples=wave(600))
    sensor.send_multipart(codec.encode(samples))
    sensor.send_multipart(codec.encode(codec.Message("s", codec.END, 5, 600)))
    until(lambda: (daemon.ask() or {"ledger": {"denoised": 0}})["ledger"]["denoised"] == 600, "the samples")
    daemon.process.send_signal(signal.SIGTERM)
    _, told = daemon.process.communicate(timeout=PATIENCE_S)
    assert daemon.process.returncode == 0
    assert "descriptors hardly any is left" in told
