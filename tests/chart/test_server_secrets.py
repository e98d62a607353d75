"""Addresses that are put together from the Secrets of other operators: CloudNativePG's and RabbitMQ's."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from tests.chart.conftest import CHART, environment, helm, helms

from comment_monitor.core.dsn import Host, read_dsn

CNPG: Final = {"host": "host", "port": "port", "username": "username", "password": "password", "database": "dbname"}
OPERATOR: Final = {"host": "host", "port": "port", "username": "username", "password": "password"}


def expanded(pod: dict[str, Any], secret: dict[str, str]) -> dict[str, str]:
    """The variables as the kubelet gives them: `$(NAME)` of one that stands before is replaced."""
    found: dict[str, str] = {}
    for name, one in environment(pod).items():
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        value = secret.get(reference["key"], "") if reference else one.get("value", "")
        for earlier, text in found.items():
            value = value.replace(f"$({earlier})", text)
        found[name] = value
    return found


def by_parts(folder: Path, program: str, **more: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects with the servers of two operators."""
    file = folder / "parts.yaml"
    servers = {
        "postgres": {"existingSecret": "cluster-app", "existingSecretKeys": CNPG, **more.get("postgres", {})},
        "rabbitmq": {
            "existingSecret": "queue-default-user",
            "existingSecretKeys": OPERATOR,
            **more.get("rabbitmq", {}),
        },
        "worker": {"autoscaling": {"enabled": True, "mode": "keda"}},
        "celeryExporter": {"enabled": True},
        "orchestrator": more.get("orchestrator", {}),
    }
    file.write_text(json.dumps(servers))
    done = helm("template", "x", str(CHART), "--values", str(file), program=program)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.parametrize("program", helms())
def test_the_secret_of_cloudnative_pg_gives_the_address_by_its_parts(program: str, tmp_path: Path) -> None:
    """The password beside it, where asyncpg and libpq look for one: no address could hold this one unquoted."""
    password = "p@ss/w:rd?%20#'\" $(X)"  # noqa: S105 - of nobody
    secret = {"host": "db.pg.svc", "port": "5433", "username": "parts", "password": password, "dbname": "comments"}
    verified = "sslmode=verify-full&sslrootcert=system"
    for more, address in (
        ({}, "postgresql://parts@db.pg.svc:5433/comments"),
        ({"parameters": verified}, f"postgresql://parts@db.pg.svc:5433/comments?{verified}"),
    ):
        found = by_parts(tmp_path, program, postgres=more)
        (job,) = [one["spec"]["template"]["spec"] for one in found if one["kind"] == "Job"]
        variables = expanded(job, secret)
        assert (variables["POSTGRES_DSN"], variables["PGPASSWORD"]) == (address, password)
    read = read_dsn("postgresql://parts@db.pg.svc:5433/comments", {"PGPASSWORD": password})
    assert (read.user, read.password, read.database) == ("parts", password, "comments")
    assert read.hosts == [Host("db.pg.svc", 5433)]


@pytest.mark.parametrize("program", helms())
def test_the_secret_of_the_rabbitmq_operator_gives_the_address_by_its_parts(program: str, tmp_path: Path) -> None:
    secret = {"host": "queue.rabbit.svc", "port": "5671", "username": "default_user_x", "password": "aB3_-x"}
    for more, wanted in (
        ({}, "amqp://default_user_x:aB3_-x@queue.rabbit.svc:5671//"),
        ({"vhost": "comments", "tls": True}, "amqps://default_user_x:aB3_-x@queue.rabbit.svc:5671/comments"),
    ):
        found = by_parts(tmp_path, program, rabbitmq=more)
        deployments = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in found
                       if one["kind"] == "Deployment"}  # fmt: skip
        assert expanded(deployments["comment-worker"], secret)["CELERY_BROKER_URL"] == wanted
        assert expanded(deployments["celery-exporter"], secret)["CE_BROKER_URL"] == wanted
        # KEDA reads it out of the workers' environment: no Secret holds it as one.
        (scaled,) = [one for one in found if one["kind"] == "ScaledObject"]
        (trigger,) = scaled["spec"]["triggers"]
        assert trigger["metadata"]["hostFromEnv"] == "CELERY_BROKER_URL"
        assert "authenticationRef" not in trigger
        assert not [one for one in found if one["kind"] == "TriggerAuthentication"]


@pytest.mark.parametrize("program", helms())
def test_the_policies_let_the_brokers_own_port_through_with_tls_and_without(program: str, tmp_path: Path) -> None:
    """Also where the Secret has no port, and for every pod that speaks to it."""
    policy: dict[str, Any] = {"enabled": True}
    parts = {one: one for one in ("host", "username", "password")}
    for tls, given, port in ((False, None, 5672), (True, None, 5671), (True, 5700, 5700)):
        policy["rabbitmq"] = {"port": given}
        more: dict[str, Any] = {"orchestrator": {"commentMonitoring": {"networkPolicy": policy}},
                "rabbitmq": {"tls": tls, "existingSecretKeys": parts}}  # fmt: skip
        found = by_parts(tmp_path, program, **more)
        speaking = {"orchestrator", "comment-worker", "celery-exporter"}
        for name, ports in egress(found).items():
            assert (port in ports) == (name in speaking), (name, ports)
            # Where names are resolved by pods that listen on another port than their Service, as OpenShift's do.
            assert {53, 5353} <= ports
        worker = pod(found, "comment-worker")
        if not given:
            address = expanded(worker, {"host": "queue", "username": "u", "password": "p"})["CELERY_BROKER_URL"]
            assert address == f"amqp{'s' * tls}://u:p@queue:{port}//"


def egress(found: list[dict[str, Any]]) -> dict[str, set[Any]]:
    """Of each NetworkPolicy the ports that its pods reach."""
    policies = [one for one in found if one["kind"] == "NetworkPolicy"]
    return {
        one["metadata"]["name"]: {port["port"] for rule in one["spec"]["egress"] for port in rule["ports"]}
        for one in policies
    }


def pod(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The pod's spec of a Deployment."""
    (template,) = [one["spec"]["template"] for one in found
                   if (one["kind"], one["metadata"]["name"]) == ("Deployment", name)]  # fmt: skip
    spec: dict[str, Any] = template["spec"]
    return spec
