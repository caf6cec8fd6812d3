"""The command `run`: the daemon, and what it needs before it serves."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from ppgstream import binaries
from ppgstream.cli.shared import CheckpointOption, Command, ConfigOption, Stop, app, leave_at_once, loaded, restored, say
from ppgstream.core.ledger import Event
from ppgstream.errors import CheckpointError, ConfigError, PpgStreamError, UsageError

if TYPE_CHECKING:
    from ppgstream.cli.logs import Log
    from ppgstream.cli.sources import Maker
    from ppgstream.config import Config
    from ppgstream.live.daemon import Daemon
    from ppgstream.live.metrics import MetricsServer

HANGUP = Event("hangup", "SIGHUP without a terminal: nothing is read again, and the daemon goes on; SIGTERM ends it")
HERE = Path()
LAST_END_S = 0.6  # for serial ports and LSL's streams to end their sessions once the daemon is stopped
LAST_OUT_S = 0.3  # for Lab Streaming Layer to take what was published last


@app.command(cls=Command)
def run(
    config: ConfigOption = None,
    checkpoint: CheckpointOption = None,
    in_: Annotated[
        str | None, typer.Option("--in", metavar="ENDPOINT", help="The socket that sensors send their samples to.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="The socket that denoised samples are published on.")
    ] = None,
    status: Annotated[str | None, typer.Option(metavar="ENDPOINT", help="The socket that answers `ppgstream monitor`.")] = None,
    serial: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH:BAUD", help="A serial port whose lines are samples; may be repeated (docs/sensors.md)."),
    ] = None,
    serial_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Which number of a serial port's line: a name, or a number from 0 on.")
    ] = None,
    serial_field: Annotated[
        str | None, typer.Option(metavar="KEY", help="The key before the number in a serial port's line, as in IR=512.")
    ] = None,
    lsl_in: Annotated[
        str | None, typer.Option(metavar="PREDICATE", help="Lab Streaming Layer's streams to read, such as \"type='PPG'\".")
    ] = None,
    lsl_channel: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Which channel of them: a label, or a number from 0 on.")
    ] = None,
    lsl_out: Annotated[bool, typer.Option("--lsl-out", help="Publish to Lab Streaming Layer too.")] = False,
    brainflow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BOARD", help="A board of BrainFlow's: SYNTHETIC, or MUSE_2,config=p61; may be repeated (docs/sensors.md)."
        ),
    ] = None,
    brainflow_channel: Annotated[
        int | None, typer.Option(metavar="N", help="Which of its PPG channels, from 0 on. (default: infrared, if that is known)")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Publish what sensors send too, for `ppgstream record`; as [out] raw = true.")
    ] = False,
    fleet: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Share the streams of a NATS server with other members of this fleet (docs/fleet.md)."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="NEW", help="Another checkpoint beside it, at a share of the streams, unpublished (docs/reload.md)."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Try settings, checkpoint, model and ports, say what is wrong, and leave.")
    ] = False,
    log_format: Annotated[str, typer.Option(help="Format of the log on stderr: text, or json (one object per line).")] = "text",
) -> None:
    """The daemon: noisy streams in, clean streams out, until SIGINT or SIGTERM. Settings: config.toml."""
    from ppgstream.cli import sources
    from ppgstream.cli.logs import FORMATS, Log

    stop = Stop(at_once=True)
    if log_format not in FORMATS:
        raise UsageError(f"--log-format {log_format!r}: must be one of {', '.join(FORMATS)}")
    if fleet == "":
        raise UsageError("--fleet: a name is missing")
    settings = loaded(
        config, in__endpoint=in_, out__endpoint=out, status__endpoint=status, model__checkpoint=checkpoint,
        out__raw=raw or None, shadow__checkpoint=shadow, fleet__name=fleet,
    )  # fmt: skip
    log = Log(log_format)  # type: ignore[arg-type]
    stuck = False
    try:
        if check:
            _check(settings, log)
            raise typer.Exit(0)
        inlets, outlets = sources.lsl(lsl_in, settings, log.logger, channel=lsl_channel, out=lsl_out)
        stuck = _serve(
            settings,
            log,
            stop,
            [
                *sources.ports(serial or [], settings, log.logger, column=serial_column, key=serial_field),
                *sources.boards(brainflow or [], settings, log.logger, channel=brainflow_channel),
                *inlets,
            ],
            outlets,
        )
        code = stop.exit_code()
    except PpgStreamError as error:
        if log_format == "text":
            raise  # as of every command, one line without a time
        log.logger.error("%s", error)
        code = error.exit_code
    finally:
        stuck = not log.close() or stuck
    if stuck:
        os._exit(code)
    leave_at_once()
    raise typer.Exit(code)


_ENGINES: list[object] = []  # that have served: freeing one with thousands of streams takes seconds


def _serve(settings: Config, log: Log, stop: Stop, read: list[Maker], published: list[Maker]) -> bool:
    """Serve until stopped, with what reads sensors and what publishes beside it. True if the model is still in a call that does
    not return."""
    from ppgstream.live.canary import self_test
    from ppgstream.live.daemon import Daemon, cores
    from ppgstream.model import runtime

    tell = log.logger.info
    found = restored(settings.model.checkpoint)
    daemon = Daemon(settings, found, log=log.logger)
    daemon.log_lost = lambda: log.lost
    _check_shadow(settings, daemon)
    # The ports last: whoever connects takes a descriptor, and what is imported later would find none.
    denoiser = runtime.denoiser(
        found, threads=settings.model.threads or cores(), runtime=settings.model.runtime, say=lambda text: tell("%s", text)
    )
    if fault := self_test(denoiser, daemon.rules.plan):
        raise CheckpointError(f"{found.path}: the self-test failed: {fault}")
    metrics = _metrics(settings)
    daemon.open()
    e = daemon.endpoints
    if metrics is not None:
        metrics.serve(e["status"], daemon.key)
        tell("metrics at http://%s/metrics, /healthz and /readyz", metrics.address)
    readers, publishers = [make(daemon) for make in read], [make(daemon) for make in published]

    def end() -> None:
        """Each reader sends its END first."""
        asked.get()
        for reader in readers:
            reader.end()
        until = time.monotonic() + LAST_END_S
        for reader in readers:
            reader.join(max(until - time.monotonic(), 0.0))
        daemon.stop.set()

    # A signal handler runs between any two steps of this thread, which may hold a lock: it may put, but neither start a thread
    # nor set an Event.
    asked: SimpleQueue[None] = SimpleQueue()
    if readers:
        threading.Thread(target=end, daemon=True).start()
    stop.hold((lambda: asked.put(None)) if readers else daemon.stop.set, hangup=lambda: daemon.notes.put(HANGUP))
    note = binaries.note()
    tell(
        "ready: %s %s at %g Hz; in %s (%s), out %s, status %s%s",
        *(found.arch.family, found.id.hex(), found.fs, e["in"], settings.in_.format, e["out"], e["status"]),
        "; " * bool(note) + note,
    )
    # The loop makes hardly any reference cycles, and looking for them often costs streams (docs/decisions.md).
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    for task in publishers + readers:
        task.start(daemon.key)
    engine = daemon.run(denoiser)
    if publishers:
        time.sleep(LAST_OUT_S)
    for publisher in publishers:
        publisher.end()
        publisher.join(LAST_OUT_S)
    _ENGINES.append(engine)
    elsewhere = f"; {engine.moved} samples of streams with which other members go on" if daemon.fleet is not None else ""
    tell("final: %s", engine.account() + elsewhere)
    if daemon.stuck:
        log.logger.error("the model is still in a call that does not return: leaving without it")
    return daemon.stuck


def _check_shadow(settings: Config, daemon: Daemon) -> None:
    """Raises CheckpointError or ConfigError for a shadow that cannot run beside the serving checkpoint."""
    if settings.shadow.checkpoint:
        from ppgstream.assemble import plan_like

        try:
            plan_like(daemon.rules.plan, restored(settings.shadow.checkpoint))
        except PpgStreamError as error:
            raise ConfigError(f"shadow.checkpoint: {error}") from error


def _metrics(settings: Config) -> MetricsServer | None:
    """What listens for Prometheus, where the configuration asks for it."""
    if not settings.metrics.endpoint:
        return None
    from ppgstream.cli.sources import check_package

    check_package("[metrics] endpoint", "prometheus_client", "prometheus-client", "metrics")
    from ppgstream.live.metrics import MetricsServer

    return MetricsServer(settings.metrics.endpoint)


def _check(settings: Config, log: Log) -> None:
    """What `run` needs, tried out and given back: settings, checkpoint, self-test, ports. Raises PpgStreamError."""
    from ppgstream.live.canary import self_test
    from ppgstream.live.daemon import Daemon
    from ppgstream.model import runtime

    found = restored(settings.model.checkpoint)
    daemon = Daemon(settings, found, log=log.logger)
    _check_shadow(settings, daemon)
    denoiser = runtime.denoiser(found, threads=1, runtime=settings.model.runtime, say=lambda text: log.logger.info("%s", text))
    if fault := self_test(denoiser, daemon.rules.plan):
        raise CheckpointError(f"{found.path}: the self-test failed: {fault}")
    metrics = _metrics(settings)
    daemon.open()
    ends = ", ".join(f"{name} {end}" for name, end in daemon.endpoints.items())
    daemon.close()
    if metrics is not None:
        metrics.release()
    say(f"all is well: {found.arch.family} {found.id.hex()} answers a known pulse; {ends} are free")


@app.command(cls=Command)
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the daemon, the sensor or the reader.")],
    server: Annotated[
        Path | None, typer.Option(metavar="DAEMON.pub", help="The daemon's public key, for a sensor or a reader of it.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where NAME.key and NAME.pub are written.")] = HERE,
) -> None:
    """A pair of keys: NAME.key is secret, NAME.pub is for others. Docs: SECURITY.md."""
    from ppgstream.live import keys

    made = keys.make(name, b"" if server is None else keys.read_public(server))
    secret, public = keys.write(out, made)
    say(f"{secret}: secret, keep it where it is used; {public}: for others")
    if server is None:
        say(f'the daemon\'s settings: [security] key = "{secret}" and allow = "FILE", a list of the keys that it admits')
    else:
        say("lines of the daemon's list, with what it may do: send, read, ask for the status, have another checkpoint served:")
        print(f'[{name}]\nkey = "{made.public.decode()}"\nsend = ["{name}"]\nread = []\nstatus = false\nreload = false')
