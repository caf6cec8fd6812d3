"""Settings: the shipped file says the defaults, and whatever is wrong is one line that names its key."""

from __future__ import annotations

import ipaddress
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.config import Config, check_endpoint, load
from ppgstream.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "config.toml"
DEFAULTS: dict[str, dict[str, object]] = msgspec.to_builtins(Config())
assert DEFAULTS["streams"].pop("by_name") == {}  # tables of single streams: in the file there are none
KEYS = [(section, key) for section, fields in DEFAULTS.items() for key in fields]


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(path: Path | None, **overrides: str | None) -> str:
    """The one line that loading fails with."""
    with pytest.raises(ConfigError) as told:
        load(path, **overrides)
    line = str(told.value)
    assert line.strip()
    assert line.isprintable(), f"more than one plain line: {line!r}"
    return line


def test_the_shipped_file_says_the_defaults() -> None:
    assert load(SHIPPED) == Config()


def test_the_shipped_file_names_every_field_of_every_section_with_its_default_and_nothing_else() -> None:
    assert len(KEYS) > 25
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert shipped == DEFAULTS
    assert {(s, k): type(v) for s, f in shipped.items() for k, v in f.items()} == {(s, k): type(DEFAULTS[s][k]) for s, k in KEYS}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[streams]\nby_name = 3\n", "unknown setting by_name"),
        ('[streams.wrist]\npolicy = "drop"\n', "streams.wrist: got {'policy': 'drop'}"),
        ("[streams.wrist]\nthreshold = 0.4\n", "policy, one of mark, mask, raw"),
        ('[streams."two words"]\npolicy = "raw"\n', "a stream id is 1 to 64"),
    ],
)
def test_what_a_stream_s_own_table_cannot_say_is_refused(text: str, told: str, tmp_path: Path) -> None:
    assert told in complaint(written(tmp_path, text))


def test_a_stream_s_own_table_is_read_whatever_its_name(tmp_path: Path) -> None:
    found = load(
        written(tmp_path, '[streams]\npolicy = "mask"\n[streams."a.1"]\npolicy = "raw"\n[streams.threshold]\npolicy = "mark"\n')
    )
    assert found.streams.policy == "mask"
    assert {name: own.policy for name, own in found.streams.by_name.items()} == {"a.1": "raw", "threshold": "mark"}


def test_every_setting_of_the_shipped_file_says_why() -> None:
    bare = [line for line in SHIPPED.read_text(encoding="utf-8").splitlines() if "=" in line and "#" not in line]
    assert bare == []


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load() == Config()


def test_a_config_toml_in_the_working_folder_is_read_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("[windows]\nhop = 7\n")
    other = written(tmp_path, "[model]\nthreads = 2\n")
    assert load().windows.hop == 7
    assert (load(other).windows.hop, load(other).model.threads) == (0, 2)


def test_a_file_wins_over_a_default_and_an_override_over_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, '[in]\nendpoint = "tcp://127.0.0.1:1"\nfs = 250\n[out]\nendpoint = "tcp://127.0.0.1:2"\n')
    found = load(path, in__endpoint="ipc://here", out__endpoint=None, model__checkpoint="some/folder")
    assert (found.in_.endpoint, found.in_.fs, found.in_.bind) == ("ipc://here", 250.0, True)
    assert found.out.endpoint == "tcp://127.0.0.1:2"
    assert found.model.checkpoint == "some/folder"
    assert found.status == Config().status


def test_a_value_of_the_wrong_type_is_one_line_that_names_the_file_the_key_and_the_value(tmp_path: Path) -> None:
    for section, key in KEYS:
        wrong = 4711 if key == "sentinels" else [4711]
        path = written(tmp_path, f"[{section}]\n{key} = {wrong}\n")
        line = complaint(path)
        assert line.startswith(f"{path}: {section}.{key}: ")
        assert str(wrong) in line


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("in", "format", '"csv"'),
        ("in", "fs", "9.9"),
        ("in", "fs", "1000.5"),
        ("in", "fs", "nan"),
        ("in", "fs", "inf"),
        ("in", "fs", '"125"'),
        ("in", "bind", "1"),
        ("in", "bind", '"true"'),
        ("in", "raw_dtype", '"i8"'),
        ("in", "default_stream", '""'),
        ("in", "default_stream", '"a b"'),
        ("in", "default_stream", f'"{"a" * 65}"'),
        ("in", "high_water_mark", "0"),
        ("in", "queue_samples", "999"),
        ("in", "queue_samples", "100000001"),
        ("in", "endpoint", "5600"),
        ("out", "dtype", '"i2"'),
        ("out", "high_water_mark", "-1"),
        ("out", "linger_ms", "60001"),
        ("out", "linger_ms", "-1"),
        ("out", "linger_ms", "0.5"),
        ("status", "max_rows", "0"),
        ("status", "max_rows", "100001"),
        ("model", "threads", "-1"),
        ("model", "threads", "257"),
        ("model", "threads", "true"),
        ("model", "max_delay_ms", "-0.1"),
        ("model", "max_delay_ms", "10001"),
        ("windows", "hop", "-1"),
        ("windows", "hop", "2.5"),
        ("windows", "lookahead", "-2"),
        ("windows", "overlap", '"box"'),
        ("streams", "max_streams", "0"),
        ("streams", "max_fill", "-1"),
        ("streams", "max_fill", "1001"),
        ("streams", "hold_samples", "100001"),
        ("streams", "hold_s", "-0.5"),
        ("streams", "silence_s", "86401"),
        ("streams", "idle_s", "nan"),
        ("streams", "threshold", "1.01"),
        ("streams", "threshold", "-0.01"),
        ("overload", "shed_after_ms", "-1"),
        ("overload", "drain_s", "61"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_the_key(tmp_path: Path, section: str, key: str, value: str) -> None:
    assert f"{section}.{key}: " in complaint(written(tmp_path, f"[{section}]\n{key} = {value}\n"))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("in", "fs", "20"),
        ("in", "fs", "1000"),
        ("in", "default_stream", f'"{"a" * 32}"'),
        ("in", "queue_samples", "1000"),
        ("out", "linger_ms", "0"),
        ("model", "threads", "256"),
        ("windows", "lookahead", "-1"),
        ("streams", "threshold", "0"),
        ("streams", "threshold", "1"),
        ("streams", "hold_s", "0"),
        ("overload", "drain_s", "60"),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_taken(tmp_path: Path, section: str, key: str, value: str) -> None:
    loaded = msgspec.to_builtins(load(written(tmp_path, f"[{section}]\n{key} = {value}\n")))
    assert loaded[section][key] == tomllib.loads(f"v = {value}")["v"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[inn]\nfs = 125.0\n", "inn"),
        ("[in_]\nfs = 125.0\n", "in_"),
        ("hop = 50\n", "hop"),
        ("[windows]\nhopp = 50\n", "windows.hopp"),
        ("[streams]\nhop = 50\n", "streams.hop"),
        ('[in]\n"a key" = 1\n', "in.a key"),
    ],
)
def test_an_unknown_section_or_key_is_one_line_that_names_it(tmp_path: Path, text: str, key: str) -> None:
    path = written(tmp_path, text)
    assert complaint(path) == f"{path}: unknown setting {key}"


@pytest.mark.parametrize(("section"), list(DEFAULTS))
def test_a_section_that_is_no_table_is_one_line_that_names_it(tmp_path: Path, section: str) -> None:
    assert f"{section}: " in complaint(written(tmp_path, f"{section} = 4711\n"))


@pytest.mark.parametrize(
    "overrides", [{"in__endpont": "tcp://127.0.0.1:1"}, {"inn__endpoint": "tcp://127.0.0.1:1"}, {"model__threads": "2"}]
)
def test_a_wrong_override_is_one_line_that_names_it(tmp_path: Path, overrides: dict[str, str | None]) -> None:
    (name,) = overrides
    assert name.partition("__")[0] in complaint(written(tmp_path, ""), **overrides)


@pytest.mark.parametrize(
    "content",
    [
        b"hop 50",
        b"[in\n",
        b"\xff\xfe",
        b"[in]\nfs = 1\nfs = 2\n",
        b"[in]\nfs = 125.0\n[in]\n",
        b'[in]\nendpoint = "\n"\n',
        b"\x00",
    ],
)
def test_a_file_that_is_no_toml_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path: Path) -> None:
    assert complaint(tmp_path / "none.toml").startswith(str(tmp_path / "none.toml"))
    assert complaint(tmp_path).startswith(str(tmp_path))


BAD_ENDPOINTS = [
    "tcp://0.0.0.0:5600",
    "tcp://*:5600",
    "tcp://192.168.1.2:5600",
    "tcp://10.0.0.1:5600",
    "tcp://[::]:5600",
    "tcp://[2001:db8::1]:5600",
    "tcp://example.org:5600",
    "tcp://localhost.example.org:5600",
    "tcp://127.0.0.1.example.org:5600",
    "tcp://127.0.0.1@example.org:5600",
    "tcp://10.0.0.1;127.0.0.1:5600",
    "tcp://127.0.0.1;10.0.0.1:5600",
    "tcp://eth0:5600",
    "tcp://2130706433:5600",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:65536",
    "tcp://127.0.0.1:-1",
    "tcp://127.0.0.1:port",
    "tcp://:5600",
    "tcp://",
    "ipc://",
    "udp://127.0.0.1:5600",
    "pgm://127.0.0.1;239.192.1.1:5600",
    "epgm://127.0.0.1;239.192.1.1:5600",
    "inproc://daemon",
    "ws://127.0.0.1:5600",
    "TCP://127.0.0.1:5600",
    "127.0.0.1:5600",
    "",
]


def test_an_endpoint_that_is_not_loopback_or_ipc_is_one_line_that_names_its_key(tmp_path: Path) -> None:
    for number, endpoint in enumerate(BAD_ENDPOINTS):
        section = ("in", "out", "status")[number % 3]
        line = complaint(written(tmp_path, f'[{section}]\nendpoint = "{endpoint}"\n'))
        assert f"{section}.endpoint: " in line
        assert repr(endpoint) in line


def test_an_endpoint_in_an_override_is_held_to_the_same(tmp_path: Path) -> None:
    assert "in.endpoint: " in complaint(written(tmp_path, ""), in__endpoint="tcp://0.0.0.0:5600")


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://127.0.0.1:1", "tcp://127.3.2.1:65535", "tcp://[::1]:5600", "tcp://localhost:5600", "tcp://127.0.0.1:*", "ipc://a"],
)
def test_loopback_and_ipc_endpoints_are_taken(tmp_path: Path, endpoint: str) -> None:
    assert load(written(tmp_path, f'[out]\nendpoint = "{endpoint}"\n')).out.endpoint == endpoint


@settings(deadline=None, max_examples=300)
@given(st.ip_addresses(v=4) | st.ip_addresses(v=4, network="127.0.0.0/8") | st.ip_addresses(v=6), st.integers(1, 65535))
def test_of_all_addresses_only_those_of_loopback_are_taken(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    own = address in ipaddress.ip_network("127.0.0.0/8") if address.version == 4 else address == ipaddress.ip_address("::1")
    if own:
        check_endpoint(f"tcp://{host}:{port}", "in.endpoint")
    else:
        with pytest.raises(ConfigError, match=r"in\.endpoint"):
            check_endpoint(f"tcp://{host}:{port}", "in.endpoint")


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=30) | st.text("tcpi:/127.0*[]@;%", max_size=30).map("tcp://".__add__))
def test_any_text_is_an_endpoint_or_a_config_error_of_one_line(text: str) -> None:
    complaints = []
    try:
        check_endpoint(text, "in.endpoint")
    except ConfigError as error:
        complaints.append(str(error))
    assert complaints or text.startswith(("tcp://", "ipc://"))
    assert all(line.startswith("in.endpoint: ") and line.isprintable() for line in complaints)


def test_a_default_stream_that_ends_in_a_line_feed_is_refused(tmp_path: Path) -> None:
    assert "in.default_stream: " in complaint(written(tmp_path, '[in]\ndefault_stream = "sensor\\n"\n'))


def test_a_section_that_is_no_table_is_one_line_also_where_an_override_goes_into_it(tmp_path: Path) -> None:
    assert "in: " in complaint(written(tmp_path, "in = 4711\n"), in__endpoint="tcp://127.0.0.1:1")


@pytest.mark.parametrize("key", ["a\\nb", "\\u001b[2J"])
def test_an_unknown_key_with_unprintable_characters_is_still_one_plain_line(tmp_path: Path, key: str) -> None:
    assert "unknown setting" in complaint(written(tmp_path, f'[in]\n"{key}" = 1\n'))


def test_a_port_of_very_many_digits_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"in\.endpoint"):
        check_endpoint("tcp://127.0.0.1:" + "1" * 5000, "in.endpoint")


def test_a_port_in_digits_of_another_script_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"in\.endpoint"):
        check_endpoint("tcp://127.0.0.1:\u0665\u0666\u0660\u0660", "in.endpoint")


@pytest.mark.parametrize("endpoint", ["tcp://[[::1:5600", "tcp://::1]:5600"])
def test_brackets_that_do_not_match_are_a_config_error(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"in\.endpoint"):
        check_endpoint(endpoint, "in.endpoint")


def test_settings_cannot_be_changed_once_loaded() -> None:
    with pytest.raises(AttributeError):
        Config().windows.hop = 1  # type: ignore[misc]


def test_an_endpoint_that_is_not_loopback_is_told_with_the_file_it_stands_in(tmp_path: Path) -> None:
    path = written(tmp_path, '[in]\nendpoint = "tcp://0.0.0.0:5600"\n')
    assert complaint(path).startswith(f"{path}: in.endpoint: ")


@pytest.mark.parametrize(
    ("section", "key", "value", "choices"),
    [
        ("model", "runtime", "cuda", "auto, onnx, tensorflow"),
        ("windows", "overlap", "flat", "hann, uniform"),
        ("in", "format", "xml", "auto, ppgstream, json, raw"),
    ],
)
def test_a_value_that_is_none_of_few_is_refused_with_what_may_be(
    section: str, key: str, value: str, choices: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'[{section}]\n{key} = "{value}"\n')
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: {section}.{key}: must be one of {choices}, got {value!r}"
