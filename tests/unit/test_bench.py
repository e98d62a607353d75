"""What the benchmark does with what it measured. The measuring itself is no test: it is `make bench`."""

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


def test_a_row_is_held_against_the_median_of_its_ratios() -> None:
    assert SLOW.value == 0.45
    assert not SLOW.holds
    assert QUICK.value == 5
    assert QUICK.holds
    assert [line[5] for line in table([SLOW, QUICK])] == ["BELOW", "holds"]


def test_check_ends_with_1_where_a_row_is_below_its_floor(capsys: pytest.CaptureFixture[str]) -> None:
    end([QUICK], check=True)
    end([SLOW], check=False)
    with pytest.raises(SystemExit) as ended:
        end([SLOW, QUICK], check=True)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Does not hold: slow\n" * 2


def test_a_script_that_runs_alone_renews_its_part_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    drawn = {path.name for path in page.IMAGES.iterdir()}
    assert drawn == {"floors.svg", "processors.svg", "profile.svg"}
    for picture in page.IMAGES.iterdir():
        ET.parse(picture)  # noqa: S314 - our own picture
        assert f"images/{picture.name}" in text


# One process for all: what they import takes longer than anything else.
DESCRIBES = """
import contextlib, io, json, runpy, sys
said = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
    said[name] = out.getvalue()
print(json.dumps(said))
"""


def test_every_script_says_what_it_stands_for() -> None:
    scripts = sorted(path.stem for path in (project_root() / "bench").glob("*.py") if not path.stem.startswith("__"))
    names = ["bench", *(f"bench.{name}" for name in scripts)]
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", DESCRIBES, *names]
    said = json.loads(subprocess.run(command, cwd=project_root(), capture_output=True, text=True, check=True).stdout)
    for name in scripts:
        # Two only reckon with what the others measured, and one makes pictures.
        assert name in said["bench"] or name in ("scaling", "sizing", "dashboard")
        assert len(said[f"bench.{name}"].splitlines()) > 5
