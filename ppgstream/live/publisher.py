"""The sending end: chunks onto a socket without losing one. Replay and the demo send through it."""

from __future__ import annotations

import time
from collections.abc import Callable

import zmq

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.endpoints import MOST_SUBSCRIPTION, Inbox, attach, make
from ppgstream.wire.message import Chunk, encode

HIGH_WATER_MARK = 1000  # messages; beyond it `send` waits, so the bound is on memory and not on what arrives
SUBSCRIPTIONS_A_TURN = 64


def change_of(parts: list[bytes]) -> int:
    """By what a message up a publishing socket changes the number of subscriptions. Words are none: the socket is for listening."""
    return {b"\x01": 1, b"\x00": -1}.get(parts[0][:1], 0) if parts else 0


class Publisher:
    """An XPUB socket that waits for its subscriber, and then for room: nothing is dropped on the way to a daemon.

    `stopped` is asked now and then; once it says True, waiting ends and what is not sent yet stays unsent.
    """

    def __init__(self, endpoint: str, *, bind: bool = False, stopped: Callable[[], bool] = lambda: False) -> None:
        self._context = zmq.Context()
        self._socket = make(self._context, zmq.XPUB, most=MOST_SUBSCRIPTION, linger=-1, xpub_nodrop=1, sndhwm=HIGH_WATER_MARK)
        self._inbox = Inbox(self._socket)
        self._stopped = stopped
        self._subscribers = 0
        self._last_by = 0.0
        self.sent = 0
        try:
            attach(self._socket, endpoint, bind=bind)
        except PpgStreamError:
            self._context.destroy(linger=0)
            raise
        self._endpoint = endpoint

    def wait_for_subscriber(self, timeout_s: float) -> None:
        """Return once somebody listens. Raises SourceError after `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        while not self._subscribers and not self._stopped():
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

    def close(self, linger_s: float = 30.0) -> None:
        """Close once everything sent has left, at most `linger_s` seconds from now."""
        self._context.destroy(linger=int(linger_s * 1000))

    def _hear(self) -> None:
        for _ in range(SUBSCRIPTIONS_A_TURN):
            parts = self._inbox.take()
            if parts is None:
                return
            self._subscribers += change_of(parts)
