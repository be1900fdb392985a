"""What a streamed layer format is.

A format is a parser without I/O: bytes go in through :meth:`StreamParser.feed`, events come out. The concatenation of
all `Segment` and `Payload` bytes, in order, is exactly the uncompressed stream: whoever consumes the events can compute the
DiffID and can rebuild the stream later from the segments and the files' content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from als.model.entry import Entry
from als.model.limits import Limits


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of the stream that are no file's content: headers, padding, what follows the end marker."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Begin:
    """An entry; for a regular file, `Payload` events with exactly ``entry.stored`` bytes follow before the next event."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Payload:
    """A run of a regular file's stored bytes. The view is of bytes, which nobody changes: it may be kept for a while."""

    data: memoryview


Event = Segment | Begin | Payload


class StreamParser(Protocol):
    """A parser of one uncompressed stream, used once."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes of the stream.

        :raises als.errors.BadImage: the stream is malformed.
        :raises als.errors.LimitExceeded: it exceeds a set limit.
        """
        ...

    def finish(self) -> Iterator[Event]:
        """The stream has ended.

        :raises als.errors.BadImage: it ended too early.
        """
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A layer format, as :mod:`als.formats.discovery` finds it: under the name ``FORMAT`` in a module of als.formats."""

    name: str
    """As ``als inspect`` prints it."""
    matches: Callable[[str, Mapping[str, str]], bool]
    """Whether a layer of this media type, with these annotations in its manifest, is of this format."""
    parser: Callable[[Limits], StreamParser]
    """Makes the parser of one uncompressed stream."""
    rank: int = 0
    """Of several formats that match, the one of the highest rank is meant; one that adds to another ranks above it."""
