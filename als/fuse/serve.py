"""The daemon's FUSE face from mount to unmount.

When it stops, and nobody holds the connection for a process after this one, the mount is first detached, so that a path
below it leads to what lies underneath (symlinks to completed layers, which the store keeps there) and never to a dead
mount; then everybody who still waits is answered; then the connection is closed. When somebody holds it, nothing is
detached and nobody who waits is answered: that is left to the next process.

The mount's options (:mod:`als.fuse.connection`). No ``allow_other``: only root, which podman and CRI-O run as, may look in.
Other users could otherwise have images pulled with root's credentials and read the blobs of private ones. No ``ro``: see
:mod:`als.fuse.operations`.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from als.fuse.backend import Backend
from als.fuse.calls import Calls, Deadlines
from als.fuse.connection import Connection, Holder, connect
from als.fuse.mountpoint import resolve
from als.fuse.operations import LayerOperations
from als.mount.lazy import withdraw

_LOG = logging.getLogger(__name__)

_FIRST_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What may be tuned; the defaults are meant for every machine."""

    deadlines: Deadlines = field(default_factory=Deadlines)
    lookup_threads: int = 128
    """Lookups that the backend works on at once."""
    io_threads: int = 32
    """Other calls of the backend at once, of each kind."""
    max_waiting: int = 960
    """Requests that may wait for the backend."""
    max_lazy_reads: int = 4096
    """Reads of lazy files that may wait. Most are background requests; the others are as many as threads that wait for one."""
    background: int = 512
    """Reads that the kernel sends in the background, of all files; less than `max_waiting`, so that names can be looked up."""
    spare_tasks: int = 64
    """Requests that are handled beside those, because they do not wait."""

    @property
    def tasks(self) -> int:
        """Requests at once."""
        return self.max_waiting + self.max_lazy_reads + self.spare_tasks


@dataclass(frozen=True, slots=True)
class Outliving:
    """How a connection outlives this process, if it does."""

    run: Path
    """The folder of the file that says what the kernel knows."""
    holder: Holder | None = None
    """Keeps the connection; None: it ends with this process."""
    alive: Callable[[], None] = lambda: None
    """To be called again and again as long as requests are handled."""
    alive_seconds: float = math.inf
    """How often."""


async def serve(
    backend: Backend,
    mountpoint: Path,
    outliving: Outliving,
    *,
    ready: Callable[[], None],
    until: Callable[[], Awaitable[object]],
    options: ServeOptions | None = None,
) -> None:
    """Serve the layers at `mountpoint` until `until` returns, or somebody unmounts it.

    Only one at a time in a process: pyfuse3 keeps its session in a global.

    :param ready: called once, when the mount answers.
    :param until: waits for the reason to stop, such as ``trio.Event().wait``.
    :raises als.errors.StoreError: another als serves there, or the mount point cannot be used.
    :raises als.errors.KernelError: it cannot be mounted.
    """
    options = options or ServeOptions()
    where = resolve(mountpoint)
    connection = await connect(where, outliving.run, options.background, outliving.holder)
    calls = Calls(max_waiting=options.max_waiting, max_lazy_reads=options.max_lazy_reads)
    operations = LayerOperations(
        backend,
        calls,
        options.deadlines,
        connection.table,
        lookup_threads=options.lookup_threads,
        io_threads=options.io_threads,
    )
    session = _Session(held=outliving.holder is not None)
    try:
        connection.attach(operations)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.lookups.run)
            nursery.start_soon(_announce, where, ready)
            nursery.start_soon(_show_life, outliving)
            nursery.start_soon(session.run, options.tasks, nursery.cancel_scope)
            await until()
            if outliving.holder is None or not outliving.holder.stopping():
                session.over = True
                withdraw(where)
                if not await calls.stop(options.deadlines.stop):
                    _LOG.warning("some requests were still unanswered after %g s", options.deadlines.stop)
            nursery.cancel_scope.cancel()
    finally:
        _close(connection, where, outliving, session)


def run(
    backend: Backend,
    mountpoint: Path,
    outliving: Outliving,
    *,
    ready: Callable[[], None],
    options: ServeOptions | None = None,
) -> None:
    """`serve` until SIGTERM or SIGINT. To be called on the main thread.

    :raises als.errors.AlsError: as `serve`.
    """

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await serve(backend, mountpoint, outliving, ready=ready, until=signals.__anext__, options=options)

    trio.run(main)


class _Session:
    """pyfuse3's main loop, and whether there is anything left to serve."""

    def __init__(self, *, held: bool) -> None:
        """
        :param held: whoever holds the connection may end it.
        """
        self._held = held
        self.over = False

    async def run(self, max_tasks: int, everything: trio.CancelScope) -> None:
        """Handle requests until the kernel sends no more, because nothing is mounted and nobody holds a file open any more."""
        await pyfuse3.main(min_tasks=1, max_tasks=max_tasks)
        if not self.over:
            who = "" if self._held else " by somebody else"
            _LOG.warning("what was mounted was unmounted%s: nothing is served any more", who)
        self.over = True
        everything.cancel()


def _close(connection: Connection, where: Path, outliving: Outliving, session: _Session) -> None:
    pyfuse3.close(unmount=False)
    if not session.over and outliving.holder is None:
        # A defect ends us; the mount would answer nothing any more.
        withdraw(where)
        session.over = True
    connection.close(outliving.holder, over=session.over)


async def _announce(where: Path, ready: Callable[[], None]) -> None:
    with trio.move_on_after(_FIRST_ANSWER_SECONDS):
        await trio.to_thread.run_sync(os.statvfs, where, abandon_on_cancel=True)
        ready()
        return
    _LOG.error("%s does not answer after %g s", where, _FIRST_ANSWER_SECONDS)


async def _show_life(outliving: Outliving) -> None:
    """As long as this runs, requests are handled: both are tasks of one thread."""
    while True:
        outliving.alive()
        await trio.sleep(outliving.alive_seconds)
