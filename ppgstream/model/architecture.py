"""What rebuilds a network: its family, lengths and sizes. No Keras."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from ppgstream.core.denoiser import Answers, Scaling
from ppgstream.errors import CheckpointError
from ppgstream.model.lmmse import RANK

Family = Literal["ae", "ae3", "dae", "rae", "brae", "brdae", "transformer", "lmmse"]
Sizes = dict[str, int | tuple[int, ...]]
DENSE = ("ae", "ae3", "dae")
COURSE = (*DENSE, "rae", "brae")


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
    outputs: what the network answers for each sample.
    """

    family: str
    window: int = 250
    context: int = 0
    sizes: Sizes = field(default_factory=dict)
    hidden_activation: str = ""
    output_activation: str = ""
    outputs: tuple[str, ...] = ()

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
        return "clean" if self.family in COURSE else "input"

    @property
    def scaling(self) -> Scaling:
        """How a window is brought to the network: min-max, or mean 0 and SD 1 of its measured samples."""
        return "standard" if self.family in ("brdae", "transformer", "lmmse") else "min-max"

    def size(self, name: str) -> int:
        value = self.sizes[name]
        assert isinstance(value, int)
        return value

    @property
    def mflop(self) -> float:
        """Multiplications and additions of one window, in millions (two for each product of a matrix; activations not
        counted)."""
        n = self.window
        if "hidden" in self.sizes:
            hidden = self.sizes["hidden"]
            assert isinstance(hidden, tuple)
            widths = [n, *hidden, n]
            return 2e-6 * sum(a * b for a, b in pairwise(widths))
        if self.family == "brdae":
            (into, out), patch, units = _values(self), self.size("patch"), self.size("units")
            return 2e-6 * (n // patch * 2 * 4 * units * (units + into * patch) + 2 * units * out * n)
        if "units" in self.sizes:
            units = self.size("units")
            steps = n + (self.family == "brae")
            return 2e-6 * (steps * 4 * units * (units + 1) + n * units * (2 if self.family == "brae" else 1))
        if self.family == "lmmse":
            size = self.size("rank") + 2
            return 2e-6 * (n * size * size + size**3 + n * self.size("rank") ** 2)
        patch, width, depth = self.size("patch"), self.size("width"), self.size("depth")
        tokens = (n + self.context) // patch
        block = 4 * width * width + 2 * 2 * width * width + 2 * tokens * width
        into, out = _values(self)
        return 2e-6 * tokens * ((into + out) * patch * width + depth * block)

    def to_json(self) -> dict[str, Any]:
        """As manifests state it. One band is not stated: the id covers this, and there was one before there were bands."""
        told = asdict(self)
        if self.family == "transformer" and told["sizes"]["bands"] == 1:
            del told["sizes"]["bands"]
        return told


def _values(arch: Architecture) -> tuple[int, int]:
    """How many numbers for each sample go into a network of patches, and come out of it."""
    bands = arch.size("bands")
    return 3 + (bands > 1), 2 + bands


def tensors_of(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a network's tensors, of an architecture that `check` has passed."""
    needed: dict[str, tuple[int, ...]] = {}

    def dense(name: str, *shape: int) -> None:
        needed[f"{name}/kernel"], needed[f"{name}/bias"] = shape, shape[1:]

    n = arch.window
    if arch.family == "lmmse":
        return {"mean": (n,), "components": (n, min(arch.size("rank"), n))}
    if arch.family in DENSE:
        hidden = arch.sizes["hidden"]
        assert isinstance(hidden, tuple)
        for number, (before, after) in enumerate(pairwise((n, *hidden)), start=1):
            dense(f"hidden{number}", before, after)
        dense("output", hidden[-1], n)
        return needed
    if "units" in arch.sizes:
        units, own = arch.size("units"), arch.family == "brdae"
        into, out = _values(arch) if own else (1, 1)
        ways = ("forward",) if arch.family == "rae" else ("forward", "backward")
        for way in ways:
            dense(f"{way}/lstm_cell", into * arch.size("patch") if own else 1, 4 * units)
            needed[f"{way}/lstm_cell/recurrent_kernel"] = (units, 4 * units)
        dense("output", len(ways) * units, out * n)
        return needed
    patch, width, length = arch.size("patch"), arch.size("width"), n + arch.context
    into, out = _values(arch)
    dense("embed", into * patch, width)
    needed["position/table"] = (length // patch, width)
    for block in range(arch.size("depth")):
        dense(f"qkv{block}", width, 3 * width)
        dense(f"mix{block}", width, width)
        dense(f"up{block}", width, 2 * width)
        dense(f"down{block}", 2 * width, width)
    for norm in ("norm_out", *(f"norm_{part}{block}" for block in range(arch.size("depth")) for part in "am")):
        needed[f"{norm}/gamma"] = needed[f"{norm}/beta"] = (width,)
    dense("head", width, out * patch)
    return needed


def check(arch: Architecture) -> None:
    """Raises CheckpointError for an unknown family or activation, or a size that is not the family's own or out of range."""
    family = arch.family
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


def _is_size(value: Any, like: int | tuple[int, ...]) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return (
        isinstance(value, tuple) == isinstance(like, tuple)
        and 0 < len(values) <= MOST_LAYERS
        and all(type(v) is int and 0 < v <= LARGEST_SIZE for v in values)
    )
