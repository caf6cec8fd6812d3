"""The demo, whole: sensors of known truth, sockets, daemon, summary. And the pictures."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ppgstream.files.offline import Pulse
from ppgstream.lab.scores import snr_b_db
from ppgstream.model import runtime
from ppgstream.model.restore import restore
from ppgstream.show import demo, plots
from ppgstream.wire.message import Flag

FS = 125.0


def shown(**settings: object) -> tuple[bool, str]:
    """The demo with the linear estimate, as plain lines."""
    checkpoint = restore(Path("lmmse"))
    out = io.StringIO()
    console = Console(file=out, width=200)
    asked = {"seconds": 5.0, "streams": 2, "plain": True, "console": console, "stopped": lambda: False} | settings
    return demo.run(checkpoint, runtime.denoiser(checkpoint), **asked), out.getvalue()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", demo.NOISES)
def test_its_people_are_the_same_each_time_and_differ_from_each_other(kind: str) -> None:
    first, again = demo.people(2, 1000, kind), demo.people(3, 1000, kind)
    for a, b in zip(first, again, strict=False):
        np.testing.assert_array_equal(a.clean, b.clean)
        np.testing.assert_array_equal(a.noisy, b.noisy)
        assert snr_b_db(a.noisy, a.clean, FS) < 20
    assert np.corrcoef(first[0].clean, first[1].clean)[0, 1] < 0.9
    assert first[0].session != again[0].session


def test_it_sends_denoises_and_sums_up(tmp_path: Path) -> None:
    whole, text = shown(picture=tmp_path / "demo.png")
    assert whole
    assert "2 sensors -> tcp://127.0.0.1:" in text
    for name in ("person1", "person2"):
        row = next(line for line in text.splitlines() if name in line)
        samples, before, after, gained, first = re.findall(r"[-+]?[\d,]*\.?\d+", row.split(name)[1])
        assert samples == "625"
        assert float(after) - float(before) == pytest.approx(float(gained), abs=0.11)
        assert float(gained) > 3
        assert 1.0 < float(first) < 20
    assert "unaccounted 0" in text
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert f"drew {tmp_path / 'demo.png'}" in text


def test_it_says_what_to_do_next_and_opens_the_monitor_s_page() -> None:
    pytest.importorskip("websockets")
    from ppgstream.show.web import Web

    pages: list[Web] = []

    def page(status: str) -> Web:
        pages.append(Web(status, 0))
        return pages[-1]

    fine, text = shown(page=page, seconds=4.0)
    assert fine
    assert f"the monitor's page: {pages[0].url}" in text
    for command in ("ppgstream run", "ppgstream monitor", "ppgstream denoise recording.csv -o clean.csv"):
        assert command in text.partition("what next:")[2]


def test_stopped_early_it_still_adds_up() -> None:
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 20

    whole, text = shown(seconds=600.0, streams=1, stopped=stopped)
    assert whole
    assert "unaccounted 0" in text


# ---- pictures ------------------------------------------------------------------------------------------------------


def drawn(flags: np.ndarray, *, suffix: str = ".svg", truth: bool = False) -> bytes:
    x = np.sin(np.arange(500) / 15)
    wave = x if truth else None
    figure = plots.before_after(x + 0.1, x, np.full(500, 0.7), flags, fs=FS, start_s=60.0, truth=wave, title="somebody")
    return plots.content_of(figure, suffix)


def labels(svg: bytes) -> set[str]:
    """The texts of a picture, which matplotlib draws as paths and names in comments."""
    return {text.strip() for text in re.findall(r"<!-- (.*?) -->", svg.decode())}


def test_a_picture_names_the_flags_that_occur_and_no_others() -> None:
    flags = np.zeros(500, np.uint16)
    plain = labels(drawn(flags))
    assert {"as the sensor sent it", "denoised", "somebody", "time, s"} <= plain
    assert not plain & {"low confidence", "the truth", *(plots.flag_name(f) for f in Flag)}
    flags[100:120] = Flag.SATURATED | Flag.LOW_CONFIDENCE
    flags[300] = Flag.STEP
    told = labels(drawn(flags, truth=True))
    assert told - plain >= {"saturated", "step", "low confidence", "the truth"}
    assert not told & {"outlier", "flat", "gap"}


def test_a_picture_starts_at_its_own_time() -> None:
    ticks = {float(t) for t in labels(drawn(np.zeros(500, np.uint16))) if re.fullmatch(r"\d+\.?\d*", t)}
    assert ticks >= {60.0, 62.0, 64.0}


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_each_kind_of_picture_is_one(suffix: str, begins: bytes) -> None:
    assert suffix in plots.SUFFIXES
    assert drawn(np.zeros(500, np.uint16), suffix=suffix).startswith(begins)


def test_a_picture_marks_beats_and_draws_heart_rates_of_its_stretch() -> None:
    pulse = Pulse(
        np.array([7600, 7700, 9000]),
        *(np.array(v, np.float32) for v in ([np.nan, 800, 800], [10, 10, 10], [0.9, 0.2, 0.9])),
        np.array([61.992, 200.0]),
        np.array([71.0, 90.0], np.float32),
        np.array([0.9, 0.9], np.float32),
    )
    x, flags = np.sin(np.arange(500) / 15), np.zeros(500, np.uint16)
    told = labels(plots.content_of(plots.before_after(x, x, np.full(500, 0.7), flags, fs=FS, start_s=60.0, pulse=pulse), ".svg"))
    assert {"beats", "unsure beats", "bpm"} <= told
    early = labels(plots.content_of(plots.before_after(x, x, np.full(500, 0.7), flags, fs=FS, start_s=0.0, pulse=pulse), ".svg"))
    assert not early & {"beats", "unsure beats", "bpm"}
