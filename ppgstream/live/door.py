"""Listening sockets that can be shut for a while, so that a process that has hardly any descriptors left takes no new
connections.

ZeroMQ cannot: its listener spins when there is no descriptor for a connection (tcp) or ends the process (ipc), and to unbind
closes the connections that there are. So this is done beside it, on the listener's own descriptor: over tcp a filter drops the
first packet of whoever connects, who tries again and again; over ipc the path gets another name for as long. Linux only;
elsewhere a door stays open.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import socket
import stat
import struct
from pathlib import Path

from ppgstream.errors import SourceError

LEAST_DESCRIPTORS = 64  # that a daemon needs to be of any use
SPARE = 1024  # descriptors that are kept free, or a quarter of all if these are fewer
FEW = 16_384  # with fewer descriptors than these, they are looked after more often
BACKLOG = 100  # connections that may wait to be taken, or an eighth of all descriptors
SHUT = ".shut"  # what an ipc path ends with meanwhile
THERE = Path("/proc/self/fd")
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # one instruction of a packet filter: keep 0 bytes


def most_descriptors() -> int:
    """How many descriptors this process may have."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if most == resource.RLIM_INFINITY else most


def check_descriptors() -> None:
    """Raises SourceError if this process may have fewer descriptors than a daemon needs."""
    if (most := most_descriptors()) < LEAST_DESCRIPTORS:
        raise SourceError(
            f"{most} descriptors are too few: a daemon needs {LEAST_DESCRIPTORS} and one for each connection (ulimit -n)"
        )


def _spare() -> int:
    """How many descriptors are kept free."""
    return min(most_descriptors() // 4, SPARE)


def are_short() -> bool:
    """Whether hardly any descriptor is left, by the number that a new one gets: the lowest that is free."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    os.close(lowest)
    return lowest >= most_descriptors() - _spare()


def there_are_enough() -> bool:
    """Whether so many are free again that new connections may be taken: more than it takes to be short, or it would come and
    go."""
    try:
        used = sum(1 for _ in THERE.iterdir())
    except OSError:
        return False
    return used < most_descriptors() - 3 * _spare() // 2


LOOK_S = 0.02  # counting thousands of descriptors takes ms: no more often than this


class Doors:
    """Those of a daemon: shut while descriptors are short."""

    def __init__(self) -> None:
        self._doors: list[Door] = []
        self._shut = False
        self._looked_at = 0.0

    def add(self, endpoint: str) -> None:
        """Of an endpoint that this process has bound."""
        self._doors.append(Door(endpoint))

    def watch(self, now: float) -> bool:
        """Take no new connections while descriptors are short; those that there are go on. True if that begins now."""
        if not self._shut and are_short():
            self._shut = True
            for door in self._doors:
                door.shut()
            return True
        if self._shut and now > self._looked_at + LOOK_S:
            self._looked_at = now
            self._shut = not there_are_enough()
            for door in self._doors:
                (door.turn_away if self._shut else door.open)()
        return False

    def close(self) -> None:
        """Open them, and leave them to ZeroMQ."""
        for door in self._doors:
            door.close()


class Door:
    """The listener of an endpoint that this process has bound."""

    def __init__(self, endpoint: str) -> None:
        scheme, _, self._address = endpoint.partition("://")
        self._path = Path(self._address) if scheme == "ipc" and not self._address.startswith("@") else None
        self._listener = self._find()
        self._shut = False

    def shut(self) -> None:
        """Take no new connections, and close those that wait to be taken."""
        if self._listener is None or self._shut:
            return
        self._shut = True
        with contextlib.suppress(OSError):
            if self._path is not None:
                if not self._path.with_name(self._path.name + SHUT).exists():
                    self._path.rename(self._path.with_name(self._path.name + SHUT))
            else:
                program = ctypes.create_string_buffer(_DROP_ALL)
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
        self.turn_away()

    def turn_away(self) -> None:
        """Close the connections that came before the door was shut, and wait to be taken: without a descriptor for them ZeroMQ
        would spin."""
        with contextlib.suppress(OSError):
            for _ in range(BACKLOG):
                if self._listener is not None:
                    self._listener.accept()[0].close()

    def open(self) -> None:
        """Take new connections again."""
        if self._listener is None or not self._shut:
            return
        self._shut = False
        with contextlib.suppress(OSError):
            if self._path is None:
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            elif not self._path.exists():  # else another daemon has taken the path
                self._path.with_name(self._path.name + SHUT).rename(self._path)

    def close(self) -> None:
        """Open it, and leave it to ZeroMQ."""
        self.open()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _find(self) -> socket.socket | None:
        """A second descriptor of ZeroMQ's listener."""
        for name in list(THERE.iterdir()) if THERE.is_dir() else []:
            try:
                if not stat.S_ISSOCK(name.stat().st_mode):
                    continue
                found = socket.fromfd(int(name.name), socket.AF_UNSPEC, socket.SOCK_STREAM)  # a second descriptor
                found = socket.socket(fileno=found.detach())  # which finds out its family
            except OSError:
                continue
            if self._is(found):
                found.setblocking(False)  # ZeroMQ's own descriptor too, which expects it
                return found
            found.close()
        return None

    def _is(self, found: socket.socket) -> bool:
        try:
            if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return False
            name = found.getsockname()
        except OSError:
            return False
        if isinstance(name, tuple):
            host = f"[{name[0]}]" if found.family == socket.AF_INET6 else name[0]
            return f"{host}:{name[1]}" == self._address
        return bool(name == self._address)
