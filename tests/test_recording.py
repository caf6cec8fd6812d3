"""Files and pipes: what is no number keeps its place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ppgstream.errors import DataError, OutputError, SourceError, UsageError
from ppgstream.recording import check_writable, lines_of, read, text_of, write_whole


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_one_value_a_line(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.txt", "1\n 2.5 \n-3e2\n")).samples.tolist() == [1, 2.5, -300]


def test_a_line_that_is_no_number_is_an_invalid_sample_in_its_place(tmp_path: Path) -> None:
    found = read(put(tmp_path, "a.txt", "1\noops\nnan\n\n4\n"))
    np.testing.assert_array_equal(found.samples, [1, np.nan, np.nan, np.nan, 4])
    assert found.bad == 2  # `nan` is something a sensor may say
    assert "line 2" in found.first_bad
    assert "oops" in found.first_bad


def test_values_on_one_line_are_samples_too(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.txt", "0.25 0.5 0.75 ")).samples.tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_column_of_a_table_by_name_or_number(delimiter: str, tmp_path: Path) -> None:
    rows = [("t", "ppg"), ("0", "5"), ("1", "x"), ("2", "7")]
    path = put(tmp_path, "a.csv", "".join(delimiter.join(row) + "\n" for row in rows))
    for column in ("ppg", "1"):
        found = read(path, column=column)
        np.testing.assert_array_equal(found.samples, [5, np.nan, 7])
        assert "line 3" in found.first_bad
    with pytest.raises(UsageError, match="t, ppg"):
        read(path)
    with pytest.raises(UsageError, match="no column 'hr'"):
        read(path, column="hr")


def test_a_table_of_one_column_needs_no_choice_and_may_lack_a_header(tmp_path: Path) -> None:
    assert read(put(tmp_path, "a.csv", "1\n2\n")).samples.tolist() == [1, 2]
    assert read(put(tmp_path, "b.csv", "ppg\n1\n2\n")).samples.tolist() == [1, 2]


def test_numpy_arrays_of_one_or_two_dimensions(tmp_path: Path) -> None:
    for shape in ((5,), (2, 5)):
        np.save(tmp_path / "a.npy", np.ones(shape, np.int16))
        assert read(tmp_path / "a.npy").samples.shape == shape


def test_arrays_that_are_no_recordings_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    put(tmp_path, "garbage.npy", "garbage")
    for name in ("cube", "words", "pickle", "garbage"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / f"{name}.npy")


def test_files_without_a_valid_sample_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zip.txt").write_bytes(b"PK\x03\x04\0\0")
    for path in (put(tmp_path, "empty.txt", ""), put(tmp_path, "words.txt", "some\nwords\n"), tmp_path / "zip.txt"):
        with pytest.raises(DataError, match=path.name):
            read(path)


def test_a_file_that_is_not_there_is_a_source_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nope.txt", tmp_path):
        with pytest.raises(SourceError):
            read(path)


def test_lines_come_out_of_a_pipe_as_they_are_complete() -> None:
    r, w = os.pipe()
    lines = lines_of(r)
    os.write(w, b"1\n2\n3")
    assert next(lines) == ["1", "2"]
    os.write(w, b"4\r\n")
    assert next(lines) == ["34"]
    os.write(w, b"5")
    os.close(w)
    assert list(lines) == [["5"]]
    os.close(r)


def test_a_line_without_end_is_not_collected_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.write_bytes(b"7" * 500_000)
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(DataError, match="65536"):
        list(lines_of(fd))
    os.close(fd)


def test_text_reads_back_to_the_same_bits() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(np.array(text_of(x), np.float32), x)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(OutputError):
        write_whole(tmp_path / "no" / "a.txt", b"x")
    with pytest.raises(OutputError):
        check_writable(tmp_path / "no" / "a.txt")
    with pytest.raises(OutputError):
        check_writable(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
