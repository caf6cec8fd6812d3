"""TensorFlow 1 Saver checkpoints, as the scripts of the 2019 course write them.

A prefix, its `.index` file, or the folder; recognised by the names and shapes of its tensors alone. Optimizer slots are passed
over, and no `.meta` graph is read.
"""

from __future__ import annotations

import glob
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ppgstream.errors import CheckpointError
from ppgstream.model import imported
from ppgstream.model.architecture import Architecture, Sizes
from ppgstream.model.checkpoint import DEFAULT_HOP, MANIFEST, Checkpoint, Tensor, shipped
from ppgstream.model.folder import write
from ppgstream.model.tensorflow_runtime import import_tensorflow
from ppgstream.storage import MOST_SAVER, MOST_TEXT, read_regular


def saver_prefix(path: Path) -> Path:
    """The prefix of the Saver checkpoint that `path` means: itself, its `.index` file, or the newest that is in a folder."""
    if path.is_dir():
        folder = path if any(path.glob("*.index")) else path / "checkpoints"
        there = {p.with_suffix("").name: p.with_suffix("") for p in folder.glob("*.index")}
        if not there:
            raise CheckpointError(f"{path}: no checkpoint here: neither {MANIFEST} nor a *.index file")
        latest = folder / "checkpoint"
        lines = read_regular(latest, MOST_TEXT).decode(errors="replace").splitlines() if latest.is_file() else []
        named = [Path(x.split('"')[1]).name for x in lines if x.startswith("model_checkpoint_path:") and x.count('"') == 2]
        # The course's own `checkpoint` file names epochs that were never handed out: what is there counts.
        return there[named[0]] if named and named[0] in there else there[max(there, key=_epoch)]
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(
            f"{path}: no checkpoint here: not a folder with {MANIFEST}, nor the prefix of a *.index file, nor one of "
            f"{', '.join(shipped())}"
        )
    return prefix


def _epoch(name: str) -> tuple[int, str]:
    number = name.rpartition("-")[2]
    return (int(number) if number.isascii() and number.isdigit() and len(number) < 20 else -1, name)


def restore_saver(prefix: Path) -> Checkpoint:
    """A Saver checkpoint, through the cache: TensorFlow reads it once, in a process of its own. Raises CheckpointError."""
    shards = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*-of-*"))
    try:
        hashed, left = hashlib.sha256(), MOST_SAVER
        for shard in shards:
            content = read_regular(shard, left)
            left -= len(content)
            hashed.update(content)
        digest = hashed.hexdigest()
        found = imported.saver(prefix, [prefix.with_name(prefix.name + ".index"), *shards])
    except OSError as error:
        raise CheckpointError(f"{prefix}: cannot read the TensorFlow checkpoint: {error}") from error
    return replace(found, path=prefix, sha256=digest, hop=DEFAULT_HOP, kind="TensorFlow 1 Saver")


def import_saver(prefix: str, folder: str) -> None:
    """`write_saver` in a process of its own: an error is a line on stderr and exit code 1."""
    try:
        write_saver(Path(prefix), Path(folder))
    except CheckpointError as error:
        sys.exit(str(error))


def write_saver(prefix: Path, folder: Path) -> None:
    """Read a Saver checkpoint with TensorFlow and write it as a folder of ours. Raises CheckpointError."""
    arch, tensors = _read(prefix)
    write(folder, tensors, arch)


def _read(prefix: Path) -> tuple[Architecture, dict[str, Tensor]]:
    tf = import_tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes: dict[str, list[int]] = reader.get_variable_to_shape_map()
        wanted = [n for n in shapes if n.endswith(("/kernel", "/bias"))]  # not the optimizer's slots
        raw = {n: np.asarray(reader.get_tensor(n), np.float32) for n in wanted}
    except Exception as error:  # TensorFlow's reader raises IndexError for a file cut short, and others
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{prefix}: cannot read the TensorFlow checkpoint: {reason}") from error
    try:
        return from_saver(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{prefix}: {error}") from None


def from_saver(raw: Mapping[str, Tensor]) -> tuple[Architecture, dict[str, Tensor]]:
    """The network that a Saver checkpoint's tensors belong to, and those tensors under our names.

    raw: kernels and biases by their TF1 names. Recognised by shapes, with the names used only to tell the two directions
    of a bidirectional cell apart. Raises CheckpointError when they fit no family.
    """
    layers = {n.removesuffix("/kernel"): k for n, k in raw.items() if n.endswith("/kernel") and k.ndim == 2}
    missing = [n for n in layers if f"{n}/bias" not in raw or raw[f"{n}/bias"].shape != layers[n].shape[1:]]
    if missing or not layers:
        raise CheckpointError(
            f"not a network of the course: layer {missing[0]!r} has no fitting bias" if missing else "no kernels in it"
        )
    cells = {n: k for n, k in layers.items() if k.shape[1] == 4 * (k.shape[0] - 1)}
    dense = {n: k for n, k in layers.items() if n not in cells}
    described = ", ".join(f"{n} {k.shape}" for n, k in layers.items())
    unknown = CheckpointError(f"tensors of no network of the course: {described}")

    if cells:
        backward = [n for n in cells if "/bw/" in n or n.startswith("bw/")]
        forward = [n for n in cells if n not in backward]
        units = next(iter(cells.values())).shape[1] // 4
        if len(dense) != 1 or len(forward) != 1 or len(backward) > 1 or any(k.shape[1] != 4 * units for k in cells.values()):
            raise unknown
        (out, kernel) = next(iter(dense.items()))
        if kernel.shape[0] != units * len(cells):
            raise unknown
        family, window, sizes = ("brae" if backward else "rae"), kernel.shape[1], Sizes(units=units)
        tensors = _lstm(cells[forward[0]], raw[f"{forward[0]}/bias"], "forward")
        if backward:
            tensors |= _lstm(cells[backward[0]], raw[f"{backward[0]}/bias"], "backward")
        return Architecture(family, window, 0, sizes), tensors | _dense(kernel, raw[f"{out}/bias"], "output")

    # A chain of dense layers from window back to window, followed by shape: window -> h1 -> ... -> window.
    chain = _dense_chain(dense)
    if chain is None or len(chain) not in (2, 4):
        raise unknown
    window = dense[chain[0]].shape[0]
    hidden = [dense[n].shape[1] for n in chain[:-1]]
    tensors = {}
    for number, name in enumerate(chain[:-1], start=1):
        tensors |= _dense(dense[name], raw[f"{name}/bias"], f"hidden{number}")
    tensors |= _dense(dense[chain[-1]], raw[f"{chain[-1]}/bias"], "output")
    if len(hidden) == 1:
        return Architecture("ae", window, 0, {"hidden": tuple(hidden)}), tensors
    return Architecture("ae3", window, 0, {"hidden": tuple(hidden)}), tensors


def _dense_chain(kernels: Mapping[str, Tensor]) -> list[str] | None:
    """Layer names in the one order in which widths match and the last output is as wide as the first input."""
    from itertools import pairwise, permutations

    if len(kernels) > 5:
        return None
    for order in permutations(kernels):
        if all(kernels[a].shape[1] == kernels[b].shape[0] for a, b in pairwise(order)):
            first, last = kernels[order[0]], kernels[order[-1]]
            if first.shape[0] == last.shape[1] == max(max(k.shape) for k in kernels.values()):
                return list(order)
    return None


def _dense(kernel: Tensor, bias: Tensor, name: str) -> dict[str, Tensor]:
    return {f"{name}/kernel": kernel, f"{name}/bias": bias}


def _lstm(kernel: Tensor, bias: Tensor, name: str) -> dict[str, Tensor]:
    """A TF1 LSTMCell's tensors as Keras wants them.

    TF1: one kernel over [input, hidden], gates i, j, f, o, and 1 is added to the forget gate when it runs. Keras: two kernels,
    gates i, f, c (TF1's j), o, and the 1 belongs into the bias.
    """
    i, j, f, o = np.split(np.vstack([kernel, bias]), 4, axis=1)
    f = f.copy()
    f[-1] += 1.0
    gates = np.concatenate([i, f, j, o], axis=1)
    cell = f"{name}/lstm_cell"
    return {f"{cell}/kernel": gates[:1], f"{cell}/recurrent_kernel": gates[1:-1], f"{cell}/bias": gates[-1]}
