"""Checkpoints: weights, and what rebuilds their network. `save` and `restore`.

Two kinds are restored, told apart by what is on disk:

- ours, a folder of `checkpoint.json` (readable: network, fs, hop, scaling, provenance, figures, id) and
  `weights.safetensors` (tensors by name). Format 2 is written; format 1, whose id covers the weights alone, is still read;
- a TensorFlow 1 Saver checkpoint as the course's scripts write it (a prefix, its `.index` file, or the folder), recognised
  by the names and shapes of its tensors alone; the optimizer's slots are passed over.

Only tensors are read: no pickle, no `load_model`, no SavedModel, no `.meta` graph. Nothing in a checkpoint can run.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ppgstream import lmmse
from ppgstream.denoiser import Answer, Batch, Denoiser
from ppgstream.errors import CheckpointError
from ppgstream.models import Architecture, Sizes, build

if TYPE_CHECKING:
    import keras

Tensor = NDArray[np.float32]
FORMAT = 2
SHIPPED = Path(__file__).parent / "checkpoints"  # checkpoints that come with the package, found by their folder's name
BUNDLED = SHIPPED / "default"
MANIFEST, WEIGHTS = "checkpoint.json", "weights.safetensors"
DEFAULT_HOP = 50  # samples from one window to the next, of a checkpoint that does not say
DEFAULT_TILE = 64  # windows computed at once; see docs/decisions.md


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A restored checkpoint: the network's plan, its tensors by name, and where they came from.

    `fs` is the sampling rate the network was trained for, Hz; `hop` and `lookahead` (None: all that help) are in samples and meant
    for the daemon, whose settings may override them. `sha256` covers everything that decides the output (`_identity`), and its
    first 8 bytes travel in the header of everything that was denoised with it. `calibration` is kept as it was found.
    """

    path: Path
    arch: Architecture
    tensors: Mapping[str, Tensor]
    sha256: str
    fs: float = 125.0
    tile: int = DEFAULT_TILE
    hop: int = DEFAULT_HOP
    lookahead: int | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "ppgstream"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> bytes:
        return bytes.fromhex(self.sha256[:16])

    @property
    def parameters(self) -> int:
        return sum(t.size for t in self.tensors.values())


def names_of(model: keras.Model) -> list[str]:
    """The names our format gives a network's weights, in Keras' order: `layer/variable`."""
    names = [str(w.path).removeprefix(f"{model.name}/") for w in model.weights if w.trainable]
    if len(set(names)) != len(names):
        raise CheckpointError(f"network {model.name!r} has weights of the same name")
    return names


def save(
    folder: Path,
    model: keras.Model,
    arch: Architecture,
    *,
    fs: float = 125.0,
    hop: int | None = None,
    lookahead: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Write a network's weights as a checkpoint folder: `write` says how."""
    trainable = [w for w in model.weights if w.trainable]
    tensors = {name: array_of(w) for name, w in zip(names_of(model), trainable, strict=True)}
    write(
        folder,
        tensors,
        arch,
        fs=fs,
        hop=hop,
        lookahead=lookahead,
        calibration=calibration,
        provenance=provenance,
        figures=figures,
    )


def write(
    folder: Path,
    tensors: Mapping[str, Tensor],
    arch: Architecture,
    *,
    fs: float = 125.0,
    hop: int | None = None,
    lookahead: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> None:
    """Write tensors by name as a checkpoint folder of format 2. The files are replaced whole, the manifest last."""
    from safetensors.numpy import save as to_bytes

    blob = to_bytes(dict(tensors))
    decides = {
        "network": arch.to_json(),
        "fs": fs,
        "hop": hop or hop_of(arch),
        "lookahead": lookahead,
        "scaling": _scaling(arch),
        "calibration": dict(calibration or {}) or None,
    }
    decides = {key: value for key, value in decides.items() if value is not None}
    weights = hashlib.sha256(blob).hexdigest()
    manifest = {
        "format": FORMAT,
        "sha256": _identity(weights, decides),
        "weights_sha256": weights,
        **decides,
        "tile": DEFAULT_TILE,
        "parameters": sum(t.size for t in tensors.values()),
        "provenance": dict(provenance or {}),
        "figures": dict(figures or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_files({folder / WEIGHTS: blob, folder / MANIFEST: (json.dumps(manifest, indent=2) + "\n").encode()})


DECIDES = ("network", "fs", "hop", "lookahead", "scaling", "calibration")


def _identity(weights_sha256: str, decides: Mapping[str, Any]) -> str:
    """The sha256 of a checkpoint: over the sha256 of its weights and the canonical JSON (keys sorted, no spaces) of all else that
    decides the output. A key that is absent counts as absent, so that later keys leave earlier checkpoints' ids as they are."""
    canonical = json.dumps(dict(decides), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{weights_sha256} {canonical}".encode()).hexdigest()


def _scaling(arch: Architecture) -> dict[str, str]:
    return {"input": arch.scaling, "answer": arch.answers}


def array_of(variable: Any) -> Tensor:
    """A Keras variable's value, whichever backend holds it."""
    from keras import ops

    return np.array(ops.convert_to_numpy(variable), np.float32)


def hop_of(arch: Architecture) -> int:
    """The hop for a new checkpoint: one that has no factor in common with the network's patch, or the patches' seams would lie on each other."""
    patch = arch.size("patch") if "patch" in arch.sizes else 1
    return next(hop for hop in range(min(DEFAULT_HOP, arch.window), 0, -1) if math.gcd(hop, patch) == 1)


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files whole, and all of them or none: each is written beside its place first, so that a full disk leaves the old ones."""
    temporary = {path: path.with_name(path.name + ".tmp") for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
    except OSError:
        for name in temporary.values():
            name.unlink(missing_ok=True)
        raise
    for path, name in temporary.items():
        name.replace(path)


def shipped() -> list[str]:
    """The names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))


def restore(path: Path) -> Checkpoint:
    """Read a checkpoint of either kind, or one of `shipped` by its name where no such path exists. Reads the tensors and checks them; builds no network.

    Raises CheckpointError when there is none, it cannot be read, its tensors are of no known network, or a value is
    NaN or infinite.
    """
    if str(path) in shipped() and not path.exists():
        path = SHIPPED / path
    if (path / MANIFEST).is_file():
        found = _restore_ours(path)
    elif path.name == MANIFEST and path.is_file():
        found = _restore_ours(path.parent)
    else:
        found = _restore_saver(_saver_prefix(path))
    for name, tensor in found.tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: tensor {name!r} holds {np.count_nonzero(~np.isfinite(tensor))} values that are not finite"
            )
    return found


def _restore_ours(folder: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    manifest_path, weights_path = folder / MANIFEST, folder / WEIGHTS
    try:
        manifest = json.loads(manifest_path.read_bytes())
        blob = weights_path.read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: cannot read the checkpoint: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in (1, FORMAT):
        raise CheckpointError(f"{manifest_path}: not a ppgstream checkpoint of format 1 or {FORMAT}")
    weights = hashlib.sha256(blob).hexdigest()
    try:
        plan = manifest if manifest["format"] == 1 else manifest["network"]
        arch = Architecture(
            family=str(plan["family"]),
            window=int(plan["window"]),
            context=int(plan["context"]),
            sizes=_sizes(plan["sizes"]),
            hidden_activation=str(plan.get("hidden_activation", "")),
            output_activation=str(plan.get("output_activation", "linear")),
            outputs=tuple(plan.get("outputs", ())),
        )
        fs, tile, sha256 = float(manifest["fs"]), int(manifest["tile"]), str(manifest["sha256"])
        hop = int(manifest.get("hop", min(DEFAULT_HOP, arch.window)))
        lookahead = int(manifest["lookahead"]) if "lookahead" in manifest else None
        calibration = dict(manifest.get("calibration", {}))
        provenance, figures = dict(manifest.get("provenance", {})), dict(manifest.get("figures", {}))
        if manifest["format"] == 1:
            stated, expected = sha256, weights
        else:
            stated, expected = str(manifest["weights_sha256"]), weights
            decides = {key: manifest[key] for key in DECIDES if key in manifest}
            if manifest["scaling"] != _scaling(arch):
                raise CheckpointError(f"{manifest_path}: scaling {manifest['scaling']!r} is not known for {arch.family!r}")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{manifest_path}: missing or bad field: {error}") from error
    if not 20 <= fs <= 1000:
        raise CheckpointError(f"{manifest_path}: fs must be 20 to 1000 Hz, got {fs}")
    if not 0 < tile <= 4096:
        raise CheckpointError(f"{manifest_path}: tile must be 1 to 4096 windows, got {tile}")
    if arch.window > 0 and not 0 < hop <= arch.window:
        raise CheckpointError(f"{manifest_path}: hop must be 1 to {arch.window} samples, got {hop}")
    if lookahead is not None and not 0 <= lookahead < arch.window:
        raise CheckpointError(f"{manifest_path}: lookahead must be 0 to {arch.window - 1} samples, got {lookahead}")
    if stated != expected:
        raise CheckpointError(
            f"{weights_path}: its sha256 is not the one that {MANIFEST} states: the file was changed or cut short"
        )
    if manifest["format"] != 1 and _identity(weights, decides) != sha256:
        raise CheckpointError(
            f"{manifest_path}: its sha256 does not fit its content: {', '.join(decides)} or the weights were changed"
        )
    try:
        tensors = load(blob)
    except SafetensorError as error:
        raise CheckpointError(f"{weights_path}: cannot read the tensors: {error}") from error
    return Checkpoint(folder, arch, tensors, sha256, fs, tile, hop, lookahead, calibration, "ppgstream", provenance, figures)


def _sizes(stated: Mapping[str, Any]) -> Sizes:
    """Sizes of a manifest. Format 1 named three hidden layers hidden1, hidden2 and hidden3."""
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
    layers = [sizes.pop(name) for name in ("hidden1", "hidden2", "hidden3") if name in sizes]
    return sizes | {"hidden": tuple(layers)} if layers else sizes


def _saver_prefix(path: Path) -> Path:
    """The prefix of the Saver checkpoint that `path` means: itself, its `.index` file, or the newest that is in a folder."""
    if path.is_dir():
        folder = path if any(path.glob("*.index")) else path / "checkpoints"
        there = {p.with_suffix("").name: p.with_suffix("") for p in folder.glob("*.index")}
        if not there:
            raise CheckpointError(f"{path}: no checkpoint here: neither {MANIFEST} nor a *.index file")
        latest = folder / "checkpoint"
        lines = latest.read_text(errors="replace").splitlines() if latest.is_file() else []
        named = [Path(x.split('"')[1]).name for x in lines if x.startswith("model_checkpoint_path:") and x.count('"') == 2]
        # The course's own `checkpoint` file names epochs that were never handed out: what is there counts.
        return there[named[0]] if named and named[0] in there else there[max(there, key=_epoch)]
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise CheckpointError(
            f"{path}: no checkpoint here: not a folder with {MANIFEST}, nor the prefix of a *.index file, nor one of {', '.join(shipped())}"
        )
    return prefix


def _epoch(name: str) -> tuple[int, str]:
    number = name.rpartition("-")[2]
    return (int(number) if number.isdigit() else -1, name)


def _restore_saver(prefix: Path) -> Checkpoint:
    tf = import_tensorflow()
    shards = sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.data-*-of-*"))
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes: dict[str, list[int]] = reader.get_variable_to_shape_map()
        wanted = [n for n in shapes if n.endswith(("/kernel", "/bias"))]  # not the optimizer's slots
        raw = {n: np.asarray(reader.get_tensor(n), np.float32) for n in wanted}
        digest = hashlib.sha256(b"".join(s.read_bytes() for s in shards)).hexdigest()
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{prefix}: cannot read the TensorFlow checkpoint: {reason}") from error
    try:
        arch, tensors = from_saver(raw)
    except CheckpointError as error:
        raise CheckpointError(f"{prefix}: {error}") from None
    return Checkpoint(prefix, arch, tensors, digest, kind="TensorFlow 1 Saver")


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

    TF1: one kernel over [input, hidden], gates i, j, f, o, and 1 is added to the forget gate when it runs. Keras: two kernels, gates i, f, c
    (TF1's j), o, and the 1 belongs into the bias.
    """
    i, j, f, o = np.split(np.vstack([kernel, bias]), 4, axis=1)
    f = f.copy()
    f[-1] += 1.0
    gates = np.concatenate([i, f, j, o], axis=1)
    cell = f"{name}/lstm_cell"
    return {f"{cell}/kernel": gates[:1], f"{cell}/recurrent_kernel": gates[1:-1], f"{cell}/bias": gates[-1]}


def network(checkpoint: Checkpoint) -> keras.Model:
    """The Keras network of a checkpoint with its weights in. Raises CheckpointError unless names and shapes match exactly."""
    import_keras()
    model = build(checkpoint.arch)
    load_into(model, checkpoint)
    return model


def load_into(model: keras.Model, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a network. Raises CheckpointError, and changes nothing, unless names and shapes match exactly."""
    names = names_of(model)
    if set(names) != set(checkpoint.tensors):
        odd = sorted(set(names) ^ set(checkpoint.tensors))
        raise CheckpointError(
            f"{checkpoint.path}: tensors do not match a {checkpoint.arch.family!r} network, starting with {odd[0]!r}"
        )
    trainable = [w for w in model.weights if w.trainable]
    for name, weight in zip(names, trainable, strict=True):
        tensor = checkpoint.tensors[name]
        if tuple(weight.shape) != tensor.shape:
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name!r} has shape {tensor.shape}, the network needs {tuple(weight.shape)}"
            )
    for name, weight in zip(names, trainable, strict=True):
        weight.assign(checkpoint.tensors[name])


def denoiser(checkpoint: Checkpoint, *, threads: int = 1) -> Denoiser:
    """The `Denoiser` that runs a checkpoint, warmed up: in TensorFlow, or in NumPy for `lmmse`.

    Every call computes whole tiles of `checkpoint.tile` windows, the last one padded: the shape never changes, so a
    window's answer is the same bit for bit whatever else is in the batch. `threads` of TensorFlow's computation; it counts once a process.
    """
    arch, tile = checkpoint.arch, checkpoint.tile
    length = arch.context + arch.window
    compute = _lmmse(checkpoint) if arch.family == "lmmse" else _in_tensorflow(checkpoint, threads)

    def run(batch: Batch) -> Answer:
        n = len(batch.x)
        y = np.empty((n, arch.window * len(arch.outputs)), np.float32)
        for start in range(0, n, tile):
            stop = min(start + tile, n)
            x = np.full((tile, length), 0.5, np.float32)
            valid = np.ones((tile, length), np.bool_)
            x[: stop - start] = batch.x[start:stop]
            valid[: stop - start] = batch.valid[start:stop]
            y[start:stop] = compute(x, valid)[: stop - start]
        return Answer(y[:, : arch.window], y[:, arch.window :] if "log_var" in arch.outputs else None)

    run(Batch(np.full((1, length), 0.5, np.float32), np.ones((1, length), np.bool_)))
    return run


# A whole tile: x (tile, context + window) and what was measured of it, to all outputs side by side (tile, outputs * window).
Compute = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]


def _in_tensorflow(checkpoint: Checkpoint, threads: int) -> Compute:
    tf = import_tensorflow()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass  # TensorFlow has run already in this process and keeps the threads it has
    model = network(checkpoint)
    takes_mask = len(model.inputs) == 2
    spec = tf.TensorSpec((checkpoint.tile, checkpoint.arch.context + checkpoint.arch.window), tf.float32)

    def answer(x: Any, valid: Any) -> Any:
        return model([x, valid] if takes_mask else x, training=False)

    compiled = tf.function(answer, input_signature=[spec, spec])

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = compiled(tf.constant(x), tf.constant(valid.astype(np.float32))).numpy()
        return y

    return compute


def _lmmse(checkpoint: Checkpoint) -> Compute:
    arch = checkpoint.arch
    needed = {"mean": (arch.window,), "components": (arch.window, arch.size("rank"))}
    found = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if found != needed:
        raise CheckpointError(f"{checkpoint.path}: an LMMSE of {arch.window} samples has the tensors {needed}, got {found}")
    estimate = lmmse.denoiser(checkpoint.tensors)

    def compute(x: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
        answer = estimate(Batch(x, valid))
        assert answer.log_var is not None
        return np.concatenate([answer.y, answer.log_var], axis=1)

    return compute


def import_tensorflow() -> Any:
    """TensorFlow, imported without the banners that it prints to stderr even when told to be quiet."""
    if sys.modules.get("tensorflow") is None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        sys.stderr.flush()
        real = os.dup(2)
        with tempfile.TemporaryFile() as banners:
            os.dup2(banners.fileno(), 2)
            try:
                import tensorflow  # noqa: F401 (taken from sys.modules below)
            except ImportError as error:
                raise CheckpointError(f"TensorFlow cannot be imported, and a checkpoint needs it: {error}") from error
            finally:
                os.dup2(real, 2)
                os.close(real)
    return sys.modules["tensorflow"]


def import_keras() -> Any:
    """Keras, on the backend that KERAS_BACKEND names: tensorflow (the default), torch or jax. Raises CheckpointError where it is missing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Keras may import TensorFlow on its other backends too
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow":
        import_tensorflow()
    try:
        import keras
    except ImportError as error:
        raise CheckpointError(f"Keras cannot be imported on the backend KERAS_BACKEND={backend}: {error}") from error
    return keras
