"""Messages of any content, damaged ones too, through the decoder and the core: an error of the wire's kind or a chunk, and every
sample accounted for. `make faults` draws a hundred times as many.

To look for what a compiled loop reads or writes beside its arrays, compile with -fsanitize=address and run this file alone.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from rules import rules

from faults.long import times
from ppgstream.core.confidence import Calibration
from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry
from ppgstream.core.rate import RateRules
from ppgstream.errors import WireError
from ppgstream.wire.message import CRC, HEADER, HEADER_SIZE, Chunk, Flag, Kind, decode, encode

STREAMS = ("a", "b:1", "c" * 64)
RATES = (0.0, 10.0, 25.0, 64.0, 99.9, 125.0, 125.3, 250.0, 1000.0)
DTYPES = ("<f4", "<f8", "<i2", "<i4")
ODD = (0.0, -1.0, -999.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-300, 2.0**31, 5e37)


def samples(rng: np.random.Generator, n: int) -> np.ndarray:
    """A wave with what sensors do to it: rails, repeats, steps, values that are none."""
    x = rng.choice([0.01, 1.0, 1e3, 1e30]) * (
        np.sin(np.arange(n) * rng.uniform(0.01, 1)) + rng.uniform(0, 2) * rng.standard_normal(n)
    )
    if rng.random() < 0.3:
        x = np.round(x, int(rng.integers(0, 3)))
    if n and rng.random() < 0.4:
        at = int(rng.integers(0, n))
        x[at : at + int(rng.integers(1, 120))] = rng.choice(ODD) if rng.random() < 0.5 else x[at]
    if n and rng.random() < 0.2:
        x[rng.random(n) < 0.2] = rng.choice(ODD)
    dtype = np.dtype(rng.choice(DTYPES))
    with np.errstate(all="ignore"):
        return x.astype(dtype) if dtype.kind == "f" else np.nan_to_num(np.clip(x, -30000, 30000)).astype(dtype)


def message(rng: np.random.Generator, at: dict[str, list[int]]) -> list[bytes]:
    """The next of a stream, or one out of turn."""
    name = str(rng.choice(STREAMS))
    own = at.setdefault(name, [int(rng.integers(1, 4)), int(rng.choice([0, 0, 7, 2**31, 2**62, 2**63 - 3000]))])
    kind = Kind(int(rng.choice([1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4])))
    n = int(rng.choice([0, 1, 2, 5, 25, 25, 25, 120, 700, 2048])) if kind is Kind.DATA else 0
    jump = int(rng.choice([0] * 12 + [1, 30, 49, 51, 4000, -1, -25, -60]))
    index = min(max(own[1] + jump, 0), 2**63 - 4096)
    if rng.random() < 0.02:
        own[0] = int(rng.integers(1, 6))
    chunk = Chunk(
        name,
        own[0],
        index,
        samples(rng, n),
        kind,
        float(rng.choice(RATES)) if rng.random() < 0.05 else 125.0,
        int(rng.choice([0, 1, 10**18, 2**62])) + index % 10**9 * 8_000_000 if rng.random() < 0.9 else 0,
        missing=int(rng.integers(0, 300)) if kind is Kind.GAP else 0,
    )
    own[1] = index + n + chunk.missing
    return list(encode(chunk))


def damaged(rng: np.random.Generator, parts: list[bytes]) -> list[bytes]:
    """Some bytes changed, cut or added, and now and then with a checksum that fits."""
    body = bytearray(parts[1])
    for _ in range(int(rng.integers(1, 4))):
        how = rng.integers(0, 3)
        place = int(rng.integers(0, min(len(body), 2 * HEADER_SIZE) or 1))
        if how == 0 and body:
            body[place] = int(rng.choice([0, 1, 127, 128, 255]))
        elif how == 1:
            del body[place : place + int(rng.integers(1, 9))]
        else:
            body[place:place] = rng.bytes(int(rng.integers(1, 9)))
    if len(body) >= HEADER_SIZE and rng.random() < 0.7:
        body[HEADER.size : HEADER_SIZE] = CRC.pack(zlib.crc32(body[HEADER_SIZE:], zlib.crc32(body[: HEADER.size])))
    return [parts[0] if rng.random() < 0.9 else rng.bytes(int(rng.integers(0, 70))), bytes(body)][: int(rng.integers(1, 12))]


def denoise(rng: np.random.Generator, batch: Batch, window: int, *, tells_error: bool) -> Answer:
    y = batch.x[:, -window:] + rng.standard_normal((len(batch.x), window)).astype(np.float32)
    if rng.random() < 0.05:
        y[0, int(rng.integers(0, window))] = rng.choice([np.nan, np.inf, 3e38])
    return Answer(y, rng.uniform(-9, 5, y.shape).astype(np.float32) if tells_error else None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # answers that are not finite
@pytest.mark.parametrize("seed", range(times(6, 600)))
def test_any_message_is_an_error_or_a_chunk_and_every_sample_is_accounted_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = int(rng.choice([100, 250]))
    geometry = Geometry(window, int(rng.choice([10, 49, 50, 100])), int(rng.choice([0, 125])), rng.choice([None, 0, 49]))  # type: ignore[arg-type]
    tells_error, now, at = bool(rng.integers(0, 2)), 0.0, {}
    plain, by_rows = Calibration(-1.0, {"confidence": 3.0}), Calibration(0.0, {"confidence": 1.0, "rhythm": 1.0})
    engine = Engine(
        lambda batch: denoise(rng, batch, window, tells_error=tells_error),
        rules(
            geometry=geometry,
            answers=str(rng.choice(["clean", "input"])),
            scaling=str(rng.choice(["min-max", "standard"])),
            calibration=rng.choice(np.array([None, plain, by_rows], object)),
            rate=RateRules(),
            sentinels=(-999.0,) if rng.random() < 0.5 else (),
            policy=str(rng.choice(["mark", "mask", "raw"])),
            tile=int(rng.choice([1, 8, 64])),
            max_streams=3,
        ),
    )
    for _ in range(times(150, 400)):
        parts = message(rng, at)
        if rng.random() < 0.2:
            parts = damaged(rng, parts)
        try:
            chunk = decode(parts)
        except WireError:
            continue
        if chunk.kind is Kind.BEATS or (chunk.flags is not None and not 0 <= int(chunk.flags.max(initial=0)) < 2 * max(Flag)):
            continue
        now += float(rng.choice([0.0, 0.2, 0.2, 0.2, 3.0]))
        published = engine.feed(chunk, now) + engine.expire(now)
        while engine.ready and rng.random() < 0.8:
            published += engine.step(shed=rng.random() < 0.03)
        for one in published:
            assert decode(encode(one, dtype="f8")).stop == one.stop
        assert engine.unaccounted == 0
    engine.flush(now)
    while engine.ready:
        engine.step()
    assert engine.unaccounted == engine.in_flight == 0


def test_bytes_of_any_length_are_no_message() -> None:
    rng = np.random.default_rng(0)
    for _ in range(times(3000, 300_000)):
        parts = [rng.bytes(int(rng.integers(0, 70))), rng.bytes(int(rng.integers(0, 300)))]
        with pytest.raises(WireError):
            decode(parts)
    assert struct.calcsize(HEADER.format) + CRC.size == HEADER_SIZE
