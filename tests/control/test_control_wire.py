"""Messages of the control socket, and what hostile or broken ends make of them."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from als import errors
from als.config import Config
from als.control.wire import MAX_MESSAGE, Channel, error_message, error_of, settings
from als.errors import AlsError

Pair = tuple[Channel, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with theirs, closing(Channel(ours)) as channel:
        yield channel, theirs


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def test_what_is_sent_arrives(pair: Pair) -> None:
    channel, theirs = pair
    # A variable that is not UTF-8 has such characters, as os.environ decodes it.
    messages = [{"first": 1}, {"environment": {"A": "ä\udcff", "B": "x" * 50_000}}]
    for message in messages:
        channel.send(message)
    other = Channel(theirs)
    assert [other.receive(5), other.receive(5)] == messages


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (struct.pack("<I", MAX_MESSAGE + 1), "too long"),
        (struct.pack("<I", 0xFFFFFFFF), "too long"),
        (framed(b""), "not JSON"),
        (framed(b"\xff\xfe"), "not JSON"),
        (framed(b"{"), "not JSON"),
        (framed(b"[" * 100_000), "not JSON"),
        (framed(b"[1]"), "not a JSON object"),
        (framed(b"null"), "not a JSON object"),
    ],
)
def test_malformed(pair: Pair, data: bytes, problem: str) -> None:
    channel, theirs = pair
    theirs.sendall(data)
    with pytest.raises(ValueError, match=problem) as caught:
        channel.receive(5)
    assert caught.value.__cause__ is None, "which would show what was sent"


@pytest.mark.parametrize("sent", [b"\x01", framed(b"{}")[:-1], struct.pack("<I", 5)])
def test_cut_short(pair: Pair, sent: bytes) -> None:
    channel, theirs = pair
    theirs.sendall(sent)
    theirs.close()
    with pytest.raises(ConnectionError):
        channel.receive(5)


def test_the_end_and_silence(pair: Pair) -> None:
    channel, theirs = pair
    with pytest.raises(TimeoutError):
        channel.receive(0.01)
    assert not channel.gone()
    theirs.close()
    assert channel.gone()
    assert channel.receive(5) is None


def test_ending_wakes_whoever_waits(pair: Pair) -> None:
    channel, _ = pair
    channel.end()
    assert channel.receive(5) is None
    assert channel.gone()


def test_an_offer_never_waits(pair: Pair) -> None:
    channel, theirs = pair
    offered = 20_000
    for number in range(offered):
        channel.offer({"layer": "x" * 50, "at": number})
    channel.close()
    other, seen = Channel(theirs), []
    while (message := other.receive(5)) is not None:
        seen.append(message["at"])
    assert 0 < len(seen) < offered, "the rest was left out, whole"
    assert seen == sorted(seen)


def kinds() -> list[type[AlsError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AlsError)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("kind", kinds())
def test_errors_are_the_same_on_the_other_side(kind: type[AlsError]) -> None:
    error = kind("what", where="where", hint="hint")
    there = error_of(json.loads(json.dumps(error_message(error))))
    assert (type(there), there.what, there.where, there.hint) == (kind, "what", "where", "hint")


@pytest.mark.parametrize("name", ["SystemExit", "annotations", "nothing", 7, None])
def test_errors_are_of_our_own_tree(name: object) -> None:
    assert type(error_of({"error": name, "what": "x"})) is AlsError


def test_settings_tell_apart_what_matters() -> None:
    ours = Config()
    assert settings(ours) == settings(replace(ours, log_level="debug"))
    for other in (replace(ours, root=Path("/x")), replace(ours, layouts=("diffN",)), replace(ours, lookup_deadline=3.0)):
        assert settings(ours) != settings(other)
