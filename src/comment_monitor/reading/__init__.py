"""Comments and posts as they are asked for."""
