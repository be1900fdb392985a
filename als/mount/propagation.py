"""Mount propagation: whether mounts made here are seen by container engines in mount namespaces of their own."""

from __future__ import annotations

import os
from pathlib import Path

from als.errors import KernelError
from als.mount.table import find_mount, location, mounts_below, read_mounts
from als.mount.unmounting import unmount
from als.native.mounts import MountFlag, mount


def ensure_shared(path: Path) -> bool:
    """Make sure that mounts made below `path` spread to other namespaces; whether something had to be done.

    systemd makes every mount shared at boot. Where something else started the machine, a service or engine in its own
    mount namespace would not see layers that are mounted later, so `path` is bound to itself and made shared.

    :raises KernelError: the kernel refuses.
    """
    here = location(path)
    covering = [entry for entry in read_mounts() if here.is_relative_to(entry.target)]
    # The longest path is the mount that `path` is on; of several at one path the last is on top.
    nearest = max(enumerate(covering), key=lambda item: (len(item[1].target.parts), item[0]))[1]
    if any(tag.startswith("shared:") for tag in nearest.propagation):
        return False
    try:
        if find_mount(path) is None:
            _bind_to_itself(here)
        mount("none", path, flags=MountFlag.SHARED)
    except OSError as error:
        raise KernelError(f"mounts below cannot be shared: {error.strerror}", where=str(path)) from error
    return True


def _bind_to_itself(path: Path) -> None:
    """Bind a directory with all mounts below it to itself, and leave none behind.

    The original mounts lie under the new one, out of reach but in force: their mount points could never be removed. So they
    are taken away, through a descriptor that leads below the new mount.
    """
    below = [entry.target.relative_to(path) for entry in mounts_below(path)]
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount(path, path, flags=MountFlag.BIND | MountFlag.REC)
        for relative in below:
            unmount(Path(f"/proc/self/fd/{fd}") / relative, lazily=True)
    finally:
        os.close(fd)
