"""What lies where below ROOT (default ``/var/lib/als``). This module owns the names; nobody else spells them.

::

    ROOT/version                    the layout's version, "1" (als.store.migrations)
    ROOT/lock, lock.gate            lock of the whole store (see als.store.lock)
    ROOT/locks/<name>               locks of single layers
    ROOT/objects/xx/yyyy            files by the sha256 of their content: regular, root's, never written again
    ROOT/layers/<diffID hex>/       one layer, complete and immutable:
        layer.erofs                     its names and attributes, in the form that is mounted
        diff/                           where layer.erofs is mounted for clients of the ALS protocol alone
        diff1/.als/<sha256>             the forest: hardlinks to the objects that layer.erofs redirects to
        recipe                          how to get the layer's tar stream back, bit by bit (als.store.recipe)
        tar-split-image.gz              the same for clients of ROOT/image-store (als.store.tarsplit), and beside it
        owners.json                     the user and group IDs in the layer
        tar-split-forest.gz             the same for clients of ROOT/is4; these three are there once they are needed
        layer.json                      what it is (als.store.layers.LayerRecord)
    ROOT/lazy/<key>/                a layer that is shown before all of it is here (als.lazy.partial)
    ROOT/images/<digest hex>/       manifest, config, index-<hex> (where one names it), byte for byte; image.json
    ROOT/refs/<sha256 of ref>.json  which image a reference named when it was last pulled
    ROOT/profiles/<hex>.json        what runs of an image read first, by the digest of its config (als.lazy.profiles)
    ROOT/uses/<sha256>.json         references that clients hold through the ALS protocol
    ROOT/clients.json               graph roots of clients that were seen to use layers (als.service.clients)
    ROOT/scrub.json                 how far the daemon has looked through the objects (als.service.scrub)
    ROOT/setup.json                 what `als setup` changed in containers' configuration (als.setup.journal)
    ROOT/reserve/                   space that is given up when gc has to write on a full disk (als.store.reserve)
    ROOT/quarantine/<name>          what `als fsck --repair` took out of service
    ROOT/tmp/<random>/              what is being made; whatever is found there at start is an aborted attempt
    ROOT/store/                     mount point of the FUSE face; under the mount: plain symlinks to finished layers
    ROOT/is4/                       the additional image store for podman 4 (als.imagestore)
    ROOT/image-store/               the one for podman 5 and later and for CRI-O

Publication is a rename from ``tmp/`` after everything in it has reached the disk, so each directory of ``layers/`` and
``images/`` is whole or not there. Objects get their name only after a sync as well: an object that can be found is an
object that can be trusted, and a second pull may link it without reading it.

What keeps an object alive is a hardlink in a layer's forest: an object with a link count of 1 belongs to nobody. What
keeps a layer alive is decided in :mod:`als.store.liveness` alone.
"""

from __future__ import annotations

import enum
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from als.errors import StoreError
from als.model.digest import Digest
from als.native.files import spread_directories
from als.native.refusal import Refusal, refusal
from als.store.closed import make_closed
from als.store.migrations import bring_up


class TarSplitForm(enum.Enum):
    """For which clients a tar-split file is (:mod:`als.store.tarsplit`); the values are the files' names."""

    IMAGE = "tar-split-image.gz"
    """It names files of the layer's image."""
    FOREST = "tar-split-forest.gz"
    """It names objects of the layer's forest."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below one ROOT."""

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def lazy(self) -> Path:
        """Layers that are not complete yet."""
        return self.root / "lazy"

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def refs(self) -> Path:
        return self.root / "refs"

    @property
    def profiles(self) -> Path:
        """What was recorded of images' starts."""
        return self.root / "profiles"

    @property
    def uses(self) -> Path:
        return self.root / "uses"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def mount_point(self) -> Path:
        """Where the FUSE face is mounted; the path that storage.conf names."""
        return self.root / "store"

    @property
    def lazy_files(self) -> Path:
        """Where the FUSE face serves the files of lazy layers: a folder for each, named by the layer's key."""
        return self.mount_point / ".lazy"

    @property
    def image_store_4(self) -> Path:
        """The additional image store in podman 4's layout."""
        return self.root / "is4"

    @property
    def image_store(self) -> Path:
        """The additional image store in the layout for podman 5 and later and CRI-O."""
        return self.root / "image-store"

    @property
    def clients(self) -> Path:
        return self.root / "clients.json"

    @property
    def setup(self) -> Path:
        return self.root / "setup.json"

    @property
    def scrub(self) -> Path:
        return self.root / "scrub.json"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def layer(self, diff_id: Digest) -> Path:
        return self.layers / diff_id.hex

    def object(self, sha256: bytes) -> Path:
        return Path(self.object_name(sha256))

    def object_name(self, sha256: bytes) -> str:
        """The same as text: where thousands of objects are handled, making a Path takes longer than what is done with it."""
        text = sha256.hex()
        return f"{self.root}/objects/{text[:2]}/{text[2:]}"

    def create(self) -> None:
        """Make what is missing; harmless on an existing store.

        :raises StoreError: ROOT belongs to another version of als, or cannot be written.
        """
        try:
            self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
            kept = (self.objects, self.layers, self.lazy, self.images, self.refs, self.profiles, self.uses)
            for folder in (*kept, self.tmp, self.locks):
                make_closed(folder)
            for first in range(256):
                (self.objects / f"{first:02x}").mkdir(mode=0o700, exist_ok=True)
            _spread(self.tmp)
            bring_up(self.root)
            # Not looked at first: that would wait for whoever is to serve what is mounted there, which may be us.
            with suppress(FileExistsError):
                self.mount_point.mkdir(mode=0o755)
        except OSError as error:
            hint = "als needs root; name another folder with --root" if isinstance(error, PermissionError) else ""
            if refusal(error) is Refusal.NO_SPACE:
                hint = "make room, or name another folder with --root"
            raise StoreError(f"the store cannot be set up: {error.strerror}", where=str(self.root), hint=hint) from error


def _spread(folder: Path) -> None:
    """Let the layers that are made in a folder have their inodes in different places of the disk, where it can be asked for.

    ext4 puts a directory beside its parent, so all layers' inodes would come from one block group. Looking for a free one
    there takes long where many were just freed: without a journal, half of a pull's time after an image was removed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        spread_directories(fd)
    except OSError as error:
        if refusal(error) not in (Refusal.UNSUPPORTED, Refusal.INVALID, Refusal.NOT_PERMITTED):
            raise
    finally:
        os.close(fd)
