"""How the benchmark evaluates and publishes its measurements. `make bench` measures; no test does."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from tests.conftest import project_root

pytest.importorskip("matplotlib", reason="the plots of `make bench` need it")

from bench.harness import page
from bench.harness.claim import MICROSECONDS, SHARE, Row, table
from bench.harness.run import end

SLOW = Row(work="slow", unit="comments/s", ours=[50, 40], beside=[100, 100], beside_what="limit", floor=0.6)
QUICK = Row(work="quick", unit="ms", ours=[3, 9, 5], floor=25, most=True)
PARTS = [
    Row(work="processor time, storing: Redis", unit=MICROSECONDS, ours=[3.0]),
    Row(work="profile, serving: Redis", unit=SHARE, ours=[12.5]),
]


def test_a_row_compares_the_median_of_its_ratios_with_its_floor() -> None:
    assert SLOW.value == 0.45
    assert not SLOW.holds
    assert QUICK.value == 5
    assert QUICK.holds
    assert [line[5] for line in table([SLOW, QUICK])] == ["BELOW", "holds"]


def test_check_exits_with_1_if_a_row_is_below_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    end([QUICK], check=True)
    end([SLOW], check=False)
    with pytest.raises(SystemExit) as exit_:
        end([SLOW, QUICK], check=True)
    assert exit_.value.code == 1
    assert capsys.readouterr().err == "Does not hold: slow\n" * 2


def test_a_single_script_updates_only_its_part_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "DATA", tmp_path / "page.json")
    monkeypatch.setattr(page, "IMAGES", tmp_path / "images")
    page.PAGE.write_text(f"Before.\n{page.BEGIN}\n{page.END}\nBetween.\n{page.TIME_BEGIN}\n{page.TIME_END}\nAfter.\n")
    page.keep("one", [SLOW, *PARTS], "here, commit a")
    page.keep("two", [QUICK], "here, commit a")
    page.keep("gone", [QUICK], "here, commit a")
    for commit, value in (("b", "8 ms"), ("c", "7 ms")):
        page.keep(
            "two", [Row(work="quick", unit="ms", ours=[float(value[0])], floor=25, most=True)], f"commit {commit}"
        )
        page.write(["one", "two"])
    assert list(page.runs()) == ["one", "two"]
    text = page.PAGE.read_text()
    assert text.count("| slow | 45 comments/s | 100 comments/s (limit) | 0.45 | at least 0.60 | BELOW | 2 |") == 1
    assert text.count("| quick | 7 ms |") == 1
    assert "8 ms" not in text
    assert "| processor time, storing: Redis | 3 us a comment |" in text.partition("Between.")[2]
    assert "- `one`: here, commit a." in text
    assert "- `two`: commit c." in text
    assert text.startswith("Before.\n")
    assert text.endswith("\nAfter.\n")
    images = {path.name for path in page.IMAGES.iterdir()}
    assert images == {"floors.svg", "processors.svg", "profile.svg"}
    for image in page.IMAGES.iterdir():
        ET.parse(image)  # noqa: S314 - the benchmark's own image
        assert f"images/{image.name}" in text


# One process runs all scripts, because their imports take most of the time.
PRINT_HELP = """
import contextlib, io, json, runpy, sys
help_texts = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
    help_texts[name] = out.getvalue()
print(json.dumps(help_texts))
"""


def test_every_script_has_help_and_is_listed_by_bench() -> None:
    scripts = sorted(path.stem for path in (project_root() / "bench").glob("*.py") if not path.stem.startswith("__"))
    names = ["bench", *(f"bench.{name}" for name in scripts)]
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", PRINT_HELP, *names]
    help_texts = json.loads(
        subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout
    )
    for name in scripts:
        # These scripts only compute with the measurements of other scripts.
        assert name in help_texts["bench"] or name in ("scaling", "sizing")
        assert len(help_texts[f"bench.{name}"].splitlines()) > 5
