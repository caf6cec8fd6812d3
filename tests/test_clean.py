"""Clean stretches of recordings that nobody has judged: the rule, the split, and BIDMC's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ppgstream.tools import bidmc
from ppgstream.train import data, own
from typer.testing import CliRunner

from ppgstream.errors import DataError, SourceError, UsageError
from ppgstream.files import clean
from ppgstream.lab import synthetic


def pulse(seed: int, *, seconds: float = 8.0, fs: float = 125.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return synthetic.pulse(int(seconds * fs), synthetic.person(rng), rng, fs=fs)[0]


def verdict(window: np.ndarray, measured: np.ndarray | None = None) -> str:
    return str(clean.judge(window[None], np.ones((1, len(window)), bool) if measured is None else measured[None])[0])


def test_a_pulse_is_clean_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    pulses = np.stack([pulse(seed) for seed in range(60)])
    height = np.ptp(pulses, axis=1, keepdims=True)
    everything = np.ones(pulses.shape, bool)
    assert (clean.judge(pulses, everything) == "").mean() > 0.9
    assert (clean.judge(pulses + 0.05 * height * rng.standard_normal(pulses.shape), everything) == "").mean() > 0.85
    for noisy in (
        pulses + 0.2 * height * rng.standard_normal(pulses.shape),
        rng.standard_normal(pulses.shape),
        np.cumsum(rng.standard_normal(pulses.shape), axis=1),
    ):
        assert (clean.judge(noisy, everything) == "").sum() == 0


def test_each_rule_names_its_reason() -> None:
    good = pulse(3)
    t = np.arange(1000) / 125
    assert verdict(good) == ""
    assert verdict(-7 * good + 4e6) == ""  # neither scale nor sign nor offset count
    assert verdict(np.ones(1000)) == "flat"
    measured = np.ones(1000, bool)
    measured[100:109] = False
    assert verdict(good, measured) == ""
    measured[200:203] = False
    assert verdict(good, measured) == "not measured"
    assert verdict(np.sin(2 * np.pi * 1.2 * t) + 0.5 * np.sin(2 * np.pi * 7.2 * t)) == "power above 6 Hz"
    assert verdict(np.sin(2 * np.pi * 1.2 * t) + 0.4 * np.sin(2 * np.pi * 30 * t)) == "noise above 12 Hz"
    assert verdict(np.sin(2 * np.pi * 0.1 * t**2)) == "not periodic"
    assert verdict(np.sin(2 * np.pi * 1.2 * t)) == ""  # as documented: a sine passes


def test_choosing_takes_what_is_clean_at_125_hz_and_upright() -> None:
    fs = 100.0
    x = pulse(5, seconds=60, fs=fs)
    rng = np.random.default_rng(1)
    x[2000:3000] += 3 * rng.standard_normal(1000) * x.std()
    x[4500:4700] = np.nan
    stretches, report = clean.choose(-x, fs, "wrist")
    assert report.name == "wrist"
    assert report.seconds == 60.0
    assert 30 <= report.chosen <= 48
    assert report.refused["not measured"] >= 3
    whole, _ = clean.choose(x, fs, "wrist")
    assert [len(s) for s in stretches] == [len(s) for s in whole]
    for upright, turned in zip(whole, stretches, strict=True):
        np.testing.assert_allclose(turned, upright, atol=1e-9)
        assert not np.isnan(upright).any()
    t = np.arange(18 * 125) / 125
    np.testing.assert_allclose(
        whole[0][: len(t)], np.interp(t, np.arange(len(x)) / fs, np.nan_to_num(x))[: len(whole[0])], atol=0.05 * np.ptp(whole[0])
    )


def test_a_recording_shorter_than_a_window_is_counted_as_that() -> None:
    assert clean.choose(pulse(1)[:900], 125.0, "short") == (
        [],
        clean.Report("short", 7.2, refused=clean.Counter({"shorter than 8 s": 1})),
    )


# ---- the split -----------------------------------------------------------------------------------------------------


def groups(names: list[str], seconds: float = 60.0) -> dict[str, list[data.Clean]]:
    return {name: [data.Clean([np.zeros(int(seconds * 125))], [name])] for name in names}


def test_the_split_is_the_same_everywhere_and_grows_without_moving_anyone() -> None:
    many = [f"person{k}" for k in range(200)]
    sides = own.split(groups(many))
    shares = [list(sides.values()).count(side) / 200 for side in data.SIDES]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.06)
    assert (sides["person0"], sides["person1"], sides["person5"]) == ("train", "validation", "train")
    fewer = own.split(groups(many[:100]))
    assert all(sides[name] == side for name, side in fewer.items())


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_few_recordings_are_still_split_with_something_on_each_side_that_is_needed(count: int) -> None:
    for first in range(30):
        sides = own.split(groups([f"r{first}_{k}" for k in range(count)]))
        found = set(sides.values())
        assert {"train", "validation"} <= found
        assert ("test" in found) == (count > 2)


def test_too_little_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match="60 s of clean signal in 1 of 1 recordings: training needs clean signal of at least two"):
        own.split(groups(["alone"]))
    with pytest.raises(DataError, match=r"20 s of clean signal, 10 s of it to train on: 30 s are needed there"):
        own.split(groups(["a", "b"], seconds=10))


def test_a_person_s_recordings_stay_together(tmp_path: Path) -> None:
    for person in range(5):
        for take in ("a", "b"):
            np.savetxt(tmp_path / f"p{person}_{take}.txt", pulse(10 * person + (take == "b"), seconds=32))
    (tmp_path / "notes.md").write_text("no recording")
    (tmp_path / ".hidden.txt").write_text("no recording")
    read = own.read(tmp_path, fs=125.0, group=r"p(\d)")
    assert len(read) == 10
    found, sides = own.set_of(read)
    side_of: dict[str, set[str]] = {}
    for side in data.SIDES:
        for name in found.recordings(side):
            side_of.setdefault(name[:2], set()).add(side)
            assert sides[name[1]] == side
    assert all(len(sides) == 1 for sides in side_of.values())
    assert set.union(*side_of.values()) == set(data.SIDES)
    assert own.table(read, sides).row_count == 11


def test_rows_of_an_array_are_recordings_of_their_own_and_nan_is_no_harm(tmp_path: Path) -> None:
    rows = np.stack([pulse(seed, seconds=40) for seed in range(4)])
    rows[0, 1000:1100] = np.nan
    np.save(tmp_path / "all.npy", rows)
    read = own.read(tmp_path, fs=125.0)
    found, _ = own.set_of(read)
    assert [f.report.name for f in read] == [f"all.npy[{k}]" for k in range(4)]
    assert not any(np.isnan(s).any() for side in data.SIDES for s in found.sides[side].stretches)


def test_a_file_that_cannot_be_read_is_reported_and_does_not_stop_the_others(tmp_path: Path) -> None:
    for k in range(3):
        table = np.column_stack([np.arange(4000), pulse(k, seconds=32)])
        np.savetxt(tmp_path / f"good{k}.csv", table, delimiter=",", header="sample,ppg", comments="")
    (tmp_path / "nan.csv").write_text("sample,ppg\n1,nan\n2,nan\n")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n3,4\n")
    (tmp_path / "garbage.dat").write_bytes(b"\x00\xff\x12")
    read = own.read(tmp_path, fs=125.0, column="ppg")
    chosen, _ = own.set_of(read)
    assert {name for side in data.SIDES for name in chosen.recordings(side)} == {f"good{k}.csv" for k in range(3)}
    told = {f.report.name: next(iter(f.report.refused), "") for f in read if not f.report.seconds}
    assert set(told) == {"nan.csv", "other.csv", "garbage.dat"}
    assert "no column 'ppg'" in told["other.csv"]
    with pytest.raises(UsageError, match="no column 'pleth'"):
        own.read(tmp_path, fs=125.0, column="pleth")


def test_a_file_of_another_rate_than_was_said_is_reported_and_can_be_taken_all_the_same(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "plain.csv", pulse(1, seconds=32))
    table = np.column_stack([np.arange(4000) / 100, pulse(2, seconds=32)])
    np.savetxt(tmp_path / "timed.csv", table, delimiter=",", header="time_s,ppg", comments="")
    told = {f.report.name: f.report for f in own.read(tmp_path, fs=125.0)}
    assert told["plain.csv"].seconds > 20
    assert told["timed.csv"].seconds == 0
    assert next(iter(told["timed.csv"].refused)).startswith("--fs 125, but 100 Hz by its times")
    taken = {f.report.name: f.report for f in own.read(tmp_path, fs=125.0, trusted=True)}
    assert min(report.seconds for report in taken.values()) > 20
    np.savetxt(tmp_path / "timed.csv", pulse(2, seconds=32))
    with pytest.raises(UsageError, match=r"states no sampling rate: say --fs HZ"):
        own.read(tmp_path, fs=None)


# ---- BIDMC ---------------------------------------------------------------------------------------------------------


def write_bidmc(folder: Path, number: int, patient: str, *, samples: int = bidmc.SAMPLES) -> None:
    x = np.tile(pulse(number, seconds=60), 9)[:samples]
    table = np.column_stack([np.arange(samples) / 125, np.zeros(samples), x, np.ones(samples)])
    name = f"bidmc_{number:02d}"
    np.savetxt(folder / f"{name}_Signals.csv", table, delimiter=",", header="Time [s], RESP, PLETH, II", comments="", fmt="%.5f")
    (folder / f"{name}_Fix.txt").write_text(f"{name}\nAge: 60\nMIMIC II matched wdb ID: {patient}\n")


def test_bidmc_s_file_is_made_from_physionet_s_csv_and_split_by_patient(tmp_path: Path) -> None:
    patients = ["s00001", "s00002", "s00003", "s00004", "s00005", "s00006", "s00001"]
    for number, patient in enumerate(patients, start=1):
        write_bidmc(tmp_path, number, patient)
    out = tmp_path / "data" / "bidmc" / "bidmc_public.npz"
    assert CliRunner().invoke(bidmc.app, [str(tmp_path), "-o", str(out)]).exit_code == 0
    with np.load(out, allow_pickle=False) as made:
        assert made["ppg"].shape == (7, 60_001)
        assert made["ppg_clean_win"].shape == (7, 237)
        assert made["mimic_patient"].tolist() == patients
        assert made["split"][0] == made["split"][6]
        assert made["ppg_clean_win"].mean() > 0.5
    train, validation = (data.bidmc(tmp_path / "data", side) for side in ("train", "validation"))
    assert train.seconds > 60
    assert not {n.rsplit("_", 1)[1] for n in train.recording} & {n.rsplit("_", 1)[1] for n in validation.recording}


def test_what_is_not_bidmc_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no bidmc_\*_Signals.csv in it"):
        bidmc.convert(tmp_path)
    write_bidmc(tmp_path, 1, "s1", samples=2000)
    with pytest.raises(DataError, match="2000 samples, 60001 expected"):
        bidmc.convert(tmp_path)
    result = CliRunner().invoke(bidmc.app, [str(tmp_path)])
    assert result.exit_code == 65
    assert result.stderr.startswith("bidmc: ")
