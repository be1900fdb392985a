"""What is wrong with a published layer: whether all is there that a client reads, mounts or follows."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from als.errors import AlsError
from als.imagestore.records import PublishedLayer
from als.imagestore.tree import ImageStore
from als.mount.table import MountEntry


def faults(store: ImageStore, layer: PublishedLayer, listed: Container[str], mounts: Sequence[MountEntry]) -> Iterator[str]:
    """What is wrong, in words; nothing where all is well. The layer itself is looked into elsewhere.

    :param listed: the chain IDs of all published layers.
    """
    if layer.parent and layer.parent not in listed:
        yield "the layer below it is not listed"
        return
    try:
        yield from store.faults(layer, mounts)
    except AlsError as error:
        yield str(error)
    except OSError as error:
        yield f"{error.filename}: {error.strerror}"
