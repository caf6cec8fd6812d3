"""The terminal view: what a person sees at each size of a window, and what keys do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from rich.console import Console

from ppgstream.errors import SourceError
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.live.watch import SORTS
from ppgstream.show.alarms import alarms_of
from ppgstream.show.monitor import Looks, Monitor, Window, glyphs_of, lines, once
from ppgstream.show.screen import History, View, line_of, press, screen
from ppgstream.show.wave import ASCII, UNICODE, csv_of
from ppgstream.wire.message import Flag

SIZES = [(80, 24), (120, 40), (200, 60)]
FIRST = View()
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
    "troubles": [],
    "low_s": 0.0,
    "lost_lately": 0,
}
OF_ALL = ("seen", "accepted", "gap", "rejected", "duplicates", "denoised", "passthrough", "invalid", "shed", "held", "outliers")
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
    "ledger": {k: ROW[k] for k in OF_ALL} | {"in_flight": 197, "refused": 0, "unaccounted": 0},
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
    "recent": [],
    "streams_like": 1,
}


def trace(**more: Any) -> dict[str, Any]:
    """The wave of `wrist`: 8 s of 72 bpm."""
    t = np.arange(1000) / 125
    wave = 52_000 + 900 * np.exp(2 * np.cos(2 * np.pi * 1.2 * t) - 2)
    beats = [(8 - k / 1.2, 0.9) for k in range(1, 9)]
    noisy = (wave + np.random.default_rng(0).normal(0, 100, 1000)).tolist()
    flags, sure = [0] * 1000, [0.95] * 1000
    flags[500:560], sure[500:560] = [int(Flag.OUTLIER)] * 60, [0.1] * 60
    return {
        "fs": 125.0, "raw": noisy, "clean": wave.tolist(), "confidence": sure, "flags": flags, "beats": beats, "units": "counts",
    } | more  # fmt: skip


def made(**more: Any) -> Snapshot:
    return msgspec.convert(SNAPSHOT | more, Snapshot)


def many(n: int, *others: dict[str, Any]) -> dict[str, Any]:
    """Fields of a snapshot of `n` streams, the troubled ones first, as a daemon sorts them."""
    rows = [*others, *(ROW | {"name": f"belt-{k:02}"} for k in range(n - len(others)))]
    return {"streams": rows, "streams_total": n, "streams_like": n}


def seen(
    s: Snapshot | None, width: int = 80, height: int = 24, view: View = FIRST, history: History | None = None, **more: Any
) -> list[str]:
    """The lines of a window, each checked against its edge."""
    history = history or History()
    if s is not None:
        history.add(s)
    shown = screen(s, view, history, width=width, height=height, endpoint="tcp://127.0.0.1:5602", **more)
    assert len(shown.lines) == height
    assert all(line.cell_len <= width for line in shown.lines)
    return [line.plain.rstrip() for line in shown.lines]


def event(name: str, stream: str, text: str, age_s: float = 1.0, times: int = 1) -> dict[str, Any]:
    return {"name": name, "stream": stream, "text": text, "times": times, "age_s": age_s}


STAGED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a sensor is refused": (
        many(23, ROW | {"name": "forearm", "troubles": ["refused"], "refused": 500})
        | {"recent": [event("bad_rate", "forearm", "forearm: refused 25 samples: it says 5000 Hz: must be 10 to 1000 Hz")]},
        "! forearm: refused 25 samples: it says 5000 Hz: must be 10 to 1000 Hz",
        "refused",
    ),
    "a sensor is silent": (
        many(23, ROW | {"name": "forearm", "troubles": ["silent", "lost"], "silent_s": 11.3, "lost_lately": 7}),
        "! forearm: silent for 11 s; 7 samples lost in the last two minutes",
        "silent 11 s",
    ),
    "nothing is attached": (
        many(23, ROW | {"name": "forearm", "troubles": ["lead_off"], "confidence": 0.0, "bpm": None}),
        "! forearm: lead-off: the input is flat, nothing is attached",
        "lead-off",
    ),
    "it is unsure": (
        many(23, ROW | {"name": "forearm", "troubles": ["low_confidence"], "confidence": 0.21, "low_s": 75.4}),
        "! forearm: confidence below 0.5 for 75 s",
        "unsure 75 s",
    ),
    "its clock is another": (
        many(23, ROW | {"name": "forearm", "troubles": ["wrong_rate"], "fs_measured": 98.2}),
        "! forearm: samples come at 98.2 Hz, not 125 Hz: no heart rate",
        "wrong rate",
    ),
    "it is gone": (
        many(23, ROW | {"name": "forearm", "troubles": ["gone"], "silent_s": 95.2, "live": False, "session": None}),
        "! forearm: gone: silent for 95 s, and its session was ended",
        "gone 95 s",
    ),
    "it loses samples": (
        many(23, ROW | {"name": "forearm", "troubles": ["lost"], "lost_lately": 1250}),
        "! forearm: 1,250 samples lost in the last two minutes",
        "lost 1,250",
    ),
}


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("what", STAGED)
def test_the_alarm_is_the_second_line_and_its_stream_the_first_row(what: str, width: int, height: int) -> None:
    fields, alarm, state = STAGED[what]
    shown = seen(made(**fields, traces={"forearm": trace()}), width, height)
    assert shown[0] == "ppgstream 0.1.0: running · 1 alarm · up 1:02:05 · brae a88d3e57"
    assert shown[1] == alarm
    head = next(k for k, line in enumerate(shown) if "stream by trouble" in line)
    assert "forearm" in shown[head + 1]
    assert state in shown[head + 1]
    assert sum(alarm in line for line in shown) == 1
    rows = sum("belt-" in line and "denoised over" not in line for line in shown)
    assert rows >= {24: 3, 40: 14, 60: 22}[height]
    assert any(line.strip() == f"and {22 - rows} more" for line in shown) == (rows < 22)
    assert "accepted 5,000" in "\n".join(shown)
    assert "unaccounted 0" in "\n".join(shown)
    assert shown[-1].startswith("j/k choose")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_wave_has_axes_beats_flags_and_confidence(width: int, height: int) -> None:
    shown = seen(made(traces={"wrist": trace()}), width, height)
    head = next(k for k, line in enumerate(shown) if line.startswith("wrist in counts: denoised over raw   72 bpm 93%"))
    assert "52,9" in shown[head + 1]
    assert any(0x2800 < ord(c) < 0x2900 for c in shown[head + 1])
    beats = next(line for line in shown if line.strip().startswith("beats"))
    assert beats.count("▾") >= 7
    assert "O" in beats
    confidence = next(line for line in shown if line.strip().startswith("confidence"))
    assert {"█", "▁"} <= set(confidence)
    assert "O outlier" in next(line for line in shown if line.endswith("now"))


def test_the_worst_alarms_come_first_and_each_once() -> None:
    rows = [
        ROW | {"name": "a", "troubles": ["refused"], "refused": 7},
        ROW | {"name": "b", "troubles": ["silent"], "silent_s": 20.0},
        ROW | {"name": "c", "troubles": ["lost"], "lost_lately": 3},
    ]
    snapshot = made(
        streams=rows,
        streams_total=3,
        log_lost=4,
        unwell="the model has answered no window for 9 s",
        ledger=SNAPSHOT["ledger"] | {"unaccounted": 2},
        queues={"ready_windows": 5242, "ready_limit": 5242, "model_windows": 64},
        recent=[
            event("model_failed", "a", "a: the model failed on a tile"),
            event("malformed", "typo", "typo: malformed message of 3 bytes: no"),
            event("malformed", "typo", "typo: malformed message of 4 bytes: no"),
            event("malformed", "old", "old: malformed message of 3 bytes: no", age_s=60.0),
            event("descriptors", "", "of 256 descriptors hardly any is left"),
        ],
    )
    assert [str(alarm) for alarm in alarms_of(snapshot, shed_lately=12, unknown="nobody")] == [
        "the ledger does not add up by 2 samples: a defect, please report it",
        "the model has answered no window for 9 s",
        "a: the model failed on a tile",
        "queue full: 5,242 windows wait for the model, and no more input is read",
        "too slow: 12 samples of the last minute were published as they came",
        "4 lines of the log are lost: a full disk, or nobody reads it",
        "of 256 descriptors hardly any is left",
        "nobody: no such stream; there are 3: a, b, c",
        "a: refused 7 samples",
        "b: silent for 20 s",
        "c: 3 samples lost in the last two minutes",
        "typo: malformed message of 3 bytes: no",
    ]
    shown = seen(snapshot)
    assert shown[1].startswith("! the ledger does not add up")
    assert "more alarms" in shown[4]


def test_a_daemon_without_trouble_says_so_and_a_quiet_row_shows_no_old_lag() -> None:
    assert "all is well" in seen(made())[0]
    ended = ROW | {"name": "gone", "live": False, "session": None, "unclean_sessions": 1}
    line = next(line for line in seen(made(streams=[ended])) if "gone" in line and "ended" in line)
    assert line.split() == ["▶", "gone", "ended,", "unclean", "-", "-", "-", "-"]


def test_an_unsure_heart_rate_stands_in_brackets() -> None:
    unsure = ROW | {"bpm": 131.0, "bpm_confidence": 0.31}
    assert any("(131 bpm 31%)" in line for line in seen(made(streams=[unsure])))


def test_a_daemon_that_is_gone_is_shown_with_the_last_it_said() -> None:
    shown = seen(made(), gone_s=12.0)
    assert shown[1].startswith("! DAEMON GONE: no answer from tcp://127.0.0.1:5602 for 12 s")
    assert any("wrist" in line for line in shown)
    assert "no daemon answers at tcp://127.0.0.1:5602" in seen(None)[1]


@pytest.mark.parametrize("view", [View(), View(opened=True), View(help=True), View(like="x", typing=True)])
def test_any_window_down_to_one_cell_is_drawn(view: View) -> None:
    busy = made(**many(30, ROW | {"name": "w" * 64, "troubles": ["silent"]}), traces={"w" * 64: trace()})
    for width, height in [(1, 1), (3, 2), (20, 5), (20, 60), (500, 3), (79, 20), (300, 100)]:
        for glyphs in (UNICODE, ASCII):
            seen(busy, width, height, view, glyphs=glyphs)
            seen(None, width, height, view, glyphs=glyphs)
    assert seen(busy, 20, 5)[1].startswith("! www")


def test_a_wave_of_any_values_is_drawn() -> None:
    for values in ([1.0] * 300, [None] * 300, [0.0, 1e300], [-1e-9, 1e-9, None], [5.0, None] * 200):
        wave = trace(raw=values, clean=values, confidence=[0.5] * len(values), flags=[65535] * len(values), beats=[(-1.0, 1.0)])
        seen(made(traces={"wrist": wave}))
        assert (
            len(csv_of(msgspec.convert(wave, made(traces={"wrist": wave}).traces["wrist"].__class__)).splitlines())
            == len(values) + 1
        )


def test_a_terminal_without_unicode_gets_none() -> None:
    shown = seen(made(**many(9, ROW | {"troubles": ["lead_off"]}), traces={"wrist": trace()}), glyphs=glyphs_of("ascii"))
    assert "\n".join(shown).isascii()
    assert any("*" in line for line in shown)
    assert glyphs_of("UTF-8") is UNICODE
    assert glyphs_of(None) is ASCII


def test_names_and_events_from_outside_are_text_and_not_markup() -> None:
    odd = made(
        recent=[event("malformed", "x", "[red]stream id b'\\x1b[2J'[/red]")],
        streams=[ROW | {"name": "[bold]x", "troubles": ["silent"]}],
    )
    shown = "\n".join(seen(odd))
    assert "[red]stream" in shown
    assert "[bold]x" in shown
    assert "\x1b" not in shown


def test_a_daemon_of_before_is_understood() -> None:
    new = {"troubles", "low_s", "lost_lately"}
    old = SNAPSHOT | {"streams": [{k: v for k, v in ROW.items() if k not in new}]}
    old = {k: v for k, v in old.items() if k not in ("recent", "streams_like")}
    wave = trace()
    old["traces"] = {"wrist": {k: wave[k] for k in ("fs", "raw", "clean")}}
    shown = seen(msgspec.convert(old, Snapshot))
    assert any("wrist" in line for line in shown)
    later = msgspec.convert(SNAPSHOT | {"something_new": [1], "streams": [ROW | {"also": {}}]}, Snapshot)
    assert any("wrist" in line for line in seen(later))


def test_history_tells_cpu_and_lag_of_the_last_minute_and_begins_anew_with_another_process() -> None:
    history = History()
    for k in range(70):
        shed = SNAPSHOT["ledger"] | {"shed": 10 * k}
        history.add(made(uptime_s=10.0 + k, cpu_s=1.0 + 0.25 * k, lag_ms={"p50": 1.0, "p99": float(k), "max": 1.0}, ledger=shed))
        history.add(made(uptime_s=10.1 + k, cpu_s=99.0, lag_ms={"p50": 1.0, "p99": 999.0, "max": 1.0}))  # no second is over
    assert history.cpu == pytest.approx(0.25)
    assert history.shed_lately == 590
    assert history.p99(60)[-1] == 69
    assert history.p99(20)[:2] == [12.0, 15.0]
    assert None not in history.p99(20)
    assert "CPU 25 % of a core" in "\n".join(seen(made(uptime_s=79.2, pid=77), history=history))
    history.add(made(pid=78, uptime_s=1.0))
    assert history.cpu is None
    assert history.p99(20) == [None] * 19 + [31.9]


def test_keys_change_the_view() -> None:
    names = ["a", "b", "c"]

    def after(*keys: str, view: View = FIRST) -> View:
        for key in keys:
            view, do = press(view, key, names, view.stream or "a")
            assert do == ""
        return view

    assert after("j").stream == after("down").stream == "b"
    assert after("j", "j", "j", "j").stream == after("end").stream == after("pagedown").stream == "c"
    assert after("j", "k", "k").stream == after("j", "home").stream == "a"
    assert after("enter").opened
    assert not after("enter", "enter").opened
    assert [after(*["s"] * k).sort for k in range(len(SORTS) + 1)] == [*SORTS, SORTS[0]]
    assert after("/", "w", "q", "x", "backspace").like == "wq"
    assert after("/", "w", "enter") == View(like="w")
    assert after("/", "w", "escape").like == ""
    assert after("/", "w", "enter", "escape").like == ""
    assert after("space").frozen
    assert after("?").help
    assert not after("?", "x").help
    assert after("f12", "ctrl+a") == View()
    assert press(View(), "q", names)[1] == press(View(help=True), "q", names)[1] == "quit"
    assert press(View(), "w", names)[1] == "write"
    assert press(View(), "j", [])[0] == View()


class Told(threading.Thread):
    """Stands for a daemon's status socket: gives the same answer to each question, and keeps the questions."""

    def __init__(self, folder: Path, answer: bytes) -> None:
        super().__init__(daemon=True)
        self.endpoint, self.answer, self.questions = f"ipc://{folder}/status", answer, list[dict[str, Any]]()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self.endpoint)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            if self._socket.poll(20):
                *peer, question = self._socket.recv_multipart()
                self.questions.append(msgspec.json.decode(question))
                self._socket.send_multipart([*peer, self.answer])
        self._context.destroy(linger=0)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    busy = many(30, ROW | {"name": "forearm", "troubles": ["silent"], "silent_s": 11.0})
    found = Told(tmp_path, msgspec.json.encode(SNAPSHOT | busy | {"traces": {"belt-00": trace(), "belt-01": trace()}}))
    found.start()
    yield found
    found.over.set()
    found.join()


def test_the_terminal_view_asks_shows_and_follows_keys_and_the_mouse(told: Told, tmp_path: Path) -> None:
    client = StatusClient(told.endpoint)
    app = Monitor(Looks(client, View()), interval_s=0.05, stopped=lambda: False, glyphs=UNICODE, folder=tmp_path)

    async def use() -> None:
        async with app.run_test(size=(80, 24)) as pilot:

            def text() -> str:
                return "\n".join(line.plain for line in app.query_one(Window).shown.lines)

            async def until(words: str) -> None:
                for _ in range(400):
                    await pilot.pause(0.02)
                    if words in text():
                        return
                pytest.fail(f"{words!r} is not in\n{text()}")

            await until("! forearm: silent for 11 s")
            await until("belt-00 in counts: denoised over raw")
            await pilot.press("j")
            await until("belt-01 in counts: denoised over raw")
            await pilot.press("enter")
            await until("session 00000000000000ab")
            await pilot.press("w")
            await until("wrote")
            await pilot.press("enter", "s")
            await until("stream by name")
            await pilot.press("slash", "b", "e", "l", "t")
            await until("filter: belt_")
            await pilot.press("enter", "space")
            await until("FROZEN")
            asked = len(told.questions)
            await pilot.pause(0.3)
            assert len(told.questions) <= asked + 1
            await pilot.press("space")
            row = next(y for y, name in app.query_one(Window).shown.streams.items() if name == "belt-02")
            await pilot.click(Window, offset=(10, row))
            await until("▶ belt-02")
            await pilot.press("q")

    try:
        asyncio.run(use())
    finally:
        client.close()
    assert app.failure is None
    assert {"watch", "sort", "like", "rows"} <= set(told.questions[-1])
    assert told.questions[-1]["sort"] == "name"
    assert told.questions[-1]["like"] == "belt"
    assert told.questions[0]["rows"] in (0, 24)
    (written,) = tmp_path.glob("belt-01-*.csv")
    rows = np.genfromtxt(written, delimiter=",", names=True)
    assert len(rows) == 1000
    assert rows["seconds"][-1] == 0
    assert rows["flags"][510] == Flag.OUTLIER


@pytest.mark.parametrize(
    "answer",
    [b"[]", b'"hello"', b"{}", b"\xff", b"[" * 100_000, b'{"version": 1e308}', msgspec.json.encode(SNAPSHOT | {"streams": 7})],
)
def test_a_stranger_on_the_port_is_said_in_one_line(answer: bytes, told: Told) -> None:
    told.answer = answer
    with pytest.raises(SourceError, match="not a ppgstream status socket"):
        once(told.endpoint, stream=None, console=Console())
    client = StatusClient(told.endpoint)
    app = Monitor(Looks(client, View()), interval_s=0.05, stopped=lambda: False, glyphs=UNICODE, folder=Path())

    async def use() -> None:
        async with app.run_test(size=(80, 24)) as pilot:
            for _ in range(200):
                await pilot.pause(0.02)
                if app.failure is not None:
                    return

    asyncio.run(use())
    client.close()
    assert app.failure is not None


@pytest.mark.parametrize("taken", ["1e308", "-1", "1.5", '"7"', "[1]", "true"])
def test_what_was_taken_is_a_whole_number_or_nothing(taken: str, told: Told) -> None:
    told.answer = f'{{"in": "x", "taken": {{"a": {taken}}}}}'.encode()
    client = StatusClient(told.endpoint)
    try:
        with pytest.raises(SourceError, match="not a ppgstream status socket"):
            client.taken({"a": 1}, 5.0)
    finally:
        client.close()


def test_once_prints_the_view_and_says_which_streams_there_are(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    once(told.endpoint, stream="belt-00", console=Console(width=120))
    shown = capsys.readouterr().out
    assert "! forearm: silent for 11 s" in shown
    assert "belt-00 in counts" in shown
    with pytest.raises(SourceError, match=r"--stream typo: .* it has forearm, belt-00"):
        once(told.endpoint, stream="typo", console=Console(width=120))


def test_into_a_pipe_goes_a_line_a_second(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppgstream.show.monitor.LINE_S", 0.01)
    written: list[str] = []
    lines(told.endpoint, stopped=lambda: len(written) >= 3, write=written.append)
    assert all("30 streams" in line and "alarm: forearm: silent for 11 s" in line and "\n" not in line for line in written)
    assert "unaccounted 0" in line_of(made(), History())
    assert "2 alarms" in line_of(made(log_lost=1, **many(2, ROW | {"troubles": ["silent"]})), History())


def test_no_word_of_the_facts_is_cut() -> None:
    large = SNAPSHOT["ledger"] | dict.fromkeys(OF_ALL, 12345678901)
    for width in (40, 60, 80, 100):
        shown = "\n".join(seen(made(ledger=large), width, 60))
        for word in ("accepted 12,345,678,901", "outliers 12,345,678,901", "memory 293 MB", "look-ahead 1.60 to 1.99 s"):
            assert word in shown


def test_a_stream_s_name_is_readable_at_any_usual_width() -> None:
    busy = ROW | {"name": "wrist-left-042", "denoised": 12_345_678, "bpm": 104.0, "bpm_confidence": 0.97}
    for width in (80, 100, 160):
        line = next(line for line in seen(made(streams=[busy]), width) if "104 bpm 97%" in line)
        assert "wrist-left-042" in line
        assert ("12,345,678" in line) == (width >= 100)


def test_a_row_that_was_chosen_stays_in_sight() -> None:
    fields = many(200)
    for chosen in (0, 7, 100, 199):
        shown = seen(made(**fields), 80, 24, View(stream=f"belt-{chosen:02}"))
        assert any(line.startswith(f"▶ belt-{chosen:02}") for line in shown)
        rows = sum("belt-" in line and "denoised over" not in line for line in shown)
        assert any(f"and {200 - rows} more" in line for line in shown)
