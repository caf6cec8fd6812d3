"""Messages of sensors that do not speak our format: what they become, how they are numbered, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.errors import WireError
from ppgstream.wire.foreign import Adopter
from ppgstream.wire.message import MAX_BODY, MAX_COUNT, Chunk, Kind, decode, encode

relaxed = settings(deadline=None, max_examples=200)
Json = None | bool | int | float | str | list[Any] | dict[str, Any]

documents: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["samples", "stream", "value"]) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def only(adopter: Adopter, *parts: bytes, now: float = 0.0) -> Chunk:
    """The one chunk that a message becomes."""
    (chunk,) = adopter.adopt(parts, now)
    return chunk


def values(chunk: Chunk) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in chunk.samples.astype(np.float64)]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"3", [3.0]),
        (b"-1.25e2", [-125.0]),
        (b"null", [None]),
        (b"[]", []),
        (b"[1, null, 2.5]", [1.0, None, 2.5]),
        (b"NaN", [None]),
        (b"[1, NaN, 2.5]", [1.0, None, 2.5]),
        (b'{"samples": [Infinity, -Infinity]}', [np.inf, -np.inf]),
        (b' {"samples": 4} ', [4.0]),
        (b'{"samples": [1, null]}', [1.0, None]),
        (b'{"samples": null, "t": "ignored"}', [None]),
        (b"18446744073709551616", [2.0**64]),
    ],
)
def test_json_is_a_number_a_list_or_an_object_that_holds_either(document: bytes, expected: list[float | None]) -> None:
    chunk = only(Adopter("json", fs=250.0), document)
    assert values(chunk) == expected
    assert (chunk.stream, chunk.index, chunk.kind, chunk.fs, chunk.t_ns) == ("sensor", 0, Kind.DATA, 250.0, 0)


@relaxed
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=30))
def test_json_samples_come_through_bit_for_bit(samples: list[float | None]) -> None:
    chunk = only(Adopter("json"), json.dumps(samples).encode())
    assert chunk.samples.dtype == np.float64
    assert [repr(v) for v in values(chunk)] == [repr(v) for v in samples]


def test_json_keys_are_those_of_the_settings() -> None:
    adopter = Adopter("json", samples_key="ppg", stream_key="who")
    chunk = only(adopter, b'{"ppg": [1, 2], "who": "left", "samples": [9], "stream": "no"}')
    assert (chunk.stream, values(chunk)) == ("left", [1.0, 2.0])
    with pytest.raises(WireError, match="'ppg'"):
        adopter.adopt([b'{"samples": [9]}'], 0.0)


def test_the_id_part_names_the_stream_before_the_document_and_the_default_come() -> None:
    adopter = Adopter("json", default_id="nobody")
    assert only(adopter, b"part", b'{"samples": 1, "stream": "document"}').stream == "part"
    assert only(adopter, b'{"samples": 1, "stream": "document"}').stream == "document"
    assert only(adopter, b'{"samples": 1}').stream == "nobody"
    assert only(adopter, b"1").stream == "nobody"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"1 2",
        b"1e999",
        b"1" * 400,
        b"1" * 5000,
        b"\xff\xfe",
        b'"1"',
        b"true",
        b"[true]",
        b'["1"]',
        b"[[1]]",
        b"[{}]",
        b"{}",
        b'{"values": 1}',
        b'{"samples": {"samples": 1}}',
        b'{"samples": "1"}',
        b'{"samples": 1, "stream": ""}',
        b'{"samples": 1, "stream": "a b"}',
        b'{"samples": 1, "stream": "\xc3\xa9"}',
        b'{"samples": 1, "stream": "\\n"}',
        b'{"samples": 1, "stream": "\\ud800"}',
        b'{"samples": 1, "stream": {"a": 1}}',
        b'{"samples": 1, "stream": ' + b"9" * 33 + b"}",
        b'{"samples": 1, "stream": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"samples":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" + b"0," * MAX_COUNT + b"0]",
        b" " * MAX_BODY + b"1",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_json_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(WireError):
        Adopter("json").adopt([body], 0.0)


@pytest.mark.parametrize("name", [b"null", b"true"])
def test_json_that_is_no_name_never_becomes_the_name_of_a_stream(name: bytes) -> None:
    try:
        stream = only(Adopter("json", default_id="default"), b'{"samples": 1, "stream": ' + name + b"}").stream
    except WireError:
        return
    assert stream == "default"


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4"])
def test_raw_is_little_endian_samples_of_the_dtype_in_the_settings(dtype: str) -> None:
    sent = np.array([1, -2, 300], "<" + dtype)
    chunk = only(Adopter("raw", dtype=dtype, default_id="d"), sent.tobytes())
    assert (chunk.stream, chunk.samples.dtype.str, chunk.samples.tolist()) == ("d", "<" + dtype, [1, -2, 300])
    assert only(Adopter("raw", dtype=dtype), b"id", sent.tobytes()).stream == "id"


@pytest.mark.parametrize(("dtype", "size"), [("f4", 4), ("f8", 8), ("i2", 2), ("i4", 4)])
def test_raw_bytes_that_are_not_whole_samples_are_refused(dtype: str, size: int) -> None:
    adopter = Adopter("raw", dtype=dtype)
    for length in range(4 * size):
        if length % size:
            with pytest.raises(WireError):
                adopter.adopt([bytes(length)], 0.0)
        else:
            assert len(only(adopter, bytes(length)).samples) == length // size


def test_a_message_with_more_samples_than_ours_may_have_is_refused() -> None:
    adopter = Adopter("raw", dtype="i2")
    assert len(only(adopter, bytes(2 * MAX_COUNT)).samples) == MAX_COUNT
    with pytest.raises(WireError):
        adopter.adopt([bytes(2 * MAX_COUNT + 2)], 0.0)


@pytest.mark.parametrize("format", ["json", "raw"])
@pytest.mark.parametrize("parts", [[], [b"a", b"1234", b"1234"], [b"", b"1234"], [b"a b", b"1234"], [b"x" * 33, b"1234"]])
def test_another_number_of_parts_or_a_bad_id_is_refused(format: str, parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        Adopter(format).adopt(parts, 0.0)


def assert_ours(chunks: list[Chunk]) -> None:
    """What came out can travel in our own format."""
    assert chunks
    for chunk in chunks:
        back = decode(encode(chunk))
        assert (back.stream, back.session, back.index, back.kind) == (chunk.stream, chunk.session, chunk.index, chunk.kind)
        assert back.samples.tobytes() == chunk.samples.tobytes()


@relaxed
@given(st.sampled_from(["json", "raw"]), st.sampled_from(["f4", "f8", "i2", "i4"]), st.lists(st.binary(max_size=60), max_size=3))
def test_any_bytes_become_chunks_of_ours_or_a_wire_error(format: str, dtype: str, parts: list[bytes]) -> None:
    try:
        chunks = Adopter(format, dtype=dtype).adopt(parts, 0.0)
    except WireError:
        return
    assert_ours(chunks)


@settings(deadline=None, max_examples=500)
@given(documents, st.booleans(), st.integers(0, 200), st.binary(max_size=3))
def test_any_json_whole_or_broken_becomes_chunks_of_ours_or_a_wire_error(
    document: Json, whole: bool, cut: int, more: bytes
) -> None:
    body = json.dumps(document).encode()
    try:
        chunks = Adopter("json").adopt([body if whole else body[:cut] + more], 0.0)
    except WireError:
        return
    assert_ours(chunks)


def test_nesting_of_any_depth_is_a_wire_error_also_where_a_name_is_expected() -> None:
    for depth in range(1, 1500, 7):
        for body in (b"[" * depth + b"]" * depth + b" ", b'{"samples": 1, "stream": ' + b"[" * depth + b"]" * depth + b"}"):
            if depth > 1 or b"stream" in body:
                with pytest.raises(WireError):
                    Adopter("json").adopt([body], 0.0)


def test_samples_are_numbered_as_they_come_in_one_session() -> None:
    adopter = Adopter("json")
    came = [only(adopter, body, now=now) for now, body in enumerate([b"[1,2,3]", b"4", b"[]", b"[5,6]"])]
    assert [chunk.index for chunk in came] == [0, 3, 4, 4]
    assert len({chunk.session for chunk in came}) == 1


def test_streams_are_numbered_each_for_itself() -> None:
    adopter = Adopter("raw", dtype="i2")
    first = [
        only(adopter, b"a", bytes(4)),
        only(adopter, b"b", bytes(2)),
        only(adopter, b"a", bytes(2)),
        only(adopter, b"b", bytes(2)),
    ]
    assert [(chunk.stream, chunk.index) for chunk in first] == [("a", 0), ("b", 0), ("a", 2), ("b", 1)]
    assert first[0].session != first[1].session


def test_a_refused_message_leaves_a_gap_as_long_as_the_time_since_the_last_and_breaks_no_session() -> None:
    adopter = Adopter("raw", dtype="f4")
    before = only(adopter, b"a", bytes(8))
    for now in (0.1, 1.1):
        with pytest.raises(WireError):
            adopter.adopt([b"a", bytes(5)], now)
    after = only(adopter, b"a", bytes(8), now=1.2)
    assert (after.session, after.index) == (before.session, 2 + 51 + 125)
    with pytest.raises(WireError):
        adopter.adopt([b"unknown", bytes(5)], 1.2)
    assert only(adopter, b"unknown", bytes(8), now=1.3).index == 0
    adopter = Adopter("json")
    only(adopter, b'{"stream": "b", "samples": [1, 2]}')
    with pytest.raises(WireError):
        adopter.adopt([b'{"stream": "b", "samples": "words"}'], 0.1)
    assert only(adopter, b'{"stream": "b", "samples": [1, 2]}', now=0.2).index == 2 + 51


def test_raw_samples_of_another_type_raise_a_doubt() -> None:
    adopter = Adopter("raw", dtype="f4")
    adopter.adopt([np.arange(500, 550).astype("<i2").tobytes()], 0.0)
    assert "raw_dtype 'f4'" in adopter.doubt
    adopter.adopt([np.arange(500, 550).astype("<f4").tobytes()], 0.1)
    assert adopter.doubt == ""


def test_after_silence_the_session_ends_and_a_new_one_begins_at_0() -> None:
    adopter = Adopter("json", silence_s=2.0, fs=50.0)
    before = only(adopter, b"a", b"[1,2,3]", now=10.0)
    end, after = adopter.adopt([b"a", b"[4,5]"], 12.5)
    assert (end.kind, end.stream, end.session, end.index, end.unclean) == (Kind.END, "a", before.session, 3, False)
    assert (len(end.samples), end.fs) == (0, 50.0)
    assert (after.kind, after.stream, after.index, values(after)) == (Kind.DATA, "a", 0, [4.0, 5.0])
    assert after.session != before.session


def test_silence_is_counted_from_the_last_message_and_not_from_the_first() -> None:
    adopter = Adopter("json", silence_s=2.0)
    sessions = {only(adopter, b"1", now=now).session for now in (0.0, 2.0, 4.0, 5.9)}  # 2.0 s apart is not more than 2.0 s
    assert len(sessions) == 1
    assert len(adopter.adopt([b"1"], 8.0)) == 2


@relaxed
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.5])), max_size=40))
def test_each_session_is_numbered_without_a_hole_and_each_but_the_last_of_a_stream_has_its_end(
    messages: list[tuple[str, int, float]],
) -> None:
    adopter, now = Adopter("raw", dtype="i2", silence_s=2.0), 0.0
    seen: dict[str, float] = {}
    sessions: dict[str, list[int]] = {}
    following: dict[int, int] = {}
    for stream, count, pause in messages:
        now += pause
        silent = stream in seen and now - seen[stream] > 2.0
        seen[stream] = now
        *ended, data = adopter.adopt([stream.encode(), bytes(2 * count)], now)
        assert [(c.kind, c.session, c.index) for c in ended] == (
            [(Kind.END, sessions[stream][-1], following[sessions[stream][-1]])] if silent else []
        )
        if silent or stream not in sessions:
            assert data.session not in following
            sessions.setdefault(stream, []).append(data.session)
        assert (data.session, data.index) == (sessions[stream][-1], following.get(data.session, 0))
        following[data.session] = data.stop
        assert data.stop == data.index + count


def test_one_stream_more_than_allowed_is_refused_and_the_others_go_on() -> None:
    adopter = Adopter("json", max_streams=2)
    only(adopter, b"a", b"1")
    only(adopter, b"b", b"1")
    with pytest.raises(WireError, match="max_streams"):
        adopter.adopt([b"c", b"1"], 0.0)
    assert [only(adopter, name, b"1").index for name in (b"a", b"b")] == [1, 1]


def test_a_stream_that_was_silent_keeps_its_place_among_those_allowed() -> None:
    adopter = Adopter("json", max_streams=1, silence_s=2.0)
    only(adopter, b"a", b"1")
    assert [chunk.kind for chunk in adopter.adopt([b"a", b"1"], 100.0)] == [Kind.END, Kind.DATA]


def test_a_session_that_is_over_makes_room_for_another_stream() -> None:
    adopter = Adopter("json", max_streams=1, silence_s=2.0)
    adopter.adopt([b"a", b"1"], 0.0)
    assert adopter.adopt([b"b", b"1"], 1000.0)[-1].stream == "b"
