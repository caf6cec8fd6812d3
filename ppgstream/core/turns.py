"""What belongs to several streams, in turns: one of each stream at a time, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

T = TypeVar("T")


def turns(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """`items` in lists in which no `key` comes twice: the first of each key, then the second of each, and so on."""
    items = list(items)
    keys = [key(item) for item in items]
    if items and len(set(keys)) == len(keys):  # nearly always
        return [items]
    found: list[list[T]] = []
    seen: Counter[Hashable] = Counter()
    for item, own in zip(items, keys, strict=True):
        turn = seen[own]
        if turn == len(found):
            found.append([])
        found[turn].append(item)
        seen[own] += 1
    return found
