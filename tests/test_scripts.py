"""The core under scripts of whatever sensors send, however it is cut, and whenever the model answers.

What it published when the scripts were frozen is in `frozen.json`, as counts and sums: `python -m tools.breaks` shows that it
notices what it should, each of a list of faults in the core. A rule that changes on purpose changes it too:

    python tests/test_scripts.py        writes it anew
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from faults.long import times

import ppgstream
from ppgstream.core.confidence import calibration_for
from ppgstream.core.denoiser import Answer, Batch
from ppgstream.core.engine import Engine
from ppgstream.core.plan import Geometry, Plan, Rules, SensorRules
from ppgstream.core.rate import rules_for
from ppgstream.lab import synthetic
from ppgstream.wire.message import EMPTY, Chunk, Flag, Kind, decode, encode

FROZEN = Path(__file__).with_name("frozen.json")
SCRIPTS = 60  # of `frozen.json`
RATES = [10.0, 25.0, 27.97, 30.0, 50.0, 64.0, 100.0, 124.0, 125.1, 176.0, 250.0, 333.3, 500.0, 1000.0]
STREAMS = ("a", "b", "c")
Step = tuple[Any, ...]
SHIPPED = Path(ppgstream.__file__).parent / "checkpoints"
STATED: dict[str, dict[str, Any]] = {  # what a checkpoint may state of confidence, beats and rates
    "nothing": {},
    "plain": {"249": {"bias": -3.0, "weights": {"confidence": 7.0}}},
    "rows": {
        "249": {"bias": 0.5, "weights": {"confidence": 2.0, "alone": -2.0, "rhythm": 1.0, "likeness": 1.0, "not_measured": -3.0}}
    },
    "brae": json.loads((SHIPPED / "brae" / "checkpoint.json").read_text())["calibration"],  # rows of features
    "default": json.loads((SHIPPED / "default" / "checkpoint.json").read_text())["calibration"],  # plain, and trees
}
LATE = 3  # tiles that may be out at once


@dataclass(frozen=True)
class Settings:
    """What a script runs under."""

    answers: Literal["clean", "input"] = "input"
    scaling: Literal["min-max", "standard"] = "min-max"
    window: int = 250
    hop: int = 50
    context: int = 0
    lookahead: int | None = None
    overlap: Literal["hann", "uniform"] = "hann"
    tile: int = 8
    max_fill: int = 50
    hold: int = 64
    threshold: float = 0.5
    sentinels: tuple[float, ...] = ()
    polarity: Literal["auto", "up", "down"] = "auto"
    clocked_by_arrival: bool = False
    tells_error: bool = False
    max_streams: int = 10
    stated: str = "nothing"
    beats: bool = False
    policy: Literal["mark", "mask", "raw"] = "mark"
    policies: tuple[tuple[str, Literal["mark", "mask", "raw"]], ...] = ()
    few: int = 0
    output: Literal["input", "model"] = "input"
    fills_late: bool = False  # beats and rates are computed now and then


def denoise(batch: Batch, *, window: int, tells_error: bool) -> Answer:
    """A network that smooths, disagrees with itself from window to window, and sometimes answers nothing finite. Row by row."""
    y = np.zeros((len(batch.x), window), np.float32)
    log_var = np.zeros_like(y)
    for row, (x, valid) in enumerate(zip(batch.x[:, -window:], batch.valid[:, -window:], strict=True)):
        smooth = np.convolve(np.where(valid, x, 0.3), np.ones(7) / 7, "same")
        seed = int(abs(float(x[window // 2])) * 1e6) % 1000
        y[row] = smooth + 0.02 * np.sin(np.arange(window) / 9 + seed)
        log_var[row] = -4 + 6 * np.abs(np.gradient(smooth)) + seed % 3
        if seed % 97 == 0:
            y[row, seed % window] = np.nan if seed % 2 else 1e38
    return Answer(y, log_var if tells_error else None)


class Run:
    """A script through the core: everything that comes out, and the account."""

    def __init__(self, s: Settings) -> None:
        lookahead = s.window - 1 if s.lookahead is None else s.lookahead
        plan = Plan(
            geometry=Geometry(s.window, s.hop, s.context, s.lookahead, s.overlap),
            calibration=calibration_for(STATED[s.stated], lookahead, s.window, 125.0),
            rate=rules_for(STATED[s.stated], 125.0) if s.beats else None,
            answers=s.answers,
            scaling=s.scaling,
            output=s.output,
        )
        sensor = SensorRules(
            max_fill=s.max_fill,
            hold=s.hold,
            threshold=s.threshold,
            sentinels=s.sentinels,
            polarity=s.polarity,
            clocked_by_arrival=s.clocked_by_arrival,
            policy=s.policy,
            policies=dict(s.policies),
        )
        self.denoise = lambda batch: denoise(batch, window=s.window, tells_error=s.tells_error)
        self.engine = Engine(self.denoise, Rules(plan, sensor, tile=s.tile, max_streams=s.max_streams, few=s.few))
        self.engine.fills_itself = not s.fills_late
        self.fill = self.engine.fill if s.fills_late else lambda: None
        self.sizes: list[int] = []  # of the states of streams that were moved, without their samples
        self.small: list[int] = []  # of messages whose samples or stamps these hold
        self.tiles: list[Any] = []  # taken and not answered yet, the first of them first
        self.chunks: dict[str, list[Chunk]] = {}
        self.out: dict[str, list[bytes]] = {}
        self.events: list[tuple[str, ...]] = []

    def keep(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self.chunks.setdefault(chunk.stream, []).append(chunk)

    def take(self) -> None:
        if len(self.engine.ready) and len(self.tiles) < LATE:
            self.tiles.append(self.engine.take())

    def answer(self, how: str) -> None:
        """The oldest tile comes back: answered, shed, or with the model's exception."""
        if self.tiles:
            tile = self.tiles.pop(0)
            answers = {"shed": lambda: None, "failed": lambda: ValueError("out of memory")}
            self.keep(self.engine.finish(tile, answers.get(how, lambda: self.denoise(tile.batch))()))

    def settle(self) -> None:
        while self.tiles or len(self.engine.ready):
            self.take()
            self.answer("answered")

    def move(self, now: float) -> None:
        """Each live stream goes on from its own state as bytes."""
        for name in [name for name, stream in self.engine.streams.items() if stream.session is not None]:
            state = self.engine.save(name, now)
            stream = self.engine.streams[name]
            self.sizes.append(own_size(stream, state))
            self.small.append(len(stream.timeline._anchors) + len(stream.intake._judge._start or ()))
            self.engine.remove(name)
            self.engine.load(name, state, now)

    def do(
        self, script: list[Step], signals: dict[str, np.ndarray], *, eager: bool, rests: bool = False, moves: bool = False
    ) -> Run:
        """`eager`: the model is called after every step of the script; else only where the script says so. `rests`: now and then
        everything is answered, and then with `moves` the streams are saved and loaded."""
        now = 0.0
        for verb, *arguments in script:
            if verb == "data":
                stream, session, index, start, stop, t_ns, fs = arguments
                self.keep(self.engine.feed(Chunk(stream, session, index, signals[stream][start:stop], fs=fs, t_ns=t_ns), now))
            elif verb in ("status", "end"):
                stream, session, index = arguments
                kind = Kind.STATUS if verb == "status" else Kind.END
                self.keep(self.engine.feed(Chunk(stream, session, index, EMPTY, kind), now))
            elif verb == "gap":
                stream, session, index, missing = arguments
                self.keep(self.engine.feed(Chunk(stream, session, index, EMPTY, Kind.GAP, missing=missing), now))
            elif verb == "wait":
                now += arguments[0]
                self.keep(self.engine.expire(now))
                self.keep(self.engine.end_idle(now, 30.0))
                self.fill()
            elif verb == "take":
                self.take()
            elif verb == "answer":
                self.take()
                self.answer(arguments[0])
            if eager:
                self.settle()
            if rests and verb in ("wait", "answer", "swap"):
                self.settle()
                if moves:
                    self.move(now)
        self.keep(self.engine.flush(now))
        self.settle()
        self.fill()
        self.out = {stream: [encode(c, dtype="f8")[1] for c in chunks] for stream, chunks in self.chunks.items()}
        self.events = [tuple(event)[:3] for event in self.engine.events]
        return self

    @property
    def account(self) -> tuple[str, int, int]:
        return self.engine.account(), self.engine.unaccounted, self.engine.in_flight


# ---- what sensors send ---------------------------------------------------------------------------------------------


def signal(rng: np.random.Generator, n: int) -> np.ndarray:
    """A pulse with what sensors do to it: rails, freezes, spikes, steps, gaps, few counts, mains, nothing attached."""
    who = synthetic.person(rng)
    x, _ = synthetic.pulse(n, who, rng)
    x = (x - x.mean()) / x.std() + 0.2 * rng.standard_normal(n) * rng.integers(0, 2)
    if rng.uniform() < 0.2:  # a slower sensor whose driver repeats each value
        x = np.repeat(x, rng.integers(2, 5))[:n]
    if rng.uniform() < 0.3:
        x = -x
    for _ in range(rng.integers(0, 5)):
        at, length = int(rng.integers(0, n)), int(rng.choice([1, 3, 10, 40, 120, 260, 500]))
        part = slice(at, at + length)
        kind = rng.integers(0, 8)
        if kind == 0:
            x[part] = np.nan
        elif kind == 1:
            x[part] = x[at]
        elif kind == 2:
            x[part] = x.max()
        elif kind == 3:
            x[part] += 300 * rng.standard_normal()
        elif kind == 4:
            x[at:] += 40
        elif kind == 5:
            x[part] += 3 * np.sin(2 * np.pi * 50 * np.arange(len(x[part])) / 125)
        elif kind == 6:
            x[part] = 1e-4 * rng.standard_normal(len(x[part]))
        else:
            x[part] = rng.choice([np.inf, -999.0, 0.0])
    if rng.uniform() < 0.3:
        x = np.where(np.isfinite(x), np.round(np.nan_to_num(x, posinf=0, neginf=0) * rng.choice([4, 30, 500])), x)
    return np.asarray(x * float(rng.choice([1e-3, 1.0, 5e4])) + float(rng.choice([0.0, 7.0, 1e5])))


WILD = {
    "data": 0.6,
    "lose": 0.05,
    "swap": 0.06,
    "repeat": 0.03,
    "status": 0.03,
    "gap": 0.02,
    "end": 0.02,
    "new": 0.01,
    "restart": 0.01,
}
WILD |= {"wait": 0.06, "take": 0.03, "answer": 0.06, "jump": 0.03}
CALM = {"data": 0.85, "lose": 0.005, "swap": 0.01, "end": 0.003, "new": 0.003, "take": 0.03, "answer": 0.05, "jump": 0.015}


def script_of(rng: np.random.Generator, signals: dict[str, np.ndarray], steps: int) -> Iterator[Step]:
    """A script of arrivals: chunks in order, lost, swapped and repeated ones, counters that restart, STATUS, GAP, END, silence,
    sessions.

    Two scripts of five are calm, so that there are heart rates: little happens but jumps of the index."""
    at, index, session = dict.fromkeys(signals, 0), dict.fromkeys(signals, 0), {s: k + 1 for k, s in enumerate(signals)}
    early: list[Step] = []
    sent: list[Step] = []
    calm = rng.uniform() < 0.4
    size = int(rng.choice([60, 125] if calm else [1, 10, 25, 25, 60, 300]))
    odds = CALM if calm else WILD
    clock = float(rng.choice([0.0, 1.0, 1.005, 1.04]))  # speed of the sensors' clock; 0: they say no time
    for _ in range(steps):
        stream = str(rng.choice(list(signals)))
        n = min(int(rng.integers(1, 2 * size + 1)) if rng.uniform() < 0.3 else size, len(signals[stream]) - at[stream])
        verb = str(rng.choice(list(odds), p=np.array(list(odds.values())) / sum(odds.values())))
        t_ns = int(1e9 + index[stream] * 8e6 * clock + rng.integers(0, 1e5)) if clock else 0
        fs = 125.0
        if verb == "wait":
            yield "wait", float(rng.choice([0.1, 0.6, 3.0, 31.0]))
        elif verb == "take":
            yield ("take",)
        elif verb == "answer":
            yield "answer", str(rng.choice(["answered", "shed", "failed"], p=[0.8, 0.15, 0.05]))
        elif verb == "status":
            yield "status", stream, session[stream], index[stream]
        elif verb == "gap":
            missing = int(rng.integers(1, 80))
            yield "gap", stream, session[stream], index[stream], missing
            index[stream] += missing
        elif verb == "end":
            yield "end", stream, session[stream], index[stream]
        elif verb in ("new", "restart"):
            session[stream] += 100 * (verb == "new")
            index[stream] = int(rng.choice([0, 0, 64, 65, 5000]))
        elif verb == "repeat" and sent:
            yield sent[int(rng.integers(0, len(sent)))]
        elif n > 0:
            step = ("data", stream, session[stream], index[stream], at[stream], at[stream] + n, t_ns, fs)
            at[stream] += n
            index[stream] += n
            if verb == "lose":
                continue
            if verb == "swap":
                early.append(step)
                continue
            if verb == "jump":
                index[stream] += int(rng.choice([1, 49, 50, 51, 125, 300, 2000]))
            sent.append(step)
            yield step
            while early and rng.uniform() < 0.7:
                yield early.pop(0)
    yield from early


CHOICES: dict[str, list[Any]] = {
    "answers": ["clean", "input"],
    "scaling": ["min-max", "standard"],
    "hop": [13, 49, 50, 250],
    "context": [0, 0, 100],
    "lookahead": [None, None, 0, 49, 100],
    "overlap": ["hann", "hann", "uniform"],
    "tile": [1, 8, 64],
    "max_fill": [0, 5, 50],
    "hold": [0, 64, 200],
    "threshold": [0.3, 0.5, 0.9],
    "sentinels": [(), (-999.0, 0.0)],
    "polarity": ["auto", "auto", "up", "down"],
    "clocked_by_arrival": [False, True],
    "tells_error": [False, True],
    "max_streams": [2, 10],
    "stated": list(STATED),
    "beats": [True, True, False],
    "policy": ["mark", "mark", "mask", "raw"],
    "policies": [(), (("b", "mask"),), (("a", "raw"), ("c", "mark"))],
    "few": [0, 0, 2],
    "output": ["input", "input", "input", "model"],
    "fills_late": [False, True],
}


def of_rates(script: list[Step], rng: np.random.Generator) -> list[Step]:
    """The script with a rate of its own for each stream, which changes once in a hundred messages."""
    rates = {stream: float(rng.choice(RATES)) for stream in STREAMS}
    found = []
    for step in script:
        if step[0] == "data":
            _, stream, session, index, start, stop, t_ns, _ = step
            if rng.uniform() < 0.01:
                rates[str(stream)] = float(rng.choice(RATES))
            fs = rates[str(stream)]
            t_ns = round(int(t_ns) * 125 / fs) if t_ns else 0
            found.append(("data", stream, session, index, start, stop, t_ns, fs))
        else:
            found.append(step)
    return found


def drawn(seed: int, steps: int = 150) -> tuple[Settings, list[Step], dict[str, np.ndarray]]:
    """Settings, a script, and the signals of its streams."""
    rng = np.random.default_rng(seed)
    s = Settings(**{name: values[rng.integers(0, len(values))] for name, values in CHOICES.items()})
    signals = {stream: signal(rng, 40 * steps) for stream in STREAMS}
    return s, list(script_of(rng, signals, steps)), signals


def ran(seed: int) -> Run:
    s, script, signals = drawn(seed)
    if seed % 3 == 2:
        script = of_rates(script, np.random.default_rng(seed))
    return Run(s).do(script, signals, eager=bool(seed % 2))


def told(run: Run) -> dict[str, Any]:
    """What a script published, as whole numbers that must be the same, and sums that may differ by rounding."""
    found: dict[str, Any] = {"account": run.engine.account(), "events": sorted({event[0] for event in run.events})}
    for stream, chunks in sorted(run.chunks.items()):
        data = [c for c in chunks if c.kind is Kind.DATA]
        x, confidence, flags = (
            np.concatenate([getattr(c, name) for c in data] or [np.empty(0)]) for name in ("samples", "confidence", "flags")
        )
        beats = [c.beats for c in chunks if c.beats is not None]
        order = np.cos(np.arange(len(x)))  # where a value is counts
        sums = [
            np.dot(np.nan_to_num(x), order),
            np.abs(np.nan_to_num(x)).sum(),
            np.dot(confidence, order),
            confidence.sum(),
            *(np.nansum([getattr(b, name) for b in beats]) for name in ("bpm", "bpm_confidence")),
            *(np.nansum(np.concatenate([getattr(b, name) for b in beats] or [x[:0]])) for name in ("interval_ms", "error_ms")),
            sum(float(b.confidence.sum()) for b in beats),
        ]
        found[stream] = {
            "messages": hashlib.sha256(
                repr([(c.kind.name, c.session, c.index, len(c.samples), c.missing, c.t_ns) for c in chunks]).encode()
            ).hexdigest()[:16],
            "flags": {flag.name: n for flag in Flag if (n := int(np.count_nonzero(flags.astype(np.uint16) & flag)))},
            "beats": [int(sum(len(b.at) for b in beats)), int(sum(int(v) % 9973 for b in beats for v in b.at))],
            "sums": [float(f"{v:.12g}") for v in map(float, sums)],
        }
    return found


@pytest.mark.parametrize("seed", range(SCRIPTS))
def test_a_script_is_published_as_when_it_was_frozen(seed: int) -> None:
    run = ran(seed)
    now, frozen = told(run), json.loads(FROZEN.read_text())[seed]
    assert run.engine.unaccounted == run.engine.in_flight == 0
    assert now.keys() == frozen.keys()
    for name, value in frozen.items():
        if name in STREAMS:
            size = max(map(abs, value["sums"]))
            assert now[name].pop("sums") == pytest.approx(value.pop("sums"), rel=1e-6, abs=1e-9 * size), name
        assert now[name] == value, name


def own_size(stream: Any, state: bytes) -> int:
    """Bytes of a stream's state beside its samples: those of its segments, of the judge and those that wait for earlier ones."""
    names = ("x", "state", "total", "weight", "confidence", "flags")
    samples = 0
    for segment in stream.track.segments.values():
        inner = getattr(segment, "inner", segment)
        samples += sum(getattr(inner, name).nbytes for name in names)
        if inner is not segment:
            kept = (getattr(part, name) for part in (segment._samples, segment._answers) for name in type(part).__slots__)
            samples += sum(part.nbytes for part in kept if isinstance(part, np.ndarray))
            samples += sum(part.nbytes for part, _ in segment._fresh)
    judge = stream.intake._judge
    samples += judge._recent._history.nbytes
    samples += sum(part.nbytes for part in judge._start or () if isinstance(part, np.ndarray)) + 9 * len(judge._pending)
    for known in stream.intake.sessions.known.values():
        samples += sum(early.samples.nbytes for early in known.sequencer._held)
    samples += sum(item.x.nbytes for item in stream.timeline._items if hasattr(item, "x"))
    samples += 0 if stream.timeline._follower is None else stream.timeline._follower._staging.nbytes
    return len(state) - samples


@pytest.mark.parametrize("seed", range(1000, 1000 + times(15, 300)))
def test_a_stream_that_is_saved_and_loaded_goes_on_as_it_would_have(seed: int) -> None:
    s, script, signals = drawn(seed)
    s = replace(s, max_streams=10)  # which stream is forgotten first depends on their order
    stays, moves = (Run(s).do(script, signals, eager=False, rests=True, moves=moves) for moves in (False, True))
    assert moves.out == stays.out
    assert sorted(moves.events) == sorted(stays.events)
    assert moves.account == stays.account
    assert max(moves.sizes, default=0) < 6000


def test_what_is_no_state_is_refused_and_a_stream_with_the_model_cannot_be_saved() -> None:
    run = Run(Settings())
    x = np.sin(np.arange(600) / 15)
    run.keep(run.engine.feed(Chunk("a", 1, 0, x), 0.0))
    with pytest.raises(ValueError, match="8 windows of it are not answered yet"):
        run.engine.save("a", 0.0)
    with pytest.raises(ValueError, match="8 windows of it are not answered yet"):
        run.engine.remove("a")
    run.settle()
    state = run.engine.save("a", 0.0)
    for wrong in (b"", state[:-3], state.replace(b"Intake", b"Intoke"), encode(Chunk("a", 1, 0, x))[1]):
        with pytest.raises(ValueError, match=r"state of a|this program loads version"):
            run.engine.load("b", wrong, 0.0)
    with pytest.raises(ValueError, match="there is a stream of this name"):
        run.engine.load("a", state, 0.0)
    assert set(run.engine.streams) == {"a"}


def test_a_stream_that_moves_goes_by_the_clock_of_its_new_engine() -> None:
    there, here = Run(Settings()).engine, Run(Settings()).engine
    x = np.sin(np.arange(40) / 15)
    there.feed(Chunk("a", 1, 0, x), 100_000.0)
    there.feed(Chunk("a", 1, 60, x[:10]), 100_000.0)  # waits for the 20 samples before it
    state = there.save("a", 100_000.2)
    there.remove("a")
    assert not there.streams
    here.load("a", state, 50.0)
    here.feed(Chunk("a", 2, 0, x), 51.0)
    assert [event.name for event in here.events] == ["second_publisher"]
    here.expire(50.4)
    assert here.streams["a"].counts.gap == 20
    here.feed(Chunk("a", 2, 0, x), 52.5)
    assert here.streams["a"].session == 2
    assert here.unaccounted == 0


def test_how_late_a_moved_stream_s_messages_are_read_is_known_at_once() -> None:
    there, here = Run(Settings()).engine, Run(Settings()).engine
    x = np.sin(np.arange(25) / 15)
    for k in range(5):
        there.feed(Chunk("a", 1, 25 * k, x, t_ns=10**18 + 200_000_000 * k), 100_000.0 + 0.2 * k)
    here.load("a", there.save("a", 100_001.0), 50.0)
    here.feed(Chunk("a", 1, 125, x, t_ns=10**18 + 10**9), 50.3)  # was there at 50.0, and is read 0.3 s later
    assert here.streams["a"].intake.arrived_at == pytest.approx(50.0, abs=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_when_the_model_is_called_changes_no_message(seed: int) -> None:
    """Windows may wait: a stream's messages are the same whether the model is called after each chunk or much later."""
    rng = np.random.default_rng(seed)
    signals = {stream: signal(rng, 3000) for stream in STREAMS}
    script = [step for step in script_of(rng, signals, 120) if step[0] not in ("take", "answer")]
    s = Settings(tile=int(rng.choice([1, 8])), lookahead=None if seed % 2 else 49, hop=49 if seed % 3 else 13)
    early, late = (Run(s).do(script, signals, eager=eager) for eager in (True, False))
    for stream, messages in early.out.items():
        assert data_of(messages) == data_of(late.out[stream])
    assert early.account == late.account


def data_of(messages: list[bytes]) -> bytes:
    """The samples of a stream's DATA messages, whatever their cutting."""
    chunks = [decode([b"a", body]) for body in messages]
    return b"".join(np.asarray(c.samples, "<f8").tobytes() for c in chunks if c.kind is Kind.DATA)


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(told(ran(seed))) for seed in range(SCRIPTS))
    FROZEN.write_text(f"[\n{lines}\n]\n")
