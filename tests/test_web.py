"""The page of `monitor --web`: what is served to whom, what a page is told, and what a browser draws of it."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from faults.daemon import PATIENCE_S, until
from test_bridge import start
from test_monitor import ROW, SNAPSHOT, Told, event, many, trace

from ppgstream.errors import SourceError
from ppgstream.wire.message import Beats, Chunk, Kind, encode
from tools.screenshot import Browser, chromium

pytest.importorskip("websockets", reason="websockets is not installed: pip install ppgstream[web]")

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ppgstream.show.web import Web


class Site:
    """A page's server before a stand-in of a daemon, which publishes what `publish` is given."""

    def __init__(self, folder: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._out = self._context.socket(zmq.XPUB)
        self._out.bind(f"ipc://{folder}/out")
        rows = many(30, ROW | {"name": "forearm", "troubles": ["silent"], "silent_s": 11.0}, ROW, ROW | {"name": "<b>x"})
        more = {
            "endpoints": {"out": f"ipc://{folder}/out"},
            "recent": [event("malformed", "odd", "odd: <i>no</i>")],
            "traces": {"wrist": trace(stop=1000)},
        }
        self.daemon = Told(folder, msgspec.json.encode(SNAPSHOT | rows | more))
        self.daemon.start()
        self.web = Web(self.daemon.endpoint, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self.web.serve, args=(self._over.is_set,))
        self._thread.start()

    def subscribed(self) -> None:
        """Wait until a page has subscribed to a stream."""
        until(lambda: self._out.poll(20) and self._out.recv()[:1] == b"\1", "a subscription")

    def publish(self, chunk: Chunk) -> None:
        self._out.send_multipart(encode(chunk))

    def page(self, **more: Any) -> Any:
        return connect(f"ws://127.0.0.1:{self.web.port}/", origin=f"http://127.0.0.1:{self.web.port}", **more)  # type: ignore[arg-type]

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=PATIENCE_S)
        connection.request(method, path, headers=headers)
        return connection.getresponse()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.daemon.over.set()
        self.daemon.join()
        self._context.destroy(linger=0)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.close()


def wave_of(index: int, n: int = 50) -> Chunk:
    x = 1000 + np.arange(index, index + n, dtype=np.float32)
    x[3] = np.nan
    return Chunk("wrist", 7, index, x, fs=125.0, confidence=np.full(n, 0.9, np.float32), flags=np.zeros(n, np.uint16))


def test_there_is_one_page_for_this_machine_alone(site: Site) -> None:
    page = site.get("/")
    text = page.read().decode()
    assert page.status == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "<canvas" in text
    used = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(path.startswith(("/monitor.", "data:")) for path in used)  # nothing of another machine
    for path in ("/monitor.js", "/monitor.css"):
        assert site.get(path).status == 200
        assert b"//cdn" not in site.get(path).read()
    for path in ("/etc/passwd", "/../web.py", "/index.html", "/?x", "/page/index.html"):
        assert site.get(path).status == 404
    for host in ("evil.example", "evil.example:80", f"localhost.evil.example:{site.web.port}", "127.0.0.1:1"):
        assert site.get("/", Host=host).status == 403
    assert site.get("/", Host=f"localhost:{site.web.port}").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_get_is_answered(method: str, site: Site) -> None:
    assert site.get("/", method).status == 405


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_a_page_of_anybody_else_is_refused(origin: str | None, site: Site) -> None:
    with pytest.raises(InvalidStatus, match="403"), connect(f"ws://127.0.0.1:{site.web.port}/", origin=origin):  # type: ignore[arg-type]
        pass


def test_a_page_is_told_the_facts_the_alarms_and_the_wave_of_the_chosen_stream(site: Site) -> None:
    with site.page() as page:
        told = msgspec.json.decode(page.recv(timeout=PATIENCE_S))
        assert told["kind"] == "status"
        assert told["alarms"] == [["forearm: silent for 11 s", True], ["odd: <i>no</i>", True]]
        assert ["unaccounted", "0"] in told["facts"]
        assert [row["name"] for row in told["rows"]][:3] == ["forearm", "wrist", "<b>x"]
        assert told["rows"][0]["state"] == "silent 11 s"
        assert told["chosen"] == "wrist"
        assert told["trace"]["stop"] == len(told["trace"]["raw"]) == 1000
        site.subscribed()
        site.publish(wave_of(1000))
        beats = Beats(72.0, 0.9, np.array([1010], np.uint64), *(np.ones(1, np.float32),) * 3)
        site.publish(Chunk("wrist", 7, 1050, np.zeros(0, np.float32), Kind.BEATS, beats=beats))
        found: dict[str, Any] = {}

        def both() -> bool:
            told = msgspec.json.decode(page.recv(timeout=PATIENCE_S))
            found[told["kind"]] = told
            return {"wave", "beats"} <= set(found)

        until(both, "the wave and its beats")
        assert found["wave"]["index"] == 1000
        assert found["wave"]["clean"][2:5] == [1002 + 1000, None, 1004 + 1000]
        assert found["beats"]["at"] == [1010]
        page.send(msgspec.json.encode({"stream": "belt-03", "sort": "name", "like": "belt"}).decode())
        until(lambda: msgspec.json.decode(page.recv(timeout=PATIENCE_S)).get("chosen") == "belt-03", "the choice")
        until(lambda: page.recv(timeout=PATIENCE_S) and site.daemon.questions[-1]["watch"] == ["belt-03"], "the question")
        assert {k: site.daemon.questions[-1][k] for k in ("sort", "like")} == {"sort": "name", "like": "belt"}


@pytest.mark.parametrize("text", ["", "no", "[]", '{"sort": "colour"}', '{"stream": 7}', "[" * 400, "\x00"])
def test_what_a_page_may_not_say_changes_nothing(text: str, site: Site) -> None:
    with site.page() as page:
        page.send(text)
        for _ in range(3):
            assert msgspec.json.decode(page.recv(timeout=PATIENCE_S))["chosen"] == "wrist"


def test_so_many_pages_and_no_more(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [site.page() for _ in range(16)]
    opened = [page.__enter__() for page in pages]
    for page in opened:
        page.recv(timeout=PATIENCE_S)
    with site.page() as more, pytest.raises(Exception, match="1013"):
        more.recv(timeout=PATIENCE_S)
    for page in pages:
        page.__exit__(None, None, None)


def test_a_stranger_instead_of_a_daemon_is_said_on_the_page(site: Site) -> None:
    site.daemon.answer = b"hello"
    with site.page() as page:
        assert "not a ppgstream status socket" in msgspec.json.decode(page.recv(timeout=PATIENCE_S))["state"]


def test_a_port_in_use_is_said(site: Site) -> None:
    with pytest.raises(SourceError, match=f"--web {site.web.port}: 127.0.0.1:{site.web.port} cannot be listened at"):
        Web(site.daemon.endpoint, site.web.port)


def test_rubbish_on_the_port_stops_nobody(site: Site) -> None:
    for text in (b"\x00" * 100, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 500, b"GET", b"\xff\xfe"):
        with socket.create_connection(("127.0.0.1", site.web.port), timeout=PATIENCE_S) as connection:
            connection.sendall(text)
    assert site.get("/").status == 200


def test_the_command_serves_until_a_signal(tmp_path: Path) -> None:
    process = start(["monitor", "--web", "0", "--status", f"ipc://{tmp_path}/none"])
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=PATIENCE_S)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        with connect(f"ws://127.0.0.1:{found[1]}/", origin=f"http://127.0.0.1:{found[1]}") as page:  # type: ignore[arg-type]
            assert "no daemon answers" in msgspec.json.decode(page.recv(timeout=PATIENCE_S))["state"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine: apt install chromium")
def test_a_browser_draws_the_wave_and_names_are_no_markup(site: Site) -> None:
    with Browser() as browser:
        browser.open(site.web.url)

        def shows(script: str) -> Callable[[], Any]:
            return lambda: browser.value(script)

        until(shows("document.querySelectorAll('#rows tr').length >= 30"), "the rows")
        assert browser.value("document.querySelector('#alarms li').textContent") == "forearm: silent for 11 s"
        assert browser.value("document.querySelectorAll('#alarms i, #rows b').length") == 0
        assert browser.value("document.querySelector('#rows tr.chosen td').textContent") == "wrist"
        until(shows("+document.getElementById('plot').dataset.frames > 5"), "frames")
        red = "[...pen.getImageData(0, 0, plot.width, plot.height).data].filter((v, k) => k % 4 == 0 && v > 180).length"
        until(shows(f"({red}) > 200"), "a drawn wave")
        site.subscribed()
        site.publish(wave_of(1000))
        until(shows("wave.end == 1050"), "what is published")
        browser.value("document.querySelectorAll('#rows tr')[5].click()")
        until(shows("document.getElementById('name').textContent == 'belt-02'"), "the chosen stream")
        site.web.close()
        until(shows("document.getElementById('state').textContent.includes('gone')"), "that the monitor is gone")
