"""Drives a running service with comments and measures its answers."""
