"""tar-split files: what clients of an image store rebuild a layer's tar stream from.

A tar-split file is a gzip-compressed list of JSON objects (https://github.com/vbatts/tar-split, ``tar/storage``: type Entry):
segments of the tar stream as they were (type 2) and files by name, with the CRC-64 of their content (type 1). How
containers/storage finds a file's content by its name (``drivers/overlay``: overlayFileGetter) depends on the image store's
layout, so there are two forms (:class:`~als.store.layout.TarSplitForm`):

- IMAGE, for composefs (podman >= 5, CRI-O): the client mounts the layer's EROFS image alone, reads
  ``trusted.overlay.redirect`` of the name in it, and copies the whole file which that names below ``diff``. So a name must
  lead to a file of the layer itself that has a redirect: files that the image holds inline have none.
- FOREST, for diffN (podman 4): it opens the name below ``diff``, and ``..`` in a name is resolved before the file is opened.
  There the files of ``diff`` have no data, but ``../diff1/.als/<sha256>`` is the object itself. Where ``diff`` shows several
  layers as one, ``diff1`` has the objects of them all.

No name may occur twice: the reader refuses the list (``tar/storage/packer.go``: ErrDuplicatePath).

The name need not be that of the tar header: nothing reads it but this lookup. Recipes know objects and no names, so each
payload gets *any* name that leads to its object, each name once, and what has none left is a segment: files that a later
entry replaced, the second payload of a name, parts of sparse files, inline files. Names from the tar headers would need the
parser again, and its rules for whiteouts and symlinks; these need neither, and no hostile header can make the list wrong.

As a rule the files are made while a layer's stream passes by (``als/fetch/splits.py``). The functions here make them afterwards
from recipe and objects: for a layout that was switched on later, and where the stream held something out of the ordinary.

Rejected: to make them when they are read, as als once did for podman 4 in its FUSE face. Without the daemon podman 4 then took
the layer for one without tar-split, and where it copied it, wrote down a DiffID that is not the copy's.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

from als.model.forest import forest_path
from als.model.tree import Inode, Tree
from als.native.crc64 import crc64_iso
from als.store.recipe import ObjectPart, OpenObject, object_bytes, read_recipe

_SEGMENT_BYTES = 3 << 18
"""A segment that would be longer becomes several; a multiple of 3, so that base64 needs no padding but at the end."""
LONGEST_NAME = 4096 - 64
"""The client opens ``/proc/self/fd/N/NAME``, which has to fit PATH_MAX."""
_GZIP_WBITS = 31
_LEVEL = 1
"""Of ISA-L; level 2 made the file of a layer of 7,300 files smaller by 0.6 %."""


def write_tar_split(tree: Tree, recipe: Path, open_object: OpenObject, out: BinaryIO) -> None:
    """Write a layer's tar-split file of the form IMAGE. The same arguments give the same bytes.

    Content whose sha256 the tree does not know goes into the file as a whole.

    :param tree: the layer's content, as its mounted image shows it.
    :raises StoreDamaged: the recipe is torn or an object is too short.
    """
    names = _names(tree)

    def name_of(sha256: bytes) -> bytes | None:
        left = names.get(sha256)
        return left.pop() if left else None

    _write(name_of, recipe, open_object, out)


def write_forest_tar_split(recipe: Path, open_object: OpenObject, out: BinaryIO) -> None:
    """Write a layer's tar-split file of the form FOREST.

    :raises StoreDamaged: the recipe is torn or an object is too short.
    """
    used: set[bytes] = set()

    def name_of(sha256: bytes) -> bytes | None:
        if sha256 in used:
            return None
        used.add(sha256)
        return name_in_forest(sha256)

    _write(name_of, recipe, open_object, out)


def name_in_forest(sha256: bytes) -> bytes:
    """The name of an object in a tar-split file of the form FOREST."""
    return f"../diff1/{forest_path(sha256)}".encode()


def _write(name_of: Callable[[bytes], bytes | None], recipe: Path, open_object: OpenObject, out: BinaryIO) -> None:
    writer = TarSplitWriter(out)
    for record in read_recipe(recipe):
        if isinstance(record, bytes):
            writer.segment(record)
            continue
        fd = open_object(record.sha256)
        try:
            name = name_of(record.sha256) if _is_whole(record, fd) else None
            if name is not None:
                writer.file(name, record.length, _checksum(fd, record))
            else:
                for data in object_bytes(fd, record):
                    writer.segment(data)
        finally:
            os.close(fd)
    writer.close()


def _names(tree: Tree) -> dict[bytes, list[bytes]]:
    """The names by which a client finds each object, the last one in the order of the tree first."""
    found: dict[bytes, list[bytes]] = {}
    for path, node in tree.walk():
        if not isinstance(node, Inode) or node.content is None or node.content.sha256 is None or node.data is not None:
            continue
        if len(path) <= LONGEST_NAME:
            found.setdefault(node.content.sha256, []).append(path)
    for paths in found.values():
        # Names are taken from the end: where a tar is sorted, most files get their own.
        paths.reverse()
    return found


def _is_whole(part: ObjectPart, fd: int) -> bool:
    """Whether the part is all that the object holds: a client copies the file to its end."""
    return part.offset == 0 and part.length == os.fstat(fd).st_size


def checksum(data: bytes | bytearray | memoryview, before: int | None = None) -> int:
    """The CRC-64 that Go calls ISO (``hash/crc64``).

    :param before: that of the bytes before these.
    """
    return crc64_iso(data, before or 0)


def _checksum(fd: int, part: ObjectPart) -> int:
    value: int | None = None
    for data in object_bytes(fd, part):
        value = checksum(data, value)
    return value or 0


class TarSplitWriter:
    """Writes a tar-split file; adjacent segments become one, up to a bound. `close` completes it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._gzip = isal_zlib.compressobj(_LEVEL, wbits=_GZIP_WBITS)
        self._segment = bytearray()
        self._lines = bytearray()
        self._position = 0

    def segment(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of the stream that no name leads to."""
        self._segment += data
        while len(self._segment) >= _SEGMENT_BYTES:
            with memoryview(self._segment) as view:
                self._put_segment(view[:_SEGMENT_BYTES])
            del self._segment[:_SEGMENT_BYTES]

    def file(self, name: bytes, size: int, crc: int) -> None:
        """All of a file, by its name and with its checksum."""
        self._flush()
        payload = _base64(crc.to_bytes(8, "big"))
        self._line(b'{"type":1,%s,"size":%d,"payload":"%s"' % (_name_field(name), size, payload))

    def close(self) -> None:
        """Nothing follows."""
        self._flush()
        self._compress()
        self._out.write(self._gzip.flush())

    def _flush(self) -> None:
        if self._segment:
            self._put_segment(self._segment)
            self._segment.clear()

    def _put_segment(self, data: bytearray | memoryview) -> None:
        self._line(b'{"type":2,"payload":"%s"' % _base64(data))

    def _line(self, start: bytes) -> None:
        self._lines += b'%s,"position":%d}\n' % (start, self._position)
        self._position += 1
        if len(self._lines) >= _SEGMENT_BYTES:
            self._compress()

    def _compress(self) -> None:
        self._out.write(self._gzip.compress(self._lines))
        self._lines.clear()


def _name_field(name: bytes) -> bytes:
    """A name that is UTF-8 is text, any other is base64: what is not UTF-8 in text would come back as something else."""
    try:
        return b'"name":' + encode_basestring_ascii(name.decode()).encode()
    except UnicodeDecodeError:
        return b'"name_raw":"%s"' % _base64(name)


def _base64(data: bytes | bytearray | memoryview) -> bytes:
    return binascii.b2a_base64(data, newline=False)
