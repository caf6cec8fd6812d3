"""From a sensor's UDP datagrams (an ESP32 on Wi-Fi, say) to the daemon on this host. Needs pyzmq and nothing of ours.

    python examples/udp_bridge.py --listen 192.168.1.10:5610 --from 192.168.1.23

Each datagram is a JSON message (docs/sensors.md), {"fs": 100, "ir": [512, 514], "index": 200}, and becomes a message of the
stream that `--stream` names. Anybody on the same network can send datagrams in another's name, and read them: only the address
that `--from` names is heard, no more than `--most` a second are passed on, and what they hold is nothing but samples. Do not use
it on a network that you do not trust.
"""

from __future__ import annotations

import argparse
import socket
import time

import zmq

LARGEST = 8192  # bytes of a datagram


def main() -> None:
    ask = argparse.ArgumentParser(description="UDP datagrams of one sensor to a ppgstream daemon on this host")
    ask.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="where datagrams come to; an address of this host")
    ask.add_argument("--from", dest="sender", required=True, metavar="ADDRESS", help="whose datagrams are taken")
    ask.add_argument("--to", default="tcp://127.0.0.1:5600", metavar="ENDPOINT", help="the daemon's input")
    ask.add_argument("--stream", default="udp", metavar="NAME", help="the stream's name")
    ask.add_argument("--most", type=int, default=100, metavar="N", help="datagrams a second that are passed on")
    told = ask.parse_args()
    address, _, port = told.listen.rpartition(":")
    incoming = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    incoming.bind((address, int(port)))
    outgoing = zmq.Context().socket(zmq.PUB)
    outgoing.connect(told.to)
    print(f"listening at {address}:{incoming.getsockname()[1]} for {told.sender}", flush=True)
    second, passed, dropped = 0.0, 0, 0
    while True:
        body, (sender, _) = incoming.recvfrom(LARGEST + 1)
        if time.monotonic() - second >= 1.0:
            if dropped:
                print(f"{dropped} datagrams dropped: of another sender, too long, or too many", flush=True)
            second, passed, dropped = time.monotonic(), 0, 0
        if sender != told.sender or len(body) > LARGEST or passed >= told.most:
            dropped += 1
            continue
        passed += 1
        outgoing.send_multipart([told.stream.encode(), body])


if __name__ == "__main__":
    main()
