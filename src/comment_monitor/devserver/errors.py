"""The expected errors of embedded servers."""

from comment_monitor.core.errors import CommentMonitorError


class EmbeddedError(CommentMonitorError):
    """An embedded server can't run here. The message is one line that says what to do."""
