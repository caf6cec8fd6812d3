"""Asking a daemon for its status."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.endpoints import MOST_ANSWER, attach, make

Snapshot = dict[str, Any]
ANSWERS_A_LOOK = 64


class StatusClient:
    """Asks a daemon for its status. One request, one answer."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._context = zmq.Context()
        self._socket = make(self._context, zmq.DEALER, most=MOST_ANSWER, sndhwm=1)
        try:
            attach(self._socket, endpoint, bind=False)
        except PpgStreamError:
            self._context.destroy(linger=0)
            raise

    def ask(self, timeout_s: float, watch: Sequence[str] = ()) -> Snapshot | None:
        """The daemon's snapshot, or None if it does not answer in time."""
        with contextlib.suppress(zmq.Again):  # the last request still waits for a daemon to come
            self._socket.send(msgspec.json.encode({"watch": list(watch)}), zmq.NOBLOCK)
        answer = None
        if self._socket.poll(int(timeout_s * 1000)):
            for _ in range(ANSWERS_A_LOOK):  # answers to requests that had been given up are older: the last one counts
                answer = self._socket.recv()
                if not self._socket.poll(0):
                    break
        try:
            return None if answer is None else msgspec.json.decode(answer, type=dict)
        except msgspec.DecodeError as error:
            raise SourceError(f"{self.endpoint}: not a ppgstream status socket: {error}") from error

    def close(self) -> None:
        self._context.destroy(linger=0)
