"""``oci:DIR``: an OCI image layout in a directory (image-spec, ``image-layout.md``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from als.errors import BadImage, NotFound, Unsupported
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.model.manifest import REF_NAME, Descriptor, Index, parse_manifest
from als.registry.source import LocalBlob, RawManifest, as_digest, check_digest


def find_in_index(index: Index, name: str, where: str) -> Descriptor:
    """The entry of a layout's index that a reference means, as containers/image (``oci/layout``) resolves it.

    :param name: an ``org.opencontainers.image.ref.name``, ``@N`` for the N-th entry, or empty for the only one.
    :raises NotFound: there is none, or several where one has to be meant.
    """
    if name.startswith("@"):
        position = int(name[1:]) if name[1:].isascii() and name[1:].isdigit() else len(index.manifests)
        if position >= len(index.manifests):
            raise NotFound(f"{name} is none of its {len(index.manifests)} images", where=where)
        return index.manifests[position]
    names = [descriptor.annotations.get(REF_NAME, "") for descriptor in index.manifests]
    offered = ", ".join(sorted(filter(None, names))[:20])
    if name:
        if name not in names:
            raise NotFound(f"no image is named {name!r}", where=where, hint=f"it has {offered or 'no named images'}")
        return index.manifests[names.index(name)]
    if len(index.manifests) != 1:
        hint = f"name one of: {offered}" if offered else "name one by its position: @0, @1, ..."
        raise NotFound(f"it holds {len(index.manifests)} images", where=where, hint=hint)
    return index.manifests[0]


def locate(index: Index, name: str, where: str) -> tuple[Digest, str]:
    """Digest and media type of what a name means in a layout; a digest means itself, whether the index lists it or not.

    :raises NotFound: see `find_in_index`.
    """
    digest = as_digest(name)
    if digest is None:
        descriptor = find_in_index(index, name, where)
        return descriptor.digest, descriptor.media_type
    return digest, next((each.media_type for each in index.manifests if each.digest == digest), "")


def parse_index(data: bytes, where: str, limits: Limits) -> Index:
    """Read a layout's index.json.

    :raises BadImage: it is not an index.
    """
    index = parse_manifest(data, None, limits)
    if not isinstance(index, Index):
        raise Unsupported("its index.json is no index", where=where)
    return index


class FileBlob:
    """A stream over a range of a file; see :class:`als.registry.source.BlobStream`."""

    def __init__(self, place: LocalBlob, offset: int, length: int | None) -> None:
        if offset < 0 or offset > place.size or (length is not None and length < 0):
            raise ValueError(f"the range does not lie within {place.size} bytes")
        self.size: int | None = place.size
        self._file = place.path.open("rb", buffering=0)
        self._path = place.path
        self._position = place.offset + offset
        self._end = place.offset + (place.size if length is None else min(place.size, offset + length))

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes; empty at the end and only there.

        :raises BadImage: the file has become shorter.
        """
        wanted = min(amount, self._end - self._position)
        if wanted <= 0:
            return b""
        data = os.pread(self._file.fileno(), wanted, self._position)
        if not data:
            raise BadImage("the file ends before the blob does", where=str(self._path))
        self._position += len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class OciLayout:
    """An image layout; a :class:`als.registry.source.LocalSource`."""

    def __init__(self, directory: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._directory = Path(directory)
        self._limits = limits

    def manifest(self, tag_or_digest: str) -> RawManifest:
        """The image of this name, of this digest, or (for an empty text) the only one.

        :raises NotFound: there is no layout, or no such image in it.
        :raises DigestMismatch: its bytes are others.
        """
        where = f"oci:{self._directory}"
        index = parse_index(self._read(self._directory / "index.json"), where, self._limits)
        digest, media_type = locate(index, tag_or_digest, where)
        place = self.local_blob(digest)
        return RawManifest(media_type, check_digest(self._read(place.path), digest, where), digest)

    def blob(self, digest: Digest, *, offset: int = 0, length: int | None = None) -> FileBlob:
        """A blob's bytes.

        :raises NotFound: there is no such blob.
        """
        return FileBlob(self.local_blob(digest), offset, length)

    def local_blob(self, digest: Digest) -> LocalBlob:
        """The file that is the blob.

        :raises NotFound: there is no such blob.
        """
        path = self._directory / "blobs" / digest.algorithm / digest.hex
        if not path.is_file():
            raise NotFound("there is no such blob", where=f"oci:{self._directory} {digest}")
        return LocalBlob(path, 0, path.stat().st_size)

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self, path: Path) -> bytes:
        """At most one byte more than a manifest may have, so that the parser can refuse it."""
        try:
            with path.open("rb") as file:
                return file.read(self._limits.manifest_bytes + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound("this is no OCI image layout", where=str(path)) from error
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}", where=str(path)) from error
