"""Keys of daemons, sensors and readers: files of one, and the list of those that a daemon allows (SECURITY.md).

A key is a pair of CURVE's, as ZeroMQ uses them: 40 characters of Z85 each. `NAME.key` is secret, `NAME.pub` is for others.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec
import zmq

from ppgstream.config import read_toml
from ppgstream.errors import ConfigError, OutputError
from ppgstream.storage import MOST_TEXT, read_regular, replace_files, shown, toml_of
from ppgstream.wire.message import STREAM_ID

LENGTH = 40  # characters of a key
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Key(NamedTuple):
    """A pair of keys. server: the public key of the daemon that it is for; empty in a daemon's own."""

    name: str
    public: bytes
    secret: bytes
    server: bytes = b""


class Allowed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner of a key may do. send: names of streams, or the beginnings of names with a * behind; read: the same, always
    with a *; status: ask the daemon for its status; reload: have it serve another checkpoint, or try one."""

    key: str
    send: list[str] = []
    read: list[str] = []
    status: bool = False
    reload: bool = False

    def may_send(self, stream: str) -> bool:
        return any(stream.startswith(p[:-1]) if p.endswith("*") else stream == p for p in self.send)

    def prefixes(self, wanted: bytes) -> list[bytes]:
        """What a subscription to names that begin with `wanted` brings: of each pattern, the longer of the two beginnings."""
        found = []
        for pattern in self.read:
            begin = pattern[:-1].encode()
            if wanted.startswith(begin):
                return [wanted]
            if begin.startswith(wanted):
                found.append(begin)
        return found


def make(name: str, server: bytes = b"") -> Key:
    """A new pair. Raises ConfigError for what is no name."""
    if not STREAM_ID.fullmatch(name.encode(errors="replace")):
        raise ConfigError(f"{shown(name)}: a key's name is 1 to 64 of A-Z a-z 0-9 . _ : -")
    public, secret = zmq.curve_keypair()
    return Key(name, public, secret, server)


def write(folder: Path, key: Key) -> tuple[Path, Path]:
    """Write a pair into a folder, the secret one for its owner alone. Raises OutputError, and ConfigError where a key of the name
    is there."""
    secret, public = folder / f"{key.name}.key", folder / f"{key.name}.pub"
    for path in (secret, public):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: is there already: give another name, or remove it")
    text = f'# Secret: who has this file is "{key.name}" to the daemon.\nname = "{key.name}"\npublic = "{key.public.decode()}"\n'
    text += f'secret = "{key.secret.decode()}"\n' + (f'server = "{key.server.decode()}"\n' if key.server else "")
    try:
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        replace_files({public: f'name = "{key.name}"\npublic = "{key.public.decode()}"\n'.encode()})
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: cannot write the key: {error.strerror or error}") from error
    return secret, public


def read_secret(path: Path) -> Key:
    """A secret key of `write`. Raises ConfigError for a file that others may read, and for what is none."""
    name, public, secret, server = _fields(path)
    if not secret:
        raise ConfigError(f"{path}: is a public key: the secret one is in {path.with_suffix('.key').name}")
    try:
        facts = path.stat()
        if stat.S_ISREG(facts.st_mode) and facts.st_mode & OTHERS:
            mode = stat.S_IMODE(facts.st_mode)
            raise ConfigError(f"{path}: others may read this secret key (mode {mode:o}): chmod 600 {path}, or make a new one")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the key: {error.strerror}") from error
    if zmq.curve_public(secret) != public:
        raise ConfigError(f"{path}: its public and its secret key do not belong together")
    return Key(name, public, secret, server)


def read_public(path: Path) -> bytes:
    """The public key in a file of `write`. Raises ConfigError."""
    return _fields(path)[1]


def client(path: Path) -> Key:
    """The secret key of a sensor or a reader. Raises ConfigError as `read_secret`, and for a daemon's."""
    key = read_secret(path)
    if not key.server:
        raise ConfigError(f"{path}: is for no daemon: `ppgstream keygen NAME --server DAEMON.pub` makes one that is")
    return key


def _fields(path: Path) -> tuple[str, bytes, bytes, bytes]:
    try:
        told = toml_of(read_regular(path, MOST_TEXT))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the key: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"{path}: not a key of `ppgstream keygen`") from None
    if not {"name", "public"} <= set(told) or not all(isinstance(value, str) for value in told.values()):
        raise ConfigError(f"{path}: not a key of `ppgstream keygen`")
    keys = [z85(str(told.get(name, "")), f"{path}: {name}", optional=name != "public") for name in ("public", "secret", "server")]
    return str(told["name"]), keys[0], keys[1], keys[2]


def z85(text: str, where: str, *, optional: bool = False) -> bytes:
    """A key as ZeroMQ takes it. Raises ConfigError that begins with `where`."""
    if optional and not text:
        return b""
    try:
        if len(text) != LENGTH:
            raise ValueError
        zmq.curve_public(text.encode("ascii"))  # any 32 bytes may be a secret key; other characters may not
    except (ValueError, zmq.ZMQError):
        raise ConfigError(f"{where}: {len(text)} characters that are no key: one has {LENGTH} of Z85") from None
    return text.encode()


def read_allowed(path: Path) -> dict[bytes, tuple[str, Allowed]]:
    """The names and rights of a daemon's list, by their keys. Raises ConfigError."""
    told = read_toml(path, "list of keys")
    found: dict[bytes, tuple[str, Allowed]] = {}
    for name, value in told.items():
        try:
            one = msgspec.convert(value, Allowed)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: [{shown(name)[1:-1]}]: {error}: key, send, read, status and reload are known") from None
        key = z85(one.key, f"{path}: [{name}] key")
        if one.reload and not one.status:
            raise ConfigError(f"{path}: [{name}]: reload = true needs status = true: it is asked for there")
        if key in found:
            raise ConfigError(f"{path}: [{name}] has the key of [{found[key][0]}]")
        for pattern in (*one.send, *one.read):
            body = pattern.removesuffix("*")
            if (body or not pattern) and not STREAM_ID.fullmatch(body.encode(errors="replace")):
                raise ConfigError(f"{path}: [{name}]: {shown(pattern)}: a stream, or the beginning of streams with a * behind")
        for pattern in one.read:
            if not pattern.endswith("*"):
                raise ConfigError(
                    f"{path}: [{name}] read: {shown(pattern)} must end in *: ZeroMQ cannot keep {pattern}2 from its readers"
                )
        found[key] = name, one
    return found
