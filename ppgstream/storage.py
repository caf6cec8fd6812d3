"""Files of unknown origin, read with bounds, and our own files, written whole. What goes wrong is an OSError or a ValueError."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile

MOST_TEXT = 1_000_000  # bytes of a configuration, recipe or manifest
MOST_SAVER = 256 * 1024 * 1024  # of a TensorFlow 1 checkpoint: what it needs is not known before it is read
MOST_GRAPH = 256 * 1024 * 1024  # of an ONNX graph; of our own the weights lie beside it
LONGEST_SHOWN = 100  # characters of an offending value


def read_regular(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes; a link to one counts. Raises OSError for anything else: a pipe has no end, nor have
    some devices."""
    with open(path, "rb", opener=_without_waiting) as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        content = b"" if facts.st_size > most else file.read(facts.st_size + 1)
    if max(len(content), facts.st_size) > most:
        raise OSError(errno.EFBIG, f"larger than the {most:,} bytes that it may have", str(path))
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would be waited for


def json_of(content: bytes) -> Any:
    """A JSON document. Raises ValueError for what is none, or is nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def toml_of(content: bytes) -> dict[str, Any]:
    """A TOML document. Raises ValueError for what is none, or is nested too deeply."""
    try:
        return tomllib.loads(content.decode())
    except RecursionError:
        raise ValueError("TOML that is nested too deeply") from None


def shown(value: object) -> str:
    """A value for an error message: as Python writes it, but never long, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 20] + " ... " + text[-15:]


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Write files whole. All are written beside their places before the first is moved there, in this order, so that a full disk
    leaves the old ones. The files beside have names that nobody can guess, and are made anew, so that no link is followed. Raises
    OSError."""
    beside: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            descriptor, beside[path] = _beside(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        for path, temporary in beside.items():
            temporary.replace(path)
    finally:
        for temporary in beside.values():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def replace_file_by(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write one file whole, by `write`, beside its place, and move it there. Raises OSError."""
    descriptor, beside = _beside(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[int, Path]:
    """A new file in the folder of `path`, open for writing: its descriptor and its path. It has the permissions of `path`, or
    those of any new file."""
    beside = path.with_name(f".ppgstream-{secrets.token_hex(8)}.tmp")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with contextlib.suppress(OSError):  # there is none
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
    return descriptor, beside


def check_folder(folder: Path) -> None:
    """Make a folder and see that files can be made in it. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def open_npz(path: Path) -> NpzFile:
    """NumPy's file of arrays, opened. Raises ValueError for another kind of file, in whose place NumPy's own words advise to load
    it unsafely; OSError."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError("not an npz file")
    import numpy as np

    opened: NpzFile = np.load(path, allow_pickle=False)
    return opened
