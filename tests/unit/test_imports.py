"""The services import no large library that they do not use: each import costs every pod memory and start time."""

import subprocess
import sys

import pytest

SERVE = "comment_monitor.cli.serve"
WORKER = "comment_monitor.cli.worker, comment_monitor.tasks"


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (SERVE, ("alembic", "sqlalchemy", "numpy", "py3langid", "opentelemetry.sdk")),
        (WORKER, ("alembic", "sqlalchemy", "litestar", "prompt_toolkit", "opentelemetry.sdk")),
    ],
    ids=["serve", "worker"],
)
def test_a_service_does_not_import_unused_libraries(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print(*[name for name in {unwanted} if sys.modules.get(name)])"
    environment = {"CELERY_BROKER_URL": "amqp://localhost", "POSTGRES_DSN": "postgresql://localhost/none"}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert process.stdout.strip() == ""
