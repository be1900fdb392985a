"""Which bytes of an image earlier runs read first: recorded as they are read, kept as a small file, fetched first next time.

A run is recorded from the first read on, for some seconds. Several runs are put together: what only an earlier run has read is
kept for :data:`_MISSES` runs, since a container does not do the same every time. Of a file that was all here before the run
looked it up nothing is seen: its reads go to the file itself and never pass through FUSE. That it was not seen says nothing, so
such a file stays as it is; otherwise a profile would forget what it is good at.

Files are named by their paths, so that a profile also helps with the image's next version, in which most files have other
contents but the same names; of files with several names any will do.

The file is JSON, for it is to be looked at and to be removed by people who ask what is recorded of them::

    {"version": 1, "files": [{"path": "usr/bin/python3.11", "at": 0, "missed": 0, "ranges": "0-65536"}, ...]}

`path` is percent-encoded where it is not plain ASCII, `at` is in milliseconds, `ranges` are offsets start-end (the
end not included) with blanks between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from urllib.parse import quote_from_bytes, unquote_to_bytes

from als.errors import BadImage, StoreDamaged
from als.lazy.elf import Span
from als.lazy.prefetch import Lookup, Wish
from als.model.digest import Digest
from als.model.document import Fields, parse_object
from als.model.tree import FileType, Inode

WINDOW_SECONDS = 10.0
"""How long after the first read a run is recorded."""
PROFILE_BYTES_MAX = 4 << 20

_VERSION = 1
_FILES_MAX = 4096
_RANGES_MAX = 32
"""Of one file; beyond that the smallest gaps are taken as read."""
_MISSES = 3
_RANGES = re.compile(r"\d{1,18}-\d{1,18}(?: \d{1,18}-\d{1,18})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Touched:
    """A file that was read."""

    path: bytes
    at: int
    """Milliseconds after the run's first read; the least of all runs."""
    ranges: tuple[tuple[int, int], ...]
    """What was read: [start, end) in order, not touching each other."""
    missed: int = 0
    """So many runs since the last that read it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the runs of an image read first, in the order in which it was first read."""

    files: tuple[Touched, ...] = ()

    def joined(self, run: Profile, unseen: Container[bytes] = ()) -> Profile:
        """This profile after one more run.

        :param unseen: paths whose reads could not be recorded in that run.
        """
        files = {each.path: replace(each, missed=each.missed + (each.path not in unseen)) for each in self.files}
        for each in run.files:
            before = files.get(each.path, each)
            ranges = _union((*before.ranges, *each.ranges))
            files[each.path] = Touched(each.path, min(before.at, each.at), ranges)
        return _profile(each for each in files.values() if each.missed <= _MISSES)

    def wishes(self, lookup: Lookup) -> Iterator[Wish]:
        """What to fetch of an image, in order. Files that it has no more are left out, and what lies behind a file's end."""
        for each in self.files:
            found = lookup(each.path)
            if found is None or not isinstance(found.node, Inode) or found.node.type is not FileType.FILE:
                continue
            node = found.node
            if node.content is None or node.data is not None:
                continue
            for start, end in each.ranges:
                if start < node.size:
                    yield Wish(found, Span(start, min(end, node.size) - start))


class Recorder:
    """Records one run. Contents are named as in the layers' forests; their paths are only asked for at the end.

    :param now: seconds of a monotonic clock, as in every call here.
    """

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        self._begin: float | None = None
        self._reads: dict[bytes, tuple[int, list[tuple[int, int]]]] = {}

    def read(self, name: bytes, offset: int, length: int, now: float) -> None:
        """`length` bytes of the content `name` were read. Cheap; to be called with every read until :meth:`ended`."""
        if length <= 0 or offset < 0 or self.ended(now):
            return
        if self._begin is None:
            self._begin = now
        known = self._reads.get(name)
        if known is None:
            if len(self._reads) < _FILES_MAX:
                self._reads[name] = (int((now - self._begin) * 1000), [(offset, offset + length)])
            return
        ranges = known[1]
        start, end = ranges[-1]
        if start <= offset <= end:
            ranges[-1] = (start, max(end, offset + length))
        else:
            ranges.append((offset, offset + length))
            if len(ranges) > 8 * _RANGES_MAX:
                ranges[:] = _union(ranges)

    def ended(self, now: float) -> bool:
        """Whether the window is over; False before the first read."""
        return self._begin is not None and now - self._begin > self._window

    @property
    def names(self) -> frozenset[bytes]:
        """The contents that were read."""
        return frozenset(self._reads)

    def profile(self, path_of: Callable[[bytes], bytes | None]) -> Profile:
        """The run as a profile.

        :param path_of: a path of a content in the image, or None (it was read in another image that shares the layer).
        """
        touched = ((path_of(name), at, ranges) for name, (at, ranges) in self._reads.items())
        return _profile(Touched(path, at, _union(ranges)) for path, at, ranges in touched if path is not None)


def file_name(image: Digest) -> str:
    """How the file with the profile of an image is called.

    :param image: the digest of its configuration: the same for the same image in whatever format its layers are.
    """
    return f"{image.hex}.json"


def pack(profile: Profile) -> bytes:
    """The file."""
    files = [
        {
            "path": quote_from_bytes(each.path),
            "at": each.at,
            "missed": each.missed,
            "ranges": " ".join(f"{start}-{end}" for start, end in each.ranges),
        }
        for each in profile.files
    ]
    return json.dumps({"version": _VERSION, "files": files}, indent=1).encode() + b"\n"


def unpack(data: bytes) -> Profile:
    """Read the file.

    :raises StoreDamaged: it is not what :func:`pack` writes.
    """
    try:
        fields = parse_object(data, what="profile", limit=PROFILE_BYTES_MAX)
        if fields.integer("version") != _VERSION:
            raise BadImage("of another version", where="profile")
        return _profile(_touched(each) for each in fields.children("files"))
    except BadImage as error:
        raise StoreDamaged(f"a profile that als did not write: {error}", hint="remove it; it is recorded again") from error


def _touched(fields: Fields) -> Touched:
    path = unquote_to_bytes(fields.text("path"))
    text = fields.text("ranges")
    if not path or b"\0" in path or not _RANGES.fullmatch(text):
        raise BadImage("a file without a path or without ranges", where="profile")
    ranges = [(int(start), int(end)) for start, _, end in (each.partition("-") for each in text.split(" "))]
    if any(start >= end for start, end in ranges):
        raise BadImage("a range without bytes", where="profile")
    return Touched(path, fields.integer("at"), _union(ranges), fields.integer("missed"))


def _profile(files: Iterable[Touched]) -> Profile:
    ordered = sorted(files, key=lambda each: (each.at, each.path))
    return Profile(tuple(ordered[:_FILES_MAX]))


def _union(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The ranges in order, those that touch each other as one, at most `_RANGES_MAX`."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    if len(joined) > _RANGES_MAX:
        gaps = sorted(second[0] - first[1] for first, second in pairwise(joined))
        return _bridged(joined, gaps[len(joined) - _RANGES_MAX - 1])
    return tuple(joined)


def _bridged(ranges: list[tuple[int, int]], gap: int) -> tuple[tuple[int, int], ...]:
    """The ranges without gaps up to so many bytes."""
    joined = ranges[:1]
    for start, end in ranges[1:]:
        if start - joined[-1][1] <= gap:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return tuple(joined)
