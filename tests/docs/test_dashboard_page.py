"""docs/dashboard.md against the dashboard: its groups, panels, pictures and commands."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tests.conftest import project_root
from tests.support import dashboard

PAGE: Final = (project_root() / "docs" / "dashboard.md").read_text()
GROUPS: Final = dashboard.groups(dashboard.load())
LARGEST: Final = 150_000


def picture(group: str) -> Path:
    return project_root() / "docs" / "images" / f"dashboard-{group.split(maxsplit=1)[0].lower()}.svg"


@pytest.mark.parametrize(("group", "panels"), GROUPS.items(), ids=GROUPS)
def test_each_group_has_its_words_and_a_picture_of_its_panels(group: str, panels: list[dict[str, Any]]) -> None:
    part = PAGE.partition(f"### {group}\n")[2].partition("\n##")[0]
    assert f"](images/{picture(group).name})" in part
    assert picture(group).stat().st_size < LARGEST
    # Titles that are long may be broken.
    shown = " ".join(html.unescape(one) for one in re.findall(r">([^<]+)</text>", picture(group).read_text()))
    for panel in panels:
        assert panel["title"] in shown, "draw it again: python -m bench.dashboard"


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


def test_the_command_that_draws_the_pictures_is_there() -> None:
    pytest.importorskip("matplotlib", reason="the pictures need it")
    assert ".venv/bin/python -m bench.dashboard\n" in PAGE
    done = subprocess.run(
        [sys.executable, "-m", "bench.dashboard", "--help"],
        capture_output=True, text=True, check=False, cwd=project_root(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
