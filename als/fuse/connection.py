"""How many reads the kernel may send at once.

What it reads ahead in a file, it asks for in requests that it calls background ones. Of those it sends 12 for a whole mount
(``FUSE_DEFAULT_MAX_BACKGROUND`` in its ``fs/fuse/inode.c``) and keeps all others until one is answered. So twelve reads of a
registry that stalls would hold up every other one, of whatever layer. pyfuse3 offers no say in that, but the kernel takes
another number through its file system of FUSE connections. Reads of single pages it sends on their own when there are many
others (``fuse_readahead`` in its ``fs/fuse/file.c``), and as many as there are threads that wait.

Tried and left as they are: reading ahead further than 128 KiB (/sys/class/bdi/*/read_ahead_kb) serves a file from memory at
2000 instead of 800 MB/s, more than any link brings, but lets a page fault in a program wait for a megabyte around it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from als.errors import KernelError
from als.mount.table import is_mount
from als.mount.unmounting import unmounting
from als.native import mounts as native

_CONTROL = Path("/sys/fs/fuse/connections")
_FSTYPE = "fusectl"


def allow_background(mountpoint: Path, requests: int) -> None:
    """Let the kernel send so many background requests at once. To be called when the mount answers.

    :raises KernelError: it cannot be set.
    """
    try:
        with _control() as control:
            connection = control / str(os.minor(mountpoint.stat().st_dev))
            # From three quarters on the kernel reads nothing ahead that nobody waits for: the proportion is its own.
            for name, value in (("max_background", requests), ("congestion_threshold", requests * 3 // 4)):
                (connection / name).write_text(str(value))
    except OSError as error:
        raise KernelError(
            f"cannot set how many reads there may be at once: {error}",
            where=str(mountpoint),
            hint=f"mount -t {_FSTYPE} {_FSTYPE} {_CONTROL}",
        ) from error


@contextmanager
def _control() -> Iterator[Path]:
    """The kernel's file system of FUSE connections; systemd mounts it, who runs without may have to."""
    if is_mount(_CONTROL):
        yield _CONTROL
        return
    with tempfile.TemporaryDirectory(prefix="als-") as scratch, unmounting(Path(scratch)):
        native.mount(_FSTYPE, scratch, _FSTYPE)
        yield Path(scratch)
