"""Noise, synthetic pulses, and how good an answer is."""
