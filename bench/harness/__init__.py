"""Code that the scripts share: servers, load, reference measurements, and results."""
