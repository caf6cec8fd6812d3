"""Replay: a schedule that does not drift, faults that can be had again, and an account of what was sent."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ppgstream.tools.replay import Faults, Replay, Track

from ppgstream.wire import Chunk, Kind


@dataclass
class Sink:
    """A publisher that keeps what it is given, and when. Its clock is the test's."""

    now: float = 0.0
    oversleep: float = 0.0
    stop_after: int = 10**9
    chunks: list[Chunk] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def send(self, chunk: Chunk) -> bool:
        if len(self.chunks) >= self.stop_after:
            return False
        self.chunks.append(chunk)
        self.times.append(self.now)
        return True

    def send_last(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.oversleep


def replay(sink: Sink, tracks: list[Track], **options: object) -> Replay:
    return Replay(
        tracks,
        sink,  # type: ignore[arg-type]
        sleep=sink.sleep,
        clock=lambda: sink.now,
        stopped=lambda: len(sink.chunks) >= sink.stop_after,
        **options,  # type: ignore[arg-type]
    )


def ramp(n: int, name: str = "a") -> Track:
    return Track(name, np.arange(float(n)))


def test_the_schedule_does_not_drift_however_badly_the_machine_sleeps() -> None:
    sink = Sink(oversleep=0.003)
    replay(sink, [ramp(125 * 3600)], speed=2.0).run()
    due = (np.arange(len(sink.times) - 1) + 1) * 25 / 125 / 2
    late = np.array(sink.times[:-1]) - due
    assert late.min() >= -1e-9
    assert late.max() < 0.0031  # after half an hour as after the first chunk


def test_at_max_speed_nothing_waits_and_nothing_is_missing() -> None:
    sink = Sink()
    report = replay(sink, [ramp(1010)], speed=None).run()
    assert sink.now == 0
    np.testing.assert_array_equal(np.concatenate([c.samples for c in sink.chunks]), np.arange(1010.0))
    assert (sink.chunks[-1].kind, sink.chunks[-1].index) == (Kind.END, 1010)
    assert report.samples == 1010


def test_copies_are_streams_of_their_own_spread_over_the_chunk_period() -> None:
    sink = Sink()
    replay(sink, [ramp(500, f"s{k}") for k in range(4)]).run()
    first = {c.stream: t for c, t in reversed(list(zip(sink.chunks, sink.times, strict=True)))}
    np.testing.assert_allclose(sorted(first.values()), [0.2, 0.25, 0.3, 0.35])
    for name in first:
        mine = [c for c in sink.chunks if c.stream == name]
        np.testing.assert_array_equal(np.concatenate([c.samples for c in mine]), np.arange(500.0))
        assert len({c.session for c in mine}) == 1
    assert len({c.session for c in sink.chunks}) == 4


def test_the_sensors_time_runs_at_the_recordings_rate() -> None:
    sink = Sink()
    replay(sink, [ramp(500)], speed=None).run()
    data = sink.chunks[:-1]
    assert all(c.t_ns - data[0].t_ns == c.index * 8_000_000 for c in data)


faults = st.builds(
    Faults,
    drop=st.floats(0, 0.5),
    dup=st.floats(0, 0.5),
    reorder=st.floats(0, 0.5),
    jitter_ms=st.floats(0, 500),
    outages=st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5)), max_size=2).map(tuple),
    seed=st.integers(0, 99),
)


@given(faults, st.integers(1, 2500), st.integers(1, 3))
def test_every_sample_is_sent_or_withheld_and_the_end_comes_last(f: Faults, n: int, streams: int) -> None:
    sink = Sink()
    report = replay(sink, [ramp(n, f"s{k}") for k in range(streams)], speed=None, faults=f).run()
    assert report.samples + report.withheld - report.duplicated == n * streams
    for k in range(streams):
        mine = [c for c in sink.chunks if c.stream == f"s{k}"]
        assert [c.kind for c in mine].count(Kind.END) == 1
        assert (mine[-1].kind, mine[-1].index) == (Kind.END, n)
        assert all((c.samples == np.arange(c.index, c.stop)).all() for c in mine)
    again = Sink()
    replay(again, [ramp(n, f"s{k}") for k in range(streams)], speed=None, faults=f).run()
    assert [(c.stream, c.index, c.kind) for c in again.chunks] == [(c.stream, c.index, c.kind) for c in sink.chunks]


def test_an_outage_withholds_what_lies_in_it() -> None:
    sink = Sink()
    replay(sink, [ramp(1250)], speed=None, faults=Faults(outages=((2.0, 1.0),))).run()
    sent = {int(x) for c in sink.chunks for x in c.samples}
    assert set(range(1250)) - sent == set(range(250, 375))


def test_a_loop_goes_on_with_the_index_until_it_is_stopped_and_then_ends_its_session() -> None:
    sink = Sink(stop_after=30)
    report = replay(sink, [ramp(60)], speed=None, loop=True).run()
    data = [c for c in sink.chunks if c.kind is Kind.DATA]
    index = np.concatenate([np.arange(c.index, c.stop) for c in data])
    np.testing.assert_array_equal(index, np.arange(len(index)))
    np.testing.assert_array_equal(np.concatenate([c.samples for c in data]), index % 60)
    assert (sink.chunks[-1].kind, sink.chunks[-1].index) == (Kind.END, len(index))
    assert report.stopped
