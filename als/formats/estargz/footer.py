"""The end of an eStargz blob: an empty gzip member whose extra field says where the table of contents begins.

stargz-snapshotter, ``docs/estargz.md`` ("Footer") and ``estargz/gzip.go``; for the external kind ``estargz/externaltoc``. There
are three, which differ in length:

* 51 bytes: extra field of subfield ``SG``, 22 bytes: 16 hexadecimal digits and ``STARGZ``;
* 47 bytes (stargz, before eStargz): the 22 bytes are the extra field without a subfield's header, against RFC 1952;
* 46 bytes: subfield ``SG``, 17 bytes, ``STARGZEXTERNALTOC``: the table of contents is in another image.
"""

from __future__ import annotations

from dataclasses import dataclass

from als.errors import BadImage

LONGEST = 51
_HEADER = b"\x1f\x8b\x08\x04"
_HEADER_FIXED = 10
_EMPTY_BLOCK = b"\1\0\0\xff\xff" + bytes(8)
"""A last stored block without bytes (RFC 1951, 3.2.4), then checksum and length (RFC 1952, 2.3.1), both 0."""
_MAGIC = b"STARGZ"
_EXTERNAL = b"SG\x11\0STARGZEXTERNALTOC"
_DIGITS = 16
_HEXADECIMAL = frozenset(b"0123456789abcdefABCDEF")


@dataclass(frozen=True, slots=True)
class Footer:
    """Where things are, as offsets in the blob."""

    start: int
    """Of the footer itself."""
    toc: int | None
    """None: the table of contents is in another image."""


def parse_footer(tail: bytes, blob_size: int) -> Footer:
    """Read the footer from a blob's last bytes: `LONGEST` of them, or all of a smaller blob.

    :raises BadImage: there is none, or it points out of the blob.
    """
    for extra_length in (26, 22, 21):
        start = len(tail) - _HEADER_FIXED - 2 - extra_length - len(_EMPTY_BLOCK)
        extra = _extra(tail[max(0, start) :], extra_length) if start >= 0 else None
        if extra is None:
            continue
        offset = blob_size - len(tail) + start
        if extra == _EXTERNAL:
            return Footer(offset, None)
        if extra_length == 26 and extra.startswith(b"SG\x16\0"):
            return Footer(offset, _toc_offset(extra[4:], offset))
        if extra_length == 22:
            return Footer(offset, _toc_offset(extra, offset))
    raise BadImage("no eStargz footer", hint="the layer can only be read whole")


def _extra(member: bytes, length: int) -> bytes | None:
    """The extra field of a member that has one of this length and nothing else."""
    if not member.startswith(_HEADER) or not member.endswith(_EMPTY_BLOCK):
        return None
    if int.from_bytes(member[_HEADER_FIXED : _HEADER_FIXED + 2], "little") != length:
        return None
    return member[_HEADER_FIXED + 2 : _HEADER_FIXED + 2 + length]


def _toc_offset(field: bytes, footer: int) -> int:
    digits = field[:_DIGITS]
    if field[_DIGITS:] != _MAGIC or not _HEXADECIMAL.issuperset(digits):
        raise BadImage("an eStargz footer that is none")
    offset = int(digits, 16)
    if offset >= footer:
        raise BadImage("the eStargz footer points out of the blob")
    return offset
