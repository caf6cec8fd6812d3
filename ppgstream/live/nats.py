"""NATS in place of ZeroMQ's sockets: a connection on a thread of its own, the daemon's source and sink on it, and both ends for
clients. Needs nats-py.

    ppg.in.PARTITION.STREAM     what sensors send, the body of docs/wire.md
    ppg.out.PARTITION.STREAM    what daemons publish
    ppg.ask.in                  answered by who reads ppg.in

A partition is crc32(stream) mod 256, for life. Stream ids have dots, which separate a subject's parts: they are written %2E.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ppgstream.config import check_endpoint
from ppgstream.core.ledger import Event
from ppgstream.errors import ConfigError, PpgStreamError, SourceError, UsageError

T = TypeVar("T")
Message = tuple[str, bytes]  # subject and body

PARTITIONS = 256
MOST_BYTES = 64 * 1024 * 1024  # that wait in one direction; beyond it they are dropped, and counted
CONFIRM_S = 0.05  # between two questions whether the server has all that was sent
CONNECT_S, ANSWER_S = 5.0, 5.0
RECONNECT_S = 0.1
AT_ONCE = 256  # messages published before others on the thread have a turn


@lru_cache(maxsize=65_536)
def partition_of(stream: str) -> int:
    """Of a stream, for life."""
    return zlib.crc32(stream.encode()) % PARTITIONS


@lru_cache(maxsize=65_536)
def token_of(stream: str) -> str:
    """A stream's id as a part of a subject."""
    return stream.replace(".", "%2E")


@lru_cache(maxsize=65_536)
def stream_of(subject: str) -> str:
    """The id of the stream that a subject is of."""
    return subject.rpartition(".")[2].replace("%2E", ".")


def subject_of(what: str, stream: str) -> str:
    """Where samples of a stream go: `what` is "in" or "out"."""
    return f"ppg.{what}.{partition_of(stream)}.{token_of(stream)}"


def is_nats(endpoint: str) -> bool:
    """Whether an endpoint is a NATS server's."""
    return endpoint.startswith(("nats://", "tls://"))


class Link:
    """A connection to a NATS server. It connects again by itself, for as long as it takes.

    What `publish` gives is kept until the server has confirmed it, and sent again after a reconnection: so what waits is not
    lost, and may come twice. `take` gives what came. `fileno` is readable once something has. dropped_in, dropped_out: messages
    that found no room. Raises SourceError where there is no server, UsageError without nats-py, ConfigError
    for an address beyond this host without TLS.
    """

    def __init__(self, url: str, *, tell: Callable[[Event], None] = lambda _: None) -> None:
        check_endpoint(url, "endpoint", nats=True)
        try:
            self._nats: Any = importlib.import_module("nats")
        except ImportError as error:
            raise UsageError(f"{url}: needs the package nats-py: pip install 'ppgstream[nats]'") from error
        self.url, self.tell = url, tell
        self.on_connected: list[Callable[[], None]] = []  # called once it is connected again
        self._options = _options()
        self.dropped_in = self.dropped_out = 0
        self._incoming: deque[Message] = deque()
        self._incoming_bytes = 0
        self._outgoing: deque[Message] = deque()
        self._unconfirmed: deque[Message] = deque()
        self._outgoing_bytes = 0  # of both
        self._kicked = self._rung = self._again = self._sending = False
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        self._closing = False
        self.connected = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="ppgstream-nats", daemon=True)
        self._thread.start()
        try:
            self.client: Any = self.run(self._connect())
        except PpgStreamError:
            self._stop()
            raise
        self._confirming = asyncio.run_coroutine_threadsafe(self._confirm(), self.loop)

    # ---- for the thread that owns it ---------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float = CONNECT_S + ANSWER_S) -> T:
        """Do something on the connection's thread, and wait for what it gives. Raises SourceError where it takes too long."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            future.cancel()
            raise SourceError(f"{shown(self.url)}: the NATS server has not answered in {timeout_s:g} s") from None

    def subscribe(self, subjects: Iterable[str]) -> list[Any]:
        """Take what comes on these subjects, from now on. Gives the subscriptions."""

        async def subscribe() -> list[Any]:
            found = [await self.client.subscribe(subject, cb=self.heard) for subject in subjects]
            await self.client.flush()
            return found

        return self.run(subscribe())

    def fileno(self) -> int:
        return self._awake.fileno()

    def take(self) -> Message | None:
        """The next message; None if there is none."""
        if not self._incoming:
            self._rung = False
            with contextlib.suppress(BlockingIOError):
                while self._awake.recv(4096):
                    pass
            if not self._incoming:
                return None
        message = self._incoming.popleft()
        self._incoming_bytes -= len(message[1])
        return message

    @property
    def waits(self) -> bool:
        """Whether something is there to take."""
        return bool(self._incoming)

    def publish(self, subject: str, body: bytes) -> bool:
        """Send a message. False if there is no room for it."""
        if self._outgoing_bytes + len(body) > MOST_BYTES:
            self.dropped_out += 1
            return False
        self._outgoing_bytes += len(body)
        self._outgoing.append((subject, body))
        if not self._kicked:
            self._kicked = True
            self.loop.call_soon_threadsafe(self._send)
        return True

    @property
    def unsent(self) -> int:
        """Messages that the server has not confirmed."""
        return len(self._outgoing) + len(self._unconfirmed)

    @property
    def unsent_bytes(self) -> int:
        return self._outgoing_bytes

    def flush(self, timeout_s: float) -> bool:
        """Wait until the server has all that was published. False if it has not in that time."""
        until = time.monotonic() + timeout_s
        while self.unsent:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def close(self, flush_s: float = 0.0) -> None:
        """Close it, once all was sent, or after `flush_s` seconds."""
        if self._closing:
            return
        self.flush(flush_s)
        self._closing = True
        self._confirming.cancel()
        with contextlib.suppress(SourceError, Exception):
            self.run(self.client.close(), 1.0)
        self._stop()

    def _stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self.loop.close()
        self._awake.close()
        self._wake.close()

    # ---- on the connection's thread ------------------------------------------------------------------------------------

    async def _connect(self) -> Any:
        client, reasons = self._nats.NATS(), []

        async def failed(error: Exception) -> None:
            reasons.append(str(error) or type(error).__name__)
            if self.connected:
                self.tell(Event("nats", f"{shown(self.url)}: {reasons[-1]}", "", type(error).__name__))

        async def disconnected() -> None:
            # What the client has not written yet would be sent before what was lost on the way: out of order.
            client._pending, client._pending_data_size = [], 0
            self._again = True  # what was not confirmed is sent again, before all else
            if self.connected and not self._closing:
                self.tell(Event("nats", f"{shown(self.url)}: the connection is lost: tried again until it is back"))

        async def reconnected() -> None:
            self.tell(Event("nats", f"{shown(self.url)}: connected again"))
            for act in self.on_connected:
                act()
            self._send()

        try:
            await asyncio.wait_for(
                client.connect(
                    self.url, name="ppgstream", error_cb=failed, disconnected_cb=disconnected, reconnected_cb=reconnected,
                    max_reconnect_attempts=1, reconnect_time_wait=RECONNECT_S, connect_timeout=2, pending_size=MOST_BYTES,
                    allow_reconnect=True, drain_timeout=2, ping_interval=5, max_outstanding_pings=3, **self._options,
                ),
                CONNECT_S,
            )  # fmt: skip
        except Exception as error:  # its errors share no base with those of sockets and TLS
            with contextlib.suppress(Exception):
                await client.close()
            why = next(iter(reasons), str(error) or type(error).__name__)
            raise SourceError(f"{shown(self.url)}: no connection to a NATS server: {why}") from None
        client.options["max_reconnect_attempts"] = -1  # but from now on it is waited for
        self.connected = True
        return client

    async def heard(self, message: Any) -> None:
        if message.reply and message.subject.startswith("ppg.ask."):
            await self.client.publish(message.reply, b"")
            return
        size = len(message.data)
        if self._incoming_bytes + size > MOST_BYTES:
            self.dropped_in += 1
            return
        self._incoming_bytes += size
        self._incoming.append((message.subject, message.data))
        if not self._rung:
            self.ring()

    def ring(self) -> None:
        """Make `fileno` readable."""
        self._rung = True
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def _send(self) -> None:
        self._kicked = False
        if not self._sending:
            self._sending = True
            self._sender = self.loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            await self._send_each()
        finally:
            self._sending = False

    async def _send_each(self) -> None:
        client = self.client
        if self._again and client.is_connected:
            self._again = False
            self._outgoing.extendleft(reversed(self._unconfirmed))
            self._unconfirmed.clear()
        n = 0
        while self._outgoing and client.is_connected and not self._again:
            message = self._outgoing.popleft()
            self._unconfirmed.append(message)
            try:
                await client.publish(*message)
            except Exception as error:  # too large for the server, or the connection is gone
                if client.is_connected:
                    self._unconfirmed.pop()
                    self._outgoing_bytes -= len(message[1])
                    self.dropped_out += 1
                    self.tell(Event("nats", f"{shown(self.url)}: a message was not sent: {error}", "", type(error).__name__))
            n += 1
            if n % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _confirm(self) -> None:
        """Ask the server now and then whether it has what was sent."""
        while True:
            await asyncio.sleep(CONFIRM_S)
            client, n = self.client, len(self._unconfirmed)
            if not n or not client.is_connected or self._again:
                if self._outgoing and client.is_connected:
                    self._send()
                continue
            first = self._unconfirmed[0]
            try:
                await client.flush(timeout=2)
            except Exception:  # noqa: S112 (the connection is gone: sent again once it is back)
                continue
            if self._again or not self._unconfirmed or self._unconfirmed[0] is not first:
                continue
            for _ in range(n):
                self._outgoing_bytes -= len(self._unconfirmed.popleft()[1])


def shown(url: str) -> str:
    """A server's address without what authenticates."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _options() -> dict[str, Any]:
    """What a connection is made with: NATS' own files, in the variables that the program `nats` reads too. Raises ConfigError for
    one that cannot be read."""
    found: dict[str, Any] = {}
    files = {name: os.environ.get(name, "") for name in ("NATS_CREDS", "NATS_CA", "NATS_CERT", "NATS_KEY")}
    for name, path in files.items():
        if path and not Path(path).is_file():
            raise ConfigError(f"{name}: {path}: no such file")
    creds, ca, cert, key = files.values()
    if bool(cert) != bool(key):
        raise ConfigError("NATS_CERT and NATS_KEY go together: the certificate of this end, and its key")
    if creds:
        found["user_credentials"] = creds
    if ca or cert:
        try:
            context = ssl.create_default_context(cafile=ca or None)
            if cert:
                context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"NATS_CA, NATS_CERT, NATS_KEY: cannot be used for TLS: {error}") from error
        found["tls"] = context
    return found
