"""A TCP proxy that is as slow as a link: a rate that all connections share, and a delay both ways.

Kernels without netem cannot shape loopback, and a proxy can count what passes. Each direction of the link is a queue: bytes
leave one after the other at its rate and arrive a delay later (:class:`Pipe`, which only does sums). Connections take turns, a
segment each, so that they get equal shares; a connection that is not read from stops being sent to, as TCP's window does. A new
connection can be used after a round trip, as after SYN and SYN+ACK. What is not modelled: slow start, loss, header bytes. That
is kind to everybody, most to those who make many connections.

``python -m bench.link HOST:PORT`` runs one in front of a server, for measurements by hand.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import trio

SEGMENT = 32 << 10
"""Bytes that a connection sends before others have their turn."""
_WINDOW = 8 << 20
"""Bytes of one connection that may be on the way in one direction: far more than rate times delay."""
_SLACK = 0.005
"""Seconds by which a segment may be handed over early, to make up for coarse clocks. No byte arrives early."""
_START_SECONDS = 10.0


class Pipe:
    """One direction of a link.

    :param rate: bytes per second.
    :param delay: seconds from leaving to arriving.
    """

    def __init__(self, rate: float, delay: float) -> None:
        self.rate = rate
        self.delay = delay
        self.carried = 0
        """Bytes so far."""
        self.turn = trio.Lock()
        """Who holds it may send; first come, first served."""
        self._free = 0.0

    def busy(self, now: float) -> float:
        """Seconds until it has sent what it was given."""
        return max(0.0, self._free - now)

    def send(self, size: int, now: float) -> float:
        """Give it so many bytes; returns when the last of them arrives."""
        self._free = max(self._free, now) + size / self.rate
        self.carried += size
        return self._free + self.delay


@dataclass
class Link:
    """Both directions, and who uses them."""

    up: Pipe
    down: Pipe
    connections: int = 0

    @classmethod
    def of(cls, megabits: float, round_trip: float) -> Link:
        """A symmetric link of so many Mbit/s and seconds."""
        rate = megabits * 1e6 / 8
        return cls(Pipe(rate, round_trip / 2), Pipe(rate, round_trip / 2))

    @property
    def round_trip(self) -> float:
        """Seconds."""
        return self.up.delay + self.down.delay


async def connect(link: Link, client: trio.abc.HalfCloseableStream, server: trio.abc.HalfCloseableStream) -> None:
    """Carry bytes between a client and the server, both of which are near, until both have said all."""
    link.connections += 1
    await trio.sleep(link.round_trip)
    async with client, server, trio.open_nursery() as nursery:
        nursery.start_soon(_carry, client, server, link.up)
        nursery.start_soon(_carry, server, client, link.down)


async def _carry(source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream, pipe: Pipe) -> None:
    into, out = trio.open_memory_channel[tuple[float, bytes]](_WINDOW // SEGMENT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_deliver, out, sink)
        async with into:
            async for data in _received(source):
                async with pipe.turn:
                    await trio.sleep(max(0.0, pipe.busy(trio.current_time()) - _SLACK))
                    arrival = pipe.send(len(data), trio.current_time())
                try:
                    await into.send((arrival, data))
                except trio.BrokenResourceError:
                    return  # The receiver has gone.


async def _received(source: trio.abc.ReceiveStream) -> AsyncIterator[bytes]:
    """What comes until the end; a connection that was cut has ended too."""
    while True:
        try:
            data = await source.receive_some(SEGMENT)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if not data:
            return
        yield bytes(data)


async def _deliver(out: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.abc.HalfCloseableStream) -> None:
    async with out:
        try:
            async for arrival, data in out:
                await trio.sleep(max(0.0, arrival - trio.current_time()))
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class ShapedLink:
    """A proxy in a thread of its own, in front of the server at `target`; a context manager."""

    def __init__(self, target: str, megabits: float, round_trip: float) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.link = Link.of(megabits, round_trip)
        self.port = 0
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), name="shaped link")

    @property
    def address(self) -> str:
        """``HOST:PORT``, for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def received(self) -> int:
        """Bytes that clients were sent so far, those on the way included."""
        return self.link.down.carried

    async def _main(self) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = int(listeners[0].socket.getsockname()[1])
        self._token = trio.lowlevel.current_trio_token()
        self._ready.set()
        with self._scope:
            await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(*self._target)
        await connect(self.link, client, server)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            raise TimeoutError(f"the proxy did not start within {_START_SECONDS} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._token is not None
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(_START_SECONDS)


def main() -> int:
    """Run a proxy until interrupted; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--rtt", type=float, default=20, help="milliseconds (default %(default)s)")
    parser.add_argument("--rate", type=float, default=200, help="Mbit/s (default %(default)s)")
    options = parser.parse_args()
    with ShapedLink(options.target, options.rate, options.rtt / 1000) as link:
        print(f"{link.address} -> {options.target}: {options.rate} Mbit/s, {options.rtt} ms", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{link.received / 1e6:.1f} MB in {link.link.connections} connections", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
