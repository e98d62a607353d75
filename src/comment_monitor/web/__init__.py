"""The HTTP server: connections, bodies, middleware and routes."""
