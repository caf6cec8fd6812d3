"""One source in two forms: compiled where a compiler was at the installation, interpreted elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest
from faults.long import times
from rules import rules
from test_scripts import Run, drawn, of_rates

from ppgstream import binaries
from ppgstream.core import resample
from ppgstream.core.denoiser import Answer
from ppgstream.core.engine import Engine
from ppgstream.core.rate import RateRules
from ppgstream.wire.message import EMPTY, Chunk, Kind, encode

ROOT = Path(__file__).parent.parent
COMPILED = pytest.mark.skipif(binaries.form() == "interpreted", reason="nothing is compiled here")
RATES = (10.0, 25.0, 50.0, 64.0, 99.3, 176.0, 250.0, 1000.0)


def run(code: str, **environment: str) -> str:
    command, whole = [sys.executable, "-c", code], {**os.environ, **environment}
    done = subprocess.run(command, env=whole, capture_output=True, text=True, check=True, cwd=ROOT / "tests")
    return done.stdout.strip()


def published(fs: float) -> bytes:
    """What the core publishes of a sensor that loses, repeats, holds, jumps and ends."""
    rng, n = np.random.default_rng(int(fs)), round(12 * fs)
    x = 500 + 100 * np.sin(np.arange(n) / fs * 8) + 3 * rng.standard_normal(n)
    x[n // 5 : n // 5 + 60] = x[n // 5]
    x[n // 3 : n // 3 + 7] = np.nan
    x[n // 2] = 1e6
    x[2 * n // 3 :] += 5000
    engine = Engine(lambda batch: Answer(batch.x[:, -250:] * 0.9, batch.x[:, -250:]), rules(tile=8, rate=RateRules()))
    chunks: list[Chunk] = []
    for k, a in enumerate(range(0, n, 25)):
        if k not in (9, 17):
            chunks += engine.feed(Chunk("a", 1, a, x[a : a + 25], fs=fs, t_ns=10**18 + round(a / fs * 1e9)), k * 0.2)
        while engine.ready:
            chunks += engine.step()
    chunks += engine.feed(Chunk("a", 1, n, EMPTY, Kind.END, fs), n / fs)
    while engine.ready:
        chunks += engine.step()
    return b"".join(part for chunk in chunks for part in encode(chunk, dtype="f8"))


def answers() -> str:
    """What all that is compiled answers, as a hash."""
    found = hashlib.sha256()
    rng = np.random.default_rng(0)
    for fs in RATES:
        ratio = resample.ratio_of(fs, 125.0)
        for num, den in ((ratio.down, ratio.up), (ratio.up, ratio.down)):
            filter_ = resample.filter_of(num, den)
            values = rng.normal(1000, 50, 1500)
            for first in (0, 7, 31):
                found.update(resample.read(values, 0, 1000.0, filter_, first, 50).tobytes())
            found.update(resample.read(values[:20], 0, 1000.0, filter_, 0, 1, closed=True).tobytes())
        found.update(published(fs))
    for seed in range(5000, 5000 + times(6, 100)):
        s, script, signals = drawn(seed)
        for messages in Run(s).do(of_rates(script, rng) if seed % 2 else script, signals, eager=False).out.values():
            found.update(b"".join(messages))
    return found.hexdigest()


@COMPILED
def test_both_forms_give_the_same_bits() -> None:
    pure = run("import test_binaries; print(test_binaries.answers())", PPGSTREAM_PURE="1")
    assert pure == answers()


def test_an_installed_package_has_all_that_its_binaries_are_compared_with(tmp_path: Path) -> None:
    """Without the types, a wheel's binaries would all be refused."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path / "built")]
    subprocess.run(command, env={**os.environ, "PPGSTREAM_PURE": "1"}, check=True, cwd=ROOT, capture_output=True)
    built = tmp_path / "built" / "ppgstream"
    assert binaries.digests(built) == binaries.digests()


def test_every_module_with_types_of_c_is_compiled() -> None:
    typed = {path.with_suffix(".py") for path in binaries.FOLDER.rglob("*.pxd")}
    assert typed <= {binaries.source_of(module) for module in binaries.MODULES}


@pytest.mark.parametrize("module", binaries.MODULES)
def test_the_interpreted_form_is_asked_for_by_a_variable(module: str) -> None:
    code = f"import {module} as m; from ppgstream import binaries; print(m.__file__, binaries.form())"
    assert run(code, PPGSTREAM_PURE="1") == f"{binaries.source_of(module)} interpreted"
    file, form = run(code, PPGSTREAM_PURE="0").split()
    assert file.endswith(".py") == (form == "interpreted" or binaries.binary_of(module) is None)


def test_the_interpreted_form_says_what_it_carries() -> None:
    demo = "import sys; sys.argv = 'ppgstream demo --seconds 5 --streams 1'.split(); from ppgstream.cli.app import main; main()"
    assert "the core is interpreted: at most some 190 streams" in run(demo, PPGSTREAM_PURE="1")
    installed = run("from ppgstream import binaries; print(binaries.form(), bool(binaries.note()))", PPGSTREAM_PURE="0")
    assert installed in ("compiled False", "interpreted True")


def test_the_version_says_which_form_it_is() -> None:
    code = "from ppgstream.cli.app import main; import sys; sys.argv = ['ppgstream', '--version']; main()"
    assert run(code, PPGSTREAM_PURE="1").endswith("(interpreted)")
    installed = run("from ppgstream import binaries; print(binaries.form())", PPGSTREAM_PURE="0")
    assert run(code, PPGSTREAM_PURE="0").endswith(f"({installed})")


def test_a_binary_of_another_source_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ppgstream"
    for module in binaries.MODULES:
        source = binaries.source_of(module, folder)
        source.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(binaries.source_of(module), source)
    assert binaries.refused(folder) == []  # no binary: nothing to refuse
    for module in binaries.MODULES:
        binaries.source_of(module, folder).with_suffix(EXTENSION_SUFFIXES[0]).touch()
    assert binaries.refused(folder) == list(binaries.MODULES)  # nobody says what they were made from
    shared = binaries.source_of(binaries.SHARED, folder).with_suffix(EXTENSION_SUFFIXES[0])
    shared.touch()
    (folder / binaries.BUILT).write_text(json.dumps(binaries.digests(folder)))
    assert binaries.refused(folder) == []
    shared.unlink()
    assert binaries.refused(folder) == list(binaries.MODULES)  # none can be loaded without it
    shared.touch()
    changed = binaries.source_of(binaries.MODULES[0], folder)
    changed.write_text(changed.read_text() + "\n")
    assert binaries.refused(folder) == [binaries.MODULES[0]]
    (folder / binaries.BUILT).write_text("no JSON")
    assert binaries.refused(folder) == list(binaries.MODULES)


@COMPILED
def test_one_source_that_changed_makes_all_of_it_interpreted(tmp_path: Path) -> None:
    """Two forms side by side do not fit."""
    shutil.copytree(binaries.FOLDER, tmp_path / "ppgstream", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    with (tmp_path / "ppgstream" / "core" / "timeline.py").open("a") as source:
        source.write("# changed\n")
    code = "from ppgstream import binaries; import ppgstream.core.engine as e; print(binaries.form(), e.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["interpreted", str(tmp_path / "ppgstream" / "core" / "engine.py")]
    assert done.stderr.startswith("ppgstream: ppgstream/core/timeline.py changed since the last compilation: interpreted")


def test_values_that_are_not_there_are_refused_in_both_forms() -> None:
    filter_ = resample.filter_of(2, 1)
    resample.read(np.zeros(100), 0, 0.0, filter_, 0, 20)
    with pytest.raises(IndexError, match="need more values than there are"):
        resample.read(np.zeros(100), 0, 0.0, filter_, 0, 50)
