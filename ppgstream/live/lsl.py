"""Lab Streaming Layer: its streams into a daemon, and what the daemon publishes as streams of its own. Needs pylsl.

Each direction has a thread. What comes in goes to the daemon's input as any sensor's samples, what goes out is taken from its
output as any consumer would; so a daemon that is slow or full behaves as ever. Stamps are LSL's clock: on the way in they are
corrected to this machine's (`time_correction`), and told as seconds since 1970; on the way out back again by the same offset.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppgstream.errors import PpgStreamError, UsageError, WireError
from ppgstream.live.bridge import BackgroundTask, StampedSession
from ppgstream.live.publisher import Publisher
from ppgstream.live.publisher import publisher as publisher_of
from ppgstream.live.receiver import receiver as receiver_of
from ppgstream.wire.message import MAX_COUNT, Chunk, Flag, Kind, stream_like

# Streams are looked for and found on this machine alone, since LSL has no keys; and its own lines are none of this program's log.
CONFIGURATION = "[multicast]\nResolveScope = machine\n[log]\nlevel = -3\n"
CONFIGURATIONS = (Path("lsl_api.cfg"), Path("~/lsl_api/lsl_api.cfg").expanduser(), Path("/etc/lsl_api/lsl_api.cfg"))
LOOK_S = 2.0  # between two looks for streams that are new
LEFT_S = 5 * LOOK_S  # before a stream that was lost, or did not answer, is tried again
PULL_S = 0.02  # between two looks for samples
BUFFER_S = 60  # of a stream that is not read, in LSL
MOST_STREAMS = 100  # that are published to LSL
GAP_S = 0.5  # see StampedSession
OURS = "ppgstream."  # what the source ids of streams that we publish begin with: they are not read
OUT_SAMPLES = ("denoised", "confidence", "flags")
OUT_BEATS = ("interval_ms", "confidence", "bpm", "bpm_confidence")


class Clock:
    """Between LSL's clock and nanoseconds since 1970: one offset for as long as the program runs."""

    def __init__(self) -> None:
        import pylsl

        if not any(path.exists() for path in CONFIGURATIONS) and "LSLAPICFG" not in os.environ:
            pylsl.set_config_content(CONFIGURATION)
        self._offset = time.time() - float(pylsl.local_clock())

    def to_ns(self, stamp: float) -> int:
        return round((stamp + self._offset) * 1e9)

    def of_ns(self, t_ns: int) -> float:
        return t_ns / 1e9 - self._offset


@dataclass
class Inlet:
    """A stream that is read, as a session of ours."""

    inlet: Any
    channel: int
    session: StampedSession


class Inlets(BackgroundTask):
    """Streams that match `predicate` (LSL's own words: "type='PPG'") into a daemon's input. channel: which one, by its label or
    its number from 0 on; None: the first that is called infrared, else the first. `units`: takes the unit of each stream. Raises
    UsageError for a predicate that is none."""

    def __init__(
        self,
        predicate: str,
        endpoint: str,
        *,
        clock: Clock,
        log: logging.Logger,
        channel: str | None = None,
        units: dict[str, str] | None = None,
    ) -> None:
        super().__init__("LSL in", log)
        self._predicate, self._endpoint, self._channel, self._clock = predicate, endpoint, channel, clock
        self._inlets: dict[str, Inlet] = {}  # by LSL's id of each
        self._left_until: dict[str, float] = {}  # streams that are not read, by LSL's id, and until when
        self._units = {} if units is None else units
        import pylsl

        try:
            self._resolver = pylsl.ContinuousResolver(pred=predicate, forget_after=3 * LOOK_S)
        except RuntimeError:
            raise UsageError(f"--lsl-in {predicate!r}: no predicate of LSL: type='PPG' is one, name='Muse-PPG' another") from None

    def work(self) -> None:
        while not self.over.is_set():
            publisher = publisher_of(self._endpoint, key=self.curve, stopped=self.over.is_set)
            try:
                self._read(publisher)
            except PpgStreamError as error:
                self.tell(f"LSL: {error}; tried again")
                self.over.wait(LOOK_S)
            finally:
                for one in self._inlets.values():
                    publisher.send_last(one.session.end())
                    one.inlet.close_stream()
                self._inlets.clear()
                publisher.close(0.5)

    def _read(self, publisher: Publisher) -> None:

        looked_at = -math.inf
        while not self.over.is_set():
            if time.monotonic() - looked_at > LOOK_S or not self._inlets:
                looked_at = time.monotonic()
                for info in self._resolver.results():
                    self._open(info)
            some = [self._pull(uid, inlet, publisher) for uid, inlet in list(self._inlets.items())]
            if not any(some):
                self.over.wait(PULL_S)

    def _open(self, info: Any) -> None:
        import pylsl

        uid, now = info.uid(), time.monotonic()
        if uid in self._inlets or self._left_until.get(uid, 0.0) > now or info.source_id().startswith(OURS):
            return
        # Without LSL's own recovery: a sensor that begins anew is another session, under an id of its own.
        inlet = pylsl.StreamInlet(info, max_buflen=BUFFER_S, recover=False, processing_flags=pylsl.proc_clocksync)
        try:
            whole = inlet.info(timeout=2.0)
            channel, units = channel_of(whole, self._channel)
        except (pylsl.TimeoutError, pylsl.LostError, ValueError) as error:
            self._left_until[uid] = math.inf if isinstance(error, ValueError) else now + LEFT_S
            self.tell(f"LSL: {info.name()}: not read: {error or type(error).__name__}")
            return
        taken = {one.session.stream for one in self._inlets.values()}
        stream = next(
            n
            for n in (stream_like(info.name()), stream_like(f"{info.name()[:40]}.{info.source_id()[:20]}"), uid)
            if n not in taken
        )
        fs = info.nominal_srate()
        self._inlets[uid] = Inlet(inlet, channel, StampedSession(stream, fs if 10 <= fs <= 1000 else 0.0, GAP_S))
        self._units[stream] = units
        self.tell(
            f"LSL: {info.name()!r} of {info.hostname()}: channel {channel} of {info.channel_count()}, {fs:g} Hz, is read", stream
        )

    def _pull(self, uid: str, one: Inlet, publisher: Publisher) -> bool:
        """Pass on what has come. True if something had."""
        import pylsl

        try:
            rows, stamps = one.inlet.pull_chunk(timeout=0.0, max_samples=MAX_COUNT)
        except pylsl.LostError:
            self._leave(uid, one, publisher, "gone")
            return False
        if stamps:
            x = np.array([row[one.channel] for row in rows], np.float64)
            try:
                for chunk in one.session.chunks(x, np.array(stamps), self._clock.to_ns, time.monotonic()):
                    publisher.send(chunk)
            except WireError as error:
                self._leave(uid, one, publisher, str(error))
        return bool(stamps)

    def _leave(self, uid: str, one: Inlet, publisher: Publisher, why: str) -> None:
        """Read a stream no longer, for a while: LSL lists one that is gone for some seconds."""
        del self._inlets[uid]
        self._left_until[uid] = time.monotonic() + LEFT_S
        one.inlet.close_stream()
        publisher.send(one.session.end())
        self.tell(f"LSL: {why}; looked for again", one.session.stream)


def channel_of(info: Any, wanted: str | None) -> tuple[int, str]:
    """Number and unit of a stream's channel. Raises ValueError."""
    if info.channel_format() == 3:  # text
        raise ValueError("its samples are text")
    labels, units = [], []
    channel = info.desc().child("channels").child("channel")
    for _ in range(info.channel_count()):
        labels.append(channel.child_value("label"))
        units.append(channel.child_value("unit"))
        channel = channel.next_sibling()
    if wanted is None:
        found = next((k for k, label in enumerate(labels) if re.search(r"\bir\b|infra", label, re.IGNORECASE)), 0)
    elif wanted in labels:
        found = labels.index(wanted)
    elif wanted.isdecimal() and int(wanted) < info.channel_count():
        found = int(wanted)
    else:
        raise ValueError(f"no channel {wanted!r}: it has {', '.join(filter(None, labels)) or info.channel_count()}")
    return found, units[found]


class Outlets(BackgroundTask):
    """What a daemon publishes, as two LSL streams for each of its own: `NAME clean` (denoised, confidence, flags of each sample,
    with the input's stamps), and `NAME beats` (a row for each beat, and one for each rate). Of the first `MOST_STREAMS`, since
    each LSL stream has threads and ports of its own."""

    def __init__(self, endpoint: str, *, clock: Clock, log: logging.Logger, delay_s: float, units: dict[str, str]) -> None:
        super().__init__("LSL out", log)
        self._endpoint, self._clock, self._delay_s, self._units = endpoint, clock, delay_s, units
        self._outlets: dict[str, dict[float, Any]] = {}  # by stream and rate, Hz; 0: of beats

    def work(self) -> None:
        receiver = receiver_of(self._endpoint, key=self.curve)
        try:
            while not self.over.is_set():
                for chunk in receiver.poll(0.05):
                    if chunk.stream in self._outlets or len(self._outlets) < MOST_STREAMS:
                        self._push(chunk)
                    else:
                        self.tell(f"LSL: more than {MOST_STREAMS} streams: {chunk.stream} and others are not published there")
        finally:
            receiver.close()

    def _push(self, chunk: Chunk) -> None:
        import pylsl

        first = self._clock.of_ns(chunk.t_ns) if chunk.t_ns else pylsl.local_clock() - self._delay_s
        if chunk.kind is Kind.DATA and chunk.confidence is not None and chunk.flags is not None and len(chunk.samples):
            rows = np.stack([chunk.samples, chunk.confidence, chunk.flags], axis=1).astype(np.float32)
            stamps = first + np.arange(len(rows)) / chunk.fs
            self._outlet(chunk, chunk.fs).push_chunk(rows.tolist(), stamps.tolist())
        elif chunk.beats is not None:
            beats, outlet = chunk.beats, self._outlet(chunk, 0.0)
            rates = [math.nan, math.nan]
            for at, interval, _, confidence in zip(*beats[2:], strict=True):
                outlet.push_sample([float(interval), float(confidence), *rates], first + (int(at) - chunk.index) / chunk.fs)
            outlet.push_sample([math.nan, math.nan, float(beats.bpm), float(beats.bpm_confidence)], first - 1 / chunk.fs)

    def _outlet(self, chunk: Chunk, fs: float) -> Any:
        """That of a stream's samples (at `fs` Hz) or beats (0)."""
        import pylsl

        own = self._outlets.setdefault(chunk.stream, {})
        outlet = own.get(fs)
        if outlet is None:
            for other in [rate for rate in own if rate and fs]:  # the sensor's rate has changed
                del own[other]
            what, labels = ("clean", OUT_SAMPLES) if fs else ("beats", OUT_BEATS)
            info = pylsl.StreamInfo(
                f"{chunk.stream} {what}", "PPG" if fs else "Beats", len(labels), fs or pylsl.IRREGULAR_RATE, "float32",
                f"{OURS}{chunk.stream}.{what}",
            )  # fmt: skip
            units = {"denoised": self._units.get(chunk.stream, ""), "interval_ms": "ms", "bpm": "1/min"}
            channels = info.desc().append_child("channels")
            for label in labels:
                channel = channels.append_child("channel")
                channel.append_child_value("label", label)
                channel.append_child_value("unit", units.get(label, ""))
            about = info.desc().append_child("ppgstream")
            about.append_child_value("checkpoint", chunk.checkpoint.hex())
            about.append_child_value("delay_s", f"{self._delay_s:.3f}")
            about.append_child_value("flags", " ".join(f"{int(flag)}:{str(flag.name).lower()}" for flag in Flag))
            outlet = own[fs] = pylsl.StreamOutlet(info)
        return outlet
