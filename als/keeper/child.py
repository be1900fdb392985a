"""One process that is kept: started with descriptors, and what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from als.keeper import protocol

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred of unix(7): process, user, group."""
_CANNOT_START = 126


class Process:
    """One that was started here."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; it was not waited for yet, so the number is still its own."""
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """Its exit status, negative for a signal; None: it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None


class Child(Process):
    """A running daemon."""

    @classmethod
    def start(cls, command: Sequence[str], held: Mapping[str, int], address: str, watchdog: float) -> Self:
        """
        :param command: the program, by its path, and its arguments.
        :param held: descriptors that it finds, by name.
        :param address: where it sends messages to.
        :param watchdog: seconds within which it has to show that it lives, once it is ready.
        """

        def variables() -> dict[str, str]:
            return protocol.environment(list(held), os.getpid(), address, watchdog)

        return cls(_fork(command, list(held.values()), variables))


class Standby(Process):
    """A process that has loaded the daemon's program and waits to become it (:mod:`als.keeper.standby`)."""

    def __init__(self, command: Sequence[str]) -> None:
        """
        :param command: the program, by its path, and its arguments.
        """
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            super().__init__(_fork(command, [theirs.fileno()], dict))

    def become(self, held: Mapping[str, int], address: str, watchdog: float) -> Child | None:
        """Have it be what `Child.start` would start; None: it cannot."""
        variables = protocol.environment(list(held), self.pid, address, watchdog)
        with self._link:
            try:
                # All that is ever sent, so there is room.
                socket.send_fds(self._link, [json.dumps(variables).encode()], list(held.values()))
            except OSError:
                return None
        return Child(self.pid)

    def dismiss(self) -> None:
        """End it."""
        self._link.close()
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)


def _fork(command: Sequence[str], descriptors: Sequence[int], variables: Callable[[], dict[str, str]]) -> int:
    """Start a program with these descriptors from `protocol.FIRST` on.

    :param variables: called in the new process, whose number they may name; beside those of this one.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        # Nothing else is to be done in there.
        protocol.put_in_place(descriptors)
        os.execve(command[0], list(command), {**os.environ, **variables()})
    finally:
        os._exit(_CANNOT_START)


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
            room = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * protocol.MOST_DESCRIPTORS)
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
