"""docs/architecture.md against the source tree."""

import re
from typing import Final

import pytest
from tests.conftest import project_root

PACKAGE: Final = project_root() / "src" / "comment_monitor"
PAGE: Final = (project_root() / "docs" / "architecture.md").read_text()
DIAGRAM: Final = PAGE.partition("```mermaid")[2].partition("```")[0]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"[a-z_/]+\.py|[a-z_]+/[a-z_]+/(?=[\]<])", DIAGRAM))))
def test_the_data_flow_diagram_names_existing_files(name: str) -> None:
    assert (PACKAGE / name).exists()


def test_the_table_of_folders_names_every_package_and_module() -> None:
    table = PAGE.partition("## Where things are")[2]
    for entry in PACKAGE.iterdir():
        if entry.name not in {"__init__.py", "__main__.py", "__pycache__"} and entry.suffix != ".typed":
            name = f"`{entry.name}/`" if entry.is_dir() else f"`{entry.name}`"
            assert name in table
