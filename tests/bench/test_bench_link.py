"""The shaped link: rate, delay and fairness in virtual time; and that bytes pass unchanged over real sockets."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from bench.link import SEGMENT, Link, Pipe, ShapedLink, connect

Stream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
SETTINGS = [(200, 0.02), (200, 0.1), (20, 0.02), (1000, 0.001)]


def virtually(main, *arguments):
    """Run it in time that passes only while everybody waits."""
    return trio.run(main, *arguments, clock=MockClock(autojump_threshold=0))


async def opened(nursery: trio.Nursery, link: Link) -> tuple[Stream, Stream]:
    """A client's and a server's end of a connection over the link."""
    client, near = memory_stream_pair()
    far, server = memory_stream_pair()
    nursery.start_soon(connect, link, near, far)
    return client, server


async def answer(server: Stream, size: int) -> None:
    """For each byte of a request, `size` bytes."""
    while request := await server.receive_some():
        for _ in request:
            await server.send_all(bytes(size))
    await server.send_eof()


async def ask(client: Stream, size: int) -> float:
    """Seconds until the whole answer to a request of one byte is here."""
    begin = trio.current_time()
    await client.send_all(b"?")
    while size:
        size -= len(await client.receive_some())
    return trio.current_time() - begin


@pytest.mark.parametrize(("megabits", "round_trip"), SETTINGS)
def test_one_byte_takes_a_round_trip_and_the_first_one_two(megabits: float, round_trip: float) -> None:
    async def main() -> list[float]:
        async with trio.open_nursery() as nursery:
            client, server = await opened(nursery, Link.of(megabits, round_trip))
            nursery.start_soon(answer, server, 1)
            times = [await ask(client, 1) for _ in range(3)]
            await client.send_eof()
            return times

    first, *others = virtually(main)
    assert first == pytest.approx(2 * round_trip, rel=0.02)
    assert others == pytest.approx([round_trip] * 2, rel=0.02)


@pytest.mark.parametrize(("megabits", "round_trip"), SETTINGS)
@pytest.mark.parametrize("connections", [1, 4])
def test_the_rate_is_shared(megabits: float, round_trip: float, connections: int) -> None:
    size = 4_000_000
    link = Link.of(megabits, round_trip)
    times: list[float] = []

    async def client_of(client: Stream) -> None:
        times.append(await ask(client, size))
        await client.send_eof()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                client, server = await opened(nursery, link)
                nursery.start_soon(answer, server, size)
                nursery.start_soon(client_of, client)

    virtually(main)
    whole = connections * size * 8 / (megabits * 1e6) + 2 * round_trip
    assert max(times) == pytest.approx(whole, rel=0.02)
    # Equal shares: all end at about the same time.
    assert min(times) == pytest.approx(whole, rel=0.15)
    assert link.down.carried == connections * size
    assert link.up.carried == connections
    assert link.connections == connections


def test_a_small_answer_does_not_wait_for_a_large_one() -> None:
    """Connections take turns: beside a download, a request takes a round trip and a few segments."""
    link = Link.of(200, 0.02)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            large, server = await opened(nursery, link)
            nursery.start_soon(answer, server, 50_000_000)
            nursery.start_soon(ask, large, 50_000_000)
            small, server = await opened(nursery, link)
            nursery.start_soon(answer, server, 1)
            await ask(small, 1)
            await trio.sleep(0.2)
            taken = await ask(small, 1)
            nursery.cancel_scope.cancel()
        return taken

    assert virtually(main) < 0.02 + 6 * SEGMENT / link.down.rate


def test_who_does_not_read_is_not_sent_to() -> None:
    link = Link.of(1000, 0.01)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            client, near = memory_stream_pair()
            far, server = memory_stream_pair()
            near.send_stream.send_all_hook = trio.sleep_forever
            nursery.start_soon(connect, link, near, far)
            nursery.start_soon(answer, server, 100_000_000)
            await client.send_all(b"?")
            await trio.sleep(60)
            nursery.cancel_scope.cancel()

    virtually(main)
    assert link.down.carried < 9_000_000


@pytest.mark.parametrize("cut", ["client", "server"])
def test_a_cut_connection_ends(cut: str) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            client, server = await opened(nursery, Link.of(200, 0.02))
            await client.send_all(b"?")
            assert await server.receive_some() == b"?"
            await (client if cut == "client" else server).aclose()
            other = server if cut == "client" else client
            with trio.fail_after(1):
                assert await other.receive_some() == b""
            await other.aclose()

    virtually(main)


def test_a_pipe_that_was_idle_owes_nothing() -> None:
    pipe = Pipe(1000, 0.5)
    assert pipe.send(1000, 10.0) == 11.5
    assert pipe.send(500, 10.2) == 12.0
    assert pipe.busy(11.0) == 0.5
    assert pipe.send(1000, 100.0) == 101.5
    assert pipe.carried == 2500


def test_over_real_sockets() -> None:
    """What comes out is what went in, and not before its time; how much later depends on the machine."""
    data = bytes(range(256)) * 8192
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(30)
                peer.recv(1)
                peer.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        with ShapedLink(f"127.0.0.1:{server.getsockname()[1]}", 100, 0.01) as link:
            begin = time.monotonic()
            with socket.create_connection(("127.0.0.1", link.port), timeout=30) as client:
                client.sendall(b"?")
                received = b""
                while piece := client.recv(1 << 20):
                    received += piece
            seconds = time.monotonic() - begin
            assert link.received == len(data)
        thread.join(30)
    assert received == data
    assert seconds >= 2 * 0.01 + len(data) * 8 / 100e6
