"""Shared helpers of the tests: servers, clients and requests."""
