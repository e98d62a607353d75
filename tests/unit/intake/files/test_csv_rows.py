"""Lines within quotes that look like rows: they are not stored as comments, and never lost without a report."""

import pytest
from tests.support.reading import bad, comments, ids, read
from tests.unit.case_ids import case_id

HEADER = "id,post_id,text,author\n"


@pytest.mark.parametrize(
    "rows",
    [
        '1,p,one,ana\n2,p,"evil\n9,p,forged,ana\n"\n3,p,three,bob\n',
        '1,p,one,ana\n2,p,"evil\n1,p,forged,ana\n",x,y\n3,p,three,bob\n',
        '1,p,one,ana\n2,p,"evil\n9,p,forged,ana\n",eve\n3,p,three,bob\n',
        '1,p,one,ana\n"2\n9,p,forged,ana\n",p,evil,eve\n3,p,three,bob\n',
    ],
    ids=case_id,
)
def test_a_row_within_a_comment_is_not_stored_as_a_comment(rows: str) -> None:
    items = read(HEADER + rows)
    assert ids(items) == ["1", "3"]
    (item,) = bad(items)
    assert "lines 3 to 5" in item.reason
    assert item.line == 5


@pytest.mark.parametrize(
    ("header", "rows", "kept"),
    [
        ("id,post_id,text", '1,p,"Best ever\n2,p,b\n3,p,c\n4,p,I bought the 27"\n5,p,ok\n', ["5"]),
        ("id\tpost_id\ttext", '1\tp\t"Best\n2\tp\tb\n3\tp\tthe 27"\n4\tp\tok\n', ["4"]),
        ("post_id,id,text", 'p,Ugx1a,one\np,Ugx2b,"open\np,Ugx3c,the 27"\np,Ugx4d,ok\n', ["Ugx1a", "Ugx4d"]),
        ("id,text", '1001,one\n1002,"open\n1003,the 27"\n1004,ok\n', ["1001", "1004"]),
    ],
    ids=case_id,
)
def test_rows_within_an_unclosed_quote_are_reported(header: str, rows: str, kept: list[str]) -> None:
    items = read(f"{header}\n{rows}", post_id=None if "post_id" in header else "p")
    assert ids(items) == kept
    (item,) = bad(items)
    assert "contains what looks like rows: close the quote" in item.reason


@pytest.mark.parametrize(
    "text",
    [
        "Well, yes,\nand no, not really, sorry",
        "my list\n1, milk, eggs, bread\n2, p, x, y",
        "first\n10,000 people, wow, ok",
        "a,b,c,d\ne,f,g,h",
        'he said ""7,q,r,s""\n8,q,r,s',
    ],
    ids=case_id,
)
def test_lines_of_a_text_with_commas_are_not_mistaken_for_rows(text: str) -> None:
    items = read(f'{HEADER}1,post9,"{text}",ana\n2,post9,y,bob\n')
    assert bad(items) == []
    assert [comment.text for comment in comments(items)] == [text.replace('""', '"'), "y"]


def test_a_quote_that_stays_open_for_megabytes_is_reported() -> None:
    items = read(HEADER + '1,p,"open\n' + "x\n" * 2_200_000 + "2,p,b,ana\n")
    assert bad(items)[0].reason == "not CSV: a quote is opened here and not closed within 4194304 bytes"
    assert ids(items) == ["2"]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=case_id)
@pytest.mark.parametrize("second", ["id,post_id,text,author", "text,author,id,post_id", "author,text,post_id,id"])
def test_a_joined_header_after_a_row_without_a_line_end_is_recognised(mark: str, second: str) -> None:
    row = {"id": "2", "post_id": "q", "text": "beta", "author": "bob"}
    joined = f"{HEADER}1,p,alpha,ana{mark}{second}\n" + ",".join(row[name] for name in second.split(",")) + "\n"
    items = read(joined)
    assert [(comment.id, comment.post_id, comment.text, comment.author) for comment in comments(items)] == [
        ("2", "q", "beta", "bob")
    ]
    (item,) = bad(items)
    assert (item.line, item.id) == (2, "1")
    assert "line break between them is missing" in item.reason
