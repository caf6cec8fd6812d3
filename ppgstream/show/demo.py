"""The whole system on one machine with nothing to supply: a noisy pulse of known truth, sent over loopback, denoised by the
daemon, and compared."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import threading
import time
import webbrowser
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from ppgstream.config import Config, In, Out, Status
from ppgstream.core.denoiser import Denoiser
from ppgstream.files import recording
from ppgstream.lab import noise, synthetic
from ppgstream.lab.scores import snr_b_db
from ppgstream.live.daemon import Daemon
from ppgstream.live.publisher import Publisher
from ppgstream.live.receiver import Receiver
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.model.checkpoint import Checkpoint
from ppgstream.show import plots
from ppgstream.show.monitor import glyphs_of
from ppgstream.show.screen import History, View, screen
from ppgstream.wire.message import EMPTY, Chunk, Kind

if TYPE_CHECKING:
    from ppgstream.show.web import Web

SEED = 20_190_823  # of the demo alone
CHUNK = 25
PICTURE_S = 10
VIEW_LINES = 24  # of the live view
ANY_PORT = "tcp://127.0.0.1:*"
Float64 = NDArray[np.float64]


NEXT = """what next:
  ppgstream run                                  # the daemon; how to connect your sensor: docs/sensors.md
  ppgstream monitor                              # watch it; --web 8600 for a page in the browser
  ppgstream denoise recording.csv -o clean.csv   # a recording"""


@dataclass(slots=True)
class _Person:
    """One of the demo's sensors: what it truly measures, what it sends, and what came back."""

    name: str
    clean: Float64
    noisy: Float64
    out: Float64
    confidence: Float64
    flags: NDArray[np.uint16]
    session: int = field(default_factory=lambda: secrets.randbits(64))
    first_sent: float = 0.0
    first_clean: float | None = None


NOISES: dict[str, Callable[[Float64, np.random.Generator], Float64]] = {
    "course": synthetic.noisy_pulse,
    "steps": noise.steps,
    **{kind: partial(noise.wrist, kind=kind) for kind in noise.WRIST},
}


def people(n: int, samples: int, kind: str = "course") -> list[_Person]:
    """`n` synthetic people under a kind of noise, one of `NOISES`."""
    made = []
    for number in range(n):
        rng = np.random.default_rng(SEED + number)
        who = synthetic.person(rng)
        clean, _ = synthetic.pulse(samples, who, rng)
        made.append(
            _Person(
                f"person{number + 1}",
                clean,
                NOISES[kind](clean, rng),
                np.full(samples, np.nan),
                np.zeros(samples),
                np.zeros(samples, np.uint16),
            )
        )
    return made


def run(
    checkpoint: Checkpoint,
    denoiser: Denoiser,
    *,
    seconds: float,
    streams: int,
    plain: bool,
    console: Console,
    stopped: Callable[[], bool],
    picture: Path | None = None,
    kind: str = "course",
    page: Callable[[str], Web] | None = None,
) -> bool:
    """Send, denoise, show, sum up. page: what serves the monitor's page of a status socket. True if every sample came back and
    the ledger adds up."""
    config = Config(in_=In(endpoint=ANY_PORT), out=Out(endpoint=ANY_PORT), status=Status(endpoint=ANY_PORT))
    log = logging.Logger("ppgstream.demo")
    log.addHandler(RichHandler(console=console, show_path=False))
    daemon = Daemon(config, checkpoint, log=log)
    daemon.open()
    sensors = people(streams, int(seconds * checkpoint.fs) // CHUNK * CHUNK, kind)
    receiver = Receiver(daemon.endpoints["out"])
    status = StatusClient(daemon.endpoints["status"])
    done, history = threading.Event(), History()
    view = None if plain else Live(console=console, auto_refresh=False, transient=True)
    say = partial(console.print, soft_wrap=True)
    say(
        f"{streams} sensors -> {daemon.endpoints['in']} -> daemon ({checkpoint.arch.family}) -> {daemon.endpoints['out']}",
        highlight=False,
    )
    web = None if page is None else page(daemon.endpoints["status"])
    if web is not None:
        threading.Thread(target=web.serve, args=(done.is_set,), daemon=True).start()
        say(f"the monitor's page: {web.url}", highlight=False)
        if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(web.url)  # without a desktop it may begin one that draws over this terminal
    with ThreadPoolExecutor(2) as pool:
        served = pool.submit(daemon.run, denoiser)
        sent = pool.submit(_send, sensors, daemon.endpoints["in"], checkpoint.fs, lambda: stopped() or done.is_set())
        try:
            if view is not None:
                view.start()
            next_look, ends_by = time.monotonic(), math.inf
            while not receiver.all_ended or len(receiver.accounts) < streams:
                for chunk in receiver.poll(0.05):
                    _keep(sensors, chunk)
                if sent.done() and ends_by == math.inf:
                    ends_by = time.monotonic() + 15  # everything is sent: the rest is on its way, or lost
                if stopped() or served.done() or time.monotonic() > ends_by:
                    break
                if time.monotonic() >= next_look:
                    snapshot = status.ask(0.5, [sensors[0].name])
                    if snapshot is not None and view is not None:
                        history.add(snapshot)
                        shown = screen(
                            snapshot, View(stream=sensors[0].name), history, width=console.width, height=VIEW_LINES,
                            endpoint=daemon.endpoints["status"], glyphs=glyphs_of(console.encoding),
                        )  # fmt: skip
                        view.update(Text("\n").join(shown.lines[:-1]), refresh=True)
                    elif snapshot is not None:
                        say(_plain_line(snapshot), highlight=False)
                    next_look += 0.4 if view is not None else 2.0
        finally:
            if view is not None:
                view.stop()
            done.set()
            daemon.stop.set()
            receiver.close()
            status.close()
        sent.result()
        engine = served.result()
    console.print(summary(sensors, checkpoint.fs))
    say(engine.account(), highlight=False)
    if picture is not None:
        p, n = sensors[0], int(PICTURE_S * checkpoint.fs)
        drawn = plots.before_after(p.noisy[:n], p.out[:n], p.confidence[:n], p.flags[:n], fs=checkpoint.fs, truth=p.clean[:n])
        recording.write_whole(picture, plots.content_of(drawn))
        say(f"drew {picture}", highlight=False)
    say(NEXT, highlight=False)
    return engine.unaccounted == 0 and (stopped() or all(np.isfinite(p.out).all() for p in sensors))


def _send(sensors: list[_Person], endpoint: str, fs: float, stopped: Callable[[], bool]) -> None:
    publisher = Publisher(endpoint, stopped=stopped)
    publisher.wait_for_subscriber(30)
    started, wall = time.monotonic(), time.time_ns()
    for start in range(0, len(sensors[0].noisy), CHUNK):
        for number, p in enumerate(sensors):
            due = started + (start + CHUNK * (1 + number / len(sensors))) / fs
            while (left := due - time.monotonic()) > 0 and not stopped():
                time.sleep(min(left, 0.05))
            p.first_sent = p.first_sent or time.monotonic()
            t_ns = wall + round((start + CHUNK * number / len(sensors)) / fs * 1e9)
            publisher.send(Chunk(p.name, p.session, start, p.noisy[start : start + CHUNK], fs=fs, t_ns=t_ns))
    for p in sensors:
        publisher.send(Chunk(p.name, p.session, len(p.noisy), EMPTY, Kind.END, fs))
    publisher.close(5.0)


def _keep(sensors: list[_Person], chunk: Chunk) -> None:
    if chunk.kind is not Kind.DATA:
        return
    p = next(p for p in sensors if p.name == chunk.stream)
    p.first_clean = p.first_clean or time.monotonic()
    at = slice(chunk.index, chunk.stop)
    p.out[at] = chunk.samples
    if chunk.confidence is not None and chunk.flags is not None:
        p.confidence[at], p.flags[at] = chunk.confidence, chunk.flags


def _plain_line(s: Snapshot) -> str:
    return (
        f"{s.uptime_s:6.1f} s  {s.samples_per_s:7,.0f} samples/s  {s.windows_per_s:6.1f} windows/s  "
        f"lag p99 {s.lag_ms.p99 or 0:5.1f} ms  denoised {s.ledger.denoised:,}  unaccounted "
        f"{s.ledger.unaccounted}"
    )


def summary(sensors: list[_Person], fs: float) -> Table:
    """What the demo shows at its end: per sensor, how far the input and the output are from the truth."""
    table = Table(title="before and after, against the known truth, 0.5..12 Hz", title_justify="left")
    for column in ("sensor", "samples", "SNR in, dB", "SNR out, dB", "gained, dB", "first clean after, s"):
        table.add_column(column, justify="left" if column == "sensor" else "right")
    for p in sensors:
        n = int(np.isfinite(p.out).sum())
        if n < 4 * fs:
            table.add_row(p.name, f"{n:,}", "-", "-", "-", "-")
            continue
        came = slice(0, n)
        before, after = (snr_b_db(x[came], p.clean[came], fs) for x in (p.noisy, p.out))
        first = f"{p.first_clean - p.first_sent:.2f}" if p.first_clean else "-"
        table.add_row(p.name, f"{n:,}", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}", first)
    return table
