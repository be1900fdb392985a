"""The chain of trust of an image, link by link: from what its reference named down to the blocks that a container reads.

::

    index -> manifest      by digest
    manifest -> config     by digest
    config -> layer        the DiffID is computed anew, from the objects
    layer -> names         the layer's stream is parsed anew, by a worker, and the result held beside the EROFS image
    names -> objects       the fs-verity digest of each object, asked of the kernel, stands in the EROFS image
    objects -> image       the fs-verity digest of the EROFS image is the recorded one
    image -> clients       what is published is that image, and all that belongs to it

Nothing recorded is believed where it can be computed, and nothing is written but below ``tmp/``.
"""

from __future__ import annotations

import enum
import filecmp
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from als.erofs.identity import uuid_of
from als.erofs.profile import LAYER
from als.erofs.reader import read_image_file
from als.erofs.writer import write_image
from als.errors import AlsError, NotFound, StoreDamaged
from als.fetch.ingest import ingest
from als.fetch.tocmatch import difference
from als.formats.discovery import find_formats, format_of
from als.imagestore.check import faults
from als.imagestore.records import PublishedLayer
from als.model.digest import Digest
from als.model.forest import forest_path
from als.model.manifest import STARGZ_TOC, Descriptor
from als.model.tree import Tree
from als.mount.table import read_mounts
from als.native.verity import measure_path
from als.registry.source import RawManifest
from als.service.core import Service
from als.store.images import ImageRecord
from als.store.layers import LayerRecord, Staging
from als.store.lock import sharing
from als.store.recipe import tar_stream

_TAR = "application/vnd.oci.image.layer.v1.tar"
_STALL = 120.0


class State(enum.Enum):
    """What became of a check."""

    OK = "ok"
    OPEN = "open"
    """The link is not there: not sealed, or not complete."""
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Link:
    """One check."""

    name: str
    subject: str
    """The digest or chain ID that it leads to."""
    state: State
    detail: str
    """What was compared, or what is wrong."""


def verify_image(service: Service, image: ImageRecord) -> Iterator[Link]:
    """Check every link of an image; reads all of it.

    :raises LockTimeout: the store is being cleaned.
    """
    with sharing(service.layout.lock):
        yield from _manifest(service, image)
        for index in range(len(image.config.diff_ids)):
            yield from _Layer(service, image, index).links()
        yield from _published(service, image)


def _manifest(service: Service, image: ImageRecord) -> Iterator[Link]:
    for listed in service.images.indexes(image.digest):
        try:
            data = service.images.index(image.digest, listed) or b""
        except AlsError as error:
            yield Link("index", str(listed), State.FAILED, error.what)
            continue
        names = str(image.digest).encode() in data
        detail = "its digest is right, and it names the manifest" if names else "it does not name the manifest"
        yield Link("index", str(listed), State.OK if names else State.FAILED, detail)
    # Reading it has compared the digest; a manifest that was changed is no image any more.
    yield Link("manifest", str(image.digest), State.OK, "its digest is right")
    config = image.manifest.config.digest
    hasher = config.hasher()
    hasher.update(image.config_data)
    right = hasher.hexdigest() == config.hex
    yield Link("config", str(config), State.OK if right else State.FAILED, "its digest is right" if right else "it has changed")


class _Rebuilt:
    """A layer's stream, out of the store, as the source of a layer."""

    def __init__(self, service: Service, diff_id: Digest) -> None:
        self._service = service
        self._diff_id = diff_id

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The stream."""
        layers = self._service.layers
        return tar_stream(layers.recipe(self._diff_id), layers.opener(self._diff_id))

    def manifest(self, name: str) -> RawManifest:
        """There is none."""
        self._nothing(name)

    def read_at(self, descriptor: Descriptor, offset: int, length: int) -> bytes:
        """Nobody asks for parts."""
        self._nothing(str(descriptor.digest))

    def close(self) -> None:
        """Nothing is held."""

    def _nothing(self, where: str) -> NoReturn:
        raise NotFound("the store rebuilds streams of layers, nothing else", where=where)


class _Layer:
    """One layer of an image."""

    def __init__(self, service: Service, image: ImageRecord, index: int) -> None:
        self._service = service
        self._diff_id = image.config.diff_ids[index]
        self._descriptor = image.manifest.layers[index]
        self._image = service.layers.image(self._diff_id)

    def links(self) -> Iterator[Link]:
        """The checks of this layer; those that rest on one that failed are left out."""
        try:
            record = self._service.layers.get(self._diff_id)
        except NotFound:
            yield self._link("layer", State.OPEN, "not all of it is here")
            return
        except AlsError as error:
            yield self._link("layer", State.FAILED, str(error))
            return
        name = "layer"
        try:
            with self._service.layers.stage() as staging:
                again = self._parsed(record, staging)
                yield self._link(name, State.OK, f"its {record.diff_size} bytes, rebuilt from the objects, have this DiffID")
                name = "names"
                yield self._compared(again)
                name = "objects"
                yield from self._sealed(record, staging)
        except (AlsError, OSError) as error:
            yield self._link(name, State.FAILED, str(error))

    def _link(self, name: str, state: State, detail: str) -> Link:
        return Link(name, str(self._diff_id), state, detail)

    def _parsed(self, record: LayerRecord, staging: Staging) -> Tree:
        """What the layer's stream holds; ingesting it compares its DiffID."""
        service = self._service
        descriptor = Descriptor(_TAR, self._diff_id, record.diff_size)
        source = _Rebuilt(service, self._diff_id)
        name = format_of(find_formats(), _TAR, {}).name
        try:
            ingest(
                source,
                descriptor,
                self._diff_id,
                name,
                staging,
                service.workers,
                lambda _: None,
                stall=_STALL,
                limits=service.limits,
            )
        finally:
            # Objects that had lost their names would have got them back; that is repair's to do.
            staging.forest.withdraw()
        return read_image_file(staging.image, LAYER)

    def _compared(self, again: Tree) -> Link:
        toc = self._descriptor.annotations.get(STARGZ_TOC)
        found = difference(read_image_file(self._image, LAYER), again, Digest.parse(toc) if toc else None)
        if found:
            return self._link("names", State.FAILED, f"the EROFS image shows something else than the stream holds: {found}")
        return self._link("names", State.OK, "the EROFS image shows what the stream, parsed again, holds")

    def _sealed(self, record: LayerRecord, staging: Staging) -> Iterator[Link]:
        forest, tree = self._service.layers.forest(self._diff_id), read_image_file(self._image, LAYER)
        digests: dict[bytes, bytes] = {}
        bare: list[str] = []
        for content in tree.contents() if record.verity else ():
            digest = measure_path(forest / forest_path(content))
            if digest is None:
                bare.append(content.hex())
            else:
                digests[content] = digest
        if bare:
            raise StoreDamaged(f"{len(bare)} objects are not sealed, {bare[0]} for one")
        expected = staging.path / "expected.erofs"
        with expected.open("xb") as file:
            write_image(tree, file, LAYER, verity=digests, uuid=uuid_of(self._diff_id.hex) if record.verity else b"")
        if not filecmp.cmp(expected, self._image, shallow=False):
            raise StoreDamaged("the EROFS image does not hold the objects' digests, or is not as als writes it")
        if not record.verity:
            yield self._link("objects", State.OPEN, "they are not sealed with fs-verity: later changes are not noticed")
            return
        yield self._link("objects", State.OK, f"the kernel holds {len(digests)} objects to the digests in the EROFS image")
        found = measure_path(self._image)
        if found is None or found.hex() != record.verity:
            what = "it has no fs-verity" if found is None else f"its fs-verity digest is {found.hex()}"
            yield self._link("image", State.FAILED, f"{what}, not {record.verity} as recorded")
        else:
            yield self._link("image", State.OK, f"the kernel holds the EROFS image to {record.verity}, as recorded")


def _published(service: Service, image: ImageRecord) -> Iterator[Link]:
    mounts = read_mounts()
    for store in service.publishing:
        if not store.fits(len(image.chain)):
            continue
        listed = store.published()
        for chain_id in image.chain:
            if chain_id not in listed:
                yield Link(store.root.name, chain_id, State.OPEN, "not listed by this ID")
                continue
            try:
                found = next(faults(store, PublishedLayer.from_json(listed[chain_id]), listed, mounts), "")
            except AlsError as error:
                found = str(error)
            detail = found or "what clients mount is this image, with these objects"
            yield Link(store.root.name, chain_id, State.FAILED if found else State.OK, detail)
