"""Networks without TensorFlow: the ONNX graph beside the weights, the cache, and what happens where one of them is wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ppgstream.cli.app import app
from ppgstream.core.denoiser import Batch
from ppgstream.errors import CheckpointError
from ppgstream.model import folder, imported, networks, onnx_runtime, runtime
from ppgstream.model.architecture import DEFAULT_SIZES, Architecture
from ppgstream.model.checkpoint import GRAPH, MANIFEST, WEIGHTS, Checkpoint, shipped
from ppgstream.model.networks import build
from ppgstream.model.restore import restore
from ppgstream.model.tensorflow_runtime import import_keras

TINY = {
    "ae": {"hidden": (7,)},
    "ae3": {"hidden": (9, 4, 9)},
    "dae": {"hidden": (5,)},
    "rae": {"units": 6},
    "brae": {"units": 6},
    "brdae": {"patch": 25, "units": 6},
    "transformer": {"patch": 25, "width": 20, "depth": 2, "heads": 4},
}


def made(family: str, at: Path, *, context: int = 0, seed: int = 1, bands: int = 1, **more: str) -> Checkpoint:
    """A checkpoint with random weights, biases among them."""
    import_keras().utils.set_random_seed(seed)
    arch = Architecture(family, 250, context, TINY[family] | ({"bands": bands} if bands > 1 else {}), **more)
    model = build(arch)
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.3, w.shape).astype(np.float32) for w in model.get_weights()])
    folder.save(at, model, arch)
    return restore(at)


def windows(checkpoint: Checkpoint, n: int, seed: int = 3) -> Batch:
    rng = np.random.default_rng(seed)
    shape = (n, checkpoint.arch.context + checkpoint.arch.window)
    x = rng.standard_normal(shape) if checkpoint.arch.scaling == "standard" else rng.uniform(0, 1, shape)
    valid = rng.uniform(0, 1, shape) > 0.2
    valid[0, :60] = False  # whole patches of nothing
    x[-1, 5] = 80.0 if checkpoint.arch.scaling == "standard" else 1.0
    return Batch(x.astype(np.float32), valid)


def answers(checkpoint: Checkpoint, batch: Batch, asked: runtime.Runtime) -> np.ndarray:
    answer = runtime.denoiser(checkpoint, runtime=asked)(batch)
    return np.concatenate([answer.y] + ([] if answer.log_var is None else [answer.log_var]), axis=1)


def test_every_network_is_tried() -> None:
    assert set(TINY) == set(DEFAULT_SIZES) - {"lmmse"}


@pytest.mark.parametrize("family", [*TINY, "transformer with context", "transformer with bands", "rae with relu", "ae with elu"])
def test_onnx_runtime_and_tensorflow_agree(family: str, tmp_path: Path) -> None:
    name, _, variant = family.partition(" with ")
    more = {} if variant in ("", "context", "bands") else {"hidden_activation": variant}
    checkpoint = made(name, tmp_path, context=50 if variant == "context" else 0, bands=3 if variant == "bands" else 1, **more)
    batch = windows(checkpoint, checkpoint.tile + 5)
    with_onnx, with_tensorflow = answers(checkpoint, batch, "onnx"), answers(checkpoint, batch, "tensorflow")
    assert np.ptp(with_tensorflow) > 0.1
    np.testing.assert_allclose(with_onnx, with_tensorflow, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["default", "fast", "live", "brae"])
def test_a_window_s_answer_is_the_same_bit_for_bit_wherever_it_lies(name: str) -> None:
    checkpoint = restore(Path(name))
    assert checkpoint.graph is not None
    batch = windows(checkpoint, checkpoint.tile)
    denoise = runtime.denoiser(checkpoint, runtime="onnx")
    whole = denoise(batch)
    order = np.random.default_rng(0).permutation(checkpoint.tile)
    shuffled = denoise(Batch(batch.x[order], batch.valid[order]))
    np.testing.assert_array_equal(shuffled.y, whole.y[order])
    for n in (1, 3, 4, 9, 16, 40):  # in smaller tiles
        some = denoise(Batch(batch.x[7 : 7 + n], batch.valid[7 : 7 + n]))
        np.testing.assert_array_equal(some.y, whole.y[7 : 7 + n])
    if whole.log_var is not None:
        assert shuffled.log_var is not None
        np.testing.assert_array_equal(shuffled.log_var, whole.log_var[order])


@pytest.mark.parametrize(
    ("unlike", "tile", "kept"),
    [((), 64, (1, 4, 16, 64)), ((4,), 64, (1, 16, 64)), ((1, 4, 16), 64, (64,)), ((), 8, (1, 4, 8)), ((), 1, (1,))],
)
def test_a_smaller_tile_is_taken_only_where_it_answers_with_the_same_bits(
    unlike: tuple[int, ...], tile: int, kept: tuple[int, ...]
) -> None:
    def compute(x: np.ndarray, valid: np.ndarray) -> np.ndarray:
        return np.where(valid, x, 0) + np.float32(1e-7 * (len(x) in unlike))

    assert runtime.tiles_of(compute, tile, 250) == kept


def test_bands_add_up_to_what_was_measured_and_hold_pulse_hum_and_breathing() -> None:
    import_keras()
    t = np.arange(250) / 125
    parts = [np.sin(2 * np.pi * 1.3 * t), 3 * np.sin(2 * np.pi * 50 * t), 5 * np.sin(2 * np.pi * 0.2 * t)]
    valid = np.ones((1, 250), np.float32)
    x = np.sum(parts, axis=0, keepdims=True).astype(np.float32)
    pulse, hum, breathing = (np.asarray(band)[0] for band in networks._bands(x * valid, valid))
    np.testing.assert_allclose(pulse + hum + breathing, x[0], atol=1e-5)
    inside = slice(10, -10)
    assert np.corrcoef(hum[inside], parts[1][inside])[0, 1] > 0.999
    assert np.corrcoef(breathing, parts[2])[0, 1] > 0.99
    assert np.corrcoef(pulse[inside], parts[0][inside])[0, 1] > 0.95
    valid[:, 100:140] = 0.0
    assert all((np.asarray(band)[0, 100:140] == 0).all() for band in networks._bands(x * valid, valid))


def test_the_graph_holds_no_weights(tmp_path: Path) -> None:
    made("transformer", tmp_path)
    small, large = tmp_path / GRAPH, made("dae", tmp_path / "dae")
    assert small.stat().st_size < 40_000
    assert large.graph is not None
    assert large.graph.stat().st_size < 2_000


# ---- what may be wrong ---------------------------------------------------------------------------------------------


def refused(checkpoint: Checkpoint, match: str) -> None:
    """Asked for by name it is an error; else TensorFlow runs the checkpoint, and the reason is told."""
    batch, told = windows(checkpoint, 3), list[str]()
    with pytest.raises(CheckpointError, match=match):
        runtime.denoiser(checkpoint, runtime="onnx")
    y = runtime.denoiser(checkpoint, say=told.append)(batch).y
    assert len(told) == 1
    assert told[0].endswith("; TensorFlow runs it instead")
    np.testing.assert_array_equal(y, runtime.denoiser(checkpoint, runtime="tensorflow")(batch).y)


def test_a_graph_that_is_not_the_checkpoint_s_is_not_run(tmp_path: Path) -> None:
    one, other = made("brae", tmp_path / "one"), made("dae", tmp_path / "other")
    assert one.graph is not None
    assert other.graph is not None
    shutil.copy(other.graph, one.graph)
    refused(one, "not the graph of this checkpoint")
    one.graph.unlink()
    refused(one, "cannot read the graph: No such file")


def test_a_graph_that_onnx_runtime_cannot_load_is_told(tmp_path: Path) -> None:
    checkpoint = made("brae", tmp_path)
    assert checkpoint.graph is not None
    checkpoint.graph.write_bytes(b"no graph")
    damaged = replace(checkpoint, graph_sha256=onnx_runtime.sha256_of(checkpoint.graph))
    refused(damaged, "ONNX Runtime cannot load the graph")


def with_other_graph(checkpoint: Checkpoint, change: Callable[[Any], None]) -> Checkpoint:
    """The checkpoint with its graph changed, and the sha256 of the changed one."""
    import onnx

    assert checkpoint.graph is not None
    graph = onnx.load(checkpoint.graph, load_external_data=False)
    change(graph.graph)
    checkpoint.graph.write_bytes(graph.SerializeToString())
    return replace(checkpoint, graph_sha256=onnx_runtime.sha256_of(checkpoint.graph))


@pytest.mark.parametrize("family", ["brae", "transformer"])
def test_a_graph_with_other_inputs_is_told(family: str, tmp_path: Path) -> None:
    def rename(graph: Any) -> None:
        graph.input[0].name = "signal"
        for node in graph.node:
            node.input[:] = ["signal" if name == "x" else name for name in node.input]

    named = "the inputs x, valid, this one has signal, valid" if family == "transformer" else "the inputs x, this one has signal"
    refused(with_other_graph(made(family, tmp_path), rename), named)


def test_a_graph_whose_output_has_another_shape_is_told(tmp_path: Path) -> None:
    from onnx import helper

    def one_value_a_window(graph: Any) -> None:
        graph.node[-1].output[0] = "all"
        graph.node.append(helper.make_node("ReduceMean", ["all"], ["y"], keepdims=1, noop_with_empty_axes=0))
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1

    refused(with_other_graph(made("dae", tmp_path / "one"), one_value_a_window), r"must be \(64, 250\), got \(1, 1\)")

    def first_value_alone(graph: Any) -> None:
        from onnx import numpy_helper

        graph.node[-1].output[0] = "all"
        graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
        graph.node.append(helper.make_node("Gather", ["all", "first"], ["y"], axis=1))
        graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1

    refused(with_other_graph(made("dae", tmp_path / "first"), first_value_alone), r"must be \(64, 250\), got \(64, 1\)")


def test_a_graph_that_fails_when_it_runs_is_told(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    def reshape(graph: Any) -> None:
        graph.node[-1].output[0] = "all"
        graph.initializer.append(numpy_helper.from_array(np.array([7, 11]), "shape"))
        graph.node.append(helper.make_node("Reshape", ["all", "shape"], ["y"]))
        for dim in graph.output[0].type.tensor_type.shape.dim:
            dim.Clear()

    refused(with_other_graph(made("dae", tmp_path), reshape), "ONNX Runtime cannot run the graph")


def test_where_neither_runtime_is_there_both_reasons_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = made("brae", tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(CheckpointError) as caught:
        runtime.denoiser(checkpoint)
    assert "ONNX Runtime cannot be imported" in str(caught.value)
    assert "nor can TensorFlow run the checkpoint: TensorFlow cannot be imported" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_onnx_runtime_tensorflow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(made("brae", tmp_path), "ONNX Runtime cannot be imported")


# ---- the cache -----------------------------------------------------------------------------------------------------


def without_graph(at: Path) -> Checkpoint:
    """A checkpoint as they were written before graphs were."""
    made("brae", at)
    manifest = json.loads((at / MANIFEST).read_text())
    del manifest["graph_sha256"]
    (at / MANIFEST).write_text(json.dumps(manifest))
    (at / GRAPH).unlink()
    return restore(at)


def test_a_checkpoint_without_a_graph_gets_one_in_the_cache_and_a_damaged_one_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = without_graph(tmp_path / "old")
    assert old.graph is None
    batch = windows(old, 3)
    first = runtime.denoiser(old, runtime="onnx")(batch).y
    kept = imported.with_graph(old)
    assert kept.graph is not None
    assert kept.graph.is_relative_to(tmp_path / "cache" / "ppgstream")
    assert (kept.path, kept.sha256) == (old.path, old.sha256)
    (kept.graph.parent / WEIGHTS).write_bytes(b"cut short")
    np.testing.assert_array_equal(runtime.denoiser(old, runtime="onnx")(batch).y, first)
    assert not list(tmp_path.glob("cache/ppgstream/checkpoints/tmp*")), "nothing half made stays behind"


@pytest.mark.parametrize("damage", ["flipped", "missing", "never written"])
def test_a_damaged_graph_in_the_cache_is_made_anew_from_the_tensors_there(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = made("dae", tmp_path / "source")
    imports = []

    def make(at: Path) -> None:
        imports.append(at)
        folder.write(at, source.tensors, source.arch)

    first = imported.kept("key", make)
    assert first.graph is not None
    good = first.graph.read_bytes()
    if damage == "flipped":
        first.graph.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    elif damage == "missing":
        first.graph.unlink()
    else:  # the package onnx was not there yet
        manifest = json.loads((first.path / MANIFEST).read_text())
        del manifest["graph_sha256"]
        (first.path / MANIFEST).write_text(json.dumps(manifest))
    again = imported.kept("key", make)
    assert again.graph == first.graph
    assert again.graph.read_bytes() == good
    assert len(imports) == 1, "the tensors are whole: nothing is imported a second time"
    runtime.denoiser(again, runtime="onnx")


def test_that_nothing_can_be_kept_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(imported, "_for_this_process", [])
    old, told = without_graph(tmp_path / "old"), list[str]()
    runtime.denoiser(old, runtime="onnx", say=told.append)
    runtime.denoiser(old, runtime="onnx", say=told.append)
    (line,) = told
    assert line.startswith(f"{imported.cache_folder()}: cannot keep the imported checkpoint there: Not a directory")
    assert line.endswith("the next start imports it again")
    imported._for_this_process.clear()
    imported.with_graph(old)
    assert capfd.readouterr().err == f"ppgstream: {line}\n", "on stderr where nobody else is told"


def test_where_nothing_can_be_kept_the_graph_is_made_for_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    old = without_graph(tmp_path / "old")
    assert np.isfinite(runtime.denoiser(old, runtime="onnx")(windows(old, 3)).y).all()


def test_import_writes_a_folder_that_runs_without_tensorflow_and_export_a_file_that_holds_all(tmp_path: Path) -> None:
    source = made("brae", tmp_path / "source")
    runner = CliRunner()
    done = runner.invoke(app, ["checkpoint", "import", str(source.path), "-o", str(tmp_path / "mine")])
    assert done.exit_code == 0, done.output
    again = runner.invoke(app, ["checkpoint", "import", str(source.path), "-o", str(tmp_path / "mine")])
    assert again.exit_code == 2
    assert "holds a checkpoint already" in again.stderr
    mine = restore(tmp_path / "mine")
    assert mine.graph is not None
    done = runner.invoke(app, ["checkpoint", "export", str(mine.path), "-o", str(tmp_path / "alone.onnx")])
    assert done.exit_code == 0, done.output
    batch = windows(source, 4)
    session = onnx_runtime.import_onnxruntime().InferenceSession(str(tmp_path / "alone.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": batch.x})[0], runtime.denoiser(source)(batch).y, rtol=1e-5, atol=1e-6)
    done = runner.invoke(app, ["checkpoint", "export", "lmmse", "-o", str(tmp_path / "none.onnx")])
    assert done.exit_code == 78
    assert "a linear estimate has no graph" in done.stderr


@pytest.mark.parametrize("damage", ["flipped", "empty", "missing", "another's"])
def test_export_writes_a_damaged_graph_anew(damage: str, tmp_path: Path) -> None:
    source = made("brae", tmp_path / "source")
    runner, out = CliRunner(), tmp_path / "alone.onnx"
    done = runner.invoke(app, ["checkpoint", "export", str(source.path), "-o", str(out)])
    assert done.exit_code == 0, done.output
    good = out.read_bytes()
    out.unlink()
    assert source.graph is not None
    content = bytearray(source.graph.read_bytes())
    content[len(content) // 2] ^= 1
    other = made("dae", tmp_path / "other").graph
    assert other is not None
    source.graph.write_bytes({"flipped": content, "another's": other.read_bytes()}.get(damage, b""))
    if damage == "missing":
        source.graph.unlink()
    done = runner.invoke(app, ["checkpoint", "export", str(source.path), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_bytes() == good
    assert f"{source.graph}: " in done.stderr
    assert "exported is a graph that is written anew from the tensors" in done.stderr


@pytest.mark.parametrize("content", [b"", b"no graph", b"another's"])
def test_export_refuses_a_graph_that_is_none(content: bytes, tmp_path: Path) -> None:
    source = made("brae", tmp_path / "source")
    assert source.graph is not None
    if content == b"another's":
        other = made("transformer", tmp_path / "other").graph
        assert other is not None
        content = other.read_bytes()
    source.graph.write_bytes(content)
    manifest = json.loads((source.path / MANIFEST).read_text())
    manifest["graph_sha256"] = onnx_runtime.sha256_of(source.graph)
    (source.path / MANIFEST).write_text(json.dumps(manifest))
    done = CliRunner().invoke(app, ["checkpoint", "export", str(source.path), "-o", str(tmp_path / "alone.onnx")])
    assert done.exit_code == 78, done.output
    assert f"{source.path}: {GRAPH} cannot be exported: " in " ".join(done.stderr.split())
    assert not (tmp_path / "alone.onnx").exists()


def test_denoise_never_imports_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(f"{np.sin(k / 18):.4f}" for k in range(600)))
    script = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = sys.modules['onnx'] = None\n"
        "from ppgstream.cli.app import app\n"
        "app(['denoise', 'in.txt', '--fs', '125', '-o', 'out.npy'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "TensorFlow" not in done.stderr
    assert np.load(tmp_path / "out.npy").shape == (600,)


def test_onnx_runtime_sends_nothing_home_and_leaves_no_identifier(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("\n".join(f"{np.sin(k / 18):.4f}" for k in range(600)))
    suppressing = (
        "CI",
        "GITHUB_ACTIONS",
        "TF_BUILD",
        "ORT_DISABLE_TELEMETRY",
        "ORT_TELEMETRY_DISABLED",
        "ORT_RUNNING_UNIT_TESTS",
    )
    clean = {key: value for key, value in os.environ.items() if key not in suppressing}
    environment = clean | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    asked = [sys.executable, "-m", "ppgstream", "denoise", "in.txt", "--fs", "125", "-o", "out.npy"]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or "Microsoft" in path.name]


def test_a_tensorflow_checkpoint_needs_tensorflow_once(tmp_path: Path) -> None:
    (tmp_path / "net-1.index").write_bytes(b"")
    script = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from ppgstream.model.course import import_saver\n"
        "import_saver('net-1', 'out')\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("TensorFlow cannot be imported, and a checkpoint needs it")


def test_the_shipped_checkpoints_have_their_graphs() -> None:
    for name in shipped():
        checkpoint = restore(Path(name))
        assert (checkpoint.graph is None) == (checkpoint.arch.family == "lmmse")
