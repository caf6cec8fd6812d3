"""Our checkpoint format: a folder of `checkpoint.json` (readable), `weights.safetensors` and `model.onnx`, the graph. Writing and
reading.

The manifest holds network, fs, hop, scaling, provenance, figures and id.
Only tensors are read: nothing in a checkpoint can run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppgstream.errors import CheckpointError
from ppgstream.model.architecture import OWN, Architecture, Sizes, check, tensors_of
from ppgstream.model.checkpoint import DEFAULT_HOP, DEFAULT_TILE, GRAPH, MANIFEST, WEIGHTS, Checkpoint, Tensor
from ppgstream.model.graph import graph_of
from ppgstream.model.onnx_runtime import checked_graph
from ppgstream.model.tensorflow_runtime import array_of, names_of
from ppgstream.storage import MOST_GRAPH, MOST_TEXT, json_of, read_regular, replace_files, shown

if TYPE_CHECKING:
    import keras

FORMAT = 2
MOST_HEADER = 1_000_000  # bytes of a weights file beside its numbers


def save(folder: Path, model: keras.Model, arch: Architecture, **stated: Any) -> None:
    """Write a network's weights as a checkpoint folder. stated: as `write` takes it."""
    trainable = [w for w in model.weights if w.trainable]
    write(folder, {name: array_of(w) for name, w in zip(names_of(model), trainable, strict=True)}, arch, **stated)


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
    tile: int = DEFAULT_TILE,
    graph: bytes | None = None,
) -> None:
    """Write tensors by name as a checkpoint folder of format 2. The files are replaced whole, the manifest last. The graph is
    left out of a linear estimate, and where the package onnx is missing. graph: of the family `OWN`, which has no tensors."""
    from safetensors.numpy import save as to_bytes

    own = arch.family == OWN
    blob = to_bytes(dict(tensors)) if not own else graph or b""
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
        "sha256": identity(weights, decides),
        "weights_sha256": weights,
        **decides,
        "tile": tile,
        "parameters": arch.size("parameters") if own else sum(t.size for t in tensors.values()),
        "provenance": dict(provenance or {}),
        "figures": dict(figures or {}),
    }
    if not own:
        graph = graph_of(arch, blob) if arch.family != "lmmse" and find_spec("onnx") is not None else None
    if graph is not None:
        manifest["graph_sha256"] = hashlib.sha256(graph).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    files = ({} if own else {WEIGHTS: blob}) | ({} if graph is None else {GRAPH: graph})
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    replace_files({folder / name: content for name, content in files.items()})


def write_restored(folder: Path, found: Checkpoint, **stated: Any) -> None:
    """Write a restored checkpoint as a folder of format 2. stated: what is to be another than the checkpoint's own, as `write`
    takes it."""
    own = {key: getattr(found, key) for key in ("fs", "hop", "lookahead", "calibration", "provenance", "figures", "tile")}
    if found.arch.family == OWN and "graph" not in stated:
        own["graph"] = read_regular(checked_graph(found), MOST_GRAPH)
    write(folder, found.tensors, found.arch, **(own | stated))


DECIDES = ("network", "fs", "hop", "lookahead", "scaling", "calibration")


def identity(weights_sha256: str, decides: Mapping[str, Any]) -> str:
    """The sha256 of a checkpoint: over the sha256 of its weights and the canonical JSON (keys sorted, no spaces) of all else that
    decides the output. A key that is absent counts as absent, so that later keys leave earlier checkpoints' ids as they are."""
    canonical = json.dumps(dict(decides), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{weights_sha256} {canonical}".encode()).hexdigest()


def _scaling(arch: Architecture) -> dict[str, str]:
    return {"input": arch.scaling, "answer": arch.answers}


def hop_of(arch: Architecture) -> int:
    """The hop for a new checkpoint: one that has no factor in common with the network's patch, or the patches' seams would lie on
    each other."""
    patch = arch.size("patch") if "patch" in arch.sizes else 1
    return next(hop for hop in range(min(DEFAULT_HOP, arch.window), 0, -1) if math.gcd(hop, patch) == 1)


def restore_folder(folder: Path) -> Checkpoint:
    """Read a checkpoint folder. Raises CheckpointError for any that `write` cannot have made: names and shapes of its tensors are
    compared with what the network needs before they are read."""
    manifest_path = folder / MANIFEST
    try:
        manifest = json_of(read_regular(manifest_path, MOST_TEXT))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest_path}: cannot read the checkpoint: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{manifest_path}: not a ppgstream checkpoint of format {FORMAT}")
    try:
        plan = manifest["network"]
        arch = Architecture(
            family=str(plan["family"]),
            window=int(plan["window"]),
            context=int(plan["context"]),
            sizes=_sizes(plan["sizes"]),
            hidden_activation=str(plan.get("hidden_activation", "")),
            output_activation=str(plan.get("output_activation", "linear")),
            outputs=tuple(plan.get("outputs", ())),
            stated_scaling=str(plan.get("stated_scaling", "")),
            stated_answers=str(plan.get("stated_answers", "")),
        )
        fs, tile, sha256 = float(manifest["fs"]), int(manifest["tile"]), str(manifest["sha256"])
        hop = int(manifest.get("hop", min(DEFAULT_HOP, arch.window)))
        lookahead = int(manifest["lookahead"]) if "lookahead" in manifest else None
        calibration = dict(manifest.get("calibration", {}))
        provenance, figures = dict(manifest.get("provenance", {})), dict(manifest.get("figures", {}))
        stated = str(manifest["weights_sha256"])
        decides = {key: manifest[key] for key in DECIDES if key in manifest}
        if manifest["scaling"] != _scaling(arch):
            raise CheckpointError(f"{manifest_path}: scaling {manifest['scaling']!r} is not known for {arch.family!r}")
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise CheckpointError(f"{manifest_path}: missing or bad field: {error}") from error
    try:
        check(arch)
    except CheckpointError as error:
        raise CheckpointError(f"{manifest_path}: {error}") from None
    if not 20 <= fs <= 1000:
        raise CheckpointError(f"{manifest_path}: fs must be 20 to 1000 Hz, got {fs}")
    if not 0 < tile <= 4096:
        raise CheckpointError(f"{manifest_path}: tile must be 1 to 4096 windows, got {tile}")
    if arch.window > 0 and not 0 < hop <= arch.window:
        raise CheckpointError(f"{manifest_path}: hop must be 1 to {arch.window} samples, got {hop}")
    weights_path = folder / (GRAPH if arch.family == OWN else WEIGHTS)
    if lookahead is not None and not 0 <= lookahead < arch.window:
        raise CheckpointError(f"{manifest_path}: lookahead must be 0 to {arch.window - 1} samples, got {lookahead}")
    own = arch.family == OWN
    needed = tensors_of(arch)
    try:
        most = MOST_GRAPH if own else MOST_HEADER + sum(4 * math.prod(shape) for shape in needed.values())
        blob = read_regular(weights_path, most)
    except OSError as error:
        raise CheckpointError(f"{weights_path}: cannot read the weights of {arch.family!r}: {error.strerror}") from error
    weights = hashlib.sha256(blob).hexdigest()
    if stated != weights:
        raise CheckpointError(
            f"{weights_path}: its sha256 is not the one that {MANIFEST} states: the file was changed or cut short"
        )
    if identity(weights, decides) != sha256:
        raise CheckpointError(
            f"{manifest_path}: its sha256 does not fit its content: {', '.join(decides)} or the weights were changed"
        )
    tensors = {} if own else _tensors(blob, needed, f"{weights_path}: tensors do not match a {arch.family!r} network")
    graph_sha256 = weights if own else str(manifest.get("graph_sha256", ""))
    graph = folder / GRAPH if graph_sha256 else None
    stated_facts = (calibration, "ppgstream", provenance, figures)
    return Checkpoint(folder, arch, tensors, sha256, fs, tile, hop, lookahead, *stated_facts, graph, graph_sha256)


def _tensors(blob: bytes, needed: Mapping[str, tuple[int, ...]], told: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which must be `needed`, all of type F32. Raises CheckpointError that begins with
    `told`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    size = int.from_bytes(blob[:8], "little")
    if not 0 < size <= min(MOST_HEADER - 8, len(blob) - 8):
        raise CheckpointError(f"{told}: the header of {size} bytes does not fit the file")
    try:
        header = json_of(blob[8 : 8 + size])
        there = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{told}: the header cannot be read: {error}") from error
    if odd := sorted(set(there) ^ set(needed)):
        raise CheckpointError(f"{told}, starting with {shown(odd[0])}")
    for name, shape in needed.items():
        if there[name] != ("F32", shape):
            dtype, found = there[name]
            raise CheckpointError(f"{told}: {name!r} is {shown(dtype)} of shape {shown(found)}, and must be 'F32' of {shape}")
    try:
        tensors: dict[str, Tensor] = load(blob)
    except SafetensorError as error:
        raise CheckpointError(f"{told}: {error}") from error
    return tensors


def _sizes(stated: Mapping[str, Any]) -> Sizes:
    """Sizes of a manifest."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in stated.items()}
