"""Cutting and averaging back: what goes in comes out, wherever the windows lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppgstream.core.measured import LOST, MEASURED
from ppgstream.core.plan import Geometry, Plan
from ppgstream.core.segments import Released, Segment, Window


def through(x: np.ndarray, geometry: Geometry, chunks: list[int]) -> list[Released]:
    """x through a segment in chunks, each window answered with itself."""
    segment = Segment(1, 7, Plan(geometry))
    released: list[Released] = []

    def answer(windows: list[Window]) -> None:
        for window in windows:
            segment.add(window.start, window.x[geometry.context :], np.zeros(geometry.window, np.uint16))
            part = segment.release()
            if part is not None:
                released.append(part)

    at = 0
    for n in chunks:
        segment.append(x[at : at + n])
        at += n
        answer(segment.cut())
    segment.append(x[at:])
    answer(segment.cut())
    answer(segment.close())
    part = segment.release()
    return released + ([part] if part is not None else [])


geometries = st.builds(
    lambda window, hop, context, share, overlap: Geometry(window, min(hop, window), context, int(share * (window - 1)), overlap),
    st.integers(8, 60),
    st.integers(1, 60),
    st.integers(0, 30),
    st.floats(0, 1),
    st.sampled_from(["hann", "uniform"]),
)


@given(geometries, st.integers(0, 400), st.lists(st.integers(1, 90), max_size=20), st.integers(0, 2**32))
def test_averaging_undoes_windowing_for_every_geometry_and_chunking(g: Geometry, n: int, chunks: list[int], seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal(n) * 100
    cut, total = [], 0
    for c in chunks:
        if total + c <= n:
            cut.append(c)
            total += c
    parts = through(x, g, cut)
    if not n:
        assert parts == []
        return
    index = np.concatenate([np.arange(p.index, p.index + len(p.values)) for p in parts])
    np.testing.assert_array_equal(index, np.arange(7, 7 + n))
    values = np.concatenate([p.values for p in parts])
    np.testing.assert_allclose(values, x, rtol=1e-12, atol=1e-12)
    once = np.concatenate([p.values for p in through(x, g, [])])
    np.testing.assert_array_equal(values, once)  # bit for bit


def test_uniform_weights_return_whole_numbers_exactly() -> None:
    x = np.random.default_rng(1).integers(-1000, 1000, 777).astype(float)
    parts = through(x, Geometry(overlap="uniform"), [])
    np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), x)


@pytest.mark.parametrize(("hop", "lookahead"), [(13, 49), (13, 20), (49, 49), (49, 100), (50, 150), (50, None)])
def test_windows_that_disagree_leave_no_step_at_the_hop(hop: int, lookahead: int | None) -> None:
    """Each answer is at a level of its own. Where two or more cover a sample, the level moves over a hop, and never in one
    step."""
    g, rng = Geometry(hop=hop, lookahead=lookahead), np.random.default_rng(3)
    segment, parts = Segment(1, 0, Plan(g)), []
    for _ in range(4000):
        segment.append(np.zeros(1))
        for window in segment.cut():
            segment.add(window.start, np.full(g.window, rng.uniform(-1, 1)), np.zeros(g.window, np.uint16))
            parts.append(segment.release())
    y = np.concatenate([p.values for p in parts if p is not None])[500:]
    assert np.ptp(y) > 0.3
    assert np.abs(np.diff(y)).max() < 5 / hop  # a step would be up to 2; evenly spread over the hop, 2 / hop


@pytest.mark.parametrize(("lookahead", "least"), [(None, 200), (249, 200), (200, 200), (100, 100), (13, 13), (0, 0)])
def test_a_sample_waits_for_its_lookahead_and_at_most_a_hop_more(lookahead: int | None, least: int) -> None:
    g = Geometry(lookahead=lookahead)
    segment, waits = Segment(1, 0, Plan(g)), []
    for n in range(2000):
        segment.append(np.array([float(n)]))
        for window in segment.cut():
            segment.add(window.start, window.x, np.zeros(250, np.uint16))
            part = segment.release()
            assert part is not None
            if window.start:  # a segment's first window is exempt
                waits += [n - i for i in range(part.index, part.index + len(part.values))]
    assert min(waits) == least
    assert max(waits) == least + 49


def test_context_is_what_came_before_and_is_invalid_where_nothing_did() -> None:
    segment = Segment(1, 0, Plan(Geometry(window=20, hop=10, context=15)))
    segment.append(np.arange(60.0))
    windows = segment.cut()
    assert [len(w.x) for w in windows] == [35] * 5
    assert windows[0].state.tolist() == [LOST] * 15 + [MEASURED] * 20
    assert windows[1].state.tolist() == [LOST] * 5 + [MEASURED] * 30
    np.testing.assert_array_equal(windows[2].x, np.arange(5.0, 40.0))
    assert (windows[2].state == MEASURED).all()


def test_an_answer_that_repeats_the_last_one_is_trusted_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(3)
    g = Geometry()
    x = np.sin(np.arange(1000) / 10)

    def mean_confidence(noise: float) -> float:
        segment, found = Segment(1, 0, Plan(g)), []
        segment.append(x)
        for window in segment.cut():
            segment.add(window.start, window.x + noise * rng.standard_normal(250), np.zeros(250, np.uint16))
            part = segment.release()
            assert part is not None
            found.append(part.confidence)
        return float(np.concatenate(found[5:]).mean())

    assert mean_confidence(0.0) == pytest.approx(1.0)
    assert mean_confidence(3.0) < 0.2


def test_memory_does_not_grow_with_the_length_of_a_segment() -> None:
    segment = Segment(1, 0, Plan())
    for _ in range(2000):
        segment.append(np.zeros(25))
        for window in segment.cut():
            segment.add(window.start, window.x, np.zeros(250, np.uint16))
            segment.release()
    assert segment.stop == 50_000
    assert len(segment.x) < 1000


def test_the_first_answer_follows_the_level_of_its_input_and_no_other_does() -> None:
    """At a stretch's start a network sees nothing of what was before: its answer may lie half a pulse off there."""
    geometry = Geometry(250, 50)
    x = 5 + np.sin(np.arange(600) / 16)
    segment = Segment(1, 0, Plan(geometry))
    segment.append(x)
    windows = segment.cut()
    ramp = np.maximum(1 - np.arange(250) / 125, 0)
    for k, window in enumerate(windows):
        a = window.start
        segment.add(a, x[a : a + 250] - (0.8 * ramp if k == 0 else 0.0), np.zeros(250, np.uint16), np.ones(250))
    released = segment.release()
    assert released is not None
    assert np.abs(released.values - x[: len(released.values)]).max() < 1e-9
