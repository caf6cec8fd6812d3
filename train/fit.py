"""The trainer, on Keras' own `fit`: one recipe, read in one sitting. What a run leaves in its folder, after every epoch:

    checkpoint.json, weights.safetensors   the checkpoint (with `early_stop` the best so far, else the latest)
    README.md                              its model card
    state.npz                              everything that `resume` needs: weights, optimizer, what dropout will draw next
    log.csv, loss.png, examples.png        the course of the run
    tensorboard/                           the same for TensorBoard, where it is installed and TensorFlow is the backend

Files are replaced whole, so a kill or a full disk leaves the last good ones.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import CheckpointError, ConfigError, OutputError, UsageError
from ppgstream.lab import scores
from ppgstream.model.architecture import DENSE, Architecture
from ppgstream.model.checkpoint import MANIFEST, WEIGHTS, Checkpoint
from ppgstream.model.folder import save
from ppgstream.model.networks import build
from ppgstream.model.restore import restore
from ppgstream.model.tensorflow_runtime import import_keras, import_tensorflow, load_into
from ppgstream.storage import json_of, open_npz, replace_files

from . import batches, card, data, pictures
from .losses import loss_of
from .progress import Progress, duration
from .recipe import Recipe, differences

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
STATE = "state.npz"
RUN = (STATE, MANIFEST, WEIGHTS)  # files that make a folder one of a run
LEFT = (*RUN, "README.md", "log.csv", "loss.png", "examples.png", "tensorboard")
BEFORE = "before"  # where an overwritten run waits until the new one has a state
# Steps: the average's decay at step n is at most 1 - 1 / (n / 10 + 1), so that random weights are forgotten.
AVERAGE_WARM_UP = 10.0
MEASURED_BATCHES = 3  # of generator and network, before the first epoch
PICTURES_EVERY_S = 15.0
TRACED_STEPS, COMPILED_STEPS = 20, 2000  # planned, from which on tracing and compiling pay
CHUNK = 500  # windows in a validation call


def fit(
    recipe: Recipe,
    sets: Sequence[data.Set],
    out: Path,
    *,
    about: Mapping[str, Any] | None = None,
    start: Checkpoint | None = None,
    resume: bool = False,
    overwrite: bool = False,
    minutes: float | None = None,
    threads: int = 2,
    processes: int = 0,
) -> bool:
    """Train by `recipe` on the training sides of `sets`; `out` becomes a checkpoint folder. True if this call completed the run.

    about: what the state should keep of where the data came from, for the next `resume`. start: weights to begin from. minutes:
    of wall clock, after which this call ends with the epoch that it is in, or before one that would not end in time. processes:
    that draw the batches beside this one; 0: a thread of this one does.

    A run that is gone on with may be made longer: its recipe may state more epochs than before. A learning rate that falls then
    does so over all of them.

    Raises UsageError for a folder that already holds a run or in which another process trains; ConfigError for a recipe that
    differs from the one to resume, and for a loss that is no longer finite; CheckpointError if `start` is of another
    architecture; DataError for a leak or too little data; OutputError for a disk that takes no more.
    """
    refuse_folder(out, resume=resume, overwrite=overwrite)
    with alone(out):
        return _fit(recipe, sets, out, about, start, resume, minutes, threads, processes)


def _fit(
    recipe: Recipe,
    sets: Sequence[data.Set],
    out: Path,
    about: Mapping[str, Any] | None,
    start: Checkpoint | None,
    resume: bool,
    minutes: float | None,
    threads: int,
    processes: int,
) -> bool:
    data.refuse_leak(sets)
    stored = _read_state(out) if resume else None
    if stored is not None:
        refuse_other_run(stored, recipe, sets, start, out)
    began_from = stored["from"] if stored is not None else None if start is None else origin_of(start)
    if began_from is not None:
        data.refuse_known(sets, began_from["trained_on"], began_from["name"])
    arch = recipe.architecture
    source = batches.Source(sets, recipe)
    validation = batches.validation_of(sets, recipe)

    keras = import_keras()
    _use_threads(threads)
    keras.utils.set_random_seed(recipe.seed)
    model = build(arch, dropout=recipe.dropout)
    if start is not None and stored is None:
        load_into(model, banded(start, arch))
    optimizer = _optimizer(recipe, recipe.epochs * source.steps)
    model.compile(optimizer=optimizer, loss=loss_of(recipe.loss, recipe.newest), **_how(arch, recipe.epochs * source.steps))
    optimizer.build(model.trainable_variables)
    run = Run(recipe, arch, model, out, sets, dict(about or {}), began_from)
    if stored is not None:
        run.load(stored)
    progress = Progress(recipe.epochs, source.steps, [v.name for v in validation])
    progress.say(_facts(run, source))
    if run.done >= recipe.epochs or run.stopped:
        why = "stopped early" if run.stopped else "is finished"
        onward = "" if run.stopped else f"--resume --epochs {2 * run.done} makes it longer, "
        progress.say(f"{out}: the run {why} after {run.done} epochs; {onward}--from {out} --out ANOTHER begins another from it")
        return False
    drawn_s, trained_s = _speeds(run, source)
    with run.averaged():
        scores = _scores(model, arch, recipe, validation)
    began = time.perf_counter()
    _scores(model, arch, recipe, validation)  # again: the first call traces the network
    epoch_s = source.steps * max(drawn_s, trained_s) + time.perf_counter() - began
    progress.say(
        f"batches: the generator makes {recipe.batch / drawn_s:,.0f} windows/s, the network takes "
        f"{recipe.batch / trained_s:,.0f}; "
        f"about {duration((recipe.epochs - run.done) * epoch_s)} to go"
    )
    if began_from is not None and not began_from["trained_on"].get("recordings") and not run.done:
        progress.say(
            f"{began_from['name']} does not state what it was trained on: its figures on these recordings may flatter it"
        )
    if not run.done:
        progress.before(scores)

    pool = batches.Pool(sets, recipe, processes, source.steps) if processes else None
    dataset = _dataset(pool or source, source.steps, run.done)
    callbacks = _callbacks(run, dataset, validation, progress, minutes)
    with _disk(run), _kept_until_there_is_a_state(run), progress:
        try:
            model.fit(dataset, epochs=recipe.epochs, initial_epoch=run.done, callbacks=callbacks, verbose=0, shuffle=False)
        except KeyboardInterrupt:
            what = f"the state after epoch {run.done} is in {out}: go on with --resume" if run.done else "nothing was saved yet"
            progress.say(f"stopped in epoch {run.done + 1} of {recipe.epochs}; {what}")
            raise
        finally:
            if pool is not None:
                pool.close()
    if run.done < recipe.epochs and not run.stopped:
        progress.say(f"{minutes:g} minutes are over after epoch {run.done} of {recipe.epochs}: go on with --resume")
        return False
    return True


def origin_of(start: Checkpoint) -> dict[str, Any]:
    """What a run keeps of the checkpoint that it begins from. Before `trained_on` was written, a manifest's split says it."""
    known = start.provenance.get("trained_on") or {"recordings": dict(start.provenance.get("split", {})).get("train", [])}
    return {"name": start.path.name, "sha256": start.sha256, "trained_on": dict(known)}


@contextmanager
def _kept_until_there_is_a_state(run: Run) -> Iterator[None]:
    """A run that is overwritten waits in a folder of its own until the new one has saved its first state, and comes back if that
    never happens."""
    aside = run.out / BEFORE
    old = [name for name in LEFT if (run.out / name).exists()] if not run.done else []
    if old:
        aside.mkdir(exist_ok=True)
        for name in old:
            (run.out / name).replace(aside / name)
    try:
        yield
    finally:
        if old and run.done:
            shutil.rmtree(aside)
        elif old:
            for name in old:
                here = run.out / name
                if here.is_dir():
                    shutil.rmtree(here)
                (aside / name).replace(here)
            aside.rmdir()


class Run:
    """One run's network with all its state, and its folder."""

    def __init__(
        self,
        recipe: Recipe,
        arch: Architecture,
        model: Any,
        out: Path,
        sets: Sequence[data.Set],
        about: dict[str, Any],
        start: dict[str, Any] | None,
    ) -> None:
        self.recipe, self.arch, self.model, self.out, self.sets = recipe, arch, model, out, sets
        self.fingerprint, self.about, self.start = data.fingerprint_of(sets), about, start
        self.trained_on = data.trained_on(sets, None if start is None else start["trained_on"])
        self.done, self.stopped = 0, False
        self.best, self.wait = math.inf, 0  # of early stopping
        self.minutes = 0.0

    @property
    def variables(self) -> list[Any]:
        """Everything that changes in training: weights, what dropout will draw next, optimizer with its average."""
        return [*self.model.variables, *self.model.optimizer.variables]

    def values(self) -> list[NDArray[Any]]:
        from keras import ops

        return [np.array(ops.convert_to_numpy(v)) for v in self.variables]

    def put(self, values: Sequence[NDArray[Any]]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """With the weights that are saved: the average, if the recipe has one. Before the first step it is all zeros."""
        if not self.recipe.ema or not int(self.model.optimizer.iterations):
            yield
            return
        weights = [np.array(w) for w in self.model.get_weights()]
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        # Copies: JAX shares the average's arrays with the weights and frees both once the weights were used.
        self.model.set_weights([np.array(w) for w in self.model.get_weights()])
        try:
            yield
        finally:
            self.model.set_weights(weights)

    def save_state(self, done: int) -> None:
        arrays = {f"v{number}": value for number, value in enumerate(self.values())}
        facts = {
            "recipe": msgspec.to_builtins(self.recipe),
            "data": self.fingerprint,
            "about": self.about,
            "from": self.start,
            "done": done,
            "stopped": self.stopped,
            "best": self.best if math.isfinite(self.best) else None,
            "wait": self.wait,
            "minutes": self.minutes,
        }
        buffer = io.BytesIO()
        np.savez(buffer, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
        replace_files({self.out / STATE: buffer.getvalue()})
        self.done = done

    def load(self, stored: dict[str, Any]) -> None:
        values, there = stored["values"], self.values()
        if len(values) != len(there) or any(a.shape != b.shape for a, b in zip(values, there, strict=True)):
            raise ConfigError(f"{self.out / STATE}: not the state of this network and optimizer; start anew with --overwrite")
        self.put(values)
        self.done, self.stopped, self.wait, self.minutes = (stored[k] for k in ("done", "stopped", "wait", "minutes"))
        self.best = math.inf if stored["best"] is None else stored["best"]
        _trim_log(self.out / "log.csv", self.done)

    def save_checkpoint(self, epoch: int, figures: Mapping[str, float]) -> None:
        recipe = self.recipe
        provenance = card.provenance_of(
            self.sets, self.trained_on, recipe=recipe, epochs_done=epoch, minutes=self.minutes, start=self.start
        )
        save(
            self.out,
            self.model,
            self.arch,
            hop=recipe.hop,
            lookahead=recipe.lookahead,
            provenance=provenance,
            figures=figures,
        )
        replace_files({self.out / "README.md": card.text(restore(self.out)).encode()})


def state_of(out: Path) -> dict[str, Any] | None:
    """What a run's state says without its arrays: recipe, data, about, done. None if there is none."""
    if not (out / STATE).is_file():
        return None
    stored = _read_state(out)
    return {key: value for key, value in stored.items() if key != "values"}


def architecture_from(start: Checkpoint, recipe: Recipe, path: Path | str) -> Recipe:
    """The recipe with the sizes of a checkpoint to go on from, where the recipe leaves them open.

    Raises CheckpointError if the checkpoint is of another family, or of other sizes or activations than the recipe asks for. The
    dense families (ae, ae3, dae) are one.
    """
    there = start.arch
    if there.family != recipe.family and not {there.family, recipe.family} <= set(DENSE):
        raise CheckpointError(f"{path}: a checkpoint of the family {there.family!r}; --from needs one of {recipe.family!r}")
    found = msgspec.structs.replace(
        recipe,
        window=recipe.window or there.window,
        output_activation=recipe.output_activation or there.output_activation,
        **{name: list(v) if isinstance(v, tuple) else v for name, v in there.sizes.items() if getattr(recipe, name) is None},
        hidden_activation=recipe.hidden_activation or there.hidden_activation,
    )
    asked = found.architecture
    odd = [
        f"{name} {there.sizes[name]} there, {value} asked"
        for name, value in asked.sizes.items()
        if there.sizes[name] != value and (name, there.sizes[name]) != ("bands", 1)
    ]
    for name in ("window", "hidden_activation", "output_activation"):
        if getattr(asked, name) != getattr(there, name):
            odd.append(f"{name.replace('_', ' ')} {getattr(there, name)} there, {getattr(asked, name)} asked")
    if odd:
        raise CheckpointError(f"{path}: a checkpoint of another architecture: {'; '.join(odd)}")
    return found


def banded(start: Checkpoint, arch: Architecture) -> Checkpoint:
    """A transformer of one band as one of several that answers the same: the gate of its samples is that of each band, and the
    input that bands bring does not count yet. Any other checkpoint, or one that has the bands of `arch`, as it is."""
    if arch.family != "transformer" or start.arch.sizes.get("bands") == arch.size("bands"):
        return start
    patch, more = arch.size("patch"), arch.size("bands") - 1
    tensors = dict(start.tensors)
    embed, head, bias = (np.asarray(tensors[name]) for name in ("embed/kernel", "head/kernel", "head/bias"))
    tensors["embed/kernel"] = np.concatenate([embed, np.zeros((patch, embed.shape[1]), np.float32)])
    tensors["head/kernel"] = np.concatenate([head, *[head[:, :patch]] * more], axis=1)
    tensors["head/bias"] = np.concatenate([bias, *[bias[:patch]] * more])
    return replace(start, arch=arch, tensors=tensors)


def refuse_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises UsageError for a folder that holds a run, unless it is to be resumed or overwritten; OutputError if it is a file."""
    there = [name for name in RUN if (out / name).exists()]
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: give one of them")
    if resume and STATE not in there:
        raise UsageError(f"--resume: {out / STATE} is not there: nothing to go on from")
    if there and not (resume or overwrite):
        onward = "--resume goes on with it, " if STATE in there else ""
        raise UsageError(f"{out}: holds a run already ({there[0]}): {onward}--overwrite begins anew")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: cannot be the folder of a run: it is a file")


class _Origin(msgspec.Struct):
    name: str
    sha256: str
    trained_on: dict[str, Any]


class _Stated(msgspec.Struct):
    """What a state says in words: the types."""

    recipe: dict[str, Any]
    data: str
    about: dict[str, Any]
    start: _Origin | None = msgspec.field(name="from")
    done: Annotated[int, msgspec.Meta(ge=0)]
    stopped: bool
    best: float | None
    wait: Annotated[int, msgspec.Meta(ge=0)]
    minutes: Annotated[float, msgspec.Meta(ge=0)]


# What NumPy's and Python's readers raise for a file that is no state.
_NO_STATE = (OSError, KeyError, ValueError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


def _read_state(out: Path) -> dict[str, Any]:
    path = out / STATE
    try:
        if not path.is_file():
            raise OSError("not a regular file")
        with open_npz(path) as state:
            facts = dict(json_of(str(state["facts"]).encode()))
            facts["values"] = [state[f"v{number}"] for number in range(len(state.files) - 1)]
            msgspec.convert(facts, _Stated)
            facts["recipe"] = msgspec.convert(facts["recipe"], Recipe)
    except (*_NO_STATE, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: not the state of a run: {error}; begin anew with --overwrite") from error
    return dict(facts)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """While this lasts, no other process trains in the folder `out`. The lock is on the folder itself and ends with its process.
    Raises UsageError if another process has it, OutputError if there can be no such folder."""
    try:
        try:
            out.mkdir(parents=True)
            new = True
        except FileExistsError:
            new = False
        folder = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{out}: cannot write: {error}") from error
    try:
        _lock(folder, out)
        try:
            yield
        finally:
            if new:
                with suppress(OSError):
                    out.rmdir()  # if nothing came of it
    finally:
        os.close(folder)


def _lock(folder: int, out: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{out}: another process trains in this folder: wait until it ends, or give another --out") from None
    except OSError:
        return  # a file system without locks


def refuse_other_run(
    stored: Mapping[str, Any], recipe: Recipe, sets: Sequence[data.Set], start: Checkpoint | None, out: Path
) -> None:
    """Raises ConfigError, naming what differs, if a run to go on with had another recipe, other data or began from other
    weights."""
    there = stored["recipe"]
    if recipe.epochs > there.epochs:  # a run may be made longer
        there = msgspec.structs.replace(there, epochs=recipe.epochs)
    odd = differences(recipe, there)
    if stored["data"] != data.fingerprint_of(sets):
        odd.append("data: other recordings there")
    if start is not None and (stored["from"] or {}).get("sha256") != start.sha256:
        odd.append(f"from: {(stored['from'] or {}).get('sha256', 'nothing')[:16]} there, {start.sha256[:16]} asked")
    if odd:
        raise ConfigError(f"{out}: --resume needs the settings that the run began with: {'; '.join(odd)}")


def _use_threads(threads: int) -> None:
    import keras

    if keras.backend.backend() == "tensorflow":
        tf = import_tensorflow()
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            pass  # TensorFlow has run already in this process and keeps the threads it has
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)


def _how(arch: Architecture, steps: int) -> dict[str, bool]:
    """How Keras is to run a network for so many steps: XLA makes a transformer a third faster but takes a quarter of a minute to
    compile, and makes an LSTM slower; for a handful of steps of another network even tracing takes longer than the run."""
    import keras

    backend = keras.backend.backend()
    if backend == "jax":
        return {}
    if steps < TRACED_STEPS and "units" not in arch.sizes:
        return {"run_eagerly": True, "jit_compile": False}
    return {"jit_compile": backend == "tensorflow" and "depth" in arch.sizes and steps >= COMPILED_STEPS}


def _optimizer(recipe: Recipe, steps: int) -> Any:
    import keras

    rate: Any = recipe.learning_rate
    warm_up = min(recipe.warm_up, steps // 10)
    if warm_up or recipe.final_rate < 1:
        rate = keras.optimizers.schedules.CosineDecay(
            recipe.learning_rate * (0.02 if warm_up else 1.0),
            max(steps - warm_up, 1),
            alpha=recipe.final_rate,
            warmup_target=recipe.learning_rate if warm_up else None,
            warmup_steps=warm_up,
        )
    base = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD}[recipe.optimizer]
    options: dict[str, Any] = {"learning_rate": rate, "global_clipnorm": recipe.clip_norm or None}
    if recipe.optimizer != "sgd":
        options |= {"beta_1": recipe.beta_1, "beta_2": recipe.beta_2}
    if recipe.optimizer == "adamw":
        options["weight_decay"] = recipe.weight_decay
    if recipe.ema:
        options |= {"use_ema": True, "ema_momentum": recipe.ema}
        return _with_warm_average(base)(**options)
    return base(**options)


def _with_warm_average(base: Any) -> Any:
    """An optimizer whose average forgets the random weights that it starts from, however short the run."""
    from keras import ops

    class WarmAverage(base):  # type: ignore[misc]  # Keras is untyped
        @property
        def ema_momentum(self) -> Any:
            step = ops.cast(self.iterations, "float32")
            return ops.minimum(self._largest_momentum, 1.0 - 1.0 / (step / AVERAGE_WARM_UP + 1.0))

        @ema_momentum.setter
        def ema_momentum(self, value: float) -> None:
            self._largest_momentum = value

    return WarmAverage


def _dataset(source: batches.Source | batches.Pool, steps: int, epoch: int) -> Any:
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras is untyped
        """Drawn ahead of the network, on a thread of tf.data's or of two of Keras' own."""

        def __init__(self) -> None:
            one = keras.backend.backend() == "tensorflow" or isinstance(source, batches.Pool)
            super().__init__(workers=1 if one else 2, max_queue_size=8)
            self.epoch = epoch

        def __len__(self) -> int:
            return steps

        def __getitem__(self, number: int) -> Any:
            drawn = source.batch(self.epoch, number)
            return (tuple(drawn.inputs) if len(drawn.inputs) > 1 else drawn.inputs[0]), drawn.packed

    return Batches()


def _callbacks(
    run: Run, dataset: Any, validation: list[batches.Validation], progress: Progress, minutes: float | None
) -> list[Any]:
    import keras

    recipe, out = run.recipe, run.out
    began = time.monotonic()

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        """Each batch: is the loss finite? Each epoch: how good is what would be saved?"""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            dataset.epoch = epoch
            self.epoch, self.since = epoch + 1, time.monotonic()
            progress.epoch(epoch + 1)

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            loss = float((logs or {}).get("loss", math.nan))
            if not math.isfinite(loss):
                _no_longer_finite(run, self.epoch, batch + 1)
            progress.batch(batch + 1, loss)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with run.averaged():
                if not all(bool(np.isfinite(w).all()) for w in self.model.get_weights()):
                    _no_longer_finite(run, epoch + 1, len(dataset))
                logs.update(_scores(run.model, run.arch, recipe, validation))
            logs["minutes"] = run.minutes + (time.monotonic() - self.since) / 60

    class Log(keras.callbacks.CSVLogger):  # type: ignore[misc]  # Keras is untyped
        """Epochs are counted from 1."""

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch + 1, {k: f"{v:.6g}" for k, v in (logs or {}).items()})

    class Save(keras.callbacks.Callback):  # type: ignore[misc]  # Keras is untyped
        """After early stopping has looked: checkpoint, state, pictures; and whether there is time for another epoch."""

        drawn_at = -math.inf

        def on_train_begin(self, logs: Any = None) -> None:
            if early is not None:
                early.best, early.wait = run.best, run.wait

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            took, done = logs["minutes"] - run.minutes, epoch + 1
            run.minutes = logs["minutes"]
            if early is not None:
                run.best, run.wait, run.stopped = float(early.best), early.wait, self.model.stop_training
            last = run.stopped or done == recipe.epochs
            if minutes is not None and (time.monotonic() - began) / 60 + took > minutes:
                last = self.model.stop_training = True
            with run.averaged():
                if early is None or early.wait == 0:
                    run.save_checkpoint(done, figures_of(logs))
            run.save_state(done)
            progress.row(done, logs)
            with run.averaged():
                now = time.monotonic()
                if last or now - self.drawn_at > PICTURES_EVERY_S:
                    self.drawn_at = now
                    pictures.curves(out / "log.csv", out / "loss.png")
                    pictures.examples(validation, lambda x: answers(run.model, run.arch, x), run.arch, out / "examples.png")

    early = None
    if recipe.early_stop:
        early = keras.callbacks.EarlyStopping("val_loss", patience=recipe.early_stop, mode="min")
    found = [Watch(), Log(str(out / "log.csv"), append=run.done > 0)]
    if keras.backend.backend() == "tensorflow" and find_spec("tensorboard") is not None:
        found.append(keras.callbacks.TensorBoard(str(out / "tensorboard"), write_graph=False, profile_batch=0))
    return [*found, *([early] if early is not None else []), Save()]


def figures_of(logs: Mapping[str, float]) -> dict[str, float]:
    """Of an epoch's logs, what the checkpoint states: only what was evaluated."""
    return {
        key: round(float(value), 5)
        for key, value in logs.items()
        if key in ("loss", "val_loss", "val_worst") or key.startswith("val_g_")
    }


def _no_longer_finite(run: Run, epoch: int, step: int) -> None:
    good = f"the last good state, after epoch {run.done}, is in {run.out}" if run.done else "nothing was saved"
    raise ConfigError(
        f"epoch {epoch}, step {step}: the loss is no longer finite; {good}. "
        f"A lower --learning-rate than {run.recipe.learning_rate:g} may help"
    )


def answers(model: Any, arch: Architecture, noisy: Float64) -> Float64:
    """What a network in training makes of noisy windows (n, window) in 0..1: (n, window), in the scale that it answers in."""
    inputs, _ = batches.inputs_of(noisy, arch)
    return _predict(model, inputs)[:, : arch.window].astype(np.float64)


def _predict(model: Any, inputs: list[Float32]) -> Float32:
    parts = []
    for a in range(0, len(inputs[0]), CHUNK):
        chunk = [x[a : a + CHUNK] for x in inputs]
        short = CHUNK - len(chunk[0])
        padded = [np.concatenate([x, np.repeat(x[-1:], short, axis=0)]) for x in chunk]  # one shape: one trace
        parts.append(np.asarray(model.predict_on_batch(padded if len(padded) > 1 else padded[0]))[: CHUNK - short])
    return np.concatenate(parts)


def _scores(model: Any, arch: Architecture, recipe: Recipe, validation: list[batches.Validation]) -> dict[str, float]:
    """The validation loss as the average over sets, with several sets also that of the worst, and G of each, dB."""
    from keras import ops

    loss = loss_of(recipe.loss, recipe.newest)
    losses, found = [], {}
    for v in validation:
        answer = _predict(model, v.drawn.inputs)
        of_windows = loss(ops.convert_to_tensor(v.drawn.packed), ops.convert_to_tensor(answer))
        losses.append(float(ops.convert_to_numpy(of_windows).mean()))
        found[f"val_g_{v.name}_db"] = scores.gain_db(v.noisy, answers(model, arch, v.noisy), v.clean)
    worst = {"val_worst": max(losses)} if len(losses) > 1 else {}
    return ({"val_loss": float(np.mean(losses))} if losses else {}) | worst | found


def _speeds(run: Run, source: batches.Source) -> tuple[float, float]:
    """Seconds that the generator and the network need for a batch, from a few that change nothing."""
    before = run.values()
    drawn = []
    began = time.perf_counter()
    for number in range(MEASURED_BATCHES):
        drawn.append(source.batch(run.done, min(number, source.steps - 1)))
    generator = (time.perf_counter() - began) / MEASURED_BATCHES
    network = math.inf
    for batch in drawn:
        began = time.perf_counter()
        run.model.train_on_batch(batch.inputs if len(batch.inputs) > 1 else batch.inputs[0], batch.packed)
        network = min(network, time.perf_counter() - began)
    run.put(before)
    run.model.reset_metrics()
    return generator, network


def _facts(run: Run, source: batches.Source) -> str:
    counts = {side: sum(len(s.recordings(side)) for s in run.sets) for side in data.SIDES}
    seconds = sum(s.sides["train"].seconds for s in run.sets)
    recipe = run.recipe
    return (
        f"{recipe.family}: {run.model.count_params():,} parameters; {seconds / 60:.0f} min of clean signal; recordings: "
        + ", ".join(f"{n} {side}" for side, n in counts.items())
        + f"; an epoch is {source.steps} batches of {recipe.batch}"
        + ("" if recipe.steps else f", one pass over {len(source.windows):,} windows")
        + (f"; going on after epoch {run.done}" if run.done else "")
    )


def _trim_log(path: Path, done: int) -> None:
    """Take rows out that the state does not know: of an epoch whose state was not written before the kill."""
    if not path.is_file():
        return
    with path.open(newline="") as lines:
        rows = list(csv.reader(lines))
    kept = rows[:1] + [r for r in rows[1:] if r and r[0].isdigit() and int(r[0]) <= done]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(kept)
    replace_files({path: buffer.getvalue().encode()})


@contextmanager
def _disk(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        good = "; what was saved before is still good" if run.done else ""
        raise OutputError(f"{run.out}: cannot write the run: {error}{good}") from error
