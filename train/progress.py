"""What a training run shows on stderr: a bar and a table's row an epoch on a terminal, else plain lines under a header."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar


class Progress:
    """Of one run. Call `epoch`, `batch` and `row` as it goes; use it as a context so that the bar ends."""

    def __init__(self, epochs: int, steps: int, sets: list[str], console: Console | None = None) -> None:
        self._epochs, self._steps, self._sets = epochs, steps, sets
        self._losses = ["loss", "val_loss", *(["val_worst"] if len(sets) > 1 else [])]
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.5f}  {task.fields[gains]}{task.fields[left]} left"),
        )
        self._bar = Bar(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("train", total=steps, epoch=0, loss=0.0, left="?", gains="")
        self._began: float | None = None
        self._first, self._epoch, self._headed, self._gains = 0, 0, False, ""

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def __rich__(self) -> Bar:
        return self._bar

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def epoch(self, number: int) -> None:
        if self._began is None:
            self._began, self._first = time.monotonic(), number - 1
        self._epoch = number
        self._bar.reset(self._task, epoch=number, loss=0.0, left=self._left(number - 1 - self._first), gains=self._gains)

    def batch(self, number: int, loss: float) -> None:
        done = self._epoch - 1 - self._first + number / self._steps
        self._bar.update(self._task, completed=number, loss=loss, left=self._left(done))

    def before(self, scores: Mapping[str, float]) -> None:
        """The figures of the weights that a run begins from."""
        self._header()
        self.say(self._line("start", {"loss": None, **scores}, ""))

    def row(self, number: int, logs: Mapping[str, Any]) -> None:
        gains = [f"{logs[f'val_g_{name}_db']:.1f}" for name in self._sets if f"val_g_{name}_db" in logs]
        self._gains = f"G {', '.join(gains)} dB  " if gains else ""
        self._header()
        self.say(self._line(str(number), logs, self._left(number - self._first)))

    def _left(self, done: float) -> str:
        if self._began is None or done <= 0:
            return "?"
        return duration((time.monotonic() - self._began) / done * (self._epochs - self._first - done))

    def _header(self) -> None:
        if not self._headed:
            self._headed = True
            heads = [*self._losses, *(f"G {name}, dB" for name in self._sets), "minutes", "left"]
            self.say("epoch " + " ".join(f"{head:>14}" for head in heads))

    def _line(self, epoch: str, logs: Mapping[str, Any], left: str) -> str:
        values = [
            *(logs.get(name) for name in self._losses),
            *(logs.get(f"val_g_{name}_db") for name in self._sets),
            logs.get("minutes"),
        ]
        places = [*(6 for _ in self._losses), *(2 for _ in self._sets), 2]
        cells = ["" if v is None else f"{v:.{p}f}" for v, p in zip(values, places, strict=True)]
        return f"{epoch:>5} " + " ".join(f"{cell:>14}" for cell in [*cells, left])


def duration(seconds: float) -> str:
    """As people read it: "48 s", "2.1 min"."""
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
