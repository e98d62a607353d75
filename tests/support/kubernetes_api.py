"""A read-only Kubernetes API: it answers the requests of Helm and kubectl from given objects and logs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

# Group and version: the kinds that the chart creates or looks up, by their plural names.
KINDS: Final = {
    "v1": {"endpoints": "Endpoints", "pods": "Pod", "services": "Service", "configmaps": "ConfigMap",
           "secrets": "Secret", "events": "Event", "serviceaccounts": "ServiceAccount"},
    "apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"},
    "batch/v1": {"jobs": "Job", "cronjobs": "CronJob"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy", "ingresses": "Ingress"},
    "keda.sh/v1alpha1": {"scaledobjects": "ScaledObject", "triggerauthentications": "TriggerAuthentication"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {"roles": "Role", "rolebindings": "RoleBinding"},
}  # fmt: skip


def _discovery(path: str) -> dict[str, Any] | None:
    if path == "/version":
        return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = [version.split("/") for version in KINDS if "/" in version]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*group) for group in groups]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version in KINDS:
        resources = [
            {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
            for name, kind in KINDS[version].items()
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    return None


def _group(name: str, version: str) -> dict[str, Any]:
    both = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [both], "preferredVersion": both}


class _Handler(BaseHTTPRequestHandler):
    objects: dict[tuple[str, str], dict[str, Any]]
    logs: dict[str, str]

    def do_GET(self) -> None:
        """Answers discovery, an object, a list of a kind, or the log of a pod."""
        path = self.path.partition("?")[0]
        if path.endswith("/log"):
            self._answer(200, self.logs.get(path.split("/")[-2], "").encode(), "text/plain")
            return
        found = _discovery(path) or self._object(path)
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                   "message": f"{path.rpartition('/')[2]} not found"}  # fmt: skip
        self._answer(200 if found else 404, json.dumps(found or missing).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _object(self, path: str) -> dict[str, Any] | None:
        kinds = {plural: kind for version in KINDS.values() for plural, kind in version.items()}
        *start, last = path.split("/")
        if start and start[-1] in kinds:
            return self.objects.get((kinds[start[-1]], last))
        if last not in kinds:
            return None
        items = [item for (kind, _), item in self.objects.items() if kind == kinds[last]]
        return {"kind": f"{kinds[last]}List", "apiVersion": "v1", "metadata": {}, "items": items}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in the library
        """Logs nothing."""


@contextmanager
def kubernetes(folder: Path, *objects: dict[str, Any], logs: dict[str, str] | None = None) -> Iterator[Path]:
    """Yields the kubeconfig of an API on loopback with these objects.

    Args:
        folder: where the kubeconfig is written.
        objects: the objects of every namespace.
        logs: the log of each pod.
    """
    by_name = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (_Handler,), {"objects": by_name, "logs": logs or {}})
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
        "current-context": "x",
    }
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    try:
        yield file
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
