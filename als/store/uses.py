"""References that clients hold on layers through the ALS protocol: ``use`` takes one, ``rmdir`` drops one.

A count is on disk before the client is answered, so neither the daemon's death nor a power cut loses one. A record is one
file; the lock (number 5 of :mod:`als.store.lock`) makes read-and-write one step between processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from als.errors import StoreDamaged
from als.store.atomic import read_json, sync_directory, write_json
from als.store.layout import Layout
from als.store.lock import locked
from als.store.refused import store_errors


@dataclass(frozen=True, slots=True)
class Use:
    """How often clients hold the layer that has `digest` in the image `reference`."""

    reference: str
    digest: str
    count: int


class Uses:
    """The counts of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def change(self, reference: str, digest: str, by: int) -> int:
        """Add to a count, never below 0, and return it; durable when this returns."""
        path = self._path(reference, digest)
        with locked(self._layout.locks / "uses", timeout=10.0), store_errors(path):
            try:
                old = self.read(path).count
            except FileNotFoundError:
                old = 0
            new = max(0, old + by)
            if new:
                write_json(path, {"reference": reference, "digest": digest, "count": new})
            elif old:
                path.unlink()
                sync_directory(path.parent)
            return new

    def count(self, reference: str, digest: str) -> int:
        """How often clients hold a layer."""
        try:
            return self.read(self._path(reference, digest)).count
        except FileNotFoundError:
            return 0

    def all(self) -> list[Use]:
        """Every count above 0."""
        found: list[Use] = []
        for name in os.listdir(self._layout.uses):
            if name.endswith(".json") and not name.startswith("."):
                # A client may have dropped its last one since the folder was listed.
                with contextlib.suppress(FileNotFoundError):
                    found.append(self.read(self._layout.uses / name))
        return sorted(found, key=lambda use: (use.reference, use.digest))

    def _path(self, reference: str, digest: str) -> Path:
        return self._layout.uses / (hashlib.sha256(f"{reference}\0{digest}".encode()).hexdigest() + ".json")

    @staticmethod
    def read(path: Path) -> Use:
        """The record in a file of uses/.

        :raises StoreDamaged: it is not what als writes.
        """
        value = read_json(path)
        try:
            return Use(str(value["reference"]), str(value["digest"]), int(value["count"]))
        except (KeyError, ValueError) as error:
            raise StoreDamaged(f"incomplete record: {error}", where=str(path), hint="remove it") from error
