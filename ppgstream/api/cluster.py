"""Many recordings on a Ray cluster, or on the cores of this machine by Ray: the pool that `folder.run` takes with `--engine ray`.

Each recording is a task on one core. A task whose worker was ended is tried once more, by `folder.denoise_all`: Ray's own retries
have no end where a recording needs more memory than there is.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import structs

from ppgstream import __version__
from ppgstream.api.folder import Done, Task, made_by, named, work
from ppgstream.api.summary import Row
from ppgstream.errors import OutputError, SourceError, UsageError
from ppgstream.files import remote
from ppgstream.model.checkpoint import Checkpoint

STORE_BYTES = 200_000_000  # of Ray's object store on this machine: only paths and lines of the summary go through it
CONNECT_S = 5.0
A_CORE = 2  # tasks: so that one waits for the core that is ready first


def anywhere(task: Task) -> Task:
    """A task for a worker that is started in another folder, maybe: with absolute paths."""
    chosen = task.settings.model.checkpoint
    if chosen and Path(chosen).exists():
        model = structs.replace(task.settings.model, checkpoint=_absolute(chosen))
        task = task._replace(settings=structs.replace(task.settings, model=model))
    own = task.input if task.input.url else task.input._replace(path=Path(_absolute(str(task.input.path))))
    return task._replace(input=own, folder=_absolute(task.folder))


def _absolute(where: str) -> str:
    return where if remote.is_url(where) else str(Path(where).absolute())


def _check(address: str) -> None:
    """Raises SourceError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, there, port = address.rpartition("://")[2].rpartition(":")
    if not there or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise SourceError(f"--address {address}: no Ray cluster: {error} (ray start --head)") from None


class Cluster:
    """A pool of `folder`. address: of a cluster, "auto" for the one that this machine belongs to; empty: this machine alone, with
    `jobs` cores, or all. Raises UsageError without Ray, SourceError where there is no such cluster."""

    fate = False

    def __init__(self, checkpoint: Checkpoint, *, address: str = "", jobs: int = 0) -> None:
        # Nothing is sent to anybody, and a session of Ray that is left over is not joined by accident.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise UsageError(f"--engine ray: needs Ray: pip install ray, or ppgstream[ray] ({error})") from error
        _check(address)
        own = {} if address else {"num_cpus": jobs or None, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        try:
            self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", configure_logging=False, **own)
        except Exception as error:  # of many kinds
            text = str(error).strip().split("\n")[0]
            raise SourceError(f"--address {address or 'local'}: no Ray cluster: {text} (ray start --head)") from None
        self._jobs, self._checkpoint, self._at_address = jobs, checkpoint, bool(address)
        self._remote = self._ray.remote(num_cpus=1, max_retries=0)(work)
        self._tasks: dict[Any, Task] = {}

    @property
    def at_once(self) -> int:
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        return self._jobs if self._jobs and self._at_address else A_CORE * cores

    def submit(self, task: Task, known: Row | None) -> Any:
        handle = self._remote.remote(anywhere(task), known)
        self._tasks[handle] = task
        return handle

    def finished(self, waiting: Iterable[Any]) -> list[tuple[Any, Done | None]]:
        handles = list(waiting)
        first, rest = self._ray.wait(handles, num_returns=1)
        more = self._ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else []
        return [(handle, self._answer(handle)) for handle in (*first, *more)]

    def _answer(self, handle: Any) -> Done | None:
        errors, task = self._ray.exceptions, self._tasks.pop(handle)
        try:
            done = named(self._ray.get(handle), task.input.where)
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError, errors.ObjectLostError):
            return None
        except errors.RayError as error:
            why = str(error).strip().split("\n")[-1]
            raise OutputError(f"a worker of the cluster fails: {why}: is ppgstream {__version__} installed there?") from None
        for path, where in ((_absolute(task.folder), task.folder), (_absolute(str(task.input.path)), str(task.input.path))):
            done.row.error = done.row.error.replace(path, where)
        if done.row.made_by not in ("", made_by(task.settings, task.reading, self._checkpoint)):
            why = f"a worker of the cluster has another checkpoint, or another version of ppgstream than {__version__}"
            raise OutputError(f"{task.input.where}: {why}")
        return done

    def close(self, *, whole: bool) -> None:
        self._ray.shutdown()
