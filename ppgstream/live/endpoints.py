"""Endpoints: which are served at all, and attaching a ZeroMQ socket to one, with what ZeroMQ leaves to its user."""

from __future__ import annotations

import socket as plain
import stat
from pathlib import Path
from typing import Any

import zmq

from ppgstream.config import check_endpoint
from ppgstream.errors import SourceError


def attach(socket: zmq.Socket[Any], endpoint: str, *, bind: bool, name: str = "") -> str:
    """Bind or connect; returns the endpoint as it came out (a port of `*` resolved). Raises
    SourceError naming `name` and the endpoint, ConfigError for one that is not served."""
    check_endpoint(endpoint, name or "endpoint")
    told = f"{name} {endpoint}".strip()
    try:
        if "[" in endpoint:
            socket.setsockopt(zmq.IPV6, 1)
        if bind and endpoint.startswith("ipc://"):
            _check_free(Path(endpoint.removeprefix("ipc://")), told)
        (socket.bind if bind else socket.connect)(endpoint)
        last = socket.getsockopt(zmq.LAST_ENDPOINT)
    except zmq.ZMQError as error:
        why = zmq.strerror(error.errno) if error.errno else str(error)
        raise SourceError(f"{told}: cannot {'bind' if bind else 'connect'}: {why}") from error
    return last.rstrip(b"\0").decode() if isinstance(last, bytes) else endpoint


def _check_free(path: Path, told: str) -> None:
    """ZeroMQ removes whatever is at an ipc path before it binds: a file, or the socket of a daemon that is running."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise SourceError(f"{told}: {path} is there and is no socket")
    with plain.socket(plain.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left over from a process that is gone
    raise SourceError(f"{told}: in use by another process")
