"""What a service manager hears of a daemon: that it is ready, that it is well, that it stops (systemd's sd_notify)."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Sends to the socket that NOTIFY_SOCKET names; does nothing where there is none. `watchdog_s`: how often it is expected to
    hear that the daemon is well, s; 0: not at all."""

    def __init__(self, address: str | None = None, watchdog_us: str | None = None) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        watchdog_us = os.environ.get("WATCHDOG_USEC", "") if watchdog_us is None else watchdog_us
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdecimal() and self._address else 0.0
        self._told_at = 0.0

    def tell(self, text: str) -> None:
        """Lines of NAME=VALUE. A manager that does not listen is no reason to stop."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError:
            pass

    def well(self, now: float | None = None) -> None:
        """The daemon is well: told twice as often as the watchdog expects it."""
        now = time.monotonic() if now is None else now
        if self.watchdog_s and now - self._told_at >= self.watchdog_s / 2:
            self._told_at = now
            self.tell("WATCHDOG=1")
