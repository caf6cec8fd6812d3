"""The command as a user or a script meets it: subprocesses, pipes, signals, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import typer.core
import typer.main
from numpy.typing import NDArray
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as to_bytes
from typer.testing import CliRunner
from waiting import PATIENCE_S, until

from ppgstream import __version__, binaries
from ppgstream.cli.app import app
from ppgstream.files.recording import CSV_HEAD
from ppgstream.model.checkpoint import BUNDLED
from ppgstream.model.folder import DECIDES, identity

LIGHT = ("--checkpoint", "lmmse")  # for what is no matter of the model: needs no TensorFlow
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith("PPGSTREAM")} | {"PYTHONUNBUFFERED": "", "COLUMNS": "200"}
Float64 = NDArray[np.float64]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "ppgstream", *map(str, args)]


def ppgstream(cwd: Path, *args: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run to the end. Nothing is on stdin unless given."""
    return subprocess.run(
        command(*args),
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=ENVIRONMENT,
        check=False,
    )


@dataclass
class Running:
    """A command at work. What it writes to stdout and stderr is collected, line by line."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)

    def collect(self, pipe: IO[str], lines: list[str]) -> None:
        reader = threading.Thread(target=self._read, args=(pipe, lines), daemon=True)
        reader.start()
        self._readers.append(reader)

    @staticmethod
    def _read(pipe: IO[str], lines: list[str]) -> None:
        for line in pipe:
            lines.append(line.rstrip("\n"))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts commands that are killed, if need be, when the test is over."""
    started: list[Running] = []

    def go(*args: object, stdin: bool = False) -> Running:
        started.append(_start(tmp_path, *args, stdin=stdin))
        return started[-1]

    yield go
    _kill(started)


def _start(cwd: Path, *args: object, stdin: bool = False) -> Running:
    process = subprocess.Popen(
        command(*args),
        cwd=cwd,
        stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    running = Running(process)
    assert process.stdout is not None
    assert process.stderr is not None
    running.collect(process.stdout, running.out)
    running.collect(process.stderr, running.err)
    return running


def _kill(started: list[Running]) -> None:
    for running in started:
        running.process.kill()
        running.wait()
        for pipe in (running.process.stdin, running.process.stdout, running.process.stderr):
            if pipe is not None:
                pipe.close()


def wave(n: int, seed: int = 1) -> Float64:
    rng = np.random.default_rng(seed)
    return np.sin(np.arange(n) * 2 * np.pi * 1.2 / 125) + 0.2 * rng.standard_normal(n)


def lines(x: Float64) -> str:
    return "".join(f"{v!r}\n" for v in x.tolist())


# ---- errors: one line, and an exit code -----------------------------------------------------------------------------


def fails(result: subprocess.CompletedProcess[str], code: int, *says: str, out: str = "") -> None:
    assert result.returncode == code, result.stderr
    assert result.stdout == out
    told = result.stderr.splitlines()
    assert len(told) == 1, result.stderr
    assert told[0].startswith("ppgstream: ")
    assert told[0].isprintable()
    for text in says:
        assert text in told[0]


FILES = {
    "words.txt": b"hello\nworld\n",
    "empty.txt": b"",
    "bad.txt": lines(wave(300)).encode() + b"oops \x1b[2J\n" + lines(wave(10)).encode(),
    "table.csv": b"t,ppg,acc\n1,2,9\n3,4,9\n",
    "unknown.toml": b"[in]\nendpiont = 'tcp://127.0.0.1:5600'\n",
    "section.toml": b"in = 5\n",
    "value.toml": b"[windows]\nhop = -1\n",
    "broken.toml": b"[in\n",
    "public.toml": b"[status]\nendpoint = 'tcp://192.168.0.1:5602'\n",
}

ERRORS = {
    "a setting that is unknown": (78, ["run", "--config", "unknown.toml"], ["unknown.toml", "in.endpiont"]),
    "a section that is none": (78, ["run", "--config", "section.toml", "--in", "tcp://127.0.0.1:*"], ["section.toml", "in"]),
    "a value out of range": (78, ["run", "--config", "value.toml"], ["value.toml", "windows.hop", "-1"]),
    "settings that are no TOML": (78, ["run", "--config", "broken.toml"], ["broken.toml"]),
    "settings that are not there": (78, ["run", "--config", "none.toml"], ["none.toml"]),
    "an input open to the world": (78, ["run", "--in", "tcp://0.0.0.0:5600"], ["in.endpoint", "0.0.0.0"]),
    "an output open to the world": (78, ["run", "--out", "tcp://*:5601"], ["out.endpoint", "tcp://*:5601"]),
    "a status open to the world": (78, ["run", "--config", "public.toml"], ["status.endpoint", "192.168.0.1"]),
    "an endpoint that is none": (78, ["run", "--in", "udp://127.0.0.1:5600"], ["in.endpoint", "udp"]),
    "no checkpoint": (78, ["run", "--checkpoint", "nowhere"], ["nowhere"]),
    "no checkpoint, seen by denoise": (78, ["denoise", "bad.csv", "--fs", "125", "--checkpoint", "nowhere"], ["nowhere"]),
    "a Saver prefix without its index": (78, ["checkpoint", "show", "model.ckpt-9"], ["model.ckpt-9"]),
    "a folder that holds no checkpoint": (78, ["checkpoint", "show", "."], ["no checkpoint here"]),
    "words only": (65, ["denoise", "words.txt"], ["words.txt", "no valid sample", "'hello'"]),
    "an empty file": (65, ["denoise", "empty.txt"], ["empty.txt", "no valid sample"]),
    "a bad line under --strict": (65, ["denoise", "bad.txt", "--strict"], ["line 301", r"\x1b[2J"]),
    "a file that is missing": (69, ["denoise", "missing.txt"], ["missing.txt", "No such file"]),
    "a folder for a file": (2, ["denoise", "."], ["a folder of recordings", "-o DIR/"]),
    "a table without a choice": (2, ["denoise", "table.csv"], ["--column", "t, ppg, acc"]),
    "a scale that is none": (2, ["denoise", "bad.txt", "--scale", "grams"], ["grams"]),
    "a file that states no rate": (2, ["denoise", "bad.txt"], ["bad.txt", "states no sampling rate: say --fs"]),
    "a rate to trust that is none": (2, ["denoise", "bad.txt", "--trust-fs"], ["--trust-fs"]),
    "a rate to trust that is none, to replay": (2, ["replay", "bad.txt", "--trust-fs"], ["--trust-fs"]),
    "a rate to trust without recordings": (2, ["evaluate", "default", "--trust-fs"], ["--recordings", "--trust-fs"]),
    "a rate to trust without recordings to train on": (
        2,
        ["train", "dae", "--synthetic", "--trust-fs"],
        ["--recordings", "--trust-fs"],
    ),
    "an empty pipe": (65, ["denoise", "-", "--fs", "250"], ["stdin", "no valid sample"]),
    "lines into an npy": (2, ["denoise", "-", "-o", "x.npy"], ["npy"]),
    "an output folder that is missing": (74, ["denoise", "bad.txt", "-o", "no/where.txt"], ["no/where.txt"]),
    "an output that is a folder": (74, ["denoise", "bad.txt", "-o", "bad.txt/x/"], ["cannot write"]),
    "an output for the lines of a pipe": (74, ["denoise", "-", "-o", "no/where.txt"], ["no/where.txt"]),
    "nobody listening": (
        69,
        ["replay", "bad.csv", "--fs", "125", "--wait", "1", "--to", "tcp://127.0.0.1:9"],
        ["tcp://127.0.0.1:9", "nobody listens"],
    ),
    "nothing to replay": (69, ["replay", "missing.txt"], ["missing.txt"]),
    "nothing in the part to replay": (65, ["replay", "bad.csv", "--fs", "125", "--from", "60"], ["bad.csv", "60"]),
    "a speed that is none": (2, ["replay", "bad.csv", "--speed", "fast"], ["fast"]),
    "an outage that is none": (2, ["replay", "bad.csv", "--outage", "5"], ["--outage '5'"]),
    "a live pipe at another speed": (2, ["replay", "-", "--speed", "max"], ["live pipe"]),
    "an endpoint to replay to that is none": (78, ["replay", "bad.csv", "--fs", "125", "--to", "nonsense"], ["nonsense"]),
    "a page and a stream": (2, ["monitor", "--web", "0", "--stream", "a"], ["--web"]),
    "a pipe and a stream": (2, ["monitor", "--stream", "a"], ["--stream", "--json"]),
    "no daemon to monitor": (
        69,
        ["monitor", "--once", "--json", "--status", "tcp://127.0.0.1:9"],
        ["tcp://127.0.0.1:9", "no daemon"],
    ),
    "no daemon to tap": (69, ["tap", "--wait", "0.5", "--format", "values", "--from", "tcp://127.0.0.1:9"], ["nothing came"]),
    "a format of the tap that is none": (2, ["tap", "--format", "xml"], ["xml", "ndjson"]),
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the errors are about."""
    folder = tmp_path_factory.mktemp("desk")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "bad.csv").write_text(lines(wave(300)))
    return folder


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_is_one_line_and_an_exit_code(what: str, desk: Path) -> None:
    code, args, says = ERRORS[what]
    fails(ppgstream(desk, *args), code, *says)


@pytest.mark.parametrize(
    "args",
    [
        *(["--fs", fs] for fs in ("0", "-5", "nan", "inf")),
        *([flag, value] for flag in ("--from", "--until") for value in ("inf", "nan")),
    ],
    ids=" ".join,
)
def test_a_number_that_replay_cannot_use_is_no_traceback(args: list[str], desk: Path) -> None:
    result = ppgstream(desk, "replay", "bad.csv", "--fs", "125", "--wait", "0.1", "--to", "tcp://127.0.0.1:9", *args)
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode in (2, 65, 69)


@pytest.mark.parametrize(
    "args",
    [
        ["replay", "bad.csv", "--fs", "125", "--bind", "--wait", "0.1", "--to", "tcp://0.0.0.0:*"],
        ["replay", "bad.csv", "--fs", "125", "--wait", "0.1", "--to", "tcp://192.0.2.1:5600"],
        ["tap", "--wait", "0.1", "--format", "values", "--from", "tcp://192.0.2.1:5601"],
        ["monitor", "--once", "--status", "tcp://192.0.2.1:5602"],
    ],
    ids=lambda args: f"{args[0]} {args[-1]}",
)
def test_no_command_binds_or_connects_beyond_loopback(args: list[str], desk: Path) -> None:
    fails(ppgstream(desk, *args), 78, args[-1])


def test_a_config_toml_in_the_working_folder_is_read_and_flags_override_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[in]\nendpoint = 'tcp://10.0.0.1:5600'\n[model]\ncheckpoint = 'from-file'\n")
    fails(ppgstream(tmp_path, "run"), 78, "10.0.0.1")
    fails(ppgstream(tmp_path, "run", "--in", "tcp://127.0.0.1:*"), 78, "from-file")
    fails(ppgstream(tmp_path, "run", "--in", "tcp://127.0.0.1:*", "--checkpoint", "from-flag"), 78, "from-flag")


@pytest.mark.parametrize("name", ["in", "out", "status"])
def test_a_port_in_use_is_named_with_its_setting(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        endpoints = {"in": "tcp://127.0.0.1:*", "out": "tcp://127.0.0.1:*", "status": "tcp://127.0.0.1:*"} | {name: taken}
        result = ppgstream(tmp_path, "run", *(a for key, value in endpoints.items() for a in (f"--{key}", value)))
    fails(result, 69, f"{name}.endpoint", taken, "in use")


def every_command() -> list[tuple[str, typer.core.TyperCommand]]:
    """Each command with its words, as the help is asked for."""
    root = typer.main.get_command(app)
    found = []
    for name, one in root.commands.items():  # type: ignore[attr-defined]
        found += [(f"{name} {n}", c) for n, c in one.commands.items()] if hasattr(one, "commands") else [(name, one)]
    return found


@pytest.mark.parametrize(("words", "command"), every_command(), ids=lambda one: one if isinstance(one, str) else "")
def test_the_help_of_each_option_says_its_default_and_its_type_in_plain_words(
    words: str, command: typer.core.TyperCommand
) -> None:
    told = " ".join(
        CliRunner().invoke(app, [*words.split(), "--help"], env={"COLUMNS": "300"}).stdout.replace("\u2502", " ").split()
    )
    assert not re.search(r"<\w+>|\{\w+\}|\[\[", told)
    assert re.match(rf"Usage: \w+ {words} \[OPTIONS\]", told)
    for param in command.params:
        option = param.opts[0]
        assert param.help, option
        if param.param_type_name == "argument":
            assert param.metavar, f"{words}: {option}"
            assert param.required or "(default: " in param.help, f"{words}: {option}"
        elif not param.is_flag and param.default not in (None, [], ()):
            row = told[told.index(f" {option} ") :]
            default = param.default if isinstance(param.default, str) else str(param.default)
            assert re.search(r"\[default: [^]]+\]|\(default: [^)]+\)", row), f"{words}: {option}"
            assert default in row, f"{words}: {option} does not say {default}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_commands(shell: str, tmp_path: Path) -> None:
    words = {"bash": {"COMP_WORDS": "ppgstream de", "COMP_CWORD": "1"}}.get(shell, {})
    words |= {"_TYPER_COMPLETE_ARGS": "ppgstream de", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    program = str(Path(sys.executable).with_name("ppgstream"))
    asked = {"_PPGSTREAM_COMPLETE": f"complete_{shell}"} | words
    done = subprocess.run([program], cwd=tmp_path, env=ENVIRONMENT | asked, capture_output=True, text=True, check=False)
    assert "denoise" in done.stdout
    assert "replay" not in done.stdout


def test_help_and_version_go_to_stdout_and_name_every_command(tmp_path: Path) -> None:
    told = ppgstream(tmp_path, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    for name in ("demo", "run", "replay", "monitor", "denoise", "tap", "train", "checkpoint"):
        assert f" {name} " in told.stdout
    version = ppgstream(tmp_path, "--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"{__version__} ({binaries.form()})\n", "")


# ---- checkpoints that cannot be used --------------------------------------------------------------------------------


def broken(
    folder: Path, *, manifest: dict[str, Any] | None = None, weights: Callable[[bytes], bytes] | None = None, resign: bool = False
) -> Path:
    """The bundled checkpoint with something wrong. `resign`: the manifest states the sha256 of everything as it is."""
    folder.mkdir()
    told = json.loads((BUNDLED / "checkpoint.json").read_text()) | (manifest or {})
    blob = (BUNDLED / "weights.safetensors").read_bytes()
    blob = weights(blob) if weights else blob
    if resign:
        told["weights_sha256"] = hashlib.sha256(blob).hexdigest()
        told["sha256"] = identity(told["weights_sha256"], {key: told[key] for key in DECIDES if key in told})
    (folder / "checkpoint.json").write_text(json.dumps(told))
    (folder / "weights.safetensors").write_bytes(blob)
    return folder


def _with_nan(blob: bytes) -> bytes:
    tensors = {name: t.copy() for name, t in tensors_of(blob).items()}
    next(iter(tensors.values())).flat[3] = np.nan
    return to_bytes(tensors)


def _without_one(blob: bytes) -> bytes:
    tensors = tensors_of(blob)
    tensors.pop(sorted(tensors)[0])
    return to_bytes(tensors)


def _flipped(blob: bytes) -> bytes:
    return blob[:-100] + bytes([blob[-100] ^ 1]) + blob[-99:]


NETWORK = json.loads((BUNDLED / "checkpoint.json").read_text())["network"]
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "one bit of the weights": ({"weights": _flipped}, "sha256"),
    "half of the weights": ({"weights": lambda b: b[: len(b) // 2]}, "sha256"),
    "weights that are none": ({"weights": lambda _: b"weights!", "resign": True}, "weights.safetensors"),
    "a NaN among the weights": ({"weights": _with_nan, "resign": True}, "not finite"),
    "another format": ({"manifest": {"format": 99}}, "format 2"),
    "no numbers": ({"manifest": {"fs": "fast"}}, "fast"),
    "a tile of none": ({"manifest": {"tile": 0}}, "tile"),
    "a window of none": ({"manifest": {"network": NETWORK | {"window": 0}}, "resign": True}, "window"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_checkpoint_that_cannot_be_used_is_a_configuration_error(what: str, tmp_path: Path) -> None:
    changes, says = BROKEN[what]
    folder = broken(tmp_path / "checkpoint", **changes)
    any_port = [a for name in ("--in", "--out", "--status") for a in (name, "tcp://127.0.0.1:*")]
    fails(ppgstream(tmp_path, "run", "--checkpoint", folder, *any_port), 78, says)


def test_a_checkpoint_without_its_weights_is_a_configuration_error(tmp_path: Path) -> None:
    folder = broken(tmp_path / "checkpoint")
    (folder / "weights.safetensors").unlink()
    fails(ppgstream(tmp_path, "checkpoint", "show", folder), 78, "weights.safetensors")


def test_a_checkpoint_that_lacks_a_tensor_is_refused_when_the_ports_are_open_already(tmp_path: Path) -> None:
    folder = broken(tmp_path / "checkpoint", weights=_without_one, resign=True)
    any_port = [a for name in ("--in", "--out", "--status") for a in (name, "tcp://127.0.0.1:*")]
    fails(ppgstream(tmp_path, "run", "--checkpoint", folder, *any_port), 78, "tensors do not match")


@pytest.mark.parametrize(
    "manifest",
    [
        {"fs": 0},
        {"fs": -125},
        {"fs": float("nan")},
        {"tile": float("inf")},
        {"network": NETWORK | {"window": float("inf")}},
        {"figures": [1]},
    ],
)
def test_a_manifest_with_senseless_values_is_a_configuration_error(manifest: dict[str, Any], tmp_path: Path) -> None:
    folder = broken(tmp_path / "checkpoint", manifest=manifest)
    fails(ppgstream(tmp_path, "checkpoint", "show", folder), 78, str(folder))


def test_checkpoint_show_tells_what_the_bundled_one_is(tmp_path: Path) -> None:
    result = ppgstream(tmp_path, "checkpoint", "show", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    told, manifest = json.loads(result.stdout), json.loads((BUNDLED / "checkpoint.json").read_text())
    for key in ("fs", "tile", "parameters", "sha256", "figures"):
        assert told[key] == manifest[key]
    for key in ("family", "window", "context", "sizes"):
        assert told[key] == manifest["network"][key]
    assert told["id"] == manifest["sha256"][:16]
    assert told["parameters"] == sum(int(np.prod(shape)) for shape in told["tensors"].values())


# ---- denoise --------------------------------------------------------------------------------------------------------


def test_a_recording_shorter_than_a_window_comes_out_as_it_went_in(tmp_path: Path) -> None:
    x = wave(249)
    (tmp_path / "short.txt").write_text(lines(x))
    result = ppgstream(tmp_path, "denoise", "short.txt", "--fs", "125", *LIGHT)
    assert result.returncode == 65
    assert result.stderr.splitlines() == [
        "ppgstream: PPG of short.txt: 125 Hz, 249 samples",
        "ppgstream: short.txt: 0 of 249 samples denoised: shorter than 2 s; they are written as they came",
    ]
    assert result.stdout == "".join(f"{v!s}\n" for v in x.astype(np.float32))


def test_denoise_makes_files_of_the_input_s_shape_in_float32(tmp_path: Path) -> None:
    x = np.stack([wave(1000, 1), wave(1000, 2), np.full(1000, np.nan)])
    x[1, 500] = np.inf
    np.save(tmp_path / "rows.npy", x)
    np.save(tmp_path / "one.npy", x[0].astype(np.float16).astype(">f4"))
    result = ppgstream(tmp_path, "denoise", "rows.npy", "--fs", "125", *LIGHT, "-o", "out.npy")
    understood = "ppgstream: PPG of rows.npy: 125 Hz, 3 recordings of 1,000 samples\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, "", understood)
    rows = np.load(tmp_path / "out.npy")
    assert (rows.shape, rows.dtype) == ((3, 1000), np.float32)
    assert np.isfinite(rows).all()
    assert not rows[2].any()
    assert np.corrcoef(rows[0], np.sin(np.arange(1000) * 2 * np.pi * 1.2 / 125))[0, 1] > 0.9

    result = ppgstream(tmp_path, "denoise", "one.npy", "--fs", "125", *LIGHT, "-o", "out.npz")
    understood = "ppgstream: PPG of one.npy: 125 Hz, 1,000 samples\n"
    assert (result.returncode, result.stdout, result.stderr) == (0, "", understood)
    with np.load(tmp_path / "out.npz") as archive:
        assert set(archive) >= {"denoised", "confidence", "flags"}
        assert {name: (archive[name].shape, str(archive[name].dtype)) for name in ("denoised", "confidence", "flags")} == {
            "denoised": ((1000,), "float32"),
            "confidence": ((1000,), "float32"),
            "flags": ((1000,), "uint16"),
        }
        assert archive["fs"] == 125.0
        assert archive["confidence"].min() >= 0
        assert archive["confidence"].max() <= 1
        np.testing.assert_allclose(archive["denoised"], rows[0], atol=0.02)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npy", "out.npy", "out.npz", "rows.npy"]


def test_bad_lines_of_a_file_keep_their_places_text_is_dropped_and_both_are_told(tmp_path: Path) -> None:
    texts = [f"{v!r}" for v in wave(600).tolist()]
    texts[100], texts[300], texts[301] = "1.2.3\x1b[2J", "nan", "-"
    texts.insert(200, "BPM 72")
    (tmp_path / "x.txt").write_text("\n".join(texts) + "\n")
    result = ppgstream(tmp_path, "denoise", "x.txt", "--fs", "125", *LIGHT, "-o", "y.txt")
    assert result.returncode == 0
    told = result.stderr.splitlines()
    assert told[0] == "ppgstream: PPG of x.txt: 125 Hz, 600 samples, 1 invalid line, 1 line of text dropped"
    assert told[1].startswith("ppgstream: line 101 of x.txt is no number")
    assert "line 201 of x.txt is text: 'BPM 72'" in told[1]
    assert len(told) == 2
    assert told[1].isprintable()
    y = np.array((tmp_path / "y.txt").read_text().split(), float)
    assert len(y) == 600
    assert np.isfinite(y).all()
    assert (y[100], y[300], y[301]) == (y[99], y[299], y[299])


def read_lines(pipe: IO[bytes], at_least: int) -> list[bytes]:
    """At least so many lines off a pipe that stays open."""
    got, deadline = b"", time.monotonic() + PATIENCE_S
    while got.count(b"\n") < at_least:
        ready, _, _ = select.select([pipe], [], [], max(deadline - time.monotonic(), 0))
        block = os.read(pipe.fileno(), 65_536) if ready else b""
        assert block, f"{got.count(bytes([10]))} lines of {at_least} and no more"
        got += block
    return got.split(b"\n")[:-1]


def test_lines_of_a_pipe_come_out_as_they_go_in_and_before_its_end(tmp_path: Path) -> None:
    texts = lines(wave(600)).splitlines()
    texts[50] = "1.2.3"
    texts.insert(70, "Initializing...")
    with subprocess.Popen(
        command("denoise", "-", "--fs", "125", *LIGHT),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdin.write(("\n".join(texts) + "\n").encode())
            process.stdin.flush()
            early = read_lines(process.stdout, 300)
            assert process.poll() is None
            process.stdin.close()
            late = process.stdout.read().split(b"\n")[:-1]
            told = process.stderr.read().decode().splitlines()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    y = np.array([*early, *late], float)
    assert len(y) == 600
    assert np.isfinite(y).all()
    assert y[50] == y[49]
    assert told == [
        "ppgstream: PPG of stdin: 125 Hz",
        "ppgstream: line 51 is no number: '1.2.3'; kept as an invalid sample",
        "ppgstream: line 71 is text: 'Initializing...'; dropped",
        "ppgstream: 1 of 600 lines were no number and kept their place as invalid samples",
        "ppgstream: 1 lines of text were dropped",
    ]


def test_a_pipe_ends_at_a_bad_line_under_strict_and_one_of_words_at_its_end(start: Callable[..., Running]) -> None:
    strict, words = (
        start("denoise", "-", "--fs", "125", *LIGHT, "--strict", stdin=True),
        start("denoise", "-", "--fs", "125", *LIGHT, stdin=True),
    )
    for running, text in ((strict, "1\n2\noops\n3\n"), (words, "hello\n")):
        assert running.process.stdin is not None
        running.process.stdin.write(text)
        running.process.stdin.flush()
    assert strict.wait() == 65
    assert (strict.out, strict.err) == ([], ["ppgstream: PPG of stdin: 125 Hz", "ppgstream: line 3 is text: 'oops'"])
    assert words.process.stdin is not None
    words.process.stdin.close()
    assert words.wait() == 65
    assert words.out == []
    assert all(t.startswith("ppgstream: ") for t in words.err)
    assert words.err[-1] == "ppgstream: stdin: no valid sample (line 1 of stdin is text: 'hello'): --column or --field?"


def test_a_reader_that_leaves_ends_denoise_quietly(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(lines(wave(20_000)))
    with subprocess.Popen(
        command("denoise", "long.txt", "--fs", "125", *LIGHT),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().endswith(b"\n")
            process.stdout.close()
            assert process.stderr.read() == b"ppgstream: PPG of long.txt: 125 Hz, 20,000 samples\n"
            assert process.wait(PATIENCE_S) == 141
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_an_output_that_is_full_is_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            command("checkpoint", "show", "--json"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            env=ENVIRONMENT,
            check=False,
        )
    assert result.returncode == 74
    assert result.stderr.splitlines() == ["ppgstream: cannot write: No space left on device"]


# ---- the daemon and those around it ---------------------------------------------------------------------------------


@dataclass
class Live:
    """A daemon in its own process."""

    running: Running
    endpoints: dict[str, str]

    def snapshot(self, cwd: Path) -> dict[str, Any]:
        result = ppgstream(cwd, "monitor", "--once", "--json", "--status", self.endpoints["status"])
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        found = json.loads(result.stdout)
        assert isinstance(found, dict)
        return found


def _live(cwd: Path, *options: str) -> Live:
    flags = [*options] + [a for name in ("--in", "--out", "--status") for a in (name, "tcp://127.0.0.1:*")]
    running = _start(cwd, "run", *flags)
    ready = until(lambda: running.err or running.process.poll() is not None, "the daemon to be ready") and running.err[0]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO ppgstream: ready: ", ready)
    words = ready.replace(",", " ").split()
    return Live(running, {name: words[words.index(name) + 1] for name in ("in", "out", "status")})


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One daemon for the tests that leave it running."""
    found = _live(tmp_path_factory.mktemp("live"))
    yield found
    _kill([found.running])


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Live]:
    """A daemon of the test's own, to be stopped."""
    found = _live(tmp_path, *LIGHT)
    yield found
    _kill([found.running])


def tapping(live: Live, start: Callable[..., Running], cwd: Path, *args: object) -> Running:
    """A tap whose subscription has reached the daemon."""
    before = live.snapshot(cwd)["subscribers"]
    tap = start("tap", "--from", live.endpoints["out"], *args)
    until(lambda: live.snapshot(cwd)["subscribers"] > before, "the tap's subscription")
    return tap


def replayed(live: Live, name: str, speed: str, *options: str) -> list[str]:
    """The arguments that replay a file of 125 Hz to a daemon."""
    to = ["--to", live.endpoints["in"], "--status", live.endpoints["status"]]
    return ["replay", name, "--fs", "125", "--speed", speed, *options, *to]


def test_what_is_replayed_and_tapped_is_what_denoise_makes_of_the_file(
    live: Live, start: Callable[..., Running], tmp_path: Path
) -> None:
    x = wave(5000)
    np.save(tmp_path / "pulse.npy", x)
    tap = tapping(live, start, tmp_path, "--stream", "pulse", "--format", "values", "--until-end")
    sent = ppgstream(
        tmp_path,
        *replayed(live, "pulse.npy", "max"),
    )
    assert (sent.returncode, sent.stdout) == (0, "")
    told = sent.stderr.splitlines()
    assert told[0] == "ppgstream: PPG of pulse.npy: 125 Hz, 5,000 samples"
    assert told[1].startswith("ppgstream: sent 5,000 samples of 1 stream(s) in ")
    assert tap.wait() == 0
    assert tap.err == [
        "ppgstream: received 5000 samples; lost here 0, gaps before the daemon 0, sessions without END 0, damaged 0"
    ]
    offline = ppgstream(tmp_path, "denoise", "pulse.npy", "--fs", "125", "-o", "out.npy")
    assert (offline.returncode, offline.stdout, offline.stderr) == (0, "", told[0] + "\n")
    y = np.load(tmp_path / "out.npy")
    assert (y.shape, y.dtype) == ((5000,), np.float32)
    assert tap.out == [str(v) for v in y]


def test_seeded_faults_are_accounted_for_by_daemon_and_tap(live: Live, start: Callable[..., Running], tmp_path: Path) -> None:
    np.save(tmp_path / "faulty.npy", wave(20_000))
    tap = tapping(live, start, tmp_path, "--stream", "faulty", "--until-end")
    faults = ["--drop", "0.05", "--dup", "0.05", "--reorder", "0.05", "--outage", "40:3.2", "--seed", "7"]
    sent = ppgstream(
        tmp_path,
        *replayed(live, "faulty.npy", "max", *faults),
    )
    assert sent.returncode == 0
    words = sent.stderr.replace(",", "").split()
    samples, withheld, duplicated = (int(words[words.index(w) + 1]) for w in ("sent", "withheld", "duplicated"))
    assert samples + withheld - duplicated == 20_000
    assert min(withheld, duplicated) > 400
    assert tap.wait() == 0
    assert tap.out[0] == CSV_HEAD
    assert tap.err == [
        f"ppgstream: received {20_000 - withheld} samples; lost here 0, gaps before the daemon {withheld}, sessions without "
        f"END 0, damaged 0"
    ]
    indexes = [int(line.split(",")[2]) for line in tap.out[1:]]
    assert indexes == sorted(set(indexes))
    row = next(r for r in live.snapshot(tmp_path)["streams"] if r["name"] == "faulty")
    assert (row["accepted"], row["gap"], row["duplicates"]) == (20_000 - withheld, withheld, duplicated)


def test_a_live_pipe_is_replayed_line_by_line(live: Live, start: Callable[..., Running], tmp_path: Path) -> None:
    tap = tapping(live, start, tmp_path, "--stream", "belt", "--format", "ndjson", "--until-end")
    x = wave(300)
    replay = start(
        "replay",
        "-",
        "--fs",
        "125",
        "--stream",
        "belt",
        "--to",
        live.endpoints["in"],
        "--status",
        live.endpoints["status"],
        stdin=True,
    )
    assert replay.process.stdin is not None
    replay.process.stdin.write(lines(x) + "1.2.3\n1.5\n")
    replay.process.stdin.flush()
    until(lambda: len(tap.out) >= 50, "the first samples, while the pipe is open")
    replay.process.stdin.close()
    assert replay.wait() == 0
    assert tap.wait() == 0
    every = [json.loads(line) for line in tap.out]
    assert [t["index"] for t in every if "beats" in t] == [250, 302]
    told = [t for t in every if "beats" not in t]
    assert [t["index"] for t in told] == [*range(302), 302]
    assert told[-1]["end"] == "clean"
    assert told[300]["flags"] == ["nonfinite", "low_confidence"]
    assert replay.out == []
    assert "line 301 is no number: '1.2.3'" in replay.err[0]


def test_monitor_tells_the_documented_fields(live: Live, tmp_path: Path) -> None:
    np.save(tmp_path / "seen.npy", wave(1000))
    assert (
        ppgstream(
            tmp_path,
            *replayed(live, "seen.npy", "max", "--copies", "3"),
        ).returncode
        == 0
    )
    until(lambda: live.snapshot(tmp_path)["ledger"]["in_flight"] == 0, "all to be published")
    told = live.snapshot(tmp_path)
    assert set(told) >= {
        *(
            "version",
            "state",
            "pid",
            "uptime_s",
            "cpu_s",
            "max_rss_kb",
            "checkpoint",
            "endpoints",
            "fs",
            "window",
            "hop",
            "delay_s",
        ),
        *(
            "samples_per_s",
            "windows_per_s",
            "lag_ms",
            "ledger",
            "unclean_sessions",
            "messages",
            "subscribers",
            "queues",
            "events",
        ),
        *("last_events", "streams_total", "streams", "traces"),
    }
    ledger = told["ledger"]
    assert ledger["seen"] == ledger["accepted"] + ledger["gap"] + ledger["rejected"]
    assert ledger["accepted"] == sum(ledger[k] for k in ("denoised", "passthrough", "invalid", "shed", "in_flight"))
    assert ledger["unaccounted"] == 0
    assert (told["version"], told["state"], told["pid"]) == (__version__, "running", live.running.process.pid)
    assert (told["fs"], told["window"], told["hop"], told["endpoints"]) == (125.0, 250, 49, live.endpoints)
    assert told["messages"]["malformed"] == 0
    assert told["lag_ms"]["p50"] <= told["lag_ms"]["p99"] <= told["lag_ms"]["max"]
    rows = {r["name"]: r for r in told["streams"]}
    for name in ("seen-0", "seen-1", "seen-2"):
        assert (rows[name]["denoised"], rows[name]["live"]) == (1000, False)
    for name in set(ledger) - {"refused", "unaccounted"}:
        assert ledger[name] == sum(r[name] for r in rows.values())
    drawn = ppgstream(tmp_path, "monitor", "--once", "--status", live.endpoints["status"])
    assert drawn.returncode == 0
    assert "seen-1" in drawn.stdout
    assert "unaccounted 0" in drawn.stdout


def test_a_reader_that_leaves_ends_the_tap_quietly(live: Live, start: Callable[..., Running], tmp_path: Path) -> None:
    np.save(tmp_path / "long.npy", wave(5000))
    before = live.snapshot(tmp_path)["subscribers"]
    with subprocess.Popen(
        command("tap", "--from", live.endpoints["out"]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            until(lambda: live.snapshot(tmp_path)["subscribers"] > before, "the tap's subscription")
            assert process.stdout.readline().decode() == f"{CSV_HEAD}\n"
            process.stdout.close()
            start(
                *replayed(live, "long.npy", "max"),
            )
            assert process.wait(PATIENCE_S) == 141
            assert process.stderr.read() == b""
            # The daemon is shared: a later tap must not see this stream's end.
            until(lambda: ended(live.snapshot(tmp_path), "long"), "the end of the recording")
        finally:
            process.kill()


def ended(snapshot: dict[str, Any], name: str) -> bool:
    """Whether all of a stream has been published, its end included."""
    return any(row["name"] == name and not row["live"] and not row["in_flight"] for row in snapshot["streams"])


def test_a_replay_that_is_terminated_ends_its_streams(live: Live, start: Callable[..., Running], tmp_path: Path) -> None:
    np.save(tmp_path / "loop.npy", wave(1000))
    tap = tapping(live, start, tmp_path, "--format", "ndjson", "--until-end")
    replay = start(
        *replayed(live, "loop.npy", "20", "--loop", "--copies", "3"),
    )
    until(lambda: len(tap.out) > 2000, "samples beyond the first time through")
    replay.signal(signal.SIGTERM)
    assert replay.wait() == 0
    assert tap.wait() == 0
    told = [json.loads(line) for line in tap.out]
    assert sorted((t["stream"], t["end"]) for t in told if "end" in t) == [(f"loop-{k}", "clean") for k in range(3)]
    assert len(replay.err) == 2
    assert replay.err[1].endswith(", stopped before the end")


def test_a_replay_of_many_streams_that_nobody_hears_stops_when_told(start: Callable[..., Running], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", wave(1000))
    replay = start("replay", "x.npy", "--fs", "125", "--copies", "40", "--wait", "600", "--to", "tcp://127.0.0.1:9")
    stop = time.monotonic() + 1.5
    until(lambda: time.monotonic() > stop, "the replay to wait for its subscriber")
    replay.signal(signal.SIGTERM)
    try:
        replay.process.wait(10)
    except subprocess.TimeoutExpired:
        pytest.fail("it does not stop")


def final(line: str) -> dict[str, int]:
    """The numbers of the final ledger line, checked against each other."""
    assert " INFO ppgstream: final: seen " in line
    words = line.translate(str.maketrans("", "", ",;()+=")).split()
    names = ("seen", "gap", "rejected", "denoised", "passthrough", "invalid", "shed", "unaccounted")
    told = {name: int(words[words.index(name) + 1]) for name in names} | {"accepted": int(words[words.index("accepted") + 1])}
    assert told["seen"] == told["accepted"] + told["gap"] + told["rejected"]
    assert told["accepted"] == told["denoised"] + told["passthrough"] + told["invalid"] + told["shed"]
    assert told["unaccounted"] == 0
    return told


def test_a_terminated_daemon_drains_ends_every_stream_and_leaves_with_its_ledger(
    own: Live, start: Callable[..., Running], tmp_path: Path
) -> None:
    np.save(tmp_path / "flow.npy", wave(1000))
    tap = tapping(own, start, tmp_path, "--format", "ndjson", "--until-end")
    start(
        *replayed(own, "flow.npy", "20", "--loop", "--copies", "4"),
    )
    until(lambda: len({json.loads(line)["stream"] for line in list(tap.out)}) == 4, "samples of all four")
    own.running.signal(signal.SIGTERM)
    assert own.running.wait() == 0
    assert own.running.out == []
    assert tap.wait() == 0
    told = [t for t in map(json.loads, tap.out) if "beats" not in t]
    ends = {t["stream"]: t for t in told if "end" in t}
    assert {name: t["end"] for name, t in ends.items()} == {f"flow-{k}": "unclean" for k in range(4)}
    for name, end in ends.items():
        assert [t["index"] for t in told if t["stream"] == name] == [*range(end["index"]), end["index"]]
    ledger = final(own.running.err[-1])
    assert ledger["accepted"] == sum(t["index"] for t in ends.values())
    assert "unclean sessions 4" in own.running.err[-1]
    assert ", lost here 0," in tap.err[0].replace(";", ",")


def test_an_interrupted_daemon_drains_and_says_so_by_its_exit_code(own: Live, tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", wave(320))
    assert (
        ppgstream(
            tmp_path,
            *replayed(own, "some.npy", "max"),
        ).returncode
        == 0
    )
    until(lambda: own.snapshot(tmp_path)["ledger"]["accepted"] == 320, "the samples")
    own.running.signal(signal.SIGINT)
    assert own.running.wait() == 130
    assert len(own.running.err) == 2
    assert final(own.running.err[-1])["denoised"] == 320


def test_an_output_is_written_by_its_suffix_and_any_other_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(lines(wave(600)))
    assert ppgstream(tmp_path, "denoise", "x.txt", "--fs", "125", *LIGHT, "-o", "y.csv", "--plot", "y.svg").returncode == 0
    rows = (tmp_path / "y.csv").read_text().splitlines()
    assert rows[0] == CSV_HEAD
    assert len(rows) == 601
    assert rows[126].split(",")[:4] == ["x", "0" * 16, "125", "1000000000"]
    assert (tmp_path / "y.svg").read_bytes().startswith(b"<?xml")
    for options, named in ((["-o", "y.dat"], "y.dat"), (["--plot", "y.jpeg2"], "y.jpeg2"), (["--plot-from", "1"], "--plot")):
        refused = ppgstream(tmp_path, "denoise", "x.txt", "--fs", "125", *LIGHT, *options)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert named in refused.stderr
        assert not (tmp_path / "y.dat").exists()


def test_a_pipe_without_a_number_in_its_first_second_stops_and_shows_a_line(tmp_path: Path) -> None:
    result = ppgstream(tmp_path, "denoise", "-", "--fs", "125", *LIGHT, stdin="S512\n" * 1000)
    assert result.returncode == 65
    assert "'S512'" in result.stderr
    assert "--field" in result.stderr
