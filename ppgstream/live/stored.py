"""What a NATS server keeps: reading the streams of its JetStream, on the connection's thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ppgstream.live.nats import Message

if TYPE_CHECKING:  # asyncio takes a while to import
    from ppgstream.live.link import Link

ANSWER_S = 5.0  # for an answer of JetStream
BATCH = 1000  # messages that are asked for at once
EXPIRES_S = 30.0  # after which a question for messages is asked again
HEARTBEAT_S = 1.0  # the server's, while it has none
SILENCE_S = 3.5  # without messages and heartbeats, after which the reading begins anew
LOOK_S = 0.1
MOST_WAITING = 8 * 1024 * 1024  # bytes that wait in the link, before no more is asked for
INACTIVE_S = 30.0  # after which the server forgets a reader that is gone
END = 0  # a place after all that is kept


class Feed:
    """Messages of a stream from `start` on, and those that come, in order and each once: over lost connections, and over a server
    that is started again. They are given to `link`, as of `number`.

    start: a place in the stream, from 1 on, or `END`. takes: whether a subject's messages are wanted.
    """

    def __init__(
        self,
        link: Link,
        stream: str,
        subjects: Sequence[str],
        start: int,
        *,
        number: int = 0,
        takes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.link, self.stream, self.subjects, self.number, self.takes = link, stream, list(subjects), number, takes
        self.reached = max(start - 1, 0)  # the place of the last message that came
        self._from_end = start == END
        self._js = link.client.jetstream(timeout=ANSWER_S)
        self._consumer = ""
        self._came_to = 0  # messages of this consumer
        self._left = 0  # of those asked for
        self._heard_at = 0.0
        self._losses = -1
        self._subscription: Any = None
        self._task: Any = None

    async def begin(self) -> None:
        """Start to read; where the server does not answer now, once it does."""
        self._inbox = self.link.client.new_inbox()
        self._subscription = await self.link.client.subscribe(self._inbox, cb=self._came)
        with contextlib.suppress(Exception):
            await self._open()
        self._task = asyncio.get_running_loop().create_task(self._tend())

    async def end(self) -> None:
        """Read no more. Nothing comes after this was called."""
        self.takes = lambda _: False
        if self._task is not None:
            self._task.cancel()
        if self._subscription is not None and self.link.client.is_connected:
            await self._subscription.unsubscribe()
            with contextlib.suppress(Exception):  # else the server forgets it after a while
                await self._js.delete_consumer(self.stream, self._consumer)

    async def _open(self) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        losses, self._losses = self.link.losses, -1
        state = (await self._js.stream_info(self.stream)).state
        if self._from_end:
            self._from_end, self.reached = False, state.last_seq
        if self.reached > state.last_seq:  # it was made anew
            self.reached = 0
        self._consumer, self._came_to = f"f{secrets.token_hex(6)}", 0
        await self._js.add_consumer(
            self.stream,
            ConsumerConfig(
                name=self._consumer, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.reached + 1,
                filter_subjects=self.subjects, ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=INACTIVE_S,
            ),
        )  # fmt: skip
        await self._ask()
        self._losses = losses

    async def _ask(self) -> None:
        asked = {"batch": BATCH, "expires": int(EXPIRES_S * 1e9), "idle_heartbeat": int(HEARTBEAT_S * 1e9)}
        self._left, self._heard_at = BATCH, time.monotonic()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self._consumer}"
        await self.link.client.publish(subject, json.dumps(asked).encode(), reply=self._inbox)

    async def _came(self, message: Any) -> None:
        self._heard_at = time.monotonic()
        if not message.reply:  # the server tells something
            status = (message.headers or {}).get("Status", "")
            if status == "408":  # the question has expired
                await self._ask()
            elif status != "100":  # 100: a heartbeat. Else the server has forgotten the reader
                self._losses = -1
            return
        consumer, place, number = _place_of(message.reply)
        if consumer != self._consumer:
            return
        if number != self._came_to + 1:
            self._losses = -1  # some were lost on the way: to be read again
            return
        self._came_to, self.reached = number, place
        self._left -= 1
        if self.takes(message.subject):
            self.link.keep(Message(message.subject, message.data, place, self.number))
        if not self._left and self.link.waiting_bytes < MOST_WAITING:
            await self._ask()

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if not self.link.client.is_connected:
                continue
            try:
                if self._losses != self.link.losses or time.monotonic() - self._heard_at > SILENCE_S:
                    await self._open()
                elif not self._left:
                    if self.link.waiting_bytes < MOST_WAITING:
                        await self._ask()
                    else:
                        self._heard_at = time.monotonic()
            except Exception:  # the server is away, or not ready yet: tried again
                self._losses = -1


def _place_of(reply: str) -> tuple[str, int, int]:
    """The consumer, the message's place in its stream, and its number for the consumer, as the server tells them in the subject
    for an acknowledgement (https://docs.nats.io/reference/reference-protocols/nats_api_reference)."""
    parts = reply.split(".")
    at = 3 if len(parts) == 9 else 5  # newer servers put a domain and an account before the stream
    return parts[at], int(parts[at + 2]), int(parts[at + 3])


async def kept(link: Link, stream: str, subjects: Sequence[str], start: int | None) -> list[Message]:
    """What a stream has now, from the place `start` on; None: of each subject the last. Raises what the client raises."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

    js = link.client.jetstream(timeout=ANSWER_S)
    policy = DeliverPolicy.LAST_PER_SUBJECT if start is None else DeliverPolicy.BY_START_SEQUENCE
    info = await js.add_consumer(
        stream,
        ConsumerConfig(
            name=f"r{secrets.token_hex(6)}", deliver_policy=policy, opt_start_seq=start, filter_subjects=list(subjects),
            ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=INACTIVE_S,
        ),
    )  # fmt: skip
    found: list[Message] = []
    subscription = await js.pull_subscribe_bind(consumer=info.name, stream=stream)
    left = info.num_pending or 0
    try:
        while left > 0:
            try:
                came = await subscription.fetch(min(left, BATCH), timeout=ANSWER_S)
            except TimeoutError:
                # The oldest may have been left out meanwhile; else the server is too slow, and not all of it is here.
                if (await js.consumer_info(stream, info.name)).num_pending:
                    raise
                break
            found += [Message(m.subject, m.data, _place_of(m.reply)[1]) for m in came]
            left -= len(came)
    finally:
        with contextlib.suppress(Exception):  # else the server forgets it after a while
            await subscription.unsubscribe()
            await js.delete_consumer(stream, info.name)
    return found


def told(error: Exception) -> str:
    """What JetStream answers, without the words of the client's own."""
    from nats.js.errors import APIError, NoStreamResponseError, ServiceUnavailableError

    if isinstance(error, (ServiceUnavailableError, NoStreamResponseError)) or type(error).__name__ == "NoRespondersError":
        return "the server has no JetStream (nats-server -js)"
    if isinstance(error, APIError) and error.description:
        return str(error.description)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


async def stream_of_subject(link: Link, subject: str) -> str:
    """The stream that keeps what is published on a subject. Raises LookupError if there is none."""
    js = link.client.jetstream(timeout=ANSWER_S)
    try:
        return str(await js.find_stream_name_by_subject(subject))
    except Exception as error:  # no JetStream, none that is allowed, or no such stream
        text = "no stream keeps it" if type(error).__name__ == "NotFoundError" else told(error)
        raise LookupError(f"{subject}: {text}") from error
