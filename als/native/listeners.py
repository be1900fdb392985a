"""Listening sockets that outlive the process: who connects while the next one starts waits for it instead of being refused.

They are kept by whoever keeps the FUSE connection (:mod:`als.keeper`), each under the name ``KIND@PLACE``. The place says
whether a socket is still the one that is wanted: a port that the settings may have changed since, or the file of a unix
socket, which somebody may have removed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Keeper(Protocol):
    """Keeps descriptors, by name, for the process that comes after this one."""

    def held(self) -> Mapping[str, int]:
        """What this process was given, or has had kept, and has not dropped since."""
        ...

    def hold(self, name: str, descriptor: int) -> None:
        """Have a descriptor kept. Ours stays ours."""
        ...

    def drop(self, name: str) -> None:
        """Have it closed."""
        ...


class Listeners:
    """The sockets that a process takes over from the last one, and leaves to the next.

    :param keeper: None: there is nobody who would keep them; they end with the process.
    """

    def __init__(self, keeper: Keeper | None = None) -> None:
        self._keeper = keeper

    @property
    def kept(self) -> bool:
        """Whether what listens is not over when this process ends."""
        return self._keeper is not None

    def take(self, kind: str, place: str) -> socket.socket | None:
        """The socket that the last process listened on, if it is in that place; the caller closes it.

        One of this kind in another place is closed: nobody is to wait there any more.
        """
        keeper, found = self._keeper, None
        if keeper is None:
            return None
        for name, descriptor in keeper.held().items():
            if name.partition("@")[0] != kind:
                continue
            wanted = name == f"{kind}@{place}"
            listener = _listening(descriptor)
            if wanted and listener is not None:
                found = listener
                continue
            keeper.drop(name)
            if listener is not None:
                listener.close()
        return found

    def keep(self, kind: str, place: str, listener: socket.socket) -> None:
        """Have a new socket kept."""
        if self._keeper is not None:
            self._keeper.hold(f"{kind}@{place}", listener.fileno())

    def forget(self, kind: str) -> None:
        """Have nobody wait for what this process does not serve."""
        self.take(kind, "")


def place_of(path: Path) -> str:
    """The place of a unix socket: which file it is, whatever the name leads to later; "": there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ""
    return f"{status.st_dev}-{status.st_ino}"


def _listening(descriptor: int) -> socket.socket | None:
    """A socket of a descriptor; None, and the descriptor is closed: it is none that listens."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return found
    found.close()
    return None
