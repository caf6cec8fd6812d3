"""Files at URLs (s3://, gs://, memory://, file:// and what else fsspec knows), brought here and back whole."""

from __future__ import annotations

import contextlib
import importlib
import posixpath
import secrets
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ppgstream.errors import OutputError, SourceError, UsageError

PATTERN = "*?["  # what a pattern has and a name has not


def is_url(text: str) -> bool:
    """Whether this is a URL, not a path."""
    scheme, there, _ = text.partition("://")
    return bool(there) and scheme.replace("+", "").isalnum()


def plain(where: str) -> str:
    """A path or URL as it is used: a URL of this machine's files is their path, and of another it has one form."""
    if not is_url(where):
        return where
    scheme, _, rest = where.partition("://")
    if scheme in ("file", "local"):
        return posixpath.normpath(rest) + "/" * (rest.endswith("/") and rest != "/")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{posixpath.normpath(slash + path).replace('//', '/') if path else slash}"


def _at(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path there. Raises UsageError where that needs a library that is not installed."""
    try:
        fsspec: Any = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise UsageError(f"{url}: needs fsspec: pip install fsspec, or ppgstream[remote]") from error
    try:
        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # of its kind, with the name of the package that it needs
        raise UsageError(f"{url}: {error}") from error
    return system, path


@contextlib.contextmanager
def _told(url: str, kind: type[SourceError | OutputError], what: str) -> Iterator[None]:
    try:
        yield
    except (SourceError, OutputError, UsageError):
        raise
    except FileNotFoundError:
        raise kind(f"{url}: {what}: No such file or directory") from None
    except Exception as error:  # each kind of storage has errors of its own
        raise kind(f"{url}: {what}: {str(error).strip() or type(error).__name__}") from error


def expanded(url: str) -> list[str]:
    """The files at a URL: itself, those that match where it is a pattern, those in it where it is a folder; in order. Raises
    SourceError."""
    with _told(url, SourceError, "cannot read"):
        system, path = _at(url)
        if any(mark in path for mark in PATTERN) and not system.exists(path):
            found = [name for name in system.glob(path) if not system.isdir(name)]
            if not found:
                raise SourceError(f"{url}: nothing matches")
        elif system.isdir(path):
            found = [one["name"] for one in system.ls(path, detail=True) if one["type"] == "file"]
        else:
            return [url]
        return sorted(str(system.unstrip_protocol(name)) for name in found)


def name_of(url: str) -> str:
    """The last part of a URL."""
    return PurePosixPath(url).name


def fetch(url: str, folder: Path) -> Path:
    """Bring a file into a folder, with those that are read beside it (.hea and .dat, the .json of a _physio.tsv.gz). Raises
    SourceError."""
    path = folder / name_of(url)
    with _told(url, SourceError, "cannot read"):
        system, there = _at(url)
        system.get_file(there, str(path))
        base = PurePosixPath(there)
        beside = {".hea": [base.with_suffix(".dat")], ".dat": [base.with_suffix(".hea")]}.get(base.suffix.lower(), [])
        if "_physio.tsv" in base.name:
            beside = [base.with_name(base.name.partition(".tsv")[0] + ".json")]
        for other in beside:
            if system.exists(str(other)):
                system.get_file(str(other), str(folder / other.name))
    return path


def fetched(url: str, path: Path) -> bool:
    """Bring one file, if it is there."""
    with _told(url, SourceError, "cannot read"):
        system, there = _at(url)
        if not system.exists(there):
            return False
        system.get_file(there, str(path))
        return True


def put(path: Path, url: str) -> None:
    """Write a file there whole: under a name beside it first. Raises OutputError."""
    with _told(url, OutputError, "cannot write"):
        system, there = _at(url)
        parent = PurePosixPath(there).parent
        beside = str(parent / f".ppgstream-{secrets.token_hex(8)}.tmp")
        system.makedirs(str(parent), exist_ok=True)
        try:
            system.put_file(str(path), beside)
            system.mv(beside, there)
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm_file(beside)
            raise


def matching(url: str, pattern: str) -> list[str]:
    """The URLs below a folder that match, hidden ones too; none where there is no such folder."""
    with _told(url, SourceError, "cannot read"):
        system, there = _at(url)
        if not system.isdir(there):
            return []
        found = [name for name in system.find(there) if PurePosixPath(name).match(pattern)]
        return sorted(str(system.unstrip_protocol(name)) for name in found)


def remove(url: str) -> None:
    """A file that may be gone already."""
    with contextlib.suppress(Exception):
        system, there = _at(url)
        system.rm_file(there)
