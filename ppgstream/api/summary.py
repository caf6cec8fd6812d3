"""The folder of outputs, on this machine or at a URL, and its summary: a line for each recording."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePath

from ppgstream import storage
from ppgstream.errors import OutputError, UsageError
from ppgstream.files import recording, remote

SUMMARY = "summary.csv"
NOTED = ".ppgstream-*.row"  # lines of the summary that it does not have yet
BESIDE = ".ppgstream-*.tmp"  # files that are not whole yet (storage.py)


@dataclass
class Row:
    """A line of the summary. fs: Hz; trusted: share of the samples whose confidence is 0.5 or more; hr_bpm: the median of the
    sure rates; beats: the sure ones; events: what the engine said, in words. sha256: of the input; made_by: of all that decides
    the output, the checkpoint, the settings and the version; output_sha256: of the output. error: why there is no output."""

    file: str
    output: str
    minutes: str = ""
    fs: str = ""
    trusted: str = ""
    hr_bpm: str = ""
    beats: str = ""
    events: str = ""
    sha256: str = ""
    made_by: str = ""
    output_sha256: str = ""
    error: str = ""


def note_of(name: str) -> str:
    """The file with the line of an output, below the folder, until the summary has it."""
    path = PurePath(name)
    return str(path.with_name(f".ppgstream-{path.name}.row"))


def read_note(path: Path) -> dict[str, Row]:
    """The line of a file that `Place.note` has written, by its output; none where it is damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        row = Row(**storage.json_of(storage.read_regular(path, storage.MOST_TEXT)))
        return {row.output: row}
    return {}


def _note(row: Row) -> bytes:
    return json.dumps(asdict(row)).encode()  # msgspec refuses names that are no Unicode


class Place:
    """A folder of this machine."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._folder = Path(where)

    def check(self) -> None:
        """Make it, and see that it can be written. Raises OutputError."""
        try:
            storage.check_folder(self._folder)
        except OSError as error:
            raise OutputError(f"{self._folder}: cannot write there: {error.strerror or error}") from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes outputs there meanwhile. Raises UsageError where somebody does."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                why = "another run writes there: wait for its end, or write into another folder"
                raise UsageError(f"{self._folder}: {why}") from None
            except OSError:  # of a file system without locks
                pass
            yield
        finally:
            os.close(descriptor)

    def summary(self) -> dict[str, Row]:
        """The lines of the summary, by their outputs. Raises UsageError for one that is not as `write_summary` writes it: it is
        somebody's, and is not overwritten."""
        return summary_of(self._folder / SUMMARY, str(self._folder / SUMMARY))

    def write_summary(self, rows: Sequence[Row]) -> None:
        """Write the summary whole. Raises OutputError."""
        write_summary(self._folder / SUMMARY, rows)
        for row in rows:
            (self._folder / note_of(row.output)).unlink(missing_ok=True)

    def note(self, row: Row) -> None:
        """Keep a line beside its output, until the summary has it: a run that is killed knows what it has made."""
        with contextlib.suppress(OSError):  # then it is made again
            storage.replace_files({self._folder / note_of(row.output): _note(row)})

    def noted(self) -> dict[str, Row]:
        """The lines that are kept so, by their outputs."""
        return {output: row for path in self._folder.rglob(NOTED) for output, row in read_note(path).items()}

    def halves(self, folders: Iterable[str]) -> set[str]:
        """Files in these folders below it that were not written whole."""
        return {str(path) for folder in folders for path in (self._folder / folder).glob(BESIDE)}

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            Path(path).unlink(missing_ok=True)


class RemotePlace(Place):
    """A folder at a URL. Two runs that write there are not noticed."""

    def check(self) -> None:
        self._write(".ppgstream-check", b"")
        remote.remove(self._at(".ppgstream-check"))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def summary(self) -> dict[str, Row]:
        with self._fetched(self._at(SUMMARY)) as path:
            return summary_of(path, self._at(SUMMARY))

    def write_summary(self, rows: Sequence[Row]) -> None:
        with tempfile.TemporaryDirectory(prefix="ppgstream-") as scratch:
            write_summary(Path(scratch, SUMMARY), rows)
            remote.put(Path(scratch, SUMMARY), self._at(SUMMARY))
        known = {row.output for row in rows}
        for url in remote.matching(self.where, NOTED):
            with self._fetched(url) as path:
                if read_note(path).keys() <= known:
                    remote.remove(url)

    def note(self, row: Row) -> None:
        with contextlib.suppress(OutputError):
            self._write(note_of(row.output), _note(row))

    def noted(self) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for url in remote.matching(self.where, NOTED):
            with self._fetched(url) as path:
                found |= read_note(path)
        return found

    def halves(self, folders: Iterable[str]) -> set[str]:
        return set()  # they may be another run's, which nobody notices here

    def remove(self, paths: Iterable[str]) -> None:
        for path in paths:
            remote.remove(path)

    def _at(self, name: str) -> str:
        return f"{self.where.rstrip('/')}/{name}"

    def _write(self, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="ppgstream-") as scratch:
            Path(scratch, "file").write_bytes(content)
            remote.put(Path(scratch, "file"), self._at(name))

    @contextlib.contextmanager
    def _fetched(self, url: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="ppgstream-") as scratch:
            remote.fetched(url, Path(scratch, "file"))
            yield Path(scratch, "file")


def place_of(where: str) -> Place:
    """The folder of outputs at a path or URL."""
    return RemotePlace(where) if remote.is_url(where) else Place(where)


def summary_of(path: Path, where: str) -> dict[str, Row]:
    """The lines of a summary; none if there is none."""
    names = [field.name for field in fields(Row)]
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames != names:
                raise UsageError(f"{where}: is no summary of this version: move it away, or write into another folder")
            return {line["output"]: Row(**{name: line[name] or "" for name in names}) for line in lines}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise OutputError(f"{where}: cannot read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{where}: is no summary of ours ({error}): move it away, or write into another folder") from error


def write_table(path: Path, head: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A csv, whole or not at all. Raises OutputError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    recording.write_whole(path, text.getvalue().encode(errors="surrogateescape"))


def write_summary(path: Path, rows: Iterable[Row]) -> None:
    """A summary, whole or not at all. Raises OutputError."""
    write_table(path, [field.name for field in fields(Row)], [list(asdict(row).values()) for row in rows])
