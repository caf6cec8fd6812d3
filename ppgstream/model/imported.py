"""Checkpoints that have no graph, or are TensorFlow's, as folders of ours in the user's cache: imported once, and run without
TensorFlow from then on."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from ppgstream.errors import CheckpointError
from ppgstream.model.architecture import OWN
from ppgstream.model.checkpoint import GRAPH, Checkpoint
from ppgstream.model.folder import restore_folder, write
from ppgstream.model.onnx_runtime import checked_graph
from ppgstream.storage import MOST_GRAPH, MOST_SAVER, read_regular

LAYOUT = "1"  # of what is kept; another one is imported anew
IMPORT_S = 300.0
Say = Callable[[str], None]


def cache_folder() -> Path:
    return user_cache_path("ppgstream", appauthor=False) / "checkpoints"


def say_on_stderr(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"ppgstream: {text}", file=sys.stderr, flush=True)


def with_graph(checkpoint: Checkpoint, say: Say = say_on_stderr) -> Checkpoint:
    """The checkpoint with a graph: its own, or one in the cache. Raises CheckpointError where none can be written."""
    if checkpoint.graph is not None:
        return checkpoint
    if checkpoint.arch.family == "lmmse":
        raise CheckpointError(f"{checkpoint.path}: a linear estimate has no graph")
    digest = hashlib.sha256(repr(checkpoint.arch.to_json()).encode())
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode() + checkpoint.tensors[name].tobytes())
    found = kept(digest.hexdigest(), lambda folder: write(folder, checkpoint.tensors, checkpoint.arch), say)
    if found.graph is None:
        raise CheckpointError(f"{checkpoint.path}: has no graph, and none can be written: pip install onnx")
    return replace(checkpoint, graph=found.graph, graph_sha256=found.graph_sha256)


def standalone(checkpoint: Checkpoint, say: Say = say_on_stderr) -> bytes:
    """The network as an ONNX file that holds its weights. A graph that is missing or damaged is written anew from the tensors,
    and `say` is told. Raises CheckpointError as `with_graph` does, and where there is no valid graph in the end."""
    if checkpoint.arch.family == OWN:
        return read_regular(checked_graph(checkpoint), MOST_GRAPH)
    whole = with_graph(checkpoint, say)
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError(f"the network cannot be exported: {error}; pip install onnx") from error
    with tempfile.TemporaryDirectory(prefix="ppgstream-") as folder:
        try:
            try:
                graph = checked_graph(whole)
            except CheckpointError as error:
                write(Path(folder), checkpoint.tensors, checkpoint.arch)
                graph = Path(folder) / GRAPH
                say(f"{error}; exported is a graph that is written anew from the tensors")
            model = onnx.load(graph)
            onnx.checker.check_model(model)
        except Exception as error:  # the classes of onnx and protobuf share no base
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{checkpoint.path}: {GRAPH} cannot be exported: {reason}") from error
    return bytes(model.SerializeToString(deterministic=True))


def saver(prefix: Path, files: Sequence[Path], say: Say = say_on_stderr) -> Checkpoint:
    """A TensorFlow 1 Saver checkpoint that consists of `files`, as a folder of ours. A process of its own reads it, unless
    TensorFlow is in this one already, so that it does not stay here.

    Raises CheckpointError with the reason why it cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.removeprefix(prefix.name).encode() + read_regular(file, MOST_SAVER))
    return kept(digest.hexdigest(), lambda folder: _import_apart(prefix, folder), say)


def kept(key: str, make: Callable[[Path], None], say: Say = say_on_stderr) -> Checkpoint:
    """What is in the cache under `key`, made first if it is not there or not whole. Where the cache cannot be written it is made
    for this process alone, and `say` is told once."""
    folder = cache_folder() / f"{LAYOUT}-{key[:32]}"
    try:
        found = restore_folder(folder)
        if _has_its_graph(found):
            return found
        # Only the graph is damaged: the tensors need no second import.
        make = partial(write, tensors=found.tensors, arch=found.arch)
    except CheckpointError:
        pass  # not there, or damaged
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            made = Path(beside) / "made"
            make(made)
            _replace(made, folder)
    except OSError as error:
        if not _for_this_process:
            say(
                f"{folder.parent}: cannot keep the imported checkpoint there: {error.strerror}; this process runs it, and the "
                f"next start imports it again"
            )
        own = tempfile.TemporaryDirectory(prefix="ppgstream-")
        _for_this_process.append(own)
        folder = Path(own.name) / "made"
        make(folder)
    return restore_folder(folder)


def _has_its_graph(found: Checkpoint) -> bool:
    if found.graph is None:  # it was made without the package onnx
        return find_spec("onnx") is None
    try:
        checked_graph(found)
    except CheckpointError:
        return False
    return True


_for_this_process: list[tempfile.TemporaryDirectory[str]] = []


def _replace(made: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for file in sorted(made.iterdir(), key=lambda file: file.suffix == ".json"):  # the manifest last
        file.replace(folder / file.name)


def _import_apart(prefix: Path, folder: Path) -> None:
    if "tensorflow" in sys.modules:
        from ppgstream.model.course import write_saver

        write_saver(prefix, folder)
        return
    script = "import sys; from ppgstream.model.course import import_saver; import_saver(sys.argv[1], sys.argv[2])"
    asked = [sys.executable, "-P", "-c", script, str(prefix), str(folder)]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=IMPORT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"{prefix}: TensorFlow has not read it in {IMPORT_S:g} s") from error
    if done.returncode:
        raise CheckpointError((done.stderr.strip().splitlines() or [f"{prefix}: cannot be imported"])[-1])
