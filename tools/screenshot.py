"""A picture of the page of `ppgstream monitor --web`, by a Chromium without a window: docs/monitor.png is made so.

python -m tools.screenshot http://127.0.0.1:8600/ docs/monitor.png
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 30.0


def chromium() -> str | None:
    """The path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A Chromium without a window, told what to do by its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        from websockets.sync.client import connect

        self._connection = ExitStack()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--window-size={width},{height}",
        ]
        command = [chromium() or NAMES[0], *options, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(  # noqa: S603 (a program of this machine)
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        port = Path(self._folder.name) / "DevToolsActivePort"
        until = time.monotonic() + ANSWER_S
        while not port.exists() or len(port.read_text().splitlines()) < 2:
            if time.monotonic() > until or self._process.poll() is not None:
                self.close()
                raise TimeoutError("Chromium does not begin")
            time.sleep(0.05)
        number, path = port.read_text().splitlines()
        self._socket = self._connection.enter_context(connect(f"ws://127.0.0.1:{number}{path}", max_size=None))
        self._count = itertools.count(1)
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        """Go to a page."""
        self._ask("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What a line of JavaScript gives."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in found:
            raise ValueError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def picture(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._count)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(asked | ({"sessionId": self._session} if self._session else {})))
        while True:
            told = json.loads(self._socket.recv(timeout=ANSWER_S))
            if told.get("id") == number:
                if "error" in told:
                    raise ValueError(f"{method}: {told['error']}")
                found: dict[str, Any] = told["result"]
                return found


def main() -> None:
    url, path = sys.argv[1:3]
    with Browser() as browser:
        browser.open(url)
        time.sleep(10.0)  # until the wave is as long as the plot
        Path(path).write_bytes(browser.picture())


if __name__ == "__main__":
    main()
