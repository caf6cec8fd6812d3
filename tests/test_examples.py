"""The programs in examples/: each way of docs/sensors.md with a simulated sensor, to a daemon that tells its heart rate."""

from __future__ import annotations

import importlib.util
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import zmq
from faults.daemon import PATIENCE_S, until

from ppgstream.live.receiver import Receiver

EXAMPLES = Path(__file__).parent.parent / "examples"
BPM = 72.0


def example(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]


@pytest.fixture(scope="module")
def programs() -> Iterator[tuple[ModuleType, ModuleType]]:
    """`simulated` and `polar` as modules."""
    sys.path.insert(0, str(EXAMPLES))
    import polar  # type: ignore[import-not-found]
    import simulated  # type: ignore[import-not-found]

    yield simulated, polar
    sys.path.remove(str(EXAMPLES))


class Running:
    """A daemon, and programs beside it, all of which are ended."""

    def __init__(self, folder: Path) -> None:
        self.ends = {name: f"ipc://{folder / name}" for name in ("in", "out", "status")}
        self._folder, self._all = folder, []  # type: tuple[Path, list[subprocess.Popen[str]]]

    def program(self, command: list[str]) -> subprocess.Popen[str]:
        self._all.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self._folder))
        return self._all[-1]

    def line(self, program: subprocess.Popen[str], pattern: str) -> str:
        """What the pattern's group finds in a line that the program prints."""
        assert program.stdout is not None
        out = program.stdout

        def found() -> str | None:
            if not select.select([out], [], [], 0.05)[0]:
                return None
            text = out.readline()
            there = re.search(pattern, text)
            assert text or there, f"{program.args} ended with {program.wait(5)}"
            return None if there is None else there[0 if not there.groups() else 1]

        return str(until(found, pattern))

    def daemon(self, *options: str) -> Receiver:
        """What the daemon publishes."""
        sockets = [part for name, end in self.ends.items() for part in (f"--{name}", end)]
        receiver = Receiver(self.ends["out"])
        process = self.program([sys.executable, "-m", "ppgstream", "run", "--checkpoint", "fast", *sockets, *options])
        self.line(process, "ready")
        return receiver

    def close(self) -> None:
        for program in self._all:
            program.kill()
            program.wait()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    yield found
    found.close()


def muse_is_found() -> bool:
    """Whether this machine lets one LSL stream find another."""
    if not importlib.util.find_spec("pylsl"):
        return False
    import pylsl

    return bool(pylsl.resolve_byprop("name", "Muse-PPG", 1, 15.0))


RATES = {"esp32": 50.0, "galaxy-watch": 25.0, "polar": 55.0, "Muse-PPG": 64.0, "usb": 100.0}  # of each stream, Hz


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[set[float], list[float]]]]:
    """The rates of samples and of the heart that a daemon tells of each simulated sensor, all of which run at once."""
    running = Running(tmp_path_factory.mktemp("sensors"))
    try:
        options = []
        board = running.program(example("simulated", "serial")) if importlib.util.find_spec("serial") else None
        if board is not None:
            options += running.line(board, r"ppgstream run (--serial \S+ --serial-field IR)").split()
        if importlib.util.find_spec("pylsl"):
            running.program(example("simulated", "muse"))
            options += ["--lsl-in", "source_id='simulated-muse'"]
        receiver = running.daemon(*options)
        here = ["--listen", "127.0.0.1:0", "--from", "127.0.0.1", "--to", running.ends["in"], "--stream", "esp32"]
        bridge = running.program(example("udp_bridge", *here))
        running.program(example("simulated", "wifi", "--to", running.line(bridge, r"at (127\.0\.0\.1:\d+) for")))
        running.program(example("simulated", "watch", "--to", running.ends["in"]))
        running.program(example("polar", "--simulate", "--to", running.ends["in"]))
        found: dict[str, tuple[set[float], list[float]]] = {}
        usb = options[1].rpartition("/")[2].partition(":")[0] if board is not None else ""
        missing = ({"usb"} if board is None else set()) | (set() if muse_is_found() else {"Muse-PPG"})
        wanted = set(RATES) - missing

        def enough() -> bool:
            for chunk in receiver.poll(0.05):
                fs, bpm = found.setdefault("usb" if chunk.stream == usb else chunk.stream, (set(), []))
                fs.add(chunk.fs)
                if chunk.beats is not None and chunk.beats.bpm_confidence > 0.9:
                    bpm.append(float(chunk.beats.bpm))
            return all(len(found.get(stream, ((), ()))[1]) > 2 for stream in wanted)

        until(enough, "heart rates")
        receiver.close()
        yield found
    finally:
        running.close()


@pytest.mark.xdist_group("sensors")
@pytest.mark.parametrize("stream", RATES)
def test_a_heart_rate_is_told_of_each_sensor(stream: str, heard: dict[str, tuple[set[float], list[float]]]) -> None:
    if stream not in heard:
        pytest.skip("its package is not installed, or its network is closed here")
    (fs,), rates = heard[stream]
    assert fs == pytest.approx(RATES[stream], rel=0.01 if stream == "usb" else 0.001)  # the rate of lines is measured by arrival
    assert len(rates) > 2
    assert all(abs(rate - BPM) < 1.5 for rate in rates)


def test_a_file_of_a_watch(tmp_path: Path) -> None:
    subprocess.run(example("simulated", "file", str(tmp_path / "watch.csv")), check=True)
    command = [sys.executable, "-m", "ppgstream", "denoise", "watch.csv", "-o", "clean.csv", "--checkpoint", "fast"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "25 Hz" in done.stderr
    raw = np.loadtxt(tmp_path / "watch.csv", delimiter=",", skiprows=1)
    clean = np.genfromtxt(tmp_path / "clean.csv", delimiter=",", names=True)
    assert len(clean) == len(raw) == 60 * 25
    assert np.corrcoef(clean["value"], raw[:, 1])[0, 1] > 0.95


def test_frames_of_an_armband_are_read_as_they_were_written(programs: tuple[ModuleType, ModuleType]) -> None:
    simulated, polar = programs
    rng = np.random.default_rng(5)
    for spread in (0, 1, 200, 1_000_000):
        rows = (50_000 + rng.integers(-spread, spread + 1, (18, 4))).tolist()
        assert polar.rows_of(simulated.PolarBand.frame(rows, 123_456_789)) == (123_456_789, rows)
    whole = b"\x01" + (77).to_bytes(8, "little") + b"\x00"
    # Of the armband maker's own tests: three bytes each, little-endian, with a sign.
    whole += bytes([1, 2, 3, 4, 5, 6, 0xFF, 0xFF, 0x7F, 0, 0, 0]) + b"\xff" * 12
    assert polar.rows_of(whole) == (77, [[197_121, 394_500, 8_388_607, 0], [-1, -1, -1, -1]])
    for wrong in (b"", b"\x02" + bytes(12), b"\x01" + bytes(8) + b"\x07"):
        with pytest.raises(ValueError, match=r"."):
            polar.rows_of(wrong)


def test_the_udp_bridge_passes_one_sender_s_datagrams_on_and_no_more_than_it_is_told(running: Running) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    daemon = context.socket(zmq.SUB)
    daemon.bind(running.ends["in"])
    daemon.subscribe(b"")
    arguments = [
        "--listen",
        "127.0.0.1:0",
        "--from",
        "127.0.0.1",
        "--to",
        running.ends["in"],
        "--stream",
        "esp32",
        "--most",
        "20",
    ]
    bridge = running.program(example("udp_bridge", *arguments))
    sensor, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    other.bind(("127.0.0.2", 0))
    there = ("127.0.0.1", int(running.line(bridge, r"at 127\.0\.0\.1:(\d+) for")))
    body = json.dumps({"fs": 100, "ir": [1, 2]}).encode()
    try:
        got: list[list[bytes]] = []
        deadline = time.monotonic() + PATIENCE_S
        while not got and time.monotonic() < deadline:  # until the bridge is connected
            other.sendto(b'{"ir": 666}', there)
            sensor.sendto(body, there)
            if daemon.poll(100):
                got.append(daemon.recv_multipart())
        for _ in range(300):
            sensor.sendto(body, there)
        sensor.sendto(b"x" * 9000, there)
        while daemon.poll(500):
            got.append(daemon.recv_multipart())
        assert {tuple(message) for message in got} == {(b"esp32", body)}
        assert len(got) <= 60  # three seconds' worth
    finally:
        sensor.close()
        other.close()
        context.destroy(linger=0)


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    import nbclient
    import nbformat

    book = nbformat.read(Path(__file__).parents[1] / "examples" / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(book, timeout=150, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(out.get("text", "") for cell in book.cells if cell.cell_type == "code" for out in cell.outputs)
    rates = dict(re.findall(r"^(\S.*?) {2,}([0-9.]+) bpm$", shown, re.MULTILINE))
    assert abs(float(rates["ppgstream"]) - 75) < 3
    assert abs(float(rates["NeuroKit2, denoised"]) - 75) < 5
    trusted, elsewhere = map(float, re.search(r"pulse: ([0-9.]+) where trusted, ([0-9.]+) elsewhere", shown).groups())  # type: ignore[union-attr]
    assert trusted < elsewhere
    pictures = [
        out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs if "image/png" in out.get("data", {})
    ]
    assert pictures
