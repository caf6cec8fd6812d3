"""From a Polar armband (Verity Sense, OH1) over Bluetooth to the daemon on this host. Needs bleak and pyzmq.

    python examples/polar.py                       # the first armband that is found
    python examples/polar.py --name "Polar Sense 9D4A1B2C" --stream left-arm
    python examples/polar.py --simulate            # without an armband, and without bleak

Samples go out as JSON (docs/sensors.md) with the armband's own times and no rate: it says 55 Hz and sends a little less, so the
daemon measures it. The bytes are those of Polar's "PMD" service (github.com/polarofficial/polar-ble-sdk).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from typing import Any

import zmq

CONTROL = "fb005c81-02e7-f387-1cad-8acd2d8df0c8"
DATA = "fb005c82-02e7-f387-1cad-8acd2d8df0c8"
PPG, RAW, DELTAS = 0x01, 0x00, 0x80  # what a frame holds, and in which form
CHANNELS = 4  # three green ones, and ambient light
START = {  # start, PPG, then settings: rate, Hz (0), resolution in bits (1), channels (4); each with a count of one
    55: b"\x02\x01\x00\x01\x37\x00\x01\x01\x16\x00\x04\x01\x04",
    135: b"\x02\x01\x00\x01\x87\x00\x01\x01\x16\x00\x04\x01\x04",  # OH1
}


def rows_of(frame: bytes) -> tuple[int, list[list[int]]]:
    """The time of the last sample, ns by the armband's clock, and the samples of a PPG frame, a row of channels each."""
    if len(frame) < 10 or frame[0] != PPG:
        raise ValueError(f"no PPG: {frame[:10].hex()}")
    last_ns, form, body = int.from_bytes(frame[1:9], "little"), frame[9], frame[10:]
    size = 3 * CHANNELS
    if form == RAW:
        return last_ns, [_whole(body[at : at + size]) for at in range(0, len(body) - size + 1, size)]
    if form != DELTAS:
        raise ValueError(f"frame of type {form}: not known here")
    rows, at = [_whole(body[:size])], size
    while at + 2 <= len(body):
        width, count = body[at], body[at + 1]
        there = (width * count * CHANNELS + 7) // 8
        bits, at = int.from_bytes(body[at + 2 : at + 2 + there], "little"), at + 2 + there
        for k in range(count):
            steps = [(bits >> (width * (k * CHANNELS + c))) & ((1 << width) - 1) for c in range(CHANNELS)]
            signed = [s - (1 << width) if width and s >> (width - 1) else s for s in steps]
            rows.append([a + b for a, b in zip(rows[-1], signed, strict=True)])
    return last_ns, rows


def _whole(body: bytes) -> list[int]:
    return [int.from_bytes(body[3 * c : 3 * c + 3], "little", signed=True) for c in range(CHANNELS)]


class Sender:
    """Takes frames, and sends their samples to a daemon. A frame says the time of its last sample alone, so the first one only
    says when the second begins."""

    def __init__(self, endpoint: str, stream: str, channel: int) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.connect(endpoint)
        self._stream, self._channel = stream.encode(), channel
        self._last_ns = 0

    def take(self, _: object, frame: bytearray) -> None:
        last_ns, rows = rows_of(bytes(frame))
        before, self._last_ns = self._last_ns, last_ns
        if before:
            first_ns = before + (last_ns - before) // len(rows)
            message = {"t_ns": first_ns, "green": [row[self._channel] for row in rows]}
            self._socket.send_multipart([self._stream, json.dumps(message).encode()])


async def found(name: str | None) -> Any:
    """bleak's client of an armband."""
    from bleak import BleakClient, BleakScanner  # type: ignore[import-not-found, unused-ignore]

    def fits(device: Any, _: object) -> bool:
        return bool(device.name) and (device.name == name if name else device.name.startswith(("Polar Sense", "Polar OH1")))

    device = await BleakScanner.find_device_by_filter(fits, timeout=20.0)
    if device is None:
        raise SystemExit(f"no {name or 'Polar armband'} found in 20 s: is it on, and connected to nothing else?")
    return BleakClient(device)


async def main() -> None:
    ask = argparse.ArgumentParser(description="a Polar armband's PPG to a ppgstream daemon on this host")
    ask.add_argument("--name", help="the armband's Bluetooth name; without it, the first one")
    ask.add_argument("--rate", type=int, choices=sorted(START), default=55, help="Hz: 55 of a Verity Sense, 135 of an OH1")
    ask.add_argument("--channel", type=int, choices=range(CHANNELS), default=0, help="0 to 2: green; 3: ambient light")
    ask.add_argument("--stream", default="polar")
    ask.add_argument("--to", default="tcp://127.0.0.1:5600", metavar="ENDPOINT", help="the daemon's input")
    ask.add_argument("--simulate", action="store_true", help="without an armband")
    told = ask.parse_args()
    if told.simulate:
        from simulated import PolarBand  # type: ignore[import-not-found, unused-ignore]

        client = PolarBand()
    else:
        client = await found(told.name)
    sender = Sender(told.to, told.stream, told.channel)
    answered = asyncio.get_running_loop().create_future()

    def heard(_: object, answer: bytearray) -> None:
        if not answered.done() and answer[:3] == b"\xf0\x02\x01":
            answered.set_result(answer[3])

    async with client:
        await client.start_notify(CONTROL, heard)
        await client.start_notify(DATA, sender.take)
        await client.write_gatt_char(CONTROL, START[told.rate], response=True)
        error = await asyncio.wait_for(answered, 10.0)
        if error:
            raise SystemExit(f"the armband refuses {told.rate} Hz: error {error} of its PMD service")
        print(f"sending as {told.stream!r} to {told.to}", flush=True)
        while getattr(client, "is_connected", True):
            await asyncio.sleep(1.0)
    print("the armband is gone")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
