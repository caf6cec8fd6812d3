"""Many streams, one model call. Takes chunks and gives chunks; the caller owns sockets, clocks and threads.

    engine.feed(chunk, now)   samples in; windows that are full wait in `ready`
    engine.step()             up to a batch of them through the denoiser; gives what is final
    engine.flush()            end every session

The model sees one batch a step, whichever streams its windows are of. Windows of one stream come back in order, since the
queue is first in, first out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oracle.ledger import Event, Ledger
from oracle.measured import HELD, MEASURED, OUTLIER
from oracle.quality import confidence_of, input_flags
from oracle.scaling import denormalise, fit_to_input, normalise, scale_of, standard_scale_of
from oracle.segments import Window
from oracle.sequence import Counts
from oracle.stream import Stream, StreamRules
from ppgstream.core.denoiser import Answers, Batch, Denoiser, Scaling
from ppgstream.wire.message import Chunk

LARGEST_ANSWER = 3e38  # float32's limit: what is published must fit it


@dataclass(frozen=True, slots=True)
class EngineRules:
    """`tile`: windows a step. `answers`: the scale the network answers in; `scaling`: how windows are scaled for it.

    `output`: publish in the input's units, or the network's own answer ("model", as the course's scripts save it)."""

    stream: StreamRules = field(default_factory=StreamRules)
    tile: int = 64
    answers: Answers = "clean"
    scaling: Scaling = "min-max"
    output: Literal["input", "model"] = "input"
    max_streams: int = 10_000


class Answered(NamedTuple):
    """A denoised window, (window,) in the sensor's units; confidence: of each sample, from a network that tells its error."""

    y: NDArray[np.float64]
    confidence: NDArray[np.float64] | None


class Ready(NamedTuple):
    stream: Stream
    window: Window
    at: float  # when its last sample was received


@dataclass(slots=True)
class Engine:
    denoiser: Denoiser
    rules: EngineRules = field(default_factory=EngineRules)
    streams: dict[str, Stream] = field(default_factory=dict)
    ready: deque[Ready] = field(default_factory=deque)
    turns: list[str] = field(default_factory=list)  # streams with windows in `ready`
    events: list[Event] = field(default_factory=list)
    windows: int = 0  # denoised so far
    refused: int = 0  # samples of streams beyond max_streams
    departed: Counts = field(default_factory=Counts)
    departed_ledger: Ledger = field(default_factory=Ledger)
    departed_unclean: int = 0
    _waiting: set[str] = field(default_factory=set)  # streams that hold samples back for earlier ones
    _ended: list[str] = field(default_factory=list)  # streams in the order in which they ended

    def feed(self, chunk: Chunk, now: float) -> list[Chunk]:
        """Take a chunk in, received at `now` (monotonic seconds); give what is final without the model: gaps, ends."""
        stream = self.streams.get(chunk.stream)
        if stream is None:
            if len(self.streams) >= self.rules.max_streams and not self._make_room():
                self.refused += len(chunk.samples)
                self.events.append(
                    Event(
                        "too_many_streams", f"{chunk.stream}: one more than max_streams = {self.rules.max_streams}", chunk.stream
                    )
                )
                return []
            stream = self.streams[chunk.stream] = Stream(chunk.stream, self.rules.stream)
        return self._queue(stream, stream.feed(chunk, now), now)

    def expire(self, now: float) -> list[Chunk]:
        """Time passed: streams give up samples they waited for long enough."""
        chunks = []
        for name in sorted(self._waiting, key=self._expires_at):
            stream = self.streams[name]
            chunks += self._queue(stream, stream.expire(now), now)
        return chunks

    def end_idle(self, now: float, idle_s: float) -> list[Chunk]:
        """End the sessions that have been silent for `idle_s` seconds."""
        chunks = []
        for stream in self.streams.values():
            if stream.session is not None and now - stream.seen_at >= idle_s:
                self.events.append(
                    Event(
                        "idle",
                        f"{stream.name}: session {stream.session:016x} silent for {idle_s:g} s without an END: ended",
                        stream.name,
                    )
                )
                chunks += self._queue(stream, stream.flush(), now)
        return chunks

    def flush(self, now: float) -> list[Chunk]:
        """End every session. The windows this makes still wait in `ready`."""
        chunks = []
        for stream in self.streams.values():
            chunks += self._queue(stream, stream.flush(), now)
        return chunks

    def step(self, *, shed: bool = False) -> list[Chunk]:
        """Denoise up to a tile of ready windows, the streams in turns; give what is final now. With `shed` they are published as they came."""
        batch = self._take()
        if not batch:
            return []
        answers = [None] * len(batch) if shed else self._answers(batch)
        geometry = self.rules.stream.geometry
        x = np.stack([r.window.x[geometry.context :] for r in batch])
        state = np.stack([r.window.state[geometry.context :] for r in batch])
        flags = input_flags(x, state)
        chunks = []
        for (stream, window, _), answer, f in zip(batch, answers, flags, strict=True):
            y, confidence = (None, None) if answer is None else answer
            chunks += stream.finish(window, y, f, confidence)
            self._note_end(stream)
        return chunks

    def _answers(self, batch: list[Ready]) -> list[Answered | None]:
        """The denoised windows; None for one the model gave no finite answer to."""
        context = self.rules.stream.geometry.context
        sign = np.array([[r.window.sign] for r in batch])
        x = sign * np.stack([r.window.x for r in batch])
        state = np.stack([r.window.state for r in batch])
        measured = state == MEASURED
        at = np.arange(x.shape[1])
        for row in np.flatnonzero((state == OUTLIER).any(axis=1)):  # for the model's eyes: a straight line across
            known = state[row] <= HELD
            x[row] = np.where(known, x[row], np.interp(at, at[known], x[row, known])) if known.any() else 0.0
        # The course's networks were trained on windows scaled by all their samples, clipped ones included.
        if self.rules.scaling == "standard":
            scale = standard_scale_of(x, measured)
        else:
            scale = scale_of(x, measured if self.rules.answers == "input" else state <= HELD)
        answer, log_var = self.denoiser(Batch(normalise(x, scale), measured))
        self.windows += len(batch)
        x, measured = x[:, context:], measured[:, context:]
        if self.rules.output == "model":
            y = answer.astype(np.float64)
        elif self.rules.answers == "input":
            y = denormalise(answer, scale)
        else:
            y = fit_to_input(answer, x, measured)
        if self.rules.output == "input":
            y = sign * np.where(scale.flat, x, y)  # nothing in, nothing out: no pulse is invented for a flat line
        fine: NDArray[np.bool_] = np.all(np.abs(y) <= LARGEST_ANSWER, axis=1)
        if not fine.all():
            odd = batch[int(np.argmin(fine))]
            self.events.append(
                Event(
                    "bad_answer",
                    f"{odd.stream.name}: the model's answer at index {odd.window.start} is not finite: shed",
                    odd.stream.name,
                )
            )
        if log_var is None:
            return [Answered(row, None) if ok else None for row, ok in zip(y, fine, strict=True)]
        confidence = np.where(scale.flat, 0.0, confidence_of(log_var.astype(np.float64)))
        return [Answered(row, c) if ok else None for row, c, ok in zip(y, confidence, fine, strict=True)]

    def _take(self) -> list[Ready]:
        """A tile: of the stream whose turn it is its oldest window, and if more of it wait, its next turn is the last."""
        taken: list[Ready] = []
        while self.ready and len(taken) < self.rules.tile:
            name = self.turns.pop(0)
            own = [ready for ready in self.ready if ready.stream.name == name]
            taken.append(own[0])
            self.ready = deque(ready for ready in self.ready if ready is not own[0])
            if len(own) > 1:
                self.turns.append(name)
        return taken

    def _queue(self, stream: Stream, windows: list[Window], now: float) -> list[Chunk]:
        for window in windows:
            if not any(ready.stream.name == stream.name for ready in self.ready):
                self.turns.append(stream.name)
            self.ready.append(Ready(stream, window, now))
        if stream.waits:
            self._waiting.add(stream.name)
        else:
            self._waiting.discard(stream.name)
        if stream.events:
            self.events += stream.events
            stream.events.clear()
        chunks = stream.release()
        self._note_end(stream)
        return chunks

    def _expires_at(self, name: str) -> tuple[float, str]:
        """Who has waited for longest comes first."""
        stream = self.streams[name]
        assert stream.session is not None
        sequencer = stream.sessions[stream.session]
        return min(held.since for held in sequencer._held[:1]) + sequencer.hold_s, name

    def _note_end(self, stream: Stream) -> None:
        over = stream.session is None and not stream.in_flight
        if over and stream.name not in self._ended:
            self._ended.append(stream.name)
        elif not over and stream.name in self._ended:
            self._ended.remove(stream.name)

    def forget_ended(self) -> None:
        """Forget every stream that has ended, keeping its sums."""
        while self._make_room():
            pass

    def _make_room(self) -> bool:
        """Forget the stream that ended longest ago, keeping its sums."""
        if not self._ended:
            return False
        oldest = self.streams.pop(self._ended.pop(0))
        self._waiting.discard(oldest.name)
        self.departed = self.departed.plus(oldest.counts)
        self.departed_ledger = self.departed_ledger.plus(oldest.ledger)
        self.departed_unclean += oldest.unclean
        return True

    # ---- the account ---------------------------------------------------------------------------------------------

    @property
    def counts(self) -> Counts:
        total = self.departed
        for stream in self.streams.values():
            total = total.plus(stream.counts)
        return total

    @property
    def ledger(self) -> Ledger:
        total = self.departed_ledger
        for stream in self.streams.values():
            total = total.plus(stream.ledger)
        return total

    @property
    def in_flight(self) -> int:
        return sum(s.in_flight for s in self.streams.values())

    @property
    def unaccounted(self) -> int:
        return sum(s.unaccounted for s in self.streams.values())

    @property
    def unclean(self) -> int:
        """Sessions that ended without saying so."""
        return self.departed_unclean + sum(s.unclean for s in self.streams.values())

    def account(self) -> str:
        """The ledger as a line a person can add up."""
        counts, ledger = self.counts, self.ledger
        flying = f" + in flight {self.in_flight}" if self.in_flight else ""
        return (
            f"seen {counts.seen} = accepted {counts.accepted} + gap {counts.gap} + rejected {counts.rejected} (duplicates {counts.duplicates}); "
            f"accepted = denoised {ledger.denoised} + passthrough {ledger.passthrough} + invalid {ledger.invalid} + shed {ledger.shed}{flying}; "
            f"refused {ledger.refused + self.refused}, unclean sessions {self.unclean}, unaccounted {self.unaccounted}; "
            f"held {ledger.held}, outliers {ledger.outliers}"
        )
