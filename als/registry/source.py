"""What every place that images come from offers: a registry, an OCI layout, an OCI archive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from als.errors import BadImage, DigestMismatch, LimitExceeded
from als.model.digest import Digest


@dataclass(frozen=True, slots=True)
class RawManifest:
    """A manifest or index as it was served; `media_type` is empty where the place does not tell."""

    media_type: str
    data: bytes
    digest: Digest


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """Where a blob's bytes lie in a file of this machine."""

    path: Path
    offset: int
    size: int


class BlobStream(Protocol):
    """Bytes of a blob, read front to back. They are as received: whoever needs them verified hashes them."""

    size: int | None
    """Bytes of the whole blob, or None where the place does not tell."""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes; empty at the end and only there.

        :raises als.errors.RegistryError: they could not be had.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Source(Protocol):
    """A place that one image (and what belongs to it) can be read from."""

    def manifest(self, tag_or_digest: str) -> RawManifest:
        """A manifest or index; what was asked for by digest has that digest.

        :raises als.errors.NotFound: there is none of that name.
        :raises als.errors.DigestMismatch: the bytes are others.
        """
        ...

    def blob(self, digest: Digest, *, offset: int = 0, length: int | None = None) -> BlobStream:
        """A blob's bytes from `offset`, `length` of them or all that follow.

        :raises als.errors.NotFound: there is no such blob.
        """
        ...

    def close(self) -> None: ...


class LocalSource(Source, Protocol):
    """A source on this machine's own disk."""

    def local_blob(self, digest: Digest) -> LocalBlob:
        """Where the blob lies.

        :raises als.errors.NotFound: there is no such blob.
        """
        ...


def read_verified(source: Source, digest: Digest, limit: int) -> bytes:
    """A small blob as a whole (a configuration, an index), verified.

    :param limit: bytes it may have.
    :raises LimitExceeded: it has more.
    :raises DigestMismatch: the bytes are others.
    """
    data = bytearray()
    with source.blob(digest) as stream:
        while len(data) <= limit:
            chunk = stream.read(min(1 << 20, limit + 1 - len(data)))
            if not chunk:
                return check_digest(bytes(data), digest, str(digest))
            data += chunk
    raise LimitExceeded(f"more than {limit} bytes", where=str(digest))


def check_digest(data: bytes, digest: Digest, where: str) -> bytes:
    """`data` itself, once its digest is known to be right.

    :raises DigestMismatch: it is another.
    """
    hasher = digest.hasher()
    hasher.update(data)
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(f"the bytes are not those of {digest}", where=where)
    return data


def as_digest(name: str) -> Digest | None:
    """The digest that a text is, or None: then it is a tag, or whatever else names an image where it is looked for."""
    try:
        return Digest.parse(name)
    except BadImage:
        return None
