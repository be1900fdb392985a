"""/dev/fuse: the kernel's end of a FUSE connection."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from pathlib import Path

_DEVICE = Path("/dev/fuse")
_CLONE = 0x8004E500
"""FUSE_DEV_IOC_CLONE, ``_IOR(229, 0, uint32_t)``, as <linux/fuse.h> has it."""


def open_device() -> int:
    """A descriptor to mount with.

    :raises OSError: there is no such device, or it may not be opened.
    """
    return os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)


def clone_device(device: int) -> int:
    """One more descriptor of a connection, with requests of its own.

    What was read from it and not answered fails, to whoever waits, when its last copy is closed; the connection stays.

    :param device: of a connection that is mounted.
    :raises OSError: the kernel refuses.
    """
    clone = open_device()
    try:
        fcntl.ioctl(clone, _CLONE, struct.pack("=I", device))
    except OSError:
        os.close(clone)
        raise
    return clone


def read_request(device: int, most: int, seconds: float) -> bytes:
    """The next request.

    :param most: bytes; the kernel wants room for the largest that it may send.
    :param seconds: the deadline.
    :raises TimeoutError: there is none.
    :raises OSError: nothing is mounted any more.
    """
    poll = select.poll()
    poll.register(device, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise TimeoutError(f"the kernel sends no request within {seconds:g} s")
    return os.read(device, most)
