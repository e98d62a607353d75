"""Comment Monitoring Pipeline: every comment once, from the request to the result."""

__version__ = "0.1.0"
