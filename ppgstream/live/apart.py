"""The process in which a checkpoint is tried (`trial`), as the daemon holds it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import zmq

from ppgstream.errors import SourceError
from ppgstream.live.endpoints import MOST_BODY, make
from ppgstream.live.recent import message_of
from ppgstream.live.trial import Order, Told
from ppgstream.wire.message import Chunk

MOST_WAITING = 2000  # messages of a shadow; of more, the newest are left out
LAST_LINE = 200  # characters


class Apart:
    """Starts the process and gives it its order. `queue`: messages that may wait for it; 0: all. One thread uses it. Raises
    SourceError where it cannot be started."""

    def __init__(self, order: Order, *, queue: int = 0) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._folder = Path(tempfile.mkdtemp(prefix="ppgstream-"))  # its owner's alone
        try:
            self._socket = make(self._context, zmq.PAIR, most=MOST_BODY, sndhwm=queue)
            endpoint = f"ipc://{self._folder}/trial"
            self._socket.connect(endpoint)  # so what is sent before the process listens waits for it
            self._errors = (self._folder / "errors").open("wb")
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "ppgstream.live.trial", endpoint],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
                process_group=0,  # no Ctrl-C of ours; in a session of its own, Linux would give it as much time as all of us
            )  # fmt: skip
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            shutil.rmtree(self._folder, ignore_errors=True)
            raise SourceError(f"cannot start a process for the trial: {error}") from error
        self._socket.send(msgspec.msgpack.encode(order))

    def send(self, read_at: float, chunk: Chunk) -> bool:
        """Give it a chunk. False if too many wait for it already."""
        try:
            self._socket.send_multipart(message_of(read_at, chunk), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def end(self) -> None:
        """There are no more chunks."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(b"", zmq.NOBLOCK)

    def receive(self, wait_s: float = 0.0) -> Told | None:
        """What it tells next; None if it has told nothing."""
        if not self._socket.poll(int(1000 * wait_s)):
            return None
        return msgspec.json.decode(self._socket.recv(), type=Told)

    def death(self) -> str:
        """How it ended; empty while it runs."""
        code = self._process.poll()
        if code is None or self._socket.poll(0):  # what it has told comes first
            return ""
        lines = (self._folder / "errors").read_text(errors="replace").strip().splitlines()
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        return f"the process of the trial ended {how}" + (f": {lines[-1][:LAST_LINE]}" if lines else "")

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._errors.close()
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)
