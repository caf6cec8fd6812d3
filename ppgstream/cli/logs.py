"""The daemon's log: Python's `logging`, to stderr.

A thread of its own writes it, so a reader that stands still keeps nobody waiting. A line that cannot be written is counted, and
nothing else comes of it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from typing import Literal, get_args

import msgspec

from ppgstream.cli.shared import printable

Format = Literal["text", "json"]
FORMATS: tuple[str, ...] = get_args(Format)
MOST_WAITING = 1000  # lines; those beyond are lost
LAST_S = 1.0  # for what waits to be written at the end


class Log:
    """Everything that is logged under "ppgstream" goes to stderr from now on, until `close`.

    A line of text is `TIME LEVEL ppgstream: MESSAGE`; a line of JSON has the keys time, level, message, and of an event event and
    stream. Times are UTC.
    """

    def __init__(self, form: Format) -> None:
        self.lost = 0  # lines that were not written
        self.logger = logging.getLogger("ppgstream")
        self.logger.setLevel(logging.INFO)
        self.logger.propagate = False
        lines = _Lines(self)
        lines.setFormatter(_Json() if form == "json" else _Text())
        waiting: queue.Queue[logging.LogRecord] = queue.Queue(MOST_WAITING)
        self._handler = _Waiting(self, waiting)
        self._listener = _Listener(waiting, lines)
        self._listener.start()
        self.logger.addHandler(self._handler)

    def close(self) -> bool:
        """Write what waits, for `LAST_S` at most. False if the thread still waits for a reader: then the process must end by
        `os._exit`, for Python would wait for it, too."""
        self.logger.removeHandler(self._handler)
        last = threading.Thread(target=self._listener.stop, daemon=True)
        last.start()
        last.join(LAST_S)
        return not last.is_alive()


class _Listener(QueueListener):
    def enqueue_sentinel(self) -> None:
        with contextlib.suppress(queue.Empty):
            if self.queue.full():  # type: ignore[attr-defined]
                self.queue.get(block=False)  # type: ignore[call-arg]
        super().enqueue_sentinel()


class _Waiting(QueueHandler):
    def __init__(self, log: Log, waiting: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(waiting)
        self._log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        self._log.lost += 1


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, log: Log) -> None:
        super().__init__(sys.stderr)
        self._log = log

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        self._log.lost += 1


def _time_of(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time_of(record)} {record.levelname} ppgstream: {printable(record.getMessage())}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time_of(record), "level": record.levelname, "message": printable(record.getMessage())}
        line |= {key: value for key in ("event", "stream") if (value := getattr(record, key, ""))}
        return msgspec.json.encode(line).decode()
