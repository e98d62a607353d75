"""Detects a file's kind from its first bytes, never from its name: text and its encoding, or an unsupported kind."""

import codecs
import re
from typing import Final, NamedTuple


class FileError(Exception):
    """The file can't be read, or not beyond this point. The comments before this point are stored."""


GZIP_MAGIC: Final = b"\x1f\x8b"
AS_CSV: Final = "save it as CSV (UTF-8), with the ids as text, and send that file"
AS_LINES: Final = "export the comments as JSON Lines or CSV, and send that file"


class Kind(NamedTuple):
    """A kind of file that can't be read: a noun phrase, and advice for the user."""

    description: str
    advice: str


SPREADSHEET: Final = Kind("a spreadsheet (Excel, .xlsx)", AS_CSV)
OPEN_SPREADSHEET: Final = Kind("a spreadsheet (OpenDocument, .ods)", AS_CSV)
PICTURE: Final = Kind("a picture", "comments are read from text: JSON Lines or CSV")
MEDIA: Final = Kind("a sound or a video", "comments are read from text: JSON Lines or CSV")


def _packed(name: str, command: str) -> Kind:
    return Kind(f"compressed with {name}, and only gzip is read here", f"{command} | comment-monitor ingest -")


ZIP: Final = _packed("zip", "unzip -p FILE")
# The kinds by their first bytes.
BEGINNINGS: Final = tuple(
    (re.compile(pattern, re.DOTALL), kind)
    for pattern, kind in (
        (rb"\x28\xb5\x2f\xfd", _packed("zstd", "zstdcat FILE")),
        (rb"\xfd7zXZ\x00", _packed("xz", "xzcat FILE")),
        (rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90|\x00)", _packed("bzip2", "bzcat FILE")),
        (rb"\x04\x22\x4d\x18", _packed("lz4", "lz4cat FILE")),
        (rb"7z\xbc\xaf\x27\x1c", _packed("7-Zip", "7z x -so FILE")),
        (rb"Rar!\x1a\x07", _packed("RAR", "unrar p -inul FILE")),
        (rb".{257}ustar", Kind("a tar archive", "tar -xOf FILE | comment-monitor ingest -")),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Excel or Word document (.xls, .doc)", AS_CSV)),
        (rb"SQLite format 3\x00", Kind("a SQLite database", "sqlite3 -csv -header FILE 'SELECT ...' > comments.csv")),
        (rb"PAR1[\x00-\x1f]", Kind("a Parquet file", AS_LINES)),
        (rb"ARROW1\x00|FEA1", Kind("an Arrow or Feather file", AS_LINES)),
        (rb"Obj\x01", Kind("an Avro file", AS_LINES)),
        (rb"ORC[\x00-\x08\x0e-\x1f]", Kind("an ORC file", AS_LINES)),
        (rb"\x80[\x02-\x05][\x00-\xff]", Kind("a Python pickle", AS_LINES)),
        (rb"%PDF-", Kind("a PDF document", AS_LINES)),
        (rb"\{\\rtf", Kind("a Rich Text document", AS_LINES)),
        (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|II\*\x00|MM\x00\*|RIFF.{4}WEBP|.{4}ftyp(?:heic|avif|mif1)", PICTURE),
        (
            (
                rb"RIFF.{4}(?:WAVE|AVI )|"  # check-words: kept - the name of an audio format
                rb".{4}ftyp|ID3[\x02-\x04]\x00|OggS\x00|fLaC\x00|\x1aE\xdf\xa3"
            ),
            MEDIA,
        ),
        (rb"\x7fELF|MZ[\x00-\xff]{2}\x00|\xca\xfe\xba\xbe", Kind("a program", AS_LINES)),
        (rb"(?i:\s*<(?:!doctype html|html|head|body|title|script|div)\b)", Kind("an HTML page", AS_LINES)),
        (rb"\s*(?:<\?xml[^>]*>\s*)?<disqus\b", Kind("a Disqus XML export", "fetch posts/list of Disqus's API as JSON")),
        (rb"\s*<(?:\?xml|!--|rss|feed|[a-z][\w:.-]*[\s/>])", Kind("an XML document", AS_LINES)),
        (
            rb"version https://git-lfs",
            Kind("a Git LFS pointer, not the file itself", "`git lfs pull` fetches the file"),
        ),
        (rb"HTTP/[0-9.]+ [0-9]{3}\b", Kind("an HTTP response with its head", "curl without -i gives the body only")),
    )
)
_TEXT_BOMS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF8, "utf-8"),
)
_ASCII: Final = bytes(range(128))
# The number of bytes beyond ASCII from which on valid UTF-8 is not an accident.
_SURE: Final = 6
_CONTROLS: Final = bytes({*range(0x20), 0x7F} - set(b"\t\n\r\f\v\x1b\0"))
# Bytes that Windows-1252 leaves undefined.
_NOT_1252: Final = frozenset(b"\x81\x8d\x8f\x90\x9d")
# The share of control characters in a file's beginning above which the file is not text.
_BINARY_SHARE: Final = 0.02
# Up to this number, control characters are faults of single lines, however short the file is.
_FEW: Final = 4
# The share of lines with invalid UTF-8 from which on the file has another encoding.
_BAD_LINES_SHARE: Final = 0.02
# The share of NUL bytes above which the file may be UTF-16.
_UTF16_SHARE: Final = 0.2
# The average length of runs of bytes beyond ASCII above which the script is not Latin.
_DENSE: Final = 2.5


def refused(head: bytes) -> Kind | None:
    """Returns the kind of a file with this beginning if it can't be read, else None."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _in_zip(head)
    return next((kind for pattern, kind in BEGINNINGS if pattern.match(head)), None)


def _in_zip(head: bytes) -> Kind:
    if b"application/vnd.oasis.opendocument.spreadsheet" in head:
        return OPEN_SPREADSHEET
    if b"xl/" in head:
        return SPREADSHEET
    if b"word/" in head or b"ppt/" in head or b"application/vnd.oasis.opendocument" in head:
        return Kind("an office document", AS_LINES)
    if b"[Content_Types].xml" in head or b"docProps/" in head:
        return SPREADSHEET
    return ZIP


def encoding_of(head: bytes) -> str:
    """Returns the encoding of a text with this beginning.

    Raises:
        FileError: the file is not text, or has an encoding that the user must name.
    """
    for bom, name in _TEXT_BOMS:
        if head.startswith(bom):
            return name
    _check_text(head)
    if guess := _other_encoding(head):
        raise FileError(guess)
    return "utf-8"


def check_encoding(head: bytes, named: str) -> None:
    """Checks that a text with this beginning may have the encoding that the user named.

    Raises:
        FileError: the text certainly has another encoding, and would be stored as wrong characters.
    """
    name = codecs.lookup(named).name
    for bom, own in _TEXT_BOMS:
        if head.startswith(bom):
            if name not in {own, f"{own}-sig", own.removesuffix("-le").removesuffix("-be")}:
                raise FileError(f"it begins with the byte order mark of {own}, not {named}: leave --encoding out")
            return
    if name.startswith("utf") or head.isascii() or len(head.translate(None, _ASCII)) < _SURE:
        return
    if _is_utf8(head, last=True):
        raise FileError(f"it is UTF-8, and {named} would turn it into wrong characters: leave --encoding out")


def _check_text(head: bytes) -> None:
    nuls = head.count(0)
    if nuls > _UTF16_SHARE * len(head):
        # In little-endian order the second byte of Western letters is NUL.
        order = "be" if head[::2].count(0) > head[1::2].count(0) else "le"
        other = head[1::2] if order == "be" else head[::2]
        if nuls > _FEW and other.count(0) < _BINARY_SHARE * len(head):
            raise FileError(f"probably UTF-16 without a byte order mark: --encoding utf-16-{order} reads it")
    controls = len(head) - len(head.translate(None, _CONTROLS)) + nuls
    if controls > max(_BINARY_SHARE * len(head), _FEW):
        raise FileError(f"not a text file: {AS_LINES}")


def _other_encoding(head: bytes) -> str | None:
    """Returns a message with the likely encoding of a text that is not UTF-8; None: UTF-8, perhaps with bad lines."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        pass
    else:
        return None
    lines = head.split(b"\n")
    # The last line may end within a character.
    beyond_ascii = [(number, line) for number, line in enumerate(lines, 1) if not line.isascii()]
    bad = [(number, line) for number, line in beyond_ascii if not _is_utf8(line, last=number == len(lines))]
    high = {byte for _, line in bad for byte in line if byte >= 0x80}  # noqa: PLR2004 - the end of ASCII
    # A single line of valid UTF-8 beyond ASCII is hardly an accident, and 0xFF and 0xFE alone are damage.
    if len(bad) < max(len(beyond_ascii), _BAD_LINES_SHARE * len(lines)) or high <= {0xFE, 0xFF}:
        return None
    where = f"not UTF-8 (line {bad[0][0]})"
    runs = re.findall(rb"[\x80-\xff]++", b"\n".join(line for _, line in bad))
    if sum(map(len, runs)) > _DENSE * len(runs):
        names = "windows-1251, koi8-r, shift_jis, gb18030, big5 or euc-kr"
        return f"{where}: it looks like an encoding of another script; --encoding NAME reads it, such as {names}"
    if high & _NOT_1252:
        return f"{where}: --encoding NAME reads it, such as mac-roman or cp850"
    return f"{where}: it looks like Windows-1252; --encoding windows-1252 reads it"


def _is_utf8(line: bytes, *, last: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(line, final=not last)
    except UnicodeDecodeError:
        return False
    return True
