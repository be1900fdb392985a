"""The lock files of a containers/storage tree (go.podman.io/storage, ``lockfile.go``, ``lockfile_unix.go``).

Clients take fcntl(2) locks on ``layers.lock`` and compare its first 64 bytes with those they saw last: other bytes mean
that somebody has written, and layers.json is read again, also by a process that runs for months.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from als.errors import LockTimeout

_LAST_WRITER_BYTES = 64
_POLL_SECONDS = 0.01


class StorageLock:
    """A lock file that is shared with containers/storage. Threads of this process exclude each other as well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # fcntl locks do not work between threads, so they queue up here first.
        self._thread_lock = threading.Lock()

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
        late = LockTimeout("a container engine holds this lock", where=str(self._path), hint="look with `fuser` which one")
        if not self._thread_lock.acquire(timeout=timeout):
            raise late
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                end = time.monotonic() + timeout
                while True:
                    try:
                        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except (BlockingIOError, PermissionError):
                        if time.monotonic() >= end:
                            raise late from None
                        time.sleep(_POLL_SECONDS)
                yield lambda: _announce(fd)
            finally:
                os.close(fd)
        finally:
            self._thread_lock.release()


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
        end = time.monotonic() + timeout
        while True:
            try:
                fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= end:
                    raise LockTimeout("a container engine holds this lock", where=str(path)) from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


def _announce(fd: int) -> None:
    # Through the descriptor that holds the lock: closing another one of the same file would let go of it.
    os.pwrite(fd, secrets.token_bytes(_LAST_WRITER_BYTES), 0)
