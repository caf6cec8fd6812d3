"""Another checkpoint without a stop: tried apart, loaded beside the serving one, served from the next window on, and watched
for a minute.

The loop's thread asks and looks (`ask`, `tick`). A thread of its own holds the trial's process and loads the network, as both may
take many seconds.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import msgspec
from msgspec import structs

from ppgstream.assemble import plan_like
from ppgstream.core.denoiser import Denoiser
from ppgstream.core.ledger import Event
from ppgstream.core.plan import Plan
from ppgstream.errors import CheckpointError, PpgStreamError, RefusedError, SourceError
from ppgstream.live.apart import Apart
from ppgstream.live.canary import self_test
from ppgstream.live.events import Events
from ppgstream.live.recent import Recent
from ppgstream.live.round import Pace
from ppgstream.live.snapshot import ReloadStatus
from ppgstream.live.trial import Order, Told
from ppgstream.model.architecture import OWN
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.folder import write_restored
from ppgstream.model.onnx_runtime import checked_graph
from ppgstream.model.restore import restore
from ppgstream.storage import MOST_GRAPH, read_regular
from ppgstream.wire.message import Chunk

TRIAL_S = 300.0  # a trial that takes longer is given up
WATCHED_S = 60.0  # for which a new checkpoint is watched
FEWEST_S, EARLIEST_S = 20, 10.0  # seconds of streams from which it is judged, and seconds after which
LATELY_S, FEWEST_LATELY_S = 20, 100  # the last seconds are judged alone too, where there are so many of streams
HALF = 0.5  # of the confident seconds, below which the one before is served again
POLL_S = 0.2


class Serving(NamedTuple):
    """A checkpoint that can be served. graph: of the family `OWN`, which is nothing but its graph."""

    checkpoint: Checkpoint
    plan: Plan
    denoiser: Denoiser
    graph: bytes | None = None

    def write(self, folder: Path) -> None:
        """Write it anew, where its own files are others by now. Raises CheckpointError."""
        try:
            write_restored(folder, self.checkpoint, **({} if self.graph is None else {"graph": self.graph}))
        except (OSError, CheckpointError) as error:
            raise CheckpointError(
                f"{self.checkpoint.path}: the files of the serving checkpoint were changed, and it cannot be written again for a "
                f"trial: {error}"
            ) from error

    def __str__(self) -> str:
        return f"{self.checkpoint.arch.family} {self.checkpoint.id.hex()} ({self.checkpoint.path})"


def serving_of(checkpoint: Checkpoint, plan: Plan, denoiser: Denoiser) -> Serving:
    """A checkpoint that is served from now on. Raises CheckpointError where its graph cannot be read."""
    graph = read_regular(checked_graph(checkpoint), MOST_GRAPH) if checkpoint.arch.family == OWN else None
    return Serving(checkpoint, plan, denoiser, graph)


class Asked(msgspec.Struct):
    """What a client asks for. do: "serve" a checkpoint, "try" it alone, go "back" to the one before, or end a trial; "shadow" one
    at a share of the streams, or "unshadow". force: serve it though the trial's figures speak against it."""

    do: str
    checkpoint: str = ""
    force: bool = False
    share: float = 0.1


class Passed(NamedTuple):
    """A checkpoint that passed its trial: its sha256, and that of its graph."""

    sha256: str
    graph: str


class _Watch(NamedTuple):
    """A new checkpoint that is watched: since when, and what was counted until then. share: of confident seconds before; None:
    too few to tell."""

    since: float
    seconds: int
    sure: int
    failures: int
    share: float | None


class Reload:
    """See the module. `order` makes a trial's order for a checkpoint beside the serving one, `load` a denoiser of it, `adopt`
    serves it; `failed` tells how many tiles a checkpoint of this id has failed on. notes: for events of other threads."""

    def __init__(
        self,
        serving: Serving,
        order: Callable[[str], Order],
        load: Callable[[Checkpoint], Denoiser],
        adopt: Callable[[Serving], None],
        events: Events,
        pace: Pace,
        recent: Recent,
        failed: Callable[[bytes], int],
        notes: SimpleQueue[Event],
    ) -> None:
        self.serving, self._failed, self.notes = serving, failed, notes
        self._order, self._load, self._adopt, self._events, self._pace, self._recent = order, load, adopt, events, pace, recent
        self._before: Serving | None = None
        self._watch: _Watch | None = None
        self._history: deque[tuple[int, int]] = deque([(0, 0)], maxlen=int(WATCHED_S) + 1)  # `Pace.seconds`, a tick
        self._found: SimpleQueue[tuple[int, Serving]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()  # of a trial
        self._closing = False
        self._status: ReloadStatus | None = None
        self._changed_at = 0.0

    @property
    def status(self) -> ReloadStatus | None:
        """Of the last one that was asked for."""
        if self._status is None:
            return None
        age_s = round(time.monotonic() - self._changed_at, 1)
        return structs.replace(self._status, age_s=age_s, watched=self._watch is not None)

    def ask(self, asked: Asked) -> tuple[int, str]:
        """Do what is asked for. Its number, and why it is refused; else empty."""
        number = 1 + (self._status.number if self._status is not None else 0)
        if self._closing:
            return 0, "the daemon is stopping"
        if asked.do == "back" and self._is_busy:
            return self._end_trial(number)
        if self._is_busy:
            assert self._status is not None
            return 0, f"{self._status.checkpoint} is being tried: one at a time; `reload --back` ends the trial"
        if asked.do == "back":
            if self._before is None:
                return 0, "no checkpoint was served before this one"
            self._say(ReloadStatus(number, "back", str(self._before.checkpoint.path), self._before.checkpoint.id.hex()))
            self._go_back("asked for")
            return number, ""
        if self._watch is not None:
            left_s = self._watch.since + WATCHED_S - time.monotonic()
            return 0, f"{self.serving.checkpoint.path} is watched for another {max(left_s, 0):.0f} s: `reload --back`, or wait"
        self._say(ReloadStatus(number, "trying", asked.checkpoint))
        order = self._order(asked.checkpoint)
        order.force = asked.force
        self._ending.clear()
        job = (number, asked, order, self._recent.messages())
        self._thread = threading.Thread(target=self._work, args=job, name="ppgstream-reload", daemon=True)
        self._thread.start()
        return number, ""

    def tick(self, now: float, unwell: str = "") -> None:
        """A second is over. unwell: why the model does not answer any more, or empty."""
        self._history.append((self._pace.seconds, self._pace.sure_seconds))
        while not self._found.empty():
            number, new = self._found.get()
            if self._status is not None and number == self._status.number:
                self._serve(new, now)
        if (watch := self._watch) is None:
            return
        seconds, sure = self._pace.seconds - watch.seconds, self._pace.sure_seconds - watch.sure
        if self._failures() > watch.failures:
            self._roll_back("an answer is not finite, or the network failed")
        elif unwell:
            self._roll_back(unwell)
        elif (found := self._low(watch, seconds, sure, now)) is not None:
            seconds, sure = found
            self._roll_back(f"of {seconds} seconds {sure / seconds:.0%} are confident, before it {watch.share:.0%} were")
        elif now > watch.since + WATCHED_S:
            self._watch = None

    def _low(self, watch: _Watch, seconds: int, sure: int, now: float) -> tuple[int, int] | None:
        """Seconds, and how many of them are confident, if these are too few: of all since the change, or of the last."""
        if watch.share is None or now <= watch.since + EARLIEST_S:
            return None
        if seconds >= FEWEST_S and sure < HALF * watch.share * seconds:
            return seconds, sure
        if now > watch.since + LATELY_S and len(self._history) > LATELY_S:
            seconds, sure = (b - a for a, b in zip(self._history[-1 - LATELY_S], self._history[-1], strict=True))
            if seconds >= FEWEST_LATELY_S and sure < HALF * watch.share * seconds:
                return seconds, sure
        return None

    def close(self) -> None:
        """The daemon stops: end what is under way."""
        self._closing = True
        self._ending.set()
        if self._thread is not None:
            self._thread.join(5 * POLL_S)

    # ---- on the loop's thread --------------------------------------------------------------------------------------

    @property
    def _is_busy(self) -> bool:
        return (self._thread is not None and self._thread.is_alive()) or not self._found.empty()

    def _failures(self) -> int:
        """Tiles that the serving checkpoint has not answered as it should."""
        return self._failed(self.serving.checkpoint.id)

    def _end_trial(self, number: int) -> tuple[int, str]:
        assert self._status is not None
        tried = self._status.checkpoint
        self._ending.set()
        self._say(ReloadStatus(number, "back", tried, text="is not tried any more, and not served"))
        return number, ""

    def _serve(self, new: Serving, now: float) -> None:
        before, (seconds, sure) = self.serving, self._history[0]
        seconds, sure = self._pace.seconds - seconds, self._pace.sure_seconds - sure
        try:
            self._adopt(new)
        except ValueError as error:
            self._change(state="refused", text=f"{new.checkpoint.path}: {error}")
            return
        self.serving, self._before = new, before
        share = sure / seconds if seconds >= FEWEST_S else None
        self._watch = _Watch(now, self._pace.seconds, self._pace.sure_seconds, self._failures(), share)
        told = "; too little came before it to compare its confidence with" if share is None else ""
        self._change(state="serving", text=f"serves from now on, in place of {before}{told}")
        self._events.tell(Event("reload", f"{new} is served from now on, in place of {before}"))

    def _roll_back(self, why: str) -> None:
        bad = self.serving
        self._go_back(why)
        self._change(state="rolled_back", text=f"{bad.checkpoint.path}: {why}: {self.serving} is served again", code=1)

    def _go_back(self, why: str) -> None:
        assert self._before is not None
        bad, self.serving, self._before, self._watch = self.serving, self._before, None, None
        self._adopt(self.serving)
        self._change(text="is served again")
        self._events.tell(Event("rollback", f"{self.serving} is served again, in place of {bad}: {why}"))

    def _say(self, status: ReloadStatus) -> None:
        self._status, self._changed_at = status, time.monotonic()

    def _change(self, *, of: int = 0, **fields: object) -> None:
        """of: by the thread of a trial, its number: one that was ended says nothing any more."""
        if self._status is not None and of in (0, self._status.number):
            self._say(structs.replace(self._status, **fields))

    # ---- on the thread of a trial ----------------------------------------------------------------------------------

    def _work(self, number: int, asked: Asked, order: Order, messages: list[tuple[float, Chunk]]) -> None:
        code = 1
        try:
            passed = self._try_out(number, order, messages)
            if passed is not None and asked.do == "try":
                self._change(of=number, state="tried", text="passed the trial; it is not served, as asked")
            elif passed is not None:
                self._found.put((number, self._loaded(number, asked.checkpoint, passed)))
            return
        except PpgStreamError as error:
            why, code = str(error), error.exit_code
        except Exception as error:  # whatever a runtime raises: the serving one goes on
            why = f"{type(error).__name__}: {error}"
        why = why if asked.checkpoint in why else f"{asked.checkpoint}: {why}"
        self._change(of=number, state="refused", text=why, code=code)
        if not self._ending.is_set():
            self.notes.put(Event("reload", f"reload: refused: {why}"))

    def _try_out(self, number: int, order: Order, messages: list[tuple[float, Chunk]]) -> Passed | None:
        """What passed; None if it is served already. Raises PpgStreamError."""
        with contextlib.ExitStack() as left:
            for _ in range(2):
                process = Apart(order)
                left.callback(process.close)
                told = self._hear(number, process, messages)
                if not isinstance(told, Told):
                    return told
                folder = Path(left.enter_context(tempfile.TemporaryDirectory(prefix="ppgstream-"))) / "serving"
                self.serving.write(folder)
                order = structs.replace(order, serving=str(folder), serving_id="", serving_graph="")
        raise CheckpointError(f"{self.serving.checkpoint.path}: the serving checkpoint cannot be written for a trial")

    def _hear(self, number: int, process: Apart, messages: list[tuple[float, Chunk]]) -> Passed | Told | None:
        """What a trial has found: what passed; None if it is served already; or what was told where the files of the serving one
        have changed. Raises PpgStreamError for anything else."""
        for read_at, chunk in messages:
            process.send(read_at, chunk)
        process.end()
        until, checks, graph = time.monotonic() + TRIAL_S, [], ""
        while not self._ending.is_set():
            told = process.receive(POLL_S)
            if told is None:
                if death := process.death():
                    raise SourceError(death)
                if time.monotonic() > until:
                    raise SourceError(f"the trial has not ended in {TRIAL_S:.0f} s: the machine is too busy")
                continue
            if told.doing:
                self._change(of=number, text=told.doing)
            if told.id:
                graph, served = told.graph, self.serving.checkpoint
                self._change(of=number, id=told.id)
                if (told.id, graph) == (served.id.hex(), served.graph_sha256):
                    self._change(of=number, state="serving", text="is what is served already")
                    return None
            if told.check is not None:
                checks.append(told.check)
                self._change(of=number, checks=list(checks))
            if told.figures is not None:
                self._change(of=number, live=told.figures)
            if told.refused:
                raise RefusedError(told.refused, told.code)
            if told.changed:
                return told
            if told.sha256:
                return Passed(told.sha256, graph)
        raise SourceError("the trial was ended")

    def _loaded(self, number: int, path: str, passed: Passed) -> Serving:
        """The checkpoint that was tried, in this process. Raises PpgStreamError."""
        self._change(of=number, state="loading", text="loads it beside the serving one")
        found = restore(Path(path))
        if (found.sha256, found.graph_sha256) != passed:
            raise CheckpointError(f"{path}: is not what was tried any more: its files changed meanwhile")
        plan = plan_like(self.serving.plan, found)
        denoiser = self._load(found)
        if fault := self_test(denoiser, plan):
            raise CheckpointError(f"{path}: the self-test failed: {fault}")
        return serving_of(found, plan, denoiser)
