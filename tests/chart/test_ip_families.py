"""Clusters of IPv6 alone and of both families: what Services ask for, pods listen on, and policies let through."""

from pathlib import Path
from typing import Any

import pytest
from tests.chart.conftest import environment, helms
from tests.chart.test_operators import objects, pods


@pytest.mark.parametrize("program", helms())
@pytest.mark.parametrize(
    ("network", "listen", "service"),
    [
        ({}, "0.0.0.0", {}),  # noqa: S104 - what the pods are told
        ({"ipFamilies": ["IPv6"]}, "::", {"ipFamilies": ["IPv6"]}),
        ({"ipFamilyPolicy": "PreferDualStack"}, "::", {"ipFamilyPolicy": "PreferDualStack"}),
        ({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}, "::",
         {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
        ({"ipFamilies": ["IPv4"]}, "0.0.0.0", {"ipFamilies": ["IPv4"]}),  # noqa: S104
        ({"listenAddress": "::"}, "::", {}),
    ],
)  # fmt: skip
def test_the_ip_families_reach_every_service_and_what_the_pods_listen_on(
    program: str, network: dict[str, Any], listen: str, service: dict[str, Any], tmp_path: Path
) -> None:
    found = objects(tmp_path, {"network": network}, program=program)
    services = [one["spec"] for one in found if one["kind"] == "Service"]
    assert len(services) == 6
    for spec in services:
        assert {name: spec[name] for name in ("ipFamilies", "ipFamilyPolicy") if name in spec} == service
    serving = {app: spec["containers"][0]["args"] for app, _, spec in pods(found)
               if app in {"orchestrator", "comment-worker"}}  # fmt: skip
    assert {args[args.index("--host") + 1] for args in serving.values()} == {listen}
    (exporter,) = [environment(spec) for app, _, spec in pods(found) if app == "celery-exporter"]
    # Its server takes `::` for IPv6 alone; unasked it listens on IPv4.
    assert exporter.get("CE_HOST", {}).get("value") == ("*" if listen == "::" else None)


def test_the_platforms_are_reached_by_ipv6_and_private_networks_are_not(tmp_path: Path) -> None:
    values = {"orchestrator": {"commentMonitoring": {"networkPolicy": {"enabled": True}}}}
    (policy,) = [one for one in objects(tmp_path, values)
                 if (one["kind"], one["metadata"]["name"]) == ("NetworkPolicy", "comment-worker")]  # fmt: skip
    blocks = {peer["ipBlock"]["cidr"]: peer["ipBlock"]["except"] for rule in policy["spec"]["egress"]
              for peer in rule["to"] if "except" in peer.get("ipBlock", {})}  # fmt: skip
    assert set(blocks) == {"0.0.0.0/0", "::/0"}
    # Private addresses, those of the link (a cloud's metadata among them), and IPv4 behind a translator.
    assert set(blocks["::/0"]) == {"fc00::/7", "fe80::/10", "64:ff9b::/96"}
