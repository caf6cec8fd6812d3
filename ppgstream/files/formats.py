"""Recordings in the formats of others, each read by its own library: EDF and BDF, WFDB, XDF, MATLAB, HDF5, Parquet, and BIDS'
`physio.tsv.gz`. Which of several signals is the PPG is told by its name, or asked for."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.files.cells import NONFINITE
from ppgstream.files.layout import is_time
from ppgstream.storage import MOST_TEXT, json_of, read_regular

Float64 = NDArray[np.float64]
PPG_NAME = re.compile(r"ppg|ple?th|\bbvp\b|photopl|\bpulse( wave)?\b|\binfra-?red\b|\bir\b|\bpox\b|spo2 ?wave", re.IGNORECASE)
RATE_NAME = re.compile(r"(ppg_?|bvp_?)?(fs|srate|sfreq|sr|sample_?rate|sampling_?(rate|freq(uency)?))(_?hz)?", re.IGNORECASE)
SHOWN = 20  # names of signals in an error
OURS = ("t_s", "denoised", "confidence", "flags")  # columns of a Parquet file that `denoise` wrote
PACKAGES = {  # by the module: what is installed, and the extra
    "edfio": ("edfio", "edf"),
    "wfdb": ("wfdb", "wfdb"),
    "pyxdf": ("pyxdf", "xdf"),
    "h5py": ("h5py", "hdf5"),
    "pyarrow": ("pyarrow", "parquet"),
}


class Signal(NamedTuple):
    """One signal of a file (n,), NaN where nothing was measured. fs: its rate, Hz, where the file says it, `said` by what; times:
    of its samples, s, where they have their own."""

    name: str
    samples: Float64
    fs: float | None = None
    said: str = "the file's header"
    times: Float64 | None = None


def reader_of(path: Path) -> Callable[[Path], list[Signal]] | None:
    """What reads a file, by its name; None: text, or an array of NumPy."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(("_physio.tsv.gz", "_physio.tsv")):
        return _bids if _sidecar(path).is_file() else None
    if suffix == ".dat" and path.with_suffix(".hea").is_file():
        return _wfdb
    return READERS.get(suffix)


def read_signal(path: Path, column: str | None) -> Signal:
    """The PPG of a file that `reader_of` knows. column: its name, or its number from 0. Raises SourceError, DataError, UsageError
    where it is not clear which signal it is or a library is missing."""
    reader = reader_of(path)
    assert reader is not None
    if not path.exists():
        raise SourceError(f"{path}: cannot read: No such file or directory")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about what they repair
            signals = reader(path)
    except (SourceError, DataError, UsageError):
        raise
    except OSError as error:
        raise (SourceError if error.strerror else DataError)(f"{path}: cannot read: {error.strerror or error}") from error
    except Exception as error:  # whatever a library raises for what is not of its format
        told = str(error).split("\n")[0] or type(error).__name__
        raise DataError(f"{path}: not read as {path.suffix or path.name}: {told:.200}") from error
    chosen = _chosen(path, signals, column)
    if not np.isfinite(chosen.samples).any():
        raise DataError(f"{path}: no valid sample in {chosen.name}")
    return chosen


def _chosen(path: Path, signals: list[Signal], column: str | None) -> Signal:
    names = [signal.name for signal in signals]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN]) + more
    if not signals:
        raise DataError(f"{path}: holds no signal of numbers")
    if column is not None:
        for known, asked in ((names, column), ([name.strip().lower() for name in names], column.strip().lower())):
            if known.count(asked) == 1:
                return signals[known.index(asked)]
        if re.fullmatch("[0-9]{1,6}", column) and int(column) < len(signals):
            return signals[int(column)]
        raise UsageError(f"{path}: no signal {column!r:.100}: it has {len(signals)} ({listed}); the first is 0")
    if len(signals) == 1:
        return signals[0]
    likely = [signal for signal in signals if PPG_NAME.search(signal.name.replace("_", " "))]
    if len(likely) == 1:
        return likely[0]
    raise UsageError(f"{path}: {len(signals)} signals: say which with --column ({listed})")


def _library(path: Path, module: str, done: str = "read") -> Any:
    package, extra = PACKAGES[module.split(".", maxsplit=1)[0]]
    if importlib.util.find_spec(module.split(".", maxsplit=1)[0]) is None:
        raise UsageError(f"{path}: is {done} with {package}: pip install {package}, or ppgstream[{extra}]")
    return importlib.import_module(module)


def _numbers(values: Any) -> Float64 | None:
    """As float64; None for what is no number."""
    found = np.asarray(values)
    return np.asarray(found, np.float64) if found.dtype.kind in "fiub" else None


def _edf(path: Path) -> list[Signal]:
    edfio = _library(path, "edfio")
    found = edfio.read_bdf(path) if path.suffix.lower() == ".bdf" else edfio.read_edf(path)
    return [Signal(one.label.strip() or str(k), np.asarray(one.data, np.float64), float(one.sampling_frequency)) for k, one in
            enumerate(found.signals)]  # fmt: skip


def _wfdb(path: Path) -> list[Signal]:
    wfdb = _library(path, "wfdb")
    header = path.with_suffix(".hea")
    if not header.is_file():
        raise SourceError(f"{header}: cannot read: No such file or directory")
    found = wfdb.rdrecord(str(path.with_suffix("")), smooth_frames=False, return_res=64)
    per_frame = found.samps_per_frame or [1] * found.n_sig
    return [
        Signal(name, np.asarray(x, np.float64), float(found.fs) * n)
        for name, x, n in zip(found.sig_name, found.e_p_signal, per_frame, strict=True)
    ]


def _xdf(path: Path) -> list[Signal]:
    streams, _ = _library(path, "pyxdf").load_xdf(str(path), verbose=False)
    found = []
    for stream in streams:
        info, x = stream["info"], _numbers(stream["time_series"])
        if x is None or not len(x):
            continue
        x = x[:, None] if x.ndim == 1 else x
        labels = _labels(info, x.shape[1])
        times = np.asarray(stream["time_stamps"], np.float64)
        stated = float(info["nominal_srate"][0])
        for k, label in enumerate(labels):
            name = info["name"][0] + (f"/{label}" if len(labels) > 1 else "")
            found.append(Signal(name, x[:, k], stated or None, "its nominal rate", times - times[0]))
    return found


def _labels(info: Any, n: int) -> list[str]:
    """The names of a stream's channels; their numbers where it has none."""
    try:
        labels = [str(channel["label"][0]) for channel in info["desc"][0]["channels"][0]["channel"]]
    except (KeyError, IndexError, TypeError):
        labels = []
    return labels if len(labels) == n else [str(k) for k in range(n)]


def _mat(path: Path) -> list[Signal]:
    from scipy.io import loadmat

    try:
        found = loadmat(path, simplify_cells=True)
    except NotImplementedError:  # version 7.3 is HDF5
        return _hdf5(path)
    return _of_values({name: value for name, value in found.items() if not name.startswith("__")})


def _hdf5(path: Path) -> list[Signal]:
    h5py = _library(path, "h5py")
    found: dict[str, Any] = {}
    with h5py.File(path, "r") as file:
        found |= {name: value for name, value in file.attrs.items() if RATE_NAME.fullmatch(name)}

        def keep(name: str, item: Any) -> None:
            for key, value in item.attrs.items():
                if RATE_NAME.fullmatch(key):
                    found[f"{name}/{key}"] = np.asarray(value)
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                found[name] = item[()]

        file.visititems(keep)
    return _of_values(found)


def _of_values(values: dict[str, Any]) -> list[Signal]:
    """Signals among named values, of MATLAB or HDF5: vectors, columns of matrices, and in what is nested. A number that is named
    as a rate is that of the signals beside and below it."""
    flat = dict(_flat("", values))
    rates = {name: float(np.ravel(value)[0]) for name, value in flat.items() if np.size(value) == 1 and _is_rate(name)}
    found = []
    for name, value in flat.items():
        x = _numbers(value)
        if x is None or x.size < 2 or is_time(name.rpartition("/")[2]):
            continue
        x = np.squeeze(x)
        if x.ndim == 2 and x.shape[0] < x.shape[1]:
            x = x.T  # recordings are longer than they are many
        if x.ndim > 2:
            continue
        own = max((at for at in rates if name.startswith(at.rpartition("/")[0])), key=len, default=None)
        columns = x[:, None] if x.ndim == 1 else x
        for k in range(columns.shape[1]):
            label = name if columns.shape[1] == 1 else f"{name}/{k}"
            found.append(Signal(label, columns[:, k], None if own is None else rates[own], f"its {own}"))
    return found


def _is_rate(name: str) -> bool:
    return RATE_NAME.fullmatch(name.rpartition("/")[2]) is not None


def _flat(under: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{under}{name}/", value)
        elif not isinstance(value, str | bytes):
            yield f"{under}{name}", value


def _parquet(path: Path) -> list[Signal]:
    table = _library(path, "pyarrow.parquet").read_table(path)
    stated = {key.decode(errors="replace"): value for key, value in (table.schema.metadata or {}).items()}
    rate = next((float(value) for key, value in stated.items() if RATE_NAME.fullmatch(key) and _is_number(value)), None)
    columns: dict[str, Float64] = {}
    times: Float64 | None = None
    if set(OURS) <= set(table.column_names):  # an output of ours: the wave is what is wanted
        wave, flags = (table.column(name).to_numpy() for name in ("denoised", "flags"))
        columns["denoised"] = np.where((flags & NONFINITE) != 0, np.nan, wave.astype(np.float64))
        return [Signal("denoised", columns["denoised"], rate, "its metadata", _seconds(table.column("t_s").to_numpy(), "t_s"))]
    for name in table.column_names:
        values = table.column(name).to_numpy()
        if values.dtype.kind == "M":
            times = (values - values[0]).astype("m8[ns]").astype(np.float64) / 1e9 if len(values) else None
        elif (x := _numbers(values)) is not None:
            columns[name] = x
    clocks = [name for name in columns if is_time(name)]
    if times is None and len(clocks) == 1:
        times = _seconds(columns[clocks[0]], clocks[0])
    return [Signal(name, x, rate, "its metadata", times) for name, x in columns.items() if name not in clocks]


class Written(NamedTuple):
    """What is written of a recording (n,). seconds: of its samples, from 0; beats: the indexes of those that are sure; rates: the
    times and values of the sure heart rates, s and bpm."""

    fs: float
    seconds: Float64
    denoised: NDArray[np.floating]
    confidence: NDArray[np.float32]
    flags: NDArray[np.uint16]
    beats: NDArray[np.int64]
    rates: tuple[Float64, NDArray[np.float32]]


def check_writer(path: Path) -> None:
    """Raises UsageError where the library that writes a file is missing."""
    needed = {".parquet": "pyarrow", ".edf": "edfio", ".bdf": "edfio"}.get(path.suffix.lower())
    if needed is not None:
        _library(path, needed, "written")


def write_parquet(file: IO[bytes], it: Written) -> None:
    """Columns t_s, denoised, confidence, flags and beat (whether a sure beat's peak is there); the rate is in the metadata."""
    pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    beat = np.zeros(len(it.denoised), np.bool_)
    beat[it.beats] = True
    columns = {"t_s": it.seconds, "denoised": it.denoised, "confidence": it.confidence, "flags": it.flags, "beat": beat}
    parquet.write_table(pa.table(columns).replace_schema_metadata({"fs": repr(it.fs), "written_by": "ppgstream"}), file)


def write_edf(file: IO[bytes], suffix: str, it: Written) -> None:
    """Signals PPG (the wave; 16 bits over its range in EDF, 24 in BDF) and Confidence; annotations for sure beats and, every 2 s,
    sure heart rates. Raises DataError where the format cannot hold it."""
    edfio = importlib.import_module("edfio")
    made, signal = (edfio.Bdf, edfio.BdfSignal) if suffix == ".bdf" else (edfio.Edf, edfio.EdfSignal)
    annotations = [edfio.EdfAnnotation(float(it.seconds[k]), None, "beat") for k in it.beats]
    annotations += [edfio.EdfAnnotation(float(t), None, f"{bpm:.1f} bpm") for t, bpm in zip(*it.rates, strict=True)]
    wave = np.nan_to_num(it.denoised.astype(np.float64))
    try:
        low, high = _eight(wave.min(), up=False), _eight(wave.max(), up=True)
        signals = [
            signal(wave, it.fs, label="PPG", physical_range=(low, high if high > low else low + 1)),
            signal(it.confidence.astype(np.float64), it.fs, label="Confidence", physical_range=(0, 1)),
        ]
        content = io.BytesIO()
        made(signals, annotations=sorted(annotations, key=lambda one: one.onset)).write(content)
    except ValueError as error:
        raise DataError(f"{suffix}: cannot hold this recording: {error}") from error
    file.write(content.getvalue())


def _eight(value: float, *, up: bool) -> float:
    """A number that is written in eight characters, as EDF's header has room for: the next above or below."""
    for digits in range(7, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 8:
            step = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1) if value else 0.0
            found = float(text)
            if (found < value) if up else (found > value):
                found += step if up else -step
            if len(f"{found:.{digits}g}") <= 8:
                return float(f"{found:.{digits}g}")
    raise ValueError(f"the value {value:g} has no room in its header")


def _seconds(x: Float64, name: str) -> Float64:
    """A column of time as seconds from its first."""
    unit = next((factor for end, factor in (("_ns", 1e-9), ("_us", 1e-6), ("_ms", 1e-3)) if name.lower().endswith(end)), 1.0)
    return (x - x[0]) * unit if len(x) else x


def _is_number(value: bytes) -> bool:
    try:
        return float(value) > 0
    except ValueError:
        return False


def _sidecar(path: Path) -> Path:
    return path.with_name(re.sub(r"\.tsv(\.gz)?$", ".json", path.name, flags=re.IGNORECASE))


def _bids(path: Path) -> list[Signal]:
    """BIDS' physiological recordings: a table without names, which are in the JSON beside it, with the rate."""
    try:
        told = json_of(read_regular(_sidecar(path), MOST_TEXT))
        names, fs = [str(name) for name in told["Columns"]], float(told["SamplingFrequency"])
    except (ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"{_sidecar(path)}: must state Columns and SamplingFrequency: {error}") from error
    table = np.genfromtxt(path, delimiter="\t", ndmin=2, missing_values="n/a")
    if table.shape[1] != len(names):
        raise DataError(f"{path}: {table.shape[1]} columns, and {len(names)} names in {_sidecar(path).name}")
    return [Signal(name, table[:, k], fs, _sidecar(path).name) for k, name in enumerate(names)]


READERS: dict[str, Callable[[Path], list[Signal]]] = {
    ".edf": _edf,
    ".bdf": _edf,
    ".hea": _wfdb,
    ".xdf": _xdf,
    ".mat": _mat,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _parquet,
}
