"""Windows that wait for the model."""

from __future__ import annotations

from collections import deque

import msgspec

from ppgstream.core.segments import Window
from ppgstream.core.stream import Stream


class Ready(msgspec.Struct, eq=False):
    """A window that waits for the model. read_at: when its last sample was read; arrived_at: when that came in, as far as the
    sensor's clock tells."""

    stream: Stream
    window: Window
    read_at: float
    arrived_at: float


class ReadyQueue:
    """Windows that wait for the model. Streams take turns, a window each, so that a flood waits behind itself. A stream's own
    stay in order."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Ready]] = {}
        self._turns: deque[str] = deque()
        self._count = 0

    def put(self, ready: Ready) -> None:
        own = self._waiting.get(ready.stream.name)
        if own is None:
            own = self._waiting[ready.stream.name] = deque()
            self._turns.append(ready.stream.name)
        own.append(ready)
        self._count += 1

    def take(self, most: int, few: int = 0) -> list[Ready]:
        """The next windows, at most so many; `few` if fewer streams wait."""
        most = min(most, max(few, len(self._turns))) if few else most
        taken: list[Ready] = []
        while self._turns and len(taken) < most:
            name = self._turns.popleft()
            own = self._waiting[name]
            taken.append(own.popleft())
            if own:
                self._turns.append(name)
            else:
                del self._waiting[name]
        self._count -= len(taken)
        return taken

    @property
    def next_read_at(self) -> float:
        """When the last sample of the window whose turn is next was read."""
        return self._waiting[self._turns[0]][0].read_at

    def __len__(self) -> int:
        return self._count
