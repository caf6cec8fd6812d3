"""Settings: the file says what the code does, and what it does not know it refuses by name."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from ppgstream.config import Config, load
from ppgstream.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config.toml"


def test_the_shipped_file_says_every_setting_with_its_default() -> None:
    assert load(SHIPPED) == Config()
    tree = tomllib.loads(SHIPPED.read_text())
    assert tree == msgspec.to_builtins(Config())  # the same keys and values, none left out


def test_every_setting_of_the_shipped_file_says_why() -> None:
    bare = [line for line in SHIPPED.read_text().splitlines() if "=" in line and "#" not in line]
    assert bare == []


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[in]\nendpoint = "ipc:///tmp/a"\n[out]\nendpoint = "ipc:///tmp/b"\n')
    found = load(path, in__endpoint="ipc:///tmp/c", out__endpoint=None)
    assert (found.in_.endpoint, found.out.endpoint, found.windows.hop) == ("ipc:///tmp/c", "ipc:///tmp/b", 50)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[out]\nhwm = 3", "unknown setting out.hwm"),
        ("[output]\ndtype = 'f4'", "unknown setting output"),
        ("colour = 1", "unknown setting colour"),
        ("[model]\nthreads = 'x'", "model.threads: .*'x'"),
        ("[model]\nthreads = 0", "model.threads: .*0"),
        ("[windows]\nhop = 2.5", "windows.hop: .*2.5"),
        ("[windows]\noverlap = 'kaiser'", "windows.overlap: .*kaiser"),
        ("[in]\nformat = 'xml'", "in.format: .*xml"),
        ("[in]\nfs = 5000.0", "in.fs: .*5000"),
        ("[in]\ndefault_stream = 'a b'", "in.default_stream"),
        ("[in", "not TOML"),
        ("[in]\nendpoint = 'tcp://0.0.0.0:5600'", "in.endpoint: .*0.0.0.0.*loopback"),
        ("[in]\nendpoint = 'tcp://*:5600'", "in.endpoint: .*loopback"),
        ("[out]\nendpoint = 'tcp://192.168.0.7:5600'", "out.endpoint: .*loopback"),
        ("[status]\nendpoint = 'tcp://example.org:5600'", "status.endpoint: .*loopback"),
        ("[out]\nendpoint = 'tcp://127.0.0.1'", "out.endpoint"),
        ("[out]\nendpoint = 'tcp://127.0.0.1:99999'", "port"),
        ("[out]\nendpoint = 'udp://127.0.0.1:5600'", "out.endpoint"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:5600", "tcp://127.9.9.9:*", "tcp://[::1]:5600", "tcp://localhost:5600", "ipc:///tmp/x"]
)
def test_loopback_and_ipc_are_served(endpoint: str) -> None:
    assert load(SHIPPED, in__endpoint=endpoint).in_.endpoint == endpoint


def test_a_file_that_is_not_there_is_an_error_only_when_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == Config()
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "c.toml")
