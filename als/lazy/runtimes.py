"""What a language's runtime reads before the first line of anybody's program.

The loader's part is told by the files themselves (:mod:`als.lazy.elf`); which files CPython opens while it starts can only be
known. They are some ten small files, and each would be a round trip of its own when the container comes to it.

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


def _module(library: bytes, module: str, minor: int) -> RuntimeFile:
    """A module of the library: compiled, or else its source."""
    folder, _, name = module.rpartition("/")
    cached = f"{folder}/__pycache__/{name}.cpython-3{minor}.pyc".lstrip("/")
    return RuntimeFile((library + cached.encode(), library + f"{module}.py".encode()))
