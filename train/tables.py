"""The bench's tables for people: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import streamed

if TYPE_CHECKING:
    from rich.table import Table

FRAME = 3  # characters of a table's frame beside each cell
STREAMED_COLUMNS = {
    "snr_b_in_db": ("SNR in, dB", 1),
    "snr_b_out_db": ("SNR out", 1),
    "gain_db": ("gain, dB", 1),
    "gain_p5_db": ("gain 5 %", 1),
    "amplitude": ("amplitude", 2),
    "hr_mae_in_bpm": ("HR error in, bpm", 1),
    "hr_mae_out_bpm": ("HR error out", 1),
    "hr_mae_sure_bpm": ("HR error, sure", 1),
    "hr_coverage": ("HR sure, share", 2),
    "peak_shift_ms": ("peak shift, ms", 0),
    "seam_hop": ("seam, hop", 2),
    "seam_patch": ("seam, patch", 2),
    "auroc": ("AUROC", 3),
    "ece": ("ECE", 3),
    "good": ("good, share", 2),
    "good_kept": ("good kept", 2),
    "bad_kept": ("bad kept", 2),
}
PEOPLE_COLUMNS = {
    "snr_b_out_db": ("SNR out, dB", 1),
    "snr_b_out_p10_db": ("SNR out, worst tenth", 1),
    "gain_db": ("gain, dB", 1),
    "amplitude": ("amplitude", 2),
    "erased": ("amplitude below .8, share", 2),
    "harm": ("harm, share", 3),
    "confidence": ("confidence", 2),
    "live_hr_off": ("rates off, share", 3),
    "live_hr_off_sure": ("off and sure, share", 3),
}
TRUST_COLUMNS = {
    "auroc": ("AUROC", 3),
    "ece": ("ECE", 3),
    "good_kept": ("good kept", 2),
    "bad_kept": ("bad kept", 2),
    "hr_mae_out_bpm": ("HR error, peak", 1),
    "live_hr_mae_bpm": ("HR error, live", 1),
    "live_hr_mae_sure_bpm": ("of sure", 1),
    "live_hr_coverage": ("sure, share", 2),
    "live_hr_sure_right": ("sure, right", 3),
    "live_hr_off_sure": ("off and sure", 3),
    "beats_f1": ("beats, F1", 3),
    "beats_wrong": ("lost + invented", 3),
    "beats_told": ("beats told", 2),
    "beats_sure_right": ("of told right", 3),
    "false_beats_per_min": ("false a minute", 1),
    "interval_error_ms": ("interval, ms", 0),
    "interval_within_stated": ("within stated", 2),
}
OTHER_COLUMNS = {
    "g_n1_db": "G N1, dB",
    "g_white_db": "G white",
    "g_slope_db": "G slope",
    "g_saturation_db": "G saturation",
    "mse": "MSE",
    "mflop": "MFLOP",
    "windows_per_s": "windows/s",
    "time_ratio": "time / last row's",
}


class Shown(NamedTuple):
    """A table for people: title, headings, cells."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def rich(self, width: int) -> list[Table]:
        """For a terminal of `width` columns: several tables, each with the first column, where one is too wide."""
        from rich.table import Table

        widths = [
            max(len(word) for word in [*heading.split(), *(row[k] for row in self.rows)])
            for k, heading in enumerate(self.columns)
        ]
        blocks: list[list[int]] = [[]]
        for k in range(1, len(self.columns)):
            if blocks[-1] and widths[0] + 2 + sum(widths[j] + FRAME for j in [*blocks[-1], k]) > width:
                blocks.append([])
            blocks[-1].append(k)
        tables = []
        for block in blocks:
            table = Table(title=self.title if block is blocks[0] else None, title_justify="left", pad_edge=False)
            natural = [max(widths[k], len(self.columns[k])) for k in [0, *block]]
            fits = sum(natural) + FRAME * len(natural) <= width
            for k in [0, *block]:
                left = self.columns[k] in LEFT
                # Left to itself, rich would take the room for whole headings from the widest column, and crop the table.
                own = None if fits else widths[k]
                table.add_column(self.columns[k], justify="left" if left else "right", overflow="fold", width=own)
            for row in self.rows:
                table.add_row(*(row[k] for k in [0, *block]))
            tables.append(table)
        return tables

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", *(f"| {' | '.join(row)} |" for row in [self.columns, *self.rows])]
        return "\n".join([*lines[:3], "|---" * len(self.columns) + "|", *lines[3:]]) + "\n"

    def latex(self) -> str:
        """A table for a paper that uses the package booktabs."""
        head, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in [self.columns, *self.rows])
        left = sum(column in LEFT for column in self.columns)
        lines = [
            r"\begin{table}",
            rf"\caption{{{_latex(self.title)}}}",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(self.columns) - left)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
LEFT = ("method", "kind", "set", "lookahead")  # columns of words


def _latex(text: str) -> str:
    """Text with what means something to LaTeX made plain."""
    return "".join(SPECIAL.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def shown(name: str, rows: list[dict[str, Any]], title: str) -> list[Shown]:
    """The streamed tables as a summary of all methods, and by kind of noise; the others as they are."""
    if name in ("windows", "cost") and rows:
        return [
            Shown(
                "cost, on one thread" if name == "cost" else title,
                [OTHER_COLUMNS.get(key, key) for key in rows[0]],
                [[str(value) for value in row.values()] for row in rows],
            )
        ]
    if name == "rates":
        kinds = list(dict.fromkeys(row["kind"] for row in rows))
        lines = []
        for set_name, method in dict.fromkeys((row["set"], row["method"]) for row in rows):
            errors = {row["kind"]: row for row in rows if (row["set"], row["method"]) == (set_name, method)}
            cells = [f"{errors[k]['hr_mae_out_bpm']:.1f} ({errors[k]['hr_mae_in_bpm']:.1f})" for k in kinds]
            lines.append([set_name, method, *cells])
        return [Shown(f"{title}: heart rate error, bpm (of the input)", ["set", "method", *kinds], lines)]
    if name in ("snr", "lookahead"):
        key = "gain_db" if name == "snr" else "snr_b_out_db"
        lead = ["method"] if name == "snr" else ["lookahead", "method"]
        kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != "all kinds"))
        lines = []
        for at in dict.fromkeys(tuple(row[k] for k in lead) for row in rows):
            values = {row["kind"]: row.get(key) for row in rows if tuple(row[k] for k in lead) == at}
            lines.append([*(str(v) for v in at), *(_cell(values[k], 1) for k in kinds)])
        return [Shown(f"{title}: {'gain' if name == 'snr' else 'SNR_B out'}, dB", [*lead, *kinds], lines)]
    if name == "ecg":
        each = dict.fromkeys(row["kind"] for row in rows)
        return [_by_kind(rows, kind, TRUST_COLUMNS, title) for kind in each]
    if name in ("shapes", "wrist", "exercise"):
        every_kind = dict.fromkeys(row["kind"] for row in rows if row["kind"] != "all kinds")
        return [_by_kind(rows, kind, PEOPLE_COLUMNS, title) for kind in every_kind]
    if name == "trust":
        every_kind = dict.fromkeys(row["kind"] for row in rows)
        return [_trust_summary(rows, title), *(_by_kind(rows, kind, TRUST_COLUMNS, title) for kind in every_kind)]
    tables = [_summary(rows, title)]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        shown_rows = _by_kind(rows, kind, STREAMED_COLUMNS, title)
        if len(shown_rows.columns) > 1:
            tables.append(shown_rows)
    return tables


def _by_kind(rows: list[dict[str, Any]], kind: str, columns: Mapping[str, tuple[str, int]], title: str) -> Shown:
    """The methods under one kind of noise: those of `columns` that any of them has."""
    own = [row for row in rows if row["kind"] == kind]
    keys = [key for key in columns if any(_cell(row.get(key), 0) for row in own)]
    lines = [[row["method"], *(_cell(row.get(key), columns[key][1]) for key in keys)] for row in own]
    return Shown(f"{kind} ({title})", ["method", *(columns[key][0] for key in keys)], lines)


def _summary(rows: list[dict[str, Any]], title: str) -> Shown:
    """A row a kind and figure, a column a method. A clean input has no gain: SNR_B of the output instead. Without a pulse, and
    over all kinds: the confidence."""

    def figures(kind: str, row: Mapping[str, Any]) -> list[tuple[str, str, int]]:
        if kind == "all kinds":
            return [("AUROC", "auroc", 3), ("ECE", "ece", 3)]
        if "snr_b_in_db" not in row:
            return [("bad called good", "bad_kept", 2)]
        clean = row["snr_b_in_db"] > streamed.CLEAN_DB
        first = ("SNR_B, dB", "snr_b_out_db", 1) if clean else ("gain, dB", "gain_db", 1)
        return [first, ("HR error, bpm", "hr_mae_out_bpm", 1)]

    return _by_figure(rows, f"summary ({title})", figures)


def _trust_summary(rows: list[dict[str, Any]], title: str) -> Shown:
    """A row a kind and figure, a column a method: heart rate error of all rates, share that is confident, share of those that are
    right; without a pulse the share of confident rates and confident beats a minute."""
    with_pulse = {row["kind"] for row in rows if "live_hr_mae_bpm" in row}

    def figures(kind: str, _: Mapping[str, Any]) -> list[tuple[str, str, int]]:
        if kind not in with_pulse:
            return [("sure, share", "live_hr_coverage", 2), ("false beats a minute", "false_beats_per_min", 1)]
        return [
            ("HR error, bpm", "live_hr_mae_bpm", 1),
            ("sure, share", "live_hr_coverage", 2),
            ("right of these, share", "live_hr_sure_right", 2),
        ]

    return _by_figure(rows, f"heart rates ({title})", figures)


def _by_figure(
    rows: list[dict[str, Any]], title: str, figures: Callable[[str, Mapping[str, Any]], list[tuple[str, str, int]]]
) -> Shown:
    """A row a kind and figure, a column a method. figures: the words, key and digits of those of a kind, by one of its rows."""
    methods_there = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = {row["method"]: row for row in rows if row["kind"] == kind}
        for words, key, digits in figures(kind, next(iter(of.values()))):
            lines.append([f"{kind}: {words}", *(_cell(of[m].get(key), digits) for m in methods_there)])
    return Shown(title, ["kind", *methods_there], lines)


def _cell(value: Any, digits: int) -> str:
    if value is None or not np.isfinite(value):
        return ""
    return f"{value:.{digits}f}" if abs(value) < 1000 else "inf" if value > 0 else "-inf"
