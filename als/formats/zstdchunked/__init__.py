"""zstd:chunked: a tar+zstd layer of which every chunk is a zstd frame, with a table of contents in a skippable frame."""

from __future__ import annotations

from collections.abc import Mapping

from als.formats.lazy import IndexedFormat
from als.formats.zstdchunked import reader
from als.formats.zstdchunked.reader import CHECKSUM_OLD
from als.model.manifest import STARGZ_TOC, ZSTD_CHUNKED_TOC

_MEDIA_TYPES = (
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
)


def _matches(media_type: str, annotations: Mapping[str, str]) -> bool:
    """podman's annotation beside eStargz's is an error to containers/storage; stargz-snapshotter writes its own beside it."""
    if media_type not in _MEDIA_TYPES:
        return False
    if ZSTD_CHUNKED_TOC in annotations:
        return STARGZ_TOC not in annotations
    return CHECKSUM_OLD in annotations


INDEXED = IndexedFormat("zstd:chunked", _matches, reader.digests, reader.find, reader.text, reader.parse)
