"""Members of a fleet: who owns what, and what is published when one of them dies, is suspended, leaves or joins."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nats import PPGSTREAM, Cut, Server, needs_server
from waiting import PATIENCE_S, until

import ppgstream
from ppgstream.assemble import offline_rules
from ppgstream.config import load
from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Plan, Rules
from ppgstream.errors import ArgumentError, ConfigError, SourceError, UsageError
from ppgstream.files import offline
from ppgstream.lab import synthetic
from ppgstream.live.events import Events
from ppgstream.live.fleet import NEVER, Fleet, FleetSink, FleetSource
from ppgstream.live.link import Link
from ppgstream.live.nats import PARTITIONS, Message, partition_of, subject_of
from ppgstream.live.publisher import publisher
from ppgstream.live.receiver import receiver
from ppgstream.live.round import Clock, Pace, Round
from ppgstream.live.stored import kept
from ppgstream.live.tender import Begin, Give, Member, Owner, Reached, State, Taken, begins_at, settings_of, shares
from ppgstream.model import runtime
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Beats, Chunk, Kind, decode, encode

WAVE = np.sin(np.arange(8000) / 20).astype(np.float32)


# ---- who owns what -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefg"), min_size=1), min_size=1, max_size=5))
def test_partitions_are_shared_evenly_and_few_change_hands(history: list[set[str]]) -> None:
    owners: dict[int, Owner] = {}
    for members in history:
        before = {p: o.member for p, o in owners.items() if o.member in members}
        found = shares(members, owners)
        counts = [list(found.values()).count(name) for name in members]
        assert len(found) == PARTITIONS
        assert max(counts) - min(counts) <= 1
        had = {name: list(before.values()).count(name) for name in members}
        least = PARTITIONS - sum(min(had[name], counts[k]) for k, name in enumerate(members))
        assert sum(before.get(p) != name for p, name in found.items()) == least
        assert found == shares(sorted(members, reverse=True), owners)
        owners = {p: Owner(name, 1) for p, name in found.items()}
    assert shares([], owners) == {}


def test_members_must_have_alike_what_decides_the_output() -> None:
    one = load(None, in__endpoint="nats://127.0.0.1:4222")
    assert settings_of(one, "a") == settings_of(load(None), "a")
    assert settings_of(one, "a") != settings_of(one, "b")
    assert settings_of(one, "a") != settings_of(load(None, streams__policy="mask"), "a")


def test_a_fleet_reads_and_publishes_on_one_nats_server() -> None:
    for ends in (
        {},
        {"in__endpoint": "nats://127.0.0.1:4222"},
        {"in__endpoint": "nats://127.0.0.1:1", "out__endpoint": "nats://127.0.0.1:2"},
    ):
        with pytest.raises(ConfigError, match=r"fleet\.name: a fleet reads and publishes on one NATS server"):
            load(None, fleet__name="ward", **ends)
    with pytest.raises(ConfigError, match=r"fleet\.name"):
        load(None, fleet__name="a b")


# ---- both ends of a member, without a server ----------------------------------------------------------------------------


class Fake:
    """A link that keeps what is published, and gives what a test puts in."""

    dropped_in = dropped_out = 0
    room = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.incoming: list[Message] = []

    def fileno(self) -> int:
        return 0

    def ring(self) -> None:
        self.rung = True

    def take(self) -> Message | None:
        return self.incoming.pop(0) if self.incoming else None

    def publish(self, subject: str, body: bytes, *, losses: int = -1) -> bool:
        self.sent.append((subject, body))
        return self.room

    def chunks(self) -> list[Chunk]:
        return [decode([subject.rpartition(".")[2].encode(), body]) for subject, body in self.sent]


class Sure:
    is_sure, published, take_up_again = True, 40, False


def chunk(start: int, n: int = 50, kind: Kind = Kind.DATA, **more: Any) -> Chunk:
    values = WAVE[start : start + n]
    told = {"confidence": np.full(n, 0.5, np.float32), "flags": np.arange(n, dtype=np.uint16)} if kind is Kind.DATA else {}
    return Chunk("a", 7, start, values if kind is Kind.DATA else EMPTY, kind, t_ns=10**18 + start * 8_000_000, **(told | more))


@pytest.fixture
def sink() -> FleetSink:
    made = FleetSink(Fake(), "f4", Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]
    made.tender = Sure()  # type: ignore[assignment]
    made.owned = {partition_of("a"): 3}
    return made


def sent(sink: FleetSink) -> list[Chunk]:
    return sink._link.chunks()  # type: ignore[attr-defined,no-any-return]


def message(one: Chunk) -> Message:
    return Message(subject_of("out", one.stream), encode(one)[1])


def beats(index: int, **more: Any) -> Chunk:
    none = np.zeros(0, np.float32)
    return chunk(index, 0, Kind.BEATS, beats=Beats(70.0, 0.9, none.astype(np.uint64), none, none, none), **more)


def test_what_a_former_owner_has_published_is_not_published_again(sink: FleetSink) -> None:
    sink.remember(message(c) for c in (chunk(0, epoch=2), chunk(50, 30, epoch=2), beats(60, epoch=2)))
    sink.publish([chunk(0), chunk(50), beats(60), chunk(100, 0, Kind.GAP, missing=20), chunk(120), beats(310)])
    found = sent(sink)
    assert [(c.kind, c.index, len(c.samples) or c.missing) for c in found] == [
        (Kind.DATA, 80, 20),
        (Kind.GAP, 100, 20),
        (Kind.DATA, 120, 50),
        (Kind.BEATS, 310, 0),
    ]
    first = found[0]
    np.testing.assert_array_equal(first.samples, WAVE[80:100])
    assert (first.flags is not None and first.flags[0], first.t_ns, first.epoch) == (30, 10**18 + 80 * 8_000_000, 3)


def test_what_clients_have_left_out_does_not_count_as_published(sink: FleetSink) -> None:
    sink.remember(message(c) for c in (chunk(0, epoch=2), chunk(50, epoch=1), chunk(50, 0, Kind.END, epoch=1)))
    sink.publish([chunk(0), chunk(50), chunk(100, 0, Kind.END)])
    assert [c.index for c in sent(sink)] == [50, 100]
    sink.remember([message(chunk(100, 0, Kind.END, epoch=2))])
    sink.publish([chunk(100, 0, Kind.END)])
    assert len(sent(sink)) == 2
    sink.lose(frozenset({partition_of("a")}))
    sink.owned[partition_of("a")] = 4
    sink.publish([chunk(0)])
    assert len(sent(sink)) == 3


def test_nothing_is_published_while_others_may_own_it_and_nothing_once_they_do(sink: FleetSink) -> None:
    sink.tender.is_sure = False  # type: ignore[union-attr,misc]
    sink.publish([chunk(0), chunk(50)])
    assert not sent(sink)
    sink.tender.is_sure = True  # type: ignore[union-attr,misc]
    sink.publish([chunk(100)])
    assert [c.index for c in sent(sink)] == [0, 50, 100]
    sink.tender.is_sure = False  # type: ignore[union-attr,misc]
    sink.publish([chunk(150)])
    sink.lose(frozenset(sink.owned))
    sink.tender.is_sure = True  # type: ignore[union-attr,misc]
    sink.publish([chunk(200)])
    assert (len(sent(sink)), sink.fenced) == (3, 1)
    sink.owned = {partition_of("a"): 4}  # it is taken up again: what was held back is not published behind that
    sink.publish([chunk(250)])
    assert [c.index for c in sent(sink)] == [0, 50, 100, 250]


def test_messages_are_taken_from_the_place_of_a_state_on_and_from_the_newest_feed_alone() -> None:
    link = Fake()
    source = FleetSource(link, Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]
    source.tender = Sure()  # type: ignore[assignment]
    engine = Engine(identity(250), Rules(Plan(answers="input", scaling="none")))

    def read() -> list[int]:
        found = []
        while (chunks := source.take(time.monotonic(), 0.0)) is not None:
            for one in chunks:
                engine.feed(one, 0.0)
                found.append(one.index)
        return found

    def put(first: int, last: int, feed: int, stream: str = "a") -> None:
        for place in range(first, last + 1):
            body = encode(Chunk(stream, 7, 50 * place, WAVE[50 * place : 50 * place + 50]))[1]
            link.incoming.append(Message(subject_of("in", stream), body, place, feed))

    def taken(feed: int, state: State | None) -> Taken:
        states = {} if state is None else {"a": state}
        begin = Begin(Reached(3 * feed, 30 * feed), 10)  # up to place 10, others may have published
        return Taken({partition_of("a"): 1}, {partition_of("a"): feed}, {feed: begin}, states, [], 0)

    put(1, 3, 1)
    assert read() == []  # nobody's business here yet
    source.begin(taken(1, None), [])
    put(4, 5, 1)
    put(6, 6, 1, "b")  # of another partition
    assert read() == [200, 250]
    assert source.unsaved == {"a": Reached(3, 30)}
    assert source.places("a") == (Reached(5, 30), Reached(3, 30))
    source.saved("a", over=False)
    assert not source.unsaved
    source.lose(frozenset({partition_of("a")}))
    source.forget("a")
    put(7, 8, 1)
    source.begin(taken(2, State(1, Reached(9, 50), Reached(9, 50), False, b"")), ["a"])
    put(9, 11, 2)
    assert read() == [500, 550]  # what came by the former feed is read again by this one, and what is in the state is not
    assert (source.places("a"), source.unsaved) == ((Reached(11, 40), Reached(11, 40)), {})
    source.saved("a", over=True)
    put(12, 12, 2)
    read()
    assert source.unsaved == {"a": Reached(11, 40)}
    # While the partition is handed over, other streams of the same feed go on: what of it is not taken is the next owner's.
    other = partition_of("b")
    source.begin(Taken({other: 1}, {other: 2}, {2: Begin(Reached(12, 40), 12)}, {}, [], 0), [])
    source.stop(frozenset({partition_of("a")}))
    put(13, 13, 2)
    put(14, 15, 2, "b")
    read()
    assert [source.places(name)[0].taken for name in ("a", "b")] == [12, 15]


def test_what_is_read_again_does_not_hide_streams_that_are_not_reached_yet() -> None:
    """A state that is saved meanwhile is ahead of the feed: other streams between both may have none."""
    source = FleetSource(Fake(), Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]
    source.tender = Sure()  # type: ignore[assignment]
    p, state = partition_of("a"), State(1, Reached(500, 20), Reached(300, 15), False, b"")
    source.begin(Taken({p: 1}, {p: 1}, {1: Begin(Reached(300, 15), 900)}, {"a": state}, [], 0), ["a"])
    assert source.places("a") == (Reached(500, 15), Reached(300, 15))


def test_a_partition_is_read_from_the_place_from_which_on_nothing_is_missed() -> None:
    def state(taken: int, begun: int, *, over: bool = False) -> State:
        return State(1, Reached(taken, 10 * taken), Reached(begun, 10 * begun), over, b"")

    assert begins_at([]) == (False, Reached(0, 0))
    assert begins_at([state(50, 50), state(40, 40)]) == (True, Reached(40, 400))
    assert begins_at([state(50, 20), state(40, 10)]) == (True, Reached(20, 200))  # a stream from 20 on has no state yet
    assert begins_at([state(50, 50, over=True), state(3, 3, over=True)]) == (False, Reached(50, 500))
    assert begins_at([state(50, 45), state(3, 3, over=True)]) == (True, Reached(45, 450))


def test_a_stream_that_has_ended_is_saved_once_more_and_not_again(sink: FleetSink) -> None:
    class Tending:
        name, link, is_sure, published, most_bytes = "ward", sink._link, True, 6, 2**20

        def __init__(self) -> None:
            self.commands: SimpleQueue[Any] = SimpleQueue()
            self.member = Member("m", "h", 1, "")
            self.stored: list[str] = []

        def store(self, states: dict[str, bytes], _: int) -> None:
            self.stored += states

    engine = Engine(identity(250), Rules(Plan(answers="input", scaling="none")))
    source = FleetSource(sink._link, Events(logging.getLogger("ppgstream")))
    tending = Tending()
    fleet = Fleet(tending, source, sink, engine, Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]
    source.begin(Taken({}, {partition_of("a"): 1}, {1: Begin(Reached(0, 0), 0)}, {}, [], 0), [])

    def saves(first: int, last: int) -> int:
        before = len(tending.stored)
        for second in range(first, last):
            fleet.turn((float(second), float(second), float(second)))
        return len(tending.stored) - before

    engine.feed(Chunk("a", 7, 0, WAVE[:50]), 100.0)
    assert saves(100, 111) == 2  # each 5 s, and once at first
    engine.feed(Chunk("a", 7, 50, EMPTY, Kind.END), 111.0)
    assert saves(112, 160) == 1
    engine.feed(Chunk("a", 8, 0, WAVE[:50]), 170.0)
    assert saves(170, 172) == 1
    engine.feed(Chunk("a", 8, 50, EMPTY, Kind.END), 172.0)
    assert saves(180, 181) == 1
    engine.forget_ended()
    fleet.tick(0.0, None)
    assert not fleet._saved


def test_no_state_is_stored_and_nothing_handed_over_before_what_is_held_back_is_published(sink: FleetSink) -> None:
    class Tending:
        name, published, most_bytes = "ward", 6, 2**20
        is_sure = False

        def __init__(self) -> None:
            self.commands: SimpleQueue[Any] = SimpleQueue()
            self.member = Member("m", "h", 1, "")
            self.happened: list[str] = []

        def store(self, states: dict[str, bytes], _: int) -> None:
            self.happened.append(f"stored behind {len(sent(sink))}")

        def given(self, partitions: frozenset[int], _: int) -> None:
            self.happened.append(f"given behind {len(sent(sink))}")

    engine, tending = Engine(identity(250), Rules(Plan(answers="input", scaling="none"))), Tending()
    source = FleetSource(sink._link, sink._events)
    fleet = Fleet(tending, source, sink, engine, sink._events)  # type: ignore[arg-type]
    source.begin(Taken({}, {partition_of("a"): 1}, {1: Begin(Reached(0, 0), 0)}, {}, [], 0), [])
    engine.feed(Chunk("a", 7, 0, WAVE[:50]), 100.0)
    sink.publish([chunk(0)])
    tending.commands.put(Give(frozenset({partition_of("a")})))
    for second in (100.0, 110.0):
        fleet.turn((second, second, second))
    assert (tending.happened, sent(sink)) == ([], [])
    tending.is_sure = True
    fleet.turn((111.0, 111.0, 111.0))
    assert tending.happened == ["stored behind 1", "given behind 1"]


@pytest.mark.parametrize("idle_s", [2.0, 1e9])
def test_a_stream_that_was_taken_up_again_has_no_word_from_its_former_self(idle_s: float, sink: FleetSink) -> None:
    """Neither a status nor an end, nor an answer of the model that was under way."""
    engine = Engine(identity(250), Rules(Plan(answers="input", scaling="none")))
    clock = Clock()
    clock.listened = 10.0  # its former self would be ended
    round_ = Round(engine, sink, sink._events, Pace(), clock, idle_s)
    for start in range(0, 1000, 50):
        sink.publish(engine.feed(Chunk("a", 7, start, WAVE[start : start + 50]), 0.0))
        if start == 500:
            sink.publish(engine.step())
    assert engine.streams["a"].status() is None
    assert engine.streams["a"].status() is not None  # it would say again how far it is
    state = Engine(identity(250), engine.rules)
    state.feed(Chunk("a", 7, 0, WAVE[:50]), 0.0)
    saved, tile = state.save("a", 0.0), engine.take()
    round_.begin(100.0)
    engine.discard("a")
    engine.load("a", saved, 100.0)
    before = len(sent(sink))
    sink.publish(engine.finish(tile, engine.denoiser(tile.batch)))
    for at in (100.5, 101.1):
        round_.look(at)
    assert [(c.kind, c.index) for c in sent(sink)[before:]] == []
    assert not engine.events
    assert (engine.moved, engine.streams["a"].intake.sessions.accepted) == (950, 50)


def test_nothing_is_published_behind_a_message_that_found_no_room(sink: FleetSink) -> None:
    tending = sink.tender = Sure()  # type: ignore[assignment]
    sink._link.room = False  # type: ignore[attr-defined]
    sink.publish([chunk(0)])
    assert (tending.take_up_again, sink.losses, sink.published) == (True, NEVER, 0)  # type: ignore[attr-defined]


def test_what_was_held_back_is_published_though_nothing_more_comes(sink: FleetSink) -> None:
    sink.tender.is_sure = False  # type: ignore[union-attr,misc]
    sink.publish([chunk(0, 0, Kind.END)])
    sink.hear()
    assert not sent(sink)
    sink.tender.is_sure = True  # type: ignore[union-attr,misc]
    sink.hear()
    assert [c.kind for c in sent(sink)] == [Kind.END]


# ---- with a server -------------------------------------------------------------------------------------------------------


def told_of(one: Chunk) -> tuple[int, bytes]:
    """What a message of beats and rates says."""
    return one.index, encode(Chunk(one.stream, 0, one.index, EMPTY, Kind.BEATS, beats=one.beats))[1]


class Ward:
    """Members as processes, on one server with JetStream."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.server = Server(folder, *(options or ("-js",)))
        self.members: list[subprocess.Popen[bytes]] = []

    def status(self, k: int) -> str:
        return f"ipc://{self.folder}/status{k}"

    def log(self, k: int) -> str:
        return (self.folder / f"log{k}").read_text()

    def start(self, *options: str, url: str = "", program: Sequence[str] = (PPGSTREAM,)) -> int:
        k, url = len(self.members), url or self.server.url
        asked = [*program, "run", "--in", url, "--out", url, "--status", self.status(k), "--fleet", "ward", *options]
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / f"log{k}").open("wb") as log:
            self.members.append(subprocess.Popen([*asked, "--checkpoint", "lmmse"], stderr=log, env=env, cwd=self.folder))
        return k

    def end(self, k: int) -> None:
        self.members[k].terminate()

    def replay(self, *options: str) -> subprocess.Popen[str]:
        """Send wave.npy, with acknowledgements."""
        asked = [PPGSTREAM, "replay", "wave.npy", "--fs", "125", "--to", self.server.url, "--acked", *options]
        return subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, cwd=self.folder)

    def table(self) -> dict[str, Any]:
        asked = [PPGSTREAM, "fleet", "status", "ward", "--server", self.server.url, "--json"]
        done = subprocess.run(asked, capture_output=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else {"members": []}  # type: ignore[no-any-return]

    def shares(self) -> list[int]:
        """Partitions of each member that is there."""
        told = self.table()
        return sorted(m["partitions"] for m in told["members"]) if told["members"] else []

    def close(self) -> None:
        for member in self.members:
            member.kill()
            member.wait()
        self.server.kill()


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    made = Ward(tmp_path)
    yield made
    made.close()


NAMES = [f"s{k}" for k in range(8)] + ["a..b", ".x"]
Happens = tuple[float, Callable[[], Any]]


def pulses(samples: int) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {name: synthetic.pulse(samples, synthetic.person(rng), rng)[0].astype(np.float32) for name in NAMES}


def played(ward: Ward, waves: dict[str, Any], happens: Sequence[Happens], *, pace_s: float = 0.18) -> list[Chunk]:
    """What a reader hears of streams of which 50 samples are sent each `pace_s`, while things happen at their times, s."""
    hears, sends = receiver(ward.server.url), publisher(ward.server.url)
    sends.wait_for_subscriber(PATIENCE_S)
    came: list[Chunk] = []
    left, begun, samples = list(happens), time.monotonic(), len(waves["s0"])
    for start in range(0, samples, 50):
        for name in waves:
            sends.send(Chunk(name, 7, start, waves[name][start : start + 50], t_ns=10**18 + start * 8_000_000))
        while left and time.monotonic() - begun > left[0][0]:
            left.pop(0)[1]()
        came += hears.poll(0.0)
        time.sleep(max(begun + pace_s * (start / 50 + 1) - time.monotonic(), 0.0))
    assert not left
    for name in waves:
        sends.send(Chunk(name, 7, samples, EMPTY, Kind.END))

    def over() -> bool:
        came.extend(hears.poll(0.2))
        return hears.all_ended and len(hears.accounts) == len(waves)

    until(over, "all ends")
    assert hears.lost == 0
    for closes in (sends, hears):
        closes.close()
    return came


def equal_one_engine_s(came: list[Chunk], waves: dict[str, Any]) -> None:
    """Each sample is there once, in order, and all that is told of it is as of one engine that had all of them."""
    checkpoint = restore(Path("lmmse"))
    engine = Engine(runtime.denoiser(checkpoint), offline_rules(checkpoint))
    for name, wave in waves.items():
        parts = [c for c in came if c.stream == name and c.kind is Kind.DATA]
        assert [c.index for c in parts] == [0, *(c.stop for c in parts[:-1])], name
        assert parts[-1].stop == len(wave)
        alone = offline.denoised_chunks(wave.astype(np.float64), engine, stream=name, fs=125.0)
        whole = [c for c in alone if c.kind is Kind.DATA]
        for column in ("samples", "confidence", "flags"):
            found, expected = (np.concatenate([getattr(c, column) for c in chunks]) for chunks in (parts, whole))
            np.testing.assert_array_equal(found, expected.astype(found.dtype))
        told = [told_of(c) for c in came if c.stream == name and c.beats is not None]
        assert told == [told_of(c) for c in alone if c.beats is not None]
        epochs = [c.epoch for c in parts]
        assert epochs == sorted(epochs)


@needs_server
@pytest.mark.timeout(300)
def test_every_sample_is_published_once_whatever_happens_to_members(ward: Ward) -> None:
    """Killed, suspended for longer than a lease, ended, joined: as one daemon alone would have published it."""
    waves = pulses(8000)
    for _ in range(3):
        ward.start()
    until(lambda: ward.shares() == [85, 85, 86], "even shares")
    happens: list[Happens] = [
        (3.0, ward.members[0].kill),
        (9.0, ward.start),
        (15.0, partial(ward.members[1].send_signal, signal.SIGSTOP)),
        (20.0, partial(ward.members[1].send_signal, signal.SIGCONT)),
        (25.0, ward.members[2].terminate),
    ]
    equal_one_engine_s(played(ward, waves, happens), waves)
    assert ward.members[2].wait(PATIENCE_S) == 0  # it has handed over
    assert "could not be handed over" not in ward.log(2)
    told = ward.table()
    assert sum(m["partitions"] for m in told["members"]) == PARTITIONS
    assert sum(m["taken"] for m in told["members"]) > 0


@needs_server
@pytest.mark.timeout(300)
def test_every_sample_is_published_once_whatever_happens_to_the_way_to_the_server(ward: Ward) -> None:
    """One member is cut off for a moment and for longer than a lease; the clock of another jumps by a day, there and back."""
    waves = pulses(5000)
    cut = Cut(ward.server.port)
    ward.start(url=cut.url)
    ward.start(program=[sys.executable, "-c", JUMPS])
    until(lambda: ward.shares() == [128, 128], "even shares")
    happens: list[Happens] = [
        (3.0, cut.cut), (3.3, cut.mend),
        (8.0, cut.cut), (13.0, cut.mend),
    ]  # fmt: skip
    try:
        equal_one_engine_s(played(ward, waves, happens), waves)
        assert "the connection was lost; they are taken up again" in ward.log(0)
        assert ward.members[1].poll() is None
    finally:
        cut.close()


JUMPS = """
import sys, time
begun, wall, wall_ns = time.monotonic(), time.time, time.time_ns
def jumped():
    return 86_400 * (round((time.monotonic() - begun) / 4) % 3 - 1)
time.time, time.time_ns = lambda: wall() + jumped(), lambda: wall_ns() + 10**9 * jumped()
from ppgstream.cli.app import main
main()
"""


@needs_server
@pytest.mark.timeout(300)
def test_from_one_member_to_three_and_back_nothing_is_lost(ward: Ward) -> None:
    waves = pulses(5000)
    ward.start()
    until(lambda: ward.shares() == [256], "the first")
    happens: list[Happens] = [
        (1.0, ward.start),
        (1.1, ward.start),
        (9.0, partial(ward.end, 0)),
        (12.0, partial(ward.end, 2)),
    ]
    equal_one_engine_s(played(ward, waves, happens), waves)
    assert [ward.members[k].wait(PATIENCE_S) for k in (0, 2)] == [0, 0]
    until(lambda: ward.shares() == [256], "the last")


@needs_server
@pytest.mark.timeout(300)
def test_what_a_server_that_is_killed_has_not_stored_is_told_as_gaps(ward: Ward) -> None:
    """Of senders that do not wait for its acknowledgements."""
    waves = pulses(3000)
    for _ in range(2):
        ward.start()
    until(lambda: ward.shares() == [128, 128], "even shares")

    def restart() -> None:
        ward.server.kill()
        ward.server.start()

    came = played(ward, waves, [(3.0, restart), (6.0, restart)])
    for name in waves:
        parts = [c for c in came if c.stream == name and c.kind in (Kind.DATA, Kind.GAP)]
        assert [c.index for c in parts] == [0, *(c.stop for c in parts[:-1])], name
        assert parts[-1].stop == 3000


@needs_server
def test_a_sender_with_acknowledgements_goes_on_where_it_was_killed_and_nothing_is_stored_twice(ward: Ward) -> None:
    wave = pulses(2000)["s0"]
    with pytest.raises(SourceError, match="nothing keeps what is sent there: start `ppgstream run --fleet NAME` first"):
        publisher(ward.server.url, acked=True).wait_for_subscriber(0.1)
    with pytest.raises(ArgumentError, match="goes with acked=True"):
        ppgstream.Sender(ward.server.url, resume=True)
    with pytest.raises(UsageError, match="only a NATS server acknowledges"):
        ppgstream.Sender("tcp://127.0.0.1:5600", acked=True)
    ward.start()
    until(lambda: ward.shares() == [256], "the member")
    hears = receiver(ward.server.url)
    one = ppgstream.Sender(ward.server.url, "a", acked=True)
    one.send(wave[:125])
    one.send(wave[125:250])
    again = ppgstream.Sender(ward.server.url, "a", acked=True, resume=True)
    assert (again.session, again.sent) == (one.session, 250)
    one.send(wave[250:375])  # the first has sent more than the second knows of
    again.send(wave[250:375])
    link = Link(ward.server.url)
    assert len(link.run(kept(link, "ppg-ward-in", ["ppg.in.>"], 1))) == 3
    link.close()
    broken = ppgstream.Sender(ward.server.url, "broken", acked=True)

    def fail() -> None:
        with broken:
            broken.send(wave[:125])
            raise KeyError("a bug of who sends")

    with pytest.raises(KeyError):
        fail()
    with ppgstream.Sender(ward.server.url, "broken", acked=True, resume=True) as mended:  # its session was not ended
        assert (mended.session, mended.sent) == (broken.session, 125)
    with pytest.raises(ArgumentError, match="the session of a on the server has 125 Hz"):
        ppgstream.Sender(ward.server.url, "a", 64, acked=True, resume=True)
    again.send(wave[375:])
    again.close()
    came: list[Chunk] = []
    until(lambda: came.extend(hears.poll(0.2)) or (hears.all_ended and len(hears.accounts) == 2), "the ends")
    parts = [c for c in came if c.kind is Kind.DATA and c.stream == "a"]
    assert [c.index for c in parts] == [0, *(c.stop for c in parts[:-1])]
    assert (parts[-1].stop, hears.lost) == (2000, 0)
    after = ppgstream.Sender(ward.server.url, "a", acked=True, resume=True)
    assert (after.sent, after.session != one.session) == (0, True)
    for closes in (one, after, hears):
        closes.close()


@needs_server
def test_an_acknowledged_replay_goes_on_where_it_was_interrupted(ward: Ward) -> None:
    np.save(ward.folder / "wave.npy", pulses(2000)["s0"])
    ward.start()
    until(lambda: ward.shares() == [256], "the member")

    def replay(*more: str) -> subprocess.CompletedProcess[str]:
        process = ward.replay("--speed", "max", *more)
        _, said = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, "", said)

    assert replay("--until", "8").returncode == 0
    link = Link(ward.server.url)
    sent = link.run(kept(link, "ppg-ward-in", ["ppg.in.>"], 1))
    assert len(sent) == 9  # a message a second, and the end
    done = replay("--until", "8", "--resume")
    assert (done.returncode, "has all 1,000 samples of it, and its end" in done.stderr) == (0, True), done.stderr
    done = replay("--resume")
    assert (done.returncode, "has 1,000 samples, ended, at 125 Hz, the file 2,000 at 125 Hz: this is another" in done.stderr) == (
        2,
        True,
    )
    assert replay("--resume", "--loop").returncode == 2
    last = decode([b"wave", sent[0].body])
    link.publish(subject_of("in", "wave"), encode(Chunk("wave", last.session + 1, 0, last.samples, t_ns=10**18))[1])
    link.flush(PATIENCE_S)
    np.save(ward.folder / "wave.npy", pulses(2000)["s1"])
    done = replay("--resume")
    assert (done.returncode, "with other values: this is another recording" in done.stderr) == (2, True), done.stderr
    np.save(ward.folder / "wave.npy", pulses(2000)["s0"])
    done = replay("--resume")
    assert (done.returncode, "goes on at sample 125" in done.stderr) == (0, True), done.stderr
    again = [decode([b"wave", m.body]) for m in link.run(kept(link, "ppg-ward-in", ["ppg.in.>"], 10))]
    # Stopped, it sends no end, and goes on.
    slow = ward.replay("--stream", "slow")
    until(lambda: len(link.run(kept(link, "ppg-ward-in", [subject_of("in", "slow")], 1))) > 1, "two messages")
    slow.send_signal(signal.SIGTERM)
    _, told = slow.communicate(timeout=PATIENCE_S)
    assert (slow.returncode, "--resume sends the rest" in told) == (0, True), told
    done = replay("--resume", "--stream", "slow")
    assert (done.returncode, "goes on at sample" in done.stderr) == (0, True), done.stderr
    slow_ = [decode([b"slow", m.body]) for m in link.run(kept(link, "ppg-ward-in", [subject_of("in", "slow")], 1))]
    assert (len({c.session for c in slow_}), slow_[-1].kind, slow_[-1].index) == (1, Kind.END, 2000)
    link.close()
    assert [(c.session, c.index, c.stop) for c in again[:3]] == [(last.session + 1, at, at + 125) for at in (0, 125, 250)]
    assert (again[-1].kind, again[-1].index, again[1].t_ns) == (Kind.END, 2000, 10**18 + 10**9)


@needs_server
def test_a_member_that_is_cut_off_for_less_than_its_lease_reads_again_what_it_missed(ward: Ward) -> None:
    k = ward.start()
    until(lambda: ward.shares() == [256], "the share")
    hears, sends = receiver(ward.server.url), publisher(ward.server.url)
    sends.wait_for_subscriber(PATIENCE_S)
    pid = ward.members[k].pid
    for start in range(0, 3000, 50):
        if start == 1000:
            os.kill(pid, signal.SIGSTOP)
        if start == 1500:
            os.kill(pid, signal.SIGCONT)
        sends.send(Chunk("a", 7, start, WAVE[start : start + 50]))
        time.sleep(0.05)
    sends.send(Chunk("a", 7, 3000, EMPTY, Kind.END))
    came: list[Chunk] = []
    until(lambda: came.extend(hears.poll(0.2)) or hears.all_ended, "the end")
    assert sum(len(c.samples) for c in came) == 3000
    assert hears.lost == 0
    sends.close()
    hears.close()


@needs_server
def test_another_checkpoint_or_setting_is_refused(ward: Ward) -> None:
    ward.start()
    until(lambda: ward.shares() == [256], "the first")
    k = ward.start("--config", str(_written(ward.folder / "other.toml", "[windows]\nhop = 50\n")))
    assert ward.members[k].wait(PATIENCE_S) == 78
    assert "--fleet ward: the member" in ward.log(k)
    assert "has another [windows]: all members must have the same" in ward.log(k)
    assert ward.log(k).count("\n") == 1
    for options, told in (
        (["--fleet", "icu"], "ppg-ward-in keeps ppg.in.> on this server"),
        (["--fleet", ""], "--fleet: a name"),
    ):
        k = ward.start(*options)
        assert ward.members[k].wait(PATIENCE_S) == (78 if options[1] else 2)
        assert (told in ward.log(k), ward.log(k).count("\n")) == (True, 1)
    plain = [PPGSTREAM, "run", "--in", ward.server.url, "--out", ward.server.url, "--status", ward.status(9)]
    with (ward.folder / "log9").open("wb") as log:
        ward.members.append(subprocess.Popen([*plain, "--checkpoint", "lmmse"], stderr=log, cwd=ward.folder))
    until(lambda: "a fleet reads the same streams (ppg-ward-in): this daemon is no member" in ward.log(9), "the warning")
    asked = [PPGSTREAM, "reload", "--checkpoint", "fast", "--status", ward.status(0)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert (done.returncode, "a member of the fleet ward" in done.stderr) == (1, True), done.stderr


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@needs_server
def test_a_server_without_jetstream_and_a_fleet_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    ward = Ward(tmp_path, "-DV")  # no JetStream
    try:
        k = ward.start()
        assert ward.members[k].wait(PATIENCE_S) == 69
        assert "the server has no JetStream (nats-server -js)" in ward.log(k)
        asked = [PPGSTREAM, "fleet", "status", "ward", "--server", ward.server.url]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (done.returncode, "no fleet of the name ward" in done.stderr) == (69, True), done.stderr
        for more, told in (
            (["wa rd"], "1 to 32 of A-Z"),
            (["ward", "--server", "tcp://127.0.0.1:1"], "must be nats://HOST:PORT"),
        ):
            done = subprocess.run([*asked[:3], *more], capture_output=True, text=True, check=False)
            assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    finally:
        ward.close()


@needs_server
def test_a_server_that_keeps_no_more_states_is_told(tmp_path: Path) -> None:
    limits = _written(tmp_path / "server.conf", "jetstream { max_file: 1MB }")
    ward = Ward(tmp_path, "-js", "-c", str(limits))
    try:
        k = ward.start()
        until(lambda: ward.shares() == [256], "the member")
        link, start = Link(ward.server.url), 0
        while "the NATS server keeps no more states" not in ward.log(k):
            for name in ("a", "b", "c", "d", "e"):
                at = start % 4000
                link.publish(subject_of("in", name), encode(Chunk(name, 7, start, WAVE[at : at + 50]))[1])
            start += 50
            time.sleep(0.05)
            assert start < 50 * 20 * PATIENCE_S, ward.log(k)
        link.close()
    finally:
        ward.close()


@needs_server
def test_the_table_shows_who_has_what(ward: Ward) -> None:
    ward.start()
    until(lambda: ward.shares() == [256], "the first")
    asked = [PPGSTREAM, "fleet", "status", "ward", "--server", ward.server.url]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "140"})
    assert "256" in done.stdout
    assert "partitions" in done.stdout
    link = Link(ward.server.url)
    link.publish(subject_of("in", "a"), encode(Chunk("a", 7, 0, WAVE[:500]))[1])
    until(lambda: ward.table()["members"][0]["streams"] == 1, "the stream")
    readers = {
        name: len(link.run(link.client.jetstream().consumers_info(name)))
        for name in ("KV_ppg-ward-members", "KV_ppg-ward-owners", "ppg-ward-in", "ppg-ward-out", "ppg-ward-state")
    }
    assert readers == dict.fromkeys(readers, 0) | {"ppg-ward-in": 1}  # the server allows 1000 of a stream
    link.close()
    shown = subprocess.run(
        [PPGSTREAM, "monitor", "--once", "--status", ward.status(0)], capture_output=True, text=True, check=True
    ).stdout
    assert "fleet ward: 1 members, 256 of 256 partitions here" in shown
    ward.members[0].send_signal(signal.SIGTERM)
    assert ward.members[0].wait(PATIENCE_S) == 0


@needs_server
def test_the_rights_that_the_docs_name_are_enough(tmp_path: Path) -> None:
    rights = {
        "member": (["ppg.>", "_INBOX.>", "$JS.API.>", "$KV.ppg-ward-members.>", "$KV.ppg-ward-owners.>"], ["ppg.>", "_INBOX.>"]),
        "sender": (["ppg.in.>", "ppg.ask.in"], ["_INBOX.>"]),
        "acked": (["ppg.in.>", "$JS.API.>"], ["_INBOX.>"]),
        "reader": (["$JS.API.>"], ["ppg.out.>", "_INBOX.>"]),
        "listener": ([], ["ppg.out.>", "_INBOX.>"]),
    }
    page = (Path(__file__).parents[1] / "docs" / "fleet.md").read_text()
    for who in ("member", "sender", "acked", "reader"):
        sends, hears = (", ".join(f"`{subject}`" for subject in side) for side in rights[who])
        assert f"| {sends} | {hears} |" in page
    may = {who: json.dumps({"publish": publish or ["none"], "subscribe": hear}) for who, (publish, hear) in rights.items()}
    users = "\n".join(f"{{ user: {who}, password: p, permissions: {told} }}" for who, told in may.items())
    conf = _written(tmp_path / "server.conf", f"jetstream {{}}\nauthorization {{ users: [\n{users}\n] }}\n")
    ward = Ward(tmp_path, "-js", "-c", str(conf))
    url = {who: ward.server.url.replace("//", f"//{who}:p@") for who in rights}
    try:
        ward.start(url=url["member"])
        until(lambda: "ready" in ward.log(0), "the member")
        said: list[str] = []
        hears = [receiver(url["reader"]), receiver(url["listener"], tell=said.append)]
        sends = publisher(url["sender"])
        sends.wait_for_subscriber(PATIENCE_S)
        for start in range(0, 1000, 50):
            sends.send(Chunk("a", 7, start, WAVE[start : start + 50]))
        sends.send(Chunk("a", 7, 1000, EMPTY, Kind.END))
        with ppgstream.Sender(url["acked"], "b", acked=True, resume=True) as sensor:
            sensor.send(WAVE[:1000])
        for one in hears:
            ends = time.monotonic() + PATIENCE_S
            while not (len(one.accounts) == 2 and one.all_ended) and time.monotonic() < ends:
                list(one.poll(0.2))
            assert [a.received for a in one.accounts.values()] == [1000, 1000]
            one.close()
        sends.close()
        assert "violation" not in ward.log(0).lower()
        assert len(said) == 1  # that it may not ask what is kept, once
    finally:
        ward.close()
