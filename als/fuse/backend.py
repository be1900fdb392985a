"""What the FUSE face needs to know of the rest of als, and nothing more."""

from __future__ import annotations

from concurrent.futures import Future
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


class LazyFiles(Protocol):
    """The files of layers that are shown before they are here. Nothing of it blocks: it is called on the event loop's thread.

    A layer's key is 64 hexadecimal digits, a file's name the 32 bytes that it has in the layer's forest.
    """

    def has_layer(self, key: str) -> bool:
        """Whether files of this layer are served."""
        ...

    def size(self, key: str, name: bytes) -> int:
        """Bytes of a file.

        :raises als.errors.NotFound: the layer has no such file, or is not served.
        """
        ...

    def identity(self, key: str, name: bytes) -> bytes:
        """What commits to every byte that `read` gives for a file; files of which it is equal share an inode and a page cache.

        Not the name: that a file has the sha256 by which it is called is, until all of it was hashed, only what whoever wrote
        the layer's index says. By the name alone, one image could have its bytes read in the containers of another.

        :raises als.errors.NotFound: as `size`.
        """
        ...

    def read(self, key: str, name: bytes, offset: int, length: int) -> Future[bytes]:
        """Bytes of a file, verified; fewer than `length` only at its end.

        The future fails with an `als.errors.AlsError` within the deadline; it may be cancelled by whoever does not wait for it.
        """
        ...


class Backend(Protocol):
    """Everything is blocking and is called from a thread; every call keeps a deadline of its own."""

    @property
    def lazy(self) -> LazyFiles | None:
        """The files of lazy layers; None where there are none ever."""
        ...

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
