"""Boards of BrainFlow: its synthetic board, and a recording that it plays."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.daemon import PATIENCE_S, until
from test_bridge import Listener, start

from ppgstream.errors import UsageError
from ppgstream.live.receiver import Receiver
from ppgstream.live.status import StatusClient
from ppgstream.wire.message import Chunk, Kind

pytest.importorskip("brainflow", reason="brainflow is not installed: pip install ppgstream[brainflow]")

from ppgstream.live import boards
from ppgstream.live.boards import Board, wanted

FS = 250.0  # of the synthetic board


def test_a_board_is_named_as_brainflow_names_it() -> None:
    synthetic = wanted("synthetic")
    assert synthetic == wanted("SYNTHETIC_BOARD")
    assert (synthetic.board, synthetic.number, synthetic.fs, synthetic.stream) == ("SYNTHETIC_BOARD", -1, FS, "synthetic")
    assert wanted("synthetic", 1).samples != synthetic.samples
    muse = wanted("MUSE_2,config=p61,mac_address=00:55:DA:B9:FA:20,timeout=9")
    assert (muse.commands, muse.parameters["timeout"], muse.fs) == (("p61",), 9, 64.0)
    assert muse.samples == wanted("MUSE_2", 1).samples  # infrared
    assert muse.stream == "muse_2.00:55:DA:B9:FA:20"
    assert wanted("EMOTIBIT,serial_port=/dev/ttyUSB1").stream == "emotibit.ttyUSB1"


@pytest.mark.parametrize(
    ("text", "channel", "why"),
    [
        ("nosuch", None, "SYNTHETIC_BOARD"),
        ("synthetic,colour=green", None, "mac_address"),
        ("synthetic,timeout=soon", None, "timeout=soon"),
        ("synthetic,config", None, "config=COMMAND"),
        ("synthetic", 2, "2 PPG channels"),
        ("synthetic", -1, "2 PPG channels"),
        ("CYTON", None, "no PPG channel"),
        ("PLAYBACK_FILE,file=a.csv,master_board=-77", None, "--brainflow"),
    ],
)
def test_what_brainflow_does_not_have_is_refused(text: str, channel: int | None, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        wanted(text, channel)


def read(board: Board, listener: Listener, enough: Any) -> list[Chunk]:
    chunks: list[Chunk] = []
    board.start()
    until(lambda: chunks.extend(listener.poll(0.05)) or enough(chunks), "the board's samples")
    board.end()
    until(lambda: chunks.extend(listener.poll(0.05)) or chunks[-1].kind is Kind.END, "the END")
    board.join(PATIENCE_S)
    listener.close()
    return chunks


def test_the_synthetic_board_is_read_with_its_stamps(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path / 'in'}"
    listener = Listener(endpoint)
    chunks = read(Board(wanted("synthetic"), endpoint, log=logging.getLogger("test")), listener, lambda c: len(c) > 5)
    assert {(c.stream, c.fs, c.session) for c in chunks} == {("synthetic", FS, chunks[0].session)}
    data = [c for c in chunks if c.kind is Kind.DATA]
    assert [c.index for c in data] == [0, *np.cumsum([len(c.samples) for c in data])[:-1]]
    assert all(abs(c.t_ns / 1e9 - time.time()) < 2 * PATIENCE_S for c in data)
    x = np.concatenate([c.samples for c in data])
    assert 300 < x.mean() < 700
    assert x.std() > 1


def recording(path: Path, *, bpm: float, seconds: float) -> None:
    """As BrainFlow writes them, of the synthetic board: a row a sample, tabs between. Row 24 is PPG, 30 the time."""
    n = round(seconds * FS)
    rows = np.zeros((n, 32))
    phase = 2 * np.pi * bpm / 60 * np.arange(n) / FS
    rows[:, 0] = np.arange(n) % 256
    rows[:, 24] = 500 + 20 * np.exp(2 * np.cos(phase)) / np.exp(2)
    rows[:, 30] = time.time() - seconds + np.arange(n) / FS
    np.savetxt(path, rows, fmt="%.6f", delimiter="\t")


def test_a_board_that_gives_nothing_more_is_opened_again_as_another_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(boards, "SILENT_S", 1.0)
    monkeypatch.setattr("ppgstream.live.bridge.RETRY_S", (0.05, 0.1))
    recording(tmp_path / "r.csv", bpm=75, seconds=1.0)
    endpoint = f"ipc://{tmp_path / 'in'}"
    listener = Listener(endpoint)
    one = wanted(f"PLAYBACK_FILE,file={tmp_path / 'r.csv'},master_board=-1")
    with caplog.at_level("WARNING"):
        board = Board(one, endpoint, log=logging.getLogger("test"))
        chunks = read(board, listener, lambda all_: len({c.session for c in all_}) == 2)
    assert sum(c.kind is Kind.END for c in chunks) == 2
    assert sum(len(c.samples) for c in chunks if c.session == chunks[0].session) > 200
    assert any("no sample for 1 s; tried again" in r.message for r in caplog.records)


def test_a_board_that_cannot_be_opened_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ppgstream.live.bridge.RETRY_S", (0.01, 0.02))
    endpoint = f"ipc://{tmp_path / 'in'}"
    listener = Listener(endpoint)
    with caplog.at_level("WARNING"):
        board = Board(
            wanted(f"PLAYBACK_FILE,file={tmp_path / 'none.csv'},master_board=-1"), endpoint, log=logging.getLogger("test")
        )
        board.start()
        until(lambda: any("tried again" in r.message for r in caplog.records), "the event")
        board.end()
        board.join(PATIENCE_S)
    assert not [c for c in listener.poll(0.0) if len(c.samples)]
    listener.close()


def test_the_daemon_reads_a_board_and_tells_its_heart_rate(tmp_path: Path) -> None:
    recording(tmp_path / "r.csv", bpm=75, seconds=30.0)
    ends = [f"ipc://{tmp_path / name}" for name in ("in", "out", "status")]
    flags = [f for name, end in zip(("in", "out", "status"), ends, strict=True) for f in (f"--{name}", end)]
    board = f"PLAYBACK_FILE,file={tmp_path / 'r.csv'},master_board=-1"
    process = start(["run", "--checkpoint", "fast", *flags, "--brainflow", board])
    receiver, asks = Receiver(ends[1]), StatusClient(ends[2])
    try:
        assert process.stderr is not None
        until(lambda: (found := asks.ask(1.0)) is not None and found.subscribers, "the receiver's subscription")
        chunks: list[Chunk] = []
        rates: list[float] = []

        def heard() -> bool:
            for chunk in receiver.poll(0.05):
                chunks.append(chunk)
                if chunk.beats is not None and chunk.beats.bpm_confidence > 0.9:
                    rates.append(float(chunk.beats.bpm))
            return len(rates) > 2

        until(heard, "heart rates")
        assert {(c.stream, c.fs) for c in chunks} == {("playback_file", FS)}
        assert all(abs(rate - 75) < 1 for rate in rates)
    finally:
        receiver.close()
        asks.close()
        process.kill()
        process.wait()
