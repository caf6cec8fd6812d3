"""ppgstream: a streaming real-time denoiser for photoplethysmogram (PPG) signals.

Where to start reading; docs/architecture.md has a line for each file and the way of a sample through them:

    wire       bytes <-> Chunk, ours and other formats
    core       one sensor: intake -> track -> timeline; many sensors: engine
    model      checkpoints, and what runs them
    files      recordings and pipes
    live       the daemon: source -> loop -> workers -> sink, and its status
    lab        noise, synthetic pulses, how good an answer is
    assemble   a configuration and a checkpoint -> the rules that samples go by
    show       demo, monitor, bench, pictures
    cli        the commands
    train      training, calibration, evaluation (the folder `train` of the clone)
    tools      programs beside the package (the folder `tools`)
"""

from ppgstream import binaries

__version__ = "0.1.0"

binaries.install()
