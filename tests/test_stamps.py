"""Clocks of recorded samples: laws over all of them, and files of each kind that people send, read at many rates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppgstream.errors import DataError, UsageError
from ppgstream.files import arrays, recording
from ppgstream.files.clocks import ClockError, clock_of, even, laid_out
from ppgstream.files.header import stated_rate
from ppgstream.files.stamps import DAY_S, Form, form_of, stated_unit
from ppgstream.wire.message import Flag

RATES = [25.0, 50.0, 64.0, 100.0, 125.0, 128.0, 200.0, 250.0, 500.0]
law = settings(deadline=None, max_examples=60)
rates = st.sampled_from(RATES)
seeds = st.integers(0, 2**31)


def wave(n: int, fs: float) -> np.ndarray:
    t = np.arange(n) / fs
    return 100 + np.sin(2 * np.pi * 1.2 * t) + 0.3 * np.sin(2 * np.pi * 2.4 * t)


# ---- laws: the same samples at the same times come out -------------------------------------------------------------


def lies_where_it_should(t: np.ndarray, rows: np.ndarray, fs: float, form: Form | None = None) -> None:
    """Rows `rows` of an even wave, whose stamps are `t`: each is kept once and lies where it was."""
    x = wave(int(rows.max()) + 1, fs)
    clock = clock_of(t, x[rows], form)
    assert clock.fs == pytest.approx(fs, rel=2e-3)
    kept = rows[clock.order]
    first = kept[0]
    np.testing.assert_array_equal(np.sort(kept), np.unique(rows))
    np.testing.assert_array_equal(clock.places, kept - first)
    samples, at = laid_out(x[rows], clock, fs)
    np.testing.assert_array_equal(samples[at], x[kept])
    assert np.isfinite(samples).sum() == len(kept)


@law
@given(rates, seeds, st.floats(0.01, 2.0))
def test_shuffled_rows_are_sorted(fs: float, seed: int, by: float) -> None:
    rng = np.random.default_rng(seed)
    n = 1500
    rows = np.argsort(np.arange(n) / fs + rng.uniform(0, by, n), kind="stable")
    lies_where_it_should(rows / fs, rows, fs)


@law
@given(rates, seeds, st.integers(2, 400))
def test_a_jump_is_a_gap_of_as_many_samples(fs: float, seed: int, lost: int) -> None:
    at = int(np.random.default_rng(seed).integers(100, 900))
    rows = np.concatenate([np.arange(at), np.arange(at + lost, 1200 + lost)])
    lies_where_it_should(rows / fs, rows, fs)
    lies_where_it_should(np.round(rows / fs, 3), rows, fs)


@law
@given(rates, seeds, st.sampled_from(["midnight", "16 bit ms", "32 bit us", "12 h"]))
def test_a_wrap_changes_nothing(fs: float, seed: int, kind: str) -> None:
    n = 1500
    rows = np.arange(n)
    before = float(np.random.default_rng(seed).uniform(0.2, 0.8)) * n / fs
    period, form = {
        "midnight": (DAY_S, Form("clock")),
        "12 h": (DAY_S / 2, Form("clock")),
        "16 bit ms": (65.536, Form(scale=1e-3)),
        "32 bit us": (2**32 * 1e-6, Form(scale=1e-6)),
    }[kind]
    t = (period - before + rows / fs) % period
    if kind == "12 h":
        t = np.where(t < 3600, t + period, t)  # 12:59:59, 1:00:00
        t = (period + 3600 - before + rows / fs - 3600) % period + 3600
    lies_where_it_should(t, rows, fs, form)


@law
@given(rates, seeds, st.integers(3, 25))
def test_one_stamp_for_a_packet_gives_the_rate_and_lost_packets_are_gaps(fs: float, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    packets = np.arange(120)
    lost = rng.choice(packets[2:-2], 9, replace=False)
    kept = packets[~np.isin(packets, lost)]
    rows = (kept[:, None] * size + np.arange(size)).ravel()
    lies_where_it_should(np.repeat(kept * size / fs, size), rows, fs)


@law
@given(rates, st.integers(4, 12), st.integers(2, 20))
def test_whole_seconds_give_the_rate_and_the_gap(fs: float, gap_s: int, at_s: int) -> None:
    rows = np.arange(int(30 * fs))
    kept = rows[(rows / fs < at_s) | (rows / fs >= at_s + gap_s)]
    lies_where_it_should(np.floor(kept / fs), kept, fs)


@law
@given(rates, seeds)
def test_repeated_rows_are_dropped(fs: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.sort(np.concatenate([np.arange(900), rng.choice(900, 60)]))
    lies_where_it_should(rows / fs, rows, fs)
    again = np.concatenate([np.arange(500), np.arange(420, 500), np.arange(500, 900)])  # a batch sent twice
    lies_where_it_should(again / fs, again, fs)


@law
@given(rates, seeds, st.floats(0.0, 28.0))
def test_a_clock_that_falls_begins_a_new_stretch(fs: float, seed: int, start: float) -> None:
    n = 1000
    x = wave(2 * n, fs)
    t = np.concatenate([40 + np.arange(n) / fs, start + np.arange(n) / fs])
    clock = clock_of(t, x)
    assert clock.starts == [0, n]
    assert (clock.fs, clock.repeats, int(clock.gap.sum())) == (pytest.approx(fs, rel=1e-3), 0, 0)
    samples, at = laid_out(x, clock, fs)
    assert at[n] - at[n - 1] > 2 * fs, "far enough apart for nothing to reach over"
    np.testing.assert_array_equal(samples[at], x)


@pytest.mark.parametrize("fs", RATES)
def test_a_clock_set_back_a_little_is_no_disorder(fs: float) -> None:
    n = 1000
    t = np.concatenate([np.arange(n) / fs, (np.arange(n) + n) / fs - 0.8])
    assert clock_of(t, wave(2 * n, fs)).starts == [0, n]


@pytest.mark.parametrize("fs", RATES)
def test_jitter_gives_the_wave_at_even_times(fs: float) -> None:
    rng = np.random.default_rng(7)
    n = 1500
    t = np.arange(n) / fs + rng.uniform(-0.3, 0.3, n) / fs
    x = 100 + np.sin(2 * np.pi * 1.2 * t)
    clock = clock_of(t, x)
    assert clock.jitter
    assert clock.fs == pytest.approx(fs, rel=2e-3)
    samples, _ = laid_out(x, clock, clock.fs)
    even_t = t[0] + np.arange(len(samples)) / clock.fs
    assert np.nanmax(np.abs(samples - 100 - np.sin(2 * np.pi * 1.2 * even_t))) < 0.05


def test_a_hole_of_hours_costs_no_memory() -> None:
    t = np.concatenate([np.arange(2000) / 100, 22 * 3600 + np.arange(2000) / 100])
    clock = clock_of(t, wave(4000, 100))
    samples, at = laid_out(wave(4000, 100), clock, 100)
    assert len(samples) < 4000 + 100 * 40
    assert clock.lost == 22 * 360_000 - 2000
    assert at[2000] - at[1999] > 1000


@pytest.mark.parametrize(
    "t",
    [
        np.zeros(100),
        np.full(100, np.nan),
        np.r_[np.arange(50) / 50, np.full(50, np.nan)],
        np.r_[np.arange(500) / 50, 10 + np.arange(500) / 100],
        np.arange(100) * 1e-320,
    ],
    ids=["still", "none", "half", "two rates", "too fast"],
)
def test_what_no_clock_explains_is_refused(t: np.ndarray) -> None:
    with pytest.raises(ClockError):
        clock_of(t, wave(len(t), 50))


@law
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=3, max_size=60), st.booleans())
def test_any_stamps_give_a_clock_or_a_reason(stamps: list[float], counter: bool) -> None:
    t = np.array(stamps)
    try:
        clock = clock_of(t, np.arange(float(len(t))), Form(counter=counter))
    except ClockError:
        return
    assert (np.diff(clock.places) >= 0).all()
    assert len(clock.order) + clock.repeats == len(t)


# ---- forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "name", "unit", "fs"),
    [
        ([f"{k * 10}" for k in range(50)], "time", "", 100),
        ([f"{k * 10}" for k in range(50)], "time_ms", "", 100),
        ([f"{k / 100:.2f}" for k in range(50)], "t", "s", 100),
        ([f"{k * 4000}" for k in range(50)], "t", "", 250),
        ([f"{k * 15_625_000}" for k in range(50)], "t", "", 64),
        ([f"{k / 6000:.7f}" for k in range(50)], "Time (min)", "", 100),
        ([f"{k / 6000:.7f}" for k in range(50)], "time", "", 100),
        ([f"{45092.625 + k / 100 / 86400:.9f}" for k in range(500)], "ExcelDateTime", "", 100),
        ([f"{45092.625 + k / 100 / 86400:.9f}" for k in range(500)], "time", "", 100),
        ([f"{1.7e9 + k / 64:.4f}" for k in range(50)], "timestamp", "", 64),
        ([f"{1_700_000_000_000 + k * 8}" for k in range(50)], "ts", "", 125),
        ([f"{1_700_000_000_000_000_000 + k * 8_000_000}" for k in range(50)], "ts", "", 125),
        ([f"23:59:{k / 100:05.2f}" for k in range(50)], "time", "", 100),
        ([f"10:00:{k / 100:06.3f} AM" for k in range(50)], "time", "", 100),
        ([f"16:40:00:{k * 10:03d}" for k in range(50)], "time", "", 100),
        ([f"2024-03-05T10:00:00.{k * 10:03d}+01:00" for k in range(50)], "time", "", 100),
        ([f"2024-03-05 10:00:00.{k * 10:03d}" for k in range(50)], "time", "", 100),
        ([f"05/03/2024 10:00:00.{k * 10:03d}" for k in range(50)], "date", "", 100),
    ],
)
def test_a_column_of_stamps_in_any_unit_and_form(cells: list[str], name: str, unit: str, fs: float) -> None:
    form = form_of(cells, name, unit)
    assert form is not None
    clock = clock_of(form.seconds(cells), np.arange(float(len(cells))), form)
    assert clock.fs == pytest.approx(fs, rel=5e-3)


def test_a_unit_is_a_word_of_the_name() -> None:
    assert [
        stated_unit(name)
        for name in ("time_ms", "t [s]", "Time (min)", "timestamp_us", "Phone timestamp [ns]", "elapsedMs", "items", "times")
    ] == [
        1e-3,
        1.0,
        60.0,
        1e-6,
        1e-9,
        1e-3,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "fs"),
    [
        ("Sampling rate: 1,000 Hz", 1000),
        ("sampling frequency: 50", 50),
        ("Sample Rate = 200 Hz", 200),
        ("samplingRate=1 kHz", 1000),
        ("fs: 64", 64),
        ("5 msec/sample", 200),
        ("Interval= 0.01 s", 100),
        ("sampling interval: 8 ms", 125),
        ("recorded at 125 samples per second", 125),
        ("100 sps", 100),
        ("started 10:00", None),
        ("offset 12", None),
    ],
)
def test_a_header_states_its_rate_in_these_words(text: str, fs: float | None) -> None:
    assert stated_rate(text) == (None if fs is None else pytest.approx(fs))


def test_a_long_comment_takes_no_time() -> None:
    assert stated_rate("sampling rate " * 10_000 + "x" * 40_000) is None
    assert stated_rate("1" * 40_000) is None


def test_a_rate_is_rounded_by_its_measuring_error_alone() -> None:
    assert (even(99.95), even(99.5)) == (100.0, 99.5)


# ---- files of the kinds that people send ---------------------------------------------------------------------------


N = 3000


def read(folder: Path, content: str | bytes, name: str = "in.csv", **options: object) -> recording.Recording:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return recording.read(path, **options)  # type: ignore[arg-type]


def values(n: int = N, fs: float = 100.0) -> np.ndarray:
    rng = np.random.default_rng(3)
    t = np.arange(n) / fs
    return np.round(124_000 + 400 * np.sin(2 * np.pi * 1.2 * t) + 8 * rng.standard_normal(n))


def rows(head: str, *columns: list[str], between: str = ",", end: str = "\n") -> str:
    return head + "".join(between.join(row) + end for row in zip(*columns, strict=True))


def ints(x: np.ndarray) -> list[str]:
    return [f"{v:.0f}" for v in x]


@pytest.mark.parametrize("fs", RATES)
def test_batches_out_of_order(tmp_path: Path, fs: float) -> None:
    order = np.arange(N).reshape(-1, 20)
    order[1:-1:6], order[2:-1:6] = order[2:-1:6].copy(), order[1:-1:6].copy()
    at = order.ravel()
    found = read(tmp_path, rows("time_ms;ppg\n", [f"{k * 1000 / fs:.4f}" for k in at], ints(values()[at]), between=";"))
    assert (found.rate("x"), found.gaps) == (fs, 0)
    np.testing.assert_array_equal(found.samples, values())
    assert "rows out of order" in found.understood("x", fs)


@pytest.mark.parametrize("fs", RATES)
def test_a_time_of_day_over_midnight(tmp_path: Path, fs: float) -> None:
    t = (DAY_S - 3.0 + np.arange(N) / fs) % DAY_S
    clock = [f"{int(v // 3600):02d}:{int(v % 3600 // 60):02d}:{v % 60:06.3f}" for v in np.floor(t * 1000 + 0.5) / 1000 % DAY_S]
    found = read(tmp_path, rows("time,ppg\n", clock, ints(values())))
    assert found.rate("x") == pytest.approx(fs, rel=2e-3)
    assert (found.gaps, len(found.samples)) == (0, N)
    assert "1 wrap of the clock" in found.understood("x", fs)


@pytest.mark.parametrize("jitter", [0.0, 0.25])
@pytest.mark.parametrize("fs", [25.0, 50.0, 100.0, 125.0])
def test_two_files_joined(tmp_path: Path, fs: float, jitter: float) -> None:
    rng = np.random.default_rng(4)
    part = rows("time,ppg\n", [f"{(k + rng.uniform(-jitter, jitter)) / fs:.5f}" for k in range(N // 2)], ints(values(N // 2)))
    found = read(tmp_path, part + part)
    assert found.clock is not None
    assert (found.clock.starts, found.gaps, found.rate("x")) == ([0, N // 2], 0, pytest.approx(fs, rel=2e-3))
    assert f"the second from line {N // 2 + 3}" in found.understood("x", fs)


@pytest.mark.parametrize("size", [5, 10, 25])
@pytest.mark.parametrize("fs", [50.0, 64.0, 100.0])
def test_one_stamp_a_packet(tmp_path: Path, fs: float, size: int) -> None:
    packets = np.arange(N // size)
    kept = packets[~np.isin(packets, [*range(20, 24), 50, 51])]
    at = (kept[:, None] * size + np.arange(size)).ravel()
    stamps = [f"{k * size * 1000 / fs:.3f}" for k in kept for _ in range(size)]
    found = read(tmp_path, rows("timestamp_ms,ppg\n", stamps, ints(values()[at])))
    assert (found.rate("x"), found.gaps) == (fs, 2)
    assert found.clock is not None
    assert found.clock.lost == 6 * size
    assert len(found.rows if found.rows is not None else []) == len(at)


def test_equal_neighbours_under_one_coarse_stamp_are_no_repeats(tmp_path: Path) -> None:
    x = np.repeat(values(N // 2), 2)  # each value twice
    found = read(tmp_path, rows("time,ppg\n", [f"{int(k / 100)}" for k in range(N)], ints(x)), column="ppg")
    assert (found.repeats, found.rate("x")) == (0, 100.0)


@pytest.mark.parametrize("fs", [55.0, 130.0])
def test_of_two_times_the_even_one_counts(tmp_path: Path, fs: float) -> None:
    rng = np.random.default_rng(5)
    phone = np.repeat(np.arange(0, N, 30) / fs + rng.uniform(0, 0.05, N // 30), 30)
    keep = np.ones(N, bool)
    keep[600:690] = False
    head = "Phone timestamp;sensor timestamp [ns];channel 0;channel 1\n"
    stamps = [f"2024-03-05T10:00:{v:06.3f}" for v in phone]
    ns = [str(599_616_000_000_000_000 + round(k * 1e9 / fs)) for k in range(N)]
    columns = [[c[k] for k in np.flatnonzero(keep)] for c in (stamps, ns, ints(values()), ints(values() - 3000))]
    content = rows(head, *columns, between=";")
    if phone[-1] > 60:
        content = content.replace("2024-03-05T10:00:6", "2024-03-05T10:01:0")
    found = read(tmp_path, content, "in.txt", column="channel 0")
    assert found.rate("x") == pytest.approx(fs, rel=1e-3)
    assert (found.gaps, found.clock.lost if found.clock else 0) == (1, 90)
    assert "sensor timestamp [ns]" in found.understood("x", fs)


def test_a_header_and_a_clock_are_two_witnesses(tmp_path: Path) -> None:
    x = values()
    t = np.arange(N) / 100
    keep = (t < 10) | (t >= 16)
    body = rows("time_s,ppg\n", [f"{v:.2f}" for v in t[keep]], ints(x[keep]))
    found = read(tmp_path, "# Sample rate: 100 Hz\n" + body)
    assert (found.rate("x"), found.gaps) == (100.0, 1)
    found = read(tmp_path, "# Sample rate: 125 Hz\n" + body)
    with pytest.raises(DataError, match=r"100 Hz by its times \(time_s\), and 125 Hz by its header"):
        found.rate("x")
    with pytest.raises(DataError, match="--fs 125, but 100 Hz by its times"):
        found.rate("x", 125.0)
    assert read(tmp_path, "# Sample rate: 125 Hz\n" + body, clocked=False).rate("x", 125.0, trusted=True) == 125.0
    absurd = read(tmp_path, "# Sample rate: 1.000 Hz\n" + "\n".join(ints(x)) + "\n", "in.txt")
    assert absurd.rate("x", 1000.0) == 1000.0
    with pytest.raises(DataError, match="say the right rate with --fs"):
        absurd.rate("x")


def test_of_several_rates_the_line_that_names_the_column_counts(tmp_path: Path) -> None:
    head = "# PPG sampling rate: 64 Hz\n# ACC sampling rate: 32 Hz\nPPG,ACC\n"
    body = rows(head, ints(values()), ints(values()))
    assert read(tmp_path, body, column="PPG").rate("x") == 64.0
    assert read(tmp_path, body, column="ACC").rate("x") == 32.0
    with pytest.raises(DataError, match=r"several rates .*--trust-fs"):
        read(tmp_path, body.replace("PPG,ACC", "ir,acc"), column="ir")


@pytest.mark.parametrize("interval", ["0.01 s", "0.008 s", "5 ms"])
def test_labchart_blocks(tmp_path: Path, interval: str) -> None:
    step = float(interval.split(maxsplit=1)[0]) * (1e-3 if "ms" in interval else 1)
    block = (
        f"Interval=\t{interval}\nExcelDateTime=\t4.5e+04\t01/02/2024 10:00:00\nChannelTitle=\tPPG\tEDA\nRange=\t2.000 "
        f"V\t40.00 uS\n"
    )
    block += rows("", [f"{k * step:.3f}" for k in range(N // 2)], ints(values(N // 2)), ["3.0"] * (N // 2), between="\t")
    found = read(tmp_path, (block + block).replace("\n", "\r\n"), "in.txt", column="PPG")
    assert found.clock is not None
    assert (found.clock.starts, found.rate("x")) == ([0, N // 2], pytest.approx(1 / step, rel=1e-3))
    assert found.text == found.bad == 0


@pytest.mark.parametrize("period", [2, 3, 4])
def test_empty_lines_in_a_pattern_are_layout(tmp_path: Path, period: int) -> None:
    x = ints(values())
    found = read(tmp_path, "".join(v + "\n" * period for v in x), "in.txt")
    np.testing.assert_array_equal(found.samples, values())
    found = read(tmp_path, ("time_s,ppg\n" + "".join(f"{k / 100:.2f},{v}\r\n\r\n" for k, v in enumerate(x))))
    assert (found.rate("x"), len(found.samples)) == (100.0, N)
    assert len(read(tmp_path, "".join(v + "\r\r\n" for v in x), "in.txt").samples) == N


def test_a_slower_channel_has_its_own_rate(tmp_path: Path) -> None:
    ppg = [v if k % 4 == 0 else "" for k, v in enumerate(ints(values()))]
    found = read(tmp_path, rows("time_s,acc,ppg\n", [f"{k / 200:.3f}" for k in range(N)], ints(values()), ppg), column="ppg")
    assert (found.rate("x"), len(found.samples), found.gaps) == (50.0, N // 4, 0)
    assert "layout" in found.understood("x", 50.0)


def test_irregular_empty_lines_are_invalid_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = ["" if rng.random() < 0.1 else v for v in ints(values())]
    found = read(tmp_path, "\n".join(lines) + "\n", "in.txt")
    assert len(found.samples) == N
    assert found.bad == lines.count("")


@pytest.mark.parametrize("fs", [25.0, 100.0, 125.0])
def test_json_in_its_forms(tmp_path: Path, fs: float) -> None:
    x = values().astype(int).tolist()
    start = 1_700_000_000_000
    stamps = [start + round(k * 1000 / fs, 3) for k in range(N)]
    by_line = "\n".join(json.dumps({"ts": t, "red": v - 9000, "ir": v}) for t, v in zip(stamps, x, strict=True))
    found = read(tmp_path, by_line, "in.ndjson", column="ir")
    assert (found.rate("x"), found.samples.tolist()) == (fs, x)
    with pytest.raises(UsageError, match=r"2 values a row.*ts, red, ir"):
        read(tmp_path, by_line, "in.ndjson")
    objects = json.dumps(
        {"start": start, "ppg": [{"t": t - start, "green": v} for t, v in zip(stamps, x, strict=True)]}, indent=1
    )
    found = read(tmp_path, objects, "in.json")
    assert (found.rate("x"), found.samples.tolist(), found.name) == (fs, x, "green")
    found = read(tmp_path, json.dumps(x), "in.json")
    assert found.samples.tolist() == x
    with pytest.raises(UsageError, match="say --fs"):
        found.rate("x")
    found = read(tmp_path, json.dumps({"sampling_rate": fs, "ppg": x}), "in.json")
    assert (found.rate("x"), found.samples.tolist()) == (fs, x)
    packets = [{"t": stamps[k], "samples": [[v] for v in x[k : k + 10]]} for k in range(0, N, 10) if k not in (500, 510)]
    found = read(tmp_path, "\n".join(map(json.dumps, packets)), "in.json")
    assert (found.rate("x"), found.gaps, found.clock.lost if found.clock else 0) == (fs, 1, 20)
    found = read(tmp_path, "\n".join(f"[{t}, {v}]" for t, v in zip(stamps, x, strict=True)), "in.json", column="1")
    assert (found.rate("x"), found.samples.tolist()) == (fs, x)


@pytest.mark.parametrize("size", [3, 5, 8])
def test_packets_in_rows_are_refused_by_name(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(size)
    lines = []
    for k in range(600):
        count = int(rng.integers(1, size + 1))
        lines.append(f"{k * 40},{k},{count},PI,1,100," + ",".join(["124000"] * count))
    for options in ({}, {"column": "6"}):
        with pytest.raises(UsageError, match=r"line 1 has .* packets of samples"):
            read(tmp_path, "\n".join(lines), **options)


@pytest.mark.parametrize("top", [1002, 1300, 2500])
def test_a_mark_of_thousands_that_looks_like_a_decimal_point_is_refused(tmp_path: Path, top: int) -> None:
    x = np.round(700 + (top - 700) * (0.5 + 0.5 * np.sin(np.arange(N) / 30))).astype(int)
    dotted = [f"{v // 1000}.{v % 1000:03d}" if v > 999 else str(v) for v in x]
    with pytest.raises(DataError, match="mark of thousands"):
        read(tmp_path, rows("zeit;ppg\n", [str(k * 8) for k in range(N)], dotted, between=";"))
    with pytest.raises(DataError, match="mark of thousands"):
        read(tmp_path, "\n".join(dotted), "in.txt")
    quoted = [f'"{v:,}"' for v in x]
    np.testing.assert_array_equal(read(tmp_path, rows("t_ms,ppg\n", [str(k * 8) for k in range(N)], quoted)).samples, x)


@pytest.mark.parametrize(
    "boot", ["ets Jun  8 2016 00:22:57", "rst:0x1 (POWERON),boot:0x13", "ESP-ROM:esp32,Build time: Feb 7 2021", "hello"]
)
def test_two_columns_without_a_header_are_never_guessed(tmp_path: Path, boot: str) -> None:
    body = rows("", ints(values()), ints(values() - 9000))
    for content in (body, f"{boot}\n{body}"):
        with pytest.raises(UsageError, match="2 columns: say which with --column"):
            read(tmp_path, content, "in.txt")


def test_an_unnamed_column_that_goes_on_like_a_clock_is_one(tmp_path: Path) -> None:
    body = rows("", [f"{k * 10}" for k in range(N)], ints(values()))
    assert read(tmp_path, body, "in.txt", column="1").rate("x") == 100.0


@pytest.mark.parametrize("stray", ["\t", ";"])
def test_one_stray_mark_does_not_change_the_delimiter(tmp_path: Path, stray: str) -> None:
    lines = [f"0,{500 + k % 50}" for k in range(N)]
    lines[20] += stray
    with pytest.raises(UsageError, match="2 columns"):
        read(tmp_path, "\n".join(lines), "in.txt")
    assert read(tmp_path, "\n".join(lines), "in.txt", column="1").samples[100] == 500


def test_a_named_time_that_is_none_stops_with_its_line(tmp_path: Path) -> None:
    stamps = [f"{k / 100:.2f}" if k < 2000 else "late" for k in range(N)]
    with pytest.raises(DataError, match=r"line 2002: the time in time is no time: .*--trust-fs"):
        read(tmp_path, rows("time,ppg\n", stamps, ints(values())), column="ppg")


def test_a_counter_knows_what_is_missing_and_not_the_rate(tmp_path: Path) -> None:
    kept = np.r_[0:1000, 1100:N]
    found = read(tmp_path, rows("index,ppg\n", ints(kept), ints(values()[kept])))
    assert (found.gaps, found.clock.lost if found.clock else 0) == (1, 100)
    with pytest.raises(UsageError, match="say --fs"):
        found.rate("x")
    assert found.rate("x", 50.0) == 50.0


def test_the_place_of_a_sample_is_its_line_and_its_second(tmp_path: Path) -> None:
    k = np.arange(2000)
    t = k / 100 + np.where(k < 1000, 0, 90)
    found = read(tmp_path, rows("time_s,ppg\n", [f"{v:.2f}" for v in t], ints(values(2000))))
    assert found.rate("x") == 100.0
    assert found.place(500, 100.0) == "line 502 (5.00 s)"
    assert found.rows is not None
    assert found.place(int(found.rows[1500]), 100.0) == "line 1502 (105.00 s)"


@pytest.mark.parametrize("kind", ["csv", "npz"])
@pytest.mark.parametrize("fs", [50.0, 125.0])
def test_what_we_write_comes_back_with_its_rate_gaps_and_stretches(tmp_path: Path, fs: float, kind: str) -> None:
    from ppgstream.files import offline

    t = np.arange(N) / fs
    keep = (t < 5) | (t >= 9)
    part = rows("", [f"{v:.5f}" for v in t[keep]], ints(values()[keep]))
    found = read(tmp_path, "time_s,ppg\n" + part + part)
    n = len(found.rows) if found.rows is not None else 0
    flags = np.zeros(n, np.uint16)
    flags[77] = Flag.NONFINITE
    flags[78] = Flag.SATURATED
    result = offline.Denoised(np.arange(n, dtype=np.float32), np.ones(n, np.float32), flags, [])
    content = offline.content_of(result, f".{kind}", fs=fs, stream="a", clock=offline.clocked(found, fs))
    again = read(tmp_path, content, f"out.{kind}")
    assert (again.rate("x"), again.gaps) == (fs, found.gaps)
    assert again.clock is not None
    assert found.clock is not None
    assert again.clock.starts == found.clock.starts
    np.testing.assert_array_equal(again.clock.places, found.clock.places)
    back = again.samples[again.rows]
    assert np.flatnonzero(np.isnan(back)).tolist() == [77]


def test_of_an_output_of_several_streams_one_is_named(tmp_path: Path) -> None:
    lines = [recording.CSV_HEAD]
    for k in range(500):
        lines += [f"{name},0000000000000001,{k},{k * 8_000_000},{k + add}.0,0.9,0" for name, add in (("a", 0), ("b", 1000))]
    content = "\n".join(lines) + "\n"
    with pytest.raises(UsageError, match=r"2 streams.*--stream \(a, b\)"):
        read(tmp_path, content)
    found = read(tmp_path, content, stream="b")
    assert (found.rate("x"), found.samples[0], len(found.samples)) == (125.0, 1000.0, 500)


# ---- files that are none, or that hurt -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"MATLAB 5.0 MAT-file" + bytes(200), "x.bin", "MATLAB file: name it .mat"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "x.bin", "HDF5 or MATLAB 7.3: name it .h5"),
        (b"XDF:<?xml" + bytes(200), "x.bin", "XDF of LabRecorder: name it .xdf"),
        (b"Obj\x01" + bytes(200), "x.avro", "Avro"),
        (bytes(8) + b".FIT" + bytes(200), "x.fit", "FIT"),
        (b"0       " + b"X" * 248 + bytes(200), "x.bin", "EDF: name it .edf"),
        (b"\x80\x04\x95" + bytes(200), "x.pkl", "pickle"),
        (bytes(500), "x.acq", "AcqKnowledge"),
    ],
)
def test_a_binary_file_is_named_with_what_converts_it(tmp_path: Path, content: bytes, name: str, says: str) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        read(tmp_path, content, name)


def test_gz_and_a_zip_of_one_file_are_read(tmp_path: Path) -> None:
    import gzip
    import io
    import zipfile

    text = rows("time_s,ppg\n", [f"{k / 100:.2f}" for k in range(N)], ints(values())).encode()
    assert read(tmp_path, gzip.compress(text), "in.csv.gz").rate("x") == 100.0
    for names in (["a.csv"], ["a.csv", "b.csv"]):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name in names:
                archive.writestr(name, text)
        if len(names) == 1:
            assert read(tmp_path, packed.getvalue(), "in.zip").rate("x") == 100.0
        else:
            with pytest.raises(DataError, match=r"a zip of 2 files.*a\.csv, b\.csv"):
                read(tmp_path, packed.getvalue(), "in.zip")
    with pytest.raises(DataError, match="damaged gz"):
        read(tmp_path, gzip.compress(text)[:100], "in.gz")


def test_an_npz_that_unpacks_to_more_than_a_recording_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    assert arrays.MOST_UNPACKED == 2_000_000_000
    monkeypatch.setattr(arrays, "MOST_UNPACKED", 20_000_000)

    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("denoised.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(21):
            file.write(bytes(1_000_000))
    with pytest.raises(DataError, match="unpacks to 21,000,000 bytes"):
        recording.read(tmp_path / "x.npz")


def test_a_comment_of_deep_json_is_a_comment(tmp_path: Path) -> None:
    found = read(tmp_path, "# {" + '"a":{' * 100_000 + "\n" + "\n".join(ints(values())), "in.txt")
    assert len(found.samples) == N
    with pytest.raises(DataError, match=r"no valid sample|JSON"):
        read(tmp_path, "[" * 100_000, "in.json")


def test_red_and_infrared_in_turns_are_told(tmp_path: Path) -> None:
    x = np.ravel(np.column_stack([values(), values() - 9000]))
    found = read(tmp_path, "\n".join(ints(x)), "in.txt")
    assert "two channels in turns" in found.understood("x", 125.0)
    assert "in turns" not in read(tmp_path, "\n".join(ints(values())), "in.txt").understood("x", 125.0)


SHARED = Path(__file__).parents[2] / "shared" / "data" / "course"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the course's files are not beside this checkout")
def test_the_course_s_external_files_are_known(tmp_path: Path) -> None:
    for name in recording.COURSE:
        found = recording.read(SHARED / name)
        assert (found.rate("x"), "the course" in found.understood(name, 125.0)) == (125.0, True)
        (tmp_path / name).write_bytes((SHARED / name).read_bytes() + b"0.5\n")
        with pytest.raises(UsageError, match="say --fs"):
            recording.read(tmp_path / name).rate("x")


# ---- what a second pair of eyes found ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tick", "fs"), [(0.01, f) for f in (62, 86, 99, 104, 115, 125, 128, 140, 150)] + [(0.0156, 70), (0.0156, 62), (0.05, 26)]
)
def test_a_clock_that_ticks_a_little_slower_or_faster_than_the_samples(tick: float, fs: float) -> None:
    rows = np.arange(4000)
    for kept in (rows, rows[(rows < 1500) | (rows >= 1700)]):
        lies_where_it_should(np.floor(kept / fs / tick) * tick, kept, fs)


@pytest.mark.parametrize(("count", "seconds"), [(6, 9), (2, 6), (3, 6), (8, 6), (12, 4)])
def test_short_recordings_joined_are_not_laid_over_one_another(count: int, seconds: int) -> None:
    n = seconds * 50
    clock = clock_of(np.tile(np.arange(n) / 50, count), wave(n * count, 50))
    assert (clock.fs, clock.starts) == (50.0, [n * k for k in range(count)])


@pytest.mark.parametrize("stamp", [0.0, 1e8, -5.0])
def test_one_wild_stamp_costs_nothing(stamp: float) -> None:
    t = 100 + np.arange(3000) / 100
    t[1500] = stamp
    clock = clock_of(t, wave(3000, 100))
    assert (clock.fs, clock.starts, clock.lost) == (100.0, [0], 0)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_counter_of_few_bits_wraps(bits: int) -> None:
    rows = np.r_[0:5000, 5100 : 2 ** (bits + 1) + 6000]
    clock = clock_of((rows % 2**bits).astype(float), wave(len(rows), 100), Form(counter=True))
    np.testing.assert_array_equal(clock.places, rows)


@pytest.mark.parametrize(
    ("cells", "jump"),
    [
        (["06.05.2024 23:59:59.990", "07.05.2024 00:00:00.000"], 0.01),
        (["12/05/2024 23:59:59.990", "13/05/2024 00:00:00.000"], 0.01),
        (["5/31/24 11:59:59.990 PM", "6/1/24 12:00:00.000 AM"], 0.01),
        (["04/05/2024 23:59:59.990", "05/05/2024 00:00:00.000"], 0.01),
        (["2024-05-06 10:00:00,020", "2024-05-06 10:00:00,030"], 0.01),
        (["11:59:59.990 p.m.", "12:00:00.000 a.m."], 0.01 - DAY_S),
    ],
)
def test_dates_as_they_are_written(cells: list[str], jump: float, recwarn: pytest.WarningsRecorder) -> None:
    form = form_of(cells * 2)
    assert form is not None
    assert np.diff(form.seconds(cells))[0] == pytest.approx(jump, abs=1e-4)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("text", "fs"),
    [
        ("Sampling rate: 0,1 kHz", 100),
        ("Sampling rate: 62,5 Hz", 62.5),
        ("sampling rate 1 000 Hz", 1000),
        ("Sampling rate of channel 2: 100 Hz", 100),
        ("sampling interval [ms] = 10", 100),
        ("sample period (s): 0.01", 100),
        ("10 ms sampling interval", 100),
        ("SR=200", 200),
        ("dt = 0.01", 100),
        ("cutoff frequency: 25", None),
        ("line frequency: 50 Hz", None),
        ("Filter: low pass 40 Hz", None),
        ("RR interval: 800 ms", None),
        ("LED at 100 kHz", None),
    ],
)
def test_a_rate_is_told_from_other_frequencies(text: str, fs: float | None) -> None:
    assert stated_rate(text) == (None if fs is None else pytest.approx(fs))


@pytest.mark.parametrize("odd", ["NaN", "", "-300"])
def test_one_other_cell_does_not_hide_marks_of_thousands(tmp_path: Path, odd: str) -> None:
    x = np.round(1000 + 100 * np.sin(np.arange(N) / 30)).astype(int)
    dotted = [f"{v // 1000}.{v % 1000:03d}" if v > 999 else str(v) for v in x]
    dotted[1200] = odd
    with pytest.raises(DataError, match="mark of thousands"):
        read(tmp_path, rows("zeit;ppg\n", [str(k * 8) for k in range(N)], dotted, between=";"))
    with pytest.raises(DataError, match="mark of thousands"):
        read(tmp_path, "\n".join(f"t={k * 8} IR={v or 0}" for k, v in enumerate(dotted)), "in.txt", key="IR")


def test_a_decimal_comma_in_the_time_alone(tmp_path: Path) -> None:
    stamps = [f"{k // 50},{k % 50 * 2:02d}" for k in range(N)]
    for between in (";", "\t"):
        found = read(tmp_path, rows(f"time{between}ppg\n", stamps, ints(values()), between=between))
        assert (found.rate("x"), found.samples.tolist()) == (50.0, values().tolist())


def test_a_fraction_of_the_second_in_a_column_of_its_own_is_no_clock(tmp_path: Path) -> None:
    stamps = [f"10:00:{k // 50:02d}" for k in range(N)]
    ms = [str(k % 50 * 20) for k in range(N)]
    found = read(tmp_path, rows("Time,ms,ppg\n", stamps, ms, ints(values())), column="ppg")
    assert (found.rate("x"), found.gaps) == (50.0, 0)


@pytest.mark.parametrize("name", ["epoch", "unix", "when", "x"])
def test_a_clock_of_any_name_is_no_column_to_drop(tmp_path: Path, name: str) -> None:
    stamps = [str(1_700_000_000_000 + 10 * k) for k in range(N)]
    found = read(tmp_path, rows(f"{name},red,ppg\n", stamps, ints(values() - 9000), ints(values())), column="ppg")
    assert found.rate("x") == 100.0


def test_a_rate_in_a_first_line_without_a_mark(tmp_path: Path) -> None:
    for line, fs in (("4 msec/sample", 250.0), ("Sampling rate: 100 Hz", 100.0)):
        assert read(tmp_path, line + "\n" + "\n".join(ints(values())), "in.txt").rate("x") == fs


def test_json_one_level_further_down(tmp_path: Path) -> None:
    found = read(tmp_path, json.dumps({"meta": {"sampling_rate": 50}, "data": {"ppg": values().tolist()}}), "in.json")
    assert (found.rate("x"), found.samples.tolist()) == (50.0, values().tolist())


@law
@given(rates, st.lists(st.integers(50, 2900), min_size=1, max_size=12, unique=True))
def test_single_lost_rows_are_gaps_and_no_coarse_clock(fs: float, lost: list[int]) -> None:
    rows = np.setdiff1d(np.arange(3000), lost)
    lies_where_it_should(np.round(rows / fs, 3), rows, fs)
