"""fs-verity by the kernel: a file that has it can never be written again, and every block is checked when it is read.

Digests are those of overlay and composefs: SHA-256, blocks of 4,096 bytes, no salt; 32 bytes
(Documentation/filesystems/fsverity.rst).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from als.native.extension import check, ffi, lib

DIGEST_SIZE = 32
_NONE = (errno.ENODATA, errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS)
"""The file has none; the file system, or the kernel, never heard of it."""


def measure(fd: int) -> bytes | None:
    """The fs-verity digest that the kernel holds an open file to; None: to none.

    :raises OSError: it could not be asked; EBADMSG: the file was sealed in another way than ours.
    """
    digest = ffi.new("unsigned char[]", DIGEST_SIZE)
    try:
        check(lib.als_verity_measure(fd, digest))
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise
    return bytes(digest)


def measure_path(path: str | os.PathLike[str]) -> bytes | None:
    """The same for a file that is not open; a symlink is not followed.

    :raises OSError: as :func:`measure`, or it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return measure(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Sealed:
    """What became of one file."""

    digest: bytes
    fresh: bool
    """Whether it was sealed only now."""


def seal_files(paths: Sequence[str]) -> list[Sealed | None]:
    """Switch fs-verity on for files that do not have it; without the GIL from the first to the last.

    The kernel reads each file, writes its Merkle tree to the disk and forgets what it had cached of the file. Nobody may have
    it open for writing.

    :returns: None for a file that somebody else is sealing at this moment.
    :raises OSError: the error names the file; those before it are sealed. ENOTTY, EOPNOTSUPP: it cannot be done on this file
        system; ETXTBSY: somebody writes to it.
    """
    names = b"".join(os.fsencode(path) + b"\0" for path in paths)
    digests = ffi.new("unsigned char[]", DIGEST_SIZE * len(paths))
    states = ffi.new("unsigned char[]", len(paths))
    done = ffi.new("size_t *")
    result = lib.als_seal_files(len(paths), ffi.from_buffer(names), digests, states, done)
    check(result, paths[done[0]] if result < 0 else "")
    found = bytes(digests)
    return [
        None
        if state == lib.ALS_BEING_SEALED
        else Sealed(found[DIGEST_SIZE * at : DIGEST_SIZE * (at + 1)], state == lib.ALS_SEALED_NOW)
        for at, state in enumerate(states)
    ]
