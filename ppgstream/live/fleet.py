"""A fleet: daemons that share the streams of a NATS server, and take over from each other. This is a member's part on the thread
of the daemon's loop; `tender` has the other part, and says what the server keeps.

Who takes a partition over loads the states of its streams, reads on from where they were saved, and publishes what its former
owner has not. The epoch in each message says whose it is: clients leave out those of former owners.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import structs

from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.core.stream import Stream
from ppgstream.errors import WireError
from ppgstream.live.events import Events
from ppgstream.live.nats import Message, partition_in, partition_of, stream_of
from ppgstream.live.sink import NatsSink
from ppgstream.live.snapshot import FleetStatus
from ppgstream.live.source import NatsSource
from ppgstream.live.tender import Begin, Lost, Reached, State, Taken, Tender, subject_of_state
from ppgstream.wire.message import Chunk, Kind, decode

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.link import Link

SAVE_S = 5.0  # between two states of a stream
SLICE_S = 0.25  # between two looks at which states are due
MOST_HELD = 100_000  # messages that wait while it is not sure that their partitions are still owned
HEAD_BYTES = 1024  # of a message with a state, beside the state
NEVER = -2  # losses of the connection that it never has
POSTPONED = 500  # streams of which windows are under way, before no more of them are looked at


class FleetSource(NatsSource):
    """What the server keeps for the partitions of this member, from where they were taken over. unsaved: of each stream without a
    state of an open session, the places before its first message."""

    def __init__(self, link: Link, events: Events) -> None:
        super().__init__(link, [], events)
        self.tender: Tender | None = None
        self.unsaved: dict[str, Reached] = {}
        self._saved: set[str] = set()
        self._feeds: dict[int, int] = {}  # by which each partition comes
        self._stopped: dict[int, Reached] = {}  # of partitions that are handed over, the places up to which they were taken
        self._reached: dict[int, int] = {}  # the place of each feed's last message
        self._begins: dict[int, Begin] = {}  # of each feed
        self._since: dict[str, int] = {}  # the places up to which streams were taken before

    def begin(self, taken: Taken, loaded: Iterable[str]) -> None:
        """Take the messages of partitions. loaded: those of their streams that go on from their states."""
        self._feeds |= taken.feeds
        self._begins |= taken.begins
        self._reached |= {feed: begin.start.taken for feed, begin in taken.begins.items()}
        for p in taken.feeds:
            self._stopped.pop(p, None)
        for name in loaded:
            state = taken.states[name]
            self._since[name] = state.reached.taken
            if not state.over:
                self._saved.add(name)

    def stop(self, partitions: frozenset[int]) -> None:
        """Take no more of them. What comes of others by the same feed changes nothing of how far they were taken."""
        for p in partitions:
            if (feed := self._feeds.pop(p, None)) is not None:
                self._stopped[p] = self._read(feed)

    def lose(self, partitions: frozenset[int]) -> None:
        """Forget them."""
        for p in partitions:
            self._feeds.pop(p, None)
            self._stopped.pop(p, None)
        for feed in self._reached.keys() - set(self._feeds.values()):
            del self._reached[feed], self._begins[feed]

    def forget(self, stream: str) -> None:
        """Of a stream that is no longer here."""
        self._saved.discard(stream)
        self.unsaved.pop(stream, None)
        self._since.pop(stream, None)

    def saved(self, stream: str, *, over: bool) -> None:
        """There is a state of the stream now."""
        self.unsaved.pop(stream, None)
        if over:
            self._saved.discard(stream)
        else:
            self._saved.add(stream)

    def places(self, stream: str) -> tuple[Reached, Reached]:
        """Up to where everything of a stream was taken and published; and places before which all streams of its partition that
        began have a state."""
        partition = partition_of(stream)
        read = self._stopped[partition] if partition in self._stopped else self._read(self._feeds[partition])
        begun = Reached(*(min(places) for places in zip(read, *self.unsaved.values(), strict=True)))
        return read._replace(taken=max(read.taken, self._since.get(stream, 0))), begun

    def _read(self, feed: int) -> Reached:
        """Up to where a feed was read. What others have published of what it still reads again is not behind that."""
        assert self.tender is not None
        begin, taken = self._begins[feed], self._reached[feed]
        return Reached(taken, begin.start.published if taken < begin.last else self.tender.published)

    def take(self, now: float, listened: float) -> list[Chunk] | None:
        message = self._link.take()
        if message is None:
            return None
        self.received += 1
        partition = partition_in(message.subject)
        if self._feeds.get(partition) != message.feed:
            return []
        self._reached[message.feed] = message.place
        stream = stream_of(message.subject)
        if (since := self._since.get(stream)) is not None:
            if message.place <= since:
                return []
            del self._since[stream]
        chunks = self._chunks(message)
        if chunks and stream not in self._saved and stream not in self.unsaved:
            self.unsaved[stream] = Reached(message.place - 1, self._read(message.feed).published)
        return chunks


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
        self.owned: dict[int, int] = {}  # partitions, and their epochs
        self.fenced = 0  # messages that were not published: the partition is another's
        self._held: list[tuple[Chunk, str | None]] = []  # while it is not sure whether it is
        self._before: dict[tuple[str, int], _Published] = {}

    def remember(self, messages: Iterable[Message]) -> None:
        """What former owners have published."""
        epochs: dict[str, int] = {}
        for subject, body, *_ in messages:
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

    def lose(self, partitions: frozenset[int]) -> None:
        """Publish nothing more of them, neither what is held back."""
        for p in partitions:
            self.owned.pop(p, None)
        self._held = [one for one in self._held if partition_of(one[0].stream) not in partitions]
        for key in [key for key in self._before if partition_of(key[0]) in partitions]:
            del self._before[key]

    def _send(self, chunk: Chunk, dtype: str | None) -> None:
        epoch = self.owned.get(partition_of(chunk.stream))
        if epoch is None:
            self.fenced += 1
            return
        if self.tender is not None and not self.tender.is_sure:
            self._held.append((chunk, dtype))
            if len(self._held) > MOST_HELD:
                self._held.clear()
                self.full()
            return
        if self._held:
            self.send_held()
        if self._before:
            left = self._left(chunk)
            if left is None:
                return
            chunk = left
        super()._send(structs.replace(chunk, epoch=epoch), dtype)

    def hear(self) -> None:
        super().hear()
        self.send_held()

    def full(self) -> None:
        """Nothing may be published behind a message that was not: all is taken up again, from what the server keeps."""
        self.losses = NEVER
        if self.tender is not None:
            self.tender.take_up_again = True

    def send_held(self) -> bool:
        """Publish what is held back, if it is sure now that it is still owned. Whether nothing is held back."""
        if self._held and self.tender is not None and self.tender.is_sure:
            held, self._held = self._held, []
            for one in held:
                self._send(*one)
        return not self._held

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
        source.tender = sink.tender = tender
        self._giving: list[frozenset[int]] = []
        self._saved: dict[str, tuple[float, bool]] = {}  # when the state of a stream was saved last, and whether it had ended
        self._states: dict[str, bytes] = {}  # that are to be stored, by subject
        self._due: list[Stream] = []
        self._sliced_at = 0.0

    def turn(self, times: tuple[float, float, float]) -> None:
        """times: `now`, `listened` and `read_at`, as of `Engine.feed`."""
        while not self.tender.commands.empty():
            command = self.tender.commands.get()
            if isinstance(command, Taken):
                self._take(command, times)
            elif isinstance(command, Lost):
                self._lose(command.partitions)
            else:
                self._source.stop(command.partitions)
                self._giving.append(command.partitions)
        if not self._sink.send_held():
            return  # a state must not be stored before what was published before it
        if self._giving:
            self._give(times)
        if times[2] - self._sliced_at > SLICE_S:
            self._sliced_at = times[2]
            self._save_some(times)
            self._store()

    def tick(self, samples_per_s: float, lag_ms: float | None) -> None:
        """A second is over: what the lease tells of this member."""
        member = self.tender.member
        member.streams = sum(stream.session is not None for stream in self._engine.streams.values())
        member.samples_per_s, member.lag_ms = round(samples_per_s, 1), lag_ms
        for name in [n for n in self._saved if n not in self._engine.streams]:
            del self._saved[name]
        for name in [n for n in self._source.unsaved if n not in self._engine.streams]:  # ended, or refused
            del self._source.unsaved[name]

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
        self._sink.losses = taken.losses
        self._sink.remember(taken.published)
        loaded = []
        for name, state in taken.states.items():
            try:
                self._engine.load(name, state.data, now, listened=listened, read_at=read_at)
            except ValueError as error:
                self._events.tell(Event("fleet", f"{name}: its state cannot be loaded, it begins anew: {error}", name))
            else:
                loaded.append(name)
        self._sink.owned.update(taken.epochs)
        self._source.begin(taken, loaded)
        self.tender.taken(set(taken.feeds.values()))

    def _lose(self, partitions: frozenset[int]) -> None:
        self._source.lose(partitions)
        self._sink.lose(partitions)
        self._giving = [left for giving in self._giving if (left := giving - partitions)]
        self._engine.fill()
        self._sink.release()  # what waits in it belongs to nobody
        for name in [name for name in self._engine.streams if partition_of(name) in partitions]:
            self._engine.discard(name)
            self._forget(name)
        self._states = {s: body for s, body in self._states.items() if int(s.split(".")[3]) not in partitions}

    def _give(self, times: tuple[float, float, float]) -> None:
        """Hand over what nothing is under way of."""
        for partitions in list(self._giving):
            streams = [stream for name, stream in self._engine.streams.items() if partition_of(name) in partitions]
            if any(stream.out for stream in streams):
                continue
            for stream in streams:
                self._save(stream, times)
            if not self._store():
                return
            for stream in streams:
                self._engine.remove(stream.name)
                self._forget(stream.name)
            self._source.lose(partitions)
            self._sink.lose(partitions)
            self._giving.remove(partitions)
            self.tender.given(partitions, self._sink.losses)

    def _forget(self, name: str) -> None:
        self._source.forget(name)
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
                if len(rest) > POSTPONED:
                    break
                continue
            self._save(stream, times)
            share -= 1
        self._due = [*rest, *self._due]

    def _is_due(self, stream: Stream, read_at: float) -> bool:
        saved_at, over = self._saved.get(stream.name, (0.0, False))
        return not (over and stream.is_over) and read_at - saved_at > SAVE_S

    def _save(self, stream: Stream, times: tuple[float, float, float]) -> None:
        name = stream.name
        partition = partition_of(name)
        epoch = self._sink.owned.get(partition)
        if epoch is None:
            return
        now, listened, read_at = times
        data = self._engine.save(name, now, listened=listened, read_at=read_at)
        self._saved[name] = read_at, stream.is_over
        if len(data) > self.tender.most_bytes - HEAD_BYTES:  # a long backlog: the state before stands
            return
        self._source.saved(name, over=stream.is_over)
        state = State(epoch, *self._source.places(name), stream.is_over, data)
        self._states[subject_of_state(self.tender.name, partition, name)] = msgspec.msgpack.encode(state)

    def _store(self) -> bool:
        """Store the states that were saved, behind what was published before. False if some of that is held back: later."""
        if self._states:
            self._engine.fill()
            self._sink.release()
        if not self._sink.send_held():
            return False
        if self._states:
            self.tender.store(self._states, self._sink.losses)
            self._states = {}
        return True
