"""Files that are damaged, endless or lie about themselves: each reader raises its own error, and nothing else, before it takes
memory or time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ppgstream.train import recipe as recipes

from faults.long import times
from ppgstream import config, storage
from ppgstream.errors import CheckpointError, ConfigError, DataError, PpgStreamError, SourceError
from ppgstream.files import recording
from ppgstream.model.architecture import DEFAULT_SIZES, Architecture, tensors_of
from ppgstream.model.checkpoint import MANIFEST, SHIPPED, WEIGHTS
from ppgstream.model.folder import DECIDES, identity, write
from ppgstream.model.restore import restore

MOST_MEMORY = 40_000_000  # bytes that a refusal may take
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED / "brae", tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / MANIFEST).read_text()))


def sealed(folder: Path, *, blob: bytes | None = None, **changes: Any) -> None:
    """Put weights and fields into a checkpoint whose checksums all fit."""
    manifest = manifest_of(folder) | changes
    if blob is not None:
        (folder / WEIGHTS).write_bytes(blob)
    manifest["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    manifest["sha256"] = identity(manifest["weights_sha256"], {k: manifest[k] for k in DECIDES if k in manifest})
    (folder / MANIFEST).write_text(json.dumps(manifest))


def safetensors(header: object, payload: bytes = b"", *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + payload


def refused(folder: Path, error: type[PpgStreamError] = CheckpointError, most: int = MOST_MEMORY) -> str:
    """What a refusal says. It takes little memory, whatever the checkpoint claims."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as told:
            restore(folder)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    return str(told.value)


def own_header(folder: Path) -> tuple[dict[str, Any], bytes]:
    blob = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(blob[:8], "little")
    return dict(json.loads(blob[8 : 8 + size])), blob[8 + size :]


WEIGHTS_OF: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "BF16": lambda h, p: safetensors({k: v | {"dtype": "BF16"} for k, v in h.items()}, p),
    "F8": lambda h, p: safetensors({k: v | {"dtype": "F8_E4M3"} for k, v in h.items()}, p),
    "a type that nobody knows": lambda h, p: safetensors({k: v | {"dtype": ["x"]} for k, v in h.items()}, p),
    "a shape beyond 64 bits": lambda h, p: safetensors({k: v | {"shape": [2**63, 2]} for k, v in h.items()}, p),
    "a hundred dimensions": lambda h, p: safetensors({k: v | {"shape": [1] * 100} for k, v in h.items()}, p),
    "a shape that is none": lambda h, p: safetensors({k: v | {"shape": 5} for k, v in h.items()}, p),
    "no shape": lambda h, p: safetensors({k: {"dtype": "F32"} for k in h}, p),
    "a list for a header": lambda h, p: safetensors(list(h), p),
    "a million tensors": lambda h, p: safetensors(
        {f"t{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for k in range(20_000)}
    ),
    "no tensors": lambda h, p: safetensors({}),
    "one tensor less": lambda h, p: safetensors(dict(list(h.items())[1:]), p),
    "offsets beyond the end": lambda h, p: safetensors({k: v | {"data_offsets": [0, 2**62]} for k, v in h.items()}, p),
    "a nested header": lambda h, p: safetensors(DEEP.encode()),
    "a header that is no text": lambda h, p: safetensors(b"\xff" * 100, p),
    "a header of 2**62 bytes": lambda h, p: safetensors(h, p, size=2**62),
    "nothing": lambda h, p: b"",
    "seven bytes": lambda h, p: b"1234567",
}


@pytest.mark.parametrize("what", WEIGHTS_OF)
def test_weights_that_do_not_fit_are_refused_in_a_line(what: str, folder: Path) -> None:
    sealed(folder, blob=WEIGHTS_OF[what](*own_header(folder)))
    told = refused(folder)
    assert "tensors do not match a 'brdae' network" in told or "larger than" in told


@pytest.mark.parametrize(
    "changes",
    [
        {
            "network": {
                "family": "transformer",
                "window": 250,
                "context": 0,
                "sizes": {"width": 4096, "heads": 4, "depth": 4096, "patch": 10},
            }
        },
        {"network": {"family": "transformer", "window": 250, "context": 0, "sizes": {"width": 10**9}}},
        {"network": {"family": "brae", "window": 250, "context": 0, "sizes": {"units": 4096}}},
        {"network": {"family": "ae3", "window": 10_000, "context": 0, "sizes": {"hidden": [4096] * 16}}},
        {"network": {"family": "brae", "window": 10**400, "context": 0, "sizes": {}}},
        {"network": {"family": "brae", "window": 250, "context": 0, "sizes": {"units": "40"}}},
        {"network": {"family": "brae", "window": -1, "context": 0, "sizes": {"units": 40}}},
        {"network": {"family": "transformer", "window": 250, "context": 7, "sizes": {}}},
        {"network": {"family": ["brae"], "window": 250, "context": 0, "sizes": {}}},
        {"network": None},
        {"network": DEEP},
        {"calibration": [[1, 2]]},
        {"calibration": {"249": {"bias": 10**400, "weights": {}}}},
        {"calibration": {"249": {"bias": 0, "weights": {"confidence": None}}}},
        {"calibration": {"rate": 5}},
        {"fs": 10**400},
        {"fs": "NaN"},
        {"hop": -5},
        {"lookahead": 10**30},
        {"scaling": DEEP},
    ],
    ids=str,
)
def test_a_manifest_that_lies_is_refused_before_anything_is_built(changes: dict[str, Any], folder: Path) -> None:
    sealed(folder, **changes)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize(
    "text",
    [DEEP, '{"a":' * 100_000, "9" * 5000, '{"format": ' + "9" * 5000 + "}", "\0", "", "null", '"x"', "[2]", "1e999"],
    ids=range(10),
)
def test_a_manifest_that_is_none_is_refused(text: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(text)
    assert len(refused(folder)) < 1000 + len(str(folder))


def endless(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    else:
        with path.open("wb") as file:
            file.truncate(20_000_000_000)


ENDLESS = ("a pipe", "an endless device", "a folder", "a link to itself", "twenty gigabytes of nothing")


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS])
def test_only_regular_files_of_the_size_that_is_needed_are_read(name: str, kind: str, folder: Path) -> None:
    endless(folder / name, kind)
    assert str(folder) in refused(folder)


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_configuration_and_a_recipe_are_regular_files_too(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("")
    endless(tmp_path / "x.toml", kind)
    with pytest.raises(ConfigError):
        config.load(tmp_path / "x.toml")
    with pytest.raises(ConfigError):
        recipes.make("ae", tmp_path / "x.toml", {})


TOML = {
    "deep lists": "x = " + "[" * 50_000 + "]" * 50_000,
    "deep tables": "x = " + "{a=" * 50_000 + "1" + "}" * 50_000,
    "a number of 5,000 digits": "[in]\nqueue_samples = " + "9" * 5000,
    "a long hexadecimal number": "[in]\nqueue_samples = 0x" + "f" * 50_000,
    "a policy that is a long number": "[streams.x]\npolicy = 0x" + "f" * 50_000,
    "a policy that is a table": "[streams.x]\npolicy.a.b.c = 1",
    "a long text": 'x = "' + "y" * 100_000 + '"',
    "a long key": "y" * 100_000 + " = 1",
    "no text": "\xff\xfe",
    "a date": "[in]\nfs = 2024-01-01",
    "not a number": "[in]\nfs = nan",
    "infinity": "[streams]\nhold_s = inf",
    "streams without bound": "[streams]\nmax_streams = 1000000000000000000",
    "a socket that ZeroMQ makes up": '[in]\nendpoint = "ipc://*"',
    "a long endpoint": '[in]\nendpoint = "tcp://' + "y" * 100_000 + '"',
}


@pytest.mark.parametrize("what", TOML)
def test_a_configuration_that_cannot_be_is_refused_in_a_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(TOML[what].encode("latin-1"))
    with pytest.raises(ConfigError) as told:
        config.load(tmp_path / "x.toml")
    assert str(tmp_path) in str(told.value)
    if what != "a long key":  # cut where it is printed
        assert len(str(told.value)) < 700


@pytest.mark.parametrize("what", [k for k in TOML if k not in ("infinity", "not a number", "a date")])
def test_a_recipe_that_cannot_be_is_refused_in_a_line(what: str, tmp_path: Path) -> None:
    text = TOML[what].replace("[in]\nqueue_samples", "epochs").replace("[streams]\nmax_streams", "epochs")
    (tmp_path / "x.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        recipes.make("ae", tmp_path / "x.toml", {})


def test_dots_that_are_in_no_key_are_no_parts_of_one(tmp_path: Path) -> None:
    floats = ", ".join(f"{k}.5" for k in range(16))
    (tmp_path / "x.toml").write_text(f'''
# {"a." * 50}
[in]
sentinels = [
    {floats}  # = as they are
]
json_samples = """{"." * 50}"""
json_stream = '{"a." * 50}'  # it's a long "name
[streams."{"a." * 15}p"]
policy = "mask"
''')
    found = config.load(tmp_path / "x.toml")
    assert len(found.in_.sentinels) == 16
    assert found.streams.by_name["a." * 15 + "p"].policy == "mask"


def test_a_saver_checkpoint_s_files_are_bounded_together(tmp_path: Path) -> None:
    (tmp_path / "m-1.index").write_bytes(b"x" * 100)
    for k in range(30):
        with (tmp_path / f"m-1.data-{k:05d}-of-00030").open("wb") as file:
            file.truncate(100_000_000)
    assert "larger than" in refused(tmp_path, most=300_000_000)
    with (tmp_path / "checkpoint").open("wb") as file:
        file.truncate(20_000_000_000)
    assert "larger than" in refused(tmp_path)


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(header: str) -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


ARRAYS: dict[str, bytes] = {
    "a header with a list for a key": npy("{[]: 1, 'descr': '<f8'}"),
    "a header with a set": npy("{[]}"),
    "a header that is a long sum": b"\x93NUMPY\x02\x00" + struct.pack("<I", 200_001) + b"1+" * 100_000 + b"1",
    "a header with many signs": b"\x93NUMPY\x02\x00" + struct.pack("<I", 9004) + b"{1:" + b"-" * 9000 + b"1}",
    "a shape beyond memory": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (5,), }"),
    "nothing": b"",
    "half a magic": b"\x93NU",
}


@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_an_array_that_lies_is_a_data_error(what: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        path.write_bytes(ARRAYS[what])
    else:
        npz(path, denoised=ARRAYS[what])
    with pytest.raises(DataError):
        recording.read(path)


@pytest.mark.parametrize("content", [b"\x93NUMPY", b"1\n2\n"])
def test_an_npz_whose_rate_or_samples_are_none_is_a_data_error(content: bytes, tmp_path: Path) -> None:
    good = io.BytesIO()
    np.save(good, np.arange(500.0))
    pair = io.BytesIO()
    np.save(pair, np.array([1 + 2j, 3]))
    with pytest.raises(DataError):
        recording.read(npz(tmp_path / "a.npz", denoised=good.getvalue(), fs=pair.getvalue()))
    with pytest.raises(DataError):
        recording.read(npz(tmp_path / "b.npz", denoised=content))
    whole = bytearray(npz(tmp_path / "c.npz", denoised=good.getvalue()).read_bytes())
    for at in range(30, len(whole), times(397, 7)):
        flipped = bytearray(whole)
        flipped[at] ^= 0x55
        (tmp_path / "d.npz").write_bytes(flipped)
        with contextlib.suppress(DataError, SourceError):
            recording.read(tmp_path / "d.npz")


@pytest.mark.parametrize(
    "clock",
    ["9" * 5000 + ":00:00.0", "9" * 400 + ":00:00.0", "1e-320", "00:00:" + "9" * 400],
    ids=["5,000 digits", "400 digits", "tiny", "seconds"],
)
def test_times_that_no_clock_tells_are_no_times(clock: str, tmp_path: Path) -> None:
    rows = "\n".join(f"{clock if k % 2 else k},{np.sin(k / 10):.4f}" for k in range(400))
    (tmp_path / "x.csv").write_text("time,ppg\n" + rows + "\n")
    with contextlib.suppress(PpgStreamError):
        recording.read(tmp_path / "x.csv")


def test_a_step_too_small_for_a_rate_is_refused_by_its_line(tmp_path: Path) -> None:
    rows = "\n".join(f"{k * 1e-320},{np.sin(k / 10):.4f}" for k in range(400))
    (tmp_path / "x.csv").write_text("time_s,ppg\n" + rows + "\n")
    with pytest.raises(DataError, match=r"line 2: the time in time_s .* --trust-fs"):
        recording.read(tmp_path / "x.csv", column="ppg")
    assert recording.read(tmp_path / "x.csv", column="ppg", clocked=False).fs is None


def test_damaged_bytes_anywhere_in_a_checkpoint_are_refused_or_change_nothing_that_decides(folder: Path) -> None:
    rng = np.random.default_rng(5)
    good = restore(folder)
    for name in (MANIFEST, WEIGHTS):
        content = (folder / name).read_bytes()
        for _ in range(times(40, 2000)):
            damaged = bytearray(content)
            how = rng.integers(3)
            at = int(rng.integers(len(content)))
            if how == 0:
                damaged[at] ^= int(rng.integers(1, 256))
            elif how == 1:
                del damaged[at:]
            else:
                damaged[at:at] = rng.bytes(int(rng.integers(1, 20)))
            (folder / name).write_bytes(damaged)
            try:
                found = restore(folder)
            except CheckpointError:
                continue
            assert found.sha256 == good.sha256
            assert (found.fs, found.hop, found.arch) == (good.fs, good.hop, good.arch)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("family", DEFAULT_SIZES)
def test_the_shapes_that_are_asked_for_are_those_of_the_network(family: str) -> None:
    from ppgstream.model.networks import build
    from ppgstream.model.tensorflow_runtime import names_of

    arch = Architecture(family, 250)
    if family == "lmmse":
        assert tensors_of(arch) == {"mean": (250,), "components": (250, 40)}
        return
    model = build(arch)
    trainable = [w for w in model.weights if w.trainable]
    assert tensors_of(arch) == {n: tuple(w.shape) for n, w in zip(names_of(model), trainable, strict=True)}


# ---- writing -------------------------------------------------------------------------------------------------------


def test_no_link_that_was_put_there_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    place = tmp_path / "place"
    place.mkdir()
    for name in (f"{WEIGHTS}.tmp", f"{MANIFEST}.tmp", f".ppgstream-{os.getpid()}.tmp", "out.txt.tmp"):
        (place / name).symlink_to(victim)
    write(place, {"mean": np.zeros(250, np.float32), "components": np.zeros((250, 40), np.float32)}, Architecture("lmmse"))
    recording.write_whole(place / "out.txt", b"1\n")
    assert victim.read_text() == "precious"
    assert not (place / WEIGHTS).is_symlink()
    assert not (place / "out.txt").is_symlink()


def test_files_are_written_beside_their_place_under_names_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = storage._beside

    def look(path: Path) -> tuple[int, Path]:
        descriptor, beside = real(path)
        seen.append(beside.name)
        return descriptor, beside

    monkeypatch.setattr(storage, "_beside", look)
    for _ in range(5):
        storage.replace_files({tmp_path / "x": b"1"})
    assert len(set(seen)) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_keeps_its_permissions_and_a_new_one_gets_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("x")
    (tmp_path / "old").chmod(0o640)
    storage.replace_files({tmp_path / "old": b"1", tmp_path / "new": b"1"})
    (tmp_path / "plain").write_text("x")
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("old", "new", "plain")]
    assert modes[0] == 0o640
    assert modes[1] == modes[2]
