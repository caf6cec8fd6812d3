"""Recordings in NumPy's files: arrays of numbers, and what `denoise` wrote."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, UsageError
from ppgstream.files.cells import NONFINITE
from ppgstream.files.opened import MOST_UNPACKED


class Arrays(NamedTuple):
    """samples (n,) or (rows, n), NaN where an output of ours says so; fs, Hz, and times (n,), s, where the file holds them.
    counted: the times are whole multiples of 1 / fs."""

    samples: NDArray[np.float64]
    fs: float | None = None
    times: NDArray[np.float64] | None = None
    counted: bool = False


def read_arrays(path: Path, column: str | None, *, transpose: bool) -> Arrays:
    """An .npy, 1-D or 2-D, or an .npz of `denoise`. Raises DataError for anything else, UsageError for a column that it lacks."""
    fs = times = None
    try:
        array = np.load(path, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as archive:
                if "denoised" not in archive.files:
                    raise DataError(
                        f"{path}: an npz without `denoised`: only those that `ppgstream denoise` and `record` wrote are read"
                    )
                _sizes(path, archive)
                fs = float(archive["fs"]) if "fs" in archive.files else None
                times = np.asarray(archive["t_s"], np.float64) if "t_s" in archive.files else None
                if "denoised_heard" in archive.files:
                    return _recorded(path, archive, column, fs, times)
                array = np.array(archive["denoised"])  # what is no array is given as bytes
                if (
                    "flags" in archive.files
                    and (flags := np.asarray(archive["flags"])).shape == array.shape
                    and array.dtype.kind == "f"
                ):
                    array[(flags & NONFINITE) != 0] = np.nan
    except _NOT_NPY as error:
        # NumPy's words for a file that is none of its own advise to load it unsafely.
        told = "no .npy or .npz file" if "pickle" in str(error) else str(error)
        raise DataError(f"{path}: not an array of numbers: {told}") from error
    if array.dtype.kind not in "iuf" or array.ndim not in (1, 2):
        raise DataError(
            f"{path}: an array of {array.dtype} with {array.ndim} dimensions: must be numbers, 1-D or 2-D (rows are recordings)"
        )
    if transpose:
        if array.ndim != 2:
            raise UsageError(f"--transpose: {path} has 1 dimension")
        array = array.T
    if column is not None:
        if array.ndim != 2 or not re.fullmatch("[0-9]{1,6}", column) or int(column) >= array.shape[1]:
            raise UsageError(f"{path}: no column {column!r:.100}: an array of shape {array.shape}; the first is 0")
        array = array[:, int(column)]
    samples = array.astype(np.float64)
    if not np.isfinite(samples).any():
        raise DataError(f"{path}: no valid sample")
    return Arrays(samples, fs, times if times is not None and times.shape == array.shape else None)


def _recorded(path: Path, archive: Any, column: str | None, fs: float | None, times: NDArray[np.float64] | None) -> Arrays:
    """What `record` wrote: the raw samples that were heard, or with `column` the denoised ones there."""
    if column not in (None, "raw", "denoised"):
        raise UsageError(f"{path}: no column {column!r:.100}: it has raw and denoised")
    name = column or ("raw" if "raw" in archive.files else "denoised")
    if name not in archive.files:
        raise UsageError(f"{path}: no column {name!r}: it has denoised alone")
    samples = np.array(archive[name], np.float64)
    if name == "denoised":
        samples[(np.asarray(archive["flags"]) & NONFINITE) != 0] = np.nan
    heard = np.asarray(archive["raw_heard" if "raw" in archive.files else "denoised_heard"]).astype(np.bool_)
    if times is None or not samples.shape == times.shape == heard.shape or samples.ndim != 1:
        raise DataError(f"{path}: its columns differ in length")
    if not np.isfinite(samples[heard]).any():
        raise DataError(f"{path}: no valid sample")
    return Arrays(samples[heard], fs, times[heard], counted=True)


def _sizes(path: Path, archive: Any) -> None:
    """Refuse an archive that unpacks to more than a recording has, before it does."""
    size = sum(one.file_size for one in archive.zip.infolist())
    if size > MOST_UNPACKED:
        raise DataError(f"{path}: unpacks to {size:,} bytes: at most {MOST_UNPACKED:,}")


# What NumPy's reader raises for a file that is no array: its header is parsed as Python, its size is taken on trust.
_NOT_NPY = (
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,  # RecursionError and NotImplementedError are such
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
