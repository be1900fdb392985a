"""Entries of an index as nearly all are, many at a time: what :class:`als.formats.indexbuilder.IndexBuilder` takes together."""

from __future__ import annotations

from dataclasses import dataclass

from als.model.entry import EntryType


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Entries without xattrs or devices, each of whose chunks begins a unit. Nothing has been checked but the types of values,
    that no number is negative, and that a file which is a single chunk is no hole and has that chunk's sha256."""

    kinds: list[EntryType]
    paths: list[bytes]
    links: list[bytes]
    modes: list[int]
    uids: list[int]
    gids: list[int]
    mtimes: list[tuple[int, int]]
    sizes: list[int]
    """0 of everything but files."""
    digests: list[bytes]
    """The sha256 of each file that is not empty."""
    counts: list[int]
    """How many chunks each of these files has, at least one; what follows is of each chunk."""
    offsets: list[int]
    """In the file."""
    lengths: list[int]
    """Uncompressed bytes; 0: up to the end of the file."""
    units: list[int]
    """Where its unit begins in the blob."""
    ends: list[int]
    """Where that ends; 0 where the index leaves it to what follows."""
    sha256s: list[bytes]
    holes: list[bool]

    def fill(self) -> bool:
        """Whether the chunks of each file follow each other from its beginning to its end."""
        sizes = [size for size in self.sizes if size]
        if len(self.units) == len(sizes) and not any(self.offsets) and not any(self.lengths):
            return True
        stops = [*self.offsets[1:], 0]
        of_files: list[int] = []
        row = 0
        for size, count in zip(sizes, self.counts, strict=True):
            if self.offsets[row]:
                return False
            row += count
            stops[row - 1] = size
            of_files += [size] * count
        return all(
            start < stop and (length or size - start) == stop - start
            for start, length, stop, size in zip(self.offsets, self.lengths, stops, of_files, strict=True)
        )

    def follow(self, least: int, payload_end: int) -> bool:
        """Whether each unit is a new one behind the one before it.

        :param least: where the first one may begin.
        :param payload_end: where the last one has to end.
        """
        if not self.units:
            return True
        following = (*self.units[1:], payload_end)
        return least <= self.units[0] and all(
            start < (end or start + 1) <= after and start < after
            for start, end, after in zip(self.units, self.ends, following, strict=True)
        )
