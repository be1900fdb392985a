"""The connection to the kernel: made anew, or taken over from a process before this one.

A FUSE file system lives as long as anybody has its /dev/fuse open. Somebody who does not die with us (a `Holder`: systemd, or
als's own keeper) can keep that descriptor. Then a process that is killed aborts nothing: requests wait in the kernel, the
next process is given the descriptor, asks for those again that the last one had read and not answered, and serves on.

libfuse cannot take over a connection: it wants to hear FUSE_INIT, which the kernel sends once. So als mounts and negotiates
by itself, always, and pyfuse3 gets one end of a socket that says FUSE_INIT in the kernel's place. Before libfuse writes its
answer it calls `Operations.init`; there the connection takes the socket's place under the same number. The answer so goes to
the kernel, for which it is one that nobody waits for (ENOENT), and that libfuse passes over. Rejected: a relay between
libfuse and the kernel, which would copy all data once more and could die itself.

Older kernels (before 6.9) cannot send anything again. There each process reads its requests from a clone of the descriptor,
which is closed with it: what it had read fails instead of waiting for ever. Much of that nobody sees, since the kernel asks
once more for what it read ahead.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyfuse3

from als.errors import AlsError, KernelError, StoreError
from als.fuse import journal, wire
from als.fuse.mountpoint import FSTYPE, clear
from als.fuse.nodes import NodeTable
from als.fuse.operations import LayerOperations
from als.mount.lazy import withdraw
from als.mount.table import find_mount
from als.mount.unmounting import unmount
from als.native import fuse
from als.native import mounts as native
from als.native.listeners import Keeper

_LOG = logging.getLogger(__name__)

_SOURCE = "als"
_FLAGS = native.MountFlag.NODEV | native.MountFlag.NOSUID | native.MountFlag.NOEXEC
_FIRST_REQUEST_SECONDS = 10.0
_ROOM = 1 << 17
"""Bytes; more than any first request has."""


class Holder(Keeper, Protocol):
    """Keeps the connection for the process that comes after this one, and is told of this one's end."""

    def stopping(self) -> bool:
        """Tell that this process ends; False: nobody is there any more who would keep anything."""
        ...


@dataclass(frozen=True, slots=True)
class Connection:
    """One that is mounted and negotiated."""

    name: str
    device: int
    journal: journal.Journal
    taken_over: bool

    @property
    def table(self) -> NodeTable:
        """The nodes that the kernel knows."""
        return self.journal.table

    def attach(self, operations: LayerOperations) -> None:
        """Let pyfuse3 serve it, from when its main loop runs.

        :raises KernelError: it cannot.
        """
        ours, libfuses = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        agreed = self.journal.header.agreed
        # libfuse closes it in the end.
        number = libfuses.detach()

        def switch() -> None:
            with ours:
                device = self.device if agreed.resends else fuse.clone_device(self.device)
                os.dup2(device, number, inheritable=False)
                if device != self.device:
                    os.close(device)
                elif self.taken_over:
                    os.write(device, wire.resend())

        ours.send(wire.init_request(agreed))
        operations.when_initialized = switch
        try:
            pyfuse3.init(operations, f"/dev/fd/{number}", {f"fsname={_SOURCE}"})
        except RuntimeError as error:
            raise KernelError(f"libfuse cannot serve: {error}", hint="it printed the reason") from error

    def close(self, holder: Holder | None, *, over: bool) -> None:
        """
        :param over: nothing is mounted any more, or not for long; otherwise the next process goes on with it.
        """
        self.journal.close(remove=over)
        if over and holder is not None:
            holder.drop(self.name)
        os.close(self.device)


def is_held(holder: Holder | None) -> bool:
    """Whether there may be clients that wait for this process, because somebody holds the connection of one before it."""
    return holder is not None and any(map(journal.is_ours, holder.held()))


async def connect(mountpoint: Path, run: Path, background: int, holder: Holder | None) -> Connection:
    """The connection of a mount point: the one that is held, or else a new one.

    :param mountpoint: as `als.fuse.mountpoint.resolve` gives it.
    :param run: where the file of what the kernel knows lies.
    :param background: see `als.fuse.wire.init_reply`.
    :raises StoreError: another als serves there, or the mount point cannot be used.
    :raises KernelError: it cannot be mounted.
    """
    taken = _take_over(mountpoint, run, holder) if holder is not None else None
    if taken is not None:
        return taken
    await clear(mountpoint)
    for left in run.glob("als-fuse-*"):
        left.unlink()
    connection = _mount(mountpoint, run, background)
    if holder is not None:
        holder.hold(connection.name, connection.device)
    return connection


def _take_over(mountpoint: Path, run: Path, holder: Holder) -> Connection | None:
    for name, device in holder.held().items():
        if not journal.is_ours(name):
            continue
        try:
            return _taken(mountpoint, run, name, device)
        except (AlsError, OSError) as error:
            _LOG.warning("the former connection cannot be taken over, and ends: %s", error)
            holder.drop(name)
            os.close(device)
            # With nobody to answer for it, it would let everybody wait who looks at it.
            entry = find_mount(mountpoint)
            if entry is not None and entry.fstype == FSTYPE:
                withdraw(mountpoint)
    return None


def _taken(mountpoint: Path, run: Path, name: str, device: int) -> Connection:
    """
    :raises StoreError: it is no connection to what is mounted there, or nothing is known of it.
    """
    header, table = journal.read(run / name)
    entry = find_mount(mountpoint)
    if entry is None or entry.fstype != FSTYPE or entry.device != header.device or header.mountpoint != str(mountpoint):
        raise StoreError("something else is mounted there now", where=str(mountpoint))
    os.set_inheritable(device, False)
    _LOG.info("serving on; the kernel knows %d files", len(table))
    return Connection(name, device, journal.Journal(run / name, header, table), taken_over=True)


def _mount(mountpoint: Path, run: Path, background: int) -> Connection:
    try:
        device = fuse.open_device()
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
        native.mount(_SOURCE, mountpoint, FSTYPE, _FLAGS, options)
    except OSError as error:
        raise KernelError(f"cannot mount: {error}", where=str(mountpoint), hint="it needs root and /dev/fuse") from error
    mounted = False
    try:
        offer = wire.parse_init(fuse.read_request(device, _ROOM, _FIRST_REQUEST_SECONDS))
        agreed = wire.negotiate(offer)
        os.write(device, wire.init_reply(offer, agreed, background))
        entry = find_mount(mountpoint)
        if entry is None:
            raise KernelError("what was mounted is gone", where=str(mountpoint))
        name = journal.new_name()
        header = journal.Header(str(mountpoint), entry.device, agreed)
        connection = Connection(name, device, journal.Journal(run / name, header, NodeTable()), taken_over=False)
        mounted = True
        return connection
    except OSError as error:
        raise KernelError(f"the kernel does not take als as a file system: {error}", where=str(mountpoint)) from error
    finally:
        if not mounted:
            os.close(device)
            unmount(mountpoint, lazily=True)
