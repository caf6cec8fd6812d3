"""A checkpoint that is to be served is tried first, in a process of its own: one that crashes, hangs or eats memory there harms
no stream. The daemon starts it (`apart`), asks over a socket, and hears what was found.

    Order                  the first message: which checkpoint, beside which one, and how windows lie
    samples ..., b""       of the last minute, for a trial; without end for a shadow
    Told ...               back: what is being done, what was found, and in the end whether it may be served
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from ppgstream.assemble import plan_like, plan_of
from ppgstream.core.denoiser import Batch, Denoiser
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Plan, Rules, SensorRules
from ppgstream.core.rate import SURE
from ppgstream.core.scaling import SCALES, scaled
from ppgstream.errors import CheckpointError, PpgStreamError
from ppgstream.files import offline
from ppgstream.lab import noise, scores, synthetic
from ppgstream.live.canary import self_test
from ppgstream.live.comparison import Comparison
from ppgstream.live.endpoints import MOST_BODY, make
from ppgstream.live.recent import READ_AT
from ppgstream.live.snapshot import Check, Figures, limit_of
from ppgstream.model import runtime
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.model.restore import restore
from ppgstream.wire.message import decode

SEED = 36
GOLDEN = 64  # windows whose answers are looked at one by one
ALIKE = 1e-3  # of the answers' range: as near must be the answers to a window, asked again and beside others
SHAPES_S, NOTHING_S, NOTHING_OF = 20.0, 30.0, 4  # seconds of a record; records of each kind without a pulse
MORE_WRONG = 0.01  # share of seconds that a new checkpoint may be more often sure of, and wrong
LEAST_SURE = 0.5  # share of the serving one's sure seconds that it must be sure of
HEIGHTS = 0.85, 1.15  # least and most of a wave, over the true or the serving one
MOST_DIFFERENT = 0.2  # share of live seconds, both sure, whose waves may differ
FEWEST_S = 30  # live seconds from which they are judged
MOST_LOAD = 0.8  # of the processors, for the windows that come now
ANSWER_S = 1.0  # between two reports of a shadow
WAIT_MS = 50
WATCH_S = 0.5  # between two looks whether the daemon is still there
IDLE_S = 30.0


class Windows(msgspec.Struct):
    """How windows lie, as of `Geometry`."""

    hop: int
    lookahead: int
    overlap: Literal["hann", "uniform"]
    beats: bool


class Order(msgspec.Struct):
    """What to do. serving_id, serving_graph: empty where the files were written for this trial. windows_per_s: that the daemon
    denoises now; cores: that it may use."""

    kind: Literal["trial", "shadow"]
    serving: str
    serving_id: str
    serving_graph: str
    checkpoint: str
    windows: Windows
    sensor: SensorRules
    runtime: Literal["auto", "onnx", "tensorflow"] = "auto"
    windows_per_s: float = 0.0
    cores: int = 1
    force: bool = False


class Told(msgspec.Struct):
    """What was found: any of it. refused: why it may not be served; code: the exit code for it. id: of the checkpoint, once it is
    read, and of its graph; sha256: of one that may be served. changed: the files of the serving one are not those that are
    served."""

    doing: str = ""
    check: Check | None = None
    figures: Figures | None = None
    refused: str = ""
    code: int = 1
    id: str = ""
    graph: str = ""
    sha256: str = ""
    changed: bool = False


class ChangedError(PpgStreamError):
    """The files of the serving checkpoint are not those that are served any more."""


class Pair:
    """The serving checkpoint and the new one, ready to run. Raises PpgStreamError where one of them cannot be."""

    def __init__(self, order: Order, tell: Callable[[Told], None]) -> None:
        tell(Told(f"reads {order.checkpoint}"))
        self.order = order
        self.checkpoint = restore(Path(order.checkpoint))
        tell(Told(id=self.checkpoint.id.hex(), graph=self.checkpoint.graph_sha256))
        serving = _served(order)
        w = order.windows
        self.served = plan_of(serving, hop=w.hop, lookahead=w.lookahead, overlap=w.overlap, beats=w.beats)
        self.plan = plan_like(self.served, self.checkpoint)
        tell(Told("loads the networks"))
        self.serving = _denoiser(serving, order)
        self.new = _denoiser(self.checkpoint, order)
        if fault := self_test(self.new, self.plan):
            raise CheckpointError(f"{order.checkpoint}: the self-test failed: {fault}")
        self.tile = max(serving.tile, self.checkpoint.tile)

    def engines(self, sensor: SensorRules | None = None) -> tuple[Engine, Engine]:
        """An engine of each, the serving one first."""
        rules = Rules(self.served, sensor or SensorRules(), self.tile)
        return Engine(self.serving, rules), Engine(self.new, replace(rules, plan=self.plan))


def _served(order: Order) -> Checkpoint:
    """The serving checkpoint. Raises ChangedError where its files are others."""
    try:
        found = restore(Path(order.serving))
    except CheckpointError:
        raise ChangedError from None
    if order.serving_id and (found.id.hex(), found.graph_sha256) != (order.serving_id, order.serving_graph):
        raise ChangedError
    return found


def _denoiser(checkpoint: Checkpoint, order: Order) -> Denoiser:
    return runtime.denoiser(checkpoint, threads=1, runtime=order.runtime, say=lambda _: None)


# ---- what is known of the truth ---------------------------------------------------------------------------------------


def golden_windows(plan: Plan) -> Batch:
    """`GOLDEN` fixed windows (n, context + window) of pulses of all shapes, clean and noisy, as the network takes them."""
    n = plan.geometry.context + plan.geometry.window
    rng = np.random.default_rng(SEED)
    waves = list(synthetic.shapes(n / plan.fs + 4, fs=plan.fs).values())
    rows = []
    for k in range(GOLDEN):
        clean = waves[(5 * k) % len(waves)]
        at = int(rng.integers(0, len(clean) - n))
        rows.append((noise.n1_stream(clean, rng, fs=plan.fs) if k % 2 else clean)[at : at + n])
    x, valid = np.stack(rows), np.ones((GOLDEN, n), np.bool_)
    return Batch(scaled(x, SCALES[plan.scaling](x, valid), plan.scaling), valid)


def golden_fault(denoiser: Denoiser, plan: Plan) -> str:
    """What is wrong with a network's answers to the golden windows; empty if nothing is."""
    batch, shape = golden_windows(plan), (GOLDEN, plan.geometry.window)
    first, again = denoiser(batch), denoiser(batch)
    turned = denoiser(Batch(batch.x[::-1].copy(), batch.valid[::-1].copy()))
    for name, told, then, other in (
        ("wave", first.y, again.y, turned.y),
        ("log variance", first.log_var, again.log_var, turned.log_var),
    ):
        if told is None or then is None or other is None:
            continue
        if told.shape != shape:
            return f"the {name} of {GOLDEN} windows has the shape {told.shape}, not {shape}"
        if not np.isfinite(told).all():
            return f"the {name} of window {int(np.argmin(np.isfinite(told).all(axis=1)))} of {GOLDEN} is not finite"
        near = ALIKE * max(float(np.ptp(told)), 1e-9)
        if not np.abs(then - told).max() <= near:
            return f"the {name} of the same windows is another when they are asked again"
        if not np.abs(other[::-1] - told).max() <= near:
            return f"the {name} of a window depends on the other windows that are asked with it"
    return ""


def _kinds(fs: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Noisy pulses (n, m) of all shapes, their truth (n, m), and records (k, l) without any pulse."""
    rng = np.random.default_rng(SEED)
    truth = np.stack(list(synthetic.shapes(SHAPES_S, fs=fs).values()))
    height = np.ptp(truth, axis=1, keepdims=True)
    noisy = np.concatenate(
        [truth, truth + 0.1 * height * rng.standard_normal(truth.shape), [noise.n1_stream(x, rng, fs=fs) for x in truth]]
    )
    pulses = list(synthetic.shapes(NOTHING_S, fs=fs).values())[:: 72 // NOTHING_OF]
    none = np.stack([noise.nothing(x, rng, kind, fs=fs) for kind in noise.NOTHING for x in pulses])
    return noisy, np.tile(truth, (3, 1)), none


def _by_second(engine: Engine, rows: NDArray[np.float64], fs: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What is published of records (n, m): the waves, and of each second (n, s) whether it is sure."""
    told = offline.denoise(rows, engine, fs=fs, dtype="f8")
    second = int(fs)
    confidence = told.confidence[:, : rows.shape[1] // second * second].reshape(len(rows), -1, second)
    return told.denoised.astype(np.float64), np.asarray(confidence.mean(axis=2) >= SURE)


def truth_checks(pair: Pair) -> Iterator[Check]:
    """Both on pulses of all shapes, and on what holds no pulse."""
    fs = pair.plan.fs
    noisy, truth, none = _kinds(fs)
    sure_of, wrong_of, false_of, height_of = [], [], [], []
    heights = _by_second_sd(truth, fs)
    for engine in pair.engines():
        waves, sure = _by_second(engine, noisy, fs)
        good = np.stack([scores.snr_by_second_db(wave, clean, fs) for wave, clean in zip(waves, truth, strict=True)])
        sure_of.append(float(sure.mean()))
        wrong_of.append(float((sure & (good < scores.GOOD_DB)).mean()))
        height_of.append(float(np.median((_by_second_sd(waves, fs) / heights)[sure])) if sure.any() else 0.0)
        false_of.append(float(_by_second(engine, none, fs)[1].mean()))
    yield _at_most("sure of a second without a pulse", false_of, false_of[0] + MORE_WRONG)
    yield _at_most("sure of a second of a pulse, and wrong", wrong_of, wrong_of[0] + MORE_WRONG)
    yield _at_least("sure of a second of a pulse", sure_of, LEAST_SURE * sure_of[0])
    yield _height("height of a pulse over the true one, median", height_of)


def _by_second_sd(waves: NDArray[np.float64], fs: float) -> NDArray[np.float64]:
    second = int(fs)
    return np.asarray(waves[:, : waves.shape[1] // second * second].reshape(len(waves), -1, second).std(axis=2))


def _height(name: str, values: Sequence[float]) -> Check:
    serving, new = (round(v, 4) for v in values)
    low, high = HEIGHTS
    return Check(name, serving, new, most=high, least=low, fine=low <= new <= high)


def _at_most(name: str, values: list[float], most: float) -> Check:
    serving, new = (round(v, 4) for v in values)
    return Check(name, serving, new, most=round(most, 4), fine=values[1] <= most)


def _at_least(name: str, values: list[float], least: float) -> Check:
    serving, new = (round(v, 4) for v in values)
    return Check(name, serving, new, least=round(least, 4), fine=values[1] >= least)


# ---- the machine, and what comes live ---------------------------------------------------------------------------------


def cost_check(pair: Pair) -> Check:
    """Processor time of a window, ms, and whether there is enough of it for the windows that come."""
    times = []
    for denoiser, plan in ((pair.serving, pair.served), (pair.new, pair.plan)):
        batch = golden_windows(plan)
        best = np.inf
        for _ in range(5):
            started = time.thread_time()
            denoiser(batch)
            best = min(best, time.thread_time() - started)
        times.append(1000 * best / GOLDEN)
    load = pair.order.windows_per_s / 1000
    most = MOST_LOAD * pair.order.cores / load if load > 0 else None
    serving, new = (round(t, 4) for t in times)
    return Check("processor time of a window, ms", serving, new, most, fine=most is None or new <= most)


def live_checks(found: Figures) -> Iterator[Check]:
    """Whether the two agree on what came live, as far as enough of it did."""
    if found.seconds < FEWEST_S:
        return
    shares = [found.sure_serving / found.seconds, found.sure_new / found.seconds]
    yield _at_least("sure of a live second", shares, LEAST_SURE * shares[0])
    if found.sure_both >= FEWEST_S:
        if found.amplitude is not None:
            yield _height("height of a live wave over the serving one's, median", (1.0, found.amplitude[1]))
        share = found.differ / found.sure_both
        yield Check(
            "another wave in a live second, both sure", 0.0, round(share, 4), most=MOST_DIFFERENT, fine=share <= MOST_DIFFERENT
        )


# ---- the process ------------------------------------------------------------------------------------------------------


class Peer:
    """The daemon, from here. Once it is gone, this process ends, and takes the folder of its socket along."""

    def __init__(self, endpoint: str, daemon: int) -> None:
        self._folder, self._daemon = Path(endpoint.removeprefix("ipc://")).parent, daemon
        threading.Thread(target=self._watch, daemon=True).start()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = make(self._context, zmq.PAIR, most=MOST_BODY, linger=5000)
        self._socket.bind(endpoint)

    def _watch(self) -> None:
        while os.getppid() == self._daemon:
            time.sleep(WATCH_S)
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)

    def tell(self, told: Told) -> None:
        self._socket.send(msgspec.json.encode(told))

    def take(self, wait_ms: int) -> list[bytes] | None:
        """The next message, None if there is none."""
        return self._socket.recv_multipart() if self._socket.poll(wait_ms) else None

    def close(self) -> None:
        self._context.destroy(linger=5000)


def try_out(order: Order, peer: Peer) -> None:
    """A trial: everything that can be known before it is served."""
    pair = Pair(order, peer.tell)
    if fault := golden_fault(pair.new, pair.plan):
        raise CheckpointError(f"{order.checkpoint}: {fault}")
    compared = Comparison(*pair.engines(order.sensor))
    peer.tell(Told("waits for the last minute of live samples"))
    last = None
    while True:
        parts = peer.take(WAIT_MS)
        if parts is None:
            continue
        if len(parts) < 3:
            break
        last = _feed(compared, parts)
        while compared.compute():
            pass
    compared.finish(0.0 if last is None else last)
    found = compared.figures()
    peer.tell(Told("compares both on pulses of all shapes, and on what holds no pulse", figures=found))
    checks = [*truth_checks(pair), cost_check(pair), *live_checks(found)]
    for check in checks:
        peer.tell(Told(check=check))
    wrong = [check for check in checks if not check.fine]
    if wrong and not order.force:
        peer.tell(
            Told(refused=f"{order.checkpoint}: {'; '.join(_told(check) for check in wrong)} (--force serves it all the same)")
        )
    else:
        peer.tell(Told(sha256=pair.checkpoint.sha256))


def _told(check: Check) -> str:
    return f"{check.name}: {check.new:.4g}, {limit_of(check)} is allowed (serving: {check.serving:.4g})"


def shadow(order: Order, peer: Peer) -> None:
    """A shadow: both on what comes, until the daemon ends it."""
    pair = Pair(order, peer.tell)
    compared = Comparison(*pair.engines(order.sensor))
    peer.tell(Told("runs"))
    told_at = time.monotonic()
    while True:
        parts = peer.take(0 if compared.compute() else WAIT_MS)
        now = time.monotonic()
        if parts is not None and len(parts) < 3:
            return
        if parts is not None:
            _feed(compared, parts)
        if now - told_at >= ANSWER_S:
            compared.pass_time(now, IDLE_S)
            while compared.compute(all_of_it=True):
                pass
            peer.tell(Told(figures=compared.figures()))
            told_at = now


def _feed(compared: Comparison, parts: list[bytes]) -> float:
    """One message: when it was read, the stream, and the body."""
    now: float
    (now,) = READ_AT.unpack(parts[0])
    compared.feed(decode(parts[1:]), now)
    return now


def main(endpoint: str, daemon: int) -> None:
    """The process, at the least priority. daemon: the process that began it."""
    with contextlib.suppress(OSError):  # where a sandbox forbids it
        os.nice(19)
    peer = Peer(endpoint, daemon)
    code = 1
    try:
        while (parts := peer.take(1000)) is None:
            pass
        order = msgspec.msgpack.decode(parts[0], type=Order)
        (try_out if order.kind == "trial" else shadow)(order, peer)
    except ChangedError:
        peer.tell(Told(changed=True))
    except PpgStreamError as error:
        peer.tell(Told(refused=str(error), code=error.exit_code))
    except MemoryError:
        peer.tell(Told(refused="there is not enough memory for a trial", code=code))
    peer.close()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
