"""From a configuration and a checkpoint to the engine's rules."""

from __future__ import annotations

from typing import Any

from ppgstream.config import Config
from ppgstream.core.engine import EngineRules
from ppgstream.core.rate import rules_for
from ppgstream.core.segments import Geometry
from ppgstream.core.stream import StreamRules
from ppgstream.core.trust import calibration_for
from ppgstream.errors import ConfigError
from ppgstream.model.checkpoint import Checkpoint


def rules_of(config: Config, checkpoint: Checkpoint, **changes: Any) -> EngineRules:
    """The engine's rules for a configuration and a checkpoint. Raises ConfigError where the two do not fit."""
    window, w, s = checkpoint.arch.window, config.windows, config.streams
    if config.in_.format != "ppgstream" and abs(config.in_.fs / checkpoint.fs - 1) > 0.01:
        raise ConfigError(
            f"in.fs: {config.in_.fs:g} Hz, but this checkpoint takes {checkpoint.fs:g} Hz: streams are not resampled"
        )
    hop = w.hop or checkpoint.hop
    if hop > window:
        raise ConfigError(f"windows.hop: {hop} is longer than the checkpoint's window of {window} samples")
    if w.lookahead >= window:
        raise ConfigError(f"windows.lookahead: {w.lookahead} is not below the checkpoint's window of {window} samples")
    lookahead = checkpoint.lookahead if w.lookahead < 0 else w.lookahead
    geometry = Geometry(window, hop, checkpoint.arch.context, lookahead, w.overlap)
    calibration = calibration_for(checkpoint.calibration, window - 1 if lookahead is None else lookahead, window, checkpoint.fs)
    stream = StreamRules(
        geometry,
        checkpoint.fs,
        max_fill=s.max_fill,
        hold=s.hold_samples,
        hold_s=s.hold_s,
        silence_s=s.silence_s,
        checkpoint=checkpoint.id,
        threshold=s.threshold,
        calibration=None if changes.get("output") == "model" else calibration,
        sentinels=tuple(config.in_.sentinels),
        clocked_by_arrival=config.in_.format != "ppgstream",
        policy=s.policy,
        policies={name: own.policy for name, own in s.by_name.items() if own.policy is not None},
        rate=rules_for(checkpoint.calibration, checkpoint.fs) if s.beats and changes.get("output") != "model" else None,
        # The network's own answer is asked for as it is: turned over only by request.
        polarity="up" if s.polarity == "auto" and changes.get("output") == "model" else s.polarity,
    )
    arch = checkpoint.arch
    return EngineRules(stream, checkpoint.tile, arch.answers, arch.scaling, max_streams=s.max_streams, **changes)
