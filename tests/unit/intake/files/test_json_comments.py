"""JSON in this program's format other than one comment a line: arrays, and objects over several lines."""

import io
import json

import pytest
from tests.support.reading import bad, comments, ids, read
from tests.unit.case_ids import case_id

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, Reading, open_comments


@pytest.mark.parametrize("indent", [None, 2])
def test_documents_of_this_programs_format_need_no_preset(indent: int | None) -> None:
    rows = [{"id": str(number), "post_id": "p", "author": "a", "text": f"t{number}"} for number in range(3)]
    bare = [{key: value for key, value in row.items() if key != "post_id"} for row in rows]
    for document in (rows, {"post_id": "p", "source": "x", "comments": bare}, [{"post_id": "p", "comments": bare}]):
        assert ids(read(json.dumps(document, indent=indent))) == ["0", "1", "2"]
    assert ids(read(json.dumps(rows[0], indent=indent))) == ["0"]
    (first, *_) = comments(read(json.dumps({"post_id": "p", "source": "X ", "comments": bare}, indent=indent)))
    assert (first.source, first.post_id) == ("x", "p")


def test_faults_in_a_document_are_reported_with_their_place() -> None:
    raw = '[\n{"id":"1","post_id":"p","text":"a"},\n{"id":2,"post_id":"p","text":"b"},\n7,\n'
    rest = '{"id":"4","post_id":"p","text":" "},\n{"id":"5","post_id":"p","text":"e","metadata":{"a":1}}]'
    items = read(raw + rest)
    assert ids(items) == ["1", "5"]
    assert [(item.line, item.id, item.reason) for item in bad(items)] == [
        (3, None, "[1]: `id` must be a string, not a number (--column id=id takes numbers)"),
        (4, None, "[2]: the line must be an object, not a number"),
        (5, "4", "[3]: `text` is blank"),
    ]


def test_members_of_another_tool_within_metadata_do_not_matter() -> None:
    row = {"id": "1", "post_id": "p", "text": "t", "metadata": {"cid": "a", "votes": "1"}}
    assert ids(read(json.dumps([row]))) == ["1"]


def test_a_post_after_the_comments_of_a_document_must_be_given_as_an_option() -> None:
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
    ids=case_id,
)
def test_a_damaged_document_is_reported_after_its_earlier_comments(raw: str, words: str) -> None:
    items: list[Numbered | BadLine] = []
    with pytest.raises(FileError, match=words):
        items.extend(open_comments(io.BytesIO(raw.encode()), Reading()))
    assert ids(items) == [] if "post_id" in words else ["1"]


def test_a_request_in_one_line_may_exceed_the_size_limit_of_lines() -> None:
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
    ids=case_id,
)
def test_a_line_of_another_format_is_rejected_with_the_option_that_reads_it(row: dict[str, object], words: str) -> None:
    line = {"id": "1", "post_id": "p", "text": "t"} | row
    if "cid" in row:
        del line["id"]
    (item,) = bad(read(json.dumps(line)))
    assert words in item.reason
