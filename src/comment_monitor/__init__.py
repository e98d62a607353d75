"""Comment Monitoring Pipeline: stores every comment once, and analyses it."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__version__ = "0.1.0"


class _NotForRedis(MetaPathFinder):
    """Prevents redis-py from importing OpenTelemetry's metrics, which it does wherever they are installed.

    They are not used here, and would cost a third of redis-py's own import time and 3 MiB in every process. All other
    importers get them: a host that instruments this program, or the exporter of traces.
    """

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system passes it
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> None:
        """Returns None, so that the import continues with the next finder; raises if redis-py is the importer."""
        if not fullname.startswith("opentelemetry."):
            return
        frame = sys._getframe(1)  # noqa: SLF001 - nothing else identifies the importer
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("importlib"):
            frame = frame.f_back
        if frame.f_globals.get("__name__", "").partition(".")[0] == "redis":
            raise ModuleNotFoundError(f"{fullname} is not loaded for redis", name=fullname)


sys.meta_path.insert(0, _NotForRedis())
