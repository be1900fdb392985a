"""The compiled extension ``als._kernel``, and how the failure of a call in it becomes an OSError."""

from __future__ import annotations

import os

try:
    from als._kernel import ffi, lib
except ImportError as error:
    raise ImportError(
        "the extension als._kernel is not built; in a checkout run `pip install -e .` (needs gcc, python3-dev, linux-libc-dev)"
    ) from error

__all__ = ["check", "ffi", "lib"]


def check(result: int, *paths: str | os.PathLike[str]) -> int:
    """The result of a call that just returned on this thread.

    :param paths: what the call was about; at most two, named in the error.
    :raises OSError: the call returned a negative number; of the subclass that fits errno.
    """
    if result >= 0:
        return result
    number = ffi.errno
    names = [os.fspath(path) for path in paths]
    if len(names) == 2:
        raise OSError(number, os.strerror(number), names[0], None, names[1])
    raise OSError(number, os.strerror(number), *names)
