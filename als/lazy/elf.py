"""What the dynamic loader is told by an ELF file, read from as few of its bytes as possible.

The file may be hostile and its bytes may not be here yet. So the reader is a generator: it yields the spans of the file that
it needs next (all that can be known at once) and is sent their bytes. Of a library it reads the header with the program
headers, the dynamic section, and the few strings that this names: some kilobytes, wherever in a file of hundreds of megabytes
they lie.

Everything is looked up as the kernel and the loader do it, through program headers; section headers are not looked at, for a
loader ignores them and a stripped file has none. Sizes and counts are bounded by what the kernel or a loader takes; every
span lies within the file. There is no recursion, and no loop that does not move forward.

pyelftools (0.33) was tried instead. It wants a seekable file that is here as a whole, and took 35 to 85 times as long for the
same answers: it parses field by field with an interpreter of its own, and section headers as well. What is needed here are
five structures of fixed size. Being plain Python over bytes, this may run in the daemon: what a wrong answer costs is the
download of a file of the image that nobody wanted.

Formats: System V ABI, chapters 4 and 5; glibc ``elf/elf.h`` for the numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from dataclasses import dataclass

from als.errors import BadImage

MAGIC = b"\x7fELF"
HEAD_BYTES = 4096
"""Of a file, to be had before :func:`read_elf`: in practice the program headers and the interpreter's name are within."""

_PHDRS_MAX = 1 << 16
"""The kernel refuses more bytes of program headers (fs/binfmt_elf.c)."""
_STRING_MAX = 4096
"""PATH_MAX."""
_DYNAMIC_MAX = 1 << 16
_NEEDED_MAX = 256
"""Twice what the most demanding programs have."""
_TEXT_MAX = 1 << 16
"""All strings of a file together: each tag may point into the same long one."""
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 14, 15, 29
_DT_FLAGS_1 = 0x6FFFFFFB
_DF_1_NODEFLIB = 0x800


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes (at least 1) of a file from `offset` on."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What two files must agree on to be parts of one process."""

    bits: int
    """32 or 64."""
    little: bool
    number: int
    """``e_machine``."""


@dataclass(frozen=True, slots=True)
class Elf:
    """What a program or a shared library asks of the loader; names and paths as written, ``$ORIGIN`` included."""

    machine: Machine
    interpreter: bytes = b""
    """The loader's path; empty where there is none: a static program, or a library."""
    needed: tuple[bytes, ...] = ()
    soname: bytes = b""
    rpath: bytes = b""
    runpath: bytes | None = None
    """None where there is no DT_RUNPATH: an empty one still switches DT_RPATH off."""
    no_default: bool = False
    """The default directories are not to be searched (``-z nodefaultlib``)."""


Reader = Generator[tuple[Span, ...], tuple[bytes, ...], Elf]


@dataclass(frozen=True, slots=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read_elf(head: bytes, size: int) -> Reader:
    """Read a file of `size` bytes whose first bytes are `head` (:data:`HEAD_BYTES`, or all of a smaller file).

    :raises BadImage: it is no ELF file, or one that no loader would take.
    """
    machine, form, place, length = _header(head)
    if place + length <= len(head):
        table = head[place : place + length]
    else:
        (table,) = yield (_within(place, length, size),)
    segments = [_segment(form, fields) for fields in form.phdr.iter_unpack(table)]
    interpreter, dynamic = _first(segments, _PT_INTERP), _first(segments, _PT_DYNAMIC)
    loader = b""
    if interpreter is not None:
        if not 2 <= interpreter.size <= _STRING_MAX:
            raise _bad("the interpreter's name is too long")
        loader = yield from _string(head, size, interpreter)
    if dynamic is None:
        return Elf(machine, loader)
    span = _within(dynamic.offset, min(dynamic.size, _DYNAMIC_MAX), size)
    (raw,) = yield (span,)
    tags = _tags(form, raw)
    return (yield from _dynamic(machine, loader, tags, segments, size))


@dataclass(frozen=True, slots=True)
class _Form:
    """The structures of 32 or 64 bits, of either byte order."""

    phdr: struct.Struct
    dyn: struct.Struct
    bits: int


def _header(head: bytes) -> tuple[Machine, _Form, int, int]:
    """Machine, structures, and where the program headers are: offset and bytes."""
    if len(head) < 64 or not head.startswith(MAGIC) or head[4] not in (1, 2) or head[5] not in (1, 2):
        raise _bad("not an ELF file")
    bits, order = 32 * head[4], "<" if head[5] == 1 else ">"
    kind, number = struct.unpack_from(f"{order}HH", head, 16)
    if kind not in (2, 3):
        raise _bad("neither a program nor a shared library")
    if bits == 64:
        (place,) = struct.unpack_from(f"{order}Q", head, 32)
        entry, count = struct.unpack_from(f"{order}HH", head, 54)
        form = _Form(struct.Struct(f"{order}IIQQQQQQ"), struct.Struct(f"{order}qQ"), 64)
    else:
        (place,) = struct.unpack_from(f"{order}I", head, 28)
        entry, count = struct.unpack_from(f"{order}HH", head, 42)
        form = _Form(struct.Struct(f"{order}IIIIIIII"), struct.Struct(f"{order}iI"), 32)
    if entry != form.phdr.size or not 1 <= count * entry <= _PHDRS_MAX:
        raise _bad("program headers of another size")
    return Machine(bits, order == "<", number), form, place, count * entry


def _segment(form: _Form, fields: tuple[int, ...]) -> _Segment:
    """p_type, p_offset, p_vaddr and p_filesz, which are in another order in 32 bits."""
    if form.bits == 64:
        return _Segment(fields[0], fields[2], fields[3], fields[5])
    return _Segment(fields[0], fields[1], fields[2], fields[4])


def _first(segments: list[_Segment], kind: int) -> _Segment | None:
    return next((each for each in segments if each.kind == kind), None)


def _string(head: bytes, size: int, where: _Segment) -> Generator[tuple[Span, ...], tuple[bytes, ...], bytes]:
    span = _within(where.offset, where.size, size)
    if span.offset + span.length <= len(head):
        raw = head[span.offset : span.offset + span.length]
    else:
        (raw,) = yield (span,)
    return raw.partition(b"\0")[0]


def _tags(form: _Form, raw: bytes) -> list[tuple[int, int]]:
    """The dynamic section's pairs up to DT_NULL."""
    tags: list[tuple[int, int]] = []
    for tag, value in form.dyn.iter_unpack(raw[: len(raw) - len(raw) % form.dyn.size]):
        if tag == _DT_NULL:
            break
        tags.append((tag, value))
    return tags


def _dynamic(machine: Machine, loader: bytes, tags: list[tuple[int, int]], segments: list[_Segment], size: int) -> Reader:
    """What the tags say, with their strings, which are asked for all at once."""
    last = dict(tags)
    wanted = [(tag, value) for tag, value in tags if tag == _DT_NEEDED]
    if len(wanted) > _NEEDED_MAX:
        raise _bad(f"more than {_NEEDED_MAX} libraries needed")
    wanted += [(tag, last[tag]) for tag in (_DT_SONAME, _DT_RPATH, _DT_RUNPATH) if tag in last]
    strings: list[tuple[int, bytes]] = []
    if wanted:
        table = _strings_at(segments, last.get(_DT_STRTAB, 0), last.get(_DT_STRSZ, 0))
        places = [value for _, value in wanted]
        if max(places) - min(places) <= _TEXT_MAX:
            first = min(places)
            (raw,) = yield (_string_span(table, first, max(places), size),)
            texts = [raw[value - first : value - first + _STRING_MAX] for value in places]
        else:
            texts = list((yield tuple(_string_span(table, value, value, size) for value in places)))
        strings = [(tag, _terminated(text)) for (tag, _), text in zip(wanted, texts, strict=True)]
        if sum(len(text) for _, text in strings) > _TEXT_MAX:
            raise _bad(f"more than {_TEXT_MAX} bytes of strings")
    named = dict(strings)
    return Elf(
        machine,
        loader,
        tuple(dict.fromkeys(text for tag, text in strings if tag == _DT_NEEDED and text)),
        named.get(_DT_SONAME, b""),
        named.get(_DT_RPATH, b""),
        named.get(_DT_RUNPATH),
        bool(last.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
    )


def _strings_at(segments: list[_Segment], address: int, length: int) -> Span:
    """Where in the file the string table is that will be mapped to `address`."""
    for each in segments:
        if each.kind == _PT_LOAD and each.address <= address < each.address + each.size:
            length = min(length, each.address + each.size - address)
            if length:
                return Span(each.offset + address - each.address, length)
    raise _bad("its strings are in no segment")


def _string_span(table: Span, first: int, last: int, size: int) -> Span:
    """The strings of the table that begin from `first` to `last`."""
    if last >= table.length:
        raise _bad("a string outside of the string table")
    return _within(table.offset + first, min(last + _STRING_MAX, table.length) - first, size)


def _terminated(raw: bytes) -> bytes:
    end = raw.find(b"\0", 0, _STRING_MAX)
    if end < 0:
        raise _bad("a string without an end")
    return raw[:end]


def _within(offset: int, length: int, size: int) -> Span:
    if length < 1 or offset + length > size:
        raise _bad("it ends too early")
    return Span(offset, length)


def _bad(what: str) -> BadImage:
    return BadImage(what, where="ELF file")
