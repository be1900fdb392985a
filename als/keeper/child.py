"""One process that is kept: started with descriptors, and what it says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Mapping, Sequence

from als.keeper import protocol

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred of unix(7): process, user, group."""
_MOST_DESCRIPTORS = 16
_CANNOT_START = 126


class Child:
    """A running process."""

    def __init__(self, command: Sequence[str], held: Mapping[str, int], address: str, watchdog: float) -> None:
        """
        :param command: the program, by its path, and its arguments.
        :param held: descriptors that it finds, by name.
        :param address: where it sends messages to.
        :param watchdog: seconds within which it has to show that it lives, once it is ready.
        """
        self.pid = os.fork()
        if not self.pid:
            try:
                _become(command, held, address, watchdog)
            finally:
                os._exit(_CANNOT_START)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; it was not waited for yet, so the number is still its own."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


def _become(command: Sequence[str], held: Mapping[str, int], address: str, watchdog: float) -> None:
    """Replace this process, which is to do nothing else any more."""
    # Out of the way first: one of them may have the number that another one gets.
    away = protocol.FIRST + len(held)
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, away) for descriptor in held.values()]
    for index, descriptor in enumerate(copies):
        os.dup2(descriptor, protocol.FIRST + index, inheritable=True)
    variables = protocol.environment(list(held), os.getpid(), address, watchdog)
    os.execve(command[0], list(command), {**os.environ, **variables})


class Mailbox:
    """Where children send their messages to."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # Who sent a message is seen from the kernel's word alone, so it does no harm that others know the address too.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")

    @property
    def address(self) -> str:
        """As NOTIFY_SOCKET has it."""
        raw: bytes = self._socket.getsockname()
        return "@" + raw[1:].decode("ascii")

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def receive(self, process: int) -> tuple[dict[str, str], list[int]] | None:
        """The next message of a process, and the descriptors that came with it; None: there is none."""
        while True:
            room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS)
            try:
                data, ancillary, _, _ = self._socket.recvmsg(protocol.MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return None
            sender, descriptors = 0, list[int]()
            for _, kind, value in ancillary:
                if kind == socket.SCM_CREDENTIALS:
                    sender = _CREDENTIALS.unpack(value)[0]
                elif kind == socket.SCM_RIGHTS:
                    descriptors += struct.unpack(f"={len(value) // 4}i", value[: len(value) // 4 * 4])
            if sender == process:
                return protocol.parse(data), descriptors
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
