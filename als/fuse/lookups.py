"""Looking up layers: one call of the backend for however many ask at once, and what is known from that.

A lookup goes on when the client that asked for it is gone, since the next one will want the same layer. Failures are not
kept: the next lookup asks the backend again.
"""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import trio

from als.errors import AlsError
from als.fuse.backend import Backend, ServedLayer
from als.fuse.calls import Calls

_LOG = logging.getLogger(__name__)
_FRESH_SECONDS = 1.0
"""How long a layer that was found is taken to be there still: a client asks for its three files one after the other."""
_SIGKILL_PENDING = 1 << 8
"""Bit of signal 9 in the masks of /proc/PID/status (proc(5))."""


class _Flight:
    """A lookup under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.layer: ServedLayer | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """A layer that was found, and when on trio's clock."""

    layer: ServedLayer
    time: float


def is_dying(thread: int) -> bool:
    """Whether that thread was killed and only waits for our answer.

    The kernel does not let go of a killed process before a request that we already have is answered, and pyfuse3 does not
    pass on FUSE_INTERRUPT. Without this, Ctrl-C on a pull would hang until the layer has arrived.

    :param thread: the thread ID in a request's context; 0 is one of another PID namespace, of which nothing is known.
    """
    if not thread:
        return False
    try:
        status = Path(f"/proc/{thread}/status").read_text(errors="replace")
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigPnd:"):
            return bool(int(line.split()[1], 16) & _SIGKILL_PENDING)
    return False


class Lookups:
    """The layers asked for, by reference and digest."""

    def __init__(self, backend: Backend, calls: Calls, *, seconds: float, threads: int, remembered: int = 10_000) -> None:
        """
        :param seconds: the deadline of one lookup.
        :param threads: how many lookups run at once; further ones wait.
        :param remembered: how many layers `known_layers` lists at most.
        """
        self._backend = backend
        self._calls = calls
        self._seconds = seconds
        self._limiter = trio.CapacityLimiter(threads)
        self._remembered = remembered
        self._flights: dict[tuple[str, str], _Flight] = {}
        self._send, self._receive = trio.open_memory_channel[tuple[str, str]](math.inf)
        self._known: dict[tuple[str, str], _Found] = {}

    async def run(self) -> None:
        """Make the calls that `find` asks for, until cancelled. The calls are children of this task, not of a request."""
        async with trio.open_nursery() as nursery:
            async for key in self._receive:
                nursery.start_soon(self._fly, key, self._flights[key])

    async def find(self, reference: str, digest: str, thread: int) -> ServedLayer | None:
        """The layer, once it is published; None where it is not served, for whatever reason. The log has the reason.

        :param thread: the thread that waits for the answer; None is returned early if that was killed.
        """
        key = (reference, digest)
        found = self._known.get(key)
        fresh = found is not None and trio.current_time() - found.time < _FRESH_SECONDS
        # gc may have removed it since: a client that is told of a layer which is gone would keep an image without it.
        if found is not None and fresh and os.path.lexists(found.layer.diff):
            return found.layer
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self._send.send_nowait(key)
        while not flight.done.is_set():
            with trio.move_on_after(1.0):
                await flight.done.wait()
            if not flight.done.is_set() and is_dying(thread):
                return None
        return flight.layer

    async def _fly(self, key: tuple[str, str], flight: _Flight) -> None:
        where = f"{key[0]} {key[1]}"
        try:
            flight.layer = await self._calls.run(
                lambda: self._backend.lookup(*key), limiter=self._limiter, seconds=self._seconds, where=where
            )
        except (AlsError, OSError) as error:
            _LOG.warning("lookup of %s failed, left to the client: %s", where, error)
        finally:
            self._remember(key, flight.layer)
            del self._flights[key]
            flight.done.set()

    def _remember(self, key: tuple[str, str], layer: ServedLayer | None) -> None:
        self._known.pop(key, None)
        if layer is not None:
            self._known[key] = _Found(layer, trio.current_time())
        if len(self._known) > self._remembered:
            del self._known[next(iter(self._known))]

    def known_references(self) -> set[str]:
        """The references of the layers that were found in this daemon's life."""
        return {reference for reference, _ in self._known}

    def known_digests(self, reference: str) -> list[str]:
        """The digests of the layers that were found of one reference."""
        return [digest for owner, digest in self._known if owner == reference]

    def known(self, reference: str, digest: str) -> ServedLayer | None:
        """The layer as it was found last, without asking anybody."""
        found = self._known.get((reference, digest))
        return found.layer if found is not None else None
