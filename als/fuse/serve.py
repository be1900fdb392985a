"""The daemon's FUSE face from mount to unmount.

When it stops, the mount is first detached, so that a path below it leads to what lies underneath (symlinks to completed
layers, which the store keeps there) and never to a dead mount; then everybody who still waits is answered; then the
connection is closed.

The mount's options. No ``allow_other``: only root, which podman and CRI-O run as, may look in. Other users could otherwise
have images pulled with root's credentials and read the blobs of private ones. No ``ro``: see :mod:`als.fuse.operations`.
"""

from __future__ import annotations

import functools
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
    spare_tasks: int = 64
    """Requests that are handled beside those, because they do not wait."""


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
    calls = Calls(max_waiting=options.max_waiting)
    operations = LayerOperations(
        backend, calls, options.deadlines, lookup_threads=options.lookup_threads, io_threads=options.io_threads
    )
    _mount(operations, where)
    detached = False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operations.lookups.run)
            nursery.start_soon(_announce, where, ready)
            nursery.start_soon(_run_session, options.max_waiting + options.spare_tasks, nursery.cancel_scope)
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


async def _announce(where: Path, ready: Callable[[], None]) -> None:
    with trio.move_on_after(_FIRST_ANSWER_SECONDS):
        await trio.to_thread.run_sync(functools.partial(os.statvfs, where), abandon_on_cancel=True)
        ready()
        return
    _LOG.error("%s does not answer after %g s", where, _FIRST_ANSWER_SECONDS)
