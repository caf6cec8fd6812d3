"""The wire format: bytes <-> Chunk. No socket here. The specification for other languages is docs/wire.md.

A message has two parts, the stream id and a body. A body is a fixed header of 56 bytes, little-endian, then samples:

    offset  size  field
         0     3  magic, "PPG"
         3     1  version, 1
         4     1  kind: 1 DATA, 2 STATUS, 3 END, 4 GAP, 5 BEATS, 6 RAW
         5     1  dtype of the samples: 1 f4, 2 f8, 3 i2, 4 i4
         6     1  annotated: 1 if confidence and flags follow the samples (the daemon's output), else 0
         7     1  unclean: 1 in an END sent on behalf of a session that never sent its own, else 0
         8     8  session, unsigned: random, one for each run of a publisher
        16     8  index of the first sample, unsigned (STATUS, END and BEATS: the next index)
        24     4  count, unsigned (GAP: how many samples never came; STATUS and END: 0; BEATS: how many beats)
        28     4  fs in mHz, unsigned; from sensors 0: not stated
        32     8  sensor time of the first sample, signed ns since 1970, 0 if unknown
        40     8  checkpoint id: the first 8 bytes of the weights' sha256, 0 from sensors
        48     4  epoch, unsigned: of the owner of a stream in a fleet (docs/fleet.md); else 0
        52     4  CRC-32 (as in zlib) of bytes 0..51 and everything after the header

    56           samples: count x dtype
                 if annotated: confidence, count x f4 in 0..1; then flags, count x u2 (bits of `Flag`)

BEATS has other contents: the heart rate in beats a minute (f4, NaN if there is none) and its confidence (f4), then of each beat,
a column after the other, its index (u8), interval to the beat before in ms (f4, NaN if there is none), that interval's expected
error in ms (f4), and confidence (f4).
"""

from __future__ import annotations

import enum
import math
import re
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import UnknownKindError, WireError

MAGIC, VERSION = b"PPG", 1
HEADER = struct.Struct("<3sBBBBBQQIIq8sI")  # all but the CRC that follows it
CRC = struct.Struct("<I")
HEADER_SIZE = HEADER.size + CRC.size
MAX_COUNT = 2048  # samples in a message: 16 s at 125 Hz. A longer one would keep other streams waiting
MOST_PARTS = 4  # of a message, in any format that is read; of more, the number is not told
MAX_BEATS = 4096  # in a message, of which there is one every 2 s
MAX_INDEX = 2**63 - 1  # leaves room for index + count in 64 bits
NO_CHECKPOINT = bytes(8)
KNOWN_IDS = 16_384  # stream ids that were checked, and are not checked again
STREAM_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
STREAM_IDS = "1 to 64 of A-Z a-z 0-9 . _ : -"


class Kind(enum.IntEnum):
    DATA = 1
    STATUS = 2
    END = 3
    GAP = 4
    BEATS = 5
    RAW = 6


class Flag(enum.IntFlag):
    """Why a sample of the output is not to be taken at face value. Each is one bit of the u2 on the wire."""

    FLAT = 1  # of a held run, one value again and again, that is long or lies within the pulse: a sensor that froze
    SATURATED = 2  # of a held run at the window's highest or lowest value: clipped at the sensor's rail
    NONFINITE = 4  # the sensor sent NaN or infinity; the value published is the last finite one
    GAP = 8  # the first sample after samples that never came
    PASSTHROUGH = 16  # published as it came: too short a stretch for a window
    SHED = 32  # published as it came: the machine was too busy to denoise it
    LOW_CONFIDENCE = 64  # confidence below the threshold
    LEAD_OFF = 128  # flat for more than 1 s: nothing is attached
    OUTLIER = 256  # the sensor sent a value that no pulse has, or a sentinel; the value published is the model's
    STEP = 512  # the first sample after a jump of level or gain that no pulse makes
    INTERFERENCE = 1024  # a steady line is in the signal that no pulse makes: a lamp's flicker, for one
    REPLACED = 2048  # confidence below the threshold, and the policy asks for NaN or the sensor's own value in the answer's place
    # samples come at another rate than the declared one, by more than 2 %: there is no heart rate, and its confidence is 0
    WRONG_RATE = 4096
    HUM = 8192  # a line above 15 Hz is in the signal, as strong as the strongest wave from 0.7 to 15 Hz: mains, for one
    BREATHING = 16384  # over 4 s the slow part of the signal, below 0.5 Hz, is as strong as the rest: breathing or drift


DTYPES: dict[int, np.dtype[np.generic]] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 3: np.dtype("<i2"), 4: np.dtype("<i4")}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}
_CONFIDENCE, _FLAGS = np.dtype("<f4"), np.dtype("<u2")
_RATE, _NAN = struct.Struct("<ff"), struct.pack("<I", 0x7FC00000)
_INDEX, _F4 = np.dtype("<u8"), np.dtype("<f4")
BEAT_SIZE = _INDEX.itemsize + 3 * _F4.itemsize
MAX_BODY = HEADER_SIZE + max(MAX_COUNT * (8 + 4 + 2), _RATE.size + MAX_BEATS * BEAT_SIZE)


class Beats(NamedTuple):
    """A heart rate and the beats that were decided since the last message. `bpm`: NaN if there is none; `bpm_confidence`: P(it is
    within 5 bpm). Of each beat, (n,): `at`, the index of the sample nearest to its peak (u8); `interval_ms` to the beat before,
    NaN if there is none, and its expected error, `error_ms` (one SD); `confidence`, P(it is a beat)."""

    bpm: float
    bpm_confidence: float
    at: NDArray[np.uint64]
    interval_ms: NDArray[np.float32]
    error_ms: NDArray[np.float32]
    confidence: NDArray[np.float32]


class Chunk(msgspec.Struct, eq=False, gc=False):
    """Consecutive samples of one stream as they travel. Not to be changed once made.

    `index` is the number of the first sample since the session began, `fs` in Hz (0: the sensor does not say), `t_ns` the
    sensor's time of the first sample in ns since 1970 (0: unknown). `samples` is 1-D, in the sensor's units. `adopted`: session
    and index were given here, on arrival. The daemon's output adds `confidence` (0..1) and `flags` a sample. STATUS and END have
    no samples, and their `index` is the next one. A GAP has none either: `missing` samples from `index` on never came. BEATS has
    `beats` instead, which rest on the samples before `index`. RAW is the sensor's DATA as the daemon heard it, published again.
    `epoch`: in a fleet, of the member that published this: a later owner of the stream has a higher one.
    """

    stream: str
    session: int
    index: int
    samples: NDArray[np.generic]
    kind: Kind = Kind.DATA
    fs: float = 125.0
    t_ns: int = 0
    confidence: NDArray[np.float32] | None = None
    flags: NDArray[np.uint16] | None = None
    checkpoint: bytes = NO_CHECKPOINT
    missing: int = 0
    unclean: bool = False
    beats: Beats | None = None
    adopted: bool = False
    units: str = ""
    epoch: int = 0

    @property
    def stop(self) -> int:
        """The index after the last sample (of a GAP: after the last missing one)."""
        return self.index + len(self.samples) + self.missing


EMPTY: NDArray[np.generic] = np.empty(0, np.float32)
_WITH_SAMPLES = (Kind.DATA, Kind.RAW)


def encode(chunk: Chunk, *, dtype: str | None = None) -> tuple[bytes, bytes]:
    """The two message parts of a chunk: stream id and body, its samples as `dtype` (f4, f8) if given.

    Raises WireError for what the format cannot say.
    """
    stream = _id_bytes(chunk.stream)
    samples = chunk.samples if dtype is None else chunk.samples.astype(dtype)
    code = DTYPE_CODES.get(samples.dtype) or DTYPE_CODES.get(samples.dtype.newbyteorder("<"), 0)
    if not code:
        raise WireError(f"samples of dtype {samples.dtype}: must be f4, f8, i2 or i4")
    if (fault := _unsayable(chunk)) is not None:
        raise WireError(fault)
    payload = samples.astype(DTYPES[code], copy=False).tobytes()
    if chunk.beats is not None:
        code, payload = 1, _beats_bytes(chunk.beats)
    annotated = chunk.confidence is not None and chunk.flags is not None
    if chunk.confidence is not None and chunk.flags is not None:
        payload += chunk.confidence.astype(_CONFIDENCE, copy=False).tobytes() + chunk.flags.astype(_FLAGS, copy=False).tobytes()
    count = chunk.missing if chunk.kind is Kind.GAP else len(samples) if chunk.beats is None else len(chunk.beats.at)
    try:
        head = HEADER.pack(
            MAGIC,
            VERSION,
            chunk.kind,
            code,
            annotated,
            chunk.unclean,
            chunk.session,
            chunk.index,
            count,
            round(chunk.fs * 1000),
            chunk.t_ns,
            chunk.checkpoint,
            chunk.epoch,
        )
    except struct.error as error:
        raise WireError(f"a header field is out of its range: {error}") from error
    return stream, head + CRC.pack(zlib.crc32(payload, zlib.crc32(head))) + payload


def _unsayable(chunk: Chunk) -> str | None:
    """Why the format cannot say this chunk, if it cannot."""
    n, confidence, flags = chunk.samples.size, chunk.confidence, chunk.flags
    if chunk.samples.ndim != 1 or n > MAX_COUNT:
        return f"samples of shape {chunk.samples.shape} in a message: one dimension, at most {MAX_COUNT}"
    if (confidence is None) != (flags is None) or (
        confidence is not None and flags is not None and not confidence.shape == flags.shape == (n,)
    ):
        return f"confidence and flags come together, one of each for each of {n} samples"
    if (
        flags is not None
        and n
        and flags.dtype != _FLAGS
        and (flags.dtype.kind not in "iu" or not 0 <= flags.min() <= flags.max() < 2**16)
    ):
        return "flags must be whole numbers of 16 bits"
    if (n and chunk.kind not in _WITH_SAMPLES) or (confidence is not None and chunk.kind is not Kind.DATA):
        return f"{chunk.kind.name} with samples"
    if (chunk.beats is not None) != (chunk.kind is Kind.BEATS):
        return f"{chunk.kind.name} with{'out' if chunk.beats is None else ''} beats"
    if chunk.beats is not None and not all(len(column) == len(chunk.beats.at) <= MAX_BEATS for column in chunk.beats[3:]):
        return f"{len(chunk.beats.at)} beats: at most {MAX_BEATS}, with an interval, an error and a confidence each"
    if (chunk.missing and chunk.kind is not Kind.GAP) or (chunk.unclean and chunk.kind is not Kind.END):
        return f"{chunk.kind.name} with missing {chunk.missing}, unclean {chunk.unclean}"
    if not 0 <= chunk.index <= MAX_INDEX - n - chunk.missing:
        return f"index {chunk.index} and what follows: must be from 0 to {MAX_INDEX}"
    if chunk.fs and not 0.001 <= chunk.fs <= (2**32 - 1) / 1000:  # NaN too
        return f"fs {chunk.fs} Hz: must be from 0.001 to 4294967.295, or 0"
    if len(chunk.checkpoint) != len(NO_CHECKPOINT):
        return f"checkpoint id of {len(chunk.checkpoint)} bytes: must be {len(NO_CHECKPOINT)}"
    return None


def _beats_bytes(beats: Beats) -> bytes:
    columns = (beats.interval_ms, beats.error_ms, beats.confidence)
    floats = b"".join(np.asarray(column).astype(_F4, copy=False).tobytes() for column in columns)
    rate = _RATE.pack(math.nan if math.isnan(beats.bpm) else beats.bpm, beats.bpm_confidence)
    return rate + beats.at.astype(_INDEX, copy=False).tobytes() + floats


def _beats_of(body: bytes, count: int) -> Beats:
    bpm, bpm_confidence = _RATE.unpack_from(body, HEADER_SIZE)
    if (math.isnan(bpm) and body[HEADER_SIZE : HEADER_SIZE + 4] != _NAN) or math.isnan(bpm_confidence):
        raise WireError("a heart rate or its confidence is an unusual NaN")
    at = HEADER_SIZE + _RATE.size
    indexes = np.frombuffer(body, _INDEX, count, at)
    at += count * _INDEX.itemsize
    return Beats(
        bpm, bpm_confidence, indexes, *(np.frombuffer(body, _F4, count, at + k * count * _F4.itemsize) for k in range(3))
    )


def decode(parts: Sequence[bytes]) -> Chunk:
    """A chunk from the parts of a message. Raises WireError, and nothing else, for anything that `encode` cannot have made; of a
    whole message of a kind that this version does not know, UnknownKindError, which a reader skips."""
    stream = stream_id(parts, expected=2)
    body = parts[1]
    if len(body) < HEADER_SIZE:
        raise WireError(f"body of {len(body)} bytes: the header alone has {HEADER_SIZE}")
    if len(body) > MAX_BODY:
        raise WireError(f"body of {len(body)} bytes: at most {MAX_BODY}")
    magic, version, kind, code, annotated, unclean, session, index, count, fs_mhz, t_ns, checkpoint, epoch = HEADER.unpack_from(
        body
    )
    if magic != MAGIC:
        raise WireError(f"magic {bytes(magic)!r}: not a ppgstream body")
    if version != VERSION:
        raise WireError(f"version {version}: this reader knows version {VERSION}")
    (crc,) = CRC.unpack_from(body, HEADER.size)
    if crc != zlib.crc32(body[HEADER_SIZE:], zlib.crc32(body[: HEADER.size])):
        raise WireError("CRC does not match: the message was damaged")
    if kind not in _KINDS and kind:
        raise UnknownKindError(f"kind {kind}: this reader knows {_KINDS_KNOWN}")
    if kind not in _KINDS or code not in DTYPES or annotated > 1 or unclean > 1:
        raise WireError(f"header field out of range: kind {kind}, dtype {code}, annotated {annotated}, unclean {unclean}")
    if index + (0 if kind == Kind.BEATS else count) > MAX_INDEX:
        raise WireError(f"header field out of range: index {index}, count {count}")
    data, beats = kind == Kind.DATA, kind == Kind.BEATS
    if unclean and kind != Kind.END:
        raise WireError("only an END can be unclean")
    if (kind in (Kind.STATUS, Kind.END) and count) or (annotated and not data) or (beats and code != 1):
        raise WireError(f"{Kind(kind).name} with {count} samples, annotated {annotated}, dtype {code}")
    dtype = DTYPES[code]
    samples = count if data or kind == Kind.RAW else 0
    expected = _RATE.size + count * BEAT_SIZE if beats else samples * (dtype.itemsize + (6 if annotated else 0))
    if samples > MAX_COUNT or (beats and count > MAX_BEATS) or len(body) - HEADER_SIZE != expected:
        raise WireError(
            f"{count if beats else samples} {'beats' if beats else 'samples'} need {expected} bytes, got "
            f"{len(body) - HEADER_SIZE}"
        )
    end = HEADER_SIZE + samples * dtype.itemsize
    return Chunk(
        stream=stream,
        session=session,
        index=index,
        samples=np.frombuffer(body, dtype, samples, HEADER_SIZE),
        kind=_KINDS[kind],
        fs=fs_mhz / 1000,
        t_ns=t_ns,
        confidence=np.frombuffer(body, _CONFIDENCE, samples, end) if annotated else None,
        flags=np.frombuffer(body, _FLAGS, samples, end + 4 * samples) if annotated else None,
        checkpoint=bytes(checkpoint),
        missing=count if kind == Kind.GAP else 0,
        unclean=bool(unclean),
        beats=_beats_of(body, count) if beats else None,
        epoch=epoch,
    )


_KINDS = {int(kind): kind for kind in Kind}
_KINDS_KNOWN = ", ".join(f"{number} {kind.name}" for number, kind in _KINDS.items())


def count_of(parts: Sequence[bytes]) -> str:
    """How many parts a message has, as far as it was read."""
    return f"more than {MOST_PARTS}" if len(parts) > MOST_PARTS else str(len(parts))


def stream_like(text: str) -> str:
    """A stream id like a name of any characters."""
    return re.sub(r"[^A-Za-z0-9._:-]", "-", text)[:64] or "sensor"


def stream_id(parts: Sequence[bytes], *, expected: int) -> str:
    """The stream id in the first of `expected` message parts. Raises WireError."""
    if len(parts) != expected:
        raise WireError(f"a message of {count_of(parts)} parts: must be {expected}")
    return _id_text(parts[0])


@lru_cache(maxsize=KNOWN_IDS)
def _id_text(part: bytes) -> str:
    if not STREAM_ID.fullmatch(part):
        raise WireError(f"stream id {bytes(part[:72])!r}: must be {STREAM_IDS}")
    return bytes(part).decode("ascii")


@lru_cache(maxsize=KNOWN_IDS)
def _id_bytes(stream: str) -> bytes:
    part = stream.encode("ascii", "replace")
    if not STREAM_ID.fullmatch(part):
        raise WireError(f"stream id {stream!r}: must be {STREAM_IDS}")
    return part
