"""Stands for the module `cython` where it is not installed and the code is interpreted: types and decorators that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _Type:
    """A type of C, of which there may be arrays."""

    def __getitem__(self, _: Any) -> _Type:
        return self


double = longlong = Py_ssize_t = _Type()


def locals(**_: Any) -> Callable[[T], T]:
    """Types of arguments and variables."""
    return lambda function: function
