"""The place where the daemon mounts, before and after.

What is mounted there is read from the kernel's table. Whether a FUSE mount is alive is asked with statfs(2), which always
goes to the daemon, in a thread under a deadline: a stat could be answered from the kernel's cache for a mount that is
dead, and a daemon that hangs answers nothing at all.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from als.errors import StoreError
from als.mount.lazy import withdraw
from als.mount.table import find_mount
from als.native.refusal import Refusal, refusal

FSTYPE = "fuse.als"
"""The type under which our mounts stand in the kernel's table."""

_ANSWER_SECONDS = 10.0
_MOST_STACKED = 16
_MOST_LINKS = 40


def resolve(mountpoint: Path) -> Path:
    """The absolute path without symlinks; it may be a mount that answers nothing, so that itself is not asked for anything.

    :raises StoreError: symlinks lead nowhere but to each other.
    """
    path = mountpoint
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.absolute().parent)) / path.name
        try:
            # Of a mount this is not answered by who serves it: the kernel knows that it is no symlink.
            path = path.parent / path.readlink()
        except OSError:
            return path
    raise StoreError("too many symlinks", where=str(mountpoint))


async def clear(mountpoint: Path) -> None:
    """Make a mount point usable: create the directory, detach what dead daemons left there.

    :param mountpoint: as `resolve` gives it.
    :raises StoreError: a living als serves there, or one that hangs; or it is no directory.
    :raises als.errors.KernelError: a dead mount cannot be detached.
    """
    for _ in range(_MOST_STACKED):
        entry = find_mount(mountpoint)
        if entry is None or not entry.fstype.startswith("fuse"):
            break
        if await _is_connected(mountpoint):
            if entry.fstype != FSTYPE:
                break
            raise StoreError("another als serves there", where=str(mountpoint), hint="stop it, or give this one another --root")
        withdraw(mountpoint)
    else:
        raise StoreError(f"more than {_MOST_STACKED} dead mounts lie there", where=str(mountpoint))
    try:
        mountpoint.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the mount point: {error.strerror}", where=str(mountpoint)) from error


async def _is_connected(mountpoint: Path) -> bool:
    """Whether a daemon is behind a FUSE mount.

    :raises StoreError: there is one, but it does not answer.
    """
    with trio.move_on_after(_ANSWER_SECONDS):
        try:
            await trio.to_thread.run_sync(os.statvfs, mountpoint, abandon_on_cancel=True)
        except OSError as error:
            return refusal(error) is not Refusal.DISCONNECTED
        return True
    raise StoreError(
        f"the daemon that serves there did not answer within {_ANSWER_SECONDS:g} s",
        where=str(mountpoint),
        hint="end it, then start again",
    )
