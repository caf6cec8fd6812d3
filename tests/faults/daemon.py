"""`ppgstream run` as a process of its own, and what the tests of the faults say to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from waiting import PATIENCE_S, until

PPGSTREAM = [sys.executable, "-m", "ppgstream"]
TINY = ("--checkpoint", "lmmse")
# Without the settings of whoever runs the tests: PYTHONUNBUFFERED, for one, hides what Python says when it ends.
CLEAN_ENV = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR") and not k.startswith("PYTHON")} | {
    "COLUMNS": "80"
}


def wave(n: int) -> np.ndarray:
    return np.sin(np.arange(n) / 15) + 0.05 * np.random.default_rng(3).standard_normal(n)


class Daemon:
    """`ppgstream run` on ipc sockets in a folder, with standard streams of the test's choice."""

    def __init__(self, folder: Path, *options: str, limits: Callable[[], None] | None = None, **streams: Any) -> None:
        self.folder = folder
        flags = [a for name in ("in", "out", "status") for a in (f"--{name}", f"ipc://{folder}/{name}")]
        self.process = subprocess.Popen(
            [*PPGSTREAM, "run", *flags, *(options or TINY)],
            cwd=folder,
            env=CLEAN_ENV,
            preexec_fn=limits,  # noqa: PLW1509 (this process has no other thread that holds a lock)
            **streams,
        )
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.setsockopt(zmq.LINGER, 0)

    def connect(self, kind: int, name: str) -> zmq.Socket[bytes]:
        socket = self.context.socket(kind)
        socket.connect(f"ipc://{self.folder}/{name}")
        return socket

    def ask(self, timeout_s: float = 1.0) -> dict[str, Any] | None:
        socket = self.connect(zmq.DEALER, "status")
        socket.send(b"{}")
        answer = json.loads(socket.recv()) if socket.poll(int(1000 * timeout_s)) else None
        socket.close(linger=0)
        return answer

    def wait_until_running(self) -> dict[str, Any]:
        return until(lambda: self.process.poll() is None and self.ask(), "the daemon to answer")  # type: ignore[no-any-return]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.context.destroy(linger=0)


def publish(daemon: Daemon, messages: Sequence[Sequence[bytes]]) -> None:
    """Send messages once the daemon has subscribed."""
    socket = daemon.connect(zmq.XPUB, "in")
    socket.setsockopt(zmq.XPUB_NODROP, 1)
    assert socket.poll(int(1000 * PATIENCE_S))
    for parts in messages:
        socket.send_multipart(parts)
    socket.close(linger=30_000)
