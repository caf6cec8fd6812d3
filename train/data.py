"""Clean recordings to train and test on: the public ones of `../shared/data` (or any folder laid out like it), and synthetic
people.

Splits are by recording, and for BIDMC by patient: the splits of docs/bench.md, fixed here. Recordings of one's own: `own.py`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.core.resampling import resampled
from ppgstream.errors import DataError, SourceError
from ppgstream.files import clean as clean_rule
from ppgstream.lab import synthetic
from ppgstream.storage import open_npz

Float64 = NDArray[np.float64]
FS = clean_rule.FS
SNIPPET = clean_rule.WINDOW  # samples: 8 s, the length of a course row and of a judged BIDMC window
COURSE_COPIES = 42  # rows of one recording in the course's file, each shifted by 3 samples
COURSE_SPLIT = {"train": range(0, 102), "validation": range(102, 117), "test": range(117, 146)}
BIDMC_HELD_OUT = 4  # patients of BIDMC's train split kept for validation
SIDES = ("train", "validation", "test")
SYNTHETIC_S, SYNTHETIC_PEOPLE = 20.0, {"train": 300, "validation": 40, "test": 40}
ROUNDED = 5  # of six synthetic people have the waves of `synthetic.rounded`
BESIDE_REAL = 6  # times as many synthetic people where they are trained on beside real ones
WRIST_SPLIT = {
    "test": 0.2,
    "validation": 0.3,
}  # people lie in 0..1 by a hash: those below the first test, up to the second validate
WRIST_AT_REST_G = 0.05  # median deviation of the acceleration from 1 g, over 8 s: above it, a steady rhythm may be arm swing
ATTRIBUTION = {
    "course": "PPG_1000samples of the 2019 KOSOMBE summer school (joonnyong/Deep-Learning-based-Biosignal-Processing); no "
    "licence stated",
    "bidmc": "BIDMC PPG and Respiration Dataset 1.0.0, PhysioNet, Open Data Commons Attribution: Pimentel et al. 2016, "
    "10.1109/TBME.2016.2613124; Goldberger et al. 2000, 10.1161/01.CIR.101.23.e215",
    "wrist": "Stress-Predict (Empatica E4), MIT: Iqbal et al. 2022, 10.3390/s22218135; CogWear 1.0.0 (Empatica E4, Samsung "
    "Galaxy Watch4), PhysioNet, "
    "Open Database License 1.0: Grzeszczyk et al. 2023, 10.13026/5f6t-b637; Wearable Exam Stress 1.0.0 (Empatica E4), "
    "PhysioNet, Open Data Commons "
    "Attribution: Amin, Wickramasuriya, Faghih 2022; Goldberger et al. 2000, 10.1161/01.CIR.101.23.e215",
    "synthetic": "ppgstream's own generator (ppgstream/lab/synthetic.py)",
    "own": "recordings of one's own, not distributed",
}


class Clean(NamedTuple):
    """Clean stretches, each (samples,) float64 at 125 Hz, and the recording each comes from."""

    stretches: list[Float64]
    recording: list[str]

    @property
    def seconds(self) -> float:
        return sum(len(s) for s in self.stretches) / FS


class Set(NamedTuple):
    """A data set with its split: clean stretches by side ("train", "validation", "test"; a side may be empty)."""

    name: str
    sides: dict[str, Clean]

    def recordings(self, side: str) -> list[str]:
        return sorted(set(self.sides[side].recording))


def course(folder: Path, split: str) -> Clean:
    """The course's recordings, 8 s each: the first copy; to train on, the last one too, since together they hold all samples."""
    rows = _course_rows(folder / "course" / "PPG_1000samples.zip")
    copies = (0, COURSE_COPIES - 1) if split == "train" else (0,)
    chosen = [(number, number * COURSE_COPIES + copy) for number in COURSE_SPLIT[split] for copy in copies]
    if len(rows) < COURSE_COPIES * COURSE_SPLIT["test"].stop or rows.shape[1] != SNIPPET:
        raise DataError(f"{folder / 'course'}: {rows.shape[0]} rows of {rows.shape[1]} samples, not the course's 6132 of 1000")
    return Clean([rows[row].astype(np.float64) for _, row in chosen], [f"course_{number}" for number, _ in chosen])


@lru_cache(maxsize=1)
def _course_rows(path: Path) -> NDArray[np.float32]:
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("PPG_1000samples.txt")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot read the course's recordings: {error}") from error
    try:
        return np.loadtxt(io.BytesIO(text), dtype=np.float32, delimiter="," if b"," in text[:4000] else None, ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: not numbers in rows: {error}") from error


class Reference(NamedTuple):
    """A whole recording (m,) at 125 Hz, its patient, and of windows of 8 s the time in s after each, and the heart rate in them
    by ECG, bpm; those alone whose reference its makers trust."""

    person: str
    ppg: Float64
    stop_s: Float64
    bpm: Float64


def bidmc_with_ecg(folder: Path) -> list[Reference]:
    """The recordings of BIDMC's `public_test`, 8 min each, with their heart rates by ECG."""
    z = _bidmc_arrays(folder / "bidmc" / "bidmc_public.npz", BIDMC_ECG_ARRAYS)
    found = []
    for record in np.flatnonzero(z["split"].astype(str) == "public_test"):
        sure = z["ref_ok_win"][record].astype(bool) & np.isfinite(z["hr_ecg_win"][record])
        stop = z["win_t0"][sure].astype(np.float64) + float(z["win_s"])
        ppg = z["ppg"][record].astype(np.float32).astype(np.float64)
        found.append(Reference(str(z["mimic_patient"][record]), ppg, stop, z["hr_ecg_win"][record][sure].astype(np.float64)))
    return found


def bidmc(folder: Path, split: str) -> Clean:
    """What BIDMC's judges called clean, by patient: overlapping clean windows joined to stretches of 8 s and more."""
    z = _bidmc_arrays(folder / "bidmc" / "bidmc_public.npz")
    record_split, patient = z["split"].astype(str), z["mimic_patient"].astype(str)
    held_out = sorted(set(patient[record_split == "train"]))[-BIDMC_HELD_OUT:]
    chosen = {
        "train": (record_split == "train") & ~np.isin(patient, held_out),
        "validation": (record_split == "train") & np.isin(patient, held_out),
        "test": record_split == "public_test",
    }[split]
    stretches, names = [], []
    for record in np.flatnonzero(chosen):
        starts = (z["win_t0"][z["ppg_clean_win"][record].astype(bool)] * FS).astype(int)
        for part in clean_rule.joined(starts):
            stretches.append(z["ppg"][record, part[0] : part[-1] + SNIPPET].astype(np.float32).astype(np.float64))
            names.append(f"{z['subject'][record]}_{patient[record]}")
    return Clean(stretches, names)


WELLTORY_GREEN = ("w20", "w21")  # whose red channel is saturated
WELLTORY_FS = 30.0  # Hz, about


def welltory(folder: Path) -> Clean:
    """The clean stretches of Welltory's phone-camera recordings (finger, about 30 Hz, irregular): red, or green where red is
    saturated, turned upright. All of them are for testing."""
    path = folder / "welltory" / "welltory.npz"
    stretches, names = [], []
    try:
        with open_npz(path) as z:
            for name in sorted(key.removesuffix("_t") for key in z.files if key.endswith("_t")):
                t, value = z[f"{name}_t"].astype(np.float64), z[f"{name}_rgb"][:, int(name in WELLTORY_GREEN)].astype(np.float64)
                even = np.arange(t[0], t[-1], 1 / WELLTORY_FS)
                found, _ = clean_rule.choose(-np.interp(even, t, value), WELLTORY_FS, name)
                stretches += found
                names += [f"welltory_{name}"] * len(found)
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot read the Welltory recordings: {error}") from error
    return Clean(stretches, names)


WRIST_SOURCES = ("stress_predict", "cogwear", "exam_noise")
WATCH_FS = 25.0  # Hz, about: its samples carry times


def wrist(folder: Path, split: str) -> Clean:
    """The clean stretches of wearers of wrist sensors, by person: "wrist_e4_<recording>" and "wrist_watch_<recording>" (Galaxy
    Watch, whose pulses end at 11 Hz). Of those with an accelerometer only what was recorded at rest."""
    stretches: list[Float64] = []
    names: list[str] = []
    for path in (folder / "wrist" / f"{source}.npz" for source in WRIST_SOURCES):
        if not path.is_file():
            continue
        try:
            with open_npz(path) as z:
                for name, person in zip(z["names"].astype(str), z["person"].astype(str), strict=True):
                    if _side_of(person) != split:
                        continue
                    for sensor, own in (("e4", _e4(z, name)), ("watch", _watch(z, name))):
                        stretches += own
                        names += [f"wrist_{sensor}_{name}"] * len(own)
        except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
            raise SourceError(f"{path}: cannot read the wrist recordings: {error}") from error
    return Clean(stretches, names)


def _side_of(person: str) -> str:
    at = clean_rule.place(person)
    return next((side for side, below in WRIST_SPLIT.items() if at < below), "train")


def _e4(z: Mapping[str, NDArray[Any]], name: str) -> list[Float64]:
    """The clean stretches of an Empatica E4 at 125 Hz."""
    x, fs = z[f"{name}_bvp"] / float(z["bvp_k"]), float(z[f"{name}_fs"])
    parts = [(int(a), int(b)) for a, b in z[f"{name}_clean"]]
    if f"{name}_acc" in z:
        parts = [part for a, b in parts for part in _at_rest(_acceleration(z, name), float(z[f"{name}_acc_fs"]), a, b, fs)]
    return [_at_125(x[a:b], fs) for a, b in parts if b - a >= SNIPPET / FS * fs]


def _acceleration(z: Mapping[str, NDArray[Any]], name: str) -> Float64:
    """(3, m) in g, from the first sample of the pulse on: not known, 0, where it began later."""
    late = float(z[f"{name}_acc_t0"]) if f"{name}_acc_t0" in z else 0.0
    missing = round(late * float(z[f"{name}_acc_fs"]))
    acc = z[f"{name}_acc"][:, max(-missing, 0) :] / 64
    return np.pad(acc, ((0, 0), (max(missing, 0), 0)))


def _at_rest(acc: Float64, acc_fs: float, start: int, stop: int, fs: float) -> list[tuple[int, int]]:
    """Those parts of the samples from `start` to `stop` over whose windows of 8 s the wearer was at rest. acc: (3, m) in g."""
    off = np.abs(np.sqrt((acc**2).sum(axis=0)) - 1)
    span, step = SNIPPET / FS, clean_rule.STEP / FS
    starts = np.arange(start / fs, stop / fs - span + 1e-9, step)
    rest = [
        float(np.median(off[int(t * acc_fs) : int((t + span) * acc_fs)] if int(t * acc_fs) < len(off) else 1)) for t in starts
    ]
    kept = np.rint(starts[np.array(rest, np.float64) < WRIST_AT_REST_G] * fs).astype(np.int64)
    groups = clean_rule.joined(kept, int(np.ceil(step * fs)) + 1)
    return [(int(part[0]), min(int(part[-1] + span * fs), stop)) for part in groups]


def _watch(z: Mapping[str, NDArray[Any]], name: str) -> list[Float64]:
    """The clean stretches of a Galaxy Watch at 125 Hz: straight lines to even times, then band-limited as they are. It counts
    reflected light, which falls as the blood comes: turned over, as the daemon does before the network sees it."""
    if f"{name}_sam" not in z:
        return []
    t, x, found = z[f"{name}_sam_t_ms"] / 1000, z[f"{name}_sam"].astype(np.float64), []
    for a, b in z[f"{name}_sam_clean"]:
        even = np.arange(t[a], t[b - 1], 1 / WATCH_FS)
        if len(even) >= SNIPPET / FS * WATCH_FS:
            found.append(_at_125(-np.interp(even, t[a:b], x[a:b]), WATCH_FS))
    return found


def _at_125(x: Float64, fs: float) -> Float64:
    return resampled(x, 0, np.arange(int((len(x) - 1) * FS / fs)), fs, FS)


def person_of(recording: str) -> str:
    """Whose a recording is. BIDMC's end in the patient's number; a wearer of two sensors counts twice; any other recording counts
    as a person."""
    if recording.startswith("bidmc"):
        return recording.rsplit("_", 1)[-1]
    return "_".join(recording.split("_")[:3]) if recording.startswith("wrist_") else recording


def wearer_of(recording: str) -> str:
    """Whose a recording is, however many sensors were worn."""
    person = person_of(recording)
    return person.rpartition("_")[2] if person.startswith("wrist_") else person


BIDMC_ARRAYS = ("ppg", "ppg_clean_win", "win_t0", "split", "mimic_patient", "subject")
BIDMC_ECG_ARRAYS = ("ppg", "win_t0", "win_s", "split", "mimic_patient", "ref_ok_win", "hr_ecg_win")


@lru_cache(maxsize=1)
def _bidmc_arrays(path: Path, names: Sequence[str] = BIDMC_ARRAYS) -> dict[str, NDArray[Any]]:
    try:
        with open_npz(path) as archive:
            return {name: archive[name] for name in names}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot read the BIDMC recordings: {error}") from error


def synthetic_people(people: int, seed: int) -> Clean:
    """`people` of the generator, 20 s each: one in six with its usual waves and rhythms wider than its own, 35 to 200 bpm, one in
    five of them irregular; the others with waves of other shapes."""
    usual = -(-people // (1 + ROUNDED))
    rng = np.random.default_rng([seed, usual])
    stretches = []
    for _ in range(usual):
        who = synthetic.person(rng)
        rate = float(35 * (200 / 35) ** rng.uniform())
        who = replace(who, heart_rate=rate, variability=0.2 if rng.uniform() < 0.2 else who.variability)
        stretches.append(synthetic.pulse(int(SYNTHETIC_S * FS), who, rng)[0])
    stretches += [synthetic.rounded(int(SYNTHETIC_S * FS), rng) for _ in range(people - usual)]
    return Clean(stretches, [f"synthetic_{seed}_{i}" for i in range(len(stretches))])


def public_sets(folder: Path) -> list[Set]:
    """The course's recordings, BIDMC and the wrists, whichever lie under `folder`. Raises SourceError if none does."""
    readers = {"course": course, "bidmc": bidmc, "wrist": wrist}
    there = [name for name in readers if (folder / name).is_dir()]
    if not there:
        raise SourceError(f"{folder}: no recordings: neither course/, bidmc/ nor wrist/ is in it (docs/training.md)")
    return [Set(name, {side: readers[name](folder, side) for side in SIDES}) for name in there]


def synthetic_set(seed: int, times: int = 1) -> Set:
    """Synthetic people with other seeds on each side, `times` as many as usual."""
    people = SYNTHETIC_PEOPLE.items()
    return Set("synthetic", {side: synthetic_people(n * times, seed * 10 + k) for k, (side, n) in enumerate(people)})


def window_starts(clean: Clean, window: int, hop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All windows of `window` samples every `hop` samples: the stretch of each, and where it starts there. Flat ones are left
    out."""
    found = [
        (number, start)
        for number, stretch in enumerate(clean.stretches)
        for start in range(0, len(stretch) - window + 1, hop)
        if np.ptp(stretch[start : start + window]) > 0
    ]
    both = np.array(found, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def scored_windows(clean: Clean, *, window: int = 250, hop: int = 125) -> Float64:
    """The windows (n, window) a test is scored on: every `hop` samples, each once, flat ones left out."""
    which, starts = window_starts(clean, window, hop)
    seen: dict[bytes, Float64] = {}
    for k, a in zip(which, starts, strict=True):
        cut = clean.stretches[k][a : a + window]
        seen.setdefault(cut.tobytes(), cut)
    return np.stack(list(seen.values()))


def fingerprint(stretch: Float64) -> str:
    """Of a stretch, whatever its scale: two copies of one recording have the same."""
    low, span = stretch.min(), max(float(np.ptp(stretch)), 1e-12)
    # Whole numbers fall on halves after scaling, and might be rounded up here and down there; nothing falls on 1 / pi.
    levels = np.floor((stretch - low) / span * 1e4 + 1 / np.pi).astype(np.int32)
    return hashlib.sha256(levels.tobytes()).hexdigest()


def trained_on(sets: Sequence[Set], before: Mapping[str, Any] | None) -> dict[str, list[str]]:
    """Recordings and fingerprints of stretches of the training sides, synthetic people left out, and those of `before`: what the
    weights that a run begins from were trained on."""
    known: dict[str, set[str]] = {key: set((before or {}).get(key, ())) for key in ("recordings", "stretches")}
    for data_set in sets:
        if data_set.name != "synthetic":
            known["recordings"].update(data_set.sides["train"].recording)
            known["stretches"].update(fingerprint(x)[:16] for x in data_set.sides["train"].stretches)
    return {key: sorted(values) for key, values in known.items()}


def refuse_known(sets: Sequence[Set], known: Mapping[str, Any], where: str) -> None:
    """Raises DataError, naming it, if a recording to validate or test on is one of `known`, by name or by content."""
    names, stretches = set(known.get("recordings", ())), set(known.get("stretches", ()))
    for data_set in sets:
        for side in ("validation", "test"):
            own = data_set.sides[side]
            for name, stretch in zip(own.recording, own.stretches, strict=True):
                if name in names or fingerprint(stretch)[:16] in stretches:
                    raise DataError(
                        f"recording {name} is in {side} here, and {where} was trained on it: a test on it would prove nothing"
                    )


def refuse_leak(sets: Sequence[Set]) -> None:
    """Raises DataError, naming the recording, if one is on two sides of a split: by its name, or by its content under another
    name."""
    seen: dict[str, tuple[str, str]] = {}
    for side in SIDES:
        for data_set in sets:
            for name, stretch in zip(data_set.sides[side].recording, data_set.sides[side].stretches, strict=True):
                for key in (name, fingerprint(stretch)):
                    where, other = seen.setdefault(key, (side, name))
                    if where != side:
                        same = name if other == name else f"{other} = {name}"
                        raise DataError(f"recording {same} is in {where} and in {side}: a test on it would prove nothing")


def fingerprint_of(sets: Sequence[Set]) -> str:
    """Of all that a run trains and validates on: a resumed run must have the same."""
    digest = hashlib.sha256()
    for data_set in sets:
        for side in ("train", "validation"):
            for name, stretch in zip(data_set.sides[side].recording, data_set.sides[side].stretches, strict=True):
                digest.update(f"{data_set.name} {side} {name}".encode())
                digest.update(stretch.tobytes())
    return digest.hexdigest()
