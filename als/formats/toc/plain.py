"""Entries of a table of contents that are as nearly all are, read many at a time.

Reading them one by one takes some 20 microseconds each, the third part of the time until a container of ten thousand files can
start. Nearly all are names of directories, links, or files of a single chunk that begins a unit, and have no xattrs; of these,
whole columns can be read and checked at once. What is not as simple, or is wrong, is left to :mod:`als.formats.toc.entries`,
which knows what to make of it: nothing is refused here.
"""

from __future__ import annotations

from binascii import a2b_hex
from collections.abc import Mapping, Sequence

from als.errors import BadImage
from als.formats.indexbuilder import EMPTY_SHA256, PlainRows
from als.formats.toc.fields import MAX_NUMBER, Raw, Times
from als.model.entry import EntryType

_FIELDS = frozenset(
    (
        *("type", "name", "linkName", "mode", "size", "uid", "gid", "userName", "groupName", "modtime", "accesstime"),
        *("changetime", "digest", "offset", "endOffset", "chunkDigest"),
    )
)
_TYPES: Mapping[object, EntryType] = {
    "reg": EntryType.FILE,
    "dir": EntryType.DIR,
    "symlink": EntryType.SYMLINK,
    "hardlink": EntryType.HARDLINK,
}
_FILE = EntryType.FILE
_LINKS = (EntryType.SYMLINK, EntryType.HARDLINK)
_ALGORITHM = "sha256:"
_DIGEST_LENGTH = len(_ALGORITHM) + 64
_OF_EMPTY = (None, "", _ALGORITHM + EMPTY_SHA256.hex())


def plain_rows(elements: Sequence[Raw], times: Times) -> PlainRows | None:
    """What these elements say; None: one of them is not plain, or nothing that can be."""
    if not all(map(_FIELDS.issuperset, elements)):
        return None
    try:
        kinds = [_TYPES[raw["type"]] for raw in elements]
        paths = [_encoded(raw["name"]) for raw in elements]
        links = [_encoded(raw["linkName"]) if kind in _LINKS else b"" for raw, kind in zip(elements, kinds, strict=True)]
        mtimes = [times.read(raw, "modtime") for raw in elements]
    except (KeyError, TypeError, UnicodeEncodeError, BadImage):
        return None
    owners = [_numbers(elements, name) for name in ("mode", "uid", "gid")]
    every = [raw for raw, kind in zip(elements, kinds, strict=True) if kind is _FILE]
    of_files, all_ends = _numbers(every, "size"), _numbers(every, "endOffset")
    if of_files is None or all_ends is None or None in owners:
        return None
    files = [raw for raw, size in zip(every, of_files, strict=True) if size]
    ends = [end for end, size in zip(all_ends, of_files, strict=True) if size]
    units, sha256s = _numbers(files, "offset"), _digests(files)
    empty = (raw for raw, size in zip(every, of_files, strict=True) if not size)
    if units is None or sha256s is None or any(raw.get("digest") not in _OF_EMPTY for raw in empty):
        return None
    modes, uids, gids = (numbers or [] for numbers in owners)
    size = iter(of_files)
    sizes = [next(size) if kind is _FILE else 0 for kind in kinds]
    return PlainRows(kinds, paths, links, modes, uids, gids, mtimes, sizes, units, ends, sha256s)


def _encoded(value: object) -> bytes:
    """
    :raises TypeError: it is no string.
    """
    if not isinstance(value, str):
        raise TypeError
    return value.encode()


def _numbers(elements: Sequence[Raw], name: str) -> list[int] | None:
    """A field of each, 0 where it is absent; None: one is not a number in range."""
    values = [raw.get(name, 0) for raw in elements]
    numbers = [value for value in values if type(value) is int]
    if len(numbers) < len(values):
        return None
    return numbers if not numbers or 0 <= min(numbers) <= max(numbers) <= MAX_NUMBER else None


def _digests(files: Sequence[Raw]) -> list[bytes] | None:
    """The digest of each, which is that of its chunk too."""
    texts: list[str] = []
    for raw in files:
        text = raw.get("digest")
        if not isinstance(text, str) or len(text) != _DIGEST_LENGTH or not text.startswith(_ALGORITHM):
            return None
        if raw.get("chunkDigest") not in (text, None, ""):
            return None
        texts.append(text[len(_ALGORITHM) :])
    joined = "".join(texts)
    try:
        found = a2b_hex(joined)
    except ValueError:
        return None
    # Capitals are another text for the same digest.
    return [found[at : at + 32] for at in range(0, len(found), 32)] if found.hex() == joined else None
