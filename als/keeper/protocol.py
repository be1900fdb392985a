"""sd_notify(3) and sd_listen_fds(3) as bytes and environment variables.

A message is a datagram of lines ``NAME=VALUE``; descriptors come with it. What is used here: ``READY=1``, ``STOPPING=1``,
``WATCHDOG=1``, ``FDSTORE=1`` and ``FDSTOREREMOVE=1`` with ``FDNAME=``. At its start a process finds what was stored from
descriptor 3 on, with ``LISTEN_FDS`` (how many), ``LISTEN_FDNAMES`` (separated by colons) and ``LISTEN_PID`` (for whom).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence

FIRST = 3
"""The first descriptor that is handed over (SD_LISTEN_FDS_START)."""
MOST_DESCRIPTORS = 16
"""Of a process."""
MOST_BYTES = 4096
"""Of a message."""
_FDNAME = re.compile(r"[!-9;-~]{1,255}")
"""sd_pid_notify_with_fds(3): printable ASCII but the colon."""


def message(**assignments: str) -> bytes:
    """A message.

    :raises ValueError: a value does not fit in a line.
    """
    if any("\n" in value for value in assignments.values()):
        raise ValueError("a value of more than one line")
    return "\n".join(f"{name}={value}" for name, value in assignments.items()).encode()


def parse(data: bytes) -> dict[str, str]:
    """The assignments of a message; what is none is left out, as systemd does."""
    lines = data.decode("utf-8", "replace").split("\n")
    return {name: value for name, separator, value in (line.partition("=") for line in lines) if separator}


def is_name(text: str) -> bool:
    """Whether a descriptor may be called so."""
    return _FDNAME.fullmatch(text) is not None


def environment(names: Sequence[str], process: int, address: str, watchdog: float) -> dict[str, str]:
    """What a process is started with.

    :param names: of the descriptors that it finds.
    :param address: where it sends messages to; a leading ``@`` stands for the zero byte of an abstract address.
    :param watchdog: seconds within which it has to show that it lives.
    """
    return {
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": str(int(watchdog * 1e6)),
        "WATCHDOG_PID": str(process),
        "LISTEN_PID": str(process),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(names),
    }


def descriptors(variables: Mapping[str, str], process: int) -> dict[str, int]:
    """The descriptors that a process was given, by name; of several with one name the last."""
    if variables.get("LISTEN_PID") != str(process) or not variables.get("LISTEN_FDS", "").isdecimal():
        return {}
    count = int(variables["LISTEN_FDS"])
    names = variables.get("LISTEN_FDNAMES", "").split(":")
    return {names[index]: FIRST + index for index in range(min(count, len(names)))}


def put_in_place(given: Sequence[int]) -> None:
    """Have these descriptors be those from `FIRST` on, whatever was there, and inherited."""
    # Out of the way first: one of them may have the number that another one gets.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST + len(given)) for descriptor in given]
    for index, descriptor in enumerate(copies):
        os.dup2(descriptor, FIRST + index, inheritable=True)
        os.close(descriptor)


def watchdog_seconds(variables: Mapping[str, str], process: int) -> float | None:
    """Within how many seconds a process has to show that it lives; None: nobody looks."""
    if variables.get("WATCHDOG_PID", str(process)) != str(process):
        return None
    value = variables.get("WATCHDOG_USEC", "")
    return int(value) / 1e6 if value.isdecimal() and int(value) else None
