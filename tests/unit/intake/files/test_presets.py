"""Files of other tools: presets read their formats; without a preset, the error names the required one."""

import io
import json
from typing import Any

import pytest
from tests.unit.case_ids import case_id

from comment_monitor.core.model import Comment
from comment_monitor.intake.comment_decoder import BadCommentError
from comment_monitor.intake.files.formats import BadLine, FileError, Numbered, Reading, open_comments
from comment_monitor.intake.files.presets import count, moment

YOUTUBE = {
    "cid": "Ugx.9a", "text": "t", "time": "1 day ago", "author": "@a", "channel": "UC1", "votes": "1.2K", "replies": "",
    "photo": "https://p", "heart": False, "reply": True, "time_parsed": 1769852400.5,
}  # fmt: skip
YT_DLP = {
    "id": "U1.x", "text": "t", "timestamp": 1769852400, "author": "@a", "author_id": "UC1", "parent": "U1",
    "like_count": 7, "author_url": "https://a", "author_is_uploader": False,
}  # fmt: skip
PUSHSHIFT = {
    "id": "c2", "body": "t", "author": "a", "author_fullname": "t2_x", "link_id": "t3_p1", "parent_id": "t1_c1",
    "created_utc": "1769852400", "edited": 1769852401.0, "score": -3, "permalink": "/r/x/c2/",
}  # fmt: skip
DISQUS = {
    "id": "3", "raw_message": "t", "message": "<p>t</p>", "author": {"name": "a", "id": "1"}, "parent": 2,
    "createdAt": "2026-01-31T09:40:00", "thread": "9", "likes": 4, "url": "https://d/3",
}  # fmt: skip
WORDPRESS = {
    "id": 129, "post": 60, "parent": 124, "author": 4, "author_name": "a", "date": "2026-01-31T11:40:00",
    "date_gmt": "2026-01-31T09:40:00", "content": {"rendered": "<p>t</p>"}, "link": "https://w/#129",
}  # fmt: skip
INFO = {"id": "v1", "title": "T", "formats": [{"url": "]}"}], "extractor_key": "Youtube", "webpage_url": "u"}


def read(raw: str, **how: Any) -> list[Numbered | BadLine]:
    return list(open_comments(io.BytesIO(raw.encode()), Reading(**how)))


def read_single(item: Any, **how: Any) -> Comment:
    (found,) = read(json.dumps(item) + "\n", **how)
    assert isinstance(found, Numbered), found
    return found.comment


def test_preset_youtube_comment_downloader_maps_its_members() -> None:
    comment = read_single(YOUTUBE, preset="youtube-comment-downloader", post_id="v")
    assert (comment.source, comment.post_id, comment.id, comment.parent_id) == ("youtube", "v", "Ugx.9a", "Ugx")
    assert (comment.author, comment.author_id, comment.likes) == ("@a", "UC1", 1200)
    assert comment.timestamp and comment.timestamp.isoformat() == "2026-01-31T09:40:00.500000+00:00"  # noqa: PT018
    assert read_single({**YOUTUBE, "cid": "Ugx"}, preset="youtube-comment-downloader", post_id="v").parent_id is None


@pytest.mark.parametrize("indent", [None, 1])
def test_preset_yt_dlp_reads_documents_of_one_or_several_lines(indent: int | None) -> None:
    document = {
        **INFO,
        "comments": [YT_DLP, {**YT_DLP, "id": "U1", "parent": "root", "like_count": None}, {"id": "U3"}],
    }
    for raw in (json.dumps(document, indent=indent), json.dumps(document, indent=indent) + "\n" + json.dumps(INFO)):
        items = read(raw, preset="yt-dlp")
        found = [item.comment for item in items if isinstance(item, Numbered)]
        assert [(c.source, c.post_id, c.id, c.parent_id, c.likes) for c in found] == [
            ("youtube", "v1", "U1.x", "U1", 7), ("youtube", "v1", "U1", None, None),
        ]  # fmt: skip
        assert next((item.id, item.reason[:11]) for item in items if isinstance(item, BadLine)) == ("U3", "comments[2]")


def test_a_document_of_many_mebibytes_is_read() -> None:
    comments = ",".join(json.dumps({**YT_DLP, "id": f"U{n}", "text": "x" * 2000}) for n in range(9000))
    raw = json.dumps(INFO)[:-1] + ', "comments": [' + comments + "]}"
    assert len(raw) > 16 * 1024 * 1024
    assert sum(isinstance(item, Numbered) for item in read(raw, preset="yt-dlp")) == 9000


def test_a_truncated_document_yields_the_comments_before_the_damage() -> None:
    raw = json.dumps({**INFO, "comments": [YT_DLP, YT_DLP]})
    items = open_comments(io.BytesIO(raw[:-60].encode()), Reading(preset="yt-dlp"))
    assert isinstance(next(items), Numbered)
    with pytest.raises(FileError, match="not JSON at line 1"):
        list(items)


def test_preset_pushshift_maps_its_members() -> None:
    comment = read_single(PUSHSHIFT, preset="pushshift")
    assert (comment.source, comment.post_id, comment.parent_id) == ("reddit", "p1", "c1")
    assert comment.details[0] == "t2_x"
    assert (comment.url, comment.likes) == ("https://www.reddit.com/r/x/c2/", -3)
    assert comment.edited_at is not None
    top = read_single({**PUSHSHIFT, "parent_id": "t3_p1", "edited": False, "author": "[deleted]"}, preset="pushshift")
    assert (top.parent_id, top.edited_at, top.author) == (None, None, None)
    (cell,) = read(
        "id,body,author,link_id,created_utc,edited,score\n1,b,a,t3_x,1500000000,False,5\n", preset="pushshift"
    )
    assert isinstance(cell, Numbered)
    assert (cell.comment.post_id, cell.comment.likes) == ("x", 5)


@pytest.mark.parametrize(
    ("preset", "item"), [("disqus", DISQUS), ("wordpress", WORDPRESS)], ids=["disqus", "wordpress"]
)
def test_times_without_an_offset_are_utc_and_numbers_are_accepted_as_ids(preset: str, item: dict[str, Any]) -> None:
    comment = read_single(item, preset=preset)
    assert comment.timestamp and comment.timestamp.isoformat() == "2026-01-31T09:40:00+00:00"  # noqa: PT018
    assert comment.parent_id == str(item["parent"])
    assert (comment.id, comment.author, comment.author_id) == (str(item["id"]), "a", {"disqus": "1"}.get(preset, "4"))
    none = {"disqus": None, "wordpress": 0}[preset]
    assert read_single({**item, "parent": none}, preset=preset).parent_id is None


def test_arrays_in_responses_of_an_api_are_read() -> None:
    for indent in (None, 2):
        assert len(read(json.dumps([WORDPRESS, WORDPRESS], indent=indent), preset="wordpress")) == 2
        answer = json.dumps({"cursor": {"id": "1"}, "code": 0, "response": [DISQUS, DISQUS]}, indent=indent)
        assert len(read(answer, preset="disqus")) == 2


@pytest.mark.parametrize(
    ("item", "preset"),
    [
        (YOUTUBE, "youtube-comment-downloader"), (YT_DLP, "yt-dlp"), ({**INFO, "comments": [YT_DLP]}, "yt-dlp"),
        (PUSHSHIFT, "pushshift"), (DISQUS, "disqus"), (WORDPRESS, "wordpress"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("post_id", [None, "p"])
def test_without_a_preset_the_reason_names_the_required_preset(
    item: dict[str, Any], preset: str, post_id: str | None
) -> None:
    (found,) = read(json.dumps(item), post_id=post_id)
    assert isinstance(found, BadLine)
    assert f"--preset {preset} " in found.reason


def test_columns_may_be_paths_into_objects_or_names_with_dots() -> None:
    item = {
        "n": 1,
        "u": {"name": "x", "a.b": {"id": 5}},
        "t.x": "dotted",
        "t": {"x": "other"},
        "p": 7,
        "m": {"k": 1.10},
    }
    columns = {"id": "n", "author": "u.name", "author_id": "u.a.b.id", "text": "t.x", "post_id": "p", "metadata": "m"}
    comment = read_single(item, columns=columns)
    assert (comment.id, comment.author, comment.author_id, comment.text, comment.post_id) == (
        "1",
        "x",
        "5",
        "dotted",
        "7",
    )
    (cell,) = read("n.id,t.x,p\n1,dotted,7\n", columns={"id": "n.id", "text": "t.x", "post_id": "p"})
    assert isinstance(cell, Numbered)
    assert cell.comment.text == "dotted"


def test_metadata_of_a_mapped_column_is_kept_unchanged() -> None:
    (found,) = read(
        '{"id":"1","text":"t","post_id":"p","m":{"f":1.10, "n":12345678901234567890123}}', columns={"metadata": "m"}
    )
    assert isinstance(found, Numbered)
    assert found.comment.metadata == '{"f":1.10, "n":12345678901234567890123}'


@pytest.mark.parametrize(
    "item",
    [
        {**WORDPRESS, "id": 1.5}, {**WORDPRESS, "id": True}, {**WORDPRESS, "id": [1]},
        {**WORDPRESS, "content": "plain"},
        {**WORDPRESS, "date_gmt": "0000-00-00T00:00:00"}, {**WORDPRESS, "content": {"rendered": 5}},
        {**WORDPRESS, "post": None}, {**WORDPRESS, "author_name": "\ud800"}, {**WORDPRESS, "id": "1E+17"},
    ],
)  # fmt: skip
def test_a_comment_with_a_member_of_a_wrong_type_is_a_bad_line(item: dict[str, Any]) -> None:
    first, second = read(json.dumps(item) + "\n" + json.dumps(WORDPRESS), preset="wordpress")
    assert isinstance(first, BadLine)
    assert isinstance(second, Numbered)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12, 12), ("12", 12), ("1.2K", 1200), ("1,2K", 1200), ("3M", 3_000_000), ("1,234", 1234), ("1.234", 1234),
        ("12 345", 12345), ("1,234,567", 1234567), (" 7 ", 7), ("", None), (None, None), (3.0, 3), ("1.5万", 15000),
        ("1.2\u00a0k", 1200), ("-4", -4), ("2.35B", 2_350_000_000),
    ], ids=case_id,
)  # fmt: skip
def test_abbreviated_and_grouped_counts_are_read(value: Any, expected: int | None) -> None:
    assert count(value) == expected


@pytest.mark.parametrize(
    "value", ["many", "1.2.3K", "1,23", "K", True, 1.5, [], {}, float("nan"), "1" * 10_000, "1," * 10_000]
)
def test_an_invalid_count_is_rejected(value: Any) -> None:
    with pytest.raises(BadCommentError):
        count(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1769852400, "2026-01-31T09:40:00+00:00"), ("1769852400", "2026-01-31T09:40:00+00:00"),
        (1769852400000, "2026-01-31T09:40:00+00:00"), (1769852400000000, "2026-01-31T09:40:00+00:00"),
        (0, None), ("0", None), (False, None), (None, None), ("", None), ("x", "x"),
    ],
)  # fmt: skip
def test_seconds_since_1970_are_converted_to_times(value: Any, expected: str | None) -> None:
    assert moment(value) == expected


@pytest.mark.parametrize("value", [10**30, float("nan"), float("inf"), True, [], {}, "9" * 20])
def test_an_invalid_time_is_rejected(value: Any) -> None:
    with pytest.raises(BadCommentError):
        moment(value)


def test_a_text_with_an_infinite_number_is_returned_unchanged() -> None:
    assert moment("1e9999") == "1e9999"


@pytest.mark.parametrize(
    "value",
    [-1, 2023, "2023", 45244.5, 20231114, "20231114093000", 10**400, 1e300],
    ids=["negative", "year", "year-in-a-text", "serial-date", "date", "time-in-a-text", "400-digits", "300-digits"],
)
def test_numbers_outside_of_the_range_of_seconds_are_rejected(value: Any) -> None:
    with pytest.raises(BadCommentError, match="not a time in seconds"):
        moment(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12.0", 12),
        ("5.00", 5),
        ("12.000", 12000),
        ("1,234", 1234),
        (3.0, 3),
        ("1.2K", 1200),
        ("0.500", None),
        ("0,123", None),
    ],
)
def test_counts_with_decimal_or_thousands_separators_are_read(value: Any, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(BadCommentError, match="whole number"):
            count(value)
    else:
        assert count(value) == expected


def test_a_document_of_youtube_comment_downloader_is_read() -> None:
    rows = [{"cid": f"Ugz{number}", "text": "t", "votes": "3"} for number in range(2)]
    for indent in (None, 4):
        items = read(json.dumps({"comments": rows}, indent=indent), preset="youtube-comment-downloader", post_id="V")
        assert [item.comment.id for item in items if isinstance(item, Numbered)] == ["Ugz0", "Ugz1"]
        assert len(items) == 2


def test_members_after_the_comments_must_be_given_as_options() -> None:
    document = {"comments": [{"id": "1", "text": "x", "parent": "root"}], "extractor_key": "TikTok", "id": "T9"}
    with pytest.raises(FileError, match="before its comments: name it by --post-id and --source"):
        read(json.dumps(document, indent=1), preset="yt-dlp")
    (item,) = read(json.dumps(document, indent=1), preset="yt-dlp", post_id="T9", source="tiktok")
    assert isinstance(item, Numbered)
    assert (item.comment.source, item.comment.post_id) == ("tiktok", "T9")
