"""Layers of an image as they become ready."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from als.model.digest import Digest
from als.store.images import ImageRecord


class Shelf:
    """Collects layers in whatever order they become ready, and reports how many are ready from the lowest on."""

    def __init__(self, image: ImageRecord, report: Callable[[int], None]) -> None:
        self._order = image.config.diff_ids
        self._report = report
        self._ready: set[Digest] = set()
        self._count = 0

    def add(self, diff_ids: Iterable[Digest]) -> None:
        """Layers that are in the store now."""
        self._ready.update(diff_ids)
        before = self._count
        while self._count < len(self._order) and self._order[self._count] in self._ready:
            self._count += 1
        if self._count > before:
            self._report(self._count)
