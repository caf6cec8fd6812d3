"""`ppgstream bench`: how fast the network is, how many live streams the daemon carries, and other ways to run the same network,
all in one run.

Figures of different machines do not compare, and neither do those of a busy and a quiet one: so each run also measures this
machine's own float32 matrix product, and what is quoted is a ratio of figures of one run. Definitions: docs/bench.md.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from ppgstream.config import Runtime
from ppgstream.core.denoiser import Batch
from ppgstream.errors import CheckpointError, OutputError, SourceError
from ppgstream.lab import synthetic
from ppgstream.live.daemon import cores
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.model.architecture import OWN
from ppgstream.model.checkpoint import DEFAULT_TILE, SHIPPED, Checkpoint
from ppgstream.model.restore import restore
from ppgstream.show import messages
from ppgstream.show.load import CHUNK, FS, HEAR_S, NOISE, SEED, Load, Received, Sent, receive, send
from ppgstream.storage import replace_files

PARTS = ("model", "system", "peers", "messages")
OTHERS = 5  # streams beside a flood
TILES = (1, 16, 64, 256)
GEMM = 768  # rows and columns
TURNS = 7  # of a network and a matrix product, one after the other
LIVE_MS = 250.0  # lag at the 99th percentile up to which a stream counts as live
BEHIND_MS = (
    100.0,
    15.0,
)  # median lag of a probe's last quarter from which the daemon does not keep up: so much, and so much a second of the probe
FIRST_STREAMS, MOST_STREAMS, PRECISION = 250, 10_000, 0.05  # of the search
READY_S, STOP_S = 120.0, 20.0
ROUND = 10  # streams


class Plan(NamedTuple):
    """How long each measurement takes, s. probe: of one number of streams; hold: of the largest that is carried; speed: of one
    tile or peer."""

    probe: float = 8.0
    hold: float = 60.0
    speed: float = 1.5
    fixed: tuple[int, ...] = (1, 100, 1000)  # streams that are measured whatever the capacity
    only: int | None = None  # this number of streams alone, for `hold`


FULL, QUICK = Plan(), Plan(probe=5.0, hold=5.0, speed=0.4, fixed=(1,))
# What a user of NeuroKit2 writes: its cleaning and its peaks of the last seconds, every few seconds.
LOOP_SPAN_S, LOOP_EVERY_S = 8.0, 2.0
Say = Callable[[str], None]
T = TypeVar("T")


def run(checkpoint: Checkpoint, *, parts: Sequence[str], plan: Plan, say: Say, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The parts asked for, as they are written to JSON. settings: further arguments of `ppgstream run`."""
    result: dict[str, Any] = {
        "checkpoint": {
            "path": str(checkpoint.path),
            "family": checkpoint.arch.family,
            "id": checkpoint.id.hex(),
            "parameters": checkpoint.parameters,
            "mflop": None if math.isnan(checkpoint.arch.mflop) else round(checkpoint.arch.mflop, 2),
        },
        "cores": cores(),
    }
    if "model" in parts:
        result["model"] = []
        for threads in sorted({1, cores()}):
            say(f"model: windows/s by tile on {threads} thread{'s' * (threads > 1)}")
            result["model"] += _apart(model_speeds, checkpoint.path, threads, plan.speed)
    if "peers" in parts:
        say("peers: other ways to run the course's network, one thread")
        result["peers"], left_out = _apart(peer_speeds, plan.speed)
        for what in left_out:
            say(f"peers: left out: {what}")
    if "messages" in parts:
        result["messages"] = beside_floods(checkpoint.path, messages.costs(say), plan=plan, say=say, settings=settings)
    if "system" in parts:
        result["system"] = system(checkpoint.path, plan=plan, say=say, settings=settings)
    return result


def _apart(measure: Callable[..., T], *arguments: Any) -> T:
    """In a process of its own, where a call of a library computes on one thread: that is decided once a process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, *arguments).result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- the model -----------------------------------------------------------------------------------------------------


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls a second: the median of single ones over `seconds`, after two that do not count."""
    call(), call()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 3:
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return 1 / float(np.median(took))


def rates_by_turns(
    network: Callable[[], object], gemm: Callable[[], object], threads: int, seconds: float
) -> tuple[float, float]:
    """Calls a second of a network and of a matrix product, each on so many threads at once: medians over `TURNS` in which one
    follows the other, so that what else the machine does slows both. A turn counts all its time: a busy machine interrupts long
    calls more often than short ones. seconds: of the network; the product gets half of it."""

    def of_turn(call: Callable[[], object], seconds: float) -> float:
        calls, began = 0, time.perf_counter()
        while not calls or time.perf_counter() - began < seconds:
            call()
            calls += 1
        return calls / (time.perf_counter() - began)

    rates: tuple[list[float], list[float]] = ([], [])
    share = ((network, seconds / TURNS), (gemm, seconds / TURNS / 2))
    for call, _ in share:
        call(), call()
    with ThreadPoolExecutor(threads) as pool:  # as the daemon's workers do it
        for _ in range(TURNS):
            for found, (call, lasts) in zip(rates, share, strict=True):
                found.append(sum(pool.map(of_turn, [call] * threads, [lasts] * threads)))
    return float(np.median(rates[0])), float(np.median(rates[1]))


def batch_of(checkpoint: Checkpoint, n: int) -> Batch:
    length = checkpoint.arch.context + checkpoint.arch.window
    x = np.random.default_rng(0).uniform(0, 1, (n, length)).astype(np.float32)
    return Batch(x, np.ones((n, length), np.bool_))


def model_speeds(path: Path, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Windows/s of a checkpoint by tile, beside float32 matrix products on as many threads: the limit of a network that is
    nothing else."""
    from ppgstream.model.runtime import denoiser

    checkpoint = restore(path)
    a = np.random.default_rng(0).standard_normal((GEMM, GEMM), np.float32)
    rows = []
    of_one_size = checkpoint.arch.family == OWN and checkpoint.tile != DEFAULT_TILE
    for tile in (checkpoint.tile,) if of_one_size else TILES:
        denoise, batch = denoiser(replace(checkpoint, tile=tile), threads=threads), batch_of(checkpoint, tile)
        calls, products = rates_by_turns(partial(denoise, batch), partial(np.matmul, a, a), threads, seconds)
        speed, gflops = tile * calls, products * 2e-9 * GEMM**3
        limit = gflops * 1e3 / checkpoint.arch.mflop
        rows.append(
            {
                "threads": threads,
                "tile": tile,
                "windows_per_s": round(speed),
                "gemm_gflops": round(gflops, 1),
                "of_gemm": None if math.isnan(limit) else round(speed / limit, 3),
            }
        )
    return rows


def peer_speeds(seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Windows/s of the recurrent network (the checkpoint `brae`), run as other programs run one, of the linear estimate, and of a
    loop over another library. And what is left out, and why."""
    from ppgstream.model.runtime import denoiser
    from ppgstream.model.tensorflow_runtime import network

    brae, lmmse = restore(SHIPPED / "brae"), restore(SHIPPED / "lmmse")
    one, many = batch_of(brae, 1), batch_of(brae, 64)
    linear, linear_batch = denoiser(replace(lmmse, tile=64)), batch_of(lmmse, 64)

    def way(runtime: Runtime, tile: int) -> Callable[[], object]:
        return partial(denoiser(replace(brae, tile=tile), runtime=runtime), batch_of(brae, tile))

    ways: dict[str, tuple[int, Callable[[], object]]] = {}
    left_out: list[str] = []
    try:
        keras = network(brae)
        ways |= {
            "brae, Keras predict, one window a call": (
                1,
                lambda: keras.predict([one.x, one.valid.astype(np.float32)], verbose=0),
            ),
            "brae, Keras predict, 64 windows a call": (
                64,
                lambda: keras.predict([many.x, many.valid.astype(np.float32)], verbose=0),
            ),
            "brae, TensorFlow, one window a call": (1, way("tensorflow", 1)),
            "brae, TensorFlow, tiles of 64": (64, way("tensorflow", 64)),
        }
    except CheckpointError as error:
        left_out.append(f"the ways through Keras and TensorFlow: {error}")
    ways |= {
        "brae, ONNX Runtime, one window a call": (1, way("onnx", 1)),
        "brae, ONNX Runtime, tiles of 64": (64, way("onnx", 64)),
        "lmmse (NumPy), tiles of 64": (64, lambda: linear(linear_batch)),
    }
    speeds = {name: n * rate(call, seconds) for name, (n, call) in ways.items()}
    best = speeds["brae, ONNX Runtime, tiles of 64"]
    rows: list[dict[str, Any]] = [
        {"way": name, "windows_per_s": round(speed), "ratio": round(speed / best, 3), "streams": round(speed * brae.hop / FS)}
        for name, speed in speeds.items()
    ]
    if (loop := _neurokit_loop()) is None:
        left_out.append("NeuroKit2: it is not installed")
    else:
        steps = rate(loop, seconds)
        name = f"NeuroKit2 ppg_clean and ppg_peaks, last {LOOP_SPAN_S:g} s every {LOOP_EVERY_S:g} s"
        rows.append({"way": name, "windows_per_s": round(steps), "ratio": None, "streams": round(steps * LOOP_EVERY_S)})
    return rows, left_out


def _neurokit_loop() -> Callable[[], object] | None:
    """A step of that loop; None where NeuroKit2 is not installed."""
    try:
        import neurokit2  # type: ignore[import-untyped]
    except ImportError:
        return None
    rng = np.random.default_rng(SEED)
    wave, _ = synthetic.pulse(round(LOOP_SPAN_S * FS), synthetic.person(rng), rng)
    noisy = wave + NOISE * rng.standard_normal(len(wave))

    def step() -> object:
        return neurokit2.ppg_peaks(neurokit2.ppg_clean(noisy, sampling_rate=FS), sampling_rate=FS)

    return step


# ---- the system ----------------------------------------------------------------------------------------------------


class Carried(NamedTuple):
    """What came of a number of streams for some seconds. late_ms: of the sender, 99th percentile. cores: processor time a second.
    load: what sends and receives."""

    streams: int
    seconds: float
    sent: int
    lost: int
    shed: int
    unaccounted: int
    lag_p50_ms: float
    lag_p99_ms: float
    lag_p999_ms: float
    lag_end_ms: float
    late_ms: float
    windows_per_s: float
    daemon_cores: float
    load_cores: float
    daemon_mb: float

    @property
    def whole(self) -> bool:
        """Nothing was lost or shed, and the daemon kept up."""
        behind = BEHIND_MS[0] + BEHIND_MS[1] * self.seconds
        return not (self.lost or self.shed or self.unaccounted) and self.lag_end_ms <= behind

    @property
    def live(self) -> bool:
        return self.whole and self.lag_p99_ms <= LIVE_MS

    def row(self) -> dict[str, Any]:
        """For JSON, which has no infinity: a lag that nothing gave is None."""
        figures = {key: value if np.isfinite(value) else None for key, value in self._asdict().items()}
        return figures | {"whole": self.whole, "live": self.live}


class Target:
    """A daemon in a process of its own, and what it says of itself."""

    def __init__(self, path: Path, folder: Path, settings: Sequence[str]) -> None:
        self.ends = {name: f"ipc://{folder / name}" for name in ("in", "out", "status")}
        self.log = folder / "daemon.log"
        asked = [sys.executable, "-m", "ppgstream", "run", "--checkpoint", str(path.absolute()), *settings]
        for name, endpoint in self.ends.items():
            asked += [f"--{name}", endpoint]
        self._status: StatusClient | None = None
        began = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(asked, stdout=log, stderr=log, cwd=folder)  # noqa: S603
        while "ready:" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() - began > READY_S:
                self.stop()
                raise SourceError(
                    f"the daemon to be measured did not start: {(self.log.read_text().splitlines() or ['it said nothing'])[-1]}"
                )
            time.sleep(0.01)
        self.ready_s = time.monotonic() - began
        self._status = StatusClient(self.ends["status"])

    def snapshot(self) -> Snapshot:
        found = None if self._status is None else self._status.ask(30.0)
        if found is None:
            raise SourceError("the daemon to be measured does not answer")
        return found

    def stop(self) -> None:
        if self._status is not None:
            self._status.close()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.process.kill()
        self.process.wait()


def carry(target: Target, streams: int, seconds: float, pool: ProcessPoolExecutor) -> Carried:
    """Send `streams` streams for `seconds` through the daemon, and see what comes out."""
    before = target.snapshot()
    wait = round(before.delay_s.least * before.fs)
    prepared_s = 2 * HEAR_S + streams * seconds / 60_000
    load = Load(streams, seconds, time.monotonic() + prepared_s, secrets.randbits(63), wait)
    receiving, sending = pool.submit(receive, target.ends["out"], load), pool.submit(send, target.ends["in"], load)
    sent: Sent = sending.result()
    received: Received = receiving.result()
    after = target.snapshot()
    ledger = {key: getattr(after.ledger, key) - getattr(before.ledger, key) for key in ("shed", "accepted", "refused")}
    lags, at = np.array(received.lags_ms or [np.inf]), np.array(received.at_s or [0.0])
    end = lags[at >= seconds * 0.75]
    p50, p99, p999 = (float(np.percentile(lags, q)) for q in (50, 99, 99.9))
    return Carried(
        streams=streams,
        seconds=seconds,
        sent=sent.samples,
        lost=sent.samples - received.samples,
        shed=ledger["shed"],
        unaccounted=after.ledger.unaccounted,
        lag_p50_ms=round(p50, 1),
        lag_p99_ms=round(p99, 1),
        lag_p999_ms=round(p999, 1),
        lag_end_ms=round(float(np.median(end)), 1) if len(end) else float("inf"),
        late_ms=round(sent.late_ms, 1),
        windows_per_s=round(len(lags) / max(seconds - wait / before.fs, 0.1), 1),
        daemon_cores=round((after.cpu_s - before.cpu_s) / seconds, 3),
        load_cores=round((sent.cpu_s + received.cpu_s) / seconds, 3),
        daemon_mb=round(after.max_rss_kb / 1024, 1),
    )


def system(path: Path, *, plan: Plan, say: Say, settings: Sequence[str]) -> dict[str, Any]:
    """The largest number of live streams that a daemon carries with nothing lost or shed, and what each number of streams
    cost."""
    probes: list[Carried] = []
    with _target(path, settings) as target, ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        start = target.snapshot()

        def probe(streams: int, seconds: float = plan.probe) -> bool:
            say(f"system: {streams:,} streams for {seconds:g} s")
            found = carry(target, streams, seconds, pool)
            probes.append(found)
            fate = "live" if found.live else "carried" if found.whole else "too many"
            say(
                f"system: {streams:,} streams: {fate}; lag p50 {found.lag_p50_ms:g}, p99 {found.lag_p99_ms:g} ms; "
                f"{found.daemon_cores:.2f} cores"
            )
            return found.whole

        if plan.only is not None:
            most = plan.only if probe(plan.only, plan.hold) else 0
        else:
            for streams in plan.fixed:
                probe(streams)
            most = search(probe, FIRST_STREAMS, MOST_STREAMS)
            while most and not probe(most, plan.hold):
                most = int(most * 0.9) // ROUND * ROUND
        held = probes[-1] if most else None
    live = [p.streams for p in probes if p.live and (held is None or p.streams <= held.streams)]
    return {
        "ready_s": round(target.ready_s, 2),
        "start_mb": round(start.max_rss_kb / 1024, 1),
        "streams": held.streams if held else 0,
        "live_streams": max(live, default=0),
        "held": held.row() if held else None,
        "probes": [p.row() for p in probes],
    }


def beside_floods(
    path: Path, costs: list[dict[str, Any]], *, plan: Plan, say: Say, settings: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of `costs`, each with the lag of `OTHERS` live streams, on a connection of their own, while another sender sends
    that kind of message without end, and with how many of these the daemon took a second. First a row of the same streams alone.
    """
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        for row in [{"message": "none", "us": None, "times": None}, *costs]:
            with _target(path, settings) as target:
                if row["us"] is not None:
                    # The others are known by then: a flood of new names leaves no room for them.
                    begins_at = time.monotonic() + 4 * HEAR_S + 1.0
                    flooding = pool.submit(messages.flood, target.ends["in"], row["message"], begins_at, plan.probe)
                found = carry(target, OTHERS, plan.probe, pool).row()
                taken = target.snapshot().messages.received - OTHERS * (found["sent"] // OTHERS // CHUNK + 1)
                if row["us"] is not None:
                    flooding.result()
            keys = ("lag_p50_ms", "lag_p99_ms", "lost", "shed")
            rows.append(row | {"taken_per_s": round(taken / plan.probe)} | {key: found[key] for key in keys})
            say(
                f"messages: beside {row['message']} ({rows[-1]['taken_per_s']:,}/s): lag of the others p99 "
                f"{found['lag_p99_ms']} ms"
            )
    return rows


def search(carried: Callable[[int], bool], first: int, most: int) -> int:
    """The largest number that is carried, to `PRECISION`: doubled until one is not, then halved between. 0 if none is."""
    low, high, at = 0, most + ROUND, first
    while high - low > max(PRECISION * low, ROUND):
        if carried(at):
            low, at = at, at * 2 if high > most else (at + high) // 2
        else:
            high, at = at, (low + at) // 2
        at = max(min(at, most) // ROUND * ROUND, ROUND)
        if at in (low, high):
            break
    return low


@contextmanager
def _target(path: Path, settings: Sequence[str]) -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="ppgstream-bench-") as folder:
        target = Target(path, Path(folder), settings)
        try:
            yield target
        finally:
            target.stop()


# ---- for people ----------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> list[Table]:
    made = []
    c = result["checkpoint"]
    if "model" in result:
        table = Table(
            "threads",
            "tile",
            "windows/s",
            "GEMM, GFLOP/s",
            "of GEMM",
            title=c["family"] + ("" if c["mflop"] is None else f", {c['mflop']} MFLOP a window"),
        )
        for row in result["model"]:
            table.add_row(
                str(row["threads"]),
                str(row["tile"]),
                f"{row['windows_per_s']:,}",
                f"{row['gemm_gflops']:g}",
                "-" if row["of_gemm"] is None else f"{row['of_gemm']:.0%}",
            )
        made.append(table)
    if "peers" in result:
        table = Table("way", "steps/s", "ratio", "streams", title="peers, one thread: how many live streams one core carries so")
        for row in result["peers"]:
            ratio = "" if row["ratio"] is None else f"{row['ratio']:g}"
            table.add_row(row["way"], f"{row['windows_per_s']:,}", ratio, f"{row['streams']:,}")
        made.append(table)
    if "messages" in result:
        table = Table(
            "message",
            "us",
            "times",
            "taken/s",
            "p50",
            "p99 ms",
            "lost",
            title=f"a message's cost, and the lag of {OTHERS} streams beside a flood of it",
        )
        for row in result["messages"]:
            cost = ("", "") if row["us"] is None else (f"{row['us']:g}", f"{row['times']:g}")
            lags = ("" if row[key] is None else f"{row[key]:.0f}" for key in ("lag_p50_ms", "lag_p99_ms"))
            table.add_row(row["message"], *cost, f"{row['taken_per_s']:,}", *lags, str(row["lost"]))
        made.append(table)
    if "system" in result:
        headings = ("streams", "s", "lost", "shed", "p50", "p99", "p99.9 ms", "daemon", "load", "MB")
        table = Table(*headings, title="live streams of 125 Hz: lag; cores of the daemon, and of what sends and receives")
        for row in sorted(result["system"]["probes"], key=lambda row: row["streams"]):
            lags = ("" if row[key] is None else f"{row[key]:.0f}" for key in ("lag_p50_ms", "lag_p99_ms", "lag_p999_ms"))
            shares = (f"{row[key]:.2f}" for key in ("daemon_cores", "load_cores"))
            table.add_row(
                f"{row['streams']:,}",
                f"{row['seconds']:g}",
                str(row["lost"]),
                str(row["shed"]),
                *lags,
                *shares,
                f"{row['daemon_mb']:.0f}",
            )
        made.append(table)
    for table in made:
        table.title_justify = "left"
        named = table.columns[0].header in ("way", "message")
        for column in table.columns[named:]:
            column.justify = "right"
    return made


def summary(result: dict[str, Any]) -> list[str]:
    """What the run comes to, a line each."""
    lines = []
    if "model" in result:
        one = max((row for row in result["model"] if row["threads"] == 1), key=lambda row: row["windows_per_s"])
        lines.append(
            f"model: {one['windows_per_s']:,} windows/s on one core (tile {one['tile']})"
            + ("" if one["of_gemm"] is None else f", {one['of_gemm']:.0%} of the matrix product's speed")
        )
    if "messages" in result:
        dearest = max(result["messages"][1:], key=lambda row: row["times"])
        slowest = max(result["messages"], key=lambda row: math.inf if row["lag_p99_ms"] is None else row["lag_p99_ms"])
        lag = (
            "nothing of other streams came"
            if slowest["lag_p99_ms"] is None
            else f"p99 of others' lag {slowest['lag_p99_ms']:g} ms"
        )
        lines.append(
            f"messages: the dearest kind ({dearest['message']}) costs {dearest['times']:g} times an ordinary one; "
            f"at worst, beside {slowest['message']}: {lag}"
        )
    if (s := result.get("system")) is not None:
        if s["held"] is None:
            least = min(row["streams"] for row in s["probes"])
            lines.append(f"system: {least:,} stream{'s' * (least > 1)} {'are' if least > 1 else 'is'} too many")
        else:
            h = s["held"]
            lines.append(
                f"system: {s['streams']:,} streams for {h['seconds']:g} s with nothing lost or shed, on {result['cores']} cores, "
                f"lag p99 {h['lag_p99_ms']:g} ms; up to {s['live_streams']:,} at p99 <= {LIVE_MS:g} ms; "
                f"ready in {s['ready_s']:g} s, {s['start_mb']:g} MB at the start"
            )
    return lines


def picture(result: dict[str, Any], path: Path) -> None:
    """Lag and processor time by the number of streams."""
    from matplotlib.figure import Figure

    told = sorted((r for r in result["system"]["probes"] if r["lag_p99_ms"] is not None), key=lambda r: r["streams"])
    probe_s = min((r["seconds"] for r in told), default=0.0)
    rows, held = [r for r in told if r["seconds"] == probe_s], [r for r in told if r["seconds"] > probe_s]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.add_subplot()
    streams = [r["streams"] for r in rows]
    left.semilogy(streams, [r["lag_p99_ms"] for r in rows], "o-", color="tab:red", label="lag, 99th percentile")
    left.semilogy(streams, [r["lag_p50_ms"] for r in rows], "o-", color="tab:orange", label="lag, median")
    if held:
        hold_s = held[0]["seconds"]
        left.semilogy(
            [r["streams"] for r in held],
            [r["lag_p99_ms"] for r in held],
            "x",
            color="tab:red",
            label=f"the same over {hold_s:g} s",
        )
    left.axhline(LIVE_MS, color="0.6", ls="--", lw=1)
    left.set_xlabel("streams of 125 Hz")
    left.set_ylabel("lag, ms")
    right = left.twinx()
    right.plot(streams, [r["daemon_cores"] for r in rows], "s:", color="tab:blue", label="daemon, cores")
    right.set_ylabel("processor time a second, cores")
    right.set_ylim(0, max(result["cores"], 1))
    figure.legend(loc="outside upper center", ncols=3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    try:
        replace_files({path: data.getvalue()})
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error}") from error


def show(result: dict[str, Any], console: Console) -> None:
    for table in tables(result):
        console.print(table)
    for line in summary(result):
        console.print(line, highlight=False, soft_wrap=True)
