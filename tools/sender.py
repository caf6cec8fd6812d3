"""The least a sensor has to do: copy these ten lines into its script. Needs pyzmq and nothing of ours (docs/wire.md)."""

import math, os, struct, time, zlib, zmq  # noqa: E401, I001 (ten lines)

pub = zmq.Context().socket(zmq.PUB)
pub.connect("tcp://127.0.0.1:5600")
session, index = int.from_bytes(os.urandom(8), "little"), 0
while True:
    time.sleep(0.2)
    x = [math.sin((index + k) / 18) for k in range(25)]  # your sensor's next 25 samples
    body = struct.pack("<25f", *x)
    head = struct.pack("<3s5B2Q2Iq8sI", b"PPG", 1, 1, 1, 0, 0, session, index, len(x), 125_000, time.time_ns(), b"", 0)
    pub.send_multipart([b"wrist", head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body])
    index += len(x)
