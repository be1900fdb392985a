"""The UUID in an image's superblock. Only images that are sealed with fs-verity have one (:mod:`als.mount.erofs` says why)."""

from __future__ import annotations

from pathlib import Path

from als.erofs.layout import SUPER, SUPER_MAGIC, SUPER_OFFSET
from als.errors import NotFound, StoreDamaged

_UUID_FIELD = 12
UUID_SIZE = 16


def uuid_of(name: str) -> bytes:
    """The UUID of the image that shows a layer or a stack of layers.

    :param name: the DiffID or chain ID, at least 32 hex digits.
    """
    return bytes.fromhex(name)[:UUID_SIZE]


def read_uuid(path: Path) -> bytes:
    """The UUID of an image file; 16 zeros if it has none.

    :raises NotFound: there is no such file.
    :raises StoreDamaged: it is no EROFS image.
    """
    try:
        with path.open("rb") as file:
            file.seek(SUPER_OFFSET)
            block = file.read(SUPER.size)
    except FileNotFoundError as error:
        raise NotFound("no such image file", where=str(path)) from error
    fields = SUPER.unpack(block) if len(block) == SUPER.size else (0,)
    if fields[0] != SUPER_MAGIC:
        raise StoreDamaged("not an EROFS image", where=str(path))
    return bytes(fields[_UUID_FIELD])
