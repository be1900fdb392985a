"""The control socket's life in the daemon: a thread that accepts, and one for each connection, all ended with the daemon.

A lock file says whose the socket is; one that a killed daemon left behind is replaced. Where somebody keeps descriptors for
the next daemon, that one goes on with the same socket: requests that come in between wait.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from als import __version__
from als.control.peer import Peer, peer_of
from als.control.pull import Call, answer_pull
from als.control.status import answer_fill, answer_status
from als.control.wire import ALIVE_SECONDS, NAME, PROTOCOL, Channel, settings
from als.errors import ConfigError, LockTimeout
from als.native.listeners import Listeners, place_of
from als.native.unixsocket import listen_at
from als.service import Service
from als.store.lock import locked

log = logging.getLogger(__name__)

_KIND = "als-control"
_CONNECTIONS = 64
_BACKLOG = 64
_REQUEST_SECONDS = 10.0
"""For a client that has said nothing yet, or whose last request is done."""
_STOP_SECONDS = 15.0


class Control:
    """The control socket of one service; a context manager within which it serves.

    :param listeners: where it is taken over from, and left.
    """

    def __init__(self, service: Service, listeners: Listeners | None = None) -> None:
        self._listeners = listeners or Listeners()
        self._service = service
        self._run_folder = service.config.run
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[threading.Thread, Channel] = {}
        self._waker, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="control")
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """
        :raises ConfigError: the socket cannot be made, or another daemon has it.
        """
        where = str(self._run_folder / NAME)
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._waker)
                stack.enter_context(self._wake)
                stack.enter_context(locked(self._run_folder / f"{NAME}.lock", timeout=0.0))
                self._listener = stack.enter_context(self._listen(self._run_folder / NAME))
                self._listener.setblocking(False)
                if not self._listeners.kept:
                    stack.callback((self._run_folder / NAME).unlink, missing_ok=True)
                self._held = stack.pop_all()
        except LockTimeout as error:
            raise ConfigError("another als serves this run folder", where=where, hint="give each a --run of its own") from error
        except OSError as error:
            raise ConfigError(f"cannot listen: {error.strerror}", where=where) from error
        self._thread.start()
        return self

    def _listen(self, path: Path) -> socket.socket:
        """
        :raises OSError: the kernel refuses.
        """
        taken = self._listeners.take(_KIND, place_of(path))
        if taken is not None:
            return taken
        listener = listen_at(path, backlog=_BACKLOG)
        self._listeners.keep(_KIND, place_of(path), listener)
        return listener

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._wake.send(b"x")
        end = time.monotonic() + _STOP_SECONDS
        self._thread.join(_STOP_SECONDS)
        with self._lock:
            running = dict(self._connections)
        for channel in running.values():
            channel.end()
        for thread in running:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.error("%s has not ended after %g seconds", thread.name, _STOP_SECONDS)
        self._held.close()

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._waker, select.POLLIN)
        alive = time.monotonic()
        while not self._stopping.is_set():
            ready = poll.poll(int(ALIVE_SECONDS * 1000))
            if time.monotonic() - alive >= ALIVE_SECONDS:
                alive = time.monotonic()
                with self._lock:
                    channels = list(self._connections.values())
                for channel in channels:
                    channel.offer({"alive": True})
            if self._listener.fileno() in {fd for fd, _ in ready}:
                self._admit()

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            # The client has gone meanwhile, or we have no descriptors left: it does its work itself.
            log.warning("a connection to the control socket was lost: %s", error.strerror)
            return
        peer = peer_of(connection)
        with self._lock:
            busy = len(self._connections) >= _CONNECTIONS
        if busy or not peer.trusted:
            log.warning("user %d is not served by the control socket%s", peer.uid, ": too many ask" if busy else "")
            connection.close()
            return
        channel = Channel(connection)
        thread = threading.Thread(target=self._serve, args=(channel, peer), name=f"control of process {peer.pid}", daemon=True)
        with self._lock:
            self._connections[thread] = channel
        thread.start()

    def _serve(self, channel: Channel, peer: Peer) -> None:
        try:
            if peer.lives_here():
                config = self._service.config
                channel.send({"protocol": PROTOCOL, "version": __version__, "settings": settings(config)})
                while (request := channel.receive(_REQUEST_SECONDS)) is not None:
                    self._answer(channel, peer, request)
        except OSError as error:
            # The client has gone, or said nothing for too long.
            log.debug("process %d: %s", peer.pid, error)
        except ValueError as error:
            log.warning("process %d broke the protocol of the control socket: %s", peer.pid, error)
        finally:
            with self._lock:
                del self._connections[threading.current_thread()]
            channel.close()

    def _answer(self, channel: Channel, peer: Peer, request: dict[str, Any]) -> None:
        match request:
            case {"op": "pull", "reference": str(reference), "progress": bool(progress), "environment": dict(variables)} if all(
                isinstance(value, str) for value in variables.values()
            ):
                call = Call(channel, peer.uid, variables, self._stopping)
                channel.send(answer_pull(self._service, call, reference, progress))
            case {"op": "status", "image": str() | None as name}:
                answer_status(self._service, channel, name)
            case {"op": "fill", "image": str(name)}:
                channel.send(answer_fill(self._service, name))
            case _:
                raise ValueError("an unknown request")
