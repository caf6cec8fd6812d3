"""The two ends of a daemon from Python: `connect` receives what it publishes, `Sender` is a sensor."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from ppgstream.api.arguments import number_of, rate_of, samples_of, text_of, whole_of
from ppgstream.api.live import Block, joined
from ppgstream.errors import ArgumentError, WireError
from ppgstream.live.keys import Key, client
from ppgstream.live.publisher import publisher
from ppgstream.live.receiver import receiver
from ppgstream.wire.message import EMPTY, MAX_COUNT, Chunk, Kind, encode

WAIT_S = 0.2  # for messages, before looking up


class _Kept:
    """The last seconds of one stream's newest session. What was lost on the way is a GAP, as what never reached the daemon."""

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.samples = 0  # in them, those of GAPs included
        self.reached: int | None = None  # the index after the newest of them

    def add(self, chunk: Chunk, most_s: float) -> None:
        if self.chunks and self.chunks[-1].session != chunk.session:
            self.chunks.clear()
            self.samples, self.reached = 0, None
        if chunk.kind is not Kind.BEATS:
            at = chunk.index if self.reached is None else self.reached
            if chunk.index > at:
                lost = Chunk(chunk.stream, chunk.session, at, EMPTY, Kind.GAP, chunk.fs, missing=chunk.index - at)
                self._append(lost, most_s)
            self.reached = max(chunk.stop, at)
        self._append(chunk, most_s)

    def _append(self, chunk: Chunk, most_s: float) -> None:
        most = round(most_s * chunk.fs)
        if chunk.missing > most:  # of a long gap its end is enough
            chunk = msgspec.structs.replace(chunk, index=chunk.stop - most, missing=most)
        self.chunks.append(chunk)
        self.samples += _count(chunk)
        while len(self.chunks) > 1 and self.samples - _count(self.chunks[0]) > most:
            self.samples -= _count(self.chunks.popleft())


def _count(chunk: Chunk) -> int:
    return len(chunk.samples) + chunk.missing


class Connection:
    """What a daemon publishes, as `ppgstream.connect` gives it. One thread uses it.

        for block in connection:          blocks of any stream as they come, until all that were seen have ended
        async for block in connection:    the same, for asyncio; both raise SourceError where the daemon refuses this end
        connection.get_data(8)            the newest 8 s that have come

    streams: the names seen so far. lost: samples that were published and did not reach this end; gap: samples that never reached
    the daemon. Closed by `close`, or at the end of a `with`."""

    def __init__(self, endpoint: str, stream: str | None, keep_s: float, key: Key | None = None) -> None:
        self._receiver = receiver(endpoint, stream, key=key)
        self._keep_s = keep_s
        self._kept: dict[str, _Kept] = {}
        self._reached: dict[tuple[str, int], int] = {}  # of each stream and session, the index after all samples so far
        self._open = True

    @property
    def streams(self) -> list[str]:
        return list(self._kept)

    @property
    def lost(self) -> int:
        return self._receiver.lost

    @property
    def gap(self) -> int:
        return sum(account.gap for account in self._receiver.accounts.values())

    def get_data(self, seconds: float, stream: str | None = None) -> Block:
        """The newest so many seconds of a stream that have come, or what there is of them; of its newest session alone. Does not
        wait. Samples that never came are NaN of confidence 0. stream: may be left out where there is one. Raises ArgumentError
        for a stream that is not there, and for more seconds than are kept."""
        seconds = number_of("seconds", seconds, 0.0, self._keep_s)
        while self._open and self._take(0.0):
            pass
        if stream is None and len(self._kept) > 1:
            raise ArgumentError(f"stream: which of {', '.join(self._kept)}?")
        name = next(iter(self._kept), "") if stream is None else stream
        if name not in self._kept:
            there = f": there are {', '.join(self._kept)}" if self._kept else ": nothing has come yet"
            raise ArgumentError(f"stream: {name!r} has sent nothing{there}" if name else f"stream{there}")
        kept = self._kept[name]
        chunks = list(kept.chunks)
        return _newest(_block(chunks, kept.reached or 0), round(seconds * chunks[-1].fs), chunks[-1].fs)

    def __iter__(self) -> Iterator[Block]:
        while self._open and not self._receiver.all_ended:
            self._receiver.check()
            yield from self._take(WAIT_S)

    async def __aiter__(self) -> AsyncIterator[Block]:
        while self._open and not self._receiver.all_ended:
            self._receiver.check()
            await self._receiver.wait_async(WAIT_S)
            for block in self._take(0.0):
                yield block

    def _take(self, wait_s: float) -> list[Block]:
        """What came: of each stream and session a block, and another after samples that never came."""
        parts: dict[tuple[str, int], list[tuple[int, list[Chunk]]]] = {}  # and the index at which each begins
        for chunk in self._receiver.poll(wait_s):
            self._kept.setdefault(chunk.stream, _Kept()).add(chunk, self._keep_s)
            key = chunk.stream, chunk.session
            reached = self._reached.get(key, chunk.index)
            own = parts.setdefault(key, [(reached, [])])
            if chunk.kind is not Kind.BEATS:
                if chunk.missing or chunk.index > reached:
                    own.append((chunk.index + chunk.missing, []))
                self._reached[key] = max(chunk.stop, reached)
            if not chunk.missing:
                own[-1][1].append(chunk)
        blocks = [_block(part, at) for own in parts.values() for at, part in own if part]
        return [block for block in blocks if len(block.denoised) or len(block.beats) or len(block.hr_t_s)]

    def close(self) -> None:
        if self._open:
            self._open = False
            self._receiver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _block(chunks: list[Chunk], at: int) -> Block:
    """Messages of one session as a block. at: its index, where it has no samples."""
    last = chunks[-1]
    return joined(chunks, index=at, fs=last.fs, stream=last.stream, session=last.session)


def _newest(block: Block, n: int, fs: float) -> Block:
    """The last samples of a block, and what is told of them."""
    cut = max(len(block.denoised) - n, 0)
    first = block.index + cut
    beats, rates = block.beats >= first, block.hr_t_s >= first / fs
    return replace(
        block,
        index=first,
        **{name: getattr(block, name)[cut:] for name in ("denoised", "confidence", "flags")},
        **{name: getattr(block, name)[beats] for name in ("beats", "beat_confidence", "beat_interval_ms", "beat_error_ms")},
        **{name: getattr(block, name)[rates] for name in ("hr_t_s", "hr_bpm", "hr_confidence")},
    )


def connect(
    endpoint: str = "tcp://127.0.0.1:5601", stream: str | None = None, *, keep_s: float = 60.0, key: str | Path | None = None
) -> Connection:
    """Receive what a daemon publishes at `endpoint`. stream: this one alone; None: all. keep_s: how many seconds of each stream
    are kept for `get_data`. key: the file of a secret key, for a daemon that asks for one (SECURITY.md). The daemon may start
    later. Raises ConfigError for what is no endpoint, and for what is no key.

    Examples:
        >>> import ppgstream
        >>> with ppgstream.connect("tcp://127.0.0.1:5601", stream="wrist") as daemon:  # doctest: +SKIP
        ...     for block in daemon:
        ...         print(block.index, block.denoised, block.confidence)
    """
    own = None if key is None else client(Path(key))
    chosen = None if stream is None else _named(stream)
    return Connection(text_of("endpoint", endpoint), chosen, number_of("keep_s", keep_s, 0.0), own)


def _named(stream: Any) -> str:
    """A stream's name. Raises ArgumentError for one that no stream can have."""
    try:
        encode(Chunk(text_of("stream", stream), 0, 0, EMPTY, Kind.STATUS))
    except WireError as error:
        raise ArgumentError(f"stream: {error}") from None
    return str(stream)


class Sender:
    """A sensor: sends samples to a daemon. Nothing is dropped on the way: `send` waits for a daemon, and for room.

    endpoint: the socket that the daemon reads; bind: for a daemon that connects. stream: the sensor's name, 1 to 64 of letters,
    digits and _ . : -. fs: its rate, Hz. wait_s: how long a daemon is waited for (SourceError). key: as in `connect`. At the end
    of a `with` the session is ended, after an error too (but for `acked`), and what was sent has left. sent: samples so far.

    acked: for a fleet (docs/fleet.md). `send` returns once the NATS server has stored the samples. Send a second of them at a
    time. resume: go on with the session that the server has of this stream, if it has not ended; `sent` says how many samples are
    there.

    Examples:
        >>> import ppgstream
        >>> with ppgstream.Sender("tcp://127.0.0.1:5600", stream="wrist", fs=125) as sensor:  # doctest: +SKIP
        ...     sensor.send([512.0, 513.5, 517.0])
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5600",
        stream: str = "python",
        fs: float = 125.0,
        *,
        bind: bool = False,
        wait_s: float = 30.0,
        key: str | Path | None = None,
        acked: bool = False,
        resume: bool = False,
    ) -> None:
        self.stream, self.fs, self.sent = _named(stream), rate_of(fs), 0
        self.session = secrets.randbits(64)
        self._wait_s, self._ended = number_of("wait_s", wait_s, 0.0), False
        self._began_ns = 0  # the time of the first sample
        own = None if key is None else client(Path(key))
        if resume and not acked:
            raise ArgumentError("resume: goes with acked=True: only then the server knows what it has")
        self._publisher = publisher(text_of("endpoint", endpoint), bind=bind, key=own, acked=acked)
        if resume:
            self._resume()

    def _resume(self) -> None:
        self._publisher.wait_for_subscriber(self._wait_s)
        last = self._publisher.last(self.stream)
        if last is None or last.kind is Kind.END:
            return
        if last.fs != self.fs:
            self._publisher.close(0.0)
            raise ArgumentError(f"fs: {self.fs:g} Hz: the session of {self.stream} on the server has {last.fs:g} Hz")
        self.session, self.sent = last.session, last.stop
        self._began_ns = last.t_ns - round(last.index / last.fs * 1e9) if last.t_ns else 0

    def send(self, samples: Any, *, t_ns: int | None = None) -> None:
        """The next samples (n,), NaN where there is none. t_ns: the time of the first of them, ns since 1970; None: as many
        samples after the session's first as were sent, at `fs`. Raises ArgumentError, and SourceError where no daemon listens."""
        x = samples_of(samples, rows=False)
        self._check_open("send")
        if t_ns is not None:
            t_ns = whole_of("t_ns", t_ns, 0, 2**63 - 1)
        if not self._began_ns:
            self._began_ns = time.time_ns() - round((len(x) / self.fs) * 1e9)
        for start in range(0, len(x), MAX_COUNT):
            part = x[start : start + MAX_COUNT]
            at = self._at(self.sent) if t_ns is None else t_ns + round(start / self.fs * 1e9)
            self._put(self._chunk(part, Kind.DATA, at))
            self.sent += len(part)

    def play(self, samples: Any, *, chunk: int = 25) -> None:
        """Send samples (n,) in messages of `chunk` at the sensor's pace: each leaves when its last sample would be measured."""
        x = samples_of(samples, rows=False)
        chunk = whole_of("chunk", chunk, 1, MAX_COUNT)
        self._began_ns = self._began_ns or time.time_ns()
        for start in range(0, len(x), chunk):
            part = x[start : start + chunk]
            time.sleep(max(self._at(self.sent + len(part)) - time.time_ns(), 0) / 1e9)
            self.send(part)

    def gap(self, samples: int) -> None:
        """So many samples were lost before they could be sent."""
        samples = whole_of("samples", samples, 1, 2**32 - 1)
        self._check_open("gap")
        self._put(Chunk(self.stream, self.session, self.sent, EMPTY, Kind.GAP, self.fs, missing=samples))
        self.sent += samples

    def end(self) -> None:
        """The session is over: the daemon publishes the rest of it."""
        if not self._ended:
            self._ended = True
            if self.sent:
                self._put(self._chunk(EMPTY, Kind.END))

    def close(self) -> None:
        """End the session, and wait until what was sent has left."""
        try:
            self.end()
        finally:
            self._publisher.close()

    def _check_open(self, what: str) -> None:
        if self._ended:
            raise ArgumentError(f"{what}: the session has ended: make another Sender")

    def _chunk(self, samples: Any, kind: Kind, t_ns: int = 0) -> Chunk:
        return Chunk(self.stream, self.session, self.sent, samples, kind, self.fs, t_ns)

    def _at(self, index: int) -> int:
        return self._began_ns + round(index / self.fs * 1e9)

    def _put(self, chunk: Chunk) -> None:
        self._publisher.send(chunk, timeout_s=self._wait_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
            return
        # Whatever went wrong, the daemon need not wait for more; but what is acknowledged may go on later.
        if self.sent and not self._ended and not self._publisher.acked:
            self._ended = True
            self._publisher.send_last(self._chunk(EMPTY, Kind.END))
        self._publisher.close(linger_s=2.0)
