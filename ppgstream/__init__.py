"""ppgstream: a streaming real-time denoiser for photoplethysmogram (PPG) signals.

From Python (docs/python.md):

    denoise(x, fs)         a recording: wave, confidence, beats, heart rates
    LiveDenoiser(fs)       samples as they come, in this process
    connect(endpoint)      what a daemon publishes
    Sender(endpoint, ..)   a sensor that a daemon reads
    load(path)             a recording's samples, and its rate

Where to start reading; docs/architecture.md has a line for each file and the way of a sample through them:

    wire       bytes <-> Chunk, ours and other formats
    core       one sensor: intake -> track -> timeline; many sensors: engine
    model      checkpoints, and what runs them
    files      recordings and pipes
    live       the daemon: source -> loop -> workers -> sink, and its status
    lab        noise, synthetic pulses, how good an answer is
    assemble   a configuration and a checkpoint -> the rules that samples go by
    show       demo, monitor, bench, pictures
    api        the five names above
    cli        the commands
    train      training, calibration, evaluation (the folder `train` of the clone)
    tools      programs beside the package (the folder `tools`)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ppgstream import binaries

if TYPE_CHECKING:
    from ppgstream.api.denoised import Denoised, denoise, load
    from ppgstream.api.live import Block, LiveDenoiser
    from ppgstream.api.sockets import Connection, Sender, connect

__version__ = "0.2.0"
__all__ = ["Block", "Connection", "Denoised", "LiveDenoiser", "Sender", "connect", "denoise", "load"]

binaries.install()

_PLACES = {
    "Block": "live",
    "Connection": "sockets",
    "Denoised": "denoised",
    "LiveDenoiser": "live",
    "Sender": "sockets",
    "connect": "sockets",
    "denoise": "denoised",
    "load": "denoised",
}


def __getattr__(name: str) -> object:
    """The names are imported when they are first used: `import ppgstream` itself stays quick."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ppgstream' has no attribute {name!r}")
    return getattr(import_module(f"ppgstream.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
