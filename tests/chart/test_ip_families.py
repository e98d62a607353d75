"""IPv6 and dual-stack clusters: the families of Services, the addresses pods listen on, and the policies."""

from typing import Any

import pytest
from tests.chart.conftest import environment
from tests.chart.test_operators import objects, pods


@pytest.mark.parametrize(
    ("network", "listen", "service"),
    [
        ({}, "0.0.0.0", {}),  # noqa: S104 - an address for pods
        ({"ipFamilies": ["IPv6"]}, "::", {"ipFamilies": ["IPv6"]}),
        ({"ipFamilyPolicy": "PreferDualStack"}, "::", {"ipFamilyPolicy": "PreferDualStack"}),
        ({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}, "::",
         {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
        ({"ipFamilies": ["IPv4"]}, "0.0.0.0", {"ipFamilies": ["IPv4"]}),  # noqa: S104
        ({"listenAddress": "::"}, "::", {}),
    ],
    ids=["default", "ipv6", "prefer-dual-stack", "require-dual-stack", "ipv4", "address-only"],
)  # fmt: skip
def test_ip_families_set_every_service_and_the_listening_address(
    network: dict[str, Any], listen: str, service: dict[str, Any]
) -> None:
    found = objects({"network": network})
    services = [resource["spec"] for resource in found if resource["kind"] == "Service"]
    assert len(services) == 6
    for spec in services:
        assert {name: spec[name] for name in ("ipFamilies", "ipFamilyPolicy") if name in spec} == service
    serving = {app: spec["containers"][0]["args"] for app, _, spec in pods(found)
               if app in {"orchestrator", "comment-worker"}}  # fmt: skip
    assert {args[args.index("--host") + 1] for args in serving.values()} == {listen}
    (exporter,) = [environment(spec) for app, _, spec in pods(found) if app == "celery-exporter"]
    # The exporter's server takes `::` as IPv6 only; by default it listens on IPv4.
    assert exporter.get("CE_HOST", {}).get("value") == ("*" if listen == "::" else None)


def test_platforms_are_reached_over_ipv6_without_private_networks() -> None:
    values = {"orchestrator": {"commentMonitoring": {"networkPolicy": {"enabled": True}}}}
    policies = {
        resource["metadata"]["name"]: resource for resource in objects(values) if resource["kind"] == "NetworkPolicy"
    }
    peers = [peer for rule in policies["comment-worker"]["spec"]["egress"] for peer in rule["to"]]
    blocks = {
        peer["ipBlock"]["cidr"]: peer["ipBlock"]["except"] for peer in peers if "except" in peer.get("ipBlock", {})
    }
    assert set(blocks) == {"0.0.0.0/0", "::/0"}
    # Private addresses, link-local addresses (cloud metadata), and IPv4 behind a NAT64 gateway.
    assert set(blocks["::/0"]) == {"fc00::/7", "fe80::/10", "64:ff9b::/96"}
