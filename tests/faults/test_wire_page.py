"""docs/wire.md against the code: a decoder that was written from the page alone takes and refuses the same messages, and reads
the same in them."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from faults import codec
from faults.long import times
from ppgstream.errors import UnknownKindError, WireError
from ppgstream.wire.message import Chunk, Kind, decode, encode

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"
ROOM = 2**63
ODD = {  # of each field, values at the edges of what is allowed
    "version": (0, 2, 255),
    "kind": (0, 1, 2, 3, 4, 5, 6, 7, 255),
    "dtype": (0, 1, 2, 3, 4, 5, 255),
    "annotated": (0, 1, 2, 255),
    "unclean": (0, 1, 2, 255),
    "session": (0, 1, 2**64 - 1),
    "index": (0, 1, ROOM - 3, ROOM - 2, ROOM - 1, ROOM, 2**64 - 1),
    "count": (0, 1, 2, 3, 2048, 2049, 4096, 4097, 2**31, 2**32 - 1),
    "fs": (0, 1, 125_000, 2**32 - 1),
    "time": (0, -1, 2**63 - 1, -(2**63)),
    "epoch": (0, 0, 0, 1, 2**32 - 1),
}
FIELDS = (
    "magic",
    "version",
    "kind",
    "dtype",
    "annotated",
    "unclean",
    "session",
    "index",
    "count",
    "fs",
    "time",
    "checkpoint",
    "epoch",
)
SIZES = {1: 4, 2: 8, 3: 2, 4: 4}


def message(rng: np.random.Generator) -> list[bytes]:
    """A message that is nearly always whole, of any kind, with up to two fields at the edge of what is allowed or beyond."""
    kind, dtype, count = int(rng.choice([1, 1, 2, 3, 4, 5, 5, 6])), int(rng.integers(1, 5)), int(rng.integers(0, 4))
    annotated = int(kind == 1 and rng.uniform() < 0.5)
    fields = {
        "magic": b"PPG",
        "version": 1,
        "kind": kind,
        "dtype": 1 if kind == 5 else dtype,
        "annotated": annotated,
        "unclean": int(kind == 3 and rng.uniform() < 0.5),
        "session": int(rng.integers(0, 2**63)),
        "index": int(rng.integers(0, 1000)),
        "count": 0 if kind in (2, 3) else count,
        "fs": 125_000,
        "time": int(rng.integers(-(2**62), 2**62)),
        "checkpoint": rng.bytes(8),
        "epoch": 0,
    }
    length = {1: count * (SIZES[dtype] + 6 * annotated), 6: count * SIZES[dtype], 5: 8 + 20 * count}.get(kind, 0)
    payload = bytearray(rng.bytes(length))
    if kind == 5 and rng.uniform() < 0.7:  # else the rate and its confidence are random bits, NaN of any kind among them
        payload[:8] = struct.pack("<ff", rng.choice([72.0, np.nan]), rng.uniform())
    for name in rng.choice(list(ODD), int(rng.choice([0, 0, 1, 1, 2]))):
        fields[name] = ODD[name][int(rng.integers(len(ODD[name])))]
    if rng.uniform() < 0.05:
        payload = payload[:-1] if rng.uniform() < 0.5 else payload + b"\0"
    if rng.uniform() < 0.02:
        fields["magic"] = rng.bytes(3)
    head = codec.HEADER.pack(*(fields[name] for name in FIELDS))
    crc = zlib.crc32(payload, zlib.crc32(head)) ^ int(rng.uniform() < 0.02)
    name = rng.choice(
        [b"a", b"wrist-1_.x", b"C8:AA" * 12, b"x" * 64] if rng.uniform() < 0.95 else [b"", b"x" * 65, b"a b", b"\xff"]
    )
    body = head + struct.pack("<I", crc) + bytes(payload)
    if rng.uniform() < 0.02:
        body = body[: int(rng.integers(0, len(body) + 1))]
    parts = [bytes(name), body]
    return parts if rng.uniform() < 0.98 else [parts, parts[:1], [*parts, b""], []][int(rng.integers(4))]


def ours(parts: list[bytes]) -> Chunk | str:
    try:
        return decode(parts)
    except UnknownKindError:
        return "unknown"
    except WireError:
        return "refused"


def theirs(parts: list[bytes]) -> codec.Message | str:
    try:
        return codec.decode(parts)
    except codec.UnknownKind:
        return "unknown"
    except codec.Refused:
        return "refused"


def same(a: Chunk, b: codec.Message) -> bool:
    heads = (
        (a.stream, a.kind, a.session, a.index, round(a.fs * 1000), a.t_ns, a.checkpoint, a.unclean, a.epoch)
        == (b.stream, b.kind, b.session, b.index, b.fs_mhz, b.t_ns, b.checkpoint, b.unclean, b.epoch)
    )  # fmt: skip
    columns = [(a.confidence, b.confidence), (a.flags, b.flags)]
    if a.kind in (Kind.DATA, Kind.RAW):
        columns.append((a.samples, b.samples))
    if a.beats is not None and b.beats is not None:
        rate = np.array([a.beats.bpm, a.beats.bpm_confidence], "<f4")
        columns.append((rate, np.array([b.beats.heart_rate, b.beats.heart_rate_confidence], "<f4")))
        columns += zip(a.beats[2:], (b.beats.index, b.beats.interval_ms, b.beats.error_ms, b.beats.probability), strict=True)
    alike = all(x is y is None or (x is not None and y is not None and x.tobytes() == y.tobytes()) for x, y in columns)
    return heads and alike and (a.kind is not Kind.GAP or a.missing == b.count) and (a.beats is None) == (b.beats is None)


def test_a_decoder_from_the_page_agrees_on_every_message() -> None:
    rng = np.random.default_rng(17)
    seen = dict.fromkeys(("taken", "unknown", "refused"), 0)
    for _ in range(times(20_000, 1_000_000)):
        parts = message(rng)
        a, b = ours(parts), theirs(parts)
        if isinstance(a, str) or isinstance(b, str):
            assert a == b, parts
            seen[a] += 1
        else:
            assert same(a, b), parts
            seen["taken"] += 1
    assert min(seen["taken"], seen["refused"]) > 0.2 * sum(seen.values())
    assert seen["unknown"] > 0.001 * sum(seen.values())


def test_bytes_of_any_kind_are_refused_by_both() -> None:
    rng = np.random.default_rng(18)
    for _ in range(times(2000, 200_000)):
        parts = [rng.bytes(int(rng.integers(0, 80))) for _ in range(int(rng.integers(0, 4)))]
        assert ours(parts) == theirs(parts) == "refused"


def test_what_the_page_s_encoder_writes_is_what_ours_writes() -> None:
    rng = np.random.default_rng(19)
    for _ in range(times(2000, 50_000)):
        parts = message(rng)
        found = theirs(parts)
        if isinstance(found, str) or found.kind == codec.BEATS:
            continue
        chunk = decode(codec.encode(found))
        # Ours writes f4 for a message without samples, whatever the sender's word for their type was.
        assert list(encode(chunk, dtype=chunk.samples.dtype.str[1:])) == codec.encode(found) or not len(chunk.samples)


def golden() -> list[bytes]:
    """The bodies that the page shows byte by byte."""
    shown = re.findall(r"```\n(50 50 47.*?)```", PAGE.read_text(), re.DOTALL)
    return [bytes.fromhex("".join(re.split(r" {3,}|\t", line)[0] for line in block.splitlines())) for block in shown]


@pytest.mark.parametrize("number", range(3))
def test_the_page_s_messages_are_read_by_both(number: int) -> None:
    body = golden()[number]
    a, b = ours([b"wrist", body]), theirs([b"wrist", body])
    assert not isinstance(a, str)
    assert not isinstance(b, str)
    assert same(a, b)
    assert encode(a)[1] == body
    assert (a.session, a.index) == ((1, 500) if a.kind is Kind.BEATS else (1, 50))
