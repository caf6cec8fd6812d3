"""Endpoints: which are served at all, and attaching a ZeroMQ socket to one, with what ZeroMQ leaves to its user."""

from __future__ import annotations

import ipaddress
import re
import socket as plain
import stat
from pathlib import Path
from typing import Any

import zmq

from ppgstream.errors import ConfigError, SourceError


def check_endpoint(endpoint: str, name: str) -> None:
    """Only loopback and ipc: there is no encryption yet, so nothing else may hear or speak. Raises ConfigError."""
    scheme, _, rest = endpoint.partition("://")
    if not endpoint.isprintable():
        raise ConfigError(f"{name}: {endpoint!r} holds control characters")
    if scheme == "ipc" and rest:
        return
    if scheme != "tcp" or not rest:
        raise ConfigError(f"{name}: {endpoint!r} is not tcp://HOST:PORT or ipc://PATH")
    host, _, port = rest.rpartition(":")
    if port != "*" and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise ConfigError(f"{name}: {endpoint!r} needs a port from 1 to 65535")
    if host == "localhost":
        return
    try:
        bracketed = re.fullmatch(r"\[(.*)\]", host)
        loopback = (ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(host)).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{name}: {endpoint!r} is not a loopback address: only 127.0.0.0/8, [::1], localhost and ipc:// are served"
        )


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
        raise SourceError(f"{told}: cannot {'bind' if bind else 'connect'}: {error.strerror or error}") from error
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
