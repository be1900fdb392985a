"""Sealing layers that came into the store before they could be, or were to be, sealed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from als.errors import StoreDamaged
from als.imagestore.records import PublishedLayer
from als.model.digest import Digest
from als.store.atomic import sync_file_system
from als.store.lock import locked
from als.store.recipe import tar_stream
from als.store.refused import store_errors
from als.verity.existing import seal_copy

if TYPE_CHECKING:
    from als.service.core import Service

_LOCK_TIMEOUT = 900.0


def seal_layers(service: Service, layers: Sequence[PublishedLayer]) -> None:
    """Seal those layers that are here and are not sealed. The caller holds the store's lock, shared.

    :raises KernelError: they have to be, and cannot.
    :raises StoreDamaged: one is not what it was any more.
    """
    todo = [layer.diff_id for layer in layers if not layer.lazy and not service.layers.get(layer.diff_id).verity]
    if not todo or not service.verity.seals():
        return
    for diff_id in todo:
        with store_errors(service.layout.root), locked(service.layout.locks / diff_id.hex, timeout=_LOCK_TIMEOUT):
            _seal(service, diff_id)


def _seal(service: Service, diff_id: Digest) -> None:
    layers = service.layers
    if layers.get(diff_id).verity:
        return
    image = layers.image(diff_id)
    copy = image.with_name(f"{image.name}.sealed")
    copy.unlink(missing_ok=True)
    digest = seal_copy(service.verity, image, layers.forest(diff_id), diff_id.hex, copy)
    if not digest:
        return
    # From here on nothing of it can change any more; whether something has changed before, its DiffID says.
    hasher = diff_id.hasher()
    for piece in tar_stream(layers.recipe(diff_id), layers.opener(diff_id)):
        hasher.update(piece)
    if hasher.hexdigest() != diff_id.hex:
        copy.unlink()
        hint = "`als fsck --deep --repair`, and pull its image again"
        raise StoreDamaged("the layer has changed since it was stored, and is not sealed", where=str(diff_id), hint=hint)
    copy.rename(image)
    sync_file_system(image.parent)
    layers.add_verity(diff_id, digest)
