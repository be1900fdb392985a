"""``oci-archive:FILE``: an OCI image layout in a tar file, read where it lies.

The file is gone through once for the place of each member; blobs are then read straight from the archive. containers/image
unpacks it to a temporary directory instead, which costs the image's size on disk. It also accepts compressed archives,
which have no places to read from: they are refused with the remedy.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO, cast

from als.errors import BadImage, LimitExceeded, NotFound, Unsupported
from als.model.digest import Digest
from als.model.limits import DEFAULT_LIMITS, Limits
from als.registry.layout import FileBlob, locate, parse_index
from als.registry.source import LocalBlob, RawManifest, read_verified

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_MAX_MEMBERS = 100_000
"""tarfile keeps about a kilobyte for each; an image has one per blob."""


class _Headers:
    """A file of which only headers are read. tarfile asks for an extended one at once, however large it says it is.

    :raises LimitExceeded: it is larger than a header may be.
    """

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file = file
        self._limit = limits.header_bytes
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        """At most `size` bytes."""
        if not 0 <= size <= self._limit:
            raise LimitExceeded(f"an extended header of {size} bytes", where="oci-archive")
        return self._file.read(size)


def _headers(file: IO[bytes], limits: Limits) -> IO[bytes]:
    """What tarfile needs of a file, and no more than that."""
    return cast(IO[bytes], _Headers(file, limits))


class OciArchive:
    """An image layout in a tar file; a :class:`als.registry.source.LocalSource`.

    :raises NotFound: there is no such file.
    :raises Unsupported: it is compressed.
    :raises BadImage: it is not a tar file.
    """

    def __init__(self, file: str | Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path = Path(file)
        self._limits = limits
        self._where = f"oci-archive:{self._path}"
        self._members = self._scan()

    def manifest(self, tag_or_digest: str) -> RawManifest:
        """The image of this name, of this digest, or (for an empty text) the only one.

        :raises NotFound: there is no such image in it.
        :raises DigestMismatch: its bytes are others.
        """
        index = parse_index(self._read("index.json"), self._where, self._limits)
        digest, media_type = locate(index, tag_or_digest, self._where)
        return RawManifest(media_type, read_verified(self, digest, self._limits.manifest_bytes), digest)

    def blob(self, digest: Digest, *, offset: int = 0, length: int | None = None) -> FileBlob:
        """A blob's bytes.

        :raises NotFound: there is no such blob.
        """
        return FileBlob(self.local_blob(digest), offset, length)

    def local_blob(self, digest: Digest) -> LocalBlob:
        """Where in the archive the blob lies.

        :raises NotFound: there is no such blob.
        """
        return self._member(f"blobs/{digest.algorithm}/{digest.hex}")

    def close(self) -> None:
        """Nothing is held open."""

    def _member(self, name: str) -> LocalBlob:
        if name not in self._members:
            raise NotFound(f"it has no member {name}", where=self._where)
        offset, size = self._members[name]
        return LocalBlob(self._path, offset, size)

    def _read(self, name: str) -> bytes:
        with FileBlob(self._member(name), 0, self._limits.manifest_bytes + 1) as stream:
            data = b""
            while piece := stream.read(self._limits.manifest_bytes + 1):
                data += piece
        return data

    def _scan(self) -> dict[str, tuple[int, int]]:
        """Offset and size of each regular member, by its name without a leading ``./``; of repeated ones the last counts."""
        members: dict[str, tuple[int, int]] = {}
        try:
            self._check_magic()
            with self._path.open("rb") as file, tarfile.open(fileobj=_headers(file, self._limits), mode="r:") as archive:
                for count, member in enumerate(archive):
                    if count >= _MAX_MEMBERS:
                        raise LimitExceeded(f"more than {_MAX_MEMBERS} members", where=self._where)
                    if member.isreg() and not member.issparse():
                        members[member.name.removeprefix("./")] = (member.offset_data, member.size)
        except FileNotFoundError as error:
            raise NotFound("there is no such file", where=self._where) from error
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror or error}", where=self._where) from error
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise BadImage(f"not a tar file: {error}", where=self._where) from error
        return members

    def _check_magic(self) -> None:
        with self._path.open("rb") as file:
            start = file.read(6)
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                raise Unsupported(f"the archive is compressed with {name}", where=self._where, hint="decompress it first")
