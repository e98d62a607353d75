"""The results of a file's readers: comments and bad lines, each with its line number."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from comment_monitor.core.model import MAX_ID, Comment
from comment_monitor.intake.comment_decoder import BadCommentError

# An id in the notation of spreadsheets and data frames for large numbers, which loses the last digits.
_ROUNDED: Final = re.compile(
    r"[+-]?[0-9]{1,4}(?:[eE]\+[0-9]{1,3}|[.,][0-9]{1,20}[eE]\+?[0-9]{1,3})"
    r"|[0-9]{1,3}([.,'\u2019 \u00a0\u202f])[0-9]{3}(?:\1[0-9]{3}){3,}"
)
# A whole number of five or more digits is not a version or a list number, so its ".0" comes from a column of floats.
_FLOAT: Final = re.compile(r"-?[0-9]{5,}[.,]0+")
# Data frames store a column with gaps as floats, and the column of parents has gaps.
_FLOAT_PARENT: Final = re.compile(r"[0-9]+\.0")
# Quotes meant to keep a spreadsheet from converting the id to a number.
_QUOTED: Final = re.compile(r"""['"\u2018\u2019\u201c\u201d`]+[0-9]+['"\u2018\u2019\u201c\u201d`]*""")
_FORMULA: Final = re.compile(r"""=\s*["'].*|\#{3,}|\#(?:NAME\?|VALUE!|REF!|NUM!|NULL!|N/A|DIV/0!)""", re.DOTALL)
# The first characters of all values that these patterns match.
_SUSPECT: Final = frozenset("=#+-0123456789 \t\n\r\u00a0'\"\u2018\u2019\u201c\u201d`")
AS_TEXT: Final = "format the column as text and export the file again"
WITHOUT_QUOTES: Final = "export the file again without them"


class BadLine(NamedTuple):
    """A line without a comment that can be stored; `is_csv_fault`: it was skipped because it is not valid CSV."""

    line: int
    id: str | None
    reason: str
    is_csv_fault: bool = False


class Numbered(NamedTuple):
    """A comment and the line on which it ends."""

    line: int
    comment: Comment


class Defaults(NamedTuple):
    """The post and the source for comments without them."""

    post_id: str | None
    source: str | None


def with_whole_ids(comment: Comment) -> Comment:
    """Returns the comment unchanged, after checking that no spreadsheet has altered its ids.

    Raises:
        BadCommentError: an id is a rounded number or a formula, and so perhaps shared by several comments, or its
            spelling differs from the platform's.
    """
    parent, author = comment.parent_id, comment.author_id
    # A fast check first: it runs for every line, and nearly every id is plain.
    id_, post = comment.id, comment.post_id
    if (
        (id_.isalnum() or id_[0] not in _SUSPECT)
        and (post.isalnum() or post[0] not in _SUSPECT)
        and (parent is None or parent.isalnum() or parent[0] not in _SUSPECT)
        and (author is None or author.isalnum() or author[0] not in _SUSPECT)
    ):
        return comment
    ids = (("id", id_), ("post_id", post), ("parent_id", parent), ("author_id", author))
    for name, value in ids:
        if value is None or value.isalnum() or value[0] not in _SUSPECT:
            continue
        if _ROUNDED.fullmatch(value.strip()):
            raise BadCommentError(f"`{name}` is a number that a spreadsheet has rounded ({value}): {AS_TEXT}")
        if _FLOAT.fullmatch(value.strip()) or (name == "parent_id" and _FLOAT_PARENT.fullmatch(value.strip())):
            raise BadCommentError(f"`{name}` is a number that a data frame has made a fraction ({value}): {AS_TEXT}")
        if _QUOTED.fullmatch(value.strip()):
            raise BadCommentError(f"`{name}` has quotes within it ({value}): {WITHOUT_QUOTES}")
        if _FORMULA.fullmatch(value.strip()):
            raise BadCommentError(f"`{name}` is a formula of a spreadsheet, not an id: {AS_TEXT}")
    return comment


def within_posts(items: Iterable[Numbered | BadLine]) -> Iterator[Numbered | BadLine]:
    """Prefixes all ids with the post's id, for sources that number the comments of each post from 1."""
    for item in items:
        if isinstance(item, BadLine):
            yield item
            continue
        comment = item.comment
        own = f"{comment.post_id}/{comment.id}"
        parent = f"{comment.post_id}/{comment.parent_id}" if comment.parent_id else None
        fault = next((name for name, value in (("id", own), ("parent_id", parent)) if len(value or "") > MAX_ID), None)
        if fault:
            yield BadLine(
                item.line, comment.id, f"`{fault}` with its post before it is longer than {MAX_ID} characters"
            )
        else:
            yield Numbered(item.line, replace(comment, id=own, parent_id=parent))
