"""A room's state as bytes, and back: for a stream that goes on in another process.

An object is written as its class and what it holds, in the order of its attributes; an array as its type, shape and bytes. Only
classes that are `known` are written and made again, and no code is run. What a class names in `UNSAVED` is not written: rules,
names and what rooms share, which the loader has.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

VERSION = 1
_CLASSES: dict[str, type] = {}
_LIST, _TUPLE, _DICT, _ARRAY, _INTEGER, _OBJECT, _AGAIN, _RECORD, _SET, _NUMBERS = range(10)  # what a list of ours stands for
LARGEST_INTEGER = 2**62  # one beyond it is written as text


def known(*classes: type) -> None:
    """Objects of these classes can be saved and loaded: of `__slots__`, dataclasses, structs and NamedTuples."""
    for one in classes:
        _CLASSES[one.__name__] = one


def pack(room: Any) -> bytes:
    """What an object holds, as bytes. Raises TypeError for what cannot be saved."""
    again: dict[int, int] = {}
    return msgspec.msgpack.encode(
        [VERSION, type(room).__name__, [_packed(getattr(room, name), again) for name in _names(type(room))]]
    )


def unpack(room: Any, data: bytes) -> None:
    """Put into a fresh object what `pack` wrote of another one of its class. Raises ValueError for bytes of another form. The
    values themselves are not checked: they must come from a process that is trusted."""
    try:
        version, name, values = msgspec.msgpack.decode(data, type=tuple[int, str, list[Any]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not the state of a {type(room).__name__}: {error}") from error
    names = _names(type(room))
    if version != VERSION or name != type(room).__name__ or len(values) != len(names):
        raise ValueError(f"version {version} of a {name}: this program loads version {VERSION} of a {type(room).__name__}")
    made: list[Any] = []
    try:
        for attribute, value in zip(names, values, strict=True):
            setattr(room, attribute, _unpacked(value, made))
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"not the state of a {name}: {error}") from error


def _names(kind: type) -> list[str]:
    unsaved: frozenset[str] = getattr(kind, "UNSAVED", frozenset())
    return [name for name in kind.__slots__ if name not in unsaved]  # type: ignore[attr-defined]


def _packed(value: Any, again: dict[int, int]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < LARGEST_INTEGER else [_INTEGER, str(int(value))]
    if isinstance(value, np.generic):
        return value.item()
    if kind is np.ndarray:
        return [_ARRAY, value.dtype.str, list(value.shape), value.tobytes()]
    if kind is array:
        return [_NUMBERS, value.typecode, value.tobytes()]
    if kind in (list, frozenset):
        return [_LIST if kind is list else _SET, *(_packed(v, again) for v in value)]
    if kind is dict:
        return [_DICT, *(_packed(part, again) for item in value.items() for part in item)]
    if kind is tuple:
        return [_TUPLE, *(_packed(v, again) for v in value)]
    if _CLASSES.get(kind.__name__) is not kind:
        raise TypeError(f"a {kind.__name__} is not saved")
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    if isinstance(value, tuple):
        return [_RECORD, kind.__name__, *(_packed(v, again) for v in value)]
    if id(value) in again:
        return [_AGAIN, again[id(value)]]
    again[id(value)] = len(again)
    return [_OBJECT, kind.__name__, *(_packed(getattr(value, name), again) for name in _names(kind))]


def _unpacked(value: Any, made: list[Any]) -> Any:
    if not isinstance(value, list):
        return value
    tag, *rest = value
    if tag == _OBJECT:
        kind = _CLASSES[rest[0]]
        found: Any = kind.__new__(kind)  # type: ignore[call-overload]
        made.append(found)
        for name, part in zip(_names(kind), rest[1:], strict=True):
            object.__setattr__(found, name, _unpacked(part, made))
        return found
    if tag == _AGAIN:
        return made[rest[0]]
    if tag == _ARRAY:
        dtype = np.dtype(rest[0])
        if dtype.hasobject:
            raise TypeError("an array of objects")
        return np.frombuffer(rest[2], dtype).reshape(rest[1]).copy()
    if tag == _NUMBERS:
        return array(rest[0], rest[1])
    if tag == _INTEGER:
        return int(rest[0])
    if tag == _RECORD:
        record: Callable[..., Any] = _CLASSES[rest[0]]
        if not issubclass(_CLASSES[rest[0]], tuple | msgspec.Struct):
            raise TypeError(f"a {rest[0]} is no record")
        return record(*(_unpacked(v, made) for v in rest[1:]))
    parts = [_unpacked(v, made) for v in rest]
    if tag == _DICT:
        return dict(zip(parts[::2], parts[1::2], strict=True))
    return {_LIST: list, _TUPLE: tuple, _SET: frozenset}[tag](parts)
