"""A connection to a NATS server, on a thread of its own. Needs nats-py, which is for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ppgstream.config import check_endpoint
from ppgstream.core.ledger import Event
from ppgstream.errors import ConfigError, PpgStreamError, SourceError, UsageError
from ppgstream.live.nats import MOST_BYTES, Message, shown

T = TypeVar("T")
CONFIRM_S = 0.05  # between two questions whether the server has all that was sent
WRITE_S = 0.001  # between two looks whether it was written
NEVER_S = 1e6
CONNECT_S, ANSWER_S = 5.0, 5.0
RECONNECT_S = 0.1
AT_ONCE = 256  # messages published before others on the thread have a turn


class _Outgoing(NamedTuple):
    """losses: how many the connection must have had for it to be sent; -1: any number."""

    subject: str
    body: bytes
    reply: str
    losses: int


class Link:
    """A connection to a NATS server. It connects again by itself, for as long as it takes.

    `publish` keeps a message until the server has confirmed it, and sends it again after a reconnection: so it is not lost, and
    may come twice; one that is published with `losses` is dropped instead, once the connection was lost as often. losses: how
    often it was. `take` gives what came; `fileno` is readable as long as something is there. dropped_in: messages that found no
    room. Raises SourceError where there is no server, UsageError without nats-py, ConfigError for an address beyond
    this host without TLS.
    """

    def __init__(self, url: str, *, tell: Callable[[Event], None] = lambda _: None) -> None:
        check_endpoint(url, "endpoint", nats=True)
        try:
            self._nats: Any = importlib.import_module("nats")
        except ImportError as error:
            raise UsageError(f"{shown(url)}: needs nats-py: pip install nats-py, or ppgstream[nats]") from error
        self.url, self.tell = url, tell
        self.on_connected: list[Callable[[], None]] = []  # called once it is connected again
        self._options = _options()
        _quieten()
        self.dropped_in = self._no_room = self._not_sent = 0
        self._incoming: deque[Message] = deque()
        self._outgoing: deque[_Outgoing] = deque()
        self._unconfirmed: deque[_Outgoing] = deque()
        # Bytes since the start. Each is counted by one thread alone: two that add to one number lose some.
        self._came = self._taken = self._given = self._done = 0
        self.losses = 0
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
            await self.settle()
            return found

        return self.run(subscribe())

    def fileno(self) -> int:
        return self._awake.fileno()

    def take(self) -> Message | None:
        """The next message; None if there is none."""
        if not self._incoming:
            with contextlib.suppress(BlockingIOError):
                while self._awake.recv(4096):
                    pass
            self._rung = False
            if not self._incoming:
                return None
            self.ring()  # one came meanwhile: until all are taken, `fileno` stays readable
        message = self._incoming.popleft()
        self._taken += len(message.body)
        return message

    @property
    def waits(self) -> bool:
        """Whether something is there to take."""
        return bool(self._incoming)

    @property
    def waiting_bytes(self) -> int:
        """Of what is there to take."""
        return self._came - self._taken

    def publish(self, subject: str, body: bytes, *, reply: str = "", losses: int = -1) -> bool:
        """Send a message. False if there is no room for it."""
        if self.unsent_bytes + len(body) > MOST_BYTES:
            self._no_room += 1
            return False
        self._given += len(body)
        self._outgoing.append(_Outgoing(subject, body, reply, losses))
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
        """Of those messages."""
        return self._given - self._done

    @property
    def dropped_out(self) -> int:
        """Messages that found no room, or that the server does not take."""
        return self._no_room + self._not_sent

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
        with contextlib.suppress(Exception):
            self.run(self.client.close(), 1.0)
        self._stop()

    def _stop(self) -> None:
        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0) if tasks else None
            self.loop.stop()

        asyncio.run_coroutine_threadsafe(cancel(), self.loop)
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
            if self.connected and client.is_connected:  # else it is tried again, which was told
                self.tell(Event("nats", f"{shown(self.url)}: {reasons[-1]}", "", type(error).__name__))

        async def disconnected() -> None:
            # What the client has not written yet would be sent before what was lost on the way: out of order.
            client._pending, client._pending_data_size = [], 0
            self.losses += 1
            self._again = True  # what was not confirmed is sent again, before all else
            if self.connected and not self._closing:
                self.tell(Event("nats", f"{shown(self.url)}: the connection is lost: tried again until it is back"))

        async def closed() -> None:
            if self.connected and not self._closing:  # the server refuses this end from now on
                why = reasons[-1] if reasons else "the server has ended it"
                self.tell(Event("nats", f"{shown(self.url)}: the connection is closed for good: {why}"))

        async def reconnected() -> None:
            self.tell(Event("nats", f"{shown(self.url)}: connected again"))
            for act in self.on_connected:
                act()
            self._send()

        try:
            await asyncio.wait_for(
                client.connect(
                    self.url, name="ppgstream", error_cb=failed, disconnected_cb=disconnected, reconnected_cb=reconnected,
                    closed_cb=closed, max_reconnect_attempts=1, reconnect_time_wait=RECONNECT_S, connect_timeout=2,
                    pending_size=MOST_BYTES, allow_reconnect=True, drain_timeout=2, ping_interval=2, max_outstanding_pings=3,
                    **self._options,
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
        """What a subscription calls: keep a message for `take`, and answer who asks whether somebody listens."""
        if message.reply and message.subject.startswith("ppg.ask."):
            await self.client.publish(message.reply, b"")
            return
        if self.waiting_bytes + len(message.data) > MOST_BYTES:
            self.dropped_in += 1
        else:
            self.keep(Message(message.subject, message.data))

    def keep(self, message: Message) -> None:
        """Keep a message for `take`."""
        self._came += len(message.body)
        self._incoming.append(message)
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
            if message.losses not in (-1, self.losses):
                self._done += len(message.body)
                continue
            self._unconfirmed.append(message)
            try:
                await client.publish(message.subject, message.body, message.reply)
            except Exception as error:  # too large for the server, or the connection is gone
                if client.is_connected:
                    self._unconfirmed.pop()
                    self._done += len(message.body)
                    self._not_sent += 1
                    self.tell(Event("nats", f"{shown(self.url)}: a message was not sent: {error}", "", type(error).__name__))
            n += 1
            if n % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def settle(self) -> int:
        """Wait until the server has all that was given to the client; how many of our messages these are, of those that are not
        confirmed. Raises ConnectionError, or what the client raises, where the connection is lost."""
        client, losses = self.client, self.losses
        while client.pending_data_size and client.is_connected:
            await asyncio.sleep(WRITE_S)  # it writes a PING at once, before what waits to be written
        n = len(self._unconfirmed)
        if client.is_connected:
            # Not given up before the connection is: the client stops to read where an answer comes to a PING that was given up.
            ping = asyncio.get_running_loop().create_task(client.flush(timeout=NEVER_S))
            while not ping.done() and losses == self.losses:
                await asyncio.wait({ping}, timeout=CONFIRM_S)
            ping.cancel()
        if not client.is_connected or losses != self.losses:
            raise ConnectionError("the connection is lost")
        return n

    async def _confirm(self) -> None:
        """Ask the server now and then whether it has what was sent."""
        while True:
            await asyncio.sleep(CONFIRM_S)
            if self._outgoing:
                self._send()
            losses = self.losses
            if not self._unconfirmed or not self.client.is_connected or self._again:
                continue
            try:
                n = await self.settle()
            except Exception:  # noqa: S112 (the connection is gone: sent again once it is back)
                continue
            if losses == self.losses:
                for _ in range(n):
                    self._done += len(self._unconfirmed.popleft().body)


def _quieten() -> None:
    """What asyncio and the client log of a lost connection, with tracebacks, is told by events."""
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").addFilter(_is_no_eof)


def _is_no_eof(record: logging.LogRecord) -> bool:
    return "eof_received" not in record.getMessage()


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
