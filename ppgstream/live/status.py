"""Asking a daemon for its status."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import zmq

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.endpoints import MOST_ANSWER, Handshakes, attach, make
from ppgstream.live.keys import Key
from ppgstream.live.snapshot import Snapshot

if TYPE_CHECKING:
    from ppgstream.live.watch import Sort

T = TypeVar("T")
ANSWERS_A_LOOK = 64
FLEET = "fleet "  # before its name, in place of the endpoint that a member reads
SESSIONS_A_QUESTION = 64  # the daemon takes questions of 4,096 bytes


def batched(names: Iterable[str], most: int) -> Iterator[list[str]]:
    """Names in lists of at most `most`."""
    rest = iter(names)
    while part := list(itertools.islice(rest, most)):
        yield part


class Taken(msgspec.Struct):
    """The answer to `taken`; without its fields, that of a daemon that does not know the question."""

    in_: str = msgspec.field(name="in", default="")
    taken: dict[str, Annotated[int, msgspec.Meta(ge=0)] | None] = {}


class Begun(msgspec.Struct):
    """What a daemon answers when a reload is asked for: its number, and why it is refused, or empty."""

    number: int
    refused: str


class Reloads(msgspec.Struct):
    """The answer to `reload`; without its field, that of a daemon that does not know the question."""

    reload: Begun | None = None


class StatusClient:
    """Asks a daemon for its status. One request, one answer. key: for a daemon that asks for one."""

    def __init__(self, endpoint: str, *, key: Key | None = None) -> None:
        self.endpoint = endpoint
        self._context = zmq.Context()
        self._socket = make(self._context, zmq.DEALER, most=MOST_ANSWER, sndhwm=1)
        try:
            self._handshakes = Handshakes(self._socket, endpoint, key, "ask for the status")
            attach(self._socket, endpoint, bind=False, key=key)
        except PpgStreamError:
            self._context.destroy(linger=0)
            raise

    def ask(
        self, timeout_s: float, watch: Sequence[str] = (), *, sort: Sort = "trouble", like: str = "", rows: int = 0
    ) -> Snapshot | None:
        """The daemon's snapshot, or None if it does not answer in time. The arguments are those of `questions.Question`."""
        question: dict[str, Any] = {"watch": list(watch), "sort": sort, "like": like, "rows": rows}
        return self._ask(question, timeout_s, Snapshot)

    def taken(self, sessions: Mapping[str, int], timeout_s: float) -> tuple[str, dict[str, int | None]] | None:
        """The daemon's input endpoint, and of streams and their sessions the index up to which it has taken everything, None
        where it knows no such session. None if it does not answer in time, or does not know the question."""
        found: dict[str, int | None] = {}
        endpoint = ""
        for names in batched(sessions, SESSIONS_A_QUESTION):
            answer = self._ask({"taken": {name: f"{sessions[name]:016x}" for name in names}}, timeout_s, Taken)
            if answer is None or set(answer.taken) != set(names):
                return None
            endpoint, found = answer.in_, found | answer.taken
        return endpoint, found

    def reload(self, asked: Mapping[str, Any], timeout_s: float) -> int | None:
        """Ask for what `reload.Asked` says: the number by which `ReloadStatus` tells of it. None if no daemon answers in time.
        Raises PpgStreamError where it refuses."""
        answer = self._ask({"reload": asked}, timeout_s, Reloads)
        if answer is None:
            return None
        if not isinstance(answer.reload, Begun):
            raise SourceError(f"{self.endpoint}: a daemon of an older version, which cannot do that")
        if answer.reload.refused:
            raise PpgStreamError(f"{self.endpoint}: refused: {answer.reload.refused}")
        return answer.reload.number

    def _ask(self, question: dict[str, Any], timeout_s: float, form: type[T]) -> T | None:
        with contextlib.suppress(zmq.Again):  # the last request still waits for a daemon to come
            self._socket.send(msgspec.json.encode(question), zmq.NOBLOCK)
        answer = None
        if self._socket.poll(int(timeout_s * 1000)):
            for _ in range(ANSWERS_A_LOOK):  # answers to requests that had been given up are older: the last one counts
                answer = self._socket.recv()
                if not self._socket.poll(0):
                    break
        try:
            return None if answer is None else msgspec.json.decode(answer, type=form)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError(f"{self.endpoint}: not a ppgstream status socket: {error}") from error

    def silence(self) -> str:
        """Why nobody answers, as far as it is known."""
        return self._handshakes.refusal() or "no daemon answers there: is `ppgstream run` running?"

    def close(self) -> None:
        self._context.destroy(linger=0)
