"""Messages of sensors that do not speak our format: what they become, how they are numbered, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.errors import WireError
from ppgstream.wire.foreign import RAW_DTYPES, Adopter
from ppgstream.wire.json_messages import Keys
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
        (b'"512"', [512.0]),
        (b'["1", 2, " 3.5 "]', [1.0, 2.0, 3.5]),
        (b"[[1], [2], [null]]", [1.0, 2.0, None]),
        (b'{"ir": 512}', [512.0]),
        (b'{"IR": "512"}', [512.0]),
        (b'{"time": 3, "value": [7]}', [7.0]),
        (b'[{"ir": 1}, {"ir": 2}, {"ir": [3, 4]}]', [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_json_is_a_number_a_list_or_an_object_that_holds_either(document: bytes, expected: list[float | None]) -> None:
    chunk = only(Adopter("json"), document)
    assert values(chunk) == expected
    assert (chunk.stream, chunk.index, chunk.kind, chunk.fs, chunk.t_ns) == ("sensor", 0, Kind.DATA, 0.0, 0)


@relaxed
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=30))
def test_json_samples_come_through_bit_for_bit(samples: list[float | None]) -> None:
    chunk = only(Adopter("json"), json.dumps(samples).encode())
    assert chunk.samples.dtype == np.float64
    assert [repr(v) for v in values(chunk)] == [repr(v) for v in samples]


def test_json_keys_are_those_of_the_settings() -> None:
    adopter = Adopter("json", keys=Keys(samples="ppg", stream="who"))
    chunk = only(adopter, b'{"ppg": [1, 2], "who": "left", "samples": [9], "stream": "no"}')
    assert (chunk.stream, values(chunk)) == ("left", [1.0, 2.0])
    with pytest.raises(WireError, match="looked for 'ppg'; its keys are 'samples'"):
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
        b"true",
        b"[true]",
        b"[[1, 2]]",
        b'["x"]',
        b"[{}]",
        b"{}",
        b'{"heart": 1}',
        b'{"samples": {"samples": 1}}',
        b'{"samples": "one"}',
        b'{"samples": 1, "fs": "fast"}',
        b'{"samples": 1, "fs": -5}',
        b'{"samples": 1, "stream": ""}',
        b'{"samples": 1, "stream": "\\n"}',
        b'{"samples": 1, "stream": "\\ud800"}',
        b'{"samples": 1, "stream": {"a": 1}}',
        b'{"samples": 1, "stream": ' + b"9" * 65 + b"}",
        b'{"samples": 1, "stream": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"samples":' * 50_000 + b"1" + b"}" * 50_000,
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


@pytest.mark.parametrize("dtype", ["u2", "u4", ">f4", ">f8", ">i2", ">i4", ">u2"])
def test_raw_of_other_types_becomes_numbers(dtype: str) -> None:
    sent = np.array([1, 2, 300], RAW_DTYPES[dtype])
    assert sent.dtype.str == (dtype if dtype[0] == ">" else "<" + dtype)
    chunk = only(Adopter("raw", dtype=dtype), sent.tobytes())
    assert (chunk.samples.dtype.str, chunk.samples.tolist()) == ("<f8", [1, 2, 300])
    assert only(Adopter("raw", dtype="u2"), b"\xff\xff").samples.tolist() == [65_535]


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
@pytest.mark.parametrize("parts", [[], [b"a", b"1234", b"1234"], [b"", b"1234"], [b"a b", b"1234"], [b"x" * 65, b"1234"]])
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
    adopter = Adopter("raw", dtype="f4", fs=125.0)
    before = only(adopter, b"a", bytes(8))
    for now in (0.1, 1.1):
        with pytest.raises(WireError):
            adopter.adopt([b"a", bytes(5)], now)
    after = only(adopter, b"a", bytes(8), now=1.2)
    assert (after.session, after.index) == (before.session, 2 + 51 + 125)  # at the 125 Hz of the settings
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
    assert (len(end.samples), end.fs) == (0, 0.0)
    assert (after.kind, after.stream, after.index, values(after)) == (Kind.DATA, "a", 0, [4.0, 5.0])
    assert after.session != before.session


def test_silence_is_counted_from_the_last_message_and_not_from_the_first() -> None:
    adopter = Adopter("json", silence_s=2.0)
    sessions = {only(adopter, b"1", now=now).session for now in (0.0, 2.0, 2.2, 2.4, 2.6)}  # 2.0 s apart is not more than 2.0 s
    assert len(sessions) == 1
    assert len(adopter.adopt([b"1"], 4.7)) == 2


def test_who_sends_in_batches_is_not_silent_between_them() -> None:
    """A watch: 3 s at once, then 12 s at once, with a pause of a minute in between."""
    adopter = Adopter("json", silence_s=2.0)
    batch = json.dumps([1.0] * 75).encode()
    first = {only(adopter, batch, now=3.0 * k).session for k in range(12)}
    assert len(first) == 1
    assert [c.kind for c in adopter.adopt([batch], 100.0)] == [Kind.END, Kind.DATA]
    long = json.dumps({"fs": 25, "ppg": [1.0] * 300}).encode()
    sessions = {only(adopter, long, now=101.0 + 12.0 * k).session for k in range(6)}
    assert len(sessions) == 1
    assert [c.kind for c in adopter.adopt([long], 101.0 + 60.0 + 61.0)] == [Kind.END, Kind.DATA]


@relaxed
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5, 30.0])), max_size=40))
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


# ---- what a document says beside its samples -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "t_ns"),
    [
        ({"t_ns": 1_764_000_000_123_456_789}, 1_764_000_000_123_456_789),
        ({"timestamp": 1_764_000_000_123_456_789}, 1_764_000_000_123_456_789),
        ({"timestamp": 1_764_000_000_123_456}, 1_764_000_000_123_456_000),
        ({"ts": 1_764_000_000_123}, 1_764_000_000_123_000_000),
        ({"time": 1_764_000_000.5}, 1_764_000_000_500_000_000),
        ({"time_ms": 12_345}, 12_345_000_000),
        ({"t_us": "12345"}, 12_345_000),
        ({"millis": 12_345}, 12_345_000_000),
        ({"t_s": 12.5}, 12_500_000_000),
        ({"timestamp": "2026-11-29T22:21:32.5Z"}, 1_795_990_892_500_000_000),
        ({"timestamp": "yesterday"}, 0),
        ({"t": 12.5}, 0),  # of what, nothing says yet
        ({"t": 1_100_000_000}, 0),  # 2004, or 18 minutes of microseconds
        ({"t": True}, 0),
        ({"t": 1e300}, 0),
        ({}, 0),
    ],
    ids=str,
)
def test_a_time_is_read_by_its_key_s_name_or_by_its_size(document: dict[str, Any], t_ns: int) -> None:
    adopter = Adopter("json", wall=lambda: 1_764_000_500.0)
    assert only(adopter, json.dumps({"ir": [1, 2], **document}).encode()).t_ns == pytest.approx(t_ns, abs=300)


@pytest.mark.parametrize(("unit", "size"), [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)])
def test_the_unit_of_a_clock_that_began_at_start_is_found_while_messages_arrive(unit: str, size: float) -> None:
    adopter = Adopter("json")
    came = [only(adopter, json.dumps({"ir": 1, "t": (5 + 0.1 * k) / size}).encode(), now=7 + 0.1 * k) for k in range(30)]
    assert came[0].t_ns == 0
    assert came[-1].t_ns == pytest.approx((5 + 2.9) * 1e9)
    named = Adopter("json", keys=Keys(time_unit=unit))  # type: ignore[arg-type]
    assert only(named, json.dumps({"ir": 1, "t": 5 / size}).encode()).t_ns == pytest.approx(5e9)


def test_a_time_of_the_last_sample_is_taken_back_to_the_first() -> None:
    adopter = Adopter("json", keys=Keys(time_of="last"))
    assert only(adopter, b'{"fs": 50, "ir": [1,2,3,4,5], "t_s": 10}').t_ns == 9_920_000_000
    unknown = Adopter("json", keys=Keys(time_of="last"))
    assert [only(unknown, b'{"ir": [1,2,3,4,5], "t_s": %d}' % t, now=t).t_ns for t in (10, 11)] == [0, 10_200_000_000]


def test_of_objects_in_a_list_the_last_one_s_time_is_that_of_the_last_sample() -> None:
    adopter = Adopter("json", keys=Keys(time_of="last"), fs=25.0)
    rows = [{"ir": k, "t_s": 100 + k / 25} for k in range(25)]
    assert only(adopter, json.dumps(rows).encode()).t_ns == 100_000_000_000


def test_a_stream_s_name_may_be_any_short_text_or_a_number() -> None:
    for name, stream in [("Galaxy Watch 5", "Galaxy-Watch-5"), (7, "7"), ("\u00e9", "-"), ("a" * 99, "a" * 64), (-3, "-3")]:
        assert only(Adopter("json"), json.dumps({"ir": 1, "device_id": name}).encode()).stream == stream


def test_an_index_that_leaps_begins_a_session_and_is_told() -> None:
    def sessions(indexes: list[int], fs: float = 50.0) -> list[tuple[int, int]]:
        adopter, found = Adopter("json", fs=fs), []
        for k, index in enumerate(indexes):
            for chunk in adopter.adopt([b"a", json.dumps({"ir": [1] * 25, "index": index}).encode()], k / 2):
                if chunk.kind is Kind.DATA:
                    found.append((chunk.session, chunk.index))
            assert (k > 0 and abs(index - indexes[k - 1]) > 10_000) == ("leaps" in adopter.doubt)
        return found

    steady = sessions([0, 25, 50, 75])
    assert len({s for s, _ in steady}) == 1
    for fs in (50.0, 0.0):
        damaged = sessions([0, 25, 10**15, 75, 100], fs)
        assert [index for _, index in damaged] == [0, 25, 10**15, 75, 100]
        first, second, third = dict.fromkeys(s for s, _ in damaged)
        assert [s for s, _ in damaged] == [first, first, second, third, third]
    assert len({s for s, _ in sessions([0, 25, 2500, 2525, 50, 2550])}) == 1  # a loss, and a late one


def test_a_rate_that_no_sensor_has_is_passed_on_and_says_nothing_of_gaps() -> None:
    adopter = Adopter("json")
    assert only(adopter, b"a", b'{"fs": 50, "ir": [1, 2]}').fs == 50
    assert only(adopter, b"a", b'{"fs": 5000, "ir": [1, 2]}', now=0.1).fs == 5000  # refused behind this
    with pytest.raises(WireError):
        adopter.adopt([b"a", b"{"], 1.0)
    after = only(adopter, b"a", b'{"ir": [1, 2]}', now=1.1)
    assert (after.fs, after.index) == (50, 4 + 51)  # 0.9 s are 45 samples, and more than is bridged


def test_raw_samples_may_begin_and_end_with_the_bytes_of_brackets() -> None:
    x = np.array([23_500, 23_500, 23_645], ">i2")
    assert x.tobytes()[:1] == b"["
    assert values(only(Adopter("raw", dtype=">i2"), b"a", x.tobytes())) == x.tolist()
    with pytest.raises(WireError, match="looks like JSON"):
        Adopter("raw", dtype="i2").adopt([b"a", b"[1, 2, 3 ]"], 0.0)


def test_of_several_colours_the_order_of_the_usual_names_counts_in_any_case() -> None:
    adopter = Adopter("json")
    assert values(only(adopter, b"a", b'{"red": 1, "IR": 2}')) == [2.0]
    assert "red" in adopter.doubt
    assert values(only(Adopter("json"), b"a", b'{"Red": 1, "IR": 2}')) == [2.0]


def test_slow_batches_keep_one_session_though_no_rate_is_said() -> None:
    adopter = Adopter("json", silence_s=2.0)
    found = {c.session for k in range(4) for c in adopter.adopt([b"a", json.dumps([1.0] * 120).encode()], 12.0 * k)}
    assert len(found) == 1
    fast = Adopter("json", rates={"a": 100.0}, silence_s=2.0)
    assert len({c.session for k in range(3) for c in fast.adopt([b"a", json.dumps([1.0] * 120).encode()], 12.0 * k)}) == 3


def test_messages_that_are_missing_show_in_the_times_of_a_sensor_that_says_its_rate() -> None:
    def indexes(messages: list[tuple[float, float]], **said: object) -> list[int]:
        """Of messages of 25 samples with a time that arrive at another one, s each."""
        adopter = Adopter("json", fs=0.0)
        return [
            only(adopter, b"a", json.dumps({"t_ms": 1000 * t, "ir": [1] * 25, **said}).encode(), now=now).index
            for t, now in messages
        ]

    steady = [(k / 2, k / 2) for k in range(4)]
    assert indexes(steady, fs=50) == [0, 25, 50, 75]
    assert indexes([steady[0], *steady[2:]], fs=50) == [0, 25, 50]  # half a second: no more than a clock may jitter
    assert indexes([(0.0, 0.0), (1.5, 1.5), (2.0, 2.0)], fs=50) == [0, 75, 100]
    assert indexes([(0.0, 0.0), (9.5, 0.5), (10.0, 1.0)], fs=50) == [0, 25, 50]  # a clock that was set
    assert indexes([(0.0, 0.0), (0.5, 1.9), (1.0, 1.95)], fs=50) == [0, 25, 50]  # late, and all there
    assert indexes([(0.0, 0.0), (1.5, 1.5)]) == [0, 25]  # no rate
    broken = Adopter("json", fs=50.0)
    for body, now in ((b'{"t_ms": 0, "ir": [1, 2]}', 0.0), (b'{"t_ms": 1000, "ir": [1, {}]}', 1.0)):
        try:
            broken.adopt([b"a", body], now)
        except WireError:
            assert now == 1.0
    index = only(broken, b"a", b'{"t_ms": 1040, "ir": [1, 2]}', now=1.04).index
    assert 50 <= index <= 110  # the refused one's time is left out once


def test_fs_index_end_and_units_are_read() -> None:
    adopter = Adopter("json")
    first = only(adopter, b'{"stream": "w", "fs": "64", "index": 640, "ir": [1, 2], "units": "counts"}')
    assert (first.fs, first.index, first.units) == (64.0, 640, "counts")
    data, end = adopter.adopt([b'{"stream": "w", "index": 700, "ir": [1], "end": true}'], 0.1)
    assert (data.index, end.kind, end.index, end.session) == (700, Kind.END, 701, first.session)
    (last,) = adopter.adopt([b'{"stream": "w", "ir": 1}'], 0.2)
    assert last.session != first.session
    assert [c.kind for c in adopter.adopt([b'{"stream": "w", "end": true}'], 0.3)] == [Kind.END]


def test_a_rate_that_was_said_once_holds_for_the_session() -> None:
    adopter = Adopter("json")
    assert [only(adopter, body).fs for body in (b'{"fs": 64, "ir": [1, 2]}', b'{"ir": [3, 4]}')] == [64.0, 64.0]


def test_a_message_longer_than_ours_comes_in_parts() -> None:
    chunks = Adopter("json").adopt([b"[" + b"0," * MAX_COUNT + b"0]"], 0.0)
    assert [(c.index, len(c.samples)) for c in chunks] == [(0, MAX_COUNT), (MAX_COUNT, 1)]


def test_objects_of_several_streams_in_one_message_go_to_each() -> None:
    chunks = Adopter("json").adopt([b'[{"stream": "a", "ir": 1}, {"stream": "b", "ir": 2}, {"stream": "a", "ir": 3}]'], 0.0)
    assert [(c.stream, c.index, values(c)) for c in chunks] == [("a", 0, [1.0]), ("b", 0, [2.0]), ("a", 1, [3.0])]


def test_of_two_colours_one_is_taken_and_it_is_told() -> None:
    adopter = Adopter("json")
    assert values(only(adopter, b'{"red": 5, "ir": 7}')) == [7.0]
    assert adopter.doubt == "sensor: JSON holds red too, which are not taken: [in] json_samples"


def test_an_error_names_the_stream_and_the_keys_that_were_there() -> None:
    told = r"JSON object without samples: looked for .*; its keys are 'stream', 'heart'"
    with pytest.raises(WireError, match=told) as info:
        Adopter("json").adopt([b'{"stream": "left", "heart": 1}'], 0.0)
    assert info.value.stream == "left"
    with pytest.raises(WireError) as info:
        Adopter("json").adopt([b"left", b'{"ir": "x"}'], 0.0)
    assert info.value.stream == "left"


def test_auto_takes_json_and_ours_by_message() -> None:
    adopter = Adopter("auto")
    ours = Chunk("a", 7, 5, np.array([1.0, 2.0]))
    assert adopter.adopt(encode(ours), 0.0)[0].session == 7
    assert values(only(adopter, b"b", b"[3]")) == [3.0]
    assert values(only(adopter, b'{"C8:AA:01": 0, "stream": "C8:AA", "ir": 1}')) == [1.0]
    with pytest.raises(WireError, match="not JSON") as info:
        adopter.adopt([b"b", b"\x01\x02"], 0.0)  # a stream that has sent JSON
    assert info.value.stream == "b"
    with pytest.raises(WireError, match=r'neither JSON nor .* need .in. format = "raw"'):
        adopter.adopt([b"c", b"\x01\x02"], 0.0)
    damaged = bytearray(encode(ours)[1])
    damaged[60] ^= 1
    with pytest.raises(WireError, match="CRC"):
        adopter.adopt([b"a", bytes(damaged)], 0.0)


def test_what_another_format_expects_says_which_one_it_looks_like() -> None:
    ours = encode(Chunk("a", 7, 5, np.array([1.0, 2.0])))
    for format in ("json", "raw"):
        with pytest.raises(WireError, match=rf"a message of docs/wire.md: .in. format is '{format}'"):
            Adopter(format).adopt(ours, 0.0)
    with pytest.raises(WireError, match="this looks like JSON"):
        Adopter("raw", dtype="i2").adopt([b'{"ir": 12}'], 0.0)
    with pytest.raises(WireError, match=r'this looks like JSON: .in. format = "json" or "auto"'):
        Adopter("ppgstream").adopt([b"a", b'{"ir": 12}'], 0.0)
