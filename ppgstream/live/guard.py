"""Who may connect to a daemon, send and read: CURVE's handshake (ZAP, ZeroMQ's RFC 27), and the rights of each key.

ZeroMQ asks here, over a socket within the process, whether a key is admitted. The loop's thread answers, so that nothing else has
to be alive. What a key may send, read and ask is looked at with each message.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import zmq
import zmq.utils.z85

from ppgstream.config import Security
from ppgstream.core.ledger import Event
from ppgstream.errors import ConfigError
from ppgstream.live.endpoints import make
from ppgstream.live.events import Events
from ppgstream.live.keys import Allowed, read_allowed, read_secret
from ppgstream.live.keys import make as new_key

ZAP = "inproc://zeromq.zap.01"
MOST_REQUEST = 1024  # bytes of a part
REQUESTS_A_TURN = 64
HANDSHAKE_MS = 10_000  # for a peer to finish it
MOST_KNOWN = 16_384  # pairs of a key and a stream that were looked at
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
INNER = "of this daemon"  # the name of the key of its own sources


class Guard:
    """Reads the keys that `security` names. events: where refusals are told. Raises ConfigError.

    key: for what runs in this process and connects to the daemon's sockets. socket: to be polled; `answer` when something is
    there. revoked: a reader may read less than when it connected: the caller drops the connections of all."""

    def __init__(self, context: zmq.Context[Any], security: Security, events: Events) -> None:
        self._path = Path(security.allow)
        self._own = read_secret(Path(security.key))
        if self._own.server:
            raise ConfigError(f"{security.key}: is a sensor's or a reader's key, for another daemon: `ppgstream keygen NAME`")
        self.key = new_key("inner")._replace(server=self._own.public)
        self._events = events
        self._allowed: dict[bytes, tuple[str, Allowed]] = {}
        self._read_at: tuple[int, int] | None = None
        self._take(read_allowed(self._path))
        self._may: dict[tuple[str, str], bool] = {}
        self._readers: set[bytes] = set()  # keys that connected to the output
        self.revoked = False
        self.refused = 0
        self.socket = make(context, zmq.ROUTER, most=MOST_REQUEST)
        self.socket.bind(ZAP)
        self._monitors: list[tuple[str, zmq.Socket[Any]]] = []

    def _take(self, allowed: dict[bytes, tuple[str, Allowed]]) -> None:
        own = Allowed(self.key.public.decode(), ["*"], ["*"], status=True)
        self._allowed = allowed | {self.key.public: (INNER, own)}
        self._read_at = self._stamp()

    def _stamp(self) -> tuple[int, int] | None:
        try:
            facts = self._path.stat()
        except OSError:
            return None
        return facts.st_mtime_ns, facts.st_ino

    def protect(self, socket: zmq.Socket[Any], domain: str) -> None:
        """Make a socket that is not bound yet one that admits keys alone."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._own.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._monitors = [one for one in self._monitors if one[0] != domain]
        self._monitors.append((domain, socket.get_monitor_socket(FAILED)))

    def answer(self) -> None:
        """Answer some of ZeroMQ's questions, and count the handshakes that came to nothing."""
        for _ in range(REQUESTS_A_TURN):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            at = parts.index(b"") + 1
            envelope, request = parts[:at], parts[at:]
            if len(request) < 6:
                continue
            version, number, domain, address, _, mechanism, *credentials = request
            key = _z85(credentials[0]) if mechanism == b"CURVE" and credentials and len(credentials[0]) == 32 else b""
            fine = self._admits(key, domain.decode(errors="replace"), address.decode(errors="replace"))
            told = (b"200", b"", key, b"") if fine else (b"400", b"this key is not allowed here", b"", b"")
            self.socket.send_multipart([*envelope, version, number, *told])
        for end, monitor in self._monitors:
            for _ in range(REQUESTS_A_TURN):
                try:
                    monitor.recv_multipart(zmq.NOBLOCK)
                except zmq.ZMQError:
                    break
                self._refuse(f"{end}: a peer without a key, or with another daemon's: its connection was refused")

    def _admits(self, key: bytes, domain: str, address: str) -> bool:
        name, rights = self._allowed.get(key, ("", None))
        wants = {"in": "send", "out": "read", "status": "status"}.get(domain, "")
        if rights is None:
            self._refuse(f"{domain}: a key that is not in {self._path}, from {address}: {key.decode()!r}")
        elif not getattr(rights, wants, False):
            self._refuse(f"{domain}: [{name}] of {self._path} has no right to {wants}, from {address}")
        else:
            if domain == "out":
                self._readers.add(key)
            return True
        return False

    def _refuse(self, text: str, stream: str = "") -> None:
        self.refused += 1
        self._events.tell(Event("refused_key", text, stream, text.partition(":")[0]))

    def rights(self, user: str) -> Allowed | None:
        """Of the key of a message; None: it has none any more."""
        return self._allowed.get(user.encode(), ("", None))[1]

    def may_send(self, user: str, stream: str) -> bool:
        """Whether a key may send a stream; if not, it is told."""
        known = self._may.get((user, stream))
        if known is None:
            rights = self.rights(user)
            known = rights is not None and rights.may_send(stream)
            if len(self._may) >= MOST_KNOWN:
                self._may.clear()
            self._may[user, stream] = known
        if not known:
            self._refuse(f"{stream}: the key [{self.name_of(user)}] may not send it", stream)
        return known

    def may_ask(self, user: str) -> bool:
        rights = self.rights(user)
        return rights is not None and rights.status

    def name_of(self, user: str) -> str:
        """Of a key, as the list has it."""
        return self._allowed.get(user.encode(), ("a key that was taken from the list", None))[0]

    def may_reload(self, user: str) -> bool:
        """Whether a key may have another checkpoint served; if not, it is told."""
        rights = self.rights(user)
        if rights is not None and rights.reload:
            return True
        self._refuse(f"status: [{self.name_of(user)}] of {self._path} has no right to reload")
        return False

    def tick(self) -> None:
        """Read the list again if it has changed. One that cannot be read is told, and the last one holds."""
        stamp = self._stamp()
        if stamp == self._read_at:
            return
        self._read_at, before = stamp, self._allowed
        try:
            self._take(read_allowed(self._path))
        except ConfigError as error:
            self._events.tell(Event("keys", f"{error}; the keys that were allowed before still are"))
            return
        self._may.clear()
        for key in list(self._readers):
            _, rights = self._allowed.get(key, ("", None))
            if rights is None or not set(before[key][1].read) <= set(rights.read):
                self._readers.remove(key)
                self.revoked = True
        self._events.tell(Event("keys", f"{self._path}: read again: {len(self._allowed) - 1} keys"))


def _z85(raw: bytes) -> bytes:
    text: Any = zmq.utils.z85.encode(raw)
    return text.encode() if isinstance(text, str) else bytes(text)
