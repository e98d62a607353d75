"""Requests with the comments of a file: grouped by post, repeated on request, with unusable lines reported."""

import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from comment_monitor.loadtest.replay import MAX_OPEN, Skipped, from_file


def comment(id_: int, post: str = "p", **more: Any) -> dict[str, Any]:
    return {"id": str(id_), "post_id": post, "text": "t", "author": "a", **more}


def write(path: Path, *lines: object) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def bodies(
    path: Path, *, batch: int = 2, total: int | None = None, repeat: bool = False
) -> tuple[list[dict[str, Any]], Skipped]:
    skipped = Skipped()
    loads = from_file(path, batch=batch, total=total, repeat=repeat, skipped=skipped)
    return [json.loads(load.body) for load in loads], skipped


@pytest.mark.parametrize("name", ["comments.jsonl", "comments.jsonl.gz"])
def test_comments_are_grouped_by_source_and_post(tmp_path: Path, name: str) -> None:
    """A line without a source belongs to the default source."""
    path = write(
        tmp_path / name, comment(1), comment(2, "q"), comment(3), comment(4, source="other"), comment(5, source=None)
    )

    requests, _ = bodies(path)

    assert [
        (request["source"], request["post_id"], [c["id"] for c in request["comments"]]) for request in requests
    ] == [
        ("threads", "p", ["1", "3"]),
        ("threads", "q", ["2"]),
        ("other", "p", ["4"]),
        ("threads", "p", ["5"]),
    ]


def test_a_comment_is_sent_unchanged(tmp_path: Path) -> None:
    """Invalid fields too: the service validates comments."""
    path = write(tmp_path / "f", comment(1, metadata={"likes": 3}, parent_id="0", text=7))

    (request,), _ = bodies(path)

    assert request["comments"] == [{"id": "1", "text": 7, "author": "a", "metadata": {"likes": 3}, "parent_id": "0"}]


def test_repeat_starts_the_file_again(tmp_path: Path) -> None:
    """Without `repeat` the file is sent once, even if the total is larger."""
    path = write(tmp_path / "f", comment(1), comment(2), comment(3))

    assert sum(len(request["comments"]) for request in bodies(path, total=10, repeat=True)[0]) == 10
    assert sum(len(request["comments"]) for request in bodies(path, total=10)[0]) == 3


def test_unusable_lines_are_counted_and_the_first_is_reported(tmp_path: Path) -> None:
    """A line that is not JSON, is no object or has no valid post does not affect the others."""
    path = write(tmp_path / "f", comment(1), "", "nope", "[1]", {"id": "2"}, comment(3, post_id=4), comment(5))

    (request,), skipped = bodies(path)

    assert [comment["id"] for comment in request["comments"]] == ["1", "5"]
    assert skipped.count == 4
    assert skipped.first.startswith("line 3: ")


def test_a_truncated_file_is_sent_up_to_the_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "f.gz", *map(comment, range(5000)))
    path.write_bytes(path.read_bytes()[:-2000])

    requests, skipped = bodies(path, batch=25)

    assert 0 < sum(len(request["comments"]) for request in requests) < 5000
    assert skipped.count == 1
    assert "cut short" in skipped.first


def test_a_file_without_comments_ends_even_with_repeat(tmp_path: Path) -> None:
    requests, skipped = bodies(write(tmp_path / "f", "nope"), repeat=True)

    assert not requests
    assert skipped.count == 1


def test_the_number_of_unfilled_requests_is_bounded(tmp_path: Path) -> None:
    """Otherwise a file with a new post in every line would fill the memory."""
    path = write(tmp_path / "f", *(comment(at, f"post {at}") for at in range(MAX_OPEN + 10)))
    loads = from_file(path, batch=25, total=None, repeat=True, skipped=Skipped())

    assert [load.size for load in itertools.islice(loads, 10)] == [1] * 10
