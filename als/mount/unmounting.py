"""Taking mounts away again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from als.errors import KernelError
from als.mount.table import mounts_below
from als.native import mounts as native
from als.native.refusal import Refusal, refusal


def unmount(path: Path, *, lazily: bool = False) -> bool:
    """Unmount what is mounted at `path`, of several mounts the top one.

    :param lazily: take it out of sight at once even while in use; it ends when its last user does.
    :returns: whether something was mounted there.
    :raises KernelError: it is in use, or may not be unmounted.
    """
    flags = native.UnmountFlag.NOFOLLOW | (native.UnmountFlag.DETACH if lazily else native.UnmountFlag.NONE)
    try:
        native.unmount(path, flags)
    except OSError as error:
        match refusal(error):
            case Refusal.INVALID | Refusal.MISSING:
                return False
            case Refusal.BUSY:
                hint = f"`fuser -vm {path}` shows who uses it"
            case Refusal.NOT_PERMITTED:
                hint = "this needs CAP_SYS_ADMIN: run as root"
            case _:
                hint = ""
        raise KernelError(f"cannot unmount: {error.strerror}", where=str(path), hint=hint) from error
    return True


def unmount_all(path: Path) -> None:
    """Take away all that is mounted at `path`, also what is covered there. Who uses it goes on with it.

    :raises KernelError: it may not be unmounted.
    """
    while unmount(path, lazily=True):
        pass


def unmount_below(path: Path, *, lazily: bool = False) -> int:
    """Unmount everything at `path` and below it.

    :returns: the number of mounts taken away.
    :raises KernelError: one of them is in use; those below it are gone already.
    """
    return sum(unmount(entry.target, lazily=lazily) for entry in mounts_below(path))


@contextmanager
def cloned_mount(path: Path) -> Iterator[Path]:
    """A directory without what is mounted below it: what such mounts cover can be reached by the path that is given.

    :raises KernelError: the kernel refuses.
    """
    try:
        fd = native.clone_mount(path)
    except OSError as error:
        raise KernelError(f"cannot copy the mount: {error.strerror}", where=str(path)) from error
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@contextmanager
def unmounting(path: Path) -> Iterator[Path]:
    """Around a block that mounts something at `path`: whatever happens in it, afterwards nothing is mounted there or below."""
    try:
        yield path
    finally:
        unmount_below(path, lazily=True)
