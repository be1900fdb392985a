"""Entries of a table of contents that are as nearly all are, read many at a time.

Reading them one by one takes some 20 microseconds each, the third part of the time until a container of ten thousand files can
start. Nearly all are names of directories, links, or files of a single chunk that begins a unit, and have no xattrs; of these,
whole columns can be read and checked at once. What is not as simple, or is wrong, is left to :mod:`als.formats.toc.entries`,
which knows what to make of it: nothing is refused here.
"""

from __future__ import annotations

from binascii import a2b_hex
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import cast

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
_SHA256 = Struct("32s")
_DIGEST_LENGTH = len(_ALGORITHM) + 64
_OF_EMPTY = (None, "", _ALGORITHM + EMPTY_SHA256.hex())


def plain_rows(elements: Sequence[Raw], times: Times) -> PlainRows | None:
    """What these elements say; None: one of them is not plain, or nothing that can be."""
    if not all(map(_FIELDS.issuperset, elements)):
        return None
    try:
        kinds = [_TYPES[raw["type"]] for raw in elements]
        paths = _encoded([raw["name"] for raw in elements])
        links = _encoded([raw["linkName"] if kind in _LINKS else "" for raw, kind in zip(elements, kinds, strict=True)])
        mtimes = times.of(elements, "modtime")
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


def _encoded(values: list[object]) -> list[bytes]:
    """
    :raises TypeError: one is no string.
    """
    if not set(map(type, values)) <= {str}:
        raise TypeError
    return [text.encode() for text in cast("list[str]", values)]


def _numbers(elements: Sequence[Raw], name: str) -> list[int] | None:
    """A field of each, 0 where it is absent; None: one is not a number in range."""
    values = [raw.get(name, 0) for raw in elements]
    if not set(map(type, values)) <= {int}:
        return None
    numbers = cast("list[int]", values)
    return numbers if not numbers or 0 <= min(numbers) <= max(numbers) <= MAX_NUMBER else None


def _digests(files: Sequence[Raw]) -> list[bytes] | None:
    """The digest of each, which is that of its chunk too."""
    values = [raw.get("digest") for raw in files]
    if not set(map(type, values)) <= {str}:
        return None
    texts = cast("list[str]", values)
    of_chunks = [raw.get("chunkDigest") for raw in files]
    if of_chunks != texts and any(one not in (other, None, "") for one, other in zip(of_chunks, texts, strict=True)):
        return None
    joined = "".join(text[len(_ALGORITHM) :] for text in texts)
    try:
        found = a2b_hex(joined)
    except ValueError:
        return None
    # Capitals are another text for the same digest.
    if not set(map(len, texts)) <= {_DIGEST_LENGTH} or found.hex() != joined or not _all_sha256(texts):
        return None
    return [digest for (digest,) in _SHA256.iter_unpack(found)]


def _all_sha256(texts: Sequence[str]) -> bool:
    return {text[: len(_ALGORITHM)] for text in texts} <= {_ALGORITHM}
