"""Networks and their weights: the course's semantics, both formats, and everything that must be refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppgstream.train import methods

from ppgstream.core.denoiser import Batch
from ppgstream.core.scaling import denormalise, normalise, standard_scale_of
from ppgstream.errors import CheckpointError
from ppgstream.lab import noise, scores, synthetic
from ppgstream.model import runtime
from ppgstream.model.architecture import Architecture
from ppgstream.model.checkpoint import BUNDLED, MANIFEST, SHIPPED, WEIGHTS, Checkpoint, shipped
from ppgstream.model.folder import DECIDES, identity, save
from ppgstream.model.networks import build
from ppgstream.model.restore import restore
from ppgstream.model.tensorflow_runtime import network

SHARED = Path(os.environ.get("PPGSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_course = pytest.mark.skipif(
    not (SHARED / "course").is_dir(), reason="the course's files are not here (../shared/data or PPGSTREAM_DATA)"
)


def saver_tensors(rng: np.random.Generator, family: str, *, units: int = 7, window: int = 30) -> dict[str, np.ndarray]:
    """Tensors under the names that the course's scripts give them."""

    def layer(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        return {
            f"{name}/kernel": rng.normal(0, 0.3, (rows, columns)).astype(np.float32),
            f"{name}/bias": rng.normal(0, 0.3, columns).astype(np.float32),
        }

    cell = (1 + units, 4 * units)
    if family == "rae":
        return layer("rnn/lstm_cell", *cell) | layer("output_layer", units, window)
    if family == "brae":
        both = layer("bidirectional_rnn/fw/lstm_cell", *cell) | layer("bidirectional_rnn/bw/lstm_cell", *cell)
        return both | layer("output_layer", 2 * units, window)
    if family == "ae":
        return layer("encoding_layer", window, units) | layer("output_layer", units, window)
    widths = [window, 20, units, 20, window]
    names = ["dense", "dense_1", "dense_2", "dense_3"]
    return {k: v for n, a, b in zip(names, widths, widths[1:], strict=False) for k, v in layer(n, a, b).items()}


def write_saver(prefix: Path, tensors: dict[str, np.ndarray]) -> None:
    """A TensorFlow 1 Saver checkpoint with Adam's slots, as `tf.train.Saver` writes it."""
    import tensorflow as tf

    slots = {f"{name}/{slot}": np.zeros_like(t) for name, t in tensors.items() for slot in ("Adam", "Adam_1")}
    everything = {**tensors, **slots, "beta1_power": np.float32(0.9), "beta2_power": np.float32(0.99)}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(everything),
        shape_and_slices=[""] * len(everything),
        tensors=list(everything.values()),
    )


def sigmoid(v: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-v))


def lstm_last(kernel: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """TF1's LSTMCell over x (batch, steps), gates i, j, f, o, forget bias 1: the output of the last step."""
    units = kernel.shape[1] // 4
    c = h = np.zeros((len(x), units))
    for step in range(x.shape[1]):
        i, j, f, o = np.split(np.hstack([x[:, step : step + 1], h]) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
    return h


def by_hand(t: dict[str, np.ndarray], family: str, x: np.ndarray) -> np.ndarray:
    """The course's graphs in NumPy, float64."""
    t = {k: v.astype(np.float64) for k, v in t.items()}
    if family == "rae":
        h = lstm_last(t["rnn/lstm_cell/kernel"], t["rnn/lstm_cell/bias"], x)
        return h @ t["output_layer/kernel"] + t["output_layer/bias"]
    if family == "brae":
        forward = lstm_last(t["bidirectional_rnn/fw/lstm_cell/kernel"], t["bidirectional_rnn/fw/lstm_cell/bias"], x)
        backward = lstm_last(t["bidirectional_rnn/bw/lstm_cell/kernel"], t["bidirectional_rnn/bw/lstm_cell/bias"], x[:, -1:])
        return np.hstack([forward, backward]) @ t["output_layer/kernel"] + t["output_layer/bias"]
    names = ["encoding_layer", "output_layer"] if family == "ae" else ["dense", "dense_1", "dense_2", "dense_3"]
    for name in names[:-1]:
        x = sigmoid(x @ t[f"{name}/kernel"] + t[f"{name}/bias"])
    return x @ t[f"{names[-1]}/kernel"] + t[f"{names[-1]}/bias"]


def everything_valid(x: np.ndarray) -> Batch:
    return Batch(x.astype(np.float32), np.ones(x.shape, np.bool_))


@pytest.mark.parametrize("family", ["ae", "ae3", "rae", "brae"])
def test_a_saver_checkpoint_is_recognised_by_its_tensors_and_computes_what_the_course_graph_did(
    family: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    tensors = saver_tensors(rng, family)
    write_saver(tmp_path / "net-12", tensors)
    found = restore(tmp_path / "net-12")
    assert found.arch.family == family
    assert found.arch.window == 30
    x = rng.uniform(0, 1, (5, 30))
    y = runtime.denoiser(found)(everything_valid(x)).y
    np.testing.assert_allclose(y, by_hand(tensors, family, x), atol=2e-6)


def test_a_prefix_an_index_file_and_a_folder_all_mean_the_same_checkpoint(tmp_path: Path) -> None:
    write_saver(tmp_path / "net-9", saver_tensors(np.random.default_rng(1), "ae"))
    write_saver(tmp_path / "net-10", saver_tensors(np.random.default_rng(2), "ae"))
    newest = restore(tmp_path / "net-10").sha256
    assert restore(tmp_path / "net-10.index").sha256 == newest
    assert restore(tmp_path).sha256 == newest  # no `checkpoint` file: the highest number
    latest = tmp_path / "checkpoint"
    latest.write_text('model_checkpoint_path: "net-11"\nall_model_checkpoint_paths: "net-8"\n')
    assert restore(tmp_path).sha256 == newest  # it names what is not there
    latest.write_text('model_checkpoint_path: "C:/somewhere/else/net-9"\n')
    assert restore(tmp_path).sha256 == restore(tmp_path / "net-9").sha256 != newest


@pytest.mark.parametrize("family", ["ae", "ae3", "dae", "rae", "brae", "brdae", "transformer"])
def test_save_and_restore_give_the_same_network_back(family: str, tmp_path: Path) -> None:
    arch = Architecture(
        family,
        window=40,
        sizes={"patch": 8, "width": 16, "depth": 1, "heads": 2} if family == "transformer" else {},
    )
    model = build(arch)
    save(tmp_path, model, arch, provenance={"seed": 3}, figures={"g": 1.5})
    found = restore(tmp_path)
    assert found.arch == arch
    assert (found.arch.family, found.arch.window, found.fs) == (family, 40, 125.0)
    assert (found.provenance, found.figures) == ({"seed": 3}, {"g": 1.5})
    assert found.parameters == model.count_params()
    x = np.random.default_rng(4).uniform(0, 1, (3, 40)).astype(np.float32)
    direct = np.asarray(model(x if len(model.inputs) == 1 else [x, np.ones_like(x)]))
    answer = runtime.denoiser(found)(everything_valid(x))
    np.testing.assert_allclose(answer.y, direct[:, :40], atol=1e-5)
    assert (answer.log_var is None) == (family not in ("brdae", "transformer"))


def test_a_course_network_starts_from_the_course_initial_values() -> None:
    model = build(Architecture("ae"))
    kernel, bias = model.get_layer("hidden1").get_weights()
    assert kernel.shape == (250, 40)
    assert np.abs(kernel).max() <= 0.02 + 1e-6  # truncated at two standard deviations of 0.01
    assert kernel.std() == pytest.approx(0.0088, rel=0.1)
    assert (bias == 1).all()


CALIBRATION = {"13": {"bias": 2.0, "weights": {"confidence": 1.0}}}


def small(folder: Path) -> dict[str, Any]:
    arch = Architecture("ae", window=40, sizes={"hidden": 3})
    save(folder, build(arch), arch)
    return dict(json.loads((folder / MANIFEST).read_text()))


def rewrite(folder: Path, manifest: dict[str, Any], **changes: Any) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def test_a_checkpoint_whose_weights_were_changed_or_cut_is_refused(tmp_path: Path) -> None:
    small(tmp_path)
    weights = tmp_path / WEIGHTS
    blob = weights.read_bytes()
    for broken in (blob[:-1], blob[:-1] + bytes([blob[-1] ^ 1]), b""):
        weights.write_bytes(broken)
        with pytest.raises(CheckpointError, match="sha256"):
            restore(tmp_path)


def test_nan_weights_are_refused_by_name(tmp_path: Path) -> None:
    arch = Architecture("ae", window=40, sizes={"hidden": 3})
    model = build(arch)
    model.get_layer("hidden1").set_weights([np.full((40, 3), np.nan), np.zeros(3)])
    save(tmp_path, model, arch)
    with pytest.raises(CheckpointError, match="hidden1/kernel"):
        restore(tmp_path)


NETWORK = {"family": "ae", "window": 40, "context": 0, "sizes": {"hidden": [3]}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": 1}, "format 2"),
        ({"format": 3}, "format 2"),
        ({"network": NETWORK | {"family": "gan"}}, "gan"),
        ({"network": NETWORK | {"sizes": {"hidden": [4]}}}, "shape"),
        ({"network": NETWORK | {"sizes": {"nodes": 3}}}, "nodes"),
        ({"network": NETWORK | {"sizes": {"hidden": [10**9]}}}, "sizes"),
        ({"network": NETWORK | {"sizes": {"hidden": []}}}, "sizes"),
        ({"network": NETWORK | {"sizes": [3]}}, "field"),
        ({"network": NETWORK | {"window": 50}}, "shape"),
        ({"network": NETWORK | {"window": "wide"}}, "field"),
        ({"network": NETWORK | {"family": "ae3", "sizes": {}}}, "match"),
        ({"network": NETWORK | {"hidden_activation": "gelu"}}, "hidden activation 'gelu'"),
        ({"network": NETWORK | {"output_activation": "softmax"}}, "output activation 'softmax'"),
        ({"network": NETWORK | {"outputs": ["wave", "beats"]}}, "answers wave, not wave, beats"),
        ({"network": NETWORK | {"context": 50}}, "takes no context"),
        ({"network": "ae"}, "field"),
        ({"scaling": {"input": "none", "answer": "clean"}}, "scaling"),
        ({"tile": 0}, "tile"),
        ({"lookahead": 40}, "lookahead must be 0 to 39"),
        ({"calibration": [1]}, "field"),
    ],
)
def test_a_manifest_that_does_not_fit_its_weights_is_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    manifest = small(tmp_path) | changes
    decides = {key: manifest[key] for key in DECIDES if key in manifest}
    rewrite(tmp_path, manifest, sha256=identity(manifest["weights_sha256"], decides))
    with pytest.raises(CheckpointError, match=told):
        network(restore(tmp_path))


@pytest.mark.parametrize(
    "changes",
    [
        {"fs": 100.0},
        {"hop": 20},
        {"lookahead": 13},
        {"calibration": CALIBRATION},
        {"network": NETWORK | {"hidden_activation": "tanh", "output_activation": "linear", "outputs": ["wave"]}},
        {"network": NETWORK | {"hidden_activation": "sigmoid", "output_activation": "sigmoid", "outputs": ["wave"]}},
    ],
)
def test_whatever_decides_the_output_is_under_the_id(changes: dict[str, Any], tmp_path: Path) -> None:
    manifest = small(tmp_path)
    rewrite(tmp_path, manifest, **changes)
    with pytest.raises(CheckpointError, match="sha256 does not fit"):
        restore(tmp_path)
    rewrite(tmp_path, manifest, tile=16, figures={"g": 1}, provenance={"by": "hand"}, files={"onnx": "..."})
    assert restore(tmp_path).sha256 == manifest["sha256"]


def test_options_of_a_checkpoint_survive_saving_and_change_its_id(tmp_path: Path) -> None:
    arch = Architecture("ae", 40, sizes={"hidden": (6, 3, 6)}, hidden_activation="tanh", output_activation="sigmoid")
    model = build(arch)
    save(tmp_path / "a", model, arch, hop=11, lookahead=13, calibration=CALIBRATION)
    save(tmp_path / "b", model, arch, hop=11)
    a, b = restore(tmp_path / "a"), restore(tmp_path / "b")
    assert (a.arch, a.hop, a.lookahead, a.calibration) == (arch, 11, 13, CALIBRATION)
    assert (b.lookahead, b.calibration) == (None, {})
    assert a.id != b.id
    x = np.random.default_rng(1).uniform(0, 1, (3, 40)).astype(np.float32)
    t = {k: v.astype(np.float64) for k, v in a.tensors.items()}
    h = x.astype(np.float64)
    for layer in ("hidden1", "hidden2", "hidden3"):
        h = np.tanh(h @ t[f"{layer}/kernel"] + t[f"{layer}/bias"])
    expected = sigmoid(h @ t["output/kernel"] + t["output/bias"])
    np.testing.assert_allclose(runtime.denoiser(a)(everything_valid(x)).y, expected, atol=1e-5)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "net.index").write_bytes(b"garbage")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty", tmp_path / "net"):
        with pytest.raises(CheckpointError) as caught:
            restore(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_tensors_of_another_network_are_refused_by_name_and_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    odd = {"conv/kernel": rng.normal(size=(9, 5)).astype(np.float32), "conv/bias": np.zeros(5, np.float32)}
    write_saver(tmp_path / "odd", odd)
    with pytest.raises(CheckpointError, match=r"conv \(9, 5\)"):
        restore(tmp_path / "odd")


def test_nan_in_a_saver_checkpoint_is_refused(tmp_path: Path) -> None:
    tensors = saver_tensors(np.random.default_rng(0), "rae")
    tensors["output_layer/bias"][3] = np.nan
    write_saver(tmp_path / "net", tensors)
    with pytest.raises(CheckpointError, match="not finite"):
        restore(tmp_path / "net")


def test_an_answer_is_the_same_bit_for_bit_whatever_else_is_in_the_batch() -> None:
    found = restore(BUNDLED)
    denoise = runtime.denoiser(found)
    rng = np.random.default_rng(6)
    x = rng.uniform(0, 1, (found.tile + 9, 250)).astype(np.float32)
    together = denoise(everything_valid(x)).y
    order = rng.permutation(len(x))
    np.testing.assert_array_equal(denoise(everything_valid(x[order])).y, together[order])
    for i in (0, 7, found.tile - 1, found.tile + 8):
        np.testing.assert_array_equal(denoise(everything_valid(x[i : i + 1])).y[0], together[i])


def test_the_bundled_checkpoint_gains_on_people_it_cannot_have_seen() -> None:
    denoise = methods.of_checkpoint("bundled", BUNDLED).windows
    assert denoise is not None
    rng = np.random.default_rng(77)
    clean = np.concatenate([synthetic.pulse(1000, synthetic.person(rng), rng)[0].reshape(4, 250) for _ in range(40)])
    drawn = noise.n1(clean, rng)
    assert scores.gain_db(drawn.noisy, denoise(drawn.noisy), clean) > 8.0  # GAIN when this was written


@needs_course
@pytest.mark.parametrize("name", ["brae", "rae"])
def test_the_course_checkpoints_agree_with_their_original_graphs_to_1e_5(name: str) -> None:
    with np.load(SHARED / "course" / "original_graph_val1.npz") as original:
        x, expected = original["noisy"], original[name]
    found = restore(SHARED / "course" / f"{name.upper()}_tensorboard" / "checkpoints")
    np.testing.assert_allclose(runtime.denoiser(found)(everything_valid(x)).y, expected, atol=1e-5, rtol=0)


def prototype_tensors(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The prototype's weights under the names of the family `transformer`."""
    names = {"e": "embed", "n": "norm_out", "out": "head"}
    for b in range(4):
        parts = {"n1": "norm_a", "qkv": "qkv", "o": "mix", "n2": "norm_m", "u": "up", "d": "down"}
        names |= {f"b.{b}.{short}": f"{name}{b}" for short, name in parts.items()}
    tensors = {"position/table": weights["pos"]}
    for short, name in names.items():
        kernel, bias = weights[f"{short}.weight"], weights[f"{short}.bias"]
        of_norm = name.startswith("norm")
        tensors[f"{name}/{'gamma' if of_norm else 'kernel'}"] = kernel if of_norm else np.ascontiguousarray(kernel.T)
        tensors[f"{name}/{'beta' if of_norm else 'bias'}"] = bias
    return tensors


@pytest.mark.skipif(not (SHARED / "prototype").is_dir(), reason="the prototype's weights are not here")
def test_the_transformer_answers_as_the_prototype_did_with_its_weights() -> None:
    with np.load(SHARED / "prototype" / "weights.npz") as archive:
        tensors = prototype_tensors(dict(archive))
    found = Checkpoint(SHARED / "prototype", Architecture("transformer"), tensors, "0" * 64)
    assert found.parameters == 139_550
    denoise = runtime.denoiser(found)
    with np.load(SHARED / "prototype" / "golden.npz") as golden:
        answer = denoise(Batch(golden["normalised"], golden["known"] > 0))
        np.testing.assert_allclose(answer.y, golden["answer"], atol=1e-5)
        np.testing.assert_allclose(answer.log_var, golden["log_var"], atol=2e-5)
        raw, known = golden["raw"].astype(np.float64), golden["raw_known"] > 0
        scale = standard_scale_of(raw, known)
        np.testing.assert_allclose(scale.offset, golden["raw_mean"], rtol=1e-6)
        np.testing.assert_allclose(scale.gain, golden["raw_sd"], rtol=1e-6)
        answer = denoise(Batch(normalise(raw, scale), known))
        np.testing.assert_allclose(denormalise(answer.y, scale), golden["raw_answer"], atol=1e-5 * np.ptp(raw))
        np.testing.assert_allclose(answer.log_var, golden["raw_log_var"], atol=1e-4)


def test_what_comes_along_is_found_by_name_where_no_such_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"default", "lmmse"} <= set(shipped())
    for name in shipped():
        assert restore(Path(name)).path == SHIPPED / name
    with pytest.raises(CheckpointError, match=r"nor one of .*default.*lmmse"):
        restore(Path("nobody"))
    Path("lmmse").mkdir()  # a path of that name wins
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        restore(Path("lmmse"))


def test_all_that_comes_along_is_below_6_mb() -> None:
    assert sum(p.stat().st_size for p in SHIPPED.rglob("*") if p.is_file()) < 6e6
