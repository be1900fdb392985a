"""Images and references in the store: which manifest a reference named, and that manifest with its config, byte for byte."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from als.errors import BadImage, NotFound, StoreDamaged, StoreError
from als.model.chain import chain_ids, toc_chain_ids
from als.model.digest import Digest
from als.model.manifest import ImageConfig, Manifest, parse_config, parse_manifest, toc_digest
from als.store.atomic import read_json, sync_directory, write_atomically, write_json
from als.store.layout import Layout
from als.store.refused import store_errors
from als.store.trash import Trash
from als.store.uptime import NEVER, Uptime

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image whose layers are, or were asked to be, in the store."""

    digest: Digest
    """Of the manifest (never of an index)."""
    media_type: str
    manifest_data: bytes
    config_data: bytes
    manifest: Manifest
    config: ImageConfig

    @classmethod
    def parse(cls, media_type: str, manifest_data: bytes, config_data: bytes) -> ImageRecord:
        """Read a manifest and its config, whose digests the caller has verified.

        :raises BadImage: they are malformed, or do not belong together.
        """
        manifest = parse_manifest(manifest_data, media_type)
        if not isinstance(manifest, Manifest):
            raise BadImage("an index instead of a manifest", where=media_type)
        config = parse_config(config_data)
        digest = Digest.of(manifest_data)
        if len(config.diff_ids) != len(manifest.layers):
            raise BadImage(
                f"the manifest lists {len(manifest.layers)} layers and its config {len(config.diff_ids)}", where=str(digest)
            )
        return cls(digest, media_type, manifest_data, config_data, manifest, config)

    @property
    def chain(self) -> tuple[str, ...]:
        """The chain ID of each layer, bottom first."""
        return chain_ids(self.config.diff_ids)

    @property
    def toc_chain(self) -> tuple[str, ...]:
        """The same for clients that identify layers by their tables of contents; the chain itself where there are none."""
        return toc_chain_ids(self.config.diff_ids, [toc_digest(layer) for layer in self.manifest.layers])


@dataclass(frozen=True, slots=True)
class RefRecord:
    """What a reference named when it was last pulled."""

    reference: str
    digest: Digest
    """The image's manifest."""
    listed: Digest
    """What the tag or digest named at its source: the manifest, or the index it was chosen from."""
    pulled: float
    """Seconds since the epoch."""
    asked: bool = False
    """Whether the administrator asked for it by ``als pull``, so that the image stores list it."""
    renewed: Uptime = NEVER
    """When it was pulled, by a clock for leases."""


class Images:
    """The images and references of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def get(self, digest: Digest) -> ImageRecord:
        """An image by its manifest's digest.

        :raises NotFound: the store does not have it.
        :raises StoreDamaged: what it has is not what it stored.
        """
        folder = self._layout.images / digest.hex
        try:
            meta = read_json(folder / "image.json")
            manifest, config = (folder / "manifest").read_bytes(), (folder / "config").read_bytes()
        except FileNotFoundError as error:
            raise NotFound("no such image in the store", where=str(digest), hint="see `als images`") from error
        record = ImageRecord.parse(str(meta.get("mediaType", "")), manifest, config)
        if record.digest != digest:
            raise StoreDamaged("the manifest has changed", where=str(folder), hint="remove the image and pull it again")
        return record

    def put(self, image: ImageRecord) -> None:
        """Keep an image; known ones are left alone."""
        target = self._layout.images / image.digest.hex
        if target.exists():
            return
        staging = self._layout.tmp / f"image-{secrets.token_hex(6)}"
        try:
            with store_errors(target):
                staging.mkdir(mode=0o700)
                write_atomically(staging / "manifest", image.manifest_data)
                write_atomically(staging / "config", image.config_data)
                write_json(staging / "image.json", {"mediaType": image.media_type, "added": time.time()})
                try:
                    staging.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                sync_directory(target.parent)
        finally:
            if staging.exists():
                shutil.rmtree(staging)

    def keep_index(self, digest: Digest, listed: Digest, data: bytes) -> None:
        """Keep the index that names an image here, byte for byte."""
        path = self._index(digest, listed)
        if not path.exists():
            with store_errors(path):
                write_atomically(path, data)

    def index(self, digest: Digest, listed: Digest) -> bytes | None:
        """The bytes of the index `listed` that was kept with an image; None: none was.

        :raises StoreDamaged: they have changed.
        """
        path = self._index(digest, listed)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        hasher = listed.hasher()
        hasher.update(data)
        if hasher.hexdigest() != listed.hex:
            raise StoreDamaged("the index has changed", where=str(path), hint="remove it and pull the image again")
        return data

    def indexes(self, digest: Digest) -> list[Digest]:
        """The digests of the indexes that are kept with an image."""
        algorithms = {64: "sha256", 96: "sha384", 128: "sha512"}
        found = (path.name.removeprefix("index-") for path in (self._layout.images / digest.hex).glob("index-*"))
        return sorted(Digest(algorithms[len(name)], name) for name in found if len(name) in algorithms)

    def _index(self, digest: Digest, listed: Digest) -> Path:
        return self._layout.images / digest.hex / f"index-{listed.hex}"

    def name(self, reference: str, digest: Digest, listed: Digest, *, asked: bool = False) -> None:
        """Let a reference name an image; durable when it returns. See :meth:`renewed`."""
        self.put_ref(self.renewed(reference, digest, listed, asked=asked))

    def renewed(self, reference: str, digest: Digest, listed: Digest, *, asked: bool = False) -> RefRecord:
        """The record of a reference that names an image from now on.

        :param asked: the administrator asked for it; that is not forgotten when a client's pull gives the name anew.
        """
        before = self.ref(reference)
        asked = asked or (before is not None and before.asked)
        return RefRecord(reference, digest, listed, time.time(), asked, Uptime.now())

    def put_ref(self, record: RefRecord) -> None:
        """Let a reference name what a record says; durable when it returns."""
        value = {
            "reference": record.reference,
            "digest": str(record.digest),
            "listed": str(record.listed),
            "pulled": record.pulled,
            "renewed": record.renewed.to_json(),
            "asked": record.asked,
        }
        with store_errors(self._layout.refs):
            write_json(self._ref(record.reference), value)

    def forget(self, reference: str) -> None:
        """Let a reference name nothing any more; durable when it returns. The image stays."""
        with store_errors(self._layout.refs):
            self._ref(reference).unlink(missing_ok=True)
            sync_directory(self._layout.refs)

    def take_back(self, given: RefRecord, before: RefRecord | None) -> None:
        """After an error, let a reference name again what it named before, unless somebody else has given it a name since. That
        error is the one to be told: what goes wrong here is for the log."""
        try:
            if self.ref(given.reference) != given:
                return
            if before is None:
                self.forget(given.reference)
            else:
                self.put_ref(before)
        except StoreError as error:
            log.warning("%s", error)

    def ref(self, reference: str) -> RefRecord | None:
        """What a reference names here, or None."""
        try:
            return self.read(self._ref(reference))
        except FileNotFoundError:
            return None

    def refs(self) -> list[RefRecord]:
        """Every reference, by name."""
        found: list[RefRecord] = []
        for name in os.listdir(self._layout.refs):
            if name.endswith(".json") and not name.startswith("."):
                # It may have been taken away since the folder was listed.
                with contextlib.suppress(FileNotFoundError):
                    found.append(self.read(self._layout.refs / name))
        return sorted(found, key=lambda record: record.reference)

    def all(self) -> list[ImageRecord]:
        """Every image, in the order of their digests."""
        return [self.get(digest) for digest in self.digests()]

    def digests(self) -> list[Digest]:
        """Of every image, in order, whatever state it is in."""
        return [Digest("sha256", name) for name in sorted(os.listdir(self._layout.images))]

    def discard(self, digest: Digest, trash: Trash) -> None:
        """Remove an image. The caller holds the store's lock alone."""
        trash.put(self._layout.images / digest.hex)

    def _ref(self, reference: str) -> Path:
        # A reference can be longer than a file name may be.
        return self._layout.refs / (hashlib.sha256(reference.encode()).hexdigest() + ".json")

    @staticmethod
    def read(path: Path) -> RefRecord:
        """The record in a file of refs/.

        :raises StoreDamaged: it is not what als writes.
        """
        value = read_json(path)
        try:
            return RefRecord(
                str(value["reference"]),
                Digest.parse(str(value["digest"])),
                Digest.parse(str(value["listed"])),
                float(value["pulled"]),
                value.get("asked") is True,
                Uptime.from_json(value.get("renewed"), str(path)),
            )
        except (KeyError, ValueError, TypeError, BadImage) as error:
            raise StoreDamaged(
                f"incomplete reference record: {error}", where=str(path), hint="remove it, pull again"
            ) from error
