"""The protocol between workers and the privileged side, with honest and hostile ends."""

from __future__ import annotations

import json
import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from als.errors import BadImage, DeadlineExceeded, NotFound, WorkerError
from als.worker.frames import DATA, END, MAX_BODY, FrameReader, FrameWriter


def never() -> None:
    raise DeadlineExceeded("nothing came")


def read(data: bytes) -> list[tuple[int, bytes]]:
    """What a reader makes of bytes that come through a pipe."""
    read_end, write_end = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(write_end, view) :]
        except BrokenPipeError:
            pass
        os.close(write_end)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        return [(kind, bytes(body)) for kind, body in FrameReader(read_end, never).frames()]
    finally:
        os.close(read_end)
        thread.join()


def written(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("<BI", kind, len(body)) + body for kind, body in frames)


@given(bodies=st.lists(st.binary(max_size=2000), max_size=20), big=st.integers(0, 3 << 20))
@settings(max_examples=40, deadline=None)
def test_frames_arrive_as_sent(bodies: list[bytes], big: int) -> None:
    frames = [(DATA, body) for body in [*bodies, b"x" * big, *bodies]] + [(END, b"{}")]
    assert read(written(frames)) == frames


@given(sizes=st.lists(st.integers(0, 3000) | st.integers(100_000, 1 << 20), max_size=30))
@settings(max_examples=40, deadline=None)
def test_what_a_writer_writes_a_reader_reads(sizes: list[int]) -> None:
    frames = [(DATA, bytes([number]) * size) for number, size in enumerate(sizes)]
    read_end, write_end = os.pipe()

    def feed() -> None:
        out = FrameWriter(write_end)
        for kind, body in frames:
            out.write(kind, memoryview(body)[:100], body[100:])
        out.write_json(END, {})
        out.flush()
        os.close(write_end)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        found = [(kind, bytes(body)) for kind, body in FrameReader(read_end, never).frames()]
    finally:
        os.close(read_end)
        thread.join()
    assert found == [*frames, (END, b"{}")]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"D\x01\x00\x00",
        written([(DATA, b"abc")]),
        written([(DATA, b"abc")])[:-1],
        struct.pack("<BI", DATA, MAX_BODY + 1),
        struct.pack("<BI", DATA, 0xFFFFFFFF) + b"x" * 100,
    ],
)
def test_a_broken_stream_is_a_worker_error(data: bytes) -> None:
    with pytest.raises(WorkerError):
        read(data)


def test_as_many_frames_are_valid_as_are_to_be_kept() -> None:
    read_end, write_end = os.pipe()
    out = FrameWriter(write_end)
    for number in range(6):
        out.write(DATA, b"%d" % number)
    out.write_json(END, {})
    out.flush()
    last = [b""] * 2
    held: list[memoryview] = []
    for _, body in FrameReader(read_end, never, kept=3).frames():
        assert [bytes(one) for one in held] == last[-len(held) :] if held else True
        held = [*held, body][-2:]
        last = [*last, bytes(body)][-2:]
    os.close(read_end)
    os.close(write_end)


def test_a_frame_of_more_parts_than_the_kernel_takes_at_once() -> None:
    read_end, write_end = os.pipe()
    out = FrameWriter(write_end)
    out.write(DATA, *(b"%d," % number for number in range(3000)))
    out.write_json(END, {})
    out.flush()
    (_, body), _ = [(kind, bytes(body)) for kind, body in FrameReader(read_end, never).frames()]
    assert body == b"".join(b"%d," % number for number in range(3000))
    os.close(read_end)
    os.close(write_end)


def test_an_error_crosses_as_itself() -> None:
    read_end, write_end = os.pipe()
    out = FrameWriter(write_end)
    out.write_error(NotFound("no such blob", where="registry", hint="look again"))
    out.flush()
    with pytest.raises(NotFound) as caught:
        list(FrameReader(read_end, never).frames())
    assert (caught.value.what, caught.value.where, caught.value.hint) == ("no such blob", "registry", "look again")
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("name", ["SystemExit", "Exception", "annotations", "__name__", "AlsError; import os", None])
def test_a_worker_cannot_choose_what_is_raised(name: str | None) -> None:
    with pytest.raises(WorkerError):
        read(written([(ord("E"), json.dumps({"type": name, "what": "x"}).encode())]))


def test_silence_is_not_waited_for() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(DeadlineExceeded):
        list(FrameReader(read_end, never, tick=0.01).frames())
    os.close(read_end)
    os.close(write_end)


def test_bad_image_is_among_what_can_cross() -> None:
    with pytest.raises(BadImage):
        read(written([(ord("E"), b'{"type": "BadImage", "what": "x"}')]))
