"""ppgstream: a streaming real-time denoiser for photoplethysmogram (PPG) signals.

Where to start reading, from the data's point of view:

    wire, adopt          bytes <-> Chunk
    sequence             arrival order -> index order, and what was lost
    windowing            samples -> overlapping windows -> samples
    scaling              a window's units <-> the model's
    trust                what the input says about itself: flat, clipped, nothing attached
    stream, engine       one sensor; many sensors and one model call
    denoiser             what the engine asks of a model
    models, checkpoint   the networks, and their weights on disk (the only modules that import TensorFlow)
    config, daemon       settings; sockets, threads and signals
    publisher, tap       the sending and the receiving end
    recording, offline   files and pipes
    noise, synthetic, metrics   noise, a pulse of known truth, and figures
    monitor, demo, cli   what people see
"""

__version__ = "0.1.0"
