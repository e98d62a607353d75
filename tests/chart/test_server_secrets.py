"""Server addresses built from the Secrets of other operators: CloudNativePG's and RabbitMQ's."""

from typing import Any, Final

from tests.chart.conftest import CHART, documents, environment, helm, values_file

from comment_monitor.core.dsn import Host, read_dsn

CNPG: Final = {"host": "host", "port": "port", "username": "username", "password": "password", "database": "dbname"}
OPERATOR: Final = {"host": "host", "port": "port", "username": "username", "password": "password"}


def expanded(pod: dict[str, Any], secret: dict[str, str]) -> dict[str, str]:
    """The variables as the kubelet sets them: `$(NAME)` is replaced if NAME is defined before it."""
    found: dict[str, str] = {}
    for name, variable in environment(pod).items():
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        value = secret.get(reference["key"], "") if reference else variable.get("value", "")
        for earlier, text in found.items():
            value = value.replace(f"$({earlier})", text)
        found[name] = value
    return found


def objects_with_secrets(**more: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects with servers of both operators."""
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
    result = helm("template", "x", str(CHART), "--values", values_file(servers))
    assert result.returncode == 0, result.stderr
    return documents(result.stdout)


def test_the_address_is_built_from_a_cloudnative_pg_secret() -> None:
    """The password is in PGPASSWORD, which asyncpg and libpq read: it would need quoting in an address."""
    password = "p@ss/w:rd?%20#'\" $(X)"  # noqa: S105 - used nowhere
    secret = {"host": "db.pg.svc", "port": "5433", "username": "parts", "password": password, "dbname": "comments"}
    verified = "sslmode=verify-full&sslrootcert=system"
    for more, address in (
        ({}, "postgresql://parts@db.pg.svc:5433/comments"),
        ({"parameters": verified}, f"postgresql://parts@db.pg.svc:5433/comments?{verified}"),
    ):
        found = objects_with_secrets(postgres=more)
        (job,) = [resource["spec"]["template"]["spec"] for resource in found if resource["kind"] == "Job"]
        variables = expanded(job, secret)
        assert (variables["POSTGRES_DSN"], variables["PGPASSWORD"]) == (address, password)
    read = read_dsn("postgresql://parts@db.pg.svc:5433/comments", {"PGPASSWORD": password})
    assert (read.user, read.password, read.database) == ("parts", password, "comments")
    assert read.hosts == [Host("db.pg.svc", 5433)]


def test_the_address_is_built_from_a_rabbitmq_operator_secret() -> None:
    secret = {"host": "queue.rabbit.svc", "port": "5671", "username": "default_user_x", "password": "aB3_-x"}
    for more, wanted in (
        ({}, "amqp://default_user_x:aB3_-x@queue.rabbit.svc:5671//"),
        ({"vhost": "comments", "tls": True}, "amqps://default_user_x:aB3_-x@queue.rabbit.svc:5671/comments"),
    ):
        found = objects_with_secrets(rabbitmq=more)
        deployments = {resource["metadata"]["name"]: resource["spec"]["template"]["spec"] for resource in found
                       if resource["kind"] == "Deployment"}  # fmt: skip
        assert expanded(deployments["comment-worker"], secret)["CELERY_BROKER_URL"] == wanted
        assert expanded(deployments["celery-exporter"], secret)["CE_BROKER_URL"] == wanted
        # KEDA reads the address from the workers' environment, because no Secret contains it.
        (scaled,) = [resource for resource in found if resource["kind"] == "ScaledObject"]
        (trigger,) = scaled["spec"]["triggers"]
        assert trigger["metadata"]["hostFromEnv"] == "CELERY_BROKER_URL"
        assert "authenticationRef" not in trigger
        assert not [resource for resource in found if resource["kind"] == "TriggerAuthentication"]


def test_the_policies_allow_the_port_of_the_broker() -> None:
    """With and without TLS, with a Secret that has no port, and for every pod that connects to the broker."""
    policy: dict[str, Any] = {"enabled": True}
    parts = {key: key for key in ("host", "username", "password")}
    for tls, configured, port in ((False, None, 5672), (True, None, 5671), (True, 5700, 5700)):
        policy["rabbitmq"] = {"port": configured}
        more: dict[str, Any] = {"orchestrator": {"commentMonitoring": {"networkPolicy": policy}},
                "rabbitmq": {"tls": tls, "existingSecretKeys": parts}}  # fmt: skip
        found = objects_with_secrets(**more)
        connecting = {"orchestrator", "comment-worker", "celery-exporter"}
        for name, ports in egress(found).items():
            assert (port in ports) == (name in connecting), (name, ports)
            # OpenShift's DNS pods listen on another port than their Service.
            assert {53, 5353} <= ports
        worker = pod(found, "comment-worker")
        if not configured:
            address = expanded(worker, {"host": "queue", "username": "u", "password": "p"})["CELERY_BROKER_URL"]
            assert address == f"amqp{'s' * tls}://u:p@queue:{port}//"


def egress(found: list[dict[str, Any]]) -> dict[str, set[Any]]:
    """The egress ports of each NetworkPolicy."""
    policies = [resource for resource in found if resource["kind"] == "NetworkPolicy"]
    return {
        policy["metadata"]["name"]: {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
        for policy in policies
    }


def pod(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The pod spec of a Deployment."""
    (template,) = [resource["spec"]["template"] for resource in found
                   if (resource["kind"], resource["metadata"]["name"]) == ("Deployment", name)]  # fmt: skip
    spec: dict[str, Any] = template["spec"]
    return spec
