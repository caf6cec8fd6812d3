"""Clean windows to train and test on, from the recordings of `../shared/data` (or any folder laid out like it).

Splits are by recording, and for BIDMC by patient: the splits of docs/bench.md, fixed here.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppgstream.errors import SourceError

Float32 = NDArray[np.float32]
FS = 125.0
SNIPPET = 1000  # samples: 8 s, the length of a course row and of a judged BIDMC window
COURSE_COPIES = 42  # rows of one recording in the course's file, each shifted by 3 samples
COURSE_SPLIT = {"train": range(0, 102), "validation": range(102, 117), "test": range(117, 146)}
BIDMC_HELD_OUT = 4  # patients of BIDMC's train split kept for validation


class Clean(NamedTuple):
    """Clean 8 s snippets (n, 1000) and the recording each comes from, (n,)."""

    snippets: Float32
    recording: NDArray[np.str_]


def course(folder: Path, split: str) -> Clean:
    """Snippets of the course's recordings: the first and the last copy of each, which together hold all its samples."""
    path = folder / "course" / "PPG_1000samples.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read("PPG_1000samples.txt")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"{path}: cannot read the course's recordings: {error}") from error
    rows = np.loadtxt(io.BytesIO(text), dtype=np.float32, delimiter="," if b"," in text[:4000] else None)
    numbers = np.arange(len(rows)) // COURSE_COPIES
    copy = np.arange(len(rows)) % COURSE_COPIES
    keep = np.isin(numbers, list(COURSE_SPLIT[split])) & ((copy == 0) | ((copy == COURSE_COPIES - 1) & (split == "train")))
    return Clean(rows[keep], np.array([f"course_{n}" for n in numbers[keep]]))


def bidmc(folder: Path, split: str) -> Clean:
    """8 s stretches of BIDMC judged clean, by patient."""
    path = folder / "bidmc" / "bidmc_public.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            ppg, clean = archive["ppg"], archive["ppg_clean_win"].astype(bool)
            t0, record_split = archive["win_t0"], archive["split"].astype(str)
            patient, subject = archive["mimic_patient"].astype(str), archive["subject"].astype(str)
    except (OSError, KeyError, ValueError) as error:
        raise SourceError(f"{path}: cannot read the BIDMC recordings: {error}") from error
    held_out = sorted(set(patient[record_split == "train"]))[-BIDMC_HELD_OUT:]
    chosen = {
        "train": (record_split == "train") & ~np.isin(patient, held_out),
        "validation": (record_split == "train") & np.isin(patient, held_out),
        "test": record_split == "public_test",
    }[split]
    snippets, names = [], []
    for record in np.flatnonzero(chosen):
        for start in (t0[clean[record]] * FS).astype(int):
            snippets.append(ppg[record, start : start + SNIPPET])
            names.append(str(subject[record]))
    return Clean(np.stack(snippets).astype(np.float32), np.array(names))


def scored_windows(clean: Clean, *, window: int = 250, hop: int = 125) -> NDArray[np.float64]:
    """The windows (n, window) a test is scored on: every `hop` samples, each once, flat ones left out."""
    starts = range(0, SNIPPET - window + 1, hop)
    seen: dict[bytes, NDArray[np.float64]] = {}
    for snippet in clean.snippets:
        for start in starts:
            cut = snippet[start : start + window]
            if np.ptp(cut) > 0:
                seen.setdefault(cut.tobytes(), cut.astype(np.float64))
    return np.stack(list(seen.values()))
