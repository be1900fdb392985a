"""Layers in the store: complete, immutable, one directory each, named by DiffID."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from als.errors import BadImage, NotFound, StoreDamaged, StoreError
from als.model.digest import Digest
from als.model.forest import forest_path
from als.store.atomic import read_json, sync_file_system, write_json
from als.store.layout import Layout, TarSplitForm
from als.store.objects import Forest, is_staging
from als.store.recipe import OpenObject
from als.store.refused import store_errors
from als.store.trash import Trash

_OWNERS = "owners.json"
_VERSION = 2
"""Of a layer's record."""


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """What the store knows of a layer beside its content."""

    diff_id: Digest
    diff_size: int
    """Bytes of the uncompressed tar stream."""
    format: str
    """Name of the format that read it (als.formats)."""
    names: int
    """How many names the layer holds, directories and whiteouts included."""
    object_bytes: int
    """Sum of the sizes of its objects, each counted once."""
    created: float
    """When it was published, seconds since the epoch."""
    tocs: tuple[Digest, ...] = ()
    """Digests of tables of contents that were read and tell of what the layer shows."""
    blobs: tuple[Digest, ...] = ()
    """Digests of compressed blobs that were fetched whole and decompressed to this very layer; see `is_held_by`."""
    verity: str = ""
    """The fs-verity digest of the EROFS image (SHA-256, blocks of 4,096 bytes, no salt), 64 hex digits. All objects are sealed
    as well then, and the image holds their digests. "": it was not sealed."""

    def is_held_by(self, blob: Digest) -> bool:
        """Whether a blob is known to hold this layer: one of `blobs`, or the uncompressed stream itself. What an image's
        manifest and config name beside each other need not be the same."""
        return blob == self.diff_id or blob in self.blobs

    def to_json(self) -> dict[str, object]:
        digests = {"tocs": [str(toc) for toc in self.tocs], "blobs": [str(blob) for blob in self.blobs]}
        return {"version": _VERSION, **asdict(self), "diff_id": str(self.diff_id), **digests}

    @classmethod
    def from_json(cls, value: dict[str, object], where: str) -> LayerRecord:
        try:
            # A record from before layers were sealed states no version; what it lacks has a default.
            if int(str(value.get("version", 1))) > _VERSION:
                raise StoreDamaged("the record of a layer is of a newer als", where=where, hint="use the als that wrote it")
            return cls(
                Digest.parse(str(value["diff_id"])),
                int(str(value["diff_size"])),
                str(value["format"]),
                int(str(value["names"])),
                int(str(value["object_bytes"])),
                float(str(value["created"])),
                _digests(value.get("tocs", [])),
                # A record from before blobs were noted has none of them.
                _digests(value.get("blobs", [])),
                str(value.get("verity", "")),
            )
        except (KeyError, ValueError, BadImage) as error:
            raise StoreDamaged(f"incomplete layer record: {error}", where=where, hint="remove the layer, pull again") from error


def _digests(value: object) -> tuple[Digest, ...]:
    if not isinstance(value, list):
        raise ValueError("digests are not a list")
    return tuple(Digest.parse(str(each)) for each in value)


class Staging:
    """A layer being made, in a folder of its own below ``tmp/``."""

    def __init__(self, layout: Layout, path: Path) -> None:
        self._layout = layout
        self.path = path
        self.forest = Forest(layout, path / "diff1")
        self._record: LayerRecord | None = None
        (path / "diff").mkdir(mode=0o755)

    @property
    def image(self) -> Path:
        return self.path / "layer.erofs"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe"

    def tar_split(self, form: TarSplitForm) -> Path:
        """As :meth:`Layers.tar_split`; not every layer has one from the start."""
        return self.path / form.value

    @property
    def owners(self) -> Path:
        """As :meth:`Layers.owners`; not every layer has one from the start."""
        return self.path / _OWNERS

    def complete(self, record: LayerRecord) -> None:
        """All that belongs to the layer has been written here; only the record is missing."""
        with store_errors(self.path):
            (self.path / "layer.json").write_text(json.dumps(record.to_json(), indent=1, sort_keys=True))
        self._record = record

    def show(self) -> None:
        """Make a complete layer visible. The caller holds its lock, and has made sure that it is on the disk."""
        if self._record is None:
            raise StoreError("a layer that is not complete cannot be shown", where=str(self.path))
        self.forest.commit()
        # The links in objects/ may reach the disk after this rename or never: a layer whose objects lost their names
        # there still holds the content, and the next layer with the same file merely stores it again.
        self.path.rename(self._layout.layer(self._record.diff_id))


class Layers:
    """The layers of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def has(self, diff_id: Digest) -> bool:
        return (self._layout.layer(diff_id) / "layer.json").exists()

    def get(self, diff_id: Digest) -> LayerRecord:
        """A layer's record.

        :raises NotFound: the store does not have it.
        """
        path = self._layout.layer(diff_id) / "layer.json"
        try:
            return LayerRecord.from_json(read_json(path), str(path))
        except FileNotFoundError as error:
            raise NotFound("no such layer in the store", where=str(diff_id), hint="see `als layers`") from error

    def add_toc(self, diff_id: Digest, toc: Digest) -> None:
        """Note that a table of contents tells of what a layer shows. The caller holds the layer's lock."""
        record = self.get(diff_id)
        if toc not in record.tocs:
            self._rewrite(replace(record, tocs=(*record.tocs, toc)))

    def add_blob(self, diff_id: Digest, blob: Digest) -> None:
        """Note that a blob was seen to hold just this layer. The caller holds the layer's lock."""
        record = self.get(diff_id)
        if not record.is_held_by(blob):
            self._rewrite(replace(record, blobs=(*record.blobs, blob)))

    def add_verity(self, diff_id: Digest, digest: str) -> None:
        """Note that a layer is sealed now, and its image's fs-verity digest in hex. The caller holds the layer's lock."""
        self._rewrite(replace(self.get(diff_id), verity=digest))

    def _rewrite(self, record: LayerRecord) -> None:
        path = self._layout.layer(record.diff_id) / "layer.json"
        with store_errors(path):
            write_json(path, record.to_json())

    def all(self) -> list[LayerRecord]:
        """Every layer, oldest first."""
        found = [self.get(diff_id) for diff_id in self.ids()]
        return sorted(found, key=lambda record: (record.created, record.diff_id))

    def ids(self) -> list[Digest]:
        """The DiffID of every layer, in order, whatever state it is in."""
        return [Digest("sha256", name) for name in sorted(os.listdir(self._layout.layers))]

    def discard(self, diff_id: Digest, trash: Trash) -> None:
        """Remove a layer that is not mounted. The caller holds the store's lock alone."""
        trash.put(self._layout.layer(diff_id))

    def image(self, diff_id: Digest) -> Path:
        """The EROFS image of a layer's names and attributes."""
        return self._layout.layer(diff_id) / "layer.erofs"

    def forest(self, diff_id: Digest) -> Path:
        """The hardlinks to a layer's objects: ``diff1`` in the ALS protocol's terms."""
        return self._layout.layer(diff_id) / "diff1"

    def mount_point(self, diff_id: Digest) -> Path:
        """Where a layer's image is mounted beside its forest: ``diff`` in the ALS protocol's terms."""
        return self._layout.layer(diff_id) / "diff"

    def recipe(self, diff_id: Digest) -> Path:
        return self._layout.layer(diff_id) / "recipe"

    def tar_split(self, diff_id: Digest, form: TarSplitForm) -> Path:
        """The layer's tar-split file of a form, if one was made."""
        return self._layout.layer(diff_id) / form.value

    def opener(self, diff_id: Digest) -> OpenObject:
        """Opens the layer's objects by their sha256."""
        forest = self.forest(diff_id)
        return lambda sha256: os.open(forest / forest_path(sha256), os.O_RDONLY | os.O_CLOEXEC)

    def owners(self, diff_id: Digest) -> Path:
        """A JSON object with the user and group IDs in the layer, if it was made."""
        return self._layout.layer(diff_id) / _OWNERS

    def objects(self, diff_id: Digest) -> dict[bytes, int]:
        """A layer's objects: name in the forest (32 bytes) to size in bytes."""
        found: dict[bytes, int] = {}
        for folder, _, names in os.walk(self.forest(diff_id)):
            for name in itertools.filterfalse(is_staging, names):
                found[bytes.fromhex(name)] = Path(folder, name).stat().st_size
        return found

    def metadata_bytes(self, diff_id: Digest) -> int:
        """What the layer takes beside its objects."""
        files = (self.image(diff_id), self.recipe(diff_id), *(self.tar_split(diff_id, form) for form in TarSplitForm))
        return sum(path.stat().st_size for path in files if path.exists())

    def show(self, staged: Sequence[Staging]) -> None:
        """Publish complete layers: all of them durable first, with one wait for the disk, then visible."""
        with store_errors(self._layout.root):
            sync_file_system(self._layout.root)
            for staging in staged:
                staging.show()

    @contextlib.contextmanager
    def stage(self) -> Iterator[Staging]:
        """A place to make a layer in; what is not published when the block ends is removed."""
        path = self._layout.tmp / f"{int(time.time()):x}-{secrets.token_hex(6)}"
        try:
            with store_errors(path):
                path.mkdir(mode=0o700)
                staging = Staging(self._layout, path)
            yield staging
        finally:
            if path.exists():
                shutil.rmtree(path)
