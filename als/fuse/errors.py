"""From als's errors to errno: the one place.

Two questions are asked of the tree. For a *name* ("is that layer here?") every failure is ENOENT, because that is what makes
the client pull normally, whatever went wrong; the log says what did. For the *content* of a file that was already promised,
the errno says what kind of thing went wrong, and is never ENOENT for what is merely out of reach. To a container, though, a
file whose bytes cannot be had is a disk that cannot be read, whatever the reason: EIO is what programs expect of read(2).
"""

from __future__ import annotations

import errno

import pyfuse3

from als.errors import (
    AlsError,
    BadImage,
    DeadlineExceeded,
    LockTimeout,
    NotFound,
    RegistryDenied,
    RegistryUnavailable,
    StoreFull,
)

_CONTENT_ERRNO: tuple[tuple[type[AlsError], int], ...] = (
    (NotFound, errno.ENOENT),
    (RegistryDenied, errno.EACCES),
    (RegistryUnavailable, errno.EHOSTUNREACH),
    (BadImage, errno.EIO),
    (StoreFull, errno.ENOSPC),
    (LockTimeout, errno.ETIMEDOUT),
    (DeadlineExceeded, errno.ETIMEDOUT),
)
"""First match wins; everything else is EIO."""


def content_errno(error: AlsError | OSError) -> int:
    """The errno for opening or reading a file's content when `error` happened."""
    for kind, number in _CONTENT_ERRNO:
        if isinstance(error, kind):
            return number
    return errno.EIO


def content_error(error: AlsError | OSError) -> pyfuse3.FUSEError:
    """What a handler raises when a file's content could not be had."""
    return pyfuse3.FUSEError(content_errno(error))


def unreadable() -> pyfuse3.FUSEError:
    """What a handler raises when bytes of a lazy layer's file could not be had."""
    return pyfuse3.FUSEError(errno.EIO)


def no_such_name() -> pyfuse3.FUSEError:
    """The answer to a name that is not served, and always to ``use`` and to rmdir of a layer. Never cached by the kernel."""
    return pyfuse3.FUSEError(errno.ENOENT)


def read_only() -> pyfuse3.FUSEError:
    """The answer to any attempt to change something, apart from the two gestures of the protocol."""
    return pyfuse3.FUSEError(errno.EROFS)


def no_such_attribute() -> pyfuse3.FUSEError:
    """The answer to every extended attribute."""
    return pyfuse3.FUSEError(errno.ENODATA)


def stale() -> pyfuse3.FUSEError:
    """The answer to an inode we were never asked for in this daemon's life: the kernel then walks the path again."""
    return pyfuse3.FUSEError(errno.ESTALE)


def wrong_kind(*, directory_wanted: bool) -> pyfuse3.FUSEError:
    """The answer to a request that does not fit the inode's type."""
    return pyfuse3.FUSEError(errno.ENOTDIR if directory_wanted else errno.EINVAL)
