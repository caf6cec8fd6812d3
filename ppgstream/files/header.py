"""What the lines above a table say: the sampling rate, in many words, and the names of its columns."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from ppgstream.errors import DataError
from ppgstream.files.cells import SHOWN, is_comment

KEY_LINE = re.compile(r"([A-Za-z][A-Za-z0-9 _-]{0,40})=\t")  # of LabChart
AMOUNT = r"(\d{1,3}(?:[,' ]\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?)"
HZ = r"\s?(k?)(?:Hz|sps|samples\s?/\s?s(?:ec(?:ond)?)?|samples per second)\b"
RATES = (
    # "Sampling rate: 1,000 Hz", "Sample Rate = 1 kHz", "sampling rate of channel 2: 100 Hz", "samplingFrequency=250"
    (re.compile(rf"sampl[^\n]{{0,40}}?(?<![\d.,]){AMOUNT}{HZ}", re.I), 1),
    (re.compile(rf"sampl[a-z]{{0,8}}[ _:-]{{0,2}}(?:rate|freq[a-z.]{{0,8}})[^0-9\n]{{0,16}}?{AMOUNT}\s?(k?)", re.I), 1),
    # "fs: 64", "SR=200", "Frequency (Hz), 128"
    (re.compile(rf"(?:^|[^a-z])(?:fs|sr|sps|rate|frequency|samples per second)\s?(?:[(\[][^)\]]{{0,10}}[)\]])?\s?[:=,;\t "
                rf"]\s?{AMOUNT}\s?(k?)", re.I), 1),
    (re.compile(rf"(?<![\d.,]){AMOUNT}{HZ}", re.I), 1),
    # "5 msec/sample", "Interval=0.01 s", "sampling interval: 8 ms", "sampling interval [ms] = 10", "10 ms sampling interval", "dt
    # = 0.01"
    (re.compile(rf"{AMOUNT}\s{{0,2}}(m|u|µ|n|)s(?:ec(?:ond)?s?)?\s?(?:/|per)\s?sample", re.I), -1),
    (re.compile(rf"(?:sampl[a-z]{{0,8}}[ "
                rf"_-]?(?:interval|period)|^interval)[^0-9\n(\[]{{0,8}}?{AMOUNT}\s{{0,2}}(m|u|µ|n|)s", re.I), -1),
    (re.compile(rf"(?:sampl[a-z]{{0,8}}[ _-]?(?:interval|period))\s?[(\[]()(?:(m|u|µ|n|)s)[)\]]\s?[:=]?\s?{AMOUNT}", re.I), -2),
    (re.compile(rf"{AMOUNT}\s{{0,2}}(m|u|µ|n|)s(?:ec)?\s(?:sampl[a-z]{{0,8}})[ _-]?(?:interval|period)", re.I), -1),
    (re.compile(rf"(?:^|[^a-z])dt\s?()=\s?()?{AMOUNT}", re.I), -2),
)  # fmt: skip
OTHERS = re.compile(
    r"filter|cut.?off|pass\b|notch|mains|\bline\b|\bled\b|pwm|bandwidth|modulat|heart|pulse rate|\bRR\b|resp", re.I
)  # other frequencies
PREFIX = {"": 1.0, "k": 1e3, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "n": 1e-9}


def stated_rate(text: str) -> float | None:
    """The sampling rate that a line of a header states, Hz."""
    text = text[:2000]
    if OTHERS.search(text) and not re.search("sampl", text, re.IGNORECASE):
        return None
    for pattern, power in RATES:
        if (m := pattern.search(text)) is not None:
            number_, prefix = (m[1], m[2]) if power > -2 else (m[3], m[2] or "")
            if re.fullmatch(r"\d{1,3}([,' ]\d{3})+(\.\d+)?", number_) and not number_.startswith("0"):
                number_ = re.sub("[,' ]", "", number_)
            amount = float(number_.replace(",", ".")) * PREFIX[prefix.lower()]
            if amount > 0:
                return amount if power > 0 else 1 / amount
    return None


@dataclass(slots=True)
class Header:
    """What the lines say that are no samples: rates by line, names of columns."""

    rates: list[tuple[float, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    delimiter: str | None = None

    def take(self, line: str) -> None:
        text = line.strip().lstrip("#%/ ")
        if text.startswith("{") and self._device(text):
            return
        if (fs := stated_rate(text)) is not None and (fs, text[:SHOWN]) not in self.rates:
            self.rates.append((fs, text[:SHOWN]))

    def _device(self, text: str) -> bool:
        """OpenSignals' JSON: of each device, its rate and its columns' names."""
        try:
            devices = [d for d in json.loads(text).values() if isinstance(d, dict)]
        except (ValueError, AttributeError, RecursionError):
            return False
        for device in devices[:1]:
            rate, names = device.get("sampling rate"), device.get("column")
            if isinstance(rate, int | float) and 0 < rate < 1e6:
                self.rates.append((float(rate), f"sampling rate {rate}"))
            self.names = [str(n) for n in names] if isinstance(names, list) else []
        return bool(devices)

    def rate(self, name: str) -> tuple[float | None, str]:
        """The one rate, or that of the line that names the column. Raises DataError if several lines differ."""
        rates = self.rates
        named = [r for r in rates if name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", r[1], re.I)]
        rates = named or rates
        if not rates:
            return None, ""
        if max(fs for fs, _ in rates) > 1.02 * min(fs for fs, _ in rates):
            told = ", ".join(f"{text!r}" for _, text in rates[:3])
            raise DataError(f"its header states several rates ({told}) and none of them names the column: say --fs HZ --trust-fs")
        return rates[0]


def is_header(line: str, header: Header, at: int, *, note: bool = True) -> bool:
    """Whether a line is a comment or a `Key=value` line, and what it says if so."""
    if is_comment(line):
        if note:
            header.take(line)
        return True
    if at == 0 and line.strip().lower().startswith("sep="):
        header.delimiter = line.rstrip("\r\n")[4:5] or None
        return True
    if (m := KEY_LINE.match(line)) is not None:
        if "title" in m[1].lower():
            header.names = ["time", *(cell.strip() for cell in line[m.end() :].split("\t") if cell.strip())]
        elif note:
            header.take(line.replace("\t", " "))
        return True
    return False
