"""The terminal view: a status snapshot in, something rich can draw out. `render` is pure; only `ask` and `watch` touch the
world."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ppgstream.live.snapshot import Snapshot, StreamStatus
from ppgstream.live.status import StatusClient

ROWS_SHOWN = 12
WIDE = 100  # columns of a terminal that have room for everything
KNOWN = 0.5  # confidence from which a heart rate is shown as one
PLOT_HEIGHT = 8
PLOT_SECONDS = 6


# Braille cells are 2 dots wide and 4 high; these are the bits of the dots, column by column from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def snapshots(client: StatusClient, stream: str | None, interval_s: float) -> Iterator[Snapshot | None]:
    """A snapshot every `interval_s` seconds; None while the daemon does not answer."""
    watch = [stream] if stream else []
    while True:
        started = time.monotonic()
        snapshot = client.ask(1.0, watch)
        if snapshot is not None and not stream:
            live = [row.name for row in snapshot.streams if row.live]
            if not watch or (watch[0] not in live and live):
                watch = live[:1]
        yield snapshot
        time.sleep(max(interval_s - (time.monotonic() - started), 0.0))


def watch(endpoint: str, *, stream: str | None, interval_s: float, stopped: Callable[[], bool], console: Console) -> None:
    """Show a running daemon until `stopped`. A daemon that is not there is a state that is shown, not an error."""
    client = StatusClient(endpoint)
    last: Snapshot | None = None
    gone_since: float | None = time.monotonic()
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for snapshot in snapshots(client, stream, interval_s):
                if stopped():
                    return
                gone_since = None if snapshot is not None else gone_since or time.monotonic()
                last = snapshot or last
                gone = None if gone_since is None else time.monotonic() - gone_since
                live.update(render(last, endpoint=endpoint, gone_s=gone, width=console.width), refresh=True)
    finally:
        client.close()


def render(snapshot: Snapshot | None, *, endpoint: str, gone_s: float | None = None, width: int = 100) -> RenderableType:
    """The whole view. `gone_s`: seconds since the daemon last answered, None while it does."""
    if snapshot is None:
        return Panel(Text(f"no daemon answers at {endpoint}; waiting", style="yellow"), title="ppgstream", border_style="yellow")
    parts: list[RenderableType] = []
    if gone_s is not None:
        parts.append(
            Text(f"DAEMON GONE: no answer from {endpoint} for {gone_s:.0f} s; what follows is the last it said", style="bold red")
        )
    parts += [_summary(snapshot), _ledger(snapshot)]
    for name, trace in snapshot.traces.items():
        if len(trace.clean) > 1:
            parts.append(wave(name, trace.raw, trace.clean, fs=trace.fs, width=width - 4))
    parts.append(_streams(snapshot, width))
    if snapshot.last_events:
        parts.append(
            Text("\n".join(f"! {text}" for text in snapshot.last_events[-3:]), style="yellow", no_wrap=True, overflow="ellipsis")
        )
    style = "red" if gone_s is not None or snapshot.ledger.unaccounted else "green" if snapshot.state == "running" else "yellow"
    return Panel(Group(*parts), title=f"ppgstream {snapshot.version}: {snapshot.state}", border_style=style)


def _summary(s: Snapshot) -> Text:
    lag, queues = s.lag_ms, s.queues
    delay = s.delay_s
    return Text(
        f"{s.samples_per_s:,.0f} samples/s   {s.windows_per_s:,.1f} windows/s   {s.streams_total} streams   "
        f"{s.subscribers} subscriptions   up {_clock(s.uptime_s)}\n"
        f"lag p50 {_ms(lag.p50)}  p99 {_ms(lag.p99)}   look-ahead {delay.least:.2f}..{delay.most:.2f} s   "
        f"waiting {queues.ready_windows:,} windows, {queues.model_windows} in the model   "
        f"{s.checkpoint.family} {s.checkpoint.id[:8]}"
    )


def _ledger(s: Snapshot) -> Text:
    ledger = s.ledger
    text = Text()
    for name in (
        "seen",
        "accepted",
        "gap",
        "rejected",
        "duplicates",
        "denoised",
        "passthrough",
        "invalid",
        "shed",
        "held",
        "outliers",
        "in_flight",
        "refused",
    ):
        bad = name in ("gap", "rejected", "shed", "refused") and getattr(ledger, name)
        text.append(f"{name} {getattr(ledger, name):,}  ", style="yellow" if bad else "")
    text.append(f"unaccounted {ledger.unaccounted:,}", style="bold red" if ledger.unaccounted else "bold green")
    if s.messages.malformed:
        text.append(f"  malformed messages {s.messages.malformed:,}", style="yellow")
    if s.unclean_sessions:
        text.append(f"  unclean sessions {s.unclean_sessions:,}", style="yellow")
    return text


def _streams(s: Snapshot, width: int) -> Table:
    """A row a stream. In a narrow view the columns that are hardly ever anything but 0 give way to the names."""
    columns: dict[str, Callable[[StreamStatus], Text | str]] = {
        "rate/s": lambda row: f"{row.samples_per_s:.0f}",
        "lag ms": lambda row: f"{row.lag_ms:.1f}",
        "confidence": lambda row: f"{row.confidence:.2f}",
        "heart rate": _heart_rate,
        "denoised": lambda row: f"{row.denoised:,}",
        "gap": lambda row: f"{row.gap:,}",
    }
    if width >= WIDE:
        columns["invalid"] = lambda row: f"{row.invalid:,}"
        columns["in flight"] = lambda row: f"{row.in_flight:,}"
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("stream", ratio=1, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    shown = sorted(s.streams, key=lambda row: not row.live)[:ROWS_SHOWN]
    for row in shown:
        name = Text(row.name + ("" if row.live else " (ended)"))
        table.add_row(name, *(text(row) for text in columns.values()), style="" if row.live else "dim")
    if s.streams_total > len(shown):
        table.add_row(f"... and {s.streams_total - len(shown):,} more", style="dim")
    return table


def _heart_rate(row: StreamStatus) -> Text:
    """Beats a minute, dim where it is not known; the probability that it is within 5 bpm."""
    if row.bpm is None or row.bpm_confidence is None:
        return Text("-", style="dim")
    known = row.bpm_confidence >= KNOWN
    return Text(f"{row.bpm:.0f} bpm, {row.bpm_confidence:.0%}" if known else f"? ({row.bpm:.0f})", style="" if known else "dim")


def wave(
    name: str, raw: Sequence[float | None], clean: Sequence[float], *, fs: float, width: int, height: int = PLOT_HEIGHT
) -> Panel:
    """The last seconds of a stream: the sensor's samples dim, the denoised wave bright over them."""
    n = min(int(PLOT_SECONDS * fs), len(clean))
    raw_part, clean_part = list(raw)[-n:], list(clean)[-n:]
    columns = max(min(width - 4, 160), 10)
    known = sorted(v for v in [*raw_part, *clean_part] if v is not None)
    # A few outliers must not flatten the rest.
    low, high = known[int(0.005 * (len(known) - 1))], known[int(0.995 * (len(known) - 1))]
    behind, front = (_dots(v, low, high, columns, height) for v in (raw_part, clean_part))
    text = Text()
    for y in range(height):
        for x in range(columns):
            bits = front[y][x] or behind[y][x]
            text.append(chr(0x2800 + bits), style="bold bright_red" if front[y][x] else "grey42")
        text.append("\n" if y < height - 1 else "")
    title = f"{name}: last {n / fs:.1f} s, [bold bright_red]denoised[/] over [grey42]raw[/]"
    return Panel(text, title=title, border_style="dim", width=width)


def _dots(values: Sequence[float | None], low: float, high: float, columns: int, height: int) -> list[list[int]]:
    """The braille cells of a line plot, `height` rows of `columns`: vertical strokes that join neighbouring samples."""
    cells = [[0] * columns for _ in range(height)]
    wide, tall = 2 * columns, 4 * height
    span = high - low or 1.0
    last: int | None = None
    per_dot = max(len(values) / wide, 1e-9)
    for x in range(wide):
        v = values[min(int(x * per_dot), len(values) - 1)]
        if v is None:
            last = None
            continue
        y = min(max(round((high - v) / span * (tall - 1)), 0), tall - 1)
        first = y if last is None else last
        for dot in range(min(first, y), max(first, y) + 1):
            cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
        last = y
    return cells


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _clock(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}"
