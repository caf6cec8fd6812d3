"""Arguments of the Python functions: arrays of any kind to float64, and what is none of them as one line."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.denoiser import Denoiser
from ppgstream.core.measuring import RATES_HZ
from ppgstream.core.plan import Rules
from ppgstream.errors import ArgumentError
from ppgstream.model.checkpoint import Checkpoint

Float64 = NDArray[np.float64]
POLARITIES = ("auto", "up", "down")


def rate_of(fs: Any) -> float:
    """A sampling rate, Hz. Raises ArgumentError for what none can be."""
    try:
        found = float(fs)
    except (TypeError, ValueError):
        found = float("nan")
    if not RATES_HZ[0] <= found <= RATES_HZ[1]:
        raise ArgumentError(f"fs: {fs!r}: must be the sampling rate in Hz, {RATES_HZ[0]:g} to {RATES_HZ[1]:g}")
    return found


def samples_of(x: Any, *, rows: bool) -> Float64:
    """Samples (n,), or with `rows` recordings in rows (rows, n), as float64; what is masked, None or infinite is NaN. Raises
    ArgumentError."""
    if isinstance(x, str | Path):
        raise ArgumentError(f"x: {str(x)!r} is a path: ppgstream.load(path) reads it")
    try:
        found = np.asarray(np.ma.filled(np.ma.asarray(x, np.float64), np.nan)) if np.ma.isMaskedArray(x) else np.asarray(x)
        if found.dtype.kind == "O":
            found = np.array([np.nan if value is None else value for value in found.ravel()], np.float64).reshape(found.shape)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"x: no numbers: {error}") from error
    if found.dtype.kind not in "fiub":
        why = "complex: a PPG sample is one real number" if found.dtype.kind == "c" else f"of type {found.dtype}: no numbers"
        raise ArgumentError(f"x: {why}")
    most = 2 if rows else 1
    if found.ndim not in (1, most):
        shape = "(n,)" if most == 1 else "(n,) or (recordings, n)"
        raise ArgumentError(f"x: an array of shape {found.shape}: must be {shape}")
    if found.ndim == 2 and found.shape[1] < min(found.shape[0], 250):
        n, m = found.shape
        raise ArgumentError(
            f"x: {n} recordings of {m} samples: recordings are rows: if yours are columns, give x.T, or one: x[:, 0]"
        )
    if most == 2 and not found.size:
        raise ArgumentError(f"x: empty (shape {found.shape})")
    found = np.array(found, np.float64, order="C")  # the caller's may change
    found[~np.isfinite(found)] = np.nan
    return found


def whole_of(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """A whole number. Raises ArgumentError, which names it."""
    try:
        found = operator.index(value)
    except TypeError:
        found = None
    if found is None or isinstance(value, bool | np.bool_) or not least <= found <= most:
        bound = f"{least} or more" if math.isinf(most) else f"{least} to {most:g}"
        raise ArgumentError(f"{name}: {value!r}: must be a whole number, {bound}")
    return found


def number_of(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """A number above `least`, at most `most`. Raises ArgumentError, which names it."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, str | bytes) or not least < found <= most:
        raise ArgumentError(
            f"{name}: {value!r}: must be a number above {least:g}" + (f", at most {most:g}" if most < math.inf else "")
        )
    return found


def text_of(name: str, value: Any) -> str:
    """A text. Raises ArgumentError, which names it."""
    if not isinstance(value, str):
        raise ArgumentError(f"{name}: {value!r}: must be a text")
    return value


class Serving(NamedTuple):
    """What denoises: the network, and the rules that samples go by."""

    denoiser: Denoiser
    rules: Rules


def serving(checkpoint: str | Path, lookahead: int | None, polarity: str, sentinels: tuple[float, ...]) -> Serving:
    """A checkpoint, by its name or path, made ready. Raises ArgumentError, CheckpointError, ConfigError."""
    import msgspec

    from ppgstream.assemble import rules_of
    from ppgstream.config import Config
    from ppgstream.model.checkpoint import BUNDLED
    from ppgstream.model.restore import restore

    if polarity not in POLARITIES:
        raise ArgumentError(f"polarity: {polarity!r}: must be {', '.join(POLARITIES[:-1])} or {POLARITIES[-1]}")
    if not isinstance(checkpoint, str | Path):
        raise ArgumentError(f"checkpoint: {checkpoint!r}: must be a name or a path")
    ahead = -1 if lookahead is None else whole_of("lookahead", lookahead, 0)
    try:
        values = tuple(float(value) for value in sentinels)
    except (TypeError, ValueError):
        raise ArgumentError(f"sentinels: {sentinels!r}: must be numbers, such as (0, -1)") from None
    plain = Config()
    settings = msgspec.structs.replace(
        plain,
        windows=msgspec.structs.replace(plain.windows, lookahead=ahead),
        streams=msgspec.structs.replace(plain.streams, polarity=polarity),
        in_=msgspec.structs.replace(plain.in_, sentinels=values),
    )
    chosen = restore(BUNDLED if checkpoint == "default" else Path(checkpoint))
    if ahead >= chosen.arch.window:
        raise ArgumentError(f"lookahead: {lookahead}: must be below the checkpoint's window of {chosen.arch.window} samples")
    rules = rules_of(settings, chosen)
    return Serving(denoiser_of(chosen), rules)


_made: dict[bytes, Denoiser] = {}  # by the checkpoint's id
MOST_MADE = 4


def denoiser_of(checkpoint: Checkpoint) -> Denoiser:
    """What runs a checkpoint: made once, and kept for the next call."""
    from ppgstream.model import runtime

    if checkpoint.id not in _made:
        for oldest in list(_made)[: len(_made) - MOST_MADE + 1]:
            del _made[oldest]
        _made[checkpoint.id] = runtime.denoiser(checkpoint)
    return _made[checkpoint.id]
