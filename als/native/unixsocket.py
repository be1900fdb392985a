"""Listening sockets in the file system."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path


def listen_at(path: Path, *, mode: int = 0o600, backlog: int = 64) -> socket.socket:
    """A socket that listens at `path`, in place of one that a killed process left there.

    It is made where nobody else may look and then renamed: it has its mode from the first moment on.

    :raises OSError: the kernel refuses.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as private:
            fd = os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # The address of a socket has 108 bytes at most, whatever the folder's name.
                listener.bind(f"/proc/self/fd/{fd}/{path.name}")
            finally:
                os.close(fd)
            made = Path(private) / path.name
            made.chmod(mode)
            listener.listen(backlog)
            made.rename(path)
    except BaseException:
        listener.close()
        raise
    return listener
