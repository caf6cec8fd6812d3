"""Lines of boards into a daemon: what a line may be, a serial port, and one that is pulled out."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zmq
from faults.daemon import PATIENCE_S, until

from ppgstream.errors import UsageError
from ppgstream.live.bridge import Bridge, SerialPort, StampedSession, port_of, send_lines
from ppgstream.live.receiver import Receiver
from ppgstream.live.status import StatusClient
from ppgstream.wire.message import Chunk, Kind, decode


class Sink:
    """Stands for a publisher."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def send(self, chunk: Chunk) -> bool:
        self.chunks.append(chunk)
        return True

    send_last = send

    @property
    def samples(self) -> list[float]:
        return [float(x) for c in self.chunks for x in c.samples]


def sent(lines: list[str], said: list[str] | None = None, **options: Any) -> Sink:
    sink = Sink()
    blocks = iter([("\n".join(lines) + "\n").encode(), b""])
    said = [] if said is None else said
    send_lines(lambda _: next(blocks), sink, stream="a", stopped=lambda: False, say=said.append, **options)  # type: ignore[arg-type]
    assert sink.chunks[-1].kind is Kind.END
    return sink


VALUES = [512, 514, 519, 530, 528, 521, 513, 505]


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("{v}", {}),
        ("{v}.0", {}),
        ('{{"ir": {v}}}', {}),
        ('{{"t": {k}, "ir": {v}, "red": 7}}', {"column": "ir"}),
        ("IR={v}", {"key": "IR"}),
        ("R=9 IR:{v} T=31", {"key": "IR"}),
        ("{k},{v},7", {"column": "1"}),
        ("{k}\t{v}", {"column": "1"}),
    ],
)
def test_the_lines_that_boards_print_are_samples(form: str, options: dict[str, Any]) -> None:
    sink = sent([form.format(v=v, k=k * 10) for k, v in enumerate(VALUES)], **options)
    assert sink.samples == VALUES
    assert {c.fs for c in sink.chunks} == {0.0}


def test_a_board_s_greeting_is_dropped_and_told() -> None:
    said: list[str] = []
    assert sent(["MAX30102 ready", *map(str, VALUES), "oops"], said).samples == VALUES
    assert said == ["line of text dropped: 'MAX30102 ready'", "line of text dropped: 'oops'"]


def test_lines_that_hold_no_sample_bring_a_hint_with_the_keys_that_are_there() -> None:
    said: list[str] = []
    assert not sent(["IR[947] Red[452]"] * 30, said).samples
    assert len(said) == 4
    assert said[3].endswith("name the key before the number with --field (IR, Red)")
    said = []
    assert not sent(["no finger"] * 30, said).samples
    assert "--column or --field" in said[3]


def test_lines_may_end_as_any_system_ends_them() -> None:
    for end in ("\n", "\r\n", "\r"):
        sink = Sink()
        blocks = iter([end.join(map(str, VALUES[:4])).encode() + end.encode()[:1], end.encode()[1:] + b"528" + end.encode(), b""])
        send_lines(lambda _, b=blocks: next(b), sink, stream="a", stopped=lambda: False, say=print)  # type: ignore[arg-type, misc]
        assert sink.samples == [*VALUES[:4], 528.0]


def test_each_sample_has_the_time_at_which_its_line_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first ones, which wait until it is clear how lines are samples."""
    now = 100.0
    monkeypatch.setattr("ppgstream.live.bridge.time", SimpleNamespace(monotonic=lambda: now, time_ns=lambda: round(now * 1e9)))
    n = 0

    def read(_: float) -> bytes:
        nonlocal now, n
        now, n = now + 0.04, n + 1
        return f"R=9,IR={n}\n".encode() if n <= 200 else b""

    sink = Sink()
    send_lines(read, sink, stream="a", key="IR", stopped=lambda: False, say=print)  # type: ignore[arg-type]
    data = [c for c in sink.chunks if len(c.samples)]
    assert sum(len(c.samples) for c in data) == 200
    for chunk in data:
        assert chunk.t_ns / 1e9 == pytest.approx(100.04 + 0.04 * chunk.index, abs=0.05 if chunk.index == 0 else 1e-6)


def test_a_port_is_a_path_and_a_baud_rate() -> None:
    assert port_of("/dev/ttyUSB0:9600") == ("/dev/ttyUSB0", 9600)
    assert port_of("/dev/ttyUSB0") == ("/dev/ttyUSB0", 115_200)
    for wrong in ("/dev/ttyUSB0:fast", "/dev/ttyUSB0:0", "/dev/ttyUSB0:-1", "a:99999999999"):
        with pytest.raises(UsageError, match="--serial"):
            port_of(wrong)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A pseudo-terminal pair: the end that a board writes to, and the path of the other, which a link names."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    link = tmp_path / "ttyUSB0"
    link.symlink_to(os.ttyname(theirs))
    yield ours, link
    for fd in (ours, theirs):
        os.close(fd)


def test_a_serial_port_gives_what_comes_and_waits_no_longer_than_it_is_told(board: tuple[int, Path]) -> None:
    ours, link = board
    port = SerialPort(str(link), 115_200)
    assert port.read(0.01) is None
    os.write(ours, b"512\n514\n")
    got = b""
    while got.count(b"\n") < 2:
        got += port.read(1.0) or b""
    assert got == b"512\n514\n"
    port.close()
    with pytest.raises(OSError, match="nosuch"):
        SerialPort(str(link.parent / "nosuch"), 9600)


def test_a_device_that_is_gone_is_looked_for_again_as_another_session(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ppgstream.live.bridge.RETRY_S", (0.02, 0.1))
    opened = 0

    class Board:
        def __init__(self) -> None:
            nonlocal opened
            opened += 1
            if opened == 2:
                raise OSError(2, "no such device")
            self.blocks = iter([f"{opened}\n".encode() * 60])

        def read(self, timeout_s: float) -> bytes | None:
            block = next(self.blocks, None)
            if block is None and opened < 3:
                raise OSError(5, "device pulled out")
            time.sleep(0.0 if block else min(timeout_s, 0.01))
            return block

        def close(self) -> None:
            pass

    endpoint = f"ipc://{tmp_path / 'in'}"
    receiver = Listener(endpoint)
    bridge = Bridge(Board, endpoint, stream="belt", where="/dev/x", log=logging.getLogger("test"))
    with caplog.at_level("WARNING"):
        bridge.start()
        chunks: list[Chunk] = []
        until(lambda: chunks.extend(receiver.poll(0.05)) or sum(len(c.samples) for c in chunks) >= 120, "both sessions")
        bridge.end()
        until(lambda: chunks.extend(receiver.poll(0.05)) or sum(c.kind is Kind.END for c in chunks) == 2, "their ends")
        bridge.join(PATIENCE_S)
    receiver.close()
    first, second = list(dict.fromkeys(c.session for c in chunks))
    assert {float(x) for c in chunks if c.session == first for x in c.samples} == {1.0}
    assert {float(x) for c in chunks if c.session == second for x in c.samples} == {3.0}
    told = [r.message for r in caplog.records]
    assert any("device pulled out; tried again" in t for t in told)
    assert any("no such device" in t for t in told)


def stamped(
    parts: list[tuple[int, float]], late: dict[int, float] | None = None, arrives: float | None = None
) -> list[tuple[int, int]]:
    """Index and length of what a session of 50 Hz gives for parts of so many samples from a time on, s. late: sample -> s.
    arrives: when all of them come, if not as they are measured."""
    session, found = StampedSession("a", 50.0, 0.5), []
    came = 0
    for n, from_s in parts:
        stamps = from_s + np.arange(n) / 50
        for k in range(n):
            stamps[k] += (late or {}).get(came + k, 0.0)
        came += n
        now = from_s + n / 50 if arrives is None else arrives
        found += [(c.index, len(c.samples)) for c in session.chunks(np.zeros(n), stamps, lambda s: round(1e9 * s), now)]
    assert session.end().index == session.index
    return found


def test_what_is_missing_shows_in_stamps_and_what_was_only_late_is_not_missing() -> None:
    assert stamped([(50, 7.0), (50, 8.0)]) == [(0, 50), (50, 50)]
    assert stamped([(50, 7.0), (50, 9.0)]) == [(0, 50), (100, 50)]
    assert stamped([(50, 7.0), (50, 8.2)]) == [(0, 50), (50, 50)]  # 0.2 s: no more than jitter
    assert stamped([(50, 7.0), (50, 8.0)], {50: 0.9, 51: 0.88, 60: 0.7}) == [(0, 50), (50, 50)]
    assert stamped([(50, 7.0), (50, 3607.0)], arrives=8.0) == [(0, 50), (50, 50)]  # a clock that was set: nothing is late
    assert stamped([(50, 7.0), (50, 9.0), (50, 10.0)], {20: math.nan, 120: 1e13}) == [(0, 50), (100, 50), (150, 50)]
    inside = StampedSession("a", 50.0, 0.5, came=0.0)
    stamps = np.concatenate([np.arange(10), 60 + np.arange(10)]) / 50
    assert [(c.index, len(c.samples)) for c in inside.chunks(np.zeros(20), stamps, int, 1.4)] == [(0, 10), (60, 10)]
    assert [c.index for c in StampedSession("a", 0.0, 0.5).chunks(np.zeros(20), stamps, int, 1.4)] == [0]  # no rate: not known
    (none,) = StampedSession("a", 50.0, 0.5).chunks(np.zeros(2), np.full(2, np.inf), int, 1.4)
    assert (none.t_ns, len(none.samples)) == (0, 2)


class Listener:
    """Stands for a daemon's input."""

    def __init__(self, endpoint: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.bind(endpoint)
        self._socket.subscribe(b"")

    def poll(self, timeout_s: float) -> list[Chunk]:
        found = []
        while self._socket.poll(int(1000 * timeout_s) if not found else 0):
            found.append(decode(self._socket.recv_multipart()))
        return found

    def close(self) -> None:
        self._context.destroy(linger=0)


def start(arguments: list[str], **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "ppgstream", *arguments], stderr=subprocess.PIPE, text=True, **more)


def test_the_daemon_reads_a_board_on_a_serial_port(board: tuple[int, Path], tmp_path: Path) -> None:
    ours, link = board
    ends = [f"ipc://{tmp_path / name}" for name in ("in", "out", "status")]
    flags = [f for name, end in zip(("in", "out", "status"), ends, strict=True) for f in (f"--{name}", end)]
    (tmp_path / "c.toml").write_text("[streams.ttyUSB0]\nfs = 50.0\n")
    process = start(
        [
            "run",
            "--config",
            str(tmp_path / "c.toml"),
            "--checkpoint",
            "fast",
            *flags,
            "--serial",
            f"{link}:115200",
            "--serial-field",
            "IR",
        ]
    )
    receiver = Receiver(ends[1])
    try:
        assert process.stderr is not None
        until(lambda: ": open" in (process.stderr.readline() if process.stderr else ""), "the port")
        asks = StatusClient(ends[2])
        until(lambda: (found := asks.ask(1.0)) is not None and found.subscribers, "the receiver's subscription")
        asks.close()
        x = 30_000 + 400 * np.sin(2 * np.pi * 1.2 * np.arange(400) / 50)
        for at in range(0, 400, 20):
            os.write(ours, "".join(f"R=9,IR={v:.1f}\r\n" for v in x[at : at + 20]).encode())
        chunks: list[Chunk] = []
        until(lambda: chunks.extend(receiver.poll(0.05)) or sum(len(c.samples) for c in chunks) >= 200, "clean samples")
        process.send_signal(signal.SIGTERM)
        until(lambda: chunks.extend(receiver.poll(0.05)) or any(c.kind is Kind.END for c in chunks), "the END")
        assert process.wait(PATIENCE_S) == 0
        assert {(c.stream, c.fs) for c in chunks} == {("ttyUSB0", 50.0)}
        assert sum(len(c.samples) for c in chunks) == 400
        assert not any(c.unclean for c in chunks)
    finally:
        receiver.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("word", ["ready: ", ": open"])  # before the port is read, and after
def test_signals_end_a_daemon_that_reads_a_port_and_more_of_them_change_nothing(
    word: str, board: tuple[int, Path], tmp_path: Path
) -> None:
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]
    process = start(["run", "--checkpoint", "lmmse", *ends, "--serial", str(board[1])])
    try:
        assert process.stderr is not None
        until(lambda: word in (process.stderr.readline() if process.stderr else ""), word)
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        said = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in said
        assert "final: " in said
    finally:
        process.kill()
        process.wait()


def test_replay_sends_a_pipe_of_json_whose_rate_nobody_says(tmp_path: Path) -> None:
    receiver = Listener(f"ipc://{tmp_path / 'in'}")
    process = start(
        ["replay", "-", "--to", f"ipc://{tmp_path / 'in'}", "--column", "ir", "--status", f"ipc://{tmp_path / 'none'}"],
        stdin=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        for k, v in enumerate(VALUES):
            process.stdin.write(json.dumps({"t": k, "red": 7, "ir": v}) + "\n")
        process.stdin.close()
        chunks: list[Chunk] = []
        until(lambda: chunks.extend(receiver.poll(0.05)) or any(c.kind is Kind.END for c in chunks), "the END")
        assert [float(x) for c in chunks for x in c.samples] == VALUES
        assert {c.fs for c in chunks} == {0.0}
    finally:
        receiver.close()
        process.kill()
        process.wait()


def test_a_signal_that_came_ignored_stays_ignored(tmp_path: Path) -> None:
    """As under nohup, and in the background of a shell script."""
    ends = [f for name in ("in", "out", "status") for f in (f"--{name}", f"ipc://{tmp_path / name}")]

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(["run", "--checkpoint", "fast", *ends], preexec_fn=ignore)
    try:
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
