"""Paths as archives write them."""

from __future__ import annotations

from collections.abc import Sequence

from als.errors import BadImage

_TOGETHER = 64
"""Names of which one that is written unusually makes the others take the long way."""


def show(path: bytes) -> str:
    """A path for a message: printable whatever it holds, and not endless."""
    text = path[:200].decode("utf-8", "backslashreplace")
    return repr(text)[1:-1] + ("..." if len(path) > 200 else "")


def clean(path: bytes) -> list[bytes]:
    """The names on the way to `path`, which is relative to the layer's root even where it starts with a slash.

    The rules are those of Go's ``filepath.Clean``, which containers/storage applies to names: doubled slashes and ``.``
    are dropped, ``a/..`` is nothing (without a look at what ``a`` is), and ``/..`` is ``/``.

    :raises BadImage: the path is empty, has a NUL in it or leads out of the layer.
    """
    if not path:
        raise BadImage("an entry without a name")
    if b"\0" in path:
        raise BadImage("a name with a NUL in it", where=show(path))
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif not path.startswith(b"/"):
                raise BadImage("a name leads out of the layer", where=show(path))
        elif part and part != b".":
            parts.append(part)
    return parts


def name_of(path: bytes) -> bytes | None:
    """What a path names, however it is written; None: it has ``..`` in it.

    :raises BadImage: as :func:`clean`.
    """
    name = path.removeprefix(b"./").rstrip(b"/")
    if name and name[0] not in b"./" and b"/." not in name and b"//" not in name and b"\0" not in name:
        # As most of a large layer's are: no further look.
        return name
    return None if b".." in path.split(b"/") else b"/".join(clean(path))


def names_of(paths: Sequence[bytes]) -> list[bytes | None]:
    """:func:`name_of` of many; takes less time.

    :raises BadImage: as :func:`clean`.
    """
    names: list[bytes | None] = []
    for start in range(0, len(paths), _TOGETHER):
        some = paths[start : start + _TOGETHER]
        found = [path.removeprefix(b"./").rstrip(b"/") for path in some]
        text = b"/%b/x" % b"/".join(found)
        plain = b"//" not in text and b"/." not in text and b"\0" not in text
        names += found if plain else map(name_of, some)
    return names
