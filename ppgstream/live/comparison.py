"""Two checkpoints on the same samples: what changes if the one is served in place of the other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.engine import Engine
from ppgstream.core.rate import SURE
from ppgstream.live.snapshot import Figures
from ppgstream.wire.message import Chunk, Kind

KEPT = 20_000  # seconds of which amplitude and difference are kept, the latest
LATE = 240  # seconds that wait for their counterpart: of more, the oldest have none
APART_BPM = 5.0
DIFFERS = 0.5  # RMS of a difference over the serving one's SD

Key = tuple[int, int]  # session, and number of the second in it
Part = tuple[NDArray[np.float64], NDArray[np.float64]]  # values and confidence


class _Seconds:
    """One engine's output of one stream, by whole seconds of the sensor's index."""

    __slots__ = ("_left", "_parts", "rates", "whole")

    def __init__(self) -> None:
        self._parts: dict[Key, list[Part]] = {}
        self._left: dict[Key, int] = {}
        self.whole: dict[Key, Part] = {}
        self.rates: dict[Key, float] = {}  # sure ones, by session and index

    def add(self, chunk: Chunk) -> None:
        """What was published."""
        if chunk.kind is Kind.BEATS and chunk.beats is not None:
            if chunk.beats.bpm_confidence >= SURE and not math.isnan(chunk.beats.bpm):
                self.rates[chunk.session, chunk.index] = chunk.beats.bpm
            return
        if chunk.kind is not Kind.DATA or chunk.confidence is None:
            return
        n, at = max(round(chunk.fs), 1), 0
        values, confidence = chunk.samples.astype(np.float64), chunk.confidence.astype(np.float64)
        while at < len(values):
            number = (chunk.index + at) // n
            upto = min((number + 1) * n - chunk.index, len(values))
            key = (chunk.session, number)
            self._parts.setdefault(key, []).append((values[at:upto], confidence[at:upto]))
            self._left[key] = self._left.get(key, n) - (upto - at)
            if not self._left[key]:
                parts = self._parts.pop(key)
                del self._left[key]
                self.whole[key] = np.concatenate([v for v, _ in parts]), np.concatenate([c for _, c in parts])
            at = upto

    def forget(self) -> None:
        """What can have no counterpart any more."""
        for kept in (self._parts, self._left, self.whole):
            if len(kept) > LATE:
                for key in sorted(kept)[:-LATE]:
                    del kept[key]
        while len(self.rates) > LATE:
            del self.rates[next(iter(self.rates))]


class Comparison:
    """Feeds two engines the same chunks, and compares what they publish. Both have windows that lie the same."""

    def __init__(self, serving: Engine, new: Engine) -> None:
        self.engines = serving, new
        self._seconds: dict[str, tuple[_Seconds, _Seconds]] = {}
        self._streams: set[str] = set()
        self._totals = Figures()
        self._sums = np.zeros(2)  # of confidences
        self._amplitude: deque[float] = deque(maxlen=KEPT)
        self._difference: deque[float] = deque(maxlen=KEPT)

    def feed(self, chunk: Chunk, now: float) -> None:
        """Samples of a sensor, received at `now` s."""
        self._each(lambda engine: engine.feed(chunk, now))

    def pass_time(self, now: float, idle_s: float) -> None:
        """Give up what is waited for too long, as a daemon does."""
        self._each(lambda engine: engine.expire(now))
        self._each(lambda engine: engine.end_idle(now, idle_s))
        for engine in self.engines:
            engine.forget_ended()
        there = self.engines[0].streams
        for name in [n for n in self._seconds if n not in there]:
            del self._seconds[name]

    def compute(self, *, all_of_it: bool = False) -> bool:
        """Compute a tile of windows, if one is full. True while there are more."""
        for engine in self.engines:
            if engine.ready and (all_of_it or len(engine.ready) >= engine.rules.tile):
                self._compare(engine, engine.step())
        return any(engine.ready and (all_of_it or len(engine.ready) >= engine.rules.tile) for engine in self.engines)

    def finish(self, now: float) -> None:
        """End all sessions, and compare the rest."""
        self._each(lambda engine: engine.flush(now))
        while self.compute(all_of_it=True):
            pass

    def _each(self, act: Callable[[Engine], Iterable[Chunk]]) -> None:
        for engine in self.engines:
            self._compare(engine, act(engine))

    def _compare(self, engine: Engine, published: Iterable[Chunk]) -> None:
        which = self.engines.index(engine)
        for chunk in published:
            pair = self._seconds.get(chunk.stream)
            if pair is None:
                pair = self._seconds[chunk.stream] = _Seconds(), _Seconds()
            pair[which].add(chunk)
            for key in pair[0].whole.keys() & pair[1].whole.keys():
                self._second(pair[0].whole.pop(key), pair[1].whole.pop(key))
                self._streams.add(chunk.stream)
            for key in pair[0].rates.keys() & pair[1].rates.keys():
                self._totals.rates += 1
                self._totals.rates_differ += abs(pair[0].rates.pop(key) - pair[1].rates.pop(key)) > APART_BPM
            pair[which].forget()

    def _second(self, serving: Part, new: Part) -> None:
        totals = self._totals
        means = np.array([serving[1].mean(), new[1].mean()])
        sure = means >= SURE
        totals.seconds += 1
        totals.sure_serving += int(sure[0])
        totals.sure_new += int(sure[1])
        self._sums += means
        if not sure.all():
            return
        totals.sure_both += 1
        old, other = serving[0] - serving[0].mean(), new[0] - new[0].mean()
        height = float(old.std())
        if height > 0:
            difference = float(np.sqrt(np.mean((other - old) ** 2))) / height
            self._amplitude.append(float(other.std()) / height)
            self._difference.append(difference)
            totals.differ += not difference <= DIFFERS

    def figures(self) -> Figures:
        """All of it so far."""
        t = self._totals
        t.streams = len(self._streams)
        if t.seconds:
            t.confidence_serving, t.confidence_new = (self._sums / t.seconds).round(4).tolist()
        if self._amplitude:
            t.amplitude = tuple(np.percentile(self._amplitude, [5, 50, 95]).round(3).tolist())
            t.difference = tuple(np.percentile(self._difference, [50, 95]).round(3).tolist())
        return t
