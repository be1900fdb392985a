"""One client's connection: HTTP/1.1 by h11, with a deadline for each wait and a bound for everything that is held."""

from __future__ import annotations

import http
import logging
from collections.abc import Awaitable, Callable, Mapping

import h11
import trio

from als import __version__
from als.mirror.app import Abandoned, Request

log = logging.getLogger(__name__)

Handler = Callable[[Request, "Connection"], Awaitable[None]]

_IDLE_SECONDS = 60.0
_WRITE_SECONDS = 60.0
_RECEIVE = 1 << 14
_HEAD_MAX = 1 << 14
"""Bytes of a request's head."""


class Connection:
    """Reads requests, one after the other, and is the :class:`als.mirror.app.Reply` to each."""

    def __init__(self, stream: trio.SocketStream, *, idle: float = _IDLE_SECONDS, write: float = _WRITE_SECONDS) -> None:
        """
        :param idle: seconds to wait for a request's head.
        :param write: seconds to wait for a client that does not read.
        """
        self._stream = stream
        self._idle = idle
        self._write = write
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_MAX)

    async def serve(self, handle: Handler) -> None:
        """Hand each request to `handle`, until either side has enough."""
        try:
            while (request := await self._next()) is not None:
                await handle(request, self)
                await self._send(h11.EndOfMessage())
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except Abandoned:
            return
        except h11.RemoteProtocolError as error:
            await self._complain(error.error_status_hint)
        except h11.LocalProtocolError as error:
            # A defect of ours costs this connection, and no other.
            log.error("an answer that is not HTTP: %s", error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client has gone.
            return

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin the answer; see :class:`als.mirror.app.Reply`."""
        everything = {"Server": f"als/{__version__}", "Docker-Distribution-Api-Version": "registry/2.0", **headers}
        fields = [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in everything.items()]
        await self._send(h11.Response(status_code=status, headers=fields, reason=http.HTTPStatus(status).phrase.encode()))

    async def data(self, data: bytes) -> None:
        """Go on with it."""
        await self._send(h11.Data(data=data))

    async def _next(self) -> Request | None:
        """The next request; None: there is none."""
        head: h11.Request | None = None
        with trio.move_on_after(self._idle):
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._stream.receive_some(_RECEIVE))
                elif isinstance(event, h11.Request):
                    head = event
                elif isinstance(event, h11.EndOfMessage) and head is not None:
                    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
                    return Request(head.method.decode("ascii"), head.target.decode("ascii", "replace"), headers)
                elif isinstance(event, h11.Data):
                    raise h11.RemoteProtocolError("no request here has a body", error_status_hint=413)
                else:
                    return None
        return None

    async def _complain(self, status: int) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            try:
                await self.head(status, {"Connection": "close", "Content-Length": "0"})
                await self._send(h11.EndOfMessage())
            except (Abandoned, trio.BrokenResourceError, trio.ClosedResourceError):
                # It was no client of ours, or has gone.
                return

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        with trio.move_on_after(self._write):
            if data:
                await self._stream.send_all(data)
            return
        raise Abandoned(f"the client did not read for {self._write:g} seconds")
