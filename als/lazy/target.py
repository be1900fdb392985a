"""What the engine fetches bytes for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from als.errors import AlsError
from als.fetch.source import RangeSource
from als.formats.codecs import Compression
from als.model.digest import Digest


class Target(Protocol):
    """What bytes are fetched for: the units of a blob. Called from several threads at once."""

    key: str
    host: str
    digest: Digest
    """Of the blob."""
    blob_size: int
    where: str
    """For errors: the reference."""
    compression: Compression
    whole: bool
    """Whether units are to be decompressed to their very end."""
    starts: Sequence[int]
    ends: Sequence[int]

    def most(self, unit: int) -> int:
        """The most bytes that may come out of a unit."""
        ...

    def still_needed(self, units: Sequence[int]) -> set[int]:
        """Those of them that have to be fetched, now that they are about to be."""
        ...

    def source(self) -> RangeSource:
        """Where to ask.

        :raises AlsError: there is nobody to ask.
        """
        ...

    def broken(self, source: RangeSource) -> None:
        """This source should not be asked again."""
        ...

    def deliver(self, units: Mapping[int, bytearray]) -> dict[int, AlsError]:
        """Decompressed units have come; returns what is wrong with which.

        :raises StoreError: they could not be kept.
        """
        ...

    def trouble(self, units: Sequence[int], error: AlsError) -> None:
        """These units did not come. They are asked for again as long as somebody waits for them."""
        ...

    def served(self, place: str, count: int = 0) -> None:
        """An answer came from there, or so many bytes of it."""
        ...
