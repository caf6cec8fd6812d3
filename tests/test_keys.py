"""Keys: their files, the list of a daemon, and what a daemon with keys lets whom do."""

from __future__ import annotations

import os
import socket as plain_socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import zmq

from ppgstream.config import Config, In, Out, Security, Status, load
from ppgstream.core.denoiser import identity
from ppgstream.errors import ConfigError
from ppgstream.live import keys
from ppgstream.live.daemon import Daemon
from ppgstream.live.keys import Allowed, Key
from ppgstream.live.publisher import Publisher
from ppgstream.live.receiver import Receiver
from ppgstream.live.status import StatusClient
from ppgstream.model.restore import restore
from ppgstream.show.alarms import alarms_of
from ppgstream.wire.message import EMPTY, Chunk, Kind

PPGSTREAM = str(Path(sys.executable).with_name("ppgstream"))
WAVE = np.sin(np.arange(1000) / 16)


def command(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PPGSTREAM, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


# ---- files -------------------------------------------------------------------------------------------------------


def test_keygen_writes_a_pair_whose_secret_is_its_owner_s_alone(tmp_path: Path) -> None:
    done = command("keygen", "daemon", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "daemon.key").stat().st_mode & 0o777 == 0o600
    own = keys.read_secret(tmp_path / "daemon.key")
    assert own.public == keys.read_public(tmp_path / "daemon.pub") == zmq.curve_public(own.secret)
    assert "secret" not in (tmp_path / "daemon.pub").read_text()
    done = command("keygen", "wrist-1", "--server", "daemon.pub", cwd=tmp_path)
    assert keys.client(tmp_path / "wrist-1.key").server == own.public
    (tmp_path / "list.toml").write_text(done.stdout)  # what it prints can be put into the list
    assert keys.read_allowed(tmp_path / "list.toml") == {
        keys.read_public(tmp_path / "wrist-1.pub"): (
            "wrist-1",
            Allowed(keys.read_public(tmp_path / "wrist-1.pub").decode(), ["wrist-1"]),
        )
    }
    again = command("keygen", "daemon", cwd=tmp_path)
    assert (again.returncode, "is there already" in again.stderr) == (78, True)
    assert keys.read_secret(tmp_path / "daemon.key") == own


def written(folder: Path, name: str = "a", server: bytes = b"") -> Path:
    return keys.write(folder, keys.make(name, server))[0]


def test_a_key_that_is_none_or_open_to_others_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = path.read_text()
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match=rf"others may read this secret key \(mode {mode:o}\): chmod 600"):
            keys.read_secret(path)
    path.chmod(0o600)
    other = written(tmp_path, "b").read_text()
    for content, told in (
        ("no key", "not a key of `ppgstream keygen`"),
        ("", "not a key of `ppgstream keygen`"),
        ('name = "a"\npublic = 7\n', "not a key"),
        (text.replace("public", "pubic"), "not a key"),
        (text.replace(keys.read_secret(path).public.decode(), "x" * 39), "39 characters that are no key: one has 40"),
        (text.replace(keys.read_secret(path).public.decode(), '"' * 40), "not a key"),
        ((tmp_path / "a.pub").read_text(), r"is a public key: the secret one is in a\.key"),
        (text[: text.index("secret")] + other[other.index("secret") :], "do not belong together"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=told) as error:
            keys.read_secret(path)
        assert str(path) in str(error.value)
    with pytest.raises(ConfigError, match="cannot read the key: No such file"):
        keys.read_secret(tmp_path / "none.key")
    path.write_text(text)
    with pytest.raises(ConfigError, match="is for no daemon"):
        keys.client(path)
    for name in ("", "../x", "a b", "x" * 65):
        with pytest.raises(ConfigError, match="a key's name is"):
            keys.make(name)
    (tmp_path / "c.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is there already"):
        written(tmp_path, "c")


def test_the_list_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    key, other = (keys.make(name).public.decode() for name in "ab")
    path = tmp_path / "list.toml"
    for text, told in (
        ("[a", "not TOML"),
        ("a = 1\n", r"\[a\]"),
        ('[a]\nkey = "short"\n', r"\[a\] key: 5 characters that are no key"),
        (f'[a]\nkey = "{key}"\nsend = "x"\n', r"\[a\]: Expected `array`"),
        (f'[a]\nkey = "{key}"\nwrite = ["x"]\n', "unknown field `write`"),
        (f'[a]\nkey = "{key}"\n[b]\nkey = "{key}"\n', r"\[b\] has the key of \[a\]"),
        (f'[a]\nkey = "{key}"\nsend = ["x y"]\n', "'x y': a stream, or the beginning"),
        (f'[a]\nkey = "{key}"\nsend = [""]\n', "'': a stream"),
        (f'[a]\nkey = "{key}"\nread = ["wrist"]\n', r"must end in \*: ZeroMQ cannot keep wrist2 from its readers"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            keys.read_allowed(path)
    path.write_text(f'[a]\nkey = "{key}"\nsend = ["*"]\n[b]\nkey = "{other}"\nread = ["*", "x*"]\nstatus = true\n')
    assert {name for name, _ in keys.read_allowed(path).values()} == {"a", "b"}


def test_patterns_are_names_and_their_beginnings() -> None:
    rights = Allowed("", send=["wrist", "bed-*"], read=["bed-*", "ward1-a*"])
    assert [rights.may_send(name) for name in ("wrist", "wrist2", "bed-", "bed-7", "be", "x")] == [
        True,
        False,
        True,
        True,
        False,
        False,
    ]
    assert rights.prefixes(b"") == [b"bed-", b"ward1-a"]
    assert rights.prefixes(b"bed-7") == [b"bed-7"]
    assert rights.prefixes(b"bed") == [b"bed-"]
    assert rights.prefixes(b"ward1") == [b"ward1-a"]
    assert rights.prefixes(b"ward2") == []
    assert Allowed("", read=["*"]).prefixes(b"x") == [b"x"]


def test_settings_of_keys_go_together(tmp_path: Path) -> None:
    def of(text: str) -> Config:
        (tmp_path / "c.toml").write_text(text)
        return load(tmp_path / "c.toml")

    with pytest.raises(ConfigError, match=r"security\.allow: key and allow go together"):
        of('[security]\nkey = "a"\n')
    with pytest.raises(ConfigError, match=r"security\.key: key and allow go together"):
        of('[security]\nallow = "a"\n')
    with pytest.raises(ConfigError, match="is not a loopback address"):
        of('[in]\nendpoint = "tcp://0.0.0.0:5600"\n')
    with pytest.raises(ConfigError, match="a daemon with keys binds its sockets"):
        of('[in]\nbind = false\n[security]\nkey = "a"\nallow = "b"\n')
    keyed = '[security]\nkey = "a"\nallow = "b"\n'
    for endpoint in (
        "tcp://0.0.0.0:5600",
        "tcp://192.168.1.7:5600",
        "tcp://*:5600",
        "tcp://[2001:db8::1]:5600",
        "tcp://pi.local:5600",
    ):
        assert of(f'[in]\nendpoint = "{endpoint}"\n{keyed}').in_.endpoint == endpoint
    for endpoint in ("tcp://a b:5600", "tcp://:5600", "tcp://x:0", "udp://x:1", "tcp://a;b:1"):
        with pytest.raises(ConfigError):
            of(f'[in]\nendpoint = "{endpoint}"\n{keyed}')


# ---- a daemon ----------------------------------------------------------------------------------------------------


class Place:
    """A daemon with keys, which changes nothing, and the keys of who may what."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = keys.make("daemon")
        keys.write(folder, own)
        self.server = own.public
        self.keys = {name: keys.make(name, own.public) for name in ("bed-1", "bed-2", "reader", "watcher", "stranger")}
        self.rights: dict[str, dict[str, Any]] = {
            "bed-1": {"send": ["bed-1"]},
            "bed-2": {"send": ["bed-2*"]},
            "reader": {"read": ["bed-1*"]},
            "watcher": {"read": ["*"], "status": True},
        }
        self.allow()
        free = "tcp://127.0.0.1:*"
        security = Security(str(folder / "daemon.key"), str(folder / "list.toml"))
        config = Config(in_=In(endpoint=free), out=Out(endpoint=free), status=Status(endpoint=free), security=security)
        self.daemon = Daemon(config, restore(Path("lmmse")))
        self.daemon.open()
        self.ends = self.daemon.endpoints
        self.thread = Thread(target=self.daemon.run, args=(identity(250),))
        self.thread.start()
        self.closing: list[Any] = []
        self.contexts: list[zmq.Context[Any]] = []

    def allow(self) -> None:
        lines = []
        for name, rights in self.rights.items():
            lines += [f"[{name}]", f'key = "{self.keys[name].public.decode()}"']
            lines += [f"{key} = {str(value).lower() if isinstance(value, bool) else value}" for key, value in rights.items()]
        new = self.folder / "new.toml"
        new.write_text("\n".join(lines))
        new.rename(self.folder / "list.toml")

    def kept(self, thing: Any) -> Any:
        self.closing.append(thing)
        return thing

    def sensor(self, name: str | Key) -> Publisher:
        key = self.keys[name] if isinstance(name, str) else name
        return self.kept(Publisher(self.ends["in"], key=key))  # type: ignore[no-any-return]

    def reader(self, name: str, stream: str | None = None) -> Receiver:
        return self.kept(Receiver(self.ends["out"], stream, key=self.keys[name]))  # type: ignore[no-any-return]

    def context(self) -> zmq.Context[Any]:
        context: zmq.Context[Any] = zmq.Context()
        self.contexts.append(context)
        return context

    def close(self) -> None:
        for context in self.contexts:
            context.destroy(linger=0)
        for thing in self.closing:
            thing.close(*([0.0] if isinstance(thing, Publisher) else []))
        self.daemon.stop.set()
        self.thread.join(30)

    def until(self, there: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not there():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def samples(stream: str, index: int = 0, n: int = 500) -> Chunk:
    return Chunk(stream, 1, index, WAVE[index : index + n])


def heard(receiver: Receiver, seconds: float = 1.0) -> set[str]:
    """The streams of which something comes for so long."""
    found: set[str] = set()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found |= {chunk.stream for chunk in receiver.poll(0.05)}
    return found


def test_each_key_sends_and_reads_what_it_may(place: Place) -> None:
    one, two = place.sensor("bed-1"), place.sensor("bed-2")
    some, all_ = place.reader("reader"), place.reader("watcher")
    for sensor in (one, two):
        sensor.wait_for_subscriber(20)
    place.until(lambda: place.daemon.sink.subscribers >= 2)
    status = place.kept(StatusClient(place.ends["status"], key=place.keys["watcher"]))
    for publisher, stream in ((one, "bed-1"), (two, "bed-2"), (two, "bed-22"), (one, "bed-2b")):
        publisher.send(samples(stream))
    place.until(lambda: (s := status.ask(1.0)) is not None and s.streams_total == 3)
    for publisher, stream in ((one, "bed-1"), (two, "bed-2"), (two, "bed-22")):
        publisher.send(Chunk(stream, 1, 500, EMPTY, Kind.END))
    assert heard(all_) == {"bed-1", "bed-2", "bed-22"}
    assert heard(some) == {"bed-1"}
    snapshot = status.ask(1.0)
    assert snapshot is not None
    assert snapshot.events["refused_key"] == 1
    assert snapshot.ledger.unaccounted == 0
    assert "bed-2b: the key [bed-1] may not send it" in snapshot.last_events
    assert "bed-2b: the key [bed-1] may not send it" in [str(alarm) for alarm in alarms_of(snapshot)]


@pytest.mark.parametrize(
    "body", [b'{"stream": "bed-2", "ir": [1, 2, 3]}', b'{"stream": "bed-2", "ir": 7}'], ids=["samples", "one"]
)
def test_a_name_cannot_be_stolen_in_another_format(place: Place, body: bytes) -> None:
    thief = place.sensor("bed-1")
    thief.wait_for_subscriber(20)
    before = place.daemon.source.received
    thief._socket.send(body)
    place.until(lambda: place.daemon.source.received > before)
    place.until(lambda: place.daemon.guard is not None and place.daemon.guard.refused)
    assert not place.daemon.source._foreign._streams


def test_who_has_no_right_or_no_key_is_refused_and_counted(place: Place) -> None:
    guard = place.daemon.guard
    assert guard is not None
    context = place.context()
    plain = context.socket(zmq.PUB)
    plain.connect(place.ends["in"])
    place.until(lambda: guard.refused)  # a peer that speaks no CURVE
    for name, end in (("stranger", "in"), ("stranger", "out"), ("reader", "in"), ("bed-1", "out"), ("reader", "status")):
        before = guard.refused
        socket = context.socket(zmq.DEALER if end == "status" else zmq.SUB if end == "out" else zmq.PUB)
        key = place.keys[name]
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = key.server, key.public, key.secret
        socket.connect(place.ends[end])
        place.until(lambda: guard.refused > before)  # noqa: B023
        socket.close(linger=0)
    other = place.keys["bed-1"]._replace(server=keys.make("another").public)  # the public key of another daemon
    before = guard.refused
    place.sensor(other)
    place.until(lambda: guard.refused > before)
    fine = place.sensor("bed-1")
    fine.wait_for_subscriber(20)  # the others are unharmed


def test_a_sensor_s_key_is_revoked_at_once(place: Place) -> None:
    one, two = place.sensor("bed-1"), place.sensor("bed-2")
    for sensor, stream in ((one, "bed-1"), (two, "bed-2")):
        sensor.wait_for_subscriber(20)
        sensor.send(samples(stream))
    guard = place.daemon.guard
    assert guard is not None
    place.until(lambda: place.daemon.source.received >= 2)
    del place.rights["bed-1"]
    place.allow()
    place.until(lambda: guard.rights(place.keys["bed-1"].public.decode()) is None)
    before = guard.refused
    one.send(samples("bed-1", 500))
    place.until(lambda: guard.refused > before)
    two.send(samples("bed-2", 500))
    place.until(lambda: place.daemon.source.received >= 4)
    place.rights["bed-2"] = {"send": "no list"}
    place.allow()  # a list that cannot be read changes nothing
    place.until(lambda: any("allowed before still are" in text for text in place.daemon.events.last))
    assert guard.may_send(place.keys["bed-2"].public.decode(), "bed-2")


@pytest.mark.parametrize("left", [None, ["bed-2*"]], ids=["its key", "a part of its streams"])
def test_a_reader_s_right_is_revoked_and_the_others_read_on(place: Place, left: list[str] | None) -> None:
    sensor = place.sensor("bed-1")
    sensor.wait_for_subscriber(20)
    some, all_ = place.reader("reader"), place.reader("watcher")
    place.until(lambda: place.daemon.sink.subscribers >= 2)
    sensor.send(samples("bed-1"))
    assert heard(some) == heard(all_) == {"bed-1"}
    del place.rights["reader"]
    if left is not None:
        place.rights["reader"] = {"read": left}
    before = place.daemon.sink.socket
    place.allow()
    place.until(lambda: place.daemon.sink.socket is not before)
    # Who still may connects again by itself, as soon as it listens.
    again = 1 if left is None else 2
    place.until(lambda: (heard(all_, 0.02), heard(some, 0.02), place.daemon.sink.subscribers)[2] >= again)
    sensor.send(samples("bed-1", 500))
    assert heard(all_) == {"bed-1"}
    assert heard(some, 0.5) == set()


def test_a_burst_of_subscriptions_loses_none(place: Place) -> None:
    context = place.context()
    sockets = []
    for _ in range(4):
        socket = context.socket(zmq.SUB)
        key = place.keys["watcher"]
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = key.server, key.public, key.secret
        socket.connect(place.ends["out"])
        for k in range(1000):
            socket.subscribe(b"bed-2-%04d" % k)
        sockets.append(socket)
    place.until(lambda: place.daemon.sink.subscribers >= 4000)
    sensor = place.sensor("bed-2")
    sensor.wait_for_subscriber(20)
    names = [f"bed-2-{k:04d}" for k in range(0, 1000, 50)]
    for name in names:
        sensor.send(samples(name))
        sensor.send(Chunk(name, 1, 500, EMPTY, Kind.END))
    for socket in sockets:
        found: set[str] = set()
        deadline = time.monotonic() + 20
        while found != set(names) and time.monotonic() < deadline:
            if socket.poll(50):
                found.add(socket.recv_multipart()[0].decode())
        assert found == set(names)


def test_handshakes_that_nobody_finishes_harm_no_other(place: Place) -> None:
    """As many as a daemon's descriptors allow: more would be refused by the system itself."""
    host, _, port = place.ends["in"].removeprefix("tcp://").rpartition(":")
    open_ = []
    try:
        for k in range(300):
            one = plain_socket.create_connection((host, int(port)), timeout=10)
            if k % 3:
                one.sendall((b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE", os.urandom(64))[k % 3 - 1])
            open_.append(one)
        sensor = place.sensor("bed-1")
        sensor.wait_for_subscriber(20)
        before = place.daemon.source.received
        sensor.send(samples("bed-1"))
        place.until(lambda: place.daemon.source.received > before)
        guard = place.daemon.guard
        assert guard is not None
        place.until(lambda: guard.refused > 50)  # what is no handshake is refused at once
        assert place.daemon.events.counts["refused_key"] == guard.refused
    finally:
        for one in open_:
            one.close()


def test_commands_take_a_key(tmp_path: Path, place: Place) -> None:
    for name in ("bed-1", "watcher", "stranger"):
        keys.write(tmp_path, place.keys[name])
    np.save(tmp_path / "bed-1.npy", WAVE)
    status = ["--status", place.ends["status"]]
    reader = subprocess.Popen(
        [PPGSTREAM, "tap", "--from", place.ends["out"], "--key", tmp_path / "watcher.key", "--until-end", "--wait", "60"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    place.until(lambda: place.daemon.sink.subscribers)
    done = command(
        "replay", tmp_path / "bed-1.npy", "--fs", 125, "--to", place.ends["in"], "--key", tmp_path / "bed-1.key", "--speed", "max"
    )
    assert done.returncode == 0, done.stderr
    out, _ = reader.communicate(timeout=60)
    assert len(out.splitlines()) > 900
    done = command("monitor", "--once", *status, "--key", tmp_path / "watcher.key")
    assert (done.returncode, "bed-1" in done.stdout) == (0, True), done.stderr
    np.save(tmp_path / "x.npy", WAVE)
    to = ["--fs", 125, "--to", place.ends["in"]]
    for words, told in (
        (["monitor", "--once", *status, "--key", tmp_path / "stranger.key"], "refuses this key: it must be in the daemon's list"),
        (["tap", "--from", place.ends["out"], "--key", tmp_path / "bed-1.key"], "with the right to read"),
        (
            ["record", "-o", tmp_path / "rec", "--from", place.ends["out"], *status, "--key", tmp_path / "bed-1.key"],
            "right to read",
        ),
        (["replay", tmp_path / "x.npy", *to, "--key", tmp_path / "watcher.key"], "with the right to send"),
        (["tap", "--from", place.ends["out"]], "asks for a key (--key)"),
        (["replay", tmp_path / "x.npy", *to], "asks for a key (--key)"),
    ):
        done = command(*words, timeout=60)
        assert (done.returncode, told in done.stderr) == (69, True), (words, done.stderr)
    done = command("tap", "--from", place.ends["out"], "--key", tmp_path / "daemon.pub")
    assert (done.returncode, "is a public key" in done.stderr or "others may read" in done.stderr) == (78, True), done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_run_says_what_is_wrong_with_its_keys(tmp_path: Path) -> None:
    server = keys.make("daemon")
    keys.write(tmp_path, server)
    keys.write(tmp_path, keys.make("reader", server.public))
    (tmp_path / "list.toml").write_text("")
    for key, allow, told in (
        ("reader.key", "list.toml", "is a sensor's or a reader's key"),
        ("daemon.pub", "list.toml", "public key|others may read"),
        ("none.key", "list.toml", "cannot read the key"),
        ("daemon.key", "none.toml", "cannot read the list of keys"),
    ):
        (tmp_path / "c.toml").write_text(f'[security]\nkey = "{key}"\nallow = "{allow}"\n[in]\nendpoint = "tcp://127.0.0.1:*"\n')
        done = command("run", "--check", "--config", "c.toml", "--checkpoint", "lmmse", cwd=tmp_path)
        assert done.returncode == 78, done.stderr
        assert any(part in done.stderr for part in told.split("|")), done.stderr
