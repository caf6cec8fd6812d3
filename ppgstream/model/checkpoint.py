"""A checkpoint as a value: the plan of a network, its tensors by name, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppgstream.model.architecture import OWN, Architecture

Tensor = NDArray[np.float32]
DEFAULT_HOP = 50  # samples from one window to the next, of a checkpoint that does not say
DEFAULT_TILE = 64  # windows computed at once; see docs/decisions.md


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A restored checkpoint: the network's plan, its tensors by name, and where they came from.

    `fs` is the sampling rate the network was trained for, Hz; `hop` and `lookahead` (None: all that help) are in samples and
    meant for the daemon, whose settings may override them. `sha256` covers everything that decides the output
    (`folder.identity`), and its first 8 bytes travel in the header of everything that was denoised with it. `calibration`: as
    `core.confidence.calibration_for` takes it. `graph`: the network as an ONNX graph, whose sha256 should be `graph_sha256`; None
    if there is none.
    """

    path: Path
    arch: Architecture
    tensors: Mapping[str, Tensor]
    sha256: str
    fs: float = 125.0
    tile: int = DEFAULT_TILE
    hop: int = DEFAULT_HOP
    lookahead: int | None = None
    calibration: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "ppgstream"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    graph: Path | None = None
    graph_sha256: str = ""

    @property
    def id(self) -> bytes:
        return bytes.fromhex(self.sha256[:16])

    @property
    def parameters(self) -> int:
        if self.arch.family == OWN:
            return self.arch.size("parameters")
        return sum(t.size for t in self.tensors.values())


MANIFEST, WEIGHTS, GRAPH = "checkpoint.json", "weights.safetensors", "model.onnx"
SHIPPED = Path(__file__).parents[1] / "checkpoints"  # checkpoints that come with the package, found by their folder's name
BUNDLED = SHIPPED / "default"
CALIBRATIONS = SHIPPED / "calibrations.json"  # of checkpoints that state none


def shipped() -> list[str]:
    """The names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST}"))
