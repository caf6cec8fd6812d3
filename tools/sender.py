"""The least a sensor has to do: copy these lines into its script. Needs pyzmq and nothing of ours (docs/wire.md)."""

import math, os, struct, sys, time, tomllib, zlib, zmq  # noqa: E401, I001 (as few lines as it takes)
from pathlib import Path

pub = zmq.Context().socket(zmq.PUB)
if "--key" in sys.argv:  # python sender.py --key wrist.key tcp://HOST:5600, for a daemon that asks for a key (SECURITY.md)
    own = tomllib.loads(Path(sys.argv[sys.argv.index("--key") + 1]).read_text())
    pub.curve_serverkey, pub.curve_publickey, pub.curve_secretkey = (own[k].encode() for k in ("server", "public", "secret"))
pub.connect(sys.argv[-1] if sys.argv[-1].startswith("tcp://") else "tcp://127.0.0.1:5600")
time.sleep(0.5)  # what is sent before the connection stands is lost
session, index, start = int.from_bytes(os.urandom(8), "little"), 0, time.time_ns()
for kind in [1] * 300 + [3]:  # a minute of DATA, then an END
    x = [] if kind == 3 else [1000 + math.exp(3 * math.cos((index + k) / 16)) for k in range(25)]  # your sensor's next samples
    time.sleep(max(start + (index + len(x)) * 8_000_000 - time.time_ns(), 0) / 1e9)  # until the last of them is measured
    body, t_ns = struct.pack(f"<{len(x)}f", *x), start + index * 8_000_000  # of the first sample, at 125 Hz
    head = struct.pack("<3s5B2Q2Iq8sI", b"PPG", 1, kind, 1, 0, 0, session, index, len(x), 125_000, t_ns, b"", 0)
    pub.send_multipart([b"wrist", head + struct.pack("<I", zlib.crc32(body, zlib.crc32(head))) + body])
    index += len(x)
