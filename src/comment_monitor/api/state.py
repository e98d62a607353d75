"""What the handlers share: the runtime, and whether this process is on its way out."""

from comment_monitor import errors
from comment_monitor.runtime import Runtime


class Service:
    """One process's HTTP side.

    `leaving` turns `/health` to 503 so that load balancers look elsewhere; `draining` refuses new work too.
    """

    def __init__(self, runtime: Runtime):
        self.runtime = runtime
        self.leaving = False
        self.draining = False

    def require_work(self) -> None:
        """Raises where this process takes no comments now."""
        if not self.runtime.settings.enabled:
            raise errors.Disabled("COMMENT_MONITORING_ENABLED is false here.")
        if self.draining:
            raise errors.Draining("This process is shutting down; repeat the request.")
        self.runtime.schema.require()
