"""What the tests share: servers of their own, requests in short."""
