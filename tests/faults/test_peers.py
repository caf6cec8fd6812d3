"""Peers that send without end, too much, or nothing at all: each turn is bounded, others go on, and every sample is accounted
for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from faults import codec
from faults.daemon import CLEAN_ENV, PATIENCE_S, PPGSTREAM, TINY, Daemon, until, wave
from faults.long import slow
from ppgstream.config import Config, In, Out, Overload, Status, Streams
from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.engine import Engine
from ppgstream.live import daemon as live
from ppgstream.live import loop, publisher, receiver, status
from ppgstream.live import round as rounds
from ppgstream.live.endpoints import DROPPED_A_CALL, Inbox
from ppgstream.live.workers import Workers
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.wire.message import MOST_PARTS

ANY = "tcp://127.0.0.1:*"


class Endless:
    """A socket that always has another message, or whose message always has another part."""

    def __init__(self, part: bytes, *, one_message: bool = False) -> None:
        self.part, self.one_message, self.taken = part, one_message, 0

    def recv(self, _: int = 0, copy: bool = True) -> zmq.Frame | bytes:
        self.taken += 1
        frame = zmq.Frame(self.part)
        frame.more = self.one_message
        return self.part if copy else frame

    def getsockopt(self, _: int) -> int:
        return int(self.one_message)

    def poll(self, *_: object) -> int:
        return 1

    def send(self, *_: object) -> None:
        pass


# ---- bounds of a turn, counted ---------------------------------------------------------------------------------------


def test_of_a_message_without_end_a_bounded_part_is_read_at_a_time() -> None:
    socket = Endless(b"x", one_message=True)
    inbox = Inbox(socket)  # type: ignore[arg-type]
    first = inbox.take()
    assert first is not None
    assert len(first) == socket.taken == MOST_PARTS + 1
    for k in range(1, 4):
        assert inbox.take() == []
        assert socket.taken == MOST_PARTS + 1 + k * DROPPED_A_CALL
    socket.one_message = False  # it ends, and the next message is read as it is
    assert inbox.take() == []
    assert inbox.take() == [b"x"]


def daemon_of(**sections: Any) -> live.Daemon:
    defaults: dict[str, Any] = {"in_": In(endpoint=ANY), "out": Out(endpoint=ANY), "status": Status(endpoint=ANY)}
    checkpoint = Checkpoint(path=Path("none"), arch=Architecture("transformer"), tensors={}, sha256="00" * 32, tile=8)
    return live.Daemon(Config(**(defaults | sections)), checkpoint)


def identity(batch: Batch) -> Answer:
    return Answer(np.asarray(batch.x[:, -250:], np.float32), None)


def test_a_turn_of_the_daemon_reads_a_bounded_number_from_each_socket() -> None:
    daemon = daemon_of()
    daemon.open()
    engine = Engine(identity, daemon.rules)
    workers = Workers(identity, 1)
    turn = daemon.loop_of(engine, workers)
    try:
        subscriptions, rubbish, questions = Endless(b"\1x"), Endless(b"x"), Endless(b"{}")
        daemon.sink._subscriptions, daemon.source._inbox = Inbox(subscriptions), Inbox(rubbish)  # type: ignore[arg-type]
        daemon.questions._inbox = Inbox(questions)  # type: ignore[arg-type]
        daemon.sink.hear()
        assert subscriptions.taken == publisher.SUBSCRIPTIONS_A_TURN
        assert not turn.read()
        assert 0 < rubbish.taken <= loop.BURST
        daemon.questions.answer()
        assert questions.taken <= 8
    finally:
        workers.close()
        daemon.close()


def test_a_turn_s_reading_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, now = daemon_of(), [0.0]
    daemon.open()
    engine = Engine(identity, daemon.rules)
    workers = Workers(identity, 1)
    turn = daemon.loop_of(engine, workers)
    rubbish = Endless(b"x")
    daemon.source._inbox = Inbox(rubbish)  # type: ignore[arg-type]

    def monotonic() -> float:
        now[0] += loop.TURN_S / 4
        return now[0]

    monkeypatch.setattr(loop.time, "monotonic", monotonic)
    try:
        turn.read()
    finally:
        monkeypatch.undo()
        workers.close()
        daemon.close()
    assert rubbish.taken < 10


def test_a_poll_of_the_tap_and_of_a_publisher_is_bounded(tmp_path: Path) -> None:
    tap = receiver.Receiver(f"ipc://{tmp_path}/out")
    sender = publisher.Publisher(f"ipc://{tmp_path}/in")
    asks = status.StatusClient(f"ipc://{tmp_path}/status")
    sockets = [(tap, "socket", tap.socket), (sender, "_socket", sender._socket), (asks, "_socket", asks._socket)]
    try:
        endless = [Endless(b"x"), Endless(b"\1"), Endless(b'{"in": "x"}')]
        tap.socket = tap._inbox._socket = endless[0]  # type: ignore[assignment]
        sender._inbox._socket = endless[1]  # type: ignore[assignment]
        asks._socket = endless[2]  # type: ignore[assignment]
        assert list(tap.poll(0.0)) == []
        sender._hear()
        assert asks._ask({}, 0.0, status.Taken) == status.Taken("x")
        most = (receiver.MESSAGES_A_POLL, publisher.SUBSCRIPTIONS_A_TURN, status.ANSWERS_A_LOOK)
        assert tuple(e.taken for e in endless) == most
    finally:
        for owner, name, socket in sockets:
            setattr(owner, name, socket)
        tap.close()
        sender.close(0)
        asks.close()


def test_no_socket_is_made_without_a_limit_on_its_messages() -> None:
    root = Path(live.__file__).parents[2]
    files = [p for folder in ("ppgstream", "train", "tools") for p in (root / folder).rglob("*.py")]
    assert [p.name for p in files if "context.socket(" in p.read_text()] == ["endpoints.py"]


def test_the_clocks_leave_out_what_the_process_slept_and_what_was_not_listened() -> None:
    clock = rounds.Clock()
    clock.begin(100.0)
    clock.turn(100.1, empty=True)
    clock.turn(133.1, empty=True)  # 33 s in SIGSTOP
    clock.turn(133.2, empty=False)
    clock.turn(133.3, empty=True)
    assert clock.running == pytest.approx(0.1 + rounds.LONGEST_TURN_S + 0.1 + 0.1)
    assert clock.listened == pytest.approx(0.1 + rounds.LONGEST_TURN_S + 0.1)
    for k in range(200):  # 20 s of reading without end: by then everybody has been heard
        clock.turn(133.4 + 0.1 * k, empty=False)
    assert clock.listened == pytest.approx(0.1 + rounds.LONGEST_TURN_S + 0.1 + 20.0 - rounds.LONGEST_BACKLOG_S, abs=0.2)


def test_the_stop_has_one_deadline_and_what_is_left_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that each publication moves on by 1 s: 1,000 streams are to be ended, some at once, and the time allows for
    fewer."""
    daemon = daemon_of(overload=Overload(drain_s=1.0), streams=Streams(beats=False))
    daemon.open()
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: real() + ahead[0])
    monkeypatch.setattr(loop, "ENDED_AT_ONCE", 64)
    publish = daemon.sink.publish

    def slow(chunks: list[Any]) -> None:
        ahead[0] += 1.0 * bool(chunks)
        publish(chunks)

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sensor = context.socket(zmq.XPUB)
    sensor.connect(daemon.endpoints["in"])
    found: list[Engine] = []
    thread = threading.Thread(target=lambda: found.append(daemon.run(identity)))
    thread.start()
    try:
        assert sensor.poll(int(1000 * PATIENCE_S))
        for k in range(1000):
            sensor.send_multipart(codec.encode(codec.Message(f"s{k}", codec.DATA, 1, 0, dtype=2, samples=wave(100))))
        until(lambda: daemon.source.received == 1000, "the samples")
        monkeypatch.setattr(daemon.sink, "publish", slow)
        daemon.stop.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    finally:
        daemon.stop.set()
        thread.join(PATIENCE_S)
        context.destroy(linger=0)
    engine = found[0]
    assert engine.unaccounted == 0
    assert 0 < engine.in_flight < 100_000
    assert engine.ledger.passthrough == 100_000 - engine.in_flight
    assert any(text.startswith(f"{engine.in_flight} samples were not published") for text in daemon.events.last)
    assert ahead[0] <= 1.0 + loop.LEAVE_S + 2.0  # of the sixteen publications that it would have taken


# ---- a daemon among such peers ------------------------------------------------------------------------------------------


class Sensor:
    """A well-behaved sensor: numbered samples on a connection of its own, never dropped here."""

    def __init__(self, daemon: Daemon, stream: str) -> None:
        self.stream, self.at, self.socket = stream, 0, daemon.connect(zmq.XPUB, "in")
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        assert self.socket.poll(int(1000 * PATIENCE_S))

    def send(self, n: int) -> None:
        samples = wave(self.at + n)[self.at :]
        self.socket.send_multipart(codec.encode(codec.Message(self.stream, codec.DATA, 7, self.at, dtype=2, samples=samples)))
        self.at += n

    def end(self) -> None:
        self.socket.send_multipart(codec.encode(codec.Message(self.stream, codec.END, 7, self.at)))


def row(daemon: Daemon, stream: str) -> dict[str, Any]:
    return next((r for r in (daemon.ask(5.0) or {"streams": []})["streams"] if r["name"] == stream), {})


def published(daemon: Daemon, stream: str) -> int:
    found = row(daemon, stream)
    return sum(found.get(name, 0) for name in ("denoised", "passthrough", "invalid", "shed"))


def check_that_others_go_on(daemon: Daemon, sensor: Sensor) -> None:
    for _ in range(40):
        sensor.send(25)
    until(lambda: published(daemon, "other") >= 700, "the other stream's samples")
    until(lambda: row(daemon, "other")["accepted"] >= 1000, "the last of the other stream's samples")
    found = row(daemon, "other")
    assert (found["accepted"], found["gap"], found["refused"], found["unclean_sessions"]) == (1000, 0, 0, 0)


def other(daemon: Daemon) -> Sensor:
    """A stream that the daemon knows before the flood comes."""
    sensor = Sensor(daemon, "other")
    sensor.send(0)
    until(lambda: row(daemon, "other"), "the other stream")
    return sensor


def flood(daemon: Daemon, kind: int, name: str, parts: Callable[[int], list[bytes]]) -> Callable[[], None]:
    """Send without end on a thread; call the result to stop."""
    stopped = threading.Event()

    def work() -> None:
        socket = daemon.connect(kind, name)
        socket.setsockopt(zmq.SNDTIMEO, 100)
        k = 0
        while not stopped.is_set():
            try:
                socket.send_multipart(parts(k))
                k += 1
            except zmq.Again:
                continue
        socket.close(linger=0)

    thread = threading.Thread(target=work)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(PATIENCE_S)

    return stop


def data(k: int, index: int, n: int = 1, **more: Any) -> list[bytes]:
    return codec.encode(
        codec.Message("bad", codec.DATA, more.pop("session", 1), index, dtype=2, samples=np.sin(np.arange(n) + k), **more)
    )


FLOODS: dict[str, tuple[int, str, Callable[[int], list[bytes]]]] = {
    "subscriptions": (zmq.XSUB, "out", lambda k: [b"\1x%d" % (k % 1000)]),
    "the ends of subscriptions": (zmq.XSUB, "out", lambda k: [b"\0x%d" % (k % 1000)]),
    "questions": (zmq.DEALER, "status", lambda k: [b"{}"]),
    "rubbish": (zmq.PUB, "in", lambda k: [b"rubbish%d" % k, b"x"]),
    "many parts": (zmq.PUB, "in", lambda k: [b"bad"] * 2000),
    "rising STATUS": (zmq.PUB, "in", lambda k: codec.encode(codec.Message("bad", codec.STATUS, 1, 1000 + k))),
    "a falling index": (zmq.PUB, "in", lambda k: data(k, 2**40 - 2 * k)),
    "no samples": (zmq.PUB, "in", lambda k: data(k, k, 0, t_ns=1 + k)),
    "gaps": (zmq.PUB, "in", lambda k: data(k, 1000 * k)),
    "late copies": (zmq.PUB, "in", lambda k: data(k, 1000 * k if k < 5000 else 1000 * (k % 5000))),
    "new names": (zmq.PUB, "in", lambda k: codec.encode(codec.Message(f"n{k}", codec.DATA, 1, 0, samples=np.ones(1)))),
    "a stream without end": (zmq.PUB, "in", lambda k: data(k, 25 * k, 25)),
    "the longest messages": (zmq.PUB, "in", lambda k: data(k, 2048 * k, 2048)),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_others_go_on_beside_a_flood_and_a_stop_is_heard(kind: str, daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    # Of the longest messages a full queue is drained for seconds after the stop: a quarter of the usual one is full as well.
    queue = "[in]\nqueue_samples = 65536\n" if kind == "the longest messages" else ""
    (tmp_path / "config.toml").write_text(f"[streams]\nmax_streams = 500\n{queue}")
    daemon = daemons(*TINY, stderr=subprocess.PIPE, text=True)
    daemon.wait_until_running()
    sensor = other(daemon)
    stop = flood(daemon, *FLOODS[kind])
    try:
        check_that_others_go_on(daemon, sensor)
        found = daemon.ask(5.0)
        assert found is not None
        assert found["ledger"]["unaccounted"] == 0
        daemon.process.send_signal(signal.SIGTERM)
        _, told = daemon.process.communicate(timeout=PATIENCE_S)
    finally:
        stop()
    assert daemon.process.returncode == 0
    assert "unaccounted 0;" in told
    assert len(told.splitlines()) < 50 * (found["uptime_s"] + 12)


def test_a_long_part_up_the_output_is_cut_off(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(stderr=subprocess.DEVNULL)
    before = daemon.wait_until_running()["max_rss_kb"]
    sensor = other(daemon)
    stop = flood(daemon, zmq.XSUB, "out", lambda _: [bytes(30_000_000)])
    try:
        check_that_others_go_on(daemon, sensor)
    finally:
        stop()
    found = daemon.ask()
    assert found is not None
    assert found["max_rss_kb"] < before + 60_000
    assert daemon.stop() == 0


def test_a_daemon_that_was_stopped_and_goes_on_takes_nobody_for_silent(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[streams]\nidle_s = 3.0\nsilence_s = 2.0\n")
    daemon = daemons(stderr=subprocess.PIPE, text=True)
    daemon.wait_until_running()
    sensors = [Sensor(daemon, f"s{k}") for k in range(3)]
    for sensor in sensors:
        sensor.send(25)
    until(lambda: row(daemon, "s2"), "the first samples")
    daemon.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        time.sleep(0.2)  # the sensors go on at their pace, for longer than idle_s
        for sensor in sensors:
            sensor.send(25)
    daemon.process.send_signal(signal.SIGCONT)
    for sensor in sensors:
        sensor.send(25)
        sensor.end()
    until(lambda: all(published(daemon, s.stream) == s.at for s in sensors), "all samples")
    found = daemon.ask()
    assert found is not None
    assert found["unclean_sessions"] == 0
    assert "idle" not in found["events"]
    assert daemon.stop() == 0


def test_a_sensor_that_is_silent_while_the_daemon_listens_is_ended(daemons: Callable[..., Daemon], tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[streams]\nidle_s = 0.3\n")
    daemon = daemons(stderr=subprocess.DEVNULL)
    daemon.wait_until_running()
    sensor = Sensor(daemon, "s")
    sensor.send(300)
    until(lambda: row(daemon, "s").get("unclean_sessions") == 1, "the end of the silent session")


# ---- replay waits until all has arrived ------------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    np.save(tmp_path / "long.npy", wave(300_000))
    return tmp_path / "long.npy"


def with_patience(seconds: float) -> list[str]:
    """`ppgstream` as a process that waits so long without progress, in place of 10 s."""
    patience = f"from ppgstream.live.publisher import Publisher; Publisher.confirm.__kwdefaults__['patience_s'] = {seconds}"
    return [sys.executable, "-c", f"{patience}; from ppgstream.cli.app import main; main()"]


def replay(daemon: Daemon, recording: Path, *options: str, program: Sequence[str] = PPGSTREAM) -> subprocess.Popen[str]:
    asked = [
        *program,
        "replay",
        str(recording),
        "--fs",
        "125",
        "--to",
        f"ipc://{daemon.folder}/in",
        "--speed",
        "max",
        "--chunk",
        "5",
    ]
    return subprocess.Popen([*asked, *options], env=CLEAN_ENV, stderr=subprocess.PIPE, text=True)


def test_a_replay_over_ipc_loses_nothing_though_the_daemon_is_behind(daemons: Callable[..., Daemon], recording: Path) -> None:
    """Without waiting, what the kernel's buffer held when the replay closed was lost."""
    daemon = daemons(stderr=subprocess.DEVNULL)
    daemon.wait_until_running()
    sent = replay(daemon, recording, "--until", "120", "--status", f"ipc://{daemon.folder}/status")
    until(lambda: published(daemon, "long"), "the first samples")
    daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)  # until the replay can send no more, or has sent all
    daemon.process.send_signal(signal.SIGCONT)
    _, told = sent.communicate(timeout=PATIENCE_S)
    assert sent.returncode == 0, told
    assert "not confirmed" not in told
    until(lambda: published(daemon, "long") == 15_000, "all samples")
    assert row(daemon, "long")["gap"] == 0


@pytest.mark.parametrize(("dies", "code"), [(False, 74), pytest.param(True, 69, marks=slow)])
def test_a_replay_that_was_not_taken_says_how_much(
    dies: bool, code: int, daemons: Callable[..., Daemon], recording: Path
) -> None:
    """A stream that another session holds is refused: the daemon answers, and does not take it."""
    daemon = daemons(stderr=subprocess.DEVNULL)
    daemon.wait_until_running()
    holder, done = Sensor(daemon, "long"), threading.Event()
    holder.send(25)
    until(lambda: row(daemon, "long"), "the holder")

    def hold() -> None:
        while not done.wait(0.2):
            holder.send(25)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        asked = ("--until", "4", "--status", f"ipc://{daemon.folder}/status")
        refused = replay(daemon, recording, *asked, program=with_patience(3.0))
        until(lambda: row(daemon, "long").get("refused") == 500, "the refusals")
        if dies:
            time.sleep(1.0)  # so that the daemon has answered once
            daemon.process.kill()
        _, told = refused.communicate(timeout=PATIENCE_S)
    finally:
        done.set()
        thread.join()
    assert refused.returncode == code
    ends = "the daemon is gone: 500 samples were not taken" if dies else "has not taken 500 samples: its log says why"
    assert told.splitlines()[-1].endswith(ends)


def test_a_replay_to_who_cannot_be_asked_says_so(recording: Path, tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    listener = context.socket(zmq.SUB)
    listener.setsockopt(zmq.SUBSCRIBE, b"")
    listener.bind(f"ipc://{tmp_path}/in")
    asked = ["--to", f"ipc://{tmp_path}/in", "--speed", "max", "--until", "4", "--status", f"ipc://{tmp_path}/none"]
    sent = subprocess.Popen(
        [*PPGSTREAM, "replay", str(recording), "--fs", "125", *asked], env=CLEAN_ENV, stderr=subprocess.PIPE, text=True
    )
    received = 0
    while received < 500:
        assert listener.poll(int(1000 * PATIENCE_S))
        received += codec.decode(listener.recv_multipart()).count
    _, told = sent.communicate(timeout=PATIENCE_S)
    context.destroy(linger=0)
    assert sent.returncode == 0
    assert f"delivery is not confirmed: no daemon answers at ipc://{tmp_path}/none" in told


@pytest.mark.parametrize("envelope", [[], [b""], [b"a", b""]])
def test_an_answer_comes_in_the_envelope_of_the_question(envelope: list[bytes], daemons: Callable[..., Daemon]) -> None:
    """A REQ socket puts an empty part before its question, and takes no answer without it."""
    daemon = daemons(stderr=subprocess.DEVNULL)
    daemon.wait_until_running()
    socket = daemon.connect(zmq.DEALER, "status")
    socket.send_multipart([*envelope, b"{}"])
    assert socket.poll(int(1000 * PATIENCE_S))
    answer = socket.recv_multipart()
    assert answer[:-1] == envelope
    assert json.loads(answer[-1])["state"] == "running"
    socket.close(linger=0)


def test_the_question_what_was_taken_is_answered_of_any_names(daemons: Callable[..., Daemon]) -> None:
    daemon = daemons(stderr=subprocess.DEVNULL)
    daemon.wait_until_running()
    Sensor(daemon, "s").send(25)
    until(lambda: row(daemon, "s"), "the samples")
    socket = daemon.connect(zmq.DEALER, "status")
    for asked, answer in (
        ({"s": f"{7:016x}"}, {"s": 25}),
        ({"s": f"{8:016x}", "t": "0" * 16}, {"s": None, "t": None}),
        ({"s": 7, "": "x"}, {"s": None, "": None}),
        ({}, {}),
    ):
        socket.send(json.dumps({"taken": asked}).encode())
        assert socket.poll(int(1000 * PATIENCE_S))
        assert json.loads(socket.recv()) == {"in": f"ipc://{daemon.folder}/in", "taken": answer}
    socket.close(linger=0)
