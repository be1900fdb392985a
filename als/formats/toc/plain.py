"""Entries of a table of contents that are as nearly all are, read many at a time.

Reading them one by one takes some 20 microseconds each, the third part of the time until a container of ten thousand files can
start. Nearly all are names of directories, links, or files each of whose chunks begins a unit, and have no xattrs; of these,
whole columns can be read and checked at once. What is not as simple, or is wrong, is left to :mod:`als.formats.toc.entries`,
which knows what to make of it: nothing is refused here.
"""

from __future__ import annotations

import itertools
from binascii import a2b_hex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import cast

from als.errors import BadImage
from als.formats.indexbuilder import EMPTY_SHA256
from als.formats.plainrows import PlainRows
from als.formats.toc.fields import MAX_NUMBER, Raw, Times
from als.model.entry import EntryType

_FIELDS = frozenset(
    (
        *("type", "name", "linkName", "mode", "size", "uid", "gid", "userName", "groupName", "modtime", "accesstime"),
        *("changetime", "digest", "offset", "endOffset", "chunkOffset", "chunkSize", "chunkDigest", "chunkType"),
    )
)
_CHUNK_FIELDS = frozenset(("type", "name", "offset", "chunkOffset", "chunkSize", "chunkDigest", "chunkType"))
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
_ABSENT = (None, "")
_OF_EMPTY = (*_ABSENT, _ALGORITHM + EMPTY_SHA256.hex())


@dataclass(frozen=True, slots=True)
class _Chunks:
    """See :class:`PlainRows`."""

    counts: list[int]
    offsets: list[int]
    lengths: list[int]
    units: list[int]
    sha256s: list[bytes]
    holes: list[bool]


def plain_rows(elements: Sequence[Raw], times: Times) -> PlainRows | None:
    """What these elements say; None: one of them is not plain, or nothing that can be.

    :param elements: entries, each with all chunks that follow it.
    """
    heads = [raw for raw in elements if raw.get("type") != "chunk"]
    if not all(map(_FIELDS.issuperset, heads)):
        return None
    try:
        kinds = [_TYPES[raw["type"]] for raw in heads]
        paths = _encoded([raw["name"] for raw in heads])
        links = _encoded([raw["linkName"] if kind in _LINKS else "" for raw, kind in zip(heads, kinds, strict=True)])
        mtimes = times.of(heads, "modtime")
    except (KeyError, TypeError, UnicodeEncodeError, BadImage):
        return None
    owners = [_numbers(heads, name) for name in ("mode", "uid", "gid")]
    every = [raw for raw, kind in zip(heads, kinds, strict=True) if kind is _FILE]
    of_files, all_ends = _numbers(every, "size"), _numbers(every, "endOffset")
    if of_files is None or all_ends is None or None in owners:
        return None
    files = [raw for raw, size in zip(every, of_files, strict=True) if size]
    empty = (raw for raw, size in zip(every, of_files, strict=True) if not size)
    digests = _digests([raw.get("digest") for raw in files])
    if digests is None or any(raw.get("digest") not in _OF_EMPTY for raw in empty):
        return None
    chunks = _chunks(files, digests) if len(heads) == len(elements) else _many_chunks(elements)
    if chunks is None:
        return None
    ends = [end for end, size in zip(all_ends, of_files, strict=True) if size]
    if len(chunks.units) > len(ends):
        stated, ends = ends, [0] * len(chunks.units)
        for last, end in zip(itertools.accumulate(chunks.counts), stated, strict=True):
            ends[last - 1] = end
    modes, uids, gids = (numbers or [] for numbers in owners)
    size = iter(of_files)
    sizes = [next(size) if kind is _FILE else 0 for kind in kinds]
    own = (chunks.counts, chunks.offsets, chunks.lengths, chunks.units, ends, chunks.sha256s, chunks.holes)
    return PlainRows(kinds, paths, links, modes, uids, gids, mtimes, sizes, digests, *own)


def _chunks(files: Sequence[Raw], digests: list[bytes]) -> _Chunks | None:
    """Of files that have one chunk each."""
    if any(raw.get("chunkType") not in _ABSENT for raw in files):
        return None
    if any(raw.get("chunkDigest") not in (raw["digest"], *_ABSENT) for raw in files):
        return None
    offsets, lengths, units = (_numbers(files, name) for name in ("chunkOffset", "chunkSize", "offset"))
    if offsets is None or lengths is None or units is None:
        return None
    return _Chunks([1] * len(files), offsets, lengths, units, digests, [False] * len(files))


def _many_chunks(elements: Sequence[Raw]) -> _Chunks | None:
    """Of files of which some have several."""
    rows: list[Raw] = []
    counts: list[int] = []
    name: object = None
    for raw in elements:
        if raw.get("type") == "chunk":
            if name is None or raw.get("name") != name or not _CHUNK_FIELDS.issuperset(raw):
                return None
            rows.append(raw)
            counts[-1] += 1
        elif raw["type"] == "reg" and raw.get("size"):
            name = raw["name"]
            rows.append(raw)
            counts.append(1)
        else:
            name = None
    kinds = [raw.get("chunkType") for raw in rows]
    if any(kind not in (*_ABSENT, "zeros") for kind in kinds):
        return None
    texts = [raw.get("chunkDigest") for raw in rows]
    for last, count in zip(itertools.accumulate(counts), counts, strict=True):
        if count == 1:
            of_file = rows[last - 1]["digest"]
            if kinds[last - 1] == "zeros" or texts[last - 1] not in (of_file, *_ABSENT):
                return None
            texts[last - 1] = of_file
    sha256s = _digests(texts)
    offsets, lengths, units = (_numbers(rows, name) for name in ("chunkOffset", "chunkSize", "offset"))
    if sha256s is None or offsets is None or lengths is None or units is None:
        return None
    return _Chunks(counts, offsets, lengths, units, sha256s, [kind == "zeros" for kind in kinds])


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


def _digests(values: list[object]) -> list[bytes] | None:
    """What these texts state; None: one is none, or no sha256 as everybody writes it."""
    if not set(map(type, values)) <= {str}:
        return None
    texts = cast("list[str]", values)
    joined = "".join(text[len(_ALGORITHM) :] for text in texts)
    if not {text[: len(_ALGORITHM)] for text in texts} <= {_ALGORITHM} or not set(map(len, texts)) <= {_DIGEST_LENGTH}:
        return None
    try:
        found = a2b_hex(joined)
    except ValueError:
        return None
    # Capitals are another text for the same digest.
    return [digest for (digest,) in _SHA256.iter_unpack(found)] if found.hex() == joined else None
