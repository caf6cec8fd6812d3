"""Another checkpoint in a running daemon: what is tried, what is refused, what is served, and what is taken back."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
import pytest
import waiting
from msgspec import structs
from onnx import TensorProto, helper, numpy_helper

from ppgstream.assemble import plan_like, plan_of
from ppgstream.config import Config, In, Out, Security, Status
from ppgstream.core.denoiser import Answer, Batch, Denoiser, identity
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.plan import Geometry, Plan, Rules, SensorRules
from ppgstream.errors import ConfigError, PpgStreamError, SourceError
from ppgstream.lab import synthetic
from ppgstream.live import keys, trial
from ppgstream.live import reload as module
from ppgstream.live.apart import Apart
from ppgstream.live.comparison import Comparison
from ppgstream.live.daemon import Daemon
from ppgstream.live.events import Events
from ppgstream.live.publisher import Publisher
from ppgstream.live.receiver import Receiver
from ppgstream.live.recent import KEPT_S, MOST_CHUNKS, MOST_SAMPLES, MOST_STREAMS, Recent, message_of
from ppgstream.live.reload import EARLIEST_S, LATELY_S, WATCHED_S, Asked, Passed, Reload, Serving, serving_of
from ppgstream.live.round import Pace
from ppgstream.live.shadow import BUSY_TILES, Shadow
from ppgstream.live.snapshot import Figures, ReloadStatus
from ppgstream.live.status import StatusClient
from ppgstream.live.trial import Order, Told, Windows
from ppgstream.model import own
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.folder import write_restored
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Chunk, Kind, decode

PPGSTREAM = str(Path(sys.executable).with_name("ppgstream"))
FAST = restore(Path("fast"))
PERSON = synthetic.pulse(125 * 60, synthetic.person(np.random.default_rng(3)), np.random.default_rng(4))[0]
PATIENCE_S = 90.0
until = partial(waiting.until, seconds=PATIENCE_S)


def chunk(start: int, n: int = 50, stream: str = "a", x: np.ndarray = PERSON) -> Chunk:
    return Chunk(stream, 7, start, x[start : start + n].astype(np.float32))


# ---- two engines on the same samples -----------------------------------------------------------------------------


def engine(answer: Denoiser, **plan: Any) -> Engine:
    return Engine(answer, Rules(replace(Plan(Geometry(hop=50), answers="input", scaling="none"), **plan), tile=4))


def compared(new: Denoiser, *, streams: int = 2, lost: range = range(0)) -> Figures:
    found = Comparison(engine(identity(250)), engine(new))
    for start in range(0, 5000, 50):
        if start in lost:
            continue
        for k in range(streams):
            found.feed(chunk(start, stream=f"s{k}"), start / 125)
        while found.compute():
            pass
        found.pass_time(start / 125, 30.0)
    found.finish(40.0)
    return found.figures()


def test_the_same_answers_are_no_difference() -> None:
    found = compared(identity(250))
    assert (found.streams, found.seconds) == (2, 80)
    assert found.sure_both == found.sure_serving == found.sure_new > 40
    assert (found.amplitude, found.difference, found.differ) == ((1, 1, 1), (0, 0), 0)
    assert found.confidence_serving == found.confidence_new


def test_another_scale_and_another_wave_are_told() -> None:
    twice = compared(lambda batch: Answer(2 * batch.x))
    assert (twice.amplitude, twice.differ) == ((2, 2, 2), twice.sure_both)
    assert twice.difference == (1, 1)
    rolled = compared(lambda batch: Answer(np.roll(batch.x, 30, axis=1)))
    assert rolled.differ > 0.9 * rolled.sure_both


def test_answers_that_are_not_finite_are_sure_in_no_second() -> None:
    found = compared(lambda batch: Answer(np.full_like(batch.x, np.nan)))
    assert found.sure_serving > 40
    assert (found.sure_new, found.sure_both, found.amplitude) == (0, 0, None)


def test_seconds_in_which_samples_were_lost_are_left_out() -> None:
    assert 30 < compared(identity(250), streams=1, lost=range(2000, 2500)).seconds < 37


# ---- the last minute ---------------------------------------------------------------------------------------------


def test_the_last_minute_is_kept_in_the_order_in_which_it_was_read() -> None:
    recent = Recent()
    for second in range(100):
        for name in ("a", "b"):
            recent.keep(chunk(50 * second, stream=name), float(second))
    kept = recent.messages()
    assert [at for at, _ in kept] == sorted(at for at, _ in kept)
    assert (kept[0][0], kept[-1][0], len(kept)) == (99 - KEPT_S, 99, 2 * 61)
    recent.tick(99 + KEPT_S + 1)
    assert not recent.messages()


def test_what_is_kept_is_bounded_and_whole_for_the_streams_that_came_first() -> None:
    recent = Recent()
    for name in range(2 * MOST_STREAMS):
        recent.keep(chunk(0, stream=f"s{name}"), 0.0)
    assert {c.stream for _, c in recent.messages()} == {f"s{k}" for k in range(MOST_STREAMS)}
    for k in range(MOST_CHUNKS + 5000):
        recent.keep(chunk(k % 5000, 1, stream=f"s{k % 2}"), 1.0)
    kept = recent.messages()
    assert len(kept) > MOST_CHUNKS // 2
    assert {c.stream for _, c in kept} == {"s0"}  # one stream whole, rather than parts of two
    for k in range(3):
        recent.keep(Chunk("s0", 7, 0, np.zeros(MOST_SAMPLES // 2), Kind.DATA), 2.0 + k)
    assert sum(len(c.samples) for _, c in recent.messages()) <= MOST_SAMPLES


def test_a_message_reads_back_whatever_its_samples_are() -> None:
    for dtype in ("f4", "f8", "i2", "u4", ">i4"):
        given = Chunk("a", 1, 5, np.arange(4).astype(dtype), fs=64.0, t_ns=9)
        parts = message_of(3.5, given)[1:]
        found = decode(parts)
        np.testing.assert_array_equal(found.samples.astype(np.float64), [0, 1, 2, 3])
        assert (found.stream, found.index, found.fs, found.t_ns) == ("a", 5, 64.0, 9)


# ---- golden windows, and what may be served beside what ------------------------------------------------------------


PLAN = plan_of(FAST)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda x, _: Answer(x[:, :100]), "has the shape"),
        (lambda x, _: Answer(np.where(np.arange(64)[:, None] == 11, np.nan, x)), "the wave of window 11 of 64 is not finite"),
        (lambda x, k: Answer(x + 0.1 * k), "is another when they are asked again"),
        (lambda x, _: Answer(x - x[0]), "depends on the other windows"),
        (lambda x, _: Answer(x, np.full_like(x, np.inf)), "the log variance of window 0 of 64 is not finite"),
        (lambda x, _: Answer(x), ""),
    ],
    ids=["shape", "NaN", "random", "batch", "log variance", "fine"],
)
def test_golden_windows_tell_what_no_network_may_answer(answer: Callable[[np.ndarray, int], Answer], told: str) -> None:
    calls = iter(range(9))
    fault = trial.golden_fault(lambda batch: answer(batch.x[:, -250:], next(calls)), PLAN)
    assert told in fault
    assert bool(told) == bool(fault)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"fs": 64.0}, "is made for a rate of 64 Hz, and the one that is served for 125"),
        ({"arch": replace(FAST.arch, window=500)}, "windows of 500 samples"),
        ({"arch": replace(FAST.arch, context=FAST.arch.context + 50)}, "a context of"),
    ],
    ids=["rate", "window", "context"],
)
def test_windows_that_lie_otherwise_are_refused_with_the_reason(other: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_like(PLAN, replace(FAST, **other))


def test_a_plan_like_another_has_its_windows_and_its_own_calibration() -> None:
    served = plan_of(FAST, hop=40, lookahead=60)
    other = plan_like(served, restore(Path("default")))
    assert (other.geometry, other.rate is None) == (served.geometry, False)
    assert other.checkpoint == restore(Path("default")).id
    assert plan_like(plan_of(FAST, beats=False), FAST).rate is None


# ---- trials in a process of their own ------------------------------------------------------------------------------


def order(checkpoint: Path | str, **more: Any) -> Order:
    g = PLAN.geometry
    ahead = g.window - 1 if g.lookahead is None else g.lookahead
    windows = Windows(g.hop, ahead, g.overlap, beats=True)
    given = {
        "serving": str(FAST.path),
        "serving_id": FAST.id.hex(),
        "serving_graph": FAST.graph_sha256,
        "windows": windows,
        "sensor": SensorRules(),
    }
    return Order("trial", checkpoint=str(checkpoint), **(given | more))


def tried(asked: Order, seconds: float = 40.0) -> tuple[Told, list[Told]]:
    """The last word of a trial, and all of them."""
    process, told = Apart(asked), []
    try:
        for start in range(0, int(125 * seconds), 50):
            process.send(start / 125, chunk(start))
        process.end()
        while True:
            one = until(lambda: process.receive() or process.death(), "the trial")
            assert isinstance(one, Told), one
            told.append(one)
            if one.refused or one.sha256 or one.changed:
                return one, told
    finally:
        process.close()


def spoiled(folder: Path, change: Callable[[str, np.ndarray], np.ndarray]) -> Path:
    """The checkpoint `fast` with other weights, under a calibration that believes them."""
    weights = {name: change(name, tensor).astype(np.float32) for name, tensor in FAST.tensors.items()}
    write_restored(folder, replace(FAST, tensors=weights))
    return folder


def noise(_: str, tensor: np.ndarray) -> np.ndarray:
    return np.random.default_rng(tensor.size).standard_normal(tensor.shape) * (float(tensor.std()) or 1.0)


def test_a_good_checkpoint_passes_and_its_figures_are_told() -> None:
    last, told = tried(order("default"))
    assert last.sha256 == restore(Path("default")).sha256
    names = [one.check.name for one in told if one.check is not None]
    assert len(names) == len(set(names)) == 8
    live = next(one.figures for one in told if one.figures is not None)
    assert (live.streams, live.seconds) == (1, 40)
    assert live.sure_both > 35
    assert live.rates > 10


def test_weights_of_noise_are_refused(tmp_path: Path) -> None:
    last, _ = tried(order(spoiled(tmp_path / "noise", noise)))
    assert "sure of a second of a pulse" in last.refused


def of_another_height(folder: Path) -> Path:
    """A network of three times its input, and sure of it."""
    weights = {"three": np.float32(3), "none": np.float32(0), "sure": np.float32(-8)}
    nodes = [
        helper.make_node("Mul", ["in", "three"], ["wave"]),
        helper.make_node("Mul", ["in", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "sure"], ["error"]),
        helper.make_node("Concat", ["wave", "error"], ["out"], axis=1),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", n))] for name, n in (("in", 250), ("out", 500))]
    made = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(value, name) for name, value in weights.items()])
    content = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    found = own.tried(content, "high", window=None, fs=125.0, scaling="standard", answers="input")
    (folder.parent / "high.onnx").write_bytes(content)
    own.write(folder, content, found, fs=125.0, source=folder.parent / "high.onnx")
    return folder


def test_a_wave_of_another_height_is_refused(tmp_path: Path) -> None:
    last, told = tried(order(of_another_height(tmp_path / "high")))
    wrong = {one.check.name for one in told if one.check is not None and not one.check.fine}
    assert {"another wave in a live second, both sure", "sure of a second of a pulse, and wrong"} <= wrong
    assert (last.code, "--force" in last.refused) == (1, True)


def test_force_serves_what_does_badly_but_not_what_cannot_run(tmp_path: Path) -> None:
    last, told = tried(order(spoiled(tmp_path / "noise", noise), force=True))
    assert last.sha256
    assert not all(one.check.fine for one in told if one.check is not None)
    last, _ = tried(order(tmp_path / "none", force=True))
    assert (last.code, "no checkpoint here" in last.refused) == (78, True)


def test_files_of_the_serving_one_that_changed_are_told() -> None:
    last, _ = tried(order("default", serving_id="00" * 8))
    assert last.changed
    last, _ = tried(order("default", serving="nowhere"))
    assert last.changed


def test_a_process_that_dies_is_told() -> None:
    process = Apart(order("default"))
    os.kill(process._process.pid, signal.SIGSEGV)
    assert until(process.death, "its death") == "the process of the trial ended by signal 11"
    folder = process._folder
    process.close()
    assert folder is not None
    assert not folder.exists()


def test_a_process_that_cannot_be_started_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in (tmp_path / "gone", tmp_path / ("x" * 100)):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with pytest.raises(SourceError, match=r"no process can be started for a trial: .*\(TMPDIR\)"):
            Apart(order("default"))
        (tmp_path / ("x" * 100)).mkdir(exist_ok=True)
    assert not list((tmp_path / ("x" * 100)).iterdir())


def test_a_shadow_without_a_place_for_its_files_ends_and_the_daemon_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shadow = Shadow(order, engine(identity(250)), Events(logging.getLogger("ppgstream")), lambda _: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert shadow.ask(Asked("shadow", "default")) == ""
    assert shadow.status is not None
    assert (shadow.status.state, "TMPDIR" in shadow.status.text) == ("failed", True)
    shadow.served("00")
    shadow.tick()


def test_it_ends_with_the_process_that_began_it() -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from msgspec import structs; from test_reload import order; from ppgstream.live.apart import Apart\n"
        "a = Apart(structs.replace(order('fast'), kind='shadow')); print(a._process.pid, flush=True)\n"
        "while (told := a.receive(1)) is None or told.doing != 'runs': pass\n"
        "print('runs', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert parent.stdout.readline() == "runs\n"
    parent.kill()
    parent.wait()
    until(lambda: _is_gone(child), "the end of a shadow whose daemon is gone")


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# ---- the daemon's side ---------------------------------------------------------------------------------------------


class Desk:
    """A `Reload` whose trials pass at once, and what it has served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events, self.pace, self.served = Events(logging.getLogger("ppgstream")), Pace(), []
        self.served: list[str] = []
        default = restore(Path("default"))
        self.now, self.passed = 1000.0, Passed(default.sha256, default.graph_sha256)
        self.failures: dict[bytes, int] = {}
        self.unwell = ""
        self.notes: SimpleQueue[Event] = SimpleQueue()
        monkeypatch.setattr(Reload, "_try_out", lambda *_: self.passed)
        self.reload = Reload(
            Serving(FAST, PLAN, identity(250)), order, lambda _: identity(250), self.adopt, self.events, self.pace, Recent(),
            lambda checkpoint: self.failures.get(checkpoint, 0), self.notes,
        )  # fmt: skip

    def adopt(self, new: Serving) -> None:
        self.served.append(new.checkpoint.arch.family + new.checkpoint.path.name)

    def seconds(self, n: int, share: float, streams: int = 4) -> None:
        for _ in range(n):
            self.now += 1.0
            self.pace.seconds += streams
            self.pace.sure_seconds += round(share * streams)
            self.reload.tick(self.now, self.unwell)

    def serve(self, checkpoint: str = "default") -> ReloadStatus:
        number, refused = self.reload.ask(Asked("serve", checkpoint))
        assert (refused, number > 0) == ("", True)
        thread = self.reload._thread
        assert thread is not None
        thread.join()
        self.reload.tick(self.now)
        return self.status

    @property
    def status(self) -> ReloadStatus:
        assert self.reload.status is not None
        return self.reload.status


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_one_that_does_well_stays_after_a_minute_and_back_is_one_step(desk: Desk) -> None:
    assert desk.reload.ask(Asked("back")) == (0, "no checkpoint was served before this one")
    desk.seconds(60, 1.0)
    status = desk.serve()
    assert (status.state, status.watched) == ("serving", True)
    assert "is watched for another" in desk.reload.ask(Asked("serve", "fast"))[1]
    desk.seconds(int(WATCHED_S) + 1, 0.75)
    assert (desk.status.state, desk.status.watched) == ("serving", False)
    assert desk.reload.ask(Asked("back"))[1] == ""
    assert (desk.status.state, desk.served) == ("back", ["transformerdefault", "transformerfast"])
    assert "before this one" in desk.reload.ask(Asked("back"))[1]
    assert (desk.events.counts["reload"], desk.events.counts["rollback"]) == (1, 1)


def test_half_as_many_confident_seconds_take_it_back(desk: Desk) -> None:
    desk.seconds(90, 1.0)
    desk.serve()
    desk.seconds(int(EARLIEST_S), 0.25)
    assert desk.status.watched
    desk.seconds(1, 0.25)
    assert (desk.status.state, desk.status.code, desk.status.watched) == ("rolled_back", 1, False)
    assert "of 44 seconds 25% are confident, before it 100% were" in desk.status.text
    assert desk.served == ["transformerdefault", "transformerfast"]
    assert desk.reload.serving.checkpoint is FAST


def test_where_few_seconds_were_confident_before_few_may_be_after(desk: Desk) -> None:
    desk.seconds(90, 0.5)
    desk.serve()
    desk.seconds(int(WATCHED_S) + 1, 0.25)
    assert desk.status.state == "serving"


def test_without_streams_before_there_is_nothing_to_fall(desk: Desk) -> None:
    desk.serve()
    desk.seconds(int(WATCHED_S) + 1, 0.0)
    assert desk.status.state == "serving"


def test_an_answer_that_is_not_finite_takes_it_back_at_once(desk: Desk) -> None:
    new = restore(Path("default")).id
    desk.failures |= {FAST.id: 3, new: 2}  # from before
    desk.serve()
    desk.failures[FAST.id] += 1  # of a tile that it was asked before the change
    desk.seconds(1, 1.0)
    assert desk.status.watched
    desk.failures[new] += 1
    desk.seconds(1, 1.0)
    assert desk.status.state == "rolled_back"


def test_a_network_that_does_not_answer_is_taken_back(desk: Desk) -> None:
    desk.serve()
    desk.unwell = "the model has not answered a call for 6 s"
    desk.seconds(1, 1.0)
    assert (desk.status.state, desk.unwell in desk.status.text) == ("rolled_back", True)


def test_one_that_goes_bad_late_is_taken_back_where_there_are_streams_enough(desk: Desk) -> None:
    desk.seconds(90, 1.0, streams=8)
    desk.serve()
    desk.seconds(35, 1.0, streams=8)
    desk.seconds(LATELY_S - 8, 0.0, streams=8)
    assert desk.status.state == "rolled_back"


def test_a_trial_is_ended_by_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on: list[int] = []
    monkeypatch.setattr(Reload, "_try_out", lambda *_: until(lambda: go_on, "the test") and desk.passed)
    desk.reload.ask(Asked("serve", "default"))
    assert desk.reload.ask(Asked("back"))[1] == ""
    assert (desk.status.state, "not tried any more" in desk.status.text) == ("back", True)
    go_on.append(1)
    assert desk.reload._thread is not None
    desk.reload._thread.join()
    desk.seconds(2, 1.0)
    assert desk.served == []  # though it passed
    assert desk.status.state == "back"


def test_one_at_a_time_and_none_while_the_daemon_stops(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = []
    monkeypatch.setattr(Reload, "_try_out", lambda *_: until(lambda: go_on, "the test") and "")
    desk.reload.ask(Asked("serve", "one"))
    for do in ("serve", "try"):
        assert "one is being tried: one at a time" in desk.reload.ask(Asked(do, "two"))[1]
    go_on.append(1)
    assert desk.reload._thread is not None
    desk.reload._thread.join()
    desk.reload.close()
    assert desk.reload.ask(Asked("serve", "one")) == (0, "the daemon is stopping")


def test_one_that_changed_or_vanished_after_its_trial_is_refused(desk: Desk, tmp_path: Path) -> None:
    fine = desk.passed
    for passed in (fine._replace(sha256="0" * 64), fine._replace(graph="0" * 64)):
        desk.passed = passed
        status = desk.serve()
        assert (status.state, status.code) == ("refused", 78)
        assert "is not what was tried any more" in status.text
        assert "refused" in desk.notes.get().text
    status = desk.serve(str(tmp_path / "gone"))
    assert "no checkpoint here" in status.text
    assert desk.served == []


def test_what_a_runtime_raises_is_a_refusal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Checkpoint) -> Denoiser:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(desk.reload, "_load", fail)
    assert (desk.serve().state, desk.status.text) == ("refused", "default: RuntimeError: out of luck")
    monkeypatch.setattr(desk.reload, "_load", lambda _: lambda _: Answer(np.full((1, 250), np.nan, np.float32)))
    assert "the self-test failed" in desk.serve().text


def test_without_seconds_before_it_is_said_that_confidence_is_not_compared(desk: Desk) -> None:
    assert "too little came before it" in desk.serve().text


def test_a_trial_is_told_as_it_goes_and_only_one_that_passes_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the process of the trial: the serving one's files are replaced before."""
    served = tmp_path / "served"
    write_restored(served, FAST)
    found = restore(served)
    events, adopted = Events(logging.getLogger("ppgstream")), []
    asked = order("default", serving=str(served), serving_id=found.id.hex())
    reload = Reload(
        Serving(found, PLAN, identity(250)), lambda path: structs.replace(asked, checkpoint=path), lambda _: identity(250),
        adopted.append, events, Pace(), Recent(), lambda _: 0, SimpleQueue(),
    )  # fmt: skip
    write_restored(served, restore(Path("default")))  # in place, as people do
    assert reload.ask(Asked("serve", "default")) == (1, "")
    states = {str(status.state) for status in iter(lambda: _status_until_over(reload), None)}
    reload.tick(time.monotonic())
    assert reload.status is not None
    assert (reload.status.state, len(reload.status.checks)) == ("serving", 5), reload.status
    assert "trying" in states
    assert [one.checkpoint.path.name for one in adopted] == ["default"]
    reload.tick(time.monotonic() + WATCHED_S + 1)
    monkeypatch.setattr(module, "TRIAL_S", 0.0)
    reload.ask(Asked("try", "fast"))
    assert reload._thread is not None
    reload._thread.join()
    assert reload.status is not None
    assert (reload.status.state, reload.status.code, "has not ended in" in reload.status.text) == ("refused", 69, True)


def _status_until_over(reload: Reload) -> ReloadStatus | None:
    time.sleep(0.01)
    return reload.status if reload._thread is not None and reload._thread.is_alive() else None


def beside_default(path: str) -> Order:
    default = restore(Path("default"))
    return order(path, serving=str(default.path), serving_id=default.id.hex(), serving_graph=default.graph_sha256)


# ---- a shadow --------------------------------------------------------------------------------------------------------


def test_a_shadow_gets_a_share_of_the_streams_and_goes_without_when_the_machine_is_busy() -> None:
    main, events = engine(identity(250)), Events(logging.getLogger("ppgstream"))
    shadow = Shadow(beside_default, main, events, lambda _: None)
    assert "must be above 0, and 1 at most" in shadow.ask(Asked("shadow", "fast", share=0.0))
    assert shadow.ask(Asked("unshadow")) == "there is no shadow"
    assert shadow.ask(Asked("shadow", "fast", share=0.5)) == ""
    try:
        for k in range(5):
            main.feed(chunk(0, stream=f"s{k}"), 0.0)

        def state() -> str:
            shadow.tick()
            assert shadow.status is not None
            return shadow.status.state

        until(lambda: state() == "running", "the shadow")
        assert shadow.names == {"s0", "s1", "s2"}
        for start in range(50, 2500, 50):
            for name in shadow.names:
                shadow.take(chunk(start, stream=name), start / 125)

        def seconds() -> int:
            state()
            assert shadow.status is not None
            return shadow.status.figures.seconds if shadow.status.figures is not None else 0

        until(lambda: seconds() > 20, "figures")
        assert shadow.status is not None
        assert (shadow.status.samples, shadow.status.shed) == (3 * 2450, 0)
        assert shadow.status.id == FAST.id.hex()
        for k in range(BUSY_TILES * 4):
            main.feed(chunk(0, 300, stream=f"w{k}"), 20.0)
        shadow.take(chunk(2500, stream="s0"), 20.0)
        assert shadow.status.shed == 50
        assert shadow._process is not None
        shadow._process._process.kill()
        until(lambda: state() == "failed", "its death")
        assert shadow.status is not None
        assert "ended by signal 9" in shadow.status.text
        assert (events.counts["shadow"], shadow.names) == (1, set())
    finally:
        shadow.close()


def state_of(shadow: Shadow) -> str:
    shadow.tick()
    assert shadow.status is not None
    return shadow.status.state


def test_a_shadow_of_what_is_served_ends() -> None:
    shadow = Shadow(order, engine(identity(250)), Events(logging.getLogger("ppgstream")), lambda _: None)
    shadow.ask(Asked("shadow", "fast"))
    until(lambda: state_of(shadow) == "failed", "its end")
    assert shadow.status is not None
    assert shadow.status.text == "it is what is served"


def test_a_shadow_begins_though_the_files_of_the_serving_one_were_changed(tmp_path: Path) -> None:
    served = tmp_path / "served"
    write_restored(served, FAST)
    found = restore(served)
    write_restored(served, restore(Path("default")))
    asked = order("default", serving=str(served), serving_id=found.id.hex(), serving_graph=found.graph_sha256)
    shadow = Shadow(
        lambda path: structs.replace(asked, checkpoint=path), engine(identity(250)), Events(logging.getLogger("ppgstream")),
        Serving(found, PLAN, identity(250)).write,
    )  # fmt: skip
    shadow.ask(Asked("shadow", "live"))
    until(lambda: state_of(shadow) != "starting", "it")
    assert shadow.status is not None
    assert shadow.status.state == "running", shadow.status.text
    shadow.close()


def test_a_network_of_one_s_own_is_compared_with_though_its_file_was_changed(tmp_path: Path) -> None:
    served = of_another_height(tmp_path / "served")
    mine = serving_of(restore(served), PLAN, identity(250))
    (served / "model.onnx").write_bytes(b"another")
    mine.write(tmp_path / "again")
    assert restore(tmp_path / "again").id == mine.checkpoint.id


def test_as_many_streams_as_the_share_asks_for_also_when_others_have_ended() -> None:
    main = engine(identity(250))
    shadow = Shadow(beside_default, main, Events(logging.getLogger("ppgstream")), lambda _: None)
    shadow.ask(Asked("shadow", "fast", share=0.5))
    for k in range(8):
        main.feed(chunk(0, stream=f"s{k}"), 0.0)
    shadow.tick()
    assert len(shadow.names) == 4
    for k in range(4, 8):
        main.feed(Chunk(f"s{k}", 7, 50, EMPTY, Kind.END), 0.0)
    shadow.tick()
    assert len(shadow.names) == 2
    shadow.close()


def test_a_shadow_that_cannot_run_says_why() -> None:
    shadow = Shadow(order, engine(identity(250)), Events(logging.getLogger("ppgstream")), lambda _: None)
    shadow.ask(Asked("shadow", "nowhere"))

    def failed() -> bool:
        shadow.tick()
        return shadow.status is not None and shadow.status.state == "failed"

    until(failed, "its failure")
    assert shadow.status is not None
    assert "no checkpoint here" in shadow.status.text
    shadow.close()


# ---- a daemon at work ------------------------------------------------------------------------------------------------


class Rig:
    """`ppgstream run` in a process, streams that come as fast as their sensor sampled or faster, and what is published."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.ends = folder, {name: f"ipc://{folder}/{name}" for name in ("in", "out", "status")}
        flags = [part for name, end in self.ends.items() for part in (f"--{name}", end)]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen([PPGSTREAM, "run", *flags, *options], stderr=self.log, cwd=folder)
        self.client = StatusClient(self.ends["status"])
        until(lambda: self.client.ask(1.0), "the daemon")
        self.receiver = Receiver(self.ends["out"])
        self.published: list[Chunk] = []
        self.publisher = Publisher(self.ends["in"])
        self.publisher.wait_for_subscriber(PATIENCE_S)
        self._over = False
        self._sender = Thread(target=self._send, daemon=True)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        until(lambda: self.subscribers, "the reader's subscription")
        self._sender.start()

    @property
    def subscribers(self) -> int:
        found = self.client.ask(1.0)
        return 0 if found is None else found.subscribers

    def _send(self) -> None:
        """Three streams, four times as fast as they were sampled."""
        x, index = np.tile(PERSON, 40).astype(np.float32), 0
        while not self._over:
            for name in ("a", "b", "c"):
                self.publisher.send(Chunk(name, 7, index, x[index : index + 50]))
            index += 50
            time.sleep(0.1)
        for name in ("a", "b", "c"):
            self.publisher.send(Chunk(name, 7, index, EMPTY, Kind.END))
        self.sent = index

    def _read(self) -> None:
        while not (self._over and len([c for c in self.published if c.kind is Kind.END]) == 3):
            self.published += self.receiver.poll(0.2)

    def reload(self, *options: str) -> subprocess.CompletedProcess[str]:
        asked = [PPGSTREAM, "reload", *options, "--status", self.ends["status"]]
        return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=PATIENCE_S, cwd=self.folder)

    def ids(self) -> list[str]:
        """Of the checkpoints in the headers of a stream's samples, in order, each once in a row."""
        found = [c.checkpoint.hex() for c in self.published if c.stream == "a" and c.kind is Kind.DATA]
        return [one for k, one in enumerate(found) if k == 0 or one != found[k - 1]]

    def finish(self) -> None:
        """End the streams, and see that every sample came once."""
        self._over = True
        self._sender.join(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        for name in ("a", "b", "c"):
            came = [c for c in self.published if c.stream == name and c.kind is Kind.DATA]
            assert [c.index for c in came] == [0, *(c.stop for c in came[:-1])]
            assert came[-1].stop == self.sent
        assert self.receiver.lost == 0

    def close(self) -> None:
        self._over = True
        self.process.kill()
        self.process.wait()
        self._sender.join(PATIENCE_S)
        self.publisher.close(0.0)
        self.client.close()
        self.log.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, "--checkpoint", "default", "--shadow", "fast")
    yield made
    made.close()


def test_a_running_daemon_serves_another_and_the_one_before_and_loses_no_sample(rig: Rig, tmp_path: Path) -> None:
    default, fast = restore(Path("default")).id.hex(), FAST.id.hex()
    until(lambda: rig.ids() == [default], "the first output")
    report = [PPGSTREAM, "shadow", "report", "--json", "--status", rig.ends["status"]]

    def of_the_shadow() -> dict[str, Any]:
        done = subprocess.run(report, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    until(lambda: (of_the_shadow().get("figures") or {}).get("seconds", 0) > 5, "figures of the shadow")
    shadow = of_the_shadow()
    assert (shadow["state"], shadow["id"], shadow["streams"]) == ("running", fast, 1)
    shown = subprocess.run([*report[:3], *report[4:]], capture_output=True, text=True, check=True).stdout
    assert "mean confidence" in shown
    done = rig.reload("--checkpoint", "fast", "--dry-run")
    assert (done.returncode, "passed the trial" in done.stderr) == (0, True), done.stderr
    done = rig.reload("--checkpoint", "fast")
    assert done.returncode == 0, done.stderr
    assert "sure of a second without a pulse" in done.stdout
    assert "height over the serving one's: median" in done.stdout
    until(lambda: rig.ids() == [default, fast], "the other id")
    snapshot = rig.client.ask(1.0)
    assert snapshot is not None
    assert (snapshot.checkpoint.id, snapshot.shadow) == (fast, None)  # the shadow is served now
    assert snapshot.reload is not None
    assert snapshot.reload.watched
    for options in (("--checkpoint", "default"), ("--checkpoint", "default", "--dry-run")):
        done = rig.reload(*options)
        assert (done.returncode, "is watched for another" in done.stderr) == (1, True), done.stderr
    done = rig.reload("--back")
    assert done.returncode == 0, done.stderr
    until(lambda: rig.ids() == [default, fast, default], "the first id again")
    for options, code, told in (
        (("--checkpoint", str(tmp_path / "none"), "--dry-run"), 78, "no checkpoint here"),
        (("--checkpoint", "default"), 0, "is what is served already"),
        (("--checkpoint", str(spoiled(tmp_path / "noise", noise)), "--dry-run"), 1, "sure of a second of a pulse"),
    ):
        done = rig.reload(*options)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
        assert done.stderr.count("\n") == 1
    done = rig.reload("--back")
    assert (done.returncode, "no checkpoint was served before" in done.stderr) == (1, True)
    rig.finish()
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(PATIENCE_S) == 0
    assert "unaccounted 0" in (tmp_path / "log").read_text()


def test_answers_that_are_not_finite_after_ten_windows_are_taken_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In this process, with networks of the test's own."""
    calls = []

    def failing(batch: Batch) -> Answer:
        calls.append(len(batch.x))
        y = batch.x[:, -250:] if sum(calls) <= 10 else np.full((len(batch.x), 250), np.nan, np.float32)
        return Answer(y, np.full(y.shape, -8.0, np.float32))

    default = restore(Path("default"))
    monkeypatch.setattr(Reload, "_try_out", lambda *_: Passed(default.sha256, default.graph_sha256))
    monkeypatch.setattr(Daemon, "_denoiser", lambda *_: failing)
    ends = {name: f"ipc://{tmp_path}/{name}" for name in ("in", "out", "status")}
    config = Config(in_=In(endpoint=ends["in"]), out=Out(endpoint=ends["out"]), status=Status(endpoint=ends["status"]))
    daemon = Daemon(config, FAST)
    daemon.open()
    fast = lambda batch: Answer(batch.x[:, -250:], np.full((len(batch.x), 250), -8.0, np.float32))  # noqa: E731
    thread = Thread(target=daemon.run, args=(fast,), daemon=True)
    thread.start()
    client, receiver, publisher = StatusClient(ends["status"]), Receiver(ends["out"]), Publisher(ends["in"])
    published: list[Chunk] = []
    try:
        publisher.wait_for_subscriber(PATIENCE_S)
        until(lambda: (s := client.ask(1.0)) and s.subscribers, "the reader's subscription")
        number, index = None, 0
        while index < 20_000:
            publisher.send(Chunk("a", 7, index, np.tile(PERSON, 3)[index : index + 50].astype(np.float32)))
            index += 50
            published += receiver.poll(0.01)
            if index == 5000:
                number = client.reload({"do": "serve", "checkpoint": "default"}, 5.0)
                until(lambda: (s := client.ask(1.0)) and s.reload and s.reload.state == "serving", "the change")
            if index > 5000 and daemon.events.counts["rollback"]:
                break
        until(lambda: daemon.events.counts["rollback"], "the rollback")
        assert number == 1
        before = index
        for _ in range(40):
            publisher.send(Chunk("a", 7, index, np.tile(PERSON, 3)[index : index + 50].astype(np.float32)))
            index += 50
        publisher.send(Chunk("a", 7, index, EMPTY, Kind.END))
        until(lambda: published.extend(receiver.poll(0.2)) or any(c.kind is Kind.END for c in published), "the end")
    finally:
        daemon.stop.set()
        thread.join(PATIENCE_S)
        client.close()
        receiver.close()
        publisher.close(0.0)
    data = [c for c in published if c.kind is Kind.DATA]
    assert sum(len(c.samples) for c in data) == index
    values = np.concatenate([c.samples for c in data])
    assert np.isfinite(values).all()
    after = [c for c in data if c.index >= before]
    assert {c.checkpoint for c in after} == {FAST.id}
    assert daemon.events.counts["bad_answer"] > 0
    bad = np.concatenate([np.full(len(c.samples), c.checkpoint != FAST.id) for c in data])
    confidence = np.concatenate([c.confidence for c in data if c.confidence is not None])
    shed = np.concatenate([(c.flags & 32) > 0 for c in data if c.flags is not None])
    assert bad.any()
    assert (confidence[shed] == 0).all()


def test_a_key_must_have_the_right_to_reload(tmp_path: Path) -> None:
    ends = dict.fromkeys(("in", "out", "status"), "tcp://127.0.0.1:*")
    server = keys.make("daemon")
    keys.write(tmp_path, server)
    people = {name: keys.make(name, server.public) for name in ("looks", "changes")}
    (tmp_path / "list.toml").write_text(
        "".join(
            f'[{name}]\nkey = "{key.public.decode()}"\nstatus = true\nreload = {"true" if name == "changes" else "false"}\n'
            for name, key in people.items()
        )
    )
    security = Security(str(tmp_path / "daemon.key"), str(tmp_path / "list.toml"))
    config = Config(
        in_=In(endpoint=ends["in"]), out=Out(endpoint=ends["out"]), status=Status(endpoint=ends["status"]), security=security
    )
    daemon = Daemon(config, FAST)
    daemon.open()
    thread = Thread(target=daemon.run, args=(identity(250),), daemon=True)
    thread.start()
    clients = {name: StatusClient(daemon.endpoints["status"], key=key) for name, key in people.items()}
    try:
        for client in clients.values():
            until(lambda client=client: client.ask(1.0), "an answer")
        for asked in ({"do": "back"}, {"do": "shadow", "checkpoint": "fast"}, {"do": "unshadow"}):
            with pytest.raises(PpgStreamError, match="this key has no right to reload"):
                clients["looks"].reload(asked, 5.0)
        with pytest.raises(PpgStreamError, match="no checkpoint was served before"):
            clients["changes"].reload({"do": "back"}, 5.0)
        with pytest.raises(PpgStreamError, match=r"what is 'dance'\?"):
            clients["changes"].reload({"do": "dance"}, 5.0)
        for asked, told in (
            ({"do": "serve"}, "the name is empty|The name is empty"),
            ({"do": "shadow", "checkpoint": "fast", "share": None}, "Expected `float`"),
            ({"do": 7}, "Expected `str`"),
        ):
            with pytest.raises(PpgStreamError, match=told):
                clients["changes"].reload(asked, 5.0)
        told_of = [event for event in daemon.events.recent.values() if event.event.name == "refused_key"]
        assert any("[looks]" in one.event.text and "no right to reload" in one.event.text for one in told_of)
        assert any("reload: back, asked by [changes]" in text for text in daemon.events.last)
    finally:
        daemon.stop.set()
        thread.join(PATIENCE_S)
        for client in clients.values():
            client.close()


def test_what_cannot_be_asked_is_one_line(tmp_path: Path) -> None:
    for options, code, told in (
        ((), 2, "give one of --checkpoint NEW"),
        (("--back", "--checkpoint", "x"), 2, "give one of"),
        (("--no-shadow", "--force"), 2, "go with --checkpoint"),
        (("--back", "--wait"), 2, "go with --checkpoint"),
        (("--checkpoint", ""), 2, "the name of the checkpoint is empty"),
        (("--shadow", ""), 2, "the name of the checkpoint is empty"),
        (("--checkpoint", "x" * 4000), 2, "a name of 4,000 bytes"),
        (("--checkpoint", "x", "--share", "0.5"), 2, "--share 0.5: goes with --shadow"),
        (("--shadow", "x", "--share", "nan"), 2, "must be above 0"),
        (("--checkpoint", b"/tmp/\xff"), 2, "not UTF-8"),
    ):
        done = subprocess.run([PPGSTREAM, "reload", *options], capture_output=True, text=True, check=False)
        assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    done = subprocess.run(
        [PPGSTREAM, "shadow", "report", "--status", f"ipc://{tmp_path}/none"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "no daemon answers there" in done.stderr) == (69, True), done.stderr
    for shadow, told in (("nowhere", "no checkpoint here"), (str(tmp_path), "no checkpoint here")):
        done = subprocess.run(
            [PPGSTREAM, "run", "--check", "--shadow", shadow], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert (done.returncode, told in done.stderr) == (78, True), done.stderr
        assert done.stderr.startswith("ppgstream: shadow.checkpoint: ")
