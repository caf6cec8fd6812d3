"""NATS in place of ZeroMQ's sockets: the names of its subjects. `link` has the connection.

    ppg.in.PARTITION.STREAM     what sensors send, the body of docs/wire.md
    ppg.out.PARTITION.STREAM    what daemons publish
    ppg.ask.in                  answered by who reads ppg.in

A partition is crc32(stream) mod 256, for life. Stream ids have dots, which separate a subject's parts: they are written %2E.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import NamedTuple


class Message(NamedTuple):
    """What came on a subject. place: in the stream that keeps it; 0: nothing does. feed: the number of the `Feed` that it came
    by."""

    subject: str
    body: bytes
    place: int = 0
    feed: int = 0


PARTITIONS = 256
MOST_BYTES = 64 * 1024 * 1024  # that wait in one direction of a connection; beyond it messages are dropped, and counted


@lru_cache(maxsize=65_536)
def partition_of(stream: str) -> int:
    """Of a stream, for life."""
    return zlib.crc32(stream.encode()) % PARTITIONS


@lru_cache(maxsize=65_536)
def partition_in(subject: str) -> int:
    """The partition that a subject names; -1 if it is none of ours."""
    parts = subject.split(".")
    return int(parts[2]) if len(parts) == 4 and parts[2].isascii() and parts[2].isdigit() else -1


@lru_cache(maxsize=65_536)
def token_of(stream: str) -> str:
    """A stream's id as a part of a subject."""
    return stream.replace(".", "%2E")


@lru_cache(maxsize=65_536)
def stream_of(subject: str) -> str:
    """The id of the stream that a subject is of."""
    return subject.rpartition(".")[2].replace("%2E", ".")


def subject_of(what: str, stream: str) -> str:
    """Where samples of a stream go: `what` is "in" or "out"."""
    return f"ppg.{what}.{partition_of(stream)}.{token_of(stream)}"


def is_nats(endpoint: str) -> bool:
    """Whether an endpoint is a NATS server's."""
    return endpoint.startswith(("nats://", "tls://"))


def shown(url: str) -> str:
    """A server's address without what authenticates."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
