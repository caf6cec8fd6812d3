"""A codec of the wire, version 1, written from docs/wire.md alone: it shares no line with `ppgstream.wire`."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

import numpy as np

DATA, STATUS, END, GAP, BEATS, RAW = 1, 2, 3, 4, 5, 6
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i2"), 4: np.dtype("<i4")}
MAX_COUNT = {DATA: 2_048, STATUS: 0, END: 0, GAP: 2**32 - 1, BEATS: 4_096, RAW: 2_048}
MAX_INDEX = 2**63 - 1
MAX_BODY = 81_984
STREAM_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
# magic, version, kind, dtype, annotated, unclean, session, index, count, fs, time, checkpoint, epoch
HEADER = struct.Struct("<3sBBBBBQQIIq8sI")  # 52 bytes; the CRC-32 follows
CRC = struct.Struct("<I")
BODY_START = HEADER.size + CRC.size  # 56


class Refused(Exception):  # noqa: N818
    """The message is not a valid message of version 1."""


class UnknownKind(Refused):
    """The message is whole, but of a kind that this reader does not know: skip it."""


@dataclass(eq=False)
class Beats:
    """What a BEATS message carries in place of samples. Each array has one entry per beat."""

    heart_rate: float  # beats a minute; NaN if there is none
    heart_rate_confidence: float
    index: np.ndarray  # the sample nearest to each beat's peak
    interval_ms: np.ndarray  # ms to the beat before; NaN if not known
    error_ms: np.ndarray  # one standard deviation of the interval
    probability: np.ndarray  # that it is a beat


@dataclass(eq=False)
class Message:
    """One message, as plain values."""

    stream: str
    kind: int
    session: int
    index: int
    count: int = 0  # DATA and RAW: samples; GAP: samples that never came; BEATS: beats
    fs_mhz: int = 125_000
    t_ns: int = 0  # 0: unknown
    checkpoint: bytes = bytes(8)
    unclean: bool = False
    dtype: int = 1
    samples: np.ndarray | None = None  # DATA and RAW only
    confidence: np.ndarray | None = None  # DATA only, if annotated
    flags: np.ndarray | None = None  # DATA only, if annotated
    beats: Beats | None = None  # BEATS only
    epoch: int = 0  # in a fleet, of the member that published it


def _need(condition: bool, reason: str) -> None:
    """Refuse the message, with this reason, unless the condition holds."""
    if not condition:
        raise Refused(reason)


def _beats(body: bytes, count: int) -> Beats:
    """Read what follows the header of a BEATS message; the length was checked before."""
    rate, confidence = np.frombuffer(body, "<f4", 2, BODY_START)
    (rate_bits,) = CRC.unpack_from(body, BODY_START)
    _need(not np.isnan(rate) or rate_bits == 0x7FC00000, "a NaN heart rate that is not 0x7fc00000")
    _need(not np.isnan(confidence), "the confidence of the heart rate is NaN")
    at = BODY_START + 8
    peaks = np.frombuffer(body, "<u8", count, at)
    interval, error, probability = np.frombuffer(body, "<f4", 3 * count, at + 8 * count).reshape(3, count)
    return Beats(float(rate), float(confidence), peaks, interval, error, probability)


def decode(parts: list[bytes]) -> Message:
    """Read one message. Raises Refused, or its subclass UnknownKind, and nothing else."""
    _need(len(parts) == 2, "not two parts")
    name, body = parts
    _need(STREAM_ID.fullmatch(name) is not None, "not a stream id")
    _need(BODY_START <= len(body) <= MAX_BODY, "shorter than a header, or longer than any body")
    (magic, version, kind, dtype, annotated, unclean, session, index, count, fs, t_ns, checkpoint, epoch) = HEADER.unpack_from(
        body
    )
    _need(magic == b"PPG", "other magic")
    _need(version == 1, "other version")
    (crc,) = CRC.unpack_from(body, HEADER.size)
    _need(crc == zlib.crc32(body[BODY_START:], zlib.crc32(body[: HEADER.size])), "wrong CRC")
    _need(kind != 0, "kind 0")
    if kind not in MAX_COUNT:
        raise UnknownKind(f"kind {kind}")

    _need(dtype in DTYPES, "unknown dtype")
    _need(kind != BEATS or dtype == 1, "BEATS with another dtype than 1")
    _need(annotated in (0, 1), "annotated is neither 0 nor 1")
    _need(not annotated or kind == DATA, "annotated, but not DATA")
    _need(unclean == 0 or (unclean == 1 and kind == END), "unclean out of range, or not in an END")
    _need(count <= MAX_COUNT[kind], "count out of range")
    _need(index + (count if kind in (DATA, GAP, RAW) else 0) <= MAX_INDEX, "index out of range")

    sample_size = DTYPES[dtype].itemsize + (6 if annotated else 0)
    payload = {DATA: count * sample_size, RAW: count * sample_size, BEATS: 8 + 20 * count}.get(kind, 0)
    _need(len(body) == BODY_START + payload, "the length does not fit")

    message = Message(name.decode("ascii"), kind, session, index, count, fs, t_ns, checkpoint, bool(unclean), dtype)
    message.epoch = epoch
    if kind == BEATS:
        message.beats = _beats(body, count)
    if kind in (DATA, RAW):
        message.samples = np.frombuffer(body, DTYPES[dtype], count, BODY_START)
    if annotated:
        at = BODY_START + message.samples.nbytes
        message.confidence = np.frombuffer(body, "<f4", count, at)
        message.flags = np.frombuffer(body, "<u2", count, at + 4 * count)
    return message


def _column(values: object, dtype: np.dtype) -> np.ndarray:
    """Values as a flat array of this dtype; refuses what an integer dtype would change."""
    given = np.asarray(values)
    _need(given.ndim == 1, "not a flat list of values")
    with np.errstate(all="ignore"):
        cast = given.astype(dtype)
    _need(dtype.kind == "f" or np.array_equal(cast, given), f"values that {dtype} cannot hold")
    return cast


def encode(message: Message) -> list[bytes]:
    """Write a DATA, STATUS, END, GAP or RAW message. Raises Refused if the page does not allow it.

    The count of a DATA or RAW message is the number of its samples, whatever `count` says.
    """
    m = message
    _need(m.kind in (DATA, STATUS, END, GAP, RAW), "only DATA, STATUS, END, GAP and RAW can be written")
    _need(m.kind in (DATA, RAW) or m.samples is None, "samples, but neither DATA nor RAW")
    _need((m.confidence is None) == (m.flags is None), "confidence and flags go together")
    _need(len(m.checkpoint) == 8, "a checkpoint id is 8 bytes")
    count, payload, annotated = m.count, b"", m.confidence is not None
    try:
        if m.kind in (DATA, RAW):
            samples = _column(m.samples, DTYPES[m.dtype])
            count, payload = len(samples), samples.tobytes()
        if annotated:
            confidence, flags = _column(m.confidence, np.dtype("<f4")), _column(m.flags, np.dtype("<u2"))
            _need(len(confidence) == len(flags) == count, "confidence, flags and samples differ in number")
            payload += confidence.tobytes() + flags.tobytes()
        header = HEADER.pack(
            b"PPG", 1, m.kind, m.dtype, annotated, m.unclean, m.session, m.index, count, m.fs_mhz, m.t_ns, m.checkpoint, 0
        )
        name = m.stream.encode("ascii")
    except (struct.error, ValueError, TypeError, KeyError, OverflowError) as error:
        raise Refused(f"a value that does not fit its field: {error}") from error
    crc = zlib.crc32(payload, zlib.crc32(header))
    parts = [name, header + CRC.pack(crc) + payload]
    decode(parts)  # refuses what no reader would take
    return parts
