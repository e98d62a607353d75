"""What a file is, from its first bytes and never from its name: text in an encoding, or what can't be read here."""

import codecs
import re
from typing import Final, NamedTuple


class FileError(Exception):
    """The file can't be read, or not further than to here. What came before is stored."""


GZIP_MAGIC: Final = b"\x1f\x8b"
AS_CSV: Final = "save it as CSV (UTF-8), with the ids as text, and send that file"
AS_LINES: Final = "export the comments as JSON Lines or CSV, and send that file"


class Kind(NamedTuple):
    """A kind of file that is not read here."""

    what: str
    do: str


SPREADSHEET: Final = Kind("a spreadsheet (Excel, .xlsx)", AS_CSV)
OPEN_SPREADSHEET: Final = Kind("a spreadsheet (OpenDocument, .ods)", AS_CSV)
PICTURE: Final = Kind("a picture", "comments are read from text: JSON Lines or CSV")
MEDIA: Final = Kind("a sound or a video", "comments are read from text: JSON Lines or CSV")


def _packed(name: str, command: str) -> Kind:
    return Kind(f"compressed with {name}, and only gzip is read here", f"{command} | comment-monitor ingest -")


ZIP: Final = _packed("zip", "unzip -p FILE")
# Each by the bytes that it begins with.
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
        (rb"RIFF.{4}(?:WAVE|AVI )|.{4}ftyp|ID3[\x02-\x04]\x00|OggS\x00|fLaC\x00|\x1aE\xdf\xa3", MEDIA),
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
# Bytes beyond ASCII: fewer may be valid UTF-8 by accident.
_SURE: Final = 6
_CONTROLS: Final = bytes({*range(0x20), 0x7F} - set(b"\t\n\r\f\v\x1b\0"))
# Bytes that Windows-1252 leaves undefined.
_NOT_1252: Final = frozenset(b"\x81\x8d\x8f\x90\x9d")
# Shares of a file's beginning, from which on it is something else as a whole.
_BINARY_SHARE: Final = 0.02
# So many control characters are faults of single lines, however short the file is.
_FEW: Final = 4
_BAD_LINES_SHARE: Final = 0.02
_UTF16_SHARE: Final = 0.2
_DENSE: Final = 2.5


def refused(head: bytes) -> Kind | None:
    """What begins like this, where that is nothing that is read here."""
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
    """The encoding of a text that begins like this.

    Raises:
        FileError: it is no text, or in an encoding that has to be named.
    """
    for bom, name in _TEXT_BOMS:
        if head.startswith(bom):
            return name
    _check_text(head)
    if guess := _other_encoding(head):
        raise FileError(guess)
    return "utf-8"


def check_encoding(head: bytes, named: str) -> None:
    """Whether a text that begins like this may be in the encoding that the user named.

    Raises:
        FileError: it certainly is in another; all of it would be stored as other characters.
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
        raise FileError(f"it is UTF-8, and {named} would make other characters of it: leave --encoding out")


def _check_text(head: bytes) -> None:
    nuls = head.count(0)
    if nuls > _UTF16_SHARE * len(head):
        # Western letters have their NUL second in little-endian order.
        order = "be" if head[::2].count(0) > head[1::2].count(0) else "le"
        other = head[1::2] if order == "be" else head[::2]
        if nuls > _FEW and other.count(0) < _BINARY_SHARE * len(head):
            raise FileError(f"UTF-16 without a byte order mark, as it seems: --encoding utf-16-{order} reads it")
    controls = len(head) - len(head.translate(None, _CONTROLS)) + nuls
    if controls > max(_BINARY_SHARE * len(head), _FEW):
        raise FileError(f"not a text file: {AS_LINES}")


def _other_encoding(head: bytes) -> str | None:
    """Which encoding it looks like where it can't be UTF-8 as a whole; None: UTF-8, with a few bad lines perhaps."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        pass
    else:
        return None
    lines = head.split(b"\n")
    # The last line may be cut within a character.
    beyond_ascii = [(number, line) for number, line in enumerate(lines, 1) if not line.isascii()]
    bad = [(number, line) for number, line in beyond_ascii if not _is_utf8(line, last=number == len(lines))]
    high = {byte for _, line in bad for byte in line if byte >= 0x80}  # noqa: PLR2004 - the end of ASCII
    # One valid character beyond ASCII is hardly an accident, and 0xFF and 0xFE alone are damage.
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
