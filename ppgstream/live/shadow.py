"""A shadow: another checkpoint on what some of the streams send, beside the serving one, in a process of its own at the least
priority. Nothing of it is published. When the machine is busy, it is the first that goes without."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import structs

from ppgstream.core.engine import Engine
from ppgstream.core.ledger import Event
from ppgstream.errors import PpgStreamError
from ppgstream.live.apart import MOST_WAITING, Apart
from ppgstream.live.events import Events
from ppgstream.live.reload import Asked
from ppgstream.live.snapshot import Figures, ShadowStatus
from ppgstream.live.trial import Order
from ppgstream.wire.message import Chunk, Kind

BUSY_TILES = 4  # of windows that wait for the serving model: then a shadow gets nothing


class Shadow:
    """See the module. The loop's thread asks, gives (`take`) and looks (`tick`); none of them raises. `names`: of the streams
    that it gets. `order`: makes its order. `write`: writes the serving checkpoint into a folder."""

    def __init__(self, order: Callable[[str], Order], engine: Engine, events: Events, write: Callable[[Path], None]) -> None:
        self._order, self._engine, self._events, self._write = order, engine, events, write
        self._process: Apart | None = None
        self._asked: Asked | None = None
        self._state = self._text = self._id = ""
        self._figures: Figures | None = None
        self._since = 0.0
        self._samples = self._shed = 0
        self._written: tempfile.TemporaryDirectory[str] | None = None  # the serving one, where its own files have changed
        self._writing: threading.Thread | None = None
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
        self._start(self._order(asked.checkpoint))
        return ""

    def served(self, checkpoint_id: str) -> None:
        """Another checkpoint is served: the shadow begins anew beside it, or ends if it is that one."""
        if self._asked is not None:
            self.ask(Asked("unshadow") if self._id == checkpoint_id else self._asked)

    def take(self, chunk: Chunk, read_at: float) -> None:
        """A chunk of one of its streams was read."""
        if self._process is None or self._state != "running":
            return
        busy = len(self._engine.ready) > BUSY_TILES * self._engine.rules.tile
        if (busy and chunk.kind is Kind.DATA) or not self._process.send(read_at, chunk):
            self._shed += len(chunk.samples)
        else:
            self._samples += len(chunk.samples)

    def tick(self) -> None:
        """A second is over."""
        if self._process is None or self._asked is None:
            return
        try:
            self._hear(self._process)
        except (PpgStreamError, OSError) as error:
            self._fail(str(error))
        self._choose()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
        self._process = None
        if self._writing is not None:
            self._writing.join()
        if self._written is not None:
            self._written.cleanup()
        self._writing = self._written = None
        self.names.clear()

    def _start(self, order: Order) -> None:
        order.kind = "shadow"
        try:
            self._process = Apart(order, queue=MOST_WAITING)
        except (PpgStreamError, OSError) as error:
            self._fail(str(error))

    def _hear(self, process: Apart) -> None:
        assert self._asked is not None
        if self._writing is not None:
            if not self._writing.is_alive():
                self._writing = None
                self._start_beside_written()
            return
        while (told := process.receive()) is not None:
            self._figures = told.figures or self._figures
            if told.id:
                self._id = told.id
                if told.id == self._order(self._asked.checkpoint).serving_id:
                    self._fail("it is what is served")
                    return
            if told.doing == "runs":
                self._state = "running"
            if told.changed and self._written is None:
                self._written = tempfile.TemporaryDirectory(prefix="ppgstream-")
                self._writing = threading.Thread(target=self._write_served, args=(Path(self._written.name),), daemon=True)
                self._writing.start()
                return
            if told.refused or told.changed:
                self._fail(told.refused or "the files of the serving checkpoint were changed: there is nothing to compare with")
                return
        if death := process.death():
            self._fail(death)

    def _write_served(self, folder: Path) -> None:
        try:
            self._write(folder / "serving")
        except PpgStreamError as error:
            self._text = str(error)

    def _start_beside_written(self) -> None:
        assert self._asked is not None
        assert self._written is not None
        if self._text:
            self._fail(self._text)
            return
        if self._process is not None:
            self._process.close()
        order = structs.replace(self._order(self._asked.checkpoint), serving_id="", serving_graph="")
        order.serving = str(Path(self._written.name) / "serving")
        self._start(order)

    def _choose(self) -> None:
        """As many streams as the share asks for."""
        if self._asked is None or self._process is None:
            return
        live = [name for name, stream in self._engine.streams.items() if stream.session is not None]
        most = math.ceil(self._asked.share * len(live))
        kept = [name for name in live if name in self.names][:most]
        rest = [name for name in live if name not in self.names][: most - len(kept)]
        self.names = {*kept, *rest}

    def _fail(self, why: str) -> None:
        self.close()
        self._state, self._text = "failed", why
        self._events.tell(Event("shadow", f"the shadow has ended: {why}"))
