"""A shadow: another checkpoint on what some of the streams send, beside the serving one, in a process of its own at the least
priority. Nothing of it is published. When the machine is busy, it is the first that goes without."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.errors import SourceError
from ppgstream.live.apart import MOST_WAITING, Apart
from ppgstream.live.events import Events
from ppgstream.live.reload import Asked
from ppgstream.live.snapshot import Figures, ShadowStatus
from ppgstream.live.trial import Order
from ppgstream.wire.message import Chunk, Kind

BUSY_TILES = 4  # of windows that wait for the serving model: then a shadow gets nothing


class Shadow:
    """See the module. The loop's thread asks, gives (`take`) and looks (`tick`). `names`: of the streams that it gets."""

    def __init__(self, order: Callable[[str], Order], engine: Engine, events: Events) -> None:
        self._order, self._engine, self._events = order, engine, events
        self._process: Apart | None = None
        self._asked: Asked | None = None
        self._state = self._text = self._id = ""
        self._figures: Figures | None = None
        self._since = 0.0
        self._samples = self._shed = 0
        self.names: set[str] = set()

    @property
    def status(self) -> ShadowStatus | None:
        if self._asked is None:
            return None
        age_s = round(time.monotonic() - self._since, 1)
        return ShadowStatus(
            self._state, self._asked.checkpoint, self._asked.share, self._id, self._text, len(self.names), age_s, self._samples,
            self._shed, self._figures,
        )  # fmt: skip

    def ask(self, asked: Asked) -> str:
        """Begin, in place of the one that runs; or end. Why that is refused; else empty."""
        if asked.do == "unshadow":
            if self._asked is None:
                return "there is no shadow"
            self.close()
            self._asked = None
            return ""
        if not 0 < asked.share <= 1:
            return f"a share of {asked.share:g} of the streams: must be above 0, and 1 at most"
        self.close()
        self._asked, self._since, self._samples, self._shed, self._figures = asked, time.monotonic(), 0, 0, None
        self._state, self._text, self._id = "starting", "", ""
        order = self._order(asked.checkpoint)
        order.kind = "shadow"
        try:
            self._process = Apart(order, queue=MOST_WAITING)
        except SourceError as error:
            self._fail(str(error))
        return ""

    def served(self, checkpoint_id: str) -> None:
        """Another checkpoint is served: the shadow begins anew beside it, or ends if it is that one."""
        if self._asked is not None:
            self.ask(Asked("unshadow") if self._id == checkpoint_id else self._asked)

    def take(self, chunk: Chunk, read_at: float) -> None:
        """A chunk of one of its streams was read."""
        if self._process is None or self._state != "running":
            return
        n = len(chunk.samples)
        busy = len(self._engine.ready) > BUSY_TILES * self._engine.rules.tile
        if (busy and chunk.kind is Kind.DATA) or not self._process.send(read_at, chunk):
            self._shed += n
        else:
            self._samples += n

    def tick(self) -> None:
        """A second is over."""
        if self._process is None or self._asked is None:
            return
        while (told := self._process.receive()) is not None:
            self._id = told.id or self._id
            self._figures = told.figures or self._figures
            if told.doing == "runs":
                self._state = "running"
            if told.refused or told.changed:
                self._fail(told.refused or "the files of the serving checkpoint were changed: there is nothing to compare with")
                return
        if death := self._process.death():
            self._fail(death)
            return
        streams = self._engine.streams
        self.names = {name for name in self.names if name in streams and streams[name].session is not None}
        live = [name for name, stream in streams.items() if stream.session is not None]
        for name in live:
            if len(self.names) >= math.ceil(self._asked.share * len(live)):
                break
            self.names.add(name)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
        self._process = None
        self.names.clear()

    def _fail(self, why: str) -> None:
        self.close()
        self._state, self._text = "failed", why
        self._events.tell(Event("shadow", f"the shadow has ended: {why}"))
