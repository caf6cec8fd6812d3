"""A fleet: daemons that share the streams of a NATS server, and take over from each other.

    ppg-NAME-members   a key a member, its lease: renewed each `RENEW_S`, gone `LEASE_S` after the last time
    ppg-NAME-owners    one key: of each partition the member that owns it, and its epoch; changed by compare-and-set
    ppg-NAME-in, -out  the last minute of what sensors send and members publish, in the server's memory
    ppg-NAME-state     of each stream its state, as `Engine.save` gives it, each `SAVE_S`

Who takes a partition over loads the states, reads again what came since, and publishes what its former owner has not. The epoch
in each message says whose it is: clients leave out those of former owners.

Two threads: the connection's tends the lease and reads from the server (`Tender`); the daemon's loop has the streams (`Fleet`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import structs

from ppgstream.config import Config
from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.stream import Stream
from ppgstream.errors import ConfigError, SourceError, WireError
from ppgstream.live.events import Events
from ppgstream.live.link import Link
from ppgstream.live.nats import PARTITIONS, Message, partition_of, stream_of, token_of
from ppgstream.live.sink import NatsSink
from ppgstream.live.snapshot import FleetStatus, MemberStatus
from ppgstream.live.source import NatsSource
from ppgstream.wire.message import Chunk, Kind, decode

LEASE_S, RENEW_S, LOOK_S = 2.5, 0.5, 0.25
STALE_S = 2.0  # after which a member whose lease could not be renewed publishes nothing more
KEPT_S = 60.0  # of input and output, in the server's memory
STATES_KEPT_S = 120.0
SAVE_S = 5.0  # between two states of a stream
SLICE_S = 0.05  # between two looks at which states are due
# By which what is read again begins before a state was saved: a stream that began since the last one has none yet.
BEFORE_S = 2 * SAVE_S
SETTLE_S = 0.1  # for the server to have stored what it has passed on
AGAIN_S = 15.0  # after a take-over, for which what comes is compared with what was read again
READ_S = 5.0
BATCH = 500
FULL_S = 3.0  # in which states are published and none is kept, before that is told
MOST_HELD = 100_000  # messages that wait while it is not sure that their partitions are still owned


class Owner(NamedTuple):
    """Of a partition. member: empty if it was given back."""

    member: str
    epoch: int


class Member(MemberStatus):
    """A lease: what the status tells, when it began, and a hash of what all members must have alike."""

    since: float = 0.0
    settings: str = ""


class State(msgspec.Struct):
    """Of a stream. in_seq, out_seq: places in the streams -in and -out from which on all must be read again."""

    epoch: int
    in_seq: int
    out_seq: int
    data: bytes


class Taken(NamedTuple):
    """Partitions that are taken over, with their epochs; the states of their streams; what was published and sent since."""

    epochs: dict[int, int]
    states: dict[str, State]
    published: list[Message]
    sent: list[Message]


class Lost(NamedTuple):
    """Partitions that others own: all of their streams are forgotten at once."""

    partitions: frozenset[int]


class Give(NamedTuple):
    """Partitions that are to be handed over, once nothing of them is under way."""

    partitions: frozenset[int]


Command = Taken | Lost | Give


def shares(members: Iterable[str], owners: Mapping[int, Owner]) -> dict[int, str]:
    """Which member is to own each partition: each as many as the others, or one more, and as few as possible change hands.
    Members that see the same give the same."""
    names = sorted(members)
    if not names:
        return {}
    base, more = divmod(PARTITIONS, len(names))
    quota = {name: base + (k < more) for k, name in enumerate(names)}
    found: dict[int, str] = {}
    free = []
    for p in range(PARTITIONS):
        name = owners[p].member if p in owners else ""
        if quota.get(name, 0) > 0:
            quota[name] -= 1
            found[p] = name
        else:
            free.append(p)
    for name in names:
        for _ in range(quota[name]):
            found[free.pop(0)] = name
    return found


def settings_of(config: Config, checkpoint_sha256: str) -> str:
    """A hash of what decides the output: members of a fleet must have it alike."""
    decides = (config.windows, config.streams, config.in_.sentinels, config.in_.fs, config.out.dtype, config.out.raw)
    return hashlib.sha256(checkpoint_sha256.encode() + msgspec.json.encode(decides)).hexdigest()[:16]


class Tender:
    """The member's part on the connection's thread: lease, owners, and what is read from the server. `commands`: for the loop's
    thread, which answers by `given` and `gone`."""

    def __init__(self, link: Link, name: str, member: Member) -> None:
        self.link, self.name, self.member = link, name, member
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.owned: dict[int, int] = {}  # partitions and their epochs, as the loop's thread was told
        self.renewed = 0.0  # time.monotonic() of the last renewal
        self.sure_until = 0.0  # the same, until which nobody else can own what it owns
        self.members: dict[str, Member] = {}
        self._giving: frozenset[int] = frozenset()
        self._seqs: deque[tuple[float, int, int]] = deque()  # when, and the last of -in and -out then
        self.listening: dict[int, Any] = {}  # subscriptions, by partitions
        self._js: Any = None
        self.saved = 0  # states that were published
        self._states = (0.0, 0, 0)  # when the server was last seen to keep one; how many were published then, and its number
        self._again = False  # the connection was lost: what came meanwhile is to be read again
        self._told = ""
        self._task: Any = None

    # ---- for other threads -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Become a member. Raises ConfigError where another one has other settings, SourceError where the server has no
        JetStream."""
        self.link.run(self._join(), 3 * READ_S)
        self._task = asyncio.run_coroutine_threadsafe(self._tend(), self.link.loop)
        self.link.on_connected.append(self._connected)

    def seqs_before(self, seconds: float) -> tuple[int, int]:
        """Places in -in and -out that were reached at least so many seconds ago."""
        now, found = time.monotonic(), (0, 0)
        for at, in_seq, out_seq in self._seqs:
            if at > now - seconds:
                break
            found = in_seq, out_seq
        return found

    def given(self, partitions: frozenset[int]) -> None:
        """The loop's thread has saved all of these, and published the states."""
        asyncio.run_coroutine_threadsafe(self._give(partitions), self.link.loop)

    def leave(self) -> None:
        """Hand everything over, and be no member any more."""
        self.member.leaving = True

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can own what it owns: else nothing may be published."""
        return time.monotonic() < self.sure_until

    @property
    def has_left(self) -> bool:
        return self.member.leaving and not self.owned and not self._giving

    def end(self) -> None:
        """The lease is given up."""
        if self._task is not None:
            self._task.cancel()
        with contextlib.suppress(SourceError):  # it runs out by itself
            self.link.run(self._resign(), 1.0)

    # ---- on the connection's thread ------------------------------------------------------------------------------------

    def _connected(self) -> None:
        self._again = True

    async def _join(self) -> None:
        self._js = self.link.client.jetstream(timeout=READ_S)
        try:
            await self._prepare()
        except ConfigError:
            raise
        except Exception as error:
            raise SourceError(
                f"--fleet {self.name}: the NATS server has no JetStream for it: {error} (nats-server -js)"
            ) from error
        others = [m for m in (await self._read_members()).values() if m.settings != self.member.settings]
        if others:
            other = others[0]
            raise ConfigError(
                f"--fleet {self.name}: the member {other.id} on {other.host} has another checkpoint ({other.checkpoint}, here "
                f"{self.member.checkpoint}) or other settings ([windows], [streams], in.fs, in.sentinels, out.dtype, out.raw)"
            )
        await self._renew()

    async def _prepare(self) -> None:
        from nats.js.api import StorageType

        prefix = f"ppg-{self.name}"
        streams = (
            ("in", ["ppg.in.>"], KEPT_S, -1),
            ("out", ["ppg.out.>"], KEPT_S, -1),
            ("state", [f"ppg.state.{self.name}.>"], STATES_KEPT_S, 1),
        )
        for what, subjects, seconds, each in streams:
            await self._js.add_stream(
                name=f"{prefix}-{what}", subjects=subjects, max_age=seconds, max_msgs_per_subject=each,
                storage=StorageType.MEMORY, duplicate_window=1.0,
            )  # fmt: skip
        # In files, so that a lease finds room where the streams have filled the server's memory.
        self._leases = await self._js.create_key_value(bucket=f"{prefix}-members", ttl=LEASE_S, storage=StorageType.FILE)
        self._owners = await self._js.create_key_value(bucket=f"{prefix}-owners", storage=StorageType.FILE, history=1)

    async def _renew(self) -> None:
        at = time.monotonic()
        self.member.partitions = len(self.owned)
        await self._leases.put(self.member.id, msgspec.json.encode(self.member))
        self.renewed = at

    async def _resign(self) -> None:
        await self._leases.delete(self.member.id)

    async def _read_members(self) -> dict[str, Member]:
        from nats.js.errors import KeyNotFoundError, NoKeysError

        found = {}
        known = set(self.members)
        # A key that is renewed while they are listed may be missing in the list: so those that are known are asked for by name.
        with contextlib.suppress(NoKeysError):
            known |= set(await self._leases.keys())
        for key in known:
            with contextlib.suppress(KeyNotFoundError, msgspec.DecodeError):
                found[key] = msgspec.json.decode((await self._leases.get(key)).value, type=Member)
        return found

    async def _read_owners(self) -> tuple[dict[int, Owner], int]:
        from nats.js.errors import KeyNotFoundError

        try:
            entry = await self._owners.get("all")
        except KeyNotFoundError:
            return {}, 0
        return msgspec.json.decode(entry.value, type=dict[int, Owner]), entry.revision

    async def _write_owners(self, owners: Mapping[int, Owner], revision: int) -> bool:
        """False if another member was quicker."""
        from nats.js.errors import KeyWrongLastSequenceError

        value = msgspec.json.encode(owners)
        try:
            if revision:
                await self._owners.update("all", value, last=revision)
            else:
                await self._owners.create("all", value)
        except KeyWrongLastSequenceError:
            return False
        return True

    async def _tend(self) -> None:
        while True:
            try:
                await self._round()
                self._told = ""
            except Exception as error:  # the server is gone for a while, or was started anew
                await self._mend(error)
            await asyncio.sleep(LOOK_S)

    async def _mend(self, error: Exception) -> None:
        text = f"--fleet {self.name}: {type(error).__name__}: {error}"
        if text != self._told and self.link.client.is_connected:
            self._told = text
            self.link.tell(Event("fleet", text))
        try:
            if self.link.client.is_connected:
                await self._prepare()  # a server that was started anew has forgotten what was in memory
        except Exception:  # noqa: S110 (tried again)
            pass

    async def _round(self) -> None:
        now = time.monotonic()
        if now - self.renewed > RENEW_S:
            await self._renew()
        await self._note_seqs()
        self.members = await self._read_members()
        owners, revision = await self._read_owners()
        own = self.member.id
        lost = frozenset(p for p, epoch in self.owned.items() if p in owners and owners[p] != Owner(own, epoch)) - self._giving
        if lost:
            self._lose(lost, "another member owns them")
        if unknown := {p: Owner(own, epoch) for p, epoch in self.owned.items() if p not in owners}:
            if not await self._write_owners(owners | unknown, revision):
                return
            owners, revision = await self._read_owners()
        self.sure_until = self.renewed + STALE_S
        live = {m.id for m in self.members.values() if not m.leaving} | ({own} if not self.member.leaving else set())
        target = shares(live, {p: o for p, o in owners.items() if o.member in live})
        if surplus := frozenset(p for p in self.owned if target.get(p) != own) - self._giving:
            await self._begin_giving(surplus)
        free = [p for p, name in target.items() if name == own and p not in self.owned and self._is_free(owners.get(p))]
        if free and not self.member.leaving:
            await self._claim(free, owners, revision)
        elif self._again:
            self._again = False
            await self._catch_up()

    def _is_free(self, owner: Owner | None) -> bool:
        return owner is None or not owner.member or owner.member == self.member.id or owner.member not in self.members

    async def _note_seqs(self) -> None:
        infos = [await self._js.stream_info(f"ppg-{self.name}-{what}") for what in ("in", "out", "state")]
        seqs = [info.state.last_seq for info in infos]
        self._look_at_states(seqs[2])
        if self._seqs and seqs[0] < self._seqs[-1][1]:  # the server has begun anew
            self._seqs.clear()
        self._seqs.append((time.monotonic(), seqs[0], seqs[1]))
        while self._seqs[0][0] < time.monotonic() - KEPT_S:
            self._seqs.popleft()

    def _look_at_states(self, kept: int) -> None:
        """Whether the server still keeps states: it drops what finds no room without a word."""
        now = time.monotonic()
        saved_at, saved, before = self._states
        if kept != before or self.saved == saved:
            self._states = now, self.saved, kept
        elif now - saved_at > FULL_S:
            self._states = now, self.saved, kept
            text = f"the NATS server keeps no more states: is its JetStream full? Of {self.saved - saved} none was kept"
            self.link.tell(Event("fleet", f"--fleet {self.name}: {text}"))

    def _lose(self, partitions: frozenset[int], why: str) -> None:
        for p in partitions:
            self.owned.pop(p, None)
            if (subscription := self.listening.pop(p, None)) is not None:
                asyncio.get_running_loop().create_task(subscription.unsubscribe())
        self.commands.put(Lost(partitions))
        self.link.ring()
        self.link.tell(Event("fleet", f"--fleet {self.name}: {len(partitions)} partitions are given up: {why}"))

    async def _begin_giving(self, partitions: frozenset[int]) -> None:
        self._giving |= partitions
        for p in partitions:
            await self.listening.pop(p).unsubscribe()
        await self.link.settle()
        self.commands.put(Give(partitions))
        self.link.ring()

    async def _give(self, partitions: frozenset[int]) -> None:
        while self.link.unsent:  # the states must be there before others look for them
            await asyncio.sleep(0.01)
        while True:
            owners, revision = await self._read_owners()
            mine = {p for p in partitions if p in self.owned and owners.get(p) == Owner(self.member.id, self.owned[p])}
            if not mine or await self._write_owners(owners | {p: Owner("", owners[p].epoch) for p in mine}, revision):
                break
        for p in partitions:
            self.owned.pop(p, None)
        self._giving -= partitions
        self.member.given += len(partitions)
        await self._renew()

    async def _claim(self, free: Sequence[int], owners: dict[int, Owner], revision: int) -> None:
        epochs = {p: (owners[p].epoch if p in owners else 0) + 1 for p in free}
        changed = owners | {p: Owner(self.member.id, epoch) for p, epoch in epochs.items()}
        if not await self._write_owners(changed, revision):
            return
        before = {p for p in free if p in owners}  # somebody has owned them
        await self._listen(free)
        taken = await self._since(sorted(before)) if before else Taken({}, {}, [], [])
        self.owned |= epochs
        self.member.taken += len(before)
        self.commands.put(taken._replace(epochs=epochs))
        self.link.ring()
        if before:
            self.link.tell(Event("fleet", f"--fleet {self.name}: {len(before)} partitions are taken over"))

    async def _listen(self, partitions: Iterable[int]) -> None:
        for p in partitions:
            if p not in self.listening:
                self.listening[p] = await self.link.client.subscribe(f"ppg.in.{p}.>", cb=self.link.heard)
        await self.link.settle()
        await asyncio.sleep(SETTLE_S)

    async def _since(self, partitions: Sequence[int], *, states: bool = True) -> Taken:
        """The states of partitions, and what was sent and published since they were saved."""
        found: dict[str, State] = {}
        if states:
            subjects = [f"ppg.state.{self.name}.{p}.*" for p in partitions]
            for subject, body in await self._read("state", subjects, None):
                found[stream_of(subject)] = msgspec.msgpack.decode(body, type=State)
        in_seq = min((state.in_seq for state in found.values()), default=0)
        out_seq = min((state.out_seq for state in found.values()), default=0)
        published = await self._read("out", [f"ppg.out.{p}.>" for p in partitions], out_seq + 1) if states else []
        sent = await self._read("in", [f"ppg.in.{p}.>" for p in partitions], in_seq + 1)
        return Taken({}, found, published, sent)

    async def _catch_up(self) -> None:
        """The connection was lost: read again what came meanwhile."""
        if not self.owned:
            return
        in_seq, _ = self.seqs_before(BEFORE_S)
        sent = await self._read("in", [f"ppg.in.{p}.>" for p in self.owned], in_seq + 1)
        self.commands.put(Taken(dict(self.owned), {}, [], sent))
        self.link.ring()

    async def _read(self, what: str, subjects: Sequence[str], start: int | None) -> list[Message]:
        """What is in a stream from `start` on, or of each subject the last."""
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        stream = f"ppg-{self.name}-{what}"
        policy = DeliverPolicy.LAST_PER_SUBJECT if start is None else DeliverPolicy.BY_START_SEQUENCE
        info = await self._js.add_consumer(
            stream,
            ConsumerConfig(
                name=f"r{secrets.token_hex(6)}", deliver_policy=policy, opt_start_seq=start, filter_subjects=list(subjects),
                ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=30.0,
            ),
        )  # fmt: skip
        found: list[Message] = []
        subscription = await self._js.pull_subscribe_bind(consumer=info.name, stream=stream)
        left = info.num_pending or 0
        while left > 0:
            try:
                came = await subscription.fetch(min(left, BATCH), timeout=READ_S)
            except TimeoutError:  # the oldest were left out meanwhile
                break
            found += [(message.subject, message.data) for message in came]
            left -= len(came)
        await subscription.unsubscribe()
        await self._js.delete_consumer(stream, info.name)
        return found


# ---- on the loop's thread ----------------------------------------------------------------------------------------------


class FleetSource(NatsSource):
    """What comes for the partitions of this member: first what is read again, then what comes live. What an engine has taken
    already is left out."""

    def __init__(self, link: Link, events: Events) -> None:
        super().__init__(link, [], events)
        self.engine: Engine | None = None
        self._first: deque[Message] = deque()
        self._held: dict[int, deque[Message]] = {}
        self._again: dict[int, float] = {}  # partitions whose messages may come twice, and until when
        self.owned: Mapping[int, int] = {}
        self.listening: Mapping[int, Any] = {}

    def read_again(self, messages: Iterable[Message], partitions: Iterable[int]) -> None:
        """Take these before what came live."""
        until = time.monotonic() + AGAIN_S
        self._again |= dict.fromkeys(partitions, until)
        held = [message for p in partitions for message in self._held.pop(p, [])]
        self._first.extend((*messages, *held))
        if self._first:
            self._link.ring()

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        if self._first:
            self.received += 1
            return self._new(self._chunks(self._first.popleft()), now)
        message = self._link.take()
        if message is None:
            self._tell_dropped()
            return None
        self.received += 1
        partition = _partition_in(message[0])
        if partition not in self.owned:
            if partition in self.listening:
                # It is being taken over. Of very many, the oldest are read again anyway.
                self._held.setdefault(partition, deque(maxlen=MOST_HELD)).append(message)
            return []
        return self._new(self._chunks(message), now)

    def forget(self, partitions: Iterable[int]) -> None:
        for p in partitions:
            self._held.pop(p, None)
            self._again.pop(p, None)

    def _new(self, chunks: list[Chunk], now: float) -> list[Chunk]:
        """Those that the engine has not taken."""
        if not self._again or not chunks or self.engine is None:
            return chunks
        chunk = chunks[0]
        until = self._again.get(partition_of(chunk.stream))
        if until is None:
            return chunks
        if now > until:
            del self._again[partition_of(chunk.stream)]
            return chunks
        stream = self.engine.streams.get(chunk.stream)
        taken = None if stream is None else stream.intake.sessions.taken(chunk.session)
        if stream is None or taken is None:
            return chunks
        over = stream.session != chunk.session
        return [] if chunk.stop <= taken and (over or chunk.kind is not Kind.END) else chunks


def _partition_in(subject: str) -> int:
    parts = subject.split(".", 3)
    return int(parts[2]) if len(parts) == 4 and parts[2].isascii() and parts[2].isdigit() else -1


class _Published:
    """What of a stream's session was published by its former owner."""

    __slots__ = ("beats", "ended", "stop")

    def __init__(self) -> None:
        self.stop, self.ended = 0, False
        self.beats: set[tuple[int, bytes]] = set()


class FleetSink(NatsSink):
    """Publishes with the epoch of the stream's partition, what its former owner has not published yet, and nothing once the
    partition is another's."""

    def __init__(self, link: Link, dtype: Literal["f4", "f8"], events: Events) -> None:
        super().__init__(link, dtype, events)
        self.tender: Tender | None = None
        self.owned: dict[int, int] = {}
        self.fenced = 0  # messages that were not published: the partition is another's
        self._held: list[tuple[Chunk, str | None]] = []  # while it is not sure whether it is
        self._before: dict[tuple[str, int], _Published] = {}

    def remember(self, messages: Iterable[Message]) -> None:
        """What former owners have published."""
        epochs: dict[str, int] = {}
        for subject, body in messages:
            try:
                chunk = decode([stream_of(subject).encode(), body])
            except WireError:
                continue
            if chunk.epoch < epochs.get(chunk.stream, 0):
                continue  # clients have left it out
            epochs[chunk.stream] = chunk.epoch
            one = self._before.setdefault((chunk.stream, chunk.session), _Published())
            if chunk.beats is not None:
                one.beats.add((chunk.index, chunk.beats.at.tobytes()))
            elif chunk.kind in (Kind.DATA, Kind.GAP):
                one.stop = max(one.stop, chunk.stop)
            elif chunk.kind is Kind.END:
                one.ended = True

    def forget(self, stream: str) -> None:
        for key in [key for key in self._before if key[0] == stream]:
            del self._before[key]

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        epoch = self.owned.get(partition_of(chunk.stream))
        if epoch is None or len(self._held) > MOST_HELD:
            self.fenced += 1
            return
        if self.tender is not None and not self.tender.is_sure:
            self._held.append((chunk, dtype))
            return
        self._send_held()
        if self._before:
            left = self._left(chunk)
            if left is None:
                return
            chunk = left
        super()._send(structs.replace(chunk, epoch=epoch), dtype)

    def hear(self) -> None:
        super().hear()
        if self.tender is not None and self.tender.is_sure:
            self._send_held()

    def _send_held(self) -> None:
        held, self._held = self._held, []
        for one in held:
            self._send(*one)

    def _left(self, chunk: Chunk) -> Chunk | None:
        """What of a chunk was not published before; None if all of it was."""
        one = self._before.get((chunk.stream, chunk.session))
        if one is None:
            return chunk
        if chunk.beats is not None:
            return None if (chunk.index, chunk.beats.at.tobytes()) in one.beats else chunk
        if chunk.kind is Kind.END:
            del self._before[chunk.stream, chunk.session]  # nothing follows
            return None if one.ended else chunk
        if chunk.kind not in (Kind.DATA, Kind.GAP) or chunk.index >= one.stop:
            return chunk
        if chunk.stop <= one.stop:
            return None
        cut = one.stop - chunk.index
        if chunk.kind is Kind.GAP:
            return structs.replace(chunk, index=one.stop, missing=chunk.missing - cut)
        assert chunk.confidence is not None
        assert chunk.flags is not None
        return structs.replace(
            chunk,
            index=one.stop,
            samples=chunk.samples[cut:],
            confidence=chunk.confidence[cut:],
            flags=chunk.flags[cut:],
            t_ns=chunk.t_ns + round(cut / chunk.fs * 1e9) if chunk.t_ns else 0,
        )


class Fleet:
    """The member's part on the loop's thread. `turn` is called in each turn of the loop."""

    def __init__(self, tender: Tender, source: FleetSource, sink: FleetSink, engine: Engine, events: Events) -> None:
        self.tender, self._source, self._sink, self._engine, self._events = tender, source, sink, engine, events
        source.engine, source.owned, source.listening = engine, sink.owned, tender.listening
        sink.tender = tender
        self._giving: list[frozenset[int]] = []
        self._saved: dict[str, tuple[float, bool]] = {}  # when the state of a stream was saved last, and whether it had ended
        self._due: list[Stream] = []
        self._sliced_at = 0.0
        self._lag_s = 0.0  # by which what is read is late, lately

    def turn(self, times: tuple[float, float, float]) -> None:
        """times: `now`, `listened` and `read_at`, as of `Engine.feed`."""
        while not self.tender.commands.empty():
            command = self.tender.commands.get()
            if isinstance(command, Taken):
                self._take(command, times)
            elif isinstance(command, Lost):
                self._lose(command.partitions)
            else:
                self._giving.append(command.partitions)
        if self._giving:
            self._give(times)
        if times[2] - self._sliced_at > SLICE_S:
            self._sliced_at = times[2]
            self._save_some(times)

    def tick(self, samples_per_s: float, lag_ms: float | None) -> None:
        """A second is over: what the lease tells of this member."""
        member = self.tender.member
        member.streams = sum(stream.session is not None for stream in self._engine.streams.values())
        member.samples_per_s, member.lag_ms = round(samples_per_s, 1), lag_ms
        self._lag_s = max(0.9 * self._lag_s, (lag_ms or 0.0) / 1000)
        for name in [n for n in self._saved if n not in self._engine.streams]:
            del self._saved[name]

    @property
    def status(self) -> FleetStatus:
        tender = self.tender
        return FleetStatus(tender.name, tender.member.id, len(self._sink.owned), self._sink.fenced, [*tender.members.values()])

    def leave(self) -> None:
        """Be no member any more. What could not be handed over is taken over by others from its last state."""
        self.tender.end()
        if left := list(self._engine.streams):
            self._events.tell(Event("fleet", f"{len(left)} streams could not be handed over in time: others take them over"))
        for name in left:
            self._engine.discard(name)

    def _take(self, taken: Taken, times: tuple[float, float, float]) -> None:
        now, listened, read_at = times
        self._sink.remember(taken.published)
        for name, state in taken.states.items():
            if name in self._engine.streams:
                continue
            try:
                self._engine.load(name, state.data, now, listened=listened, read_at=read_at)
            except ValueError as error:
                self._events.tell(Event("fleet", f"{name}: its state cannot be loaded, it begins anew: {error}", name))
        self._sink.owned.update(taken.epochs)
        self._source.read_again(taken.sent, taken.epochs)

    def _lose(self, partitions: frozenset[int]) -> None:
        for p in partitions:
            self._sink.owned.pop(p, None)
        self._source.forget(partitions)
        self._giving = [left for giving in self._giving if (left := giving - partitions)]
        for name in [name for name in self._engine.streams if partition_of(name) in partitions]:
            self._engine.discard(name)
            self._forget(name)

    def _give(self, times: tuple[float, float, float]) -> None:
        """Hand over what nothing is under way of."""
        for partitions in list(self._giving):
            streams = [stream for name, stream in self._engine.streams.items() if partition_of(name) in partitions]
            if any(stream.out for stream in streams):
                continue
            for stream in streams:
                self._save(stream, times)
                self._engine.remove(stream.name)
                self._forget(stream.name)
            for p in partitions:
                self._sink.owned.pop(p, None)
            self._giving.remove(partitions)
            self.tender.given(partitions)

    def _forget(self, name: str) -> None:
        self._sink.forget(name)
        self._saved.pop(name, None)

    def _save_some(self, times: tuple[float, float, float]) -> None:
        """Save the states that are due, of streams of which no window is under way; a part of them at a time."""
        read_at = times[2]
        if not self._due:
            self._due = [stream for stream in self._engine.streams.values() if self._is_due(stream, read_at)]
        share = max(len(self._engine.streams) * SLICE_S / SAVE_S * 2, 1.0)
        rest: list[Stream] = []
        while self._due and share > 0:
            stream = self._due.pop()
            if self._engine.streams.get(stream.name) is not stream:
                continue
            if stream.out:
                rest.append(stream)
                if len(rest) > BATCH:
                    break
                continue
            self._save(stream, times)
            share -= 1
        self._due = [*rest, *self._due]

    def _is_due(self, stream: Stream, read_at: float) -> bool:
        saved_at, over = self._saved.get(stream.name, (0.0, False))
        return not (over and stream.is_over) and read_at - saved_at > SAVE_S

    def _save(self, stream: Stream, times: tuple[float, float, float]) -> None:
        partition = partition_of(stream.name)
        epoch = self._sink.owned.get(partition)
        if epoch is None:
            return
        now, listened, read_at = times
        data = self._engine.save(stream.name, now, listened=listened, read_at=read_at)
        self._sink.release()  # what it has published must be there before the state is
        in_seq, out_seq = self.tender.seqs_before(BEFORE_S + 2 * self._lag_s)
        body = msgspec.msgpack.encode(State(epoch, in_seq, out_seq, data))
        self.tender.link.publish(f"ppg.state.{self.tender.name}.{partition}.{token_of(stream.name)}", body)
        self.tender.saved += 1
        self._saved[stream.name] = read_at, stream.is_over


def member_of(config: Config, checkpoint_id: str, checkpoint_sha256: str) -> Member:
    """A lease of this process."""
    settings = settings_of(config, checkpoint_sha256)
    return Member(
        secrets.token_hex(4), socket.gethostname(), os.getpid(), checkpoint_id, since=time.time(), settings=settings
    )  # fmt: skip


def read_fleet(url: str, name: str) -> tuple[dict[str, Member], dict[int, Owner]]:
    """The members of a fleet, and who owns what. Raises SourceError."""
    link = Link(url)
    tender = Tender(link, name, Member("", "", 0, ""))

    async def read() -> tuple[dict[str, Member], dict[int, Owner]]:
        js = link.client.jetstream(timeout=READ_S)
        tender._leases = await js.key_value(f"ppg-{name}-members")
        tender._owners = await js.key_value(f"ppg-{name}-owners")
        return await tender._read_members(), (await tender._read_owners())[0]

    try:
        return link.run(read())
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{url}: no fleet of the name {name} is known there: {error}") from error
    finally:
        link.close()
