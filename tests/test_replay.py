"""Replay: a schedule that does not drift, faults that can be had again, and an account of what was sent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppgstream.tools import replay as tool
from ppgstream.tools.replay import Faults, Replay, Report, Track

from ppgstream.errors import DataError
from ppgstream.live import bridge
from ppgstream.wire.message import Chunk, Kind


@dataclass
class Sink:
    """A publisher that keeps what it is given, and when. Its clock is the test's."""

    acked = False
    now: float = 0.0
    oversleep: float = 0.0
    stop_after: int = 10**9
    send_takes: float = 0.0
    asked: list[float] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def send(self, chunk: Chunk) -> bool:
        if len(self.chunks) >= self.stop_after:
            return False
        self.chunks.append(chunk)
        self.times.append(self.now)
        self.now += self.send_takes
        return True

    def send_last(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.now += seconds + self.oversleep


def replay(sink: Sink, tracks: list[Track], **options: object) -> Replay:
    return Replay(
        tracks,
        sink,
        sleep=sink.sleep,
        clock=lambda: sink.now,
        stopped=lambda: len(sink.chunks) >= sink.stop_after,
        **options,
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


@settings(deadline=None)
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


def sent(sink: Sink) -> list[tuple[str, int, Kind]]:
    """What was sent, in order, but for the sessions, which are drawn anew each time."""
    return [(c.stream, c.index, c.kind) for c in sink.chunks]


def data_of(sink: Sink, stream: str = "a") -> list[Chunk]:
    return [c for c in sink.chunks if c.kind is Kind.DATA and c.stream == stream]


def due_at(chunk: Chunk, *, speed: float = 1.0, per_message: int = 25) -> float:
    """When a chunk of the first stream is due: once the last sample of a whole one has been measured."""
    return (chunk.index + per_message) / 125 / speed


@pytest.mark.parametrize("speed", [0.5, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("per_message", [1, 25, 40])
def test_each_chunk_leaves_when_it_is_due_at_any_speed(speed: float, per_message: int) -> None:
    sink = Sink()
    report = replay(sink, [ramp(1003)], speed=speed, chunk=per_message).run()
    due = [due_at(c, speed=speed, per_message=per_message) for c in data_of(sink)]
    np.testing.assert_allclose(sink.times[:-1], due, rtol=0, atol=1e-9)
    assert [len(c.samples) for c in data_of(sink)[:-1]] == [per_message] * ((1003 - 1) // per_message)
    assert report.latest_ms < 1e-6
    assert report.seconds == sink.now


def test_the_schedule_does_not_drift_though_each_send_takes_time() -> None:
    sink = Sink(oversleep=0.001, send_takes=0.150)
    report = replay(sink, [ramp(125 * 600)]).run()
    late = np.array(sink.times[:-1]) - [due_at(c) for c in data_of(sink)]
    assert late.min() >= -1e-9
    assert late.max() < 0.0011
    assert report.latest_ms == pytest.approx(1.0, abs=0.2)


def test_a_replay_that_was_held_up_catches_up_and_tells_how_late_it_was() -> None:
    sink = Sink()
    hold_up = {100: 5.0}  # the 100th sleep takes 5 s more

    def sleep(seconds: float) -> None:
        sink.sleep(seconds + hold_up.get(len(sink.asked), 0.0))

    report = Replay([ramp(125 * 120)], sink, sleep=sleep, clock=lambda: sink.now).run()
    late = np.array(sink.times[:-1]) - [due_at(c) for c in data_of(sink)]
    assert late.max() == pytest.approx(5.0)
    assert (np.abs(late[-300:]) < 1e-9).all()
    assert report.latest_ms == pytest.approx(5000.0)
    assert report.samples == 125 * 120


def test_no_sleep_is_so_long_that_a_stop_would_go_unheard() -> None:
    sink = Sink()
    replay(sink, [ramp(50)], speed=0.01).run()
    assert max(sink.asked) <= 0.2
    assert min(sink.asked) > 0


def test_at_max_speed_no_sleep_is_asked_for() -> None:
    sink = Sink()
    replay(sink, [ramp(1000), ramp(1000, "b")], speed=None, faults=Faults(jitter_ms=500, reorder=0.5)).run()
    assert sink.asked == []


def test_a_stop_while_waiting_ends_each_stream_where_it_is() -> None:
    sink = Sink()
    streams = [ramp(10_000), ramp(10_000, "b")]
    report = Replay(streams, sink, sleep=sink.sleep, clock=lambda: sink.now, stopped=lambda: sink.now >= 1.05).run()
    ends = {c.stream: (c.index, c.session) for c in sink.chunks[-2:] if c.kind is Kind.END}
    for stream in "ab":
        assert ends[stream] == (125 - 25 * (stream == "b"), data_of(sink, stream)[0].session)
    assert report.stopped
    assert report.samples == 225
    assert "stopped" in str(report)


def test_a_looped_recording_follows_itself_within_one_chunk() -> None:
    sink = Sink(stop_after=9)
    replay(sink, [ramp(7)], speed=None, loop=True).run()
    assert data_of(sink)[0].samples.tolist() == [float(k % 7) for k in range(25)]
    assert data_of(sink)[1].samples.tolist() == [float(k % 7) for k in range(25, 50)]


@pytest.mark.parametrize("n", [0, 1, 24, 25, 26, 100])
def test_every_length_comes_out_whole_with_its_end_after_it(n: int) -> None:
    sink = Sink()
    report = replay(sink, [ramp(n)], speed=None).run()
    assert [x for c in sink.chunks for x in c.samples] == list(range(n))
    assert sent(sink)[-1] == ("a", n, Kind.END)
    assert [c.index for c in data_of(sink)] == list(range(0, n, 25))
    assert (report.samples, report.messages) == (n, len(data_of(sink)) + 1)


def test_recordings_of_different_lengths_end_each_at_its_own() -> None:
    sink = Sink()
    replay(sink, [ramp(30), ramp(300, "b"), ramp(0, "c")], speed=None).run()
    assert {c.stream: c.index for c in sink.chunks if c.kind is Kind.END} == {"a": 30, "b": 300, "c": 0}
    for stream in "abc":
        assert [kind for name, _, kind in sent(sink) if name == stream][-1] is Kind.END


def test_copies_take_turns_and_none_runs_ahead() -> None:
    sink = Sink()
    replay(sink, [ramp(500, f"s{k}") for k in range(8)], speed=None).run()
    for turn in range(20):
        assert sent(sink)[8 * turn : 8 * turn + 8] == [(f"s{k}", 25 * turn, Kind.DATA) for k in range(8)]
    assert Counter(kind for _, _, kind in sent(sink)) == {Kind.DATA: 160, Kind.END: 8}


def test_the_order_is_the_same_at_any_speed() -> None:
    faults = Faults(drop=0.1, dup=0.1, reorder=0.2, jitter_ms=150, seed=3)
    slow, fast = Sink(), Sink()
    for sink, speed in ((slow, 2.0), (fast, None)):
        replay(sink, [ramp(2000), ramp(2000, "b")], speed=speed, faults=faults).run()
    assert sent(slow) == sent(fast)
    assert all(a <= b for a, b in pairwise(slow.times))


def test_each_fault_happens_and_another_seed_is_another_run() -> None:
    seen = []
    for seed in (1, 1, 2):
        sink = Sink()
        report = replay(sink, [ramp(25_000)], speed=None, faults=Faults(0.1, 0.1, 0.1, 20.0, ((10, 2),), seed)).run()
        assert min(report.withheld, report.duplicated, report.delayed) > 0
        seen.append((sent(sink), str(report)))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]


@pytest.mark.parametrize(("field_", "at_least", "at_most"), [("drop", 3200, 4800), ("dup", 3200, 4800)])
def test_a_share_of_chunks_is_about_the_share_that_was_asked_for(field_: str, at_least: int, at_most: int) -> None:
    sink = Sink()
    shares: dict[str, Any] = {field_: 0.2}
    report = replay(sink, [ramp(20_000)], speed=None, chunk=5, faults=Faults(**shares)).run()
    assert at_least < report.withheld + report.duplicated < at_most
    times = Counter(c.index for c in data_of(sink))
    assert sum(5 * (count - 1) for count in times.values()) == report.duplicated
    assert 20_000 - 5 * len(times) == report.withheld


def test_a_duplicate_says_the_same_as_the_first() -> None:
    sink = Sink()
    replay(sink, [ramp(250)], speed=None, faults=Faults(dup=1.0)).run()
    first, second = data_of(sink)[::2], data_of(sink)[1::2]
    assert len(first) == len(second) == 10
    assert [(c.index, c.t_ns, c.session, c.samples.tolist()) for c in first] == [
        (c.index, c.t_ns, c.session, c.samples.tolist()) for c in second
    ]


def test_reordered_chunks_come_late_by_one_place_and_none_is_lost() -> None:
    sink = Sink()
    replay(sink, [ramp(25_000)], speed=None, faults=Faults(reorder=0.1)).run()
    order = [c.index // 25 for c in data_of(sink)]
    assert sorted(order) == list(range(1000))
    late = [k for k, (a, b) in enumerate(pairwise(order)) if b < a]
    assert 50 < len(late) < 150
    assert max(abs(place - at) for at, place in enumerate(order)) <= 2


def test_jitter_makes_chunks_late_by_up_to_so_much_and_never_early() -> None:
    sink = Sink()
    replay(sink, [ramp(25_000)], faults=Faults(jitter_ms=80)).run()
    late = np.array(sink.times[:-1]) - [due_at(c) for c in data_of(sink)]
    assert late.min() >= -1e-9
    assert 0.070 < late.max() <= 0.080 + 1e-9
    assert 0.030 < late.mean() < 0.050


def test_faultless_chunks_of_a_faulty_replay_are_on_time() -> None:
    sink = Sink()
    replay(sink, [ramp(25_000)], faults=Faults(drop=0.3, outages=((20.0, 7.0),))).run()
    np.testing.assert_allclose(sink.times[:-1], [due_at(c) for c in data_of(sink)], rtol=0, atol=1e-9)


def test_outages_that_overlap_withhold_a_sample_once() -> None:
    sink = Sink()
    report = replay(sink, [ramp(1250)], speed=None, faults=Faults(outages=((2.0, 1.0), (2.4, 1.0), (9.9, 50.0)))).run()
    assert report.withheld == 175
    assert report.samples == 1250 - 175
    assert sent(sink)[-1] == ("a", 1250, Kind.END)


def test_a_report_says_what_it_counted_and_is_silent_about_the_rest() -> None:
    assert (
        str(Report(streams=2, samples=1234, messages=50, seconds=1.5))
        == "sent 1,234 samples of 2 stream(s) in 50 messages, 1.50 s"
    )
    told = str(Report(withheld=25, duplicated=50, delayed=3, stopped=True))
    for words in ("withheld 25", "duplicated 50", "late chunks 3", "stopped before the end"):
        assert words in told


@pytest.mark.parametrize("reorder", [0.5, 1.0])
def test_late_chunks_are_those_that_left_after_their_successor(reorder: float) -> None:
    sink = Sink()
    report = replay(sink, [ramp(2500)], speed=None, faults=Faults(reorder=reorder)).run()
    place = {c.index: at for at, c in enumerate(data_of(sink))}
    assert report.delayed == sum(place[index] > place.get(index + 25, len(place)) for index in place)


def test_what_was_sent_and_withheld_is_the_end_s_index_also_when_stopped() -> None:
    for stop_after in range(5, 25):
        sink = Sink(stop_after=stop_after)
        report = replay(sink, [ramp(100_000)], loop=True, faults=Faults(drop=0.5)).run()
        assert report.samples + report.withheld == sink.chunks[-1].index


def test_a_stream_that_has_had_its_end_gets_no_second_one_when_the_others_are_stopped() -> None:
    sink = Sink()
    Replay(
        [ramp(25), ramp(10_000, "b")],
        sink,
        speed=None,
        stopped=lambda: any(c.kind is Kind.END for c in sink.chunks),
    ).run()
    assert Counter(c.stream for c in sink.chunks if c.kind is Kind.END) == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    "faults", [Faults(drop=1.0), Faults(outages=((0.0, 1e9),))], ids=["all dropped", "an outage without end"]
)
def test_a_loop_of_which_nothing_is_sent_keeps_to_its_schedule_all_the_same(faults: Faults) -> None:
    sink = Sink()
    turns = iter(range(2000))
    report = Replay(
        [ramp(100)],
        sink,
        loop=True,
        faults=faults,
        sleep=sink.sleep,
        clock=lambda: sink.now,
        stopped=lambda: next(turns, None) is None or sink.now > 10,
    ).run()
    assert sink.now > 9
    assert report.withheld <= sink.now * 125 + 10 * 25


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Any]:
    """A pipe that is always ready, as a file is: call it with the content for a descriptor."""
    opened: list[int] = []

    def of(content: str | bytes) -> int:
        path = tmp_path / f"lines-{len(opened)}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield of
    for fd in opened:
        os.close(fd)


def piped(fd: int, sink: Sink, said: list[str] | None = None, **options: Any) -> Report:
    stopped = options.pop("stopped", lambda: len(sink.chunks) >= sink.stop_after)
    return tool.pipe(
        fd,
        sink,
        stream="a",
        fs=125.0,
        stopped=stopped,
        say=(said if said is not None else []).append,
        **options,
    )


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(1, 60), st.booleans())
def test_lines_off_a_pipe_are_sent_whole_in_order_with_the_end_last(n: int, per_message: int, newline: bool) -> None:
    read, write = os.pipe()
    content = "\n".join(map(str, range(n))) + "\n" * (newline and n > 0)
    os.write(write, content.encode())
    os.close(write)
    sink, said = Sink(), list[str]()
    report = piped(read, sink, said, chunk=per_message)
    os.close(read)
    assert [x for c in sink.chunks for x in c.samples] == list(range(n))
    assert [c.index for c in data_of(sink)] == list(range(0, n, per_message))
    assert sent(sink)[-1] == ("a", n, Kind.END)
    assert len({c.session for c in sink.chunks}) == 1
    assert (report.samples, report.messages, report.stopped, said) == (n, len(data_of(sink)), False, [])


def test_a_line_off_a_pipe_that_is_no_number_keeps_its_place_and_the_first_three_are_told(lines: Any) -> None:
    sink, said = Sink(), list[str]()
    piped(lines("1\n2oops\n3\n\nnan\n0x\n0y\n8\nwords\n"), sink, said, chunk=4)
    samples = np.concatenate([c.samples for c in sink.chunks])
    np.testing.assert_array_equal(samples, [1, np.nan, 3, np.nan, np.nan, np.nan, np.nan, 8])
    assert [line.split(" is ")[0] for line in said[:3]] == ["line 2", "line 4", "line 6"]
    assert "'2oops'" in said[0]
    assert said[3:] == ["line of text dropped: 'words'"]


def test_a_bad_line_off_a_pipe_is_told_by_its_beginning_and_cannot_write_to_a_terminal(lines: Any) -> None:
    said = list[str]()
    piped(lines("\x1b[2J" + "x" * 10_000 + "\n\xff\n1\n"), Sink(), said)
    assert len(said) == 2
    assert all(len(line) < 200 and line.isprintable() for line in said)


def test_what_has_come_is_sent_when_the_pipe_falls_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    sink = Sink()
    script = iter([b"1\n2\n3", None, b"4\n", None, None, b""])

    def select(fds: list[int], *_: object) -> tuple[list[int], list[int], list[int]]:
        content = next(script)
        if content is None:
            return [], [], []
        os.write(write, content) if content else os.close(write)
        return fds, [], []

    monkeypatch.setattr(tool, "select", SimpleNamespace(select=select))
    piped(read, sink)
    os.close(read)
    assert [c.samples.tolist() for c in sink.chunks] == [[1.0, 2.0], [34.0], []]
    assert [c.index for c in sink.chunks] == [0, 2, 3]


def test_a_stop_before_the_first_line_sends_an_end_and_nothing_else(lines: Any) -> None:
    sink = Sink(stop_after=0)
    report = piped(lines("1\n2\n"), sink)
    assert sent(sink) == [("a", 0, Kind.END)]
    assert (report.samples, report.stopped) == (0, True)


def test_samples_that_the_publisher_did_not_take_are_not_counted_as_sent(lines: Any) -> None:
    sink = Sink(stop_after=2)
    report = piped(lines("".join(f"{k}\n" for k in range(1000))), sink)
    assert [c.index for c in data_of(sink)] == [0, 25]
    assert (report.samples, report.messages) == (50, 2)
    assert sent(sink)[-1] == ("a", 50, Kind.END)


def test_no_sample_off_a_slow_pipe_waits_for_longer_than_a_chunk_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    sink = Sink()
    came = [0.15 * k for k in range(1, 41)]  # 40 lines, and then the end
    pending = list(came)

    def select(fds: list[int], _w: object, _x: object, timeout: float) -> tuple[list[int], list[int], list[int]]:
        if pending and pending[0] - sink.now > timeout:
            sink.now += timeout
            return [], [], []
        if pending:
            sink.now = max(sink.now, pending.pop(0))
            os.write(write, b"1\n")
        else:
            os.close(write)
        return fds, [], []

    monkeypatch.setattr(tool, "select", SimpleNamespace(select=select))
    clock = SimpleNamespace(monotonic=lambda: sink.now, time_ns=lambda: int(sink.now * 1e9), time=lambda: sink.now)
    monkeypatch.setattr(tool, "time", clock)
    monkeypatch.setattr(bridge, "time", clock)
    piped(read, sink)
    os.close(read)
    waits = [at - came[c.index] for c, at in zip(sink.chunks, sink.times, strict=False) if c.kind is Kind.DATA]
    assert len(waits) > 1
    assert max(waits) <= 0.2 + 1e-9


def test_a_line_without_end_off_a_pipe_is_not_collected_without_bound(lines: Any) -> None:
    with pytest.raises(DataError, match="65536"):
        piped(lines(b"7" * 500_000), Sink())
