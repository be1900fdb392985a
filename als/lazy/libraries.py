"""Where a loader looks for a library: glibc's rules (ld.so(8), ``elf/dl-load.c``) and musl's (``ldso/dynlink.c``).

Only paths come out of here, in the order in which the loader would try them; whether there is such a file in the image, and
whether it is for this machine, is seen by who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from als.lazy.elf import Elf, Machine
from als.lazy.ldcache import Cache

_SEARCH_MAX = 64
"""Directories of one list that are looked at."""
_TRIPLETS: Mapping[Machine, bytes] = {
    Machine(64, True, 62): b"x86_64-linux-gnu",
    Machine(32, True, 3): b"i386-linux-gnu",
    Machine(64, True, 183): b"aarch64-linux-gnu",
    Machine(32, True, 40): b"arm-linux-gnueabihf",
    Machine(64, True, 243): b"riscv64-linux-gnu",
    Machine(64, True, 21): b"powerpc64le-linux-gnu",
    Machine(64, False, 22): b"s390x-linux-gnu",
}
_PLATFORMS: Mapping[int, bytes] = {62: b"x86_64", 3: b"i686", 183: b"aarch64", 40: b"v7l", 21: b"power9", 22: b"z14"}
_MUSL = b"ld-musl-"
_MUSL_DEFAULT = b"/lib:/usr/local/lib:/usr/lib"
_MUSL_OWN = (b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet.")
"""``lib`` and one of these: the loader is that library itself."""
MUSL_PATH_MAX = 1 << 16
"""Of a path file."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file of the process that has been loaded."""

    elf: Elf
    origin: bytes
    """The folder it was loaded from: ``$ORIGIN``."""
    parent: Loaded | None = None
    """What needed it."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loader takes from its process and its processor."""

    library_path: bytes = b""
    """``LD_LIBRARY_PATH``."""
    folder: bytes = b"/"
    """The working directory, which relative paths start from."""
    levels: tuple[bytes, ...] = ()
    """The glibc-hwcaps folders that the processor can use, the best first (``x86-64-v3``)."""
    cache: Cache = field(default_factory=Cache)


def is_musl(interpreter: bytes) -> bool:
    """Whether a program's interpreter is musl's loader."""
    return interpreter.rpartition(b"/")[2].startswith(_MUSL)


def musl_path_file(interpreter: bytes) -> bytes:
    """Where musl's loader has the list of its folders: ``/etc/ld-musl-ARCH.path`` in the prefix it is installed to."""
    folder, _, name = interpreter.rpartition(b"/")
    arch = name.removeprefix(_MUSL).partition(b".")[0]
    return folder.rpartition(b"/")[0] + b"/etc/" + _MUSL + arch + b".path"


def musl_is_itself(name: bytes) -> bool:
    """Whether musl's loader has the library of this name within itself."""
    return name.startswith(b"lib") and name[3:].startswith(_MUSL_OWN)


def glibc_paths(name: bytes, by: Loaded, around: Surroundings) -> Iterator[bytes]:
    """Where glibc's loader looks for `name`, which `by` needs."""
    machine = by.elf.machine
    if b"/" in name:
        yield from _expand(name, by, around)
        return
    if by.elf.runpath is None:
        for each in _chain(by):
            if each.elf.runpath is None:
                yield from _in_folders(name, each.elf.rpath, each, around)
    yield from _in_folders(name, around.library_path.replace(b";", b":"), by, around)
    yield from _in_folders(name, by.elf.runpath or b"", by, around)
    cached = around.cache.paths(name, machine, around.levels)
    defaults = _defaults(machine)
    if by.elf.no_default:
        yield from (path for path in cached if path.rpartition(b"/")[0] not in defaults)
        return
    yield from cached
    for folder in defaults:
        yield from _with_levels(folder, name, around.levels)


def musl_paths(name: bytes, by: Loaded, around: Surroundings, folders: bytes) -> Iterator[bytes]:
    """Where musl's loader looks for `name`, which `by` needs.

    :param folders: what its path file holds; empty where there is none.
    """
    if b"/" in name:
        yield from _expand(name, by, around)
        return
    yield from _in_folders(name, around.library_path, by, around)
    for each in _chain(by):
        # To musl, DT_RUNPATH is another name of DT_RPATH.
        yield from _in_folders(name, each.elf.runpath or each.elf.rpath, each, around)
    yield from _in_folders(name, folders.replace(b"\n", b":") or _MUSL_DEFAULT, by, around)


def _chain(by: Loaded) -> Iterator[Loaded]:
    """What needed `name`, what needed that, and so on to the program."""
    each: Loaded | None = by
    while each is not None:
        yield each
        each = each.parent


def _in_folders(name: bytes, folders: bytes, of: Loaded, around: Surroundings) -> Iterator[bytes]:
    if folders:
        for folder in folders.split(b":")[:_SEARCH_MAX]:
            # No folder at all is the working directory.
            for expanded in _expand(folder or b".", of, around):
                yield from _with_levels(expanded, name, around.levels)


def _with_levels(folder: bytes, name: bytes, levels: Sequence[bytes]) -> Iterator[bytes]:
    yield from (b"/".join((folder, b"glibc-hwcaps", level, name)) for level in levels)
    yield folder + b"/" + name


def _expand(path: bytes, of: Loaded, around: Surroundings) -> Iterator[bytes]:
    """An absolute path, ``$ORIGIN`` and its like replaced; distributions do not agree on ``$LIB``, so there may be several."""
    platform = _PLATFORMS.get(of.elf.machine.number, b"")
    path = _replaced(_replaced(path, b"ORIGIN", of.origin), b"PLATFORM", platform)
    for folder in _lib_folders(of.elf.machine) if b"LIB" in path else (b"lib",):
        found = _replaced(path, b"LIB", folder)
        yield found if found.startswith(b"/") else around.folder + b"/" + found
        if found == path:
            return


def _replaced(path: bytes, token: bytes, value: bytes) -> bytes:
    return path.replace(b"${" + token + b"}", value).replace(b"$" + token, value)


def _lib_folders(machine: Machine) -> tuple[bytes, ...]:
    triplet = _TRIPLETS.get(machine)
    return (*((b"lib/" + triplet,) if triplet else ()), *((b"lib64",) if machine.bits == 64 else ()), b"lib")


def _defaults(machine: Machine) -> tuple[bytes, ...]:
    """The folders that a distribution builds into its loader, of all distributions together: Debian's, Fedora's, others'."""
    return tuple(prefix + folder for folder in _lib_folders(machine) for prefix in (b"/", b"/usr/"))
