"""What docs/deployment.md tells to type: values that the chart takes, files that are there, options that exist."""

import re
import shlex
from typing import Final

import pytest
from tests.chart.conftest import CHART, helm, tool
from tests.conftest import project_root

PAGE: Final = (project_root() / "docs" / "deployment.md").read_text()
FOUND: Final = re.findall(r"^ *```bash\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS: Final = [one.replace("\\\n", " ") for one in FOUND]
LINES: Final = [line.strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
OURS: Final = [line for line in LINES if line.startswith("helm") and "./chart" in line and "--install prom" not in line]


def test_the_page_has_commands() -> None:
    assert len(OURS) >= 4


@pytest.mark.parametrize("line", [line for line in OURS if "prometheus-adapter" not in line])
def test_the_chart_renders_with_what_is_typed(line: str) -> None:
    """As far as it can be without a cluster: the same values, rendered."""
    words = shlex.split(line)
    options = {"--values", "--set"}
    values = [word for at, word in enumerate(words) if word in options or words[at - 1] in options]
    done = helm("template", "threads-agent", *(str(CHART) if one == "./chart" else one for one in ["./chart", *values]))
    assert done.returncode == 0, done.stderr


def test_every_value_set_in_the_text_is_one_of_the_chart() -> None:
    for pair in re.findall(r"--set ([\w.]+=[\w.-]+)", PAGE):
        done = helm("template", "x", str(CHART), "--values", str(CHART / "values-prod.yaml"), "--set", pair)
        assert done.returncode == 0, (pair, done.stderr)


def test_every_file_named_is_there() -> None:
    for line in LINES:
        for word in shlex.split(line, comments=True) if line.count("'") % 2 == 0 and line.count('"') % 2 == 0 else []:
            if word.startswith(("./", "scripts/", "chart/")):
                assert (project_root() / word).exists(), word
    for target in re.findall(r"\]\((?!http)([^)#]+)", PAGE):
        assert (project_root() / "docs" / target).exists(), target


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("kubectl")])
def test_kubectl_knows_the_command_and_its_options(line: str) -> None:
    """Asked for its help, it says so, or that it does not."""
    words = shlex.split(line.partition("|")[0].partition(" -- ")[0]) if line.count('"') % 2 == 0 else line.split()[:5]
    command = [words[1], *([words[2]] if words[1] in {"set", "top"} else words[2:4] if words[1] == "create" else [])]
    done = helm(*command, "--help", program="kubectl")
    assert done.returncode == 0
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        assert f"{option}=" in done.stdout or f"{option} " in done.stdout, option
    assert tool("kubectl")
