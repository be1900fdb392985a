"""The mirror's life: a thread with an event loop of its own, from the first connection to the last.

A thread, so that neither a defect here nor a busy client can keep the FUSE face from answering, on which every command of
podman depends.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from als.errors import ConfigError
from als.mirror.app import App, Request
from als.mirror.connection import Connection
from als.mirror.peer import Holders, peer_of
from als.mirror.publish import Publications
from als.mirror.upstream import SETTINGS, Source, Upstreams
from als.model.reference import Reference
from als.native.listeners import Listeners
from als.registry.conf import RegistriesConf, load_conf
from als.registry.environment import Environment
from als.registry.mirrored import reference_behind
from als.service import Service

log = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
_KIND = "als-mirror"
_CONNECTIONS = 512
_BACKLOG = 256
_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_CONF_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Conf:
    """registries.conf as it was read, and when."""

    conf: RegistriesConf
    time: float


class Mirror:
    """The registry mirror of one service; a context manager within which it serves.

    :param port: on 127.0.0.1; 0: any that is free.
    :param users: user IDs that are served beside root.
    :param listeners: where the listening socket is taken over from, and left.
    """

    def __init__(
        self, service: Service, port: int, users: frozenset[int] = frozenset(), listeners: Listeners | None = None
    ) -> None:
        self.port = port
        self._listeners = listeners or Listeners()
        self._service = service
        self._users = users
        self._holders = Holders()
        self._connections = 0
        self._conf: _Conf | None = None
        self._started = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=self._run, name="mirror")

    def __enter__(self) -> Self:
        """
        :raises ConfigError: the port cannot be listened on.
        """
        try:
            self._listener = self._listen(self.port)
        except OSError as error:
            where = f"{ADDRESS}:{self.port}"
            raise ConfigError(f"cannot listen: {error.strerror}", where=where, hint="set mirror_port to another one") from error
        self.port = self._listener.getsockname()[1]
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise ConfigError("the mirror did not start", where=f"{ADDRESS}:{self.port}")
        return self

    def _listen(self, port: int) -> socket.socket:
        """
        :raises OSError: the kernel refuses.
        """
        taken = self._listeners.take(_KIND, str(port))
        if taken is not None:
            return taken
        listener = socket.create_server((ADDRESS, port), backlog=_BACKLOG)
        self._listeners.keep(_KIND, str(port), listener)
        return listener

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._token is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            log.error("the mirror has not ended after %g seconds", _STOP_SECONDS)

    def _run(self) -> None:
        trio.run(self._main)

    async def _main(self) -> None:
        self._listener.setblocking(False)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        upstreams = Upstreams(self._open_source, self._service.config.lookup_deadline)
        with self._scope:
            async with listener, trio.open_nursery() as nursery:
                publications = Publications(self._service, nursery, upstreams)
                app = App(self._service, upstreams, publications, self._find, self.port)
                nursery.start_soon(upstreams.run)
                self._token = trio.lowlevel.current_trio_token()
                self._started.set()

                async def connected(stream: trio.SocketStream) -> None:
                    await self._connected(app, stream)

                await trio.serve_listeners(connected, [listener], handler_nursery=nursery)

    async def _connected(self, app: App, stream: trio.SocketStream) -> None:
        if self._connections >= _CONNECTIONS:
            log.warning("more than %d connections to the mirror: one was closed", _CONNECTIONS)
            await stream.aclose()
            return
        self._connections += 1
        try:
            async with stream:
                uid = await self._uid_of(stream)

                async def handle(request: Request, connection: Connection) -> None:
                    await app.handle(request, connection, uid)

                await Connection(stream).serve(handle)
        finally:
            self._connections -= 1

    async def _uid_of(self, stream: trio.SocketStream) -> int | None:
        """The user who asks, if it is one that is served."""
        try:
            ours, theirs = stream.socket.getsockname(), stream.socket.getpeername()
            peer = peer_of(ours, theirs)
            if peer is None or (peer.uid != 0 and peer.uid not in self._users):
                if peer is not None:
                    log.info("user %d is not served by the mirror", peer.uid)
                return None
            if peer.uid == 0 and not await trio.to_thread.run_sync(self._holders.lives_here, peer.inode):
                log.info("root of a container, or a process that has ended, is not served by the mirror")
                return None
        except OSError as error:
            log.warning("nobody is served by the mirror: it is not known who asks: %s", error.strerror or error)
            return None
        return peer.uid

    def _find(self, path: str, name: str) -> Reference | None:
        """Which image registries.conf means; it is read anew every second, as an administrator changes it."""
        known = self._conf
        if known is None or time.monotonic() - known.time > _CONF_SECONDS:
            known = self._conf = _Conf(load_conf(Environment.current()), time.monotonic())
        return reference_behind(known.conf, path, name, self.port)

    def _open_source(self, reference: Reference, anonymous: bool) -> Source:
        source = self._service.puller.repository(reference, anonymous=anonymous, settings=SETTINGS)
        try:
            # Requests are made in the event loop.
            source.start()
        except BaseException:
            source.close()
            raise
        return source


def open_mirror(service: Service, listeners: Listeners) -> Mirror | None:
    """The mirror that the settings ask for, to be entered; None: they ask for none.

    :param listeners: see `Mirror`.
    :raises ConfigError: ``mirror_users`` names a user that does not exist.
    """
    port = service.config.mirror_port
    if port >= _first_open_port():
        log.warning("any user may listen on port %d when als does not run, and give root other images: set mirror_port", port)
    if not port:
        listeners.forget(_KIND)
        return None
    return Mirror(service, port, service.config.mirror_ids(), listeners)


def _first_open_port() -> int:
    """The lowest port that users may listen on (ip(7), ``ip_unprivileged_port_start``)."""
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii"))
