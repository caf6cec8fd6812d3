"""The ends of the wire: endpoints, the publisher and the receiver."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from ppgstream.errors import ConfigError, SourceError
from ppgstream.live.endpoints import Inbox, attach
from ppgstream.live.publisher import Publisher
from ppgstream.live.receiver import Account, Receiver
from ppgstream.live.sink import ZmqSink
from ppgstream.wire.message import EMPTY, Beats, Chunk, Kind, decode, encode


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(linger=0)


# ---- endpoints -----------------------------------------------------------------------------------------------------


def test_a_port_of_star_comes_back_as_a_number(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    endpoint = attach(context.socket(zmq.PULL), "tcp://127.0.0.1:*", bind=True)
    assert int(endpoint.removeprefix("tcp://127.0.0.1:")) > 0


def test_a_port_in_use_is_one_line_with_its_key(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    holder = context.socket(zmq.PULL)  # a socket that nobody refers to is closed
    taken = attach(holder, "tcp://127.0.0.1:*", bind=True)
    with pytest.raises(SourceError, match=rf"^in\.endpoint {taken}: cannot bind: Address already in use$"):
        attach(context.socket(zmq.PULL), taken, bind=True, name="in.endpoint")


@pytest.mark.parametrize(("scheme", "peer"), [("tcp", "127.0.0.1"), ("ipc", "process {pid}")])
def test_a_message_s_sender_is_an_address_or_a_process(
    scheme: str, peer: str, context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    receiver, sender = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbox = Inbox(receiver)
    assert inbox.peer == ""
    end = attach(receiver, "tcp://127.0.0.1:*" if scheme == "tcp" else f"ipc://{tmp_path}/in", bind=True)
    attach(sender, end, bind=False)
    sender.send(b"x")
    assert receiver.poll(30_000)
    assert inbox.take() == [b"x"]
    assert inbox.peer == peer.format(pid=os.getpid())


def test_what_is_not_local_is_refused_before_it_is_opened(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    with pytest.raises(ConfigError, match=r"out\.endpoint"):
        attach(context.socket(zmq.PULL), "tcp://0.0.0.0:5600", bind=True, name="out.endpoint")


def test_an_ipc_path_that_is_a_file_or_a_live_socket_is_left_alone(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "notes"
    file.write_text("mine")
    with pytest.raises(SourceError, match="is no socket"):
        attach(context.socket(zmq.PULL), f"ipc://{file}", bind=True)
    assert file.read_text() == "mine"
    live = f"ipc://{tmp_path / 'live'}"
    holder = context.socket(zmq.PULL)  # a socket that nobody refers to is closed
    attach(holder, live, bind=True)
    with pytest.raises(SourceError, match="in use by another process"):
        attach(context.socket(zmq.PULL), live, bind=True)


def test_a_socket_left_over_from_a_process_that_is_gone_is_taken(context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path) -> None:
    path = tmp_path / "old"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    assert attach(context.socket(zmq.PULL), f"ipc://{path}", bind=True) == f"ipc://{path}"


# ---- publisher and receiver ----------------------------------------------------------------------------------------


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Publisher, Receiver]]:
    endpoint = f"ipc://{tmp_path / 'ends'}"
    publisher = Publisher(endpoint, bind=True)
    receiver = Receiver(endpoint)
    yield publisher, receiver
    publisher.close(0.0)
    receiver.close()


def chunk(index: int, n: int = 25, stream: str = "wrist", session: int = 7) -> Chunk:
    return Chunk(stream, session, index, np.arange(index, index + n, dtype=np.float32))


def heard(receiver: Receiver, messages: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    while receiver.messages < messages:
        before = receiver.messages
        chunks += receiver.poll(20.0)
        assert receiver.messages > before, "nothing came"
    return chunks


def test_far_more_than_fits_in_the_queue_arrives_whole(ends: tuple[Publisher, Receiver]) -> None:
    publisher, receiver = ends
    publisher.wait_for_subscriber(20)
    for k in range(5000):
        assert publisher.send(chunk(25 * k))
        if k % 500 == 0:
            heard(receiver, k // 2)
    publisher.send(Chunk("wrist", 7, 125_000, EMPTY, Kind.END))
    heard(receiver, 5001)
    account = receiver.accounts["wrist", 7]
    assert (publisher.sent, account.received, account.lost, account.ended) == (5001, 125_000, 0, True)
    assert receiver.all_ended


def test_without_a_subscriber_the_publisher_says_who_is_missing(tmp_path: Path) -> None:
    publisher = Publisher(f"ipc://{tmp_path / 'lonely'}", bind=True)
    with pytest.raises(SourceError, match=r"nobody listens there after 0\.2 s: start `ppgstream run` first"):
        publisher.wait_for_subscriber(0.2)
    with pytest.raises(SourceError, match="nobody listens"):
        publisher.send(chunk(0), timeout_s=0.2)
    assert publisher.sent == 0
    publisher.close(0.0)


def test_a_publisher_that_is_stopped_sends_nothing_more_but_its_end(tmp_path: Path) -> None:
    stopped: list[bool] = []
    endpoint = f"ipc://{tmp_path / 'stop'}"
    publisher = Publisher(endpoint, bind=True, stopped=lambda: bool(stopped))
    receiver = Receiver(endpoint)
    publisher.wait_for_subscriber(20)
    assert publisher.send(chunk(0))
    stopped.append(True)
    assert not publisher.send(chunk(25))
    publisher.send_last(Chunk("wrist", 7, 25, EMPTY, Kind.END))
    kinds = [c.kind for c in heard(receiver, 2)]
    assert kinds == [Kind.DATA, Kind.END]
    publisher.close(0.0)
    receiver.close()


def test_a_receiver_counts_what_it_lost_what_never_was_and_what_was_damaged(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    sender = context.socket(zmq.XPUB)
    endpoint = attach(sender, f"ipc://{tmp_path / 'lossy'}", bind=True)
    receiver = Receiver(endpoint, stream="a")
    assert sender.recv() == b"\x01a"
    messages = [
        chunk(0, stream="a"),
        chunk(0, stream="ab"),
        chunk(75, stream="a"),
        Chunk("a", 7, 100, EMPTY, Kind.GAP, missing=40),
    ]
    for c in [*messages, chunk(140, stream="a"), chunk(140, stream="a")]:
        sender.send_multipart(encode(c))
    sender.send_multipart([b"a", b"noise"])
    got = heard(receiver, 7)
    assert {c.stream for c in got} == {"a"}
    assert receiver.accounts == {("a", 7): Account(next=165, received=100, lost=50, gap=40)}
    assert (receiver.lost, receiver.damaged) == (50, 1)
    receiver.close()


def test_beats_that_are_not_computed_yet_hold_back_their_own_stream_alone() -> None:
    sent: list[tuple[bytes, int]] = []

    class Socket:
        def send(self, part: bytes, flags: int = 0) -> None:
            sent.append((part, flags))

    def kinds() -> list[tuple[str, str]]:
        chunks = [decode([stream, body]) for (stream, _), (body, _) in zip(sent[::2], sent[1::2], strict=True)]
        return [(chunk.stream, chunk.kind.name) for chunk in chunks]

    def chunk(stream: str, kind: Kind, samples: np.ndarray = EMPTY) -> Chunk:
        return Chunk(stream, 1, 0, samples, kind)

    sink = ZmqSink(Socket(), "f4")  # type: ignore[arg-type]
    late = chunk("a", Kind.BEATS)
    sink.publish([chunk("a", Kind.DATA, np.arange(5.0)), late, chunk("a", Kind.END)])
    sink.publish([chunk("b", Kind.DATA, np.arange(5.0)), chunk("a", Kind.STATUS)])
    assert kinds() == [("a", "DATA"), ("b", "DATA")]
    none = np.zeros(0, np.float32)
    late.beats = Beats(72.0, 0.9, np.zeros(0, np.uint64), none, none, none)
    sink.release()
    sink.release()
    assert kinds()[2:] == [("a", "BEATS"), ("a", "END"), ("a", "STATUS")]
    sink.publish([chunk("a", Kind.DATA, np.arange(5.0))])
    assert (kinds()[-1], sink.published) == (("a", "DATA"), 6)
