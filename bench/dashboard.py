"""The pictures of docs/dashboard.md: the dashboard's own expressions, asked of a Prometheus, drawn in its grid.

The system runs for four minutes with a burst, outages, repeats, edits and refusals, scraped every two seconds.
"""

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import click
from tests.conftest import project_root
from tests.support import dashboard
from tests.support.watched import NAMESPACE, Watched, watched

from bench.harness import course
from bench.harness.panels import Answers, draw
from comment_monitor.devserver.postgres_process import EmbeddedPostgres
from comment_monitor.storage.migrations import upgrade

SCRAPE: Final = 2.0
CHOSEN: Final = {"namespace": NAMESPACE, "pod": ".*", "broker": ".*"}
SETTINGS: Final = {
    "COMMENT_RATE_LIMIT_PER_MINUTE": "50",
    "COMMENT_TRUSTED_PROXIES": "127.0.0.1",
    "COMMENT_CHECK_INTERVAL": "20",
    "LOG_LEVEL": "WARNING",
}
IMAGES: Final = project_root() / "docs" / "images"


@click.command(help=__doc__)
@click.option("--keep", type=click.Path(path_type=Path), help="Write what Prometheus answered to this file, too.")
@click.option("--again", type=click.Path(path_type=Path, exists=True), help="Draw what such a file holds.")
def main(keep: Path | None, again: Path | None) -> None:
    """See above."""
    answers = json.loads(again.read_text()) if again else _measure()
    if keep:
        keep.write_text(json.dumps(answers))
    for group, panels in dashboard.groups(dashboard.load()).items():
        name = group.split()[0].lower()
        draw(panels, answers, IMAGES / f"dashboard-{name}.svg")


def _measure() -> Answers:
    program = _prometheus()
    with tempfile.TemporaryDirectory(prefix="dashboard-") as name:
        folder = Path(name)
        # Open to the user that PostgreSQL runs as where we are root.
        folder.chmod(0o755)
        postgres = EmbeddedPostgres(folder)
        postgres.start()
        try:
            upgrade(postgres.dsn)
            return asyncio.run(_watch(program, folder, postgres.dsn))
        finally:
            postgres.stop()


async def _watch(program: str, folder: Path, dsn: str) -> Answers:
    async with watched(program, folder, dsn, scrape=SCRAPE, **SETTINGS) as here:
        await here.system.until_working()
        return _ask(here, await course.run(here))


def _prometheus() -> str:
    ours = project_root() / ".tools" / "bin" / "prometheus"
    found = str(ours) if ours.exists() else shutil.which("prometheus")
    if not found:
        raise click.ClickException("prometheus is not there: `make tools` brings it.")
    return found


def _ask(here: Watched, began: float) -> Answers:
    """Each expression's series, with seconds since the beginning for times."""
    ended = time.time()
    answers: Answers = {}
    for one in dashboard.expressions(dashboard.load()):
        text = dashboard.filled(one.text, step=SCRAPE, scrape=SCRAPE, seconds=ended - began, chosen=CHOSEN)
        prometheus = here.prometheus
        found = prometheus.query(text, ended) if one.instant else prometheus.query_range(text, began, ended, SCRAPE)
        answers[one.text] = [
            (dict(series.labels), [(round(at - began, 1), value) for at, value in series.samples]) for series in found
        ]
    return answers


if __name__ == "__main__":
    main()
