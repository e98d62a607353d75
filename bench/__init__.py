"""Measures every number that the documentation claims: one script per claim, beside a reference, in alternating rounds.

`python -m bench` runs all scripts; `python -m bench.requests_of_1000` runs a single script.
"""
