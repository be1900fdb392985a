"""What is read of files of an image, and of our own records, to foresee what a container reads."""

from __future__ import annotations

from collections.abc import Iterable

from als.errors import BadImage, StoreDamaged
from als.lazy.elf import HEAD_BYTES, Machine, read_elf
from als.lazy.ldcache import parse_cache
from als.lazy.profile import pack, unpack
from als.lazy.shebang import indirect_program, interpreter_line
from tests.fuzz.driver import Target
from tests.fuzz.inputs import DOCUMENT
from tests.lazy.elves import closure, command, made


def elf(data: bytes) -> None:
    """A program alone, and the same as all of an image: it needs itself."""
    reader = read_elf(data[:HEAD_BYTES], len(data))
    try:
        spans = next(reader)
        while True:
            assert spans
            assert all(0 <= span.offset < span.offset + span.length <= len(data) for span in spans)
            spans = reader.send(tuple(data[span.offset : span.offset + span.length] for span in spans))
    except StopIteration as stop:
        found = stop.value
        files = ("bin/x", "lib/ld.so", *(f"lib/lib{letter}.so" for letter in "abc"))
        assert "bin/x" in closure(made(dict.fromkeys(files, data)), command("x"))
        assert len(found.needed) <= 256


def script(data: bytes) -> None:
    interpreter, argument = interpreter_line(data)
    program = indirect_program(interpreter, argument)
    assert b"\n" not in interpreter + argument + program
    if not interpreter:
        raise BadImage("no script")
    closure(made({"bin/x": b"#!" + data[2:], "bin/env": b"#!/bin/x\n"}), command("x"))


def ld_cache(data: bytes) -> None:
    found = parse_cache(data)
    for name in found.libraries:
        assert all(found.paths(name, Machine(64, True, 62), (b"x86-64-v3",)))


def profile(data: bytes) -> None:
    found = unpack(data)
    assert unpack(pack(found)) == found
    assert found.joined(found).files == found.joined(found).joined(found).files


def ahead_targets() -> Iterable[Target]:
    yield Target("elf", elf, (BadImage,), (b"\x7fELF", bytes(8), b"\xff" * 8, b"$ORIGIN", b"/lib/ld-musl-x86_64.so.1\0"))
    yield Target("script", script, (BadImage,), (b"#!", b"/usr/bin/env", b"-S", b"\n", b" ", b"=", b"x" * 256))
    yield Target("ld-cache", ld_cache, (BadImage,), (b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1", b"/glibc-hwcaps/", b"\0"))
    yield Target("profile", profile, (StoreDamaged,), (*DOCUMENT, b"0-1", b" 2-3", b"%00", b"%2f", b'"missed": 3'))
