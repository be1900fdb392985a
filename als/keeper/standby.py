"""A process that waits to become the daemon: what is in it when the keeper needs it has not to be loaded then.

Most of the time that a start takes is Python's, for loading modules; readers would wait for that. So the keeper has a second
process ready, which gets what the daemon would have been started with (:class:`als.keeper.child.Standby`): descriptors and
variables, in the one message that comes on its own first descriptor.
"""

from __future__ import annotations

import json
import os
import signal
import socket

from als.keeper import protocol

_PLACES = range(protocol.FIRST + 1, protocol.FIRST + protocol.MOST_DESCRIPTORS)


def prepare() -> None:
    """Keep the numbers free that descriptors will get. To be called first of all."""
    # A terminal's goes to all of its processes, and this one has nothing to say about its end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in _PLACES:
        if number != nothing:
            os.dup2(nothing, number, inheritable=False)
    if nothing not in _PLACES:
        os.close(nothing)


def wait() -> bool:
    """Wait until the keeper needs this process, which then is as if it had just been started; False: it never will."""
    with socket.socket(fileno=protocol.FIRST) as link:
        room = protocol.MOST_DESCRIPTORS
        message, given, _, _ = socket.recv_fds(link, protocol.MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return False
        # The keeper's end goes, and this one with it: its number is for the first of those that are given.
        link.detach()
    for number in (protocol.FIRST, *_PLACES):
        os.close(number)
    protocol.put_in_place(given)
    for descriptor in given:
        os.close(descriptor)
    os.environ.update(json.loads(message))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return True
