"""Recordings as files and pipes."""
