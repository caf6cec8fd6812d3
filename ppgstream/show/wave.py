"""The wave of one stream as lines of text: raw and denoised with axes, beats, flags and confidence below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from rich.text import Text

from ppgstream.live.snapshot import TraceStatus
from ppgstream.wire.message import Flag

PLOT_S = 8.0
SURE, GOOD = 0.5, 0.8  # confidence: from the first on a heart rate stands without brackets, and a beat is drawn bright
MARGIN, MOST_COLUMNS = len("confidence") + 1, 240
BELOW = 3  # lines below the plot

FLAG_LETTERS = {  # the worst first
    Flag.LEAD_OFF: ("L", "lead-off"),
    Flag.NONFINITE: ("N", "not a number"),
    Flag.SHED: ("X", "shed"),
    Flag.WRONG_RATE: ("W", "wrong rate"),
    Flag.OUTLIER: ("O", "outlier"),
    Flag.SATURATED: ("C", "clipped"),
    Flag.FLAT: ("F", "flat"),
    Flag.GAP: ("G", "gap"),
    Flag.STEP: ("S", "step"),
    Flag.PASSTHROUGH: ("P", "as it came"),
    Flag.INTERFERENCE: ("I", "interference"),
    Flag.HUM: ("H", "hum"),
    Flag.BREATHING: ("B", "breathing"),
}
# Braille cells are 2 dots wide and 4 high; these are the bits of the dots, column by column from the top.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


class Glyphs(NamedTuple):
    """What a terminal can show. `levels`: eight heights."""

    dot: str
    levels: str
    beat: str
    chosen: str
    more: str
    unicode: bool


UNICODE = Glyphs(" · ", "▁▂▃▄▅▆▇█", "▾", "▶ ", "…", True)
ASCII = Glyphs(" | ", "_.-:=+*#", "v", "> ", "~", False)


def wave_lines(trace: TraceStatus, *, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """The last `PLOT_S` seconds, in `height` lines of which `BELOW` lie below the plot. At least 5."""
    n = min(int(PLOT_S * trace.fs), len(trace.clean))
    raw, clean = trace.raw[-n:], trace.clean[-n:]
    known = sorted(v for v in [*raw, *clean] if v is not None)
    if not known:
        return [Text("  no valid sample in it")]
    # A few outliers must not flatten the rest.
    low, high = known[int(0.005 * (len(known) - 1))], known[math.ceil(0.995 * (len(known) - 1))]
    tall = max(height - BELOW, 2)
    ticks = {0: high, tall - 1: low} | ({tall // 2: (high + low) / 2} if tall > 3 else {})
    labels = {y: _tick(value, high - low) for y, value in ticks.items()}
    margin = max(MARGIN, *(len(text) + 1 for text in labels.values()))
    columns = max(min(width - margin, MOST_COLUMNS), 8)
    lines = []
    for y, cells in enumerate(_plot(raw, clean, low, high, columns, tall, glyphs)):
        lines.append(Text.assemble((labels.get(y, "").rjust(margin - 1) + " ", "dim"), cells))
    marks, legend = _marks(trace, n, columns, glyphs)
    lines.append(Text.assemble(("beats".rjust(margin - 1) + " ", "dim"), marks))
    shades = _confidence(trace.confidence[-n:], columns, glyphs)
    lines.append(Text.assemble(("confidence".rjust(margin - 1) + " ", "dim"), shades))
    left = f"-{n / trace.fs:.0f} s"
    room = max(columns - len(left) - len("now"), 0)
    lines.append(Text(" " * margin + left + legend.center(room)[:room] + "now", style="dim"))
    return lines


def _tick(value: float, span: float) -> str:
    """A number on an axis of so wide a range."""
    digits = max(0, 2 - math.floor(math.log10(span))) if span > 0 else 2
    return f"{value:,.{min(digits, 6)}f}" if abs(value) < 1e9 else f"{value:.3g}"


def _plot(
    raw: Sequence[float | None],
    clean: Sequence[float | None],
    low: float,
    high: float,
    columns: int,
    height: int,
    glyphs: Glyphs,
) -> list[Text]:
    """Lines of a plot: denoised bright over raw."""
    front, behind = (_dots(v, low, high, columns, height) for v in (clean, raw))
    lines = []
    for above, below in zip(front, behind, strict=True):
        cells = []
        for bright, dim in zip(above, below, strict=True):
            bits = bright or dim
            cell = chr(0x2800 + bits) if glyphs.unicode else "*" if bright else "."
            cells.append((cell if bits else " ", "bold bright_red" if bright else "grey58" if bits else ""))
        lines.append(_runs(cells))
    return lines


def _runs(cells: Sequence[tuple[str, str]]) -> Text:
    """Characters with their styles: those of a style that follow each other are drawn at once."""
    return Text.assemble(*(("".join(c for c, _ in run), style) for style, run in groupby(cells, key=itemgetter(1))))


def _dots(values: Sequence[float | None], low: float, high: float, columns: int, height: int) -> list[list[int]]:
    """The braille cells of a line plot, `height` rows of `columns`: vertical strokes that join neighbouring samples."""
    cells = [[0] * columns for _ in range(height)]
    wide, tall = 2 * columns, 4 * height
    span = high - low or 1.0
    last: int | None = None
    for x in range(wide):
        v = values[min(x * len(values) // wide, len(values) - 1)]
        if v is None:
            last = None
            continue
        y = min(max(round((high - v) / span * (tall - 1)), 0), tall - 1)
        first = y if last is None else last
        for dot in range(min(first, y), max(first, y) + 1):
            cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
        last = y
    return cells


def _marks(trace: TraceStatus, n: int, columns: int, glyphs: Glyphs) -> tuple[Text, str]:
    """Beats, and the letters of flags over them, a column each; and what the letters mean."""
    cells = [(" ", "")] * columns
    for before_s, sure in trace.beats:
        at = math.floor((n - before_s * trace.fs) / n * columns)
        if 0 <= at < columns:
            cells[at] = (glyphs.beat, "" if sure >= SURE else "dim")
    letters: dict[str, str] = {}
    flags = trace.flags[-n:]
    for x in range(columns if flags else 0):
        union = 0
        for flag in flags[x * len(flags) // columns : max((x + 1) * len(flags) // columns, x * len(flags) // columns + 1)]:
            union |= flag
        for bit, (letter, meaning) in FLAG_LETTERS.items():
            if union & bit:
                cells[x] = (letter, "yellow")
                letters[letter] = meaning
                break
    return _runs(cells), "  ".join(f"{letter} {meaning}" for letter, meaning in letters.items())


def _confidence(values: Sequence[float], columns: int, glyphs: Glyphs) -> Text:
    """The mean confidence of each column as a height, red below a half."""
    cells = []
    for x in range(columns if values else 0):
        part = values[x * len(values) // columns : max((x + 1) * len(values) // columns, x * len(values) // columns + 1)]
        mean = sum(part) / len(part)
        style = "green" if mean >= GOOD else "yellow" if mean >= SURE else "red"
        cells.append((glyphs.levels[min(int(8 * mean), 7)], style))
    return _runs(cells)


def csv_of(trace: TraceStatus) -> str:
    """A wave as csv: seconds before the end, raw, denoised, confidence, flags."""
    lines = ["seconds,raw,denoised,confidence,flags"]
    n = len(trace.clean)
    for k in range(n):
        raw, clean = trace.raw[k], trace.clean[k]
        confidence = trace.confidence[k] if trace.confidence else ""
        flags = trace.flags[k] if trace.flags else ""
        cells = ["" if v is None else f"{v:.9g}" for v in (raw, clean)]
        lines.append(f"{(k - n + 1) / trace.fs:.6f},{cells[0]},{cells[1]},{confidence},{flags}")
    return "\n".join(lines) + "\n"
