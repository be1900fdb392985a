"""A little space that is given up when the disk is full.

Removing a layer begins with taking it out of the image store's list, and that means to write the list anew. On a full disk that
would fail, and nothing could ever be removed. So the store keeps a file in reserve whose blocks and inode are free for it then.
Rejected: writing the shorter list over the old one in place, since a crash in the middle leaves neither.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from als.native.refusal import Refusal, refusal
from als.store.layout import Layout
from als.store.refused import store_errors

_BYTES = 256 << 10


def keep_reserve(layout: Layout) -> bool:
    """Make the reserve if there is none; False: the disk has no room for it."""
    try:
        fd = os.open(layout.reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return True
    except OSError as error:
        if refusal(error) is Refusal.NO_SPACE:
            return False
        raise
    try:
        os.posix_fallocate(fd, 0, _BYTES)
    except OSError as error:
        layout.reserve.unlink()
        if refusal(error) is Refusal.NO_SPACE:
            return False
        raise
    finally:
        os.close(fd)
    return True


@contextlib.contextmanager
def reserve_given_up(layout: Layout) -> Iterator[None]:
    """For the length of a block that is going to make room; afterwards the reserve is made again if that succeeded."""
    with store_errors(layout.reserve):
        layout.reserve.unlink(missing_ok=True)
    try:
        yield
    finally:
        with store_errors(layout.reserve):
            keep_reserve(layout)
