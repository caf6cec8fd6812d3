"""The sending end: chunks onto a socket without losing one. Replay and the demo send through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import zmq

from ppgstream.errors import PpgStreamError, SourceError, UsageError
from ppgstream.live.endpoints import MOST_SUBSCRIPTION, Handshakes, Inbox, attach, make
from ppgstream.live.keys import Key
from ppgstream.live.nats import is_nats, shown, subject_of
from ppgstream.live.status import FLEET, StatusClient
from ppgstream.wire.message import Chunk, decode, encode

HIGH_WATER_MARK = 1000  # messages; beyond it `send` waits, so the bound is on memory and not on what arrives
SUBSCRIPTIONS_A_TURN = 64
ANSWER_S = 2.0  # a daemon that has not answered by then is none
ASK_EVERY_S = 0.05
ASK_S = 0.5  # for a daemon's answer over NATS
MOST_UNCONFIRMED = 8 * 1024 * 1024  # bytes that a NATS server has not confirmed, before `send` waits
ACK_S, SERVER_S = 2.0, 10.0  # for a NATS server's acknowledgement, before a message is sent again; for its other answers
PATIENCE_S = 10.0  # without progress
STOPPED_S = 2.0  # the same, once stopped


def change_of(parts: list[bytes]) -> int:
    """How a message that a subscriber sends changes the number of subscriptions: by 1, by -1, or by 0 if it is neither a
    subscription nor its end."""
    return {b"\x01": 1, b"\x00": -1}.get(parts[0][:1], 0) if parts else 0


def same_endpoint(one: str, other: str) -> bool:
    """Whether two endpoints are the same: localhost is 127.0.0.1, and an ipc path may be relative."""

    def plain(endpoint: str) -> str:
        scheme, _, rest = shown(endpoint).partition("://")
        return str(Path(rest).resolve()) if scheme == "ipc" else rest.replace("localhost:", "127.0.0.1:")

    return plain(one) == plain(other)


class Delivery(NamedTuple):
    """left: samples that the daemon has not taken; None if that is not known. endpoint: where the daemon that answered last
    reads; empty if it did not."""

    left: int | None
    endpoint: str


class Publisher:
    """An XPUB socket that waits for its subscriber, and then for room: nothing is dropped on the way to a daemon.

    acked: whether `send` returns only once a message is stored. `stopped` is asked now and then; once it says True, waiting ends
    and what is not sent yet stays unsent.
    `key`: for a daemon that asks for one.
    """

    acked = False

    def __init__(
        self, endpoint: str, *, bind: bool = False, key: Key | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._context = zmq.Context()
        self._socket = make(self._context, zmq.XPUB, most=MOST_SUBSCRIPTION, linger=-1, xpub_nodrop=1, sndhwm=HIGH_WATER_MARK)
        self._inbox = Inbox(self._socket)
        self._stopped = stopped
        self._subscribers = 0
        self._last_by = 0.0
        self.sent = 0
        self._handshakes: Handshakes | None = None
        try:
            if not bind:
                self._handshakes = Handshakes(self._socket, endpoint, key, "send")
            attach(self._socket, endpoint, bind=bind, key=key)
        except PpgStreamError:
            self._context.destroy(linger=0)
            raise
        self._endpoint = endpoint

    def wait_for_subscriber(self, timeout_s: float) -> None:
        """Return once somebody listens. Raises SourceError after `timeout_s` seconds, and where this end is
        refused."""
        deadline = time.monotonic() + timeout_s
        while not self._subscribers and not self._stopped():
            if self._handshakes is not None and (why := self._handshakes.refusal()):
                raise SourceError(f"{self._endpoint}: {why}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise SourceError(f"{self._endpoint}: nobody listens there after {timeout_s:g} s: start `ppgstream run` first")
            if self._socket.poll(int(min(left, 0.1) * 1000) + 1):
                self._hear()

    def send_last(self, chunk: Chunk) -> None:
        """An END that is to leave even though the sender was stopped: tried for 2 s from the first of them on."""
        self._last_by = self._last_by or time.monotonic() + 2.0
        self._stopped = lambda: time.monotonic() > self._last_by
        self.send(chunk)

    def send(self, chunk: Chunk, *, timeout_s: float = 30.0) -> bool:
        """Send, waiting for room. False once stopped. Raises SourceError when the subscriber is gone for `timeout_s`."""
        parts = encode(chunk)
        while not self._stopped():
            self._hear()
            if not self._subscribers:
                self.wait_for_subscriber(timeout_s)
                continue
            try:
                self._socket.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:
                self._socket.poll(50, zmq.POLLOUT)
                continue
            self.sent += 1
            return True
        return False

    def confirm(
        self,
        client: StatusClient,
        sent: Mapping[str, tuple[int, int]],
        *,
        reads: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Delivery:
        """Wait until the daemon has taken everything that was sent: of each stream, session and next index. As long as it takes
        more, it is waited for. reads: the endpoint that the daemon must read, if it is not sure that `client` asks the right one.

        Without it, what waits in an ipc socket is lost if this end closes while the daemon is behind: ZeroMQ drops what the
        kernel still holds.
        """
        sessions = {name: session for name, (session, _) in sent.items()}
        reached: dict[str, int] = {}  # a stream that has ended may be forgotten afterwards
        left, moved, answered = -1, time.monotonic(), False
        while True:
            answer = client.taken(sessions, ANSWER_S)
            if answer is None and not answered:
                return Delivery(None, "")
            if answer is not None and answer[0].startswith(FLEET):
                return Delivery(None, answer[0])  # each member knows its own streams alone
            if answer is not None and reads is not None and not same_endpoint(reads, answer[0]):
                return Delivery(None, answer[0])
            if answer is not None:
                answered = True
                reached |= {name: taken for name, taken in answer[1].items() if taken is not None}
                now_left = sum(max(stop - reached.get(name, 0), 0) for name, (_, stop) in sent.items())
                if not now_left:
                    return Delivery(0, answer[0])
                if now_left != left:
                    left, moved = now_left, time.monotonic()
            if time.monotonic() - moved > (min(patience_s, STOPPED_S) if self._stopped() else patience_s):
                return Delivery(left, "" if answer is None else answer[0])
            time.sleep(ASK_EVERY_S)

    def last(self, stream: str) -> Chunk | None:
        """What of a stream is stored last where it was sent; None if nothing is."""
        return None

    def close(self, linger_s: float = 30.0) -> None:
        """Close once everything sent has left, at most `linger_s` seconds from now."""
        self._context.destroy(linger=int(linger_s * 1000))

    def _hear(self) -> None:
        for _ in range(SUBSCRIPTIONS_A_TURN):
            parts = self._inbox.take()
            if parts is None:
                return
            self._subscribers += change_of(parts)


class NatsPublisher(Publisher):
    """The same over a NATS server. What was sent is kept until the server has confirmed it, over reconnections; `send` waits
    while too much is not confirmed. acked: for a fleet. `send` returns once the server has stored the message (JetStream), and a
    message that is sent again is stored once."""

    def __init__(self, endpoint: str, *, acked: bool = False, stopped: Callable[[], bool] = lambda: False) -> None:
        from ppgstream.live.link import Link

        self._endpoint, self._stopped, self._last_by, self.sent = shown(endpoint), stopped, 0.0, 0
        self._link, self.acked = Link(endpoint), acked

    def wait_for_subscriber(self, timeout_s: float) -> None:
        if self.acked:
            try:
                self._link.run(self._stream(timeout_s), timeout_s + SERVER_S)
            except SourceError:
                if not self._stopped():
                    raise
            return

        async def ask() -> bool:
            try:
                await self._link.client.request("ppg.ask.in", b"", timeout=ASK_S)
            except Exception:  # nobody is there, or does not answer, or the server is gone
                return False
            return True

        deadline = time.monotonic() + timeout_s
        while not self._stopped() and not self._link.run(ask()):
            if time.monotonic() > deadline:
                raise SourceError(f"{self._endpoint}: no daemon reads there after {timeout_s:g} s: start `ppgstream run` first")
            time.sleep(ASK_EVERY_S)

    async def _stream(self, timeout_s: float) -> str:
        """The stream that keeps what sensors send. Raises SourceError where there is none."""
        import asyncio

        from ppgstream.live.stored import stream_of_subject

        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return await stream_of_subject(self._link, "ppg.in.>")
            except LookupError as error:
                if time.monotonic() > deadline or self._stopped():
                    why = f"nothing keeps what is sent there: start `ppgstream run --fleet NAME` first ({error})"
                    raise SourceError(f"{self._endpoint}: {why}") from None
            await asyncio.sleep(ASK_EVERY_S)

    def last(self, stream: str) -> Chunk | None:
        async def last() -> bytes | None:
            from nats.js.errors import NotFoundError

            kept = await self._stream(0.0)
            try:
                found = await self._link.client.jetstream().get_last_msg(kept, subject_of("in", stream))
            except NotFoundError:
                return None
            return bytes(found.data)

        body = self._link.run(last())
        return None if body is None else decode([stream.encode(), body])

    def _send_acked(self, chunk: Chunk, timeout_s: float) -> bool:
        import asyncio

        from ppgstream.live.stored import told

        subject, body = subject_of("in", chunk.stream), encode(chunk)[1]
        number = f"{chunk.stream}/{chunk.session:x}/{chunk.index}/{chunk.kind}"  # under which it is stored once
        deadline = time.monotonic() + timeout_s

        async def put() -> bool:
            js = self._link.client.jetstream()
            while not self._stopped():
                try:
                    await js.publish(subject, body, timeout=ACK_S, headers={"Nats-Msg-Id": number})
                except Exception as error:  # the server is away, or full, or keeps nothing yet
                    if time.monotonic() > deadline:
                        where = f"index {chunk.index} of {chunk.stream}"
                        text = f"the NATS server has not stored {where} in {timeout_s:g} s: {told(error)}"
                        raise SourceError(f"{self._endpoint}: {text}") from None
                    await asyncio.sleep(ASK_EVERY_S)
                else:
                    return True
            return False

        stored = self._link.run(put(), timeout_s + 2 * ACK_S)
        self.sent += stored
        return stored

    def send(self, chunk: Chunk, *, timeout_s: float = 30.0) -> bool:
        if self.acked:
            return self._send_acked(chunk, timeout_s)
        deadline = time.monotonic() + timeout_s
        while self._link.unsent_bytes > MOST_UNCONFIRMED:
            if self._stopped():
                return False
            if time.monotonic() > deadline:
                raise SourceError(f"{self._endpoint}: the NATS server has confirmed nothing for {timeout_s:g} s")
            time.sleep(0.01)
        if self._stopped():
            return False
        self._link.publish(subject_of("in", chunk.stream), encode(chunk)[1])
        self.sent += 1
        return True

    def close(self, linger_s: float = 30.0) -> None:
        self._link.close(linger_s)


def publisher(
    endpoint: str,
    *,
    bind: bool = False,
    key: Key | None = None,
    acked: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Publisher:
    """A publisher for an endpoint, ZeroMQ's or a NATS server's. The arguments are those of `Publisher` and `NatsPublisher`.
    Raises UsageError where `acked` is asked of ZeroMQ."""
    if is_nats(endpoint):
        return NatsPublisher(endpoint, acked=acked, stopped=stopped)
    if acked:
        raise UsageError(f"{endpoint}: only a NATS server acknowledges what is sent: nats://HOST:PORT")
    return Publisher(endpoint, bind=bind, key=key, stopped=stopped)
