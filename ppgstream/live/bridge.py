"""What sends a sensor's samples to a daemon beside it: the lines of a pipe or a serial port, and what such sources share."""

from __future__ import annotations

import logging
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, PpgStreamError, UsageError
from ppgstream.files.cells import SHOWN, is_number, is_text, number
from ppgstream.files.layout import LineReader
from ppgstream.files.opened import MAX_LINE
from ppgstream.files.pipe import line_reader
from ppgstream.live.keys import Key
from ppgstream.live.publisher import Publisher
from ppgstream.live.publisher import publisher as publisher_of
from ppgstream.wire.message import EMPTY, Chunk, Kind

Float64 = NDArray[np.float64]

BAUD = 115_200
WAIT_S = 0.2  # the longest that a sample waits for others, where no rate is known
HEAD_LINES, HEAD_S = 20, 1.0  # by so many lines, or those of so much time, it is decided how lines are samples
RETRY_S = (1.0, 10.0)  # after a device is gone, until it is looked for again: at first, and at most
TOLD = 3  # lines that are told one by one
HINT_LINES = 20  # of text and no sample among them: which number is the sample must be named
MOST_TOLD = 1000  # texts that are remembered
AGAIN_S = 60.0  # the same thing is told no more often
MOST_STAMP_S = 1e11  # a stamp beyond is none
_KEYS = re.compile(r"([A-Za-z]\w{0,20})\s*[=:\[]\s*[-+]?\d")  # in a line, before a number


@dataclass(slots=True)
class Sent:
    """What came of lines, in samples where it says so. `valid`: finite ones."""

    session: int
    samples: int = 0
    valid: int = 0
    messages: int = 0
    text: int = 0  # lines without a sample, dropped
    bad: int = 0  # lines that are no number, sent as invalid samples


def send_lines(
    read: Callable[[float], bytes | None],
    publisher: Publisher,
    *,
    stream: str,
    fs: float = 0.0,
    column: str | None = None,
    key: str | None = None,
    chunk: int = 25,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
) -> Sent:
    """Send lines as they come, until they end: when `chunk` samples are there, or the oldest has waited a chunk's time.

    read: gives what has come, waiting at most so many seconds; None if nothing came, nothing at the end. `fs`: Hz, 0 if it is not
    known. `column`, `key`: which number of a line is the sample, as of files; without them, by the first lines. Raises DataError
    for a line without end, and where the lines are of several columns and none is named."""
    sent = Sent(secrets.randbits(64))
    patience_s = chunk / fs if fs else WAIT_S
    head: list[tuple[str, float, int]] = []  # lines, and when they came
    reader: LineReader | None = None
    pending: list[float] = []
    oldest, oldest_ns, rest = 0.0, 0, b""

    def send() -> bool:
        if pending and publisher.send(Chunk(stream, sent.session, sent.samples, np.array(pending), fs=fs, t_ns=oldest_ns)):
            sent.samples += len(pending)
            sent.valid += int(np.isfinite(pending).sum())
            sent.messages += 1
            pending.clear()
        return not pending

    def take(line: str, came: float, came_ns: int) -> bool:
        nonlocal oldest, oldest_ns
        assert reader is not None
        cell = reader.cell(line)
        if cell is None:
            if not reader.heads(line):
                sent.text += 1
                if sent.text <= TOLD:
                    say(f"line of text dropped: {line[:SHOWN]!r}")
                elif sent.text == HINT_LINES and not sent.samples and not pending:
                    say(f"no sample in {HINT_LINES} lines; the last: {line[:SHOWN]!r}: {_advice(line)}")
            return True
        if not is_number(cell):
            sent.bad += 1
            if sent.bad <= TOLD:
                say(f"line {sent.samples + len(pending) + 1} is no number: {line[:SHOWN]!r}; sent as an invalid sample")
        if not pending:
            oldest, oldest_ns = came, came_ns
        pending.append(number(cell))
        return len(pending) < chunk or send()

    try:
        going = True
        while going and not stopped():
            left = oldest + patience_s - time.monotonic() if pending else patience_s
            block = read(left) if left > 0 else None
            if block is None and not head:
                going = send()
                continue
            *lines, rest = (rest + (block or b"")).split(b"\n")
            if not lines and b"\r" in rest[:-1]:  # a board that ends its lines so; a last one may be half of \r\n
                end = rest.rindex(b"\r", 0, -1)
                lines, rest = rest[:end].split(b"\r"), rest[end + 1 :]
            if len(rest) > MAX_LINE:
                raise DataError(f"input line of more than {MAX_LINE} bytes: {rest[:SHOWN]!r}")
            going = block != b""
            if not going and rest:
                lines.append(rest)
            came, came_ns = time.monotonic(), time.time_ns()
            for text in (raw.decode("utf-8", "replace").strip() for raw in lines):
                if reader is None:
                    head.append((text, came, came_ns))
                elif not take(text, came, came_ns):
                    going = False
                    break
            first = [text for text, _, _ in head]
            if head and _is_enough(first, came - head[0][1], ended=not going, named=bool(column or key)):
                reader = reader_of(stream, first, column, key)
                going = all(take(*line) for line in head) and going
                head = []
    finally:
        if not stopped():
            send()
        publisher.send_last(Chunk(stream, sent.session, sent.samples, EMPTY, Kind.END, fs))
    return sent


def _is_enough(head: list[str], seconds: float, *, ended: bool, named: bool) -> bool:
    """Whether the first lines tell how lines are samples."""
    plain = not named and is_number(head[0])
    return plain or ended or head[0].startswith("{") or len(head) >= HEAD_LINES or seconds >= HEAD_S


def _advice(line: str) -> str:
    """What to say to a person whose lines hold no sample."""
    keys = ", ".join(dict.fromkeys(_KEYS.findall(line)))
    return (
        f"name the key before the number with --field ({keys})"
        if keys
        else "a sample is a number, or --column or --field names it"
    )


def reader_of(where: str, head: list[str], column: str | None, key: str | None) -> LineReader:
    """How lines like these are samples. Raises DataError or UsageError where that is not clear."""
    several = any(line.startswith("{") or "," in line or "\t" in line for line in head)
    bare = all(is_number(line) or is_text(line) for line in head if line)
    if column or key or several or not bare:
        return line_reader(where, head, column=column, key=key, clocked=False)
    return LineReader(lambda line: None if not is_number(line) and is_text(line) else line, lambda _: "")


class BackgroundTask:
    """Something that works beside the daemon on a thread of its own, until it is told to end."""

    def __init__(self, name: str, log: logging.Logger) -> None:
        self.over = threading.Event()
        self.curve: Key | None = None  # for the daemon's sockets, where it asks for one
        self._log = log
        self._told: dict[tuple[str, str], float] = {}  # when something was said last, by stream and text
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, key: Key | None = None) -> None:
        """Begin to work. key: for the daemon's sockets."""
        self.curve = key
        self._thread.start()

    def end(self) -> None:
        """End what is being sent, and begin nothing else."""
        self.over.set()

    def join(self, timeout_s: float) -> None:
        """Wait so long for the end. One that was not started yet has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def work(self) -> None:
        """What the thread does, until it is told to end. What it raises is told, and it is called again."""
        raise NotImplementedError

    def tell(self, text: str, stream: str = "") -> None:
        """A line in the log; the same again of the same stream within a minute is none."""
        now = time.monotonic()
        if now - self._told.get((stream, text), -AGAIN_S) >= AGAIN_S:
            if len(self._told) > MOST_TOLD:
                self._told.clear()
            self._told[stream, text] = now
            self._log.warning("%s", text, extra={"event": "source", "stream": stream})

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                self.work()
            except Exception as error:  # whatever a library raises: the daemon and its other sources go on
                self.tell(f"{self._thread.name}: {type(error).__name__}: {error}; tried again")
                self.over.wait(RETRY_S[1])


@dataclass(slots=True)
class StampedSession:
    """Samples with a stamp each, seconds, as messages of one session. Where the stamps of all samples to come are more than
    `gap_s` later than their count says, and as much time has passed, samples are missing, and their indexes stay free. A sample
    whose stamp is none has that of its neighbours. fs: Hz, 0 if it is not known."""

    stream: str
    fs: float
    gap_s: float
    session: int = field(default_factory=lambda: secrets.randbits(64))
    index: int = 0  # of the next sample
    last: float = math.nan  # stamp of the newest sample
    came: float = -math.inf  # and when it came, s

    def chunks(self, x: Float64, stamps: Float64, to_ns: Callable[[float], int], now: float) -> Iterator[Chunk]:
        """The messages of samples that have come by `now` (monotonic seconds), each (n,)."""
        known = np.flatnonzero(np.abs(stamps) < MOST_STAMP_S)
        if not len(known):
            yield Chunk(self.stream, self.session, self.index, x, fs=self.fs)
            self.index += len(x)
            return
        stamps = np.interp(np.arange(len(x)), known, stamps[known])
        passed, self.came = now - self.came, now
        missing = np.zeros(len(x))
        if self.fs:
            last = stamps[0] - 1 / self.fs if math.isnan(self.last) else self.last
            late = stamps - last - np.arange(1, len(x) + 1) / self.fs
            stays = np.minimum.accumulate(late[::-1])[::-1]  # what is late and caught up with was only late in coming
            missing = np.diff(stays, prepend=0.0)
            missing[(missing <= self.gap_s) | (missing > 2 * passed)] = (
                0.0  # a clock that was set jumps too, but nothing is late then
            )
        jumps: list[int] = np.flatnonzero(missing).tolist()
        for a, b in pairwise([0, *(k for k in jumps if k), len(x)]):
            if missing[a]:
                self.index += round(float(missing[a]) * self.fs)
            yield Chunk(self.stream, self.session, self.index, x[a:b], fs=self.fs, t_ns=to_ns(float(stamps[a])))
            self.index += b - a
        self.last = float(stamps[-1])

    def end(self) -> Chunk:
        """The session's END."""
        return Chunk(self.stream, self.session, self.index, EMPTY, Kind.END, self.fs)


class Retried(BackgroundTask):
    """A source that is tried again when it is gone: after 1 to 10 s, longer each time that nothing came."""

    def __init__(self, name: str, endpoint: str, *, stream: str, log: logging.Logger) -> None:
        super().__init__(name, log)
        self._endpoint, self._stream = endpoint, stream

    def work(self) -> None:
        wait_s = RETRY_S[0]
        while not self.over.is_set():
            publisher = publisher_of(self._endpoint, key=self.curve, stopped=self.over.is_set)
            samples = 0
            try:
                samples, why = self.send(publisher)
            except (OSError, PpgStreamError) as error:
                why = str(error)
            finally:
                publisher.close(0.5)
            if not self.over.is_set():
                wait_s = RETRY_S[0] if samples else wait_s
                self.say(f"{why}; tried again")
                self.over.wait(wait_s)
                wait_s = min(2 * wait_s, RETRY_S[1])

    def send(self, publisher: Publisher) -> tuple[int, str]:
        """Send what comes, until nothing more does: how many samples, and why. May raise OSError and PpgStreamError."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        """Tell of this source."""
        raise NotImplementedError


class Device(Protocol):
    """Something that gives lines, until it is gone: then `read` raises OSError."""

    def read(self, timeout_s: float) -> bytes | None:
        """What has come, waiting at most so long; None if nothing came."""

    def close(self) -> None:
        """Let it go."""


class Bridge(Retried):
    """A device's lines into a daemon's input. `opened` gives the device, or raises OSError."""

    def __init__(
        self,
        opened: Callable[[], Device],
        endpoint: str,
        *,
        stream: str,
        where: str,
        log: logging.Logger,
        column: str | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__(f"bridge {stream}", endpoint, stream=stream, log=log)
        self._opened, self._where, self._column, self._key = opened, where, column, key

    def send(self, publisher: Publisher) -> tuple[int, str]:
        device = self._opened()
        self.say("open")
        try:
            sent = send_lines(
                device.read, publisher, stream=self._stream, column=self._column, key=self._key,
                stopped=self.over.is_set, say=self.say,
            )  # fmt: skip
        finally:
            device.close()
        return sent.samples, "it ended"

    def say(self, text: str) -> None:
        own = text.replace("--column", "--serial-column").replace("--field", "--serial-field")
        self.tell(f"{self._where}: {own}", self._stream)


def port_of(text: str) -> tuple[str, int]:
    """Path and baud rate of `PATH:BAUD`, or of a path alone. Raises UsageError."""
    path, _, baud = text.rpartition(":")
    if not path:
        path, baud = text, str(BAUD)
    if not baud.isascii() or not baud.isdecimal() or not 50 <= int(baud) <= 10_000_000:
        raise UsageError(f"--serial {text!r}: must be PATH:BAUD, /dev/ttyUSB0:{BAUD} for one")
    return path, int(baud)


class SerialPort:
    """A serial port, by pyserial. Raises OSError where it cannot be opened."""

    def __init__(self, path: str, baud: int) -> None:
        import serial  # an extra

        self._port = serial.Serial(path, baud, timeout=0.0)

    def read(self, timeout_s: float) -> bytes | None:
        self._port.timeout = timeout_s
        first = self._port.read(1)
        return first + self._port.read(self._port.in_waiting) if first else None

    def close(self) -> None:
        self._port.close()
