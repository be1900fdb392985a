"""Locks between the processes that share one store (the daemon, command lines, several of each).

All are flock(2) locks, so a process that dies lets go of everything it held. Lock files are never removed, but those of
layers, by who holds the store's lock alone: they are taken only under the shared one. Locks are always taken in this order, and
a process that holds a later one never asks for an earlier one:

1. **store** (``ROOT/lock``), shared: by everything that adds objects, layers, images or references, from before it looks
   whether something is there until it has linked it. Exclusive: by what removes objects or layers. Thus nothing disappears
   between being found and being used. Taken by :func:`sharing` and :func:`excluding`, which let nobody starve.
2. **layer** (``ROOT/locks/<diffID>``), exclusive: by whoever makes that layer. The others wait, look again, and find it
   made: one download whatever the number of askers. Before it, **blob** (there as well, named by a hash that no DiffID
   is), exclusive: by whoever looks at whether a blob holds a layer that is here already.
3. **image stores** (``layers.lock`` and ``images.lock`` in ROOT/is4 and ROOT/image-store), the locks that containers/storage
   takes itself, fcntl(2) locks (see :mod:`als.imagestore`): by whoever rewrites layers.json or images.json. One at a time.
4. **clients' own locks**, shared, for as long as their records are read: by whoever asks what they use.
5. **records** (``ROOT/locks/uses``, ``ROOT/locks/clients``, ``ROOT/locks/setup``), exclusive: by whoever changes a count, the
   list of clients, or the clients' configuration.

flock and not fcntl for our own, because fcntl locks belong to a process: two threads of the daemon would not exclude each
other, and closing any descriptor of the file would let go of them all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from als.errors import LockTimeout
from als.store.refused import store_errors

_POLL_SECONDS = 0.02
_EXCLUDE_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_SHARE_TIMEOUT = 300.0


@contextlib.contextmanager
def locked(
    path: Path, *, exclusive: bool = True, timeout: float | None = 60.0, give_up: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Hold a lock file for the length of a ``with`` block.

    flock(2) itself knows no deadline, therefore the lock is tried again and again; waiters are few and waits are rare.

    :param timeout: seconds to wait; None where `give_up` decides.
    :param give_up: asked while waiting; True ends the wait.
    :raises LockTimeout: somebody else held it for all that time.
    """
    operation = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB
    with store_errors(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, operation)
                break
            except BlockingIOError:
                if (end is not None and time.monotonic() >= end) or (give_up is not None and give_up()):
                    raise LockTimeout(
                        "another process holds this lock", where=str(path), hint="look with `fuser` which one"
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def sharing(path: Path, *, timeout: float = _SHARE_TIMEOUT) -> Iterator[None]:
    """Hold the store's lock beside others who add to it.

    :raises LockTimeout: somebody removed things from the store for all that time.
    """
    with contextlib.ExitStack() as held:
        with locked(_gate(path), exclusive=False, timeout=timeout):
            held.enter_context(locked(path, exclusive=False, timeout=timeout))
        yield


@contextlib.contextmanager
def excluding(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the store's lock alone.

    Pulls that follow upon one another would leave no moment in which nobody shares the lock. So whoever wants it alone
    closes a gate that newcomers pass, but for some seconds at a time only: a pull that is under way may take much longer,
    and the lookups of podman are not to wait for its end.

    :raises LockTimeout: somebody else held it for all that time.
    """
    end = time.monotonic() + timeout
    while True:
        slot = max(0.0, min(_EXCLUDE_SECONDS, end - time.monotonic()))
        try:
            with contextlib.ExitStack() as held:
                with locked(_gate(path), timeout=slot):
                    held.enter_context(locked(path, timeout=slot))
                taken = held.pop_all()
            break
        except LockTimeout:
            if time.monotonic() + _PAUSE_SECONDS >= end:
                raise
            time.sleep(_PAUSE_SECONDS)
    with taken:
        yield


def _gate(path: Path) -> Path:
    return path.with_name(f"{path.name}.gate")
