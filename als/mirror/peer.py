"""Who is at the other end of a loopback connection, by the kernel's own tables.

The kernel is asked for exactly that socket (sock_diag(7), ``inet_diag_req_v2`` in linux/inet_diag.h), which costs the same
however many sockets there are; /proc/net/tcp has to be read whole.

Only an *established* socket has an owner: of one that was closed in the meantime the kernel says uid 0, so somebody who sends a
request and closes at once would pass for root.

A user ID alone does not make an administrator: a container with the host's network and without a user namespace runs under
uid 0 as well. So the process that holds the socket has to live in our own PID and user namespaces.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_TCP_ESTABLISHED = 1
_NO_COOKIE = b"\xff" * 8
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI")
_ANSWER_UID = struct.Struct("=II")
_UID_OFFSET = _HEADER.size + 64
"""``struct inet_diag_msg``: 4 bytes, the socket's 48, expires, rqueue, wqueue; then uid and inode."""
_TIMEOUT = 2.0
_NAMESPACES = ("pid", "user")
_REMEMBERED = 32

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Peer:
    """The owner of the socket at the other end."""

    uid: int
    inode: int


def peer_of(ours: Address, theirs: Address) -> Peer | None:
    """The owner of the IPv4 TCP socket at `theirs` that is connected to `ours`; None: it is not established (any more).

    :raises OSError: the kernel gives no such information.
    """
    their_end = struct.pack("!HH", theirs[1], ours[1])
    addresses = b"".join(socket.inet_aton(host).ljust(16, b"\0") for host in (theirs[0], ours[0]))
    wanted = their_end + addresses + struct.pack("=I", 0) + _NO_COOKIE
    body = _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 1 << _TCP_ESTABLISHED) + wanted
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_TIMEOUT)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0) + body)
        answer = netlink.recv(8192)
    kind = _HEADER.unpack_from(answer)[1]
    if kind != _SOCK_DIAG_BY_FAMILY or len(answer) < _UID_OFFSET + _ANSWER_UID.size:
        return None
    found = _HEADER.size
    # The lookup is by ports and addresses and may find another socket than the one that was asked for: the listener.
    if answer[found + 1] != _TCP_ESTABLISHED or answer[found + 4 : found + 8] != their_end:
        return None
    uid, inode = _ANSWER_UID.unpack_from(answer, _UID_OFFSET)
    return Peer(uid, inode) if inode else None


class Holders:
    """Finds the processes that hold sockets. The same few processes ask again and again, so those are looked at first."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)

    def lives_here(self, inode: int) -> bool:
        """Whether a process in our own PID and user namespaces holds the socket with this inode number."""
        wanted, home = f"socket:[{inode}]", _namespaces("self")
        everybody = sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
        for pid in (*list(self._recent), *everybody):
            if _namespaces(str(pid)) == home and _holds(pid, wanted):
                if pid not in self._recent:
                    self._recent.append(pid)
                return True
        return False


def _holds(pid: int, wanted: str) -> bool:
    # A process may end, and a descriptor be closed, while we look.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if str(Path(entry.path).readlink()) == wanted:
                    return True
    return False


def _namespaces(pid: str) -> tuple[int, ...]:
    """The inode numbers of a process's namespaces; empty where it has ended."""
    try:
        return tuple(Path(f"/proc/{pid}/ns/{name}").stat().st_ino for name in _NAMESPACES)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
