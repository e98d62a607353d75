"""Turns a request or a file into stored comments: parses, deduplicates and writes."""
