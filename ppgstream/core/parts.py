"""What an `Intake` gives beside judged samples: where sessions begin and end, and notes of the sensor's clock and rate."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ppgstream.core.measured import Judged
from ppgstream.core.session import Opened


class Began(NamedTuple):
    """Where the session that is open begins: the index of its first sample, or of the first one that is missing."""

    at: int


class Ended(NamedTuple):
    """The session that is open ends before the index `at`."""

    at: int
    unclean: bool


class Anchor(msgspec.Struct, gc=False):
    """The sensor's time, ns, of the sample with the index `at`."""

    generation: int
    at: int
    t_ns: int


class WrongFrom(NamedTuple):
    """From the index `at` on the measured rate contradicts the declared one, or (not `wrong`) does no more."""

    generation: int
    at: int
    wrong: bool


class Rated(NamedTuple):
    """From here on samples come at `fs` Hz."""

    fs: float


class First(NamedTuple):
    """The first index of a session, as far as it is known now: a late sample may make it lower. `birth` is as in `Opened`."""

    birth: int
    at: int


Part = Opened | Began | Judged | Ended | Rated | Anchor | WrongFrom | First
