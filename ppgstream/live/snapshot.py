"""The status of a daemon, as its status socket tells it: docs/status.md says what each field means."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:  # a client needs the fields alone
    from ppgstream.core.engine import Engine
    from ppgstream.core.ledger import Ledger
    from ppgstream.core.sequence import Counts
    from ppgstream.core.stream import Stream
    from ppgstream.live.round import Clock, Pace


class CheckpointStatus(msgspec.Struct):
    """The checkpoint that is served."""

    path: str
    family: str
    id: str


class Delay(msgspec.Struct):
    """How long a sample waits for those after it, s."""

    least: float
    most: float


class Percentiles(msgspec.Struct):
    """Of the lag of windows, ms."""

    p50: float | None
    p99: float | None
    max: float | None


class LedgerStatus(msgspec.Struct):
    """Samples, by what became of them."""

    seen: int
    accepted: int
    gap: int
    rejected: int
    duplicates: int
    denoised: int
    passthrough: int
    invalid: int
    shed: int
    held: int
    outliers: int
    in_flight: int
    refused: int
    unaccounted: int


OUTCOMES = tuple(name for name in LedgerStatus.__struct_fields__ if name not in ("seen", "in_flight", "unaccounted"))


class Messages(msgspec.Struct):
    """Messages, by what became of them."""

    received: int
    malformed: int
    published: int


class Queues(msgspec.Struct):
    """Windows that wait, and how many may."""

    ready_windows: int
    ready_limit: int
    model_windows: int


class TraceStatus(msgspec.Struct):
    """A watched stream's wave, a value a sample; and its beats: seconds before the end, and confidence."""

    fs: float
    raw: list[float | None]
    clean: list[float | None]
    confidence: list[float] = []
    flags: list[int] = []
    beats: list[tuple[float, float]] = []
    units: str = ""
    stop: int = 0  # the index after the last sample


class EventStatus(msgspec.Struct):
    """An event that happened lately, `times` in all, the last time `age_s` ago."""

    name: str
    stream: str
    text: str
    times: int
    age_s: float


class StreamStatus(msgspec.Struct):
    """One stream."""

    name: str
    session: str | None
    live: bool
    silent_s: float
    samples_per_s: float
    fs: float
    fs_measured: float | None
    drift_ppm: float | None
    units: str
    lag_ms: float
    confidence: float
    bpm: float | None
    bpm_confidence: float | None
    seen: int
    accepted: int
    gap: int
    rejected: int
    duplicates: int
    denoised: int
    passthrough: int
    invalid: int
    shed: int
    held: int
    outliers: int
    in_flight: int
    refused: int
    unclean_sessions: int
    # What an older daemon does not tell has a default.
    troubles: list[str] = []
    low_s: float = 0.0
    lost_lately: int = 0


class Check(msgspec.Struct):
    """Something that both checkpoints were asked, and what they answered: shares, or ms. `most` and `least`: what the new
    one may have."""

    name: str
    serving: float
    new: float
    most: float | None = None
    least: float | None = None
    fine: bool = True


def limit_of(check: Check) -> str:
    """What the new one may have, in words; empty where there is no limit."""
    if check.most is None or check.least is None:
        most, least = check.most, check.least
        return f"at most {most:.4g}" if most is not None else f"at least {least:.4g}" if least is not None else ""
    return f"{check.least:.4g} to {check.most:.4g}"


class Figures(msgspec.Struct):
    """What two checkpoints answered to the same live samples, by seconds of streams. `sure`: of a mean confidence of 0.5 at
    least."""

    streams: int = 0
    seconds: int = 0
    sure_serving: int = 0
    sure_new: int = 0
    sure_both: int = 0
    confidence_serving: float = 0.0
    confidence_new: float = 0.0
    # Of seconds of which both are sure: how high the new wave is, over the other's (5 %, median, 95 %); the RMS of their
    # difference, over the other's SD (median, 95 %); and how many seconds differ by more than half of that SD.
    amplitude: tuple[float, float, float] | None = None
    difference: tuple[float, float] | None = None
    differ: int = 0
    # Heart rates of which both are sure, and of these those more than 5 bpm apart.
    rates: int = 0
    rates_differ: int = 0


class ReloadStatus(msgspec.Struct):
    """The last reload. state: trying, loading, serving, refused, tried (it was only to be tried), rolled_back, back; `watched`:
    whether it is still being decided if a new one stays."""

    number: int
    state: str
    checkpoint: str
    id: str = ""
    text: str = ""
    code: int = 0
    age_s: float = 0.0
    watched: bool = False
    checks: list[Check] = []
    live: Figures | None = None


class ShadowStatus(msgspec.Struct):
    """The shadow. state: starting, running, failed."""

    state: str
    checkpoint: str
    share: float
    id: str = ""
    text: str = ""
    streams: int = 0
    age_s: float = 0.0
    samples: int = 0
    shed: int = 0
    figures: Figures | None = None


class MemberStatus(msgspec.Struct):
    """A member of a fleet, as its lease tells."""

    id: str
    host: str
    pid: int
    checkpoint: str
    partitions: int = 0
    streams: int = 0
    samples_per_s: float = 0.0
    lag_ms: float | None = None
    taken: int = 0  # partitions that it took over
    given: int = 0  # partitions that it handed over
    leaving: bool = False


class FleetStatus(msgspec.Struct):
    """The fleet that a daemon is a member of."""

    name: str
    member: str
    partitions: int
    fenced: int
    members: list[MemberStatus]


class Snapshot(msgspec.Struct):
    """All of it."""

    version: str
    state: str
    pid: int
    uptime_s: float
    cpu_s: float
    max_rss_kb: int
    checkpoint: CheckpointStatus
    endpoints: dict[str, str]
    fs: float
    window: int
    hop: int
    delay_s: Delay
    samples_per_s: float
    windows_per_s: float
    lag_ms: Percentiles
    read_lag_ms: Percentiles
    ledger: LedgerStatus
    unclean_sessions: int
    messages: Messages
    log_lost: int
    subscribers: int
    queues: Queues
    events: dict[str, int]
    last_events: list[str]
    streams_total: int
    streams: list[StreamStatus]
    traces: dict[str, TraceStatus]
    # What an older daemon does not tell has a default.
    recent: list[EventStatus] | None = None
    streams_like: int | None = None
    troubles: dict[str, int] = {}
    lag_counts: list[int] = []
    lag_sum_ms: float = 0.0
    window_s: float = 0.0
    unwell: str = ""
    reload: ReloadStatus | None = None
    shadow: ShadowStatus | None = None
    fleet: FleetStatus | None = None


def ledger_of(engine: Engine) -> LedgerStatus:
    """The account of all streams."""
    counts, ledger, in_flight, unaccounted = engine.totals
    return LedgerStatus(*counts, *_published(ledger), in_flight, ledger.refused + engine.refused, unaccounted)


def delay_of(engine: Engine) -> Delay:
    """How long a sample waits for those after it."""
    plan = engine.rules.plan
    wait = plan.geometry.window - plan.geometry.settles
    return Delay(wait / plan.fs, (wait + plan.geometry.hop - 1) / plan.fs)


def row_of(stream: Stream, pace: Pace, clock: Clock) -> StreamStatus:
    """One stream's row."""
    sessions, beats, fs = stream.intake.sessions, stream.timeline.beats, stream.intake.rate.measured
    counts: Counts = sessions.counts
    watch, now = pace.watch(stream.name), time.monotonic()
    return StreamStatus(
        stream.name,
        None if stream.session is None else f"{stream.session:016x}",
        stream.session is not None,
        round(clock.listened - sessions.seen_at, 3),
        round(watch.rates.now()[0], 1),
        stream.intake.fs,
        None if fs is None else round(fs, 3),
        None if (ppm := stream.intake.rate.drift_ppm) is None else round(ppm, 1),
        stream.intake.units,
        round(watch.lag_ms, 3),
        round(stream.timeline.confidence, 4),
        None if beats is None or math.isnan(beats.bpm) else round(beats.bpm, 1),
        None if beats is None else round(beats.bpm_confidence, 3),
        *counts,
        *_published(stream.ledger),
        stream.in_flight,
        stream.ledger.refused,
        sessions.unclean,
        list(watch.troubles),
        round(watch.low_s(now), 1),
        watch.lost_lately(stream),
    )


def traces_of(engine: Engine, watched: Iterable[str]) -> dict[str, TraceStatus]:
    """The waves of the streams that monitors watch."""
    found = {}
    for name in watched:
        stream = engine.streams.get(name)
        if stream is not None and (trace := stream.timeline.trace) is not None:
            fs = stream.intake.fs
            found[name] = TraceStatus(
                fs,
                [None if math.isnan(v) else v for v in trace.raw],
                [None if math.isnan(v) else v for v in trace.clean],
                list(trace.confidence),
                list(trace.flags),
                [(round((trace.stop - at) / fs, 3), round(sure, 3)) for at, sure in trace.beats],
                stream.intake.units,
                trace.stop,
            )
    return found


def percentiles(values: deque[float]) -> Percentiles:
    """Of lags, ms; None where there are none."""
    return Percentiles(*(np.percentile(values, [50, 99, 100]).round(3).tolist() if values else [None] * 3))


def _published(ledger: Ledger) -> tuple[int, int, int, int, int, int]:
    return (ledger.denoised, ledger.passthrough, ledger.invalid, ledger.shed, ledger.held, ledger.outliers)
