"""Messages of sensors that do not speak our format: JSON (`json_messages`), and raw samples.

Such a message says no session, and often no index, so they are given on arrival: a session lasts until nothing has come for
longer than the stream's own rhythm allows, and samples are numbered as they come. What was lost before it got here can be seen
only where a message says its index.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ppgstream.errors import WireError
from ppgstream.wire.json_messages import SECONDS, Keys, Record, TimeUnit, is_json, likely_unit, looks_like_json, records_of
from ppgstream.wire.message import DTYPES, EMPTY, MAGIC, MAX_BODY, MAX_COUNT, Chunk, Kind, count_of, decode, stream_id

LEAST_GAP_S = 0.41  # more than is bridged, so that no window lies across what is unknown
LEAST_GAP = 51  # samples: the same where the rate is not known
TINY = 1e-6  # most values of a message of f4 or f8 are smaller: they are whole numbers of another type
_KINDS = [dtype.str[1:] for dtype in DTYPES.values()] + ["u2", "u4"]  # f4, f8, i2, i4, ...
RAW_DTYPES = {order.strip("<") + kind: np.dtype(order + kind) for order in ("<", ">") for kind in _KINDS}
PAUSE = 1.5  # of the time that a batch took to measure: after it, so long a pause is no end
RHYTHM = 2.5  # of the usual wait between messages: the same
LONGEST_PAUSE_S = 60.0
SLOW_HZ = 10.0  # the slowest rate that a sensor may have; the time of a batch is guessed by it while none is known
FASTEST_HZ = 1000.0  # that a sensor may have
LEAP_S, LEAP = 60.0, 10_000  # seconds, or samples: an index that leaps by more than time explains begins a session
LOST_S = 0.5  # a time so much later than the samples before say, while as much time passed: samples are missing
UNIT_S = 1.0  # over how much time the unit of a time is found by the arrival of messages


@dataclass(slots=True)
class _Numbering:
    """A stream that is numbered here. `wait_s`: the usual one between messages; `batch_s`: how long the last message's samples
    took to measure. `first`: time and arrival of the first message whose time has no unit; `last`: index and time, s, of the
    last sample that had a time; `due_ns`: the time of the next sample, if none is missing; 0: not known."""

    session: int
    next: int
    seen: float  # by the clock that tells how long a stream is silent
    read_at: float  # by the real one
    fs: float = 0.0
    wait_s: float = 0.0
    batch_s: float = 0.0
    unit: TimeUnit = "auto"
    first: tuple[float, float] | None = None
    last: tuple[int, float] | None = None
    due_ns: int = 0


def no_clock() -> float:
    """The time where it is not known."""
    return math.nan


class Adopter:
    """Gives foreign messages a session and an index. `format` is "json", "raw", "ppgstream", or "auto": JSON or ours, by message.

    JSON: `[id, document]`, or one part whose document names its stream. Raw: `[id, samples]` or one part of samples, of `dtype`
    ("f4", "f8", "i2", "i4", "u2", "u4", little-endian, or with ">" big-endian). Without an id the stream is `default_id`. `fs`:
    of streams that say none, Hz, 0 if it is not known, `rates` of some by their names; used for the length of gaps here. `wall`:
    seconds since 1970.
    """

    def __init__(
        self,
        format: str,
        *,
        fs: float = 0.0,
        rates: Mapping[str, float] | None = None,
        dtype: str = "f4",
        keys: Keys | None = None,
        default_id: str = "sensor",
        silence_s: float = 2.0,
        max_streams: int = 10_000,
        wall: Callable[[], float] = no_clock,
    ) -> None:
        self._format = format
        self._rates, self._wall = rates or {}, wall
        self._fs, self._dtype, self._keys, self._default_id = fs, RAW_DTYPES[dtype], keys or Keys(), default_id
        self._silence_s, self._max_streams = silence_s, max_streams
        self._streams: dict[str, _Numbering] = {}  # the one that was silent for longest first
        self._listened = 0.0  # when the message that is read came, by the clock that tells how long a stream is silent
        self.doubt = ""  # about the last message that was adopted

    def adopt(
        self, parts: Sequence[bytes], now: float, listened: float | None = None, may: Callable[[str], bool] | None = None
    ) -> list[Chunk]:
        """Our chunks for one message that came at `now` (monotonic seconds; `listened`: as in `Engine.feed`). may: whether the
        sender may send a stream; what it may not changes nothing, and gives no chunk. Raises WireError, whose `stream` names the
        stream where it is known, and nothing else."""
        self.doubt = ""
        body = parts[-1] if parts else b""
        ours = body[: len(MAGIC)] == MAGIC
        if self._format == "ppgstream" or (self._format == "auto" and (ours or not self._is_json(parts))):
            try:
                return [chunk for chunk in (decode(parts),) if may is None or may(chunk.stream)]
            except WireError as error:
                raise WireError(f"{error}{self._hint(body)}") from None
        self._listened = now if listened is None else listened
        named = None
        try:
            if not 1 <= len(parts) <= 2:
                raise WireError(f"a message of {count_of(parts)} parts: must be 1 or 2")
            if len(body) > MAX_BODY:
                raise WireError(f"body of {len(body)} bytes: at most {MAX_BODY}")
            named = stream_id(parts, expected=2) if len(parts) == 2 else None
            if ours:
                raise WireError(f"this looks like a message of docs/wire.md: [in] format is {self._format!r}")
            records = (
                records_of(body, self._keys, named=named is not None)
                if self._format != "raw"
                else [Record(None, self._raw(body))]
            )
        except WireError as error:
            error.stream = named or error.stream or (self._default_id if len(parts) == 1 else "")
            if may is None or not error.stream or may(error.stream):
                self._leave_gap(error.stream, now)
            raise
        if may is not None:
            records = [record for record in records if may(named or record.stream or self._default_id)]
        return [chunk for record in self._joined(records) for chunk in self._number(named, record, now)]

    def _is_json(self, parts: Sequence[bytes]) -> bool:
        """Whether a message that is not ours is to be read as JSON: it looks like it, or its stream has sent JSON."""
        if not 1 <= len(parts) <= 2:
            return False
        known = len(parts) == 2 and parts[0].decode("ascii", "replace") in self._streams
        return known or looks_like_json(parts[-1])

    def _hint(self, body: bytes) -> str:
        """Which format a body looks like that is not ours, for the end of an error."""
        if self._format == "ppgstream" and looks_like_json(body):
            return ': this looks like JSON: [in] format = "json" or "auto"'
        if self._format == "auto" and body[: len(MAGIC)] != MAGIC:
            return ': neither JSON nor a message of docs/wire.md: raw samples need [in] format = "raw"'
        return ""

    def _leave_gap(self, stream: str, now: float) -> None:
        """A message of a known stream was refused: how many samples it held is unknown, so the time since the last one is left
        out."""
        numbering = self._streams.get(stream)
        if numbering is not None and self._listened - numbering.seen <= self._silent_s(numbering):
            fs = self._rate(stream, numbering)
            numbering.next += max(round((now - numbering.read_at) * fs), round(LEAST_GAP_S * fs), LEAST_GAP)
            numbering.due_ns = 0
            self._heard(stream, numbering, now)

    def _silent_s(self, numbering: _Numbering) -> float:
        """After how long without a message a session is over: longer for a stream that sends in batches."""
        own = max(PAUSE * numbering.batch_s, RHYTHM * numbering.wait_s)
        return max(self._silence_s, min(own, LONGEST_PAUSE_S))

    def _joined(self, records: list[Record]) -> list[Record]:
        """Records of one stream that follow each other in a message, and say nothing but samples, as one."""
        of_last = self._keys.time_of == "last"
        found: list[Record] = []
        for record in records:
            last = found[-1] if found else None
            more = record.first is None and not record.end and last is not None and not last.end
            same = last is not None and record.stream == last.stream and record.units in ("", last.units)
            if more and same and last is not None and record.fs in (0.0, last.fs):
                found[-1] = last._replace(samples=np.concatenate([last.samples, record.samples]))
                if of_last and record.time is not None:
                    found[-1] = found[-1]._replace(time=record.time, unit=record.unit)
            else:
                found.append(record)
        return found

    def _number(self, named: str | None, record: Record, now: float) -> list[Chunk]:
        stream = named or record.stream or self._default_id
        numbering, chunks = self._streams.get(stream), []
        if numbering is not None and self._listened - numbering.seen > self._silent_s(numbering):
            chunks.append(Chunk(stream, numbering.session, numbering.next, EMPTY, Kind.END, numbering.fs, adopted=True))
            numbering = None
        leaps = numbering is not None and record.first is not None and self._leaps(stream, numbering, record.first, now)
        if leaps and numbering is not None:
            self.doubt = f"{stream}: the index leaps from {numbering.next} to {record.first}: another session begins"
            chunks.append(Chunk(stream, numbering.session, numbering.next, EMPTY, Kind.END, numbering.fs, adopted=True))
            numbering = None
        if numbering is None:
            if stream not in self._streams and len(self._streams) >= self._max_streams:
                longest = next(iter(self._streams))
                if self._listened - self._streams[longest].seen <= self._silent_s(self._streams[longest]):
                    error = WireError(f"stream {stream!r} is one more than max_streams = {self._max_streams}")
                    error.stream = stream
                    raise error
                del self._streams[longest]  # silent: its next message would begin a session anyway
            numbering = _Numbering(secrets.randbits(64), 0, self._listened, now)
        else:
            numbering.wait_s += (self._listened - numbering.seen - numbering.wait_s) / 4
        if record.first is not None:
            numbering.next = record.first
        says = record.fs or numbering.fs
        if SLOW_HZ <= says <= FASTEST_HZ:  # another rate is refused behind this, and says nothing about the length of gaps
            numbering.fs = says
        if record.others:
            self.doubt = f"{stream}: JSON holds {', '.join(record.others)} too, which are not taken: [in] json_samples"
        n = len(record.samples)
        numbering.batch_s = n / (self._rate(stream, numbering) or SLOW_HZ)
        t_ns = self._t_ns(numbering, record, now)
        if record.first is None:
            numbering.next += self._lost(stream, numbering, t_ns, now)
        numbering.due_ns = t_ns + round(numbering.batch_s * 1e9) if t_ns else 0
        base = Chunk(stream, numbering.session, numbering.next, record.samples, fs=says, adopted=True, units=record.units)
        base.t_ns = t_ns
        for a in range(0, max(n, 0 if record.end else 1), MAX_COUNT):
            part = record.samples[a : a + MAX_COUNT]
            chunks.append(replace(base, index=numbering.next + a, samples=part, t_ns=base.t_ns if a == 0 else 0))
        numbering.next += n
        self._heard(stream, numbering, now)
        if record.end:
            chunks.append(Chunk(stream, numbering.session, numbering.next, EMPTY, Kind.END, numbering.fs, adopted=True))
            del self._streams[stream]
        return chunks

    def _t_ns(self, numbering: _Numbering, record: Record, now: float) -> int:
        """The time of a record's first sample, ns; 0: not known."""
        if record.time is None:
            return 0
        unit = record.unit if record.unit != "auto" else self._unit_of(numbering, record.time, now)
        if unit == "auto":
            return 0
        seconds, n = record.time * SECONDS[unit], len(record.samples)
        if self._keys.time_of == "last" and n:
            last, numbering.last = numbering.last, (numbering.next + n - 1, seconds)
            fs = record.fs or numbering.fs or self._fs
            if fs:
                seconds -= (n - 1) / fs
            elif last is not None and numbering.last[0] > last[0]:
                seconds -= (n - 1) * (seconds - last[1]) / (numbering.last[0] - last[0])
            else:
                return 0
        t_ns = round(seconds * 1e9)
        return (t_ns or 1) if abs(t_ns) < 2**62 else 0

    def _rate(self, stream: str, numbering: _Numbering) -> float:
        """The rate that was said of a stream, Hz; 0: none."""
        return numbering.fs or self._rates.get(stream, self._fs)

    def _leaps(self, stream: str, numbering: _Numbering, first: int, now: float) -> bool:
        """Whether an index is so far from the next one that either is damaged, or the sensor counts anew. One that falls by less
        may be late, and is left to those who put samples in order."""
        fs = self._rate(stream, numbering)
        within = LEAP_S * fs if fs else LEAP
        return not -within <= first - numbering.next <= within + 2 * (now - numbering.read_at) * (fs or FASTEST_HZ)

    def _lost(self, stream: str, numbering: _Numbering, t_ns: int, now: float) -> int:
        """How many samples are missing before one that was measured at `t_ns`. A clock that was set jumps too, but no message is
        late then."""
        fs = self._rate(stream, numbering)
        if not fs or not t_ns or not numbering.due_ns:
            return 0
        later_s = (t_ns - numbering.due_ns) / 1e9
        least_s = max(LOST_S, numbering.batch_s / 2)  # of a long batch the time is no better known than its rate
        return round(later_s * fs) if later_s > least_s and now - numbering.read_at > later_s / 2 else 0

    def _unit_of(self, numbering: _Numbering, time: float, now: float) -> TimeUnit:
        """The unit of a time that no key's name says: by how far it goes while messages arrive, which tells that of a clock that
        began when its sensor was switched on too. Until then, if it is a time of today, by its size."""
        if numbering.unit == "auto":
            if numbering.first is None or time < numbering.first[0]:
                numbering.first = (time, now)
            elif now - numbering.first[1] >= UNIT_S:
                a_second = (time - numbering.first[0]) / (now - numbering.first[1])
                near: list[TimeUnit] = [unit for unit, size in SECONDS.items() if 0.1 < a_second * size < 10]
                numbering.unit = near[0] if near else likely_unit(time, self._wall())
        return numbering.unit if numbering.unit != "auto" else likely_unit(time, self._wall())

    def _heard(self, stream: str, numbering: _Numbering, now: float) -> None:
        self._streams.pop(stream, None)
        self._streams[stream] = numbering
        numbering.seen, numbering.read_at = self._listened, now

    def _raw(self, body: bytes) -> NDArray[np.float64]:
        if len(body) % self._dtype.itemsize:
            hint = ": this looks like JSON" if body[:1] in (b"{", b"[") else ""
            raise WireError(f"raw body of {len(body)} bytes: not a whole number of {self._dtype.str} samples{hint}")
        if body[:1] in (b"{", b"[") and is_json(body):
            raise WireError('this looks like JSON: [in] format is "raw"')
        samples = np.frombuffer(body, self._dtype)
        if len(samples) > MAX_COUNT:
            raise WireError(f"{len(samples)} samples in a message: at most {MAX_COUNT}")
        if self._dtype.kind == "f":
            size = np.abs(samples[samples != 0])
            if len(size) >= 4 and ((size < TINY) | ~(size < 1e30)).mean() > 0.5:
                self.doubt = (
                    f"raw samples of about {np.median(size):.3g}: is raw_dtype {self._dtype.str[1:]!r} right? i2, i4 and u2 are "
                    f"whole numbers, and a > in front means big-endian"
                )
        native = samples.dtype.newbyteorder("<") in DTYPES.values() and self._dtype.str[0] != ">"
        return samples if native else samples.astype(np.float64)
