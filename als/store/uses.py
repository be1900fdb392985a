"""References that clients hold on layers through the ALS protocol: ``use`` takes one, ``rmdir`` drops one.

A count is on disk before the client is answered, so neither the daemon's death nor a power cut loses one. A record is one
file; the lock (number 5 of :mod:`als.store.lock`) makes read-and-write one step between processes.

A count can still be wrong: a client that is killed drops nothing, and a gesture that was counted but not answered is sent again
to the next daemon. :func:`als.store.liveness.settled` says what a count should be by what clients have.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from als.errors import StoreDamaged
from als.store.atomic import read_json, sync_directory, write_json
from als.store.layout import Layout
from als.store.lock import locked
from als.store.refused import store_errors
from als.store.uptime import NEVER, Uptime


@dataclass(frozen=True, slots=True)
class Use:
    """How often clients hold the layer that has `digest` in the image `reference`."""

    reference: str
    digest: str
    count: int
    changed: Uptime = field(default=NEVER, compare=False)
    """When."""


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
            return self._write(reference, digest, old, max(0, old + by))

    def settle(self, use: Use, count: int) -> bool:
        """Set a count that is wrong; False: it was changed since `use` was read, and is left alone."""
        path = self._path(use.reference, use.digest)
        with locked(self._layout.locks / "uses", timeout=10.0), store_errors(path):
            try:
                now = self.read(path)
            except FileNotFoundError:
                now = Use(use.reference, use.digest, 0)
            if (now.count, now.changed) != (use.count, use.changed):
                return False
            self._write(use.reference, use.digest, now.count, count)
            return True

    def _write(self, reference: str, digest: str, old: int, new: int) -> int:
        path = self._path(reference, digest)
        if new:
            value = {"reference": reference, "digest": digest, "count": new, "changed": Uptime.now().to_json()}
            write_json(path, value)
        elif old:
            path.unlink()
            sync_directory(path.parent)
        return new

    def sweep(self) -> None:
        """Remove records that have not got their names: those of whoever died while he changed one."""
        with locked(self._layout.locks / "uses", timeout=10.0), store_errors(self._layout.uses):
            for path in self._layout.uses.glob(".*"):
                path.unlink()

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
            changed = Uptime.from_json(value.get("changed"), str(path))
            return Use(str(value["reference"]), str(value["digest"]), int(value["count"]), changed)
        except (KeyError, ValueError, TypeError) as error:
            raise StoreDamaged(f"incomplete record: {error}", where=str(path), hint="remove it") from error
