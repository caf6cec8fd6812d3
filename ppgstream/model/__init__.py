"""Checkpoints and the networks that they hold."""
