"""Layers for tests of lazy pulling: files of noise, whose compressed size is their size."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping

from tests.formats.lazylayers import LazyLayer as Sample
from tests.formats.tocbuilder import Source, estargz, file, folder, zstd_podman
from tests.harness.images import runnable_base
from tests.harness.ocilayout import LayerBlob, Layout
from tests.lazy.site import noise

CHUNK = 128 << 10
FLAVOURS: Mapping[str, Callable[[list[Source]], Sample]] = {
    "estargz": lambda sources: estargz(sources, CHUNK),
    "zstd:chunked": lambda sources: zstd_podman(sources, CHUNK),
}


def contents(count: int, size: int, seed: int = 0) -> dict[str, bytes]:
    """Files by name, of some size around the given one."""
    return {f"d/{number:04}": noise(size // 2 + number * 37 % size, seed + number) for number in range(count)}


def layer(flavour: str, files: Mapping[str, bytes]) -> Sample:
    """A layer with these files below ``d``."""
    return FLAVOURS[flavour]([folder("d"), *(file(name, data, mode=0o644) for name, data in files.items())])


def stored(layout: Layout, sample: Sample) -> LayerBlob:
    """A layer as a blob of a layout, with the annotations that images name it by."""
    digest, size = layout.add_blob(sample.blob)
    return LayerBlob(digest, size, sample.diff_id, sample.descriptor.media_type, dict(sample.descriptor.annotations))


def toc_bytes(sample: Sample) -> int:
    """Bytes of the blob behind the files that tell of them: the table of contents, a tar-split, and the footer."""
    return len(sample.blob) - payload_bytes(sample)


def payload_bytes(sample: Sample) -> int:
    """Where the blob's last file ends."""
    position = sample.descriptor.annotations.get("io.github.containers.zstd-chunked.manifest-position")
    if position is not None:
        return int(position.partition(":")[0]) - 8
    # The footer of eStargz has the offset in hexadecimal (stargz-snapshotter's estargz.md).
    return int(sample.blob[-51:][16:32], 16)


def runnable(flavour: str) -> Sample:
    """The layer that containers need: busybox and what belongs to it."""
    with tarfile.open(fileobj=io.BytesIO(runnable_base())) as tar:
        sources = [(member, _content(tar, member)) for member in tar]
    return FLAVOURS[flavour](sources)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member) if member.isreg() else None
    return stream.read() if stream is not None else b""
