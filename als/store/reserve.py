"""A little space that is given up when the disk is full.

Removing a layer begins with taking it out of the image store's list, and that means to write the list anew (a folder, a file
and a symlink, see als.imagestore.appearance). On a full disk that would fail, and nothing could ever be removed. So the store
keeps some files in reserve whose blocks and inodes are free for it then.
Rejected: writing the shorter list over the old one in place, since a crash in the middle leaves neither.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from als.errors import StoreError
from als.native.refusal import Refusal, refusal
from als.store.layout import Layout
from als.store.refused import store_errors

_BYTES = 256 << 10
_INODES = 6


def keep_reserve(layout: Layout) -> bool:
    """Make the reserve as far as it is missing; False: the disk has no room for it.

    :raises StoreError: the disk refuses it for another reason.
    """
    try:
        layout.reserve.mkdir(mode=0o700, exist_ok=True)
        for number in range(_INODES):
            _keep(layout.reserve / str(number), 0 if number else _BYTES)
    except OSError as error:
        if refusal(error) is Refusal.NO_SPACE:
            return False
        raise StoreError(f"the store cannot be written: {error.strerror}", where=str(layout.reserve)) from error
    return True


def _keep(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)


@contextlib.contextmanager
def reserve_given_up(layout: Layout) -> Iterator[None]:
    """For the length of a block that is going to make room; afterwards the reserve is made again if that succeeded."""
    with store_errors(layout.reserve):
        for number in range(_INODES):
            (layout.reserve / str(number)).unlink(missing_ok=True)
    try:
        yield
    finally:
        with store_errors(layout.reserve):
            keep_reserve(layout)
