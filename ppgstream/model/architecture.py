"""What rebuilds a network: its family, lengths and sizes. No Keras."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

from ppgstream.core.denoiser import Answers, Scaling
from ppgstream.errors import CheckpointError
from ppgstream.model.lmmse import RANK

Family = Literal["ae", "ae3", "dae", "rae", "brae", "brdae", "transformer", "lmmse", "own"]
Sizes = dict[str, int | tuple[int, ...]]
DENSE = ("ae", "ae3", "dae")
COURSE = (*DENSE, "rae", "brae")
OWN = "own"  # a network that somebody else's program made: a graph, of which only inputs and outputs are known (`model.own`)


DEFAULT_SIZES: dict[str, Sizes] = {
    "ae": {"hidden": (40,)},
    "ae3": {"hidden": (125, 40, 125)},
    "dae": {"hidden": (40,)},
    "rae": {"units": 40},
    "brae": {"units": 40},
    "brdae": {"patch": 10, "units": 96, "bands": 3},
    "transformer": {"patch": 10, "width": 64, "depth": 4, "heads": 4, "bands": 1},
    "lmmse": {"rank": RANK},
}
BANDS = (1, 3)  # of a transformer or a brdae: one gate for a sample, or one for each of trend, pulse and hum


HIDDEN_ACTIVATION = {
    "ae": "sigmoid",
    "ae3": "sigmoid",
    "dae": "sigmoid",
    "rae": "tanh",
    "brae": "tanh",
    "brdae": "tanh",
    "transformer": "silu",
    "lmmse": "linear",
}


OUTPUTS = {
    "brdae": ("wave", "log_var"),
    "transformer": ("wave", "log_var"),
    "lmmse": ("wave", "log_var"),
}  # of the other families: the wave alone
ACTIVATIONS = ("linear", "sigmoid", "tanh", "relu", "elu", "selu", "silu", "softplus", "softsign")
LARGEST_SIZE, MOST_LAYERS = 4096, 16


@dataclass(frozen=True, slots=True)
class Architecture:
    """What rebuilds a network. Lengths `window` and `context` are in samples; what is left out is the family's own default.

    sizes: of its parts, named as in `DEFAULT_SIZES`; `hidden` is a width for each hidden layer.
    hidden_activation: of the hidden layers, or of an LSTM's cell. output_activation: of the last layer.
    outputs: what the network answers for each sample. stated_scaling, stated_answers: of the family `OWN`, which has no sizes but
    the number of its `parameters`.
    """

    family: str
    window: int = 250
    context: int = 0
    sizes: Sizes = field(default_factory=dict)
    hidden_activation: str = ""
    output_activation: str = ""
    outputs: tuple[str, ...] = ()
    stated_scaling: str = ""
    stated_answers: str = ""

    def __post_init__(self) -> None:
        own: dict[str, Any] = dict(self.sizes)
        if isinstance(width := own.get("hidden"), int):
            own["hidden"] = (width,)
        object.__setattr__(self, "sizes", DEFAULT_SIZES.get(self.family, {}) | own)
        object.__setattr__(self, "outputs", self.outputs or OUTPUTS.get(self.family, ("wave",)))
        object.__setattr__(self, "output_activation", self.output_activation or "linear")
        object.__setattr__(self, "hidden_activation", self.hidden_activation or HIDDEN_ACTIVATION.get(self.family, ""))

    @property
    def answers(self) -> Answers:
        """The domain of the answer: the clean signal's own 0..1, or the scale of the noisy input."""
        if self.family == OWN:
            return "clean" if self.stated_answers == "clean" else "input"
        return "clean" if self.family in COURSE else "input"

    @property
    def scaling(self) -> Scaling:
        """How a window is brought to the network: 0..1 (min-max); mean 0 and SD 1 of its measured samples, the latter without a
        straight line in them (standard) or with it (z-score); or as it is (none)."""
        if self.family == OWN:
            return cast(Scaling, self.stated_scaling)
        return "standard" if self.family in ("brdae", "transformer", "lmmse") else "min-max"

    @property
    def takes_mask(self) -> bool:
        """Whether the network is told which samples were measured."""
        return self.family not in (*COURSE, OWN)

    def size(self, name: str) -> int:
        value = self.sizes[name]
        assert isinstance(value, int)
        return value

    @property
    def mflop(self) -> float:
        """Multiplications and additions of one window, in millions: two for each product of a matrix. Activations are not
        counted. NaN where they are not known."""
        n = self.window
        if self.family == OWN:
            return math.nan
        if self.family == "lmmse":
            rank = self.size("rank")
            return 2e-6 * (n * (rank + 2) ** 2 + (rank + 2) ** 3 + n * rank**2)
        products = sum(layer.times * math.prod(layer.shape) for layer in layers_of(self))
        if self.family == "transformer":
            tokens = (n + self.context) // self.size("patch")
            products += self.size("depth") * 2 * tokens * tokens * self.size("width")  # of the attention
        return 2e-6 * products

    def to_json(self) -> dict[str, Any]:
        """As manifests state it. One band is not stated: the id covers this, and there was one before there were bands."""
        told = asdict(self)
        if self.family == "transformer" and told["sizes"]["bands"] == 1:
            del told["sizes"]["bands"]
        for name in ("stated_scaling", "stated_answers"):
            if not told[name]:
                del told[name]
        return told


def _values(arch: Architecture) -> tuple[int, int]:
    """How many numbers for each sample go into a network of patches, and come out of it."""
    bands = arch.size("bands")
    return 3 + (bands > 1), 2 + bands


class Layer(NamedTuple):
    """A layer with weights. shape: of its kernel, (in, out), or of what it adds. times: how often its kernel is multiplied for a
    window. kind: "dense" has a kernel and a bias, "norm" a factor and a bias, "table" one tensor of this name."""

    name: str
    shape: tuple[int, ...]
    times: int = 1
    kind: Literal["dense", "norm", "table"] = "dense"


def layers_of(arch: Architecture) -> list[Layer]:
    """The layers of a network, of an architecture that `check` has passed. What connects them is in `networks`, and for ONNX in
    `graph`."""
    n = arch.window
    if arch.family == OWN:
        return []
    if arch.family in DENSE:
        hidden = arch.sizes["hidden"]
        assert isinstance(hidden, tuple)
        steps = [Layer(f"hidden{k}", shape) for k, shape in enumerate(pairwise((n, *hidden)), start=1)]
        return [*steps, Layer("output", (hidden[-1], n))]
    if "units" in arch.sizes:
        units, own = arch.size("units"), arch.family == "brdae"
        into, out = _values(arch) if own else (1, 1)
        patch = arch.size("patch") if own else 1
        # The course's backward LSTM reads the last sample only.
        ways = {"rae": {"forward": n}, "brae": {"forward": n, "backward": 1}}.get(arch.family)
        ways = ways or {"forward": n // patch, "backward": n // patch}
        lstms = [Layer(f"{way}/lstm_cell", (into * patch, 4 * units), steps) for way, steps in ways.items()]
        recurrent = [
            Layer(f"{way}/lstm_cell/recurrent_kernel", (units, 4 * units), steps, "table") for way, steps in ways.items()
        ]
        return [*lstms, *recurrent, Layer("output", (len(ways) * units, out * n))]
    patch, width, depth = arch.size("patch"), arch.size("width"), arch.size("depth")
    into, out = _values(arch)
    tokens = (n + arch.context) // patch
    found = [Layer("embed", (into * patch, width), tokens), Layer("position/table", (tokens, width), 0, "table")]
    for block in range(depth):
        found += [
            Layer(f"norm_a{block}", (width,), 0, "norm"),
            Layer(f"qkv{block}", (width, 3 * width), tokens),
            Layer(f"mix{block}", (width, width), tokens),
            Layer(f"norm_m{block}", (width,), 0, "norm"),
            Layer(f"up{block}", (width, 2 * width), tokens),
            Layer(f"down{block}", (2 * width, width), tokens),
        ]
    return [*found, Layer("norm_out", (width,), 0, "norm"), Layer("head", (width, out * patch), tokens)]


def tensors_of(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a checkpoint's tensors, of an architecture that `check` has passed."""
    n = arch.window
    if arch.family == "lmmse":
        return {"mean": (n,), "components": (n, min(arch.size("rank"), n))}
    needed: dict[str, tuple[int, ...]] = {}
    for name, shape, _, kind in layers_of(arch):
        if kind == "table":
            needed[name] = shape
        elif kind == "norm":
            needed[f"{name}/gamma"] = needed[f"{name}/beta"] = shape
        else:
            needed[f"{name}/kernel"], needed[f"{name}/bias"] = shape, shape[1:]
    return needed


def check(arch: Architecture) -> None:
    """Raises CheckpointError for an unknown family or activation, or a size that is not the family's own or out of range."""
    family = arch.family
    if family == OWN:
        _check_own(arch)
        return
    if arch.stated_scaling or arch.stated_answers:
        raise CheckpointError(f"network family {family!r}: its scaling is fixed")
    if family not in DEFAULT_SIZES:
        raise CheckpointError(f"unknown network family {family!r}: known are {', '.join(DEFAULT_SIZES)}")
    unknown = set(arch.sizes) - set(DEFAULT_SIZES[family])
    if unknown:
        raise CheckpointError(
            f"network family {family!r} has no size {min(unknown)!r}: it has {', '.join(sorted(DEFAULT_SIZES[family]))}"
        )
    bad = [f"{k} = {v!r}" for k, v in arch.sizes.items() if not _is_size(v, DEFAULT_SIZES[family][k])]
    if bad:
        raise CheckpointError(
            f"network family {family!r}: sizes must be whole numbers from 1 to {LARGEST_SIZE}, got {', '.join(bad)}"
        )
    if not 0 < arch.window <= 10_000 or not 0 <= arch.context <= 100_000:
        raise CheckpointError(f"window must be 1 to 10000 samples and context 0 to 100000, got {arch.window} and {arch.context}")
    if family == "brdae" and arch.window % arch.size("patch"):
        raise CheckpointError(f"network family {family!r}: {arch.window} samples must be whole patches of {arch.size('patch')}")
    if family == "transformer":
        patch, width, heads, length = arch.size("patch"), arch.size("width"), arch.size("heads"), arch.context + arch.window
        if length % patch or width % heads:
            raise CheckpointError(
                f"network family {family!r}: {length} samples must be whole patches of {patch}, width {width} whole heads of "
                f"{heads}"
            )
    if "bands" in arch.sizes and arch.size("bands") not in BANDS:
        raise CheckpointError(
            f"network family {family!r}: bands must be {' or '.join(map(str, BANDS))}, got {arch.size('bands')}"
        )
    for role, name in (("hidden", arch.hidden_activation), ("output", arch.output_activation)):
        if name not in ACTIVATIONS:
            raise CheckpointError(f"{role} activation {name!r}: known are {', '.join(ACTIVATIONS)}")
    if family not in COURSE and (arch.hidden_activation, arch.output_activation) != (HIDDEN_ACTIVATION[family], "linear"):
        raise CheckpointError(
            f"network family {family!r}: its activations are fixed; they can be chosen for the course's families"
        )
    own = OUTPUTS.get(family, ("wave",))
    if arch.outputs != own:
        raise CheckpointError(f"network family {family!r} answers {', '.join(own)}, not {', '.join(map(str, arch.outputs))}")
    if arch.context and family in (*COURSE, "brdae", "lmmse"):
        raise CheckpointError(f"network family {family!r} takes no context, got {arch.context} samples")


OWN_SCALINGS, OWN_ANSWERS = ("min-max", "z-score", "none"), ("clean", "input")
OWN_WINDOWS = (8, 10_000)  # samples


def _check_own(arch: Architecture) -> None:
    known = set(arch.sizes) == {"parameters"} and type(arch.sizes["parameters"]) is int and arch.size("parameters") >= 0
    if not known or arch.context or arch.hidden_activation or arch.output_activation != "linear":
        raise CheckpointError(f"network family {OWN!r}: has its number of parameters, no context and no activations")
    if not OWN_WINDOWS[0] <= arch.window <= OWN_WINDOWS[1]:
        raise CheckpointError(f"window must be {OWN_WINDOWS[0]} to {OWN_WINDOWS[1]} samples, got {arch.window}")
    if arch.stated_scaling not in OWN_SCALINGS or arch.stated_answers not in OWN_ANSWERS:
        raise CheckpointError(
            f"network family {OWN!r}: scaling must be one of {', '.join(OWN_SCALINGS)} and answers {' or '.join(OWN_ANSWERS)}, "
            f"got {arch.stated_scaling!r} and {arch.stated_answers!r}"
        )
    if arch.outputs not in (("wave",), ("wave", "log_var")):
        raise CheckpointError(f"network family {OWN!r} answers wave, or wave and log_var, not {', '.join(arch.outputs)}")


def _is_size(value: Any, like: int | tuple[int, ...]) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return (
        isinstance(value, tuple) == isinstance(like, tuple)
        and 0 < len(values) <= MOST_LAYERS
        and all(type(v) is int and 0 < v <= LARGEST_SIZE for v in values)
    )
