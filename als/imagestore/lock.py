"""The lock files of a containers/storage tree (go.podman.io/storage, ``lockfile.go``, ``lockfile_unix.go``).

Clients take fcntl(2) locks on ``layers.lock`` and compare its first 64 bytes with those they saw last: other bytes mean
that somebody has written, and layers.json is read again, also by a process that runs for months.

Ours are locks of the open file description (fcntl(2), "Open file description locks"). They exclude those of clients as theirs
exclude each other, but also threads of one process, and two who opened the same store in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from als.errors import LockTimeout

_LAST_WRITER_BYTES = 64
_POLL_SECONDS = 0.01
_FLOCK = struct.Struct("@hhlli4x")
"""struct flock where off_t is a long: type, whence, start, length, pid."""


class StorageLock:
    """A lock file that is shared with containers/storage."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make the file if it is missing: a client opens it read-only and fails without it."""
        if not self._path.exists():
            with self.held(10.0) as announce:
                announce()

    @contextlib.contextmanager
    def held(self, timeout: float) -> Iterator[Callable[[], None]]:
        """Exclude readers and writers; gives a function that tells every client that something has changed.

        :raises LockTimeout: somebody held it for `timeout` seconds.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(fd, fcntl.F_WRLCK, timeout, self._path)
            yield lambda: _announce(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def reading(path: Path, timeout: float) -> Iterator[None]:
    """Keep a client from writing what the lock file at `path` guards; no lock where it has never made one.

    :raises LockTimeout: the client held it for `timeout` seconds.
    :raises OSError: the file cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        yield
        return
    try:
        _lock(fd, fcntl.F_RDLCK, timeout, path)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, kind: int, timeout: float, path: Path) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= end:
                hint = "look with `fuser` which one"
                raise LockTimeout("a container engine holds this lock", where=str(path), hint=hint) from None
            time.sleep(_POLL_SECONDS)


def _announce(fd: int) -> None:
    os.pwrite(fd, secrets.token_bytes(_LAST_WRITER_BYTES), 0)
