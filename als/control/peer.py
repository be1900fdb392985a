"""Who is at the other end of the control socket, by what the kernel says (unix(7), SO_PEERCRED).

root may ask, and the user as whom the daemon runs. That alone does not make somebody's pull ours to do: a process in another
mount or network namespace, or below another root folder, sees other files and other registries than the daemon.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

_CREDENTIALS = struct.Struct("=iII")
_NAMESPACES = ("mnt", "net", "user")


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, or that listens; `pid` is 0 where we cannot see it."""

    pid: int
    uid: int

    @property
    def trusted(self) -> bool:
        """Whether it may have what we have."""
        return self.uid in (0, os.geteuid())

    def lives_here(self) -> bool:
        """Whether it sees the files and the network that we see; False as well once it has ended."""
        return self.pid > 0 and _surroundings(str(self.pid)) == _surroundings("self")


def peer_of(connection: socket.socket) -> Peer:
    """The process at the other end, as it was when it connected (or began to listen)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return Peer(pid, uid)


def _surroundings(process: str) -> tuple[tuple[int, int], ...] | None:
    folder = Path("/proc") / process
    try:
        found = [(folder / "ns" / name).stat() for name in _NAMESPACES] + [(folder / "root").stat()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return tuple((status.st_dev, status.st_ino) for status in found)
