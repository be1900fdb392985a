"""What a connection bears: clients that say nonsense, say nothing, or do not listen."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import pytest
import trio

from als.mirror.app import Request
from als.mirror.connection import Connection
from tests.harness.policy import ExpectedLogs

Handle = Callable[[Request, Connection], Awaitable[None]]
REQUEST = b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n"


async def hello(request: Request, reply: Connection) -> None:
    await reply.head(200, {"Content-Length": "2"})
    if request.method != "HEAD":
        await reply.data(b"hi")


async def endless(request: Request, reply: Connection) -> None:
    await reply.head(200, {})
    while True:
        await reply.data(bytes(1 << 16))


def talk(said: bytes, handle: Handle = hello, *, listens: bool = True, idle: float = 0.5, write: float = 0.5) -> bytes:
    """What a client hears until the server hangs up, which it has to within some seconds."""

    async def main() -> bytes:
        ours, theirs = trio.socket.socketpair()
        heard = b""
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery, trio.SocketStream(theirs) as client:
                nursery.start_soon(serve, trio.SocketStream(ours))
                await client.send_all(said)
                while listens and (data := await client.receive_some()):
                    heard += data
                if not listens:
                    await ended.wait()
        return heard

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await Connection(stream, idle=idle, write=write).serve(handle)
        ended.set()

    ended = trio.Event()
    return trio.run(main)


def statuses(heard: bytes) -> list[int]:
    return [int(part[:3]) for part in heard.split(b"HTTP/1.1 ")[1:]]


def test_requests_one_after_the_other() -> None:
    heard = talk(REQUEST * 3)
    assert statuses(heard) == [200, 200, 200]
    assert heard.count(b"\r\n\r\nhi") == 3
    assert talk(REQUEST.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")
    assert statuses(talk(REQUEST.replace(b"Host: h", b"Host: h\r\nConnection: close") * 2)) == [200]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", [400]),
        (b"GET /v2/ HTTP/1.1\r\n\r\n", [400]),
        (b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", [400]),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000, [431]),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", [413]),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", [413]),
        (b"GET /v2/ HTT", []),
        (b"", []),
    ],
)
def test_nonsense(said: bytes, status: list[int]) -> None:
    assert statuses(talk(said)) == status


async def defective(request: Request, reply: Connection) -> None:
    await reply.head(200, {"X": "a\nb"})


def test_what_we_must_not_say_is_not_said(expect_log: ExpectedLogs) -> None:
    expect_log("an answer that is not HTTP")
    assert talk(REQUEST, defective) == b""


def test_who_does_not_listen_is_left() -> None:
    assert talk(REQUEST, endless, listens=False) == b""


def test_who_has_gone_is_left() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        ours.setblocking(False)
        with trio.fail_after(10):
            async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
                await Connection(stream).serve(hello)

    trio.run(main)
