"""Comment Monitoring Pipeline: every comment once, from the request to the result."""

import sys

__version__ = "0.1.0"

# redis-py loads OpenTelemetry's metrics wherever that is installed: a third of its own import and 3 MiB in every
# process, for what is not used here. `tracing.start` takes the bars away.
BARRED = ("opentelemetry.metrics", "opentelemetry.sdk.metrics")
for _name in BARRED:
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
