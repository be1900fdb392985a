"""Loop devices: an image file as a block device, for kernels that mount EROFS from block devices only."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from als.native.extension import check, ffi, lib

_CONTROL = "/dev/loop-control"
_ATTEMPTS = 64


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """A configured loop device, held open.

    The kernel frees the device by itself once nobody has it open and nothing is mounted from it (AUTOCLEAR), so the
    order is: :func:`attach`, mount `path`, :meth:`close`.
    """

    path: str
    fd: int

    def close(self) -> None:
        os.close(self.fd)


def attach(backing_fd: int, *, direct_io: bool = False) -> LoopDevice:
    """A fresh read-only loop device over an open file.

    :param direct_io: read past the page cache of the backing file, which otherwise holds every block a second time. The
        kernel ignores it where the backing file system cannot.
    :raises OSError: ENOENT or EACCES: no loop devices here; EBUSY: others took every free device before we could.
    """
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            number = check(lib.als_loop_get_free(control), _CONTROL)
            device = _configure(f"/dev/loop{number}", backing_fd, direct_io)
            if device is not None:
                return device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), _CONTROL)


def _configure(path: str, backing_fd: int, direct_io: bool) -> LoopDevice | None:
    """The device, or None when somebody else was quicker: asking for a free number reserves nothing."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        check(lib.als_loop_configure(fd, backing_fd, int(direct_io)), path)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            return None
        raise
    return LoopDevice(path, fd)


def backing_file(device: str) -> tuple[int, int] | None:
    """The (st_dev, st_ino) of the file behind a loop device; None: no loop device, or one that is not in use.

    Unlike ``/sys/block/loopN/loop/backing_file`` this holds after a rename and in every mount namespace.

    :raises OSError: the device cannot be opened.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            return None
        dev, ino = ffi.new("uint64_t *"), ffi.new("uint64_t *")
        check(lib.als_loop_backing(fd, dev, ino), device)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOTTY, errno.EINVAL):
            return None
        raise
    finally:
        os.close(fd)
    return dev[0], ino[0]
