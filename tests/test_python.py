"""The package from Python: five names, and what they do with arguments that are none."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import neurokit2 as nk
import numpy as np
import pandas as pd
import pytest
from test_daemon import serving, until

import ppgstream
from ppgstream.api import sockets
from ppgstream.api.live import Block
from ppgstream.errors import ArgumentError, CheckpointError, ConfigError, SourceError
from ppgstream.lab import synthetic
from ppgstream.model import runtime
from ppgstream.model.checkpoint import BUNDLED
from ppgstream.model.restore import restore
from ppgstream.wire.message import EMPTY, Beats, Chunk, Flag, Kind

FS = 125.0
WAVES = ("denoised", "confidence", "flags")
BEATS = ("beats", "beat_confidence", "beat_interval_ms", "beat_error_ms")


def recording(seconds: float, seed: int = 0, fs: float = FS) -> np.ndarray:
    rng = np.random.default_rng(seed)
    clean, _ = synthetic.pulse(round(seconds * FS), synthetic.person(rng), rng)
    t = np.arange(round(seconds * fs)) / fs
    return np.asarray(500 + 40 * np.interp(t, np.arange(len(clean)) / FS, clean) + 4 * rng.standard_normal(len(t)))


def same(a: Any, b: Any) -> None:
    for name in (*WAVES, *BEATS, "hr_t_s", "hr_bpm", "hr_confidence"):
        assert np.asarray(getattr(a, name)).tobytes() == np.asarray(getattr(b, name)).tobytes(), name


@pytest.mark.parametrize("name", ["denoised", "live", "sockets"])
def test_the_examples_of_the_docstrings_hold(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"ppgstream.api.{name}"))
    assert found.attempted
    assert not found.failed


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import ppgstream, sys; print(sorted({'numpy', 'scipy', 'onnxruntime', 'tensorflow', 'zmq', 'matplotlib', 'pandas'} & "
        "set(sys.modules))); print(callable(ppgstream.denoise), 'onnxruntime' in sys.modules, 'zmq' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True False False"]
    assert set(ppgstream.__all__) <= set(dir(ppgstream))
    with pytest.raises(AttributeError, match="no attribute 'denoiser'"):
        _ = ppgstream.denoiser  # type: ignore[attr-defined]


def test_each_row_is_denoised_as_if_alone_whatever_holds_it() -> None:
    x = np.stack([recording(20, seed) for seed in range(3)])
    x[1, 700:760] = np.nan
    both = ppgstream.denoise(x, FS)
    assert both.denoised.shape == x.shape
    assert both.hr_bpm.shape == (3, len(both.hr_t_s))
    for row, one in zip(x, both, strict=True):
        same(ppgstream.denoise(row, FS), one)
    same(ppgstream.denoise(x[0].tolist(), fs=int(FS)), both[0])
    same(ppgstream.denoise(pd.Series(x[0], index=pd.date_range("2026", periods=len(x[0]), freq="8ms")), FS), both[0])
    gone = [None if np.isnan(value) else value for value in x[1]]
    same(ppgstream.denoise(gone, FS), both[1])
    same(ppgstream.denoise(np.ma.masked_invalid(x[1]), FS), both[1])
    assert (both[1].flags[700:760] & Flag.NONFINITE).all()
    assert both[-1].raw is not both.raw
    with pytest.raises(IndexError):
        _ = both[3]
    for wrong in (slice(0, 2), [0, 1], "a", np.array([0, 1])):
        with pytest.raises(ArgumentError, match="must be the number of a recording, 0 to 2"):
            _ = both[wrong]  # type: ignore[index]
    kept = both.raw.copy()
    x[:] = 0
    assert np.array_equal(both.raw, kept, equal_nan=True)  # it is its own
    x[:] = np.nan_to_num(kept)
    whole = np.round(x[0]).astype(np.int16)
    same(ppgstream.denoise(whole, FS), ppgstream.denoise(whole.astype(float), FS))


@pytest.mark.parametrize(("fs", "lookahead"), [(125.0, None), (125.0, 49), (64.0, None), (250.0, 25)])
def test_live_gives_the_same_as_a_recording_however_samples_come(fs: float, lookahead: int | None) -> None:
    x, rng = recording(45, 3, fs), np.random.default_rng(1)
    x[round(15 * fs) : round(15.2 * fs)] = np.nan
    x[round(25 * fs) : round(27 * fs)] = x[round(25 * fs)]
    whole = ppgstream.denoise(x, fs, lookahead=lookahead)
    live, blocks, at = ppgstream.LiveDenoiser(fs, lookahead=lookahead), [], 0
    while at < len(x):
        n = int(rng.choice([1, 7, 25, 60, 3000]))
        blocks.append(live.feed(x[at : at + n]))
        at += n
    assert live.feed([]).denoised.shape == (0,)
    blocks.append(live.finish())
    index = 0
    for block in blocks:
        assert block.index == index
        index += len(block.denoised)
    for name in (*WAVES, *BEATS):
        found = np.concatenate([getattr(block, name) for block in blocks])
        assert found.tobytes() == getattr(whole, name).tobytes(), name
    known = ~np.isnan(whole.hr_bpm)
    assert known.sum() > 10
    found = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in ("hr_t_s", "hr_bpm", "hr_confidence")}
    each = np.append(np.diff(found["hr_t_s"]) > 0, True)  # where a stretch ends, a time may be told twice: the last word counts
    assert found["hr_bpm"][each].tobytes() == whole.hr_bpm[known].tobytes()
    assert found["hr_confidence"][each].tobytes() == whole.hr_confidence[known].tobytes()
    np.testing.assert_allclose(found["hr_t_s"][each], whole.hr_t_s[known], atol=1.1 / fs)
    assert [text for block in blocks for text in block.events] == list(whole.events)
    for call in (live.finish, lambda: live.feed([1.0])):
        with pytest.raises(ArgumentError, match="finished"):
            call()


WRONG: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no rate": (np.ones(500), None, {}, "fs: None: must be the sampling rate in Hz, 10 to 1000"),
    "a rate in words": (np.ones(500), "125 Hz", {}, "fs: '125 Hz': must be"),
    "a rate of 0": (np.ones(500), 0, {}, "fs: 0: must be"),
    "a rate in kHz": (np.ones(500), 125_000, {}, "fs: 125000: must be"),
    "a rate that is none": (np.ones(500), float("nan"), {}, "fs: nan: must be"),
    "empty": ([], 125, {}, r"x: empty \(shape \(0,\)\)"),
    "no rows": (np.ones((0, 9)), 125, {}, r"x: empty \(shape \(0, 9\)\)"),
    "complex": (np.ones(500) + 1j, 125, {}, "x: complex: a PPG sample is one real number"),
    "words": (["a", "b"], 125, {}, "x: of type <U1: no numbers"),
    "objects": ([object()], 125, {}, "x: no numbers"),
    "times": (np.array(["2026-01-01"], "M8[ns]"), 125, {}, "x: of type datetime64"),
    "a path": ("ppg.csv", 125, {}, r"x: 'ppg.csv' is a path: ppgstream.load\(path\) reads it"),
    "one number": (5.0, 125, {}, r"x: an array of shape \(\): must be"),
    "ragged": ([[1.0, 2.0], [1.0]], 125, {}, "x: no numbers"),
    "three dimensions": (np.ones((2, 2, 500)), 125, {}, r"x: an array of shape \(2, 2, 500\): must be"),
    "two channels in columns": (np.ones((5000, 2)), 125, {}, r"x: 5000 recordings of 2 samples: .*give x.T, or one: x\[:, 0\]"),
    "a frame": (pd.DataFrame({"ir": np.ones(900), "red": np.ones(900)}), 125, {}, "give x.T"),
    "a polarity": (np.ones(500), 125, {"polarity": "down "}, "polarity: 'down ': must be auto, up or down"),
    "a lookahead in seconds": (np.ones(500), 125, {"lookahead": 0.5}, "lookahead: 0.5: must be a whole number, 0 or more"),
    "a lookahead that is none": (np.ones(500), 125, {"lookahead": float("nan")}, "lookahead: nan: must be a whole number"),
    "a lookahead that is true": (np.ones(500), 125, {"lookahead": np.True_}, "lookahead: .*True.*: must be a whole number"),
    "a number as checkpoint": (np.ones(500), 125, {"checkpoint": 3}, "checkpoint: 3: must be a name or a path"),
    "one sentinel": (np.ones(500), 125, {"sentinels": 500}, "sentinels: 500: must be numbers"),
    "words as sentinels": (np.ones(500), 125, {"sentinels": "abc"}, "sentinels: 'abc': must be numbers"),
    "a lookahead below 0": (np.ones(500), 125, {"lookahead": -1}, "lookahead: -1: must be"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_argument_is_one_clear_value_error(case: str) -> None:
    x, fs, more, text = WRONG[case]
    with pytest.raises(ArgumentError, match=text) as found:
        ppgstream.denoise(x, fs, **more)
    assert isinstance(found.value, ValueError)
    assert "\n" not in str(found.value)


def test_a_checkpoint_that_is_not_there_and_a_lookahead_that_is_too_long_are_said() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        ppgstream.denoise(np.ones(500), 125, checkpoint="nowhere")
    with pytest.raises(ArgumentError, match="lookahead: 250: must be below the checkpoint's window of 250"):
        ppgstream.LiveDenoiser(125, lookahead=250)
    with pytest.raises(ArgumentError, match="must be auto, up or down"):
        ppgstream.LiveDenoiser(125, polarity="left")
    with pytest.raises(ArgumentError, match=r"an array of shape \(2, 25\): must be \(n,\)"):
        ppgstream.LiveDenoiser(125).feed(np.ones((2, 25)))


def test_too_little_to_denoise_comes_back_as_it_was_with_no_confidence() -> None:
    found = ppgstream.denoise([1.0, 2.0, 3.0], 125)
    assert found.denoised.tolist() == [1.0, 2.0, 3.0]
    assert found.confidence.tolist() == [0.0] * 3
    assert not len(found.beats)
    assert found.hrv().n == 0
    assert found.events == ("nothing denoised: no stretch of 2 s with a signal",)
    nothing = ppgstream.denoise(np.full(1000, np.nan), 125)
    assert not nothing.confidence.any()
    assert not len(nothing.hr_bpm[~np.isnan(nothing.hr_bpm)])


def test_neurokit_goes_on_with_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # NeuroKit2 0.2.12 calls it by the name that NumPy dropped
    x = recording(120, 5)
    found = ppgstream.denoise(x, FS)
    frame = found.to_frame()
    assert list(frame) == ["PPG_Raw", "PPG_Clean", "PPG_Rate", "PPG_Quality", "PPG_Peaks"]
    assert len(frame) == len(x)
    told = nk.ppg_analyze(frame, sampling_rate=int(FS), method="interval-related")
    median = float(np.nanmedian(found.hr_bpm))
    assert float(told["PPG_Rate_Mean"].iloc[0]) == pytest.approx(median, abs=2)
    hrv = nk.hrv(frame, sampling_rate=int(FS))
    own = found.hrv()
    assert float(np.ravel(hrv["HRV_MeanNN"].iloc[0])[0]) == pytest.approx(own.mean_nn_ms, abs=8)
    assert float(np.ravel(hrv["HRV_SDNN"].iloc[0])[0]) == pytest.approx(own.sdnn_ms, abs=8)
    with pytest.raises(ArgumentError, match=r"denoised\[k\].to_frame\(\)"):
        ppgstream.denoise(np.stack([x, x]), FS).to_frame()


def test_no_rate_is_made_up_where_beats_are_not_known() -> None:
    x = recording(60, 5)
    x[2000:3500] = np.nan
    frame = ppgstream.denoise(x, FS).to_frame()
    beats = np.flatnonzero(frame["PPG_Peaks"])
    assert frame["PPG_Rate"][2100:3400].isna().all()
    assert frame["PPG_Rate"].min() > 40
    assert frame["PPG_Rate"][beats[2] : 1800].notna().all()


def test_what_is_said_of_the_error_of_hrv_holds() -> None:
    """Intervals whose beats are off by so much as they say: of 300 draws, half to two thirds lie within what is stated."""
    rng, n = np.random.default_rng(2), 200
    true = 800 + 40 * np.sin(np.arange(n) / 5) + 10 * rng.standard_normal(n)
    template = ppgstream.denoise(recording(3), FS)

    def of(interval: np.ndarray, error_ms: float) -> Any:
        beats = np.cumsum(np.nan_to_num(interval) / 8).astype(np.int64)
        many = {
            "beats": beats,
            "beat_interval_ms": interval,
            "beat_error_ms": np.full(n, error_ms),
            "beat_confidence": np.ones(n),
        }
        return type(template)(**(vars(template) | many)).hrv()

    exact = of(true, 0.0)
    assert exact.n == n - 1  # the first beat has none before it that is sure
    assert exact.sdnn_ms == pytest.approx(true[1:].std(ddof=1))
    assert exact.rmssd_ms == pytest.approx(np.sqrt(np.mean(np.diff(true[1:]) ** 2)))
    assert (exact.mean_nn_error_ms, exact.sdnn_error_ms, exact.rmssd_error_ms) == (0.0, 0.0, 0.0)
    for of_beat in (2.0, 8.0):
        inside = {"mean_nn": 0, "sdnn": 0, "rmssd": 0}
        for _ in range(300):
            moved = rng.normal(0, of_beat, n + 1)
            found = of(true + np.diff(moved), of_beat * np.sqrt(2))
            for name in inside:
                off = abs(getattr(found, f"{name}_ms") - getattr(exact, f"{name}_ms"))
                inside[name] += off <= getattr(found, f"{name}_error_ms")
        assert 0.5 * 300 < min(inside.values()) <= max(inside.values()) < 0.9 * 300, (of_beat, inside)
    uneven = of(np.where(np.arange(n) % 7 == 3, np.nan, true), 1.0)  # intervals that are not known part the others
    assert uneven.n == np.isfinite(np.where(np.arange(n) % 7 == 3, np.nan, true))[1:].sum()
    assert 0 < uneven.rmssd_ms < 30


def test_a_picture_is_a_figure_and_needs_no_backend(tmp_path: Path) -> None:
    found = ppgstream.denoise(recording(20), FS)
    figure = found.plot(5, 8)
    figure.savefig(tmp_path / "part.png")
    assert (tmp_path / "part.png").stat().st_size > 10_000
    assert len(figure.axes) == 3
    for start in (30, -5, 20, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match="start_s"):
            found.plot(start)
    for seconds in (0, -1, float("nan"), "8"):
        with pytest.raises(ArgumentError, match="seconds"):
            found.plot(0, seconds)  # type: ignore[arg-type]
    assert found.plot(15, float("inf")).axes[0].get_xlim()[1] < 21


def test_a_file_is_loaded_as_denoise_reads_it(tmp_path: Path) -> None:
    x = recording(20, fs=64)
    path = tmp_path / "watch.csv"
    path.write_text("time,ir,red\n" + "".join(f"{k / 64:.6f},{v:.4f},{0}\n" for k, v in enumerate(x)))
    loaded = ppgstream.load(path, column="ir")
    assert loaded.fs == pytest.approx(64, rel=1e-3)
    np.testing.assert_allclose(loaded.x, x, atol=1e-3)
    assert loaded.found.name == "ir"
    np.save(tmp_path / "two.npy", np.stack([x, x]))
    assert ppgstream.load(tmp_path / "two.npy", fs=64).x.shape == (2, len(x))
    with pytest.raises(SourceError, match="nowhere"):
        ppgstream.load(tmp_path / "nowhere.csv")
    with pytest.raises(ArgumentError, match="fs: 0"):
        ppgstream.load(path, fs=0)


def test_a_sender_and_a_connection_on_both_ends_of_a_daemon_give_what_the_same_samples_give_here() -> None:
    x = recording(24, 7)
    chosen = restore(BUNDLED)
    with serving(runtime.denoiser(chosen), found=chosen) as served:
        out = served.daemon.endpoints["out"]
        with ppgstream.connect(out) as heard, ppgstream.connect(out, stream="b") as other:
            until(lambda: served.ask()["subscribers"] == 3, "both to be heard of")
            with ppgstream.Sender(served.daemon.endpoints["in"], "a", FS) as a:
                b = ppgstream.Sender(served.daemon.endpoints["in"], "b", FS)
                for k in range(0, len(x), 250):
                    a.send(x[k : k + 250])
                    b.send(x[k : k + 250])
                b.gap(100)
                b.send(x[:500])
                b.close()
                assert (a.sent, b.sent) == (len(x), len(x) + 600)
            blocks: dict[str, list[Block]] = {"a": [], "b": []}
            for block in heard:
                blocks[block.stream].append(block)
            assert (heard.lost, heard.gap, sorted(heard.streams)) == (0, 100, ["a", "b"])
            same_b = list(other)
            assert {block.stream for block in same_b} == {"b"}
            last, newest = heard.get_data(10, "a"), heard.get_data(10, "b")
        expected = ppgstream.denoise(x, FS)
        for name in (*WAVES, *BEATS):
            found = np.concatenate([getattr(block, name) for block in blocks["a"]])
            assert found.tobytes() == getattr(expected, name).tobytes(), name
        assert (last.index, len(last.denoised)) == (len(x) - 1250, 1250)
        assert last.denoised.tobytes() == expected.denoised[-1250:].tobytes()
        assert last.beats.tolist() == [at for at in expected.beats.tolist() if at >= last.index]
        reached = 0
        for block in blocks["b"]:
            assert block.index in (reached, reached + 100) if reached == len(x) else block.index == reached
            reached = block.index + len(block.denoised)
        assert reached == len(x) + 600
        assert len(newest.denoised) == 1250
        assert (np.flatnonzero(np.isnan(newest.denoised)) + newest.index).tolist() == list(range(len(x), len(x) + 100))
        with pytest.raises(ArgumentError, match="send: the session has ended"):
            a.send([1.0])


def test_what_is_kept_of_a_stream_is_bounded_whatever_is_missing() -> None:
    kept, x = sockets._Kept(), np.ones(25, np.float32)

    def beats(index: int) -> Chunk:
        none = np.empty(0, np.float32)
        return Chunk("a", 1, index, EMPTY, Kind.BEATS, beats=Beats(60.0, 0.9, np.empty(0, np.uint64), none, none, none))

    kept.add(Chunk("a", 1, 0, x), 2.0)
    kept.add(beats(10), 2.0)  # tells of what came before: no sample is missing
    kept.add(Chunk("a", 1, 25, x), 2.0)
    assert kept.samples == 50
    kept.add(Chunk("a", 1, 50, EMPTY, Kind.GAP, missing=4_000_000_000), 2.0)
    kept.add(Chunk("a", 1, 2**50, x), 2.0)  # more that was lost on the way than any memory holds
    assert kept.samples <= 2 * 250
    block = sockets._newest(sockets._block(list(kept.chunks), kept.reached or 0), 250, FS)
    assert (block.index, len(block.denoised)) == (2**50 + 25 - 250, 250)
    assert np.isnan(block.denoised[:225]).all()
    kept.add(Chunk("a", 2, 0, x), 2.0)
    assert kept.samples == 25


def test_asyncio_gets_the_same_blocks() -> None:
    x = recording(8, 1)
    with serving() as served, ppgstream.connect(served.daemon.endpoints["out"]) as heard:
        until(lambda: served.ask()["subscribers"] == 2, "the connection to be heard of")

        def send() -> None:
            with ppgstream.Sender(served.daemon.endpoints["in"], "a", FS) as sensor:
                for k in range(0, len(x), 100):
                    sensor.send(x[k : k + 100])
                    if k >= len(x) // 2:
                        turned.wait(60)  # so that something is waited for

        turned = threading.Event()

        async def listen() -> list[Block]:
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    if turns > 1:
                        turned.set()
                    await asyncio.sleep(0.005)

            beside = asyncio.create_task(others())
            found = [block async for block in heard]
            beside.cancel()
            assert turns > 1  # the loop is not held up
            return found

        thread = threading.Thread(target=send)
        thread.start()
        blocks = asyncio.run(listen())
        thread.join()
        assert sum(len(block.denoised) for block in blocks) == len(x)


def test_what_is_asked_of_a_connection_in_vain_is_said() -> None:
    with serving() as served, ppgstream.connect(served.daemon.endpoints["out"], keep_s=5) as heard:
        with pytest.raises(ArgumentError, match="stream: nothing has come yet"):
            heard.get_data(1)
        for seconds in (0, 6, float("nan")):
            with pytest.raises(ArgumentError, match=r"seconds: .*: must be a number above 0, at most 5"):
                heard.get_data(seconds)
        until(lambda: served.ask()["subscribers"] == 2, "the connection to be heard of")
        for name in ("a", "b"):
            with ppgstream.Sender(served.daemon.endpoints["in"], name, FS) as sensor:
                sensor.send(np.sin(np.arange(2000) / 16))
        assert len(list(heard)) > 0
        with pytest.raises(ArgumentError, match="stream: which of a, b"):
            heard.get_data(1)
        with pytest.raises(ArgumentError, match="'c' has sent nothing: there are a, b"):
            heard.get_data(1, "c")
        assert len(heard.get_data(5, "b").denoised) == 625
    with pytest.raises(ConfigError, match="nothing"):
        ppgstream.connect("nothing")
    with pytest.raises(ArgumentError, match="keep_s: 0"):
        ppgstream.connect(keep_s=0)


def test_a_sender_says_what_cannot_be_sent() -> None:
    with pytest.raises(ConfigError):
        ppgstream.Sender("nothing")
    with pytest.raises(SourceError, match=r"nobody listens there after 0\.1 s"):
        ppgstream.Sender("tcp://127.0.0.1:9", wait_s=0.1).send([1.0])
    with pytest.raises(ArgumentError, match="fs: 5: must be"):
        ppgstream.Sender(fs=5)
    for wrong in ("a b\n", "", "x" * 65, "ä", 3, None):
        with pytest.raises(ArgumentError, match="stream"):
            ppgstream.Sender(stream=wrong)  # type: ignore[arg-type]
        if wrong is not None:
            with pytest.raises(ArgumentError, match="stream"):
                ppgstream.connect("tcp://127.0.0.1:9", wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="endpoint: None: must be a text"):
        ppgstream.Sender(None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="wait_s: 'a'"):
        ppgstream.Sender(wait_s="a")  # type: ignore[arg-type]
    with serving() as served:
        sensor = ppgstream.Sender(served.daemon.endpoints["in"], "a", FS)
        for call, text in (
            (lambda: sensor.gap(1.5), "samples: 1.5"),  # type: ignore[arg-type]
            (lambda: sensor.play([1.0], chunk=1.5), "chunk: 1.5"),  # type: ignore[arg-type]
            (lambda: sensor.send([1.0], t_ns=10**30), "t_ns: 1000"),
        ):
            with pytest.raises(ArgumentError, match=text):
                call()
        sensor.send([1.0])
        sensor.end()
        with pytest.raises(ArgumentError, match="gap: the session has ended"):
            sensor.gap(5)
        sensor.close()


def test_an_error_between_samples_ends_the_session_too() -> None:
    with serving() as served, ppgstream.connect(served.daemon.endpoints["out"]) as heard:
        until(lambda: served.ask()["subscribers"] == 2, "the connection to be heard of")

        def send() -> None:
            with ppgstream.Sender(served.daemon.endpoints["in"], "a", FS) as sensor:
                sensor.send(np.sin(np.arange(600) / 16))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            send()
        assert sum(len(block.denoised) for block in heard) == 600
    assert heard.get_data(1).denoised.shape == (125,)  # closed: what came is still there


def test_a_sender_keeps_a_sensor_s_pace_and_its_clock() -> None:
    with serving() as served, ppgstream.connect(served.daemon.endpoints["out"]) as heard:
        until(lambda: served.ask()["subscribers"] == 2, "the connection to be heard of")
        with ppgstream.Sender(served.daemon.endpoints["in"], "a", 1000.0) as sensor:
            sensor.play(np.sin(np.arange(300) / 16), chunk=100)
            began = sensor._began_ns
            until(lambda: served.row("a"), "the stream")
            assert served.row("a") is not None
        chunks = [chunk for _ in range(40) for chunk in heard._receiver.poll(0.1)]
        assert {c.t_ns - began - c.index * 1_000_000 for c in chunks if len(c.samples)} == {0}


@pytest.mark.filterwarnings("ignore")  # NeuroKit2's, of a minute
def test_what_the_page_shows_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    monkeypatch.chdir(tmp_path)
    x = recording(60, 5)
    Path("recording.csv").write_text("t,ppg\n" + "".join(f"{k / FS:.6f},{v:.4f}\n" for k, v in enumerate(x)))
    page = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
    blocks = [part.partition("```")[0] for part in page.split("```python\n")[1:]]
    assert len(blocks) == 5
    waiting = [x[k : k + 25] for k in range(0, 1000, 25)]

    class Board:
        def read(self) -> Any:
            return waiting.pop(0).tolist() if waiting else []

    names: dict[str, Any] = {"nk": nk, "sensor": Board(), "samples": x}
    for block in blocks[:3]:
        exec(block, names)
    assert len(names["clean"].denoised) == len(x)
    assert len(names["sure"]) == len(names["clean"].hr_bpm)
    exec(blocks[3], names)
    assert names["rest"].index + len(names["rest"].denoised) == 1000
    with serving() as served:
        here = {"tcp://127.0.0.1:5600": served.daemon.endpoints["in"], "tcp://127.0.0.1:5601": served.daemon.endpoints["out"]}
        code = blocks[4]
        for shown, own in here.items():
            code = code.replace(shown, own)
        send, receive = code.split("\n\n")
        receive = receive.replace("as daemon:\n", "as daemon:\n    ready(); send()\n", 1)
        names |= {
            "ready": lambda: until(lambda: served.ask()["subscribers"] == 2, "the connection"),
            "send": lambda: exec(send, names),
            "samples": x,
        }
        exec(receive, names)
        assert names["block"].stream == "wrist"
