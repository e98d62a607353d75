"""Embedded servers for one machine."""
