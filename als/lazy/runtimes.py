"""What is read before the first line of anybody's program, and can only be known, not found out.

A program names its loader and its libraries (:mod:`als.lazy.elf`), but not before its own first bytes are here; and nothing
names the files that CPython opens while it starts. They are some ten small ones, and each would be a round trip of its own when
the container comes to it.

- The package ``encodings`` (``Lib/encodings/__init__.py``), as compiled files where there are any. Until 3.11 most of what
  comes with it was not within the program either.
- With no other locale set it takes C.UTF-8 (PEP 538), whose character types glibc has in a file; the first conversion loads
  the cache of converters. ``tzset`` reads the time zone, and ``site`` looks up the user's home.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PYTHON = re.compile(rb"(|.*/)bin/python3\.(\d{1,3})")
_FROZEN = 11
"""The first minor version whose program has the modules that every start needs within itself."""
_ENCODINGS = ("encodings/__init__", "encodings/aliases", "encodings/utf_8")
_STARTED = (
    *("codecs", "io", "abc", "site", "os", "stat", "_collections_abc", "posixpath", "genericpath", "_sitebuiltins"),
    *("_bootlocale",),
)
_COERCED = (b"", b"C", b"POSIX")
_UTF8 = (b"C.UTF-8", b"C.utf8")
_GCONV = (b"usr/lib/x86_64-linux-gnu", b"usr/lib/aarch64-linux-gnu", b"usr/lib64", b"usr/lib")
_LOADERS = {
    "x86_64": (b"lib64/ld-linux-x86-64.so.2", b"x86_64-linux-gnu"),
    "aarch64": (b"lib/ld-linux-aarch64.so.1", b"aarch64-linux-gnu"),
}
_USERS = (b"etc/nsswitch.conf", b"etc/passwd")


@dataclass(frozen=True, slots=True)
class RuntimeFile:
    """A file that will be read, under the first of its names that there is."""

    names: tuple[bytes, ...]


def runtime_files(program: bytes, locale: bytes) -> Iterator[RuntimeFile]:
    """What a program reads while it starts, in that order.

    :param program: where it is in the image, free of symlinks; without a slash before.
    :param locale: as its environment has it for character types; empty where it says nothing.
    """
    match = _PYTHON.fullmatch(program)
    if match is None:
        return
    if locale in (*_COERCED, *_UTF8):
        yield RuntimeFile((b"usr/lib/locale/C.utf8/LC_CTYPE",))
        yield RuntimeFile(tuple(folder + b"/gconv/gconv-modules.cache" for folder in _GCONV))
    yield RuntimeFile((b"etc/localtime",))
    minor = int(match[2])
    library = b"%slib/python3.%d/" % (match[1], minor)
    for module in _ENCODINGS if minor >= _FROZEN else (*_ENCODINGS, *_STARTED):
        yield _module(library, module, minor)
    for name in _USERS:
        yield RuntimeFile((name,))
    yield _module(library, "sitecustomize", minor)


def usual_files(machine: str) -> tuple[RuntimeFile, ...]:
    """The loader and the C library, which nearly every program needs: the link has nothing else to do until the program's first
    bytes are here and say so. For a program that needs neither, something is fetched that the background fetches anyway.

    :param machine: as ``uname -m`` says.
    """
    if machine not in _LOADERS:
        return ()
    loader, triplet = _LOADERS[machine]
    folders = (b"usr/lib/" + triplet, b"lib/" + triplet, b"usr/lib64", b"lib64", b"usr/lib", b"lib")
    # musl's loader is its library.
    alone = b"lib/ld-musl-%s.so.1" % machine.encode()
    return RuntimeFile((loader, alone)), RuntimeFile(tuple(folder + b"/libc.so.6" for folder in folders))


def _module(library: bytes, module: str, minor: int) -> RuntimeFile:
    """A module of the library: compiled, or else its source."""
    folder, _, name = module.rpartition("/")
    cached = f"{folder}/__pycache__/{name}.cpython-3{minor}.pyc".lstrip("/")
    return RuntimeFile((library + cached.encode(), library + f"{module}.py".encode()))
