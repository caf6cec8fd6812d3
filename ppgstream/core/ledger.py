"""The account of every sample, and what is worth telling of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Event(NamedTuple):
    """Something a person should hear of. `name` is stable and counted; `text` says what, where and the offending value; `reason`
    tells events of one name apart."""

    name: str
    text: str
    stream: str = ""
    reason: str = ""


@dataclass(slots=True)
class Ledger:
    """Samples of one stream by what became of them, all its sessions together."""

    denoised: int = 0
    passthrough: int = 0
    invalid: int = 0
    shed: int = 0
    refused: int = 0  # of a second publisher, of a wrong rate, after its own END: never in any session
    held: int = 0  # of those published: sent, but one value held
    outliers: int = 0  # of those published: sent, but impossible

    @property
    def published(self) -> int:
        return self.denoised + self.passthrough + self.invalid + self.shed

    def add(self, other: Ledger) -> None:
        self.denoised += other.denoised
        self.passthrough += other.passthrough
        self.invalid += other.invalid
        self.shed += other.shed
        self.refused += other.refused
        self.held += other.held
        self.outliers += other.outliers
