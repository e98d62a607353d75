"""What runs at intervals beside the requests."""
