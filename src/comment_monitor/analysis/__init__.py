"""Analyses stored comments."""
