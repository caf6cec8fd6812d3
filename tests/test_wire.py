"""The wire format: golden bytes, what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ppgstream.errors import UnknownKindError, WireError
from ppgstream.wire import message
from ppgstream.wire.message import (
    EMPTY,
    MAX_BEATS,
    MAX_BODY,
    MAX_COUNT,
    MAX_INDEX,
    NO_CHECKPOINT,
    Beats,
    Chunk,
    Flag,
    Kind,
    decode,
    encode,
)

relaxed = settings(deadline=None, max_examples=200)

# Written by hand from the table in message.py: a change here is a new version of the format.
GOLDEN_DATA = bytes.fromhex(
    "505047"  # magic "PPG"
    "01"  # version 1
    "01"  # kind 1, DATA
    "01"  # dtype 1, f4
    "00"  # not annotated
    "00"  # not unclean
    "efcdab8967452301"  # session 0x0123456789abcdef
    "fa00000000000000"  # index 250
    "03000000"  # count 3
    "48e80100"  # fs 125000 mHz
    "15cd853dfe9c9717"  # sensor time 1_700_000_000_123_456_789 ns
    "0000000000000000"  # no checkpoint
    "00000000"  # epoch
    "a7b8fafe"  # CRC-32 of the 52 bytes above and the samples below
    "0000803f" "000000bf" "00005040"  # samples 1.0, -0.5, 3.25
)  # fmt: skip
GOLDEN_ANNOTATED = bytes.fromhex(
    "505047"  # magic "PPG"
    "01"  # version 1
    "01"  # kind 1, DATA
    "02"  # dtype 2, f8
    "01"  # annotated
    "00"  # not unclean
    "feffffffffffffff"  # session 2**64 - 2
    "00e40b5402000000"  # index 10_000_000_000
    "02000000"  # count 2
    "34800500"  # fs 360500 mHz
    "ffffffffffffffff"  # sensor time -1 ns: signed
    "a1b2c3d4e5f60718"  # checkpoint id
    "00000000"  # epoch
    "89f209c4"  # CRC-32 of the 52 bytes above and everything below
    "9a9999999999b93f" "9c7500883ce437fe"  # samples 0.1, -1e300
    "0000803f" "0000803e"  # confidence 1.0, 0.25
    "0000" "4100"  # flags: none; FLAT and LOW_CONFIDENCE
)  # fmt: skip
GOLDEN_BEATS = bytes.fromhex(
    "505047"  # magic "PPG"
    "01"  # version 1
    "05"  # kind 5, BEATS
    "01"  # dtype 1: there are no samples
    "00" "00"  # not annotated, not unclean
    "efcdab8967452301"  # session 0x0123456789abcdef
    "e803000000000000"  # index 1000
    "02000000"  # count 2: beats
    "48e80100"  # fs 125000 mHz
    "0000000000000000"  # no time
    "a1b2c3d4e5f60718"  # checkpoint id
    "00000000"  # epoch
    "53f99243"  # CRC-32 of the 52 bytes above and everything below
    "0000a042" "0000403f"  # 80 bpm, confidence 0.75
    "8403000000000000" "e203000000000000"  # beats at 900 and 994
    "0000c07f" "00003c44"  # intervals: none, 752 ms
    "0000a040" "00002041"  # expected errors 5 and 10 ms
    "0000803f" "0000003f"  # confidence 1.0 and 0.5
)  # fmt: skip
BEATS = Chunk(
    "wrist-1",
    0x0123456789ABCDEF,
    1000,
    EMPTY,
    Kind.BEATS,
    checkpoint=bytes.fromhex("a1b2c3d4e5f60718"),
    beats=Beats(
        80.0, 0.75, np.array([900, 994], np.uint64), *(np.array(v, np.float32) for v in ([np.nan, 752], [5, 10], [1, 0.5]))
    ),
)
DATA = Chunk("wrist-1", 0x0123456789ABCDEF, 250, np.array([1.0, -0.5, 3.25], np.float32), t_ns=1_700_000_000_123_456_789)
ANNOTATED = Chunk(
    "a.B_9",
    2**64 - 2,
    10_000_000_000,
    np.array([0.1, -1e300]),
    fs=360.5,
    t_ns=-1,
    confidence=np.array([1.0, 0.25], np.float32),
    flags=np.array([0, Flag.FLAT | Flag.LOW_CONFIDENCE], np.uint16),
    checkpoint=bytes.fromhex("a1b2c3d4e5f60718"),
)
GOLDEN = [(DATA, b"wrist-1", GOLDEN_DATA), (ANNOTATED, b"a.B_9", GOLDEN_ANNOTATED), (BEATS, b"wrist-1", GOLDEN_BEATS)]
golden = pytest.mark.parametrize(("chunk", "stream", "body"), GOLDEN, ids=["data", "annotated", "beats"])
a_body = st.sampled_from([GOLDEN_DATA, GOLDEN_ANNOTATED, GOLDEN_BEATS])


def said(chunk: Chunk) -> dict[str, Any]:
    """All that a chunk says, comparable: arrays as their dtype and bits, so that NaN equals itself."""

    def bits(array: NDArray[Any] | None) -> object:
        return None if array is None else (array.dtype.str, array.shape, array.tobytes())

    fields = {name: getattr(chunk, name) for name in Chunk.__slots__}
    beats = fields["beats"]
    as_bits = (
        None if beats is None else [bits(np.asarray(value, np.float32)) for value in beats[:2]] + [bits(v) for v in beats[2:]]
    )
    return fields | {name: bits(fields[name]) for name in ("samples", "confidence", "flags")} | {"beats": as_bits}


def sealed(head: bytes, payload: bytes = b"") -> bytes:
    """A body whose CRC is right, whatever its fields say."""
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


def body_of(payload: bytes = b"", **fields: int) -> bytes:
    """A body from header fields, packed here and not by `encode`. Default: a DATA without samples."""
    values = {"version": 1, "kind": 1, "dtype": 1, "annotated": 0, "unclean": 0, "session": 7, "index": 0, "count": 0}
    values |= {"fs": 125_000, "t_ns": 0, "checkpoint": 0, "epoch": 0} | fields
    assert len(values) == 12, "a field of another name"
    return sealed(struct.pack("<3s5B2Q2IqQI", b"PPG", *values.values()), payload)


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    """Anything the format can say, of any kind and dtype."""
    kind = draw(st.sampled_from(Kind))
    dtype = draw(st.sampled_from(list(message.DTYPES.values())))
    n = draw(st.integers(0, 40)) if kind in (Kind.DATA, Kind.RAW) else 0
    missing = draw(st.integers(0, 2**32 - 1)) if kind is Kind.GAP else 0
    annotated = kind is Kind.DATA and draw(st.booleans())
    count = draw(st.integers(0, 12))

    def array(of: np.dtype[Any], n: int = n) -> NDArray[Any]:
        return np.frombuffer(draw(st.binary(min_size=n * of.itemsize, max_size=n * of.itemsize)), of)

    rate = st.one_of(st.just(np.nan), st.floats(0, 300, width=32))
    beats = Beats(
        draw(rate),
        draw(st.floats(0, 1, width=32)),
        array(np.dtype("<u8"), count),
        *(array(np.dtype("<f4"), count) for _ in range(3)),
    )

    return Chunk(
        stream=draw(st.from_regex(r"[A-Za-z0-9._-]{1,32}", fullmatch=True)),
        session=draw(st.integers(0, 2**64 - 1)),
        index=draw(st.integers(0, MAX_INDEX - n - missing)),
        samples=array(message.DTYPES[1] if kind is Kind.BEATS else dtype),
        kind=kind,
        fs=draw(st.integers(1, 2**32 - 1)) / 1000,
        t_ns=draw(st.integers(-(2**63), 2**63 - 1)),
        confidence=array(np.dtype("<f4")) if annotated else None,
        flags=array(np.dtype("<u2")) if annotated else None,
        checkpoint=draw(st.binary(min_size=8, max_size=8)),
        missing=missing,
        unclean=kind is Kind.END and draw(st.booleans()),
        beats=beats if kind is Kind.BEATS else None,
    )


@golden
def test_encode_makes_the_golden_bytes(chunk: Chunk, stream: bytes, body: bytes) -> None:
    assert encode(chunk) == (stream, body)


@golden
def test_decode_reads_the_golden_bytes(chunk: Chunk, stream: bytes, body: bytes) -> None:
    assert said(decode((stream, body))) == said(chunk)


@relaxed
@given(chunks())
def test_what_is_decoded_is_what_was_encoded(chunk: Chunk) -> None:
    assert said(decode(encode(chunk))) == said(chunk)


@relaxed
@given(chunks())
def test_the_index_after_a_chunk_counts_its_samples_or_its_missing_ones(chunk: Chunk) -> None:
    assert decode(encode(chunk)).stop == chunk.index + (chunk.missing if chunk.kind is Kind.GAP else len(chunk.samples))


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">i4"])
def test_samples_of_the_other_byte_order_travel_as_the_same_numbers(dtype: str) -> None:
    values = np.array([1, -2, 300], dtype)
    there = decode(encode(Chunk("s", 1, 0, values))).samples
    assert there.dtype == np.dtype("<" + dtype[1:])
    assert there.tolist() == [1, -2, 300]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_encode_converts_samples_to_the_dtype_it_is_asked_for(dtype: str) -> None:
    there = decode(encode(Chunk("s", 1, 0, np.array([1, -2, 300], np.int16)), dtype=dtype)).samples
    assert (there.dtype.str, there.tolist()) == ("<" + dtype, [1.0, -2.0, 300.0])


def test_a_strided_view_travels_as_the_samples_it_shows() -> None:
    assert decode(encode(Chunk("s", 1, 0, np.arange(10, dtype=np.float64)[::3]))).samples.tolist() == [0.0, 3.0, 6.0, 9.0]


def test_a_ten_line_sender_with_nothing_but_struct_and_zlib_is_understood() -> None:
    session, index, samples, t_ns = 0xFEEDFACE, 75, [k / 8 - 1 for k in range(25)], 1_760_000_000_000_000_000
    payload = b"".join(struct.pack("<f", value) for value in samples)
    head = b"PPG" + bytes([1, 1, 1, 0, 0])
    head += struct.pack("<Q", session) + struct.pack("<Q", index)
    head += struct.pack("<I", len(samples)) + struct.pack("<I", 125_000)
    head += struct.pack("<q", t_ns) + bytes(8) + bytes(4)
    body = head + struct.pack("<I", zlib.crc32(head + payload)) + payload

    chunk = decode([b"finger_2", body])
    assert (chunk.stream, chunk.session, chunk.index, chunk.kind) == ("finger_2", session, index, Kind.DATA)
    assert (chunk.fs, chunk.t_ns, chunk.checkpoint) == (125.0, t_ns, NO_CHECKPOINT)
    assert (chunk.confidence, chunk.flags, chunk.missing, chunk.unclean) == (None, None, 0, False)
    assert (chunk.samples.dtype.str, chunk.samples.tolist()) == ("<f4", samples)
    assert encode(chunk) == (b"finger_2", body)


@golden
def test_every_single_bit_flip_of_a_golden_body_is_refused(chunk: Chunk, stream: bytes, body: bytes) -> None:
    for bit in range(len(body) * 8):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            decode((stream, bytes(damaged)))


@golden
def test_a_golden_body_cut_anywhere_is_refused(chunk: Chunk, stream: bytes, body: bytes) -> None:
    for length in range(len(body)):
        with pytest.raises(WireError):
            decode((stream, body[:length]))


@relaxed
@given(a_body, st.binary(min_size=1, max_size=80), st.booleans())
def test_an_extended_body_is_refused(body: bytes, more: bytes, in_front: bool) -> None:
    with pytest.raises(WireError):
        decode((b"s", more + body if in_front else body + more))


@relaxed
@given(a_body, st.dictionaries(st.integers(0, 10_000), st.integers(1, 255), min_size=1, max_size=12))
def test_a_body_with_any_bytes_changed_is_refused(body: bytes, changes: dict[int, int]) -> None:
    damaged = bytearray(body)
    for place, change in changes.items():
        damaged[place % len(body)] = body[place % len(body)] ^ change
    with pytest.raises(WireError):
        decode((b"s", bytes(damaged)))


@relaxed
@given(st.lists(st.binary(max_size=120), max_size=4))
def test_random_parts_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(parts)


@relaxed
@given(st.binary(max_size=120))
def test_random_bytes_after_a_right_beginning_are_refused(rest: bytes) -> None:
    with pytest.raises(WireError):
        decode((b"s", b"PPG\x01" + rest))


@settings(deadline=None, max_examples=1000)
@given(
    a_body,
    st.dictionaries(st.integers(3, 51), st.one_of(st.integers(0, 4), st.integers(0, 255)), max_size=4),
    st.one_of(st.none(), st.binary(max_size=60)),
)
def test_whatever_passes_the_crc_is_refused_or_is_what_encode_makes(
    body: bytes, changes: dict[int, int], payload: bytes | None
) -> None:
    head = bytearray(body[:52])
    for place, value in changes.items():
        head[place] = value
    forged = sealed(bytes(head), body[56:] if payload is None else payload)
    try:
        chunk = decode((b"s", forged))
    except WireError:
        return
    assert encode(chunk) == (b"s", forged)


def test_a_kind_of_a_later_version_is_told_from_damage() -> None:
    with pytest.raises(UnknownKindError, match="kind 7: this reader knows 1 DATA, 2 STATUS, 3 END, 4 GAP, 5 BEATS, 6 RAW"):
        decode((b"s", body_of(bytes(99), kind=7, count=3)))
    damaged = bytearray(body_of(bytes(99), kind=7, count=3))
    damaged[-1] ^= 1
    with pytest.raises(WireError, match="CRC") as told:
        decode((b"s", bytes(damaged)))
    assert not isinstance(told.value, UnknownKindError)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(body_of(version=0), id="version 0"),
        pytest.param(body_of(version=2), id="version 2"),
        pytest.param(body_of(kind=0), id="kind 0"),
        pytest.param(body_of(kind=5), id="BEATS without a rate"),
        pytest.param(body_of(bytes(8), kind=5, annotated=1), id="annotated BEATS"),
        pytest.param(body_of(bytes(27), kind=5, count=1), id="a broken beat"),
        pytest.param(body_of(bytes(8 + 20 * (MAX_BEATS + 1)), kind=5, count=MAX_BEATS + 1), id="one beat too many"),
        pytest.param(body_of(b"\x01\x00\x80\x7f" + bytes(4), kind=5), id="an unusual NaN as a rate"),
        pytest.param(body_of(bytes(10), kind=6, annotated=1, count=1), id="annotated RAW"),
        pytest.param(body_of(bytes(7), kind=6, count=2), id="RAW of another length"),
        pytest.param(body_of(dtype=0), id="dtype 0"),
        pytest.param(body_of(dtype=5), id="dtype 5"),
        pytest.param(body_of(annotated=2), id="annotated 2"),
        pytest.param(body_of(kind=3, unclean=2), id="unclean 2"),
        pytest.param(body_of(kind=1, unclean=1), id="an unclean DATA"),
        pytest.param(body_of(kind=2, unclean=1), id="an unclean STATUS"),
        pytest.param(body_of(kind=4, unclean=1), id="an unclean GAP"),
        pytest.param(body_of(index=2**63), id="index 2**63"),
        pytest.param(body_of(kind=2, count=1), id="STATUS with a count"),
        pytest.param(body_of(kind=3, count=1), id="END with a count"),
        pytest.param(body_of(kind=3, annotated=1), id="an annotated END"),
        pytest.param(body_of(kind=4, annotated=1, count=1), id="an annotated GAP"),
        pytest.param(body_of(bytes(4), kind=4, count=1), id="GAP with samples"),
        pytest.param(body_of(bytes(4), kind=3), id="END with samples"),
        pytest.param(body_of(bytes(4), count=2), id="fewer samples than the count"),
        pytest.param(body_of(bytes(8), count=1), id="more samples than the count"),
        pytest.param(body_of(bytes(5), count=1), id="a broken sample"),
        pytest.param(body_of(bytes(4), count=1, annotated=1), id="annotated without annotations"),
        pytest.param(body_of(bytes(10), count=1), id="annotations without annotated"),
        pytest.param(body_of(bytes(2 * (MAX_COUNT + 1)), count=MAX_COUNT + 1, dtype=3), id="one sample too many"),
        pytest.param(body_of(bytes(MAX_BODY - 55)), id="one byte too many"),
    ],
)
def test_a_field_out_of_range_is_refused_though_the_crc_is_right(body: bytes) -> None:
    with pytest.raises(WireError):
        decode((b"s", body))


@pytest.mark.parametrize(
    "body",
    [
        body_of(),
        body_of(bytes(4), count=1),
        body_of(bytes(10), count=1, annotated=1),
        body_of(kind=2),
        body_of(kind=3, unclean=1),
        body_of(kind=4, count=2**32 - 1, index=2**63 - 2**32),
        body_of(bytes(14 * MAX_COUNT), count=MAX_COUNT, dtype=2, annotated=1),
    ],
)
def test_a_body_at_the_edge_of_the_ranges_is_read_and_made_again_the_same(body: bytes) -> None:
    assert encode(decode((b"s", body))) == (b"s", body)


@pytest.mark.parametrize("stream", [b"", b"a" * 65, b"a b", b"a\n", b"\xc3\xa9", b"a\x00", b"a/b", b"\x1b[2J", b"a" * 100_000])
def test_a_stream_id_outside_the_alphabet_is_refused_both_ways(stream: bytes) -> None:
    with pytest.raises(WireError) as told:
        decode((stream, GOLDEN_DATA))
    assert len(str(told.value)) < 300
    assert str(told.value).isprintable()
    with pytest.raises(WireError):
        encode(Chunk(stream.decode("utf-8"), 1, 0, EMPTY))


@pytest.mark.parametrize("parts", [[], [b"s"], [GOLDEN_DATA], [b"s", GOLDEN_DATA, b""], [GOLDEN_DATA, b"s"]])
def test_another_number_or_order_of_parts_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        decode(parts)


def unsayable(reason: str, **fields: Any) -> Any:
    return pytest.param(fields, id=reason)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"index": -1}, id="an index below 0"),
        pytest.param({"session": 2**64}, id="a session of 65 bits"),
        pytest.param({"session": -1}, id="a session below 0"),
        pytest.param({"t_ns": 2**63}, id="a time beyond 2262"),
        pytest.param({"fs": -1.0}, id="fs below 0"),
        pytest.param({"fs": 4_294_968.0}, id="fs beyond 32 bits of mHz"),
        pytest.param({"kind": Kind.GAP, "samples": EMPTY, "missing": 2**32}, id="a GAP beyond 32 bits"),
        pytest.param({"samples": np.zeros(MAX_COUNT + 1, np.int16)}, id="more samples than fit"),
        pytest.param({"samples": np.zeros(2, np.float16)}, id="f2"),
        pytest.param({"samples": np.zeros(2, np.int64)}, id="i8"),
        pytest.param({"samples": np.zeros(2, np.uint16)}, id="u2"),
        pytest.param({"samples": np.zeros(2, np.complex64)}, id="complex"),
        pytest.param({"samples": np.zeros(2, object)}, id="objects"),
        unsayable("fs NaN: ValueError", fs=float("nan")),
        unsayable("fs infinite: OverflowError", fs=float("inf")),
        unsayable("fs below half a mHz: bytes that decode refuses", fs=0.0004),
        unsayable("index 2**63: bytes that decode refuses", index=2**63),
        unsayable("an unclean DATA: bytes that decode refuses", unclean=True),
        unsayable("an END with samples: bytes that decode refuses", kind=Kind.END),
        unsayable("a STATUS with samples: bytes that decode refuses", kind=Kind.STATUS),
        unsayable("a GAP with samples: bytes that decode refuses", kind=Kind.GAP, missing=2),
        unsayable("samples in 2-D: bytes that decode refuses", samples=np.zeros((2, 3), np.float32)),
        unsayable("less confidence than samples", confidence=np.zeros(1, np.float32), flags=np.zeros(2, np.uint16)),
        unsayable("fewer flags than samples", confidence=np.zeros(2, np.float32), flags=np.zeros(1, np.uint16)),
        unsayable(
            "an annotated END: bytes that decode refuses",
            kind=Kind.END,
            samples=EMPTY,
            confidence=np.zeros(0, np.float32),
            flags=np.zeros(0, np.uint16),
        ),
        unsayable("confidence without flags: left out in silence", confidence=np.zeros(2, np.float32)),
        unsayable("flags without confidence: left out in silence", flags=np.zeros(2, np.uint16)),
        unsayable("a DATA with missing: left out in silence", missing=3),
        unsayable("a checkpoint id of 3 bytes: padded in silence", checkpoint=b"abc"),
        unsayable("a checkpoint id of 32 bytes: cut in silence", checkpoint=bytes(range(32))),
    ],
)
def test_encode_refuses_what_the_format_cannot_say(fields: dict[str, Any]) -> None:
    said_otherwise: dict[str, Any] = {"stream": "s", "session": 1, "index": 0, "samples": np.zeros(2, np.float32)}
    with pytest.raises(WireError):
        encode(Chunk(**(said_otherwise | fields)))


def test_each_flag_is_a_bit_of_its_own_in_16() -> None:
    assert sorted(int(flag) for flag in Flag) == [1 << bit for bit in range(len(Flag))]
    assert len(Flag) <= 16


def test_a_sender_may_leave_its_rate_to_the_reader() -> None:
    chunk = Chunk("C8:AA:0f", 1, 5, np.array([1.0, 2.0], np.float32), fs=0.0)
    assert decode(encode(chunk)).fs == 0.0
    assert decode(encode(chunk)).stream == "C8:AA:0f"
