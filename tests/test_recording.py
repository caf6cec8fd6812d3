"""Recordings: what each kind of file becomes, lines off a pipe, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream import storage
from ppgstream.errors import DataError, OutputError, PpgStreamError, SourceError, UsageError
from ppgstream.files import recording
from ppgstream.files.cells import is_number, number
from ppgstream.files.opened import lines_of
from ppgstream.files.recording import check_writable, text_of, write_whole

relaxed = settings(deadline=None, max_examples=200)
NAN = None  # how these tests write a sample that is no number


def values(samples: recording.Float64) -> list[float | None]:
    return [NAN if np.isnan(value) else float(value) for value in samples]


def read(folder: Path, content: str | bytes, *, name: str = "in.txt", column: str | None = None) -> recording.Recording:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return recording.read(path, column=column)


def npy(array: object, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array), allow_pickle=pickled)
    return file.getvalue()


def npy_header(descr: str, shape: str) -> bytes:
    """An .npy file of 10 f8 zeros, whatever its header says."""
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(80)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1\n2.5\n-3e2\n", [1.0, 2.5, -300.0]),
        ("1\n2.5\n-3e2", [1.0, 2.5, -300.0]),
        ("1\r\n2\r\n", [1.0, 2.0]),
        ("\ufeff1\n2\n", [1.0, 2.0]),
        ("  1 \n\t2\n", [1.0, 2.0]),
        ("7\n", [7.0]),
        ("7", [7.0]),
        ("1\nnan\nNaN\n4\n", [1.0, NAN, NAN, 4.0]),
        ("1\ninf\n-inf\n", [1.0, np.inf, -np.inf]),
    ],
)
def test_a_text_file_is_one_value_a_line(tmp_path: Path, content: str, expected: list[float | None]) -> None:
    found = read(tmp_path, content)
    assert values(found.samples) == expected
    assert (found.samples.dtype.str, found.bad, found.first_bad) == ("<f8", 0, "")


@pytest.mark.parametrize("content", ["1 2.5 -3e2 nan", "1 2.5 -3e2 nan\n", "  1   2.5 -3e2  nan \n"])
def test_a_text_file_of_one_line_is_all_its_values(tmp_path: Path, content: str) -> None:
    assert values(read(tmp_path, content).samples) == [1.0, 2.5, -300.0, NAN]


@pytest.mark.parametrize("bad", ["", "1.2.3", "0x10", "--", "1 2", "\x07"])
def test_a_line_that_is_no_number_keeps_its_place_and_is_told(tmp_path: Path, bad: str) -> None:
    found = read(tmp_path, f"1\n2\n{bad}\n4\n{bad}\n6\n")
    assert values(found.samples) == [1.0, 2.0, NAN, 4.0, NAN, 6.0]
    assert found.bad == 2
    assert f"line 3 of {tmp_path / 'in.txt'}" in found.first_bad
    assert repr(bad) in found.first_bad


@pytest.mark.parametrize("text", ["sensor off", "Initializing...", "\N{SNOWMAN}", "BPM: 72"])
def test_a_line_of_text_is_no_sample_and_is_counted(tmp_path: Path, text: str) -> None:
    found = read(tmp_path, f"1\n2\n{text}\n4\n{text}\n6\n")
    assert values(found.samples) == [1.0, 2.0, 4.0, 6.0]
    assert (found.bad, found.text) == (0, 2)
    assert f"line 3 of {tmp_path / 'in.txt'} is text: {text!r}" == found.first_text


def test_a_long_bad_line_is_told_by_its_beginning(tmp_path: Path) -> None:
    found = read(tmp_path, "1\n" + "1x" * 50_000 + "\n")
    assert "1x1x" in found.first_bad
    assert len(found.first_bad) < len(str(tmp_path)) + 200


def test_bytes_that_are_no_text_keep_their_place(tmp_path: Path) -> None:
    found = read(tmp_path, b"1\n\xff\xfe\x80\n3\n")
    assert (values(found.samples), found.bad) == ([1.0, NAN, 3.0], 1)


@pytest.mark.parametrize("name", ["in.txt", "in.csv", "in.tsv", "in.npy"])
def test_a_file_without_a_valid_sample_is_a_data_error_that_names_it(tmp_path: Path, name: str) -> None:
    for content in ("", "\n", "\n\n\n", "off\n", "some words\n", "nan\ninf\n-inf\n"):
        with pytest.raises(DataError) as told:
            read(tmp_path, content, name=name)
        assert str(tmp_path / name) in str(told.value)


@pytest.mark.parametrize("content", [b"PK\x03\x04\0\0", b"1\n2\n\0"])
def test_a_binary_file_is_a_data_error_and_not_a_recording_of_bad_lines(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="binary"):
        read(tmp_path, content)


def test_a_file_that_cannot_be_opened_is_a_source_error_that_names_it(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path / "none.npy", tmp_path / "no folder" / "in.csv", tmp_path):
        with pytest.raises(SourceError) as told:
            recording.read(path)
        assert str(path) in str(told.value)
        assert "\n" not in str(told.value)


TABLES = [("in.csv", ","), ("in.txt", ","), ("in.txt", ";"), ("in.csv", ";"), ("in.txt", "\t"), ("in.tsv", "\t"), ("in", ",")]
tables = pytest.mark.parametrize(("name", "delimiter"), TABLES)


@tables
@pytest.mark.parametrize("column", ["ppg", "1"])
def test_a_column_of_a_table_with_a_header_is_chosen_by_name_or_number(
    tmp_path: Path, name: str, delimiter: str, column: str
) -> None:
    content = "t,ppg,acc\n0,1.5,9\n1,nan,9\n2,oops,9\n3,,9\n4\n5,2.5,9\n".replace(",", delimiter)
    found = read(tmp_path, content, name=name, column=column)
    assert values(found.samples) == [1.5, NAN, NAN, NAN, NAN, 2.5]
    assert found.bad == 3
    assert "line 4 of" in found.first_bad
    assert "'oops'" in found.first_bad


@tables
def test_a_column_of_a_table_without_a_header_is_chosen_by_number(tmp_path: Path, name: str, delimiter: str) -> None:
    found = read(tmp_path, "0,1.5\n1,2.5\n".replace(",", delimiter), name=name, column="1")
    assert values(found.samples) == [1.5, 2.5]


@tables
def test_a_table_of_several_columns_needs_to_be_told_which(tmp_path: Path, name: str, delimiter: str) -> None:
    with pytest.raises(UsageError, match=r"3 columns.*t, ppg, acc"):
        read(tmp_path, "t,ppg,acc\n0,1.5,9\n".replace(",", delimiter), name=name)
    with pytest.raises(UsageError, match="3 columns"):
        read(tmp_path, "0,1.5,9\n1,2,9\n".replace(",", delimiter), name=name)


@tables
def test_a_column_that_is_not_there_is_a_usage_error_that_names_those_that_are(tmp_path: Path, name: str, delimiter: str) -> None:
    for column in ("ppgg", "3", "-1", "1.0", "", "PPG", "\u00b2"):
        with pytest.raises(UsageError) as told:
            read(tmp_path, "t,ppg,acc\n0,1.5,9\n".replace(",", delimiter), name=name, column=column)
        assert repr(column) in str(told.value)
        assert "t, ppg, acc" in str(told.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("ppg\n1\n2\n", [1.0, 2.0]), ("1\n2\n", [1.0, 2.0]), ("1\n\n3\n", [1.0, NAN, 3.0]), ('"ppg"\n"1"\n 2 \n', [1.0, 2.0])],
)
def test_a_csv_of_one_column_needs_no_choice(tmp_path: Path, content: str, expected: list[float | None]) -> None:
    assert values(read(tmp_path, content, name="in.csv").samples) == expected


def test_a_quoted_header_may_hold_the_delimiter(tmp_path: Path) -> None:
    found = read(tmp_path, '"time, s","ppg, mV"\n0,1.5\n', name="in.csv", column="ppg, mV")
    assert values(found.samples) == [1.5]


@pytest.mark.parametrize("first", ["2026-01-01T00:00:00", "", "a"])
def test_a_first_row_whose_sample_is_a_number_is_no_header(tmp_path: Path, first: str) -> None:
    found = read(tmp_path, f"{first},0.5\nb,0.6\n", name="in.csv", column="1")
    assert values(found.samples) == [0.5, 0.6]


@pytest.mark.parametrize("content", ['ppg\n1\n"2\n3\n4\n', '"1\n2\n3\n4\n'])
def test_a_stray_quote_in_a_table_costs_its_own_line_only(tmp_path: Path, content: str) -> None:
    found = read(tmp_path, content, name="in.csv")
    assert len(found.samples) == content.count("\n") - content.count("ppg")
    assert values(found.samples)[-2:] == [3.0, 4.0]


def test_a_stray_quote_in_a_long_table_raises_no_error_but_ours(tmp_path: Path) -> None:
    try:
        found = read(tmp_path, 'ppg\n"1\n' + "1.25\n" * 50_000, name="in.csv")
    except PpgStreamError:
        return
    assert len(found.samples) == 50_001


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i2", ">i2", "i4", "i8", "u8"])
def test_an_npy_of_numbers_is_read_as_doubles(tmp_path: Path, dtype: str) -> None:
    found = read(tmp_path, npy(np.array([1, 2, 100], dtype)), name="in.npy")
    assert found.samples.dtype == np.float64
    assert (values(found.samples), found.bad) == ([1.0, 2.0, 100.0], 0)


def test_the_rows_of_a_2d_npy_are_recordings(tmp_path: Path) -> None:
    rows = np.array([[1.0, 2.0, np.nan], [np.inf, 5.0, 6.0]])
    for array in (rows, np.asfortranarray(rows)):
        np.testing.assert_array_equal(read(tmp_path, npy(array), name="in.npy").samples, rows)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npy(np.array([1.0, "a", None], object), pickled=True), id="objects"),
        pytest.param(pickle.dumps([1.0, 2.0]), id="a pickle"),
        pytest.param(npy(np.zeros((2, 2, 2))), id="3-D"),
        pytest.param(npy(1.0), id="0-D"),
        pytest.param(npy(np.zeros(3, complex)), id="complex"),
        pytest.param(npy(np.array([True, False])), id="bool"),
        pytest.param(npy(np.array(["1", "2"])), id="text"),
        pytest.param(npy(np.zeros(3, "M8[s]")), id="dates"),
        pytest.param(npy(np.zeros(3, [("a", "f4"), ("b", "f4")])), id="records"),
        pytest.param(npy([]), id="no samples"),
        pytest.param(npy(np.zeros((0, 5))), id="no rows"),
        pytest.param(npy(np.zeros((5, 0))), id="empty rows"),
        pytest.param(npy([np.nan, np.inf]), id="no valid sample"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"1\n2\n", id="text in npy's name"),
        pytest.param(npy(np.arange(10.0))[:-1], id="a byte short"),
        pytest.param(npy(np.arange(10.0))[:40], id="half a header"),
        pytest.param(b"\x93NUMPY\x09\x00" + bytes(100), id="another version"),
    ],
)
def test_an_npy_of_anything_else_is_a_data_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError) as told:
        read(tmp_path, content, name="in.npy")
    assert str(tmp_path / "in.npy") in str(told.value)


class Planted:
    """What a pickle that does something would do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("planted",)


def test_a_pickle_in_an_npy_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = np.empty(1, object)
    array[0] = Planted()
    for content in (npy(array, pickled=True), pickle.dumps(Planted())):
        with pytest.raises(DataError):
            read(tmp_path, content, name="in.npy")
    assert not (tmp_path / "planted").exists()
    pickle.loads(pickle.dumps(Planted()))
    assert (tmp_path / "planted").exists()  # so it would have been seen


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.arange(3.0))
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npz(), id="an npz: AttributeError"),
        pytest.param(b"PK\x03\x04" + bytes(60), id="a broken zip: BadZipFile"),
        pytest.param(npy_header("0 8", "(10,)"), id="a dtype that does not parse: SyntaxError"),
        pytest.param(npy_header("<f8", "(10,"), id="an open bracket: TokenError"),
        pytest.param(npy_header("<f8", f"({10**23},)"), id="a shape beyond 64 bits: OverflowError"),
        pytest.param(npy_header("<f8", f"({10**18},)"), id="a shape beyond memory: MemoryError"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_broken_npy_raises_no_error_but_ours(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError):
        read(tmp_path, content, name="in.npy")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@relaxed
@given(st.data())
def test_values_as_text_read_back_to_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, data: st.DataObject
) -> None:
    floats = st.floats(width=32 if dtype == "f4" else 64)
    sent = np.array([0.1, *data.draw(st.lists(floats, min_size=1, max_size=20))], dtype)
    text = text_of(sent)
    back = read(tmp_path_factory.getbasetemp(), "\n".join(text) + "\n").samples.astype(dtype)
    np.testing.assert_array_equal(back, sent)
    assert np.signbit(back[~np.isnan(sent)]).tolist() == np.signbit(sent[~np.isnan(sent)]).tolist()
    if dtype == "f4":
        assert text[0] == "0.1", "the shortest text"


@pytest.mark.parametrize(
    ("text", "says"), [("1", True), ("-1.5e3", True), ("nan", True), ("inf", True), ("", False), ("1,5", False)]
)
def test_a_number_is_what_float_reads_and_all_else_is_nan(text: str, says: bool) -> None:
    assert is_number(text) is says
    assert np.isnan(number(text)) == (not says or text == "nan")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The reading and the writing end."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(end)


def test_lines_come_off_a_pipe_as_soon_as_they_are_whole(pipe: tuple[int, int]) -> None:
    out, into = pipe
    lines = lines_of(out)
    os.write(into, b"1\n2\n3")
    assert next(lines) == ["1", "2"]
    os.write(into, b"4\n")
    assert next(lines) == ["34"]
    os.write(into, b" 5 \r\n\n\xff\n6")
    assert next(lines) == ["5", "", "\ufffd"]
    os.write(into, b"7")
    os.close(into)
    assert list(lines) == [["67"]]


def test_a_pipe_that_is_closed_at_once_has_no_lines(pipe: tuple[int, int]) -> None:
    out, into = pipe
    os.close(into)
    assert list(lines_of(out)) == []


@relaxed
@given(st.text("01.,\n \u00e9", max_size=60).map(str.encode), st.lists(st.integers(1, 7), max_size=60))
def test_lines_are_the_same_however_the_reads_split_them(content: bytes, sizes: list[int]) -> None:
    blocks, rest = [], content
    for size in sizes:
        blocks.append(rest[:size])
        rest = rest[size:]
    blocks = [block for block in [*blocks, rest] if block] + [b""]
    with patch.object(os, "read", side_effect=blocks):
        got = list(lines_of(0))
    *whole, last = content.decode().split("\n")
    expected = [line.strip() for line in whole] + ([last.strip()] if last else [])
    assert [line for block in got for line in block] == expected
    assert all(got), "no empty block"


def test_a_pipe_without_line_ends_is_a_data_error_and_not_collected_without_bound(pipe: tuple[int, int]) -> None:
    out, _ = pipe
    blocks = iter([b"1\n", *[b"x" * 65_536] * 1000])
    given_out = []

    def one(fd: int, size: int) -> bytes:
        given_out.append(next(blocks))
        return given_out[-1]

    with patch.object(os, "read", one):
        lines = lines_of(out)
        assert next(lines) == ["1"]
        with pytest.raises(DataError, match="65536"):
            next(lines)
    assert len(given_out) <= 4


def test_a_byte_order_mark_at_the_start_of_a_pipe_is_no_part_of_the_first_line(pipe: tuple[int, int]) -> None:
    out, into = pipe
    os.write(into, b"\xef\xbb\xbf1\n2\n")
    os.close(into)
    assert list(lines_of(out)) == [["1", "2"]]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@relaxed
@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_file_written_whole_holds_the_last_content_and_leaves_nothing_beside_it(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "out.txt"
    for content in (first, second):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert names(folder) == ["out.txt"]


def test_a_write_that_fails_on_the_way_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(b"old")
    full = patch.object(storage, "_beside", side_effect=OSError(28, "No space left on device"))
    with full, pytest.raises(OutputError, match="No space left") as told:
        write_whole(path, b"new content")
    assert str(path) in str(told.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out.txt"]


def test_a_folder_that_is_not_there_or_stands_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "none" / "out.txt", tmp_path / "taken"):
        with pytest.raises(OutputError) as told:
            write_whole(path, b"content")
        assert str(path) in str(told.value)
        with pytest.raises(OutputError) as told:
            check_writable(path)
        assert str(path) in str(told.value)
    assert names(tmp_path) == ["taken"]


def test_what_can_be_written_passes_the_check_and_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    check_writable(path)
    assert names(tmp_path) == []
    path.write_bytes(b"old")
    check_writable(path)
    monkeypatch.chdir(tmp_path)
    check_writable(Path("out.txt"))
    assert (names(tmp_path), path.read_bytes()) == (["out.txt"], b"old")


def test_a_file_is_no_folder_to_write_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OutputError, match="no folder"):
        check_writable(tmp_path / "file" / "out.txt")


def test_a_folder_without_the_right_to_write_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*, dir: Path) -> None:
        asked.append(dir)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage.tempfile, "TemporaryFile", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_writable(tmp_path / "out.txt")
    assert asked == [tmp_path]


@pytest.mark.parametrize("name", ["file/out.txt", "n" * 300])
def test_a_path_that_cannot_be_is_an_output_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(OutputError):
        write_whole(tmp_path / name, b"content")


def test_a_name_that_is_too_long_fails_the_check_with_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        check_writable(tmp_path / ("n" * 300))


def test_the_longest_name_that_a_file_can_have_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"


def test_a_pipe_or_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(path)
        write_whole(path, b"content")
    except OutputError:
        pass  # refused, or written into: both leave it where it is
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_link_stays_a_link_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_bytes(b"old")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real.txt")
    write_whole(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "real.txt").read_bytes() == b"new"
