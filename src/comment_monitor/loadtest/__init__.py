"""Drives a running service with comments and measures how it answers."""
