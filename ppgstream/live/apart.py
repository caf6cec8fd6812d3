"""The process in which a checkpoint is tried (`trial`), as the daemon holds it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import zmq

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.endpoints import MOST_BODY, make
from ppgstream.live.recent import message_of
from ppgstream.live.trial import Order, Told
from ppgstream.wire.message import Chunk

MOST_WAITING = 2000  # messages of a shadow; of more, the newest are left out
LAST_LINE, MOST_ERRORS = 200, 65_536  # characters of what is told of a process that died; bytes that are looked at


class Apart:
    """Starts the process and gives it its order. `queue`: messages that may wait for it; 0: all. One thread uses it. Raises
    SourceError where it cannot be started, or tells what it cannot tell."""

    def __init__(self, order: Order, *, queue: int = 0) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._folder: Path | None = None
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="ppgstream-"))  # its owner's alone
            endpoint = f"ipc://{self._folder}/trial"
            self._socket = make(self._context, zmq.PAIR, most=MOST_BODY, sndhwm=queue)
            self._socket.connect(endpoint)  # so what is sent before the process listens waits for it
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", "ppgstream.live.trial", endpoint, str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
                process_group=0,  # no Ctrl-C of ours; in a session of its own, Linux would give it as much time as all of us
            )  # fmt: skip
        except (OSError, zmq.ZMQError, PpgStreamError) as error:
            self._leave()
            why = getattr(error, "strerror", None) or str(error)
            raise SourceError(f"no process can be started for a trial: {tempfile.gettempdir()}: {why} (TMPDIR)") from error
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
        try:
            return msgspec.json.decode(self._socket.recv(), type=Told)
        except msgspec.DecodeError as error:
            raise SourceError(f"the process of the trial told what it cannot tell: {error}") from error

    def death(self) -> str:
        """How it ended; empty while it runs."""
        code = self._process.poll()
        if code is None or self._socket.poll(0):  # what it has told comes first
            return ""
        self._errors.seek(max(self._errors.seek(0, os.SEEK_END) - MOST_ERRORS, 0))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"by signal {-code}" + " (was there enough memory?)" * (code == -9) if code < 0 else f"with code {code}"
        return f"the process of the trial ended {how}" + (f": {lines[-1][:LAST_LINE]}" if lines else "")

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._errors.close()
        self._leave()

    def _leave(self) -> None:
        self._context.destroy(linger=0)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
