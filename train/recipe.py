"""The recipe of a training run: every choice but the data. Defaults of the family < a TOML file of the same keys < command-line
options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from ppgstream.config import read_toml
from ppgstream.errors import ConfigError, UsageError
from ppgstream.model.architecture import DEFAULT_SIZES, Architecture, check
from ppgstream.storage import shown

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Size = Annotated[int, Meta(ge=1, le=4096)]
Share = Annotated[float, Meta(ge=0, le=1)]
Noise = Literal["none", "white", "slope", "saturation", "n1"]
Optimizer = Literal["adam", "adamw", "sgd"]
Kind = Literal["full", "mild", "clean", "nearly_clean", "mixed", "motion", "nothing"]
CHOICES = {"noise": get_args(Noise), "optimizer": get_args(Optimizer), "shares": get_args(Kind)}
PARTS = ("white", "slope", "saturation")  # of N1, in its order
SIZES = ("hidden", "units", "patch", "width", "depth", "heads", "bands")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a run depends on beside its data. A run is `epochs` epochs of `steps` batches of `batch` windows.

    Network: `hidden` (a width for each hidden layer), `units` of an LSTM, `patch`, `width`, `depth`, `heads`, `bands` of a
    transformer; None: the family's own. `window` in samples, None: 250. `dropout`: the share of hidden values that is dropped in
    training. Noise: `noise` names parts of N1, added one after the other; `shares` says how much of a batch gets which kind:
    "full" strength, "mild" (each part weaker or absent), "clean", and the kinds of `mix`: "nearly_clean", "mixed", "motion"
    (`motion_db` dB over the pulse, from and to), "nothing" (no pulse). `stretch`: windows are stretched or squeezed in time by up
    to this factor. `reshape`: the share of real pulses whose shape is changed. `fast`: the share of real pulses that are played
    at 100 to 200 beats a minute. `synthetic`: the share of windows from synthetic people. Steps: 0 makes an epoch one pass over
    all training windows, every `PASS_HOP` samples. Learning rate: rises over `warm_up` steps (at most a tenth of all) to
    `learning_rate`, then falls on a cosine to `final_rate` times that over all planned steps; 1 keeps it. `ema`: the saved
    weights are an exponential average over about 1 / (1 - ema) steps, fewer at the start; 0: the last weights. `newest`: so many
    samples at the window's end count as much in the loss as the whole window; 0: no more than others. `hop`, `lookahead`: for the
    daemon, stated in the checkpoint, in samples; None: the usual ones. `early_stop`: epochs without a lower validation loss after
    which the run ends, with the best weights; 0: never.
    """

    family: str
    window: Annotated[int, Meta(ge=16, le=10_000)] | None = None
    hidden: list[Size] | None = None
    units: Size | None = None
    patch: Size | None = None
    width: Size | None = None
    depth: Size | None = None
    heads: Size | None = None
    bands: Size | None = None
    hidden_activation: str = ""
    output_activation: str = ""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    noise: list[Noise] = msgspec.field(default_factory=lambda: ["n1"])
    shares: dict[Kind, Share] = msgspec.field(default_factory=lambda: {"full": 1.0})
    stretch: Annotated[float, Meta(ge=1, le=4)] = 1.0
    motion_db: tuple[float, float] = (-6.0, 20.0)
    reshape: Share = 0.0
    fast: Share = 0.0
    synthetic: Share = 0.0
    optimizer: Optimizer = "adam"
    learning_rate: Annotated[float, Meta(gt=0, le=1000)] = 0.001
    beta_1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.0
    clip_norm: Annotated[float, Meta(ge=0)] = 0.0
    warm_up: Annotated[int, Meta(ge=0)] = 0
    final_rate: Share = 1.0
    loss: str = "l2"
    newest: Annotated[int, Meta(ge=0)] = 0
    hop: Annotated[int, Meta(ge=1)] | None = None
    lookahead: Annotated[int, Meta(ge=0)] | None = None
    batch: Annotated[int, Meta(ge=1, le=100_000)] = 9000
    epochs: Count = 300
    steps: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    ema: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    early_stop: Annotated[int, Meta(ge=0)] = 0
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 1

    @property
    def architecture(self) -> Architecture:
        sizes = {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}
        if "hidden" in sizes:
            sizes["hidden"] = tuple(sizes["hidden"])
        return Architecture(
            self.family,
            self.window or 250,
            sizes=sizes,
            hidden_activation=self.hidden_activation,
            output_activation=self.output_activation,
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of N1 that the noise is made of, in N1's order."""
        return PARTS if "n1" in self.noise else tuple(part for part in PARTS if part in self.noise)


# What differs from the defaults above, which are the course's own values (its slides and scripts).
_COURSE_LSTM: dict[str, Any] = {"learning_rate": 0.01, "dropout": 0.5}
_WIDE_MIX: dict[str, Any] = {
    "shares": {"full": 0.4, "mixed": 0.27, "motion": 0.19, "nothing": 0.08, "nearly_clean": 0.06},
    "synthetic": 0.15,
    "stretch": 1.6,
    "reshape": 0.5,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "beta_2": 0.99,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "warm_up": 300,
    "final_rate": 0.02,
    "loss": "robust",
    "batch": 128,
    "epochs": 64,
    "steps": 500,
    "ema": 0.999,
}
FAMILY: dict[str, dict[str, Any]] = {
    "ae": {"noise": ["none"]},
    "ae3": {"noise": ["none"]},
    "dae": {},
    "rae": _COURSE_LSTM,
    "brae": _COURSE_LSTM,
    "brdae": _WIDE_MIX,
    "transformer": _WIDE_MIX,
}


def make(family: str | None, path: Path | None, options: Mapping[str, Any], *, base: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a family with a file's keys and the options (None: not given) over it. `base` takes the family's defaults'
    place.

    Raises UsageError without a family, ConfigError naming file, key and value for anything that cannot be.
    """
    file = {} if path is None else _read(path)
    given = {key: value for key, value in options.items() if value is not None}
    file = {key.replace("-", "_"): _as_list(key, value) for key, value in file.items()}
    chosen = family or file.get("family") or (base or {}).get("family")
    if not isinstance(chosen, str):
        raise UsageError(f"FAMILY: name one of {', '.join(DEFAULT_SIZES)}, or a --recipe that does")
    if chosen not in FAMILY:
        raise UsageError(f"FAMILY {chosen!r}: known are {', '.join(FAMILY)}")
    start = FAMILY[chosen] if base is None else base
    try:
        recipe = msgspec.convert(dict(start) | file | given | {"family": chosen}, Recipe)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), path, file, given)) from None
    _check(recipe, source=f"{path}: " if path is not None else "")
    return recipe


def _explain(message: str, path: Path | None, file: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """msgspec's message with file and key in front and the offending value behind."""
    reason, _, where = message.partition(" - at ")
    unknown = re.search(r"unknown field `(.+?)`", reason, re.DOTALL)
    found = re.search(r"\$\.(\w+)", where)
    key = unknown[1] if unknown else found[1] if found else ""
    source = f"{path}: " if path is not None and key in file and key not in given else ""
    if unknown:
        return f"{source}{key!r} is no key of a recipe"
    name = key.replace("_", "-") if key in given else key
    value = (dict(file) | dict(given)).get(key)
    if "enum value" in reason:
        return f"{source}{name}: must be {', '.join(CHOICES[key])}, got {shown(value)}"
    return f"{source}{name}: {reason.lower().partition(', got')[0]}, got {shown(value)}"


def _as_list(key: str, value: Any) -> Any:
    """A list as a recipe has it, from what an option would take: "white,slope", "125,40,125", 40."""
    if key == "noise" and isinstance(value, str):
        return value.split(",")
    if key == "hidden" and type(value) is int:
        return [value]
    if key == "hidden" and isinstance(value, str) and re.fullmatch(r"\d+(,\d+)*", value):
        return [int(width) for width in value.split(",")]
    return value


def _read(path: Path) -> dict[str, Any]:
    return read_toml(path, "recipe")


def _check(recipe: Recipe, source: str) -> None:
    from .losses import LOSSES

    arch = recipe.architecture
    own = DEFAULT_SIZES[recipe.family]
    for name in SIZES:
        if getattr(recipe, name) is not None and name not in own:
            raise ConfigError(f"{source}{name}: the family {recipe.family!r} has {', '.join(own)}")
    check(arch)
    for name in ("newest", "hop"):
        if (getattr(recipe, name) or 0) > arch.window:
            raise ConfigError(f"{source}{name}: at most the window, {arch.window} samples, got {getattr(recipe, name)}")
    if recipe.lookahead is not None and recipe.lookahead >= arch.window:
        raise ConfigError(f"{source}lookahead: less than the window, {arch.window} samples, got {recipe.lookahead}")
    if recipe.loss not in LOSSES:
        raise ConfigError(f"{source}loss: known are {', '.join(LOSSES)}, got {recipe.loss!r}")
    if "none" in recipe.noise and len(recipe.noise) > 1:
        raise ConfigError(f"{source}noise: none cannot be joined with others, got {','.join(recipe.noise)}")
    if not recipe.noise:
        raise ConfigError(f"{source}noise: name one of none, white, slope, saturation, n1")
    if abs(sum(recipe.shares.values()) - 1) > 1e-6:
        raise ConfigError(f"{source}shares: must add up to 1, got {sum(recipe.shares.values()):g}")


def differences(asked: Recipe, there: Recipe) -> list[str]:
    """What differs between two recipes: "learning_rate: 0.001 there, 0.01 asked"."""
    a, b = msgspec.to_builtins(asked), msgspec.to_builtins(there)
    return [f"{key}: {b[key]} there, {a[key]} asked" for key in a if a[key] != b[key]]
