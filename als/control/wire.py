"""Messages on the control socket: u32 length (little endian), then a JSON object of so many bytes.

Both ends bound what they read and how long they wait for it. The client's environment travels here, so no error shows a
message.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from als import errors
from als.config import Config
from als.errors import AlsError

PROTOCOL = 2
NAME = "als.sock"
"""In RUN."""
MAX_MESSAGE = 1 << 20
"""An environment has some kilobytes; one that has more than this stays with its process."""
SEND_SECONDS = 10.0
MESSAGE_SECONDS = 5.0
"""From a message's first byte to its last."""
ALIVE_SECONDS = 5.0
"""How often the daemon says that it is alive to whoever waits for it."""
_LENGTH = struct.Struct("<I")
_PIECE = 1 << 16
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


class Channel:
    """One end of a connection. Any thread may send; one receives."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(SEND_SECONDS)
        self._sending = threading.Lock()
        self._broken = False

    def send(self, message: Mapping[str, object]) -> None:
        """
        :raises OSError: the other side is gone, or takes nothing.
        """
        with self._sending:
            self._send(message)

    def offer(self, message: Mapping[str, object]) -> None:
        """Send what may as well be lost: not if that would mean to wait, nor if nobody is there."""
        if not self._sending.acquire(blocking=False):
            return
        try:
            # A unix socket is writable while most of its buffer is free, and these messages are short.
            if not self._broken and self._ready(select.POLLOUT):
                with contextlib.suppress(OSError):
                    self._send(message)
        finally:
            self._sending.release()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message; None where the other side has ended.

        :param seconds: how long to wait for it to begin.
        :raises TimeoutError: it did not come in time.
        :raises ConnectionError: the other side ended within it.
        :raises ValueError: it is too long, or no JSON object.
        """
        begin = self._read(_LENGTH.size, time.monotonic() + seconds, may_end=True)
        if not begin:
            return None
        (length,) = _LENGTH.unpack(begin)
        if length > MAX_MESSAGE:
            raise ValueError("a message is too long")
        data = self._read(length, time.monotonic() + MESSAGE_SECONDS)
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            # Without "from": the original error holds the message.
            raise ValueError("a message is not JSON") from None
        if not isinstance(message, dict):
            raise ValueError("a message is not a JSON object")
        return message

    def gone(self) -> bool:
        """Whether the other side has ended or was given up."""
        return self._broken or self._ready(_GONE)

    def end(self) -> None:
        """Read no more, so that whoever waits here for a message, or for the other side to go, does not any longer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self._socket.close()

    def _send(self, message: Mapping[str, object]) -> None:
        data = json.dumps(message).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError:
            # Half a message may be out.
            self._broken = True
            raise

    def _read(self, size: int, end: float, *, may_end: bool = False) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not self._ready(select.POLLIN, max(0.0, end - time.monotonic())):
                raise TimeoutError("no message came in time")
            piece = self._socket.recv(min(_PIECE, size - len(data)))
            if not piece:
                if may_end and not data:
                    return b""
                raise ConnectionError("the other side ended within a message")
            data += piece
        return bytes(data)

    def _ready(self, events: int, seconds: float = 0.0) -> bool:
        poll = select.poll()
        poll.register(self._socket, events)
        return bool(poll.poll(int(seconds * 1000)))


def settings(config: Config) -> dict[str, str]:
    """What has to be the same on both sides for a pull to have the same result, in words. Logs and metrics may differ."""
    apart = ("log_level", "metrics_port")
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in apart}
    return {name: repr(value) for name, value in values.items()}


def error_message(error: AlsError) -> dict[str, object]:
    """An error, to be raised on the other side."""
    return {"error": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}


def error_of(message: Mapping[str, Any]) -> AlsError:
    """The error in a message, as one of our own tree."""
    kind = getattr(errors, str(message["error"]), AlsError)
    if not (isinstance(kind, type) and issubclass(kind, AlsError)):
        kind = AlsError
    return kind(str(message.get("what", "")), where=str(message.get("where", "")), hint=str(message.get("hint", "")))
