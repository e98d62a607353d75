"""From a stored comment to its findings."""
