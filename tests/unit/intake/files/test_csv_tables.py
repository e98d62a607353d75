"""CSV from databases, documents and joined files: Markdown tables, null markers and further headers."""

import io

import pytest
from tests.support.reading import bad, comments, ids, read

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, Reading, open_comments

HEADER = "id,author,post_id,text\n"
ROWS = f"{HEADER}1,ana,p,x\n2,ben,p,y\n"


def test_blanks_after_commas_belong_to_the_table_if_every_comma_has_them() -> None:
    items = read('"id", "post_id", "text"\n"1", "p", "hello, all"\n"2", "p", "line one\nline two"\n')
    assert [(comment.id, comment.post_id, comment.text) for comment in comments(items)] == [
        ("1", "p", "hello, all"), ("2", "p", "line one\nline two"),
    ]  # fmt: skip
    (comment,) = comments(read("id ,author, post_id,text\n 1 , ana,p , kept as it came \n"))
    assert (comment.id, comment.author, comment.post_id, comment.text) == ("1", "ana", "p", " kept as it came ")


def test_a_joined_file_without_blanks_after_commas_keeps_blanks_of_texts() -> None:
    items = read("id, post_id, text\n1, p, one\nid,post_id,text\n2,p, two\n")
    assert [comment.text for comment in comments(items)] == ["one", " two"]
    items = read("id, post_id, text\n1, p, one\nid, post_id, text\n2, p, two\n")
    assert [comment.text for comment in comments(items)] == ["one", "two"]


def test_a_markdown_table_is_read_without_its_separator_line() -> None:
    items = read("| id | post_id | text |\n|---|:---|---|\n| 1 | p | hello |\n")
    assert (ids(items), [item.reason for item in bad(items)]) == (["1"], ["a line of a drawn table, not a comment"])


def test_null_markers_of_databases_are_missing_values() -> None:
    rows = "id,post_id,text,author,parent_id\n1,p,t,\\N,NULL\n2,p,t,Null,NaN\n"
    first, second = comments(read(rows))
    assert (first.author, first.parent_id) == (None, None)
    assert (second.author, second.parent_id) == ("Null", None)


@pytest.mark.parametrize("second", ["id,post_id,author,body", "id,text,text", "ID,author,post_id,words"])
def test_a_joined_header_with_other_columns_ends_the_reading(second: str) -> None:
    items: list[Numbered | BadLine] = []
    with pytest.raises(FileError, match="another file begins at line 3"):
        items.extend(open_comments(io.BytesIO(f"{HEADER}1,a,p,x\n{second}\n2,p,b,y\n".encode()), Reading()))


def test_a_column_named_by_the_user_must_exist() -> None:
    with pytest.raises(FileError, match="no column usr"):
        read(ROWS, Reading(columns={"author": "usr"}))
