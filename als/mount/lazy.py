"""What stands over a lazy layer's ``diff``: a read-only overlay of the files that are here over what serves the rest.

A container's overlay looks a file up in it when the file is opened for the first time. What is here by then is found in the
upper of the two directories and read without als for ever; what is not is found in the lower one, which is FUSE, and stays
there for that container. Rejected: FUSE alone, which would keep als between containers and files that are long here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from als.errors import KernelError
from als.model.forest import FOREST
from als.mount.table import is_mount, read_mounts
from als.mount.unmounting import unmount
from als.native import mounts as native
from als.native.mounts import MountFlag
from als.native.refusal import Refusal, refusal

SOURCE = "als-lazy"
"""What /proc/self/mountinfo has as the source of such mounts."""
_FLAGS = MountFlag.RDONLY | MountFlag.NODEV | MountFlag.NOSUID | MountFlag.NOEXEC


def mount_lazy(here: Path, rest: Path, target: Path) -> None:
    """Mount the two directories on `target`, over what may be mounted there: nobody is to find the folder bare in between.

    :param here: the forest of what is here.
    :param rest: shows all files, and serves those that are not here.
    :raises KernelError: the kernel cannot or may not.
    """
    try:
        native.mount(SOURCE, target, "overlay", _FLAGS, f"lowerdir={_escaped(here)}:{_escaped(rest)}")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and refusal(error) is Refusal.NOT_PERMITTED:
            hint = "mounting needs CAP_SYS_ADMIN: run as root"
        else:
            hint = "`dmesg` may say more"
        raise KernelError(f"cannot mount a lazy layer: {error}", where=str(target), hint=hint) from error
    # Once overlay knows both of the forest's folders, it finds what is here without the lower one, should that die.
    with contextlib.suppress(OSError):
        (target / FOREST).stat()


def unmount_lazy(target: Path) -> None:
    """Take away all that :func:`mount_lazy` has mounted there; whoever uses it goes on with it.

    :raises KernelError: it may not be unmounted.
    """
    while is_mount(target):
        unmount(target, lazily=True)


def withdraw(mountpoint: Path) -> None:
    """Take the FUSE mount away for good, and with it all that :func:`mount_lazy` has put over what it serves. Whoever uses
    either goes on with it.

    A client that lists such a folder would get an error from then on, and podman lists them in nearly each of its commands. The
    next daemon covers them again; what a container that starts meanwhile does not find there it cannot read.

    :raises KernelError: it may not be unmounted.
    """
    unmount(mountpoint, lazily=True)
    served = f":{_escaped(mountpoint)}/"
    for entry in read_mounts():
        if entry.source == SOURCE and served in ",".join(entry.super_options):
            unmount(entry.target, lazily=True)


def _escaped(path: Path) -> str:
    """As overlay takes it apart (fs/overlayfs/params.c): a backslash before what separates."""
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
