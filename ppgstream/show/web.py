"""Watches a running daemon in a browser: one page, and a WebSocket that feeds it. Needs websockets.

A thread for each page asks the status socket twice a second, and takes the chosen stream from the daemon's output as it is
published. A page can choose what it is shown, and nothing else. Only requests that name this machine as their host, and pages of
this server, are answered.
"""

from __future__ import annotations

import contextlib
import http
import importlib.resources
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ppgstream.errors import PpgStreamError, SourceError
from ppgstream.live.keys import Key
from ppgstream.live.receiver import Receiver, receiver
from ppgstream.live.snapshot import StreamStatus, TraceStatus
from ppgstream.live.status import StatusClient
from ppgstream.live.watch import Sort
from ppgstream.show.alarms import alarms_of, state_of
from ppgstream.show.monitor import Looks
from ppgstream.show.screen import View, chosen_of, clock_of, heart_rate, ms, rows_of
from ppgstream.show.wave import SURE
from ppgstream.wire.message import Chunk, Kind

if TYPE_CHECKING:
    from websockets.datastructures import Headers
    from websockets.http11 import Request, Response
    from websockets.sync.server import Server, ServerConnection

HOSTS = ("127.0.0.1", "localhost")
LOOK_S, POLL_S = 0.5, 0.03
ROWS, ALARMS = 100, 8  # that a page shows
MOST_PAGES = 16
MOST_CHOICE = 512  # bytes of what a page may say
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/monitor.js": ("monitor.js", "text/javascript; charset=utf-8"),
    "/monitor.css": ("monitor.css", "text/css; charset=utf-8"),
}
SAFETY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Choice(msgspec.Struct):
    """What a page may say."""

    stream: str | None = None
    sort: Sort | None = None
    like: str | None = None


class Web:
    """A server on loopback at `port` (0: any that is free). `serve` works until `close`. Raises SourceError where the port is in
    use."""

    def __init__(self, status: str, port: int, key: Key | None = None) -> None:
        from websockets.sync.server import serve

        self._status, self._key = status, key
        self._over = threading.Event()
        self._pages = threading.BoundedSemaphore(MOST_PAGES)
        self._files = {path: (_page(name), kind) for path, (name, kind) in FILES.items()}
        quiet = logging.Logger("ppgstream.web")  # what strangers send is no line of ours
        quiet.addHandler(logging.NullHandler())
        options: dict[str, Any] = {"max_size": MOST_CHOICE, "compression": None, "logger": quiet}
        try:
            self._server: Server = serve(self._feed, HOSTS[0], port, process_request=self._answer, **options)
        except OSError as error:
            raise SourceError(f"--web {port}: 127.0.0.1:{port} cannot be listened at: {error.strerror}: another port?") from error
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"http://{HOSTS[0]}:{self.port}/"
        self._allowed = {f"{host}:{self.port}" for host in HOSTS}

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Answer pages until `stopped`."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            while not stopped():
                time.sleep(0.1)
        finally:
            self.close()

    def close(self) -> None:
        """Give the port back."""
        self._over.set()
        self._server.shutdown()

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page's files, or None for a WebSocket of our own page."""
        headers = request.headers
        if _one(headers, "Host") not in self._allowed:
            return connection.respond(http.HTTPStatus.FORBIDDEN, "This is served to this machine alone.\n")
        if request.path == "/" and "websocket" in (_one(headers, "Upgrade") or "").lower():
            if (_one(headers, "Origin") or "").removeprefix("http://") not in self._allowed:
                return connection.respond(http.HTTPStatus.FORBIDDEN, "Only this server's own page may ask.\n")
            return None
        if getattr(request, "method", "GET") != "GET":
            return connection.respond(http.HTTPStatus.METHOD_NOT_ALLOWED, "There is only something to read here.\n")
        if request.path not in self._files:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "There is one page: /\n")
        body, kind = self._files[request.path]
        response = connection.respond(http.HTTPStatus.OK, body)
        for name, value in {**SAFETY, "Content-Type": kind}.items():
            if name in response.headers:
                del response.headers[name]
            response.headers[name] = value
        return response

    def _feed(self, connection: ServerConnection) -> None:
        """One page, until it goes."""
        from websockets.exceptions import ConnectionClosed

        if not self._pages.acquire(blocking=False):
            connection.close(1013, f"{MOST_PAGES} pages are open already")
            return
        page = Page(self._status, self._key)
        try:
            while not self._over.is_set():
                with contextlib.suppress(TimeoutError):
                    page.choose(connection.recv(timeout=POLL_S))
                for told in page.told():
                    connection.send(msgspec.json.encode(told).decode())
        except ConnectionClosed:
            pass
        finally:
            page.close()
            self._pages.release()


class Page:
    """What one page is told."""

    def __init__(self, status: str, key: Key | None = None) -> None:
        self._key = key
        self._looks = Looks(StatusClient(status, key=key), View())
        self._looks.rows = ROWS
        self._receiver: Receiver | None = None
        self._of = ("", "")  # the output's endpoint and the stream that are subscribed to
        self._next = 0.0

    def choose(self, text: str | bytes) -> None:
        """Take what the page says; what cannot be read is passed over."""
        try:
            choice = msgspec.json.decode(text, type=Choice)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        view = self._looks.view
        self._looks.view = view._replace(
            stream=choice.stream if choice.stream is not None else view.stream,
            sort=choice.sort or view.sort,
            like=view.like if choice.like is None else choice.like[:64],
        )
        self._next = 0.0

    def told(self) -> list[dict[str, Any]]:
        """What there is to tell now."""
        found: list[dict[str, Any]] = []
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOK_S
            try:
                self._looks.look()
            except SourceError as error:
                return [_empty(str(error))]
            found.append(self._facts())
        if self._receiver is not None:
            found += [told for chunk in self._receiver.poll(0.0) if (told := _of(chunk)) is not None]
        return found

    def close(self) -> None:
        """Give the sockets back."""
        self._looks.client.close()
        if self._receiver is not None:
            self._receiver.close()

    def _facts(self) -> dict[str, Any]:
        looks, s = self._looks, self._looks.last
        if s is None:
            return _empty(f"no daemon answers at {looks.client.endpoint}: start `ppgstream run`")
        chosen = chosen_of(s, looks.view) or ""
        self._subscribe(s.endpoints.get("out", ""), chosen)
        alarms = [(str(alarm), alarm.grave) for alarm in alarms_of(s, shed_lately=looks.history.shed_lately)]
        if looks.gone_s is not None:
            gone = f"DAEMON GONE: no answer from {looks.client.endpoint} for {looks.gone_s:.0f} s; this is the last that it told"
            alarms.insert(0, (gone, True))
        rows = rows_of(s, looks.view)[:ROWS]
        row = next((r for r in s.streams if r.name == chosen), None)
        trace = s.traces.get(chosen)
        total = s.streams_like if looks.view.like and s.streams_like is not None else s.streams_total
        cpu = looks.history.cpu
        return {
            "kind": "status",
            "state": f"{s.version}: {s.state}, up {clock_of(s.uptime_s)}, {s.checkpoint.family} {s.checkpoint.id[:8]}",
            "alarms": alarms[:ALARMS] + ([(f"and {len(alarms) - ALARMS} more alarms", False)] if len(alarms) > ALARMS else []),
            "facts": [
                ("samples/s", f"{s.samples_per_s:,.0f}"),
                ("windows/s", f"{s.windows_per_s:,.1f}"),
                ("streams", f"{s.streams_total:,}"),
                ("lag p50", ms(s.lag_ms.p50)),
                ("lag p99", ms(s.lag_ms.p99)),
                ("look-ahead", f"{s.delay_s.least:.2f} to {s.delay_s.most:.2f} s"),
                ("CPU", "-" if cpu is None else f"{100 * cpu:.0f} % of a core"),
                ("memory", f"{s.max_rss_kb / 1024:,.0f} MB"),
                ("queue", f"{100 * s.queues.ready_windows / max(s.queues.ready_limit, 1):.0f} %"),
                ("accepted", f"{s.ledger.accepted:,}"),
                ("denoised", f"{s.ledger.denoised:,}"),
                ("lost", f"{s.ledger.gap:,}"),
                ("unaccounted", f"{s.ledger.unaccounted:,}"),
            ],
            "rows": [_row(r) for r in rows],
            "more": max(total - len(rows), 0),
            "chosen": chosen,
            "heart": "" if row is None else heart_rate(row)[0],
            "trace": None if trace is None else _trace(trace),
        }

    def _subscribe(self, endpoint: str, stream: str) -> None:
        if (endpoint, stream) == self._of:
            return
        self._of = endpoint, stream
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None
        if endpoint and stream:
            try:
                self._receiver = receiver(endpoint, stream, high_water_mark=1000, key=self._key)
            except PpgStreamError:
                self._receiver = None  # then the page shows what the status tells


def _page(name: str) -> str:
    return importlib.resources.files("ppgstream.show").joinpath("page", name).read_text(encoding="utf-8")


def _one(headers: Headers, name: str) -> str | None:
    """The value of a header that is there once."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else None


def _empty(state: str) -> dict[str, Any]:
    nothing: list[Any] = []
    lists = {"alarms": nothing, "facts": nothing, "rows": nothing}
    return {"kind": "status", "state": state, **lists, "more": 0, "chosen": "", "heart": "", "trace": None}


def _row(row: StreamStatus) -> dict[str, Any]:
    talks = row.live and "silent" not in row.troubles
    return {
        "name": row.name,
        "state": state_of(row),
        "trouble": bool(row.troubles),
        "ended": not row.live and not row.troubles,
        "rate": f"{row.samples_per_s:.0f}" if talks else "-",
        "lag": f"{row.lag_ms:.1f}" if talks else "-",
        "confidence": f"{row.confidence:.2f}" if talks else "-",
        "heart": heart_rate(row)[0] if talks else "-",
        "sure": (row.bpm_confidence or 0.0) >= SURE,
        "lost": f"{row.gap:,}",
    }


def _trace(trace: TraceStatus) -> dict[str, Any]:
    return {
        "stop": trace.stop,
        "fs": trace.fs,
        "raw": trace.raw,
        "clean": trace.clean,
        "confidence": trace.confidence,
        "flags": trace.flags,
    }


def _of(chunk: Chunk) -> dict[str, Any] | None:
    """What a page is told of a message of the output."""
    if chunk.beats is not None:
        beats = chunk.beats
        return {"kind": "beats", "stream": chunk.stream, "at": beats.at.tolist(), "confidence": beats.confidence.tolist()}
    if chunk.kind is not Kind.DATA or chunk.confidence is None or chunk.flags is None:
        return None
    clean = [None if math.isnan(value) else value for value in chunk.samples.tolist()]
    return {
        "kind": "wave",
        "stream": chunk.stream,
        "session": f"{chunk.session:016x}",
        "index": chunk.index,
        "fs": chunk.fs,
        "clean": clean,
        "confidence": chunk.confidence.tolist(),
        "flags": chunk.flags.tolist(),
    }
