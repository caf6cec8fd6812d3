"""The terminal view as lines of text: a status snapshot, what the person has chosen, and the window's size in; lines out. Nothing
here touches a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.text import Text

from ppgstream.live.snapshot import OUTCOMES, Snapshot, StreamStatus, TraceStatus
from ppgstream.live.watch import SORTS, Sort
from ppgstream.show.alarms import Alarm, alarms_of, state_of
from ppgstream.show.wave import BELOW, SURE, UNICODE, Glyphs, wave_lines

WIDE = 100  # columns from which the table has more columns
RELOAD_S = 300.0  # for how long the last reload is told
MINUTE_S, SPARKS = 60.0, 20  # what the history holds, and in how many columns it is drawn
MOST_WAVE = 20  # lines of a wave that does not fill the window
TALL, LOW_WINDOW = 20, 10  # lines of a window from which there is a wave, and from which there are all facts

HELP = (
    ("up, k; down, j", "choose a stream"),
    ("enter", "open it over the whole window, and close it"),
    ("s", "sort by trouble, name, lag, confidence or rate"),
    ("/", "only streams whose name holds what you type"),
    ("space", "freeze, and go on"),
    ("w", "write the wave that is shown to a csv file"),
    ("?", "this help"),
    ("q", "quit"),
)


class View(NamedTuple):
    """What the person has chosen. `stream`: the one whose wave is drawn; `typing`: a filter is being typed; `notice`: what a key
    did."""

    stream: str | None = None
    sort: Sort = "trouble"
    like: str = ""
    typing: bool = False
    frozen: bool = False
    opened: bool = False
    help: bool = False
    notice: str = ""


@dataclass(slots=True)
class History:
    """What a snapshot alone does not say: how it was before. Add a snapshot a second."""

    past: tuple[tuple[float, float | None, int], ...] = ()  # uptime, p99 and samples shed, of the last minute
    cpu: float | None = None  # cores
    _last: tuple[float, float, int] = (0.0, 0.0, 0)  # uptime, processor time, process

    def add(self, s: Snapshot) -> None:
        uptime_s, cpu_s, pid = self._last
        if pid != s.pid:
            self.past, self.cpu = (), None
        elif s.uptime_s - uptime_s < 0.9:
            return
        else:
            self.cpu = (s.cpu_s - cpu_s) / (s.uptime_s - uptime_s)
        self._last = (s.uptime_s, s.cpu_s, s.pid)
        minute = [one for one in self.past if one[0] > s.uptime_s - MINUTE_S]
        self.past = (*minute, (s.uptime_s, s.lag_ms.p99, s.ledger.shed))  # another thread may read it meanwhile

    @property
    def shed_lately(self) -> int:
        """Samples of the last minute that were published as they came."""
        return self.past[-1][2] - self.past[0][2] if self.past else 0

    def p99(self, columns: int) -> list[float | None]:
        """The largest in each of so many parts of the last minute, None where none is known."""
        found: list[float | None] = [None] * columns
        for uptime_s, value, _ in self.past:
            at = columns - 1 - min(int((self.past[-1][0] - uptime_s) / MINUTE_S * columns), columns - 1)
            if value is not None:
                found[at] = max(found[at] or 0.0, value)
        return found


class Screen(NamedTuple):
    """`lines`, as many as the window has; `streams`: which stream's row a line is."""

    lines: list[Text]
    streams: dict[int, str]


def screen(
    s: Snapshot | None,
    view: View,
    history: History,
    *,
    width: int,
    height: int,
    endpoint: str,
    gone_s: float | None = None,
    unknown: str | None = None,
    glyphs: Glyphs = UNICODE,
) -> Screen:
    """The whole window. `gone_s`: seconds since the daemon last answered, None while it does. `unknown`: as of `alarms_of`."""
    made = _Maker(view, history, width, height, glyphs)
    if s is None:
        made.put(Text("ppgstream", style="bold yellow"))
        made.put(Text(f"no daemon answers at {endpoint}: start `ppgstream run`; waiting", style="yellow"))
        return made.done("q quit")
    found = alarms_of(s, shed_lately=history.shed_lately, unknown=unknown)
    if gone_s is not None:
        gone = f"DAEMON GONE: no answer from {endpoint} for {gone_s:.0f} s; this is the last that it told"
        found.insert(0, Alarm(gone, grave=True))
    made.title(s, len(found))
    if view.help:
        for keys, what in HELP:
            made.put(Text.assemble((f"  {keys:<16}", "bold"), what))
        return made.done("any key: back")
    rows = rows_of(s, view)
    chosen = chosen_of(s, view)
    row = next((r for r in s.streams if r.name == chosen), None)
    made.alarms(found, most=2 if view.opened else max(height // 6, 1))
    if view.opened and row is not None:
        made.facts_of(row)
        made.wave(row, s.traces.get(row.name), made.left - 1)
        return made.done(_keys(view))
    made.facts(s)
    wave = 0
    if row is not None and height >= TALL:
        needed = made.left - 1 - (len(rows) + (s.streams_total > len(rows)) + 1)  # what the table leaves
        wave = min(max(needed, height // 3, 8), MOST_WAVE)
    made.table(s, rows, chosen, made.left - 1 - wave)
    if row is not None and wave:
        made.wave(row, s.traces.get(row.name), wave)
    return made.done(_keys(view))


def rows_of(s: Snapshot, view: View) -> list[StreamStatus]:
    """The rows that are shown. The daemon has sorted them; one that is older gives all, in its own order."""
    return [row for row in s.streams if view.like in row.name]


def chosen_of(s: Snapshot, view: View) -> str | None:
    """The stream whose wave is drawn: the one that was chosen, else the first that sends."""
    if view.stream is not None:
        return view.stream
    rows = rows_of(s, view)
    return next((row.name for row in rows if row.live and "silent" not in row.troubles), rows[0].name if rows else None)


def press(view: View, key: str, names: Sequence[str], chosen: str | None = None) -> tuple[View, str]:
    """What a key changes, and what is to be done: "quit", "write" or nothing. names: of the rows, in order; chosen: whose wave is
    drawn. Keys are Textual's names, or a character."""
    view = view._replace(notice="")
    if view.typing:
        if key in ("enter", "escape"):
            return view._replace(typing=False, like=view.like if key == "enter" else ""), ""
        if key == "backspace":
            return view._replace(like=view.like[:-1]), ""
        return (view._replace(like=view.like + key, stream=None) if len(key) == 1 else view), ""
    if key in ("q", "ctrl+c"):
        return view, "quit"
    if view.help:
        return view._replace(help=False), ""
    if key in ("j", "k", "up", "down", "pageup", "pagedown", "home", "end") and names:
        at = names.index(chosen) if chosen in names else 0
        step = {"j": 1, "down": 1, "k": -1, "up": -1, "pagedown": 10, "pageup": -10}.get(key)
        at = {"home": 0, "end": len(names) - 1}.get(key, at) if step is None else at + step
        return view._replace(stream=names[min(max(at, 0), len(names) - 1)]), ""
    if key == "enter":
        return view._replace(opened=not view.opened), ""
    if key == "escape":
        return view._replace(opened=False, like=""), ""
    if key == "s":
        sort = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]
        return view._replace(sort=sort, notice=f"sorted by {sort}"), ""
    if key in ("/", "slash"):
        return view._replace(typing=True, like="", opened=False), ""
    if key in (" ", "space"):
        return view._replace(frozen=not view.frozen), ""
    if key == "w":
        return view, "write"
    if key in ("?", "question_mark"):
        return view._replace(help=True), ""
    return view, ""


def _keys(view: View) -> str:
    """The last line."""
    if view.typing:
        return f"filter: {view.like}_   (enter: keep, escape: clear)"
    frozen = "FROZEN (space goes on)  " if view.frozen else ""
    keys = "enter back" if view.opened else "j/k choose  enter open  s sort  / filter"
    return view.notice or f"{frozen}{keys}  space freeze  w write  ? help  q quit"


class _Maker:
    """Puts lines together."""

    def __init__(self, view: View, history: History, width: int, height: int, glyphs: Glyphs) -> None:
        self._view, self._history, self._width, self._height, self._glyphs = view, history, max(width, 1), max(height, 1), glyphs
        self._lines: list[Text] = []
        self._streams: dict[int, str] = {}

    @property
    def left(self) -> int:
        return self._height - len(self._lines)

    def put(self, text: Text) -> None:
        """A line, cut at the window's edge, if there is room for it and the last line."""
        if self.left > 1:
            self._lines.append(self._fit(text))

    def _fit(self, text: Text) -> Text:
        fitted = text.copy()
        fitted.no_wrap = True
        if fitted.cell_len > self._width:
            fitted.truncate(self._width - len(self._glyphs.more))
            fitted.append(self._glyphs.more)
            fitted.truncate(self._width)
        return fitted

    def done(self, last: str) -> Screen:
        """The window, with its last line."""
        while self.left > 1:
            self._lines.append(Text(""))
        self._lines = self._lines[: self._height - 1]
        self._lines.append(self._fit(Text(last, style="reverse" if self._view.typing else "dim")))
        return Screen(self._lines, self._streams)

    def title(self, s: Snapshot, alarms: int) -> None:
        style = (
            "bold red" if alarms and s.ledger.unaccounted else "bold yellow" if alarms or s.state != "running" else "bold green"
        )
        told = f"{alarms} alarm{'s' * (alarms != 1)}" if alarms else "all is well"
        name = f"{s.checkpoint.family} {s.checkpoint.id[:8]}"
        parts = [f"ppgstream {s.version}: {s.state}", told, f"up {clock_of(s.uptime_s)}", name]
        self.put(Text(self._glyphs.dot.join(parts), style=style))

    def alarms(self, found: list[Alarm], most: int) -> None:
        shown = found if len(found) <= most else found[: most - 1] if most > 1 else found[:1]
        for alarm in shown:
            self.put(Text(f"! {alarm}", style="bold red" if alarm.grave else "yellow"))
        if len(shown) < len(found) and most > 1:
            self.put(Text(f"  and {len(found) - len(shown):,} more alarms", style="yellow"))

    def facts(self, s: Snapshot) -> None:
        """Throughput, lag, load and ledger."""
        if self.left < LOW_WINDOW:
            return
        lag, q, d = s.lag_ms, s.queues, s.delay_s
        self._words(
            [
                f"{s.samples_per_s:,.0f} samples/s",
                f"{s.windows_per_s:,.1f} windows/s",
                f"{s.streams_total:,} streams",
                f"{s.subscribers:,} subscriptions",
            ]
        )
        line = f"{self._sparkline()} " if self._history.past else ""
        self._words(
            [
                f"lag p50 {ms(lag.p50)}, p99 {ms(lag.p99)}",
                f"{line}p99 of the last minute" if line else "",
                f"look-ahead {d.least:.2f} to {d.most:.2f} s",
            ]
        )
        cores = self._history.cpu
        self._words(
            [
                f"CPU {'-' if cores is None else f'{100 * cores:.0f} % of a core'}",
                f"memory {s.max_rss_kb / 1024:,.0f} MB",
                f"queue {100 * q.ready_windows / max(q.ready_limit, 1):.0f} %",
                f"{q.ready_windows:,} windows wait, {q.model_windows} in the model",
            ]
        )
        ledger = s.ledger
        words = [
            f"accepted {ledger.accepted:,}",
            f"denoised {ledger.denoised:,}",
            f"in flight {ledger.in_flight:,}",
            *(f"{name} {n:,}" for name, n in _rare(s) if n),
        ]
        if others := _others(s):
            self._words(others)
        self._words(words, last=Text(f"unaccounted {ledger.unaccounted:,}", "bold red" if ledger.unaccounted else "green"))

    def _words(self, words: list[str], last: Text | None = None) -> None:
        """Facts in a line, and in another one where they do not fit: none is cut."""
        line = Text()
        for word in [*(Text(w) for w in words if w), *([last] if last is not None else [])]:
            if line and line.cell_len + 3 + word.cell_len > self._width:
                self.put(line)
                line = Text()
            if line:
                line.append(self._glyphs.dot, style="dim")
            line.append_text(word)
        if line:
            self.put(line)

    def _sparkline(self) -> str:
        values = self._history.p99(SPARKS)
        top = max((v for v in values if v is not None), default=0.0) or 1.0
        return "".join(" " if v is None else self._glyphs.levels[min(int(8 * v / top), 7)] for v in values)

    def table(self, s: Snapshot, rows: list[StreamStatus], chosen: str | None, room: int) -> None:
        """A row a stream, as many as fit, and how many there are besides."""
        if room < 1:
            return
        columns = [("state", 15, False), ("rate", 7, True), ("lag ms", 7, True), ("conf.", 6, True), ("heart rate", 15, True)]
        if self._width >= WIDE:
            columns += [("Hz", 6, True), ("denoised", 11, True), ("lost", 8, True), ("invalid", 8, True)]
        names = max(self._width - sum(n for _, n, _ in columns) - 2, 6)
        head = "  " + _cell("stream by " + self._view.sort, names, left=True)
        if room > 2:
            self.put(Text(head + "".join(_cell(name, n, left=not right) for name, n, right in columns), style="bold"))
            room -= 1
        total = s.streams_like if s.streams_like is not None and self._view.like else s.streams_total
        at = next((k for k, row in enumerate(rows) if row.name == chosen), 0)
        fits = room if total <= room else room - 1
        top = max(at - fits + 1, 0) if fits > 0 else 0
        for row in rows[top : top + max(fits, 0)]:
            self._streams[len(self._lines)] = row.name
            self.put(self._row(row, row.name == chosen, names, [n for _, n, _ in columns]))
        if total > fits:
            shown = min(len(rows), fits)
            above = f", {top:,} of them above" if top else ""
            self.put(Text(f"  and {total - shown:,} more{above}", style="dim"))
        elif not rows:
            self.put(
                Text(
                    "  no stream yet: docs/sensors.md says what to type" if not self._view.like else "  no such stream",
                    style="dim",
                )
            )

    def _row(self, row: StreamStatus, chosen: bool, names: int, widths: list[int]) -> Text:
        talks = row.live and "silent" not in row.troubles
        cells: list[tuple[str, str]] = [
            (state_of(row), "red" if row.troubles else "dim"),
            (f"{row.samples_per_s:.0f}" if talks else "-", ""),
            (f"{row.lag_ms:.1f}" if talks else "-", ""),
            (f"{row.confidence:.2f}" if talks else "-", "" if row.confidence >= SURE else "yellow"),
            heart_rate(row) if talks else ("-", "dim"),
            (f"{row.fs:g}", ""),
            (f"{row.denoised:,}", ""),
            (f"{row.gap:,}", "yellow" if row.lost_lately else ""),
            (f"{row.invalid:,}", ""),
        ]
        text = Text(
            (self._glyphs.chosen if chosen else "  "), style="bold" if chosen else "" if row.live or row.troubles else "dim"
        )
        text.append(_cell(row.name, names, left=True))
        for k, (width, (cell, style)) in enumerate(zip(widths, cells, strict=False)):
            text.append(_cell(cell, width, left=k == 0), style=style)
        return text

    def facts_of(self, row: StreamStatus) -> None:
        """All that is known of one stream."""
        drift = "" if row.drift_ppm is None else f"drift {row.drift_ppm:+.0f} ppm"
        measured = f", measured {row.fs_measured:.4g}" if row.fs_measured else ""
        self._words([f"{row.fs:g} Hz{measured}", drift, f"session {row.session or 'ended'}", f"lag {row.lag_ms:.1f} ms"])
        self._words([f"{name} {getattr(row, name):,}" for name in OUTCOMES] + [f"unclean sessions {row.unclean_sessions}"])

    def wave(self, row: StreamStatus, trace: TraceStatus | None, height: int) -> None:
        """The chosen stream's wave."""
        unit = f" in {trace.units}" if trace is not None and trace.units else ""
        drawn = Text.assemble(
            (row.name, "bold"), f"{unit}: ", ("denoised", "bold bright_red"), " over ", ("raw", "grey58"), "   "
        )
        rate, style = heart_rate(row)
        self.put(drawn.append(rate, style=style))
        if trace is None or len(trace.clean) < 2:
            self.put(Text("  no wave: it is drawn of what comes from now on", style="dim"))
        elif height > BELOW + 2:
            for line in wave_lines(trace, width=self._width, height=height - 1, glyphs=self._glyphs):
                self.put(line)


def _others(s: Snapshot) -> list[str]:
    """The last reload, for a few minutes, the shadow, and the fleet."""
    words, reload, shadow = [], s.reload, s.shadow
    if reload is not None and (reload.watched or reload.age_s < RELOAD_S):
        state = "watched" if reload.watched else reload.state.replace("_", " ")
        words.append(f"reload {Path(reload.checkpoint).name}: {state}" + f", {reload.text}" * (reload.state == "trying"))
    if shadow is not None:
        n = 0 if shadow.figures is None else shadow.figures.seconds
        sure = (
            ""
            if shadow.figures is None or not n
            else (f", {shadow.figures.sure_new / n:.1%} of {n:,} s sure, serving {shadow.figures.sure_serving / n:.1%}")
        )
        words.append(f"shadow {Path(shadow.checkpoint).name} at {shadow.streams:,} streams: {shadow.state}{sure}")
    if (fleet := s.fleet) is not None:
        words.append(f"fleet {fleet.name}: {len(fleet.members)} members, {fleet.partitions} of 256 partitions here")
    return words


def _rare(s: Snapshot) -> list[tuple[str, int]]:
    """Words of the ledger that are mostly 0."""
    ledger = s.ledger
    return [
        ("lost", ledger.gap),
        ("rejected", ledger.rejected),
        ("duplicates", ledger.duplicates),
        ("as they came", ledger.passthrough),
        ("invalid", ledger.invalid),
        ("shed", ledger.shed),
        ("held", ledger.held),
        ("outliers", ledger.outliers),
        ("refused", ledger.refused),
        ("malformed messages", s.messages.malformed),
        ("unclean sessions", s.unclean_sessions),
    ]


def heart_rate(row: StreamStatus) -> tuple[str, str]:
    """Beats a minute and the probability that they are within 5 bpm, in brackets where it is not known; and a style."""
    if row.bpm is None or row.bpm_confidence is None:
        return "-", "dim"
    if row.bpm_confidence >= SURE:
        return f"{row.bpm:.0f} bpm {row.bpm_confidence:.0%}", ""
    return f"({row.bpm:.0f} bpm {row.bpm_confidence:.0%})", "dim"


def _cell(text: str, width: int, *, left: bool = False) -> str:
    text = text if len(text) < width or (left and len(text) <= width) else text[: max(width - 1, 0)]
    return text.ljust(width) if left else text.rjust(width)


def line_of(s: Snapshot, history: History) -> str:
    """The snapshot in a line, for a pipe."""
    found = alarms_of(s, shed_lately=history.shed_lately)
    told = f"  {len(found)} alarms: {found[0]}" if len(found) > 1 else f"  alarm: {found[0]}" if found else ""
    stamp = time.strftime("%H:%M:%S")
    return (
        f"{stamp} {s.state}  {s.streams_total:,} streams  {s.samples_per_s:,.0f} samples/s  {s.windows_per_s:,.1f} windows/s  "
        f"lag p99 {ms(s.lag_ms.p99)}  denoised {s.ledger.denoised:,}  unaccounted {s.ledger.unaccounted}{told}"
    )


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def clock_of(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
