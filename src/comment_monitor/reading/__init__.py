"""Queries for stored comments and posts."""
