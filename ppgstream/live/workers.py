"""The model on threads of its own. Tiles come back in the order in which they were handed over: the output does not depend on the number of threads."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from ppgstream.core.denoiser import Answer, Denoiser
from ppgstream.core.engine import Tile

Found = Answer | Exception | None  # what the model answered, or raised; None: it was not asked


class Workers:
    """`threads` threads that run the model. One thread hands over and takes back; `fileno` is readable once something may be taken back."""

    def __init__(self, denoiser: Denoiser, threads: int) -> None:
        self._denoiser = denoiser
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ppgstream-model")
        self._most = threads + 1  # one waits, so that no worker does
        self._tiles: deque[tuple[Tile, Future[Found]]] = deque()
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)

    @property
    def full(self) -> bool:
        return len(self._tiles) >= self._most

    def __len__(self) -> int:
        """Tiles that were handed over and not taken back."""
        return len(self._tiles)

    @property
    def windows(self) -> int:
        """Windows of those tiles."""
        return sum(len(tile.ready) for tile, _ in self._tiles)

    def fileno(self) -> int:
        return self._awake.fileno()

    def hand_over(self, tile: Tile, *, shed: bool = False) -> None:
        """A tile to be answered; with `shed` it comes back in its turn without an answer."""
        future: Future[Found]
        if shed:
            future = Future()
            future.set_result(None)
            self._ring()
        else:
            future = self._pool.submit(self._answer, tile)
            future.add_done_callback(lambda _: self._ring())
        self._tiles.append((tile, future))

    def take_back(self) -> Iterator[tuple[Tile, Found]]:
        """The tiles that are answered and whose turn it is."""
        with contextlib.suppress(BlockingIOError):
            while self._awake.recv(4096):
                pass
        while self._tiles and self._tiles[0][1].done():
            tile, future = self._tiles.popleft()
            yield tile, future.result()

    def close(self) -> None:
        self._pool.shutdown()
        self._awake.close()
        self._wake.close()

    def _answer(self, tile: Tile) -> Found:
        try:
            return self._denoiser(tile.batch)
        except Exception as error:  # whatever the runtime raises: its tile is published as it came, and the worker goes on
            return error

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens any more
            self._wake.send(b"\0")
