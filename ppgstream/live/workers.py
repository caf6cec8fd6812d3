"""The model on threads of its own. Tiles come back in the order in which they were handed over: the output does not depend on the
number of threads."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue

import numpy as np

from ppgstream.core.denoiser import Answer, Batch, Denoiser
from ppgstream.core.tile import Tile

CLOSE_S = 1.0  # longest wait for model calls at the end

Found = Answer | Exception | None  # what the model answered, or raised; None: it was not asked


class Workers:
    """`threads` threads that run the model. One thread hands over and takes back; `fileno` is readable once something may be
    taken back."""

    def __init__(self, denoiser: Denoiser, threads: int) -> None:
        self._denoiser = denoiser
        self._asked: SimpleQueue[tuple[Callable[[], Found], Future[Found]] | None] = SimpleQueue()
        # Daemon threads: one that hangs in a model call does not keep the process from its end, as a ThreadPoolExecutor's would.
        self._threads: list[threading.Thread] = []
        self._count = threads
        self._most = threads + 1  # one waits, so that no worker does
        self._tiles: deque[tuple[Tile, Future[Found], float]] = deque()  # and when they were handed over
        self._awake, self._wake = socket.socketpair()
        self._awake.setblocking(False)
        self._wake.setblocking(False)
        self._start()

    def _start(self) -> None:
        for k in range(self._count):
            thread = threading.Thread(target=_work, args=(self._asked,), name=f"ppgstream-model-{k}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def full(self) -> bool:
        return len(self._tiles) >= self._most

    def __len__(self) -> int:
        """Tiles that were handed over and not taken back."""
        return len(self._tiles)

    @property
    def windows(self) -> int:
        """Windows of those tiles."""
        return sum(len(tile.ready) for tile, _, _ in self._tiles)

    def oldest_s(self, now: float) -> float:
        """For how long the first of those tiles has waited for its answer, s. All others wait for it."""
        return now - self._tiles[0][2] if self._tiles else 0.0

    def fileno(self) -> int:
        return self._awake.fileno()

    def hand_over(self, tile: Tile, *, shed: bool = False) -> None:
        """A tile to be answered; with `shed` it comes back in its turn without an answer."""
        future: Future[Found] = Future()
        future.add_done_callback(lambda _: self._ring())
        self._tiles.append((tile, future, time.monotonic()))
        if shed:
            future.set_result(None)
        else:
            self._asked.put((partial(_answer, self._denoiser, tile), future))

    def try_out(self, batch: Batch) -> Future[Found]:
        """Windows of no stream to be answered: for finding out whether the model works."""
        future: Future[Found] = Future()
        self._asked.put((partial(_attempt, self._denoiser, batch), future))
        return future

    def change(self, denoiser: Denoiser) -> None:
        """What is handed over from now on is for another model."""
        self._denoiser = denoiser

    def abandon(self) -> None:
        """Wait no longer for what was handed over: it failed. Other threads answer what comes; those that are in a call stay
        there."""
        for _ in range(self._count):
            self._asked.put(None)
        for k, (tile, future, at) in enumerate(self._tiles):
            if not future.done():
                future.cancel()
                failed: Future[Found] = Future()
                failed.set_result(TimeoutError("the model has not answered, and another one is served"))
                self._tiles[k] = tile, failed, at
        self._asked = SimpleQueue()
        self._start()
        self._ring()

    def take_back(self) -> Iterator[tuple[Tile, Found]]:
        """The tiles that are answered and whose turn it is."""
        with contextlib.suppress(BlockingIOError):
            while self._awake.recv(4096):
                pass
        while self._tiles and self._tiles[0][1].done():
            tile, future, _ = self._tiles.popleft()
            yield tile, future.result()

    def give_up(self) -> Iterator[tuple[Tile, Found]]:
        """All tiles, in their turn, without waiting any longer: None for one that no worker has begun, an error for one that is
        being answered."""
        while self._tiles:
            tile, future, _ = self._tiles.popleft()
            if future.cancel():
                yield tile, None
            elif future.done():
                yield tile, future.result()
            else:
                yield tile, TimeoutError("the model has not answered in the time that the stop allows")

    def close(self) -> bool:
        """End the threads, and tell whether they have ended. One that is in a model call is waited for no longer than `CLOSE_S`.
        If it has not ended, the process must end by `os._exit`: ONNX Runtime aborts a process whose call returns while Python
        shuts down."""
        for _, future, _ in self._tiles:
            future.cancel()
        for _ in range(self._count):
            self._asked.put(None)
        until = time.monotonic() + CLOSE_S
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        self._awake.close()
        self._wake.close()
        return not any(thread.is_alive() for thread in self._threads)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # full: it rings already; closed: nobody listens any more
            self._wake.send(b"\0")


def _work(asked: SimpleQueue[tuple[Callable[[], Found], Future[Found]] | None]) -> None:
    while (one := asked.get()) is not None:
        job, future = one
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(job())
        except BaseException as error:  # it is raised where the tile is taken back
            future.set_exception(error)


def _answer(denoiser: Denoiser, tile: Tile) -> Found:
    try:
        return _checked(denoiser(tile.batch), tile)
    except Exception as error:  # whatever the runtime raises: its tile is published as it came, and the worker goes on
        return error


def _attempt(denoiser: Denoiser, batch: Batch) -> Found:
    try:
        return denoiser(batch)
    except Exception as error:
        return error


def _checked(answer: Answer, tile: Tile) -> Answer:
    """An answer with a row of the window's length for each window. Raises ValueError for any other."""
    needed = (len(tile.ready), tile.plan.geometry.window)
    for name, part in (("y", answer.y), ("log_var", answer.log_var)):
        if part is not None and np.shape(part) != needed:
            raise ValueError(f"{name} of the answer must have the shape {needed}, got {np.shape(part)}")
    return answer
