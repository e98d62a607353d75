"""The periodic jobs, which run beside the requests."""
