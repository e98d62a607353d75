"""What every part is made of: settings, the comment, errors, addresses. Nothing here talks to a server."""
