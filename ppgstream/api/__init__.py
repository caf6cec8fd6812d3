"""The package from Python: `ppgstream.denoise`, `LiveDenoiser`, `connect`, `Sender` and `load`. docs/python.md shows them."""
