"""What lies between the sockets and the model: turns, workers, and when a message came."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppgstream.core.clock import SPAN_S, ArrivalClock
from ppgstream.core.denoiser import Answer, Batch, Denoiser, identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Plan, SensorRules
from ppgstream.core.ready import Ready, ReadyQueue
from ppgstream.core.scaling import standard_scale_of
from ppgstream.core.segments import Segment, Window
from ppgstream.core.stream import Stream
from ppgstream.core.tile import Tile
from ppgstream.live import workers as workers_module
from ppgstream.live.workers import Found, Workers

STREAMS = {name: Stream(name, Plan(), SensorRules()) for name in "abcd"}


def ready(stream: str, number: int) -> Ready:
    STREAMS[stream].track.segments[number] = Segment(number, 0, Plan())
    window = Window(number, number, np.zeros(250), np.zeros(250, np.uint8))
    return Ready(STREAMS[stream], window, float(number), float(number))


def tile_of(*windows: Ready) -> Tile:
    """Windows as a tile; the model sees each window's number."""
    n = len(windows)
    x, state = np.stack([r.window.x for r in windows]), np.stack([r.window.state for r in windows])
    seen = np.repeat([[np.float32(r.window.start)] for r in windows], 250, axis=1)
    return Tile(Plan(), list(windows), x, state, np.ones((n, 1)), standard_scale_of(x, state == 0), Batch(seen, state == 0))


def named(taken: list[Ready]) -> list[tuple[str, int]]:
    return [(r.stream.name, r.window.start) for r in taken]


def test_a_flood_waits_behind_itself() -> None:
    queue = ReadyQueue()
    for number in range(100):
        queue.put(ready("a", number))
    queue.put(ready("b", 0))
    queue.put(ready("c", 0))
    queue.put(ready("b", 1))
    assert len(queue) == 103
    assert named(queue.take(4)) == [("a", 0), ("b", 0), ("c", 0), ("a", 1)]
    assert named(queue.take(3)) == [("b", 1), ("a", 2), ("a", 3)]
    assert queue.next_read_at == 4.0
    assert len(queue) == 96


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=60))
def test_windows_of_a_stream_stay_in_order_and_none_is_lost(script: list[tuple[str, int]]) -> None:
    queue, put, taken = ReadyQueue(), dict.fromkeys("abcd", 0), list[tuple[str, int]]()
    for name, take in script:
        queue.put(ready(name, put[name]))
        put[name] += 1
        taken += named(queue.take(take))
        assert len(queue) == sum(put.values()) - len(taken)
        assert bool(queue) == (len(queue) > 0)
    taken += named(queue.take(1000))
    for name in "abcd":
        assert [number for own, number in taken if own == name] == list(range(put[name]))


# ---- workers -------------------------------------------------------------------------------------------------------


def finished(workers: Workers, number: int) -> list[tuple[Tile, Found]]:
    import select

    found: list[Any] = []
    while len(found) < number:
        assert select.select([workers], [], [], 30.0)[0], "no bell"
        found += workers.take_back()
    return found


@pytest.fixture
def with_workers(request: pytest.FixtureRequest) -> Callable[..., Workers]:
    def make(denoiser: Denoiser, threads: int) -> Workers:
        workers = Workers(denoiser, threads)
        request.addfinalizer(workers.close)
        return workers

    return make


def test_tiles_come_back_in_the_order_in_which_they_went(with_workers: Callable[..., Workers]) -> None:
    first_may_go = threading.Event()

    def denoiser(batch: Batch) -> Answer:
        if batch.x[0, 0] == 0:
            first_may_go.wait(30)
        else:
            first_may_go.set()
        return Answer(batch.x)

    workers = with_workers(denoiser, 2)
    for number in range(3):
        assert not workers.full
        workers.hand_over(tile_of(ready("a", number)), shed=number == 2)
    assert workers.full
    assert (len(workers), workers.windows) == (3, 3)
    back = finished(workers, 3)
    assert [tile.ready[0].window.start for tile, _ in back] == [0, 1, 2]
    assert [None if found is None else found.y[0, 0] for _, found in back] == [0, 1, None]
    assert (len(workers), workers.windows) == (0, 0)


def test_a_model_that_fails_is_told_and_the_worker_goes_on(with_workers: Callable[..., Workers]) -> None:
    def denoiser(batch: Batch) -> Answer:
        if batch.x[0, 0] == 0:
            raise MemoryError("no room")
        return Answer(batch.x)

    workers = with_workers(denoiser, 1)
    workers.hand_over(tile_of(ready("a", 0), ready("b", 0)))
    workers.hand_over(tile_of(ready("a", 1)))
    (tile, failed), (_, fine) = finished(workers, 2)
    assert isinstance(failed, MemoryError)
    assert isinstance(fine, Answer)
    engine = Engine(identity(250))
    engine.finish(tile, failed)
    assert engine.events[0].name == "model_failed"
    assert engine.events[0].text == "a: the model failed on a tile of 2 windows: shed: MemoryError: no room"


@pytest.mark.parametrize(
    ("y", "log_var", "told"),
    [
        ((2, 10), None, r"y of the answer must have the shape \(2, 250\), got \(2, 10\)"),
        ((1, 250), None, r"y of the answer .* got \(1, 250\)"),
        ((3, 250), None, r"y of the answer .* got \(3, 250\)"),
        ((500,), None, r"y of the answer .* got \(500,\)"),
        ((2, 250), (1, 250), r"log_var of the answer must have the shape \(2, 250\), got \(1, 250\)"),
        ((2, 250), (2, 1), r"log_var of the answer .* got \(2, 1\)"),
    ],
)
def test_an_answer_of_another_shape_is_an_error_and_its_tile_is_published_as_it_came(
    y: tuple[int, ...], log_var: tuple[int, ...] | None, told: str, with_workers: Callable[..., Workers]
) -> None:
    def denoiser(batch: Batch) -> Answer:
        return Answer(np.zeros(y, np.float32), None if log_var is None else np.zeros(log_var, np.float32))

    workers = with_workers(denoiser, 1)
    workers.hand_over(tile_of(ready("a", 0), ready("b", 0)))
    ((tile, found),) = finished(workers, 1)
    assert isinstance(found, ValueError)
    assert re.search(told, str(found))
    engine = Engine(identity(250))
    engine.finish(tile, found)
    assert [event.name for event in engine.events] == ["model_failed"]


def test_what_is_no_answer_is_an_error(with_workers: Callable[..., Workers]) -> None:
    workers = with_workers(lambda batch: None, 1)
    workers.hand_over(tile_of(ready("a", 0)))
    ((_, found),) = finished(workers, 1)
    assert isinstance(found, Exception)


def test_tiles_are_given_up_in_their_turn_and_the_end_does_not_wait_for_the_model() -> None:
    begun, may_go = threading.Event(), threading.Event()

    def denoiser(batch: Batch) -> Answer:
        if batch.x[0, 0] == 1:
            begun.set()
            may_go.wait(25)
        return Answer(batch.x)

    workers = Workers(denoiser, 1)
    workers.hand_over(tile_of(ready("a", 0)))
    workers.hand_over(tile_of(ready("a", 1)))
    assert begun.wait(10)
    workers.hand_over(tile_of(ready("a", 2)))
    workers.hand_over(tile_of(ready("a", 3)), shed=True)
    given_up = list(workers.give_up())
    assert [tile.ready[0].window.start for tile, _ in given_up] == [0, 1, 2, 3]
    assert isinstance(given_up[0][1], Answer)
    assert isinstance(given_up[1][1], TimeoutError)
    assert [found for _, found in given_up[2:]] == [None, None]
    assert len(workers) == 0
    assert not workers.close(), "a thread is in a call"
    assert any(thread.is_alive() for thread in workers._threads), "its end was not waited for"
    may_go.set()


def test_idle_workers_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "CLOSE_S", 60.0)  # however busy the machine is
    workers = Workers(identity(250), 3)
    workers.hand_over(tile_of(ready("a", 0)))
    finished(workers, 1)
    assert workers.close()


def test_a_process_ends_while_a_worker_is_in_a_model_call() -> None:
    script = (
        "import threading\n"
        "from ppgstream.live.workers import Workers\n"
        "from test_workers import ready, tile_of\n"
        "begun, never = threading.Event(), threading.Event()\n"
        "workers = Workers(lambda batch: (begun.set(), never.wait(60)), 2)\n"
        "workers.hand_over(tile_of(ready('a', 0)))\n"
        "assert begun.wait(30)\n"
        "assert not workers.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- when a message came -------------------------------------------------------------------------------------------


def test_what_waited_came_earlier_than_it_was_read() -> None:
    clock = ArrivalClock()
    assert clock.arrived(1000.0, 5.0) == pytest.approx(5.0)
    assert clock.arrived(1000.2, 5.9) == pytest.approx(5.2)
    assert clock.arrived(1000.4, 5.9) == pytest.approx(5.4)
    assert clock.arrived(1000.6, 5.58) == pytest.approx(5.58), "a faster one: now we know better"
    assert clock.arrived(1000.8, 6.0) == pytest.approx(5.78)


def test_a_clock_that_was_set_begins_anew_and_one_that_drifts_is_followed() -> None:
    clock = ArrivalClock()
    clock.arrived(1000.0, 5.0)
    assert clock.arrived(1003.5, 5.2) == pytest.approx(5.2), "set forward"
    assert clock.arrived(1000.4, 5.4) == pytest.approx(5.4), "set back"
    drifting, now, sent = ArrivalClock(), 0.0, 0.0
    while now < 2000:
        now, sent = now + 0.2, sent + 0.2 * (1 - 200e-6)
        late = now - drifting.arrived(sent, now)
    assert 0 <= late <= 200e-6 * 2 * SPAN_S + 1e-9


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-5, 5)), min_size=1, max_size=50))
def test_nothing_comes_after_it_was_read(steps: list[tuple[float, float]]) -> None:
    clock, now, sent = ArrivalClock(), 100.0, 1e9
    for passed, said in steps:
        now, sent = now + passed, sent + said
        assert clock.arrived(sent, now) <= now
