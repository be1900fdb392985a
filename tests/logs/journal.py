"""A journal: a socket of the kind that journald listens on, and the fields that came."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self


def parse(datagram: bytes) -> dict[str, str]:
    """The fields of one entry, in systemd's native journal protocol."""
    fields: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = value.decode()
        datagram = rest
    return fields


class Journal:
    """A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(10)

    def entry(self) -> dict[str, str]:
        """The next one."""
        return parse(self._socket.recv(1 << 20))

    def close(self) -> None:
        """Nobody listens any more."""
        self._socket.close()

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
