"""The path every sample takes, without a socket: the laws of the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import rules

from ppgstream.core import resampling
from ppgstream.core.confidence import Calibration
from ppgstream.core.denoiser import Answer, Batch, identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry, Plan
from ppgstream.core.rate import RateRules
from ppgstream.files import offline
from ppgstream.wire.message import EMPTY, MAX_COUNT, Chunk, Flag, Kind, decode, encode


def engine(**stream: object) -> Engine:
    return Engine(identity(250), rules(**stream, tile=8, answers="input"))


def settle(e: Engine) -> list[Chunk]:
    chunks = []
    while e.ready:
        chunks += e.step()
    return chunks


def send(
    e: Engine, x: np.ndarray, cuts: Sequence[int], *, stream: str = "a", session: int = 1, end: bool = True, at: int = 0
) -> list[Chunk]:
    chunks, now = [], 0.0
    edges = [0, *sorted(cuts), len(x)]
    for a, b in pairwise(edges):
        chunks += e.feed(Chunk(stream, session, at + a, x[a:b]), now)
        chunks += settle(e)
    if end:
        chunks += e.feed(Chunk(stream, session, at + len(x), EMPTY, Kind.END), now)
        chunks += settle(e)
    return chunks


def joined(chunks: list[Chunk]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """index, values, confidence, flags of all samples published."""
    found = [c for c in chunks if c.kind is Kind.DATA]
    if not found:
        return (np.empty(0, int),) * 4
    return (
        np.concatenate([np.arange(c.index, c.stop) for c in found]),
        np.concatenate([c.samples for c in found]),
        np.concatenate([c.confidence for c in found]),
        np.concatenate([c.flags for c in found]),
    )


def bumpy(n: int, seed: int, invalid: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    x = np.cumsum(np.random.default_rng(seed).standard_normal(n)) + 100
    for start, length in invalid:
        x[start : start + length] = np.nan
    return x


runs = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 80)), max_size=4)


@settings(max_examples=60)
@given(
    st.integers(1, 900),
    runs,
    st.lists(st.integers(0, 900), max_size=12),
    st.sampled_from([None, 0, 13, 100]),
    st.integers(0, 999),
)
def test_any_chunking_gives_the_same_output_bit_for_bit(
    n: int, invalid: list[tuple[int, int]], cuts: list[int], lookahead: int | None, seed: int
) -> None:
    x = bumpy(n, seed, invalid)
    rules = {"geometry": Geometry(lookahead=lookahead)}
    whole, parts = engine(**rules), engine(**rules)
    a = joined(send(whole, x, []))
    b = joined(send(parts, x, [c for c in cuts if c <= n]))
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(a[0], np.arange(n))  # every sample, in order, once
    assert np.isfinite(a[1]).all()
    finite = np.isfinite(x)
    np.testing.assert_allclose(a[1][finite], x[finite], rtol=1e-5, atol=1e-5)
    assert ((a[3] & Flag.NONFINITE) != 0).tolist() == (~finite).tolist()
    assert (a[2][~finite] == 0).all()
    for e in (whole, parts):
        assert e.unaccounted == 0
        assert e.ledger.invalid == np.count_nonzero(~finite)
        assert e.in_flight == 0


def test_a_stream_is_the_same_alone_or_among_many_others() -> None:
    rng = np.random.default_rng(5)
    alone = joined(send(engine(), bumpy(2000, 1), range(25, 2000, 25)))
    crowd, chunks = engine(), []
    signals = {f"s{k}": bumpy(2000, k) for k in range(40)}
    at = dict.fromkeys(signals, 0)
    while any(at[s] < 2000 for s in signals):
        name = str(rng.choice([s for s in signals if at[s] < 2000]))
        n = int(rng.integers(1, 120))
        chunks += crowd.feed(Chunk(name, 9, at[name], signals[name][at[name] : at[name] + n]), 0.0)
        at[name] = min(at[name] + n, 2000)
        if len(crowd.ready) > 5:
            chunks += crowd.step()
    chunks += crowd.flush(0.0) + settle(crowd)
    among = joined([c for c in chunks if c.stream == "s1"])
    for left, right in zip(alone, among, strict=True):
        np.testing.assert_array_equal(left, right)
    assert crowd.unaccounted == 0


events = st.lists(
    st.one_of(
        st.tuples(st.just("data"), st.integers(0, 12), st.integers(1, 70)),
        st.tuples(st.just("jump"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("late"), st.integers(1, 150), st.integers(1, 50)),
        st.tuples(st.just("nan"), st.integers(1, 90), st.just(0)),
        st.tuples(st.just("time"), st.integers(1, 40), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("session"), st.just(0), st.just(0)),
        st.tuples(st.just("status"), st.integers(0, 60), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(events, st.booleans())
def test_the_ledger_adds_up_after_every_step_whatever_arrives(script: list[tuple[str, int, int]], shed: bool) -> None:
    e, chunks = engine(), []
    now, index, session = 0.0, 0, 1
    for what, a, b in script:
        if what == "data":
            for _ in range(a):
                chunks += e.feed(Chunk("s", session, index, np.ones(b) * index), now)
                index += b
        elif what == "jump":
            index += a
        elif what == "late":
            chunks += e.feed(Chunk("s", session, max(index - a, 0), np.zeros(b)), now)
            index = max(index, max(index - a, 0) + b)
        elif what == "nan":
            chunks += e.feed(Chunk("s", session, index, np.full(a, np.nan)), now)
            index += a
        elif what == "time":
            now += a / 10
            chunks += e.expire(now) + e.end_idle(now, 3.0)
        elif what == "end":
            chunks += e.feed(Chunk("s", session, index + a, EMPTY, Kind.END), now)
        elif what == "status":
            chunks += e.feed(Chunk("s", session, index + a, EMPTY, Kind.STATUS), now)
        else:
            session, index = session + 1, 0
        assert e.unaccounted == 0
        if len(e.ready) > 3:
            chunks += e.step(shed=shed)
            assert e.unaccounted == 0
    chunks += e.flush(now)
    while e.ready:
        chunks += e.step(shed=shed)
    assert e.unaccounted == 0
    assert e.in_flight == 0
    ledger = e.ledger
    published = sum(len(c.samples) for c in chunks if c.kind is Kind.DATA)
    assert published == e.counts.accepted == ledger.published
    # Nothing twice, and within a session nothing out of order; what is missing in between is in a GAP record.
    reached: dict[int, int] = {}
    for c in chunks:
        assert c.index >= reached.get(c.session, 0)
        if c.kind is Kind.DATA:
            assert c.session not in reached or c.index == reached[c.session]
            reached[c.session] = c.stop
        elif c.kind is Kind.GAP:
            reached[c.session] = c.stop


def test_a_short_run_of_lost_samples_is_bridged_for_the_model_and_never_published() -> None:
    e, x = engine(), bumpy(1000, 2)
    seen: list[Batch] = []

    def watched(batch: Batch) -> Answer:
        seen.append(batch)
        return Answer(batch.x)

    e.denoiser = watched
    chunks = send(e, x[:400], [], end=False)
    chunks += e.feed(Chunk("a", 1, 450, x[450:]), 0.0) + settle(e)  # 50 lost
    chunks += e.feed(Chunk("a", 1, 1000, EMPTY, Kind.END), 0.0) + settle(e)
    index, values, _, flags = joined(chunks)
    np.testing.assert_array_equal(index, [*range(400), *range(450, 1000)])
    np.testing.assert_allclose(values, x[index], rtol=1e-5)
    assert np.flatnonzero(flags & Flag.GAP).tolist() == [400]
    assert [(c.index, c.missing) for c in chunks if c.kind is Kind.GAP] == [(400, 50)]
    assert any((~b.valid).sum(axis=1).max() == 50 for b in seen)
    assert e.counts.gap == 50
    assert e.ledger.denoised == 950


def test_a_longer_gap_starts_a_fresh_window_and_no_window_spans_it() -> None:
    e, x = engine(), bumpy(1200, 3)
    chunks = send(e, x[:400], [], end=False)
    chunks += e.feed(Chunk("a", 1, 451, x[451:]), 0.0) + settle(e)  # 51 lost
    chunks += e.feed(Chunk("a", 1, 1200, EMPTY, Kind.END), 0.0) + settle(e)
    index, values, _, _ = joined(chunks)
    np.testing.assert_array_equal(index, [*range(400), *range(451, 1200)])
    np.testing.assert_allclose(values, x[index], rtol=1e-5)


def test_a_segment_shorter_than_a_window_passes_through_and_says_so() -> None:
    e, x = engine(), bumpy(249, 4)
    index, values, confidence, flags = joined(send(e, x, [100]))
    np.testing.assert_array_equal(values, x)
    assert ((flags & Flag.PASSTHROUGH) != 0).all()
    assert (confidence == 0).all()
    assert e.ledger.passthrough == len(index) == 249


def test_nan_is_published_as_the_last_finite_value_and_as_0_if_there_was_none() -> None:
    e = engine()
    x = np.concatenate([np.full(10, np.nan), np.full(300, 5.0) + np.arange(300), np.full(60, np.inf)])
    _, values, _, flags = joined(send(e, x, []))
    assert (values[:10] == 0).all()
    np.testing.assert_allclose(values[310:], values[309])
    assert ((flags & Flag.NONFINITE) != 0).sum() == 70
    assert e.ledger.invalid == 70


def test_what_the_output_could_not_hold_is_invalid_too() -> None:
    x = bumpy(300, 1)
    x[100] = 1e300
    _, values, _, flags = joined(send(engine(), x, []))
    assert np.isfinite(values.astype(np.float32)).all()
    assert flags[100] & Flag.NONFINITE


def test_a_flat_line_stays_flat_and_is_called_lead_off() -> None:
    def inventive(batch: Batch) -> Answer:
        return Answer(np.tile(np.sin(np.arange(250) / 15).astype(np.float32), (len(batch.x), 1)))

    for answers in ("clean", "input"):
        e = Engine(inventive, rules(answers=answers))
        _, values, confidence, flags = joined(send(e, np.full(1000, 512.0), []))
        np.testing.assert_array_equal(values, 512.0)
        assert ((flags & Flag.LEAD_OFF) != 0).all()
        assert (confidence == 0).all()


def test_a_clipped_run_is_flagged_saturated_where_it_is() -> None:
    x = bumpy(500, 6)
    x[300:330] = x.max() + 1
    _, _, _, flags = joined(send(engine(), x, []))
    assert np.flatnonzero(flags & Flag.SATURATED).tolist() == list(range(300, 330))
    assert ((flags[300:330] & Flag.FLAT) != 0).all()


def test_an_answer_that_is_not_finite_is_shed_and_reported() -> None:
    e = Engine(lambda batch: Answer(np.full_like(batch.x, np.nan)), rules())
    x = bumpy(600, 7)
    _, values, _, flags = joined(send(e, x, []))
    np.testing.assert_array_equal(values, x)
    assert ((flags & Flag.SHED) != 0).all()
    assert e.ledger.shed == 600
    assert {event.name for event in e.events} - {"breathing"} == {"bad_answer"}  # its baseline moves


def test_shed_windows_pass_their_samples_on_as_they_came() -> None:
    e, x = engine(), bumpy(700, 8)
    chunks = e.feed(Chunk("a", 1, 0, x), 0.0)
    while e.ready:
        chunks += e.step(shed=True)
    chunks += e.flush(0.0)
    while e.ready:
        chunks += e.step(shed=True)
    index, values, confidence, flags = joined(chunks)
    np.testing.assert_array_equal(index, np.arange(700))
    np.testing.assert_array_equal(values, x)
    assert ((flags & Flag.SHED) != 0).all()
    assert (confidence == 0).all()
    assert e.ledger.shed == 700


def test_a_second_publisher_is_refused_until_the_first_ends_or_falls_silent() -> None:
    e, x = engine(), bumpy(300, 9)
    e.feed(Chunk("a", 1, 0, x), 0.0)
    e.feed(Chunk("a", 2, 0, x), 1.0)
    assert e.ledger.refused == 300
    assert e.events[0].name == "second_publisher"
    assert "0000000000000002" in e.events[0].text
    e.feed(Chunk("a", 2, 0, x), 2.0)  # no longer than its batch took to measure
    assert e.streams["a"].session == 1
    e.feed(Chunk("a", 2, 0, x), 3.7)  # half as long again
    assert e.streams["a"].session == 2
    assert e.streams["a"].intake.sessions.unclean == 1
    e.feed(Chunk("a", 2, 300, EMPTY, Kind.END), 3.8)
    e.feed(Chunk("a", 3, 0, x), 3.9)
    assert e.streams["a"].session == 3
    assert e.unaccounted == 0


def test_an_end_counts_the_tail_that_was_lost() -> None:
    e = engine()
    chunks = send(e, bumpy(500, 1), [], end=False)
    chunks += e.feed(Chunk("a", 1, 900, EMPTY, Kind.END), 0.0) + settle(e)
    assert e.counts.gap == 400
    assert [(c.kind, c.index) for c in chunks][-2:] == [(Kind.GAP, 500), (Kind.END, 900)]
    assert not chunks[-1].unclean


def test_a_session_that_never_ended_is_unclean() -> None:
    e = engine()
    chunks = send(e, bumpy(500, 1), [], end=False)
    chunks += e.flush(0.0) + settle(e)
    assert chunks[-1].kind is Kind.END
    assert chunks[-1].unclean
    assert e.unclean == 1
    np.testing.assert_array_equal(joined(chunks)[0], np.arange(500))


def test_a_session_ended_for_its_silence_goes_on_where_it_was() -> None:
    e, x = engine(), bumpy(1000, 1)
    chunks = send(e, x[:500], [], end=False)
    chunks += e.end_idle(31.0, 30.0) + settle(e)
    chunks += e.feed(Chunk("a", 1, 600, x[600:]), 40.0) + settle(e)
    chunks += e.feed(Chunk("a", 1, 1000, EMPTY, Kind.END), 41.0) + settle(e)
    np.testing.assert_array_equal(joined(chunks)[0], [*range(500), *range(600, 1000)])
    assert [(c.index, c.missing) for c in chunks if c.kind is Kind.GAP] == [(500, 100)]
    assert e.counts.gap == 100
    assert e.unaccounted == 0


def test_a_rate_that_is_not_what_it_says_is_an_event() -> None:
    e = engine()
    for k in range(0, 3000, 25):
        e.feed(Chunk("a", 1, k, bumpy(25, k), t_ns=10**18 + round(k / 121 * 1e9)), k / 121)
    assert e.streams["a"].intake.rate.measured == pytest.approx(121, rel=1e-3)
    assert [event.name for event in e.events if event.name != "polarity"] == ["wrong_rate"], "once a minute"


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize("fs", [100.0, 120.0, 124.0, 126.0, 130.0, 200.0])
def test_where_rates_differ_no_heart_rate_is_told(fs: float, stated: bool) -> None:
    """By the sensor's stamps, and by arrival where it says no time."""
    e = Engine(
        identity(250),
        rules(geometry=Geometry(hop=50), rate=RateRules(), clocked_by_arrival=not stated, answers="input"),
    )
    x = 100 * np.sin(2 * np.pi * 1.25 * np.arange(200 * 125) / 125)
    beats, flags = [], {}
    for k in range(0, len(x), 25):
        t_ns = 10**18 + round(k / fs * 1e9) if stated else 0
        chunks = e.feed(Chunk("a", 1, k, x[k : k + 25], t_ns=t_ns), k / fs)
        while e.ready:
            chunks += e.step()
        beats += [(c.index, c.beats) for c in chunks if c.beats is not None]
        flags |= {c.index: c.flags for c in chunks if c.flags is not None}
    wrong = abs(fs / 125 - 1) > 0.02
    told = [(index, b) for index, b in beats if index > 30 * 125]
    assert told
    for _, b in told:
        assert np.isnan(b.bpm) == wrong
        assert not wrong or (b.bpm_confidence == 0 and np.isnan(b.interval_ms).all() and not b.confidence.any())
    assert all(((f & Flag.WRONG_RATE) != 0).all() == wrong for index, f in flags.items() if index > 30 * 125)
    names = [event.name for event in e.events if event.name in ("wrong_rate", "fs_off")]
    seconds = len(x) / fs
    assert names.count("wrong_rate") == (0 if not wrong else pytest.approx(seconds / 60, abs=1.01))
    if stated and not wrong:
        assert [c for index, c in beats if index < 10 * 125]


def test_the_sensors_time_reaches_the_output() -> None:
    e, t0 = engine(), 1_700_000_000_000_000_000
    x, chunks = bumpy(600, 1), []
    for k in range(0, 600, 25):
        chunks += e.feed(Chunk("a", 1, k, x[k : k + 25], t_ns=t0 + k * 8_000_000), 0.0) + settle(e)
    chunks += e.feed(Chunk("a", 1, 600, EMPTY, Kind.END), 0.0) + settle(e)
    assert all(c.t_ns == t0 + c.index * 8_000_000 for c in chunks if c.kind is Kind.DATA)


def test_the_oldest_ended_stream_makes_room_and_live_ones_do_not() -> None:
    e = Engine(identity(250), rules(tile=8, answers="input", max_streams=2))
    send(e, bumpy(300, 1), [], stream="a")
    e.feed(Chunk("b", 1, 0, bumpy(300, 1)), 1.0)
    e.feed(Chunk("c", 1, 0, bumpy(300, 1)), 2.0)
    assert set(e.streams) == {"b", "c"}
    e.feed(Chunk("d", 1, 0, bumpy(300, 1)), 3.0)
    assert e.refused == 300
    assert "max_streams" in e.events[-1].text
    assert e.counts.accepted == 900
    assert e.unaccounted == 0


@pytest.mark.parametrize(("streams", "taken"), [(1, 4), (3, 4), (6, 6), (9, 8)])
def test_while_few_streams_wait_a_tile_is_small(streams: int, taken: int) -> None:
    """So that others do not wait for a whole tile of one stream's windows."""
    e = Engine(identity(250), rules(tile=8, few=4, answers="input"))
    for k in range(streams):
        e.feed(Chunk(f"s{k}", 1, 0, bumpy(1000, k)), 0.0)
    assert len(e.take().ready) == taken


def chunks_of(x: np.ndarray, at: int, *, session: int = 1, size: int = 25) -> list[Chunk]:
    return [Chunk("a", session, at + k, x[k : k + size]) for k in range(0, len(x), size)]


def feed_all(e: Engine, chunks: list[Chunk]) -> list[Chunk]:
    published = []
    for number, chunk in enumerate(chunks):
        published += e.feed(chunk, number * 0.2) + settle(e)
        assert e.unaccounted == 0
    return published


def test_a_sensor_that_counts_anew_goes_on_as_another_session() -> None:
    e = engine()
    first, second = bumpy(2500, 1), bumpy(2500, 2)
    published = feed_all(e, [*chunks_of(first, 0), *chunks_of(second, 0)])
    published += e.flush(0.0) + settle(e)
    assert [event.name for event in e.events if event.name == "restart"] == ["restart"]
    assert "fell from 2500 to 0" in next(event.text for event in e.events if event.name == "restart")
    data = [c for c in published if c.kind is Kind.DATA]
    for session, x in ((1, first), (2, second)):
        index = np.concatenate([np.arange(c.index, c.stop) for c in data if c.session == session])
        np.testing.assert_array_equal(index, np.arange(len(x)))
        values = np.concatenate([c.samples for c in data if c.session == session])
        np.testing.assert_allclose(values, x, rtol=1e-5, atol=1e-4)
    assert (e.counts.duplicates, e.unaccounted) == (0, 0)
    third = bumpy(500, 3)
    published = feed_all(e, [*chunks_of(third, 5000), *chunks_of(third, 0)]) + e.flush(0.0) + settle(e)
    assert sum(event.name == "restart" for event in e.events) >= 1


def test_messages_that_come_again_are_repeats_and_no_restart() -> None:
    e = engine()
    x = chunks_of(bumpy(2500, 1), 0)
    feed_all(e, [*x, *x[40:90], *x[90:]])
    assert not [event for event in e.events if event.name == "restart"]
    assert e.counts.duplicates == 60 * 25


def test_late_messages_of_a_gap_are_no_restart() -> None:
    e = engine()
    x = chunks_of(bumpy(2500, 1), 0)
    feed_all(e, [*x[:20], *x[60:], *x[20:60]])
    assert not [event for event in e.events if event.name == "restart"]
    assert e.counts.rejected == 40 * 25


def test_old_samples_of_unknown_content_are_repeats_unless_three_messages_rise() -> None:
    e = engine()
    x = chunks_of(bumpy(2500, 1), 0)
    feed_all(e, [*x[:90], *chunks_of(bumpy(50, 5), 0), *x[90:]])
    assert not [event for event in e.events if event.name == "restart"]
    assert e.counts.duplicates == 50
    assert e.unaccounted == 0


def test_an_index_that_counts_messages_is_said() -> None:
    e = engine()
    x = bumpy(2500, 1)
    feed_all(e, [Chunk("a", 1, k, x[25 * k : 25 * k + 25]) for k in range(100)])
    assert "must count samples" in next(event.text for event in e.events if event.name == "index_counts_messages")


def test_a_session_joined_late_is_said() -> None:
    e = engine()
    feed_all(e, chunks_of(bumpy(500, 1), 2500))
    assert [event.text for event in e.events if event.name == "late_join"] == [
        "a: joined at index 2500: the samples before it did not reach this daemon"
    ]
    assert all(event.stream == "a" for event in e.events)


def test_a_sender_without_a_clock_is_clocked_by_arrival() -> None:
    for rate, told in ((55.0, 1), (125.0, 0), (123.0, 0), (121.0, 1)):
        e = engine(clocked_by_arrival=True)
        x = bumpy(4000, 1)
        for k in range(0, 4000, 25):
            e.feed(Chunk("a", 1, k, x[k : k + 25]), k / rate)
        assert min(sum(event.name == "wrong_rate" for event in e.events), 1) == told
        assert e.streams["a"].intake.rate.measured == pytest.approx(rate, rel=0.02)


def test_a_network_that_tells_its_error_gives_each_sample_its_confidence() -> None:
    log_var = np.full(250, np.log(0.25))
    log_var[:125] = -8.0

    def answer(batch: Batch) -> Answer:
        return Answer(batch.x, np.tile(log_var, (len(batch.x), 1)).astype(np.float32))

    x = 7 + np.sin(np.arange(2000) / 15) + 0.01 * np.random.default_rng(1).standard_normal(2000)
    e = Engine(answer, rules(geometry=Geometry(250, 49), tile=8, answers="input", scaling="standard"))
    out = offline.denoise(x, e, fs=125.0, dtype="f8")
    np.testing.assert_allclose(out.denoised, x, atol=1e-6)
    assert out.confidence[0] > 0.99  # only the first window's first half is over it: nothing had to be agreed with
    assert out.confidence[-1] == pytest.approx(0.5, abs=1e-3)
    assert 0.5 < out.confidence[1000] < 1.0
    flat = offline.denoise(np.full(600, 3.0), Engine(answer, e.rules), fs=125.0)
    assert (flat.confidence == 0).all()


def test_a_gap_at_a_session_s_start_is_published_though_four_newer_ones_came_first() -> None:
    e = engine()
    for session in range(1, 9):  # none is published before the last has come: the first's window waits
        e.feed(Chunk("a", session, 10, bumpy(300, session)), 0.0)
        e.feed(Chunk("a", session, 310, EMPTY, Kind.END), 0.0)
    chunks = settle(e)
    gaps = [(c.session, c.index, c.missing) for c in chunks if c.kind is Kind.GAP]
    assert sorted({session for session, index, missing in gaps if (index, missing) == (0, 10)}) == list(range(1, 9))


@pytest.mark.parametrize("fs", [125.0, 1000.0])
@pytest.mark.parametrize("kind", ["a pulse", "nearly flat", "missing"])
@pytest.mark.parametrize("before", [0, 24, 100, 300])
def test_what_is_published_at_once_fits_a_message(fs: float, kind: str, before: int) -> None:
    e = Engine(identity(250), rules(tile=8, answers="input", rate=RateRules()))
    rng, n = np.random.default_rng(0), before + 2 * MAX_COUNT
    x = 1000 + (
        np.sin(np.arange(n) / fs * 8) + 0.1 * rng.standard_normal(n) if kind == "a pulse" else rng.integers(0, 2, n) * 1e-3
    )
    if kind == "missing":
        x[1 : MAX_COUNT + 1] = np.nan
    cuts = [0, before, before + MAX_COUNT, n] if before else [0, MAX_COUNT, n]
    chunks: list[Chunk] = []
    for a, b in pairwise(cuts):
        chunks += e.feed(Chunk("a", 1, a, x[a:b], fs=fs), 0.0)
        chunks += settle(e)
    chunks += e.feed(Chunk("a", 1, n, EMPTY, Kind.END, fs), 0.0)
    chunks += settle(e)
    for chunk in chunks:
        assert decode(encode(chunk)).stop == chunk.stop
    assert len(joined(chunks)[0]) == n
    assert (joined(chunks)[0] == np.arange(n)).all()
    assert e.unaccounted == e.in_flight == 0


@pytest.mark.parametrize("fs", [125.0, 50.0, 250.0])
@pytest.mark.parametrize("at", [2**32 * 1000, 2**62 - 1000, 2**63 - 5000])
def test_a_large_index_changes_nothing_but_the_index(at: int, fs: float) -> None:
    x, cuts = bumpy(3000, 3, [(700, 710)]), list(range(25, 3000, 25))
    by_rows = Calibration(0.0, {"confidence": 1.0, "rhythm": 1.0})

    def published(at: int) -> list[Chunk]:
        e = Engine(identity(250), rules(tile=8, answers="input", calibration=by_rows, rate=RateRules(), stated_fs=fs))
        return send(e, x, cuts, at=at)

    at -= at % 250
    small, large = published(1000 * 250), published(at)
    assert (joined(small)[0].astype(object) - 1000 * 250 == joined(large)[0].astype(object) - at).all()
    for one, two in zip(joined(small)[1:], joined(large)[1:], strict=True):
        assert one.tobytes() == two.tobytes()
    assert [c.beats.bpm for c in small if c.beats] == pytest.approx([c.beats.bpm for c in large if c.beats], nan_ok=True)


@pytest.mark.parametrize("layout", ["every second", "backwards", "big-endian", "a column", "read-only"])
def test_samples_and_answers_of_any_layout_in_memory_give_the_same_bytes(layout: str) -> None:
    def laid(x: np.ndarray) -> np.ndarray:
        """The same values, otherwise in memory."""
        if layout == "big-endian":
            return x.astype(x.dtype.newbyteorder(">"))
        if layout == "a column" and x.ndim == 2:
            return np.asfortranarray(x)
        if layout == "read-only":
            x = x.copy()
            x.flags.writeable = False
            return x
        step = -1 if layout == "backwards" else 2
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
        view = wide[..., : x.shape[-1]] if step < 0 else wide
        view[..., ::step] = x
        return np.asarray(view[..., ::step])

    def answer(batch: Batch) -> Answer:
        return Answer(laid(batch.x[:, -250:]))

    x = bumpy(1500, 3, [(700, 710)])
    plain = send(engine(), x, list(range(25, 1500, 25)))
    other = Engine(answer, rules(tile=8, answers="input"))
    chunks = send(other, laid(x), list(range(25, 1500, 25)))
    for one, two in zip(joined(plain), joined(chunks), strict=True):
        assert one.tobytes() == two.tobytes()
    assert (resampling.states_of(x, 125.0, 50)[0] == resampling.states_of(laid(x), 125.0, 50)[0]).all()


def doubled(batch: Batch) -> Answer:
    """Another network: it answers twice as much."""
    return Answer(2 * batch.x[:, -250:])


@pytest.mark.parametrize("fs", [125.0, 100.0, 360.0])
@pytest.mark.parametrize("under_way", [False, True], ids=["nothing under way", "windows under way"])
def test_another_checkpoint_takes_over_between_windows_and_no_sample_is_lost(fs: float, under_way: bool) -> None:
    first = rules(tile=8, answers="input", scaling="none", rate=RateRules(), checkpoint=b"1" * 8)
    e = Engine(identity(250), first)
    n, half = round(40 * fs), round(20 * fs)
    x = 100 + bumpy(n, 3)
    chunks: list[Chunk] = []

    def feed(a: int, b: int, *, settled: bool = True) -> None:
        for k in range(a, b, 25):
            chunks.extend(e.feed(Chunk("a", 1, k, x[k : min(k + 25, b)], fs=fs), 0.0))
            if settled:
                chunks.extend(settle(e))

    few = round(3 * fs) if under_way else 0
    feed(0, half - few)
    feed(half - few, half, settled=False)
    taken = e.take() if under_way else None
    e.change(replace(first.plan, checkpoint=b"2" * 8), doubled)
    if taken is not None:
        chunks += e.finish(taken, identity(250)(taken.batch))
    chunks += settle(e)
    feed(half, n)
    chunks += e.feed(Chunk("a", 1, n, EMPTY, Kind.END, fs), 0.0)
    chunks += settle(e)
    index, values, _, _ = joined(chunks)
    assert index.tolist() == list(range(n))
    assert e.unaccounted == 0
    ids = np.concatenate([np.full(len(c.samples), c.checkpoint[0]) for c in chunks if c.kind is Kind.DATA])
    assert (np.diff(ids) >= 0).all()  # one id, and then the other
    assert set(ids.tolist()) == {ord("1"), ord("2")}
    changed = int(np.argmax(ids == ord("2")))
    ratio = values / x
    assert np.abs(ratio[: changed - round(2.1 * fs)] - 1).max() < 0.02
    assert np.abs(ratio[half + round(2.1 * fs) :] - 2).max() < 0.03
    assert ratio.min() > 0.97
    assert ratio.max() < 2.05  # between, a mean of both
    assert half - few - 2.5 * fs < changed <= half


def test_a_checkpoint_whose_windows_lie_otherwise_is_refused_and_the_other_goes_on() -> None:
    first = rules(tile=8, answers="input")
    e = Engine(identity(250), first)
    for plan, told in (
        (replace(first.plan, fs=100.0), "the rate differ"),
        (replace(first.plan, geometry=Geometry(hop=40)), "the windows differ"),
        (replace(first.plan, output="model"), "the output differ"),
        (replace(first.plan, rate=RateRules()), "the beats differ"),
    ):
        with pytest.raises(ValueError, match=told):
            e.change(plan, doubled)
    assert isinstance(e.rules.plan, Plan)
    assert e.rules is first
