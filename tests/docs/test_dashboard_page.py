"""docs/dashboard.md against the dashboard: its groups, panels and commands."""

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest
from tests.conftest import project_root
from tests.support import dashboard

PAGE: Final = (project_root() / "docs" / "dashboard.md").read_text()
GROUPS: Final = dashboard.groups(dashboard.load())


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_of_panels_has_a_section(group: str) -> None:
    assert f"### {group}\n" in PAGE


def test_what_it_names_is_a_panel() -> None:
    titles = {panel["title"] for panels in GROUPS.values() for panel in panels}
    names = {one.rstrip(".") for one in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", PAGE)}
    # Of Grafana's own pages and choices, a short form, and legends.
    others = {"Dashboards", "New", "Import", "Namespace", "Pod", "Broker's namespace", "Query time", "ready"}
    assert names - titles == others


def test_the_runbooks_address_can_be_put_in_as_the_page_says(tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\n(sed .*?)```", PAGE, re.DOTALL)
    (tmp_path / "chart").symlink_to(project_root() / "chart")
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    changed = json.loads((tmp_path / "comment-monitoring.json").read_text())
    (runbooks,) = [one for one in changed["templating"]["list"] if one["name"] == "runbooks"]
    assert runbooks["query"] == "https://git.example.org/comment-monitor/docs/runbooks"
