"""Loss curves of several training runs in one picture.

python -m tools.curves runs/adam runs/sgd -o curves.png
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from ppgstream.errors import DataError, PpgStreamError, SourceError
from ppgstream.files import recording

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    runs: Annotated[list[Path], typer.Argument(help="Folders of `ppgstream train`.")],
    out: Annotated[Path, typer.Option("-o", help="The picture, png.")] = Path("curves.png"),
    column: Annotated[str, typer.Option(help="Of their log.csv.")] = "val_loss",
) -> None:
    """Draw one column of the logs of training runs."""
    try:
        recording.write_whole(out, picture(runs, column))
    except PpgStreamError as error:
        print(f"curves: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None


def picture(runs: list[Path], column: str) -> bytes:
    """A PNG with a line a run. Raises SourceError for a folder without a log, DataError for a log without the column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for run in runs:
        try:
            with (run / "log.csv").open(newline="") as lines:
                rows = list(csv.DictReader(lines))
            values = [float(row[column]) for row in rows]
        except OSError as error:
            raise SourceError(f"{run}: no log of a run: {error.strerror}") from error
        except (KeyError, ValueError) as error:
            raise DataError(f"{run / 'log.csv'}: no numbers in a column {column!r}") from error
        axes.plot([int(row["epoch"]) for row in rows], values, marker="o" if len(rows) < 6 else "", label=run.name)
    axes.set(xlabel="epoch", ylabel=column, yscale="log" if "loss" in column else "linear")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return buffer.getvalue()


if __name__ == "__main__":
    app()
