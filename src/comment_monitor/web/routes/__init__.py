"""The handlers, a file a resource."""
