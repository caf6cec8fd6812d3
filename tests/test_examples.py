"""The programs in examples/, each with a simulated sensor."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import zmq

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_udp_bridge_passes_one_sender_s_datagrams_on_and_no_more_than_it_is_told(tmp_path: Path) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    daemon = context.socket(zmq.SUB)
    endpoint = f"ipc://{tmp_path / 'in'}"
    daemon.bind(endpoint)
    daemon.subscribe(b"")
    arguments = ["--listen", "127.0.0.1:0", "--from", "127.0.0.1", "--to", endpoint, "--stream", "esp32", "--most", "20"]
    bridge = subprocess.Popen([sys.executable, str(EXAMPLES / "udp_bridge.py"), *arguments], stdout=subprocess.PIPE, text=True)
    sensor, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    other.bind(("127.0.0.2", 0))
    try:
        assert bridge.stdout is not None
        found = re.search(r"at 127\.0\.0\.1:(\d+) for", bridge.stdout.readline())
        assert found is not None
        there = ("127.0.0.1", int(found[1]))
        got: list[list[bytes]] = []
        deadline = time.monotonic() + 45.0
        while not got and time.monotonic() < deadline:  # until the bridge is connected
            other.sendto(b'{"ir": 666}', there)
            sensor.sendto(b'{"fs": 100, "ir": [1, 2]}', there)
            if daemon.poll(100):
                got.append(daemon.recv_multipart())
        for _ in range(300):
            sensor.sendto(b'{"fs": 100, "ir": [1, 2]}', there)
        sensor.sendto(b"x" * 9000, there)
        while daemon.poll(500):
            got.append(daemon.recv_multipart())
        assert {tuple(message) for message in got} == {(b"esp32", b'{"fs": 100, "ir": [1, 2]}')}
        assert len(got) <= 60  # three seconds' worth
    finally:
        bridge.kill()
        bridge.wait()
        sensor.close()
        other.close()
        context.destroy(linger=0)
