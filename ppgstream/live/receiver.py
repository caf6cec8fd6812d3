"""The receiving end: published chunks off a socket, with an account of what this receiver itself has lost."""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import zmq

from ppgstream.core.ledger import Event
from ppgstream.errors import PpgStreamError, SourceError, UnknownKindError, WireError
from ppgstream.live.endpoints import MOST_BODY, Handshakes, Inbox, attach, make
from ppgstream.live.keys import Key
from ppgstream.live.nats import is_nats, stream_of, subject_of
from ppgstream.wire.message import Chunk, Kind, decode

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.link import Link

LOOK_S = 1.0  # between two looks whether a fleet has begun
GONE_S = 10.0  # a daemon publishes a STATUS a second for each live stream
MESSAGES_A_POLL = 256  # so that what came is shown before more is read


@dataclass(slots=True)
class Account:
    """What reached this receiver of one session: `lost` samples were published and did not arrive, `gap` ones never existed."""

    next: int | None = None
    received: int = 0
    lost: int = 0
    gap: int = 0
    ended: bool = False
    told: tuple[int, bytes] = (-1, b"")  # of the last BEATS, its index and those of its beats

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk has come before: a connection that was lost may bring it again."""
        if chunk.beats is not None:
            return (chunk.index, chunk.beats.at.tobytes()) == self.told or chunk.index < self.told[0]
        return self.next is not None and (chunk.stop <= self.next if len(chunk.samples) or chunk.missing else self.ended)

    def take(self, chunk: Chunk) -> None:
        if chunk.beats is not None:
            self.told = chunk.index, chunk.beats.at.tobytes()
        if self.next is not None and chunk.index > self.next:
            self.lost += chunk.index - self.next
        if self.next is None or chunk.stop > self.next:
            self.next = chunk.stop
        self.received += len(chunk.samples)
        self.gap += chunk.missing
        self.ended = self.ended or chunk.kind is Kind.END


@dataclass(slots=True)
class Patience:
    """When to stop listening: to be asked again and again. until_end: once every stream seen has ended. wait_s: for how long
    anything is waited for; 0: for ever."""

    receiver: Receiver
    until_end: bool
    wait_s: float
    _started: float = field(default_factory=time.monotonic)
    _heard: float = field(default_factory=time.monotonic)
    _messages: int = 0

    def over(self) -> bool:
        """Raises SourceError where the daemon is gone, refuses this end, or nothing came."""
        receiver, now = self.receiver, time.monotonic()
        receiver.check()
        if self.until_end and receiver.all_ended:
            return True
        if receiver.messages != self._messages:
            self._messages, self._heard = receiver.messages, now
        elif self.until_end and receiver.accounts and now - self._heard > GONE_S:
            why = f"silent for {GONE_S:g} s though streams have not ended: the daemon is gone"
            raise SourceError(f"{receiver.endpoint}: {why}")
        if self.wait_s and not receiver.accounts and now - self._started > self.wait_s:
            raise SourceError(f"{receiver.endpoint}: nothing came in {self.wait_s:g} s")
        return False


@dataclass(slots=True)
class Receiver:
    """Subscribes to a daemon's output. `stream`: one, or several; None: all of them. raw: give what the daemon heard (kind RAW)
    too, which the accounts leave out. key: for a daemon that asks for one."""

    endpoint: str
    stream: str | Collection[str] | None = None
    high_water_mark: int = 100_000
    raw: bool = False
    key: Key | None = None
    accounts: dict[tuple[str, int], Account] = field(default_factory=dict)
    damaged: int = 0
    skipped: int = 0  # messages of kinds that this version does not know
    messages: int = 0
    may_repeat: bool = False  # whether messages may come twice
    tell: Callable[[str], object] = lambda _: None  # what happens to the connection, of a NATS server
    fenced: int = 0  # messages of former owners of a stream, which are left out
    _epochs: dict[str, int] = field(default_factory=dict)
    _context: zmq.Context[zmq.Socket[bytes]] = field(init=False)
    socket: zmq.Socket[bytes] = field(init=False)
    _inbox: Inbox = field(init=False)
    _handshakes: Handshakes = field(init=False)
    _wanted: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._context = zmq.Context()
        self.socket = make(self._context, zmq.SUB, most=MOST_BODY, rcvhwm=self.high_water_mark)
        self._inbox = Inbox(self.socket)
        self._wanted = {self.stream} if isinstance(self.stream, str) else set(self.stream or ())
        # A subscription is a prefix: "a" would bring "ab" too, so ids are compared again on arrival.
        for stream in self._wanted or {""}:
            self.socket.setsockopt(zmq.SUBSCRIBE, stream.encode("ascii", "replace"))
        try:
            self._handshakes = Handshakes(self.socket, self.endpoint, self.key, "read")
            attach(self.socket, self.endpoint, bind=False, key=self.key)
        except PpgStreamError:
            self._context.destroy(linger=0)
            raise

    def wait(self, timeout_s: float) -> bool:
        """Whether something is there, or comes within `timeout_s` seconds."""
        return bool(self.socket.poll(int(timeout_s * 1000)))

    async def wait_async(self, timeout_s: float) -> None:
        """`wait`, for asyncio."""
        import zmq.asyncio

        await zmq.asyncio.Socket.from_socket(self.socket).poll(int(1000 * timeout_s))

    def _parts(self) -> list[bytes] | None:
        return self._inbox.take()

    def poll(self, timeout_s: float) -> Iterator[Chunk]:
        """The chunks that are there, or come within `timeout_s` seconds; of many, the first `MESSAGES_A_POLL`."""
        if not self.wait(timeout_s):
            return
        for _ in range(MESSAGES_A_POLL):
            parts = self._parts()
            if parts is None:
                return
            if not parts:
                continue
            self.messages += 1
            try:
                chunk = decode(parts)
            except UnknownKindError:
                self.skipped += 1
                continue
            except WireError:
                self.damaged += 1
                continue
            if self._wanted and chunk.stream not in self._wanted:
                continue
            if chunk.epoch != (newest := self._epochs.get(chunk.stream, 0)):
                if chunk.epoch < newest:  # of a former owner, in a fleet
                    self.fenced += 1
                    continue
                self._epochs[chunk.stream] = chunk.epoch
            if chunk.kind is not Kind.RAW:
                account = self.accounts.setdefault((chunk.stream, chunk.session), Account())
                if self.may_repeat and account.has(chunk):
                    continue
                account.take(chunk)
            elif not self.raw:
                continue
            yield chunk

    def check(self) -> None:
        """Raises SourceError where the daemon refuses this end."""
        if not self.messages and (why := self._handshakes.refusal()):
            raise SourceError(f"{self.endpoint}: {why}")

    @property
    def all_ended(self) -> bool:
        return bool(self.accounts) and all(a.ended for a in self.accounts.values())

    @property
    def lost(self) -> int:
        return sum(a.lost for a in self.accounts.values())

    def close(self) -> None:
        self._context.destroy(linger=0)


@dataclass(slots=True)
class NatsReceiver(Receiver):
    """The same of a daemon that publishes to a NATS server. Where that keeps the output, as it does for a fleet, all of it comes;
    else what is published while the connection is lost does not."""

    _link: Link = field(init=False)
    _looking: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        from ppgstream.live.link import Link

        self.may_repeat = True
        self._wanted = {self.stream} if isinstance(self.stream, str) else set(self.stream or ())
        self._link = Link(self.endpoint, tell=self._tell)
        self._link.run(self._listen([subject_of("out", stream) for stream in self._wanted] or ["ppg.out.>"]))

    def _tell(self, event: Event) -> None:
        self.tell(event.text)

    async def _listen(self, subjects: list[str]) -> None:
        import asyncio

        from ppgstream.live.stored import END, Feed, stream_of_subject

        try:
            stream = await stream_of_subject(self._link, "ppg.out.>")
        except LookupError as error:
            may_ask = not isinstance(error.__cause__, TimeoutError)  # who may not is not answered
        else:
            await Feed(self._link, stream, subjects, END).begin()
            return
        live = [await self._link.client.subscribe(subject, cb=self._link.heard) for subject in subjects]
        await self._link.settle()
        if may_ask:
            self._looking = asyncio.get_running_loop().create_task(self._look(subjects, live))

    async def _look(self, subjects: list[str], live: list[Any]) -> None:
        """A fleet may begin later: then what the server keeps is read, from the first."""
        import asyncio

        from ppgstream.live.stored import Feed, stream_of_subject

        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(Exception):  # there is none yet, or the server is away
                stream = await stream_of_subject(self._link, "ppg.out.>")
                await Feed(self._link, stream, subjects, 1).begin()
                for subscription in live:
                    await subscription.unsubscribe()
                return

    def wait(self, timeout_s: float) -> bool:
        return self._link.waits or bool(select.select([self._link], [], [], timeout_s)[0])

    async def wait_async(self, timeout_s: float) -> None:
        import asyncio

        if self._link.waits:
            return
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._link.fileno(), came.set)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(came.wait(), timeout_s)
        finally:
            loop.remove_reader(self._link.fileno())

    def _parts(self) -> list[bytes] | None:
        message = self._link.take()
        return None if message is None else [stream_of(message[0]).encode(), message[1]]

    def check(self) -> None:
        """The link tells its own faults."""

    def close(self) -> None:
        self._link.close()


def receiver(
    endpoint: str,
    stream: str | Collection[str] | None = None,
    *,
    high_water_mark: int = 100_000,
    raw: bool = False,
    key: Key | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Receiver:
    """A receiver for an endpoint, ZeroMQ's or a NATS server's. The arguments are those of `Receiver`."""
    kind = NatsReceiver if is_nats(endpoint) else Receiver
    return kind(endpoint, stream, high_water_mark, raw, key, tell=tell)
