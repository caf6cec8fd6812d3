"""What belongs to several streams, in turns: one of each stream at a time, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def turns(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """`items` in lists in which no `key` comes twice: the first of each key, then the second of each, and so on."""
    found: list[list[T]] = []
    seen: Counter[Hashable] = Counter()
    for item in items:
        turn = seen[key(item)]
        if turn == len(found):
            found.append([])
        found[turn].append(item)
        seen[key(item)] += 1
    return found
