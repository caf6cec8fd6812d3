"""A sensor's stretches on their way through the model: samples in, windows out; answers in, final samples out.

Judged samples grow the open `Segment`; up to `max_fill` missing ones in a row are bridged inside it; more of them, a longer held
run, or a step close it. What is to be published beside segments, missing and held runs and the beginnings and ends of sessions,
goes to the `Timeline` in order, as *items*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppgstream.core import saved
from ppgstream.core.beside import NOTHING_BESIDE, Beside
from ppgstream.core.confidence import Seen
from ppgstream.core.ledger import Event
from ppgstream.core.measured import Judged
from ppgstream.core.parts import Anchor, Began, Ended, First, Part, Rated, WrongFrom
from ppgstream.core.plan import Plan, SensorRules
from ppgstream.core.polarity import Watcher
from ppgstream.core.resample import ONE, ratio_of
from ppgstream.core.resampled import ResampledSegment
from ppgstream.core.segments import Released, Segment, Window
from ppgstream.core.session import Opened
from ppgstream.wire.message import Flag

LOOKED_AT = 5  # once the polarity is decided, every so many windows are looked at: a sensor that is worn does not turn over
BESIDE_TOLD_S = 60.0  # from one event of hum, breathing or a lamp to the next of the same
_OF_BESIDE = {  # the flag and the event of each field of `Beside`
    Flag.INTERFERENCE: "a steady line at {hz:.2f} Hz from index {index} on: no pulse makes it (a lamp?)",
    Flag.HUM: "hum at {hz:.2f} Hz from index {index} on, as strong as the strongest wave below 15 Hz or stronger (mains?)",
    Flag.BREATHING: "the signal moves as much below 0.5 Hz as above from index {index} on: breathing or drift",
}


@dataclass(frozen=True, slots=True)
class Denoised:
    """The place of a segment, by its number, among what is published."""

    segment: int


@dataclass(frozen=True, slots=True)
class Held:
    """A part of a long held run, outside every segment: published as `value`, the last measured one. Or of a nearly flat stretch,
    published as it came (`value` is NaN)."""

    index: int
    x: NDArray[np.float64]
    value: float
    lead_off: bool
    stepped: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """A run of samples outside every segment. Lost ones, or (`sent`) NaN and infinity that the sensor did send."""

    index: int
    count: int
    sent: bool


Item = Denoised | Held | Missing | Opened | Ended | Rated | Anchor | WrongFrom | First


saved.known(Segment, Watcher, Beside)


class Track:
    """See the module. `events` is the stream's list."""

    __slots__ = (
        "_beside",
        "_beside_flags",
        "_beside_told",
        "_fs",
        "_judged",
        "_lead_off",
        "_max_fill",
        "_name",
        "_number",
        "_open",
        "_polarity",
        "_ratio",
        "_rules",
        "_run",
        "_stepped",
        "_taken_back",
        "events",
        "moved",
        "plan",
        "segments",
    )
    UNSAVED = frozenset({"_name", "_rules", "events", "plan"})

    def __init__(self, name: str, plan: Plan, rules: SensorRules, events: list[Event]) -> None:
        self._name, self._rules, self.events = name, rules, events
        self.plan = plan  # of the next stretch
        self._fs, self._ratio, self._max_fill = plan.fs, ONE, rules.max_fill  # of the samples that come
        self.segments: dict[int, Segment | ResampledSegment] = {}  # by number, those that are not published to their end
        self.moved = False  # something may have become final without an answer of the model
        self._number = 0  # of the newest segment
        self._open: Segment | ResampledSegment | None = None  # the newest segment, while it grows
        self._run: list[tuple[bool, int]] = []  # missing samples not decided yet: (sent, count)
        self._judged = 0  # index after the last sample that came
        self._polarity = Watcher(rules.polarity)
        self._beside, self._beside_flags = NOTHING_BESIDE, 0  # what was there last, and as flags
        self._beside_told: dict[Flag, int] = {}  # the index at which each was last told as an event
        self._stepped = False  # a step ended the last segment
        self._lead_off = False  # the long held run that goes on was told as an event
        self._taken_back = 0  # 1 while the first sample of a held run has left its segment and waits for the rest of the run

    # ---- in ------------------------------------------------------------------------------------------------------

    def take(self, parts: Iterable[Part]) -> tuple[list[Window], list[Item]]:
        """Parts in order: the windows that are full now, and what else is to be published, in order."""
        windows: list[Window] = []
        items: list[Item] = []
        for part in parts:
            if isinstance(part, Judged):
                segment = self._open
                if (
                    part.kind == "samples"
                    and part.state is None
                    and not part.back
                    and segment is not None
                    and not self._run
                    and (part.beside is self._beside or part.beside == self._beside)
                ):
                    segment.append(part.x, None, self._beside_flags)  # as `_take`, for nearly all samples
                    self._judged += len(part.x)
                    self._lead_off = False
                else:
                    self._take(part, windows, items)
            elif isinstance(part, Anchor):
                items.append(part)
            elif isinstance(part, Began):
                self._judged = part.at
            elif isinstance(part, Rated):
                self._break(windows, items)
                self._fs, self._ratio = part.fs, ratio_of(part.fs, self.plan.fs)
                self._max_fill = self._rules.most_filled(part.fs, self.plan.fs)
                items.append(part)
            else:
                if isinstance(part, Opened):
                    self._begin(part)
                elif isinstance(part, Ended):
                    self._break(windows, items)
                items.append(part)
        self._cut(windows)
        return windows, items

    @property
    def waiting(self) -> int:
        """Samples that were sent and are in no segment and no item yet."""
        return sum(count for sent, count in self._run if sent) + self._taken_back

    def _begin(self, opened: Opened) -> None:
        self._beside_told.clear()
        self.moved = True
        if opened.resumed_at is not None:
            self._judged = opened.resumed_at
        self._polarity = Watcher(self._rules.polarity)
        self._stepped = False

    def _take(self, part: Judged, windows: list[Window], items: list[Item]) -> None:
        if part.kind == "samples":
            self._grow(part, windows, items)
            self._judged += len(part.x)
            self._lead_off = False
        elif part.kind == "missing":
            self._run.append((part.sent, part.number))
            self._judged += part.number
            if self._open is None or sum(n for _, n in self._run) > self._max_fill:
                self._break(windows, items)
        elif part.kind == "end":
            self._cut(windows)
            if self._open is not None and part.back and not self._run and self._open.take_back_last():
                self._judged -= 1
                self._taken_back = 1
            self._break(windows, items)
            self._lead_off = False
        elif part.kind == "held":
            self._hold(part, windows, items)
        else:
            self._break(windows, items)
            self._stepped = True
            text = f"the level jumps by {part.value:+.6g} at index {self._judged} and stays there: a new stretch"
            self._event("step", text)

    def _cut(self, windows: list[Window], *, close: bool = False) -> None:
        """The windows that are full, or all if the segment ends here."""
        if self._open is not None:
            windows += self._open.cut()
            if close:
                windows += self._open.close()

    def _grow(self, part: Judged, windows: list[Window], items: list[Item]) -> None:
        segment = self._open
        if segment is None:
            self._put_run(items)
            first = Flag.STEP if self._stepped else 0
            self._number += 1
            where = self._number, self._judged, self.plan
            if self._ratio.is_one:
                segment = Segment(*where, first, self._polarity)
            else:
                segment = ResampledSegment(*where, self._ratio, first, self._polarity)
            self.segments[self._number] = self._open = segment
            self._stepped = False
            self.moved = True
            items.append(Denoised(self._number))
        else:
            if part.back:
                self._cut(windows)  # what is full by now does not know of the run
                segment.mark_last_held()
            if self._run:
                lost = np.concatenate([np.full(count, not sent) for sent, count in self._run])
                segment.bridge(lost, float(part.x[0]))
                self._run = []
        if part.beside != self._beside:
            self._tell_beside(part.beside)
        segment.append(part.x, part.state, self._beside_flags)

    def _tell_beside(self, now: Beside) -> None:
        """Sets the flags of what there is besides a pulse, and an event of each thing that was not there before, at most once a
        minute."""
        before, self._beside = self._beside, now
        self._beside_flags = 0
        for (flag, text), there, was in zip(_OF_BESIDE.items(), now, before, strict=True):
            if not there:
                continue
            self._beside_flags |= int(flag)
            since_told = self._judged - self._beside_told.get(flag, math.inf)
            if not was and not 0 <= since_told < BESIDE_TOLD_S * self._fs:
                self._beside_told[flag] = self._judged
                self._event(str(flag.name).lower(), text.format(hz=there, index=self._judged))

    def _hold(self, part: Judged, windows: list[Window], items: list[Item]) -> None:
        self._break(windows, items)
        x = np.concatenate([np.full(self._taken_back, part.x[0]), part.x])
        index, self._taken_back = self._judged, 0
        self._judged += len(x)
        items.append(Held(index, x, part.value, part.lead_off, self._stepped))
        self._stepped = False
        if part.lead_off and not self._lead_off:
            self._lead_off = True
            what = "nearly flat" if math.isnan(part.value) else f"{x[0]:.6g} without a change"
            text = f"{what} for more than 1 s before index {self._judged}: nothing is attached"
            self._event("lead_off", text)

    def _break(self, windows: list[Window], items: list[Item]) -> None:
        """The segment, if one is open, ends before the undecided run, and the run is an item."""
        self._cut(windows, close=True)
        self.moved, self._open = True, None
        self._put_run(items)

    def _put_run(self, items: list[Item]) -> None:
        index = self._judged - sum(n for _, n in self._run)
        for sent, count in self._run:
            items.append(Missing(index, count, sent))
            index += count
        self._run = []

    def _event(self, name: str, text: str) -> None:
        self.events.append(Event(name, f"{self._name}: {text}", self._name))

    def save(self) -> bytes:
        """Its state, for `load` of another one under the same name and rules."""
        return saved.pack(self)

    def load(self, data: bytes) -> None:
        """Go on where another one was. Raises ValueError as `saved.unpack`."""
        saved.unpack(self, data)
        self.change(self.plan)

    def change(self, plan: Plan) -> None:
        """Go by this plan, what is under way too."""
        self.plan = plan
        for segment in self.segments.values():
            segment.follow(plan)

    # ---- out -----------------------------------------------------------------------------------------------------

    def sign(self, segment: int) -> float:
        """-1: what is known by now says that the pulse of this segment points down."""
        return self.segments[segment].polarity.sign

    def looks(self, window: Window) -> bool:
        """Whether this window counts for its session's polarity: each does until it is decided, and then every fifth."""
        segment = self.segments[window.segment]
        polarity = segment.polarity
        if not polarity.decided:
            return True
        return not polarity.final and (window.start - segment.first_window) // segment.plan.geometry.hop % LOOKED_AT == 0

    def look(self, window: Window, skewness: float) -> float:
        """Take a window's skewness into account; the sign of the window."""
        segment = self.segments[window.segment]
        polarity = segment.polarity
        length, decided = len(window.x), polarity.decided
        new, window_s = segment.plan.geometry.hop * (LOOKED_AT if decided else 1) / length, length / segment.plan.fs
        if polarity.look(skewness, new, window_s, segment.first_window) and (decided or polarity.sign < 0):
            down = "points down (an inverted sensor): the model sees it turned over"
            way = down if polarity.sign < 0 else "points up after all"
            self._event("polarity", f"the pulse at index {segment.place(window.start)} {way}")
        return polarity.sign

    def answer(
        self,
        window: Window,
        y: NDArray[np.float64] | None,
        flags: NDArray[np.uint16] | None,
        confidence: NDArray[np.float64] | None,
    ) -> None:
        """The answer to a window, or None if it was shed, as `Segment.add` takes it."""
        self.segments[window.segment].add(window.start, y, flags, confidence)

    def seen(self, segment: int) -> Seen | None:
        """What is known of the samples of a segment that have become final, as `Segment.seen`."""
        return self.segments[segment].seen()

    def release(self, segment: int, by_row: NDArray[np.float64] | None) -> tuple[Released | None, bool]:
        """The samples of a segment that have become final, and whether they were its last. by_row: as `Segment.release` takes
        it."""
        found = self.segments[segment]
        released = found.release(by_row)
        if found.is_over:
            del self.segments[segment]
        return released, found.is_over

    def place(self, window: Window) -> int:
        """The sensor's index at which a window begins."""
        return self.segments[window.segment].place(window.start)
