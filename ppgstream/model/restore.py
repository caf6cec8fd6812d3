"""The door to all checkpoints: by path, or by the name of one that comes with the package."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ppgstream.core.confidence import calibration_for
from ppgstream.core.rate import FITTED, rules_for
from ppgstream.errors import CheckpointError
from ppgstream.model.checkpoint import CALIBRATIONS, MANIFEST, SHIPPED, Checkpoint, shipped
from ppgstream.model.course import restore_saver, saver_prefix
from ppgstream.model.folder import identity, restore_folder


def restore(path: Path) -> Checkpoint:
    """Read a checkpoint of either kind, or one of `shipped` by its name where no such path exists. Reads the tensors and checks
    them; builds no network.

    Raises CheckpointError when there is none, it cannot be read, its tensors are of no known network, or a value is
    NaN or infinite.
    """
    try:
        if str(path) in shipped() and not path.exists():
            path = SHIPPED / path
        if (path / MANIFEST).is_file():
            found = restore_folder(path)
        elif path.name == MANIFEST and path.is_file():
            found = restore_folder(path.parent)
        else:
            found = restore_saver(saver_prefix(path))
    except (OSError, ValueError) as error:  # a path that is too long, or holds a zero byte
        raise CheckpointError(f"{path}: cannot read the checkpoint: {getattr(error, 'strerror', None) or error}") from error
    for name, tensor in found.tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: tensor {name!r} holds {np.count_nonzero(~np.isfinite(tensor))} values that are not finite"
            )
    try:
        calibration_for(found.calibration, 0, found.arch.window, found.fs)
        rules_for(found.calibration, found.fs)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return found if found.calibration else calibrated(found)


@lru_cache(maxsize=1)
def _calibrations() -> dict[str, Any]:
    return dict(json.loads(CALIBRATIONS.read_bytes()))


def calibrated(found: Checkpoint) -> Checkpoint:
    """A checkpoint that states no calibration, with the one that comes along: for the course's own by their sha256, for any other
    network whose confidence is the agreement of its windows a common one. It is under the id. One that tells its error stays as
    it is."""
    known = _calibrations()
    stated = known["course"].get(found.sha256)
    if stated is None and "log_var" not in found.arch.outputs:
        fitting = {k for k in known["agreement"] if k not in FITTED and int(k) < found.arch.window}
        stated = {k: v for k, v in known["agreement"].items() if fitting and (k in fitting or k in FITTED)}
    if not stated:
        return found
    return replace(found, calibration=stated, sha256=identity(found.sha256, {"calibration": stated}))
