"""Where the table of contents of an eStargz layer is that was built with an external one.

stargz-snapshotter, ``docs/external-toc.md`` and ``nativeconverter/estargz/externaltoc/converter.go``: it is a layer of another
image in the same repository, whose tag is that of the image with ``-esgztoc`` added, and the layer's annotation says for which
layer it is.
"""

from __future__ import annotations

from als.model.digest import Digest
from als.model.manifest import Descriptor, Manifest

LAYER_DIGEST = "containerd.io/snapshot/stargz/layer.digest"
_SUFFIX = "-esgztoc"


def toc_tag(tag: str) -> str:
    """The tag of the image with the tables of contents for the image of this tag, in the same repository."""
    return tag + _SUFFIX


def toc_layer(manifest: Manifest, layer: Digest) -> Descriptor | None:
    """The layer of such an image that is the table of contents of `layer`; None if it has none."""
    return next((found for found in manifest.layers if found.annotations.get(LAYER_DIGEST) == str(layer)), None)
