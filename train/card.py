"""The model card: what a checkpoint's manifest says, as a page for people."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ppgstream.model.checkpoint import Checkpoint

from . import data
from .recipe import Recipe

WHOM = {
    "course": "site, sensor and state not stated",
    "bidmc": "finger, pulse oximeters of intensive care, adults",
    "wrist": "wrist, Empatica E4 (64 Hz) and Samsung Galaxy Watch4 (25 Hz), green light, volunteers who sit: at rest, in "
    "tests, in exams",
    "synthetic": "generated pulses of all shapes, 35 to 220 beats a minute",
    "own": "recordings of one's own",
}
LIMITS = (
    "Not a medical device.",
    "Skin colour and age are not known of these people. There are no children, no other sites (ear, forehead, chest), and no "
    "wrist in motion with a "
    "reference: motion is added to clean recordings.",
    "Trained at 125 Hz; other rates are resampled.",
    "It may answer noise without any pulse with a pulse: `ppgstream checkpoint probe` shows how much.",
)


def provenance_of(
    sets: Sequence[data.Set],
    trained_on: Mapping[str, list[str]],
    *,
    recipe: Recipe | None = None,
    epochs_done: int = 0,
    minutes: float = 0.0,
    start: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the manifest keeps of a run: split by recording, data and their sources, all that the weights ever were trained on
    (`data.trained_on`), the date; and of a training with a recipe this, how far it got, and where the weights began (`start`:
    name and sha256)."""
    run = {
        "recipe": msgspec.to_builtins(recipe),
        "epochs_done": epochs_done,
        "minutes": round(minutes, 2),
        "from": None if start is None else {key: start[key] for key in ("name", "sha256")},
    }
    return {
        **(run if recipe is not None else {}),
        "data": {s.name: data.ATTRIBUTION[s.name] for s in sets},
        "split": {side: [n for s in sets for n in _names(s, side)] for side in data.SIDES},
        "trained_on": dict(trained_on),
        "date": datetime.date.today().isoformat(),
    }


def _names(data_set: data.Set, side: str) -> list[str]:
    names = data_set.recordings(side)
    return [f"{len(names)} synthetic people"] if data_set.name == "synthetic" and names else names


OWN_ARCHITECTURE = (
    "The idea is Joonnyong Lee's bidirectional recurrent denoising autoencoder (BRDAE, and BRAE in his 2019 course); the "
    "architecture is this project's: "
    "standardised samples and a mask in patches, two LSTMs that read the whole window from either end, and for each sample "
    "three gates, a correction and "
    "a log variance."
)


def text(found: Checkpoint) -> str:
    """The card of a checkpoint, Markdown."""
    p = found.provenance
    recipe = dict(p.get("recipe", {}))
    title = f"{found.arch.family}, {found.parameters:,} parameters"
    began = p.get("from")
    lines = [
        f"# {title}",
        "",
        f"A ppgstream checkpoint: `ppgstream run --checkpoint {found.path.name}`. Windows of {found.arch.window} samples at "
        f"{found.fs:g} Hz, "
        f"hop {found.hop}; id {found.id.hex()}.",
        "",
        *([OWN_ARCHITECTURE, ""] if found.arch.family == "brdae" else []),
        *(
            [f"Trained {p['date']}, {p['epochs_done']} of {recipe.get('epochs')} epochs in {p['minutes']:g} minutes."]
            if {"date", "epochs_done", "minutes"} <= set(p)
            else []
        ),
        *(
            [f"Training began from the weights of an earlier run, {began['name']} (sha256 {began['sha256'][:16]})."]
            if isinstance(began, Mapping)
            else [f"Imported from {began}."]
            if began
            else []
        ),
        "",
        *(_figures(found.figures) if found.figures else []),
        "## Cost",
        "",
        f"{found.parameters:,} parameters"
        + ("." if math.isnan(found.arch.mflop) else f", {found.arch.mflop:.2f} MFLOP a window."),
        "",
        "## Data",
        "",
        *_sources(p.get("data", {})),
        "",
        *_whom(p.get("data", {}), dict(p.get("split", {}))),
        *(f"- {side}: {_listed(names)}" for side, names in dict(p.get("split", {})).items()),
        "",
        *(_recipe(recipe) if recipe else []),
        "## Limits",
        "",
        *(f"- {limit}" for limit in LIMITS),
    ]
    return "\n".join(lines) + "\n"


def _figures(figures: Mapping[str, Any]) -> list[str]:
    return [
        "## Figures",
        "",
        *_table("figure", "value", figures),
        "",
        "G: how much less squared error the answer has than its input, dB, each min-maxed per window; under the recipe's "
        "noise (N1 where it has none).",
        "What the other words mean: docs/bench.md.",
        "",
    ]


def _recipe(recipe: Mapping[str, Any]) -> list[str]:
    return [
        "## Recipe",
        "",
        "```toml",
        *(_toml(key, value) for key, value in recipe.items() if value not in (None, "")),
        "```",
        "",
    ]


def _sources(stated: Any) -> list[str]:
    """What a manifest says of the data: a source by name, or (before format 2) a sentence."""
    return [f"- {name}: {source}" for name, source in stated.items()] if isinstance(stated, Mapping) else [f"- {stated}"]


def _whom(sources: Any, split: Mapping[str, Sequence[str]]) -> list[str]:
    """On whom: of each data set the site, the sensor, and how many people train, validate and test."""
    if not isinstance(sources, Mapping):
        return []
    lines = ["| on whom | people to train on | to validate on | to test on |", "|---|---|---|---|"]
    for name in sources:
        cells = []
        for side in data.SIDES:
            stated = list(split.get(side, ()))
            if name == "synthetic":
                cells.append(next((n.split()[0] for n in stated if n.endswith("synthetic people")), "0"))
            else:
                known = tuple(f"{one}_" for one in WHOM if one != "own")
                own = [n for n in stated if (n.startswith(f"{name}_") or (name == "own" and not n.startswith(known)))]
                cells.append(str(len({data.wearer_of(n) for n in own if not n.endswith("synthetic people")})))
        lines.append(f"| {name}: {WHOM.get(name, 'not stated')} | {' | '.join(cells)} |")
    return [*lines, ""]


def _table(left: str, right: str, rows: Mapping[str, Any]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]


def _listed(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "none"


def _toml(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{key} = {{ {', '.join(f'{k} = {v}' for k, v in value.items())} }}"
    if isinstance(value, list):
        return f"{key} = [{', '.join(_scalar(v) for v in value)}]"
    return f"{key} = {_scalar(value)}"


def _scalar(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
