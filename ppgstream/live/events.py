"""What people hear of: events in the log, counted and thinned, so that a flood of them does not become a flood of lines."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from ppgstream.core.ledger import Event

EACH = {"taken_over"}  # of which each is logged: they are few, and explain others
LINES_A_TICK = 20  # of events that are logged a second; the others are counted
_NUMBERS = re.compile(r"[0-9]+|'[^']*'|\"[^\"]*\"")  # what differs from one message to the next of the same fault
MOST_COUNTED = 50_000  # of events by stream that are counted; then the counts begin anew
LAST_EVENTS = 20  # events kept for the monitor
RECENT = 40  # kinds of events, by stream and reason, kept for the monitor


class Recent(NamedTuple):
    """An event that was told `times` times, the last time at `at` (monotonic seconds)."""

    event: Event
    times: int
    at: float


class Events:
    """Events go to `log` as warnings with the fields `event` and `stream`. counts: by kind; last: the texts of the latest;
    recent: the latest of each kind, stream and reason, the newest last."""

    def __init__(self, log: logging.Logger) -> None:
        self.counts: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=LAST_EVENTS)
        self.recent: dict[tuple[str, str, str], Recent] = {}
        self._log = log
        self._by_stream: Counter[tuple[str, str, str]] = Counter()  # by kind, stream and reason
        self._logged = 0  # lines since the last tick
        self._unlogged: Counter[str] = Counter()  # events since then that were one line too many

    def tell(self, event: Event) -> None:
        """Log an event of a kind, stream and reason the first three times, then the 10th, the 100th and so on."""
        self.counts[event.name] += 1
        if len(self._by_stream) > MOST_COUNTED:
            self._by_stream.clear()
        key = event.name, event.stream, _NUMBERS.sub("", event.reason)[:60]
        self._by_stream[key] += 1
        times = self._by_stream[key]
        self.last.append(event.text)
        self.recent.pop(key, None)
        self.recent[key] = Recent(event, times, time.monotonic())
        if len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]
        if times > 3 and str(times).strip("0") != "1" and event.name not in EACH:
            return
        if self._logged >= LINES_A_TICK:
            self._unlogged[event.name] += 1
            return
        self._logged += 1
        text = event.text + (f" ({event.name}: {times} times so far)" if times > 3 and event.name not in EACH else "")
        self._log.warning("%s", text, extra={"event": event.name, "stream": event.stream})

    def tell_all(self, events: Iterable[Event]) -> None:
        """`tell` each of them."""
        for event in events:
            self.tell(event)

    def tick(self) -> None:
        """Another second begins: say how many events of the last one had no line."""
        self._logged = 0
        if self._unlogged:
            kinds = ", ".join(f"{name} {count:,}" for name, count in self._unlogged.most_common())
            self._unlogged.clear()
            self._log.warning("more events than are logged a second: %s", kinds, extra={"event": "unlogged"})
