"""From a request or a file to stored comments: parse, deduplicate, write."""
