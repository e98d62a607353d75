"""The HTTP edge: parse, one call, answer."""
