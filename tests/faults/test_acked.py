"""What is sent to a fleet with acknowledgements is in its output once, whatever is killed: sender, members, server."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from test_fleet import PPGSTREAM, Ward
from test_nats import needs_server
from waiting import PATIENCE_S, until

from faults.long import LONG, times
from ppgstream.lab import synthetic
from ppgstream.live.link import Link
from ppgstream.live.receiver import receiver
from ppgstream.live.stored import kept
from ppgstream.wire.message import Chunk, Kind, decode

KILLS = times(9, 50)
SAMPLES = times(2500, 25_000)
SPEED = 0.8
STREAMS = 6


@needs_server
@pytest.mark.timeout(1500 if LONG else 400)
def test_each_sample_is_there_once_though_sender_members_and_server_are_killed(tmp_path: Path) -> None:
    rng, dice = np.random.default_rng(8), random.Random(KILLS)
    wave = synthetic.pulse(SAMPLES, synthetic.person(rng), rng)[0]
    np.save(tmp_path / "wave.npy", wave)
    conf = tmp_path / "server.conf"
    conf.write_text("jetstream {\n sync_interval: always\n}\n")
    ward = Ward(tmp_path, "-js", "-c", str(conf))
    sender = None
    try:
        ward.start()
        ward.start()
        until(lambda: ward.shares() == [128, 128], "even shares")
        hears, came = receiver(ward.server.url), list[Chunk]()
        runs = 0

        def send() -> subprocess.Popen[bytes]:
            nonlocal runs
            runs += 1
            asked = [
                PPGSTREAM,
                "replay",
                str(tmp_path / "wave.npy"),
                "--fs",
                "125",
                "--to",
                ward.server.url,
                "--acked",
                "--resume",
            ]
            more = ["--copies", str(STREAMS), "--speed", str(SPEED), "--chunk", "100"]
            with (tmp_path / f"sender{runs}").open("wb") as log:
                return subprocess.Popen([*asked, *more], stderr=log, stdout=log)

        def again(sender: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
            """Another one in place of one that the server was away for."""
            assert sender.poll() in (None, 0, 69), (tmp_path / f"sender{runs}").read_text()
            return send() if sender.poll() == 69 else sender

        sender = send()
        time.sleep(3.0)
        for _ in range(KILLS):
            victim = dice.choice(["sender", "member", "member", "server"])
            if victim == "sender":
                sender.kill()
                sender.wait()
                sender = send()
            elif victim == "server":
                ward.server.kill()
                time.sleep(dice.uniform(0.0, 1.5))
                ward.server.start()
            else:
                k = dice.choice([k for k, member in enumerate(ward.members) if member.poll() is None])
                ward.members[k].kill()
                ward.members[k].wait()
                ward.start()
            ends = time.monotonic() + dice.uniform(0.2, 4.0)
            while time.monotonic() < ends:
                came += hears.poll(0.05)
            sender = again(sender)

        def over() -> bool:
            nonlocal sender
            came.extend(hears.poll(0.2))
            assert sender is not None
            sender = again(sender)
            return hears.all_ended and len(hears.accounts) == STREAMS

        until(over, "all ends", seconds=3 * PATIENCE_S)
        link = Link(ward.server.url)
        stored = [
            decode([m.subject.rpartition(".")[2].encode(), m.body])
            for m in link.run(kept(link, "ppg-ward-out", ["ppg.out.>"], 1))
        ]
        link.close()
        assert hears.lost == 0
        for chunks in (came, stored):
            for name in {c.stream for c in chunks}:
                parts = [c for c in chunks if c.stream == name and c.kind in (Kind.DATA, Kind.GAP)]
                assert [c.index for c in parts] == [0, *(c.stop for c in parts[:-1])], name
                assert parts[-1].stop == SAMPLES
                assert not any(c.kind is Kind.GAP for c in parts)
        hears.close()
    finally:
        if sender is not None:
            sender.kill()
            sender.wait()
        ward.close()
