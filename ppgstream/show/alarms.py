"""What is wrong with a daemon and its streams, from a status snapshot: one line each and once, the worst first."""

from __future__ import annotations

from dataclasses import dataclass

from ppgstream.live.snapshot import Snapshot, StreamStatus

RECENT_S = 30.0  # for how long an event is an alarm
TAKEN_BACK_S = 3600.0  # for how long it is told that a checkpoint was taken back
FULL = 0.95  # of the queue
GRAVE = ("refused", "silent", "gone", "lead_off")
REFUSALS = {"malformed", "too_many_streams", "bad_rate", "second_publisher", "after_end", "refused_key"}
FAILURES = {"model_failed", "bad_answer"}


@dataclass(frozen=True, slots=True)
class Alarm:
    """`text` without the stream's name, which is empty if it is of the daemon itself. grave: red; else yellow."""

    text: str
    stream: str = ""
    grave: bool = False

    def __str__(self) -> str:
        return f"{self.stream}: {self.text}" if self.stream else self.text


def alarms_of(s: Snapshot, *, shed_lately: int = 0, unknown: str | None = None) -> list[Alarm]:
    """All of them. shed_lately: samples that were not denoised for want of time, lately; unknown: a stream that was asked for
    and is not there."""
    found: list[Alarm] = []
    if s.ledger.unaccounted:
        found.append(
            Alarm(f"the ledger does not add up by {s.ledger.unaccounted:,} samples: a defect, please report it", grave=True)
        )
    if s.unwell:
        found.append(Alarm(s.unwell, grave=True))
    recent = [event for event in s.recent or [] if event.age_s < RECENT_S]
    for event in recent:
        if event.name in FAILURES:
            found.append(Alarm(event.text, grave=True))
    if s.reload is not None and s.reload.state == "rolled_back" and s.reload.age_s < TAKEN_BACK_S:
        found.append(Alarm(f"a checkpoint was taken back: {s.reload.text}", grave=True))
    if s.shadow is not None and s.shadow.state == "failed":
        found.append(Alarm(f"the shadow does not run: {s.shadow.text}"))
    if s.queues.ready_windows >= FULL * s.queues.ready_limit:
        found.append(
            Alarm(f"queue full: {s.queues.ready_windows:,} windows wait for the model, and no more input is read", grave=True)
        )
    if shed_lately:
        found.append(Alarm(f"too slow: {shed_lately:,} samples of the last minute were published as they came", grave=True))
    if s.log_lost:
        found.append(Alarm(f"{s.log_lost:,} lines of the log are lost: a full disk, or nobody reads it"))
    found += [Alarm(event.text) for event in recent if event.name == "descriptors"]
    if unknown is not None:
        names = ", ".join(row.name for row in s.streams[:4])
        found.append(Alarm(f"no such stream; there are {s.streams_total}{': ' + names if names else ''}", unknown))
    told = set()
    for row in s.streams:
        if row.troubles:
            told.add(row.name)
            found.append(Alarm(trouble_of(s, row), row.name, grave=row.troubles[0] in GRAVE))
    for event in recent:
        if event.name in REFUSALS and event.stream not in told:
            told.add(event.stream)
            found.append(Alarm(_without(event.stream, event.text), event.stream, grave=True))
    return found


def trouble_of(s: Snapshot, row: StreamStatus) -> str:
    """The troubles of a stream in words, the worst first."""
    return "; ".join(_words(s, row, trouble) for trouble in row.troubles)


def _words(s: Snapshot, row: StreamStatus, worst: str) -> str:
    if worst == "refused":
        of_it = [event for event in s.recent or [] if event.stream == row.name and event.name in REFUSALS]
        return _without(row.name, of_it[-1].text) if of_it else f"refused {row.refused:,} samples"
    return {
        "silent": f"silent for {row.silent_s:.0f} s",
        "gone": f"gone: silent for {row.silent_s:.0f} s, and its session was ended",
        "lead_off": "lead-off: the input is flat, nothing is attached",
        "wrong_rate": f"samples come at {row.fs_measured or 0:.4g} Hz, not {row.fs:g} Hz: no heart rate",
        "low_confidence": f"confidence below 0.5 for {row.low_s:.0f} s",
        "lost": f"{row.lost_lately:,} samples lost in the last two minutes",
    }.get(worst, worst.replace("_", " "))


def state_of(row: StreamStatus) -> str:
    """The same in a word or two, for a table."""
    if row.troubles:
        worst = row.troubles[0]
        return {
            "silent": f"silent {row.silent_s:.0f} s",
            "gone": f"gone {row.silent_s:.0f} s",
            "lead_off": "lead-off",
            "wrong_rate": "wrong rate",
            "low_confidence": f"unsure {row.low_s:.0f} s",
            "lost": f"lost {row.lost_lately:,}",
        }.get(worst, worst)
    if not row.live:
        return "ended, unclean" if row.unclean_sessions else "ended"
    return ""


def _without(name: str, text: str) -> str:
    return text.removeprefix(f"{name}: ")
