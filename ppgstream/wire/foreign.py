"""Messages of sensors that do not speak our format: JSON, and raw little-endian samples.

Such a message says neither session nor index, so both are given on arrival: a session lasts until `silence_s` seconds pass
without a message, and samples are numbered as they come. What was lost before it got here cannot be seen.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import WireError
from ppgstream.wire.message import DTYPES, EMPTY, MAX_BODY, MAX_COUNT, Chunk, Kind, count_of, stream_id

LEAST_GAP = 51  # samples: more than are bridged, so that no window lies across what is unknown
TINY = 1e-6  # most values of a message of f4 or f8 are smaller: they are whole numbers of another type
RAW_DTYPES = {dtype.str[1:]: dtype for dtype in DTYPES.values()}  # f4, f8, i2, i4


@dataclass(slots=True)
class _Numbering:
    session: int
    next: int
    seen: float  # by the clock that tells how long a stream is silent
    read_at: float  # by the real one


class Adopter:
    """Gives foreign messages a session and an index. `format` is "json" or "raw".

    JSON: `[id, document]` or one part whose document names its stream. The document is a number, a list of numbers, or an object
    that holds either under `samples_key`, and its stream's name under `stream_key`; null and NaN are samples that could not be
    measured. Raw: `[id, samples]` or one part of samples, of `dtype` (f4, f8, i2, i4), little-endian. Without an id the stream is
    `default_id`.
    """

    def __init__(
        self,
        format: str,
        *,
        fs: float = 125.0,
        dtype: str = "f4",
        samples_key: str = "samples",
        stream_key: str = "stream",
        default_id: str = "sensor",
        silence_s: float = 2.0,
        max_streams: int = 10_000,
    ) -> None:
        self._json = format == "json"
        self._fs, self._dtype = fs, RAW_DTYPES[dtype]
        self._samples_key, self._stream_key, self._default_id = samples_key, stream_key, default_id
        self._silence_s, self._max_streams = silence_s, max_streams
        self._streams: dict[str, _Numbering] = {}  # the one that was silent for longest first
        self._named: str | None = None
        self._listened = 0.0  # when the message that is read came, by the clock that tells how long a stream is silent
        self.doubt = ""  # about the last message that was adopted

    def adopt(self, parts: Sequence[bytes], now: float, listened: float | None = None) -> list[Chunk]:
        """Our chunks for one foreign message that came at `now` (monotonic seconds; `listened`: as in `Engine.feed`). Raises
        WireError, and nothing else."""
        self.doubt = ""
        self._listened = now if listened is None else listened
        if not 1 <= len(parts) <= 2:
            raise WireError(f"a message of {count_of(parts)} parts: must be 1 or 2")
        if len(parts[-1]) > MAX_BODY:
            raise WireError(f"body of {len(parts[-1])} bytes: at most {MAX_BODY}")
        named = stream_id(parts, expected=2) if len(parts) == 2 else None
        body, stream = parts[-1], named or self._default_id
        self._named = None  # by the document
        try:
            if self._json:
                stream, samples = self._parse_json(body, named)
            else:
                samples = self._parse_raw(body)
            if len(samples) > MAX_COUNT:
                raise WireError(f"{len(samples)} samples in a message: at most {MAX_COUNT}")
        except WireError:
            self._leave_gap(self._named or stream, now)
            raise
        return self._number(stream, samples, now)

    def _leave_gap(self, stream: str, now: float) -> None:
        """A message of a known stream was refused: how many samples it held is unknown, so the time since the last one is left
        out."""
        numbering = self._streams.get(stream)
        if numbering is not None and self._listened - numbering.seen <= self._silence_s:
            numbering.next += max(round((now - numbering.read_at) * self._fs), LEAST_GAP)
            self._heard(stream, numbering, now)

    def _number(self, stream: str, samples: NDArray[np.generic], now: float) -> list[Chunk]:
        numbering, chunks = self._streams.get(stream), []
        if numbering is not None and self._listened - numbering.seen > self._silence_s:
            chunks.append(Chunk(stream, numbering.session, numbering.next, EMPTY, Kind.END, self._fs))
            numbering = None
        if numbering is None:
            if stream not in self._streams and len(self._streams) >= self._max_streams:
                longest = next(iter(self._streams))
                if self._listened - self._streams[longest].seen <= self._silence_s:
                    raise WireError(f"stream {stream!r} is one more than max_streams = {self._max_streams}")
                del self._streams[longest]  # silent: its next message would begin a session anyway
            numbering = _Numbering(secrets.randbits(64), 0, self._listened, now)
        chunks.append(Chunk(stream, numbering.session, numbering.next, samples, fs=self._fs))
        numbering.next += len(samples)
        self._heard(stream, numbering, now)
        return chunks

    def _heard(self, stream: str, numbering: _Numbering, now: float) -> None:
        self._streams.pop(stream, None)
        self._streams[stream] = numbering
        numbering.seen, numbering.read_at = self._listened, now

    def _parse_raw(self, body: bytes) -> NDArray[np.generic]:
        if len(body) % self._dtype.itemsize:
            raise WireError(f"raw body of {len(body)} bytes: not a whole number of {self._dtype.str[1:]} samples")
        samples = np.frombuffer(body, self._dtype)
        if self._dtype.kind == "f":
            size = np.abs(samples[samples != 0])
            if len(size) >= 4 and ((size < TINY) | ~(size < 1e30)).mean() > 0.5:
                self.doubt = (
                    f"raw samples of about {np.median(size):.3g}: is raw_dtype {self._dtype.str[1:]!r} right? i2 and "
                    f"i4 are whole numbers"
                )
        return samples

    def _parse_json(self, body: bytes, named: str | None) -> tuple[str, NDArray[np.generic]]:
        try:
            document = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            document = _with_nan(body, error)
        stream = named
        if isinstance(document, dict):
            if stream is None and self._stream_key in document:
                name = document[self._stream_key]
                if not isinstance(name, str):
                    raise WireError(f"JSON {self._stream_key!r} must be text, got {name!r:.40}")
                stream = self._named = stream_id([name.encode("ascii", "replace"), b""], expected=2)
            if self._samples_key not in document:
                raise WireError(f"JSON object without {self._samples_key!r}")
            document = document[self._samples_key]
        values = document if isinstance(document, list) else [document]
        if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
            raise WireError("JSON samples must be numbers or null")
        try:
            samples = np.array([np.nan if v is None else float(v) for v in values], np.float64)
        except OverflowError as error:
            raise WireError(f"a JSON sample is too large: {error}") from error
        return stream or self._default_id, samples


def _with_nan(body: bytes, error: Exception) -> object:
    """A document that says NaN or Infinity, as Python writes them and JSON does not know. Raises WireError for what is no JSON
    otherwise."""
    if b"NaN" in body or b"Infinity" in body:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            pass
    raise WireError(f"not JSON: {error}") from error
