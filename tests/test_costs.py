"""What a message costs, in operations and in memory, must not depend on how many such messages came before it.

Operations are instructions of Python, counted: no clock is read.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.sequence import REMEMBERED_GAPS, Gaps
from ppgstream.errors import WireError
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.message import EMPTY, MAX_COUNT, Chunk, Kind

MOST_STREAMS = 2000
WAVE = np.sin(np.arange(40_000) / 20) + 0.1 * np.random.default_rng(1).standard_normal(40_000)


def operations(call: Callable[[], object]) -> int:
    """Instructions of Python that `call` runs."""
    count = 0

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def objects(root: object) -> int:
    """Objects that are reachable from `root`, and the length of the arrays and lists among them."""
    seen: set[int] = set()
    waiting, total = [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType):
            continue
        seen.add(id(one))
        total += 1 + (one.size if isinstance(one, np.ndarray) else len(one) if isinstance(one, list | dict | set | bytes) else 0)
        waiting += gc.get_referents(one)
    return total


def started() -> Engine:
    engine = Engine(identity, rules(max_streams=MOST_STREAMS))
    engine.feed(Chunk("s", 1, 0, WAVE[:2500], t_ns=1), 0.0)
    while engine.ready:
        engine.step()
    return engine


def late(i: int) -> Chunk:
    return Chunk("s", 1, 1000 * (i % 2000) + 5, WAVE[:1])


def with_gaps() -> Engine:
    engine = started()
    for i in range(5000):
        engine.feed(Chunk("s", 1, 1000 * i, WAVE[i : i + 1]), 0.0)
    return engine


def full() -> Engine:
    engine = started()
    for i in range(MOST_STREAMS - 1):
        engine.feed(Chunk(f"s{i}", 1, 0, WAVE[:1]), 0.0)
    return engine


KINDS: dict[str, tuple[Callable[[], Engine], Callable[[int], Chunk]]] = {
    "DATA of 25 samples": (started, lambda i: Chunk("s", 1, 2500 + 25 * i, WAVE[25 * i : 25 * i + 25], t_ns=1 + int(2e8 * i))),
    "DATA of 1 sample": (started, lambda i: Chunk("s", 1, 2500 + i, WAVE[i : i + 1], t_ns=1 + int(8e6 * i))),
    "DATA without samples": (started, lambda i: Chunk("s", 1, 2500 + i, EMPTY, t_ns=1 + i)),
    "single samples with gaps between": (started, lambda i: Chunk("s", 1, 5000 + 1000 * i, WAVE[i : i + 1], t_ns=1 + i)),
    "a falling index": (started, lambda i: Chunk("s", 1, 2**40 - 2 * i, WAVE[i : i + 1])),
    "a falling index from far above": (
        lambda: fed(started(), Chunk("t", 1, 2**40, WAVE[:1])),
        lambda i: Chunk("t", 1, 2**40 - 2 - 2 * i, WAVE[i : i + 1]),
    ),
    "swapped samples": (started, lambda i: Chunk("s", 1, 2500 + (i ^ 1), WAVE[i : i + 1])),
    "held samples with holes": (started, lambda i: Chunk("s", 1, 2502 + 2 * i, WAVE[i : i + 1])),
    "late samples of remembered gaps": (with_gaps, late),
    "STATUS that rises": (started, lambda i: Chunk("s", 1, 2600 + i, EMPTY, Kind.STATUS)),
    "GAP": (started, lambda i: Chunk("s", 1, 2500 + 10 * i, EMPTY, Kind.GAP, missing=10)),
    "a second publisher": (started, lambda i: Chunk("s", 2 + i, i, WAVE[:1])),
    "another rate": (started, lambda i: Chunk("s", 1, 2500, WAVE[:1], fs=250.0)),
    "a session and its END": (
        lambda: fed(started(), Chunk("s", 1, 2500, EMPTY, Kind.END)),
        lambda i: Chunk("s", 5 + i // 2, i % 2, EMPTY if i % 2 else WAVE[:1], Kind.END if i % 2 else Kind.DATA),
    ),
    "names beyond max_streams": (full, lambda i: Chunk(f"n{i}", 1, 0, WAVE[:1])),
    "names whose streams have ended": (
        full,
        lambda i: Chunk(f"s{i // 2}", 1, 1, EMPTY, Kind.END) if i % 2 else Chunk(f"n{i}", 1, 0, EMPTY, Kind.END),
    ),
}


def fed(engine: Engine, *chunks: Chunk) -> Engine:
    for chunk in chunks:
        engine.feed(chunk, 0.0)
    return engine


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_costs_more_or_keeps_more_after_thousands_of_its_kind(kind: str) -> None:
    begin, message = KINDS[kind]
    engine = begin()

    def send(i: int) -> None:
        engine.feed(message(i), 1e-5 * i)
        while engine.ready:
            engine.step()
        engine.events.clear()

    def cost(first: int) -> int:
        return operations(lambda: [send(i) for i in range(first, first + 40)])

    for i in range(200):
        send(i)
    early = cost(200)
    for i in range(240, 6000):
        send(i)
    assert cost(6000) < 2 * early + 4000
    kept = objects(engine)  # by now, what is remembered up to a number is remembered
    for i in range(6040, 9000):
        send(i)
    assert objects(engine) < kept + 1500
    assert engine.unaccounted == 0


def test_streams_that_wait_cost_nothing_until_their_time_has_come() -> None:
    engine = Engine(identity, rules(max_streams=MOST_STREAMS))
    for i in range(1000):
        fed(engine, Chunk(f"s{i}", 1, 0, WAVE[:10]), Chunk(f"s{i}", 1, 20, WAVE[:10]))
    assert operations(lambda: engine.expire(0.4)) < 300
    engine.expire(0.5)
    assert engine.counts.gap == 10_000


def test_a_new_name_of_json_costs_the_same_whether_there_is_room_or_not() -> None:
    adopter = Adopter("json", max_streams=MOST_STREAMS)

    def new(i: int) -> None:
        with contextlib.suppress(WireError):
            adopter.adopt([f"n{i}".encode(), b"1"], 0.0)

    early = operations(lambda: new(0))
    for i in range(1, MOST_STREAMS + 10):
        new(i)
    assert operations(lambda: new(MOST_STREAMS + 10)) < 2 * early + 300


def test_a_stream_whose_stretches_wait_for_the_model_is_counted_until_they_are_published() -> None:
    engine = started()
    engine.feed(Chunk("s", 1, 2500, WAVE[:250]), 0.0)
    for i in range(200):
        engine.feed(Chunk("s", 1, 10_000 + 1000 * i, WAVE[:1]), 0.0)
    assert engine.ready
    assert engine.crowd > 100
    while engine.ready:
        engine.step()
    assert engine.crowd == 0


ranges = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 30)), max_size=60)


@given(st.lists(st.integers(1, 20), max_size=40), ranges)
def test_gaps_are_the_set_of_what_was_added_and_not_removed(lengths: list[int], removed: list[tuple[int, int]]) -> None:
    gaps, known, at = Gaps(), set(), 0
    for k, length in enumerate(lengths):
        at += length
        if k % 2:
            gaps.add(at, at + length)
            known |= set(range(at, at + length))
            at += length
    for start, length in removed:
        inside = set(range(start, start + length)) & known
        assert gaps.holds(start, start + length) <= (len(inside) == length)
        assert gaps.remove(start, start + length) == len(inside)
        known -= inside
    assert sum(1 for i in range(700) if gaps.holds(i, i + 1)) == len(known)


def test_gaps_that_are_split_without_end_are_forgotten_from_the_lowest_on() -> None:
    gaps = Gaps()
    gaps.add(0, 10**9)
    for i in range(REMEMBERED_GAPS + 100):
        assert gaps.remove(10 * i + 5, 10 * i + 6) == 1
    assert len(gaps) == REMEMBERED_GAPS
    assert not gaps.holds(6, 7)
    assert gaps.holds(10**8, 10**9)


def test_a_message_holds_no_more_than_16_seconds() -> None:
    assert MAX_COUNT / 125 < 17
