"""How far images are (:mod:`als.model.status` says what the states mean), from what the store has and the daemon fetches.

The daemon knows all of the lazy layers that it serves. Other processes see the folders below ROOT/lazy: which layers are lazy,
and which were refused. A layer that is in ROOT/layers is sealed, unless the daemon still serves it: then it is about to lead
clients over. Lazy layers are looked at before the complete ones are, because a layer goes that way: it is found in one of the
two places, or in both.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from als.errors import BadImage, NotFound, StoreDamaged
from als.lazy.layer import LazyLayer
from als.lazy.link import Link
from als.lazy.partial import SEALED
from als.lazy.record import LazyRecord
from als.model.digest import Digest
from als.model.manifest import Descriptor, toc_digest
from als.model.status import ImageStatus, LayerStatus, LinkStatus, State
from als.service import Service
from als.store.atomic import read_json
from als.store.images import ImageRecord
from als.store.layers import LayerRecord
from als.store.lazyfolders import REFUSED

log = logging.getLogger(__name__)

_TROUBLE = 1000
"""Characters of an error that are told; references are long at times."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A lazy layer as this process sees it."""

    record: LazyRecord
    refusal: str = ""
    refused: float = 0.0
    """When, seconds since the epoch."""
    served: LazyLayer | None = None
    """Where this process is the daemon and serves it."""


def status(service: Service, name: str | None = None) -> list[ImageStatus]:
    """How far an image is, or all images that have a name or a lazy layer.

    :param name: as :meth:`Service.find` takes it; the list has one image then.
    :raises NotFound: there is no such image.
    :raises StoreDamaged: a record cannot be read.
    """
    seen = list(see(service))
    references: dict[Digest, list[str]] = {}
    for ref in service.images.refs():
        references.setdefault(ref.digest, []).append(ref.reference)
    if name is not None:
        image = service.find(name)
        return [_image(service, image, references.get(image.digest, ()), seen)]
    found: list[ImageStatus] = []
    for digest in service.images.digests():
        try:
            each = _image(service, service.images.get(digest), references.get(digest, ()), seen)
        except NotFound:
            # Removed in the meantime.
            continue
        if each.references or each.lazy_layers:
            found.append(each)
    return sorted(found, key=lambda image: image.name)


def links(service: Service) -> list[LinkStatus]:
    """How the ways to the hosts do from which lazy layers come."""
    if service.lazies is None:
        return []
    now = time.monotonic()
    hosts = sorted({layer.host for layer in service.lazies.layers()})
    return [link_status(host, service.lazies.link(host), now) for host in hosts]


def fill(service: Service, name: str) -> int:
    """Have the rest of an image fetched in the background and its layers sealed; returns how many are not yet.

    :raises NotFound: there is no such image.
    """
    lazies = service.lazies
    if lazies is None:
        return 0
    image = service.find(name)
    seen = list(see(service))
    count = 0
    for descriptor, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True):
        found = match(seen, descriptor, diff_id)
        layer = found.served if found is not None else None
        if layer is not None:
            # Without it, it has been sealed in the meantime.
            with contextlib.suppress(NotFound):
                lazies.finish(layer.key)
                count += 1
    return count


def see(service: Service) -> Iterator[Seen]:
    """Every lazy layer of the store, refused ones included."""
    served = {layer.key: layer for layer in service.lazies.layers()} if service.lazies is not None else {}
    for layer in served.values():
        yield Seen(layer.record, str(layer.refused or ""), served=layer)
    for folder in sorted(service.layout.lazy.iterdir()):
        if folder.name not in served and not folder.name.startswith("."):
            try:
                # What was sealed is in ROOT/layers, or was and is gone.
                if not (folder / SEALED).exists():
                    yield _from_folder(folder)
            except (FileNotFoundError, StoreDamaged) as error:
                # On its way out of the store, or not shown to anybody: the daemon says so when it starts.
                log.debug("%s: %s", folder, error)


def match(seen: Iterable[Seen], descriptor: Descriptor, diff_id: Digest) -> Seen | None:
    """The lazy layer that an image's layer is.

    Another image may describe the same blob by another table of contents: that makes another layer, and says nothing of this.
    """
    toc = _toc(descriptor)
    for each in seen:
        record = each.record
        if (record.diff_id, record.descriptor.digest) == (diff_id, descriptor.digest) and _toc(record.descriptor) == toc:
            return each
    return None


def layer_status(descriptor: Descriptor, diff_id: Digest, record: LayerRecord | None, lazy: Seen | None) -> LayerStatus:
    """How far a layer is.

    :param record: of the complete layer, if there is one.
    :param lazy: the lazy layer that it was or is.
    """
    if lazy is not None and lazy.served is not None and not lazy.refusal:
        return _served(descriptor, diff_id, lazy.served)
    if record is not None:
        size = record.object_bytes
        return LayerStatus(descriptor.digest, diff_id, record.format, State.SEALED, size, size)
    if lazy is None:
        return LayerStatus(descriptor.digest, diff_id, "", State.MISSING)
    state = State.REFUSED if lazy.refusal else State.LAZY
    return LayerStatus(descriptor.digest, diff_id, lazy.record.format, state, trouble=lazy.refusal, troubled=lazy.refused)


def link_status(host: str, link: Link, now: float) -> LinkStatus:
    """What is known of the way to a host."""
    resting = max(0.0, link.pause.until - now)
    return LinkStatus(host, link.first_byte, link.rate, link.demands, link.others, link.depth, resting)


def _served(descriptor: Descriptor, diff_id: Digest, layer: LazyLayer) -> LayerStatus:
    progress = layer.progress
    troubled, trouble = layer.last_trouble or (0.0, None)
    state = State.LAZY if progress.bytes_here else State.LISTED
    if progress.files_here == progress.files:
        state = State.COMPLETE
    return LayerStatus(
        descriptor.digest,
        diff_id,
        layer.record.format,
        state,
        progress.bytes,
        progress.bytes_here,
        progress.files,
        progress.files_here,
        layer.meter.total,
        layer.meter.rate(time.monotonic()),
        urlsplit(layer.place).netloc or layer.place,
        layer.filling if state in (State.LISTED, State.LAZY) else None,
        str(trouble or "")[:_TROUBLE],
        troubled,
    )


def _image(service: Service, image: ImageRecord, references: Sequence[str], seen: Sequence[Seen]) -> ImageStatus:
    layers = (
        layer_status(descriptor, diff_id, _record(service, diff_id), match(seen, descriptor, diff_id))
        for descriptor, diff_id in zip(image.manifest.layers, image.config.diff_ids, strict=True)
    )
    return ImageStatus(image.digest, tuple(references), tuple(layers))


def _toc(descriptor: Descriptor) -> Digest | None:
    try:
        return toc_digest(descriptor)
    except BadImage:
        # No client would take the layer, and nobody made a lazy one of it.
        return None


def _record(service: Service, diff_id: Digest) -> LayerRecord | None:
    try:
        return service.layers.get(diff_id)
    except NotFound:
        return None


def _from_folder(folder: Path) -> Seen:
    path = folder / "lazy.json"
    record = LazyRecord.from_json(read_json(path), str(path))
    refusal = folder / REFUSED
    try:
        text, when = refusal.read_text("utf-8", "replace").strip(), refusal.stat().st_mtime
    except FileNotFoundError:
        return Seen(record)
    return Seen(record, text[:_TROUBLE] or "refused", when)
