"""CSV as databases, documents and joined files have it: drawn tables, words for nothing, further headers."""

import io

import pytest
from tests.support.reading import bad, comments, ids, read

from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, Reading, open_comments

HEADER = "id,author,post_id,text\n"
ROWS = f"{HEADER}1,ana,p,x\n2,ben,p,y\n"


def test_blanks_and_quotes_behind_commas_are_of_the_table_and_not_of_the_text() -> None:
    items = read('"id", "post_id", "text"\n"1", "p", "hello, all"\n"2", "p", "line one\nline two"\n')
    assert [(one.id, one.post_id, one.text) for one in comments(items)] == [
        ("1", "p", "hello, all"), ("2", "p", "line one\nline two"),
    ]  # fmt: skip
    (one,) = comments(read("id ,author, post_id,text\n 1 , ana,p , kept as it came \n"))
    assert (one.id, one.author, one.post_id, one.text) == ("1", "ana", "p", " kept as it came ")


def test_a_joined_file_without_blanks_behind_its_commas_keeps_those_of_its_texts() -> None:
    items = read("id, post_id, text\n1, p, one\nid,post_id,text\n2,p, two\n")
    assert [one.text for one in comments(items)] == ["one", " two"]
    items = read("id, post_id, text\n1, p, one\nid, post_id, text\n2, p, two\n")
    assert [one.text for one in comments(items)] == ["one", "two"]


def test_a_drawn_table_is_read_without_its_ruler() -> None:
    items = read("| id | post_id | text |\n|---|:---|---|\n| 1 | p | hello |\n")
    assert (ids(items), [item.reason for item in bad(items)]) == (["1"], ["a line of a drawn table, not a comment"])


def test_what_a_database_writes_for_nothing_is_nothing() -> None:
    rows = "id,post_id,text,author,parent_id\n1,p,t,\\N,NULL\n2,p,t,Null,NaN\n"
    first, second = comments(read(rows))
    assert (first.author, first.parent_id) == (None, None)
    assert (second.author, second.parent_id) == ("Null", None)


@pytest.mark.parametrize("second", ["id,post_id,author,body", "id,text,text", "ID,author,post_id,words"])
def test_the_header_of_a_joined_file_with_other_columns_ends_the_reading(second: str) -> None:
    items: list[Numbered | BadLine] = []
    with pytest.raises(FileError, match="another file begins at line 3"):
        items.extend(open_comments(io.BytesIO(f"{HEADER}1,a,p,x\n{second}\n2,p,b,y\n".encode()), Reading()))


def test_a_column_that_the_user_names_has_to_be_there() -> None:
    with pytest.raises(FileError, match="no column usr"):
        read(ROWS, Reading(columns={"author": "usr"}))
