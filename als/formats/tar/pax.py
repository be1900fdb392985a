"""PAX extended headers: ``LENGTH KEYWORD=VALUE\\n`` records before the entry that they amend (POSIX.1, ``pax``).

Xattrs come as ``SCHILY.xattr.NAME`` with their raw bytes (star, GNU tar, Go) or as ``LIBARCHIVE.xattr.NAME`` with the name
percent-encoded and the value in base64 (bsdtar, which writes both). ``hdrcharset`` changes nothing here, for names are
bytes to us as they are to the kernel. What a global header says is ignored, as containers/storage ignores it
(``extractTarFileEntry``): a layer has to look the same whoever unpacks it.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from als.errors import BadImage
from als.formats.tar.headers import Header

SPARSE_MAP = b"GNU.sparse.map"
_SPARSE_OFFSET = b"GNU.sparse.offset"
_SPARSE_NUMBYTES = b"GNU.sparse.numbytes"
_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
_NUL_FREE = frozenset({b"path", b"linkpath", b"uname", b"gname"})
_INTEGER = re.compile(rb"[+-]?0*[0-9]{1,19}")
_TIME = re.compile(rb"([+-]?)(0*[0-9]{1,19})(?:\.([0-9]*))?")

Records = dict[bytes, bytes]
"""The records of one extended header; of equal keywords the last."""


def parse_records(data: bytes) -> Records:
    """Read the content of an extended header.

    Sparse maps of version 0.0, a record for each number, are turned into those of 0.1, one record for all.

    :raises BadImage: a record is malformed.
    """
    records: Records = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = data[position:space]
        if space < 0 or not length.isdigit():
            raise BadImage("a PAX record does not start with its length")
        end = position + int(length)
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise BadImage("a PAX record does not end where it says")
        keyword, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not keyword or b"\0" in keyword or (keyword in _NUL_FREE and b"\0" in value):
            raise BadImage(f"a PAX record is malformed: {keyword[:80]!r}")
        if keyword in (_SPARSE_OFFSET, _SPARSE_NUMBYTES):
            if keyword != (_SPARSE_NUMBYTES if len(sparse) % 2 else _SPARSE_OFFSET) or b"," in value:
                raise BadImage("a PAX sparse map is out of order")
            sparse.append(value)
        else:
            records[keyword] = value
        position = end
    if sparse:
        records[SPARSE_MAP] = b",".join(sparse)
    return records


def amend(header: Header, records: Records) -> Header:
    """A header with what its extended header says; an empty value leaves the header's own, as in Go.

    :raises BadImage: a value is malformed.
    """
    mtime, mtime_ns = header.mtime, 0
    if time := records.get(b"mtime"):
        mtime, mtime_ns = parse_time(time)
    return header._replace(
        name=records.get(b"path") or header.name,
        linkname=records.get(b"linkpath") or header.linkname,
        uid=_integer_or(records, b"uid", header.uid),
        gid=_integer_or(records, b"gid", header.gid),
        size=_integer_or(records, b"size", header.size),
        mtime=mtime,
        mtime_ns=mtime_ns,
    )


def xattrs_of(records: Records) -> tuple[tuple[bytes, bytes], ...]:
    """The xattrs of an entry: full name and value, in no order. An empty value is one.

    :raises BadImage: a value that should be base64 is not.
    """
    found: Records = {}
    for keyword, value in records.items():
        if keyword.startswith(_LIBARCHIVE_XATTR):
            name = unquote_to_bytes(keyword[len(_LIBARCHIVE_XATTR) :])
            if _XATTR + name not in records:
                found[name] = _unpadded_base64(value)
        elif keyword.startswith(_XATTR):
            found[keyword[len(_XATTR) :]] = value
    return tuple(found.items())


def parse_integer(value: bytes) -> int:
    """Read a decimal number of at most 64 bits.

    :raises BadImage: it is none.
    """
    if not _INTEGER.fullmatch(value) or not -(1 << 63) <= int(value) < 1 << 63:
        raise BadImage(f"a PAX value is not a number: {value[:80]!r}")
    return int(value)


def parse_time(value: bytes) -> tuple[int, int]:
    """Read seconds with any number of decimals as (seconds, nanoseconds from 0 to 999,999,999).

    Digits beyond the ninth are cut off, which for times before the epoch rounds towards it, as in Go.

    :raises BadImage: it is no such number.
    """
    match = _TIME.fullmatch(value)
    if match is None:
        raise BadImage(f"a PAX time is not a number: {value[:80]!r}")
    sign, seconds, decimals = match.groups()
    total = int(seconds) * 1_000_000_000 + int((decimals or b"")[:9].ljust(9, b"0"))
    return divmod(-total if sign == b"-" else total, 1_000_000_000)


def _integer_or(records: Records, keyword: bytes, default: int) -> int:
    value = records.get(keyword)
    return parse_integer(value) if value else default


def _unpadded_base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), validate=True)
    except binascii.Error as error:
        raise BadImage("a LIBARCHIVE.xattr is not base64") from error
