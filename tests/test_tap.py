"""The receiving end without its socket: what a receiver has lost, and published chunks as lines."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.files.lines import csv_lines, ndjson_lines, value_lines
from ppgstream.files.recording import CSV_HEAD
from ppgstream.live.receiver import Account
from ppgstream.wire.message import EMPTY, Chunk, Flag, Kind

relaxed = settings(deadline=None, max_examples=200)
T0 = 1_760_000_000_000_000_000


def data(index: int, count: int) -> Chunk:
    return Chunk("a", 1, index, np.zeros(count, np.float32))


def gap(index: int, missing: int) -> Chunk:
    return Chunk("a", 1, index, EMPTY, Kind.GAP, missing=missing)


def at(kind: Kind, index: int) -> Chunk:
    return Chunk("a", 1, index, EMPTY, kind)


def account(*chunks: Chunk) -> tuple[int, int, int, bool]:
    """received, lost, gap and ended after all these."""
    taken = Account()
    for chunk in chunks:
        taken.take(chunk)
    return taken.received, taken.lost, taken.gap, taken.ended


def test_a_receiver_that_got_everything_has_lost_nothing() -> None:
    assert account(data(0, 50), data(50, 50), at(Kind.STATUS, 100), data(100, 7), at(Kind.END, 107)) == (107, 0, 0, True)


def test_a_jump_of_the_index_is_samples_that_this_receiver_lost() -> None:
    assert account(data(0, 50), data(150, 50)) == (100, 100, 0, False)


def test_samples_that_never_existed_are_a_gap_and_not_lost() -> None:
    assert account(data(0, 50), gap(50, 200), data(250, 50), at(Kind.END, 300)) == (100, 0, 200, True)


@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.END])
def test_the_loss_of_a_tail_shows_once_a_status_or_the_end_comes(kind: Kind) -> None:
    assert account(data(0, 50)) == (50, 0, 0, False)
    assert account(data(0, 50), at(kind, 200)) == (50, 150, 0, kind is Kind.END)


def test_a_receiver_that_joins_late_has_not_lost_what_came_before() -> None:
    assert account(data(5000, 50), data(5050, 50)) == (100, 0, 0, False)
    assert account(at(Kind.STATUS, 5000), data(5000, 50)) == (50, 0, 0, False)
    assert account(at(Kind.STATUS, 5000), data(5050, 50)) == (50, 50, 0, False)


def test_a_status_that_says_what_is_known_changes_nothing() -> None:
    assert account(data(0, 50), at(Kind.STATUS, 50), at(Kind.STATUS, 20), data(50, 50)) == (100, 0, 0, False)


@relaxed
@given(
    st.lists(
        st.tuples(st.sampled_from([Kind.DATA, Kind.DATA, Kind.GAP, Kind.STATUS]), st.integers(1, 60), st.booleans()), max_size=40
    ),
    st.integers(0, 10**12),
)
def test_every_index_since_the_first_that_came_is_received_lost_or_a_gap(
    published: list[tuple[Kind, int, bool]], first: int
) -> None:
    taken, index = Account(), first
    joined: int | None = None
    arrived = lost = holes = 0
    for kind, count, arrives in published:
        chunk = data(index, count) if kind is Kind.DATA else gap(index, count) if kind is Kind.GAP else at(kind, index)
        if arrives:
            taken.take(chunk)
            joined = index if joined is None else joined
            arrived += count if kind is Kind.DATA else 0
            holes += count if kind is Kind.GAP else 0
        elif joined is not None:
            lost += count if kind is not Kind.STATUS else 0
        index = chunk.stop
    taken.take(at(Kind.END, index))
    assert (taken.received, taken.gap, taken.lost, taken.next, taken.ended) == (arrived, holes, lost, index, True)
    assert taken.received + taken.gap + taken.lost == index - (index if joined is None else joined)


def published(samples: Any = (0.5, -1.25), **fields: Any) -> Chunk:
    """A chunk as the daemon publishes it."""
    n = len(samples)
    said: dict[str, Any] = {
        "stream": "wrist",
        "session": 0xABC,
        "index": 100,
        "samples": np.array(samples, getattr(samples, "dtype", np.float32)),
        "t_ns": T0,
    }
    said |= {"confidence": np.linspace(1, 0.5, n, dtype=np.float32), "flags": np.zeros(n, np.uint16)}
    return Chunk(**(said | fields))


def test_csv_is_a_line_a_sample_under_its_head() -> None:
    chunk = published(flags=np.array([0, Flag.FLAT | Flag.LEAD_OFF], np.uint16))
    assert CSV_HEAD == "stream,session,index,t_ns,value,confidence,flags"
    assert csv_lines(chunk) == [
        f"wrist,0000000000000abc,100,{T0},0.5,1.0,0",
        f"wrist,0000000000000abc,101,{T0 + 8_000_000},-1.25,0.5,129",
    ]


def test_csv_of_a_chunk_without_annotations_has_the_same_columns() -> None:
    assert csv_lines(published(confidence=None, flags=None)) == [
        f"wrist,0000000000000abc,100,{T0},0.5,0,0",
        f"wrist,0000000000000abc,101,{T0 + 8_000_000},-1.25,0,0",
    ]


def test_ndjson_is_an_object_a_sample_with_the_flags_by_name() -> None:
    chunk = published(flags=np.array([0, Flag.FLAT | Flag.LEAD_OFF], np.uint16), session=2**64 - 1)
    head = {"stream": "wrist", "session": "f" * 16}
    assert [json.loads(line) for line in ndjson_lines(chunk)] == [
        head | {"index": 100, "t_ns": T0, "value": 0.5, "confidence": 1.0, "flags": []},
        head | {"index": 101, "t_ns": T0 + 8_000_000, "value": -1.25, "confidence": 0.5, "flags": ["flat", "lead_off"]},
    ]


def test_each_flag_has_its_name_and_its_bit() -> None:
    for flag in Flag:
        chunk = published([1.0], flags=np.array([flag], np.uint16))
        assert flag.name is not None
        assert json.loads(ndjson_lines(chunk)[0])["flags"] == [flag.name.lower()]
        assert csv_lines(chunk)[0].rpartition(",")[2] == str(int(flag))
    every = published([1.0], flags=np.array([0xFFFF], np.uint16))
    assert len(json.loads(ndjson_lines(every)[0])["flags"]) == len(Flag)


def test_a_gap_and_an_end_are_lines_of_their_own_in_ndjson_and_none_elsewhere() -> None:
    head = {"stream": "wrist", "session": "0000000000000abc", "index": 100}
    said: dict[str, Any] = {"samples": EMPTY, "confidence": None, "flags": None}
    for fields, line in (
        ({"kind": Kind.GAP, "missing": 60}, head | {"gap": 60}),
        ({"kind": Kind.END}, head | {"end": "clean"}),
        ({"kind": Kind.END, "unclean": True}, head | {"end": "unclean"}),
    ):
        chunk = Chunk("wrist", 0xABC, 100, **(said | fields))
        assert [json.loads(text) for text in ndjson_lines(chunk)] == [line]
        assert csv_lines(chunk) == value_lines(chunk) == []


def test_a_status_is_no_line_anywhere() -> None:
    status = at(Kind.STATUS, 100)
    assert csv_lines(status) == ndjson_lines(status) == value_lines(status) == []


@relaxed
@given(st.integers(1, 4_000_000), st.integers(1, 200), st.integers(1, 2**62))
def test_the_time_of_each_sample_is_within_a_nanosecond_of_its_place(fs_mhz: int, n: int, t_ns: int) -> None:
    chunk = published([0.0] * n, fs=fs_mhz / 1000, t_ns=t_ns)
    for i, line in enumerate(csv_lines(chunk)):
        exact_times_fs = (int(line.split(",")[3]) - t_ns) * fs_mhz - i * 10**12
        assert abs(exact_times_fs) <= fs_mhz


def test_a_time_that_is_unknown_stays_unknown_for_each_sample() -> None:
    assert [line.split(",")[3] for line in csv_lines(published(t_ns=0))] == ["0", "0"]
    assert [json.loads(line)["t_ns"] for line in ndjson_lines(published(t_ns=0))] == [0, 0]


def bits(array: Any) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in array]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@relaxed
@given(st.data())
def test_values_and_confidence_read_back_from_every_kind_of_line_to_the_same_bits(dtype: str, draw: st.DataObject) -> None:
    finite = st.floats(width=32 if dtype == "f4" else 64, allow_nan=False, allow_infinity=False)
    samples = np.array(draw.draw(st.lists(finite, min_size=1, max_size=12)), dtype)
    shares = st.lists(st.floats(0, 1, width=32), min_size=len(samples), max_size=len(samples))
    confidence = np.array(draw.draw(shares), np.float32)
    chunk = published(samples, confidence=confidence)
    rows = list(csv.DictReader([CSV_HEAD, *csv_lines(chunk)]))
    objects = [json.loads(line) for line in ndjson_lines(chunk)]
    assert bits(np.array([row["value"] for row in rows], dtype)) == bits(samples)
    assert bits(np.array([row["confidence"] for row in rows], np.float32)) == bits(confidence)
    assert bits(np.array([o["value"] for o in objects], dtype)) == bits(samples)
    assert bits(np.array([o["confidence"] for o in objects], np.float32)) == bits(confidence)
    assert bits(np.array(value_lines(chunk), dtype)) == bits(samples)
    assert [int(row["index"]) for row in rows] == [o["index"] for o in objects] == list(range(100, 100 + len(samples)))


def test_a_value_is_the_shortest_text_that_says_it() -> None:
    assert value_lines(published([0.1, 1e-7, -12345.0])) == ["0.1", "1e-07", "-12345.0"]


def no_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_ndjson_line_is_json_whatever_the_sample_is(value: float) -> None:
    (line,) = ndjson_lines(published([value]))
    assert json.loads(line, parse_constant=no_constant)["index"] == 100
