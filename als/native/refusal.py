"""What an errno means, for callers that must act on it without knowing errno themselves."""

from __future__ import annotations

import enum
import errno


class Refusal(enum.Enum):
    """Why the kernel refused, as far as somebody here can do something about it."""

    NOT_PERMITTED = "not permitted"
    MISSING = "no such file, directory or device"
    BUSY = "in use"
    INVALID = "invalid"
    UNKNOWN_FILE_SYSTEM = "file system not known to the kernel"
    NEEDS_BLOCK_DEVICE = "mounts from block devices only"
    UNSUPPORTED = "not supported"
    DISCONNECTED = "the server of the mount is gone"
    NO_SPACE = "no space or quota left"
    TOO_MANY_LINKS = "the inode takes no further hardlink"
    BAD_MESSAGE = "not of the expected kind"
    OTHER_DEVICE = "on another file system"
    OTHER = "other"


_MEANING = {
    errno.EPERM: Refusal.NOT_PERMITTED,
    errno.EACCES: Refusal.NOT_PERMITTED,
    errno.ENOENT: Refusal.MISSING,
    errno.ENOTDIR: Refusal.MISSING,
    errno.ENXIO: Refusal.MISSING,
    errno.EBUSY: Refusal.BUSY,
    errno.ETXTBSY: Refusal.BUSY,
    errno.EINVAL: Refusal.INVALID,
    errno.EUCLEAN: Refusal.INVALID,
    errno.ENODEV: Refusal.UNKNOWN_FILE_SYSTEM,
    errno.ENOTBLK: Refusal.NEEDS_BLOCK_DEVICE,
    errno.ENOTTY: Refusal.UNSUPPORTED,
    errno.EOPNOTSUPP: Refusal.UNSUPPORTED,
    errno.ENOSYS: Refusal.UNSUPPORTED,
    errno.ENOTCONN: Refusal.DISCONNECTED,
    errno.ECONNABORTED: Refusal.DISCONNECTED,
    errno.ENOSPC: Refusal.NO_SPACE,
    errno.EDQUOT: Refusal.NO_SPACE,
    errno.EMLINK: Refusal.TOO_MANY_LINKS,
    errno.EBADMSG: Refusal.BAD_MESSAGE,
    errno.EXDEV: Refusal.OTHER_DEVICE,
}


def refusal(error: OSError) -> Refusal:
    """The meaning of an error raised by :mod:`als.native` or by the standard library."""
    return _MEANING.get(error.errno or 0, Refusal.OTHER)
