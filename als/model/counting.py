"""What is counted while images are served, as the parts that do the work know it.

They are handed something that counts, or :class:`NotCounted`; what becomes of the numbers is :mod:`als.metrics`' affair.
"""

from __future__ import annotations

import enum
from typing import Protocol


class Saved(enum.StrEnum):
    """Why bytes did not have to come over the network."""

    FILE = "store_file"
    """The store had a file of that digest; bytes of the file."""
    LAYER = "store_layer"
    """The store had the whole layer; bytes of its blob."""


class Outcome(enum.StrEnum):
    """How a read of a file in a lazy layer ended."""

    HERE = "here"
    """The bytes were here already: prefetched, in the store, or read before."""
    WAITED = "waited"
    """They had to be fetched."""
    FAILED = "failed"


class Counters(Protocol):
    """Thread-safe, and quick: it is called for every piece of data."""

    def received(self, count: int) -> None:
        """So many bytes came from a registry."""
        ...

    def saved(self, why: Saved, count: int) -> None:
        """So many bytes need not be fetched."""
        ...

    def fetched(self, want: str, units: int, seconds: float) -> None:
        """Units of a lazy layer were verified and kept so many seconds after they were asked for.

        :param want: why they were asked for, the name of an :class:`als.lazy.schedule.Want` in small letters.
        """
        ...

    def read(self, outcome: Outcome, seconds: float) -> None:
        """A container's read of a lazy file was answered."""
        ...

    def troubled(self, kind: str) -> None:
        """A request for bytes of a lazy layer failed; `kind` is the name of a class of :mod:`als.errors`."""
        ...


class NotCounted:
    """Counters of a process that nobody asks."""

    def received(self, count: int) -> None:
        """Nothing."""

    def saved(self, why: Saved, count: int) -> None:
        """Nothing."""

    def fetched(self, want: str, units: int, seconds: float) -> None:
        """Nothing."""

    def read(self, outcome: Outcome, seconds: float) -> None:
        """Nothing."""

    def troubled(self, kind: str) -> None:
        """Nothing."""
