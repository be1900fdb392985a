"""The profiles of one store: what als.lazy.profile says of images, kept in ROOT/profiles.

Who does not want it recorded what containers read switches it off (``record_profiles``): then nothing is written, and what was
written before is not used.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Container
from pathlib import Path

from als.errors import StoreDamaged
from als.lazy.profile import PROFILE_BYTES_MAX, Profile, file_name, pack, unpack
from als.model.digest import Digest
from als.store.atomic import write_atomically
from als.store.layout import Layout
from als.store.refused import store_errors

log = logging.getLogger("als.lazy")


class Profiles:
    """Thread-safe within one process.

    :param on: whether they are recorded and used at all.
    """

    def __init__(self, layout: Layout, *, on: bool = True) -> None:
        self.on = on
        self._layout = layout
        self._lock = threading.Lock()

    def get(self, image: Digest) -> Profile | None:
        """What was recorded of an image, by the digest of its configuration; None: nothing that can be used.

        :raises StoreError: the disk refused.
        """
        if not self.on:
            return None
        path = self._path(image)
        try:
            with store_errors(path):
                data = _read(path)
            return unpack(data) if data is not None else None
        except StoreDamaged as error:
            # It is worth no more than the seconds it saves, and the next run makes a new one.
            log.warning("%s: %s", path, error)
            return None

    def add(self, image: Digest, run: Profile, unseen: Container[bytes] = ()) -> None:
        """Put one more run of an image to what was recorded of it; durable when it returns.

        :param unseen: as in :meth:`als.lazy.profile.Profile.joined`.
        :raises StoreError: the disk refused.
        """
        if not self.on:
            return
        with self._lock:
            before = self.get(image) or Profile()
            with store_errors(self._path(image)):
                write_atomically(self._path(image), pack(before.joined(run, unseen)))

    def forget_profiles(self, keep: Collection[Digest]) -> int:
        """Remove the profiles of all images but these (digests of configurations); returns how many.

        The caller holds the store's lock alone, everybody else here holds it shared.

        :raises StoreError: the disk refused.
        """
        kept = {file_name(image) for image in keep}
        with self._lock, store_errors(self._layout.profiles):
            # What was left behind by a write that was cut off goes as well.
            names = [name for name in os.listdir(self._layout.profiles) if name not in kept]
            for name in names:
                (self._layout.profiles / name).unlink(missing_ok=True)
        return len(names)

    def _path(self, image: Digest) -> Path:
        return self._layout.profiles / file_name(image)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(PROFILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
