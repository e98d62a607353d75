"""Settings, the comment, errors and server addresses, which all layers share. Nothing here talks to a server."""
