"""Writes images as OCI layouts: layers from Python's tarfile or from any tar stream.

Written from the OCI specifications, so that tests decide every byte: the compression of each layer, what the
config claims, a layer listed twice. Real tools (podman push, skopeo) are used where the subject is what they write.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

import zstandard
from isal import igzip

MEDIA = "application/vnd.oci.image"
MANIFEST = f"{MEDIA}.manifest.v1+json"
INDEX = f"{MEDIA}.index.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}
EPOCH = 1_700_000_000
SUFFIX = {"gzip": "+gzip", "gzip-6": "+gzip", "zstd": "+zstd", "none": ""}


class TarBuilder:
    """A layer's tar stream, entry by entry, in PAX format; every call returns the builder itself."""

    def __init__(self, mtime: float = EPOCH) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)
        self._mtime = mtime

    def add(self, path: str, kind: bytes, data: bytes = b"", **attributes: Any) -> TarBuilder:
        """Any entry; `attributes` are those of tarfile.TarInfo."""
        info = tarfile.TarInfo(path)
        info.type, info.size, info.mtime = kind, len(data), self._mtime
        for name, value in attributes.items():
            setattr(info, name, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def directory(self, path: str, mode: int = 0o755, **attributes: Any) -> TarBuilder:
        return self.add(path, tarfile.DIRTYPE, mode=mode, **attributes)

    def file(self, path: str, data: bytes, mode: int = 0o644, **attributes: Any) -> TarBuilder:
        return self.add(path, tarfile.REGTYPE, data, mode=mode, **attributes)

    def symlink(self, path: str, target: str, **attributes: Any) -> TarBuilder:
        return self.add(path, tarfile.SYMTYPE, mode=0o777, linkname=target, **attributes)

    def hardlink(self, path: str, target: str, **attributes: Any) -> TarBuilder:
        return self.add(path, tarfile.LNKTYPE, linkname=target, **attributes)

    def whiteout(self, path: str) -> TarBuilder:
        """`path` of the layers below is not to be seen."""
        folder, _, name = path.rpartition("/")
        return self.file(f"{folder}/.wh.{name}" if folder else f".wh.{name}", b"")

    def opaque(self, folder: str) -> TarBuilder:
        """Nothing that layers below have in `folder` is to be seen."""
        return self.file(f"{folder}/.wh..wh..opq", b"")

    def build(self) -> bytes:
        """The finished stream."""
        self._tar.close()
        return self._buffer.getvalue()


@dataclass(frozen=True)
class LayerBlob:
    """A layer as a manifest lists it."""

    digest: str
    size: int
    diff_id: str
    media_type: str
    annotations: dict[str, str] = field(default_factory=dict)

    def descriptor(self) -> dict[str, Any]:
        """Its entry in a manifest."""
        entry: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**entry, "annotations": self.annotations} if self.annotations else entry


@dataclass(frozen=True)
class Image:
    """A manifest in a layout."""

    digest: str
    size: int
    layers: tuple[LayerBlob, ...]


class Sink(Protocol):
    """Something to write to."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> object: ...


class Hashing:
    """A file to write to that hashes and counts what passes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self._sha256.update(data)
        self.size += len(data)
        self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        self._sink.flush()

    def tell(self) -> int:
        return self.size

    @property
    def digest(self) -> str:
        return f"sha256:{self._sha256.hexdigest()}"


class Layout:
    """An OCI image layout on disk (image-layout.md)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}', "ascii")
        self._index = folder / "index.json"
        if not self._index.exists():
            self._write_index([])

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        self._index.write_text(json.dumps(document), "utf-8")

    def name(self, tag: str) -> str:
        """The image's name for tools of containers/*."""
        return f"oci:{self.folder}:{tag}"

    def has(self, tag: str) -> bool:
        """Whether an image is listed under `tag`."""
        manifests = json.loads(self._index.read_bytes())["manifests"]
        return any(entry.get("annotations", {}).get(REF_NAME) == tag for entry in manifests)

    def blob(self, digest: str) -> Path:
        """Where a blob lies."""
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def add_blob(self, data: bytes) -> tuple[str, int]:
        """Store bytes; returns digest and size."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob(digest).write_bytes(data)
        return digest, len(data)

    def add_layer(self, tar: bytes | Callable[[IO[bytes]], None], compression: str = "gzip") -> LayerBlob:
        """Store a layer: a finished tar stream, or a function that writes one to the file it is given.

        :param compression: gzip (quick), gzip-6 (as gzip(1) writes it unless told otherwise), zstd or none.
        """
        staging = self.folder / "blobs" / "staging"
        with staging.open("wb") as file:
            blob = Hashing(file)
            with _compressor(compression, blob) as sink:
                plain = Hashing(sink)
                if isinstance(tar, bytes):
                    plain.write(tar)
                else:
                    tar(cast(IO[bytes], plain))
        staging.rename(self.blob(blob.digest))
        return LayerBlob(blob.digest, blob.size, plain.digest, f"{MEDIA}.layer.v1.tar{SUFFIX[compression]}")

    def add_image(
        self, tag: str, layers: Sequence[LayerBlob], config: dict[str, Any] | None = None, architecture: str = ""
    ) -> Image:
        """Store config and manifest of an image and list it under `tag`.

        :param config: the config's ``config`` object (Cmd, Env, ...).
        :param architecture: as Go names it; by default this machine's.
        """
        document = {
            "created": "2023-11-14T22:13:20Z",
            "architecture": architecture or ARCHITECTURE.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin"], "Cmd": ["/bin/sh"], **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": "2023-11-14T22:13:20Z", "created_by": f"layer {n}"} for n, _ in enumerate(layers)],
        }
        config_digest, config_size = self.add_blob(json.dumps(document).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": f"{MEDIA}.config.v1+json", "digest": config_digest, "size": config_size},
            "layers": [layer.descriptor() for layer in layers],
        }
        digest, size = self.add_blob(json.dumps(manifest).encode())
        self._list(tag, MANIFEST, digest, size)
        return Image(digest, size, tuple(layers))

    def add_index(self, tag: str, images: Mapping[str, Image]) -> str:
        """Store an index of images by architecture, list it under `tag`, and return its digest."""
        manifests = [
            {
                "mediaType": MANIFEST,
                "digest": image.digest,
                "size": image.size,
                "platform": {"architecture": architecture, "os": "linux"},
            }
            for architecture, image in images.items()
        ]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        digest, size = self.add_blob(json.dumps(document).encode())
        self._list(tag, INDEX, digest, size)
        return digest

    def _list(self, tag: str, media_type: str, digest: str, size: int) -> None:
        entry = {"mediaType": media_type, "digest": digest, "size": size, "annotations": {REF_NAME: tag}}
        others = [e for e in json.loads(self._index.read_bytes())["manifests"] if e.get("annotations", {}).get(REF_NAME) != tag]
        self._write_index([*others, entry])


_igzip_file: Callable[..., AbstractContextManager[Sink]] = igzip.IGzipFile
"""isal ships no types; at level 2 it is several times quicker than zlib."""


@contextmanager
def _compressor(compression: str, blob: Hashing) -> Iterator[Sink]:
    if compression == "gzip":
        with _igzip_file(filename="", mode="wb", compresslevel=2, fileobj=blob, mtime=0) as gzip_file:
            yield gzip_file
    elif compression == "gzip-6":
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=blob, mtime=0) as zlib_file:
            yield cast(Sink, zlib_file)
    elif compression == "zstd":
        with zstandard.ZstdCompressor(level=3).stream_writer(cast(IO[bytes], blob), closefd=False) as zstd_file:
            yield zstd_file
    else:
        yield blob
