"""From a configuration and a checkpoint to the rules that samples go by. Made here alone, for the daemon, files, calibration and
the bench."""

from __future__ import annotations

from typing import Any, Literal

from ppgstream.config import Config
from ppgstream.core.confidence import calibration_for
from ppgstream.core.plan import Geometry, Plan, Rules, SensorRules
from ppgstream.core.rate import rules_for
from ppgstream.errors import ConfigError
from ppgstream.model.checkpoint import Checkpoint


def plan_of(
    checkpoint: Checkpoint,
    *,
    hop: int | None = None,
    lookahead: int | None = None,
    overlap: Literal["hann", "uniform"] = "hann",
    beats: bool = True,
    output: Literal["input", "model"] = "input",
) -> Plan:
    """What a checkpoint makes of samples. `hop` and `lookahead` in samples; None: the checkpoint's own. The network's own answer
    (`output`) has no calibrated confidence, no beats and no rates.

    Raises ConfigError where they do not fit the checkpoint's window."""
    window, context = checkpoint.arch.window, checkpoint.arch.context
    hop, ahead = hop or checkpoint.hop, checkpoint.lookahead if lookahead is None else lookahead
    if hop > window:
        raise ConfigError(f"windows.hop: {hop} is longer than the checkpoint's window of {window} samples")
    if ahead is not None and ahead >= window:
        raise ConfigError(f"windows.lookahead: {ahead} is not below the checkpoint's window of {window} samples")
    ahead = window - 1 if ahead is None else ahead
    stated, fs = checkpoint.calibration, checkpoint.fs
    return Plan(
        Geometry(window, hop, context, None if ahead == window - 1 else ahead, overlap),
        fs,
        checkpoint.id,
        checkpoint.arch.answers,
        checkpoint.arch.scaling,
        output,
        calibration=None if output == "model" else calibration_for(stated, ahead, window, fs),
        rate=rules_for(stated, fs) if beats and output != "model" else None,
    )


def plan_like(plan: Plan, checkpoint: Checkpoint) -> Plan:
    """What another checkpoint makes of samples whose windows lie as those of `plan`. Raises ConfigError with the reason where it
    cannot: the two differ in rate, window or context."""
    g = plan.geometry
    for what, found, served in (
        ("a rate of {} Hz", f"{checkpoint.fs:g}", f"{plan.fs:g}"),
        ("windows of {} samples", checkpoint.arch.window, g.window),
        ("a context of {} samples", checkpoint.arch.context, g.context),
    ):
        if found != served:
            raise ConfigError(f"{checkpoint.path}: is made for {what.format(found)}, and the one that is served for {served}")
    ahead = g.window - 1 if g.lookahead is None else g.lookahead
    return plan_of(checkpoint, hop=g.hop, lookahead=ahead, overlap=g.overlap, beats=plan.rate is not None, output=plan.output)


def rules_of(config: Config, checkpoint: Checkpoint, *, output: Literal["input", "model"] = "input", few: int = 0) -> Rules:
    """An engine's rules for a configuration and a checkpoint. Raises ConfigError where the two do not fit."""
    w, s = config.windows, config.streams
    lookahead = None if w.lookahead < 0 else w.lookahead
    plan = plan_of(checkpoint, hop=w.hop or None, lookahead=lookahead, overlap=w.overlap, beats=s.beats, output=output)
    sensor = SensorRules(
        max_fill=s.max_fill,
        hold=s.hold_samples,
        hold_s=s.hold_s,
        silence_s=s.silence_s,
        threshold=s.threshold,
        sentinels=tuple(config.in_.sentinels),
        # The network's own answer is asked for as it is: turned over only by request.
        polarity="up" if s.polarity == "auto" and output == "model" else s.polarity,
        stated_fs=config.in_.fs,
        rates={name: own.fs for name, own in s.by_name.items() if own.fs},
        policy=s.policy,
        policies={name: own.policy for name, own in s.by_name.items() if own.policy is not None},
    )
    return Rules(plan, sensor, checkpoint.tile, s.max_streams, few)


def offline_rules(checkpoint: Checkpoint, **plan: Any) -> Rules:
    """An engine's rules by default, for a checkpoint under `plan_of`'s arguments: for whoever calibrates or judges it."""
    return Rules(plan_of(checkpoint, **plan), tile=checkpoint.tile)
