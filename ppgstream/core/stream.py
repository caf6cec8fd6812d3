"""One sensor's stream: chunks in, windows out to the model; answers in, clean chunks out. No socket, no clock, no model.

Three rooms, each with its own state:

    intake     a sensor's samples on its own index: sessions, order, what is lost, what was measured
    track      stretches of them on the model's side: windows out, answers in, overlap, confidence
    timeline   what is published, in index order: gaps, ends, flags, policy, beats and rates

Each accepted sample is counted once when it comes and once when it is published:

    accepted = denoised + passthrough + invalid + shed + in flight
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.core.intake import Intake
from ppgstream.core.ledger import Event, Ledger
from ppgstream.core.parts import Part
from ppgstream.core.plan import Plan, SensorRules
from ppgstream.core.segments import Window
from ppgstream.core.sequence import Counts
from ppgstream.core.timeline import Timeline
from ppgstream.core.track import Track
from ppgstream.wire.message import Chunk

NO_ROWS: Mapping[int, NDArray[np.float64]] = {}


class Stream:
    """See the module. Its methods are called from one thread."""

    __slots__ = ("events", "intake", "ledger", "name", "out", "timeline", "track")

    def __init__(self, name: str, plan: Plan, rules: SensorRules) -> None:
        self.name = name
        self.ledger = Ledger()
        self.events: list[Event] = []
        self.out = 0  # windows that the model has not answered
        self.intake = Intake(name, plan.fs, rules, self.ledger, self.events)
        self.track = Track(name, plan, rules, self.events)
        self.timeline = Timeline(name, plan, rules, self.ledger)

    def feed(self, chunk: Chunk, now: float, read_at: float, listened: float) -> list[Window]:
        """Take a chunk in; give back the windows that are full. The times are those of `Engine.feed`: `now` for how long samples
        are held, `listened` for how long a session is silent, `read_at` for how late samples are published."""
        return self._pass_on(self.intake.feed(chunk, now, read_at, listened))

    def expire(self, now: float) -> list[Window]:
        """Time passed: give up samples that were waited for long enough."""
        return self._pass_on(self.intake.expire(now))

    def settle(self) -> list[Window]:
        """Samples that wait for their rate to be known wait no longer."""
        parts: list[Part] = []
        self.intake.settle(parts)
        return self._pass_on(parts)

    def flush(self) -> list[Window]:
        """Nothing more comes: end the current session, unclean since it did not end itself. Gives back the last windows."""
        return self._pass_on(self.intake.end())

    def change(self, plan: Plan) -> None:
        """Go on by another plan, as `Engine.change` says."""
        self.track.change(plan)
        self.timeline.change(plan)

    def _pass_on(self, parts: list[Part]) -> list[Window]:
        if not parts:
            return []
        windows, items = self.track.take(parts)
        if items:
            self.timeline.put(items)
        self.out += len(windows)
        return windows

    def answer(
        self,
        window: Window,
        y: NDArray[np.float64] | None,
        flags: NDArray[np.uint16] | None,
        confidence: NDArray[np.float64] | None,
    ) -> None:
        """The model's answer to a window of this stream, as `Segment.add` takes it. A stream's windows come back in order."""
        self.out -= 1
        self.track.answer(window, y, flags, confidence)

    def release(self, by_row: Mapping[int, NDArray[np.float64]] = NO_ROWS) -> list[Chunk]:
        """Everything that is final and not yet published, in index order. by_row: what `Segment.release` takes, by the segment's
        number."""
        self.track.moved = False
        return self.timeline.release(self.track, by_row)

    @property
    def moved(self) -> bool:
        """Since the last release something became final, or may have, without an answer of the model."""
        return self.track.moved

    @property
    def session(self) -> int | None:
        return self.intake.sessions.current

    @property
    def expires_at(self) -> float:
        """When it gives up the next of the samples that it waits for; infinity if it waits for none."""
        sequencer = self.intake.sessions.sequencer
        return math.inf if sequencer is None else sequencer.expires_at

    @property
    def is_over(self) -> bool:
        """No session is open, and all is published."""
        return self.session is None and self.timeline.is_empty

    @property
    def in_flight(self) -> int:
        """Samples accepted and not yet published, counted where they are."""
        return self.timeline.in_flight(self.track) + self.track.waiting + self.intake.pending

    @property
    def counts(self) -> Counts:
        return self.intake.sessions.counts

    @property
    def unaccounted(self) -> int:
        """Samples the ledger has lost track of, over both identities. Always 0, or there is a defect."""
        sessions = self.intake.sessions
        return sessions.unaccounted + abs(sessions.accepted - self.ledger.published - self.in_flight)

    def save(self, times: tuple[float, float, float]) -> bytes:
        """All of its state, for `load`. Nothing of it may be with the model. times: `now`, `listened` and `read_at` of
        `Engine.feed`."""
        parts = [saved.pack(self.ledger), self.intake.save(), self.track.save(), self.timeline.save()]
        return msgspec.msgpack.encode([times, *parts])

    def load(self, data: bytes, times: tuple[float, float, float]) -> None:
        """Go on where another stream was, under the same rules. times: as in `save`, by the clocks of here. Raises ValueError as
        `saved.unpack`."""
        try:
            then, ledger, intake, track, timeline = msgspec.msgpack.decode(
                data, type=tuple[tuple[float, float, float], bytes, bytes, bytes, bytes]
            )
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"not the state of a stream: {error}") from error
        saved.unpack(self.ledger, ledger)
        self.intake.load(intake, *(here - there for here, there in zip(times, then, strict=True)))
        self.track.load(track)
        self.timeline.load(timeline)

    def status(self) -> Chunk | None:
        """Called once a second: as `Timeline.status`, of the open session."""
        return self.timeline.status(self.session)
