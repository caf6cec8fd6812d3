"""Recordings in the formats of others, each read by its own library: EDF and BDF, WFDB, XDF, MATLAB, HDF5, Parquet, and BIDS'
`physio.tsv.gz`. Which of several signals is the PPG is told by its name, or asked for."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.files.cells import NONFINITE
from ppgstream.files.layout import is_time
from ppgstream.files.stamps import form_of
from ppgstream.storage import MOST_TEXT, json_of, read_regular

Float64 = NDArray[np.float64]
# A signal is likely the PPG by a word in its name, surely by the whole of it, and not with one of the others.
PPG_NAME = re.compile(
    r"ppg|ple?th|\bbvp\b|\bcardiac\b|photopl|\bpulse( wave)?\b|\binfra-?red\b|\bir\b|\bpox\b|spo2 ?wave", re.IGNORECASE
)
SURE_NAMES = ("ppg", "pleth", "plethysmogram", "bvp", "cardiac")
OTHER_NAME = re.compile(r"rate|temp|quality|conf|peak|beat|foot|feet|index|flag|time|\bhr\b|interval", re.IGNORECASE)
RATE_NAME = re.compile(r"(ppg_?|bvp_?)?(fs|srate|sfreq|sr|sample_?rate|sampling_?(rate|freq(uency)?))(_?hz)?", re.IGNORECASE)
FIRST = 5000  # cells by which the form of a column of time is known
SHOWN = 20  # names of signals in an error
OURS = ("t_s", "denoised", "confidence", "flags")  # columns of a Parquet file that `denoise` wrote
RECORDED = ("raw", "denoised")  # columns of one that `record` wrote
PACKAGES = {  # by the module: what is installed, and the extra
    "edfio": ("edfio", "edf"),
    "wfdb": ("wfdb", "wfdb"),
    "pyxdf": ("pyxdf", "xdf"),
    "h5py": ("h5py", "hdf5"),
    "pyarrow": ("pyarrow", "parquet"),
}


class Signal(NamedTuple):
    """One signal of a file (n,), NaN where nothing was measured. fs: its rate, Hz, where it is told, `said` by what; times:
    of its samples, s, where they have their own; counted: they are whole multiples of 1 / fs. note: what the library says of the
    file; unclear: why its times are unknown."""

    name: str
    samples: Float64
    fs: float | None = None
    said: str = "the file's header"
    times: Float64 | None = None
    note: str = ""
    unclear: str = ""
    counted: bool = False


def reader_of(path: Path) -> Callable[[Path], list[Signal]] | None:
    """What reads a file, by its name; None: text, or an array of NumPy."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(("_physio.tsv.gz", "_physio.tsv")):
        return _bids if _sidecar(path).is_file() else None
    if (suffix == ".dat" and path.with_suffix(".hea").is_file()) or _is_record(path):
        return _wfdb
    return READERS.get(suffix)


def _is_record(path: Path) -> bool:
    """Whether a path is the name of a WFDB record, without an ending."""
    return not path.suffix and path.with_suffix(".hea").is_file() and not path.exists()


def parts_of(path: Path) -> list[Path]:
    """The files that a recording consists of: itself first, then what is read beside it."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(("_physio.tsv.gz", "_physio.tsv")) and _sidecar(path).is_file():
        return [path, _sidecar(path)]
    if _is_record(path):
        return [path.with_suffix(end) for end in (".hea", ".dat") if path.with_suffix(end).is_file()]
    if suffix == ".hea" or (suffix == ".dat" and path.with_suffix(".hea").is_file()):
        return [path, *(other for end in (".hea", ".dat") if (other := path.with_suffix(end)) != path and other.is_file())]
    return [path]


def read_signal(path: Path, column: str | None) -> Signal:
    """The PPG of a file that `reader_of` knows. column: its name, or its number from 0. Raises SourceError, DataError, UsageError
    where it is not clear which signal it is or a library is missing."""
    reader = reader_of(path)
    assert reader is not None
    if not path.exists() and not _is_record(path):
        raise SourceError(f"{path}: cannot read: No such file or directory")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
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
    note = next((str(one.message).split("\n")[0] for one in said if issubclass(one.category, UserWarning)), "")
    return chosen._replace(note=f"{path}: {note:.300}" if note else "")


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
    if len(signals) == 1 or names == list(RECORDED):
        return signals[0]
    plain = {signal.name: signal.name.replace("_", " ") for signal in signals}
    likely = [one for one in signals if PPG_NAME.search(plain[one.name]) and not OTHER_NAME.search(plain[one.name])]
    for found in (likely, [one for one in likely if one.name.rpartition("/")[2].lower() in SURE_NAMES]):
        if len(found) == 1:
            return found[0]
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
        found |= {name: _number(value) for name, value in file.attrs.items() if RATE_NAME.fullmatch(name)}

        def keep(name: str, item: Any) -> None:
            for key, value in item.attrs.items():
                if RATE_NAME.fullmatch(key):
                    found[f"{name}/{key}"] = _number(value)
            if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                found[name] = item[()]

        file.visititems(keep)
    return _of_values(found)


def _number(value: Any) -> NDArray[Any]:
    """An attribute, as a number where it is the text of one."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    try:
        return np.asarray(float(text) if isinstance(text, str) else value)
    except ValueError:
        return np.asarray(value)


def _of_values(values: dict[str, Any]) -> list[Signal]:
    """Signals among named values, of MATLAB or HDF5: vectors, columns of matrices, and in what is nested. A number that is named
    as a rate is that of the signals beside and below it."""
    flat = dict(_flat("", values))
    rates = {name: float(np.ravel(value)[0]) for name, value in flat.items() if _is_rate(name, value)}
    clocks = {name: x for name, value in flat.items() if is_time(name.rpartition("/")[2]) and (x := _numbers(value)) is not None}
    found = []
    for name, value in flat.items():
        x = _numbers(value)
        if x is None or x.size < 2 or name in clocks:
            continue
        x = np.squeeze(x)
        if x.ndim == 2 and x.shape[0] < x.shape[1]:
            x = x.T  # recordings are longer than they are many
        if x.ndim > 2:
            continue
        fs, said = _rate_beside(name, rates)
        columns = x[:, None] if x.ndim == 1 else x
        beside = {at: np.ravel(t) for at, t in clocks.items() if _is_beside(at, name) and t.size == len(columns)}
        times, unclear = _clock(beside)
        for k in range(columns.shape[1]):
            label = name if columns.shape[1] == 1 else f"{name}/{k}"
            found.append(Signal(label, columns[:, k], fs, said, times, unclear=unclear))
    return found


def _is_beside(name: str, signal: str) -> bool:
    """Whether what has this name is said of a signal: it lies beside it, in a group that holds it, or in it."""
    group = name.rpartition("/")[0]
    return not group or signal == group or signal.startswith(f"{group}/")


def _rate_beside(signal: str, rates: dict[str, float]) -> tuple[float | None, str]:
    """The rate that is said nearest to a signal, and by what; None where two differ."""
    beside = [name for name in rates if _is_beside(name, signal)]
    if not beside:
        return None, ""
    deepest = max(name.count("/") for name in beside)
    nearest = [name for name in beside if name.count("/") == deepest]
    same = len({rates[name] for name in nearest}) == 1
    return (rates[nearest[0]], f"its {nearest[0]}") if same else (None, "")


def _clock(columns: dict[str, NDArray[Any]]) -> tuple[Float64 | None, str]:
    """The times of the only column of time that moves, s from its first; or why they are not known."""
    moving = {name: t for name, t in columns.items() if len(t) > 1 and (t[1:] != t[:-1]).any()}
    if len(moving) > 1:
        return None, f"{len(moving)} columns of time ({', '.join(moving)}): with --fs HZ --trust-fs none is looked at"
    return next(((_seconds(t, name), "") for name, t in moving.items()), (None, ""))


def _is_rate(name: str, value: Any) -> bool:
    return RATE_NAME.fullmatch(name.rpartition("/")[2]) is not None and np.size(value) == 1 and _numbers(value) is not None


def _flat(under: str, values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{under}{name}/", value)
        elif not isinstance(value, str | bytes):
            yield f"{under}{name}", value


def _parquet(path: Path) -> list[Signal]:
    table = _library(path, "pyarrow.parquet").ParquetFile(path).read()
    stated = {key.decode(errors="replace"): value for key, value in (table.schema.metadata or {}).items()}
    rate = next((float(value) for key, value in stated.items() if RATE_NAME.fullmatch(key) and _is_number(value)), None)
    if set(RECORDED) <= set(table.column_names):  # a live stream of ours: what was heard is wanted
        heard = table.column("raw").is_valid().to_numpy()
        t, *waves = (table.column(name).to_numpy()[heard].astype(np.float64) for name in ("t_s", *RECORDED))
        return [Signal(name, x, rate, "its metadata", t, counted=True) for name, x in zip(RECORDED, waves, strict=True)]
    if set(OURS) <= set(table.column_names):  # an output of ours: the wave is what is wanted
        there = table.column("denoised").is_valid().to_numpy()  # a recorded beat may stand alone
        t, wave, flags = (table.column(name).to_numpy()[there] for name in ("t_s", "denoised", "flags"))
        wave = np.where((flags.astype(np.int64) & NONFINITE) != 0, np.nan, wave.astype(np.float64))
        return [Signal("denoised", wave, rate, "its metadata", t, counted=b"recording" in (table.schema.metadata or {}))]
    signals: list[tuple[str, Float64]] = []
    clocks: dict[str, NDArray[Any]] = {}
    for k, name in enumerate(table.column_names):
        values = table.column(k).to_numpy()
        if values.dtype.kind in "mM" or ((x := _numbers(values)) is not None and is_time(name)):
            clocks[name] = values
        elif x is not None:
            signals.append((name, x))
    times, unclear = _clock(clocks)
    return [Signal(name, x, rate, "its metadata", times, unclear=unclear) for name, x in signals]


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
    needed = {".parquet": "pyarrow", ".edf": "edfio", ".bdf": "edfio", ".hea": "wfdb"}.get(path.suffix.lower())
    if needed is not None:
        _library(path, needed, "written")
    if needed == "wfdb" and not re.fullmatch("[A-Za-z0-9_-]{1,100}", path.stem):
        raise UsageError(f"{path}: WFDB's names are of A-Z a-z 0-9 _ -: give it another")


def written_at(path: Path) -> list[Path]:
    """The files that an output consists of."""
    return [path, *(path.with_suffix(end) for end in (".dat", ".atr"))] if path.suffix.lower() == ".hea" else [path]


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
        signals = [
            signal(wave, it.fs, label="PPG"),
            signal(it.confidence.astype(np.float64), it.fs, label="Confidence", physical_range=(0, 1)),
        ]
        content = io.BytesIO()
        made(signals, annotations=sorted(annotations, key=lambda one: one.onset)).write(content)
    except ValueError as error:
        raise DataError(f"{suffix}: cannot hold this recording: {error}") from error
    file.write(content.getvalue())


def write_wfdb(path: Path, it: Written) -> None:
    """A record of WFDB: `path` (.hea) and .dat beside it, signals PPG (24 bits over its range; NaN as its invalid value) and
    Confidence; .atr with sure beats, if there are any. Each is written whole, the header last. Raises DataError for what the
    format cannot hold, OSError."""
    wfdb = importlib.import_module("wfdb")
    signals = np.stack([it.denoised.astype(np.float64), it.confidence.astype(np.float64)], axis=1)
    header, *others = written_at(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ppgstream-") as beside:
        try:
            names = ["PPG", "Confidence"]
            wfdb.wrsamp(path.stem, it.fs, ["NU", "NU"], names, signals, fmt=["24", "24"], write_dir=beside)
            if len(it.beats):
                wfdb.wrann(path.stem, "atr", it.beats, symbol=["N"] * len(it.beats), fs=it.fs, write_dir=beside)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"{path}: WFDB cannot hold this recording: {error}") from error
        for place in (*others, header):
            made = Path(beside) / place.name
            if made.exists():
                made.replace(place)
            else:
                place.unlink(missing_ok=True)  # the beats of another recording


def _seconds(x: NDArray[Any], name: str) -> Float64 | None:
    """A column of time as seconds, by its kind, its name and its values, as a csv's would be; None: it only counts."""
    if x.dtype.kind in "mM":
        there = x[~np.isnat(x)]
        since = x if x.dtype.kind == "m" else x - there[0]
        return np.where(np.isnat(x), np.nan, since.astype("m8[ns]").astype(np.int64) / 1e9)
    texts = [str(value) for value in x.tolist()]
    form = form_of(texts[:FIRST], name)
    return None if form is None or form.counter else form.seconds(texts)


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
