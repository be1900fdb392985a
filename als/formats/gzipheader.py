"""The header of a gzip member (RFC 1952, section 2.3).

ISA-L parses headers itself, but wrongly where one with several optional fields, or with a checksum, comes in pieces. So a
header is kept back until it is whole; this module tells when that is.
"""

from __future__ import annotations

from als.errors import BadImage

MAGIC = b"\x1f\x8b\x08"
_FIXED = 10
_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
_TEXT_MAX = 512
"""The longest name or comment that Go's ``compress/gzip`` reads, with its NUL."""


def header_length(data: memoryview) -> int | None:
    """How many bytes the header takes that `data` begins with; None if it is not all there.

    :raises BadImage: it is no gzip header.
    """
    if bytes(data[:3]) != MAGIC[: len(data)]:
        raise BadImage("the gzip stream goes on with something that is no member")
    if len(data) < _FIXED:
        return None
    flags = data[3]
    at = _FIXED
    if flags & _FEXTRA:
        if len(data) < at + 2:
            return None
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_FNAME, _FCOMMENT):
        if flags & flag:
            text = bytes(data[at : at + _TEXT_MAX])
            end = text.find(0)
            if end < 0:
                if len(text) == _TEXT_MAX:
                    raise BadImage("a name in a gzip header is too long")
                return None
            at += end + 1
    if flags & _FHCRC:
        at += 2
    return at if at <= len(data) else None
