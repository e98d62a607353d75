"""docs/dashboard.md names the groups and panels of the dashboard, and its command works."""

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


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.replace(" ", "-"))
def test_every_group_of_panels_has_a_section(group: str) -> None:
    assert f"### {group}\n" in PAGE


def test_every_panel_named_on_the_page_exists() -> None:
    titles = {panel["title"] for panels in GROUPS.values() for panel in panels}
    names = {name.rstrip(".") for name in re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", PAGE)}
    # Grafana's own pages and menus, a short form, and legends.
    others = {"Dashboards", "New", "Import", "Namespace", "Pod", "Broker's namespace", "Query time", "ready"}
    assert names - titles == others


def test_the_command_of_the_page_replaces_the_runbooks_address(tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\n(sed .*?)```", PAGE, re.DOTALL)
    (tmp_path / "chart").symlink_to(project_root() / "chart")
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    changed = json.loads((tmp_path / "comment-monitoring.json").read_text())
    (runbooks,) = [variable for variable in changed["templating"]["list"] if variable["name"] == "runbooks"]
    assert runbooks["query"] == "https://git.example.org/comment-monitor/docs/runbooks"
