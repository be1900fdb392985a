"""What a start looks for before it serves anything: records that cannot be read and, after a boot, files that were cut off.

Everything is written so that a power cut leaves the old or the new (:mod:`als.store.atomic`, :mod:`als.store.layers`), so what
is found here is the doing of a disk that lied, or that rots. It must not keep a daemon from starting, nor spread to images that
are sound. What is found has the remedies of `als fsck --repair` (:mod:`als.service.repair`); what is lost by that is fetched
again (:mod:`als.service.healing`).

Cheap means: records are read, files are not. That a file is whole is judged by its size, which costs a stat for each; so it is
done once after each boot, for nothing else than a boot takes away what was written. `als fsck --deep` reads everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from als.erofs.profile import LAYER
from als.erofs.reader import read_root_inode
from als.errors import AlsError, StoreDamaged
from als.imagestore.records import PublishedLayer
from als.model.digest import Digest
from als.service.core import Service
from als.service.fsck import Checker, Problem, Remedy, held_to_digest, said
from als.service.lazycheck import read_lazy
from als.store import lazyfolders
from als.store.lazyfolders import REFUSED


def torn(service: Service, *, sizes: bool) -> Iterator[Problem]:
    """What cannot be used as it is. The caller holds the store's lock, alone if he means to repair it.

    :param sizes: look at the sizes of files as well.
    """
    checker = Checker(service, deep=False)
    yield from checker.unreadable_records()
    yield from checker.images()
    yield from checker.unreadable_lists()
    for diff_id in service.layers.ids():
        yield from _layer(service, checker, diff_id, sizes)
    yield from _swapped(service)
    if sizes:
        yield from _lazy(service)


def _swapped(service: Service) -> Iterator[Problem]:
    """EROFS images in the place from which clients mount them, who compare no digest of them."""
    store = service.composefs
    with contextlib.suppress(StoreDamaged):  # The list cannot be read, which is said above.
        for chain_id, entry in store.published().items():
            if store.home(chain_id) != chain_id or store.lazy_key(chain_id) is not None:
                continue
            try:
                record = service.layers.get(PublishedLayer.from_json(entry).diff_id)
            except (AlsError, OSError):
                continue  # Said of the layer.
            try:
                held_to_digest(service, store.blob(chain_id), record)
            except (AlsError, OSError) as error:
                yield Problem("image store", chain_id, said(error), Remedy.REPUBLISH, layout=store.layout)


def _layer(service: Service, checker: Checker, diff_id: Digest, sizes: bool) -> Iterator[Problem]:
    layers = service.layers
    try:
        record = layers.get(diff_id)
        suspect = record.diff_id != diff_id
        # Asked of the kernel, which reads nothing for that.
        held_to_digest(service, layers.image(diff_id), record)
        if sizes and not suspect:
            read_root_inode(layers.image(diff_id), LAYER)
            suspect = not layers.recipe(diff_id).stat().st_size or sum(layers.objects(diff_id).values()) != record.object_bytes
    except (AlsError, OSError) as error:
        yield Problem("layer", str(diff_id), said(error), Remedy.QUARANTINE_LAYER)
        return
    except ValueError:
        suspect = True  # A name in the forest that is no object's.
    if suspect:
        # Only now file by file, because what is missing may be had from another layer.
        yield from checker.layer(diff_id)


def _lazy(service: Service) -> Iterator[Problem]:
    """Nobody waits until what a lazy layer is made of has reached the disk."""
    for key in lazyfolders.keys(service.layout):
        if (service.layout.lazy / key / REFUSED).exists():
            continue
        try:
            read_lazy(service.layout, key)
        except (AlsError, OSError) as error:
            yield Problem("lazy layer", key, said(error), Remedy.DISCARD)
