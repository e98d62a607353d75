"""Metrics, logs and traces of this program."""
