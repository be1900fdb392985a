"""The journal's own protocol: fields in a datagram (systemd's "Native Journal Protocol").

It is spoken here and not by the library of systemd, which needs a compiler and headers for what are these few lines.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from als.cli.logs import Redacting, redacted
from als.errors import AlsError
from als.model.logfields import ATTRIBUTE

_MOST = 48 << 10
"""Bytes of a field; a datagram of some hundred KiB would be refused."""
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class JournalHandler(logging.Handler):
    """Sends records to the journal; those that it does not take go to standard error.

    :param path: its socket.
    :raises OSError: nobody listens there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self.setFormatter(Redacting("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._socket.send(b"".join(_encoded(name, value) for name, value in self._fields(record)))
        except OSError:
            print(f"als: {record.levelname}: {record.name}: {self.format(record)}", file=sys.stderr)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> Iterator[tuple[str, str]]:
        yield "MESSAGE", self.format(record)
        yield "PRIORITY", str(_PRIORITIES.get(record.levelno, 5))
        yield "SYSLOG_IDENTIFIER", "als"
        yield "LOGGER", record.name
        fields = getattr(record, ATTRIBUTE, {})
        for name, value in fields.items():
            yield f"ALS_{name}", redacted(str(value))
        told = record.args if isinstance(record.args, tuple) else ()
        error = next((each for each in told if isinstance(each, AlsError)), None)
        if error is not None:
            yield "ALS_ERROR", type(error).__name__
            yield "ALS_WHERE", redacted(error.where)


def _encoded(name: str, value: str) -> bytes:
    """A field, with its length where a line would not do."""
    data = value.encode("utf-8", "surrogateescape")[:_MOST]
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
