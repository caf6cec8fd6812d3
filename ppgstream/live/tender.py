"""A member's part on the connection's thread: its lease, who owns what, and what is read from the server and stored there.

    ppg-NAME-members   a key a member, its lease: renewed each `RENEW_S`, gone `LEASE_S` after the last time; in memory
    ppg-NAME-owners    one key: of each partition the member that owns it, and its epoch; changed by compare-and-set
    ppg-NAME-in, -out  what sensors send and members publish, of the last `[fleet] keep_s` seconds
    ppg-NAME-state     of each stream its state, as `Engine.save` gives it, each `SAVE_S`

A member reads the sensors' messages from -in, in the order in which the server keeps them. A state says up to which place of -in
it goes, and is stored only after the server keeps everything in -out that was published before it. So whoever takes a partition
over loads the states, reads on from their places, and publishes what is not in -out.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import msgspec

from ppgstream.config import Config
from ppgstream.core.ledger import Event
from ppgstream.errors import ConfigError, SourceError
from ppgstream.live.link import Link
from ppgstream.live.nats import PARTITIONS, Message, partition_in, partition_of, shown, stream_of, token_of
from ppgstream.live.snapshot import MemberStatus
from ppgstream.live.stored import ANSWER_S, Feed, kept, stream_of_subject, told

LEASE_S, RENEW_S, LOOK_S = 2.5, 0.5, 0.25
STALE_S = 2.0  # after which a member whose lease could not be renewed publishes nothing more
SETTLE_S = 0.1  # for the server to have stored what it has passed on
TWICE_S = 120.0  # for which JetStream knows the numbers of messages, and keeps none twice
OWNERS_BYTES = 256 * 1024  # kept free for who owns what, so that a full JetStream does not end take-overs


class Owner(NamedTuple):
    """Of a partition. member: empty if it was given back."""

    member: str
    epoch: int


class Member(MemberStatus):
    """A lease: what the status tells, when it began, and hashes of what all members must have alike, by name."""

    since: float = 0.0
    settings: dict[str, str] = msgspec.field(default_factory=dict)


class Reached(NamedTuple):
    """Places in the streams -in and -out."""

    taken: int
    published: int


class State(msgspec.Struct):
    """Of a stream. reached: what is in `data`; what comes after is to be read again. begun: all streams of the partition that
    began before have a state. over: no session is open."""

    epoch: int
    reached: Reached
    begun: Reached
    over: bool
    data: bytes


class Begin(NamedTuple):
    """Of a feed. last: the place that -in had reached when it was begun: up to there others may have published."""

    start: Reached
    last: int


class Taken(NamedTuple):
    """Partitions that are taken over, with their epochs and the numbers of the feeds that they come by; the states of their
    streams, and what was published since. losses: of the connection, when they were taken over."""

    epochs: dict[int, int]
    feeds: dict[int, int]
    begins: dict[int, Begin]
    states: dict[str, State]
    published: list[Message]
    losses: int


class Lost(NamedTuple):
    """Partitions that others own, or that are to be taken over anew: all of their streams are forgotten at once."""

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


def begins_at(states: Iterable[State]) -> tuple[bool, Reached]:
    """From where on a partition with these states is to be read: whether sessions are open in it, and the places."""
    found = list(states)
    if not found:
        return False, Reached(0, 0)
    begun = max(state.begun for state in found)
    live = [state.reached for state in found if not state.over]
    places = [begun, *live]
    return bool(live), Reached(min(r.taken for r in places), min(r.published for r in places))


def settings_of(config: Config, checkpoint_sha256: str) -> dict[str, str]:
    """Hashes of what decides the output, and how long it is kept, by name: members of a fleet must have it alike."""
    decides: dict[str, Any] = {
        "checkpoint": checkpoint_sha256,
        "[windows]": config.windows,
        "[streams]": config.streams,
        "in.fs": config.in_.fs,
        "in.sentinels": config.in_.sentinels,
        "out.dtype": config.out.dtype,
        "out.raw": config.out.raw,
        "fleet.keep_s": config.fleet.keep_s,
    }
    return {name: hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:8] for name, value in decides.items()}


class Tender:
    """See the module. `commands`: for the loop's thread, which answers by `taken`, `store` and `given`."""

    def __init__(self, link: Link, name: str, member: Member, keep_s: float = 600.0) -> None:
        self.link, self.name, self.member, self._keep_s = link, name, member, keep_s
        self.commands: SimpleQueue[Command] = SimpleQueue()
        self.owned: dict[int, int] = {}  # partitions and their epochs, as the loop's thread was told
        self.renewed = 0.0  # time.monotonic() of the last renewal
        self.sure_until = 0.0  # the same, until which nobody else can own what it owns
        self._lapses = 0  # of the lease
        self._owns = False  # whether it has been read, since the last of them, what this member owns
        self.members: dict[str, Member] = {}
        self.published = 0  # the place that -out has reached, as the server told last
        self.take_up_again = False  # something could not be published: all is to be taken over anew
        self._giving: frozenset[int] = frozenset()
        self._feeds: dict[int, tuple[Feed, set[int]]] = {}  # by number, with the partitions that they bring
        self._feeds_made = 0
        self._js: Any = None
        self._epochs: dict[int, int] = {}  # the highest that were seen
        self._losses = 0  # of the connection, that were seen
        self._connected_at = 0.0
        self._states: dict[str, bytes] = {}  # that are to be stored, by subject
        self._stored = 0  # batches of states
        self._marks: dict[int, asyncio.Future[bytes]] = {}  # that the server has not acknowledged, by batch
        self._storing = asyncio.Lock()
        self._told = ""
        self._tasks: list[Any] = []

    # ---- for other threads -------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Become a member. Raises ConfigError where another one has other settings, SourceError where the server has no
        JetStream."""
        self.link.run(self._join(), 3 * ANSWER_S)
        self._tasks = [asyncio.run_coroutine_threadsafe(work(), self.link.loop) for work in (self._keep, self._tend)]

    def taken(self, feeds: Iterable[int]) -> None:
        """The loop's thread has loaded the states: messages may come by these feeds."""
        asyncio.run_coroutine_threadsafe(self._begin_feeds(set(feeds)), self.link.loop)

    def store(self, states: Mapping[str, bytes], losses: int) -> None:
        """Store states, by subject, once the server keeps what was published before."""
        self._stored += 1
        asyncio.run_coroutine_threadsafe(self._store(self._stored, dict(states), losses), self.link.loop)
        self.link.publish(f"ppg.mark.{self.name}", b"", reply=f"{self._inbox}.{self._stored}", losses=losses)

    def given(self, partitions: frozenset[int], losses: int) -> None:
        """The loop's thread has stored the states of all of these."""
        asyncio.run_coroutine_threadsafe(self._give(partitions, losses), self.link.loop)

    def leave(self) -> None:
        """Hand everything over, and be no member any more."""
        self.member.leaving = True

    @property
    def most_bytes(self) -> int:
        """Of a message, that the server takes."""
        return int(self.link.client.max_payload)

    @property
    def is_sure(self) -> bool:
        """Whether nobody else can own what it owns: else nothing may be published."""
        return time.monotonic() < self.sure_until

    @property
    def has_left(self) -> bool:
        return self.member.leaving and not self.owned and not self._giving

    def end(self) -> None:
        """The lease is given up."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(SourceError):  # it runs out by itself
            self.link.run(self._resign(), 1.0)

    # ---- on the connection's thread: lease and owners --------------------------------------------------------------------

    async def _join(self) -> None:
        self._js = self.link.client.jetstream(timeout=ANSWER_S)
        with contextlib.suppress(LookupError):
            there = await stream_of_subject(self.link, "ppg.in.>")
            if there != f"ppg-{self.name}-in":
                raise ConfigError(
                    f"--fleet {self.name}: {there} keeps ppg.in.> on this server: one fleet for an account of the server"
                )
        try:
            await self._make_buckets()
        except Exception as error:
            raise SourceError(f"--fleet {self.name}: the NATS server makes no bucket for it: {told(error)}") from error
        for other in (await self._read_members()).values():
            if unlike := sorted(k for k, v in self.member.settings.items() if other.settings.get(k) != v):
                raise ConfigError(
                    f"--fleet {self.name}: the member {other.id} on {other.host} has another {', '.join(unlike)}: all members "
                    "must have the same"
                )
        try:
            await self._make_streams()
        except Exception as error:
            raise SourceError(f"--fleet {self.name}: the NATS server keeps no streams for it: {told(error)}") from error
        self._inbox = self.link.client.new_inbox()
        await self.link.client.subscribe(f"{self._inbox}.*", cb=self._acknowledged)
        self._losses = self.link.losses
        await self._renew()

    async def _make_buckets(self) -> None:
        from nats.js.api import StorageType

        prefix = f"ppg-{self.name}"
        self._leases = await self._js.create_key_value(bucket=f"{prefix}-members", ttl=LEASE_S, storage=StorageType.MEMORY)
        self._owners = await self._js.create_key_value(
            bucket=f"{prefix}-owners", storage=StorageType.FILE, history=1, max_bytes=OWNERS_BYTES
        )

    async def _make_streams(self) -> None:
        from nats.js.api import StorageType, StreamConfig
        from nats.js.errors import BadRequestError

        streams = (
            ("in", ["ppg.in.>"], -1),
            ("out", ["ppg.out.>", f"ppg.mark.{self.name}"], -1),
            ("state", [f"ppg.state.{self.name}.>"], 1),
        )
        for what, subjects, each in streams:
            wanted = StreamConfig(
                name=f"ppg-{self.name}-{what}", subjects=subjects, max_age=self._keep_s, max_msgs_per_subject=each,
                storage=StorageType.FILE, duplicate_window=min(TWICE_S, self._keep_s),
            )  # fmt: skip
            try:
                await self._js.add_stream(wanted)
            except BadRequestError:  # there is one that keeps for another time
                await self._js.update_stream(wanted)

    async def _renew(self) -> None:
        at = time.monotonic()
        self.member.partitions = len(self.owned)
        await self._leases.put(self.member.id, msgspec.json.encode(self.member))
        if time.monotonic() - self.renewed > LEASE_S:
            self._lapses, self._owns = self._lapses + 1, False
        self.renewed = at
        if self._owns:
            self.sure_until = at + STALE_S

    async def _keep(self) -> None:
        """Renew the lease, beside all else that takes its time."""
        while True:
            # Without a connection the client would keep what it is given, and the lease would be renewed late.
            if self.link.client.is_connected:
                with contextlib.suppress(Exception):  # the round tells it
                    await self._renew()
            await asyncio.sleep(RENEW_S)

    async def _resign(self) -> None:
        await self._leases.delete(self.member.id)

    async def _read_members(self) -> dict[str, Member]:
        from nats.js.errors import KeyDeletedError, KeyNotFoundError

        found = {}
        # The client's way to list keys leaves a consumer behind each time, of which a server has 1000 at most.
        bucket = f"KV_ppg-{self.name}-members"
        told = (await self._js.stream_info(bucket, subjects_filter=">")).state.subjects or {}
        # A key that is renewed while they are listed may be missing in the list: so those that are known are asked for by name.
        for key in {*self.members, *(subject.rpartition(".")[2] for subject in told)}:
            with contextlib.suppress(KeyNotFoundError, KeyDeletedError, msgspec.DecodeError):
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
            if self.link.client.is_connected:
                try:
                    await self._round()
                    self._told = ""
                except Exception as error:  # the server is gone for a while, or was started anew
                    await self._mend(error)
            await asyncio.sleep(LOOK_S)

    def _tell(self, text: str) -> None:
        """Say it once, until a round went well."""
        text = f"--fleet {self.name}: {text}"
        if text != self._told:
            self._told = text
            self.link.tell(Event("fleet", text))

    async def _mend(self, error: Exception) -> None:
        if not self.link.client.is_connected:
            return
        self._tell(told(error))
        with contextlib.suppress(Exception):  # tried again
            await self._make_all()

    async def _make_all(self) -> None:
        """A server that was started again has forgotten what was in memory."""
        await self._make_buckets()
        await self._make_streams()

    async def _round(self) -> None:
        if self._losses != self.link.losses:
            self._connected_at = time.monotonic()
            self._begin_anew("the connection was lost")
            await self._make_all()
        elif self.take_up_again:
            self._begin_anew("too much waited to be sent")
        lapses, now = self._lapses, time.monotonic()
        self.published = (await self._js.stream_info(f"ppg-{self.name}-out")).state.last_seq
        self.members = await self._read_members()
        owners, revision = await self._read_owners()
        own = self.member.id
        lost = frozenset(p for p, epoch in self.owned.items() if owners.get(p) != Owner(own, epoch)) - self._giving
        if lost:
            self._lose(lost, "another member owns them")
        if lapses == self._lapses:
            self._owns = True
            self.sure_until = self.renewed + STALE_S
        live = {m.id for m in self.members.values() if not m.leaving} | ({own} if not self.member.leaving else set())
        target = shares(live, {p: o for p, o in owners.items() if o.member in live})
        if surplus := frozenset(p for p in self.owned if target.get(p) != own) - self._giving:
            self._begin_giving(surplus)
        free = [p for p, name in target.items() if name == own and p not in self.owned and self._is_free(owners.get(p), now)]
        if free and not self.member.leaving and self.is_sure:
            await self._claim(free, owners, revision)

    def _is_free(self, owner: Owner | None, now: float) -> bool:
        if owner is None or not owner.member or owner.member == self.member.id:
            return True
        # Where the connection was lost, the others' may have been too: their leases may be renewed in a moment.
        return owner.member not in self.members and now - self._connected_at > LEASE_S

    def _begin_anew(self, why: str) -> None:
        """Something was lost on its way: everything is taken over anew, from what the server keeps."""
        self._losses, self.take_up_again = self.link.losses, False
        for mark in self._marks.values():
            mark.cancel()
        self._states.clear()
        self._giving = frozenset()
        self._lose(frozenset(self.owned), f"{why}; they are taken up again")

    def _lose(self, partitions: frozenset[int], why: str) -> None:
        if not partitions:
            return
        self._stop_feeds(partitions)
        for p in partitions:
            self.owned.pop(p, None)
        self.commands.put(Lost(partitions))
        self.link.ring()
        self.link.tell(Event("taken_over", f"--fleet {self.name}: {len(partitions)} partitions are given up: {why}"))

    # ---- handing over, and taking over -----------------------------------------------------------------------------------

    def _begin_giving(self, partitions: frozenset[int]) -> None:
        self._giving |= partitions
        self.commands.put(Give(partitions))
        self.link.ring()

    async def _give(self, partitions: frozenset[int], losses: int) -> None:
        async with self._storing:  # the states must be there before others look for them; else these begin with older ones
            pass
        self._stop_feeds(partitions)
        while not await self._give_back(partitions):
            if losses != self.link.losses:
                return  # they are taken up again
            await asyncio.sleep(LOOK_S)
        for p in partitions:
            self.owned.pop(p, None)
        self._giving -= partitions
        self.member.given += len(partitions)
        await self._renew()

    async def _give_back(self, partitions: frozenset[int]) -> bool:
        """Own these no more. False if that is to be tried again."""
        try:
            owners, revision = await self._read_owners()
            mine = {p for p in partitions if p in self.owned and owners.get(p) == Owner(self.member.id, self.owned[p])}
            return not mine or await self._write_owners(owners | {p: Owner("", owners[p].epoch) for p in mine}, revision)
        except Exception as error:
            self._tell(told(error))
            return False

    async def _claim(self, free: Sequence[int], owners: dict[int, Owner], revision: int) -> None:
        losses = self.link.losses
        self._epochs |= {p: max(owner.epoch, self._epochs.get(p, 0)) for p, owner in owners.items()}
        epochs = {p: self._epochs.get(p, 0) + 1 for p in free}
        changed = owners | {p: Owner(self.member.id, epoch) for p, epoch in epochs.items()}
        if not await self._write_owners(changed, revision):
            return
        await asyncio.sleep(SETTLE_S)
        found = await self._left_by_others(free, epochs, losses)
        before = sum(p in owners for p in free)  # somebody has owned them
        self.owned |= epochs
        self.member.taken += before
        self.commands.put(found)
        self.link.ring()
        if before:
            self.link.tell(Event("taken_over", f"--fleet {self.name}: {before} partitions are taken over"))

    async def _left_by_others(self, partitions: Sequence[int], epochs: dict[int, int], losses: int) -> Taken:
        """The states of partitions, what was published since, and feeds of what was sent since."""
        subjects = [f"ppg.state.{self.name}.{p}.*" for p in partitions]
        states = {
            stream_of(message.subject): msgspec.msgpack.decode(message.body, type=State)
            for message in await kept(self.link, f"ppg-{self.name}-state", subjects, None)
        }
        last = (await self._js.stream_info(f"ppg-{self.name}-in")).state.last_seq
        of: dict[int, list[State]] = {p: [] for p in partitions}
        for name, state in states.items():
            if state.reached.taken > last:  # of a server that has lost input, with its host
                state.reached = Reached(last, state.reached.published)
            of[partition_of(name)].append(state)
        begins = {p: begins_at(found) for p, found in of.items()}
        # Partitions without an open session may begin long ago: nothing came since. They are read apart, so that the others are
        # not read from there too.
        groups = [[p for p in partitions if begins[p][0] is open_] for open_ in (True, False)]
        groups = [group for group in groups if group]
        starts = [Reached(*(min(begins[p][1][k] for p in group) for k in (0, 1))) for group in groups]
        published: list[Message] = []
        for group, start in zip(groups, starts, strict=True):
            published += await kept(self.link, f"ppg-{self.name}-out", [f"ppg.out.{p}.>" for p in group], start.published + 1)
        feeds: dict[int, int] = {}
        by_feed: dict[int, Begin] = {}
        for group, start in zip(groups, starts, strict=True):
            self._feeds_made += 1
            brings, number = set(group), self._feeds_made
            feed = Feed(
                self.link, f"ppg-{self.name}-in", [f"ppg.in.{p}.>" for p in group], start.taken + 1, number=number,
                takes=lambda subject, brings=brings: partition_in(subject) in brings,  # type: ignore[misc]
            )  # fmt: skip
            self._feeds[number] = feed, brings
            feeds |= dict.fromkeys(group, number)
            by_feed[number] = Begin(start, last)
        return Taken(epochs, feeds, by_feed, states, published, losses)

    async def _begin_feeds(self, numbers: set[int]) -> None:
        for number in numbers:
            if (found := self._feeds.get(number)) is not None:  # else it was given up meanwhile
                with contextlib.suppress(ConnectionError):  # gone: all is taken up again, once it is back
                    await found[0].begin()

    def _stop_feeds(self, partitions: frozenset[int]) -> None:
        for number, (feed, brings) in list(self._feeds.items()):
            brings.difference_update(partitions)
            if not brings:
                del self._feeds[number]
                self._ending = asyncio.get_running_loop().create_task(feed.end())

    # ---- states ------------------------------------------------------------------------------------------------------------

    async def _acknowledged(self, message: Any) -> None:
        mark = self._marks.get(int(message.subject.rpartition(".")[2]))
        if mark is not None and not mark.done():
            mark.set_result(message.data)

    async def _store(self, batch: int, states: dict[str, bytes], losses: int) -> None:
        mark = self._marks[batch] = asyncio.get_running_loop().create_future()
        async with self._storing:  # in the order of the batches
            try:
                await self._store_after(mark, states, losses)
            finally:
                del self._marks[batch]

    async def _store_after(self, mark: asyncio.Future[bytes], states: dict[str, bytes], losses: int) -> None:
        if losses != self.link.losses:
            return
        for subject, body in states.items():  # newer ones go last: they may rest on others being there
            self._states.pop(subject, None)
            self._states[subject] = body
        try:
            answer = msgspec.json.decode(await asyncio.wait_for(mark, ANSWER_S), type=dict[str, Any])
            if "error" in answer:
                raise OSError(answer["error"].get("description", "an error"))
            if losses != self.link.losses:
                return
            *rest, last = self._states.items()
            for subject, body in rest:
                await self.link.client.publish(subject, body)
            await self._js.publish(*last)
            if losses == self.link.losses:
                self._states.clear()
        except asyncio.CancelledError:
            return
        except Exception as error:  # they are stored with the next ones
            if losses == self.link.losses and self.link.client.is_connected:
                self._tell(f"the NATS server keeps no more states: is its JetStream full? {told(error)}")


def member_of(config: Config, checkpoint_id: str, checkpoint_sha256: str) -> Member:
    """A lease of this process."""
    settings = settings_of(config, checkpoint_sha256)
    return Member(
        secrets.token_hex(4), socket.gethostname(), os.getpid(), checkpoint_id, since=time.time(), settings=settings
    )  # fmt: skip


def subject_of_state(fleet: str, partition: int, stream: str) -> str:
    """Where the state of a stream is stored."""
    return f"ppg.state.{fleet}.{partition}.{token_of(stream)}"


def read_fleet(url: str, name: str) -> tuple[dict[str, Member], dict[int, Owner]]:
    """The members of a fleet, and who owns what. Raises SourceError."""
    link = Link(url)
    tender = Tender(link, name, Member("", "", 0, ""))

    async def read() -> tuple[dict[str, Member], dict[int, Owner]]:
        js = tender._js = link.client.jetstream(timeout=ANSWER_S)
        tender._leases = await js.key_value(f"ppg-{name}-members")
        tender._owners = await js.key_value(f"ppg-{name}-owners")
        return await tender._read_members(), (await tender._read_owners())[0]

    try:
        return link.run(read())
    except SourceError:
        raise
    except Exception as error:
        why = "" if type(error).__name__ in ("BucketNotFoundError", "NotFoundError") else f": {told(error)}"
        raise SourceError(f"{shown(url)}: no fleet of the name {name} is known there{why}") from error
    finally:
        link.close()
