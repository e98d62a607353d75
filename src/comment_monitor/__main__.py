"""`python -m comment_monitor` is `comment-monitor`."""

from comment_monitor.cli import main

main()
