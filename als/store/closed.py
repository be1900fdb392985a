"""Folders that nobody but root enters.

What we mount shows its files' data only to who may read the attributes by which they lead to their objects, and these are
``trusted.*``: root's. To a user who puts an overlay of his own (in a user namespace, as rootless podman does) over such a
mount, files have their names and sizes, and from Linux 6.18 on **read as zeros, without any error**. The kernel asks nobody
before such a mount, so the way to what is mounted has to be closed; and whoever opens it, or wants rootless podman to use the
store, is told by `als doctor` why that cannot be.
"""

from __future__ import annotations

import logging
import stat
from pathlib import Path

log = logging.getLogger(__name__)

_OTHERS = 0o077


def is_open(folder: Path) -> bool:
    """Whether others than its owner can do anything with a folder; not, if it does not exist.

    :raises OSError: it cannot be asked.
    """
    try:
        return bool(folder.stat().st_mode & _OTHERS)
    except FileNotFoundError:
        return False


def make_closed(folder: Path) -> None:
    """Make a folder if need be, and close it to others.

    :raises OSError: that cannot be done.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if is_open(folder):
        log.info("%s is closed to users: they would read zeros there", folder)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~_OTHERS)
