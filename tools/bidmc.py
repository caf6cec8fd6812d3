"""BIDMC's file for the trainer, from the csv files that PhysioNet hands out.

    python -m tools.bidmc FOLDER -o data/bidmc/bidmc_public.npz

FOLDER holds bidmc_01_Signals.csv ... and bidmc_01_Fix.txt ... (BIDMC 1.0.0, folder bidmc_csv; open with attribution: NOTICE).
Patients repeat in BIDMC, so the split is by patient, by a hash of its number. What is clean is judged by the rule of
`ppgstream.files.clean`.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ppgstream.errors import DataError, PpgStreamError, SourceError
from ppgstream.files import clean, recording

SAMPLES = 60_001  # 8 min at 125 Hz, both ends included
PATIENT = re.compile(r"matched wdb ID:\s*(s\d+)")
TEST_SHARE = 0.15


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="PhysioNet's folder bidmc_csv.")],
    out: Annotated[Path, typer.Option("-o", help="The file to write.")] = Path("data/bidmc/bidmc_public.npz"),
) -> None:
    """Write BIDMC's recordings as one file that `ppgstream train --data` reads."""
    try:
        content = convert(folder)
        out.parent.mkdir(parents=True, exist_ok=True)
        recording.write_whole(out, content)
    except PpgStreamError as error:
        print(f"bidmc: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def convert(folder: Path) -> bytes:
    """The npz of a folder of BIDMC's csv files. Raises SourceError where there are none, DataError for one that is not as BIDMC's
    are."""
    paths = sorted(folder.glob("bidmc_*_Signals.csv"))
    if not paths:
        raise SourceError(f"{folder}: no bidmc_*_Signals.csv in it")
    ppg, verdicts, patients, subjects = [], [], [], []
    for path in paths:
        samples = recording.read(path, column="PLETH").samples[:SAMPLES]
        if len(samples) < SAMPLES:
            raise DataError(f"{path}: {len(samples)} samples, {SAMPLES} expected")
        x, measured, starts = clean.windows_of(samples, clean.FS)
        ppg.append(samples.astype(np.float32))
        verdicts.append(clean.reasons_of(x, measured, starts) == "")
        subject = path.name.removesuffix("_Signals.csv")
        subjects.append(subject)
        patients.append(_patient(path.with_name(f"{subject}_Fix.txt")))
        print(f"{subject}: patient {patients[-1]}, {verdicts[-1].sum()} of {len(starts)} windows clean", file=sys.stderr)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        fs=np.float32(clean.FS),
        ppg=np.stack(ppg),
        win_t0=(starts / clean.FS).astype(np.float32),
        ppg_clean_win=np.stack(verdicts),
        subject=np.array(subjects),
        mimic_patient=np.array(patients),
        split=np.array(["public_test" if clean.place(p) < TEST_SHARE else "train" for p in patients]),
    )
    return buffer.getvalue()


def _patient(path: Path) -> str:
    try:
        found = PATIENT.search(path.read_text(errors="replace"))
    except OSError as error:
        raise SourceError(f"{path}: cannot read: {error.strerror}") from error
    if found is None:
        raise DataError(f"{path}: no line 'MIMIC II matched wdb ID': the patient is not known, and the split is by patient")
    return found[1]


if __name__ == "__main__":
    app()
