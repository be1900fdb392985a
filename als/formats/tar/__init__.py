"""Tar: the OCI image specification's layers (layer.md, "Image Layer Filesystem Changeset") and Docker's, in any compression."""

from __future__ import annotations

from collections.abc import Mapping

from als.formats.base import Format
from als.formats.tar.parser import TarParser

_MEDIA_TYPES = frozenset(
    prefix + compression
    for prefix, compressions in (
        ("application/vnd.oci.image.layer.v1.tar", ("", "+gzip", "+zstd")),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", ("", "+gzip", "+zstd")),
        ("application/vnd.docker.image.rootfs.diff.tar", ("", ".gzip", ".zstd")),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar", ("", ".gzip")),
    )
    for compression in compressions
)


_NOT_THE_LAYER_S_FILES = ("containerd.io/snapshot/overlaybd/", "containerd.io/snapshot/nydus-")
"""Beginnings of annotations that tell of a tar stream (or what calls itself one) with something else in it."""


def _matches(media_type: str, annotations: Mapping[str, str]) -> bool:
    """A layer that is a tar stream can be read as one, though an annotation may tell of an index or a table of contents."""
    return media_type in _MEDIA_TYPES and not any(key.startswith(_NOT_THE_LAYER_S_FILES) for key in annotations)


FORMAT = Format("tar", _matches, TarParser)
