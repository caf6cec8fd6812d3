"""The trainer: its recipe, batches, runs that are killed and go on, and everything that must be refused."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from ppgstream.train import batches, calibrate, card, data, evaluate, fit, losses, methods, pictures
from ppgstream.train.progress import Progress
from ppgstream.train.recipe import FAMILY, Recipe, differences, make
from rich.console import Console
from typer.testing import CliRunner

from ppgstream import storage
from ppgstream.cli.app import app
from ppgstream.core.denoiser import Batch
from ppgstream.errors import CheckpointError, ConfigError, DataError, OutputError, UsageError
from ppgstream.lab import noise
from ppgstream.model import runtime
from ppgstream.model.checkpoint import MANIFEST
from ppgstream.model.networks import build
from ppgstream.model.restore import restore
from ppgstream.model.tensorflow_runtime import import_keras, load_into

SHARED = Path(os.environ.get("PPGSTREAM_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_course = pytest.mark.skipif(
    not (SHARED / "course").is_dir(), reason="the course's files are not here (../shared/data or PPGSTREAM_DATA)"
)
TINY: dict[str, dict[str, Any]] = {
    "ae": {"hidden": [4]},
    "ae3": {"hidden": [6, 3, 6]},
    "dae": {"hidden": [4]},
    "rae": {"units": 3},
    "brae": {"units": 3},
    "brdae": {"patch": 10, "units": 3},
    "transformer": {"patch": 10, "width": 8, "depth": 1, "heads": 2},
}


def small(family: str = "dae", **options: Any) -> Recipe:
    given = {"window": 50, "epochs": 2, "steps": 4, "batch": 16, "warm_up": 0} | TINY[family] | options
    return make(family, None, given)


def people(n: int, seed: int, name: str = "someone") -> data.Clean:
    found = data.synthetic_people(n, seed)
    return data.Clean([x[:500] for x in found.stretches], [f"{name}_{seed}_{k}" for k in range(n)])


@pytest.fixture(scope="module")
def sets() -> list[data.Set]:
    return [data.Set("synthetic", {"train": people(6, 1), "validation": people(2, 2), "test": people(2, 3)})]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "examples", lambda *_: None)
    monkeypatch.setattr(pictures, "curves", lambda *_: None)


def log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def tensors(run: Path) -> dict[str, np.ndarray]:
    return dict(restore(run).tensors)


def contents(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(run.iterdir()) if p.is_file()}


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_the_course_s_values_are_the_defaults_of_its_families() -> None:
    for family in ("ae", "ae3", "dae", "rae", "brae"):
        recipe = make(family, None, {})
        assert (recipe.optimizer, recipe.loss, recipe.architecture.output_activation, recipe.batch, recipe.epochs) == (
            "adam",
            "l2",
            "linear",
            9000,
            300,
        )
        assert recipe.learning_rate == (0.01 if family in ("rae", "brae") else 0.001)
        assert recipe.parts == (() if family in ("ae", "ae3") else ("white", "slope", "saturation"))
        arch = recipe.architecture
        assert arch.sizes == (
            {"units": 40} if family in ("rae", "brae") else {"hidden": (125, 40, 125) if family == "ae3" else (40,)}
        )
    assert make("dae", None, {"hidden": [125, 40, 125], "noise": ["saturation", "white"]}).parts == ("white", "saturation")


def test_options_win_over_the_file_and_the_file_over_the_family(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('family = "transformer"\nwidth = 32\nlearning_rate = 1\nbatch = 7\nshares = { full = 0.5, clean = 0.5 }\n')
    (tmp_path / "typed.toml").write_text('noise = "white,slope"\nhidden = "9,5"\nlearning-rate = 0.5\n')
    typed = make("dae", tmp_path / "typed.toml", {})
    assert (typed.parts, typed.hidden, typed.learning_rate) == (("white", "slope"), [9, 5], 0.5)
    recipe = make(None, path, {"batch": 9})
    assert (recipe.family, recipe.width, recipe.learning_rate, recipe.batch) == ("transformer", 32, 1.0, 9)
    assert recipe.shares == {"full": 0.5, "clean": 0.5}
    assert recipe.ema == FAMILY["transformer"]["ema"]
    assert msgspec.convert(msgspec.to_builtins(recipe), Recipe) == recipe


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learning_rate = -1", "recipe.toml: learning_rate: expected `float` > 0.0, got -1"),
        ("shares = { full = 0.5, odd = 0.5 }", "recipe.toml: shares: must be full, mild, clean,"),
        ("shares = { full = 0.5 }", "recipe.toml: shares: must add up to 1, got 0.5"),
        ("batch = 'many'", "recipe.toml: batch: expected `int`, got 'many'"),
        ("colour = 3", "recipe.toml: 'colour' is no key of a recipe"),
        ("loss = 'l3'", "recipe.toml: loss: known are l2, l1, shape, robust, balanced, got 'l3'"),
        ("noise = ['pink']", "recipe.toml: noise: must be none, white, slope, saturation, n1, got ['pink']"),
        ("noise = ['none', 'white']", "recipe.toml: noise: none cannot be joined"),
        ("noise = []", "recipe.toml: noise: name one"),
        ("width = 64", "recipe.toml: width: the family 'dae' has hidden"),
        ("shares = { full = 0.7, mild = 0.7 }", "recipe.toml: shares: must add up to 1, got 1.4"),
        ("output_activation = 'gelu'", "output activation 'gelu': known are linear"),
        ("hidden = [0]", "recipe.toml: hidden: expected `int` >= 1"),
        ("batch = ", "recipe.toml: not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_file_key_and_value(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        make("dae", tmp_path / "recipe.toml", {})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_differences_name_the_key_and_both_values() -> None:
    assert differences(small(learning_rate=0.01, seed=2), small()) == [
        "learning_rate: 0.001 there, 0.01 asked",
        "seed: 1 there, 2 asked",
    ]


# ---- batches -------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_epoch_and_number_alone(sets: list[data.Set]) -> None:
    source, again = batches.Source(sets, small()), batches.Source(sets, small())
    again.batch(0, 0)
    np.testing.assert_array_equal(source.batch(3, 1).inputs[0], again.batch(3, 1).inputs[0])
    one = source.batch(3, 1).inputs[0]
    for other in (source.batch(3, 2), source.batch(4, 1), batches.Source(sets, small(seed=2)).batch(3, 1)):
        assert not np.array_equal(one, other.inputs[0])


def test_other_processes_draw_the_same_batches_and_their_end_is_told(sets: list[data.Set]) -> None:
    recipe = small(epochs=30)
    source, pool = batches.Source(sets, recipe), batches.Pool(sets, recipe, 1, recipe.steps)
    try:
        for epoch, number in [(1, 3), (2, 0), (2, 1), (2, 0), (2, 1), (2, 2), (2, 3)]:  # as a resumed run and Keras ask
            np.testing.assert_array_equal(pool.batch(epoch, number).packed, source.batch(epoch, number).packed)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(ConfigError, match="a process that draws batches has ended"):
            [pool.batch(epoch, number) for epoch in range(3, 30) for number in range(4)]
    finally:
        pool.close()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_whose_batches_other_processes_draw_leaves_the_same_weights(sets: list[data.Set], tmp_path: Path) -> None:
    for name, processes in (("alone", 0), ("helped", 1)):
        assert fit.fit(small(epochs=2), sets, tmp_path / name, threads=1, processes=processes)
    alone, helped = (contents(tmp_path / name)["weights.safetensors"] for name in ("alone", "helped"))
    assert alone == helped


def test_one_pass_shows_every_training_window_once_and_in_another_order_each_epoch(sets: list[data.Set]) -> None:
    source = batches.Source(sets, small(steps=0, batch=25, noise=["none"]))
    windows = len(source.windows)
    assert windows == 6 * (500 // 50)
    assert source.steps == -(-windows // 25)

    def shown(epoch: int) -> list[bytes]:
        return [row.tobytes() for number in range(source.steps) for row in source.batch(epoch, number).inputs[0]]

    first, second = shown(0), shown(1)
    assert len(first) == windows
    assert sorted(first) == sorted(second)
    assert first != second
    expected = noise.minmax(source.windows.given(np.arange(windows)))
    assert sorted(first) == sorted(row.tobytes() for row in expected)


def test_random_windows_come_from_the_sets_by_their_shares_and_are_stretched_within_bounds() -> None:
    slow = data.Set("a", {"train": data.Clean([np.sin(np.arange(400) / 10)], ["sine"])})
    ramp = data.Set("b", {"train": data.Clean([5 + np.arange(300) / 300], ["ramp"])})
    drawn = batches.Windows([slow, ramp], [0.25, 0.75], 50, 1.5).random(4000, np.random.default_rng(1))[0]
    ramps = drawn.min(axis=1) > 2
    assert ramps.mean() == pytest.approx(0.75, abs=0.03)
    rise = np.diff(drawn[ramps], axis=1) * 300
    np.testing.assert_allclose(rise, np.repeat(rise[:, :1], 49, axis=1), atol=0.02)
    assert rise.min() == pytest.approx(1 / 1.5, abs=0.03)
    assert rise.max() == pytest.approx(1.5, abs=0.03)


@pytest.mark.parametrize("family", ["dae", "transformer"])
def test_the_packed_target_is_the_clean_pulse_as_it_lies_in_what_the_network_answers(family: str, sets: list[data.Set]) -> None:
    recipe = small(family, noise=["slope"], shares={"full": 1.0}, batch=200)
    drawn = batches.Source(sets, recipe).batch(0, 0)
    clean, gain, level = drawn.packed[:, :50], drawn.packed[:, 50:51], drawn.packed[:, 51:52]
    assert clean.min() == 0
    assert clean.max() == 1
    if family == "dae":
        assert (gain == 1).all()
        assert (level == 0).all()
        assert len(drawn.inputs) == 1
        return
    # Without white noise the input is the answer plus a ramp around its own mean.
    rest = drawn.inputs[0] - (gain * clean + level)
    slope = np.linspace(-1, 1, 50)
    np.testing.assert_allclose(rest, (rest @ slope / (slope @ slope))[:, None] * slope, atol=2e-5)


def test_shares_say_how_much_of_a_batch_is_clean_mild_or_full(sets: list[data.Set]) -> None:
    recipe = small(noise=["white"], shares={"full": 0.5, "mild": 0.2, "clean": 0.3}, batch=4000)
    drawn = batches.Source(sets, recipe).batch(0, 0)
    rest = drawn.inputs[0] - drawn.packed[:, :50]
    untouched = np.abs(rest).max(axis=1) < 1e-5
    assert untouched.mean() == pytest.approx(0.3, abs=0.03)


def test_losses_are_what_their_names_say() -> None:
    keras = import_keras()
    rng = np.random.default_rng(1)
    clean, answer = noise.minmax(rng.uniform(0, 1, (5, 30))), rng.uniform(0, 1, (5, 30))
    packed = np.concatenate([clean, np.full((5, 1), 0.5), np.full((5, 1), 0.2), np.ones((5, 2))], axis=1).astype(np.float32)
    error = (answer - (0.5 * clean + 0.2)) / 0.5
    both = [np.asarray(keras.ops.convert_to_tensor(a.astype(np.float32))) for a in (packed, answer)]
    np.testing.assert_allclose(losses.l2(*both), (error**2).mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(losses.l1(*both), np.abs(error).mean(axis=1), rtol=1e-4)
    shapes = ((noise.minmax(answer) - clean) ** 2).mean(axis=1)
    np.testing.assert_allclose(losses.shape(*both), (error**2).mean(axis=1) + shapes, rtol=1e-4)


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("family", list(TINY))
def test_every_family_trains_and_is_restored_as_it_was(family: str, sets: list[data.Set], tmp_path: Path) -> None:
    recipe = small(family, epochs=1)
    fit.fit(recipe, sets, tmp_path, threads=1)
    found = restore(tmp_path)
    assert found.arch == recipe.architecture
    answer = runtime.denoiser(found)(
        Batch(np.random.default_rng(1).uniform(0, 1, (3, 50)).astype(np.float32), np.ones((3, 50), bool))
    )
    assert np.isfinite(answer.y).all()
    row = log(tmp_path)[0]
    assert found.figures == {
        k: pytest.approx(float(row[k]), rel=1e-4, abs=1e-4) for k in ("loss", "val_loss", "val_g_synthetic_db")
    }


def test_a_run_leaves_its_log_pictures_card_and_split(
    sets: list[data.Set], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit.fit(small(epochs=3), sets, tmp_path, threads=1)
    rows = log(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert set(rows[0]) == {"epoch", "loss", "val_loss", "val_g_synthetic_db", "minutes"}
    for picture in ("loss.png", "examples.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert bool(list(tmp_path.rglob("events*"))) == (find_spec("tensorboard") is not None)
    text = (tmp_path / "README.md").read_text()
    found = restore(tmp_path)
    for part in (found.id.hex(), 'family = "dae"', "hidden = [4]", "own generator", "Not a medical device"):
        assert part in text
    assert found.provenance["split"] == {
        "train": ["6 synthetic people"],
        "validation": ["2 synthetic people"],
        "test": ["2 synthetic people"],
    }
    said = capfd.readouterr().err.splitlines()
    assert any("the generator makes" in line and " to go" in line for line in said)
    assert [line.split()[0] for line in said if line.split()[0] in ("epoch", "start", "1", "2", "3")] == [
        "epoch",
        "start",
        "1",
        "2",
        "3",
    ]
    assert "\x1b" not in "".join(said)


def test_a_terminal_shows_a_bar_with_loss_and_time_left_over_a_row_an_epoch() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120, highlight=False)
    shown = Progress(2, 10, ["own"], console)
    with shown:
        for epoch in (1, 2):
            shown.epoch(epoch)
            for step in range(1, 11):
                shown.batch(step, 0.25)
            console.print(shown.__rich__())
            shown.row(epoch, {"loss": 0.25, "val_loss": 0.5, "val_g_own_db": 7.5, "minutes": 0.1})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    for part in ("epoch 1/2", "epoch 2/2", "10/10", "loss 0.25000", "s left", "G own, dB", "7.50", "G 7.5 dB"):
        assert part in text, text
    assert text.count("val_loss") == 1


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_written_where_it_can_be_imported(
    installed: bool, sets: list[data.Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    asked: list[str] = []

    class Board(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self, folder: str, **_: Any) -> None:
            super().__init__()
            asked.append(folder)

    monkeypatch.setattr(keras.callbacks, "TensorBoard", Board)
    monkeypatch.setattr(fit, "find_spec", lambda name: object() if installed else None)
    fit.fit(small(epochs=1, steps=1), sets, tmp_path, threads=1)
    assert asked == ([str(tmp_path / "tensorboard")] if installed else [])


@pytest.mark.usefixtures("no_pictures")
def test_three_steps_save_trained_weights_and_not_the_random_ones(sets: list[data.Set], tmp_path: Path) -> None:
    before: dict[str, np.ndarray] = {}

    class Recorder:
        def __call__(self, run: fit.Run, source: batches.Source) -> tuple[float, float]:
            before.update({str(k): v for k, v in enumerate(run.model.get_weights())})
            return 1.0, 1.0

    real = fit._speeds
    fit._speeds = Recorder()
    try:
        fit.fit(small(epochs=1, steps=3, ema=0.999, learning_rate=0.1), sets, tmp_path, threads=1)
    finally:
        fit._speeds = real
    after = list(tensors(tmp_path).values())
    start = sorted(before.values(), key=lambda v: v.tobytes())
    moved = [
        np.abs(a - b).max()
        for a, b in zip(sorted(after, key=lambda v: v.shape), sorted(start, key=lambda v: v.shape), strict=True)
    ]
    assert max(moved) > 0.2  # of three steps of 0.1: the average follows


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("dae", {"dropout": 0.3, "ema": 0.9, "warm_up": 3, "steps": 10}),
        ("ae3", {"optimizer": "adamw", "noise": ["white"], "steps": 0, "batch": 20}),
    ],
)
def test_a_killed_run_goes_on_and_ends_with_the_weights_of_one_that_was_not(
    family: str, options: dict[str, Any], sets: list[data.Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(family, epochs=4, **options)
    fit.fit(recipe, sets, tmp_path / "whole", threads=1)
    real = batches.Source.batch

    def killing(self: batches.Source, epoch: int, number: int) -> batches.Drawn:
        if (epoch, number) == (2, 1) and list((tmp_path / "killed").glob("state.npz")):
            raise KeyboardInterrupt
        return real(self, epoch, number)

    with monkeypatch.context() as patch:
        patch.setattr(batches.Source, "batch", killing)
        with pytest.raises(BaseException):  # noqa: B017, PT011 (TensorFlow wraps it in an error of its own)
            fit.fit(recipe, sets, tmp_path / "killed", threads=1)
    state = fit.state_of(tmp_path / "killed")
    assert state is not None
    assert state["done"] == 2
    with (tmp_path / "killed" / "log.csv").open("a") as lines:
        lines.write("3,9,9,9,9\n")  # an epoch whose state was not written any more
    fit.fit(recipe, sets, tmp_path / "killed", resume=True, threads=1)
    whole, gone_on = tensors(tmp_path / "whole"), tensors(tmp_path / "killed")
    for name, tensor in whole.items():
        np.testing.assert_array_equal(gone_on[name], tensor, err_msg=name)
    assert [row["epoch"] for row in log(tmp_path / "killed")] == ["1", "2", "3", "4"]
    assert [row["loss"] for row in log(tmp_path / "killed")] == [row["loss"] for row in log(tmp_path / "whole")]


@pytest.mark.usefixtures("no_pictures")
def test_minutes_end_the_call_after_an_epoch_and_the_schedule_does_not_know_of_them(sets: list[data.Set], tmp_path: Path) -> None:
    recipe = small(epochs=3, final_rate=0.01, warm_up=2)
    fit.fit(recipe, sets, tmp_path / "whole", threads=1)
    for done in (1, 2, 3):
        fit.fit(recipe, sets, tmp_path / "parts", resume=done > 1, minutes=1e-9, threads=1)
        state = fit.state_of(tmp_path / "parts")
        assert state is not None
        assert state["done"] == done
    for name, tensor in tensors(tmp_path / "whole").items():
        np.testing.assert_array_equal(tensors(tmp_path / "parts")[name], tensor)


@pytest.fixture(scope="module")
def finished(sets: list[data.Set], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "examples", lambda *_: None)
        patch.setattr(pictures, "curves", lambda *_: None)
        fit.fit(small(), sets, folder, threads=1)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.usefixtures("no_pictures")
def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(run: Path, sets: list[data.Set]) -> None:
    before = contents(run)
    with pytest.raises(UsageError, match=r"holds a run already.*--resume.*--overwrite"):
        fit.fit(small(), sets, run, threads=1)
    with pytest.raises(UsageError, match="give one of them"):
        fit.fit(small(), sets, run, resume=True, overwrite=True, threads=1)
    assert contents(run) == before
    fit.fit(small(seed=5, epochs=1), sets, run, overwrite=True, threads=1)
    assert [row["epoch"] for row in log(run)] == ["1"]
    assert contents(run)["weights.safetensors"] != before["weights.safetensors"]
    with pytest.raises(UsageError, match="nothing to go on from"):
        fit.fit(small(), sets, run / "none", resume=True, threads=1)


@pytest.mark.usefixtures("no_pictures")
def test_resume_refuses_another_recipe_family_or_data_and_names_what_differs(run: Path, sets: list[data.Set]) -> None:
    before = contents(run)
    other = [data.Set("synthetic", {"train": people(6, 9), "validation": people(2, 2), "test": people(2, 3)})]
    for recipe, those, told in (
        (small(learning_rate=0.5), sets, "learning_rate: 0.001 there, 0.5 asked"),
        (small("ae"), sets, "family: dae there, ae asked"),
        (small(epochs=1), sets, "epochs: 2 there, 1 asked"),
        (small(), other, "data: other recordings there"),
    ):
        with pytest.raises(ConfigError) as caught:
            fit.fit(recipe, those, run, resume=True, threads=1)
        assert told in str(caught.value)
    fit.fit(small(), sets, run, resume=True, threads=1)  # finished: says so, and does nothing
    assert contents(run) == before


@pytest.mark.usefixtures("no_pictures")
def test_a_finished_run_can_be_made_longer(sets: list[data.Set], tmp_path: Path) -> None:
    assert fit.fit(small(epochs=2), sets, tmp_path / "run", threads=1)
    assert fit.fit(small(epochs=3), sets, tmp_path / "run", resume=True, threads=1)
    assert [row["epoch"] for row in log(tmp_path / "run")] == ["1", "2", "3"]
    assert fit.state_of(tmp_path / "run")["recipe"].epochs == 3  # type: ignore[index]


def test_a_second_run_in_one_folder_is_refused_until_the_first_has_ended(sets: list[data.Set], tmp_path: Path) -> None:
    first = "import sys, pathlib; sys.path.insert(0, sys.argv[2])\nfrom ppgstream.train import fit\n"
    first += "with fit.alone(pathlib.Path(sys.argv[1])): print('there', flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", first, str(tmp_path), str(Path(__file__).parents[1])]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "there\n"
        with pytest.raises(UsageError, match="another process trains in this folder"):
            fit.fit(small(), sets, tmp_path, threads=1)
        other.kill()  # the lock ends with its process
    with fit.alone(tmp_path):
        pass


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("full_at", ["checkpoint.json", "state.npz"])
def test_a_full_disk_is_told_and_the_last_good_state_stays(
    full_at: str, sets: list[data.Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = small(epochs=3), tmp_path / "run"
    fit.fit(recipe, sets, run, minutes=1e-9, threads=1)
    before = contents(run)
    real = storage._beside

    def beside(path: Path) -> tuple[int, Path]:
        if path.name == full_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_beside", beside)
        with pytest.raises(OutputError, match="No space left"):
            fit.fit(recipe, sets, run, resume=True, threads=1)
    assert contents(run)["state.npz"] == before["state.npz"]
    assert not list(run.glob("*.tmp"))
    restore(run)
    fit.fit(recipe, sets, run, resume=True, threads=1)
    assert [row["epoch"] for row in log(run)] == ["1", "2", "3"]


@pytest.mark.usefixtures("no_pictures")
def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_state(
    sets: list[data.Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"epoch 1, step \d: the loss is no longer finite; nothing was saved.*learning-rate"):
        fit.fit(small(optimizer="sgd", learning_rate=1000, hidden_activation="linear", steps=40), sets, tmp_path / "a", threads=1)
    assert not (tmp_path / "a" / MANIFEST).exists()
    real = batches.Source.batch

    def poisoned(self: batches.Source, epoch: int, number: int) -> batches.Drawn:
        drawn = real(self, epoch, number)
        if (epoch, number) == (1, 2):
            drawn.packed[0, 3] = np.nan
        return drawn

    monkeypatch.setattr(batches.Source, "batch", poisoned)
    with pytest.raises(ConfigError, match=r"epoch 2, step 3: .*the last good state, after epoch 1, is in"):
        fit.fit(small(), sets, tmp_path / "b", threads=1)
    assert restore(tmp_path / "b").provenance["epochs_done"] == 1


@pytest.mark.usefixtures("no_pictures")
def test_early_stopping_keeps_the_best_weights_through_a_kill(
    sets: list[data.Set], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two are taken before a call's first epoch, then one after each.
    values = iter([9.0, 9.0, 1.0, 9.0, 9.0, 2.0, 9.0, 9.0, 0.5, 0.6, 0.7])

    def scores(*_: Any) -> dict[str, float]:
        return {"val_loss": next(values), "val_g_synthetic_db": 1.0}

    monkeypatch.setattr(fit, "_scores", scores)
    recipe = small(epochs=9, early_stop=2)
    fit.fit(recipe, sets, tmp_path, minutes=1e-9, threads=1)
    first = contents(tmp_path)["weights.safetensors"]
    fit.fit(recipe, sets, tmp_path, resume=True, minutes=1e-9, threads=1)
    assert contents(tmp_path)["weights.safetensors"] == first  # 2.0 is no better than the 1.0 of the call before
    fit.fit(recipe, sets, tmp_path, resume=True, threads=1)
    assert [float(row["val_loss"]) for row in log(tmp_path)] == [1.0, 2.0, 0.5, 0.6, 0.7]
    found = restore(tmp_path)
    assert (found.provenance["epochs_done"], found.figures["val_loss"]) == (3, 0.5)
    state = fit.state_of(tmp_path)
    assert state is not None
    assert (state["done"], state["stopped"]) == (5, True)


# ---- going on from a checkpoint ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_from_a_checkpoint_begins_with_its_weights_and_says_so(
    ema: float, finished: Path, sets: list[data.Set], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start = restore(finished)
    asked = {"steps": 1, "epochs": 1, "batch": 4, "learning_rate": 1e-9, "ema": ema}
    recipe = fit.architecture_from(start, make("dae", None, asked), finished)
    assert recipe.architecture == start.arch
    fit.fit(recipe, sets, tmp_path / "next", start=start, threads=1)
    for name, tensor in tensors(tmp_path / "next").items():
        np.testing.assert_allclose(tensor, start.tensors[name], atol=1e-7)
    assert restore(tmp_path / "next").provenance["from"] == {"name": "run", "sha256": start.sha256}
    stated = next(line for line in capfd.readouterr().err.splitlines() if line.lstrip().startswith("start"))
    assert float(stated.split()[1]) == pytest.approx(start.figures["val_loss"], rel=1e-3)


@pytest.mark.usefixtures("no_pictures")
def test_a_transformer_gets_bands_and_answers_the_same_before_it_is_trained_on(sets: list[data.Set], tmp_path: Path) -> None:
    fit.fit(small("transformer", epochs=1), sets, tmp_path / "one", threads=1)
    start = restore(tmp_path / "one")
    recipe = fit.architecture_from(start, small("transformer", bands=3), "one")
    assert recipe.architecture.size("bands") == 3
    grown = fit.banded(start, recipe.architecture)
    rng = np.random.default_rng(1)
    x, valid = rng.standard_normal((8, 50)).astype(np.float32), (rng.random((8, 50)) > 0.2).astype(np.float32)
    answers = []
    for one in (start, grown):
        model = build(one.arch)
        load_into(model, one)
        answers.append(np.asarray(model.predict_on_batch([x, valid])))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    fit.fit(recipe, sets, tmp_path / "three", start=start, threads=1)
    assert restore(tmp_path / "three").arch.size("bands") == 3
    assert "bands" not in json.loads((tmp_path / "one" / MANIFEST).read_text())["network"]["sizes"]
    with pytest.raises(CheckpointError, match="bands 3 there, 1 asked"):
        fit.architecture_from(grown, small("transformer", bands=1), "three")


def test_from_refuses_another_family_or_architecture(finished: Path) -> None:
    start = restore(finished)
    for recipe, told in (
        (make("rae", None, {}), "of the family 'dae'; --from needs one of 'rae'"),
        (make("dae", None, {"hidden": [9]}), r"another architecture: hidden \(4,\) there, \(9,\) asked"),
        (make("ae", None, {"hidden_activation": "tanh"}), "hidden activation sigmoid there, tanh asked"),
        (make("ae", None, {"output_activation": "sigmoid"}), "output activation linear there, sigmoid asked"),
        (make("ae", None, {"window": 60}), "window 50 there, 60 asked"),
    ):
        with pytest.raises(CheckpointError, match=told):
            fit.architecture_from(start, recipe, finished)
    assert fit.architecture_from(start, make("ae3", None, {}), finished).architecture.sizes == {"hidden": (4,)}
    odd = replace(start, arch=replace(start.arch, output_activation="sigmoid"))
    assert fit.architecture_from(odd, make("ae", None, {}), finished).output_activation == "sigmoid"


def test_a_recording_that_the_checkpoint_was_ever_trained_on_is_no_test(sets: list[data.Set], tmp_path: Path) -> None:
    own = [data.Set("own", {"train": people(6, 1, "own"), "validation": people(2, 2, "own"), "test": data.Clean([], [])})]
    fit.fit(small(epochs=1, steps=1), own, tmp_path / "first", threads=1)
    first = restore(tmp_path / "first")
    fit.fit(
        small(epochs=1, steps=1), sets, tmp_path / "second", start=first, threads=1
    )  # on other people: what was known stays known
    second = restore(tmp_path / "second")
    assert second.provenance["trained_on"]["recordings"] == [f"own_1_{k}" for k in range(6)]
    copied = data.Clean([5 - 2 * -own[0].sides["train"].stretches[3]], ["another name"])
    for known, told in ((people(6, 1, "own"), "own_1_0"), (copied, "another name")):
        leaking = [data.Set("own", {"train": people(3, 8), "validation": known, "test": people(1, 9)})]
        with pytest.raises(DataError, match=rf"recording {told} is in validation here, and second was trained on it"):
            fit.fit(small(), leaking, tmp_path / "third", start=second, threads=1)
    assert not (tmp_path / "third").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_resumed_run_still_knows_the_checkpoint_that_it_began_from(
    finished: Path, sets: list[data.Set], tmp_path: Path
) -> None:
    start = restore(finished)
    recipe = fit.architecture_from(start, small(epochs=2, steps=1, seed=4), finished)
    fit.fit(recipe, sets, tmp_path / "next", start=start, minutes=1e-9, threads=1)
    fit.fit(recipe, sets, tmp_path / "next", resume=True, threads=1)
    assert restore(tmp_path / "next").provenance["from"] == {"name": "run", "sha256": start.sha256}
    other = replace(start, sha256="f" * 64)
    with pytest.raises(ConfigError, match=f"from: {start.sha256[:16]} there, ffffffffffffffff asked"):
        fit.fit(recipe, sets, tmp_path / "next", start=other, resume=True, threads=1)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_an_overwritten_run_comes_back_if_the_new_one_never_saves_a_state(
    failure: BaseException, run: Path, sets: list[data.Set], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)

    def fails(*_: Any) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(fit.Run, "save_state", fails)
        with pytest.raises((OutputError, KeyboardInterrupt)) as caught:
            fit.fit(small(seed=7), sets, run, overwrite=True, threads=1)
    assert contents(run) == before
    assert not (run / fit.BEFORE).exists()
    assert "still good" not in str(caught.value)
    if isinstance(failure, KeyboardInterrupt):
        assert "stopped in epoch" in capfd.readouterr().err
    fit.fit(small(seed=7), sets, run, overwrite=True, threads=1)
    assert not (run / fit.BEFORE).exists()
    assert [row["epoch"] for row in log(run)] == ["1", "2"]


@needs_course
def test_the_course_s_brae_is_restored_with_its_figure_and_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "examples", lambda *_: None)
    found = restore(SHARED / "course" / "BRAE_tensorboard" / "checkpoints")
    denoise = methods.windows_through(runtime.denoiser(found))
    test = data.scored_windows(data.course(SHARED, "test"))
    row = evaluate.window_row(methods.Method("course BRAE", denoise), test, parts=["N1"])
    assert row["g_n1_db"] == pytest.approx(8.07, abs=0.01)
    sides = {side: data.course(SHARED, side) for side in data.SIDES}
    options = {"steps": 6, "epochs": 2, "batch": 64, "learning_rate": 1e-3, "dropout": 0.0, "noise": ["white"]}
    recipe = fit.architecture_from(found, make("brae", None, options), "BRAE")
    fit.fit(recipe, [data.Set("course", sides)], tmp_path, start=found)
    falling = [float(row["loss"]) for row in log(tmp_path)]
    assert falling[-1] < falling[0]


# ---- other backends, the data, the command -------------------------------------------------------------------------


def _backend() -> str | None:
    return next((name for name in ("jax", "torch") if find_spec(name) is not None), None)


@pytest.mark.skipif(_backend() is None, reason="neither jax nor torch is installed: the other backends of Keras are not tried")
def test_the_trainer_runs_without_tensorflow(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from ppgstream.cli.app import app\n"
        "app(['train', '--recipe', 'r.toml', '--synthetic', '--epochs', '2', '--steps', '3', '--batch', '16', '--out', "
        "'run'], standalone_mode=False)\n"
        "app(['train', 'dae', '--from', 'net-1', '--synthetic', '--out', 'other'])\n"
    )
    (tmp_path / "net-1.index").write_bytes(b"")
    (tmp_path / "r.toml").write_text("family = 'dae'\nema = 0.9\n")  # an average of the weights, to be saved in their place
    environment = os.environ | {"KERAS_BACKEND": str(_backend())}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert "    2 " in done.stderr, done.stderr
    assert restore(tmp_path / "run").arch.family == "dae"
    assert done.returncode == 78
    assert "TensorFlow cannot be imported" in done.stderr.splitlines()[-1]


def test_a_recording_on_two_sides_is_refused_by_name() -> None:
    train, validation = people(2, 1), people(2, 2)
    nothing = data.Clean([], [])
    data.refuse_leak([data.Set("own", {"train": train, "validation": validation, "test": nothing})])
    same_name = data.Clean(validation.stretches, [train.recording[1], "other"])
    with pytest.raises(DataError, match="recording someone_1_1 is in train and in validation"):
        data.refuse_leak([data.Set("own", {"train": train, "validation": same_name, "test": nothing})])
    copied = data.Clean([3 * train.stretches[0] + 2], ["a copy"])
    with pytest.raises(DataError, match="recording someone_1_0 = a copy is in train and in test"):
        data.refuse_leak([data.Set("own", {"train": train, "validation": validation, "test": copied})])


def test_figures_and_the_card_state_only_what_was_evaluated(sets: list[data.Set], tmp_path: Path) -> None:
    alone = [data.Set("own", {"train": people(6, 1), "validation": people(1, 2), "test": data.Clean([], [])})]
    fit.fit(small(epochs=1), alone, tmp_path, threads=1)
    found = restore(tmp_path)
    assert set(found.figures) == {"loss", "val_loss", "val_g_own_db"}
    assert found.provenance["split"]["test"] == []
    assert "test: none" in card.text(found)


def test_mflop_counts_two_for_each_product() -> None:
    assert make("dae", None, {}).architecture.mflop == pytest.approx(2e-6 * 2 * 250 * 40)
    assert make("brae", None, {}).architecture.mflop == pytest.approx(2e-6 * (251 * 160 * 41 + 250 * 80))


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> Path:
    """A working folder with a run of dae, a file and empty folders."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("empty", "short", "one", "rates"):
        (tmp_path / name).mkdir()
    np.savetxt(tmp_path / "short" / "a.txt", np.arange(50))
    np.savetxt(tmp_path / "one" / "a.txt", people(1, 1).stretches[0].repeat(3))
    times = np.arange(1500) / 50
    np.savetxt(tmp_path / "rates" / "a.csv", np.column_stack([times, times]), delimiter=",", header="time,ppg", comments="")
    shutil.copytree(finished, tmp_path / "small")
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "code", "told"),
    [
        ("gan", 2, "FAMILY 'gan': known are ae, ae3"),
        ("", 2, "FAMILY: name one of ae"),
        ("dae --hidden 3,x", 2, "--hidden '3,x': must be whole numbers"),
        ("dae --loss l3", 78, "loss: known are l2, l1, shape, robust, balanced, got 'l3'"),
        ("dae --noise pink", 78, "noise: must be none, white, slope, saturation, n1, got ['pink']"),
        ("dae --learning-rate 0", 78, "learning-rate: expected `float` > 0.0, got 0"),
        ("dae --optimizer lion", 78, "optimizer: must be adam, adamw, sgd, got 'lion'"),
        ("rae --hidden 3", 78, "hidden: the family 'rae' has units"),
        ("dae --units 3", 78, "units: the family 'dae' has hidden"),
        ("dae --output-activation gelu", 78, "output activation 'gelu': known are"),
        ("transformer --hidden-activation relu", 78, "network family 'transformer': its activations are fixed"),
        ("dae --recipe nowhere.toml", 78, "nowhere.toml: cannot read the recipe"),
        ("dae", 2, "no recordings: give --recordings FOLDER, --data FOLDER or --synthetic"),
        ("dae --synthetic --column ppg", 2, "--column: is for --recordings"),
        ("dae --data nowhere", 69, "nowhere: no recordings: neither course/, bidmc/ nor wrist/"),
        ("dae --recordings nowhere", 69, "--recordings nowhere: no such folder"),
        ("dae --recordings empty", 69, "--recordings empty: no recordings in it"),
        ("dae --recordings short", 2, "short/a.txt: states no sampling rate: say --fs"),
        ("dae --recordings short --fs 7", 2, "--fs 7: must be 20 to 1000 Hz"),
        ("dae --recordings short --fs 125", 65, "0 s of clean signal in 0 of 1 recordings"),
        ("dae --recordings one --fs 125", 65, "training needs clean signal of at least two recordings"),
        ("dae --recordings rates --fs 125", 65, "rates/a.csv: --fs 125, but 50 Hz by its times (time)"),
        ("dae --recordings one --fs 125 --group (", 2, "--group '(': not a regular expression"),
        ("dae --recordings one --fs 125 --group p(1)", 2, "--group 'p(1)': not found in the file name 'a.txt'"),
        ("dae --synthetic --data empty", 2, "--synthetic: trains on nothing else"),
        ("dae --synthetic --out file", 74, "file: cannot be the folder of a run"),
        ("dae --synthetic --out small", 2, "small: holds a run already"),
        ("dae --synthetic --out none --resume", 2, "--resume: none/state.npz is not there"),
        ("dae --out small --resume --seed 9 --synthetic", 78, "seed: 1 there, 9 asked"),
        ("dae --synthetic --from nowhere", 78, "nowhere: no checkpoint here"),
        ("rae --synthetic --from small", 78, "small: a checkpoint of the family 'dae'"),
        ("dae --synthetic --from small --hidden 9", 78, "hidden (4,) there, (9,) asked"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(asked: str, code: int, told: str, at: Path) -> None:
    before = {p.name: contents(p) for p in at.iterdir() if p.is_dir()}
    result = CliRunner().invoke(
        app, ["train", *asked.split(), "--threads", "1", "--no-calibrate"], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    assert result.exit_code == code, result.output
    assert told in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("ppgstream: ")]) == 1
    assert {p.name: contents(p) for p in at.iterdir() if p.is_dir()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_to_write_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    result = CliRunner().invoke(
        app, ["train", "dae", "--synthetic", "--out", str(tmp_path / "run"), "--epochs", "1", "--steps", "1"]
    )
    assert result.exit_code == 74


def test_the_command_resumes_by_its_folder_alone_and_calibrates_what_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stated = {"249": {"bias": -1.0, "weights": {"confidence": 3.0}}}
    asked_of = []
    monkeypatch.setattr(calibrate, "whole", lambda *args, **_: (asked_of.append(args), (stated, {"a figure": 0.5}))[1])
    monkeypatch.setattr(data, "SYNTHETIC_PEOPLE", {"train": 6, "validation": 2, "test": 2})
    (tmp_path / "r.toml").write_text("early_stop = 50\n")
    asked = (
        "dae --synthetic --recipe r.toml --epochs 3 --steps 2 --batch 8 --hidden 6,3,6 --noise white,saturation --optimizer sgd"
    )
    told = CliRunner().invoke(app, ["train", *asked.split(), "--minutes", "0.0000001"])
    assert told.exit_code == 0, told.output
    assert "after epoch 1 of 3: go on with --resume" in told.stderr
    assert "calibration" not in json.loads((tmp_path / "runs" / "dae" / MANIFEST).read_text())
    told = CliRunner().invoke(app, ["train", "dae", "--resume"])
    assert told.exit_code == 0, told.output
    manifest = json.loads((tmp_path / "runs" / "dae" / MANIFEST).read_text())
    assert manifest["calibration"] == stated
    assert manifest["figures"]["a figure"] == 0.5
    assert [len(people) for _, _, people in asked_of] == [8]
    recipe = manifest["provenance"]["recipe"]
    assert (recipe["hidden"], recipe["noise"], recipe["early_stop"]) == ([6, 3, 6], ["white", "saturation"], 50)
    assert math.isfinite(manifest["figures"]["val_loss"])
    assert [row["epoch"] for row in log(tmp_path / "runs" / "dae")] == ["1", "2", "3"]


def test_the_recipe_s_hop_and_lookahead_are_stated_in_the_checkpoint(
    sets: list[data.Set], tmp_path: Path, no_pictures: None
) -> None:
    fit.fit(small(hop=13, lookahead=20, newest=20), sets, tmp_path, threads=1)
    found = restore(tmp_path)
    assert (found.hop, found.lookahead) == (13, 20)
    for key, value in (("hop", 51), ("newest", 51), ("lookahead", 50)):
        with pytest.raises(ConfigError, match=key):
            small(**{key: value})


@pytest.mark.parametrize("name", losses.LOSSES)
def test_the_newest_samples_count_as_much_in_the_loss_as_the_whole_window(name: str) -> None:
    rng = np.random.default_rng(1)
    packed = np.concatenate([rng.uniform(0, 1, (3, 50)), np.ones((3, 1)), np.zeros((3, 1)), np.ones((3, 2))], axis=1).astype("f4")
    answer = rng.uniform(0, 1, (3, 50)).astype("f4")
    answer[:, 30:32] = (0.0, 1.0)  # lowest and highest stay where they are
    other = answer.copy()
    other[:, :30] = rng.uniform(0, 1, (3, 30))

    def loss(newest: int, answer: np.ndarray) -> np.ndarray:
        return np.asarray(losses.loss_of(name, newest)(packed, answer))

    def of_newest(answer: np.ndarray) -> np.ndarray:
        return 2 * loss(20, answer) - loss(0, answer)

    assert (loss(0, answer) != loss(0, other)).all()
    np.testing.assert_allclose(of_newest(answer), of_newest(other), rtol=1e-4)
    np.testing.assert_allclose(loss(50, answer), loss(0, answer), rtol=1e-6)


def test_train_lmmse_computes_a_prior_and_takes_data_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SYNTHETIC_PEOPLE", {"train": 12, "validation": 2, "test": 2})
    out = tmp_path / "prior"

    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["train", "lmmse", "--synthetic", "--out", str(out), *options])

    result = run()
    assert result.exit_code == 0, result.output
    found = restore(out)
    assert (found.arch.family, found.provenance["windows"]) == ("lmmse", 12 * len(range(0, 2500 - 249, 50)))
    denoise = methods.windows_through(runtime.denoiser(found), found.arch.scaling)
    windows = data.scored_windows(data.synthetic_people(2, 99))
    assert evaluate.window_row(methods.Method("prior", denoise), windows, seeds=range(1000, 1002), parts=["N1"])["g_n1_db"] > 5
    assert "## Recipe" not in (out / "README.md").read_text()
    assert "holds a run already" in run().stderr
    assert run("--overwrite").exit_code == 0
    assert "--epochs: lmmse is computed in one pass" in " ".join(run("--epochs", "3").stderr.split())


def test_balanced_weighs_samples_by_the_error_that_the_network_tells() -> None:
    rng = np.random.default_rng(2)
    packed = np.concatenate([rng.uniform(0, 1, (4, 50)), np.ones((4, 1)), np.zeros((4, 1)), np.ones((4, 2))], axis=1).astype("f4")
    wave = rng.uniform(0, 1, (4, 50)).astype("f4")

    def beyond_the_likelihood(name: str, log_var: float) -> np.ndarray:
        told = np.full((4, 50), log_var, np.float32)
        nll = losses.LIKELIHOOD * 0.5 * (told + (wave - packed[:, :50]) ** 2 * np.exp(-told)).mean(axis=1)
        return np.asarray(losses.loss_of(name, 0)(packed, np.concatenate([wave, told], axis=1))) - nll

    usual = beyond_the_likelihood("robust", 0.0)
    for log_var, weight in ((0.0, 1.0), (-2.0, math.exp(0.6)), (-8.0, losses.BALANCED[1]), (4.0, losses.BALANCED[0])):
        np.testing.assert_allclose(beyond_the_likelihood("robust", log_var), usual, rtol=1e-4)
        np.testing.assert_allclose(beyond_the_likelihood("balanced", log_var), weight * usual, rtol=1e-3)
    np.testing.assert_array_equal(  # a network that tells no error weighs all alike
        np.asarray(losses.loss_of("balanced", 0)(packed, wave)), np.asarray(losses.loss_of("robust", 0)(packed, wave))
    )
