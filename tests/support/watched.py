"""The whole system with a Prometheus that scrapes it, as in a cluster."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from comment_monitor.devserver.redis_process import EmbeddedRedis
from tests.conftest import until
from tests.support.prometheus import Prometheus, Target
from tests.support.rabbitmq import RabbitMQ
from tests.support.system import System

NAMESPACE: Final = "production"
# The RabbitMQ metrics that the dashboard needs.
FAMILIES: Final = ("queue_coarse_metrics",)


class Watched(NamedTuple):
    """The running parts of the system."""

    system: System
    redis: EmbeddedRedis
    rabbitmq: RabbitMQ
    prometheus: Prometheus

    def hold_worker(self) -> None:
        """Suspends the worker, as if it had no CPU time."""
        os.killpg(self.system.worker.process.pid, signal.SIGSTOP)

    def release_worker(self) -> None:
        """Resumes the worker."""
        os.killpg(self.system.worker.process.pid, signal.SIGCONT)


def _pod(name: str) -> dict[str, str]:
    """Returns the labels that a ServiceMonitor adds."""
    return {"namespace": NAMESPACE, "pod": f"{name}-0"}


@asynccontextmanager
async def watched(program: str, folder: Path, dsn: str, *, scrape: float, **settings: str) -> AsyncIterator[Watched]:
    """Runs orchestrator and worker with their own Redis and RabbitMQ, and a Prometheus (`program`)."""
    with ExitStack() as stack:
        redis = EmbeddedRedis(folder)
        redis.start()
        stack.callback(redis.stop)
        rabbitmq = RabbitMQ(folder / "rabbitmq", metrics=True)
        rabbitmq.start()
        stack.callback(rabbitmq.stop)
        servers = {"POSTGRES_DSN": dsn, "REDIS_URL": redis.url, "CELERY_BROKER_URL": rabbitmq.url}
        system = System(folder, {**servers, **settings}, worker_metrics=True)
        stack.callback(system.end)
        jobs = {
            "orchestrator": Target(system.metrics_port, _pod("orchestrator")),
            "comment-worker": Target(system.worker_metrics_port, _pod("comment-worker")),
            "rabbitmq-detailed": Target(rabbitmq.metrics_port, _pod("rabbitmq"), "/metrics/detailed", FAMILIES),
        }
        prometheus = Prometheus(program, folder / "prometheus", jobs, scrape=scrape)
        prometheus.start()
        stack.callback(prometheus.stop)
        await system.start()
        # Prometheus needs some time until its first scrape.
        await until(lambda: len(prometheus.query("up == 1", time.time())) == len(jobs))
        yield Watched(system, redis, rabbitmq, prometheus)
