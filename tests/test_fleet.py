"""Members of a fleet: who owns what, and what is published when one of them dies, is suspended, leaves or joins."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_nats import PPGSTREAM, Server, needs_server
from waiting import PATIENCE_S, until

from ppgstream.assemble import offline_rules
from ppgstream.config import load
from ppgstream.core.denoiser import identity
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Plan, Rules
from ppgstream.errors import ConfigError
from ppgstream.files import offline
from ppgstream.lab import synthetic
from ppgstream.live.events import Events
from ppgstream.live.fleet import Fleet, FleetSink, FleetSource, Member, Owner, settings_of, shares
from ppgstream.live.link import Link
from ppgstream.live.nats import PARTITIONS, partition_of, subject_of
from ppgstream.live.publisher import publisher
from ppgstream.live.receiver import receiver
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

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.incoming: list[tuple[str, bytes]] = []

    def fileno(self) -> int:
        return 0

    def ring(self) -> None:
        self.rung = True

    def take(self) -> tuple[str, bytes] | None:
        return self.incoming.pop(0) if self.incoming else None

    def publish(self, subject: str, body: bytes) -> bool:
        self.sent.append((subject, body))
        return True

    def chunks(self) -> list[Chunk]:
        return [decode([subject.rpartition(".")[2].encode(), body]) for subject, body in self.sent]


class Sure:
    is_sure = True


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


def message(one: Chunk) -> tuple[str, bytes]:
    return subject_of("out", one.stream), encode(one)[1]


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
    sink.forget("a")
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
    sink.owned.clear()
    sink.tender.is_sure = True  # type: ignore[union-attr,misc]
    sink.publish([chunk(200)])
    assert (len(sent(sink)), sink.fenced) == (3, 1)


def test_what_comes_before_a_partition_is_owned_waits_and_what_came_before_is_left_out() -> None:
    link = Fake()
    source = FleetSource(link, Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]
    engine = Engine(identity(250), Rules(Plan(answers="input", scaling="none")))
    owned: dict[int, int] = {}
    source.engine, source.owned, source.listening = engine, owned, {partition_of("a"): None}

    def read() -> list[int]:
        found = []
        while (chunks := source.take(time.monotonic(), 0.0)) is not None:
            for one in chunks:
                engine.feed(one, 0.0)
                found.append(one.index)
        return found

    def put(*chunks: Chunk) -> list[tuple[str, bytes]]:
        return [(subject_of("in", c.stream), encode(c)[1]) for c in chunks]

    plain = [Chunk("a", 7, start, WAVE[start : start + 50]) for start in range(0, 400, 50)]
    link.incoming += put(plain[3], plain[4], Chunk("b", 7, 0, WAVE[:5]))  # b's partition is nobody's business here
    assert read() == []
    owned[partition_of("a")] = 1
    source.read_again(put(*plain[:4]), owned)
    assert link.rung  # the loop does not wait for something live to come
    assert read() == [0, 50, 100, 150, 200]
    link.incoming += put(plain[4], plain[5], Chunk("a", 7, 300, EMPTY, Kind.END))
    assert read() == [250, 300]
    link.incoming += put(Chunk("a", 7, 300, EMPTY, Kind.END))
    assert read() == []
    source.forget(owned)
    link.incoming += put(plain[4])
    assert read() == [200]  # what comes long after is the sequencer's business


def test_a_stream_that_has_ended_is_saved_once_more_and_not_again(sink: FleetSink) -> None:
    class Tending:
        name, saved, link, is_sure = "ward", 0, sink._link, True

        def __init__(self) -> None:
            self.commands: SimpleQueue[Any] = SimpleQueue()
            self.listening: dict[int, Any] = {}
            self.member = Member("m", "h", 1, "")

        def seqs_before(self, _: float) -> tuple[int, int]:
            return 5, 6

    engine = Engine(identity(250), Rules(Plan(answers="input", scaling="none")))
    source = FleetSource(sink._link, Events(logging.getLogger("ppgstream")))
    fleet = Fleet(Tending(), source, sink, engine, Events(logging.getLogger("ppgstream")))  # type: ignore[arg-type]

    def saves(first: int, last: int) -> int:
        before = len(sink._link.sent)  # type: ignore[attr-defined]
        for second in range(first, last):
            fleet.turn((float(second), float(second), float(second)))
        return len(sink._link.sent) - before  # type: ignore[attr-defined,no-any-return]

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

    def start(self, *options: str) -> int:
        k, url = len(self.members), self.server.url
        asked = [PPGSTREAM, "run", "--in", url, "--out", url, "--status", self.status(k), "--fleet", "ward", *options]
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self.folder / f"log{k}").open("wb") as log:
            self.members.append(subprocess.Popen([*asked, "--checkpoint", "lmmse"], stderr=log, env=env, cwd=self.folder))
        return k

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


@needs_server
@pytest.mark.timeout(300)
def test_every_sample_is_published_once_whatever_happens_to_members(ward: Ward) -> None:
    """Killed, suspended for longer than a lease, ended, joined: as one daemon alone would have published it."""
    rng = np.random.default_rng(5)
    names = [f"s{k}" for k in range(8)] + ["a..b", ".x"]
    waves = {name: synthetic.pulse(8000, synthetic.person(rng), rng)[0].astype(np.float32) for name in names}
    for _ in range(3):
        ward.start()
    until(lambda: ward.shares() == [85, 85, 86], "even shares")
    hears, sends = receiver(ward.server.url), publisher(ward.server.url)
    sends.wait_for_subscriber(PATIENCE_S)
    came: list[Chunk] = []
    begun = time.monotonic()
    happens = [
        (3.0, ward.members[0].kill),
        (9.0, ward.start),
        (15.0, partial(ward.members[1].send_signal, signal.SIGSTOP)),
        (20.0, partial(ward.members[1].send_signal, signal.SIGCONT)),
        (25.0, ward.members[2].terminate),
    ]
    for start in range(0, 8000, 50):
        for name in names:
            sends.send(Chunk(name, 7, start, waves[name][start : start + 50], t_ns=10**18 + start * 8_000_000))
        while happens and time.monotonic() - begun > happens[0][0]:
            happens.pop(0)[1]()
        came += hears.poll(0.0)
        time.sleep(max(begun + 0.18 * (start / 50 + 1) - time.monotonic(), 0.0))
    assert not happens
    for name in names:
        sends.send(Chunk(name, 7, 8000, EMPTY, Kind.END))

    def over() -> bool:
        came.extend(hears.poll(0.2))
        return hears.all_ended and len(hears.accounts) == len(names)

    until(over, "all ends")
    checkpoint = restore(Path("lmmse"))
    engine = Engine(runtime.denoiser(checkpoint), offline_rules(checkpoint))
    for name in names:
        parts = [c for c in came if c.stream == name and c.kind is Kind.DATA]
        assert [c.index for c in parts] == [0, *(c.stop for c in parts[:-1])], name  # each sample once, in order
        assert parts[-1].stop == 8000
        alone = offline.denoised_chunks(waves[name].astype(np.float64), engine, stream=name, fs=125.0)
        whole = [c for c in alone if c.kind is Kind.DATA]
        for column in ("samples", "confidence", "flags"):
            found, expected = (np.concatenate([getattr(c, column) for c in chunks]) for chunks in (parts, whole))
            np.testing.assert_array_equal(found, expected.astype(found.dtype))
        assert [told_of(c) for c in came if c.stream == name and c.beats is not None] == [
            told_of(c) for c in alone if c.beats is not None
        ]
        epochs = [c.epoch for c in parts]
        assert epochs == sorted(epochs)
    assert hears.lost == 0
    assert ward.members[2].wait(PATIENCE_S) == 0  # it has handed over
    assert "could not be handed over" not in ward.log(2)
    told = ward.table()
    assert sum(m["partitions"] for m in told["members"]) == PARTITIONS
    assert sum(m["taken"] for m in told["members"]) > 0
    sends.close()
    hears.close()


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
    assert "other settings" in ward.log(k)
    assert ward.log(k).count("\n") == 1
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
        assert "the NATS server has no JetStream" in ward.log(k)
        asked = [PPGSTREAM, "fleet", "status", "ward", "--server", ward.server.url]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        assert (done.returncode, "no fleet of the name ward" in done.stderr) == (69, True), done.stderr
    finally:
        ward.close()


@needs_server
def test_a_server_that_keeps_no_more_states_is_told(tmp_path: Path) -> None:
    limits = _written(tmp_path / "server.conf", "jetstream { max_mem: 100KB }")
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
    link.close()
    shown = subprocess.run(
        [PPGSTREAM, "monitor", "--once", "--status", ward.status(0)], capture_output=True, text=True, check=True
    ).stdout
    assert "fleet ward: 1 members, 256 of 256 partitions here" in shown
    ward.members[0].send_signal(signal.SIGTERM)
    assert ward.members[0].wait(PATIENCE_S) == 0
