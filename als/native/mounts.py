"""mount(2), umount2(2) and unshare(2).

The newer fsopen/fsmount interface was left out: nothing here needs a detached mount, and with it the kernels that als
supports differ more than with mount(2).
"""

from __future__ import annotations

import enum
import os

from als.native.extension import check, lib


class MountFlag(enum.IntFlag):
    """``MS_*`` of mount(2)."""

    NONE = 0
    RDONLY = lib.MS_RDONLY
    NOSUID = lib.MS_NOSUID
    NODEV = lib.MS_NODEV
    NOEXEC = lib.MS_NOEXEC
    REMOUNT = lib.MS_REMOUNT
    NOATIME = lib.MS_NOATIME
    BIND = lib.MS_BIND
    REC = lib.MS_REC
    PRIVATE = lib.MS_PRIVATE
    SLAVE = lib.MS_SLAVE
    SHARED = lib.MS_SHARED


class UnmountFlag(enum.IntFlag):
    """``MNT_*`` and ``UMOUNT_*`` of umount2(2)."""

    NONE = 0
    FORCE = lib.MNT_FORCE
    DETACH = lib.MNT_DETACH
    NOFOLLOW = lib.UMOUNT_NOFOLLOW


class Namespace(enum.IntFlag):
    """``CLONE_NEW*`` of unshare(2)."""

    MOUNT = lib.CLONE_NEWNS
    NETWORK = lib.CLONE_NEWNET
    IPC = lib.CLONE_NEWIPC
    UTS = lib.CLONE_NEWUTS
    USER = lib.CLONE_NEWUSER
    PID = lib.CLONE_NEWPID
    CGROUP = lib.CLONE_NEWCGROUP


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    fstype: str = "",
    flags: MountFlag = MountFlag.NONE,
    options: str = "",
) -> None:
    """mount(2).

    :param options: the file system's own options, comma separated; the kernel takes less than one page of them.
    :raises OSError: with the kernel's errno.
    :raises ValueError: an argument contains a zero byte, or `options` do not fit in a page.
    """
    arguments = [os.fsencode(source), os.fsencode(target), fstype.encode(), os.fsencode(options)]
    if any(b"\0" in argument for argument in arguments):
        raise ValueError("embedded null byte")
    # The kernel copies one page and cuts off what does not fit, without a word.
    if len(arguments[3]) >= os.sysconf("SC_PAGE_SIZE"):
        raise ValueError(f"{len(arguments[3])} bytes of mount options do not fit in a page")
    check(lib.mount(arguments[0], arguments[1], arguments[2], flags, arguments[3]), source, target)


def unmount(target: str | os.PathLike[str], flags: UnmountFlag = UnmountFlag.NOFOLLOW) -> None:
    """umount2(2).

    :raises OSError: EINVAL: nothing is mounted there; EBUSY: it is in use (and DETACH was not given).
    """
    raw = os.fsencode(target)
    if b"\0" in raw:
        raise ValueError("embedded null byte")
    check(lib.umount2(raw, flags), target)


def unshare(namespaces: Namespace) -> None:
    """unshare(2): move the calling *thread* into new namespaces.

    :raises OSError: EPERM without the privilege, EINVAL for USER in a process of several threads.
    """
    check(lib.unshare(namespaces))


def clone_mount(path: str | os.PathLike[str]) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a descriptor of a private copy of the mount that `path` is on, seen from `path`.

    Other mounts below `path` are not copied, so what they cover can be reached. The copy ends with the descriptor.

    :raises OSError: the kernel is older than 5.2, or we may not.
    """
    return check(lib.als_open_tree_clone(os.fsencode(path)), path)
