"""What a worker gives up before it sees the first byte of a stranger."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass

from als.native.mounts import Namespace, unshare
from als.native.process import set_dumpable, set_no_new_privs, set_parent_death_signal
from als.native.seccomp import install
from als.worker.syscalls import client_filter, parser_filter


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The bounds of one worker."""

    uid: int
    gid: int
    network: bool
    """Whether it may reach a network; a worker that does not sees no files either."""
    memory_bytes: int
    """Of address space."""
    open_files: int = 256


def enter(sandbox: Sandbox, empty_folder: str) -> None:
    """Give up everything that `sandbox` does not grant. Cannot be undone.

    Modules that are to be used afterwards must have been imported before: there are no files to import from.

    :param empty_folder: becomes the root folder of a worker without network.
    :raises OSError: something could not be given up; the worker must end.
    """
    set_parent_death_signal(signal.SIGKILL)
    if not sandbox.network:
        unshare(Namespace.NETWORK | Namespace.IPC)
        os.chroot(empty_folder)
    os.chdir("/")
    if not sandbox.network:
        # Parsing needs no thread. The network's workers do, and the limit counts those of all workers together.
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    for what, value in (
        (resource.RLIMIT_AS, sandbox.memory_bytes),
        (resource.RLIMIT_NOFILE, sandbox.open_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))
    os.setgroups([])
    os.setresgid(sandbox.gid, sandbox.gid, sandbox.gid)
    os.setresuid(sandbox.uid, sandbox.uid, sandbox.uid)
    set_no_new_privs()
    # Also keeps other processes of the same user from reading this one's memory, credentials included.
    set_dumpable(False)
    # Changing the uid resets what prctl(PR_SET_PDEATHSIG) had set.
    set_parent_death_signal(signal.SIGKILL)
    # Last: it refuses most of the above.
    install(client_filter() if sandbox.network else parser_filter())
