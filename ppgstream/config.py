"""Every setting of the daemon, its default and its bounds. `config.toml` says the same with reasons, and a test holds them
equal."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from ppgstream.errors import ConfigError
from ppgstream.storage import MOST_TEXT, read_regular, shown, toml_of

STREAM_ID = "[A-Za-z0-9._:-]{1,64}"
Runtime = Literal["auto", "onnx", "tensorflow"]  # what runs a network
Policy = Literal["mark", "mask", "raw"]  # what is published below the threshold
Rate = Annotated[float, Meta(ge=0, le=1000)] | Literal["measure"]  # Hz; 0: not stated
Seconds = Annotated[float, Meta(ge=0, le=86_400)]


class In(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = "tcp://127.0.0.1:5600"
    bind: bool = True
    format: Literal["auto", "ppgstream", "json", "raw"] = "auto"
    fs: Rate = 0.0
    raw_dtype: Literal["f4", "f8", "i2", "i4", "u2", "u4", ">f4", ">f8", ">i2", ">i4", ">u2", ">u4"] = "f4"
    json_samples: str = ""
    json_stream: str = ""
    json_fs: str = ""
    json_time: str = ""
    json_time_unit: Literal["auto", "s", "ms", "us", "ns"] = "auto"
    json_time_of: Literal["first", "last"] = "first"
    json_index: str = ""
    json_end: str = ""
    json_units: str = ""
    sentinels: Annotated[list[float], Meta(max_length=16)] = []
    default_stream: Annotated[str, Meta(pattern=rf"\A{STREAM_ID}\Z")] = "sensor"
    high_water_mark: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    queue_samples: Annotated[int, Meta(ge=1000, le=100_000_000)] = 262_144


class Out(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = "tcp://127.0.0.1:5601"
    bind: bool = True
    dtype: Literal["f4", "f8"] = "f4"
    raw: bool = False
    high_water_mark: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    linger_ms: Annotated[int, Meta(ge=0, le=60_000)] = 2000


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = "tcp://127.0.0.1:5602"
    max_rows: Annotated[int, Meta(ge=1, le=100_000)] = 256


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str = ""


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checkpoint: str = ""
    runtime: Runtime = "auto"
    threads: Annotated[int, Meta(ge=0, le=256)] = 0
    max_delay_ms: Annotated[float, Meta(ge=0, le=10_000)] = 20.0


class Windows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hop: Annotated[int, Meta(ge=0)] = 0
    lookahead: Annotated[int, Meta(ge=-1)] = -1
    overlap: Literal["hann", "uniform"] = "hann"


class OneStream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    policy: Policy | None = None
    fs: Rate = 0.0


class Streams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_streams: Annotated[int, Meta(ge=1, le=100_000)] = 10_000
    max_fill: Annotated[int, Meta(ge=0, le=1000)] = 50
    hold_samples: Annotated[int, Meta(ge=0, le=100_000)] = 64
    hold_s: Seconds = 0.5
    silence_s: Seconds = 2.0
    idle_s: Seconds = 30.0
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    policy: Policy = "mark"
    beats: bool = True
    polarity: Literal["auto", "up", "down"] = "auto"
    by_name: dict[str, OneStream] = {}  # of the file's tables [streams.NAME]


class Overload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    shed_after_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    drain_s: Annotated[float, Meta(ge=0, le=60)] = 6.0


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str = ""
    allow: str = ""


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    checkpoint: str = ""
    share: Annotated[float, Meta(gt=0, le=1)] = 0.1


FLEET_NAME = "[A-Za-z0-9_-]{1,32}"


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=rf"\A({FLEET_NAME})?\Z")] = ""
    keep_s: Annotated[float, Meta(ge=60, le=2_592_000)] = 600.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    in_: In = msgspec.field(name="in", default_factory=In)
    out: Out = msgspec.field(default_factory=Out)
    status: Status = msgspec.field(default_factory=Status)
    metrics: Metrics = msgspec.field(default_factory=Metrics)
    model: Model = msgspec.field(default_factory=Model)
    windows: Windows = msgspec.field(default_factory=Windows)
    streams: Streams = msgspec.field(default_factory=Streams)
    overload: Overload = msgspec.field(default_factory=Overload)
    security: Security = msgspec.field(default_factory=Security)
    shadow: Shadow = msgspec.field(default_factory=Shadow)
    fleet: Fleet = msgspec.field(default_factory=Fleet)


DEFAULT_PATH = Path("config.toml")


def load(path: Path | None = None, **overrides: str | bool | None) -> Config:
    """Defaults < the file (`path`, else ./config.toml if there is one) < `overrides`, named `section.key`.

    Raises ConfigError naming the file, the key and the offending value.
    """
    chosen = path if path is not None else DEFAULT_PATH if DEFAULT_PATH.is_file() and not is_foreign(DEFAULT_PATH) else None
    tree: dict[str, dict[str, object]] = {}
    if chosen is not None:
        tree = read_toml(chosen, "configuration")
    if isinstance(streams := tree.get("streams"), dict):
        streams["by_name"] = _of_streams(streams, f"{chosen}: streams")
    for key, value in overrides.items():
        if value is not None:
            section, _, name = key.partition("__")
            if isinstance(table := tree.setdefault(section, {}), dict):  # else the check below says what is wrong
                table[name] = value
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{chosen or 'settings'}: {_explain(str(error), tree)}") from None
    for name, rate in (("in.fs", config.in_.fs), *((f"streams.{k}.fs", one.fs) for k, one in config.streams.by_name.items())):
        if rate != "measure" and 0 < rate < 10:
            raise ConfigError(f'{chosen or "settings"}: {name}: must be 10 to 1000 Hz, 0 or "measure", got {rate:g}')
    for section, endpoint in (("in", config.in_.endpoint), ("out", config.out.endpoint), ("status", config.status.endpoint)):
        given = overrides.get(f"{section}__endpoint") is not None or chosen is None
        check_endpoint(
            endpoint, f"{section}.endpoint" if given else f"{chosen}: {section}.endpoint", keyed=bool(config.security.key),
            nats=section != "status",
        )  # fmt: skip
    if config.fleet.name and (
        config.in_.endpoint != config.out.endpoint or not config.in_.endpoint.startswith(("nats://", "tls://"))
    ):
        raise ConfigError(f"{chosen or 'settings'}: fleet.name: a fleet reads and publishes on one NATS server: in and out alike")
    if bool(config.security.key) != bool(config.security.allow):
        missing = "allow" if config.security.key else "key"
        raise ConfigError(f"{chosen or 'settings'}: security.{missing}: key and allow go together (SECURITY.md)")
    if config.security.key and not (config.in_.bind and config.out.bind):
        raise ConfigError(f"{chosen or 'settings'}: security.key: a daemon with keys binds its sockets: in.bind and out.bind")
    if config.metrics.endpoint:
        name = f"{chosen or 'settings'}: metrics.endpoint"
        if "/" in config.metrics.endpoint:
            raise ConfigError(f"{name}: {shown(config.metrics.endpoint)} is not HOST:PORT")
        check_endpoint(f"tcp://{config.metrics.endpoint}", name)
    return config


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """A user's TOML file. what: what it is, for an error. Raises ConfigError."""
    try:
        return toml_of(read_regular(path, MOST_TEXT))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the {what}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def is_foreign(path: Path) -> bool:
    """Whether a file of settings is another program's: TOML without any section of ours. One that says nothing is ours."""
    try:
        tree = toml_of(read_regular(path, MOST_TEXT))
    except (OSError, ValueError):
        return False
    ours = {field.encode_name for field in msgspec.structs.fields(Config)}
    return bool(tree) and not ours & set(tree)


def _of_streams(streams: dict[str, object], where: str) -> dict[str, OneStream]:
    """Takes the tables [streams.NAME] out of the table [streams]. Raises ConfigError."""
    found: dict[str, OneStream] = {}
    if not isinstance(streams.get("by_name", {}), dict):
        raise ConfigError(f"{where}: unknown setting by_name; a stream's own are in a table [streams.NAME]")
    for name in [name for name, value in streams.items() if isinstance(value, dict)]:
        if not re.fullmatch(STREAM_ID, name):
            raise ConfigError(f"{where}.{shown(name)}: a stream id is 1 to 64 of A-Z a-z 0-9 . _ : -")
        value = streams.pop(name)
        try:
            found[name] = msgspec.convert(value, OneStream)
        except msgspec.ValidationError:
            raise ConfigError(
                f"{where}.{name}: got {shown(value)}: a stream's own settings are: policy, one of {', '.join(get_args(Policy))}; "
                f'fs, 10 to 1000 Hz, 0 or "measure"'
            ) from None
    return found


def _explain(message: str, tree: dict[str, dict[str, object]]) -> str:
    """msgspec's message with the key in front and the offending value behind."""
    reason, _, where = message.partition(" - at `$")
    key = where.strip("`.")
    unknown = re.search(r"unknown field `(.+?)`", reason, re.DOTALL)
    if unknown:
        name = "".join(c if c.isprintable() else repr(c)[1:-1] for c in unknown[1])
        return f"unknown setting {'.'.join(filter(None, (key, name)))}"
    value: object = tree
    for part in key.split(".") if key else []:
        value = value.get(part) if isinstance(value, dict) else None
    if "regex" in reason and key == "fleet.name":
        return f"{key}: must be 1 to 32 of A-Z a-z 0-9 _ -, got {shown(value)}"
    if reason.startswith("Invalid enum value"):
        return f"{key}: must be one of {', '.join(_choices(key))}, got {shown(value)}"
    return f"{key}: {reason.lower().partition(', got')[0]}, got {shown(value)}"


def _choices(key: str) -> list[str]:
    """The values that a setting may have, if it is one of few."""
    hint: Any = Config
    for part in key.split("."):
        hint = get_type_hints(hint)["in_" if part == "in" else part]
    return [str(value) for value in get_args(hint)]


def check_endpoint(endpoint: str, name: str, *, keyed: bool = False, nats: bool = False) -> None:
    """Without keys only loopback and ipc, so that nothing else may hear or speak; `keyed`: any address. nats: whether it may be a
    NATS server, off loopback with TLS alone. Raises ConfigError."""
    scheme, _, rest = endpoint.partition("://")
    if not endpoint.isprintable():
        raise ConfigError(f"{name}: {shown(endpoint)} holds control characters")
    if nats and scheme in ("nats", "tls") and rest:
        _check_nats(endpoint, name)
        return
    if scheme == "ipc" and rest:
        if rest == "*":
            raise ConfigError(
                f"{name}: {endpoint!r}: name a path: a socket that ZeroMQ makes up lies in a folder that is open to all"
            )
        return
    if scheme != "tcp" or not rest:
        raise ConfigError(f"{name}: {shown(endpoint)} is not tcp://HOST:PORT or ipc://PATH")
    host, _, port = rest.rpartition(":")
    if port != "*" and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65_536):
        raise ConfigError(f"{name}: {shown(endpoint)} needs a port from 1 to 65535")
    anywhere = keyed and re.fullmatch(r"[A-Za-z0-9*][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]", host)
    if not anywhere and not _is_loopback(host):
        raise ConfigError(
            f"{name}: {shown(endpoint)} is not a loopback address: without [security] key only 127.0.0.0/8, [::1], localhost "
            f"and ipc:// are served"
        )


def _check_nats(endpoint: str, name: str) -> None:
    scheme, _, rest = endpoint.partition("://")
    address = rest.rpartition("@")[2]
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65_536 or "/" in address:
        raise ConfigError(f"{name}: {scheme}://{shown(address)} is not {scheme}://HOST:PORT, a NATS server (4222 by default)")
    if scheme == "nats" and not _is_loopback(host):
        raise ConfigError(f"{name}: {scheme}://{address} is not a loopback address: beyond this host tls:// alone")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        bracketed = re.fullmatch(r"\[(.*)\]", host)
        return (ipaddress.IPv6Address(bracketed[1]) if bracketed else ipaddress.IPv4Address(host)).is_loopback
    except ValueError:
        return False
