"""The daemon's FUSE face from mount to unmount.

When it stops, the mount is first detached, so that a path below it leads to what lies underneath (symlinks to completed
layers, which the store keeps there) and never to a dead mount; then everybody who still waits is answered; then the
connection is closed.

The mount's options. No ``allow_other``: only root, which podman and CRI-O run as, may look in. Other users could otherwise
have images pulled with root's credentials and read the blobs of private ones. No ``ro``: see :mod:`als.fuse.operations`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from als.errors import KernelError
from als.fuse.backend import Backend
from als.fuse.calls import Calls, Deadlines
from als.fuse.connection import allow_background
from als.fuse.mountpoint import clear, resolve
from als.fuse.operations import LayerOperations
from als.mount.unmounting import unmount

_LOG = logging.getLogger(__name__)

_MOUNT_OPTIONS = frozenset({"fsname=als", "subtype=als", "default_permissions", "nodev", "nosuid", "noexec"})
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


async def serve(
    backend: Backend,
    mountpoint: Path,
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
    await clear(where)
    calls = Calls(max_waiting=options.max_waiting, max_lazy_reads=options.max_lazy_reads)
    operations = LayerOperations(
        backend, calls, options.deadlines, lookup_threads=options.lookup_threads, io_threads=options.io_threads
    )
    _mount(operations, where)
    detached = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.lookups.run)
            nursery.start_soon(_announce, where, options.background, ready)
            nursery.start_soon(_run_session, options.tasks, nursery.cancel_scope)
            await until()
            detached = unmount(where, lazily=True)
            if not await calls.stop(options.deadlines.stop):
                _LOG.warning("some requests were still unanswered after %g s", options.deadlines.stop)
            nursery.cancel_scope.cancel()
        if not detached:
            _LOG.warning("%s was unmounted by somebody else: nothing is served any more", where)
    finally:
        pyfuse3.close(unmount=not detached)


def run(
    backend: Backend,
    mountpoint: Path,
    *,
    ready: Callable[[], None],
    options: ServeOptions | None = None,
) -> None:
    """`serve` until SIGTERM or SIGINT. To be called on the main thread.

    :raises als.errors.AlsError: as `serve`.
    """

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await serve(backend, mountpoint, ready=ready, until=signals.__anext__, options=options)

    trio.run(main)


def _mount(operations: LayerOperations, where: Path) -> None:
    try:
        pyfuse3.init(operations, str(where), set(_MOUNT_OPTIONS))
    except RuntimeError as error:
        raise KernelError(
            f"cannot mount: {error}", where=str(where), hint="it needs root and /dev/fuse; libfuse printed the reason"
        ) from error


async def _run_session(max_tasks: int, everything: trio.CancelScope) -> None:
    """Handle requests until the kernel sends no more, because nothing is mounted and nobody holds a file open any more."""
    await pyfuse3.main(min_tasks=1, max_tasks=max_tasks)
    everything.cancel()


async def _announce(where: Path, background: int, ready: Callable[[], None]) -> None:
    def answer() -> None:
        os.statvfs(where)
        try:
            allow_background(where, background)
        except KernelError as error:
            _LOG.warning("reads of different files may wait for each other: %s", error)

    with trio.move_on_after(_FIRST_ANSWER_SECONDS):
        await trio.to_thread.run_sync(answer, abandon_on_cancel=True)
        ready()
        return
    _LOG.error("%s does not answer after %g s", where, _FIRST_ANSWER_SECONDS)
