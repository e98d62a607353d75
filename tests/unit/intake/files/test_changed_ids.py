"""Ids that spreadsheets and data frames changed are rejected with advice; similar ids are accepted."""

import json
from typing import Any

import pytest
from tests.support.reading import bad, ids, read
from tests.unit.case_ids import case_id


def line(number: int, **more: Any) -> str:
    record = {"id": str(number), "post_id": "p", "text": "é", "author": "a", **more}
    return json.dumps(record, ensure_ascii=False) + "\n"


MANGLED = [
    "1.79414E+17", "1,79414E+17", "1E+17", "1.79414e17", '="179414000000000001"', "#NAME?", "########",
    "179414000000000.0", "17941,00", "179,414,000,000,000,000", "179.414.000.000.000.000", "179 414 000 000 000 000",
    "179\u202f414\u202f000\u202f000\u202f000\u202f000",
]  # fmt: skip
QUOTED = ["'179414000000000001", '"179414000000000001"', "\u2019179414000000000001", "`17"]


@pytest.mark.parametrize("value", MANGLED, ids=case_id)
@pytest.mark.parametrize("field", ["id", "parent_id", "post_id", "author_id"])
def test_ids_changed_by_a_spreadsheet_are_rejected_with_advice(field: str, value: str) -> None:
    record = {"id": "1", "post_id": "p", "text": "t", field: value}
    quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in record.values())
    for raw in (json.dumps(record), ",".join(record) + "\n" + quoted):
        (item,) = bad(read(raw))
        assert item.reason.startswith(f"`{field}` ")
        assert "format the column as text" in item.reason


def test_a_short_parent_id_from_a_column_of_floats_is_rejected() -> None:
    items = read("id,post_id,text,parent_id\n7,p,t,\n8,p,t,7.0\n")
    assert (ids(items), bad(items)[0].reason[:11]) == (["7"], "`parent_id`")


@pytest.mark.parametrize("value", QUOTED, ids=case_id)
@pytest.mark.parametrize("field", ["id", "parent_id"])
def test_ids_with_quotes_of_a_spreadsheet_are_rejected_with_advice(field: str, value: str) -> None:
    (item,) = bad(read(json.dumps({"id": "1", "post_id": "p", "text": "t", field: value})))
    assert item.reason == f"`{field}` has quotes within it ({value}): export the file again without them"


@pytest.mark.parametrize(
    "value",
    [
        "1E17",
        "12e5",
        "a+b",
        "1+1",
        "E+17",
        "x=1",
        "#1",
        "1.5",
        "2e",
        "at://did:plc:x/3k",
        "1.2.3E+4x",
        "1.0",
        "1234.0",
        "'a",
        "'70s",
        "192.168.100.200",
        "12345.1",
        "1,234",
    ],
    ids=case_id,
)
def test_ids_that_only_resemble_changed_ids_are_accepted(value: str) -> None:
    assert ids(read(line(1, id=value))) == [value]
