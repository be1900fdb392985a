"""What the FUSE face needs to know of the rest of als, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class ByteFile(Protocol):
    """A virtual file's content: readable at any offset, of a size known beforehand."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes from `offset`; fewer than `length` only at the end. May block until its deadline.

        :raises als.errors.AlsError: they cannot be had.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ServedLayer:
    """A layer that is published and ready to be mounted."""

    key: str
    """Names the layer for ever: the chain ID."""
    diff: Path
    """The directory that the layer's ``diff`` symlink leads to; ``diff1`` is beside it."""
    info: bytes
    """The layer's ``info`` document, JSON."""
    blob_size: int
    """Bytes of the compressed blob."""


class Backend(Protocol):
    """Everything is blocking and is called from a thread; every call keeps a deadline of its own."""

    def lookup(self, reference: str, digest: str) -> ServedLayer | None:
        """Publish the layer of that image which has this blob (or TOC) digest, and describe it; None: not served here.

        May take as long as the layer's download makes progress.

        :raises als.errors.AlsError: it could not be had; the client shall pull normally.
        """
        ...

    def use(self, reference: str, digest: str) -> None:
        """Take one reference; durable when this returns."""
        ...

    def release(self, reference: str, digest: str) -> None:
        """Drop one reference; durable when this returns. Dropping what was never taken does nothing."""
        ...

    def open_blob(self, reference: str, digest: str) -> ByteFile:
        """The layer's blob as the registry has it, fetched again and verified.

        :raises als.errors.AlsError: it cannot be had now.
        """
        ...
