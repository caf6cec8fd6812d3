"""Two checkpoints beside each other, as tables: what a trial has found, and what a shadow finds."""

from __future__ import annotations

from rich.table import Table

from ppgstream.live.snapshot import Check, Figures, limit_of


def checks_of(checks: list[Check]) -> Table:
    """What both were asked, what they answered, and what the new one may have."""
    table = _table("the trial", "serving", "new", "limit")
    for check in checks:
        style = "" if check.fine else "bold red"
        table.add_row(check.name, f"{check.serving:.4g}", f"{check.new:.4g}", limit_of(check), style=style)
    return table


def figures_of(found: Figures) -> Table:
    """What both answered to the same live samples."""
    table = _table("live samples", "serving", "new")
    n = found.seconds
    table.add_row("streams", f"{found.streams:,}", "")
    table.add_row("seconds that both answered", f"{n:,}", "")
    if not n:
        return table
    table.add_row("mean confidence", f"{found.confidence_serving:.3f}", f"{found.confidence_new:.3f}")
    table.add_row("seconds that are sure", f"{found.sure_serving / n:.1%}", f"{found.sure_new / n:.1%}")
    both = found.sure_both
    only = f"{(found.sure_serving - both) / n:.1%}", f"{(found.sure_new - both) / n:.1%}"
    table.add_row("seconds that only this one is sure of", *only)
    table.add_section()
    table.add_row("of seconds that both are sure of", f"{both:,}", "")
    if found.amplitude is not None and found.difference is not None:
        for name, value in zip(("5th percentile", "median", "95th percentile"), found.amplitude, strict=True):
            table.add_row(f"height over the serving one's: {name}", "1", f"{value:.2f}")
        for name, value in zip(("median", "95th percentile"), found.difference, strict=True):
            table.add_row(f"RMS difference over the serving wave's SD: {name}", "", f"{value:.2f}")
        table.add_row("seconds whose waves differ by more than half of that SD", "", f"{found.differ / max(both, 1):.1%}")
    table.add_row("heart rates that both are sure of", f"{found.rates:,}", "")
    table.add_row("of these, more than 5 bpm apart", "", f"{found.rates_differ:,}")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for k, heading in enumerate(headings):
        table.add_column(heading, justify="right" if k else "left")
    return table
