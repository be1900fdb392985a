"""The images that an image store lists, so that clients run them without a pull and show them as read-only.

::

    overlay-images/images.json, images.lock
    overlay-images/<image ID>/<file>        manifests, indexes and configs, byte for byte

Records and names are those of go.podman.io/storage (``images.go``: type Image, makeBigDataBaseName) and of
go.podman.io/image (``storage/storage_dest.go``: CommitWithOptions, computeID): an image is found by its names, by its ID and by
the digest of each of its manifests, that of a multi-platform index included. Several names that lead to one ID are one image,
as they are for podman; of its manifests, the one that was pulled last is the one it has by default.

Nothing here is checked again by a client, and one record that it cannot read makes every command fail: names must be unique,
times well-formed. Updates go from the files to the list, and the lock file's new bytes make running clients read it again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from als.imagestore.lock import StorageLock
from als.model.digest import Digest
from als.model.manifest import toc_digest
from als.model.reference import Transport, parse_reference
from als.store.atomic import write_atomically
from als.store.images import ImageRecord, RefRecord
from als.store.refused import store_errors
from als.store.trash import remove_all

_LOCK_TIMEOUT = 60.0
_MANIFEST = "manifest"
"""The key under which a client looks for the manifest when nobody asks for a certain one."""
_PLAIN_KEY = re.compile(r"[.0-9a-z]+")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)")


@dataclass(frozen=True, slots=True)
class Asked:
    """An image that the administrator asked for."""

    ref: RefRecord
    image: ImageRecord
    index: bytes | None
    """The index that the reference names at its source; None where it names the manifest itself."""
    by_toc: bool
    """Whether clients identify its layers by tables of contents where they can."""

    @property
    def image_id(self) -> str:
        """The ID that a client gives to the image: its config's digest, unless layers were identified by TOC."""
        config = self.image.manifest.config.digest.hex
        tocs = [toc_digest(layer) for layer in self.image.manifest.layers] if self.by_toc else []
        if not any(tocs):
            return config
        text = f"@With TOC:{config}|" + "".join(f"{toc or ''}|" for toc in tocs)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def chain(self) -> tuple[str, ...]:
        """The layers' IDs, bottom first."""
        return self.image.toc_chain if self.by_toc else self.image.chain


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image as clients are shown it."""

    image_id: str
    top: str
    """The chain ID of its top layer; "" where it has no layers."""
    digest: Digest
    names: tuple[str, ...]
    created: str
    data: Mapping[str, bytes]
    """What clients call big data, by key."""

    def to_json(self) -> dict[str, object]:
        """The entry as containers/storage writes it."""
        entry: dict[str, object] = {
            "id": self.image_id,
            "digest": str(self.digest),
            "names": list(self.names),
            "layer": self.top,
            "metadata": "{}",
            "big-data-names": list(self.data),
            "big-data-sizes": {key: len(data) for key, data in self.data.items()},
            "big-data-digests": {key: str(Digest.of(data)) for key, data in self.data.items()},
            "created": self.created,
        }
        return {key: value for key, value in entry.items() if value or key == "created"}


def listed_images(asked: Sequence[Asked]) -> list[ListedImage]:
    """The records of images, in the order of their IDs."""
    groups: dict[str, list[Asked]] = {}
    for each in sorted(asked, key=lambda one: (one.ref.pulled, one.ref.reference)):
        groups.setdefault(each.image_id, []).append(each)
    return [_listed(image_id, group) for image_id, group in sorted(groups.items())]


def _listed(image_id: str, group: Sequence[Asked]) -> ListedImage:
    latest = group[-1]
    data = {str(latest.image.manifest.config.digest): latest.image.config_data}
    for each in group:
        if each.index is not None:
            data[f"{_MANIFEST}-{each.ref.listed}"] = each.index
        data[f"{_MANIFEST}-{each.image.digest}"] = each.image.manifest_data
    data[_MANIFEST] = latest.image.manifest_data
    digest = latest.image.digest if latest.index is None else latest.ref.listed
    names = tuple(sorted(each.ref.reference for each in group if _is_name(each.ref.reference)))
    return ListedImage(image_id, latest.chain[-1] if latest.chain else "", digest, names, _created(latest), data)


def _is_name(reference: str) -> bool:
    """Whether clients can call an image so; one from a local layout is known by its ID alone."""
    return parse_reference(reference).transport is Transport.DOCKER


def _created(asked: Asked) -> str:
    """When the image was made, as RFC 3339, or where it does not say so readably, when it was pulled."""
    match = _TIME.fullmatch(asked.image.config.created)
    if match is not None:
        try:
            datetime.fromisoformat(match[1])
        except ValueError:
            match = None
    return match[0] if match is not None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(asked.ref.pulled))


def file_name(key: str) -> str:
    """The name of the file that holds the big data of that key."""
    if _PLAIN_KEY.fullmatch(key):
        return key
    return "=" + base64.standard_b64encode(key.encode()).decode()


class ImageList:
    """``overlay-images`` of one image store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = StorageLock(folder / "images.lock")

    @property
    def list_file(self) -> Path:
        """images.json."""
        return self._folder / "images.json"

    def create(self) -> None:
        """Make the empty list if it is missing."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.create()
        if not self.list_file.exists():
            write_atomically(self.list_file, b"[]", mode=0o644)

    def update(self, images: Callable[[], Sequence[ListedImage]]) -> None:
        """List these images and no others.

        :param images: asked while the list is locked: who changed a reference before it called this is in its answer.
        """
        with store_errors(self._folder), self._lock.held(_LOCK_TIMEOUT) as announce:
            wanted = images()
            if not any(self.faults(wanted)):
                return
            for image in wanted:
                self._write(image)
            write_atomically(self.list_file, _format(wanted), mode=0o644)
            announce()
            for path in self._stale(wanted):
                remove_all(path)

    def faults(self, wanted: Sequence[ListedImage]) -> Iterator[str]:
        """In what, in words, the list is another than it should be."""
        if not self.list_file.exists() or self.list_file.read_bytes() != _format(wanted):
            yield "it lists other images than were asked for"
        for image in wanted:
            for key, data in image.data.items():
                path = self._folder / image.image_id / file_name(key)
                if not path.exists() or path.read_bytes() != data:
                    yield f"{key} of image {image.image_id[:12]} is missing or has changed"
        if self._stale(wanted):
            yield "something is left of images that were removed"

    def _stale(self, wanted: Sequence[ListedImage]) -> list[Path]:
        """What belongs to none of these images."""
        known = {self._folder / image.image_id: {file_name(key) for key in image.data} for image in wanted}
        names = {self.list_file.name, "images.lock", *(path.name for path in known)}
        stale = [path for path in self._folder.iterdir() if path.name not in names]
        return stale + [path for folder, held in known.items() if folder.exists()
                        for path in folder.iterdir() if path.name not in held]  # fmt: skip

    def _write(self, image: ListedImage) -> None:
        folder = self._folder / image.image_id
        folder.mkdir(mode=0o700, exist_ok=True)
        for key, data in image.data.items():
            path = folder / file_name(key)
            if not path.exists() or path.read_bytes() != data:
                write_atomically(path, data)


def _format(images: Sequence[ListedImage]) -> bytes:
    return json.dumps([image.to_json() for image in images]).encode()
