"""What a lazy layer is: ``lazy.json`` in its folder, and the folder's name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from als.errors import BadImage, StoreDamaged
from als.formats.index import LayerIndex
from als.model.digest import Digest
from als.model.manifest import Descriptor


@dataclass(frozen=True, slots=True)
class LazyRecord:
    """What a lazy layer is, and where its bytes come from."""

    reference: str
    """Of the image by which it was found."""
    descriptor: Descriptor
    diff_id: Digest
    """As the image's config states it; not verified before the layer is complete."""
    format: str
    image_sha256: str
    """Of layer.erofs, hexadecimal; "" while that is still being written, and nobody is shown the layer."""

    def to_json(self) -> dict[str, object]:
        blob = self.descriptor
        return {
            "reference": self.reference,
            "diff_id": str(self.diff_id),
            "format": self.format,
            "image_sha256": self.image_sha256,
            "descriptor": {
                "mediaType": blob.media_type,
                "digest": str(blob.digest),
                "size": blob.size,
                "annotations": dict(blob.annotations),
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object], where: str) -> LazyRecord:
        blob = value.get("descriptor")
        annotations = blob.get("annotations") if isinstance(blob, dict) else None
        if not isinstance(blob, dict) or not isinstance(annotations, dict):
            raise StoreDamaged("incomplete record of a lazy layer", where=where)
        try:
            return cls(
                str(value["reference"]),
                Descriptor(
                    str(blob["mediaType"]),
                    Digest.parse(str(blob["digest"])),
                    int(blob["size"]),
                    {str(key): str(text) for key, text in annotations.items()},
                ),
                Digest.parse(str(value["diff_id"])),
                str(value["format"]),
                str(value["image_sha256"]),
            )
        except (KeyError, ValueError, TypeError, BadImage) as error:
            raise StoreDamaged(f"incomplete record of a lazy layer: {error}", where=where) from error


def key_of(diff_id: Digest, blob: Digest, index: LayerIndex) -> str:
    """The name (64 hex digits) of a lazy layer; :mod:`als.lazy.partial` says why it is made of these."""
    parts = [diff_id, blob, *sorted(each.digest for each in index.commitments)]
    return hashlib.sha256("\n".join(["als lazy", *map(str, parts)]).encode()).hexdigest()
