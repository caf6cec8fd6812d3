"""The part `messages` of the bench: what each kind of message costs the daemon, and how long others wait while somebody sends it
without end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import zmq

from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Rules
from ppgstream.live.endpoints import MOST_SUBSCRIPTION, make
from ppgstream.wire.message import EMPTY, MAX_COUNT, Chunk, Kind, decode, encode

STREAM = "flood"
FEW = 500  # streams, where there may be no more
BEFORE = 6000  # messages of a kind that come first: as many as are remembered of any, and more
COUNTED = 2000  # messages of which the cost is measured, or as many as hold `LONGEST` samples
LONGEST = 400_000
WAVE = np.sin(np.arange(MAX_COUNT + 2 * BEFORE) / 20) + 0.1 * np.random.default_rng(1).standard_normal(MAX_COUNT + 2 * BEFORE)


class Sort(NamedTuple):
    """A kind of message. message(k): the k-th of those that follow each other. begin: chunks that come before them."""

    name: str
    message: Callable[[int], Chunk]
    begin: tuple[Chunk, ...] = ()


def _wave(k: int, n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    at = k % BEFORE
    return np.asarray(WAVE[at : at + n], np.float32)


def _data(index: int, samples: Any, *, session: int = 1, **more: Any) -> Chunk:
    return Chunk(STREAM, session, index, samples, **more)


_NAN = np.where(np.arange(MAX_COUNT) % 2, np.nan, WAVE[:MAX_COUNT]).astype(np.float32)
_START = (_data(0, WAVE[:MAX_COUNT]),)
_GAPS = tuple(_data(1000 * k, _wave(k, 1)) for k in range(5000))
NORMAL = "25 samples"
SORTS = (
    Sort(NORMAL, lambda k: _data(25 * k, _wave(25 * k, 25), t_ns=1 + 200_000_000 * k)),
    Sort("1 sample", lambda k: _data(k, _wave(k, 1), t_ns=1 + 8_000_000 * k)),
    Sort("no samples", lambda k: _data(MAX_COUNT + k, EMPTY, t_ns=1 + k), _START),
    Sort(f"{MAX_COUNT:,} samples", lambda k: _data(MAX_COUNT * k, _wave(0, MAX_COUNT))),
    Sort(f"{MAX_COUNT:,} samples, every other NaN", lambda k: _data(MAX_COUNT * k, _NAN)),
    Sort("1 sample after each gap", lambda k: _data(1000 * k, _wave(k, 1))),
    Sort("late copies, 4,096 gaps remembered", lambda k: _data(1000 * (k % 5000), _wave(k, 1)), _GAPS),
    Sort("1 sample, index falls", lambda k: _data(2**40 - 2 * k, _wave(k, 1)), (_data(2**40 + 5, _wave(0, 1)),)),
    Sort("two samples swapped", lambda k: _data(MAX_COUNT + (k ^ 1), _wave(k, 1)), _START),
    Sort("STATUS, index rises", lambda k: _data(MAX_COUNT + 100 + k, EMPTY, kind=Kind.STATUS), _START),
    Sort("GAP", lambda k: _data(MAX_COUNT + 10 * k, EMPTY, kind=Kind.GAP, missing=10), _START),
    Sort(
        "a session and its END",
        lambda k: _data(k % 2, EMPTY if k % 2 else _wave(k, 1), session=k // 2, kind=Kind.END if k % 2 else Kind.DATA),
    ),
    Sort("a second publisher", lambda k: _data(k, _wave(k, 1), session=2), _START),
    Sort("another rate", lambda k: _data(k, _wave(k, 1), fs=250.0), _START),
    Sort(
        "a new name, no room",
        lambda k: Chunk(f"{STREAM}{k}", 1, 0, _wave(k, 1)),
        tuple(Chunk(f"s{k}", 1, 0, _wave(k, 1)) for k in range(FEW)),
    ),
)


def _identity(batch: Batch) -> Answer:
    return Answer(np.asarray(batch.x, np.float32))


def cost_us(sort: Sort) -> float:
    """Microseconds of a message of this kind, after `BEFORE` of them: reading it, the bookkeeping, and publishing; the network
    apart."""
    engine = Engine(_identity, Rules(max_streams=FEW))
    size = max(len(sort.message(0).samples), 1)
    before, counted = min(BEFORE, LONGEST // size), min(COUNTED, max(LONGEST // size, 10))
    for chunk in sort.begin:
        engine.feed(chunk, 0.0)
    spent = 0.0
    for block in range(before + counted):
        parts = encode(sort.message(block))
        began = time.perf_counter()
        for chunk in engine.feed(decode(parts), 1e-4 * block):
            encode(chunk)
        while engine.ready:
            tile = engine.take()
            paused = time.perf_counter()
            answer = _identity(tile.batch)
            began += time.perf_counter() - paused
            for chunk in engine.finish(tile, answer):
                encode(chunk)
        engine.events.clear()
        if block >= before:
            spent += time.perf_counter() - began
    return 1e6 * spent / counted


def costs(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The cost of each kind, and how many times that of an ordinary message it is."""
    rows: list[dict[str, Any]] = []
    for sort in SORTS:
        us = cost_us(sort)
        rows.append({"message": sort.name, "us": round(us, 1), "times": round(us / (rows[0]["us"] if rows else us), 2)})
        say(f"messages: {sort.name}: {us:.1f} us")
    return rows


def flood(endpoint: str, name: str, begins_at: float, seconds: float) -> None:
    """Send messages of a kind without end, for so many seconds from `begins_at` on (monotonic). A daemon that is busy keeps this
    sender waiting."""
    sort = next(s for s in SORTS if s.name == name)
    context: zmq.Context[Any] = zmq.Context()
    socket = make(context, zmq.XPUB, most=MOST_SUBSCRIPTION, xpub_nodrop=1, sndhwm=1000, sndtimeo=100)
    socket.connect(endpoint)
    socket.recv()  # the daemon's subscription
    time.sleep(max(begins_at - time.monotonic(), 0.0))
    for parts in _without_end(sort):
        if time.monotonic() > begins_at + seconds:
            break
        with contextlib.suppress(zmq.Again):
            socket.send_multipart(parts)
    context.destroy(linger=0)


def _without_end(sort: Sort) -> Iterator[tuple[bytes, bytes]]:
    for chunk in sort.begin:
        yield encode(chunk)
    k = 0
    while True:
        yield encode(sort.message(k))
        k += 1
