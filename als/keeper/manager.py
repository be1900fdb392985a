"""The daemon's end of the protocol: whoever has started it, and keeps descriptors for the one after it."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, MutableMapping

from als.keeper import protocol

log = logging.getLogger(__name__)

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class Manager:
    """systemd, or :mod:`als.keeper.keep`."""

    def __init__(self, address: str, held: Mapping[str, int], watchdog: float | None) -> None:
        """
        :param address: where messages go.
        :param held: the descriptors that this process was given.
        :param watchdog: seconds within which it has to show that it lives.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._held = dict(held)
        self.alive_seconds = watchdog / 4 if watchdog is not None else math.inf
        """How often `alive` has to be called: well within what is allowed."""

    @staticmethod
    def of(variables: MutableMapping[str, str], process: int) -> Manager | None:
        """Whoever has started this process; None: nobody who would listen.

        The variables are taken out: processes that this one starts are no affair of the manager's.
        """
        found = {name: variables.pop(name) for name in _VARIABLES if name in variables}
        held = protocol.descriptors(found, process)
        for descriptor in held.values():
            os.set_inheritable(descriptor, False)
        address = found.get("NOTIFY_SOCKET", "")
        return Manager(address, held, protocol.watchdog_seconds(found, process)) if address else None

    def held(self) -> Mapping[str, int]:
        """See :meth:`als.native.listeners.Keeper.held`."""
        return dict(self._held)

    def hold(self, name: str, descriptor: int) -> None:
        """See :meth:`als.native.listeners.Keeper.hold`."""
        self._held[name] = descriptor
        self._send(protocol.message(FDSTORE="1", FDNAME=name), descriptor)

    def drop(self, name: str) -> None:
        """See :meth:`als.native.listeners.Keeper.drop`."""
        self._held.pop(name, None)
        self._send(protocol.message(FDSTOREREMOVE="1", FDNAME=name))

    def ready(self) -> None:
        """Tell that this process serves."""
        self._send(protocol.message(READY="1"))

    def alive(self) -> None:
        """Tell that it still does."""
        self._send(protocol.message(WATCHDOG="1"))

    def stopping(self) -> bool:
        """See :meth:`als.fuse.connection.Holder.stopping`."""
        return self._send(protocol.message(STOPPING="1"))

    def _send(self, data: bytes, *descriptors: int) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            # Who does not read is worse than who does not hear.
            sender.settimeout(5)
            try:
                sender.connect(self._address)
                socket.send_fds(sender, [data], descriptors)
            except OSError as error:
                log.warning("the service manager does not hear %r: %s", data, error)
                return False
        return True
