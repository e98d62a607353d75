"""Reads comments from files: detects the format from the content, reads in pieces and feeds the pipeline."""
