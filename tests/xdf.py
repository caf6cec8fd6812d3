"""Writes LSL streams to an XDF file, as LabRecorder does (github.com/sccn/xdf, "Specifications"): header, samples, offsets of the
clock, footer of each stream."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import Any

HEADER, STREAM, SAMPLES, OFFSET, FOOTER = 1, 2, 3, 4, 6
FORMATS = {1: "f", 2: "d", 4: "i", 5: "h", 6: "b", 7: "q"}  # of LSL's channels


class Recorder:
    """Records inlets into `path`. Call `pull` often, and `close` at the end."""

    def __init__(self, path: Path, inlets: list[Any]) -> None:
        self._file = path.open("wb")
        self._file.write(b"XDF:")
        self._chunk(HEADER, b'<?xml version="1.0"?><info><version>1.0</version></info>')
        self._inlets = inlets
        self._seen = [(0.0, 0.0, 0) for _ in inlets]  # the first and last stamp, and the number of samples
        self._formats = []
        for number, inlet in enumerate(inlets, 1):
            info = inlet.info(5.0)
            self._formats.append(f"<{info.channel_count()}{FORMATS[info.channel_format()]}")
            self._chunk(STREAM, struct.pack("<I", number) + info.as_xml().encode())
            self._offset(number)

    def pull(self) -> None:
        """Write what has come."""
        for number, (inlet, form) in enumerate(zip(self._inlets, self._formats, strict=True), 1):
            rows, stamps = inlet.pull_chunk(timeout=0.0, max_samples=4096)
            if stamps:
                body = b"".join(
                    b"\x08" + struct.pack("<d", t) + struct.pack(form, *row) for row, t in zip(rows, stamps, strict=True)
                )
                self._chunk(SAMPLES, struct.pack("<IBI", number, 4, len(stamps)) + body)
                first, _, n = self._seen[number - 1]
                self._seen[number - 1] = (first if n else stamps[0], stamps[-1], n + len(stamps))

    def close(self) -> None:
        """Write the footers."""
        for number, (first, last, n) in enumerate(self._seen, 1):
            self._offset(number)
            text = (
                f'<?xml version="1.0"?><info><first_timestamp>{first}</first_timestamp><last_timestamp>{last}</last_timestamp>'
                f"<sample_count>{n}</sample_count></info>"
            )
            self._chunk(FOOTER, struct.pack("<I", number) + text.encode())
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _offset(self, number: int) -> None:
        import pylsl

        self._chunk(OFFSET, struct.pack("<Idd", number, pylsl.local_clock(), self._inlets[number - 1].time_correction(5.0)))

    def _chunk(self, tag: int, content: bytes) -> None:
        self._file.write(b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content)
