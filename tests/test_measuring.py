"""Sensors that say no rate: it is measured, and samples wait for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rules import rules

from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.measuring import RateFinder
from ppgstream.core.plan import Geometry
from ppgstream.core.rate import RateRules
from ppgstream.wire.message import EMPTY, Chunk, Flag, Kind


def engine(**more: Any) -> Engine:
    return Engine(identity(250), rules(geometry=Geometry(hop=50), rate=RateRules(), answers="input", **more))


class Sent:
    """A sensor that says nothing but its samples, and perhaps when it took them: messages of `size` samples."""

    def __init__(
        self, e: Engine, fs: float, *, size: int = 10, stamps: float | None = None, jitter_s: float = 0.0, says: float = 0.0
    ) -> None:
        """stamps: the resolution of the sensor's clock, s; None: it has none."""
        self.e, self.fs, self.size, self.stamps, self.jitter_s, self.says = e, fs, size, stamps, jitter_s, says
        self.rng = np.random.default_rng(1)
        self.chunks: list[Chunk] = []
        self.at, self.now = 0, 0.0

    def go(self, seconds: float, *, session: int = 1, bpm: float = 75.0) -> Sent:
        until = self.at + round(seconds * self.fs)
        while self.at < until:
            t = np.arange(self.at, self.at + self.size) / self.fs
            x = 1000 + 100 * np.sin(2 * np.pi * bpm / 60 * t)
            t_ns = 0 if self.stamps is None else 10**18 + int(t[0] / self.stamps) * round(self.stamps * 1e9)
            now = self.now = max(self.now, float(t[-1]) + self.jitter_s * self.rng.uniform())
            chunk = Chunk("a", session, self.at, x, fs=self.says, t_ns=t_ns, adopted=self.stamps is None)
            self.chunks += self.e.feed(chunk, now) + settle(self.e)
            self.at += self.size
        return self

    def end(self) -> Sent:
        self.chunks += self.e.feed(Chunk("a", 1, self.at, EMPTY, Kind.END, 0.0), self.at / self.fs) + settle(self.e)
        return self

    @property
    def data(self) -> list[Chunk]:
        return [c for c in self.chunks if c.kind is Kind.DATA]

    @property
    def rates(self) -> list[float]:
        return [c.beats.bpm for c in self.chunks if c.beats is not None and not np.isnan(c.beats.bpm)]

    def events(self, name: str) -> list[str]:
        return [event.text for event in self.e.events if event.name == name]


def settle(e: Engine) -> list[Chunk]:
    chunks = []
    while e.ready:
        chunks += e.step()
    return chunks


@pytest.mark.parametrize("fs", [25.0, 50.0, 99.3, 176.0, 400.0])
@pytest.mark.parametrize(
    "sent",
    [
        {"stamps": 1e-3},
        {"stamps": 1e-9, "size": 60},
        {"stamps": 1.0},
        {},
        {"jitter_s": 0.03},
        {"size": 1},
    ],
    ids=["stamps", "packets", "whole seconds", "arrival", "late arrival", "one by one"],
)
def test_a_rate_that_nobody_says_is_measured_and_nothing_is_lost(fs: float, sent: dict[str, Any]) -> None:
    sensor = Sent(engine(), fs, **sent).go(45 if fs > 30 or sent.get("stamps") != 1.0 else 60).end()
    assert len(sensor.events("no_rate")) == len(sensor.events("measured_rate")) == 1
    assert sum(len(c.samples) for c in sensor.data) == sensor.at
    assert [c.fs for c in sensor.data] == pytest.approx([fs] * len(sensor.data), rel=0.006)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)
    assert not any(((c.flags & Flag.WRONG_RATE) != 0).any() for c in sensor.data if c.flags is not None)
    assert sensor.e.unaccounted == 0


def test_by_stamps_a_rate_is_known_after_three_seconds_and_by_arrival_after_ten() -> None:
    for stamps, seconds in ((1e-3, 3.0), (None, 10.0)):
        sensor = Sent(engine(), 100.0, stamps=stamps).go(seconds - 0.3)
        assert not sensor.data
        assert sensor.e.streams["a"].intake.waiting == sensor.at
        assert sensor.e.unaccounted == 0
        sensor.go(1.0)
        assert sensor.data[0].index == 0
        assert sensor.e.streams["a"].intake.waiting == 0


def test_a_watch_that_sends_batches_gets_its_rate_by_their_arrival() -> None:
    sensor = Sent(engine(), 25.0, size=75, jitter_s=0.02).go(60).end()
    assert [c.fs for c in sensor.data] == pytest.approx([25.0] * len(sensor.data), rel=0.006)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)


def test_the_configuration_says_what_a_sensor_does_not() -> None:
    sensor = Sent(engine(stated_fs=50.0), 50.0).go(20).end()
    assert {c.fs for c in sensor.data} == {50.0}
    assert not sensor.events("no_rate")
    own = Sent(engine(stated_fs=50.0, rates={"a": 64.0}), 64.0).go(20).end()
    assert {c.fs for c in own.data} == {64.0}
    said = Sent(engine(stated_fs=50.0), 100.0, says=100.0).go(20).end()
    assert {c.fs for c in said.data} == {100.0}


@pytest.mark.parametrize("fs", [64.0, 125.0])
def test_a_rate_that_was_said_once_is_not_measured(fs: float) -> None:
    sensor = Sent(engine(), fs, says=fs).go(5)
    sensor.says = 0.0
    sensor.go(5).end()
    assert {c.fs for c in sensor.data} == {fs}
    assert not sensor.events("no_rate")


def test_a_sensor_that_says_a_wrong_rate_is_measured_where_the_configuration_asks_for_it() -> None:
    wrong = Sent(engine(), 129.0, stamps=1e-6, says=135.0).go(40).end()
    assert wrong.events("wrong_rate")
    assert all(((c.flags & Flag.WRONG_RATE) != 0).all() for c in wrong.data[-3:] if c.flags is not None)
    sensor = Sent(engine(stated_fs="measure"), 129.0, stamps=1e-6, says=135.0).go(40).end()
    assert [c.fs for c in sensor.data] == pytest.approx([129.0] * len(sensor.data), rel=0.001)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)
    assert not sensor.events("wrong_rate")


def test_a_session_that_ends_before_its_rate_is_known_is_published_all_the_same() -> None:
    short = Sent(engine(), 100.0, size=100).go(5).end()
    assert sum(len(c.samples) for c in short.data) == short.at == 500
    assert {c.fs for c in short.data} == {100.0}
    assert len(short.events("measured_rate")) == 1
    lone = Sent(engine(), 100.0, size=1000).go(1)
    lone.chunks += lone.e.flush(2.0) + settle(lone.e)
    assert lone.events("rate_unknown") == [
        "a: no rate is stated, and too few messages came to measure one: taken as 125 Hz, without heart rates: [in] fs"
    ]
    assert sum(len(c.samples) for c in lone.data) == 1000
    assert all(((c.flags & Flag.WRONG_RATE) != 0).all() for c in lone.data if c.flags is not None)
    assert not lone.rates
    assert lone.e.unaccounted == 0


def test_a_rate_once_measured_holds_for_the_next_session_and_is_corrected_where_it_does_not() -> None:
    sensor = Sent(engine(), 50.0, stamps=1e-3).go(20).end()
    sensor.chunks.clear()
    sensor.fs = 100.0
    sensor.go(40, session=2)
    assert len(sensor.events("measured_rate")) == 1
    assert sensor.events("rate_changed")
    assert sensor.data[-1].fs == pytest.approx(100.0, rel=0.001)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)


def test_a_sensor_that_corrects_what_it_says_gets_its_heart_rate_back() -> None:
    sensor = Sent(engine(), 125.0, stamps=1e-6, says=100.0).go(20)
    assert all(((c.flags & Flag.WRONG_RATE) != 0).all() for c in sensor.data[-3:] if c.flags is not None)
    sensor.says = 125.0
    sensor.go(30).end()
    assert not any(((c.flags & Flag.WRONG_RATE) != 0).any() for c in sensor.data[-3:] if c.flags is not None)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)


def test_a_rate_that_could_not_be_measured_at_first_is_corrected_later() -> None:
    sensor = Sent(engine(), 100.0, stamps=1e-3, size=1000).go(1)
    sensor.e.streams["a"].settle()
    sensor.size = 10
    sensor.go(60).end()
    assert sensor.events("rate_unknown")
    assert sensor.data[-1].fs == pytest.approx(100.0, rel=0.001)
    assert not any(((c.flags & Flag.WRONG_RATE) != 0).any() for c in sensor.data[-3:] if c.flags is not None)
    assert sensor.rates[-1] == pytest.approx(75, abs=1)


def test_samples_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sensor whose messages all come at once says no rate: it is not waited for for ever."""
    e = engine()
    for k in range(700):
        e.feed(Chunk("a", 1, 50 * k, np.sin(np.arange(50) / 9), fs=0.0), 5.0)
    assert e.streams["a"].intake.waiting == 0
    assert e.streams["a"].counts.accepted > 30_000
    monkeypatch.setattr("ppgstream.core.engine.MOST_WAITING", 500)
    e = engine()
    for k in range(30):
        for stream in "abc":
            e.feed(Chunk(stream, 1, 50 * k, np.sin(np.arange(50) / 9), fs=0.0), 0.4 * k)
    assert sum(stream.intake.waiting for stream in e.streams.values()) <= 500 + 50


def test_a_stream_that_waits_for_its_rate_can_move() -> None:
    stays, moves = (Sent(engine(), 64.0, stamps=1e-3).go(2) for _ in range(2))
    for k in range(3):
        data = moves.e.save("a", 2.0 + k)
        moves.e = engine()
        moves.e.load("a", data, 2.0 + k)
        stays.go(1)
        moves.go(1)
    stays.end()
    moves.end()
    assert [c.index for c in stays.data] == [c.index for c in moves.data]
    assert all((a.samples == b.samples).all() for a, b in zip(stays.data, moves.data, strict=True))


def test_the_clock_s_drift_is_told_in_millionths_after_a_minute() -> None:
    sensor = Sent(engine(), 125.0 * (1 + 80e-6), stamps=1e-9, says=125.0).go(50)
    assert sensor.e.streams["a"].intake.rate.drift_ppm is None
    sensor.go(20)
    assert sensor.e.streams["a"].intake.rate.drift_ppm == pytest.approx(80, abs=1)


def test_a_backlog_that_is_read_at_once_says_nothing_of_the_rate() -> None:
    finder = RateFinder(10.0)
    for k in range(200):
        finder.add(25 * k, 3.0)
    for k in range(60):
        finder.add(5000 + 25 * k, 3.2 + 0.25 * k)
    assert finder.found() == pytest.approx(100.0, rel=0.005)


def test_of_times_that_fall_the_measuring_begins_anew() -> None:
    finder = RateFinder(3.0)
    for start in (1000.0, 10.0):
        for k in range(20):
            finder.add(10 * k + round(start), start + 0.1 * k)
    assert finder.span_s == pytest.approx(1.9)
    for k in range(20, 40):
        finder.add(10 * k + 10, 10.0 + 0.1 * k)
    assert finder.found() == pytest.approx(100.0)


def test_a_rate_that_is_said_late_holds_for_what_waits() -> None:
    sensor = Sent(engine(), 50.0, stamps=1e-3).go(1.5)
    assert not sensor.data
    sensor.says = 50.0
    sensor.go(20.0).end()
    assert sum(len(c.samples) for c in sensor.data) == sensor.at
    assert sensor.data[0].index == 0
    assert {c.fs for c in sensor.data} == {50.0}
    assert not sensor.events("late_join") + sensor.events("rate_changed") + sensor.events("measured_rate")
    assert (sensor.e.counts.rejected, sensor.e.unaccounted) == (0, 0)


def test_a_clock_of_whole_seconds_is_measured_by_arrival_too_and_raises_no_false_alarm() -> None:
    sensor = Sent(engine(), 50.0, stamps=1.0, size=25).go(14.0)
    assert sensor.data
    assert sensor.data[0].fs == pytest.approx(50.0, rel=0.005)
    for phase in range(0, 25, 5):
        said = Sent(engine(), 50.0, stamps=1.0, size=25, says=50.0)
        said.now = phase / 25
        said.at = 0
        said.go(60.0 + phase / 50)
        assert not said.events("wrong_rate") + said.events("fs_off")
        assert not any(((c.flags & Flag.WRONG_RATE) != 0).any() for c in said.data if c.flags is not None)


def test_times_that_jump_are_told() -> None:
    e = engine()
    x = np.sin(np.arange(50) / 8)
    for k in range(20):
        t_ns = 10**18 + k * 10**9 - (k >= 10) * 3600 * 10**9
        e.feed(Chunk("a", 1, 50 * k, x, fs=50.0, t_ns=t_ns), float(k))
        settle(e)
    (told,) = [event.text for event in e.events if event.name == "clock_set"]
    assert told == "a: the sensor's times jump by -3,600.0 s at index 500"


def test_messages_that_are_lost_on_the_way_are_no_slower_rate_where_the_sensor_counts() -> None:
    e = engine(clocked_by_arrival=True)
    rng, x = np.random.default_rng(4), np.sin(np.arange(25) / 8)
    for k in range(120):
        if k == 0 or rng.uniform() > 0.2:
            e.feed(Chunk("a", 1, 25 * k, x, fs=50.0, adopted=True), k / 2)
            settle(e)
    assert not [event for event in e.events if event.name in ("wrong_rate", "fs_off")]
    assert e.counts.gap > 0
