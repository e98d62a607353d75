"""The findings of a text. Pure functions: no storage, no I/O."""
