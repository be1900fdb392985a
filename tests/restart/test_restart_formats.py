"""What is written for the next process, and said to the kernel, libfuse and systemd: as bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from als.errors import KernelError
from als.fuse import noderecords, nodes, wire
from als.fuse.backend import ServedLayer
from als.fuse.wire import Init
from als.keeper import protocol
from als.keeper.restarts import GIVE_UP, STEADY_SECONDS, Restarts

LAYER = nodes.LayerDir("registry.example/app:1", "sha256:" + "a" * 64)
SERVED = ServedLayer("b" * 64, Path("/var/lib/als/layers/b/diff"), b'{"compressed-size": 4}', 4)
FILE = nodes.LazyFile((("1" * 64, b"\1" * 32), ("2" * 64, b"\2" * 32)), b"commitment", 1 << 40)
NODES = (
    nodes.ReferenceDir("registry.example/\u00fc:1"),
    LAYER,
    *nodes.layer_files(LAYER, SERVED),
    nodes.LazyRoot(),
    nodes.LazyLayerDir("1" * 64),
    nodes.LazyForestDir("1" * 64),
    FILE,
)


def kernels_init(minor: int, flags: int, *, major: int = 7, opcode: int = 26) -> bytes:
    """FUSE_INIT as a kernel sends it, packed here on its own."""
    body = struct.pack("=16I", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32, *[0] * 11)
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, 2, 0, 0, 0, 0, 0, 0) + body


def test_only_what_the_kernel_offers_is_taken() -> None:
    offered = Init.ASYNC_READ | Init.DO_READDIRPLUS | Init.PARALLEL_DIROPS | Init.INIT_EXT | Init.HAS_RESEND | 1 << 16
    offer = wire.parse_init(kernels_init(45, offered))
    agreed = wire.negotiate(offer)
    assert agreed == wire.Negotiated(38, Init.ASYNC_READ | Init.DO_READDIRPLUS | Init.PARALLEL_DIROPS, 131072, resends=True)
    reply = struct.unpack("=IiQIIIIHHIIHHI28x", wire.init_reply(offer, agreed, 512))
    assert reply[:6] == (80, 0, 2, 7, 38, 131072)
    assert reply[6] == agreed.flags | Init.INIT_EXT
    assert reply[7:9] == (512, 384)


def test_libfuse_hears_what_was_agreed_on() -> None:
    agreed = wire.Negotiated(36, Init.ASYNC_READ | Init.DO_READDIRPLUS | Init.MAX_PAGES, 4096, resends=True)
    offer = wire.parse_init(wire.init_request(agreed))
    assert (offer.minor, offer.max_readahead, offer.flags) == (36, 4096, Init.ASYNC_READ | Init.DO_READDIRPLUS)
    assert wire.Negotiated.from_json(agreed.to_json()) == agreed


def test_a_kernel_without_resend_is_noticed() -> None:
    offer = wire.parse_init(kernels_init(31, Init.ASYNC_READ | Init.DO_READDIRPLUS))
    assert not wire.negotiate(offer).resends


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        kernels_init(38, 0),
        kernels_init(30, Init.ASYNC_READ | Init.DO_READDIRPLUS),
        kernels_init(38, Init.ASYNC_READ | Init.DO_READDIRPLUS, major=8),
        kernels_init(38, Init.ASYNC_READ | Init.DO_READDIRPLUS, opcode=1),
        kernels_init(38, Init.ASYNC_READ | Init.DO_READDIRPLUS)[:50],
    ],
)
def test_what_cannot_be_answered_is_refused(request_: bytes) -> None:
    with pytest.raises(KernelError):
        wire.parse_init(request_)


def test_a_table_comes_back_from_its_records() -> None:
    lines = [noderecords.told(node) for node in NODES]
    lines += [noderecords.told_again(FILE.inode), noderecords.forgotten(LAYER.inode, 1), noderecords.known(NODES[0], 5)]
    table = noderecords.replay(b"".join(lines))
    assert dict(table.known()) == {
        **dict.fromkeys((node for node in NODES if node != LAYER), 1),
        NODES[0]: 6,
        FILE: 2,
    }
    whole = b"".join(noderecords.known(node, count) for node, count in table.known())
    assert list(noderecords.replay(whole).known()) == list(table.known())


def test_every_cut_of_the_last_record_is_survived() -> None:
    first, last = noderecords.told(LAYER), noderecords.told(FILE)
    for length in range(len(last)):
        assert list(noderecords.replay(first + last[:length]).known()) == [(LAYER, 1)]


@pytest.mark.parametrize("line", [b"{}", b"[]", b'["+"]', b'["+",["info","r"]]', b'["^",7]', b"nonsense", b"\xff"])
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        noderecords.replay(line + b"\n")


def test_what_a_process_is_given() -> None:
    variables = protocol.environment(["one", "two"], 42, "@address", 30.0)
    assert protocol.descriptors(variables, 42) == {"one": 3, "two": 4}
    assert protocol.watchdog_seconds(variables, 42) == 30.0
    assert protocol.descriptors(variables, 43) == {}
    assert protocol.watchdog_seconds(variables, 43) is None
    assert protocol.descriptors({}, 42) == {}


def test_messages() -> None:
    assert protocol.parse(protocol.message(FDSTORE="1", FDNAME="a-b")) == {"FDSTORE": "1", "FDNAME": "a-b"}
    assert protocol.parse(b"nonsense\n\xff=1\nREADY=1")["READY"] == "1"
    assert not any(protocol.is_name(text) for text in ("", "a:b", "a b", "\n", "x" * 256))
    with pytest.raises(ValueError):
        protocol.message(FDNAME="a\nREADY=1")


def test_when_nobody_waits_any_more() -> None:
    state, delays = Restarts(), []
    for _ in range(GIVE_UP):
        assert not state.hopeless
        state = state.died(0.5, hung=False)
        delays.append(state.delay)
    assert state.hopeless
    assert delays == sorted(set(delays))
    assert sum(delays[:-1]) < 5
    assert state.died(STEADY_SECONDS, hung=False) == Restarts()
    hung = Restarts().died(0.0, hung=True)
    assert not hung.hopeless
    assert hung.died(0.0, hung=True).died(0.0, hung=True).hopeless
