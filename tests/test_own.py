"""Networks of other programs as checkpoints: what is taken, how it is run, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ppgstream
from ppgstream.core.denoiser import Batch
from ppgstream.core.scaling import no_scale_of, z_scale_of
from ppgstream.errors import CheckpointError, PpgStreamError, UsageError
from ppgstream.model import keras_file, own, runtime
from ppgstream.model.folder import restore_folder, write_restored
from ppgstream.model.restore import restore

N = 50
RNG = np.random.default_rng(0)
X = 1000 + 100 * np.sin(np.arange(1500) / 8) + RNG.normal(0, 5, 1500)


def graph(
    nodes: list[Any],
    given: tuple[Any, ...] = ("n", N),
    answer: tuple[Any, ...] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    dtype: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("out",),
    inputs: tuple[str, ...] = ("in",),
    out: int = 0,
) -> Any:
    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, dtype, given) for name in inputs],
        [helper.make_tensor_value_info(name, out or dtype, answer) for name in outputs],
        stored,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="a program")


def node(kind: str, *names: str, **more: Any) -> Any:
    return helper.make_node(kind, list(names), ["out"], **more)


def smoothing(length: int = N) -> np.ndarray:
    """A moving mean of 5 as a matrix."""
    at = np.arange(length)
    near = (np.abs(at[:, None] - at) <= 2).astype(np.float32)
    return near / near.sum(axis=0)


def plain(given: tuple[Any, ...] = ("n", N)) -> Any:
    """A moving mean, of windows (n, N)."""
    return graph([node("MatMul", "in", "w")], given, weights={"w": smoothing()})


def saved(model: Any, folder: Path, name: str = "my.onnx") -> Path:
    onnx.save(model, folder / name)
    return folder / name


def imported(path: Path, *, scaling: str = "none", answers: str = "input", window: int | None = None, fs: float = 50.0) -> Path:
    """The folder of a network that was imported."""
    content = own.read_onnx(path)
    found = own.tried(content, str(path), window=window, fs=fs, scaling=scaling, answers=answers)
    own.write(path.parent / "made", content, found, fs=fs, source=path)
    return path.parent / "made"


CONV = np.full((1, 1, 5), 0.2, np.float32)
TAKEN: dict[str, Callable[[], Any]] = {
    "(n, window)": plain,
    "(n, window), any length": lambda: graph([node("Mul", "in", "w")], ("n", "t"), weights={"w": np.float32(0.5)}),
    "(n, window, 1)": lambda: graph([node("Mul", "in", "w")], ("n", N, 1), weights={"w": np.float32(0.5)}),
    "(n, 1, window)": lambda: graph([node("Conv", "in", "w", pads=[2, 2])], ("n", 1, N), weights={"w": CONV}),
    "one window at once": lambda: graph([node("MatMul", "in", "w")], (1, N), weights={"w": smoothing()}),
    "16 windows at once": lambda: graph([node("MatMul", "in", "w")], (16, N), weights={"w": smoothing()}),
    "float64": lambda: graph([node("Mul", "in", "w")], weights={"w": np.float64(0.5)}, dtype=TensorProto.DOUBLE),
    "float16": lambda: graph([node("Mul", "in", "w")], weights={"w": np.float16(0.5)}, dtype=TensorProto.FLOAT16),
    "an odd name": lambda: graph([node("Mul", "x:0", "w")], weights={"w": np.float32(0.5)}, inputs=("x:0",)),
}


@pytest.mark.parametrize("case", TAKEN)
def test_windows_go_through_however_they_lie(case: str, tmp_path: Path) -> None:
    path = saved(TAKEN[case](), tmp_path)
    found = restore(imported(path, scaling="min-max", window=N if "any" in case else None))
    assert (found.arch.family, found.arch.window, found.fs) == ("own", N, 50.0)
    assert found.tile == {"one window at once": 1, "16 windows at once": 16}.get(case, 64)
    run = runtime.denoiser(found)
    x = RNG.uniform(0, 1, (37, N)).astype(np.float32)
    expected = np.stack([np.convolve(np.pad(row, 2), np.full(5, 0.2), "valid") for row in x]) if "1, w" in case else 0.5 * x
    if case in ("(n, window)", "one window at once", "16 windows at once"):
        expected = x @ smoothing()
    got = run(Batch(x, np.ones(x.shape, np.bool_)))
    np.testing.assert_allclose(got.y, expected, atol=2e-3 if case == "float16" else 1e-5)
    assert got.log_var is None


def two(layout: str) -> Any:
    """The wave as it came, and 0.25 of it as log variance."""
    half = np.float32(0.25)
    parts = [helper.make_node("Mul", ["in", "w"], ["v"])]
    if layout == "(n, 2 window)":
        return graph([*parts, node("Concat", "in", "v", axis=1)], weights={"w": half})
    if layout == "(n, 2, window)":
        return graph([*parts, node("Concat", "in", "v", axis=1)], ("n", 1, N), weights={"w": half})
    return graph([*parts, node("Concat", "in", "v", axis=2)], ("n", N, 1), weights={"w": half})


@pytest.mark.parametrize("layout", ["(n, 2 window)", "(n, 2, window)", "(n, window, 2)"])
def test_a_network_may_tell_its_log_variance(layout: str, tmp_path: Path) -> None:
    path = saved(two(layout), tmp_path)
    found = restore(imported(path, scaling="standard"))
    assert found.arch.outputs == ("wave", "log_var")
    assert not found.calibration
    x = RNG.normal(0, 30, (3, N)).astype(np.float32)
    got = runtime.denoiser(found)(Batch(x, np.ones(x.shape, np.bool_)))
    np.testing.assert_allclose(got.y, x, rtol=1e-6)
    np.testing.assert_allclose(got.log_var, np.clip(x / 4, -8, 4), rtol=1e-6)
    with pytest.raises(UsageError, match="needs --scaling standard --answers-in input"):
        imported(path, scaling="min-max")


@pytest.mark.parametrize("scaling", ["min-max", "standard", "none"])
@pytest.mark.parametrize("answers", ["input", "clean"])
def test_an_identity_gives_back_its_input_under_each_scaling(scaling: str, answers: str, tmp_path: Path) -> None:
    folder = imported(saved(graph([node("Identity", "in")]), tmp_path), scaling=scaling, answers=answers)
    clean = ppgstream.denoise(X, 50.0, checkpoint=folder)
    # What answers in the clean signal's own scale is fitted to the input, without the slope of each window.
    np.testing.assert_allclose(clean.denoised, X, atol=0.01 if answers == "input" else 40)
    assert np.corrcoef(clean.denoised, X)[0, 1] > 0.98


def test_large_numbers_reach_a_network_that_wants_them_as_they_are(tmp_path: Path) -> None:
    folder = imported(saved(graph([node("Identity", "in")]), tmp_path), scaling="none")
    clean = ppgstream.denoise(X + 5e6, 50.0, checkpoint=folder)
    np.testing.assert_allclose(clean.denoised, X + 5e6, atol=1)


def test_scales_without_and_with_gaps() -> None:
    x = RNG.normal(5e5, 20, (4, N))
    valid = RNG.uniform(size=x.shape) < 0.8
    x[3] = 7.0
    scale = z_scale_of(x, valid)
    for row in range(3):
        known = x[row, valid[row]]
        assert scale.offset[row, 0] == pytest.approx(known.mean())
        assert scale.gain[row, 0] == pytest.approx(known.std())
    assert scale.flat[:, 0].tolist() == [False, False, False, True]
    assert no_scale_of(x, valid).flat[:, 0].tolist() == [False, False, False, True]


def test_a_checkpoint_of_it_can_be_written_anew_and_has_its_own_id(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path)
    found = restore_folder(imported(path))
    assert (found.provenance["from"], found.provenance["producer"]) == ("my.onnx", "a program")
    assert (found.parameters, sorted(p.name for p in (tmp_path / "made").iterdir())) == (N * N, ["checkpoint.json", "model.onnx"])
    write_restored(tmp_path / "anew", found)
    assert restore_folder(tmp_path / "anew").sha256 == found.sha256
    write_restored(tmp_path / "other", found, fs=60.0)
    assert restore_folder(tmp_path / "other").sha256 != found.sha256
    (tmp_path / "made/model.onnx").write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="its sha256 is not the one"):
        restore_folder(tmp_path / "made")


def test_a_manifest_that_states_what_no_import_does_is_refused(tmp_path: Path) -> None:
    folder = imported(saved(plain(), tmp_path))
    manifest = folder / "checkpoint.json"
    whole = json.loads(manifest.read_text())
    for network, told in (
        ({"stated_scaling": "log"}, "scaling must be one of"),
        ({"stated_answers": "noisy"}, "answers"),
        ({"outputs": ["wave", "pulse"]}, "answers wave, or wave and log_var"),
        ({"sizes": {"parameters": "many"}}, "number of parameters"),
        ({"sizes": {}}, "number of parameters"),
        ({"context": 10}, "no context"),
        ({"window": 4}, "window must be 8"),
        ({"family": "dae", "sizes": {"hidden": [4]}, "hidden_activation": "sigmoid"}, "its scaling is fixed"),
    ):
        changed = whole | {"network": whole["network"] | network}
        if "stated_scaling" in network or "stated_answers" in network or "family" in network:
            scaling = {"input": network.get("stated_scaling", "none"), "answer": "input"}
            changed["scaling"] = {"input": "min-max", "answer": "clean"} if "family" in network else scaling
        manifest.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=told):
            restore_folder(folder)


# ---- what is refused ---------------------------------------------------------------------------------------------


def ends(inputs: tuple[str, ...] = ("in",), outputs: tuple[str, ...] = ("out",)) -> Any:
    nodes = [helper.make_node("Add", [inputs[0], inputs[-1]], [outputs[0]])]
    nodes += [helper.make_node("Neg", [inputs[0]], [name]) for name in outputs[1:]]
    return graph(nodes, inputs=inputs, outputs=outputs)


BATCH_MEAN = [
    helper.make_node("ReduceMean", ["in", "axis"], ["m"], keepdims=1),
    node("Sub", "in", "m"),
]  # fmt: skip
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "two inputs": (lambda: ends(("a", "b")), "must have one input and one output, has inputs a, b"),
    "two outputs": (lambda: ends(outputs=("y", "z")), "has inputs in; outputs y, z"),
    "whole numbers": (lambda: graph([node("Identity", "in")], dtype=TensorProto.INT64), r"tensor\(int64\): must be numbers"),
    "two channels": (lambda: graph([node("Identity", "in")], ("n", N, 2)), "must be numbers of shape"),
    "one dimension": (lambda: graph([node("Identity", "in")], (N,)), "must be numbers of shape"),
    "four dimensions": (lambda: graph([node("Identity", "in")], ("n", 1, N, 1)), "must be numbers of shape"),
    "a shorter answer": (
        lambda: graph([node("MatMul", "in", "w")], weights={"w": np.ones((N, 10), np.float32)}),
        r"give an output of shape \(64, 10\)",
    ),
    "half as long in two columns": (
        lambda: graph([node("Reshape", "in", "w")], weights={"w": np.array([-1, N // 2, 2], np.int64)}),
        r"give an output of shape \(64, 25, 2\)",
    ),
    "words": (lambda: graph([node("Cast", "in", to=TensorProto.STRING)], out=TensorProto.STRING), r"tensor\(string\): must be"),
    "yes and no": (lambda: graph([node("Cast", "in", to=TensorProto.BOOL)], out=TensorProto.BOOL), r"tensor\(bool\): must be"),
    "the same for all": (
        lambda: graph([node("Mul", "in", "w")], weights={"w": np.float32(0)}),
        "answers every window with the same",
    ),
    "one number": (lambda: graph([node("ReduceMean", "in", keepdims=0)]), r"give an output of shape \(\)"),
    "not finite": (lambda: graph([helper.make_node("Neg", ["in"], ["m"]), node("Log", "m")]), "with what is not finite"),
    "random": (
        lambda: graph([helper.make_node("RandomNormalLike", ["in"], ["r"]), node("Add", "in", "r")]),
        "answers the same windows differently each time",
    ),
    "the batch's mean": (
        lambda: graph(BATCH_MEAN, weights={"axis": np.array([0], np.int64)}),
        "answers a window differently with others beside it",
    ),
    "an operation of nobody's": (
        lambda: graph([helper.make_node("Denoise", ["in"], ["out"], domain="my.own")]),
        "ONNX Runtime cannot load the graph",
    ),
    "weights that do not fit": (
        lambda: graph([node("MatMul", "in", "w")], weights={"w": np.ones((N + 1, N), np.float32)}),
        "ONNX Runtime cannot",
    ),
    "too long": (lambda: graph([node("Identity", "in")], ("n", 20_000)), "must be 8 to 10000"),
    "too many at once": (lambda: graph([node("Identity", "in")], (5000, N)), "takes 5000 windows at once"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_cannot_be_used_is_one_line(case: str, tmp_path: Path) -> None:
    made, told = REFUSED[case]
    path = saved(made(), tmp_path)
    with pytest.raises(PpgStreamError, match=told) as error:
        imported(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_window_is_said_where_the_network_does_not_and_must_be_its_own(tmp_path: Path) -> None:
    path = saved(TAKEN["(n, window), any length"](), tmp_path)
    with pytest.raises(UsageError, match="say which it was trained on with --window SAMPLES"):
        imported(path)
    with pytest.raises(UsageError, match=r"--window 60: .*takes windows of 50 samples"):
        imported(saved(plain(), tmp_path), window=60)


def external(folder: Path, location: str, **facts: int) -> Path:
    """A network whose weights lie at `location`."""
    model = plain()
    (tensor,) = model.graph.initializer
    content = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ({"location": location} | facts).items():
        tensor.external_data.add(key=key, value=str(value))
    (folder / "weights.bin").write_bytes(content)
    (folder / "my.onnx").write_bytes(model.SerializeToString())
    return folder / "my.onnx"


@pytest.mark.parametrize("facts", [{}, {"offset": 0, "length": 4 * N * N}], ids=["whole", "a part"])
def test_weights_beside_a_network_are_taken_in(facts: dict[str, int], tmp_path: Path) -> None:
    folder = imported(external(tmp_path, "weights.bin", **facts))
    (tmp_path / "weights.bin").unlink()
    x = np.ones((2, N), np.float32)
    np.testing.assert_allclose(runtime.denoiser(restore(folder))(Batch(x, x > 0)).y, x @ smoothing(), rtol=1e-6)


def test_weights_elsewhere_are_refused(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4 * N * N))
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    for location, facts, told in (
        ("../secret", {}, "only files beside the network are read"),
        (str(tmp_path / "secret"), {}, "only files beside the network are read"),
        ("", {}, "only files beside the network are read"),
        ("link", {}, "cannot be read"),
        ("folder/secret", {}, "not a regular file beside the network"),
        ("pipe", {}, "not a regular file beside the network"),
        ("gone", {}, "cannot be read: No such file"),
        ("weights.bin", {"offset": 1}, "cannot|bytes"),
        ("weights.bin", {"offset": -8}, "bytes from -8"),
        ("weights.bin", {"length": 10**12}, "bytes from 0 of"),
    ):
        with pytest.raises(CheckpointError, match=told):
            imported(external(inside, location, **facts))


def test_weights_hidden_in_a_constant_are_looked_at_too(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.ones(2, np.float32), "values")
    values.ClearField("raw_data")
    values.data_location = TensorProto.EXTERNAL
    values.external_data.add(key="location", value="../secret")
    sparse = onnx.SparseTensorProto(values=values, indices=numpy_helper.from_array(np.array([0, 1])), dims=[N])
    hidden = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    (tmp_path / "my.onnx").write_bytes(graph([hidden, node("Add", "in", "c")]).SerializeToString())
    with pytest.raises(CheckpointError, match="only files beside the network are read"):
        own.read_onnx(tmp_path / "my.onnx")


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x0a", bytes(1000)], ids=["empty", "text", "no graph", "zeros"])
def test_what_is_no_onnx_file_is_said(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "my.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"my\.onnx: not an ONNX file"):
        own.read_onnx(tmp_path / "my.onnx")


PPGSTREAM = str(Path(sys.executable).with_name("ppgstream"))


def command(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PPGSTREAM, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


def test_what_people_have_instead_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/saved_model.pb").touch()
    (tmp_path / "net.pt").touch()
    plain_path = saved(plain(), tmp_path)
    for path, more, told in (
        ("net.pt", [], "torch.onnx.export"),
        ("saved", [], "tf2onnx.convert --saved-model"),
        (plain_path, [], "say --fs HZ and --scaling KIND, as the network was trained"),
        (plain_path, ["--fs", 50], "say --scaling KIND"),
        (plain_path, ["--fs", 50, "--scaling", "log"], "--scaling 'log': must be one of min-max, standard, none"),
        (plain_path, ["--fs", 50, "--scaling", "none", "--answers-in", "dB"], "--answers-in 'dB': must be one of clean, input"),
    ):
        done = command("checkpoint", "import", path, "-o", "out", *more, cwd=tmp_path)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


def test_commands_take_it_as_any_other(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path)
    done = command(
        "checkpoint", "import", path, "-o", "own", "--fs", 50, "--scaling", "min-max", "--answers-in", "clean", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "own: 2,500 parameters, windows of 50 samples at 50 Hz, " in done.stderr
    assert "how well its windows agree, as fitted on other networks" in done.stderr
    again = command("checkpoint", "import", path, "-o", "own", "--fs", 50, "--scaling", "none", cwd=tmp_path)
    assert (again.returncode, "holds a checkpoint already" in again.stderr) == (2, True)
    np.save(tmp_path / "x.npy", X)
    done = command("denoise", "x.npy", "--fs", 50, "--checkpoint", "own", "-o", "out.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as out:
        assert np.corrcoef(out["denoised"], X)[0, 1] > 0.95
    ends = [f"--{name}=ipc://{tmp_path}/{name}" for name in ("in", "out", "status")]
    done = command("run", "--check", "--checkpoint", "own", *ends, cwd=tmp_path)
    assert "own" in done.stderr
    assert (done.returncode, "answers a known pulse" in done.stderr) == (0, True), done.stderr
    done = command("checkpoint", "export", "own", "-o", "again.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert own.read_onnx(tmp_path / "again.onnx")
    done = command("checkpoint", "show", "own", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (told["family"], told["scaling"], told["answers"], told["parameters"]) == ("own", "min-max", "clean", 2500)
    done = command("train", "--from", "own", "--synthetic", cwd=tmp_path)
    assert (done.returncode, "can be trained only where it was made" in done.stderr) == (2, True), done.stderr
    (tmp_path / "tf.toml").write_text('[model]\nruntime = "tensorflow"\n')
    done = command("denoise", "x.npy", "--fs", 50, "-o", "o.npy", "--checkpoint", "own", "--config", "tf.toml", cwd=tmp_path)
    assert (done.returncode, "no network that TensorFlow could build" in done.stderr) == (78, True), done.stderr


# ---- files of Keras ----------------------------------------------------------------------------------------------


def layer(name: str, config: dict[str, Any] | None = None, module: str | None = "keras.layers", **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": None} | more


def network(*layers: dict[str, Any]) -> dict[str, Any]:
    first = layer("InputLayer", {"batch_shape": [None, N], "dtype": "float32", "name": "in"})
    return layer("Sequential", {"name": "net", "layers": [first, *layers]}, "keras")


def keras_of(folder: Path, config: Any, members: dict[str, bytes] | None = None, weights: bytes | None = None) -> Path:
    path = folder / "my.keras"
    if weights is None:
        with h5py.File(folder / "w.h5", "w") as file:
            file["layers/dense/vars/0"] = np.zeros((N, N), np.float32)
        weights = (folder / "w.h5").read_bytes()
    parts = {"metadata.json": b"{}", "config.json": json.dumps(config).encode(), "model.weights.h5": weights}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (parts | (members or {})).items():
            archive.writestr(name, content)
    return path


def h5_of(folder: Path, config: Any) -> Path:
    with h5py.File(folder / "my.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.create_group("model_weights")["a"] = np.zeros(3)
    return folder / "my.h5"


EVIL = {"function": {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "defaults": None, "closure": None}}}
MALICIOUS: dict[str, tuple[dict[str, Any], str]] = {
    "lambda": (network(layer("Lambda", EVIL)), "holds 'Lambda': it can hold any program"),
    "a function as an activation": (
        network(layer("Dense", {"units": 3, "activation": layer("function", {}, "builtins")})),
        "holds 'function': it can hold any program",
    ),
    "another module": (network(layer("Dense", {"name": "d"}, "os.path")), r"of the module 'os.path'"),
    "a class of subprocess": (network(layer("Popen", {"args": "touch x"}, "subprocess")), "holds 'Popen'"),
    "one that looks like Keras'": (network(layer("Dense", {}, "keras_evil")), "of the module 'keras_evil'"),
    "a registered one": (network(layer("Dense", {}, registered_name="evil>Dense")), "registered as 'evil>Dense'"),
    "deep within": (
        network(layer("TimeDistributed", {"layer": layer("Bidirectional", {"layer": layer("Lambda", EVIL)})})),
        "holds 'Lambda'",
    ),
    "a size beyond all sense": (network(layer("Dense", {"units": 4_000_000})), "a layer's units is 4000000: at most 20,000"),
    "a name that is no text": (network(layer("Dense", {}) | {"class_name": ["Dense"]}), "it is not in the list"),
    "a layer that loads files": (network(layer("TFSMLayer", {"filepath": "/x"})), "holds 'TFSMLayer'"),
    "a table of words": (network(layer("TextVectorization", {"vocabulary": "/etc/passwd"})), "holds 'TextVectorization'"),
}


@pytest.mark.parametrize("case", MALICIOUS)
@pytest.mark.parametrize("form", ["keras", "h5"])
def test_a_file_that_could_hold_a_program_is_refused_before_keras_reads_it(
    case: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> None:
        raise AssertionError("Keras was asked")

    monkeypatch.setattr(keras_file, "import_keras", never)
    config, told = MALICIOUS[case]
    path = (keras_of if form == "keras" else h5_of)(tmp_path, config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        keras_file.main(path.name, "out.onnx", "0")
    assert told.replace("\\", "") in str(end.value)


def test_what_lies_about_itself_is_refused(tmp_path: Path) -> None:
    fine = network(layer("Dense", {"units": N}))
    linked, virtual = tmp_path / "l.h5", tmp_path / "v.h5"
    with h5py.File(linked, "w") as file:
        file["a"] = h5py.ExternalLink("/etc/passwd", "x")
    with h5py.File(virtual, "w") as file:
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "w.h5", "a", (3,))
        file.create_virtual_dataset("a", layout)
    with h5py.File(tmp_path / "o.h5", "w") as file:
        file.create_dataset("a", (3,), "f4", external=[("/etc/passwd", 0, 12)])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("a", (10_000, 10_000), "f4", chunks=(1000, 1000), compression="gzip")
    elsewhere = "lie in another file"
    of_each = (
        (linked, "hold a link"),
        (virtual, elsewhere),
        (tmp_path / "o.h5", elsewhere),
        (tmp_path / "b.h5", "unpacks to more"),
    )
    for weights, told in of_each:
        with pytest.raises(CheckpointError, match=told):
            keras_file._clean_keras(keras_of(tmp_path, fine, weights=weights.read_bytes()))
    with h5py.File(tmp_path / "k.h5", "w") as file:  # each group is in the one before it, twice
        group = file
        for _ in range(60):
            inside = group.create_group("a")
            group["b"] = inside
            group = inside
    keras_file._check_h5(tmp_path / "k.h5")
    for members, told in (
        ({"assets/x": b""}, "assets/x"),
        ({"../evil": b""}, "evil"),
        ({"config.json": b"{"}, "no JSON"),
        ({"config.json": b"[" * 100_000}, "no JSON"),
        ({"config.json": b" " * 11_000_000}, "unpacks to more"),
        ({"model.weights.h5": b"no"}, "no HDF5 file"),
    ):
        with pytest.raises(CheckpointError, match=told):
            keras_file._clean_keras(keras_of(tmp_path, fine, members))
    (tmp_path / "my.keras").write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match=r"no \.keras file"):
        keras_file._clean_keras(tmp_path / "my.keras")
    (tmp_path / "x.h5").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="no HDF5 file"):
        keras_file._clean_h5(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="holds weights without their network"):
        keras_file._clean_h5(tmp_path / "x.h5")


def test_how_it_was_trained_is_taken_out_unread(tmp_path: Path) -> None:
    trained = network(layer("Dense", {"units": N})) | {"compile_config": {"loss": layer("function", {}, "builtins")}}
    path = keras_of(tmp_path, trained)
    keras_file._clean_keras(path)
    with zipfile.ZipFile(path) as archive:
        assert "compile_config" not in json.loads(archive.read("config.json"))


def test_an_old_keras_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "3.13.0"

    monkeypatch.setattr(keras_file, "import_keras", Old)
    with pytest.raises(CheckpointError, match=r"Keras 3\.13\.0 loads such files without its safe mode: 3\.13\.1 or newer"):
        keras_file._convert(tmp_path / "x.keras", "y", None)


MADE = """
import numpy as np, keras
from keras import layers as L
i = keras.Input((50, 1))
a = L.Conv1D(4, 5, padding="same", activation="gelu")(i)
b = L.UpSampling1D(2)(L.BatchNormalization()(L.MaxPooling1D(2)(a)))
h = L.Bidirectional(L.LSTM(4, return_sequences=True, kernel_regularizer="l2"))(L.Concatenate()([a, b]))
net = keras.Model(i, L.TimeDistributed(L.Dense(1))(L.Dropout(0.2)(h)) + i)
dae = keras.Sequential([keras.Input((50,)), L.Dense(8, activation="sigmoid"), L.Dense(50)])
bad = keras.Sequential([keras.Input((50,)), L.Lambda(lambda x: x + 1)])
for name, model in (("net.keras", net), ("dae.h5", dae), ("bad.keras", bad), ("bad.h5", bad)):
    model.compile("adam", loss=keras.losses.Huber())
    x = np.random.default_rng(0).uniform(0, 1, (16, *model.input_shape[1:])).astype("f4")
    if model is not bad:
        model.fit(x, x, verbose=0)
        np.save(f"{name}.npy", np.asarray(model.predict(x, verbose=0)).reshape(16, -1))
    model.save(name)
"""


def test_networks_of_keras_answer_as_in_keras(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MADE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(0).uniform(0, 1, (16, N)).astype(np.float32)
    for name in ("net.keras", "dae.h5"):
        asked = ["--fs", 50, "--scaling", "min-max", "-o", f"of-{name}"]
        done = command("checkpoint", "import", name, *asked, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        got = runtime.denoiser(restore(tmp_path / f"of-{name}"))(Batch(x, x >= 0)).y
        np.testing.assert_allclose(got, np.load(tmp_path / f"{name}.npy"), atol=1e-4)
    for name in ("bad.keras", "bad.h5"):
        done = command("checkpoint", "import", name, "--fs", 50, "--scaling", "none", "-o", "bad", cwd=tmp_path)
        assert (done.returncode, f"{name}: holds 'Lambda'" in done.stderr) == (78, True), done.stderr
    assert not (tmp_path / "bad").exists()


def test_the_page_s_commands_run_on_the_example_s_network(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    example = [sys.executable, str(root / "examples/own_network.py"), "unet", "2"]
    done = subprocess.run(example, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()[-1]
    assert told == "ppgstream checkpoint import unet.keras --fs 125 --scaling standard --answers-in input -o my-unet"
    (tmp_path / "unet.keras").rename(tmp_path / "my.keras")
    np.savetxt(
        tmp_path / "recording.csv", np.stack([np.arange(len(X)) / 125, X], axis=1), delimiter=",", header="t,ppg", comments=""
    )
    lines = (root / "docs/own-network.md").read_text().split("```sh\n")[1].split("```")[0].splitlines()
    for line in lines[:2]:
        words = line.split()
        assert words[0] == "ppgstream"
        done = command(*words[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "clean.npz") as clean:
        assert clean["denoised"].shape == X.shape
