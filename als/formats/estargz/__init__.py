"""eStargz: a tar+gzip layer of which every chunk is a gzip member, with a table of contents at its end or in another image."""

from __future__ import annotations

from collections.abc import Mapping

from als.formats.estargz import reader
from als.formats.lazy import IndexedFormat
from als.model.manifest import STARGZ_TOC, ZSTD_CHUNKED_TOC

_MEDIA_TYPES = (
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
)
"""Docker's media types come without annotations."""


def _matches(media_type: str, annotations: Mapping[str, str]) -> bool:
    """Both annotations at once are an error to containers/storage; which of them is meant is not for us to guess."""
    return media_type in _MEDIA_TYPES and STARGZ_TOC in annotations and ZSTD_CHUNKED_TOC not in annotations


INDEXED = IndexedFormat("estargz", _matches, reader.digests, reader.find, reader.text, reader.parse)
