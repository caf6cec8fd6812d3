"""What is wrong with a stream, and since when: looked at once a second, told in its row of the status."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ppgstream.wire.message import Flag

if TYPE_CHECKING:  # a client needs the names alone
    from ppgstream.core.stream import Stream

Trouble = Literal["refused", "silent", "gone", "lead_off", "wrong_rate", "low_confidence", "lost"]
# The worst first.
TROUBLES: tuple[Trouble, ...] = ("refused", "silent", "gone", "lead_off", "wrong_rate", "low_confidence", "lost")
Sort = Literal["trouble", "name", "lag", "confidence", "rate"]
SORTS: tuple[Sort, ...] = ("trouble", "name", "lag", "confidence", "rate")

REFUSED_S = 30.0  # for how long it is told that samples were refused
SILENT_S = 3.0  # without a message, or twice the time that the last message's samples took
GONE_S = 3600.0  # for how long it is told that a session ended without an END
LOW, LOW_S = 0.5, 60.0  # mean confidence below, for so long
LOST_S = 60.0  # over which lost samples are counted
HISTORY = 6  # seconds over which a rate is measured
_LEAD_OFF, _WRONG_RATE = int(Flag.LEAD_OFF), int(Flag.WRONG_RATE)  # an operation of enumerations takes 1 us


class Rates:
    """Samples and windows a second over the last few ticks."""

    __slots__ = ("_history",)

    def __init__(self) -> None:
        self._history: list[tuple[float, int, int]] = []

    def tick(self, now: float, samples: int, windows: int) -> None:
        self._history = [*self._history[1 - HISTORY :], (now, samples, windows)]

    def now(self) -> tuple[float, float]:
        if len(self._history) < 2:
            return 0.0, 0.0
        (t0, s0, w0), (t1, s1, w1) = self._history[0], self._history[-1]
        return (s1 - s0) / (t1 - t0), (w1 - w0) / (t1 - t0)


class StreamWatch:
    """One stream. `look` is called once a second; `lag_ms` is that of its window published last."""

    __slots__ = ("_live", "_lost", "_refused", "_refused_at", "_silent_s", "_unclean", "lag_ms", "low_since", "rates", "troubles")

    def __init__(self) -> None:
        self.rates = Rates()
        self.lag_ms = 0.0
        self.low_since = math.inf  # since when its confidence is low
        self.troubles: tuple[Trouble, ...] = ()
        self._refused, self._refused_at = 0, -math.inf
        self._lost: tuple[tuple[float, int], tuple[float, int]] | None = None  # time and samples lost: a minute ago, and later
        self._live, self._silent_s = False, 0.0
        self._unclean = 0  # sessions that ended without an END, while another one was open

    def look(self, stream: Stream, now: float, listened: float) -> None:
        """A second is over. The times are those of `Engine.feed`: `read_at` and `listened`."""
        sessions, timeline = stream.intake.sessions, stream.timeline
        self.rates.tick(now, sessions.accepted, 0)
        if stream.ledger.refused > self._refused:
            self._refused, self._refused_at = stream.ledger.refused, now
        live = self._live = stream.session is not None
        self.low_since = min(self.low_since, now) if live and timeline.confidence < LOW else math.inf
        lost = sessions.lost
        if self._lost is None:
            self._lost = (now, lost), (now, lost)
        elif now - self._lost[1][0] > LOST_S:
            self._lost = self._lost[1], (now, lost)
        self._silent_s = listened - sessions.seen_at
        if live:
            self._unclean = sessions.unclean
        flags = timeline.flags if live else 0
        there = {
            "refused": now - self._refused_at < REFUSED_S,
            "silent": live and self._silent_s > max(SILENT_S, 2 * sessions.batch_s),
            "gone": not live and sessions.unclean > self._unclean and self._silent_s < GONE_S,
            "lead_off": bool(flags & _LEAD_OFF),
            "wrong_rate": bool(flags & _WRONG_RATE),
            "low_confidence": now - self.low_since > LOW_S,
            "lost": live and lost > self._lost[0][1],
        }
        self.troubles = tuple(name for name in TROUBLES if there[name])

    @property
    def talks(self) -> bool:
        """Whether a session is open and samples come."""
        return self._live and self._silent_s <= SILENT_S

    @property
    def rank(self) -> tuple[int, float]:
        """Less is worse: by the worst of its troubles, and of silent ones by how long they are."""
        silent_s = self._silent_s if self.troubles and self.troubles[0] in ("silent", "gone") else 0.0
        return (TROUBLES.index(self.troubles[0]) if self.troubles else len(TROUBLES)), -silent_s

    def low_s(self, now: float) -> float:
        """For how long its confidence has been low, s."""
        return max(now - self.low_since, 0.0) if self.low_since < math.inf else 0.0

    def lost_lately(self, stream: Stream) -> int:
        """Samples that were lost in the last two minutes at most."""
        return stream.intake.sessions.lost - self._lost[0][1] if self._lost is not None else 0


def order(sort: Sort, watches: dict[str, StreamWatch]) -> Callable[[Stream], tuple[object, ...]]:
    """The key by which streams are sorted: those that are live first, except by trouble."""
    none = StreamWatch()

    def of(stream: Stream) -> StreamWatch:
        return watches.get(stream.name, none)

    keys: dict[Sort, Callable[[Stream], tuple[object, ...]]] = {
        "trouble": lambda s: (*of(s).rank[:1], s.session is None, of(s).rank[1], s.name),
        "name": lambda s: (s.name,),
        "lag": lambda s: (s.session is None, -of(s).lag_ms, s.name),
        "confidence": lambda s: (s.session is None, s.timeline.confidence, s.name),
        "rate": lambda s: (s.session is None, -of(s).rates.now()[0], s.name),
    }
    return keys[sort]
