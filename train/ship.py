"""A run becomes a checkpoint that comes with the package: `python -m ppgstream.train.ship RUN NAME BENCH`, from the clone.

BENCH is the evaluate.json in which a row is named NAME. Its figures go into the manifest and the card, and the card says how to
call the checkpoint. They decide nothing about the output, so the id of a run that states its own calibration stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ppgstream.errors import DataError
from ppgstream.model.checkpoint import SHIPPED
from ppgstream.model.folder import write_restored
from ppgstream.model.restore import restore
from ppgstream.storage import replace_files

from . import card

OF_OTHERS = {  # people's pulses
    "snr_b_out_db": "SNR_B of the output, dB",
    "amplitude": "amplitude",
    "harm": "harm",
    "live_hr_off": "heart rates off by more than 5 bpm",
    "live_hr_off_sure": "off and sure",
}
OF_A_KIND = {"gain_db": "gain, dB", "amplitude": "amplitude", "hr_mae_out_bpm": "heart rate error, bpm"}
OF_NO_PULSE = {"bad_kept": "seconds called good"}
OF_ALL = {"auroc": "AUROC of the confidence", "ece": "expected calibration error"}


def figures_of(bench: Mapping[str, Any], name: str) -> dict[str, float]:
    """The figures of the row `name` in an evaluate.json, each under words of its own. Raises DataError if there is no such
    row."""
    figures: dict[str, float] = {}
    for row in bench.get("windows", []):
        if row["method"] == name:
            figures[f"G under N1, {row['set']}, dB"] = row["g_n1_db"]
    for table in ("shapes", "wrist", "exercise"):
        for row in bench.get(table, []):
            if row["method"] == name and row["kind"] != "all kinds":
                shown = OF_OTHERS if row.get("gain_db") is None else OF_OTHERS | {"gain_db": "gain, dB"}
                figures |= {
                    f"{table}, {row['kind']}: {words}": row[key] for key, words in shown.items() if row.get(key) is not None
                }
    for row in bench.get("streamed", []):
        if row["method"] != name:
            continue
        if row["kind"] == "clean":
            figures["clean: SNR_B of the output, dB"] = row["snr_b_out_db"]
        shown = OF_ALL if row["kind"] == "all kinds" else OF_NO_PULSE if "nothing" in row["kind"] else OF_A_KIND
        figures |= {f"{row['kind']}: {words}": row[key] for key, words in shown.items() if row.get(key) is not None}
    if not figures:
        raise DataError(f"no row is named {name!r}: there are {', '.join(bench.get('methods', {}))}")
    return figures


def ship(run: Path, name: str, bench: Path, *, into: Path = SHIPPED) -> None:
    """Put a run's checkpoint, with the figures of its row in `bench`, under `into`."""
    found, folder = restore(run), into / name
    write_restored(folder, found, figures=figures_of(json.loads(bench.read_bytes()), name))
    replace_files({folder / "README.md": card.text(restore(folder)).encode()})


def main(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    name: Annotated[str, typer.Argument(help="What `--checkpoint` is to call it, and its row's name in BENCH.")],
    bench: Annotated[Path, typer.Argument(help="evaluate.json.")],
) -> None:
    ship(run, name, bench)
    print(f"{SHIPPED / name}: {restore(SHIPPED / name).id.hex()}")


if __name__ == "__main__":
    typer.run(main)
