"""Sockets: made, attached to an endpoint, and read, each with the bounds that ZeroMQ leaves to its user."""

from __future__ import annotations

import re
import socket as plain
import stat
import time
from pathlib import Path
from typing import Any

import zmq

from ppgstream.config import check_endpoint
from ppgstream.errors import SourceError
from ppgstream.live.keys import Key
from ppgstream.wire.message import MOST_PARTS

# Bytes of one part of a message; ZeroMQ cuts off a peer that sends more. Up to here, a body that is too long is refused by name.
MOST_BODY = 16 * 1024 * 1024
MOST_SUBSCRIPTION = 1024
MOST_QUESTION = 4096
MOST_ANSWER = 256 * 1024 * 1024  # a snapshot of 100,000 streams
REFUSED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
DECIDED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECTED
FAILURES = 3  # handshakes that fail in a row: a daemon that stops may end one
UNANSWERED_S, ANSWERED_S = 3.0, 5.0
DROPPED_A_CALL = 256  # parts of a message of too many


def make(context: zmq.Context[Any], kind: int, *, most: int, **options: int) -> zmq.Socket[Any]:
    """A socket that takes parts of `most` bytes at the most. options: those of ZeroMQ, by their names in lower case. Raises
    SourceError if there is no room for one."""
    try:
        socket: zmq.Socket[Any] = context.socket(kind)
        for name, value in {"maxmsgsize": most, "linger": 0, **options}.items():
            socket.setsockopt(getattr(zmq, name.upper()), value)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno) if error.errno else str(error)
        raise SourceError(f"cannot make a socket: {why}: is `ulimit -n` too low?") from error
    return socket


class Inbox:
    """The messages of a socket, read without waiting."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._dropping = False  # the rest of a message of too many parts
        self._last: zmq.Frame | None = None  # of the last message

    def take(self) -> list[bytes] | None:
        """The parts of the next message; None if there is none. Of a message of more than `MOST_PARTS` parts, one more than these
        is given. Later calls drop the others, a bounded number each, and give an empty list."""
        parts: list[bytes] = []
        try:
            if self._dropping:
                for _ in range(DROPPED_A_CALL):
                    if not self._socket.recv(zmq.NOBLOCK, copy=False).more:
                        self._dropping = False
                        break
                return parts
            while True:
                frame = self._last = self._socket.recv(zmq.NOBLOCK, copy=False)
                parts.append(frame.bytes)
                if not frame.more:
                    return parts
                if len(parts) > MOST_PARTS:
                    self._dropping = True
                    return parts
        except zmq.Again:
            return None

    @property
    def user(self) -> str:
        """The key of who sent the last message; empty where there is none, or it is not known any more."""
        try:
            return "" if self._last is None else str(self._last.get("User-Id"))
        except zmq.ZMQError:
            return ""

    @property
    def peer(self) -> str:
        """Where the last message came from: an address, or over ipc a process; empty where ZeroMQ does not know it."""
        try:
            address = "" if self._last is None else str(self._last.get("Peer-Address"))
        except zmq.ZMQError:
            return ""
        found = re.fullmatch(r"localhost:\d+:\d+:(\d+)", address)  # user, group and process
        return address if found is None else f"process {found[1]}"


class Handshakes:
    """Tells whether the other end of a socket that connects refuses it, over tcp. role: what it wants to do, for
    an error."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, key: Key | None, role: str) -> None:
        self._keyed, self._role, self._failed, self._by_key = key is not None, role, 0, False
        self._since = self._connected = 0.0  # when something happened, and when the last connection stood
        self._monitor = socket.get_monitor_socket(REFUSED | DECIDED) if endpoint.startswith("tcp://") else None

    def refusal(self) -> str:
        """Why it is refused; empty as long as it is not known to be."""
        now = time.monotonic()
        while self._monitor is not None:
            try:
                event = int.from_bytes(self._monitor.recv_multipart(zmq.NOBLOCK)[0][:2], "little")
            except zmq.ZMQError:
                break
            self._since = now
            if event == zmq.EVENT_CONNECTED:
                self._connected = now
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._failed = 0
            elif event & REFUSED and now - self._connected < ANSWERED_S:  # a daemon that was suspended answers late
                self._failed += 1
            self._by_key = self._by_key or event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
        if self._by_key:
            return f"refuses this key: it must be in the daemon's list, with the right to {self._role} (SECURITY.md)"
        # After a failure the next connection may stand, without an answer, until the daemon gives it up.
        if self._failed < FAILURES and not (self._failed and now - self._since > UNANSWERED_S):
            return ""
        if self._keyed:
            return "does not answer to this key: it belongs to another daemon than the key is for, or asks for none"
        return "ends each connection: it asks for a key (--key), or is no daemon"


def attach(
    socket: zmq.Socket[Any], endpoint: str, *, bind: bool, name: str = "", key: Key | None = None, keyed: bool = False
) -> str:
    """Bind or connect; returns the endpoint as it came out (a port of `*` resolved). key: of a peer that connects, whose messages
    are encrypted over tcp; keyed: the socket admits keys alone. Raises SourceError naming `name` and the endpoint, ConfigError
    for one that is not served."""
    check_endpoint(endpoint, name or "endpoint", keyed=keyed or key is not None)
    if key is not None and endpoint.startswith("tcp://"):
        for option, value in (
            (zmq.CURVE_SERVERKEY, key.server), (zmq.CURVE_PUBLICKEY, key.public), (zmq.CURVE_SECRETKEY, key.secret)
        ):  # fmt: skip
            socket.setsockopt(option, value)
    told = f"{name} {endpoint}".strip()
    try:
        if "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        if bind and endpoint.startswith("ipc://"):
            _check_free(Path(endpoint.removeprefix("ipc://")), told)
        (socket.bind if bind else socket.connect)(endpoint)
        last = socket.getsockopt(zmq.LAST_ENDPOINT)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno) if error.errno else str(error)
        raise SourceError(f"{told}: cannot {'bind' if bind else 'connect'}: {why}") from error
    return last.rstrip(b"\0").decode() if isinstance(last, bytes) else endpoint


def _check_free(path: Path, told: str) -> None:
    """ZeroMQ removes whatever is at an ipc path before it binds: a file, or the socket of a daemon that is running."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise SourceError(f"{told}: {path} is there and is no socket")
    with plain.socket(plain.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left over from a process that is gone
    raise SourceError(f"{told}: in use by another process")
