"""glibc's ``/etc/ld.so.cache``: which path the loader takes for a library's name.

It is the loader's only source beside the default directories: ld.so.conf is read by ldconfig, when the cache is made, and by
nobody at run time. So an image's ld.so.conf would tell of libraries that its programs will not find.

Two formats are in use: the one of glibc 2.2 (``glibc-ld.so.cache1.1``), and, from before 2020, the same behind a table of the
older ``ld.so-1.7.0``. Source: glibc ``sysdeps/generic/dl-cache.h``, ``elf/dl-cache.c``, ``sysdeps/generic/ldconfig.h``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from als.errors import BadImage, LimitExceeded
from als.lazy.elf import Machine

CACHE_PATH = b"etc/ld.so.cache"
CACHE_MAX = 4 << 20
"""Some 30,000 libraries; usual images have some hundred."""

_MAGIC = b"glibc-ld.so.cache1.1"
_OLD_MAGIC = b"ld.so-1.7.0"
_OLD_HEADER, _OLD_ENTRY = 16, 12
_HEADER = struct.Struct("<20sII")
_HEADER_BYTES = 48
_BIG_ENDIAN = 3
_ENTRY = struct.Struct("<iIIIQ")
_BIG_ENTRY = struct.Struct(">iIIIQ")
_NAME_MAX = 4096
_TEXT_MAX = 8 * CACHE_MAX
"""All names and paths together: each entry may point into the same long string."""
_HWCAP_EXTENSION = 1 << 62
_SUBDIRECTORY = b"/glibc-hwcaps/"

_FLAGS: Mapping[Machine, int] = {
    Machine(64, True, 62): 0x0303,
    Machine(32, True, 62): 0x0803,
    Machine(32, True, 3): 0x0003,
    Machine(64, True, 183): 0x0A03,
    Machine(32, True, 40): 0x0903,
    Machine(64, True, 243): 0x1003,
    Machine(64, True, 21): 0x0503,
    Machine(64, False, 22): 0x0403,
}
"""x86-64, x32, i386, aarch64, arm (hard float), riscv64 (double float), ppc64le, s390x."""


@dataclass(frozen=True, slots=True)
class _Library:
    path: bytes
    flags: int
    level: bytes
    """The glibc-hwcaps folder it is in; empty: for every processor."""


@dataclass(frozen=True, slots=True)
class Cache:
    """What the cache knows, by name."""

    libraries: Mapping[bytes, Sequence[_Library]] = field(default_factory=dict)

    def paths(self, name: bytes, machine: Machine, levels: Sequence[bytes]) -> Iterator[bytes]:
        """Where libraries of this name are that the machine can load, the one that the loader would take first.

        :param levels: names of the glibc-hwcaps folders that the processor can use, the best first.
        """
        flags = _FLAGS.get(machine)
        fitting = [each for each in self.libraries.get(name, ()) if flags is None or each.flags == flags]
        for level in (*levels, b""):
            yield from (each.path for each in fitting if each.level == level)


def parse_cache(data: bytes) -> Cache:
    """Read the file.

    Entries that the loader could not use are left out: of processors before glibc-hwcaps, or with a name outside of the file.

    :raises BadImage: it is no such file.
    :raises LimitExceeded: it has more than `CACHE_MAX` bytes, or far more text than bytes.
    """
    if len(data) > CACHE_MAX:
        raise LimitExceeded(f"{len(data)} bytes", where="ld.so.cache")
    view = memoryview(data)
    if data.startswith(_OLD_MAGIC) and len(data) >= _OLD_HEADER:
        (count,) = struct.unpack_from("<I", data, 12)
        # The newer table is aligned to its largest number.
        view = view[-(-(_OLD_HEADER + count * _OLD_ENTRY) // 8) * 8 :]
    if len(view) < _HEADER_BYTES or view[: len(_MAGIC)] != _MAGIC:
        raise BadImage("neither of the known formats", where="ld.so.cache")
    _, count, _ = _HEADER.unpack_from(view)
    entry = _ENTRY
    if view[28] & 3 == _BIG_ENDIAN:
        entry = _BIG_ENTRY
        (count,) = struct.unpack_from(">I", view, 20)
    if _HEADER_BYTES + count * entry.size > len(view):
        raise BadImage("it ends too early", where="ld.so.cache")
    return Cache(_libraries(bytes(view), count, entry))


def _libraries(data: bytes, count: int, entry: struct.Struct) -> Mapping[bytes, Sequence[_Library]]:
    found: dict[bytes, list[_Library]] = {}
    total = 0
    for flags, key, value, _, hwcap in entry.iter_unpack(data[_HEADER_BYTES : _HEADER_BYTES + count * entry.size]):
        name, path = _text(data, key), _text(data, value)
        total += len(name) + len(path)
        if total > _TEXT_MAX:
            raise LimitExceeded(f"more than {_TEXT_MAX} bytes of text", where="ld.so.cache")
        level = b""
        if hwcap & _HWCAP_EXTENSION:
            level = path.rpartition(_SUBDIRECTORY)[2].partition(b"/")[0]
        if name and path and bool(hwcap) == bool(level):
            found.setdefault(name, []).append(_Library(path, flags, level))
    return found


def _text(data: bytes, at: int) -> bytes:
    end = data.find(b"\0", at, at + _NAME_MAX)
    return data[at:end] if end >= 0 else b""
