"""Runs the program with an analysis that takes the given number of seconds longer for each comment.

python -m bench.harness.slowed <seconds> <folder of the sources, or nothing> <arguments of comment-monitor>
"""

import sys
import time
from typing import Any


def main() -> None:
    """Runs the program."""
    seconds, sources = float(sys.argv[1]), sys.argv[2]
    sys.argv = ["comment-monitor", *sys.argv[3:]]
    if sources:
        # Before the first import of the package.
        sys.path.insert(0, sources)

    from comment_monitor.analysis import engine  # noqa: PLC0415
    from comment_monitor.cli import main as run  # noqa: PLC0415

    def find(_text: object, _found: object) -> dict[str, Any]:
        if seconds:
            time.sleep(seconds)
        return {}

    engine.FINDINGS = (*engine.FINDINGS, engine.Finding("slowed", find))  # type: ignore[misc, assignment]
    run()


if __name__ == "__main__":
    main()
