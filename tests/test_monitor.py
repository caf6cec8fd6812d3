"""The terminal view, as the text a person sees."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from rich.console import Console

from ppgstream.live.snapshot import Snapshot
from ppgstream.show.monitor import render, wave

ROW: dict[str, Any] = {
    "name": "wrist",
    "session": "00000000000000ab",
    "live": True,
    "silent_s": 0.1,
    "samples_per_s": 125.0,
    "fs": 125.0,
    "fs_measured": 125.0,
    "drift_ppm": None,
    "units": "",
    "lag_ms": 21.4,
    "bpm": 71.6,
    "bpm_confidence": 0.93,
    "confidence": 0.87,
    "seen": 5025,
    "accepted": 5000,
    "gap": 25,
    "rejected": 0,
    "duplicates": 0,
    "denoised": 4800,
    "passthrough": 0,
    "invalid": 3,
    "shed": 0,
    "held": 12,
    "outliers": 5,
    "in_flight": 197,
    "refused": 0,
    "unclean_sessions": 0,
}
SNAPSHOT: dict[str, Any] = {
    "version": "0.1.0",
    "state": "running",
    "pid": 77,
    "uptime_s": 3725.2,
    "cpu_s": 12.5,
    "max_rss_kb": 300_000,
    "endpoints": {"in": "x", "out": "y", "status": "z"},
    "checkpoint": {"path": "x", "family": "brae", "id": "a88d3e5788f9f8db"},
    "fs": 125.0,
    "window": 250,
    "hop": 49,
    "delay_s": {"least": 1.6, "most": 1.992},
    "samples_per_s": 125.0,
    "windows_per_s": 2.5,
    "lag_ms": {"p50": 20.1, "p99": 31.9, "max": 40.0},
    "read_lag_ms": {"p50": None, "p99": None, "max": None},
    "ledger": {
        k: ROW[k]
        for k in (
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
        )
    }
    | {"refused": 0, "unaccounted": 0},
    "unclean_sessions": 0,
    "messages": {"received": 201, "malformed": 0, "published": 99},
    "log_lost": 0,
    "subscribers": 1,
    "queues": {"ready_windows": 0, "ready_limit": 5242, "model_windows": 0},
    "events": {},
    "last_events": [],
    "streams_total": 1,
    "streams": [ROW],
    "traces": {},
}


def text(snapshot: dict[str, Any] | None, *, gone_s: float | None = None) -> str:
    console = Console(width=110, file=io.StringIO(), force_terminal=False)
    console.print(
        render(snapshot and msgspec.convert(snapshot, Snapshot), endpoint="tcp://127.0.0.1:5602", gone_s=gone_s, width=110)
    )
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_says_what_flows_and_that_every_sample_is_accounted_for() -> None:
    seen = text(SNAPSHOT)
    for part in (
        "ppgstream 0.1.0: running",
        "125 samples/s",
        "2.5 windows/s",
        "p99 31.9 ms",
        "unaccounted 0",
        "up 1:02:05",
        "brae a88d3e57",
    ):
        assert part in seen
    row = next(line for line in seen.splitlines() if "wrist" in line)
    assert [cell for cell in row.split() if cell not in "│"] == [
        "wrist",
        "125",
        "21.4",
        "0.87",
        "72",
        "bpm,",
        "93%",
        "4,800",
        "25",
        "3",
        "197",
    ]
    assert all(len(line) == 110 for line in seen.splitlines())


def test_a_daemon_that_is_gone_is_shown_with_the_last_it_said() -> None:
    seen = text(SNAPSHOT, gone_s=12.0)
    assert "DAEMON GONE" in seen
    assert "12 s" in seen
    assert "wrist" in seen


def test_a_daemon_that_never_came_is_waited_for() -> None:
    assert "no daemon answers at tcp://127.0.0.1:5602" in text(None, gone_s=1.0)


def test_names_and_events_from_outside_are_text_and_not_markup() -> None:
    odd = SNAPSHOT | {"last_events": ["[red]stream id b'\\x1b[2J'[/red]"], "streams": [ROW | {"name": "[bold]x"}]}
    seen = text(odd)
    assert "[red]stream" in seen
    assert "[bold]x" in seen
    assert "\x1b" not in seen


def test_streams_beyond_those_shown_are_counted() -> None:
    many = SNAPSHOT | {"streams_total": 200, "streams": [ROW | {"name": f"s{i}"} for i in range(50)]}
    assert "and 188 more" in text(many)


def test_the_wave_draws_denoised_over_raw() -> None:
    t = np.arange(750) / 125
    clean = np.sin(2 * np.pi * t)
    raw: list[float | None] = [*(clean + 0.3), *[]]
    raw[100:110] = [None] * 10
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(wave("wrist", raw, clean.tolist(), fs=125, width=80))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue().splitlines()
    assert len(drawn) == 10
    assert "wrist: last 6.0 s" in drawn[0]
    cells = [c for line in drawn[1:-1] for c in line if 0x2800 < ord(c) < 0x2900]
    assert len(cells) > 150
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(wave("flat", [1.0] * 300, [1.0] * 300, fs=125, width=80))  # no range to draw: must not divide by it


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_stream_s_name_is_readable_at_any_usual_width(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    name = "wrist-left-042"
    busy = ROW | {"name": name, "denoised": 12_345_678, "bpm": 104.0, "bpm_confidence": 0.97}
    console.print(render(msgspec.convert(SNAPSHOT | {"streams": [busy]}, Snapshot), endpoint="x", width=width))
    line = next(line for line in console.export_text().splitlines() if "12,345,678" in line)
    assert name in line
    assert "104 bpm, 97%" in line
