"""The door to all checkpoints: by path, or by the name of one that comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ppgstream.errors import CheckpointError
from ppgstream.model.checkpoint import MANIFEST, SHIPPED, Checkpoint, shipped
from ppgstream.model.course import restore_saver, saver_prefix
from ppgstream.model.folder import restore_folder


def restore(path: Path) -> Checkpoint:
    """Read a checkpoint of either kind, or one of `shipped` by its name where no such path exists. Reads the tensors and checks them; builds no network.

    Raises CheckpointError when there is none, it cannot be read, its tensors are of no known network, or a value is
    NaN or infinite.
    """
    if str(path) in shipped() and not path.exists():
        path = SHIPPED / path
    if (path / MANIFEST).is_file():
        found = restore_folder(path)
    elif path.name == MANIFEST and path.is_file():
        found = restore_folder(path.parent)
    else:
        found = restore_saver(saver_prefix(path))
    for name, tensor in found.tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: tensor {name!r} holds {np.count_nonzero(~np.isfinite(tensor))} values that are not finite"
            )
    return found
