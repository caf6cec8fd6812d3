"""Stands in for a sensor, so that each way of docs/sensors.md can be tried without one. Ctrl-C ends it.

    python examples/simulated.py serial                       # a board on USB: says its port, prints R=...,IR=... at 100 Hz
    python examples/simulated.py wifi --to 127.0.0.1:5610     # an ESP32 on Wi-Fi: JSON datagrams, 50 Hz
    python examples/simulated.py muse                         # a Muse: a stream of Lab Streaming Layer, 64 Hz (needs pylsl)
    python examples/simulated.py watch                        # a Galaxy Watch: 3 s at once, 25 Hz, as JSON to the daemon
    python examples/simulated.py file watch.csv               # what a watch's app exports: a minute at once, 25 Hz
    python examples/polar.py --simulate                       # a Polar armband over Bluetooth, 55 Hz

The pulse is 72 bpm (`--bpm`), with noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import socket
import struct
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

RED, AMBIENT = 90_000, 400


def pulse(t: float, bpm: float) -> float:
    """A sensor's count at the time t, s."""
    phase = 2 * math.pi * bpm / 60 * t
    return 52_000 + 900 * math.exp(2 * math.cos(phase) + 0.5 * math.cos(2 * phase + 1) - 2.5) + random.gauss(0, 30)


def paced(fs: float, batch: int, seconds: float) -> Iterator[tuple[int, list[float]]]:
    """The index of the first and the times of `batch` samples, s, once the last of them is measured."""
    start = time.monotonic()
    for index in range(0, round(fs * seconds), batch):
        time.sleep(max(start + (index + batch) / fs - time.monotonic(), 0.0))
        yield index, [(index + k) / fs for k in range(batch)]


def serial(told: argparse.Namespace) -> None:
    """A board on USB that prints a line a sample."""
    board, port = os.openpty()
    tty.setraw(port)
    print(f"ppgstream run --serial {os.ttyname(port)}:115200 --serial-field IR", flush=True)
    os.set_blocking(board, False)
    os.write(board, b"MAX30102 ready\r\n")
    for _, times in paced(100.0, 5, told.seconds):
        text = "".join(f"R={RED},IR={pulse(t, told.bpm):.0f}\r\n" for t in times)
        with suppress(BlockingIOError):  # nobody reads the port: what does not fit is lost, as on a real one
            os.write(board, text.encode())


def wifi(told: argparse.Namespace) -> None:
    """An ESP32 that sends a datagram every half second."""
    host, _, port = told.to.rpartition(":")
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for index, times in paced(50.0, 25, told.seconds):
        text = json.dumps({"fs": 50, "index": index, "ir": [round(pulse(t, told.bpm)) for t in times]})
        with suppress(ConnectionRefusedError):  # no bridge yet
            out.sendto(text.encode(), (host, int(port)))


def muse(told: argparse.Namespace) -> None:
    """A Muse headband as OpenMuse, muselsl or BlueMuse publish it: three channels, of which the second is infrared."""
    import pylsl  # type: ignore[import-not-found, unused-ignore]

    info = pylsl.StreamInfo("Muse-PPG", "PPG", 3, 64.0, "float32", "simulated-muse")
    channels = info.desc().append_child("channels")
    for label in ("Ambient", "IR", "Red"):
        channels.append_child("channel").append_child_value("label", label)
    outlet = pylsl.StreamOutlet(info)
    start = pylsl.local_clock()
    for _, times in paced(64.0, 6, told.seconds):
        outlet.push_chunk([[AMBIENT, pulse(t, told.bpm), RED] for t in times], start + times[-1])


def watch(told: argparse.Namespace) -> None:
    """A watch that sends what it measured in 3 s at once."""
    import zmq

    out = zmq.Context().socket(zmq.PUB)
    out.connect(told.to)
    start = time.time()
    for _, times in paced(25.0, 75, told.seconds):
        green = [round(pulse(t, told.bpm)) for t in times]
        out.send_string(
            json.dumps({"device": "galaxy-watch", "fs": 25, "t_ms": round(1000 * (start + times[0])), "green": green})
        )


def file(told: argparse.Namespace) -> None:
    """A table with a time a row."""
    start = time.time()
    with Path(told.path).open("w") as out:
        print("timestamp_ms,ppg_green", file=out)
        for k in range(60 * 25):
            print(f"{round(1000 * (start + k / 25))},{pulse(k / 25, told.bpm):.0f}", file=out)


class PolarBand:
    """Stands in for bleak's BleakClient, connected to a Polar Verity Sense: its PMD service, PPG at 55 Hz in delta frames."""

    def __init__(self, bpm: float = 72.0) -> None:
        self._bpm = bpm
        self._heard: dict[str, Callable[[object, bytearray], None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PolarBand:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._running is not None:
            self._running.cancel()

    async def start_notify(self, characteristic: str, heard: Callable[[object, bytearray], None]) -> None:
        self._heard[characteristic] = heard

    async def write_gatt_char(self, characteristic: str, data: bytes, response: bool = False) -> None:
        assert data[:2] == b"\x02\x01", "start PPG"
        self._heard[characteristic](None, bytearray(b"\xf0\x02\x01\x00\x00"))
        self._running = asyncio.create_task(self._send())

    async def _send(self) -> None:
        n, start, taken = 18, time.monotonic(), 0
        data = next(heard for name, heard in self._heard.items() if name.startswith("fb005c82"))
        while True:
            taken += n
            await asyncio.sleep(max(start + taken / 55 - time.monotonic(), 0.0))
            times = [(taken - n + k) / 55 for k in range(n)]
            rows = [[*(round(pulse(t, self._bpm)) for _ in range(3)), AMBIENT] for t in times]
            data(None, bytearray(self.frame(rows, round((700_000_000 + taken / 55) * 1e9))))

    @staticmethod
    def frame(rows: list[list[int]], last_ns: int) -> bytes:
        """Four channels: the first row whole, then the differences from row to row, in as many bits as the largest needs."""
        steps = [b - a for row, after in pairwise(rows) for a, b in zip(row, after, strict=True)]
        width = max(abs(step).bit_length() for step in steps) + 1
        bits = sum((step & ((1 << width) - 1)) << (k * width) for k, step in enumerate(steps))
        first = b"".join(value.to_bytes(3, "little", signed=True) for value in rows[0])
        body = bits.to_bytes((width * len(steps) + 7) // 8, "little")
        return struct.pack("<BQB", 1, last_ns, 0x80) + first + bytes([width, len(rows) - 1]) + body


def main() -> None:
    ask = argparse.ArgumentParser(description="stands in for a sensor", epilog="Polar: python examples/polar.py --simulate")
    ask.add_argument("sensor", choices=["serial", "wifi", "muse", "watch", "file"])
    ask.add_argument("path", nargs="?", default="watch.csv", help="of `file`")
    ask.add_argument("--to", help="of `wifi`: ADDRESS:PORT of the bridge; of `watch`: the daemon's input")
    ask.add_argument("--bpm", type=float, default=72.0)
    ask.add_argument("--seconds", type=float, default=86_400.0)
    told = ask.parse_args()
    random.seed(7)  # the same noise each time
    told.to = told.to or ("127.0.0.1:5610" if told.sensor == "wifi" else "tcp://127.0.0.1:5600")
    {"serial": serial, "wifi": wifi, "muse": muse, "watch": watch, "file": file}[told.sensor](told)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
