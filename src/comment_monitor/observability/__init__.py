"""Metrics, logs and traces: what the program tells of itself."""
