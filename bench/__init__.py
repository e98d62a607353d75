"""Every number that the documentation claims, measured: one script a claim, beside its limit, in alternating rounds.

`python -m bench` runs them all; `python -m bench.requests_of_1000` one of them.
"""
