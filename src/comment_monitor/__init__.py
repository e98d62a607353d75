"""Comment Monitoring Pipeline: every comment once, from the request to the result."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__version__ = "0.1.0"


class _NotForRedis(MetaPathFinder):
    """Keeps redis-py from loading OpenTelemetry's metrics, which it does wherever they are installed.

    A third of its own import and 3 MiB in every process, for what is not used here. Whoever else asks for them gets
    them: a host that instruments this program, or the exporter of traces.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - as it is called
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> None:
        """Nothing of its own; raises where redis-py asks."""
        if not fullname.startswith("opentelemetry."):
            return
        frame = sys._getframe(1)  # noqa: SLF001 - the one way to know who imports
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").partition(".")[0] == "redis":
            raise ModuleNotFoundError(f"{fullname} is not loaded for redis", name=fullname)


sys.meta_path.insert(0, _NotForRedis())
