"""JSON in our shape that is not one comment a line: arrays, and objects over several lines."""

import io
import json

import pytest
from tests.support.reading import bad, comments, ids, read

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, Reading, open_comments


@pytest.mark.parametrize("indent", [None, 2])
def test_a_document_is_read_whole_without_a_preset(indent: int | None) -> None:
    rows = [{"id": str(number), "post_id": "p", "author": "a", "text": f"t{number}"} for number in range(3)]
    bare = [{key: value for key, value in row.items() if key != "post_id"} for row in rows]
    for document in (rows, {"post_id": "p", "source": "x", "comments": bare}, [{"post_id": "p", "comments": bare}]):
        assert ids(read(json.dumps(document, indent=indent))) == ["0", "1", "2"]
    assert ids(read(json.dumps(rows[0], indent=indent))) == ["0"]
    (first, *_) = comments(read(json.dumps({"post_id": "p", "source": "X ", "comments": bare}, indent=indent)))
    assert (first.source, first.post_id) == ("x", "p")


def test_what_is_wrong_in_a_document_is_named_with_its_place_and_the_rest_goes_on() -> None:
    raw = '[\n{"id":"1","post_id":"p","text":"a"},\n{"id":2,"post_id":"p","text":"b"},\n7,\n'
    rest = '{"id":"4","post_id":"p","text":" "},\n{"id":"5","post_id":"p","text":"e","metadata":{"a":1}}]'
    items = read(raw + rest)
    assert ids(items) == ["1", "5"]
    assert [(item.line, item.id, item.reason) for item in bad(items)] == [
        (3, None, "[1]: `id` must be a string, not a number (--column id=id takes numbers)"),
        (4, None, "[2]: the line must be an object, not a number"),
        (5, "4", "[3]: `text` is blank"),
    ]


def test_comments_with_another_tools_members_in_their_metadata_are_ours() -> None:
    row = {"id": "1", "post_id": "p", "text": "t", "metadata": {"cid": "a", "votes": "1"}}
    assert ids(read(json.dumps([row]))) == ["1"]


def test_a_post_that_a_document_names_behind_its_comments_is_asked_for() -> None:
    raw = json.dumps({"comments": [{"id": "1", "text": "a"}], "post_id": "p"}, indent=1)
    (item,) = bad(read(raw))
    assert item.reason == "comments[0]: `post_id` is missing; if it follows the comments, name it by --post-id"
    assert ids(read(raw, Reading(post_id="p"))) == ["1"]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ('[{"id":"1","post_id":"p","text":"a"},', "not JSON at line 1"),
        ('[{"id":"1","post_id":"p","text":"a"}\n{', "not JSON at line 2"),
        ('[{"id":"1","post_id":"p","text":"a"}] trailing', "not JSON at line 1"),
        ('{\n"post_id": 5, "comments": [{"id":"1","text":"a"}]}', "post_id` must be a string"),
    ],
)
def test_a_document_that_is_cut_or_broken_is_named_after_what_came_before(raw: str, words: str) -> None:
    items: list[Numbered | BadLine] = []
    with pytest.raises(FileError, match=words):
        items.extend(open_comments(io.BytesIO(raw.encode()), Reading()))
    assert ids(items) == [] if "post_id" in words else ["1"]


def test_a_request_in_one_line_may_be_larger_than_a_line() -> None:
    rows = [{"id": str(number), "text": "x" * 9_000} for number in range(600)]
    assert len(ids(read(json.dumps({"post_id": "p", "comments": rows})))) == 600


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"id": 1}, "`id` must be a string, not a number (--column id=id takes numbers)"),
        ({"timestamp": 1769852400}, "(--column timestamp=timestamp takes numbers)"),
        ({"parent_id": 5}, "(--column parent_id=parent_id takes numbers)"),
        ({"cid": "a", "votes": "1"}, "--preset youtube-comment-downloader"),
    ],
)
def test_a_line_with_numbers_is_rejected_with_what_reads_it(row: dict[str, object], words: str) -> None:
    line = {"id": "1", "post_id": "p", "text": "t"} | row
    if "cid" in row:
        del line["id"]
    (item,) = bad(read(json.dumps(line)))
    assert words in item.reason
