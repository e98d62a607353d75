"""What the scripts share: servers, load, the limit, and what becomes of a measurement."""
