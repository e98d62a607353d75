"""What the fork server of the tests imports: the libraries of the API and the worker, and the analysers' models.

Not prometheus_client: it chooses where metrics are stored when it is imported.
"""

import importlib
import sys

from comment_monitor.analysis.engine import warm_up

LIBRARIES = (
    "alembic.command",
    "asyncpg",
    "billiard.pool",
    "celery.app.events",
    "celery.apps.worker",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.consumer",
    "click",
    "httptools",
    "kombu.transport.pyamqp",
    "limits.aio.storage",
    "litestar",
    "msgspec",
    "psutil",
    "psycopg2.extensions",
    "redis.asyncio.cluster",
    "rich.progress",
    "rich.table",
    "structlog",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "tenacity",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "wsgiref.simple_server",
)
for name in LIBRARIES:
    importlib.import_module(name)
warm_up()
assert "prometheus_client" not in sys.modules
