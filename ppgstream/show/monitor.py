"""Watches a running daemon in a terminal: asks its status socket, and shows what `screen` makes of the answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from textual import events
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ppgstream.errors import SourceError
from ppgstream.live.keys import Key
from ppgstream.live.snapshot import Snapshot
from ppgstream.live.status import StatusClient
from ppgstream.show.screen import History, Screen, View, chosen_of, line_of, press, rows_of, screen
from ppgstream.show.wave import ASCII, UNICODE, Glyphs, csv_of

ANSWER_S = 1.0  # a daemon that has not answered by then is gone
LINE_S = 1.0  # between two lines into a pipe


def glyphs_of(encoding: str | None) -> Glyphs:
    """What a terminal of this encoding can show."""
    return UNICODE if (encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32") else ASCII


class Looks:
    """What a daemon tells, looked at again and again. Of `view`: if no stream is chosen, the first row's wave."""

    def __init__(self, client: StatusClient, view: View) -> None:
        self.client, self.view, self.history = client, view, History()
        self.last: Snapshot | None = None
        self.rows = 0  # that fit the window; 0: as many as the daemon gives
        self._gone_since: float | None = time.monotonic()
        self._wanted = view.stream  # named when the program was started
        self._watched: str | None = view.stream

    def look(self) -> bool:
        """Ask once. False if nobody answered. Raises SourceError for a peer that is no daemon."""
        view = self.view
        watch = [self._watched] if self._watched else []
        found = self.client.ask(ANSWER_S, watch, sort=view.sort, like=view.like, rows=self.rows)
        if found is None:
            self._gone_since = self._gone_since or time.monotonic()
            return False
        self._gone_since, self.last = None, found
        self.history.add(found)
        self._watched = chosen_of(found, view)
        return True

    @property
    def gone_s(self) -> float | None:
        """For how long nobody has answered; None if somebody does."""
        return None if self._gone_since is None else time.monotonic() - self._gone_since

    @property
    def unknown(self) -> str | None:
        """The stream that the program was started for, if the daemon has none of this name."""
        there = self.last is not None and any(row.name == self._wanted for row in self.last.streams)
        return None if there or self._wanted is None or self.view.stream != self._wanted else self._wanted

    def screen(self, width: int, height: int, glyphs: Glyphs) -> Screen:
        """The window."""
        return screen(
            self.last, self.view, self.history, width=width, height=height, endpoint=self.client.endpoint, gone_s=self.gone_s,
            unknown=self.unknown, glyphs=glyphs,
        )  # fmt: skip


class Window(Widget):
    """Shows lines of text that fill it."""

    DEFAULT_CSS = "Window { width: 1fr; height: 1fr; }"

    def __init__(self, draw: Callable[[int, int], Screen]) -> None:
        super().__init__()
        self._draw = draw
        self.shown = Screen([], {})

    def draw(self) -> None:
        """Draw it anew. Lines that are as they were are not drawn again."""
        before = self.shown.lines
        self.shown = self._draw(self.size.width, self.size.height)
        lines = self.shown.lines
        changed = [y for y, line in enumerate(lines) if y >= len(before) or line != before[y]]
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def on_resize(self) -> None:
        self.draw()

    def render_line(self, y: int) -> Strip:
        if y >= len(self.shown.lines):
            return Strip.blank(self.size.width)
        strip = Strip(self.shown.lines[y].render(self.app.console))
        return strip.adjust_cell_length(self.size.width)


class Monitor(App[None]):
    """The terminal view. A thread looks every `interval_s` seconds; keys and the mouse change the `View`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = "Screen { overflow: hidden; }"

    def __init__(self, looks: Looks, *, interval_s: float, stopped: Callable[[], bool], glyphs: Glyphs, folder: Path) -> None:
        super().__init__(ansi_color=True)
        self._looks, self._interval_s, self._stopped, self._glyphs, self._folder = looks, interval_s, stopped, glyphs, folder
        self._frozen: Snapshot | None = None
        self._now, self._over = threading.Event(), threading.Event()  # look at once; look no more
        self._thread = threading.Thread(target=self._look, name="monitor", daemon=True)
        self.failure: SourceError | None = None

    def compose(self) -> ComposeResult:
        yield Window(self._drawn)

    def on_mount(self) -> None:
        self._thread.start()

    def on_unmount(self) -> None:
        self._over.set()
        self._now.set()
        self._thread.join(2 * ANSWER_S)

    def _drawn(self, width: int, height: int) -> Screen:
        # As many as fit, and as many again beyond the chosen one, so that there is always a next one to choose.
        looks, names = self._looks, self._names()
        looks.rows = height + (names.index(looks.view.stream) if looks.view.stream in names else 0)
        return self._looks.screen(width, height, self._glyphs)

    def _look(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            if self._stopped():
                self.call_from_thread(self.exit)
                return
            if not self._looks.view.frozen:
                try:
                    self._looks.look()
                except SourceError as error:
                    self.failure = error
                    self.call_from_thread(self.exit)
                    return
                if not self._over.is_set():
                    self.call_from_thread(self._redraw)
            self._now.wait(max(self._interval_s - (time.monotonic() - began), 0.02))
            self._now.clear()

    def _redraw(self) -> None:
        self.query_one(Window).draw()

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        self._press(event.character if event.character and event.character.isprintable() else event.key)

    async def action_quit(self) -> None:
        self.exit()

    def action_help_quit(self) -> None:
        self.exit()

    def on_click(self, event: events.Click) -> None:
        name = self.query_one(Window).shown.streams.get(event.y)
        if name is not None:
            again = name == self._looks.view.stream
            self._change(self._looks.view._replace(stream=name, opened=again))

    def on_mouse_scroll_down(self) -> None:
        self._press("j")

    def on_mouse_scroll_up(self) -> None:
        self._press("k")

    def _press(self, key: str) -> None:
        looks = self._looks
        names = self._names()
        chosen = None if looks.last is None else chosen_of(looks.last, looks.view)
        view, do = press(looks.view, key, names, chosen)
        if do == "quit":
            self.exit()
        elif do == "write":
            view = view._replace(notice=self._write())
        self._change(view)

    def _names(self) -> list[str]:
        looks = self._looks
        return [row.name for row in rows_of(looks.last, looks.view)] if looks.last is not None else []

    def _change(self, view: View) -> None:
        self._looks.view = view
        self._redraw()
        self._now.set()

    def _write(self) -> str:
        """Write the wave that is shown. What to tell of it."""
        last = self._looks.last
        name = None if last is None else chosen_of(last, self._looks.view)
        trace = None if last is None or name is None else last.traces.get(name)
        if trace is None or name is None:
            return "no wave to write"
        path = self._folder / f"{name.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}.csv"
        try:
            path.write_text(csv_of(trace))
        except OSError as error:
            return f"{path}: cannot write: {error.strerror}"
        return f"wrote {path}"


def watch(endpoint: str, *, stream: str | None, interval_s: float, stopped: Callable[[], bool], key: Key | None = None) -> None:
    """Show a running daemon until `stopped`, or until the person quits. A daemon that is not there is a state that is shown, not
    an error. Raises SourceError for a peer that is no daemon."""
    client = StatusClient(endpoint, key=key)
    try:
        looks = Looks(client, View(stream=stream))
        glyphs = glyphs_of(sys.stdout.encoding)
        app = Monitor(looks, interval_s=interval_s, stopped=stopped, glyphs=glyphs, folder=Path.cwd())
        app.run()
    finally:
        client.close()
    if app.failure is not None:
        raise app.failure


def lines(endpoint: str, *, stopped: Callable[[], bool], write: Callable[[str], None], key: Key | None = None) -> None:
    """A line a second, for a pipe, until `stopped`."""
    client = StatusClient(endpoint, key=key)
    looks = Looks(client, View())
    try:
        while not stopped():
            began = time.monotonic()
            answered = looks.look()
            write(line_of(looks.last, looks.history) if answered and looks.last else f"no daemon answers at {endpoint}")
            time.sleep(max(LINE_S - (time.monotonic() - began), 0.0))
    finally:
        client.close()


def once(endpoint: str, *, stream: str | None, console: Console, key: Key | None = None) -> str:
    """Show a daemon once; gives why it is not well, or nothing. Raises SourceError if none answers, and for a stream that it does
    not have."""
    client = StatusClient(endpoint, key=key)
    try:
        looks = Looks(client, View(stream=stream))
        # The first look says whose wave there is to ask for; the second has it.
        if not looks.look() or not looks.look() or looks.last is None:
            raise SourceError(f"{endpoint}: {client.silence()}")
        if looks.unknown is not None:
            names = ", ".join(row.name for row in looks.last.streams[:8])
            raise SourceError(f"--stream {stream}: {endpoint} has no such stream{f': it has {names}' if names else ''}")
        shown = looks.screen(console.width, max(console.height, 24), glyphs_of(console.encoding))
        for line in shown.lines[:-1]:
            console.print(line, highlight=False, soft_wrap=True)
        return looks.last.unwell
    finally:
        client.close()
