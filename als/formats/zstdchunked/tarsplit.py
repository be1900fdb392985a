"""The tar-split of a zstd:chunked layer: with the files' content it gives back the tar stream, headers and all.

A tar-split (https://github.com/vbatts/tar-split, ``tar/storage``) is a sequence of JSON objects in the stream's order: of type
2 with bytes of the stream in base64, and of type 1 for the content of a file (``name``, or ``name_raw`` in base64 where that is
no UTF-8; ``size``; ``payload`` is a CRC-64 that we have no use for). In the layer it is zstd, in a skippable frame.

The table of contents commits to it, so both come from the same hand; but a table that tells of other files than the
stream would make two readers of one layer see two layers. :func:`joined` refuses that, as containers/storage does
(``ensureTOCMatchesTarSplit``), and :mod:`als.formats.headercheck` compares what the headers and the index say.

Once all files are objects, ``joined(index, parse(text))`` is the recipe, and the digest of what it stands for the DiffID.
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.formats.codecs import Compression, decompressor
from als.formats.index import LayerIndex, TarSplit
from als.formats.toc.document import unique
from als.formats.toc.text import text_limits
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.paths import show

_FILE, _SEGMENT = 1, 2
_FEED = 1 << 18
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class FileRef:
    """The content of a file belongs here."""

    name: bytes
    """As in the header before it."""
    size: int


@dataclass(frozen=True, slots=True)
class FilePart:
    """All content of an entry of the index belongs here."""

    number: int
    size: int


def tar_split_text(compressed: bytes, where: TarSplit, limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes]:
    """The text of a tar-split, in pieces, from its bytes in the blob.

    :raises DigestMismatch: they are not what the table of contents commits to.
    :raises BadImage: they are damaged.
    :raises LimitExceeded: they expand too far.
    """
    hasher = where.digest.hasher()
    hasher.update(compressed)
    if len(compressed) != where.length or hasher.hexdigest() != where.digest.hex:
        raise DigestMismatch("the tar-split is not the one that the table of contents commits to", where="tar-split")
    codec = decompressor(Compression.ZSTD, text_limits(limits))
    for start in range(0, len(compressed), _FEED):
        yield from codec.feed(compressed[start : start + _FEED])
    codec.finish()


def parse(text: Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> Iterator[bytes | FileRef]:
    """The records of a tar-split in order: bytes of the stream, and places of files.

    :raises BadImage: it is malformed.
    :raises LimitExceeded: a line is too long.
    """
    left = b""
    for piece in text:
        *lines, left = (left + piece).split(b"\n")
        for line in lines:
            yield from _record(line)
        if len(left) > 2 * limits.header_bytes:
            raise LimitExceeded(f"a line of more than {2 * limits.header_bytes} bytes", where="tar-split")
    yield from _record(left)


def _record(line: bytes) -> Iterator[bytes | FileRef]:
    if not line.strip():
        return
    try:
        raw = json.loads(line.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadImage(f"not JSON: {str(error)[:200]}", where="tar-split") from error
    kind = raw.get("type") if isinstance(raw, dict) else None
    if type(kind) is int and kind == _SEGMENT:
        yield _base64(raw.get("payload"))
        return
    if type(kind) is not int or kind != _FILE:
        raise BadImage(f"a record of unknown type {str(kind)[:40]!r}", where="tar-split")
    size = raw.get("size", 0)
    name = raw.get("name", "")
    if type(size) is not int or size < 0 or not isinstance(name, str):
        raise BadImage("a file's record with fields of other types than they should have", where="tar-split")
    try:
        yield FileRef(_base64(raw.get("name_raw")) or name.encode(), size)
    except UnicodeEncodeError as error:
        raise BadImage("a name without a UTF-8 form", where="tar-split") from error


def _base64(value: object) -> bytes:
    if value is not None and not isinstance(value, str):
        raise BadImage("a payload that is no string", where="tar-split")
    try:
        return a2b_base64(value or "", strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise BadImage("a payload that is not base64", where="tar-split") from error


def joined(index: LayerIndex, records: Iterable[bytes | FileRef]) -> Iterator[bytes | FilePart]:
    """The stream as bytes and files of the index.

    The files with content have to be the same on both sides, in the same order.

    :raises BadImage: they are not.
    """
    files = (number for number in range(len(index)) if index.size(number))
    for record in records:
        if isinstance(record, bytes):
            if record:
                yield record
        elif record.size:
            number = next(files, None)
            if number is None:
                raise BadImage("a file that the index does not have", where=show(record.name))
            if index.size(number) != record.size or index.entry(number).path != record.name:
                raise BadImage("another file than in the index", where=show(record.name))
            yield FilePart(number, record.size)
    number = next(files, None)
    if number is not None:
        raise BadImage("a file that the tar-split does not have", where=show(index.entry(number).path))


def zero_filled(records: Iterable[bytes | FileRef]) -> Iterator[bytes]:
    """A stream with the right headers and zeros for the files' content: for :func:`als.formats.headercheck.headers_of`."""
    for record in records:
        if isinstance(record, bytes):
            yield record
        else:
            yield from _zeros(record.size)


def _zeros(size: int) -> Iterator[bytes]:
    for start in range(0, size, len(_ZEROS)):
        yield _ZEROS if size - start >= len(_ZEROS) else bytes(size - start)
